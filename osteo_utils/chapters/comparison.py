"""Everyone in one field: models, pairs, ensembles and baselines, judged on the same films.

An `Entrant` is a name and what it predicted, one table for each seed in the form of
`predictions.csv`; nothing else is needed to compare it. Every resample draws the same groups for
everybody, so that any two entrants may be subtracted. The published results of the reference are
read from `data/`, and each of their rows has a `counterpart` in the field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from osteo_utils.course import Course, fitting_runs, train_seeds
from osteo_utils.registry import ARCHITECTURES, CLASS_NAMES, get_architecture
from osteo_utils.runs import Run, RunError, probabilities
from osteo_utils.scoring.ensembles import HOW, PAIRS, How, ensemble_predictions, published_key
from osteo_utils.scoring.evaluate import (
    IF_CALIBRATED,
    ece_if_calibrated,
    holm,
    interval_ends,
    mean_recall,
    multiplicities,
    two_sided,
    weighted_scores,
    wilson,
)

Floats = npt.NDArray[np.float64]
Kind = Literal["single", "fusion", "pair", "ensemble", "baseline"]

KINDS: Final[tuple[Kind, ...]] = ("single", "fusion", "pair", "ensemble", "baseline")
SCORES: Final = (  # of `evaluate.scores`; the weighted ones are those that the reference prints
    "balanced_accuracy",
    "accuracy",
    "f1_macro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "auc_macro",
    "kappa_quadratic",
    "brier",
)
WAYS: Final[dict[How, str]] = {
    "soft": "equal weights",
    "weighted": "chosen weights",
    "stacked": "stacked",
    "majority": "majority",
}
_NUMBERS: Final = dict(
    enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 2)
)
_CONFIDENCE: Final = 0.95
_ROUNDING: Final = 0.005  # half of the last digit that is published


@dataclass(frozen=True)
class Entrant:
    """One participant of the comparison."""

    name: str
    kind: Kind
    models: tuple[str, ...]  # the trainings it needs, by name in the registry; baseline: none
    tables: tuple[pd.DataFrame, ...]  # predictions of validation and test, one table a seed

    def rows(self, part: str) -> list[pd.DataFrame]:
        """The rows of one part, one table a seed."""
        return [table[table["part"] == part] for table in self.tables]

    def probabilities(self, part: str) -> Floats:
        """Probabilities of one part, shape (seeds, n, 3)."""
        return np.stack([probabilities(rows) for rows in self.rows(part)])


Field = Mapping[str, Entrant]  # by name

# ---------------------------------------------------------------------------------------------
# Who takes part


def entrants(course: Course) -> dict[str, Entrant]:
    """Every model, pair, ensemble and baseline of a course, by name, singles first.

    Read from the finished runs (`finished`) and from the baselines (`baselines.csv`), if there.
    """
    return gather(finished(course), read_baselines(course))


def finished(course: Course) -> dict[str, list[Run]]:
    """The runs of every architecture that fit (`fitting_runs`), in the registry's order.

    What is missing is trained in the profile smoke, where it takes a minute; in any other it is
    left out, and the print says which chapter makes it.
    """
    if course.profile.for_tests:
        return {name: train_seeds(course, name) for name in ARCHITECTURES}
    found = fitting_runs(course, ARCHITECTURES)
    if missing := [get_architecture(name).title for name, runs in found.items() if not runs]:
        print(
            f"No finished run of {', '.join(missing)} as it is now: left out. Their chapters make "
            "them."
        )
    return {name: runs for name, runs in found.items() if runs}


def read_baselines(course: Course) -> pd.DataFrame | None:
    """The table baselines.csv, or None (and a line in print) if nobody has written it yet."""
    file = course.folder / "baselines.csv"
    if not file.exists():
        print("No baselines yet: the chapter Baselines, calibration and populations makes them.")
        return None
    return pd.read_csv(file, dtype={"path": str, "group": str, "part": str})


def gather(
    runs: Mapping[str, Sequence[Run]], baselines: pd.DataFrame | None = None
) -> dict[str, Entrant]:
    """The field of these runs: each model, the nine pairs, everyone together, then the baselines.

    Predictions are all it reads of a run. Ensembles are formed seed by seed, from the seeds that
    their members share. Raises `RunError` if any two do not speak of the same films.
    """
    found = [*singles(runs), *pairs(runs), *together(runs), *seed_votes(runs)]
    found += [] if baselines is None else _baselines(baselines)
    field = {entrant.name: entrant for entrant in found}
    for part in ("validation", "test"):
        films(field, part)
    return field


def same_films(runs: Mapping[str, Sequence[Run]], baselines: pd.DataFrame | None) -> bool:
    """Whether baselines were scored on the films of these runs, row by row in both parts."""
    if baselines is None or not runs:
        return False
    columns = ["path", "group", "label"]
    first = next(iter(runs.values()))[0].predictions
    for _, rows in baselines.groupby("baseline", sort=False):
        for part in ("validation", "test"):
            here, there = (t.loc[t["part"] == part, columns].astype(str) for t in (first, rows))
            if here.to_numpy().tolist() != there.to_numpy().tolist():
                return False
    return True


def title(model: str) -> str:
    """How a model of the registry, or two joined by "+", is called in the comparison."""
    return " + ".join(get_architecture(name).title for name in model.split("+"))


def counterpart(published_name: str) -> str:
    """The entrant that answers to a row of `data/published_summary.csv`.

    A published pair is an average with equal weights, and so is its counterpart. Raises
    `ValueError` for a name that is no model of the registry and none of the nine pairs.
    """
    names = (*ARCHITECTURES, *("+".join(pair) for pair in PAIRS))
    known = {published_key(title(name)): title(name) for name in names}
    if published_key(published_name) not in known:
        raise ValueError(
            f"published result: expected one of {', '.join(known.values())}, found "
            f"{published_name!r}; name it as registry.ARCHITECTURES or ensembles.PAIRS do"
        )
    return known[published_key(published_name)]


def singles(runs: Mapping[str, Sequence[Run]]) -> list[Entrant]:
    """Each model by itself, with all its seeds; a fusion of features counts as one model."""
    tables = {name: tuple(run.predictions for run in found) for name, found in runs.items()}
    return [
        Entrant(title(n), "fusion" if get_architecture(n).members else "single", (n,), each)
        for n, each in tables.items()
    ]


def pairs(runs: Mapping[str, Sequence[Run]], how: How = "soft") -> list[Entrant]:
    """The nine published pairs, as far as both members are there, combined in one way."""
    present = [pair for pair in PAIRS if all(member in runs for member in pair)]
    suffix = "" if how == "soft" else f", {WAYS[how]}"
    return [_combined(title("+".join(p)) + suffix, "pair", runs, p, how) for p in present]


def together(runs: Mapping[str, Sequence[Run]]) -> list[Entrant]:
    """All models at once, combined in each of the four ways."""
    if len(runs) < 2:
        return []
    name = f"All {_NUMBERS.get(len(runs), len(runs))}"
    return [_combined(f"{name}, {WAYS[how]}", "ensemble", runs, tuple(runs), how) for how in HOW]


def seed_votes(runs: Mapping[str, Sequence[Run]]) -> list[Entrant]:
    """The soft vote of one model's own seeds: what an ensemble is worth without a second idea."""
    return [
        Entrant(
            f"{title(name)}, {_NUMBERS.get(len(found), len(found))} seeds",
            "ensemble",
            (name,) * len(found),
            (ensemble_predictions(found, "soft"),),
        )
        for name, found in runs.items()
        if len(found) > 1
    ]


def _combined(
    name: str, kind: Kind, runs: Mapping[str, Sequence[Run]], members: tuple[str, ...], how: How
) -> Entrant:
    by_seed = [{run.info["seed"]: run for run in runs[member]} for member in members]
    shared = [seed for seed in by_seed[0] if all(seed in found for found in by_seed)]
    if not shared:
        expected = "a seed that all members were trained with"
        raise RunError(name, expected, "none", "Train the members with the same seeds.")
    tables = [ensemble_predictions([found[seed] for found in by_seed], how) for seed in shared]
    return Entrant(name, kind, members, tuple(tables))


def _baselines(table: pd.DataFrame) -> list[Entrant]:
    return [
        Entrant(str(name), "baseline", (), (rows.drop(columns="baseline"),))
        for name, rows in table.groupby("baseline", sort=False)
    ]


def films(field: Field, part: str) -> pd.DataFrame:
    """Path, group and label of the films of one part, checked to be the same for everybody."""
    columns = ["path", "group", "label"]
    first: pd.DataFrame | None = None
    for entrant in field.values():
        for rows in entrant.rows(part):
            first = rows[columns].reset_index(drop=True) if first is None else first
            if first.empty or rows[columns].to_numpy().tolist() != first.to_numpy().tolist():
                expected = f"the {part} films of the others ({len(first)})"
                remedy = "Run its chapter again on the present split."
                raise RunError(entrant.name, expected, f"{len(rows)} or others", remedy)
    if first is None:
        raise RunError("comparison", "at least one entrant", "none", "Train a model first.")
    return first


# ---------------------------------------------------------------------------------------------
# How good they are, and how sure that is


def scoreboard(
    field: Field, part: str = "test", resamples: int = 1000, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """A table for each of `SCORES`: a row for each entrant; columns value, low, high, chance.

    `value` is the mean over the seeds. In each resample whole groups of films are drawn, the same
    for everybody, and as many seeds as there are, with replacement; so the interval holds the
    chance of the films and, with several seeds, that of the training (Bouthillier et al. 2021).
    `chance` says which: "films and seeds", or "films only" where there is one seed.

    Two more tables, "ece" and "ece_if_calibrated", as `evaluate.bootstrap` has them: the expected
    calibration error, without an interval, and what calibrated entrants have, mean over the seeds.
    """
    known = films(field, part)
    weights = multiplicities(known["group"].to_numpy(), len(known), resamples, seed)
    y = known["label"].to_numpy(dtype=np.int64)
    judged = {name: _judged(each, y, weights, part, seed) for name, each in field.items()}
    chance = ["films and seeds" if len(e.tables) > 1 else "films only" for e in field.values()]
    return {
        score: pd.DataFrame(
            {name: rows[score] for name, rows in judged.items()}, ("value", "low", "high")
        ).T.assign(chance=chance)
        for score in (*SCORES, "ece", IF_CALIBRATED)
    }


def _judged(
    entrant: Entrant, y: npt.NDArray[np.int64], weights: Floats, part: str, seed: int
) -> dict[str, tuple[float, float, float]]:
    each = entrant.probabilities(part)
    whole = [weighted_scores(y, p, np.ones((1, len(y)))) for p in each]
    drawn = [weighted_scores(y, p, weights) for p in each]
    share = _seed_shares(len(each), len(weights), seed)
    tails = ((1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2)
    calibrated = np.mean([ece_if_calibrated(p, len(weights), seed) for p in each], axis=0)
    ece = float(np.mean([found["ece"] for found in whole]))
    return {
        "ece": (ece, np.nan, np.nan),
        IF_CALIBRATED: (float(calibrated.mean()), *interval_ends(calibrated, *tails)),
    } | {
        score: (
            float(np.mean([found[score] for found in whole])),
            *interval_ends(
                (share * np.stack([d[score] for d in drawn], axis=1)).sum(axis=1), *tails
            ),
        )
        for score in SCORES
    }


def _seed_shares(seeds: int, resamples: int, seed: int) -> Floats:
    """How much each seed counts in each resample, rows of sum 1; shape (resamples, seeds).

    Drawing k of k values again gives their mean a variance that is (k - 1) / k of the true one,
    since values lie closer to their own mean than to the true one. So the deviations from equal
    shares are stretched by the root of k / (k - 1); a share may then be below 0.
    """
    equal = np.full(seeds, 1 / seeds)
    if seeds == 1:
        return np.ones((resamples, 1))
    drawn = np.random.default_rng((seed, seeds)).multinomial(seeds, equal, resamples) / seeds
    return np.asarray(equal + np.sqrt(seeds / (seeds - 1)) * (drawn - equal))


def balanced_accuracies(
    field: Field, part: str = "test", resamples: int = 10_000, seed: int = 0
) -> tuple[pd.Series, pd.DataFrame]:
    """Balanced accuracy of every entrant, and in every resample: a row each, a column an entrant.

    As in `scoreboard`, with the resamples kept, and quick enough for tens of thousands of them. A
    resample that lacks a class is NaN for everybody.
    """
    known = films(field, part)
    y = known["label"].to_numpy()
    weights = multiplicities(known["group"].to_numpy(), len(known), resamples, seed)
    values, drawn = {}, {}
    for name, entrant in field.items():
        hits = (entrant.probabilities(part).argmax(axis=2) == y).T.astype(float)
        values[name] = float(mean_recall(y, hits, np.ones((1, len(y)))).mean())
        share = _seed_shares(hits.shape[1], resamples, seed)
        drawn[name] = (share * mean_recall(y, hits, weights)).sum(axis=1)
    return pd.Series(values, name="value"), pd.DataFrame(drawn)


def differences(values: pd.Series, drawn: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Everyone else minus `reference`, from `balanced_accuracies`; paired, a row an entrant.

    Columns value, low, high (95 % interval), `spread` (standard error), `p` (two-sided, never below
    2 / (resamples + 1)) and `p_holm`, corrected for all rows of this table (Holm 1979).
    """
    others = [name for name in values.index if name != reference]
    gaps = drawn[others].sub(drawn[reference], axis=0).dropna()
    tails = gaps.quantile([(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    table = pd.DataFrame({"value": values[others] - values[reference]})
    table["low"], table["high"] = tails.iloc[0], tails.iloc[1]
    table["spread"] = gaps.std()
    table["p"] = [two_sided(gaps[name].to_numpy()) for name in others]
    return table.assign(p_holm=holm(table["p"]))


# ---------------------------------------------------------------------------------------------
# What they cost


def bill(runs: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """What each model costs: pixels, parameters, multiply_adds of one image, seconds of training.

    Of the first seed; seconds are the mean over the seeds, on whatever machine trained them. A
    network that began from its members' runs has used their seconds, too: NaN if they are not here.
    Raises `RunError` for a network whose multiply-adds nobody counted when it was trained.
    """
    rows = {
        name: {
            "pixels": found[0].info["image_size"],
            "parameters": found[0].info["parameters"],
            "multiply_adds": _recorded_multiply_adds(found[0]),
            "seconds": _seconds(name, runs),
        }
        for name, found in runs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _seconds(name: str, runs: Mapping[str, Sequence[Run]]) -> float:
    own = float(np.mean([run.info["seconds"] for run in runs[name]]))
    begun_from = get_architecture(name).members if _starts_from_members(runs[name][0]) else ()
    return own + sum(_seconds(member, runs) if member in runs else np.nan for member in begun_from)


def _starts_from_members(run: Run) -> bool:
    return bool(run.info.get("weights") == "members")


def _recorded_multiply_adds(run: Run) -> int:
    if (found := run.info.get("multiply_adds")) is None:
        remedy = "Train again, or use layers that cost.multiply_adds can count."
        raise RunError(run.folder, "multiply_adds in run.json", "none", remedy)
    return int(found)


def costs(field: Field, prices: pd.DataFrame) -> pd.DataFrame:
    """What each entrant costs, the sum over its members' `bill`; baselines are left out."""
    columns = ["parameters", "multiply_adds", "seconds"]
    rows = {n: prices.loc[list(e.models), columns].sum() for n, e in field.items() if e.models}
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def pareto(price: npt.ArrayLike, quality: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which entrants nobody beats: nobody else is as cheap and as good, and better in one of both.

    `price` (lower is better) and `quality` (higher is better) have shape (n,).
    """
    c, q = np.asarray(price, dtype=float), np.asarray(quality, dtype=float)
    no_worse = (c[:, None] <= c) & (q[:, None] >= q)  # row beats column
    better = (c[:, None] < c) | (q[:, None] > q)
    return np.asarray(~(no_worse & better).any(axis=0))


# ---------------------------------------------------------------------------------------------
# What the reference publishes


def read_published(summary: str | Path, reports: str | Path) -> pd.DataFrame:
    """Every row of the published summary, in its order, beside its own classification report.

    Index: the name as published. Columns of the summary; `counterpart`; `n`, films; `least` and
    `most`, the numbers of right answers that round to the published accuracy; `low` and `high`, its
    Wilson interval; from the report `reported` (accuracy), `balanced_accuracy` (mean recall) and
    `lowest_recall`; `differs`, what differs between the summary and the report, "" if nothing.
    Raises `ValueError` for a row without a report.
    """
    table = pd.read_csv(summary).set_index("model")
    by_model = pd.read_csv(reports).groupby("model")
    report_of = {published_key(str(name)): rows.set_index("row") for name, rows in by_model}
    if missing := [name for name in table.index if published_key(name) not in report_of]:
        raise ValueError(f"{reports}: expected a report of every model, missing {missing}")
    found = [_beside(row, report_of[published_key(str(name))]) for name, row in table.iterrows()]
    return table.assign(counterpart=[counterpart(name) for name in table.index]).join(
        pd.DataFrame(found, index=table.index)
    )


def _beside(row: Any, report: Any) -> dict[str, Any]:  # noqa: ANN401 (cells of mixed types)
    n = int(report.loc["accuracy", "support"])
    low, high = wilson(round(row["accuracy"] * n), n)
    recall = report.loc[list(CLASS_NAMES), "recall"]
    return {
        "n": n,
        "least": int(np.ceil((row["accuracy"] - _ROUNDING) * n - 1e-9)),
        "most": int(np.floor((row["accuracy"] + _ROUNDING) * n + 1e-9)),
        "low": low,
        "high": high,
        "reported": float(report.loc["accuracy", "f1_or_accuracy"]),
        "balanced_accuracy": float(recall.mean()),
        "lowest_recall": float(recall.min()),
        "differs": _differs(row, report),
    }


def _differs(row: Any, report: Any) -> str:  # noqa: ANN401
    mean = report.loc["weighted avg"]
    own = {
        "accuracy": float(report.loc["accuracy", "f1_or_accuracy"]),
        "precision_weighted": float(mean["precision"]),
        "recall_weighted": float(mean["recall"]),
        "f1_weighted": float(mean["f1_or_accuracy"]),
    }
    return "; ".join(
        f"{score.replace('_', ' ')} {row[score]:.2f}, report {value:.2f}"
        for score, value in own.items()
        if not np.isclose(row[score], value)
    )
