"""How much is luck? Trainings that differ in their seed, in their split, or in how many patients.

    python book/luck.py draw HOME                a pool of simulated knees without planted faults
    python book/luck.py one HOME NUMBER          one training of the list, see `trainings`
    python book/luck.py collect HOME OUT         the table, for data/reference/luck.csv

The jobs of book/study.smk, `snakemake luck`; a training that was killed goes on where it stopped.
Split: 640 patients in five folds, each in turn the test part and the next one the validation part.
Patients: the test and the validation part stay, and more and more others train.
"""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from osteo_utils.data.images import fit_square, read_image
from osteo_utils.data.splits import PARTS
from osteo_utils.networks.training import by_part, train
from osteo_utils.phantom.corpus import make_simulated, read_truth
from osteo_utils.registry import get_profile, recipe
from osteo_utils.runs import is_complete, read_run, run_folder
from osteo_utils.store import replace_file

MODELS: Final = ("custom_cnn", "vgg16", "resnet50")
FOLDS: Final = 5
POOL: Final = 640  # patients of the split design
HELD: Final = {"test": 400, "validation": 128}  # patients of the patients design
TRAINED: Final = (100, 200, 400, 800, 1600)


@dataclass(frozen=True)
class Training:
    """One training of the study.

    Attributes:
        design: "split" or "patients".
        model: Name of the architecture.
        seed: Of the training.
        fold: That is the test part; 0 in the other design.
        patients: In the training part.
    """

    design: str
    model: str
    seed: int
    fold: int
    patients: int

    @property
    def name(self) -> str:
        """As its folder is called."""
        return f"{self.design}-{self.patients}-fold{self.fold}"


def trainings() -> list[Training]:
    """All of them, the cheap ones first."""
    seeds = range(3)
    size = POOL * (FOLDS - 2) // FOLDS
    split = [Training("split", m, s, f, size) for f in range(FOLDS) for s in seeds for m in MODELS]
    more = [Training("patients", m, s, 0, n) for n in TRAINED for s in seeds for m in MODELS]
    return split + more


def draw(home: Path) -> None:
    """The pool as arrays: films at the size of quick, their classes and patients."""
    profile = get_profile("quick")
    patients = sum(HELD.values()) + max(TRAINED)
    root = make_simulated(home / "corpus", patients, profile.corpus_size, seed=1, faults=False)
    truth = read_truth(root)
    films = np.stack([fit_square(read_image(root / p), profile.image_size) for p in truth["path"]])
    pool: dict[str, Any] = {
        "films": films,
        "path": truth["path"].to_numpy(str),
        "label": truth["label_index"].to_numpy(np.int64),
        "group": truth["patient"].to_numpy(str),
    }
    replace_file(home / "pool.npz", lambda file: np.savez_compressed(file, **pool))


def parts_of(training: Training, patients: pd.Series) -> pd.Series:
    """The part of each film of the pool, "" for films that are in none."""
    everybody = pd.unique(patients)
    if training.design == "split":
        fold = np.arange(POOL) % FOLDS
        of = np.select(
            [fold == training.fold, fold == (training.fold + 1) % FOLDS], PARTS[:0:-1], PARTS[0]
        )
    else:
        numbers = HELD | {"train": training.patients}
        of = np.repeat(list(numbers), list(numbers.values()))
    return patients.map(dict(zip(everybody, of, strict=False))).fillna("")


def train_one(home: Path, number: int) -> None:
    """Train one of the list, as the profile quick trains."""
    training = trainings()[number]
    profile = recipe(get_profile("quick"), training.model)
    with np.load(home / "pool.npz") as pool:
        films, rows = pool["films"], pd.DataFrame({k: pool[k] for k in ("path", "label", "group")})
    rows["part"] = parts_of(training, rows["group"])
    rows["sha256"] = [hashlib.sha256(film.tobytes()).hexdigest() for film in films]
    split = rows[rows["part"] != ""].reset_index(drop=True)
    parts = by_part(films[rows["part"] != ""][..., None], split)
    train(training.model, parts, split, profile, training.seed, folder_of(home, training))


def folder_of(home: Path, training: Training) -> Path:
    """Of its run."""
    return run_folder(home / "runs", training.name, "quick", training.model, training.seed)


def collect(home: Path, out: Path) -> None:
    """A row for each finished training: its test score with the interval over patients."""
    rows = []
    for training in trainings():
        if is_complete(folder := folder_of(home, training)):
            run = read_run(folder)
            score = run.metrics["test"]["balanced_accuracy"]
            ends = {key: round(score[key], 4) for key in ("value", "low", "high")}
            facts = {key: run.info[key] for key in ("epochs_run", "ended_by", "seconds")}
            rows.append(vars(training) | ends | facts)
    replace_file(out, lambda file: pd.DataFrame(rows).to_csv(file, index=False))
    print(f"{len(rows)} of {len(trainings())} trainings are whole: {out}")


def main() -> None:
    """The steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("step", choices=("draw", "one", "collect"))
    parser.add_argument("home", type=Path)
    parser.add_argument("rest", nargs="*")
    asked = parser.parse_args()
    steps: dict[str, Callable[..., None]] = {
        "draw": draw,
        "one": lambda home, number: train_one(home, int(number)),
        "collect": lambda home, out: collect(home, Path(out)),
    }
    steps[asked.step](asked.home, *asked.rest)


if __name__ == "__main__":
    main()
