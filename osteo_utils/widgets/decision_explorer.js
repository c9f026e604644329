// A soft vote of two members: the weight is slid, matrix and scores follow.
// Plain JavaScript without libraries, so that it runs in a notebook and on a page without a kernel.

const STEPS = 100; // of the slider from 0 to 1
const QUIET = 400; // milliseconds without a move before the new scores are announced
const SINGLE_SCORES = ["Accuracy", "Balanced accuracy", "Macro F1"];

// --- data -------------------------------------------------------------------------------------

// A binary trait as an ArrayBuffer of its own: an offset need not fit the numbers inside.
function ownBuffer(binary) {
  if (binary instanceof ArrayBuffer) return binary;
  return binary.buffer.slice(binary.byteOffset, binary.byteOffset + binary.byteLength);
}

// { part: { labels, members: [Float32Array of 3 n numbers, ...] } }
function decode(content, labels, probabilities) {
  const y = new Uint8Array(ownBuffer(labels));
  const p = new Float32Array(ownBuffer(probabilities));
  const width = content.classes.length;
  const parts = {};
  let row = 0;
  let at = 0;
  // Lists, because a notebook on disk sorts the keys of its objects.
  content.parts.forEach((part, k) => {
    const n = content.sizes[k];
    const members = content.members.map(() => p.subarray(at, (at += n * width)));
    parts[part] = { labels: y.subarray(row, (row += n)), members };
  });
  return parts;
}

// --- numbers ----------------------------------------------------------------------------------

// Class index of the largest weighted mean of each image; the first of equals, as in NumPy.
function answers(a, b, weight, width) {
  const called = new Uint8Array(a.length / width);
  for (let i = 0; i < called.length; i++) {
    let top = -1;
    for (let c = 0; c < width; c++) {
      const mixed = weight * a[i * width + c] + (1 - weight) * b[i * width + c];
      if (mixed > top) [top, called[i]] = [mixed, c];
    }
  }
  return called;
}

// Rows are true, columns called.
function confusion(labels, called, width) {
  const matrix = Array.from({ length: width }, () => new Array(width).fill(0));
  labels.forEach((label, i) => matrix[label][called[i]]++);
  return matrix;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;

// Recall of each class and the single scores; NaN where a class has no image.
function scores(matrix) {
  const truth = matrix.map(sum);
  const called = matrix.map((_, c) => sum(matrix.map((row) => row[c])));
  const hits = matrix.map((row, c) => row[c]);
  const recalls = hits.map((hit, c) => hit / truth[c]);
  const f1 = hits.map((hit, c) => (truth[c] ? (2 * hit) / (truth[c] + called[c]) : NaN));
  return [sum(hits) / sum(truth), mean(recalls), mean(f1), ...recalls];
}

const shown = (value) => (Number.isNaN(value) ? "n/a" : value.toFixed(3));
const percent = (value) => (Number.isNaN(value) ? "n/a" : `${Math.round(100 * value)} %`);

// --- elements ---------------------------------------------------------------------------------

let made = 0; // labels need ids that are unique on the page

function element(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const created = Object.assign(document.createElement(tag), rest);
  Object.assign(created.dataset, dataset);
  created.append(...children);
  return created;
}

function labelled(text, control) {
  control.id = `decision-explorer-${++made}`;
  return element("div", { className: "de-field" }, element("label", { htmlFor: control.id }, text), control);
}

function heading(scope, ...content) {
  return element("th", { scope }, ...content);
}

// A confusion matrix whose cells carry count and share of the row as text, and the share as shade.
function matrixView(classes) {
  const caption = element("caption");
  const cells = classes.map((_, r) =>
    classes.map((_, c) => {
      const texts = [element("b"), element("span")];
      return element("td", { className: r === c ? "de-hit" : "", dataset: { cell: `${r}${c}` } }, ...texts);
    }),
  );
  const head = element("tr", {}, heading("col", "true \\ called"), ...classes.map((name) => heading("col", name)));
  const rows = cells.map((row, r) => element("tr", {}, heading("row", classes[r]), ...row));
  const table = element("table", { className: "de-matrix" }, caption, element("thead", {}, head), element("tbody", {}, ...rows));
  const update = (matrix, title) => {
    caption.textContent = title;
    matrix.forEach((row, r) =>
      row.forEach((count, c) => {
        const share = count / sum(row);
        const [number, part] = cells[r][c].children;
        number.textContent = count;
        part.textContent = percent(share);
        cells[r][c].style.setProperty("--share", Number.isNaN(share) ? 0 : share);
      }),
    );
  };
  return { table, update };
}

// One row a score, one column each for the first member, the vote and the second member.
function scoresView(classes) {
  const names = [...SINGLE_SCORES, ...classes.map((name) => `Recall ${name}`)];
  const heads = [0, 1, 2].map(() => heading("col"));
  const cells = names.map(() => heads.map((_, k) => element("td", { className: k === 1 ? "de-vote" : "" })));
  const rows = cells.map((row, i) => element("tr", {}, heading("row", names[i]), ...row));
  const head = element("tr", {}, heading("col", "Score"), ...heads);
  const caption = element("caption", {}, "Scores of the members and of their vote");
  const table = element("table", { className: "de-scores" }, caption, element("thead", {}, head), element("tbody", {}, ...rows));
  const update = (columns, titles) => {
    titles.forEach((title, k) => (heads[k].textContent = title));
    cells.forEach((row, i) => row.forEach((cell, k) => (cell.textContent = shown(columns[k][i]))));
  };
  return { table, update };
}

// Says the latest text politely, once its changes have come to rest.
function announcer() {
  const region = element("div", { className: "de-said" });
  region.setAttribute("aria-live", "polite");
  let timer;
  const say = (text) => {
    clearTimeout(timer);
    timer = setTimeout(() => (region.textContent = text), QUIET);
  };
  return { region, say, stop: () => clearTimeout(timer) };
}

function controls(content) {
  const options = content.pairs.map((pair, i) =>
    element("option", { value: String(i) }, pair.map((m) => content.members[m]).join(" + ")),
  );
  const pair = element("select", {}, ...options);
  const part = element("select", {}, ...content.parts.map((name) => element("option", { value: name }, name)));
  const slider = element("input", { type: "range", min: "0", max: String(STEPS), step: "1" });
  const preset = element("button", { type: "button" });
  return { pair, part, slider, preset };
}

// --- the widget -------------------------------------------------------------------------------

function render({ model, el }) {
  const content = model.get("content");
  const width = content.classes.length;
  const parts = decode(content, model.get("labels"), model.get("probabilities"));
  const { pair, part, slider, preset } = controls(content);
  const matrix = matrixView(content.classes);
  const table = scoresView(content.classes);
  const said = announcer();
  const mix = element("output", { className: "de-mix" });
  const field = labelled("", slider);
  const sliderLabel = field.querySelector("label");
  field.append(mix);

  const root = element(
    "section",
    { className: "decision-explorer" },
    element("div", { className: "de-choices" }, labelled("Pair", pair), labelled("Part", part)),
    field,
    element("div", { className: "de-advice" }, preset, element("p", {}, "The weight is chosen on validation; test only shows what the choice is worth.")),
    element("div", { className: "de-tables" }, matrix.table, table.table),
    said.region,
  );
  root.setAttribute("aria-label", "Decision explorer: a soft vote of two members");
  // In JupyterLab the arrow keys belong to the control in focus, not to the notebook.
  for (const control of [pair, part, slider, preset]) control.dataset.lmSuppressShortcuts = "true";

  const draw = () => {
    const [i, j] = content.pairs[model.get("pair")];
    const [first, second] = [content.members[i], content.members[j]];
    const { labels, members } = parts[model.get("part")];
    const weight = model.get("weight");
    const at = (w) => confusion(labels, answers(members[i], members[j], w, width), width);
    const matrices = [1, weight, 0].map(at);
    const columns = matrices.map(scores);

    pair.value = String(model.get("pair"));
    part.value = model.get("part");
    slider.value = String(Math.round(weight * STEPS));
    sliderLabel.textContent = `Weight of ${first}`;
    mix.textContent = `${weight.toFixed(2)} × ${first} + ${(1 - weight).toFixed(2)} × ${second}`;
    slider.setAttribute("aria-valuetext", mix.textContent);
    preset.textContent = `Use the weight chosen on validation (${best().toFixed(2)})`;
    matrix.update(matrices[1], `Vote on ${part.value}: ${labels.length} films, share of each true class`);
    table.update(columns, [first, "Vote", second]);
    const [accuracy, balanced, f1] = columns[1].map(shown);
    return `${mix.textContent}, ${part.value}: accuracy ${accuracy}, balanced accuracy ${balanced}, macro F1 ${f1}.`;
  };

  // The model is the one truth: a control sets it, and every view of it draws itself again.
  const choose = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  const best = () => Math.round(content.chosen[model.get("pair")] * STEPS) / STEPS;
  slider.addEventListener("input", () => model.set("weight", slider.valueAsNumber / STEPS));
  slider.addEventListener("change", () => model.save_changes());
  pair.addEventListener("change", () => choose("pair", Number(pair.value)));
  part.addEventListener("change", () => choose("part", part.value));
  preset.addEventListener("click", () => choose("weight", best()));
  const events = "change:weight change:pair change:part";
  const redraw = () => said.say(draw());
  model.on(events, redraw);
  draw();
  el.append(root);
  return () => {
    model.off(events, redraw);
    said.stop();
  };
}

export default { render };
