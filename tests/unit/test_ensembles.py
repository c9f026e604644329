import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import PREDICTION_COLUMNS, PROBABILITY_COLUMNS, Run, RunError, probabilities
from osteo_utils.scoring import ensembles
from osteo_utils.scoring.ensembles import (
    aligned,
    diversity,
    ensemble_predictions,
    fit_stacking,
    soft_vote,
)
from osteo_utils.scoring.evaluate import SMALLEST, scores

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["custom_cnn", "alexnet", "vgg16", "vgg19", "resnet50", "inception_v3", "xception"]
NAMES += ["densenet121", "mobilenet_v2", "late_fusion"]  # as the registry of models has them

# Four films, two members, as they stand in two files predictions.csv.
FILE_A = """path,group,part,label,p_normal,p_osteopenia,p_osteoporosis
a.png,1,test,0,0.7,0.2,0.1
b.png,2,test,1,0.5,0.3,0.2
c.png,3,test,2,0.1,0.5,0.4
d.png,4,test,2,0.2,0.2,0.6
"""
FILE_B = """path,group,part,label,p_normal,p_osteopenia,p_osteoporosis
a.png,1,test,0,0.3,0.6,0.1
b.png,2,test,1,0.1,0.8,0.1
c.png,3,test,2,0.0,0.3,0.7
d.png,4,test,2,0.1,0.7,0.2
"""


def run_of(table, **info):
    known = {"split_hash": "a" * 64, "class_names": list(CLASS_NAMES), "seed": 0} | info
    return Run(Path("runs") / known.get("model", "one"), known, table, {}, pd.DataFrame())


@pytest.fixture
def four(tmp_path):
    """The two members, read from their files."""
    tables = []
    for name, text in (("a.csv", FILE_A), ("b.csv", FILE_B)):
        (tmp_path / name).write_text(text)
        tables.append(pd.read_csv(tmp_path / name))
    return [run_of(table) for table in tables]


def guesses(n=120, seed=0, sharpness=(2.0, 1.0)):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    logits = [rng.normal(size=(n, 3)) + s * np.eye(3)[y] for s in sharpness]
    return y, [np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in logits]


def fake_run(y, p, **info):
    numbers = np.arange(len(y))
    rows = pd.DataFrame({"path": [f"{i}.png" for i in numbers]})
    rows["group"] = [f"{i // 2}" for i in numbers]
    rows = rows.assign(part=np.where(numbers < len(y) // 2, "validation", "test"), label=y)
    return run_of(rows.assign(**dict(zip(PROBABILITY_COLUMNS, p.T, strict=True))), **info)


def test_four_films_by_hand(four):
    labels, groups, paths, members = aligned(four, "test")
    assert labels.tolist() == [0, 1, 2, 2]
    assert groups.tolist() == [1, 2, 3, 4]
    assert paths.tolist() == ["a.png", "b.png", "c.png", "d.png"]
    # Each member has two right: A the first and the last, B the two between.
    assert [p.argmax(axis=1).tolist() for p in members] == [[0, 0, 1, 2], [1, 1, 2, 1]]
    average = soft_vote(members)
    by_hand = [[0.5, 0.4, 0.1], [0.3, 0.55, 0.15], [0.05, 0.4, 0.55], [0.15, 0.45, 0.4]]
    np.testing.assert_allclose(average, by_hand)
    assert scores(labels, average)["accuracy"] == 3 / 4
    assert scores(labels, average)["balanced_accuracy"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    # Three quarters of A: d is rescued (0.5 beats 0.325), b stays right (0.425 beats 0.4).
    np.testing.assert_allclose(soft_vote(members, [0.75, 0.25])[3], [0.175, 0.325, 0.5])
    assert soft_vote(members, [0.75, 0.25]).argmax(axis=1).tolist() == [0, 1, 2, 2]


def test_four_films_majority_by_hand(four):
    members = aligned(four, "test").members
    # The two disagree on every film; the mean decides.
    assert ensembles.majority_vote(members).argmax(axis=1).tolist() == [0, 1, 2, 1]
    # A third vote like B's outvotes A everywhere.
    shares = ensembles.majority_vote([*members, members[1]])
    np.testing.assert_allclose(shares[0], [1 / 3, 2 / 3, 0], atol=1e-6)
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_four_films_diversity_by_hand(four):
    labels, _, _, (a, b) = aligned(four, "test")
    found = diversity(labels, a, b)  # A right on a and d, B on b and c
    assert found["disagreement"] == 1
    assert found["double_fault"] == 0
    assert found["q_statistic"] == -1
    assert found["correlation"] == -1


def test_diversity_by_hand_from_a_table_of_right_and_wrong():
    right_a = np.repeat([True, True, False, False], [5, 2, 1, 2])
    right_b = np.repeat([True, False, True, False], [5, 2, 1, 2])
    y = np.zeros(10, dtype=int)
    a, b = (np.eye(3)[np.where(right, 0, 1)] for right in (right_a, right_b))
    found = diversity(y, a, b)
    assert found["disagreement"] == pytest.approx(0.3)
    assert found["double_fault"] == pytest.approx(0.2)
    assert found["q_statistic"] == pytest.approx((5 * 2 - 2 * 1) / (5 * 2 + 2 * 1))
    assert found["correlation"] == pytest.approx((5 * 2 - 2 * 1) / np.sqrt(7 * 3 * 6 * 4))
    # One class alone: its error is 0 or -1, so the errors go together as the answers do.
    assert found["error_correlation"] == pytest.approx(found["correlation"])


def test_error_correlation_of_a_member_with_itself_and_with_noise():
    y, (a, b) = guesses(4000, sharpness=(0.0, 0.0))
    assert diversity(y, a, a)["error_correlation"] == pytest.approx(1)
    sure = np.eye(3)[y]
    assert np.isnan(diversity(y, sure, b)["error_correlation"])
    assert np.isnan(diversity(y, sure, b)["q_statistic"])
    truth = np.eye(3)[y]
    classes = [np.corrcoef(a[:, c] - truth[:, c], b[:, c] - truth[:, c])[0, 1] for c in range(3)]
    expected = np.bincount(y) / len(y) @ classes
    assert diversity(y, a, b)["error_correlation"] == pytest.approx(expected)


def test_weights_equal_a_search_along_the_line():
    y, (a, b) = guesses()
    options = {"bounds": (0, 1), "options": {"xatol": 1e-9}}
    best = minimize_scalar(lambda w: log_loss(y, w * a + (1 - w) * b), **options)
    weights = ensembles.choose_weights(y, [a, b])
    assert weights.tolist() == pytest.approx([best.x, 1 - best.x], abs=1e-4)
    assert weights[0] > 0.6


def test_weights_of_a_useless_member_are_zero_and_of_twins_equal():
    y, (a, _) = guesses()
    useless = np.full_like(a, 1 / 3)
    wrong = np.roll(np.eye(3)[y], 1, axis=1)
    assert ensembles.choose_weights(y, [a, wrong]).tolist() == pytest.approx([1, 0], abs=1e-6)
    twins = ensembles.choose_weights(y, [a, a, useless])
    assert twins[0] == pytest.approx(twins[1], abs=1e-6)


def test_weights_of_many_members_are_no_worse_than_any_single_one():
    y, members = guesses(200, 1, sharpness=np.linspace(0.3, 2.5, 10))
    weights = ensembles.choose_weights(y, members)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    reached = log_loss(y, soft_vote(members, weights))
    assert reached <= min(log_loss(y, p) for p in members) + 1e-9
    nudged = [0.99 * weights + 0.01 * corner for corner in np.eye(10)]
    assert all(reached <= log_loss(y, soft_vote(members, w)) + 1e-9 for w in nudged)


def test_weights_that_were_not_found_are_an_error(monkeypatch):
    from scipy.optimize import OptimizeResult

    lost = OptimizeResult(x=np.array([0.5, 0.5]), success=False, message="out of breath")
    monkeypatch.setattr(ensembles, "minimize", lambda *_, **__: lost)
    with pytest.raises(ValueError, match="weights: expected a lowest log loss, found none: out of"):
        ensembles.choose_weights(*guesses())


def test_weights_are_found_where_members_are_sure_to_the_last_digit():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 60)
    logits = 60 * (rng.normal(size=(4, 60, 3)) + np.eye(3)[y])  # most are 1 and 0 in 32 bits
    p = np.exp(logits - logits.max(axis=2, keepdims=True)).astype(np.float32).astype(float)
    p /= p.sum(axis=2, keepdims=True)
    weights, given = ensembles.choose_weights(y, p), np.maximum(p[:, np.arange(60), y], SMALLEST)
    slope = (given / (weights @ given)).mean(axis=1)  # at the best, 1 where there is weight
    np.testing.assert_allclose(slope[weights > 0], 1, atol=1e-3)
    assert (slope <= 1 + 1e-3).all()


def test_warnings_of_what_is_done_with_a_fold_are_heard():
    labels, groups = np.array([0, 1, 0, 1, 2, 0]), np.arange(6)  # a class of one film: no warning
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in ensembles._folds(labels, groups):
            warnings.warn("this fit did not converge", ConvergenceWarning, stacklevel=1)
    assert len(heard) == len(ensembles._folds(labels, groups)) > 1
    assert {each.category for each in heard} == {ConvergenceWarning}


def test_stacking_repairs_a_member_that_names_the_classes_wrongly():
    y, (a, b) = guesses(400, sharpness=(3.0, 0.0))
    turned = np.roll(a, 1, axis=1)  # sure, and always one class off
    fitted = fit_stacking(y[:200], [turned[:200], b[:200]], np.arange(200) // 2)
    p = fitted.predict_proba([turned[200:], b[200:]])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert scores(y[200:], p)["accuracy"] > scores(y[200:], a[200:])["accuracy"] - 0.05
    assert scores(y[200:], soft_vote([turned[200:], b[200:]]))["accuracy"] < 0.3


def test_stacking_takes_the_strongest_penalty_where_there_is_nothing_to_learn():
    y, members = guesses(90, sharpness=(0.0, 0.0))
    assert fit_stacking(y, members).strength == min(ensembles._STRENGTHS)


def test_stacking_gives_an_absent_class_nothing_and_refuses_a_single_class():
    y, members = guesses(60)
    p = fit_stacking(np.minimum(y, 1), members).predict_proba(members)
    assert p.shape == (60, 3)
    assert (p[:, 2] == 0).all()
    with pytest.raises(ValueError, match="two classes"):
        fit_stacking(np.zeros(60, int), members)


@pytest.mark.parametrize("how", ensembles.HOW)
def test_an_ensemble_has_the_form_of_predictions(how):
    y, (a, b) = guesses(160)
    runs = [fake_run(y, a), fake_run(y, b)]
    table = ensemble_predictions(runs, how)
    assert tuple(table.columns) == PREDICTION_COLUMNS
    same = ["path", "group", "part", "label"]
    pd.testing.assert_frame_equal(table[same], runs[0].predictions[same])
    np.testing.assert_allclose(probabilities(table).sum(axis=1), 1)
    pd.testing.assert_frame_equal(table, ensemble_predictions(runs, how))


def test_choices_never_see_the_labels_they_are_judged_on():
    y, (a, b) = guesses(160)
    for how in ("weighted", "stacked"):
        before = ensemble_predictions([fake_run(y, a), fake_run(y, b)], how)
        changed = y.copy()
        changed[80:] = (y[80:] + 1) % 3  # other labels of the test part
        after = ensemble_predictions([fake_run(changed, a), fake_run(changed, b)], how)
        columns = list(PROBABILITY_COLUMNS)
        pd.testing.assert_frame_equal(before[columns], after[columns])
    # Labels that say nothing about the members: a fit judged on its own rows would look clever.
    noise, (c, d) = guesses(160, 3, sharpness=(0.0, 0.0))
    table = ensemble_predictions([fake_run(noise, c), fake_run(noise, d)], "stacked")
    held = table[table["part"] == "validation"]
    assert scores(held["label"], probabilities(held))["auc_macro"] < 0.6


def test_a_validation_part_of_a_few_images_is_enough_and_of_one_group_is_refused():
    y, (a, b) = guesses(16)
    y[:8] = [0, 0, 0, 1, 1, 2, 2, 2]
    table = ensemble_predictions([fake_run(y, a), fake_run(y, b)], "stacked")
    assert np.isfinite(probabilities(table)).all()
    runs = [fake_run(y, a), fake_run(y, b)]
    for run in runs:
        run.predictions["group"] = "one patient"
    with pytest.raises(RunError, match="two groups or more"):
        ensemble_predictions(runs)


def test_runs_that_do_not_belong_together_are_refused(four):
    first, second = four
    with pytest.raises(RunError, match="at least one run"):
        aligned([], "test")
    with pytest.raises(RunError, match="the split of"):
        aligned([first, run_of(second.predictions, split_hash="b" * 64)], "test")
    with pytest.raises(RunError, match="class order"):
        aligned([first, run_of(second.predictions, class_names=list(CLASS_NAMES[::-1]))], "test")
    with pytest.raises(RunError, match="in their order"):
        aligned([first, run_of(second.predictions[::-1])], "test")
    with pytest.raises(RunError, match="one or more"):
        aligned(four, "validation")
    with pytest.raises(RunError, match="their labels"):
        aligned([first, run_of(second.predictions.assign(label=0))], "test")


def test_members_and_weights_that_do_not_fit_are_refused():
    y, (a, b) = guesses(10)
    for weights in ([0.5, 0.6], [1.5, -0.5], [1.0]):
        with pytest.raises(ValueError, match="weights: expected 2"):
            soft_vote([a, b], weights)
    for members in ([], [a, b[:5]], [a[:, :2]]):
        with pytest.raises(ValueError, match="members: expected one or more"):
            soft_vote(members)
    with pytest.raises(ValueError, match="how: expected one of"):
        ensembles.fit_combiner("best", y, [a, b])


def test_pairs_are_the_published_ones_in_their_order():
    published = pd.read_csv(ROOT / "data/published_summary.csv")
    paired = published["kind"] == "pair"
    keys = published["model"].map(ensembles.published_key)
    ours = [ensembles.published_key("+".join(pair)) for pair in ensembles.PAIRS]
    assert ours == keys[paired].tolist()
    assert set(keys[~paired]) == {ensembles.published_key(name) for name in NAMES}
    assert {name for pair in ensembles.PAIRS for name in pair} < set(NAMES)
