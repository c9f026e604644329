import { announcer, bindChoice, bindSlider, button, choice, choose, element, follow, frame, heading, labelled, ownBuffer, slider } from "./common.js";

// From probabilities to answers: weight of a vote, thresholds and costs are moved, and confusion
// matrix, sensitivity, specificity and mean cost follow.

const STEPS = 100; // of the sliders from 0 to 1
const Z = 1.959963984540054; // standard normal quantile of two-sided 95 %
const ADVICE = "Choose on validation; test only shows what the choice is worth.";
const BEFOREHAND = "What an error costs is for people to say, before they see the results.";
const NOTE =
  "Below each value its 95 % interval: Wilson's for a share, and from these, by adding squared margins, " +
  "for balanced accuracy and cost. Films of one patient that are answered alike count as fewer films, by " +
  "as much as the variance over patients says; where nobody knows the patients, each film is one.";
const EDGE = 1e-6; // a sum of 32-bit probabilities that is 1 may come out a little less
const RULES = { largest: "largest probability", thresholds: "two thresholds", costs: "lowest expected cost" };

// --- data -------------------------------------------------------------------------------------

// { part: { labels, groups, members: [Float32Array of 3 n numbers, ...] } }
function decode(content, labels, groups, probabilities) {
  const y = new Uint8Array(ownBuffer(labels));
  const g = new Uint16Array(ownBuffer(groups));
  const p = new Float32Array(ownBuffer(probabilities));
  const width = content.classes.length;
  const parts = {};
  let row = 0;
  let at = 0;
  // Lists, because a notebook on disk sorts the keys of its objects.
  content.parts.forEach((part, k) => {
    const n = content.sizes[k];
    const members = content.members.map(() => p.subarray(at, (at += n * width)));
    parts[part] = { labels: y.subarray(row, row + n), groups: g.subarray(row, row + n), members };
    row += n;
  });
  return parts;
}

// --- decisions --------------------------------------------------------------------------------

const sum = (values) => values.reduce((total, value) => total + value, 0);

// Place of the largest; the first of equals, as in NumPy.
const argmax = (values) => values.reduce((top, value, c) => (value > values[top] ? c : top), 0);

// The rule of the model's present state: a function from the probabilities of a film to a class.
function ruleOf(model) {
  const costs = model.get("costs");
  const worse = model.get("threshold_worse");
  const osteoporosis = model.get("threshold_osteoporosis");
  return {
    largest: argmax,
    thresholds: (p) => (p[2] + EDGE >= osteoporosis ? 2 : Number(p[1] + p[2] + EDGE >= worse)),
    costs: (p) => argmax(p.map((_, called) => -sum(p.map((share, label) => share * costs[label][called])))),
  }[model.get("rule")];
}

// Class index of each film by the weighted mean of two members.
function answers(a, b, weight, rule, width) {
  const mixed = new Array(width);
  return Uint8Array.from({ length: a.length / width }, (_, i) => {
    for (let c = 0; c < width; c++) mixed[c] = weight * a[i * width + c] + (1 - weight) * b[i * width + c];
    return rule(mixed);
  });
}

// Rows are true, columns called.
function confusion(labels, called, width) {
  const matrix = Array.from({ length: width }, () => new Array(width).fill(0));
  labels.forEach((label, i) => matrix[label][called[i]]++);
  return matrix;
}

// --- numbers, each as [value, low, high]; NaN where there is no film to count ------------------

// How many times as large a variance is because the films of a group go together; as
// osteo_utils.scoring.evaluate.design_effect.
function designEffect(influence, groups) {
  const sums = new Map();
  influence.forEach((z, i) => sums.set(groups[i], (sums.get(groups[i]) ?? 0) + z));
  const squares = (values) => sum(values.map((z) => z * z));
  const [n, k, alone] = [influence.length, sums.size, squares(influence)];
  if (k < 2 || !(alone > 1e-18)) return n / k;
  return Math.max(1, (squares([...sums.values()]) / alone) * (k / (k - 1)) * ((n - 1) / n));
}

// The share k / n with its Wilson interval.
function proportion(k, n) {
  const centre = (k + Z ** 2 / 2) / (n + Z ** 2);
  const half = (Z / (n + Z ** 2)) * Math.sqrt((k * (n - k)) / n + Z ** 2 / 4);
  return [k / n, Math.max(0, centre - half), Math.min(1, centre + half)];
}

// A weighted sum of shares: their weighted margins add up as squares (Zou & Donner 2008).
function combined(shares, weights) {
  const value = sum(shares.map((share, i) => weights[i] * share[0]));
  const margin = (end) => Math.hypot(...shares.map((share, i) => weights[i] * (share[end] - share[0])));
  return [value, value - margin(1), value + margin(2)];
}

// The share of films that are right, of those that are counted.
function share(right, counted, groups) {
  const rows = right.map((_, i) => i).filter((i) => counted[i]);
  const hits = sum(rows.map((i) => right[i]));
  const influence = rows.map((i) => right[i] - hits / rows.length);
  const effect = designEffect(influence, rows.map((i) => groups[i]));
  return proportion(hits / effect, rows.length / effect);
}

// Sensitivity and specificity of each class against the rest.
export function byClass(labels, called, groups, width) {
  const films = [...labels];
  return Array.from({ length: width }, (_, c) => {
    const right = films.map((label, i) => Number((label === c) === (called[i] === c)));
    return [true, false].map((own) => share(right, films.map((label) => (label === c) === own), groups));
  });
}

// Accuracy, balanced accuracy and mean cost.
export function scores(labels, called, groups, costs) {
  const films = [...labels];
  const matrix = confusion(labels, called, costs.length);
  const right = films.map((label, i) => Number(label === called[i]));
  const counts = matrix.map(sum);
  const recalls = matrix.map((row, c) => row[c] / counts[c]);
  const balanced = designEffect(films.map((label, i) => (right[i] - recalls[label]) / counts[label]), groups);
  const paid = films.map((label, i) => costs[label][called[i]]);
  const mean = sum(paid) / films.length;
  const dear = designEffect(paid.map((price) => price - mean), groups);
  const spread = (count, n, effect) => proportion(count / effect, n / effect);
  return [
    share(right, films.map(() => true), groups),
    combined(matrix.map((row, c) => spread(row[c], counts[c], balanced)), matrix.map(() => 1 / matrix.length)),
    combined(matrix.flat().map((count) => spread(count, films.length, dear)), costs.flat()),
  ];
}

const shown = ([value]) => (Number.isNaN(value) ? "n/a" : value.toFixed(3));
const interval = ([, low, high]) => (Number.isNaN(low) ? "" : `${low.toFixed(2)} to ${high.toFixed(2)}`);
const percent = (value) => (Number.isNaN(value) ? "n/a" : `${Math.round(100 * value)} %`);

// --- views -------------------------------------------------------------------------------------

const twoLines = (properties) => element("td", properties, element("b"), element("span"));

function fill(cell, first, second) {
  const lines = [first, second];
  [...cell.children].forEach((line, i) => (line.textContent = lines[i]));
}

// A table from its parts; the caption and the heads of its columns may be changed later.
function tableOf(className, caption, corner, heads, names, cells) {
  const head = element("tr", {}, heading("col", corner), ...heads);
  const rows = cells.map((row, r) => element("tr", {}, heading("row", names[r]), ...row));
  return element("table", { className }, caption, element("thead", {}, head), element("tbody", {}, ...rows));
}

// A confusion matrix whose cells carry count and share of the row as text, and the share as shade.
function matrixView(classes) {
  const caption = element("caption");
  const cells = classes.map((_, r) =>
    classes.map((_, c) => twoLines({ className: r === c ? "de-hit" : "", dataset: { cell: `${r}${c}` } })),
  );
  const heads = classes.map((name) => heading("col", name));
  const table = tableOf("de-matrix", caption, "true \\ called", heads, classes, cells);
  const update = (matrix, title) => {
    caption.textContent = title;
    matrix.forEach((row, r) =>
      row.forEach((count, c) => {
        const share = count / sum(row);
        fill(cells[r][c], count, percent(share));
        cells[r][c].style.setProperty("--share", Number.isNaN(share) ? 0 : share);
      }),
    );
  };
  return { table, update };
}

// The costs in the same places as the counts they are multiplied with; a right answer is free.
function costsView(classes, model) {
  const inputs = [];
  const priced = (r, c) => {
    const input = element("input", { type: "number", min: "0", max: "1000", step: "any", inputMode: "decimal" });
    const field = labelled(`Cost of calling ${classes[c]} what is ${classes[r]}`, input);
    const valid = () => input.value !== "" && input.validity.valid;
    const restore = () => (input.value = String(model.get("costs")[r][c]));
    field.firstChild.className = "ow-said";
    input.addEventListener("input", () => {
      if (!valid()) return;
      const costs = model.get("costs").map((row) => [...row]);
      costs[r][c] = input.valueAsNumber;
      choose(model, "costs", costs);
    });
    input.addEventListener("change", () => valid() || restore());
    inputs.push({ input, r, c, restore });
    return element("td", {}, field);
  };
  const free = () => element("td", { className: "de-hit" }, "0");
  const cells = classes.map((_, r) => classes.map((_, c) => (r === c ? free() : priced(r, c))));
  const heads = classes.map((name) => heading("col", name));
  const caption = element("caption", {}, "What each answer costs");
  const table = tableOf("de-costs", caption, "true \\ called", heads, classes, cells);
  const update = (costs) => {
    for (const { input, r, c, restore } of inputs) if (input.valueAsNumber !== costs[r][c]) restore();
  };
  return { table, update };
}

function byClassView(classes) {
  const names = ["Sensitivity", "Specificity"];
  const caption = element("caption", {}, "Each class against the rest");
  const cells = classes.map(() => names.map(() => twoLines({})));
  const heads = names.map((name) => heading("col", name));
  const table = tableOf("de-classes", caption, "Class", heads, classes, cells);
  const update = (rows) => rows.forEach((row, r) => row.forEach((each, k) => fill(cells[r][k], shown(each), interval(each))));
  return { table, update };
}

// One row a score, one column for each of up to three ways to answer.
function scoresView(count) {
  const names = ["Accuracy", "Balanced accuracy", "Mean cost per film"];
  const columns = Array.from({ length: count }, () => ({ head: heading("col"), cells: names.map(() => twoLines({})) }));
  const caption = element("caption", {}, "Scores, side by side");
  const cells = names.map((_, i) => columns.map((column) => column.cells[i]));
  const table = tableOf("de-scores", caption, "Score", columns.map(({ head }) => head), names, cells);
  const update = (ways) =>
    columns.forEach((column, k) => {
      for (const cell of [column.head, ...column.cells]) {
        cell.hidden = k >= ways.length;
        cell.classList.toggle("de-now", Boolean(ways[k]?.now));
      }
      if (!ways[k]) return;
      column.head.textContent = ways[k].title;
      ways[k].scores.forEach((each, i) => fill(column.cells[i], shown(each), interval(each)));
    });
  return { table, update };
}

// --- the widget -------------------------------------------------------------------------------

// A slider from 0 to 1 with its value beside it; `update` sets both and the words read out.
function probability(text) {
  const control = slider(0, STEPS, 1);
  const value = element("output");
  const field = labelled(text, control);
  const label = field.querySelector("label");
  field.append(value);
  const update = (number, words, name = text) => {
    label.textContent = name;
    control.value = String(Math.round(number * STEPS));
    value.textContent = words;
    control.setAttribute("aria-valuetext", words);
  };
  return { control, field, update };
}

const row = (...children) => element("div", { className: "ow-row" }, ...children);

function render({ model, el }) {
  const content = model.get("content");
  const { classes, members: names, pairs } = content;
  const [healthy, between, worst] = classes;
  const width = classes.length;
  const parts = decode(content, model.get("labels"), model.get("groups"), model.get("probabilities"));
  const said = announcer();

  const pair = choice(pairs.map((both) => both.map((m) => names[m]).join(" + ")));
  const part = element("select", {}, ...content.parts.map((name) => element("option", { value: name }, name)));
  const weight = probability("");
  const preset = button("");
  const rule = element("select", {}, ...Object.entries(RULES).map(([value, text]) => element("option", { value }, text)));
  const words = element("p");
  const osteoporosis = probability(`1. ${worst} if P(${worst}) ≥`);
  const worse = probability(`2. else ${between} if P(${between} or worse) ≥`);
  const reset = button("Both to 0.50");
  const lists = choice([...content.price_lists.map(([name]) => name), "my own"]);
  const findings = element("p", { className: "de-findings" });
  const matrix = matrixView(classes);
  const prices = costsView(classes, model);
  const each = byClassView(classes);
  const table = scoresView(3);

  const thresholds = element("div", { className: "de-thresholds" }, osteoporosis.field, worse.field, row(reset));
  const voteRow = element("div", {}, weight.field, row(preset));
  const advice = element("p", {}, ADVICE);
  const note = element("p", { className: "de-note" }, NOTE);
  lists.lastChild.disabled = true; // shown when it is so, not chosen
  const best = () => Math.round(content.chosen[model.get("pair")] * STEPS) / STEPS;

  // The ways to answer that stand side by side, the present one marked.
  const ways = (members, w, decide) => {
    const [i, j] = pairs[model.get("pair")];
    const way = (title, u, by, now = false) => {
      const { labels, groups } = parts[part.value];
      const called = answers(members[i], members[j ?? i], u, by, width);
      return { title, now, called, scores: scores(labels, called, groups, model.get("costs")) };
    };
    if (j !== undefined) return [way(names[i], 1, decide), way("Vote", w, decide, true), way(names[j], 0, decide)];
    if (decide === argmax) return [way(names[i], 1, decide, true)];
    return [way(`By ${RULES.largest}`, 1, argmax), way(`By ${RULES[rule.value]}`, 1, decide, true)];
  };

  const drawControls = () => {
    const [i, j] = pairs[model.get("pair")];
    const w = model.get("weight");
    const mix = j === undefined ? names[i] : `${w.toFixed(2)} × ${names[i]} + ${(1 - w).toFixed(2)} × ${names[j]}`;
    pair.value = String(model.get("pair"));
    part.value = model.get("part");
    rule.value = model.get("rule");
    weight.update(w, mix, `Weight of ${names[i]}`);
    voteRow.hidden = j === undefined;
    preset.textContent = `Use the weight chosen on validation (${best().toFixed(2)})`;
    thresholds.hidden = rule.value !== "thresholds";
    for (const [control, name] of [[osteoporosis, "threshold_osteoporosis"], [worse, "threshold_worse"]]) {
      control.update(model.get(name), model.get(name).toFixed(2));
    }
    const known = content.price_lists.findIndex(([, costs]) => String(costs) === String(model.get("costs")));
    lists.selectedIndex = known < 0 ? content.price_lists.length : known;
    prices.update(model.get("costs"));
    words.textContent = {
      largest: "Each film is called what is most probable.",
      thresholds: `The more serious question comes first; a film that passes neither is called ${healthy}.`,
      costs: "Each film is called what costs least on average, by its probabilities and the costs below.",
    }[rule.value];
    return mix;
  };

  const draw = () => {
    const mix = drawControls();
    const { labels, groups, members } = parts[part.value];
    const all = ways(members, model.get("weight"), ruleOf(model));
    const now = all.find((way) => way.now);
    const counts = confusion(labels, now.called, width);
    const rows = byClass(labels, now.called, groups, width);
    const total = counts.map(sum);
    matrix.update(counts, `Answers on ${part.value}: ${labels.length} films, share of each true class`);
    each.update(rows);
    table.update(all);
    const last = width - 1;
    const alarms = sum(counts.map((row) => row[last])) - counts[last][last];
    findings.textContent =
      `${worst}: ${counts[last][last]} of ${total[last]} found, and ${alarms} of ${labels.length - total[last]} other films called so. ` +
      `${healthy}: ${total[0] - counts[0][0]} of ${total[0]} called ill.`;
    const [accuracy, balanced, cost] = now.scores.map(shown);
    const [sensitivity, specificity] = rows[last].map(shown);
    return (
      `${mix}, ${RULES[rule.value]}, ${part.value}: ${worst} sensitivity ${sensitivity}, specificity ${specificity}; ` +
      `accuracy ${accuracy}, balanced accuracy ${balanced}, mean cost ${cost}.`
    );
  };

  bindChoice(model, pair, "pair");
  bindChoice(model, part, "part", String);
  bindChoice(model, rule, "rule", String);
  bindChoice(model, lists, "costs", (i) => content.price_lists[i][1]);
  bindSlider(model, weight.control, "weight", (step) => step / STEPS);
  bindSlider(model, osteoporosis.control, "threshold_osteoporosis", (step) => step / STEPS);
  bindSlider(model, worse.control, "threshold_worse", (step) => step / STEPS);
  preset.addEventListener("click", () => choose(model, "weight", best()));
  reset.addEventListener("click", () => {
    model.set("threshold_osteoporosis", 0.5);
    choose(model, "threshold_worse", 0.5);
  });
  el.append(
    frame(
      "decision-explorer",
      "Decision explorer: from probabilities to answers",
      row(labelled("Members", pair), labelled("Part", part), advice),
      voteRow,
      row(labelled("Answer by", rule), words),
      thresholds,
      row(labelled("Costs", lists), element("p", {}, BEFOREHAND)),
      findings,
      element("div", { className: "ow-row ow-top" }, matrix.table, prices.table, each.table, table.table),
      note,
      said.region,
    ),
  );
  const traits = ["weight", "pair", "part", "rule", "threshold_worse", "threshold_osteoporosis", "costs"];
  return follow(model, traits, draw, said);
}

export default { render };
