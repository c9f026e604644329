"""What the app offers, computed without Streamlit: runs, votes, what is known of them, answers.

A vote is the soft vote of its members, all of one split.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from osteo_utils import course
from osteo_utils.inference import Film, Member, answer, title_of
from osteo_utils.runs import Run, RunError, read_run
from osteo_utils.scoring.ensembles import PAIRS, aligned, soft_vote
from osteo_utils.scoring.evaluate import IF_CALIBRATED, bootstrap, temperature, tempered

Floats = npt.NDArray[np.float64]
Scores = Mapping[str, Mapping[str, float | None]]

SMALL_MODELS: Final = ("custom_cnn", "mobilenet_v2", "densenet121")  # seconds each in smoke size
SCORES: Final = ("balanced_accuracy", "ece", IF_CALIBRATED, "brier")  # shown of every model


class Listed(NamedTuple):
    """A finished run that can be chosen; `stamp` changes whenever a file of it does."""

    folder: Path
    stamp: str
    group: str  # runs of one group may vote together: corpus, profile and split
    model: str
    seed: int
    validation: float  # balanced accuracy there, NaN where it could not be measured

    @property
    def title(self) -> str:
        """Architecture and seed, for people."""
        return f"{title_of(self.model)}, seed {self.seed}"


def stamp(folder: Path) -> str:
    """Digest of names, sizes and times of the files of a run, "" if there are none any more."""
    try:
        files = sorted((e.name, e.stat()) for e in os.scandir(folder) if e.is_file())
    except OSError:
        return ""
    facts = [(name, known.st_size, known.st_mtime_ns) for name, known in files]
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()


def list_runs(found: Sequence[tuple[Path, str]]) -> tuple[list[Listed], list[str]]:
    """The runs that can be used, and a line about each that cannot."""
    listed, problems = [], []
    for folder, stamp in found:
        try:
            listed.append(_listed(read_run(folder), stamp))
        except RunError as error:
            problems.append(str(error))
    return listed, problems


def _listed(run: Run, stamp: str) -> Listed:
    info = run.info
    where = f"{info.get('corpus', 'unknown corpus')}, {info.get('profile', 'own settings')}"
    group = f"{where}, split {str(info['split_hash'])[:6]}"
    reached = run.metrics.get("validation", {}).get("balanced_accuracy", {}).get("value")
    value = math.nan if reached is None else float(reached)
    return Listed(run.folder, stamp, group, info["model"], info["seed"], value)


def pairs(listed: Sequence[Listed]) -> dict[str, tuple[Listed, ...]]:
    """The soft votes of the nine pairs for which both members are there, by title."""
    known = {(each.model, each.seed): each for each in listed}
    found: dict[str, tuple[Listed, ...]] = {}
    for first, second in PAIRS:
        for seed in sorted({each.seed for each in listed}):
            if (first, seed) in known and (second, seed) in known:
                title = f"{title_of(first)} + {title_of(second)}, seed {seed} (soft vote)"
                found[title] = (known[first, seed], known[second, seed])
    return found


class Record(NamedTuple):
    """What is known of a model or an ensemble beforehand."""

    temperature: float  # fitted on the validation predictions
    validation_films: int
    test_films: int
    scores: Scores  # of the raw probabilities on the test part: value, low, high


def record(runs: Sequence[Run]) -> Record:
    """Calibration and test scores; of a single run the scores are those of its metrics.json.

    Raises `RunError` for runs of different splits.
    """
    known, test = aligned(runs, "validation"), aligned(runs, "test")
    t = temperature(known.labels, soft_vote(known.members))
    scores: Scores = runs[0].metrics.get("test", {})
    if len(runs) > 1:
        table = bootstrap(test.labels, soft_vote(test.members), test.groups)
        scores = json.loads(table.to_json(orient="index", double_precision=6))
    if missing := set(SCORES) - set(scores):
        file = runs[0].folder / "metrics.json"
        raise RunError(file, "test scores", f"no {', '.join(sorted(missing))}", "Train again.")
    return Record(t, len(known.labels), len(test.labels), scores)


class Answer(NamedTuple):
    """What a model or a vote says about a film."""

    raw: Floats  # (3,) probabilities as the networks give them
    calibrated: Floats  # (3,) after temperature scaling
    unlike: bool | None  # unlike the training films of a member; None where no member can tell

    @property
    def called(self) -> int:
        """Index of the likeliest class, which calibration does not change."""
        return int(self.raw.argmax())


def calibrated_answer(members: Sequence[Member], temperature: float, film: Film) -> Answer:
    """What members say about a film, raw and calibrated."""
    said = answer(members, [film.image])
    p = said.probabilities
    return Answer(p[0], tempered(p, temperature)[0], said.unlike[0])


def make_smoke(runs: Path, models: Sequence[str], tell: Callable[[float, str], object]) -> None:
    """Train models in smoke size into `runs`; `tell(share done, what comes now)` before each step.

    The corpus goes into `corpora` beside `runs`. Where another window or process is training one of
    them, it is waited for, and its run is taken.
    """
    steps = 2 + len(models)
    tell(0.0, "Simulating a small corpus of knee phantoms")
    opened = course.open_course("smoke", runs=runs)
    tell(1 / steps, "Auditing the corpus and splitting it by patient")
    course.split(opened)
    for done, model in enumerate(models, start=2):
        tell(done / steps, f"Training {title_of(model)} in smoke size")
        course.train_model(opened, model)
    tell(1.0, "Done")
