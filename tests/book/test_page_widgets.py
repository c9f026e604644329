"""The widgets on the built pages, where no kernel runs: they answer, and rightly."""

import functools

import numpy as np
import pytest
from smoke import CHAPTERS, NOTEBOOKS, ROOT

from osteo_utils.ensembles import aligned, published_key
from osteo_utils.evaluate import confusion
from osteo_utils.runs import read_run

RUNS = ROOT / "runs/simulated/smoke"
SOURCES = dict(zip(CHAPTERS, (path.read_text("utf-8") for path in NOTEBOOKS), strict=True))
DECISIONS = [chapter for chapter, source in SOURCES.items() if "DecisionExplorer(" in source]

each_decision = pytest.mark.parametrize("chapter", DECISIONS)


@pytest.fixture
def explorer(html, visit):
    """Opens a chapter and gives the visit and its widget."""

    def opened(chapter, **options):
        seen = visit((html / f"notebooks/{chapter}.html").as_uri(), **options)
        widget = seen.page.locator(".decision-explorer")
        widget.first.wait_for(timeout=60_000)
        return seen, widget

    return opened


@functools.cache
def run_of(title):
    """The run that a name shown on the page stands for, from its folder and not from the page."""
    folder = next(f for f in RUNS.iterdir() if published_key(f.name) == published_key(title))
    return read_run(folder / "seed0")


def matrix_of(pair, part, weight):
    found = aligned([run_of(title) for title in pair.split(" + ")], part)
    first, second = found.members
    mixed = weight * first + (1 - weight) * second
    return confusion(found.labels, mixed.argmax(axis=1)).tolist()


def matrix_on(widget):
    counts = widget.locator("td[data-cell] b").evaluate_all("all => all.map(e => +e.textContent)")
    return np.reshape(counts, (3, 3)).tolist()


def state_of(widget):
    pair, part, weight = widget.locator("select, input").evaluate_all(
        "all => all.map(e => e.selectedOptions ? e.selectedOptions[0].text : +e.value / 100)"
    )
    return pair, part, weight


def test_some_chapter_lets_the_reader_decide():
    assert DECISIONS


@each_decision
def test_matrix_follows_the_keyboard_and_equals_that_of_the_run_folders(explorer, chapter):
    seen, widget = explorer(chapter)
    assert widget.count() == 1
    slider = widget.locator("input")
    matrices = []
    for pair in range(widget.get_by_label("Pair").locator("option").count()):
        widget.get_by_label("Pair").select_option(index=pair)
        for part in ("test", "validation"):
            widget.get_by_label("Part").select_option(part)
            for key in ("Home", "ArrowRight", "PageUp", "End"):
                slider.press(key)
                matrices.append(matrix_on(widget))
                assert matrices[-1] == matrix_of(*state_of(widget))
    assert len({str(matrix) for matrix in matrices}) > 1
    assert seen.complaints == []
    assert seen.foreign == []


@each_decision
def test_arrow_moves_the_weight_by_a_hundredth_and_the_scores_are_announced(explorer, chapter):
    seen, widget = explorer(chapter)
    pair, part, before = state_of(widget)
    said = widget.locator("[aria-live=polite]")
    assert said.inner_text() == ""  # nothing is read out before the reader has done something
    widget.locator("input").press("ArrowRight")
    assert state_of(widget) == (pair, part, pytest.approx(before + 0.01))
    seen.page.wait_for_function("e => e.textContent", arg=said.element_handle(), timeout=30_000)
    accuracy = np.trace(matrix_on(widget)) / np.sum(matrix_on(widget))
    assert f"{before + 0.01:.2f}" in said.inner_text()
    assert f"accuracy {accuracy:.3f}" in said.inner_text()


@each_decision
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widget_fits_a_narrow_screen_and_answers_a_touch(explorer, chapter, scheme):
    narrow = {"width": 360, "height": 740}
    seen, widget = explorer(chapter, viewport=narrow, scheme=scheme)
    box = widget.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= narrow["width"]
    slider = widget.locator("input")
    slider.scroll_into_view_if_needed()
    place = slider.bounding_box()
    seen.page.mouse.click(place["x"] + place["width"] / 4, place["y"] + place["height"] / 2)
    assert state_of(widget)[2] == pytest.approx(0.25, abs=0.04)
    assert matrix_on(widget) == matrix_of(*state_of(widget))


@each_decision
def test_every_control_has_a_name_and_shows_where_the_focus_is(explorer, chapter):
    seen, widget = explorer(chapter)
    for control in widget.locator("select, input, button").all():
        named = control.evaluate("e => (e.labels?.[0] ?? e).textContent.trim()")
        assert len(named) > 2
        control.focus()
        seen.page.keyboard.press("Shift")  # the browser now takes the reader for a typist
        assert control.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"


@each_decision
def test_widget_is_the_same_from_a_server(server, visit, chapter):
    seen = visit(f"{server}/notebooks/{chapter}.html")
    widget = seen.page.locator(".decision-explorer")
    widget.wait_for(timeout=60_000)
    widget.locator("input").press("ArrowRight")
    assert matrix_on(widget) == matrix_of(*state_of(widget))
    assert seen.foreign == []
