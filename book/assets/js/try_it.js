// Try your own X-ray: a network of the course on a picture of the reader's, inside the browser.
// Files, pictures and results stay in this page; nothing is sent anywhere.
//
// The way of a picture, equal to that of osteo_utils in every whole number:
//   bytes -> readPicture (grey, 0..255) -> fitSquare -> Network.classify -> probabilities, maps

const MODELS = new URL("../models/", import.meta.url);
const VENDOR = new URL("../vendor/", import.meta.url);
const MAX_BYTES = 50_000_000;
const MAX_PIXELS = 40_000_000; // four bytes each while it is decoded
const MAX_SIDE = 16_384; // of a canvas
const SIDE = 480; // of the drawing, in pixels

// What the reader is told in a line; any other error is a fault of this page.
export class Refusal extends Error {}

// ---------------------------------------------------------------------------------- the picture

const PNG = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const REMEDY = "Save it as a JPEG, PNG or WebP picture and try again.";

const ascii = (bytes, from, length) => String.fromCharCode(...bytes.subarray(from, from + length));
const cutShort = () => new Refusal("This picture is damaged: its end is missing. Download or export it again.");

// Format and size in pixels, from the first bytes: they decide, never the name of the file.
// Refuses what a browser would decode otherwise than the course does, or only in part.
export function inspect(bytes) {
  if (bytes.length === 0) throw new Refusal(`This file is empty. ${REMEDY}`);
  if (PNG.every((byte, i) => bytes[i] === byte)) return inspectPng(bytes);
  if (bytes[0] === 0xff && bytes[1] === 0xd8 && bytes[2] === 0xff) return inspectJpeg(bytes);
  if (ascii(bytes, 0, 4) === "RIFF" && ascii(bytes, 8, 4) === "WEBP") return inspectWebp(bytes);
  if (ascii(bytes, 128, 4) === "DICM") {
    throw new Refusal("This is a DICOM file. This page reads JPEG, PNG and WebP; the course's app reads DICOM too.");
  }
  throw new Refusal(`This is no JPEG, PNG or WebP picture. ${REMEDY}`);
}

function inspectPng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 33 || ascii(bytes, 12, 4) !== "IHDR") throw cutShort();
  if (bytes[24] === 16) {
    throw new Refusal("This PNG has 16 bits a pixel, of which a browser shows 8. The course's app reads it whole.");
  }
  for (let at = 8; ; at += 12 + view.getUint32(at)) {
    if (at + 12 > bytes.length) throw cutShort();
    const kind = ascii(bytes, at + 4, 4);
    if (kind === "acTL") throw moving();
    if (kind === "IEND") break;
  }
  return { type: "image/png", width: view.getUint32(16), height: view.getUint32(20) };
}

function inspectJpeg(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 2; at + 9 < bytes.length; at += 2 + view.getUint16(at + 2)) {
    while (bytes[at] === 0xff && bytes[at + 1] === 0xff) at++; // padding
    const marker = bytes[at + 1];
    if (bytes[at] !== 0xff || marker === 0xda) break;
    const startsFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (!startsFrame) continue;
    if (bytes[at + 9] === 4) throw new Refusal(`This JPEG is in printing colours (CMYK). ${REMEDY}`);
    return { type: "image/jpeg", height: view.getUint16(at + 5), width: view.getUint16(at + 7) };
  }
  throw cutShort();
}

function inspectWebp(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 30 || bytes.length < view.getUint32(4, true) + 8) throw cutShort();
  const kind = ascii(bytes, 12, 4);
  const three = (at) => bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16);
  let size;
  if (kind === "VP8X") {
    if (bytes[20] & 2) throw moving();
    if (bytes[20] & 8 && isTurned(bytes, view)) {
      throw new Refusal("This WebP asks to be turned, which browsers leave undone. Turn it and save it anew.");
    }
    size = { width: three(24) + 1, height: three(27) + 1 };
  } else if (kind === "VP8L") {
    const bits = view.getUint32(21, true);
    size = { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
  } else {
    size = { width: view.getUint16(26, true) & 0x3fff, height: view.getUint16(28, true) & 0x3fff };
  }
  return { type: "image/webp", ...size };
}

// Whether the EXIF chunk of a WebP gives an orientation other than upright: tag 0x0112, one number of
// 16 bits, 2 to 8. As osteo_utils.formats.films._orientation; XMP turns nothing.
function isTurned(bytes, view) {
  let at = 12;
  while (at + 8 < bytes.length && ascii(bytes, at, 4) !== "EXIF") {
    const length = view.getUint32(at + 4, true);
    at += 8 + length + (length % 2);
  }
  const tiff = ascii(bytes, at + 8, 4) === "Exif" ? at + 14 : at + 8;
  if (tiff + 8 > bytes.length) return false;
  const little = ascii(bytes, tiff, 4) === "II*\0";
  if (!little && ascii(bytes, tiff, 4) !== "MM\0*") return false;
  const entries = tiff + view.getUint32(tiff + 4, little);
  const count = entries + 2 <= bytes.length ? view.getUint16(entries, little) : 0;
  for (let i = 0, entry = entries + 2; i < count && entry + 12 <= bytes.length; i++, entry += 12) {
    if (view.getUint16(entry, little) !== 0x0112) continue;
    const value = view.getUint16(entry + 8, little);
    const isOneShort = view.getUint16(entry + 2, little) === 3 && view.getUint32(entry + 4, little) === 1;
    return isOneShort && value >= 2 && value <= 8;
  }
  return false;
}

function moving() {
  return new Refusal("This picture moves. Save the one frame that you want as a picture of its own.");
}

function clear() {
  return new Refusal("This picture is wholly transparent. Export it without transparency and try again.");
}

// One picture as grey levels, bright = bone: {grey, width, height}. Colour becomes luma (ITU-R
// BT.601, in Pillow's whole numbers), transparency lies on black, the EXIF orientation (no other) is
// applied, colour profiles are left aside.
export async function readPicture(blob) {
  if (blob.size > MAX_BYTES) {
    const found = `${Math.round(blob.size / 1e6)} MB`;
    throw new Refusal(`This file is too large (${found}; at most ${MAX_BYTES / 1e6} MB). ${REMEDY}`);
  }
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const facts = inspect(bytes);
  checkSize(facts);
  const bitmap = await decoded(new Blob([bytes], { type: facts.type }));
  try {
    const picture = greyOf(bitmap);
    if (picture.grey.every((level) => level === 0) && isClear(bitmap)) throw clear();
    return picture;
  } finally {
    bitmap.close();
  }
}

function checkSize({ width, height }) {
  if (width < 1 || height < 1) throw cutShort();
  if (width * height <= MAX_PIXELS && Math.max(width, height) <= MAX_SIDE) return;
  const limit = `at most ${MAX_PIXELS / 1e6} million pixels and ${MAX_SIDE} on a side`;
  throw new Refusal(`This picture is too large (${width} × ${height} pixels; ${limit}). Export it in a usual size.`);
}

async function decoded(blob) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "default", imageOrientation: "from-image" };
  try {
    return await createImageBitmap(blob, options);
  } catch {
    throw new Refusal("This picture is damaged and cannot be decoded. Download or export it again.");
  }
}

function greyOf(bitmap) {
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  // Opaque, so black lies under what is transparent; in memory, so no graphics driver rounds.
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let i = 0, j = 0; i < grey.length; i++, j += 4) {
    grey[i] = (data[j] * 19595 + data[j + 1] * 38470 + data[j + 2] * 7471 + 0x8000) >> 16;
  }
  return { grey, width, height };
}

// Whether not one pixel of a picture can be seen; asked only of a black one.
function isClear(bitmap) {
  const { width, height } = bitmap;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  return data.every((value, i) => i % 4 !== 3 || value === 0);
}

// Some browsers change the pixels that a page reads, so that it cannot tell visitors apart.
export function readsPixelsTruly() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 16, height: 16 });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  const drawn = new ImageData(16, 16);
  for (let i = 0; i < drawn.data.length; i++) drawn.data[i] = i % 4 === 3 ? 255 : i % 251;
  context.putImageData(drawn, 0, 0);
  return context.getImageData(0, 0, 16, 16).data.every((value, i) => value === drawn.data[i]);
}

// --------------------------------------------------------------------------- to a square of pixels

// Whole-number weights of one axis, as osteo_utils.data.images._weights: for each target pixel the
// source pixels that it draws on. Each row sums to `total`.
function axisWeights(side, size) {
  const rows = [];
  for (let k = 0; k < size; k++) {
    const row = [];
    if (size > side) {
      const position = Math.min(Math.max((2 * k + 1) * side - size, 0), 2 * size * (side - 1));
      const first = Math.floor(position / (2 * size));
      const right = position - first * 2 * size;
      row.push([first, 2 * size - right], [Math.min(first + 1, side - 1), right]);
    } else {
      for (let i = Math.floor((k * side) / size); i * size < (k + 1) * side; i++) {
        row.push([i, Math.min((i + 1) * size, (k + 1) * side) - Math.max(i * size, k * side)]);
      }
    }
    rows.push(row);
  }
  return { rows, total: size > side ? 2 * size : side };
}

// Grey levels (height x width) on a black square, resized to size x size: the exact area average
// (enlarging: bilinear), halves rounded up. All sums are whole and below 2 ** 53: doubles are exact.
export function fitSquare({ grey, width, height }, size) {
  const side = Math.max(width, height);
  const top = Math.floor((side - height) / 2);
  const left = Math.floor((side - width) / 2);
  const { rows, total } = axisWeights(side, size);
  const square = new Uint8Array(size * size);
  const sums = new Float64Array(width);
  for (let k = 0; k < size; k++) {
    sums.fill(0);
    for (const [i, weight] of rows[k]) {
      const y = i - top;
      if (y < 0 || y >= height) continue; // the black border adds nothing
      for (let x = 0, at = y * width; x < width; x++, at++) sums[x] += weight * grey[at];
    }
    for (let l = 0; l < size; l++) {
      let sum = 0;
      for (const [i, weight] of rows[l]) if (i >= left && i < left + width) sum += weight * sums[i - left];
      square[k * size + l] = Math.floor((2 * sum + total ** 2) / (2 * total ** 2));
    }
  }
  return square;
}

// ------------------------------------------------------------------------------------- the network

let runtime; // fetched when the first picture is there, once

async function openRuntime() {
  const ort = await import(new URL("ort.mjs", VENDOR));
  ort.env.wasm.numThreads = 1; // more would need headers that a plain server does not send
  ort.env.wasm.wasmPaths = { wasm: new URL("ort-wasm-simd-threaded.wasm", VENDOR).href };
  return ort;
}

export class Network {
  constructor(facts, ort, session) {
    Object.assign(this, { facts, ort, session });
  }

  static async open(facts) {
    runtime ??= openRuntime().catch((error) => {
      runtime = undefined; // the next picture tries again
      throw error;
    });
    const ort = await runtime;
    const options = { executionProviders: ["wasm"] };
    return new Network(facts, ort, await ort.InferenceSession.create(new URL(facts.file, MODELS).href, options));
  }

  // Probabilities by class, one map a class (height x width, raw), and how unlike the training
  // films this one is.
  async classify(square) {
    const size = this.facts.image_size;
    const radiograph = new this.ort.Tensor("uint8", square, [1, size, size, 1]);
    const { probabilities, features } = await this.session.run({ radiograph });
    const [, height, width] = features.dims;
    const maps = classMaps(features.data, height * width, this.facts.kernel);
    const distance = noveltyScore({ grey: square, width: size, height: size }, this.facts.novelty);
    return { probabilities: [...probabilities.data], maps, height, width, distance };
  }
}

// Class-activation maps: at each place the features times the weights of the class, over the number
// of places, and nothing below 0. For this kind of network that is Grad-CAM of the logit.
export function classMaps(features, places, kernel) {
  const channels = kernel.length;
  return kernel[0].map((_, label) => {
    const map = new Float32Array(places);
    for (let place = 0; place < places; place++) {
      let sum = 0;
      for (let c = 0; c < channels; c++) sum += features[place * channels + c] * kernel[c][label];
      map[place] = Math.max(sum, 0) / places;
    }
    return map;
  });
}

// Distance of a film from those of the training, as osteo_utils.data.novelty: its cells of a coarse grid,
// standardised, with contrast and brightness, and their Mahalanobis distance.
export function noveltyScore(picture, { mean, precision, side }) {
  const cells = [...fitSquare(picture, side)];
  const average = cells.reduce((sum, cell) => sum + cell, 0) / cells.length;
  const variance = cells.reduce((sum, cell) => sum + (cell - average) ** 2, 0) / cells.length;
  const deviation = Math.max(Math.sqrt(variance), 1);
  const descriptor = cells.map((cell) => (cell - average) / deviation);
  descriptor.push(4 * Math.log(deviation), (4 * average) / 64);
  const away = descriptor.map((value, i) => value - mean[i]);
  const product = precision.map((row) => row.reduce((sum, value, j) => sum + value * away[j], 0));
  return Math.sqrt(product.reduce((sum, value, i) => sum + value * away[i], 0));
}

// ------------------------------------------------------------------------------------- the drawing

// A map (height x width) at size x size: bilinear between the centres of its cells, edges held.
export function stretched(map, height, width, size) {
  const axis = (n) =>
    Array.from({ length: size }, (_, i) => {
      const position = Math.min(Math.max(((i + 0.5) * n) / size - 0.5, 0), n - 1);
      const first = Math.min(Math.floor(position), Math.max(n - 2, 0));
      return [first, Math.min(first + 1, n - 1), position - first];
    });
  const [rows, columns] = [axis(height), axis(width)];
  const large = new Float32Array(size * size);
  let at = 0;
  for (const [y0, y1, dy] of rows) {
    for (const [x0, x1, dx] of columns) {
      const above = map[y0 * width + x0] * (1 - dx) + map[y0 * width + x1] * dx;
      const below = map[y1 * width + x0] * (1 - dx) + map[y1 * width + x1] * dx;
      large[at++] = above * (1 - dy) + below * dy;
    }
  }
  return large;
}

function greyCanvas(grey, width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pixels = new ImageData(width, height);
  for (let i = 0, j = 0; i < grey.length; i++, j += 4) {
    pixels.data[j] = pixels.data[j + 1] = pixels.data[j + 2] = grey[i];
    pixels.data[j + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// The film on its black square, SIDE pixels wide; drawn once a picture.
function filmCanvas({ grey, width, height }) {
  const side = Math.max(width, height);
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  const context = canvas.getContext("2d", { alpha: false });
  const scale = SIDE / side;
  const [left, top] = [width, height].map((length) => Math.floor((side - length) / 2) * scale);
  context.imageSmoothingQuality = "high";
  context.drawImage(greyCanvas(grey, width, height), left, top, width * scale, height * scale);
  return canvas;
}

function heatCanvas(map, limit, colours, height, width) {
  const large = stretched(map, height, width, SIDE);
  const pixels = new ImageData(SIDE, SIDE);
  for (let i = 0, j = 0; i < large.length; i++, j += 4) {
    const [red, green, blue] = colours[Math.min(255, Math.floor((large[i] / limit) * 256))];
    pixels.data[j] = red;
    pixels.data[j + 1] = green;
    pixels.data[j + 2] = blue;
    pixels.data[j + 3] = 255;
  }
  const canvas = Object.assign(document.createElement("canvas"), { width: SIDE, height: SIDE });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// ---------------------------------------------------------------------------------------- the words

const percent = (share) => `${(100 * share).toFixed(0)} %`;
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const decimals = (number) => number?.toFixed(2) ?? "not measurable"; // null in a tiny test part
const interval = ({ value, low, high }) => `${decimals(value)} (95 % interval ${decimals(low)} to ${decimals(high)})`;

export function optionText(facts) {
  return `${facts.title} · ${megabytes(facts.bytes)} · balanced accuracy ${decimals(facts.balanced_accuracy.value)}`;
}

function modelText(facts, corpus) {
  const films = corpus === "simulated" ? "simulated test films" : "test films";
  return (
    `${facts.title}: ${megabytes(facts.bytes)}, sees ${facts.image_size} × ${facts.image_size} pixels; balanced accuracy ` +
    `${interval(facts.balanced_accuracy)} on ${facts.test_films} ${films}. Version ${facts.version}, seed ${facts.run.seed}.`
  );
}

// How sure, and how often a network that was as sure has been right on films it had never seen.
export function uncertaintyText(probabilities, facts, names, corpus) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const top = probabilities[order[0]];
  const bin = facts.confidence.find(({ high }) => top < high) ?? facts.confidence.at(-1);
  const range = bin.low === 0 ? `up to ${decimals(bin.high)}` : `between ${decimals(bin.low)} and ${decimals(bin.high)}`;
  const made = corpus === "simulated" ? "simulated test" : "test";
  const films = bin.count === 1 ? `the one ${made} film` : `${bin.count} ${made} films`;
  const share = `${percent(bin.value)}; 95 % interval ${percent(bin.from)} to ${percent(bin.to)}`;
  return (
    `How sure? ${names[order[0]]} comes first with ${top.toFixed(2)}, then ${names[order[1]]} with ` +
    `${probabilities[order[1]].toFixed(2)}. On ${films} with a highest probability ${range} ` +
    `this network was right on ${bin.right} (${share}).`
  );
}

function noveltyText(distance, { threshold, false_alarms: share }, remark) {
  const ends = `${distance.toFixed(1)}; of new films like those about ${percent(share)} lie above ${threshold.toFixed(1)}`;
  return !(distance <= threshold)
    ? `${remark} The numbers on this page hold for films like those. (Distance ${ends}.)`
    : `Its layout is like that of the films this model was trained on. (Distance ${ends}.)`;
}

// --------------------------------------------------------------------------------------- the page

function element(tag, properties = {}, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

function labelled(text, control, id) {
  control.id = `try-it-${id}`;
  return element("div", { className: "field" }, element("label", { htmlFor: control.id }, text), control);
}

class TryIt {
  constructor(root, index) {
    Object.assign(this, { root, index, names: index.class_names, networks: new Map(), turn: 0, trusted: readsPixelsTruly() });
    this.picture = null; // {grey, width, height, name, film}
    this.result = null; // {probabilities, maps, height, width, ...}
    root.replaceChildren(...this.controls(), this.makeResult());
    this.listen();
    this.chooseModel();
  }

  get facts() {
    return this.index.models[this.model.selectedIndex];
  }

  controls() {
    this.model = element("select", {}, ...this.index.models.map((facts) => element("option", {}, optionText(facts))));
    this.about = element("p", { className: "about" });
    this.file = element("input", { type: "file", accept: "image/jpeg,image/png,image/webp" });
    this.paste = element("button", { type: "button", hidden: !navigator.clipboard?.read }, "Paste a picture");
    this.examples = this.index.examples.map((example, i) => this.exampleButton(example, i));
    this.status = element("p", { className: "status" });
    this.status.setAttribute("role", "status");
    const ways = element("div", { className: "ways" }, labelled("Your radiograph", this.file, "file"), this.paste);
    const hint = element("p", {}, "JPEG, PNG or WebP. You can also drop it on this frame, or paste it with Ctrl+V.");
    return [
      labelled("Network", this.model, "model"),
      this.about,
      ...this.index.left_out.map((title) => element("p", {}, `${title} is not offered: after its short training it gives every film the same answer.`)),
      element("div", { className: "drop" }, ways, hint),
      element("fieldset", {}, element("legend", {}, "Or take a simulated film"), ...this.examples),
      element("p", {}, "Nothing is uploaded. The picture is read and computed on inside this browser, and forgotten when you leave the page."),
      this.status,
    ];
  }

  exampleButton(example, i) {
    const picture = element("img", { src: new URL(example.file, MODELS).href, alt: "", width: 72, height: 72 });
    const button = element("button", { type: "button" }, picture, `Phantom ${i + 1}`);
    button.addEventListener("click", () => this.takeExample(example, i));
    return button;
  }

  makeResult() {
    this.canvas = element("canvas", { width: SIDE, height: SIDE });
    this.canvas.setAttribute("role", "img");
    this.scale = element("div", { className: "scale" });
    this.scale.style.background = `linear-gradient(to right, ${this.index.colours.filter((_, i) => i % 15 === 0).map((c) => `rgb(${c})`)})`;
    this.ends = element("p", { className: "ends" });
    this.heat = element("select", {}, ...this.names.map((name) => element("option", {}, name)));
    this.opacity = element("input", { type: "range", min: "0", max: "100", step: "5", value: "50" });
    this.opacityText = element("span", {}, "50 %");
    this.rows = this.names.map(() => ({ number: element("td"), bar: element("div", { className: "bar" }) }));
    this.table = this.makeTable();
    this.remarks = element("div", { className: "remarks" });
    this.seen = element("canvas", { className: "seen" });
    this.seen.setAttribute("role", "img");
    this.seenText = element("p");
    const opacity = labelled("Opacity of the heatmap", this.opacity, "opacity");
    opacity.append(this.opacityText);
    const left = element("div", { className: "film" }, this.canvas, this.scale, this.ends);
    const right = element("div", { className: "words" }, this.table, labelled("Heatmap of", this.heat, "heat"), opacity, this.remarks);
    const details = element("details", {}, element("summary", {}, "What the network saw"), this.seen, this.seenText);
    this.output = element("div", { className: "result", hidden: true }, left, right, details);
    return this.output;
  }

  makeTable() {
    const head = ["Class", "Probability"].map((text) => element("th", { scope: "col" }, text));
    const bodies = this.names.map((name, i) => {
      const { number, bar } = this.rows[i];
      const cell = element("td", { className: "track", ariaHidden: "true" }, bar);
      return element("tr", {}, element("th", { scope: "row" }, name), number, cell);
    });
    const caption = element("caption", {}, "Probability of each class");
    const rest = element("td", { ariaHidden: "true" });
    return element("table", {}, caption, element("thead", {}, element("tr", {}, ...head, rest)), element("tbody", {}, ...bodies));
  }

  listen() {
    const picked = (files) => this.takeFiles([...(files ?? [])]);
    this.model.addEventListener("change", () => this.chooseModel());
    this.heat.addEventListener("change", () => this.draw());
    this.opacity.addEventListener("input", () => this.draw());
    this.file.addEventListener("change", () => picked(this.file.files));
    this.paste.addEventListener("click", () => this.pasteFromButton());
    document.addEventListener("paste", (event) => {
      if (!event.clipboardData?.files.length) return; // text goes where it was meant to go
      event.preventDefault();
      picked(event.clipboardData.files);
    });
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      this.root.addEventListener(kind, (event) => {
        event.preventDefault();
        this.root.classList.toggle("over", kind === "dragenter" || kind === "dragover");
        if (kind === "drop") picked(event.dataTransfer.files);
      });
    }
  }

  say(text, refused = false) {
    this.status.textContent = text;
    this.status.classList.toggle("refused", refused);
  }

  chooseModel() {
    this.about.textContent = modelText(this.facts, this.index.corpus);
    if (this.picture) this.attempt(() => this.classify());
  }

  takeFiles(files) {
    if (files.length === 0) {
      if (!this.picture) this.say("No picture was chosen.");
      return undefined;
    }
    const others = files.length > 1 ? ` (the first of ${files.length}; this page takes one at a time)` : "";
    return this.take(files[0], `${files[0].name || "the pasted picture"}${others}`, "");
  }

  takeExample(example, i) {
    const truth = ` Its truth: T-score ${example.t_score.toFixed(1).replace("-", "−")}, ${example.label}.`;
    return this.attempt(async () => {
      const response = await fetch(new URL(example.file, MODELS));
      if (!response.ok) throw new Error(`${example.file}: ${response.status}`);
      await this.read(await response.blob(), `Phantom ${i + 1}`, truth);
    });
  }

  async pasteFromButton() {
    await this.attempt(async () => {
      const items = await navigator.clipboard.read().catch(() => {
        throw new Refusal("The browser did not let this page read the clipboard. Click on the page and press Ctrl+V.");
      });
      for (const item of items) {
        const type = item.types.find((each) => each.startsWith("image/"));
        if (type) return this.read(await item.getType(type), "the pasted picture", "");
      }
      throw new Refusal("There is no picture in the clipboard.");
    });
  }

  take(blob, name, truth) {
    return this.attempt(() => this.read(blob, name, truth));
  }

  // Whatever goes wrong ends in a line on the page, and the page goes on. A later wish wins.
  async attempt(work) {
    const turn = ++this.turn;
    try {
      await work();
    } catch (error) {
      if (turn !== this.turn) return;
      this.output.hidden = true;
      this.picture = null;
      if (error instanceof Refusal) this.say(error.message, true);
      else this.say(`This did not work (${error.message ?? error}). Load the page again; your picture is not the reason.`, true);
    }
  }

  async read(blob, name, truth) {
    const turn = this.turn;
    this.say(`Reading ${name} …`);
    const start = performance.now();
    const picture = { ...(await readPicture(blob)), name, truth };
    if (turn !== this.turn) return;
    picture.film = filmCanvas(picture);
    picture.milliseconds = performance.now() - start;
    this.picture = picture;
    await this.classify();
  }

  async network() {
    const facts = this.facts;
    if (!this.networks.has(facts.name)) {
      this.say(`Loading ${facts.title} (once, a moment) …`);
      this.networks.set(facts.name, await Network.open(facts));
    }
    return this.networks.get(facts.name);
  }

  async classify() {
    const turn = this.turn;
    const network = await this.network();
    const start = performance.now();
    const square = fitSquare(this.picture, network.facts.image_size);
    const result = await network.classify(square);
    if (turn !== this.turn) return;
    const milliseconds = this.picture.milliseconds + performance.now() - start;
    this.result = { ...result, square, facts: network.facts, milliseconds };
    this.show();
  }

  show() {
    const { probabilities, facts, maps } = this.result;
    const best = probabilities.indexOf(Math.max(...probabilities));
    this.output.hidden = false;
    probabilities.forEach((p, i) => {
      this.rows[i].number.textContent = p.toFixed(3);
      this.rows[i].bar.style.width = percent(p).replace(" ", "");
    });
    this.heat.selectedIndex = best;
    this.result.limit = Math.max(...maps.flatMap((map) => [...map]));
    this.remarks.replaceChildren(...this.remarksOn(this.result));
    this.showSeen();
    this.draw();
    const { name, truth } = this.picture;
    const said = `${name}: ${facts.title} gives ${this.names[best]} the highest probability, ${probabilities[best].toFixed(3)}.`;
    const warned = this.isNew(this.result) ? ` Warning: ${this.index.novelty_remark}` : "";
    this.say(`${said}${truth}${warned} Computed in ${this.result.milliseconds.toFixed(0)} ms.`);
    this.root.dispatchEvent(new CustomEvent("classified", { detail: this.result }));
  }

  isNew({ distance, facts }) {
    return !(distance <= facts.novelty.threshold); // without a distance it is not known, so unlike
  }

  remarksOn(result) {
    const { probabilities, facts, distance } = result;
    const layout = noveltyText(distance, facts.novelty, this.index.novelty_remark);
    const remarks = [
      element("p", { className: this.isNew(result) ? "warning" : "" }, layout),
      element("p", {}, uncertaintyText(probabilities, facts, this.names, this.index.corpus)),
    ];
    if (!this.trusted) remarks.push(element("p", {}, "This browser changes the pixels that a page reads, against tracking: all numbers are a little off."));
    return remarks;
  }

  showSeen() {
    const { square, facts } = this.result;
    const size = facts.image_size;
    Object.assign(this.seen, { width: size, height: size });
    this.seen.getContext("2d").drawImage(greyCanvas(square, size, size), 0, 0);
    const { width, height } = this.picture;
    this.seen.setAttribute("aria-label", `The picture as ${facts.title} gets it: grey, ${size} by ${size} pixels`);
    this.seenText.textContent = `From ${width} × ${height} to ${size} × ${size} pixels: made grey, put on a black square, averaged by area.`;
  }

  // The film, and over it the map of one class; one scale for all classes, so they can be compared.
  draw() {
    if (!this.result) return;
    const { maps, height, width, limit } = this.result;
    const label = this.heat.selectedIndex;
    const opacity = this.opacity.valueAsNumber / 100;
    const empty = Math.max(...maps[label]) === 0;
    const context = this.canvas.getContext("2d", { alpha: false });
    context.globalAlpha = 1;
    context.drawImage(this.picture.film, 0, 0);
    context.globalAlpha = opacity;
    if (!empty) context.drawImage(heatCanvas(maps[label], limit, this.index.colours, height, width), 0, 0);
    this.opacityText.textContent = `${this.opacity.value} %`;
    this.describe(label, empty);
  }

  describe(label, empty) {
    const { maps, height, width, limit } = this.result;
    const name = this.names[label];
    const place = maps[label].indexOf(Math.max(...maps[label]));
    const [row, column] = [Math.floor(place / width), place % width];
    const third = (at, of, words) => words[Math.min(2, Math.floor((3 * (at + 0.5)) / of))];
    const where = `${third(row, height, ["upper", "middle", "lower"])} ${third(column, width, ["left", "centre", "right"])}`;
    const said = empty ? `no region speaks for ${name}, so no heatmap is drawn` : `what speaks for ${name} is strongest at the ${where}`;
    this.canvas.setAttribute("aria-label", `The film with the heatmap of ${name}: ${said}`);
    const range = `Heatmap: 0 (dark) to ${limit.toPrecision(2)} (bright), what each place adds to the score of the class; one scale for all classes.`;
    this.ends.textContent = `${said[0].toUpperCase()}${said.slice(1)}. ${range}`;
  }
}

// Fills the frame on the page; called by it where the page comes from a server.
export async function start(root) {
  const response = await fetch(new URL("index.json", MODELS));
  if (!response.ok) throw new Error(`index.json: ${response.status}`);
  const index = await response.json();
  if (index.models.length === 0) throw new Error("no network of this build is fit to be offered");
  return new TryIt(root, index);
}
