import { announcer, bindSlider, button, choose, element, follow, frame, labelled, ownBuffer, slider } from "./common.js";

// How good any classifier can be on labels that err. All numbers come from Python; here they are
// only drawn.

const [WIDTH, HEIGHT] = [360, 230];
const ROOM = { left: 52, right: 12, top: 14, bottom: 40 }; // around the plot, for its labels
const DASHES = ["", "7 4", "2 3"]; // the classes differ in more than colour
const TICK = 4; // pixels between an axis and its numbers

function shape(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

const text = (x, y, words, more = {}) => shape("text", { x, y, "text-anchor": "middle", ...more }, words);

// A plot with y from 0 to 1: its picture, and where a point lies in it.
function plot(name, [low, high], ticks, xLabel, yLabel) {
  const x = (value) => ROOM.left + ((value - low) / (high - low)) * (WIDTH - ROOM.left - ROOM.right);
  const y = (value) => HEIGHT - ROOM.bottom - value * (HEIGHT - ROOM.top - ROOM.bottom);
  const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: `ce-plot ce-${name}` });
  const line = (d) => shape("path", { d, class: "ce-axis" });
  picture.append(line(`M${x(low)} ${y(1)}V${y(0)}H${x(high)}`));
  for (const tick of ticks) picture.append(line(`M${x(tick)} ${y(0)}v${TICK}`), text(x(tick), y(0) + 16, String(tick).replace("-", "−")));
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    picture.append(line(`M${x(low)} ${y(tick)}h${-TICK}`), text(x(low) - 2 * TICK, y(tick) + 4, String(tick), { "text-anchor": "end" }));
  }
  picture.append(text((x(low) + x(high)) / 2, HEIGHT - 6, xLabel));
  picture.append(text(0, 0, yLabel, { transform: `translate(10 ${(y(0) + y(1)) / 2}) rotate(-90)` }));
  const path = (xs, ys) => `M${xs.map((each, i) => `${x(each).toFixed(1)} ${y(ys[i]).toFixed(1)}`).join("L")}`;
  return { picture, x, y, path };
}

// Left: how sure the label of each true T-score is.
function labelsPlot({ t_scores, density, classes, colours }, curves, errors) {
  const { picture, x, y, path } = plot("labels", [t_scores[0], t_scores.at(-1)], [-5, -4, -3, -2, -1, 0, 1, 2], "true T-score", "probability of the label");
  const people = `${path(t_scores, density)}L${x(t_scores.at(-1))} ${y(0)}H${x(t_scores[0])}Z`;
  picture.append(shape("path", { d: people, class: "ce-people" }));
  for (const cut of [-2.5, -1]) picture.append(shape("path", { d: `M${x(cut)} ${y(0)}V${y(1)}`, class: "ce-cut" }));
  const lines = classes.map((_, k) => shape("path", { class: "ce-curve", stroke: colours[k], "stroke-dasharray": DASHES[k] }));
  picture.append(...lines);
  const n = t_scores.length;
  const update = (place, said) => {
    lines.forEach((line, k) => {
      const start = (place * classes.length + k) * n;
      const p = Array.from(curves.subarray(start, start + n), (level) => level / 255);
      line.setAttribute("d", path(t_scores, p));
    });
    picture.setAttribute("aria-label", `Probability of each label over the true T-score, for an error of ${errors[place].toFixed(2)} T-scores. ${said}`);
  };
  return { picture, update };
}

// Right: what the best classifier reaches, for every error; a dot where the slider stands.
function ceilingPlot({ errors, accuracy, majority, marks }) {
  const { picture, x, y, path } = plot("ceiling", [0, errors.at(-1)], [0, 1, 2, 3, 4], "error of the label (T-scores)", "accuracy");
  marks.forEach(([name, error], k) => {
    picture.append(shape("path", { d: `M${x(error)} ${y(0)}V${y(1)}`, class: "ce-cut" }));
    picture.append(text(x(error) + TICK, y(0.05 + 0.1 * (k % 2)), name, { "text-anchor": "start" }));
  });
  picture.append(shape("path", { d: path(errors, majority), class: "ce-curve ce-majority" }));
  picture.append(shape("path", { d: path(errors, accuracy), class: "ce-curve ce-best" }));
  picture.append(text(x(3), y(accuracy[59]) - 8, "the best possible"), text(x(2.4), y(majority[47]) + 18, "always the most frequent label"));
  const dot = shape("circle", { r: 6, class: "ce-dot" });
  picture.append(dot);
  const update = (place, said) => {
    dot.setAttribute("cx", x(errors[place]));
    dot.setAttribute("cy", y(accuracy[place]));
    picture.setAttribute("aria-label", `Best possible accuracy over the error of the label, falling from 1. ${said}`);
  };
  return { picture, update };
}

function legend({ classes, colours }) {
  const entry = (line, words) => element("span", {}, shape("svg", { viewBox: "0 0 28 10", class: "ce-key", "aria-hidden": "true" }, line), words);
  const lines = classes.map((name, k) => entry(shape("path", { d: "M0 5H28", class: "ce-curve", stroke: colours[k], "stroke-dasharray": DASHES[k] }), name));
  return element("p", { className: "ce-legend" }, ...lines, entry(shape("path", { d: "M0 1H28V10H0Z", class: "ce-people" }), "the people, by their true T-score"));
}

function render({ model, el }) {
  const content = model.get("content");
  const { errors, marks } = content;
  const curves = new Uint8Array(ownBuffer(model.get("curves")));
  const control = slider(errors[0], errors.at(-1), errors[0]);
  const output = element("output");
  const field = labelled("Error of the label", control);
  field.append(output);
  bindSlider(model, control, "error");
  const jumps = marks.map(([name, error]) => {
    const jump = button(`${name}: ${error.toFixed(2)}`);
    jump.addEventListener("click", () => choose(model, "error", error));
    return jump;
  });
  const plots = [labelsPlot(content, curves, errors), ceilingPlot(content)];
  const findings = element("p", { className: "ce-findings" });
  const said = announcer();

  const draw = () => {
    const place = Math.min(Math.max(Math.round(model.get("error") / errors[0]) - 1, 0), errors.length - 1);
    const now = (name) => content[name][place].toFixed(2);
    control.value = String(errors[place]);
    output.textContent = `${errors[place].toFixed(2)} T-scores; correlation with the truth ${now("correlation")}`;
    control.setAttribute("aria-valuetext", output.textContent);
    const best = `Best possible accuracy ${now("accuracy")}, best possible balanced accuracy ${now("balanced_accuracy")}`;
    findings.textContent = `${best}. Always the most frequent label: ${now("majority")}. A second measurement gives the same label to ${now("repeated")} of the people.`;
    plots.forEach(({ update }) => update(place, `${best}.`));
    return `${output.textContent}. ${findings.textContent}`;
  };

  el.append(
    frame(
      "ceiling-explorer",
      "Ceiling explorer: error of the label, and the best that any classifier can reach",
      element("div", { className: "ce-error" }, field),
      element("div", { className: "ow-row" }, ...jumps),
      findings,
      element("div", { className: "ce-plots" }, ...plots.map(({ picture }) => picture)),
      legend(content),
      said.region,
    ),
  );
  return follow(model, ["error"], draw, said);
}

export default { render };
