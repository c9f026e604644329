"""What the app shows, computed without Streamlit: runs, ensembles, answers and maps.

Classes, sizes and preprocessing are those of the run. An ensemble is the soft vote of its members,
all of one split.
"""

import hashlib
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from osteo_utils import course
from osteo_utils.data.images import Grey, ImageFacts, examine, fit_square
from osteo_utils.data.novelty import FILE, Novelty, load_novelty
from osteo_utils.errors import ImageError
from osteo_utils.inference import map_layers
from osteo_utils.networks.saved import load_model
from osteo_utils.phantom import simulate_knee
from osteo_utils.registry import get_architecture
from osteo_utils.runs import Run, RunError, read_run
from osteo_utils.saliency.gradcam import (
    METHODS,
    PIXEL_METHODS,
    CamWarning,
    ensemble_maps,
)
from osteo_utils.scoring.ensembles import PAIRS, aligned, soft_vote
from osteo_utils.scoring.evaluate import IF_CALIBRATED, bootstrap, temperature, tempered

if TYPE_CHECKING:
    import keras

Floats = npt.NDArray[np.float64]
Maps = npt.NDArray[np.float32]
Scores = Mapping[str, Mapping[str, float | None]]

MAX_BYTES: Final = 25_000_000  # of an upload
MOST_FOLDERS: Final = 10_000  # that are looked through for runs
NAME_SHOWN: Final = 60  # characters of a file's name
EXAMPLE_T_SCORES: Final = (0.4, -1.7, -3.8)
EXAMPLE_SIDE: Final = 384
SMALL_MODELS: Final = ("custom_cnn", "mobilenet_v2", "densenet121")  # seconds each in smoke size
SCORES: Final = ("balanced_accuracy", "ece", IF_CALIBRATED, "brier")  # shown of every model
# To explain, the softmax is taken off a network for a moment: no other window may ask it then.
_ONE_AT_A_TIME: Final = RLock()
_LOG: Final = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------
# Films


class Film(NamedTuple):
    """A radiograph in memory; `name` is shown and never used as a path."""

    name: str
    image: Grey  # (height, width), native size
    facts: ImageFacts
    size: int  # bytes of the file
    digest: str  # sha256 of the file


def read_film(data: bytes, name: str) -> Film:
    """Decode the bytes of a file; `ImageError` for one that is too large or no radiograph."""
    name = "".join(c for c in name if c.isprintable())[-NAME_SHOWN:] or "image"
    if len(data) > MAX_BYTES:
        expected, found = f"at most {MAX_BYTES:,} bytes", f"{len(data):,}"
        raise ImageError(name, expected, found, "Export it smaller.")
    digest = hashlib.sha256(data).hexdigest()
    facts, image = examine(data, name)
    return Film(name, image, facts, len(data), digest)


def example(t_score: float) -> bytes:
    """The PNG file of a knee phantom with this T-score, the same at every call."""
    knee = simulate_knee(t_score, np.random.default_rng(3), EXAMPLE_SIDE)
    buffer = BytesIO()
    Image.fromarray(knee.image).save(buffer, "png")
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------
# Runs and ensembles


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


def title_of(model: str) -> str:
    """The title of an architecture; the name itself of one that the course does not know."""
    try:
        return get_architecture(model).title
    except ValueError:
        return model


def finished(root: Path) -> list[Path]:
    """The folder of every finished run below `root`.

    `RunError` where more folders than MOST_FOLDERS would have to be looked through.
    """
    found = []
    for number, (folder, below, files) in enumerate(os.walk(root)):
        if number == MOST_FOLDERS:
            raise RunError(
                f"{root}: expected a folder of trained runs, found more than {MOST_FOLDERS:,} "
                "folders in it; name the folder that holds the runs"
            )
        if "run.json" in files:
            found.append(Path(folder))
            below.clear()
    return sorted(found)


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
    """The soft votes of chapter 16 for which both members are there, by title."""
    known = {(each.model, each.seed): each for each in listed}
    found: dict[str, tuple[Listed, ...]] = {}
    for first, second in PAIRS:
        for seed in sorted({each.seed for each in listed}):
            if (first, seed) in known and (second, seed) in known:
                title = f"{title_of(first)} + {title_of(second)}, seed {seed} (soft vote)"
                found[title] = (known[first, seed], known[second, seed])
    return found


@dataclass(frozen=True, eq=False)
class Member:
    """A trained network in memory with its run; `novelty` where the run has one."""

    run: Run
    network: "keras.Model"
    novelty: Novelty | None

    @property
    def size(self) -> int:
        """Side of the square that the network takes, in pixels."""
        return int(self.run.info["image_size"])

    @property
    def title(self) -> str:
        """Architecture and seed, for people."""
        return f"{title_of(str(self.run.info['model']))}, seed {self.run.info['seed']}"

    def pixels(self, film: Film) -> Grey:
        """What the network takes of a film: uint8 (1, size, size, 1)."""
        return fit_square(film.image, self.size)[None, ..., None]


def load_member(folder: Path) -> Member:
    """Load the network of a run; `RunError`, whatever is broken in the folder."""
    run = read_run(folder)
    novelty = load_novelty(folder) if (folder / FILE).exists() else None
    try:
        return Member(run, load_model(run), novelty)
    except RunError:
        raise
    except Exception as error:  # a damaged archive makes Keras raise nearly anything
        _LOG.exception("loading %s", folder)
        found = f"{type(error).__name__}: {error}"
        raise RunError(f"{folder}: expected a whole model.keras, found {found}") from error


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
        raise RunError(f"{file}: expected test scores, missing {sorted(missing)}; train again")
    return Record(t, len(known.labels), len(test.labels), scores)


# ---------------------------------------------------------------------------------------------
# Answers and maps


class Answer(NamedTuple):
    """What a model or an ensemble says about a film."""

    classes: tuple[str, ...]
    raw: Floats  # (3,) probabilities as the networks give them
    calibrated: Floats  # (3,) after temperature scaling
    unlike: bool | None  # unlike the training films of a member; None where no member can tell

    @property
    def called(self) -> int:
        """Index of the likeliest class, which calibration does not change."""
        return int(self.raw.argmax())


def answer(members: Sequence[Member], temperature: float, film: Film) -> Answer:
    """Probabilities of a film and whether it is unlike the films of the training."""
    with _ONE_AT_A_TIME:
        # Not predict, which would compile each network first.
        each = [np.asarray(m.network(m.pixels(film), training=False), float) for m in members]
    raw = soft_vote(each)
    flags = [bool(m.novelty.is_new(m.pixels(film))[0]) for m in members if m.novelty]
    classes = tuple(members[0].run.info["class_names"])
    return Answer(classes, raw[0], tempered(raw, temperature)[0], any(flags) if flags else None)


class Map(NamedTuple):
    """A saliency map (h, w), raw; None where it is flat and shows nothing."""

    title: str
    cam: Maps | None


def explain(members: Sequence[Member], film: Film, method: str, target: int) -> list[Map]:
    """The maps of a film for a class: one for each branch of a model.

    Of an ensemble first the mean, in which every member counts the same, then those of the members.
    Raises `CamError` where the method cannot work on a network.
    """
    looks = [(m, title, layer) for m in members for title, layer in _looks(m, method)]
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)  # a flat map is told in its own line
        if len(members) == 1:
            member, x = members[0], members[0].pixels(film)
            explained = METHODS[method]
            return [
                _map(title, explained(member.network, x, target=target, layer=layer, flat="nan"))
                for _, title, layer in looks
            ]
        networks, layers = [m.network for m, _, _ in looks], [layer for _, _, layer in looks]
        films = [m.pixels(film) for m, _, _ in looks]
        weights = [1 / sum(other is m for other, _, _ in looks) for m, _, _ in looks]
        found = ensemble_maps(networks, films, target, method, layers, weights, flat="nan")
    maps = [_map(title, cam) for (_, title, _), cam in zip(looks, found.members, strict=True)]
    return [_map("mean of the members", found.mean), *maps]


def _looks(member: Member, method: str) -> list[tuple[str, str | None]]:
    """Title and layer of each branch of a network; methods on pixels have no layer."""
    if method in PIXEL_METHODS:
        return [(member.title, None)]
    layers = map_layers(member.run, member.network)
    of = {branch: f", {title_of(branch)} branch" * (len(layers) > 1) for branch in layers}
    return [(f"{member.title}{of[b]}, layer {layer}", layer) for b, layer in layers.items()]


def _map(title: str, maps: Maps) -> Map:
    return Map(title, None if np.isnan(maps[0]).any() else maps[0])


# ---------------------------------------------------------------------------------------------
# The first runs


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
