"""The phantom explorer on the built page: its canvas is the picture that Python computes."""

import base64
import json
import time

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from smoke import BUILD, CHAPTERS, NOTEBOOKS

from osteo_utils.phantom import MASKS, Anatomy
from osteo_utils.widgets import PhantomExplorer

SOURCES = dict(zip(CHAPTERS, (path.read_text("utf-8") for path in NOTEBOOKS), strict=True))
MOVABLE = [chapter for chapter, source in SOURCES.items() if "PhantomExplorer(" in source]
SLIDERS = {
    "T-score": "t_score",
    "Exposure": "exposure",
    "Tube voltage": "kvp",
    "Rotation": "rotation_deg",
    "Magnification": "scale",
    "Shift along the leg": "shift_y_mm",
}
NEAR = 2  # grey levels that two ways of rounding and 32 against 64 bits may make
FRAME = 16  # milliseconds
GREYS = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]);
}"""
ALPHA = """canvas => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  const shown = Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3]);
  return btoa(shown.map((byte) => String.fromCharCode(byte)).join(""));
}"""
BOX = np.ones((3, 3))
# Times of moves from end to end, each with the layout that it asks for; the first ones warm up.
MOVES = """slider => {
  const places = Math.round((slider.max - slider.min) / slider.step);
  return Array.from({ length: 120 }, (_, i) => {
    slider.value = String(+slider.min + (i % places) * slider.step);
    const start = performance.now();
    slider.dispatchEvent(new Event("input"));
    slider.closest("section").getBoundingClientRect();
    return performance.now() - start;
  }).slice(20);
}"""

each_chapter = pytest.mark.parametrize("chapter", MOVABLE)


@pytest.fixture
def explorer(html, visit):
    """Opens a chapter and gives the visit and its widget."""

    def opened(chapter, **options):
        seen = visit((html / f"notebooks/{chapter}.html").as_uri(), **options)
        widget = seen.page.locator(".phantom-explorer")
        widget.first.wait_for(timeout=60_000)
        return seen, widget

    return opened


def made_again(chapter):
    """The widget of the executed notebook, made anew by Python from what it says of itself."""
    notebook = json.loads((BUILD / f"notebooks/{chapter}.ipynb").read_text("utf-8"))
    kept = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    (state,) = (each["state"] for each in kept.values() if "t_score" in each["state"])
    knee = state["content"]
    widget = PhantomExplorer(knee["seed"], Anatomy(*knee["anatomy"]), knee["size"])
    assert widget.content["truth"] == knee["truth"]
    return widget


def control(widget, label):
    return widget.get_by_label(label, exact=True)


def follow(python, widget):
    """Give the Python widget the state that the controls show."""
    for label, name in SLIDERS.items():
        place = float(control(widget, label).input_value())
        setattr(python, name, 2**place if name == "exposure" else place)
    python.processed = control(widget, "Picture").input_value() == "true"
    python.mask = control(widget, "Outline").input_value()


def canvas(widget, view="knee"):
    greys = widget.locator(f"canvas[data-view={view}]").evaluate(GREYS)
    size = int(np.sqrt(len(greys)))
    return np.reshape(greys, (size, size))


def check_against_python(python, widget):
    """All but one pixel in a thousand within NEAR grey levels."""
    follow(python, widget)
    far = np.abs(canvas(widget) - python.picture().astype(int)) > NEAR
    assert far.mean() <= 0.001


def fact(widget, row, column=0):
    cells = widget.get_by_role("row").filter(has_text=row).locator("td")
    return cells.nth(column).inner_text()


def test_some_chapter_lets_the_reader_move_the_phantom():
    assert MOVABLE


@each_chapter
def test_each_slider_moves_the_film_as_python_computes_it(explorer, chapter):
    seen, widget = explorer(chapter)
    assert widget.count() == 1
    python = made_again(chapter)
    check_against_python(python, widget)
    for label in SLIDERS:
        for key in ("ArrowRight", "Home", "End", "PageDown", "ArrowLeft"):
            before = canvas(widget)
            control(widget, label).press(key)
            assert (canvas(widget) != before).any()
            check_against_python(python, widget)
    assert seen.complaints == []
    assert seen.foreign == []


@each_chapter
@pytest.mark.parametrize("origin", ["file", "server"])
def test_widget_comes_alive_however_late_its_loader_is(html, server, visit, chapter, origin):
    base = html.as_uri() if origin == "file" else server
    start = time.monotonic()
    seen = visit(f"{base}/notebooks/{chapter}.html", late={"widgets.js": 10})
    widget = seen.page.locator(".phantom-explorer")
    widget.wait_for()
    assert time.monotonic() - start > 10
    control(widget, "T-score").press("Home")
    assert fact(widget, "Class by WHO") == "Osteoporosis"
    assert seen.foreign == []
    assert [text for text in seen.complaints if "favicon" not in text] == []


@each_chapter
def test_film_before_processing_and_its_reference_are_those_of_python(explorer, chapter):
    _, widget = explorer(chapter)
    python = made_again(chapter)
    control(widget, "Compare with T 0.0").check()
    control(widget, "T-score").press("Home")
    for picture in ("false", "true"):
        control(widget, "Picture").select_option(picture)
        check_against_python(python, widget)
        far = np.abs(canvas(widget, "reference") - python.picture(0.0).astype(int)) > NEAR
        assert far.mean() <= 0.001
    control(widget, "Compare with T 0.0").uncheck()
    assert widget.locator("canvas[data-view=reference]").is_hidden()


@each_chapter
def test_outline_runs_around_the_mask_and_nowhere_else(explorer, chapter):
    _, widget = explorer(chapter)
    python = made_again(chapter)
    lines = widget.locator(".pe-lines").first
    for name in MASKS:
        control(widget, "Outline").select_option(name)
        follow(python, widget)
        mask = python.outlined()
        drawn = np.frombuffer(base64.b64decode(lines.evaluate(ALPHA)), np.uint8) > 0
        zoom = int(np.sqrt(drawn.size)) // len(mask)
        drawn = drawn.reshape(len(mask), zoom, len(mask), zoom).any(axis=(1, 3))
        grown, shrunk = binary_dilation(mask, BOX), binary_erosion(mask, BOX, border_value=1)
        assert drawn[~grown | shrunk].mean() < 0.002
        edge = mask[:, 1:] != mask[:, :-1]
        assert (drawn[:, 1:] & drawn[:, :-1])[edge].mean() > 0.98
    control(widget, "Outline").select_option("none")
    assert not any(base64.b64decode(lines.evaluate(ALPHA)))


@each_chapter
def test_facts_beside_the_film_are_those_of_the_phantom_and_are_announced(explorer, chapter):
    seen, widget = explorer(chapter)
    python = made_again(chapter)
    said = widget.locator("[aria-live=polite]")
    assert said.inner_text() == ""  # nothing is read out before the reader has done something
    control(widget, "T-score").press("Home")
    follow(python, widget)
    facts = python.facts()
    assert fact(widget, "Class by WHO") == "Osteoporosis"
    assert fact(widget, "Cortex") == f"{facts['cortical_thickness_mm']:.1f} mm"
    assert fact(widget, "Vertical struts") == f"{100 * facts['vertical_fraction']:.1f} %"
    assert fact(widget, "Horizontal struts") == f"{100 * facts['horizontal_fraction']:.1f} %"
    assert float(fact(widget, "Mean grey level")) == pytest.approx(
        python.picture().mean(), abs=0.15
    )
    seen.page.wait_for_function("e => e.textContent", arg=said.element_handle(), timeout=30_000)
    assert "Osteoporosis" in said.inner_text()
    assert "−5.0, Osteoporosis" in control(widget, "T-score").get_attribute("aria-valuetext")


@each_chapter
def test_reset_comes_back_to_the_first_film(explorer, chapter):
    _, widget = explorer(chapter)
    first = canvas(widget)
    for label in SLIDERS:
        control(widget, label).press("End")
    control(widget, "Picture").select_option("false")
    assert (canvas(widget) != first).any()
    widget.get_by_role("button", name="Reset").click()
    assert (canvas(widget) == first).all()


@each_chapter
def test_another_theme_changes_the_words_and_not_the_film(explorer, chapter):
    seen, widget = explorer(chapter)
    before = canvas(widget)
    colours = set()
    for _ in range(3):
        seen.page.locator(".theme-switch-button:visible").first.click()
        colours.add(widget.evaluate("e => getComputedStyle(e).color"))
        assert (canvas(widget) == before).all()
    assert len(colours) > 1
    control(widget, "T-score").press("ArrowLeft")
    check_against_python(made_again(chapter), widget)
    assert seen.complaints == []


@each_chapter
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widget_fits_a_narrow_screen_and_answers_a_touch(explorer, chapter, scheme):
    narrow = {"width": 360, "height": 740}
    seen, widget = explorer(chapter, viewport=narrow, scheme=scheme)
    control(widget, "Compare with T 0.0").check()
    for each in [widget, *widget.locator("select, input, button, canvas, table").all()]:
        box = each.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= narrow["width"]
    slider = control(widget, "T-score")
    slider.scroll_into_view_if_needed()
    place = slider.bounding_box()
    assert place["height"] >= 32
    seen.page.mouse.click(place["x"] + place["width"] / 4, place["y"] + place["height"] / 2)
    assert float(slider.input_value()) == pytest.approx(-5 + 7 / 4, abs=0.4)
    check_against_python(made_again(chapter), widget)


@each_chapter
def test_every_control_has_a_name_and_shows_where_the_focus_is(explorer, chapter):
    seen, widget = explorer(chapter)
    for each in widget.locator("select, input, button").all():
        assert len(seen.focused(each)) > 3
    for slider in widget.locator("input[type=range]").all():
        assert slider.get_attribute("aria-valuetext")
    name = widget.locator("canvas[data-view=knee]").get_attribute("aria-label")
    assert len(name.split()) > 8


@each_chapter
@pytest.mark.parametrize("label", ["T-score", "Exposure", "Rotation"])
def test_slider_redraws_within_a_frame(explorer, chapter, label):
    _, widget = explorer(chapter)
    times = control(widget, label).evaluate(MOVES)
    assert np.quantile(times, 0.1) < FRAME  # the moves that no other process interrupted


@each_chapter
def test_widget_says_that_it_teaches_nothing_about_a_patient(explorer, chapter):
    _, widget = explorer(chapter)
    assert "nothing about any patient" in widget.inner_text()
