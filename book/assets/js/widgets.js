// Brings the widgets of a page to life where no kernel runs, and asks no other file for it: the
// state that the executed notebook has saved in the page holds each widget's own module and style.
{
  const NEEDS_KERNEL = "This widget needs a running kernel: open the chapter in Colab or in JupyterLab, and run it.";

  const scripts = (kind) => document.querySelectorAll(`script[type="application/vnd.jupyter.widget-${kind}+json"]`);

  // What a widget's module knows as its model; without a kernel there is nobody else to tell.
  class Model extends EventTarget {
    #traits;

    constructor(traits) {
      super();
      this.#traits = traits;
    }

    get(name) {
      return this.#traits[name];
    }

    set(name, value) {
      if (Object.is(this.#traits[name], value)) return;
      this.#traits[name] = value;
      this.dispatchEvent(new Event(`change:${name}`));
    }

    on(events, callback) {
      for (const event of events.split(" ")) this.addEventListener(event, callback);
    }

    off(events, callback) {
      for (const event of events.split(" ")) this.removeEventListener(event, callback);
    }

    save_changes() {}
  }

  // Traits of bytes are saved apart, in base64; a module is given each as a DataView.
  function traitsOf({ state, buffers = [] }) {
    for (const { path, data } of buffers) {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      const holder = path.slice(0, -1).reduce((part, key) => part[key], state);
      holder[path.at(-1)] = new DataView(bytes.buffer);
    }
    return state;
  }

  async function start(saved) {
    const model = new Model(traitsOf(saved));
    const style = document.createElement("style");
    style.textContent = model.get("_css") ?? "";
    document.head.append(style);
    const address = URL.createObjectURL(new Blob([model.get("_esm")], { type: "text/javascript" }));
    const { default: widget } = await import(address);
    URL.revokeObjectURL(address);
    return { model, widget };
  }

  const started = new Map(); // by the id of the model, which its views share

  async function show(view, savedModels) {
    const el = document.createElement("div");
    view.before(el);
    try {
      const { model_id: id } = JSON.parse(view.text);
      const saved = (await savedModels)[id];
      if (!saved?.state._esm) return el.append(NEEDS_KERNEL);
      if (!started.has(id)) started.set(id, start(saved));
      const { model, widget } = await started.get(id);
      await widget.render({ model, el });
    } catch (error) {
      el.textContent = `This widget could not be drawn (${error}). Reload the page, or open the chapter in Colab.`;
      console.error(error);
    }
  }

  async function savedModels() {
    return Object.assign({}, ...Array.from(scripts("state"), (script) => JSON.parse(script.text).state));
  }

  const models = savedModels();
  for (const view of scripts("view")) show(view, models);
}
