import numpy as np
import pytest
from scipy.stats import norm
from traitlets import TraitError

from osteo_utils.phantom.corpus import Population, best_possible, label_probabilities
from osteo_utils.widgets import CeilingExplorer
from osteo_utils.widgets.ceiling_explorer import ERRORS, GRID


@pytest.fixture(scope="module")
def widget():
    return CeilingExplorer()


def test_marks_have_the_ceilings_that_the_course_quotes(widget):
    found = {}
    for name, error in widget.content["marks"]:
        widget.error = error
        found[name] = [round(widget.scores()[key], 2) for key in ("accuracy", "correlation")]
    assert found == {"DXA of the same bone": [0.91, 0.99], "Ultrasound of the heel": [0.58, 0.6]}


@pytest.mark.parametrize("error", [0.05, 0.25, 1.0, 4.0])
def test_scores_are_those_of_the_best_possible_rule(widget, error):
    widget.error = error
    expected = best_possible(Population(error=error))
    assert {name: widget.scores()[name] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_scores_against_drawn_people(widget):
    rng = np.random.default_rng(0)
    t = np.clip(rng.normal(-1.6, 1.5, 200_000), -5, 3)
    first, second = (np.digitize(-(t + rng.normal(0, 1, t.shape)), [1, 2.5]) for _ in range(2))
    widget.error = 1.0
    scores = widget.scores()
    assert scores["repeated"] == pytest.approx((first == second).mean(), abs=0.005)
    assert scores["majority"] == pytest.approx(np.bincount(first).max() / len(t), abs=0.005)


def test_a_worse_label_never_raises_the_ceiling(widget):
    for name in ("accuracy", "balanced_accuracy", "correlation"):
        assert (np.diff(widget.content[name]) <= 0).all()


def test_curves_sent_are_the_probabilities_in_255_steps(widget):
    curves = np.frombuffer(widget.curves, np.uint8).reshape(len(ERRORS), 3, len(GRID))
    np.testing.assert_allclose(curves.sum(axis=1), 255, atol=2)
    np.testing.assert_allclose(
        curves[4, 2] / 255, norm.cdf((-2.5 - GRID) / 0.25), atol=0.5 / 255 + 1e-9
    )


def test_label_probabilities_by_hand():
    # One error above the upper cut, midway between the cuts, and one error below the lower cut.
    found = label_probabilities(np.array([-0.5, -1.75, -3.0]), 0.5)
    tail, far = 0.158655, 0.0000317
    middle = 2 * 0.0668072  # 1.5 errors from either cut
    assert found == pytest.approx(
        np.array(
            [
                [1 - tail, tail - far, far],
                [middle / 2, 1 - middle, middle / 2],
                [far, tail - far, 1 - tail],
            ]
        ),
        abs=1e-6,
    )


@pytest.mark.parametrize("error", [0.0, -1.0, 4.5])
def test_an_error_that_the_slider_lacks_is_refused(widget, error):
    with pytest.raises(TraitError):
        widget.error = error


def test_another_population_and_other_marks():
    other = CeilingExplorer(Population(mean=-0.3, sd=1.0), {"nothing": 0.5}, error=0.5)
    assert other.content["marks"] == [["nothing", 0.5]]
    assert other.scores()["majority"] > 0.7
