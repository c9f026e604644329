"""The heatmap explorer on the built pages: what it draws is what Python computes for its state."""

import base64
import json

import numpy as np
import pytest
from smoke import BUILD, CHAPTERS, NOTEBOOKS
from twins import picture_of, share_of

SOURCES = dict(zip(CHAPTERS, (path.read_text("utf-8") for path in NOTEBOOKS), strict=True))
EXPLAINED = [chapter for chapter, source in SOURCES.items() if "CamExplorer(" in source]
BUDGET = 1_500_000  # characters of base64 on a page
FRAME = 16  # milliseconds
PIXELS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return btoa(Array.from(data, (byte) => String.fromCharCode(byte)).join(""));
}"""
# Times of slider moves, with the layout that a move asks for.
MOVES = """slider => Array.from({ length: 60 }, (_, i) => {
  slider.value = String(i);
  const start = performance.now();
  slider.dispatchEvent(new Event("input"));
  slider.closest("section").getBoundingClientRect();
  return performance.now() - start;
})"""

each_chapter = pytest.mark.parametrize("chapter", EXPLAINED)


@pytest.fixture
def explorer(html, visit):
    """Opens a chapter and gives the visit and its widget."""

    def opened(chapter, **options):
        seen = visit((html / f"notebooks/{chapter}.html").as_uri(), **options)
        widget = seen.page.locator(".cam-explorer")
        widget.first.wait_for(timeout=60_000)
        return seen, widget

    return opened


def saved(chapter):
    """The state of the widget in the executed notebook, binary traits decoded."""
    notebook = json.loads((BUILD / f"notebooks/{chapter}.ipynb").read_text("utf-8"))
    kept = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    (found,) = (each for each in kept.values() if "beside" in each["state"])
    buffers = {each["path"][0]: base64.b64decode(each["data"]) for each in found["buffers"]}
    return found["state"] | buffers


def control(scope, label):
    return scope.get_by_label(label, exact=True)


def chosen(select):
    return select.evaluate("e => e.selectedOptions[0].text")


def stack_on(state, panel):
    """Which stack a panel shows, by the words that the reader reads."""
    content = state["content"]
    model = panel.locator(".ce-title").inner_text()
    method, layer = chosen(control(panel, "Method")), chosen(control(panel, "Layer"))
    shown = [
        (
            content["models"][each["model"]],
            each["method"],
            f"{each['height']} × {each['width']}: {each['layer']}",
        )
        for each in content["stacks"]
    ]
    return shown.index((model, method, layer))


def state_on(state, widget):
    """The saved state with what the controls now say."""
    place = {
        label: int(control(widget, label).input_value())
        for label in ("Film", "Class", "Colours", "Scale", "Compare with")
    }
    outline = control(widget, "Outline")
    opacity, threshold = (int(each.input_value()) / 100 for each in sliders(widget))
    first, second = widget.get_by_role("group", include_hidden=True).all()
    return state | {
        "film": place["Film"],
        "target": place["Class"] - 1,
        "colours": place["Colours"],
        "shared": place["Scale"] == 0,
        "outline": int(outline.input_value()) - 1 if outline.count() else -1,
        "opacity": opacity,
        "threshold": threshold,
        "stack": stack_on(state, first),
        "beside": stack_on(state, second) if place["Compare with"] else -1,
    }


def sliders(widget):
    return widget.locator("input[type=range]").all()


def canvas_of(widget, panel):
    canvas = widget.locator(".ce-picture").nth(panel)
    size = int(canvas.get_attribute("width"))
    pixels = np.frombuffer(base64.b64decode(canvas.evaluate(PIXELS)), np.uint8)
    return pixels.reshape(size, size, 4)[..., :3].astype(int)


def check_against_python(state, widget):
    """Every visible canvas equals Python's picture; a film without colours says why."""
    now = state_on(state, widget)
    for panel, which in enumerate((now["stack"], now["beside"])):
        if which < 0:
            continue
        assert np.abs(canvas_of(widget, panel) - picture_of(now, panel)).max() <= 2
        seen = (np.abs(share_of(now, which)) >= now["threshold"]).any()
        assert widget.locator(".ce-unseen").nth(panel).is_visible() != seen
    return now


def test_some_chapter_lets_the_reader_move_heatmaps():
    assert EXPLAINED


@each_chapter
def test_canvas_follows_the_keyboard_and_equals_what_python_draws(explorer, chapter):
    seen, widget = explorer(chapter)
    assert widget.count() == 1
    state = saved(chapter)
    pictures = {canvas_of(widget, 0).tobytes()}
    states = [check_against_python(state, widget)]
    control(widget, "Compare with").press("ArrowDown")
    for select in widget.locator("select:visible").all():
        for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
            select.press(key)
            states.append(check_against_python(state, widget))
            pictures.add(canvas_of(widget, 0).tobytes())
    for slider in sliders(widget):
        for key in ("ArrowRight", "PageUp", "End", "PageDown", "ArrowLeft"):
            slider.press(key)
            states.append(check_against_python(state, widget))
    choices = ("film", "target", "stack", "beside", "colours", "shared", "opacity", "threshold")
    for name in choices:
        assert len({each[name] for each in states}) > 1, name
    assert len(pictures) > 3
    assert seen.complaints == []
    assert seen.foreign == []


@each_chapter
def test_every_stack_and_film_is_drawn_as_python_draws_it(explorer, chapter):
    _, widget = explorer(chapter)
    state = saved(chapter)
    control(widget, "Compare with").select_option(index=0)
    first = widget.get_by_role("group", name="First map")
    seen = set()
    for model in range(len(state["content"]["models"])):
        control(widget, "Model").select_option(index=model)
        for method in range(control(first, "Method").locator("option").count()):
            control(first, "Method").select_option(index=method)
            for layer in range(control(first, "Layer").locator("option").count()):
                control(first, "Layer").select_option(index=layer)
                film = len(seen) % len(state["content"]["names"])
                control(widget, "Film").select_option(index=film)
                control(widget, "Class").select_option(index=len(seen) % 4)
                seen.add(check_against_python(state, widget)["stack"])
    assert seen == set(range(len(state["content"]["stacks"])))


@each_chapter
def test_what_is_shown_is_announced_in_words(explorer, chapter):
    seen, widget = explorer(chapter)
    state = saved(chapter)
    said = widget.locator("[aria-live=polite]")
    assert said.inner_text() == ""  # nothing is read out before the reader has done something
    control(widget, "Film").press("ArrowDown")
    seen.page.wait_for_function("e => e.textContent", arg=said.element_handle(), timeout=30_000)
    now, content = state_on(state, widget), state["content"]
    entry = content["stacks"][now["stack"]]
    p = np.frombuffer(state["probabilities"], "<f4").reshape(-1, len(content["names"]), 3)
    own = p[entry["model"], now["film"]]
    called = int(own.argmax())
    target = called if now["target"] < 0 else now["target"]
    for words in (
        content["names"][now["film"]],
        content["models"][entry["model"]],
        f"class {content['classes'][target]}, probability {own[target]:.2f}",
        f"called {content['classes'][called]}: "
        f"{'right' if called == content['labels'][now['film']] else 'wrong'}",
    ):
        assert words in said.inner_text()
    share = share_of(now, now["stack"])
    expected = "flat" if np.isnan(share).any() else f"of {entry['height']}, column"
    assert expected in said.inner_text() or "against" in said.inner_text()


@each_chapter
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_two_maps_stand_one_above_the_other_on_a_narrow_screen(explorer, chapter, scheme):
    narrow = {"width": 360, "height": 740}
    seen, widget = explorer(chapter, viewport=narrow, scheme=scheme)
    control(widget, "Compare with").select_option(index=1)
    for each in [widget, *widget.locator("select, input, canvas, table").all()]:
        box = each.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= narrow["width"]
    first, second = (group.bounding_box() for group in widget.get_by_role("group").all())
    assert second["y"] >= first["y"] + first["height"]
    slider = sliders(widget)[0]
    slider.scroll_into_view_if_needed()
    place = slider.bounding_box()
    assert place["height"] >= 32
    seen.page.mouse.click(place["x"] + place["width"] / 4, place["y"] + place["height"] / 2)
    assert int(slider.input_value()) == pytest.approx(25, abs=6)
    check_against_python(saved(chapter), widget)


@each_chapter
def test_another_theme_changes_the_words_and_not_the_picture(explorer, chapter):
    seen, widget = explorer(chapter)
    before = canvas_of(widget, 0)
    colours = set()
    for _ in range(3):
        seen.page.locator(".theme-switch-button:visible").first.click()
        colours.add(widget.evaluate("e => getComputedStyle(e).color"))
        assert (canvas_of(widget, 0) == before).all()
    assert len(colours) > 1
    control(widget, "Film").press("ArrowDown")
    check_against_python(saved(chapter), widget)
    assert seen.complaints == []


@each_chapter
def test_every_control_has_a_name_and_shows_where_the_focus_is(explorer, chapter):
    seen, widget = explorer(chapter)
    control(widget, "Compare with").select_option(index=1)
    for each in widget.locator("select, input").all():
        assert len(seen.focused(each)) > 3
    for picture in widget.locator("canvas[role=img]").all():
        assert len(picture.get_attribute("aria-label").split()) > 8


@each_chapter
def test_slider_redraws_two_maps_within_a_frame(explorer, chapter):
    _, widget = explorer(chapter)
    control(widget, "Compare with").select_option(index=1)
    assert np.median(sliders(widget)[1].evaluate(MOVES)) < FRAME


@each_chapter
def test_data_of_the_page_stay_within_their_budget(chapter):
    binary = [each for each in saved(chapter).values() if isinstance(each, bytes)]
    assert sum(len(base64.b64encode(each)) for each in binary) < BUDGET


@each_chapter
def test_widget_is_the_same_from_a_server(server, visit, chapter):
    seen = visit(f"{server}/notebooks/{chapter}.html")
    widget = seen.page.locator(".cam-explorer")
    widget.wait_for(timeout=60_000)
    control(widget, "Film").press("ArrowDown")
    check_against_python(saved(chapter), widget)
    assert seen.foreign == []
