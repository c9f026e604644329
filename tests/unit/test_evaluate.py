import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.scoring import evaluate
from osteo_utils.scoring.evaluate import bootstrap, paired_difference, scores, temperature, tempered


def guesses(n=200, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    logits = rng.normal(size=(n, 3)) + sharpness * np.eye(3)[y]
    p = np.exp(logits)
    return y, p / p.sum(axis=1, keepdims=True)


def sklearn_scores(y, p):
    z = p.argmax(axis=1)
    expected = {
        "accuracy": metrics.accuracy_score(y, z),
        "balanced_accuracy": metrics.balanced_accuracy_score(y, z),
        "kappa_quadratic": metrics.cohen_kappa_score(y, z, weights="quadratic"),
        "auc_macro": metrics.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "brier": np.square(p - np.eye(3)[y]).sum(axis=1).mean(),
    }
    for average in ("macro", "weighted", None):
        values = metrics.precision_recall_fscore_support(y, z, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), values[:3], strict=True):
            if average:
                expected[f"{name}_{average}"] = value
            else:
                named = {f"{name}_{c.lower()}": v for c, v in zip(CLASS_NAMES, value, strict=True)}
                expected |= named
    for c, name in enumerate(CLASS_NAMES):  # specificity is the recall of "all other classes"
        expected[f"specificity_{name.lower()}"] = metrics.recall_score(y != c, z != c)
    return expected


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_scikit_learn(seed):
    y, p = guesses(60, seed, sharpness=seed)
    p = np.round(p, 1)  # many ties
    p[:, 1] = 1 - p[:, 0] - p[:, 2]
    p = np.clip(p, 0, 1)
    found = scores(y, p)
    for name, value in sklearn_scores(y, p).items():
        assert found[name] == pytest.approx(value, abs=1e-9), name
    assert set(found) == set(sklearn_scores(y, p)) | {"specificity_macro", "ece"}


def test_every_resample_equals_scikit_learn_on_the_images_drawn():
    y, p = guesses(40)
    groups = np.repeat(np.arange(20), 2)
    drawn = np.random.default_rng(3).multinomial(20, np.full(20, 1 / 20), size=1)[0]
    rows = np.repeat(np.arange(40), drawn[groups])
    one = bootstrap(y, p, groups, resamples=1, seed=3)
    for name, value in sklearn_scores(y[rows], p[rows]).items():
        assert one.loc[name, "low"] == pytest.approx(value, abs=1e-9), name


def test_a_class_never_predicted_has_precision_zero():
    y = np.array([0, 1, 2, 2])
    p = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]])
    found = scores(y, p)
    assert found["precision_osteopenia"] == 0
    expected = metrics.precision_score(y, p.argmax(1), average="macro", zero_division=0)
    assert found["precision_macro"] == pytest.approx(expected)


def test_an_absent_class_is_nan_and_not_zero():
    y, p = guesses(50)
    found = scores(np.minimum(y, 1), p)
    for name in ("recall_osteoporosis", "precision_osteoporosis", "f1_macro", "auc_macro"):
        assert np.isnan(found[name]), name
    finite = [found[name] for name in ("accuracy", "brier", "ece", "f1_weighted")]
    assert np.isfinite(finite).all()


def test_resamples_without_a_class_are_left_out_for_its_scores_alone():
    y, p = guesses(30)
    y = np.where(np.arange(30) < 2, 2, y % 2)  # two images of class 2: many resamples lack it
    table = bootstrap(y, p, np.arange(30), resamples=300)
    assert np.isfinite(table.drop(index="ece").to_numpy()).all()


def test_an_unmeasurable_score_has_no_interval():
    y, p = guesses(20)
    table = bootstrap(np.zeros_like(y), p, np.arange(20), resamples=20)
    assert table.loc["auc_macro"].isna().all()
    assert table.loc["accuracy"].notna().all()


def test_interval_of_accuracy_agrees_with_the_binomial_one():
    y, p = guesses(400)
    row = bootstrap(y, p, np.arange(400), resamples=4000).loc["accuracy"]
    low, high = proportion_confint(round(row["value"] * 400), 400, method="wilson")
    assert row[["low", "high"]].tolist() == pytest.approx([low, high], abs=0.012)


def test_groups_are_resampled_whole():
    y, p = guesses(50)
    single = bootstrap(y, p, np.arange(50)).loc["accuracy"]
    y4, p4, groups = np.tile(y, 4), np.tile(p, (4, 1)), np.tile(np.arange(50), 4)
    copied = bootstrap(y4, p4, groups).loc["accuracy"]
    assert copied.tolist() == pytest.approx(single.tolist())  # four copies add no information
    naive = bootstrap(y4, p4, np.arange(200)).loc["accuracy"]
    assert naive["high"] - naive["low"] < 0.7 * (single["high"] - single["low"])


def test_bootstrap_is_deterministic_and_fast():
    y, p = guesses(200)
    start = time.process_time()
    first = bootstrap(y, p, np.arange(200), resamples=1000, seed=1)
    assert time.process_time() - start < 4
    pd.testing.assert_frame_equal(first, bootstrap(y, p, np.arange(200), resamples=1000, seed=1))
    assert not first.equals(bootstrap(y, p, np.arange(200), resamples=1000, seed=2))
    assert (first["low"] <= first["high"]).drop("ece").all()
    assert list(first.columns) == ["value", "low", "high"]


def test_groups_may_be_names():
    y, p = guesses(6)
    bootstrap(y, p, pd.Series(["a", "a", "b", "b", "c", "c"]), resamples=5)


def test_ece_and_reliability_by_hand():
    y = np.array([0, 1, 0, 0])
    p = np.array([[0.95, 0.05, 0], [0.95, 0, 0.05], [0.6, 0.4, 0], [0.55, 0.25, 0.2]])
    # bin (0.9, 1]: confidence 0.95, accuracy 0.5; bin (0.5, 0.6]: confidence 0.575, accuracy 1
    assert scores(y, p)["ece"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.425)
    table = evaluate.reliability(y, p)
    assert table["count"].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert table.loc[5, ["confidence", "accuracy"]].tolist() == pytest.approx([0.575, 1.0])
    assert np.isnan(table.loc[0, "accuracy"])


def calibrated(n, seed):
    """Labels drawn from the stated probabilities: nobody could be better calibrated."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.6] * 3, n)
    return (rng.random((n, 1)) > np.cumsum(p, axis=1)[:, :2]).sum(axis=1), p


def test_ece_of_calibrated_forecasts_lies_in_the_calibrated_range():
    inside, values, means = [], [], []
    for seed in range(200):
        y, p = calibrated(260, seed)
        drawn, value = evaluate.ece_if_calibrated(p, 300, seed), scores(y, p)["ece"]
        low, high = np.quantile(drawn, [0.025, 0.975])
        inside.append(low <= value <= high)
        values.append(value)
        means.append(drawn.mean())
    assert 0.91 <= np.mean(inside) <= 0.985  # of 200: 95 % with two and a half standard errors
    assert np.mean(values) == pytest.approx(np.mean(means), abs=0.003)
    assert np.mean(means) == pytest.approx(0.054, abs=0.003)  # far from the 0 of "perfect"


def test_ece_of_a_calibrated_forecaster_by_hand():
    # Two images of confidence 0.8 in one bin: both right 0.64, one 0.32, none 0.04 of the time.
    found = evaluate.ece_if_calibrated([[0.8, 0.1, 0.1]] * 2, 20_000)
    for value, share in ((0.2, 0.64), (0.3, 0.32), (0.8, 0.04)):
        assert np.isclose(found, value).mean() == pytest.approx(share, abs=0.015)
    assert evaluate.ece_if_calibrated([[1.0, 0, 0]] * 5, 10).tolist() == [0] * 10


def test_ece_has_no_percentile_interval_but_the_calibrated_range_beside_it():
    y, p = calibrated(120, 0)
    table = bootstrap(y, p, np.arange(120) // 2, 300, seed=4)
    drawn = evaluate.ece_if_calibrated(p, 300, seed=4)
    assert table.loc["ece", "value"] == scores(y, p)["ece"]
    assert table.loc["ece", ["low", "high"]].isna().all()
    expected = [drawn.mean(), *np.quantile(drawn, [0.025, 0.975])]
    assert table.loc["ece_if_calibrated"].tolist() == pytest.approx(expected)
    boastful = bootstrap(y, tempered(p, 0.3), np.arange(120), 300)["value"]
    assert boastful["ece"] > 2 * boastful["ece_if_calibrated"]
    with pytest.raises(ValueError, match="score: expected one of accuracy"):
        paired_difference(y, p, tempered(p, 2.0), np.arange(120), "ece")


def test_balanced_accuracy_is_the_one_of_scores_and_nan_without_a_class():
    y, p = guesses(60)
    z = p.argmax(axis=1)
    assert evaluate.balanced_accuracy(y, z) == pytest.approx(metrics.balanced_accuracy_score(y, z))
    assert evaluate.balanced_accuracy(y, z) == pytest.approx(scores(y, p)["balanced_accuracy"])
    assert np.isnan(evaluate.balanced_accuracy(np.minimum(y, 1), z))
    # Two classes alone are asked for; the second resample lacks one of them.
    labels, right = np.array([0, 0, 1]), np.array([[True], [False], [True]])
    found = evaluate.mean_recall(labels, right, np.array([[1, 1, 1], [2, 1, 0]]), classes=(0, 1))
    np.testing.assert_allclose(found[:, 0], [0.75, np.nan])


def test_confusion_equals_scikit_learn():
    y, p = guesses()
    found = evaluate.confusion(y, p.argmax(axis=1))
    assert (found == metrics.confusion_matrix(y, p.argmax(axis=1))).all()
    assert evaluate.confusion([0, 0], [2, 2]).tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "p", "message"),
    [
        ([0, 1], [[1, 0, 0]], "as many rows"),
        ([0], [[1, 0]], r"shape \(n, 3\)"),
        ([0], [[2.0, -1.0, 0.0]], "sum to 1"),
        ([0], [[np.nan, 0.5, 0.5]], "sum to 1"),
        ([0], [[3.0, 1.0, 2.0]], "not logits"),
        ([3], [[1, 0, 0]], "expected 0, 1 or 2"),
        ([], np.empty((0, 3)), "non-empty"),
        (["Normal"], [[1, 0, 0]], "expected 0, 1 or 2"),
    ],
)
def test_bad_input_is_refused(labels, p, message):
    with pytest.raises(ValueError, match=message):
        scores(labels, p)


def test_bad_bootstrap_arguments_are_refused():
    y, p = guesses(10)
    with pytest.raises(ValueError, match="groups"):
        bootstrap(y, p, np.arange(9))
    with pytest.raises(ValueError, match="resamples"):
        bootstrap(y, p, np.arange(10), resamples=0)
    with pytest.raises(ValueError, match="predicted"):
        evaluate.confusion(y, y[:5])


def test_counts_below_one_are_refused():
    y, p = guesses(10)
    with pytest.raises(ValueError, match="bins: expected at least 1, found 0"):
        evaluate.reliability(y, p, bins=0)
    with pytest.raises(ValueError, match="draws: expected at least 1, found -1"):
        evaluate.ece_if_calibrated(p, draws=-1)


def test_answers_to_other_films_are_refused():
    with pytest.raises(ValueError, match=r"predicted: expected as many rows as labels \(3\)"):
        evaluate.balanced_accuracy([0, 1, 2], [0])
    with pytest.raises(ValueError, match=r"answers: expected as many rows as labels \(3\)"):
        evaluate.mcnemar([0, 1, 2], [0, 1, 2], [1])


def test_mcnemar_by_hand():
    y = np.zeros(10, int)
    a = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])  # right on the first six
    b = np.array([1, 1, 1, 1, 1, 0, 0, 1, 1, 1])  # right on the sixth and the seventh
    # Five films are A's alone, one is B's: of six tosses at most one on a side, 2 (1 + 6) / 64.
    assert evaluate.mcnemar(y, a, b) == {"only_a": 5, "only_b": 1, "p": pytest.approx(14 / 64)}
    assert evaluate.mcnemar(y, b, a) == {"only_a": 1, "only_b": 5, "p": pytest.approx(14 / 64)}
    assert evaluate.mcnemar(y, a, a) == {"only_a": 0, "only_b": 0, "p": 1.0}


def test_mcnemar_equals_statsmodels():
    from statsmodels.stats.contingency_tables import mcnemar as reference

    y, p = guesses(100, 1, 1.0)
    _, q = guesses(100, 2, 0.0)
    right_p, right_q = p.argmax(1) == y, q.argmax(1) == y
    table = [[np.sum(u & v) for v in (right_q, ~right_q)] for u in (right_p, ~right_p)]
    found = evaluate.mcnemar(y, p.argmax(1), q.argmax(1))
    assert found["p"] == pytest.approx(reference(table, exact=True).pvalue)


def test_paired_difference_of_two_groups_by_hand():
    # Group 0: p right, q wrong. Group 1: both right. A resample draws two of the two groups.
    y, groups = np.array([0, 0]), np.array([0, 1])
    p, q = np.eye(3)[[0, 0]], np.eye(3)[[1, 0]]
    found = paired_difference(y, p, q, groups, "accuracy", resamples=2000)
    assert found["value"] == 0.5
    assert (found["low"], found["high"]) == (0.0, 1.0)
    # A quarter of the resamples holds group 1 alone: difference 0; none is below.
    assert found["p"] == pytest.approx(0.5, abs=0.06)


def test_paired_difference_of_a_classifier_with_itself_is_nothing():
    y, p = guesses(60)
    same = paired_difference(y, p, p, np.arange(60), resamples=100)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}


def test_paired_difference_turns_with_its_arguments_and_is_narrower_than_unpaired():
    y, p = guesses(200)
    q = tempered(p, 3.0) * 0.9 + 0.1 / 3
    q[:10] = np.roll(q[:10], 1, axis=1)
    groups = np.arange(200) // 2
    there = paired_difference(y, p, q, groups, "brier", 400, seed=2)
    back = paired_difference(y, q, p, groups, "brier", 400, seed=2)
    assert there["value"] == pytest.approx(scores(y, p)["brier"] - scores(y, q)["brier"])
    assert [-back["high"], -back["low"]] == pytest.approx([there["low"], there["high"]])
    assert there["p"] == back["p"] == pytest.approx(2 / 401)  # none of 400 on the other side
    alone = bootstrap(y, p, groups, 400, seed=2).loc["brier"]
    assert there["high"] - there["low"] < alone["high"] - alone["low"]


def test_paired_difference_is_calibrated_where_nothing_differs():
    found = []
    for seed in range(60):
        y, p = guesses(80, seed, 1.0)
        q = p[:, [0, 1, 2]].copy()
        swapped = np.random.default_rng(seed).permutation(80)[:40]
        partner = np.random.default_rng(1000 + seed).normal(size=(40, 3)) + np.eye(3)[y[swapped]]
        q[swapped] = np.exp(partner) / np.exp(partner).sum(axis=1, keepdims=True)
        found.append(paired_difference(y, p, q, np.arange(80), resamples=200, seed=seed)["p"])
    assert np.mean(np.array(found) < 0.1) < 0.3
    assert np.mean(np.array(found) < 0.5) > 0.2


def test_paired_difference_that_cannot_be_measured_is_nan():
    y, p = guesses(20)
    found = paired_difference(np.minimum(y, 1), p, p, np.arange(20), resamples=20)
    assert np.isnan([found[key] for key in ("value", "low", "high", "p")]).all()
    with pytest.raises(ValueError, match="score: expected one of accuracy"):
        paired_difference(y, p, p, np.arange(20), "goodness")


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.04: times 3, 2, 1 is 0.03, 0.04, 0.04.
    assert evaluate.holm([0.04, 0.01, 0.02]).tolist() == pytest.approx([0.04, 0.03, 0.04])
    # A later one is never below an earlier one, and none is above 1.
    assert evaluate.holm([0.5, 0.4, 0.01]).tolist() == pytest.approx([0.8, 0.8, 0.03])
    assert evaluate.holm([0.9, 0.8]).tolist() == [1, 1]
    assert evaluate.holm([]).tolist() == []
    with_gap = evaluate.holm([0.01, np.nan, 0.02])
    assert with_gap[[0, 2]].tolist() == pytest.approx([0.02, 0.02])
    assert np.isnan(with_gap[1])


def test_holm_equals_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).random(9) ** 3
    assert evaluate.holm(p).tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())


def test_wilson_by_hand():
    # z = 1.95996; 8 of 10: centre (0.8 + z^2/20) / (1 + z^2/10), half width by the same divisor.
    z = 1.959964
    centre = (0.8 + z**2 / 20) / (1 + z**2 / 10)
    half = z * np.sqrt(0.8 * 0.2 / 10 + z**2 / 400) / (1 + z**2 / 10)
    assert evaluate.wilson(8, 10) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert evaluate.wilson(0, 10)[0] == 0
    assert np.isnan(evaluate.wilson(0, 0)).all()


def test_design_effect_by_hand():
    # Four films, right, right, wrong, wrong: deviations of a half, sum of squares 1.
    z = np.array([0.5, 0.5, -0.5, -0.5])
    # Two patients answered alike: sums 1 and -1, squares 2; corrected by 2 / 1 and 4 / 3.
    assert evaluate.design_effect(z, [0, 0, 1, 1]) == pytest.approx(2 / 1 * (2 / 1) / (4 / 3))
    assert evaluate.design_effect(z, ["a", "b", "c", "d"]) == pytest.approx(1)
    assert evaluate.design_effect(z, [0, 1, 0, 1]) == 1  # never below, though the sums are 0
    assert evaluate.design_effect(0 * z, [0, 0, 1, 1]) == 2  # nothing varies: a patient is one film
    assert evaluate.design_effect(z, [7, 7, 7, 7]) == 4
    assert evaluate.wilson(8, 10, effect=2) == pytest.approx(evaluate.wilson(4, 5))


def test_tempered_by_hand():
    p = [[0.64, 0.32, 0.04]]
    roots = np.array([0.8, np.sqrt(0.32), 0.2])
    np.testing.assert_allclose(tempered(p, 2.0)[0], roots / roots.sum())
    np.testing.assert_allclose(tempered(p, 1.0), p)
    np.testing.assert_allclose(tempered([[1.0, 0.0, 0.0]], 3.0), [[1, 0, 0]], atol=2e-4)
    with pytest.raises(ValueError, match="above 0"):
        tempered(p, 0.0)


def test_temperature_recovers_the_one_that_was_applied():
    rng = np.random.default_rng(0)
    honest = rng.dirichlet([0.5] * 3, 4000)
    y = np.array([rng.choice(3, p=row) for row in honest])
    assert temperature(y, honest) == pytest.approx(1, abs=0.08)
    boastful = tempered(honest, 0.5)
    assert temperature(y, boastful) == pytest.approx(2, abs=0.16)
    assert scores(y, tempered(boastful, 2.0))["ece"] < scores(y, boastful)["ece"]


def test_temperature_by_hand():
    # Sure 0.9 : 0.1, right in 3 of 4. Best log loss where the answer gets 3/4: odds 9^(1/T) = 3.
    p = np.array([[0.9, 0.1, 0.0]] * 4)
    assert temperature([0, 0, 0, 1], p) == pytest.approx(2, abs=1e-3)


def test_temperature_at_an_end_and_of_probabilities_that_are_all_equal():
    sure = np.array([[0.9, 0.05, 0.05]] * 3)
    least, most = evaluate.TEMPERATURES
    assert temperature([0, 0, 0], sure) == least  # always right: never sure enough
    assert temperature([1, 2, 1], sure) == most  # always wrong: never modest enough
    assert temperature([0, 1, 2], np.full((3, 3), 1 / 3)) == 1  # no T changes anything


def test_a_temperature_that_was_not_found_is_an_error(monkeypatch):
    from scipy.optimize import OptimizeResult

    from osteo_utils.scoring import evaluate

    lost = OptimizeResult(x=0.0, success=False, message="out of breath")
    monkeypatch.setattr(evaluate, "minimize_scalar", lambda *_, **__: lost)
    with pytest.raises(ValueError, match="expected a lowest log loss, found none: out of"):
        temperature([0, 1], [[0.9, 0.1, 0], [0.1, 0.9, 0]])


def test_risk_and_coverage_by_hand():
    y = np.array([0, 0, 0, 0])
    p = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.7, 0.3, 0], [0.3, 0.7, 0]])
    table = evaluate.risk_coverage(y, p)  # sure to unsure: right, wrong, then a tie of both
    assert table["coverage"].tolist() == [0.25, 0.5, 1.0]
    assert table["risk"].tolist() == [0.0, 0.5, 0.5]
    assert table["threshold"].tolist() == [0.9, 0.8, 0.7]
    assert evaluate.risk_coverage_area(y, p) == pytest.approx(0.25 * 0 + 0.25 * 0.5 + 0.5 * 0.5)


def test_risk_coverage_area_of_a_useful_and_of_a_useless_confidence():
    y, p = guesses(2000)
    error = 1 - scores(y, p)["accuracy"]
    assert evaluate.risk_coverage_area(y, p) < 0.6 * error
    flat = np.eye(3)[p.argmax(axis=1)]
    assert evaluate.risk_coverage_area(y, flat) == pytest.approx(error)


def test_expected_cost_by_hand():
    y, z = [0, 0, 1, 2], [0, 2, 0, 2]  # one right end, two off, one off, right
    assert evaluate.expected_cost(y, z) == pytest.approx((0 + 2 + 1 + 0) / 4)
    cost = np.array([[0, 1, 9], [1, 0, 1], [9, 5, 0]])
    assert evaluate.expected_cost(y, z, cost) == pytest.approx((0 + 9 + 1 + 0) / 4)
    assert evaluate.expected_cost([2], [1], cost) == 5  # rows are true
    with pytest.raises(ValueError, match="cost: expected shape"):
        evaluate.expected_cost(y, z, [[0, 1], [1, 0]])
