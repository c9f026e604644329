"""Scores of a three-class classifier, each with an interval by bootstrap over groups.

All scores are computed by one weighted, vectorised function: a bootstrap resample is a vector of
multiplicities (how often each image was drawn), so a thousand resamples are one matrix product and
no loop. What cannot be measured is NaN and never 0: a class without a single image has no recall,
precision, F1, specificity or AUC, and so neither have the means over classes.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from osteo_utils.labels import CLASS_NAMES

Floats = npt.NDArray[np.float64]

ECE_BINS: Final = 10
_CLASSES: Final = len(CLASS_NAMES)


def scores(labels: npt.ArrayLike, probabilities: npt.ArrayLike) -> dict[str, float]:
    """Every score of `probabilities`, shape (n, 3), against `labels`, shape (n,), by name.

    `accuracy`, `balanced_accuracy` (mean recall), `precision_`, `recall_`, `f1_` of `macro`,
    `weighted` and each class (`precision_normal`), `specificity_` of each class and `macro`,
    `kappa_quadratic` (Cohen 1968: an error of two classes weighs four times one of one class),
    `auc_macro` (mean of one class against the rest), `brier` (sum over classes of the squared
    error, 0 to 2: Brier 1950; half of it is what some programs print for two classes) and `ece`
    (top-label expected calibration error in 10 equal-width bins, Guo et al. 2017).
    A precision without any prediction of that class is 0, as in scikit-learn.
    """
    y, p = _checked(labels, probabilities)
    return {name: float(value[0]) for name, value in _weighted_scores(y, p, _ones(y)).items()}


def bootstrap(
    labels: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    groups: npt.ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Value and percentile interval of every score; rows are scores, columns value, low, high.

    Whole groups (patients, duplicate families) are drawn with replacement, since the images of
    one patient are not independent (Field & Welsh 2007). A resample in which a score cannot be
    measured is left out for that score alone. Works in a second or two for 1,000 resamples of a
    few hundred images.
    """
    y, p = _checked(labels, probabilities)
    weights = _multiplicities(np.asarray(groups), len(y), resamples, seed)
    drawn = _weighted_scores(y, p, weights)
    tail = (1 - confidence) / 2
    rows = {
        name: (value, *_quantiles(drawn[name], tail, 1 - tail))
        for name, value in scores(y, p).items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])
    return table.rename_axis("score")


def confusion(labels: npt.ArrayLike, predicted: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Confusion matrix of class indices, shape (3, 3): rows are true, columns predicted."""
    y, z = _checked_labels(labels), _checked_labels(predicted, "predicted")
    _same_length(predicted=z, labels=y)
    return np.bincount(y * _CLASSES + z, minlength=_CLASSES**2).reshape(_CLASSES, _CLASSES)


def reliability(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = ECE_BINS
) -> pd.DataFrame:
    """Confidence against accuracy in equal-width bins of the top probability.

    One row a bin: `low`, `high` (edges), `count`, `confidence` and `accuracy` (means over the
    images of the bin, NaN where it is empty).
    """
    y, p = _checked(labels, probabilities)
    count, confidence, right = (a[0] for a in _bin_sums(y, p, _ones(y), bins))
    edges = np.linspace(0, 1, bins + 1)
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": count.astype(int),
            "confidence": _ratio(confidence, count),
            "accuracy": _ratio(right, count),
        }
    )


def _weighted_scores(y: npt.NDArray[np.int64], p: Floats, weights: Floats) -> dict[str, Floats]:
    """Scores for each row of `weights`, shape (resamples, n); values have shape (resamples,)."""
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
        "precision": present * np.nan_to_num(_ratio(hits, called)),
        "recall": _ratio(hits, true),
        "f1": present * _ratio(2 * hits, true + called),
    }
    specificity = present * _ratio(total - true - called + hits, total - true)
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
    return 1 - _ratio(observed, expected)


def _auc(positive: npt.NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """Area under the ROC curve of each resample: P(positive scores higher), ties count half."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))
    up = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    return _ratio((up * below).sum(axis=1), up.sum(axis=1) * down.sum(axis=1))


def _bin_sums(
    y: npt.NDArray[np.int64], p: Floats, weights: Floats, bins: int
) -> tuple[Floats, Floats, Floats]:
    """Weight, summed confidence and summed hits of each bin, each of shape (resamples, bins)."""
    top = p.max(axis=1)
    member = np.eye(bins)[np.clip(np.ceil(top * bins).astype(int) - 1, 0, bins - 1)]
    right = (p.argmax(axis=1) == y).astype(float)
    return weights @ member, weights @ (member * top[:, None]), weights @ (member * right[:, None])


def _multiplicities(groups: npt.NDArray[Any], n: int, resamples: int, seed: int) -> Floats:
    if groups.shape != (n,):
        raise ValueError(f"groups: expected one for each of {n} images, found shape {groups.shape}")
    if resamples < 1:
        raise ValueError(f"resamples: expected at least 1, found {resamples}")
    _, member = np.unique(groups, return_inverse=True)
    k = int(member.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=resamples)
    return np.asarray(drawn[:, member], dtype=float)


def _quantiles(values: Floats, low: float, high: float) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if known.size == 0:
        return np.nan, np.nan
    return float(np.quantile(known, low)), float(np.quantile(known, high))


def _ratio(above: Floats, below: Floats) -> Floats:
    """Quotient; NaN where the denominator is 0."""
    out = np.full(np.shape(above), np.nan)
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
