"""Scores of a three-class classifier, each with an interval by bootstrap over groups.

All scores are computed by one weighted, vectorised function: a bootstrap resample is a vector of
multiplicities (how often each image was drawn), so a thousand resamples are one matrix product and
no loop. What cannot be measured is NaN and never 0: a class without a single image has no recall,
precision, F1, specificity or AUC, and so neither have the means over classes.

The expected calibration error stands apart. It is above 0 for a perfectly calibrated classifier too
and resampling raises it once more, so a percentile interval of it need not contain anything true;
it is shown beside the range that a calibrated classifier has instead (`ece_if_calibrated`).

Two classifiers are compared on the same images (`paired_difference`, `mcnemar`), many comparisons
are corrected by `holm`, and what a classifier is worth in use is asked by `temperature`,
`risk_coverage` and `expected_cost`.
"""

from __future__ import annotations  # the reference shows types as they are written here

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from scipy.stats import binomtest, norm

from osteo_utils.errors import check_count
from osteo_utils.registry import CLASS_NAMES, known_name

Floats = npt.NDArray[np.float64]

ECE_BINS: Final = 10
# Rows are true, columns predicted: an error costs the number of classes it is off, 1 or 2.
ORDINAL_COST: Final = ((0.0, 1.0, 2.0), (1.0, 0.0, 1.0), (2.0, 1.0, 0.0))
_CLASSES: Final = len(CLASS_NAMES)
SMALLEST: Final = 1e-12  # probabilities below are raised to it before a logarithm is taken
TEMPERATURES: Final = (0.05, 20.0)  # where `temperature` looks
IF_CALIBRATED: Final = "ece_if_calibrated"  # the row of `bootstrap` to read "ece" beside


def scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> dict[str, float]:
    """Every score of a classifier by its name.

    A precision without any prediction of that class is 0, as in scikit-learn. What cannot be
    measured is NaN. A class without an image has no score of its own, and a `macro` score, a mean
    of all three classes, is NaN then. A `weighted` score leaves that class out.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        probabilities: Rows that sum to 1, shape (n, 3), in the order of `CLASS_NAMES`.

    Returns:
        Scores by name. All lie in 0 to 1, but for the kappa (-1 to 1) and the Brier score (0 to 2).

        - `accuracy`, and `balanced_accuracy`, the mean recall.
        - `precision_`, `recall_` and `f1_`, each of `macro`, `weighted` and each class
          (`precision_normal`).
        - `specificity_` of each class and `macro`.
        - `kappa_quadratic`: an error of two classes weighs four times one of one class (Cohen
          1968).
        - `auc_macro`: mean of one class against the rest.
        - `brier`: sum over classes of the squared error (Brier 1950). Half of it is what some
          programs print for two classes.
        - `ece`: top-label expected calibration error in 10 equal-width bins (Guo et al. 2017).

    Raises:
        ValueError: A label is not 0, 1 or 2, a row of probabilities does not sum to 1, or there are
            not as many rows as labels, one or more.

    Example:
        >>> found = scores([0, 1, 2, 2], np.eye(3)[[0, 1, 2, 1]])
        >>> found["accuracy"], found["recall_osteoporosis"], found["precision_normal"]
        (0.75, 0.5, 1.0)
    """
    y, p = _checked(labels, probabilities)
    return {name: float(value[0]) for name, value in weighted_scores(y, p, _ones(y)).items()}


def bootstrap(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Value and percentile interval of every score.

    Whole groups (patients, duplicate families) are drawn with replacement, since the images of one
    patient are not independent (Field & Welsh 2007). A resample in which a score cannot be measured
    is left out for that score alone. Works in a second or two for 1,000 resamples of a few hundred
    images.

    `ece` has no interval (low and high are NaN). A last row, `ece_if_calibrated`, says what a
    perfectly calibrated classifier of the same confidences has on these images: its mean ECE, and
    the ends between which a share of `confidence` of its ECEs lie.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        probabilities: Rows that sum to 1, shape (n, 3), in the order of `CLASS_NAMES`.
        groups: Patient or duplicate family of each image, shape (n,).
        resamples: How often the groups are drawn, at least 1.
        seed: Of the drawing.
        confidence: Share of the resamples inside the interval, 0 to 1.

    Returns:
        A row for each score of `scores` and one for `ece_if_calibrated`, columns value, low and
        high.

    Raises:
        ValueError: Shapes or values do not fit (see `scores`), there is not one group for each
            image, or there is no resample.

    Example:
        >>> y = [0, 1, 2, 2]
        >>> table = bootstrap(y, np.eye(3)[y], groups=[0, 1, 2, 2], resamples=10)
        >>> table.loc["accuracy"].tolist()
        [1.0, 1.0, 1.0]
    """
    y, p = _checked(labels, probabilities)
    weights = multiplicities(np.asarray(groups), len(y), resamples, seed)
    drawn = weighted_scores(y, p, weights)
    tail = (1 - confidence) / 2
    rows = {
        name: (value, *interval_ends(drawn[name], tail, 1 - tail))
        for name, value in scores(y, p).items()
    }
    rows["ece"] = (rows["ece"][0], np.nan, np.nan)
    calibrated = ece_if_calibrated(p, resamples, seed)
    rows[IF_CALIBRATED] = (float(calibrated.mean()), *interval_ends(calibrated, tail, 1 - tail))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    return table.rename_axis("score")


def ece_if_calibrated(probabilities: npt.ArrayLike, draws: int = 1000, seed: int = 0) -> Floats:
    """Expected calibration errors that a perfectly calibrated classifier has by chance.

    In each draw every image's label is drawn from its own probabilities, each image by itself, so
    what is left is chance alone. An ECE inside the middle 95 % of these values is no evidence of
    miscalibration. Classifiers judged with one `seed` meet the same chance on the same images.

    Args:
        probabilities: Rows that sum to 1, shape (n, 3).
        draws: How often the labels are drawn, at least 1.
        seed: Of the drawing.

    Returns:
        An ECE for each draw, 0 to 1, shape (draws,).

    Raises:
        ValueError: The shape is another, there is no row, a row does not sum to 1, or nothing is
            drawn.

    Example:
        >>> ece_if_calibrated([[1.0, 0.0, 0.0]], draws=3).tolist()  # sure, and always right
        [0.0, 0.0, 0.0]
    """
    _, p = _checked(np.zeros(len(np.asarray(probabilities)), dtype=np.int64), probabilities)
    check_count("draws", draws)
    top = p.max(axis=1)
    right = np.random.default_rng(seed).random((draws, len(top))) < top
    return np.asarray(np.abs((right - top) @ _bins(top, ECE_BINS)).sum(axis=1) / len(top))


def balanced_accuracy(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Mean recall of the three classes.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        predicted: Predicted classes, integers 0 to 2, shape (n,).

    Returns:
        Balanced accuracy, 0 to 1; NaN where one of the three classes has no image.

    Raises:
        ValueError: A class is not 0, 1 or 2, there is no image, or there are not as many predicted
            classes as true ones.

    Example:
        >>> balanced_accuracy([0, 1, 2, 2], [0, 1, 2, 1])  # recalls 1, 1 and 1/2
        0.8333333333333334
    """
    y, z = _checked_labels(labels), _checked_labels(predicted, "predicted")
    _same_length(predicted=z, labels=y)
    return float(mean_recall(y, (z == y)[:, None], _ones(y))[0, 0])


def mean_recall(
    y: npt.NDArray[Any],
    hits: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    classes: Iterable[int] = range(_CLASSES),
) -> Floats:
    """Balanced accuracy of several classifiers in several resamples.

    Args:
        y: True classes, shape (n,).
        hits: Whether each of k classifiers has each image right, shape (n, k).
        weights: How often each image counts in each of r resamples, shape (r, n).
        classes: The classes that a mean is taken over.

    Returns:
        Balanced accuracies, 0 to 1, shape (r, k). NaN for a resample that lacks one of the
        `classes`: a mean over fewer would be another quantity.

    Example:
        >>> y, hits = np.array([0, 1, 2]), np.array([[True], [True], [False]])
        >>> mean_recall(y, hits, np.ones((1, 3))).round(2).tolist()
        [[0.67]]
    """
    recalls = [
        ratio(weights[:, y == c] @ hits[y == c], weights[:, y == c].sum(axis=1, keepdims=True))
        for c in classes
    ]
    return np.asarray(np.mean(recalls, axis=0))


def confusion(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Confusion matrix of class indices.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        predicted: Predicted classes, integers 0 to 2, shape (n,).

    Returns:
        Number of images, shape (3, 3), rows true and columns predicted.

    Raises:
        ValueError: A class is not 0, 1 or 2, there is no image, or the lengths differ.

    Example:
        >>> confusion([0, 1, 2, 2], [0, 1, 2, 1]).tolist()
        [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    """
    y, z = _checked_labels(labels), _checked_labels(predicted, "predicted")
    _same_length(predicted=z, labels=y)
    return np.bincount(y * _CLASSES + z, minlength=_CLASSES**2).reshape(_CLASSES, _CLASSES)


def reliability(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = ECE_BINS
) -> pd.DataFrame:
    """Confidence against accuracy in equal-width bins of the top probability.

    A bin holds its upper edge.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        probabilities: Rows that sum to 1, shape (n, 3).
        bins: How many bins there are from 0 to 1, at least 1.

    Returns:
        One row a bin, columns `low` and `high` (its edges), `count`, `confidence` and `accuracy`
        (means over the images of the bin, NaN where it is empty).

    Raises:
        ValueError: Shapes or values do not fit (see `scores`), or there is no bin.

    Example:
        >>> table = reliability([0, 1], [[0.8, 0.1, 0.1], [0.9, 0.1, 0.0]], bins=2)
        >>> table.loc[1, ["count", "confidence", "accuracy"]].round(2).tolist()
        [2.0, 0.85, 0.5]
    """
    y, p = _checked(labels, probabilities)
    check_count("bins", bins)
    count, confidence, right = (a[0] for a in _bin_sums(y, p, _ones(y), bins))
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count.astype(int),
            "confidence": ratio(confidence, count),
            "accuracy": ratio(right, count),
        }
    )


def paired_difference(
    labels: npt.ArrayLike,
    p: npt.ArrayLike,
    q: npt.ArrayLike,
    groups: npt.ArrayLike,
    score: str = "balanced_accuracy",
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float]:
    """Difference of two classifiers' scores on the same images, and how sure it is.

    The p-value is twice the smaller share of resamples on either side of 0, each side with one
    added (Davison & Hinkley 1997, 4), so it is never below 2 / (resamples + 1).

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        p: Probabilities of the first classifier, shape (n, 3).
        q: Probabilities of the second classifier, shape (n, 3).
        groups: Patient or duplicate family of each image, shape (n,).
        score: Any name of `scores` but "ece", which resampling raises by an amount that is not the
            same for both.
        resamples: How often the groups are drawn, at least 1.
        seed: Of the drawing.
        confidence: Share of the resamples inside the interval, 0 to 1.

    Returns:
        `value`, score of `p` minus score of `q`; `low` and `high`, the percentile interval over
        resampled groups, in each of which both classifiers meet the same images; `p`, the two-sided
        p-value. NaN where the score cannot be measured.

    Raises:
        ValueError: Shapes or values do not fit (see `bootstrap`), or the score is not one of these.

    Example:
        >>> y = [0, 1, 2]
        >>> right, wrong = np.eye(3)[y], np.eye(3)[[1, 2, 0]]
        >>> found = paired_difference(y, right, wrong, groups=y, score="accuracy", resamples=19)
        >>> found["value"], found["low"], found["p"]  # 2 / (19 + 1)
        (1.0, 1.0, 0.1)
    """
    y, first = _checked(labels, p)
    _, second = _checked(labels, q)
    weights = multiplicities(np.asarray(groups), len(y), resamples, seed)
    drawn, value = (_difference(y, first, second, w, score) for w in (weights, _ones(y)))
    tail = (1 - confidence) / 2
    low, high = interval_ends(drawn, tail, 1 - tail)
    return {"value": float(value[0]), "low": low, "high": high, "p": two_sided(drawn)}


def mcnemar(labels: npt.ArrayLike, a: npt.ArrayLike, b: npt.ArrayLike) -> dict[str, float]:
    """Exact McNemar test of two classifiers' answers (McNemar 1947).

    If both are equally good, each image that one alone has right is a fair coin's toss. The test
    takes images for independent: with several of a patient, p is often too small.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        a: Classes that the first one predicts, shape (n,).
        b: Classes that the second one predicts, shape (n,).

    Returns:
        `only_a` and `only_b`, how many images that one alone has right, and `p`, their two-sided
        binomial probability (1 without any such image).

    Raises:
        ValueError: A class is not 0, 1 or 2, there is no image, or the three differ in length.

    Example:
        >>> mcnemar([0, 1, 2], a=[0, 1, 2], b=[0, 0, 0])  # two tosses, both to a: 2 * 1/4
        {'only_a': 2, 'only_b': 0, 'p': 0.5}
    """
    y = _checked_labels(labels)
    answers = _checked_labels(a, "a"), _checked_labels(b, "b")
    for each in answers:
        _same_length(answers=each, labels=y)
    right = [each == y for each in answers]
    only_a, only_b = int(np.sum(right[0] & ~right[1])), int(np.sum(~right[0] & right[1]))
    tosses = only_a + only_b
    p = float(binomtest(only_a, tosses).pvalue) if tosses else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}


def holm(p_values: npt.ArrayLike) -> Floats:
    """P-values adjusted for being many (Holm 1979).

    Rejecting where the adjusted value is at most 0.05 keeps the probability of even one false
    alarm at 5 % or less, however the tests depend on each other.

    Args:
        p_values: Of all the tests that were made, 0 to 1, shape (m,). NaN is not counted.

    Returns:
        Adjusted p-values in the given order, each at most 1, shape (m,). NaN stays NaN.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()  # 3 * 0.01, 2 * 0.03, and not below that before it
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def wilson(
    successes: float, n: float, confidence: float = 0.95, effect: float = 1.0
) -> tuple[float, float]:
    """Interval of a share (Wilson 1927).

    Args:
        successes: How many of the images have the property, 0 to n.
        n: How many images there are.
        confidence: That the interval is made for, 0 to 1.
        effect: What `design_effect` gives, at least 1. The images count as so many times fewer
            (Rao & Scott 1992).

    Returns:
        The lower and the upper end, 0 to 1; NaN for n = 0.

    Example:
        >>> low, high = wilson(0, 10)
        >>> low, round(high, 3)  # 1.96^2 / (10 + 1.96^2)
        (0.0, 0.278)
    """
    if n == 0:
        return np.nan, np.nan
    share, count, z2 = successes / n, n / effect, float(norm.ppf((1 + confidence) / 2)) ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * share * (1 - share) / count + (z2 / (2 * count)) ** 2) / (1 + z2 / count)
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def design_effect(influence: npt.ArrayLike, groups: npt.ArrayLike) -> float:
    """How many times as large a variance is because the images of a group go together (Kish 1965).

    Args:
        influence: What each image adds to the statistic, its mean taken off, shape (n,). For a
            share: right (1) or wrong (0) less the share.
        groups: Patient or duplicate family of each image, shape (n,).

    Returns:
        The factor, at least 1. Where nothing varies it is the mean size of a group, and of one
        group alone n: then each group counts as one image.

    Example:
        >>> design_effect([0.5, 0.5, -0.5, -0.5], [0, 0, 1, 1])
        3.0
        >>> design_effect([0.0, 0.0, 0.0, 0.0], [0, 0, 1, 1])
        2.0
    """
    z = np.asarray(influence, dtype=float)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    n, k = len(z), int(member.max()) + 1
    if k < 2 or not (z**2).sum() > 1e-18:
        return n / k
    sums = np.bincount(member, z)
    return max(1.0, float((sums @ sums) / (z @ z) * (k / (k - 1)) / (n / (n - 1))))


def temperature(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """The temperature of `tempered` with the lowest log loss (Guo et al. 2017).

    Call it on validation.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        probabilities: Rows that sum to 1, shape (n, 3).

    Returns:
        The temperature, 0.05 to 20. Above 1 the probabilities were too sure of themselves, below 1
        too shy. Exactly an end of `TEMPERATURES` where the loss still falls there, as when every
        answer is right: then no temperature fits. Exactly 1 where no other is better, as for
        probabilities that are all equal.

    Raises:
        ValueError: Shapes or values do not fit (see `scores`), or the search does not end.

    Example:
        >>> temperature([0, 1], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])  # all right
        0.05
    """
    y, p = _checked(labels, probabilities)

    def loss(t: float) -> float:
        given = tempered(p, t)[np.arange(len(y)), y]
        return float(-np.log(np.maximum(given, SMALLEST)).mean())

    found = minimize_scalar(
        lambda log_t: loss(np.exp(log_t)), bounds=np.log(TEMPERATURES), method="bounded"
    )
    if not found.success:
        raise ValueError(f"temperature: expected a lowest log loss, found none: {found.message}")
    return min((1.0, *TEMPERATURES, float(np.exp(found.x))), key=loss)  # the first of equals


def tempered(probabilities: npt.ArrayLike, t: float) -> Floats:
    """Probabilities to the power 1 / t, normalised: the softmax of the logits over t.

    Args:
        probabilities: Rows that sum to 1, shape (n, 3).
        t: Temperature, above 0.

    Returns:
        Rows that sum to 1, shape (n, 3).

    Raises:
        ValueError: The temperature is not above 0.

    Example:
        >>> tempered([[0.2, 0.4, 0.4]], t=0.5).round(3).tolist()  # squares 1 : 4 : 4
        [[0.111, 0.444, 0.444]]
    """
    if not t > 0:
        raise ValueError(f"temperature: expected a number above 0, found {t}")
    p = np.asarray(probabilities, dtype=float)
    return np.asarray(softmax(np.log(np.maximum(p, SMALLEST)) / t, axis=1))


def risk_coverage(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> pd.DataFrame:
    """What is left of the errors if only sure answers are given (Geifman & El-Yaniv 2017).

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        probabilities: Rows that sum to 1, shape (n, 3).

    Returns:
        One row for each distinct top probability, from the surest down. `coverage` is the share of
        the images with at least that `threshold`, 0 to 1, and `risk` the share of errors among
        them.

    Raises:
        ValueError: Shapes or values do not fit (see `scores`).

    Example:
        >>> table = risk_coverage([0, 0], [[0.9, 0.1, 0.0], [0.3, 0.7, 0.0]])
        >>> table["risk"].tolist(), table["coverage"].tolist()  # the surer answer is right
        ([0.0, 0.5], [0.5, 1.0])
    """
    y, p = _checked(labels, probabilities)
    top, wrong = p.max(axis=1), (p.argmax(axis=1) != y).astype(float)
    order = np.argsort(-top, kind="stable")
    counts, errors = np.arange(1, len(y) + 1), np.cumsum(wrong[order])
    last = np.flatnonzero(np.diff(top[order], append=-np.inf))  # of the images that are tied
    return pd.DataFrame(
        {
            "coverage": counts[last] / len(y),
            "risk": errors[last] / counts[last],
            "threshold": top[order][last],
        }
    )


def risk_coverage_area(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> float:
    """Area under `risk_coverage`: mean risk over the image counts.

    A classifier whose confidence says nothing has its error rate here.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        probabilities: Rows that sum to 1, shape (n, 3).

    Returns:
        The area, 0 to 1; lower is better.

    Raises:
        ValueError: Shapes or values do not fit (see `scores`).

    Example:
        >>> risk_coverage_area([0, 0], [[0.9, 0.1, 0.0], [0.3, 0.7, 0.0]])  # mean of 0 and 1/2
        0.25
    """
    table = risk_coverage(labels, probabilities)
    return float(table["risk"] @ np.diff(table["coverage"], prepend=0.0))


def expected_cost(
    labels: npt.ArrayLike, predicted: npt.ArrayLike, cost: npt.ArrayLike = ORDINAL_COST
) -> float:
    """Mean cost of the answers.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        predicted: Predicted classes, integers 0 to 2, shape (n,).
        cost: Shape (3, 3), rows true and columns predicted. By default the absolute distance of the
            classes, `ORDINAL_COST`: a Normal predicted as Osteoporosis costs 2, a neighbour 1, a
            right answer 0.

    Returns:
        The cost of an answer, in the unit of `cost`.

    Raises:
        ValueError: The cost has another shape, a class is not 0, 1 or 2, there is no image, or the
            lengths differ.

    Example:
        >>> expected_cost([0, 1, 2, 2], [0, 1, 2, 0])
        0.5
    """
    price = np.asarray(cost, dtype=float)
    if price.shape != (_CLASSES, _CLASSES):
        raise ValueError(f"cost: expected shape {(_CLASSES, _CLASSES)}, found {price.shape}")
    matrix = confusion(labels, predicted)
    return float((matrix * price).sum() / matrix.sum())


def _difference(y: npt.NDArray[np.int64], p: Floats, q: Floats, w: Floats, score: str) -> Floats:
    found = [weighted_scores(y, each, w) for each in (p, q)]
    known_name("score", score, [name for name in found[0] if name != "ece"])
    return np.asarray(found[0][score] - found[1][score])


def two_sided(drawn: Floats) -> float:
    """Two-sided p-value of a difference from its resamples, as `paired_difference` gives it.

    Args:
        drawn: The difference in each resample, shape (resamples,). What is not finite is left out.

    Returns:
        The p-value, 0 to 1; NaN where no resample is finite.

    Example:
        >>> two_sided(np.array([-1.0, 1.0, 1.0]))  # twice (1 + 1) / (3 + 1)
        1.0
    """
    known = drawn[np.isfinite(drawn)]
    if known.size == 0:
        return np.nan
    below, above = np.sum(known <= 0), np.sum(known >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (known.size + 1)))


def weighted_scores(y: npt.NDArray[np.int64], p: Floats, weights: Floats) -> dict[str, Floats]:
    """The scores of `scores` for each resample at once.

    Args:
        y: True classes, integers 0 to 2, shape (n,).
        p: Rows that sum to 1, shape (n, 3).
        weights: How often each image counts in each resample, shape (resamples, n).

    Returns:
        Values by the name of the score, each of shape (resamples,).

    Example:
        >>> y, p = np.array([0, 1, 2]), np.eye(3)[[0, 1, 1]]
        >>> weighted_scores(y, p, np.array([[1.0, 1, 1], [1, 3, 0]]))["accuracy"].round(2).tolist()
        [0.67, 1.0]
    """
    cells = y * _CLASSES + p.argmax(axis=1)
    matrices = (weights @ np.eye(_CLASSES**2)[cells]).reshape(-1, _CLASSES, _CLASSES)
    total = weights.sum(axis=1)
    _, confidence, right = _bin_sums(y, p, weights, ECE_BINS)
    return {
        **_matrix_scores(matrices),
        "auc_macro": np.mean([_auc(y == c, p[:, c], weights) for c in range(_CLASSES)], axis=0),
        "brier": weights @ np.square(p - np.eye(_CLASSES)[y]).sum(axis=1) / total,
        "ece": np.abs(confidence - right).sum(axis=1) / total,
    }


def _matrix_scores(matrices: Floats) -> dict[str, Floats]:
    """The scores that a confusion matrix determines; `matrices` has shape (resamples, 3, 3)."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    true, called = matrices.sum(axis=2), matrices.sum(axis=1)
    total = true.sum(axis=1, keepdims=True)
    present = np.where(true > 0, 1.0, np.nan)
    by_class = {
        "precision": present * np.nan_to_num(ratio(hits, called)),
        "recall": ratio(hits, true),
        "f1": present * ratio(2 * hits, true + called),
    }
    specificity = present * ratio(total - true - called + hits, total - true)
    result = {"accuracy": hits.sum(axis=1) / total[:, 0]}
    result["balanced_accuracy"] = by_class["recall"].mean(axis=1)
    for name, values in by_class.items():
        result[f"{name}_macro"] = values.mean(axis=1)
        result[f"{name}_weighted"] = np.nansum(values * true, axis=1) / total[:, 0]
        result |= _named(name, values)
    result["specificity_macro"] = specificity.mean(axis=1)
    return result | _named("specificity", specificity) | {"kappa_quadratic": _kappa(matrices)}


def _named(score: str, values: Floats) -> dict[str, Floats]:
    return {f"{score}_{name.lower()}": values[:, i] for i, name in enumerate(CLASS_NAMES)}


def _kappa(matrices: Floats) -> Floats:
    steps = np.arange(_CLASSES)
    cost = np.square(steps[:, None] - steps).astype(float)
    expected = np.einsum("ri,rj,ij->r", matrices.sum(axis=2), matrices.sum(axis=1), cost)
    observed = np.einsum("rij,ij->r", matrices, cost) * matrices.sum(axis=(1, 2))
    return 1 - ratio(observed, expected)


def _auc(positive: npt.NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve of each resample: P(positive scores higher), ties count half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    up = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    return ratio((up * below).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))


def _bin_sums(
    y: npt.NDArray[np.int64], p: Floats, weights: Floats, bins: int
) -> tuple[Floats, Floats, Floats]:
    """Weight, summed confidence and summed hits of each bin, each of shape (resamples, bins)."""
    top = p.max(axis=1)
    member = _bins(top, bins)
    right = (p.argmax(axis=1) == y).astype(float)
    return weights @ member, weights @ (member * top[:, None]), weights @ (member * right[:, None])


def _bins(top: Floats, bins: int) -> Floats:
    """1 in the column of the bin (of equal width, with its upper edge) of each top probability."""
    return np.asarray(np.eye(bins)[np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)])


def multiplicities(groups: npt.NDArray[Any], n: int, resamples: int, seed: int) -> Floats:
    """How often each image is in each resample of whole groups.

    Args:
        groups: Patient or duplicate family of each image, shape (n,).
        n: How many images there are.
        resamples: How often the groups are drawn, at least 1.
        seed: Of the drawing.

    Returns:
        Whole numbers, shape (resamples, n). As many groups are drawn as there are.

    Raises:
        ValueError: There is not one group for each image, or there is no resample.

    Example:
        >>> drawn = multiplicities(np.array(["a", "a", "b"]), 3, resamples=5, seed=0)
        >>> set((drawn[:, 1] + drawn[:, 2]).tolist()), bool((drawn[:, 0] == drawn[:, 1]).all())
        ({2.0}, True)
    """
    if groups.shape != (n,):
        raise ValueError(f"groups: expected one for each of {n} images, found shape {groups.shape}")
    check_count("resamples", resamples)
    _, member = np.unique(groups, return_inverse=True)
    k = int(member.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=resamples)
    return np.asarray(drawn[:, member], dtype=float)


def interval_ends(values: Floats, low: float, high: float) -> tuple[float, float]:
    """Two quantiles of the values that are finite.

    Args:
        values: A score in each resample, any shape.
        low: Quantile of the lower end, 0 to 1.
        high: Quantile of the upper end, 0 to 1.

    Returns:
        The lower and the upper end; NaN if no value is finite.

    Example:
        >>> interval_ends(np.array([0.0, 1.0, np.nan, 2.0]), 0.0, 0.5)
        (0.0, 1.0)
    """
    known = values[np.isfinite(values)]
    if known.size == 0:
        return np.nan, np.nan
    return float(np.quantile(known, low)), float(np.quantile(known, high))


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Floats:
    """Quotient of two arrays that broadcast.

    Args:
        above: The numerator, any shape.
        below: The denominator, a shape that broadcasts with it.

    Returns:
        The quotient, in the shape of both; NaN where the denominator is not above 0.

    Example:
        >>> ratio([1, 1], [2, 0]).tolist()
        [0.5, nan]
    """
    above, below = np.broadcast_arrays(above, below)
    out = np.full(above.shape, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def _ones(y: npt.NDArray[np.int64]) -> Floats:
    return np.ones((1, len(y)))


def _checked(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], Floats]:
    y, p = _checked_labels(labels), np.asarray(probabilities, dtype=float)
    if p.ndim != 2 or p.shape[1] != _CLASSES:
        raise ValueError(f"probabilities: expected shape (n, {_CLASSES}), found {p.shape}")
    _same_length(probabilities=p, labels=y)
    wrong = ~(
        np.isfinite(p).all(axis=1) & (p >= 0).all(axis=1) & np.isclose(p.sum(axis=1), 1, atol=1e-3)
    )
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"probabilities: expected non-negative numbers that sum to 1, found {p[row]} in "
            f"row {row}; pass the softmax output, not logits"
        )
    return y, p


def _checked_labels(labels: npt.ArrayLike, name: str = "labels") -> npt.NDArray[np.int64]:
    y = np.asarray(labels)
    if y.ndim != 1 or y.size == 0:
        raise ValueError(
            f"{name}: expected a non-empty list of class indices, found shape {y.shape}"
        )
    if not np.isin(y, range(_CLASSES)).all():
        odd: Sequence[Any] = y[~np.isin(y, range(_CLASSES))][:3].tolist()
        raise ValueError(f"{name}: expected 0, 1 or 2 ({', '.join(CLASS_NAMES)}), found {odd}")
    return y.astype(np.int64)


def _same_length(**arrays: npt.NDArray[Any]) -> None:
    (name, first), (other, second) = arrays.items()
    if len(first) != len(second):
        raise ValueError(
            f"{name}: expected as many rows as {other} ({len(second)}), found {len(first)}"
        )


def number(value: float | None) -> float:
    """A score as read from a run.

    Args:
        value: The score; None where it could not be measured.

    Returns:
        The score; NaN where it could not be measured.

    Example:
        >>> number(None)
        nan
    """
    return math.nan if value is None else float(value)


def with_interval(score: Mapping[str, float | None], sign: str = "") -> str:
    """A score and its interval in words.

    Args:
        score: Keys value, low and high; None or NaN where it could not be measured.
        sign: "+" gives positive numbers theirs, as differences should have it.

    Returns:
        The words, with two decimals, or that the score could not be measured.

    Example:
        >>> with_interval({"value": 0.82, "low": 0.75, "high": 0.88})
        '0.82 (0.75 to 0.88)'
        >>> with_interval({"value": None, "low": None, "high": None})
        'not measurable'
    """
    value, interval = number(score["value"]), interval_text(score, sign)
    return "not measurable" if math.isnan(value) else f"{value:{sign}.2f} ({interval})"


def beside_calibrated(ece: Mapping[str, Any], calibrated: Mapping[str, Any]) -> str:
    """A calibration error in words, beside the range that a calibrated classifier has.

    Args:
        ece: Row "ece" of `bootstrap`, key value.
        calibrated: Row `IF_CALIBRATED` of `bootstrap`, keys low and high.

    Returns:
        The words, with two decimals.

    Example:
        >>> beside_calibrated({"value": 0.06}, {"low": 0.03, "high": 0.08})
        '0.06 (if calibrated: 0.03 to 0.08)'
    """
    return f"{number(ece['value']):.2f} (if calibrated: {interval_text(calibrated)})"


def interval_text(score: Mapping[str, float | None], sign: str = "") -> str:
    """An interval in words.

    Args:
        score: Keys low and high; None or NaN where there is no interval.
        sign: "+" gives positive numbers theirs, as differences should have it.

    Returns:
        The words, with two decimals, or that there is no interval.

    Example:
        >>> interval_text({"low": 0.75, "high": 0.88})
        '0.75 to 0.88'
        >>> interval_text({"low": None, "high": None})
        'no interval'
    """
    low, high = number(score["low"]), number(score["high"])
    return "no interval" if math.isnan(low + high) else f"{low:{sign}.2f} to {high:{sign}.2f}"
