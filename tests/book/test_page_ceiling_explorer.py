"""The ceiling explorer on a page without a kernel: what it says is what Python computes."""

import re

import pytest

from osteo_utils.phantom.corpus import Population, best_possible
from osteo_utils.widgets import CeilingExplorer

SLIDER = "Error of the label"


@pytest.fixture
def explorer(tiny):
    def opened(**options):
        seen = tiny(CeilingExplorer(), **options)
        return seen, seen.page.locator(".ceiling-explorer")

    return opened


def slider(widget):
    return widget.get_by_label(SLIDER, exact=True)


def said(widget):
    """Accuracy and balanced accuracy on the screen."""
    words = widget.locator(".ce-findings").inner_text()
    return [float(number) for number in re.findall(r"accuracy (\d\.\d\d)", words)]


def computed(error):
    scores = best_possible(Population(error=error), 20_000)
    return [scores["accuracy"], scores["balanced_accuracy"]]


def test_every_key_gives_the_numbers_of_python(explorer):
    seen, widget = explorer()
    assert said(widget) == pytest.approx(computed(0.25), abs=0.006)
    moves = [
        ("ArrowRight", 0.3),
        ("Home", 0.05),
        ("End", 4),
        ("ArrowLeft", 3.95),
        ("PageDown", 3.5),
    ]
    for key, error in moves:
        slider(widget).press(key)
        assert float(slider(widget).input_value()) == pytest.approx(error, abs=0.1)
        expected = computed(float(slider(widget).input_value()))
        assert said(widget) == pytest.approx(expected, abs=0.006)
    assert seen.complaints == []
    assert seen.foreign == []


def test_a_mark_jumps_to_its_error_and_both_pictures_follow(explorer):
    seen, widget = explorer()
    before = widget.locator(".ce-labels path").evaluate_all("all => all.map((e) => e.outerHTML)")
    dot = widget.locator(".ce-dot")
    place = [float(dot.get_attribute(name)) for name in ("cx", "cy")]
    widget.get_by_role("button", name="Ultrasound of the heel").press("Enter")
    assert float(slider(widget).input_value()) == 2
    assert said(widget) == pytest.approx([0.58, 0.52])
    assert float(dot.get_attribute("cx")) > place[0]
    assert float(dot.get_attribute("cy")) > place[1]  # lower on the screen
    after = widget.locator(".ce-labels path").evaluate_all("all => all.map((e) => e.outerHTML)")
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 3  # the curves
    region = widget.locator("[aria-live=polite]")
    seen.page.wait_for_function("e => e.textContent", arg=region.element_handle())
    assert "Best possible accuracy 0.58" in region.inner_text()


def test_controls_have_names_show_the_focus_and_fit_a_narrow_screen(explorer):
    narrow = {"width": 360, "height": 740}
    seen, widget = explorer(viewport=narrow)
    for each in widget.locator("input, button").all():
        assert len(seen.focused(each)) > 3
    for each in widget.locator("svg[role=img]").all():
        box = each.bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= narrow["width"]
        assert "Best possible accuracy" in each.get_attribute("aria-label")
    assert "T-scores" in slider(widget).get_attribute("aria-valuetext")
