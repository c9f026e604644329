// What the widgets share. Plain JavaScript without libraries, so that a widget runs in a notebook
// and on a page without a kernel.

const QUIET = 400; // milliseconds without a move before new values are announced

// A binary trait as an ArrayBuffer of its own: an offset need not fit the numbers inside.
export function ownBuffer(binary) {
  if (binary instanceof ArrayBuffer) return binary;
  return binary.buffer.slice(binary.byteOffset, binary.byteOffset + binary.byteLength);
}

export function element(tag, properties = {}, ...children) {
  const { dataset, ...rest } = properties;
  const created = Object.assign(document.createElement(tag), rest);
  Object.assign(created.dataset, dataset);
  created.append(...children);
  return created;
}

let made = 0; // labels need ids that are unique on the page

// A control with its label. In JupyterLab the arrow keys belong to the control in focus.
export function labelled(text, control) {
  control.id = `osteo-widget-${Date.now().toString(36)}-${++made}`;
  control.dataset.lmSuppressShortcuts = "true";
  return element("div", { className: "ow-field" }, element("label", { htmlFor: control.id }, text), control);
}

export function button(text) {
  return element("button", { type: "button", dataset: { lmSuppressShortcuts: "true" } }, text);
}

// A list of choices; the value of each is its place.
export function choice(names) {
  return element("select", {}, ...names.map((name, i) => element("option", { value: String(i) }, name)));
}

export function slider(min, max, step) {
  return element("input", { type: "range", min: String(min), max: String(max), step: String(step) });
}

export function heading(scope, ...content) {
  return element("th", { scope }, ...content);
}

// Says the latest text politely, once its changes have come to rest.
export function announcer() {
  const region = element("div", { className: "ow-said" });
  region.setAttribute("aria-live", "polite");
  let timer;
  const say = (text) => {
    clearTimeout(timer);
    timer = setTimeout(() => (region.textContent = text), QUIET);
  };
  return { region, say, stop: () => clearTimeout(timer) };
}

// The frame of a widget, with a name for those who cannot see it.
export function frame(className, name, ...children) {
  const root = element("section", { className: `osteo-widget ${className}` }, ...children);
  root.setAttribute("aria-label", name);
  return root;
}

// Draw whenever one of the traits changes, announce what was drawn; returns the way to stop it.
export function follow(model, traits, draw, said) {
  const events = traits.map((name) => `change:${name}`).join(" ");
  const redraw = () => said.say(draw());
  model.on(events, redraw);
  draw();
  return () => {
    model.off(events, redraw);
    said.stop();
  };
}

// The model is the one truth: a control sets it, and every view of it draws itself again.
export function choose(model, name, value) {
  model.set(name, value);
  model.save_changes();
}

// A slider tells every view at once and the kernel when it comes to rest.
export function bindSlider(model, control, name, value = (number) => number) {
  control.addEventListener("input", () => model.set(name, value(control.valueAsNumber)));
  control.addEventListener("change", () => model.save_changes());
}

export function bindChoice(model, control, name, value = Number) {
  control.addEventListener("change", () => choose(model, name, value(control.value)));
}
