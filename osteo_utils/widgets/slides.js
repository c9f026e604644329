import { announcer, element, follow, frame, labelled, slider } from "./common.js";

// Pictures that were drawn beforehand, one for every setting of the sliders.

function render({ model, el }) {
  const { name, sliders } = model.get("content");
  const said = announcer();
  const picture = element("div");

  const controls = sliders.map(([label, values], i) => {
    const control = slider(0, values.length - 1, 1);
    const shown = element("output");
    control.addEventListener("input", () => model.set("places", model.get("places").with(i, control.valueAsNumber)));
    control.addEventListener("change", () => model.save_changes());
    const field = labelled(label, control);
    field.append(shown);
    const update = (place) => {
      control.value = String(place);
      shown.textContent = values[place];
      control.setAttribute("aria-valuetext", values[place]);
    };
    return { field, update };
  });

  const draw = () => {
    const places = model.get("places");
    controls.forEach(({ update }, i) => update(places[i]));
    // The last slider moves fastest.
    const page = places.reduce((at, place, i) => at * sliders[i][1].length + place, 0);
    picture.innerHTML = model.get("pages")[page];
    return picture.querySelector("img").alt;
  };

  const row = element("div", { className: "ow-row" }, ...controls.map(({ field }) => field));
  el.append(frame("slides", name, row, picture, said.region));
  return follow(model, ["places"], draw, said);
}

export default { render };
