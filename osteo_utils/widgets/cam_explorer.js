import { announcer, bindChoice, bindSlider, choice, choose, element, follow, frame, heading, labelled, ownBuffer, slider } from "./common.js";

// Heatmaps over films. Each panel shows one stack: the maps of one model, layer and method.

const STEPS = 100; // of the sliders from 0 to 1
const OUTLINE = [0, 229, 255];
const TRAITS = ["film", "target", "stack", "beside", "opacity", "threshold", "colours", "shared", "outline"];
const ROWS = ["upper", "middle", "lower"];
const COLUMNS = ["left", "centre", "right"];

// --- data -------------------------------------------------------------------------------------

// Every stack with its own part of the bytes; the numbers of a stack run class by class.
function decode(model) {
  const content = model.get("content");
  const bytes = (name) => new Uint8Array(ownBuffer(model.get(name)));
  const floats = (name) => new Float32Array(ownBuffer(model.get(name)));
  const [maps, tops, n, width] = [bytes("maps"), floats("tops"), content.names.length, content.classes.length];
  let at = 0;
  const stacks = content.stacks.map((entry, k) => {
    const cells = entry.height * entry.width;
    const own = tops.subarray(k * width * n, (k + 1) * width * n);
    const limit = own.reduce((most, top) => (top > most ? top : most), 0); // a flat map is NaN
    const [zero, steps] = entry.signed ? [128, 127] : [0, 255];
    return { ...entry, cells, zero, steps, limit, tops: own, levels: maps.subarray(at, (at += cells * width * n)) };
  });
  const shown = { films: bytes("films"), masks: bytes("masks"), tables: bytes("tables"), p: floats("probabilities") };
  return { ...content, ...shown, regions: content.masks, stacks, n, width };
}

// What is to be shown of a stack for a film: probabilities, class, its map and the scale.
function looked(data, stack, state) {
  const row = (stack.model * data.n + state.film) * data.width;
  const p = data.p.subarray(row, row + data.width);
  const called = p.indexOf(Math.max(...p));
  const target = state.target < 0 ? called : state.target;
  const place = target * data.n + state.film;
  const top = stack.tops[place];
  const levels = stack.levels.subarray(place * stack.cells, (place + 1) * stack.cells);
  const limit = state.shared ? stack.limit : top;
  return { p, called, target, levels, limit, factor: top / limit, flat: Number.isNaN(top) };
}

// --- numbers ----------------------------------------------------------------------------------

// For each pixel along one side: the cells before and after it and their weights, which are whole
// numbers and sum to 2 * size. Bilinear between the centres of the cells, edges held.
function places(count, size) {
  return Array.from({ length: size }, (_, pixel) => {
    const place = Math.min(Math.max((2 * pixel + 1) * count - size, 0), 2 * size * (count - 1));
    const low = Math.floor(place / (2 * size));
    const rest = place - 2 * size * low;
    return [low, Math.min(low + 1, count - 1), 2 * size - rest, rest];
  });
}

// The map over the film in shares of the scale. Whole numbers up to the last line, as in Python.
function stretched(stack, look, size) {
  const { height, width, zero, steps } = stack;
  const columns = places(width, size);
  const wide = new Int32Array(height * size);
  for (let y = 0; y < height; y++) {
    const row = y * width;
    columns.forEach(([a, b, wa, wb], x) => {
      wide[y * size + x] = (look.levels[row + a] - zero) * wa + (look.levels[row + b] - zero) * wb;
    });
  }
  const share = new Float64Array(size * size);
  const whole = 4 * size * size;
  places(height, size).forEach(([a, b, wa, wb], y) => {
    for (let x = 0; x < size; x++) {
      share[y * size + x] = ((wide[a * size + x] * wa + wide[b * size + x] * wb) / whole / steps) * look.factor;
    }
  });
  return share;
}

// A mask as 0 and 1, and the pixels of its edge: those beside one that is not in it. The border of
// the film is no edge.
function regionOf({ size, n, masks }, which, film) {
  const start = (which * n + film) * Math.ceil((size * size) / 8);
  const mask = new Uint8Array(size * size);
  for (let i = 0; i < mask.length; i++) mask[i] = (masks[start + (i >> 3)] >> (i & 7)) & 1;
  const at = (y, x) => mask[Math.min(Math.max(y, 0), size - 1) * size + Math.min(Math.max(x, 0), size - 1)];
  const edge = [];
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if (at(y, x) && !(at(y - 1, x) && at(y + 1, x) && at(y, x - 1) && at(y, x + 1))) edge.push(y * size + x);
    }
  }
  return { mask, edge };
}

// Share of what speaks for the class that lies in the mask, and of the film that the mask covers.
function inside(share, mask) {
  let [within, whole, area] = [0, 0, 0];
  for (let i = 0; i < mask.length; i++) {
    const value = Math.max(share[i], 0);
    whole += value;
    within += value * mask[i];
    area += mask[i];
  }
  return [within / whole, area / mask.length];
}

// The function, with its last answer kept for as long as it is asked the same.
function latest(compute) {
  let [asked, answer] = [[], null];
  return (...now) => {
    if (!asked.length || now.some((each, i) => each !== asked[i])) [asked, answer] = [now, compute(...now)];
    return answer;
  };
}

const percent = (value) => `${Math.round(100 * value)}\u00a0%`;
const number = (value) => (Math.abs(value) < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3))));

// Where the largest value lies: "largest in the upper left (row 1 of 6, column 2 of 6)".
function whereLargest(stack, look) {
  const best = look.levels.indexOf(Math.max(...look.levels));
  if (look.levels[best] < stack.zero) return "every region speaks against it";
  const [y, x] = [Math.floor(best / stack.width), best % stack.width];
  const third = (i, count) => Math.min(2, Math.floor((3 * (i + 0.5)) / count));
  const words = [ROWS[third(y, stack.height)], COLUMNS[third(x, stack.width)]];
  const side = words.join(" ") === "middle centre" ? "centre" : words.join(" ");
  return `largest in the ${side} (row ${y + 1} of ${stack.height}, column ${x + 1} of ${stack.width})`;
}

// --- drawing ----------------------------------------------------------------------------------

const tableOf = (data, stack, state) => {
  const which = stack.signed ? data.colours.length : state.colours;
  return data.tables.subarray(which * 768, (which + 1) * 768);
};

const shadeOf = (stack, value) => 3 * Math.floor(stack.signed ? (value + 1) * 127.5 + 0.5 : value * 255 + 0.5);

function paint(image, data, stack, state, share, edge) {
  const { size } = data;
  const film = data.films.subarray(state.film * size * size, (state.film + 1) * size * size);
  const table = tableOf(data, stack, state);
  const rest = 1 - state.opacity;
  const out = image.data;
  for (let i = 0; i < film.length; i++) {
    const at = 4 * i;
    const shown = Math.abs(share[i]) >= state.threshold; // never of a flat map, which is NaN
    const shade = shown ? shadeOf(stack, share[i]) : 0;
    for (let c = 0; c < 3; c++) {
      out[at + c] = shown ? Math.floor(table[shade + c] * state.opacity + film[i] * rest + 0.5) : film[i];
    }
    out[at + 3] = 255;
  }
  edge.forEach((i) => out.set(OUTLINE, 4 * i));
}

// The colours of the scale; what the threshold hides is left open.
function paintBar(image, data, stack, state) {
  const table = tableOf(data, stack, state);
  for (let i = 0; i < 256; i++) {
    const value = stack.signed ? i / 127.5 - 1 : i / 255;
    image.data.set([...table.subarray(3 * i, 3 * i + 3), Math.abs(value) >= state.threshold ? 255 : 0], 4 * i);
  }
}

function canvasOf(width, height, className) {
  const canvas = element("canvas", { width, height, className });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  return { canvas, image, put: () => context.putImageData(image, 0, 0) };
}

// --- views ------------------------------------------------------------------------------------

function refill(select, names) {
  if (names.join("\n") === [...select.options].map((option) => option.text).join("\n")) return;
  select.replaceChildren(...choice(names).children);
}

// Probabilities as numbers and bars, with the label and the predicted class in words.
function probabilityView(classes) {
  const caption = element("caption");
  const cells = classes.map(() => ({ bar: element("span"), value: element("b"), note: element("td") }));
  const rows = cells.map(({ bar, value, note }, c) => {
    const track = element("div", { className: "ce-bar" }, bar);
    return element("tr", {}, heading("row", classes[c]), element("td", {}, track), element("td", {}, value), note);
  });
  const table = element("table", { className: "ce-probabilities" }, caption, element("tbody", {}, ...rows));
  const update = (model, look, label) => {
    caption.textContent = `What ${model} answers`;
    cells.forEach(({ bar, value, note }, c) => {
      bar.style.width = `${100 * look.p[c]}%`;
      value.textContent = look.p[c].toFixed(2);
      note.textContent = [c === look.called && "called", c === label && "label"].filter(Boolean).join(", ");
    });
  };
  return { table, update };
}

function legendView() {
  const bar = canvasOf(256, 1, "ce-scale");
  const [low, high] = [element("span"), element("span")];
  const note = element("p", { className: "ce-note" });
  bar.canvas.setAttribute("aria-hidden", "true");
  const scale = element("div", { className: "ce-legend" }, low, bar.canvas, high);
  const update = (data, stack, look, state) => {
    scale.hidden = look.flat;
    note.hidden = look.flat;
    low.textContent = stack.signed ? `−${number(look.limit)}` : "0";
    high.textContent = number(look.limit);
    const whose = state.shared ? "one scale for all films and classes of this model and layer" : "the scale of this map alone, so do not compare its colours";
    const sides = stack.signed ? " Below zero a region speaks against the class; signed maps keep these colours." : "";
    const hidden = state.threshold > 0 ? ` Hidden: below ${number(state.threshold * look.limit)}.` : "";
    note.textContent = `Raw values of ${stack.method}; ${whose}.${sides}${hidden}`;
    paintBar(bar.image, data, stack, state);
    bar.put();
  };
  return { parts: [scale, note], update };
}

// Why a film has no colours on it: a flat map, or one below the threshold everywhere.
function whyUnseen(look, share, state) {
  if (look.flat) return "Flat map: no region speaks for this class.";
  if (share.some((value) => Math.abs(value) >= state.threshold)) return "";
  const most = share.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
  return `All hidden: this map reaches only ${percent(most)} of the scale.`;
}

// One map over its film, with the choice of method and layer, its scale and what the model says.
function panelView(data, name, region) {
  const [title, verdict, where] = [element("p", { className: "ce-title" }), element("p"), element("p")];
  const [method, layer] = [choice([]), choice([])];
  const picture = canvasOf(data.size, data.size, "ce-picture");
  const unseen = element("p", { className: "ce-unseen" });
  const legend = legendView();
  const answers = probabilityView(data.classes);
  const share = element("p");
  // A slider changes how a map is drawn, and not the map.
  const laid = latest((stack, film, target, shared) => stretched(stack, looked(data, stack, { film, target, shared }), data.size));
  const measured = latest(inside);
  picture.canvas.setAttribute("role", "img");
  const choices = element("div", { className: "ce-choices" }, labelled("Method", method), labelled("Layer", layer));
  const stage = element("div", { className: "ce-stage" }, picture.canvas, unseen);
  const left = element("div", { className: "ce-figure" }, stage, ...legend.parts);
  const right = element("div", { className: "ce-facts" }, verdict, answers.table, where, share);
  const root = element("div", { className: "ce-panel" }, title, choices, left, right);
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", name);

  const update = (k, state) => {
    const stack = data.stacks[k];
    const look = looked(data, stack, state);
    const model = data.models[stack.model];
    const label = data.labels[state.film];
    const { methods, layers } = offered(data, stack);
    const values = laid(stack, state.film, state.target, state.shared);
    const { mask, edge } = state.outline < 0 ? { edge: [] } : region(state.outline, state.film);

    refill(method, methods);
    refill(layer, layers.map((i) => `${data.stacks[i].height} × ${data.stacks[i].width}: ${data.stacks[i].layer}`));
    method.value = String(methods.indexOf(stack.method));
    layer.value = String(layers.indexOf(k));
    paint(picture.image, data, stack, state, values, edge);
    picture.put();
    unseen.textContent = whyUnseen(look, values, state);
    unseen.hidden = !unseen.textContent;
    legend.update(data, stack, look, state);
    answers.update(model, look, label);

    const right = look.called === label ? "right" : "wrong";
    title.textContent = model;
    verdict.textContent = `Label ${data.classes[label]}, called ${data.classes[look.called]}: ${right}.`;
    const wanted = data.classes[look.target];
    where.textContent = look.flat ? `Map for ${wanted}: flat.` : `Map for ${wanted}: ${whereLargest(stack, look)}.`;
    share.textContent = mask && !look.flat ? insideText(measured(values, mask), data.regions[state.outline], stack.signed) : "";
    const said = `${model}, ${stack.method}, ${stack.layer}, class ${wanted}, probability ${look.p[look.target].toFixed(2)}`;
    const parts = [`${said}.`, verdict.textContent, where.textContent, share.textContent, unseen.textContent];
    const text = parts.filter(Boolean).join(" ");
    picture.canvas.setAttribute("aria-label", `Film ${data.names[state.film]} under its map. ${text}`);
    return text;
  };
  return { root, method, layer, update };
}

const insideText = ([within, area], name, signed) =>
  Number.isNaN(within)
    ? "Nothing in this map speaks for the class."
    : `${percent(within)} of ${signed ? "what speaks for the class" : "the map"} lies inside the ${name} outline, which covers ${percent(area)} of the film.`;

// --- choices ----------------------------------------------------------------------------------

const indices = (list, test) => list.flatMap((item, i) => (test(item) ? [i] : []));

// Methods of the stack's model, and the stacks that have its model and method.
function offered(data, { model, method }) {
  const own = data.stacks.filter((stack) => stack.model === model);
  const layers = indices(data.stacks, (stack) => stack.model === model && stack.method === method);
  return { methods: [...new Set(own.map((stack) => stack.method))], layers };
}

// The stack of a model that is most like the one shown: same method and layer, or place of it.
function nearest(data, shown, model, method = shown.method) {
  const { methods } = offered(data, { model });
  const same = methods.includes(method) ? method : methods[0];
  const { layers } = offered(data, { model, method: same });
  const place = offered(data, shown).layers.indexOf(data.stacks.indexOf(shown));
  const named = layers.find((i) => data.stacks[i].layer === shown.layer);
  return named ?? layers[place] ?? layers[0];
}

function bindPanel(model, data, panel, trait) {
  const shown = () => data.stacks[model.get(trait)];
  const methods = () => offered(data, shown()).methods;
  bindChoice(model, panel.method, trait, (i) => nearest(data, shown(), shown().model, methods()[i]));
  bindChoice(model, panel.layer, trait, (i) => offered(data, shown()).layers[i]);
}

// --- the widget -------------------------------------------------------------------------------

function render({ model, el }) {
  const data = decode(model);
  const region = latest((which, film) => regionOf(data, which, film));
  const panels = ["First map", "Second map"].map((name) => panelView(data, name, region));
  const controls = {
    film: choice(data.names),
    target: choice(["the one called", ...data.classes]),
    first: choice(data.models),
    second: choice(["none", ...data.models]),
    opacity: slider(0, STEPS, 1),
    threshold: slider(0, STEPS, 1),
    colours: choice(data.colours),
    shared: choice(["all films", "this map"]),
    outline: choice(["none", ...data.regions]),
  };
  const fields = {
    film: labelled("Film", controls.film),
    target: labelled("Class", controls.target),
    first: labelled("Model", controls.first),
    second: labelled("Compare with", controls.second),
    opacity: labelled("Opacity", controls.opacity),
    threshold: labelled("Hide below", controls.threshold),
    colours: labelled("Colours", controls.colours),
    shared: labelled("Scale", controls.shared),
    outline: labelled("Outline", controls.outline),
  };
  if (!data.regions.length) delete fields.outline;
  const compare = element("p", { className: "ce-note" }, "The two maps have no common unit: compare where they lie, not how bright they are.");
  const said = announcer();
  const shown = element("div", { className: "ce-panels" }, ...panels.map((panel) => panel.root));
  const stackAt = (trait) => data.stacks[model.get(trait)];

  const draw = () => {
    const state = Object.fromEntries(TRAITS.map((name) => [name, model.get(name)]));
    const two = state.beside >= 0;
    controls.film.value = String(state.film);
    controls.target.value = String(state.target + 1);
    controls.first.value = String(stackAt("stack").model);
    controls.second.value = String(two ? stackAt("beside").model + 1 : 0);
    controls.colours.value = String(state.colours);
    controls.shared.value = state.shared ? "0" : "1";
    controls.outline.value = String(state.outline + 1);
    for (const name of ["opacity", "threshold"]) controls[name].value = String(Math.round(state[name] * STEPS));
    controls.opacity.setAttribute("aria-valuetext", percent(state.opacity));
    controls.threshold.setAttribute("aria-valuetext", `${percent(state.threshold)} of the scale`);
    fields.opacity.firstChild.textContent = `Opacity ${percent(state.opacity)}`;
    fields.threshold.firstChild.textContent = `Hide below ${percent(state.threshold)}`;
    panels[1].root.hidden = !two;
    shown.classList.toggle("ce-one", !two);
    compare.hidden = !two;
    const texts = [panels[0].update(state.stack, state), two ? panels[1].update(state.beside, state) : ""];
    return [`Film ${data.names[state.film]}.`, ...texts].join(" ").trim();
  };

  for (const name of ["opacity", "threshold"]) bindSlider(model, controls[name], name, (step) => step / STEPS);
  for (const name of ["film", "colours"]) bindChoice(model, controls[name], name);
  for (const name of ["target", "outline"]) bindChoice(model, controls[name], name, (value) => value - 1);
  bindChoice(model, controls.shared, "shared", (value) => value === "0");
  bindChoice(model, controls.first, "stack", (value) => nearest(data, stackAt("stack"), Number(value)));
  controls.second.addEventListener("change", () => {
    const wanted = Number(controls.second.value) - 1;
    const like = stackAt("beside") ?? stackAt("stack");
    choose(model, "beside", wanted < 0 ? -1 : nearest(data, like, wanted));
  });
  bindPanel(model, data, panels[0], "stack");
  bindPanel(model, data, panels[1], "beside");

  const group = (...names) => element("div", { className: "ce-controls" }, ...names.flatMap((name) => fields[name] ?? []));
  el.append(
    frame(
      "cam-explorer",
      "Heatmap explorer: films, models and methods",
      group("film", "target", "first", "second"),
      group("opacity", "threshold", "colours", "shared", "outline"),
      shown,
      compare,
      said.region,
    ),
  );
  return follow(model, TRAITS, draw, said);
}

export default { render };
