"""The run folder, the contract between chapters: written whole, read with checks.

`runs/<corpus>/<profile>/<model>/seed<k>/` holds `model.keras`, `history.csv`, `predictions.csv`,
`metrics.json`, `novelty.json` and, written last, `run.json`: its presence says that the run is
whole.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from osteo_utils.errors import CourseError
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.store import replace_file, write_json

PROBABILITY_COLUMNS: Final = tuple(f"p_{name.lower()}" for name in CLASS_NAMES)
PREDICTION_COLUMNS: Final = ("path", "group", "part", "label", *PROBABILITY_COLUMNS)
_TRAIN_AGAIN: Final = "Delete the run and train again."
_TOLD: Final = 4  # differences that are named in one line
_INFO_KINDS: Final[dict[str, type]] = {
    "class_names": list,
    "model": str,
    "image_size": int,
    "seed": int,
    "split_hash": str,
    "preprocessing": str,
}


class RunError(CourseError):
    """A run folder that is unfinished, damaged, or made with other data or settings."""


@dataclass(frozen=True)
class Run:
    """One trained model and what it predicts, as read from its folder.

    Attributes:
        folder: Where it lies.
        info: Content of `run.json`: class order, seed, split hash, versions, settings and more.
        predictions: Columns `PREDICTION_COLUMNS`, a row for each film of the parts validation and
            test.
        metrics: Part to score to value, low and high, the ends of its interval; None for what could
            not be measured.
        history: A row for each epoch.
    """

    folder: Path
    info: dict[str, Any]
    predictions: pd.DataFrame
    metrics: dict[str, dict[str, dict[str, float]]]
    history: pd.DataFrame


def run_folder(runs: Path, corpus: str, profile: str, model: str, seed: int) -> Path:
    """Where the run of that corpus, profile, model and seed lives.

    Args:
        runs: The folder of all runs.
        corpus: Name of the corpus in paths, see `corpus.corpus_name`.
        profile: Name of the profile.
        model: Name of the architecture.
        seed: Of the training.

    Returns:
        The folder, whether it exists or not.

    Example:
        >>> run_folder(Path("runs"), "simulated", "quick", "vgg16", 0).as_posix()
        'runs/simulated/quick/vgg16/seed0'
    """
    return Path(runs) / corpus / profile / model / f"seed{seed}"


def model_digest(run: Run) -> str:
    """SHA-256 of the trained network: what is made from it is held against this.

    Args:
        run: A finished run.

    Returns:
        Sixty-four hexadecimal digits, of the file `model.keras`.

    Raises:
        FileNotFoundError: The run has no such file.
    """
    return hashlib.sha256((run.folder / "model.keras").read_bytes()).hexdigest()


def is_complete(folder: Path) -> bool:
    """Whether the run has been written to its end.

    Args:
        folder: Of the run.

    Returns:
        True if it holds `run.json`.
    """
    return (Path(folder) / "run.json").is_file()


def run_digest(folder: Path) -> str:
    """Sixteen hexadecimal digits that stand for this training and no other.

    Args:
        folder: Of the run.

    Returns:
        The beginning of the SHA-256 of `run.json`.

    Raises:
        RunError: There is no finished run.
    """
    if not is_complete(folder):
        raise unfinished(folder)
    return hashlib.sha256((Path(folder) / "run.json").read_bytes()).hexdigest()[:16]


def member_folder(folder: Path, member: str) -> Path:
    """Where the run lies from which a branch of a fusion starts: of the same seed.

    Args:
        folder: Of the run of the fusion.
        member: Name of the backbone.

    Returns:
        The folder of the member's run, whether it exists or not.

    Example:
        >>> member_folder(Path("quick/late_fusion/seed1"), "vgg16").as_posix()
        'quick/vgg16/seed1'
    """
    return folder.parent.parent / member / folder.name


def settings_of(
    method: Mapping[str, Any], split: Mapping[str, str], seed: int, folder: Path
) -> dict[str, Any]:
    """Everything that decides what a training is; two that differ here never mix.

    The keys stand in `run.json`. A fusion that starts from its members' runs belongs to those that
    are there.

    Args:
        method: What `training.method_of` gives for the network.
        split: What `splits.split_identity` gives for the split.
        seed: Of the training.
        folder: Of its run.

    Returns:
        The settings. Of such a fusion `members` holds the digests of its members' runs
        (`run_digest`), None for one that is not there.
    """
    settings = {**method, **split, "seed": seed}
    if names := method.get("members"):
        runs = {name: member_folder(folder, name) for name in names}
        found = {name: run_digest(run) if is_complete(run) else None for name, run in runs.items()}
        settings["members"] = found
    return settings


def differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """How the settings of a run differ from those expected, in one line.

    What `run.json` holds besides the expected keys decides nothing and is not looked at.

    Args:
        found: Settings of the run, as in `run.json`.
        expected: Settings as they are now, see `settings_of`.

    Returns:
        The first four differences and how many more there are, or "" if there are none.

    Example:
        >>> differences({"epochs": 8, "device": "cpu"}, {"epochs": 9})
        'epochs: expected 9, found 8'
    """
    old, new = _flat(found), _flat(expected)
    old = {key: value for key, value in old.items() if key.partition(".")[0] in expected}
    changed = [key for key in new | old if old.get(key) != new.get(key)]
    told = [f"{k}: expected {_brief(new.get(k))}, found {_brief(old.get(k))}" for k in changed]
    return "; ".join(told[:_TOLD] + [f"and {len(told) - _TOLD} more"] * (len(told) > _TOLD))


def no_longer_fits(folder: Path, changed: str) -> RunError:
    """The error about a training whose settings are no longer those asked for.

    Args:
        folder: Of the run.
        changed: How they differ, see `differences`.

    Returns:
        The error, to be raised.
    """
    remedy = "Delete that folder to train anew, or use other runs."
    return RunError(
        folder, "a training on these data and settings", f"one on others ({changed})", remedy
    )


def unfinished(folder: Path) -> RunError:
    """The error about a run that is not there or was not written to its end.

    Args:
        folder: Of the run.

    Returns:
        The error, to be raised.
    """
    return RunError(folder, "a finished run with run.json", "none", "Train it first.")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _brief(value: Any) -> Any:  # noqa: ANN401
    return value[:12] if isinstance(value, str) else value


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed.

    Args:
        packages: Names, as on PyPI.

    Returns:
        Name to version; a package that is not installed is left out.
    """
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_run(
    folder: Path,
    info: dict[str, Any],
    model: Any,  # noqa: ANN401  (a keras.Model; Keras is not imported here)
    predictions: pd.DataFrame,
    metrics: dict[str, Any],
    history: pd.DataFrame,
    extra: Callable[[Path], None] | None = None,
) -> Run:
    """Write every file of the run, `run.json` last, and read it back with all checks.

    An old run there ends first: between two trainings the folder is unfinished, never a mixture.

    Args:
        folder: Of the run; made if it is not there.
        info: Content of `run.json`.
        model: The trained Keras model.
        predictions: Columns `PREDICTION_COLUMNS`.
        metrics: Part to score to value, low and high.
        history: A row for each epoch.
        extra: Writes further files into the folder that it is called with.

    Returns:
        The run as it was read back.

    Raises:
        RunError: What was written does not pass the checks of `read_run`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").unlink(missing_ok=True)
    replace_file(folder / "model.keras", lambda part: model.save(part))
    replace_file(folder / "history.csv", lambda part: history.to_csv(part, index=False))
    replace_file(folder / "predictions.csv", lambda part: predictions.to_csv(part, index=False))
    write_json(folder / "metrics.json", metrics)
    if extra is not None:
        extra(folder)
    write_json(folder / "run.json", info)
    return read_run(folder)


def read_run(folder: Path, split_hash: str | None = None) -> Run:
    """The run in a folder, checked.

    Args:
        folder: Of the run.
        split_hash: If given, the hash of the split that the run must be on.

    Returns:
        The run.

    Raises:
        RunError: The run is unfinished or damaged, its classes are in another order, its labels are
            no classes, its probabilities are not probabilities, or it was trained on another split.
    """
    folder = Path(folder)
    if not is_complete(folder):
        raise unfinished(folder)
    info = _read_info(folder / "run.json")
    if split_hash is not None and info["split_hash"] != split_hash:
        found = f"one on {info['split_hash'][:12]}"
        remedy = "Delete the folder and train again, or use its split."
        raise RunError(folder, f"a run on the split {split_hash[:12]}", found, remedy)
    predictions = _read_predictions(folder / "predictions.csv")
    metrics = _read_metrics(folder / "metrics.json")
    return Run(folder, info, predictions, metrics, _read_table(folder / "history.csv"))


def probabilities(predictions: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The probabilities in a table of predictions as an array.

    Args:
        predictions: Has the columns `PROBABILITY_COLUMNS`.

    Returns:
        Shape (n, 3), in the order of `CLASS_NAMES`.

    Example:
        >>> row = {"p_normal": 0.5, "p_osteopenia": 0.25, "p_osteoporosis": 0.25}
        >>> probabilities(pd.DataFrame([row])).tolist()
        [[0.5, 0.25, 0.25]]
    """
    return predictions[list(PROBABILITY_COLUMNS)].to_numpy(dtype=float)


def _read_info(file: Path) -> dict[str, Any]:
    info = _read_json(file)
    for key, kind in _INFO_KINDS.items():
        if type(info.get(key)) is not kind:  # True is no int here
            found = repr(info[key]) if key in info else "no such key"
            raise RunError(file, f"{key} to be of type {kind.__name__}", found, _TRAIN_AGAIN)
    if info["class_names"] != list(CLASS_NAMES):
        expected = f"the class order {list(CLASS_NAMES)}"
        remedy = "This run cannot be mixed with others: train it again."
        raise RunError(file, expected, info["class_names"], remedy)
    return info


def _read_metrics(file: Path) -> dict[str, Any]:
    """Part -> score -> value, low, high; what could not be measured is null in the file."""
    metrics = _read_json(file)
    for part, scores in metrics.items():
        found = scores.values() if isinstance(scores, dict) else [scores]
        if not all(map(_is_score, found)):
            expected = f"the numbers of each score for the {part} part"
            raise RunError(file, expected, f"{scores!r:.200}", _TRAIN_AGAIN)
    return metrics


def _is_score(found: object) -> bool:
    return isinstance(found, dict) and bool(found) and all(map(_is_number, found.values()))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _read_json(file: Path) -> dict[str, Any]:
    with _damage_named(file, "JSON"):
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise RunError(file, "a JSON object", type(content).__name__, _TRAIN_AGAIN)
    return content


@contextmanager
def _damage_named(file: Path, kind: str) -> Iterator[None]:
    """`RunError` where a file of a finished run is not there, or is not of its kind."""
    try:
        yield
    except FileNotFoundError:
        raise RunError(file, "this file in a finished run", "none", _TRAIN_AGAIN) from None
    except ValueError as error:  # of JSON, of pandas, of UTF-8
        raise RunError(file, kind, error, _TRAIN_AGAIN) from error


def _read_table(file: Path, names_of_missing: bool = True) -> pd.DataFrame:
    """A table as text and numbers; "NA" and the like are missing values, or plain text."""
    text = {"path": str, "group": str, "part": str}
    with _damage_named(file, "a table"):
        return pd.read_csv(file, dtype=text, keep_default_na=names_of_missing)


def _read_predictions(file: Path) -> pd.DataFrame:
    table = _read_table(file, names_of_missing=False)
    missing = [name for name in PREDICTION_COLUMNS if name not in table.columns]
    if missing:
        found = f"none named {', '.join(missing)}"
        raise RunError(file, f"the columns {', '.join(PREDICTION_COLUMNS)}", found, _TRAIN_AGAIN)
    _check_numbers(table, file)
    return table


def _check_numbers(table: pd.DataFrame, file: Path) -> None:
    columns = table[["label", *PROBABILITY_COLUMNS]].apply(pd.to_numeric, errors="coerce")
    p = columns[list(PROBABILITY_COLUMNS)].to_numpy()
    wrong = ~columns["label"].isin(range(len(CLASS_NAMES))).to_numpy()
    # A NaN or an infinite value makes the sum fail as well.
    wrong |= ~(np.isclose(p.sum(axis=1), 1, atol=1e-3) & (p >= 0).all(axis=1))
    if wrong.any():
        row = int(wrong.argmax())
        expected = f"a label 0..{len(CLASS_NAMES) - 1} and probabilities that sum to 1"
        where, found = f"{file}, line {row + 2}", table.iloc[row].to_dict()
        raise RunError(where, expected, found, _TRAIN_AGAIN)
