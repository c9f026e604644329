"""Decision-level fusion: members are finished runs, and only their probabilities are combined.

Nothing is trained again: all there is to know about a member stands in its `predictions.csv`.
What has to be chosen (weights, a stacking model) is chosen on the validation part; the test part
is only ever predicted. `members` is everywhere a list of (n, 3) arrays of probabilities of the
same n images, classes in the order of `CLASS_NAMES`.
"""

from __future__ import annotations  # the reference shows types as they are written here

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS, Run, RunError, probabilities
from osteo_utils.scoring.evaluate import SMALLEST

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Members = Sequence[Floats] | Floats
How = Literal["soft", "weighted", "stacked", "majority"]

HOW: Final[tuple[How, ...]] = ("soft", "weighted", "stacked", "majority")

# In the order of data/published_summary.csv; names as in `registry.ARCHITECTURES`.
PAIRS: Final = (
    ("vgg16", "vgg19"),
    ("inception_v3", "xception"),
    ("resnet50", "densenet121"),
    ("alexnet", "mobilenet_v2"),
    ("inception_v3", "densenet121"),
    ("xception", "densenet121"),
    ("mobilenet_v2", "xception"),
    ("inception_v3", "mobilenet_v2"),
    ("custom_cnn", "densenet121"),
)

_TIE_BREAK: Final = 1e-6  # of a vote
_STRENGTHS: Final = (1e-3, 1e-2, 1e-1, 1.0)  # inverse regularisation, strongest first
_FOLDS: Final = 5


class Aligned(NamedTuple):
    """One part of several runs, row by row the same images.

    Attributes:
        labels: True classes, integers 0 to 2, shape (n,).
        groups: Patient or duplicate family of each image, shape (n,).
        paths: Of the images, below the corpus folder, shape (n,).
        members: Probabilities of each run, shape (n, 3) each.
    """

    labels: Ints
    groups: npt.NDArray[Any]
    paths: npt.NDArray[Any]
    members: list[Floats]


def published_key(name: str) -> str:
    """What remains of a model's name, title or published name.

    Lower case, without spaces and underscores; so it is the same for a row of
    `data/published_summary.csv`, for the title in the registry and for a pair joined by "+".

    Args:
        name: Such as "VGG 16 + VGG 19".

    Returns:
        Its letters, digits and "+".

    Example:
        >>> published_key("VGG 16 + VGG 19"), published_key("custom_cnn")
        ('vgg16+vgg19', 'customcnn')
    """
    return "".join(c for c in name.casefold() if c.isalnum() or c == "+")


def aligned(runs: Sequence[Run], part: str) -> Aligned:
    """What every run says of one part, checked to fit together.

    Args:
        runs: Finished runs, one or more.
        part: "validation" or "test".

    Returns:
        Labels, groups, paths and the probabilities of every run.

    Raises:
        RunError: There is no run, or the runs were made on different splits, with different class
            orders, or hold other images, labels or groups (or the same in another order) than the
            first. Or the part has no image.
    """
    if not runs:
        raise RunError("ensemble", "at least one run", "none", "Train a model first.")
    tables = [run.predictions[run.predictions["part"] == part] for run in runs]
    for run, table in zip(runs, tables, strict=True):
        _check_same(runs[0], run, tables[0], table, part)
    first = tables[0]
    return Aligned(
        first["label"].to_numpy(dtype=np.int64),
        first["group"].to_numpy(),
        first["path"].to_numpy(),
        [probabilities(table) for table in tables],
    )


def soft_vote(members: Members, weights: npt.ArrayLike | None = None) -> Floats:
    """Weighted mean of the members' probabilities.

    Args:
        members: Probabilities of each member, shape (n, 3) each.
        weights: One for each of the m members, non-negative, with sum 1. Equal ones if none are
            given.

    Returns:
        Rows that sum to 1, shape (n, 3).

    Raises:
        ValueError: The weights are not such, the members differ in shape, or there are none.

    Example:
        >>> members = [np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 0.0, 0.0]])]
        >>> soft_vote(members).tolist(), soft_vote(members, [0.0, 1.0]).tolist()
        ([[0.75, 0.25, 0.0]], [[1.0, 0.0, 0.0]])
    """
    p = _stacked(members)
    if weights is None:
        return np.asarray(p.mean(axis=0))
    w = np.asarray(weights, dtype=float)
    if w.shape != (len(p),) or (w < 0).any() or not np.isclose(w.sum(), 1, atol=1e-6):
        raise ValueError(
            f"weights: expected {len(p)} non-negative numbers that sum to 1, found {w.tolist()}"
        )
    return np.asarray(np.tensordot(w, p, axes=1))


def majority_vote(members: Members) -> Floats:
    """Share of the members that answer each class.

    A tie, frequent with two members, goes to the class with the larger mean probability: the soft
    vote counts as a millionth of a voter.

    Args:
        members: Probabilities of each member, shape (n, 3) each.

    Returns:
        Rows that sum to 1, shape (n, 3).

    Raises:
        ValueError: The members differ in shape, or there are none.

    Example:
        >>> members = np.array([[[0.6, 0.4, 0]], [[0.6, 0.4, 0]], [[0, 1.0, 0]]])
        >>> majority_vote(members).round(2).tolist()  # the soft vote would be the other class
        [[0.67, 0.33, 0.0]]
    """
    p = _stacked(members)
    votes = np.eye(len(CLASS_NAMES))[p.argmax(axis=2)].sum(axis=0)
    return np.asarray((votes + _TIE_BREAK * p.mean(axis=0)) / (len(p) + _TIE_BREAK))


def choose_weights(labels: npt.ArrayLike, members: Members) -> Floats:
    """The weights of a soft vote with the lowest log loss on these images.

    Call it on validation. The loss is convex in the weights, so there is one best value, found by
    sequential quadratic programming from equal weights; members that answer alike share theirs.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        members: Probabilities of each of the m members, shape (n, 3) each.

    Returns:
        Non-negative numbers with sum 1, shape (m,). A member without use gets 0.

    Raises:
        ValueError: The search does not end, the members differ in shape, or there are none.

    Example:
        >>> right, unsure = np.eye(3)[[0, 1, 2]], np.full((3, 3), 1 / 3)
        >>> choose_weights([0, 1, 2], [right, unsure]).round(3).tolist()
        [1.0, 0.0]
    """
    y, p = np.asarray(labels, dtype=np.int64), _stacked(members)
    given = np.maximum(p[:, np.arange(len(y)), y], SMALLEST)  # to the true class, (m, n)
    found = minimize(
        lambda w: -np.log(w @ given).mean(),
        np.full(len(p), 1 / len(p)),
        jac=lambda w: -(given / (w @ given)).mean(axis=1),
        bounds=[(0, 1)] * len(p),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    if not found.success:
        raise ValueError(f"weights: expected a lowest log loss, found none: {found.message}")
    w = np.clip(found.x, 0, None).round(6)
    return np.asarray(w / w.sum())


@dataclass(frozen=True)
class Stacking:
    """A fitted second-level model.

    Attributes:
        model: A scikit-learn pipeline of scaling and logistic regression.
        strength: The inverse regularisation that the inner cross-validation chose.
    """

    model: Any
    strength: float

    def predict_proba(self, members: Members) -> Floats:
        """Probabilities of the images.

        Args:
            members: Probabilities of each member, shape (n, 3) each, in the order of the fit.

        Returns:
            Rows that sum to 1, shape (n, 3); a class that no image of the fit had gets 0.

        Raises:
            ValueError: The members differ in shape, or are not as many as in the fit.
        """
        out = np.zeros((_stacked(members).shape[1], len(CLASS_NAMES)))
        out[:, self.model.classes_] = self.model.predict_proba(_log_probabilities(members))
        return out


def fit_stacking(
    labels: npt.ArrayLike, members: Members, groups: npt.ArrayLike | None = None
) -> Stacking:
    """Stacked generalisation: logistic regression on the members' log-probabilities (Wolpert 1992).

    Call it on validation. Classes count the same, as in the training of the members. The strength
    of the penalty is chosen by the log loss in a cross-validation that keeps groups together; in
    doubt the strongest.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        members: Probabilities of each member, shape (n, 3) each.
        groups: Patient or duplicate family of each image, shape (n,); each image by itself if none
            are given.

    Returns:
        The fitted model.

    Raises:
        ValueError: Fewer than two classes are present, the members differ in shape, or there are
            none.
    """
    y, x = np.asarray(labels, dtype=np.int64), _log_probabilities(members)
    g = np.arange(len(y)) if groups is None else np.asarray(groups)
    if len(np.unique(y)) < 2:
        raise ValueError(f"stacking: expected images of two classes or more, found {np.unique(y)}")
    folds = [(fit, held) for fit, held in _folds(y, g) if len(np.unique(y[fit])) > 1]
    losses = [sum(_held_loss(c, x, y, *fold) for fold in folds) for c in _STRENGTHS]
    best = _STRENGTHS[int(np.argmin(losses))]
    return Stacking(_second_level(best).fit(x, y), best)


def fit_combiner(
    how: How, labels: npt.ArrayLike, members: Members, groups: npt.ArrayLike | None = None
) -> Callable[[Members], Floats]:
    """A function from members to probabilities, with all its choices made on these images.

    Args:
        how: "soft", "majority" (both choose nothing), "weighted" or "stacked".
        labels: True classes, integers 0 to 2, shape (n,).
        members: Probabilities of each member, shape (n, 3) each.
        groups: Patient or duplicate family of each image, shape (n,), for "stacked".

    Returns:
        A function of a list of members, shape (m, 3) each, that returns rows that sum to 1, (m, 3).

    Raises:
        ValueError: `how` is none of these, or its choice fails (see `choose_weights`,
            `fit_stacking`).

    Example:
        >>> members = [np.array([[0.5, 0.5, 0.0]]), np.array([[1.0, 0.0, 0.0]])]
        >>> fit_combiner("soft", [0], members)(members).tolist()
        [[0.75, 0.25, 0.0]]
    """
    if how == "weighted":
        return partial(soft_vote, weights=choose_weights(labels, members))
    if how == "stacked":
        return fit_stacking(labels, members, groups).predict_proba
    if how not in HOW:
        raise ValueError(f"how: expected one of {', '.join(HOW)}, found {how!r}")
    return soft_vote if how == "soft" else majority_vote


def ensemble_predictions(runs: Sequence[Run], how: How = "soft") -> pd.DataFrame:
    """Predictions of an ensemble in the form of `predictions.csv`.

    Test is predicted by the combiner fitted on all of validation. Each validation row is predicted
    by one fitted without its fold of groups, so that ensembles can be compared on validation
    without those that choose more looking better for it.

    Args:
        runs: Finished runs of one split, one or more.
        how: As in `fit_combiner`.

    Returns:
        Validation rows, then test rows, columns path, group, part, label and a probability of each
        class.

    Raises:
        RunError: The runs do not fit together (see `aligned`), or validation is too small to hold a
            fold out.
        ValueError: As `fit_combiner` raises it.
    """
    known, unseen = aligned(runs, "validation"), aligned(runs, "test")
    combine = fit_combiner(how, known.labels, known.members, known.groups)
    held_out = _cross_fitted(how, known)
    parts = {"validation": (known, held_out), "test": (unseen, combine(unseen.members))}
    return pd.concat([_rows(name, *each) for name, each in parts.items()], ignore_index=True)


def diversity(labels: npt.ArrayLike, a: Floats, b: Floats) -> dict[str, float]:
    """How differently two members err.

    From right and wrong answers (Kuncheva & Whitaker 2003, 4): `disagreement`, `double_fault`,
    `q_statistic` and `correlation`. From the probabilities (Tumer & Ghosh 1996):
    `error_correlation`; since the label is not the true probability, some of it is noise that all
    members share.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        a: Probabilities of the first member, shape (n, 3).
        b: Probabilities of the second member, shape (n, 3).

    Returns:
        The measures by name. NaN where one is not defined, as with a member that is always right.

        - `disagreement`: share of the images on which exactly one is right, 0 to 1.
        - `double_fault`: share of the images on which both are wrong, 0 to 1.
        - `q_statistic` (Yule's Q) and `correlation` of being right, -1 to 1, 0 for independent
          members.
        - `error_correlation`: correlation over the images of p minus the label's indicator, mean of
          the classes weighted by how common they are, -1 to 1.

    Example:
        >>> a, b = np.eye(3)[[0, 1, 0, 0]], np.eye(3)[[0, 0, 2, 0]]  # right, right, wrong, wrong
        >>> found = diversity([0, 1, 2, 2], a, b)  # b: right, wrong, right, wrong
        >>> found["disagreement"], found["double_fault"], found["q_statistic"]
        (0.5, 0.25, 0.0)
    """
    y = np.asarray(labels, dtype=np.int64)
    right_a, right_b = a.argmax(axis=1) == y, b.argmax(axis=1) == y
    both, neither = np.sum(right_a & right_b), np.sum(~right_a & ~right_b)
    only_a, only_b = np.sum(right_a & ~right_b), np.sum(~right_a & right_b)
    concordant, discordant = float(both * neither), float(only_a * only_b)
    return {
        "disagreement": float(only_a + only_b) / len(y),
        "double_fault": float(neither) / len(y),
        "q_statistic": _quotient(concordant - discordant, concordant + discordant),
        "correlation": _pearson(right_a.astype(float), right_b.astype(float)),
        "error_correlation": _error_correlation(y, a, b),
    }


def _check_same(
    first: Run, other: Run, rows: pd.DataFrame, other_rows: pd.DataFrame, part: str
) -> None:
    for key, meaning in (("split_hash", "split"), ("class_names", "class order")):
        if first.info[key] != other.info[key]:
            expected = f"the {meaning} of {first.folder} ({first.info[key]})"
            remedy = "Members of an ensemble come from one split: train again what differs."
            raise RunError(other.folder, expected, other.info[key], remedy)
    columns = ["path", "label", "group"]
    if rows.empty or rows[columns].to_numpy().tolist() != other_rows[columns].to_numpy().tolist():
        images = f"the {part} images of {first.folder} ({len(rows)}, one or more)"
        expected = f"{images} in their order, with their labels and groups"
        found = f"{len(other_rows)} others"
        raise RunError(other.folder, expected, found, "Train again what differs.")


def _stacked(members: Members) -> Floats:
    """Members as one array of shape (m, n, 3); `ValueError` where they do not fit together."""
    arrays = [np.asarray(member, dtype=float) for member in members]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[1] != len(CLASS_NAMES):
        raise ValueError(
            f"members: expected one or more arrays of one shape (n, {len(CLASS_NAMES)}), found "
            f"{[array.shape for array in arrays]}"
        )
    return np.stack(arrays)


def _log_probabilities(members: Members) -> Floats:
    """Features of the second level, shape (n, 3 m)."""
    return np.concatenate(list(np.log(np.maximum(_stacked(members), SMALLEST))), axis=1)


def _second_level(strength: float) -> Any:  # noqa: ANN401 (scikit-learn is untyped)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Newton's method: few features, so it is several times as fast as the default.
    options = {"class_weight": "balanced", "solver": "newton-cholesky", "max_iter": 1000}
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, **options))


def _held_loss(strength: float, x: Floats, y: Ints, fit: Ints, held: Ints) -> float:
    """Summed log loss on the held rows, classes weighted as in the fit."""
    model = _second_level(strength).fit(x[fit], y[fit])
    p = np.zeros((len(held), len(CLASS_NAMES)))
    p[:, model.classes_] = model.predict_proba(x[held])
    weights = 1 / np.bincount(y, minlength=len(CLASS_NAMES))[y[held]]
    return float(weights @ -np.log(np.maximum(p[np.arange(len(held)), y[held]], SMALLEST)))


def _folds(labels: Ints, groups: npt.NDArray[Any]) -> list[tuple[Ints, Ints]]:
    """Rows to fit and rows to hold out, groups whole, classes spread as evenly as they go.

    At most five folds; none where there is one group alone, or one image of each class.
    """
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    count = min(_FOLDS, len(np.unique(groups)), int(np.bincount(labels).max()))
    if count < 2:
        return []
    with warnings.catch_warnings():  # a class with fewer images than folds is no surprise here
        warnings.simplefilter("ignore", UserWarning)
        folds = list(StratifiedGroupKFold(count).split(labels, labels, groups))
    return [(fit, held) for fit, held in folds if len(fit) and len(held)]


def _cross_fitted(how: How, known: Aligned) -> Floats:
    p = _stacked(known.members)
    out = np.full(p.shape[1:], np.nan)
    for fit, held in _folds(known.labels, known.groups):
        combine = fit_combiner(how, known.labels[fit], p[:, fit], known.groups[fit])
        out[held] = combine(p[:, held])
    if np.isnan(out).any():
        expected = "two groups or more and two images of a class"
        found = f"{len(out)} images in {len(np.unique(known.groups))} groups"
        raise RunError("validation", expected, found, "Use a larger profile.")
    return out


def _rows(part: str, rows: Aligned, p: Floats) -> pd.DataFrame:
    known = {"path": rows.paths, "group": rows.groups, "part": part, "label": rows.labels}
    return pd.DataFrame(known | dict(zip(PROBABILITY_COLUMNS, p.T, strict=True)))


def _error_correlation(y: Ints, a: Floats, b: Floats) -> float:
    truth = np.eye(len(CLASS_NAMES))[y]
    each = [_pearson(*pair) for pair in zip((a - truth).T, (b - truth).T, strict=True)]
    share = truth.mean(axis=0)
    return float(np.sum(share[share > 0] * np.asarray(each)[share > 0]))


def _pearson(x: Floats, z: Floats) -> float:
    x, z = x - x.mean(), z - z.mean()
    return _quotient(float(x @ z), float(np.sqrt((x @ x) * (z @ z))))


def _quotient(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
