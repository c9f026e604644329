import { announcer, bindChoice, bindSlider, button, choose, element, follow, frame, heading, labelled, ownBuffer, slider } from "./common.js";

// A phantom knee: the T-score drives its bone, and a film of it is exposed here, in the browser.
// The formulas are those of osteo_utils/phantom/knee.py, where they are explained; a test holds the
// two to the same picture.

const MOVED = ["t_score", "exposure", "kvp", "rotation_deg", "scale", "shift_y_mm"];
const SHOWN = ["processed", "mask", "compare"];
const SOFT = ["muscle", "fat"];
const MASKS = ["none", "joint", "trabecular", "cortex"];
const NARROW = 8; // pixels that a narrow blur reaches
const SLIGHT = 1e-3; // what a wide blur leaves of the first wave that is left out
const LEAST = 1e-4; // share of photons, so that there is a logarithm
const SKIP = 3; // every third pixel, down and across, is looked at for the display curve
const CELLS = 512; // of the table that finds the place of a value on the display curve
const LINE = 3; // canvas pixels of the outline for each pixel of the film

// --- data -------------------------------------------------------------------------------------

async function inflated(binary) {
  const stream = new Blob([ownBuffer(binary)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// { name: Float32Array of side x side }: undoes differences across and down, and the rounding.
function unpacked(bytes, names, levels, side) {
  const all = names.length * side * side;
  const unfold = (i) => {
    const folded = bytes[i] | (bytes[all + i] << 8);
    return (folded >>> 1) ^ -(folded & 1);
  };
  const layers = {};
  names.forEach((name, k) => {
    const counted = new Int32Array(side * side);
    for (let r = 0, i = 0; r < side; r++) {
      for (let c = 0, sum = 0; c < side; c++, i++) {
        sum += unfold(k * side * side + i);
        counted[i] = sum + (r ? counted[i - side] : 0);
      }
    }
    layers[name] = filled(new Float32Array(counted.length), (i) => counted[i] * levels[k]);
  });
  return layers;
}

// --- the knee ---------------------------------------------------------------------------------

// A small array filled by place. Whole films are made in loops of their own, which run faster.
function filled(array, value) {
  for (let i = 0; i < array.length; i++) array[i] = value(i);
  return array;
}

// Where each pixel of the film lies among the knots of the layers: corner, and parts of a step.
function place({ size, side, step, field }, [rotation, scale, shift], { corner, across, down }) {
  const [c, s] = [Math.cos, Math.sin].map((f) => f((rotation * Math.PI) / 180));
  const axis = filled(new Float64Array(size), (i) => ((i + 0.5) / size - 0.5) * field);
  const knot = (mm) => Math.min(Math.max(mm / step + side / 2 - 0.5, 0), side - 1.001);
  for (let i = 0; i < corner.length; i++) {
    const [x, y] = [axis[i % size], axis[(i / size) | 0]];
    const u = knot((c * x + s * y) / scale);
    const v = knot((c * y - s * x) / scale - shift);
    corner[i] = (v | 0) * side + (u | 0);
    across[i] = u - (u | 0);
    down[i] = v - (v | 0);
  }
}

// A layer at the first places, bilinear between its knots.
function sample(layer, side, { corner, across, down }, count, out) {
  for (let i = 0; i < count; i++) {
    const k = corner[i];
    const top = layer[k] + (layer[k + 1] - layer[k]) * across[i];
    const low = layer[k + side] + (layer[k + side + 1] - layer[k + side]) * across[i];
    out[i] = top + (low - top) * down[i];
  }
  return out.subarray(0, count);
}

// (rotation, scale, shift) -> the layers at the pixels of the film. Those of the bones hold only the
// pixels near a bone, which `where` lists. The memory is that of the pose before, which is lost.
function poser(layers, content) {
  const { side, size } = content;
  const n = size * size;
  const near = nearBone(layers, content);
  const places = () => ({ corner: new Int32Array(n), across: new Float32Array(n), down: new Float32Array(n) });
  const [all, close, list] = [places(), places(), new Int32Array(n)];
  const room = Object.fromEntries(Object.keys(layers).map((name) => [name, new Float32Array(n)]));
  return (...pose) => {
    place(content, pose, all);
    let count = 0;
    for (let i = 0; i < n; i++) {
      if (!near[all.corner[i]]) continue;
      list[count] = i;
      close.corner[count] = all.corner[i];
      close.across[count] = all.across[i];
      close.down[count++] = all.down[i];
    }
    const knee = { where: list.subarray(0, count) };
    for (const [name, layer] of Object.entries(layers)) {
      const [at, length] = SOFT.includes(name) ? [all, n] : [close, count];
      knee[name] = sample(layer, side, at, length, room[name]);
    }
    return knee;
  };
}

// 1 at the corners from which a pixel may see a bone or the joint.
function nearBone(layers, content) {
  const { side, outside } = content;
  const { femur, tibia, fibula, patella, joint } = layers;
  const seen = (k) => femur[k] > outside || tibia[k] > outside || fibula[k] > outside || patella[k] > 0 || joint[k] > 0;
  return filled(new Uint8Array(side * side), (k) => [0, 1, side, side + 1].some((next) => seen(k + next)));
}

// Path (mm) through a round body, `depth` mm inside its outline.
function chord(depth, radius) {
  const d = Math.min(Math.max(depth, 0), radius);
  return 2 * Math.sqrt(d * (2 * radius - d));
}

// Paths (mm) through the shell of a bone and through what it encloses.
function shell(knee, name, thin) {
  const [depth, radius, wall] = [knee[name], knee[`${name}_radius`], knee[`${name}_wall`]];
  const inside = new Float32Array(depth.length);
  const walls = new Float32Array(depth.length);
  for (let p = 0; p < depth.length; p++) {
    if (depth[p] <= 0) continue;
    const cortex = wall[p] * thin;
    inside[p] = chord(depth[p] - cortex, Math.max(radius[p] - cortex, 0.1));
    walls[p] = chord(depth[p], radius[p]) - inside[p];
  }
  return { walls, inside };
}

// Visible share of bone between the cortices: ridges of the noise above the threshold of loss.
function latticeOf(knee, truth, visible) {
  const { lattice } = knee;
  const share = new Float32Array(lattice.length);
  for (const way of ["vertical", "horizontal"]) {
    const [fraction, threshold, mean] = ["fraction", "threshold", "mean"].map((what) => truth[`${way}_${what}`]);
    const [noise, gain] = [knee[way], visible * mean ** -0.6];
    for (let p = 0; p < share.length; p++) {
      share[p] += fraction * (1 + gain * (Math.max(noise[p] - threshold, 0) - mean)) * lattice[p];
    }
  }
  return share;
}

// Thickness of bone (mm) along each ray.
function boneOf(knee, truth, { visible, bone_scale }) {
  const thin = truth.cortex_factor;
  const mean = truth.vertical_fraction + truth.horizontal_fraction;
  const [femur, tibia, fibula] = ["femur", "tibia", "fibula"].map((name) => shell(knee, name, thin));
  const share = latticeOf(knee, truth, visible);
  const { where, notch, lines, scars, patella } = knee;
  const bone = new Float32Array(knee.muscle.length);
  for (let p = 0; p < where.length; p++) {
    const solid = femur.walls[p] + tibia.walls[p] + fibula.walls[p] + thin * lines[p] + scars[p];
    const spongy = (femur.inside[p] * notch[p] + tibia.inside[p]) * share[p];
    bone[where[p]] = (solid + spongy + mean * (patella[p] + 0.8 * fibula.inside[p])) * bone_scale;
  }
  return bone;
}

// 1 inside the mask of that name, 0 outside.
function maskOf(knee, truth, name) {
  const inWall = (bone, p) => knee[bone][p] > 0 && knee[bone][p] < knee[`${bone}_wall`][p] * truth.cortex_factor;
  const region = (p) => {
    if (knee.joint[p] > 0.5) return "joint";
    if (inWall("femur", p) || inWall("tibia", p)) return "cortex";
    return knee.ends[p] > 0.5 && Math.max(knee.femur[p], knee.tibia[p]) > 4 ? "trabecular" : "";
  };
  const mask = new Uint8Array(knee.muscle.length);
  knee.where.forEach((i, p) => (mask[i] = region(p) === name));
  return mask;
}

// --- blurs: Gaussians with reflecting borders ---------------------------------------------------
// Each blur writes into memory of its own, over what it gave before.

const fade = (k, size, sigma) => Math.exp(-(((Math.PI * k * sigma) / size) ** 2) / 2);

// The same transfer function as in Python, as the taps of a short kernel.
function narrowBlur(size, sigma) {
  const taps = Array.from({ length: 2 * NARROW + 1 }, (_, t) => {
    let sum = 0.5;
    for (let k = 1; k < size; k++) sum += fade(k, size, sigma) * Math.cos((Math.PI * k * (t - NARROW)) / size);
    return sum / size;
  });
  const mirror = Int32Array.from({ length: size + 2 * NARROW }, (_, i) => {
    const j = i - NARROW;
    return j < 0 ? -1 - j : j < size ? j : 2 * size - 1 - j;
  });
  const line = new Float64Array(mirror.length);
  const [turned, out] = [new Float32Array(size * size), new Float32Array(size * size)];
  const pass = (from, to) => {
    for (let r = 0; r < size; r++) {
      for (let i = 0; i < line.length; i++) line[i] = from[r * size + mirror[i]];
      for (let c = 0; c < size; c++) {
        let sum = 0;
        for (let t = 0; t < taps.length; t++) sum += taps[t] * line[c + t];
        to[c * size + r] = sum; // turned over: two passes blur both ways
      }
    }
  };
  return (image) => {
    pass(image, turned);
    pass(turned, out);
    return out;
  };
}

// A wide blur leaves only the slowest cosine waves: down to them and back. Even waves are the same
// in both halves of a line and odd ones opposite, so that half a line is enough.
function wideBlur(size, sigma) {
  const half = size / 2;
  const waves = [];
  for (let k = 0; k < size && fade(k, size, sigma) > SLIGHT; k++) {
    const norm = Math.sqrt((k ? 2 : 1) / size);
    waves.push(filled(new Float64Array(half), (i) => norm * Math.cos((Math.PI * k * (i + 0.5)) / size)));
  }
  const gains = waves.map((_, k) => fade(k, size, sigma));
  const folded = [new Float64Array(half), new Float64Array(half)];
  const down = (from, start, strengths) => {
    for (let i = 0, end = start + size - 1; i < half; i++) {
      folded[0][i] = from[start + i] + from[end - i];
      folded[1][i] = from[start + i] - from[end - i];
    }
    for (let k = 0; k < waves.length; k++) {
      const [wave, line] = [waves[k], folded[k % 2]];
      let sum = 0;
      for (let i = 0; i < half; i++) sum += wave[i] * line[i];
      strengths[k] = sum;
    }
    return strengths;
  };
  const back = (strengths, to, start) => {
    folded.forEach((line) => line.fill(0));
    for (let k = 0; k < waves.length; k++) {
      const [wave, line, strength] = [waves[k], folded[k % 2], strengths[k]];
      for (let i = 0; i < half; i++) line[i] += strength * wave[i];
    }
    for (let i = 0, end = start + size - 1; i < half; i++) {
      to[start + i] = folded[0][i] + folded[1][i];
      to[end - i] = folded[0][i] - folded[1][i];
    }
    return to;
  };
  const strengths = new Float64Array(waves.length);
  const columns = waves.map(() => new Float64Array(size));
  const out = new Float32Array(size * size);
  return (image) => {
    for (let r = 0; r < size; r++) down(image, r * size, strengths).forEach((each, k) => (columns[k][r] = each));
    columns.forEach((column, k) => {
      down(column, 0, strengths).forEach((each, j) => (strengths[j] = each * gains[j] * gains[k]));
      back(strengths, column, 0);
    });
    for (let r = 0; r < size; r++) back(filled(strengths, (k) => columns[k][r]), out, r * size);
    return out;
  };
}

// --- the film -----------------------------------------------------------------------------------

// Log attenuation as detected: Beer-Lambert at the energy of the beam, blur, scatter, quanta.
function exposed(bone, knee, exposure, kvp, content, blurs, noise) {
  const harder = (kvp - 55) / 25;
  const [muBone, muMuscle, muFat] = content.mu.map(([soft, hard]) => soft + (hard - soft) * harder);
  const { muscle, fat } = knee;
  const n = bone.length;
  const [through, leg, signal] = [new Float32Array(n), new Float32Array(n), new Float32Array(n)];
  for (let i = 0; i < n; i++) through[i] = Math.exp((muMuscle - muBone) * bone[i] - muMuscle * muscle[i] - muFat * fat[i]);
  const primary = blurs.optics(through);
  for (let i = 0; i < n; i++) leg[i] = Math.min(primary[i], 0.15);
  const veil = blurs.scattered(leg);
  const grain = content.grain / Math.sqrt(exposure);
  for (let i = 0; i < n; i++) {
    const photons = Math.max(primary[i] + content.scatter * veil[i], LEAST);
    signal[i] = -Math.log(Math.max(photons + grain * Math.sqrt(photons) * noise[i], LEAST));
  }
  return signal;
}

// On a fixed scale: what a detector counts grows with the exposure.
function asDetected(signal, exposure, [low, high]) {
  const most = Math.log(exposure);
  const grey = new Uint8Array(signal.length);
  for (let i = 0; i < grey.length; i++) grey[i] = whole(Math.min(Math.max((signal[i] - most - low) / (high - low), 0), 1));
  return grey;
}

// As displayed: evened out, sharpened, and the grey levels of the leg matched to a curve.
function asDisplayed(signal, content, blurs) {
  const { latitude, sharpness } = content;
  const [slow, fine] = [blurs.slow(signal), blurs.fine(signal)];
  const [flat, grey] = [new Float32Array(signal.length), new Uint8Array(signal.length)];
  for (let i = 0; i < flat.length; i++) flat[i] = (1 + sharpness) * signal[i] - latitude * slow[i] - sharpness * fine[i];
  const tone = between(...curve(flat, signal, content));
  for (let i = 0; i < grey.length; i++) grey[i] = whole(0.015 + 0.98 * tone(flat[i]));
  return grey;
}

const whole = (grey) => Math.floor(255 * grey + 0.5);

// The piecewise linear curve through the knots (increasing) and their tones.
function between(knots, tones) {
  const last = knots.length - 1;
  const cell = CELLS / (knots[last] - knots[0]);
  const first = new Uint8Array(CELLS + 1); // segment at the start of each cell
  for (let j = 0, k = 0; j <= CELLS; j++) {
    while (k < last - 1 && knots[k + 1] <= knots[0] + j / cell) k++;
    first[j] = k;
  }
  return (value) => {
    if (value >= knots[last]) return tones[last];
    let k = first[((value - knots[0]) * cell) | 0];
    while (value >= knots[k + 1]) k++;
    return tones[k] + ((tones[k + 1] - tones[k]) * (value - knots[k])) / (knots[k + 1] - knots[k]);
  };
}

// Levels of the leg at the ranks that are matched, and the greys they are given; air is black.
function curve(flat, signal, { size, air, ranks, target }) {
  const leg = [];
  for (let r = 0; r < size; r += SKIP) {
    for (let i = r * size; i < (r + 1) * size; i += SKIP) if (signal[i] > air) leg.push(flat[i]);
  }
  const sorted = Float64Array.from(leg).sort();
  const levels = ranks.map((rank) => {
    const at = rank * (sorted.length - 1);
    const k = Math.floor(at);
    return sorted[k] + (at - k) * (sorted[Math.min(k + 1, sorted.length - 1)] - sorted[k]);
  });
  let darkest = Infinity;
  for (const value of flat) darkest = Math.min(darkest, value);
  return [
    [darkest - 0.1, ...levels],
    [0, ...target],
  ];
}

// The last value made, and made anew only for other arguments.
function kept(make) {
  let last = [];
  let value;
  return (...given) => {
    if (given.length !== last.length || given.some((each, k) => each !== last[k])) [last, value] = [given, make(...given)];
    return value;
  };
}

// (state, T-score, place) -> film: grey levels and their mean, posed knee, facts, class by WHO.
function cinema(content, layers, noise) {
  const { size, facts, truth, t_scores, classes, class_of } = content;
  const [optics, fine] = [content.optics, content.fine].map((sigma) => narrowBlur(size, sigma));
  const [scattered, slow] = [content.scattered, content.slow].map((sigma) => wideBlur(size, sigma));
  const blurs = { optics, fine, scattered, slow };
  const pose = kept(poser(layers, content));
  const shoot = (t, exposure, kvp, processed, ...at) => {
    const row = Math.round(10 * (t - t_scores[0]));
    const known = Object.fromEntries(facts.map((name, k) => [name, truth[row][k]]));
    const knee = pose(...at);
    const signal = exposed(boneOf(knee, known, content), knee, exposure, kvp, content, blurs, noise);
    const grey = processed ? asDisplayed(signal, content, blurs) : asDetected(signal, exposure, content.window);
    let sum = 0;
    for (const level of grey) sum += level;
    return { grey, mean: sum / grey.length, knee, truth: known, called: classes[class_of[row]] };
  };
  const places = [kept(shoot), kept(shoot)]; // the knee, and the one it is compared with
  return (state, t, place) =>
    places[place](t, state.exposure, state.kvp, state.processed, state.rotation_deg, state.scale, state.shift_y_mm);
}

// --- views --------------------------------------------------------------------------------------

const signed = (value, digits) => `${value < 0 ? "−" : value > 0 ? "+" : ""}${Math.abs(value).toFixed(digits)}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const dose = (exposure) => (exposure < 0.995 ? `1/${Number((1 / exposure).toFixed(1))}` : String(Number(exposure.toFixed(1))));
const tOf = (t) => `T ${t ? signed(t, 1) : "0.0"}`;

const SLIDERS = [
  { text: "T-score", said: (t) => signed(t, 1) },
  { text: "Exposure", said: (x) => `${dose(x)} × the usual dose`, place: (x) => Math.log2(x), value: (p) => 2 ** p },
  { text: "Tube voltage", said: (kvp) => `${kvp.toFixed(0)} kVp` },
  { text: "Rotation", said: (degrees) => `${signed(degrees, 1)}°` },
  { text: "Magnification", said: (scale) => `× ${scale.toFixed(2)}` },
  { text: "Shift along the leg", said: (mm) => `${signed(mm, 0)} mm` },
];

const FACTS = [
  ["Class by WHO", (film) => film.called],
  ["Cortex of the femoral shaft", (film) => `${film.truth.cortical_thickness_mm.toFixed(1)} mm`],
  ["Vertical struts, of the volume", (film) => percent(film.truth.vertical_fraction)],
  ["Horizontal struts, of the volume", (film) => percent(film.truth.horizontal_fraction)],
  ["Mean grey level, of 255", (film) => film.mean.toFixed(1)],
];

// Lines between the pixels of a mask and the others.
function outline(canvas, mask, size) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!mask) return;
  const path = new Path2D();
  const line = (...ends) => {
    const [x0, y0, x1, y1] = ends.map((end) => end * LINE);
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  };
  for (let i = 0; i < mask.length; i++) {
    const [x, y] = [i % size, Math.floor(i / size)];
    if (x && mask[i] !== mask[i - 1]) line(x, y, x, y + 1);
    if (y && mask[i] !== mask[i - size]) line(x, y, x + 1, y);
  }
  context.lineCap = "square";
  for (const [colour, width] of [
    ["#000", 4],
    ["#f0e442", 2],
  ]) {
    Object.assign(context, { strokeStyle: colour, lineWidth: width });
    context.stroke(path);
  }
}

function filmView(size, view) {
  const canvas = element("canvas", { className: "pe-film", width: size, height: size, dataset: { view } });
  const lines = element("canvas", { className: "pe-lines", width: size * LINE, height: size * LINE });
  const caption = element("p", { className: "pe-title" });
  const stage = element("div", { className: "pe-stage" }, canvas, lines);
  const figure = element("div", { className: "pe-figure" }, stage, caption);
  canvas.setAttribute("role", "img");
  lines.setAttribute("aria-hidden", "true");
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const pixels = new Uint32Array(image.data.buffer);
  const update = (film, title, mask, name) => {
    for (let i = 0; i < pixels.length; i++) pixels[i] = 0xff000000 | (film.grey[i] * 0x010101);
    context.putImageData(image, 0, 0);
    outline(lines, mask, size);
    caption.textContent = title;
    canvas.setAttribute("aria-label", `Simulated film of a knee. ${title}, ${name}.`);
  };
  return { figure, update };
}

// The facts of the knee, and of the one it is compared with.
function factsView() {
  const heads = [heading("col", "This knee"), heading("col", "The same at T 0.0")];
  const cells = FACTS.map(() => heads.map(() => element("td")));
  const rows = FACTS.map(([name], r) => element("tr", {}, heading("row", name), ...cells[r]));
  const caption = element("caption", {}, "Truth and brightness of this film");
  const head = element("thead", {}, element("tr", {}, heading("col", "Measure"), ...heads));
  const table = element("table", { className: "pe-facts" }, caption, head, element("tbody", {}, ...rows));
  const update = (films) => {
    heads[1].hidden = films.length < 2;
    cells.forEach((row, r) =>
      row.forEach((cell, k) => {
        cell.hidden = k >= films.length;
        cell.textContent = k < films.length ? FACTS[r][1](films[k]) : "";
      }),
    );
  };
  return { table, update };
}

// The classes along the T-score, as wide as their ranges; the text of the present one is marked.
function classBand({ classes, class_of }) {
  const parts = [...new Set(class_of)].map((label) => {
    const part = element("span", {}, classes[label]);
    part.style.flexGrow = class_of.filter((other) => other === label).length;
    return part;
  });
  const band = element("div", { className: "pe-band" }, ...parts);
  band.setAttribute("aria-hidden", "true"); // the slider says the class
  const update = (called) => parts.forEach((part) => part.classList.toggle("pe-here", part.textContent === called));
  return { band, update };
}

function sliderView(model, name, { text, said, place = Number, value = Number }, limits) {
  const control = slider(...limits);
  const output = element("output");
  const field = labelled(text, control);
  field.append(output);
  bindSlider(model, control, name, value);
  const update = (now, also = "") => {
    control.value = String(place(now));
    output.textContent = `${said(now)}${also}`;
    control.setAttribute("aria-valuetext", output.textContent);
  };
  return { field, update };
}

function named(entries) {
  return element("select", {}, ...entries.map(([value, text]) => element("option", { value }, text)));
}

const ADVICE = {
  true: "As displayed, every film is fitted to the same curve of grey levels. Watch the mean grey level while you move the T-score.",
  false: "As detected, on one fixed scale and before any processing: the exposure alone moves the brightness further than all T-scores do.",
};

// --- the widget ---------------------------------------------------------------------------------

function controls(model, content) {
  const sliders = MOVED.map((name, k) => sliderView(model, name, SLIDERS[k], content.limits[k]));
  const picture = named([
    ["true", "as displayed (processed)"],
    ["false", "as detected (not processed)"],
  ]);
  const mask = named(MASKS.map((name) => [name, name]));
  const compare = element("input", { type: "checkbox" });
  const reset = button("Reset");
  bindChoice(model, picture, "processed", (text) => text === "true");
  bindChoice(model, mask, "mask", String);
  compare.addEventListener("change", () => choose(model, "compare", compare.checked));
  reset.addEventListener("click", () => {
    [...MOVED, ...SHOWN].forEach((name, k) => model.set(name, content.start[k]));
    model.save_changes();
  });
  const fields = [
    ...sliders.slice(1).map(({ field }) => field),
    labelled("Picture", picture),
    labelled("Outline", mask),
    element("div", { className: "pe-last" }, labelled("Compare with T 0.0", compare), reset),
  ];
  const update = (state, called) => {
    sliders.forEach((each, k) => each.update(state[MOVED[k]], k ? "" : `, ${called}`));
    picture.value = String(state.processed);
    mask.value = state.mask;
    compare.checked = state.compare;
  };
  return { score: sliders[0].field, fields, update };
}

async function render({ model, el }) {
  const content = model.get("content");
  const { size } = content;
  const [packed, speckle] = await Promise.all(["layers", "noise"].map((name) => inflated(model.get(name))));
  const layers = unpacked(packed, content.layers, content.levels, content.side);
  const noise = filled(new Float32Array(speckle.length), (i) => (speckle[i] - 128) * content.noise_level);
  const film = cinema(content, layers, noise);
  const hand = controls(model, content);
  const band = classBand(content);
  const views = ["knee", "reference"].map((view) => filmView(size, view));
  const facts = factsView();
  const advice = element("p", { className: "pe-advice" });
  const said = announcer();

  const draw = () => {
    const state = Object.fromEntries([...MOVED, ...SHOWN].map((name) => [name, model.get(name)]));
    const scores = state.compare ? [state.t_score, 0] : [state.t_score];
    const films = scores.map((t, place) => film(state, t, place));
    const outlined = state.mask === "none" ? "" : `, ${state.mask} outlined`;
    films.forEach((each, k) => {
      const mask = outlined && maskOf(each.knee, each.truth, state.mask);
      views[k].update(each, `${tOf(scores[k])}, ${each.called}${outlined}`, mask, `mean grey level ${each.mean.toFixed(1)}`);
    });
    views[1].figure.hidden = !state.compare;
    facts.update(films);
    hand.update(state, films[0].called);
    band.update(films[0].called);
    advice.textContent = ADVICE[state.processed];
    return FACTS.map(([name, value]) => `${name}: ${value(films[0])}`).join(". ");
  };

  el.append(
    frame(
      "phantom-explorer",
      "Phantom explorer: a simulated knee by T-score, exposure and pose",
      element("div", { className: "pe-score" }, hand.score, band.band),
      element(
        "div",
        { className: "pe-panels" },
        element("div", { className: "pe-films" }, ...views.map(({ figure }) => figure)),
        element("div", { className: "pe-side" }, facts.table, advice),
      ),
      element("div", { className: "pe-controls" }, ...hand.fields),
      element("p", { className: "pe-caution" }, "A phantom, made of geometry and physics. It shows how a film comes about and teaches nothing about any patient."),
      said.region,
    ),
  );
  return follow(model, [...MOVED, ...SHOWN], draw, said);
}

export default { render };
