"""The reference study as it ships: ten networks of published width, trained to the end.

`make study` makes it (book/study.py); its small results lie in `data/reference/study/`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from osteo_utils.course import data_file
from osteo_utils.registry import ARCHITECTURES
from osteo_utils.runs import PREDICTION_COLUMNS, Run
from osteo_utils.scoring.evaluate import with_interval

_KEYS = ["model", "seed"]


def shipped_study() -> dict[str, list[Run]]:
    """The runs of the study, as far as they ship: predictions, histories, scores and records.

    They have no `model.keras`: weights do not ship, and nothing is trained or loaded.

    Returns:
        Name of the architecture to its runs, a run for each seed, in the registry's order.

    Example:
        >>> study = shipped_study()
        >>> [run.info["seed"] for run in study["vgg16"]]
        [0, 1, 2]
        >>> study["vgg16"][0].predictions.columns.tolist() == list(PREDICTION_COLUMNS)
        True
    """
    folder = data_file("reference/study/runs.json").parent
    infos = json.loads((folder / "runs.json").read_text(encoding="utf-8"))
    predictions = read_predictions(folder).astype({"group": str}).groupby(_KEYS)
    history = pd.read_csv(folder / "history.csv").groupby(_KEYS)
    metrics = pd.read_csv(folder / "scores.csv").groupby(_KEYS)
    found: dict[str, list[Run]] = {name: [] for name in ARCHITECTURES}
    for info in infos:
        key = (info["model"], info["seed"])
        run = Run(
            folder=folder,
            info=info,
            predictions=predictions.get_group(key)[list(PREDICTION_COLUMNS)].reset_index(drop=True),
            metrics=_nested(metrics.get_group(key)),
            history=history.get_group(key).drop(columns=_KEYS).reset_index(drop=True),
        )
        found[info["model"]].append(run)
    return {name: runs for name, runs in found.items() if runs}


def beside_study(runs: Sequence[Run]) -> pd.DataFrame:
    """The runs of a build beside those of the study, whose networks have their published width.

    Args:
        runs: Of one architecture, at least one.

    Returns:
        A row for each run and for each of the study's; columns training, pixels, parameters, epochs
        and balanced accuracy on the test part, in words with its interval.

    Example:
        >>> study = shipped_study()["vgg16"]
        >>> beside_study(study[:1])["training"].tolist()[:2]
        ['here, seed 0', 'reference study, seed 0']
    """
    study = shipped_study().get(runs[0].info["model"], [])
    rows = [("here", run) for run in runs] + [("reference study", run) for run in study]
    return pd.DataFrame(
        {
            "training": [f"{where}, seed {run.info['seed']}" for where, run in rows],
            "pixels": [run.info["image_size"] for _, run in rows],
            "parameters": [f"{run.info['parameters']:,}" for _, run in rows],
            "epochs": [run.info["epochs_run"] for _, run in rows],
            "balanced accuracy, test part": [
                with_interval(run.metrics["test"]["balanced_accuracy"]) for _, run in rows
            ],
        }
    )


def read_predictions(folder: Path) -> pd.DataFrame:
    """The predictions of a study, the facts of each film beside its probabilities.

    Args:
        folder: Of the study, with `films.csv` and `predictions.csv`.

    Returns:
        Columns model, seed, film and `runs.PREDICTION_COLUMNS`, a row for each run and film.
    """
    films, rows = pd.read_csv(folder / "films.csv"), pd.read_csv(folder / "predictions.csv")
    return rows.merge(films, on="film", validate="many_to_one")


def _nested(scores: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """Part to score to value, low and high, as `metrics.json` has them."""
    nested: dict[str, dict[str, dict[str, float]]] = {}
    for row in scores.to_dict("records"):
        ends = {key: row[key] for key in ("value", "low", "high")}
        nested.setdefault(row["part"], {})[row["score"]] = ends
    return nested
