import { announcer, bindChoice, bindSlider, button, choice, choose, element, follow, frame, heading, labelled, ownBuffer, slider } from "./common.js";

// A soft vote of two members: the weight is slid, matrix and scores follow.

const STEPS = 100; // of the slider from 0 to 1
const SINGLE_SCORES = ["Accuracy", "Balanced accuracy", "Macro F1"];

// --- data -------------------------------------------------------------------------------------

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

// --- views -------------------------------------------------------------------------------------

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

// --- the widget -------------------------------------------------------------------------------

function render({ model, el }) {
  const content = model.get("content");
  const width = content.classes.length;
  const parts = decode(content, model.get("labels"), model.get("probabilities"));
  const pair = choice(content.pairs.map((both) => both.map((m) => content.members[m]).join(" + ")));
  const part = element("select", {}, ...content.parts.map((name) => element("option", { value: name }, name)));
  const weightSlider = slider(0, STEPS, 1);
  const preset = button("");
  const matrix = matrixView(content.classes);
  const table = scoresView(content.classes);
  const said = announcer();
  const mix = element("output", { className: "de-mix" });
  const field = labelled("", weightSlider);
  const sliderLabel = field.querySelector("label");
  field.append(mix);
  const advice = element("p", {}, "The weight is chosen on validation; test only shows what the choice is worth.");
  const best = () => Math.round(content.chosen[model.get("pair")] * STEPS) / STEPS;

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
    weightSlider.value = String(Math.round(weight * STEPS));
    sliderLabel.textContent = `Weight of ${first}`;
    mix.textContent = `${weight.toFixed(2)} × ${first} + ${(1 - weight).toFixed(2)} × ${second}`;
    weightSlider.setAttribute("aria-valuetext", mix.textContent);
    preset.textContent = `Use the weight chosen on validation (${best().toFixed(2)})`;
    matrix.update(matrices[1], `Vote on ${part.value}: ${labels.length} films, share of each true class`);
    table.update(columns, [first, "Vote", second]);
    const [accuracy, balanced, f1] = columns[1].map(shown);
    return `${mix.textContent}, ${part.value}: accuracy ${accuracy}, balanced accuracy ${balanced}, macro F1 ${f1}.`;
  };

  bindSlider(model, weightSlider, "weight", (step) => step / STEPS);
  bindChoice(model, pair, "pair");
  bindChoice(model, part, "part", String);
  preset.addEventListener("click", () => choose(model, "weight", best()));
  el.append(
    frame(
      "decision-explorer",
      "Decision explorer: a soft vote of two members",
      element("div", { className: "ow-row" }, labelled("Pair", pair), labelled("Part", part)),
      field,
      element("div", { className: "ow-row" }, preset, advice),
      element("div", { className: "ow-row ow-top" }, matrix.table, table.table),
      said.region,
    ),
  );
  return follow(model, ["weight", "pair", "part"], draw, said);
}

export default { render };
