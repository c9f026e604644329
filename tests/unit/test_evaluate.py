import time

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from osteo_utils.evaluate import bootstrap, confusion, reliability, scores
from osteo_utils.labels import CLASS_NAMES


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
        "brier": metrics.brier_score_loss(y, p, scale_by_half=False),
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
    assert found["precision_macro"] == pytest.approx(
        metrics.precision_score(y, p.argmax(1), average="macro", zero_division=0)
    )


def test_an_absent_class_is_nan_and_not_zero():
    y, p = guesses(50)
    found = scores(np.minimum(y, 1), p)
    for name in ("recall_osteoporosis", "precision_osteoporosis", "f1_macro", "auc_macro"):
        assert np.isnan(found[name]), name
    assert np.isfinite(
        [found["accuracy"], found["brier"], found["ece"], found["f1_weighted"]]
    ).all()


def test_resamples_without_a_class_are_left_out_for_its_scores_alone():
    y, p = guesses(30)
    y = np.where(np.arange(30) < 2, 2, y % 2)  # two images of class 2: many resamples lack it
    table = bootstrap(y, p, np.arange(30), resamples=300)
    assert np.isfinite(table.to_numpy()).all()


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
    assert (first["low"] <= first["high"]).all()
    assert list(first.columns) == ["value", "low", "high"]


def test_groups_may_be_names():
    y, p = guesses(6)
    bootstrap(y, p, pd.Series(["a", "a", "b", "b", "c", "c"]), resamples=5)


def test_ece_and_reliability_by_hand():
    y = np.array([0, 1, 0, 0])
    p = np.array([[0.95, 0.05, 0], [0.95, 0, 0.05], [0.6, 0.4, 0], [0.55, 0.25, 0.2]])
    # bin (0.9, 1]: confidence 0.95, accuracy 0.5; bin (0.5, 0.6]: confidence 0.575, accuracy 1
    assert scores(y, p)["ece"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.425)
    table = reliability(y, p)
    assert table["count"].tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert table.loc[5, ["confidence", "accuracy"]].tolist() == pytest.approx([0.575, 1.0])
    assert np.isnan(table.loc[0, "accuracy"])


def test_confusion_equals_scikit_learn():
    y, p = guesses()
    found = confusion(y, p.argmax(axis=1))
    assert (found == metrics.confusion_matrix(y, p.argmax(axis=1))).all()
    assert confusion([0, 0], [2, 2]).tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]


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
        confusion(y, y[:5])
