"""The widgets on the built pages, where no kernel runs: they answer, and rightly."""

import functools
import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import numpy as np
import pytest
from smoke import CHAPTERS, NOTEBOOKS, ROOT
from twins import with_intervals

from osteo_utils.runs import read_run
from osteo_utils.scoring.ensembles import aligned, published_key
from osteo_utils.scoring.evaluate import confusion, expected_cost
from osteo_utils.study import shipped_study

RUNS = ROOT / "runs/simulated/smoke"
SOURCES = dict(zip(CHAPTERS, (path.read_text("utf-8") for path in NOTEBOOKS), strict=True))
DECISIONS = [chapter for chapter, source in SOURCES.items() if "DecisionExplorer(" in source]
ON_THE_STUDY = {"costs_and_abstaining"}  # shows the shipped runs, the others those of the build
EDGE = 1e-6  # of probabilities in 32 bits
DISTANCE = [[0, 1, 2], [1, 0, 1], [2, 1, 0]]

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
def run_of(title, chapter):
    """The run that a name shown on the page stands for, from disk and not from the page."""
    if chapter in ON_THE_STUDY:
        return {published_key(name): runs[0] for name, runs in shipped_study().items()}[
            published_key(title)
        ]
    folder = next(f for f in RUNS.iterdir() if published_key(f.name) == published_key(title))
    return read_run(folder / "seed0")


def answers(p, rule="largest probability", osteoporosis=0.5, worse=0.5, costs=DISTANCE):
    if rule == "lowest expected cost":
        return (p @ np.array(costs)).argmin(axis=1)
    if rule == "two thresholds":
        ill = np.where(p[:, 1] + p[:, 2] + EDGE >= worse, 1, 0)
        return np.where(p[:, 2] + EDGE >= osteoporosis, 2, ill)
    return p.argmax(axis=1)


def expected(widget, **rule):
    """Labels and answers of the state on the page, from the run folders."""
    return judged(widget, **rule)[:2]


def judged(widget, **rule):
    """Labels, answers and groups of the state on the page, from the run folders."""
    members, part, weight = state_of(widget)
    chapter = PurePosixPath(urlsplit(widget.page.url).path).stem
    found = aligned([run_of(title, chapter) for title in members.split(" + ")], part)
    first, second = found.members[0], found.members[-1]
    called = answers(weight * first + (1 - weight) * second, **rule)
    return found.labels, called, found.groups


def matrix_of(widget, **rule):
    return confusion(*expected(widget, **rule)).tolist()


def matrix_on(widget):
    counts = widget.locator("td[data-cell] b").evaluate_all("all => all.map(e => +e.textContent)")
    return np.reshape(counts, (3, 3)).tolist()


def weight_of(widget):
    return widget.get_by_label("Weight of")


def sliders(widget):
    return [each for each in widget.locator("input[type=range]").all() if each.is_visible()]


def state_of(widget):
    members, part = (
        widget.get_by_label(name).evaluate("e => e.selectedOptions[0].text")
        for name in ("Members", "Part")
    )
    weight = weight_of(widget)
    return members, part, int(weight.input_value()) / 100 if weight.is_visible() else 1.0


def now(widget, score):
    """The value and the ends of its interval that the present rule has in the table of scores."""
    row = widget.locator(".de-scores tr", has_text=score)
    return numbers(row.locator(".de-now").inner_text())


def numbers(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_some_chapter_lets_the_reader_decide():
    assert DECISIONS


@each_decision
def test_matrix_follows_the_keyboard_and_equals_that_of_the_run_folders(explorer, chapter):
    seen, widget = explorer(chapter)
    assert widget.count() == 1
    matrices = []
    for members in range(widget.get_by_label("Members").locator("option").count()):
        widget.get_by_label("Members").select_option(index=members)
        for part in ("test", "validation"):
            widget.get_by_label("Part").select_option(part)
            for key in ("Home", "ArrowRight", "PageUp", "End"):
                for slider in sliders(widget):
                    slider.press(key)
                matrices.append(matrix_on(widget))
                assert matrices[-1] == matrix_of(widget)
    assert len({str(matrix) for matrix in matrices}) > 1
    assert seen.complaints == []
    assert seen.foreign == []


@each_decision
def test_thresholds_move_matrix_sensitivity_and_specificity(explorer, chapter):
    _, widget = explorer(chapter)
    widget.get_by_label("Answer by").select_option("two thresholds")
    matrices = []
    for first, second in (
        ("Home", "Home"),
        ("End", "Home"),
        ("End", "End"),
        ("PageDown", "PageDown"),
    ):
        chosen = {}
        for name, label, key in (
            ("osteoporosis", "1. Osteoporosis if", first),
            ("worse", "2. else Osteopenia if", second),
        ):
            slider = widget.get_by_label(label)
            slider.press(key)
            chosen[name] = int(slider.input_value()) / 100
        matrices.append(matrix_on(widget))
        assert matrices[-1] == matrix_of(widget, rule="two thresholds", **chosen)
        check_classes(widget, rule="two thresholds", **chosen)
    assert len({str(matrix) for matrix in matrices}) > 2
    assert np.array(matrices[0])[:, :2].sum() == 0  # at least 0: all are called Osteoporosis
    widget.get_by_role("button", name="Both to 0.50").click()
    middle = matrix_on(widget)
    widget.get_by_label("Answer by").select_option("lowest expected cost")
    assert matrix_on(widget) == middle  # the median class, by the distance of the classes


def check_classes(widget, **rule):
    """Sensitivity and specificity of each class, and their intervals, against the run folders."""
    table = with_intervals(*judged(widget, **rule), DISTANCE)
    names = [name for name in table.index if name.startswith(("sensitivity", "specificity"))]
    cells = widget.locator(".de-classes tbody td").all()
    for name, cell in zip(names, cells, strict=True):
        assert numbers(cell.inner_text()) == pytest.approx(table.loc[name].tolist(), abs=0.0051)


@each_decision
def test_costs_decide_and_are_paid_as_in_python(explorer, chapter):
    _, widget = explorer(chapter)
    widget.get_by_label("Costs", exact=True).select_option("missed Osteoporosis 5")
    costs = [[0, 1, 1], [1, 0, 1], [5, 5, 0]]
    paid = []
    for rule in ("largest probability", "lowest expected cost"):
        widget.get_by_label("Answer by").select_option(rule)
        labels, called = expected(widget, rule=rule, costs=costs)
        assert matrix_on(widget) == confusion(labels, called).tolist()
        paid.append(expected_cost(labels, called, costs))
        assert now(widget, "Mean cost")[0] == pytest.approx(paid[-1], abs=0.00051)
    widget.get_by_label("Cost of calling Normal what is Osteopenia").fill("2.5")
    costs[1][0] = 2.5
    labels, called = expected(widget, rule=rule, costs=costs)
    assert matrix_on(widget) == confusion(labels, called).tolist()
    assert now(widget, "Mean cost")[0] == pytest.approx(
        expected_cost(labels, called, costs), abs=0.00051
    )
    assert widget.get_by_label("Costs", exact=True).evaluate("e => e.value") == "4"  # "my own"


@each_decision
def test_a_cost_that_is_no_number_from_0_is_not_taken(explorer, chapter):
    _, widget = explorer(chapter)
    widget.get_by_label("Answer by").select_option("lowest expected cost")
    cost, before = widget.get_by_label("Cost of calling Normal what is Osteoporosis"), []
    for wrong in ("-3", ""):
        before.append(matrix_on(widget))
        cost.fill(wrong)
        cost.blur()
        assert cost.input_value() == "2"
        assert matrix_on(widget) == before[0]


@each_decision
def test_scores_and_their_intervals_are_those_of_the_matrix(explorer, chapter):
    _, widget = explorer(chapter)
    table = with_intervals(*judged(widget), DISTANCE)
    balanced, accuracy = (table.loc[n].tolist() for n in ("balanced_accuracy", "accuracy"))
    assert now(widget, "Balanced accuracy") == pytest.approx(balanced, abs=0.0051)
    assert numbers(
        widget.locator(".de-scores tbody tr").first.locator(".de-now").inner_text()
    ) == pytest.approx(accuracy, abs=0.0051)
    check_classes(widget)


@each_decision
def test_arrow_moves_a_slider_by_a_hundredth_and_the_scores_are_announced(explorer, chapter):
    seen, widget = explorer(chapter)
    said = widget.locator("[aria-live=polite]")
    assert said.inner_text() == ""  # nothing is read out before the reader has done something
    widget.get_by_label("Answer by").select_option("two thresholds")
    for slider in sliders(widget):
        before = int(slider.input_value())
        slider.press("ArrowRight")
        assert int(slider.input_value()) == before + 1
        assert f"{(before + 1) / 100:.2f}" in slider.get_attribute("aria-valuetext")
    seen.page.wait_for_function("e => e.textContent", arg=said.element_handle(), timeout=30_000)
    accuracy = np.trace(matrix_on(widget)) / np.sum(matrix_on(widget))
    assert "two thresholds" in said.inner_text()
    assert f"accuracy {accuracy:.3f}" in said.inner_text()


@each_decision
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widget_fits_a_narrow_screen_and_answers_a_touch(explorer, chapter, scheme):
    narrow = {"width": 360, "height": 740}
    seen, widget = explorer(chapter, viewport=narrow, scheme=scheme)
    widget.get_by_label("Answer by").select_option("two thresholds")
    for box in (each.bounding_box() for each in [widget, *widget.locator("table").all()]):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= narrow["width"]
    slider = widget.get_by_label("1. Osteoporosis if")
    slider.scroll_into_view_if_needed()
    place = slider.bounding_box()
    seen.page.mouse.click(place["x"] + place["width"] / 4, place["y"] + place["height"] / 2)
    threshold = int(slider.input_value()) / 100
    assert threshold == pytest.approx(0.25, abs=0.04)
    assert matrix_on(widget) == matrix_of(widget, rule="two thresholds", osteoporosis=threshold)


@each_decision
def test_every_control_has_a_name_and_shows_where_the_focus_is(explorer, chapter):
    seen, widget = explorer(chapter)
    widget.get_by_label("Answer by").select_option("two thresholds")
    controls = widget.locator("select, input, button").all()
    visible = [control for control in controls if control.is_visible()]
    assert len(visible) >= 13
    for control in visible:
        assert len(seen.focused(control)) > 2


@each_decision
def test_widget_is_the_same_from_a_server(server, visit, chapter):
    seen = visit(f"{server}/notebooks/{chapter}.html")
    widget = seen.page.locator(".decision-explorer")
    widget.wait_for(timeout=60_000)
    widget.get_by_label("Part").select_option("test")
    assert matrix_on(widget) == matrix_of(widget)
    assert seen.foreign == []
