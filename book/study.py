"""The reference study: ten networks of published width, trained until they stop improving.

    python book/study.py pack INPUTS               split and films of the quick corpus, as arrays
    python book/study.py train INPUTS RUNS         a process for each network, side by side
    python book/study.py one INPUTS RUNS MODEL     one network
    python book/study.py collect INPUTS RUNS OUT   the small results, for data/reference/study

`make study` runs these steps as the jobs of book/study.smk, here or on a cluster; `train` is for a
machine without Snakemake. TensorFlow and JAX will do (KERAS_BACKEND), and what is whole is never
trained again: start `train` again after a stop. INPUTS may travel to a machine that has neither
corpus nor internet.
"""

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from osteo_utils.data.splits import PARTS, SplitError, read_split, split_identity, write_split
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import ARCHITECTURES, STUDIES, STUDY, Profile, recipe
from osteo_utils.runs import (
    PROBABILITY_COLUMNS,
    Run,
    RunError,
    differences,
    is_complete,
    no_longer_fits,
    probabilities,
    read_run,
    run_folder,
    settings_of,
)
from osteo_utils.store import replace_file
from osteo_utils.study import read_predictions

FILMS_A_CLASS: Final = 4  # whose maps are kept
FILM_COLUMNS: Final = ["path", "part", "label", "group"]
CHECKPOINT_SECONDS: Final = 120.0


def pack(inputs: Path, study: Profile = STUDY) -> None:
    """Write split and films at the study's size, of the corpus of quick; of the smoke study its."""
    from osteo_utils.course import arrays, open_course, split

    course, size = open_course("quick" if study is STUDY else "smoke"), study.image_size
    inputs.mkdir(parents=True, exist_ok=True)
    rows = split(course)
    (inputs / "split.csv").unlink(missing_ok=True)
    write_split(rows, inputs / "split.csv")
    parts: dict[str, Any] = {part: images for part, (images, _) in arrays(course, size).items()}
    parts["films"] = np.array(rows.attrs["films"])
    replace_file(inputs / "films.npz", lambda file: np.savez_compressed(file, **parts))


def read_inputs(inputs: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Films and labels of each part as `training.load_parts` gives them, and the split."""
    split = read_split(inputs / "split.csv")
    with np.load(inputs / "films.npz") as films:
        if str(films["films"]) != split.attrs["films"]:
            raise SplitError(inputs, "the films that were split", "others", "Pack them again.")
        labels = {p: split.loc[split["part"] == p, "label"].to_numpy(np.int64) for p in PARTS}
        return {part: (films[part], labels[part]) for part in PARTS}, split


def train_side_by_side(
    inputs: Path,
    runs: Path,
    models: list[str],
    seeds: list[int],
    jobs: int,
    study: Profile = STUDY,
) -> None:
    """A process for each network, `jobs` at a time, a fusion after its members.

    Their words go into a log each. `SystemExit` names those that did not finish.
    """
    runs.mkdir(parents=True, exist_ok=True)
    started: dict[str, Future[int]] = {}

    def process(model: str) -> int:
        members = ARCHITECTURES[model].members
        if any(started[member].result() for member in members if member in started):
            return 1
        name = next(name for name, known in STUDIES.items() if known == study)
        command = [sys.executable, __file__, "--study", name, "one", str(inputs), str(runs), model]
        command += ["--seeds", *map(str, seeds)]
        with (runs / f"{model}.log").open("a", encoding="utf-8") as log:
            return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode

    with ThreadPoolExecutor(jobs) as pool:
        # Fusions last, so that no member waits for a free worker.
        for model in sorted(models, key=lambda model: bool(ARCHITECTURES[model].members)):
            started[model] = pool.submit(process, model)
    if failed := [model for model, code in started.items() if code.result()]:
        raise SystemExit(f"{', '.join(failed)}: not finished, see the logs in {runs}")


def train_one(
    inputs: Path, runs: Path, model: str, seeds: Sequence[int], study: Profile = STUDY
) -> None:
    """Train a network with each seed and keep its maps of twelve test films."""
    from osteo_utils.networks.training import train

    parts, split = read_inputs(inputs)
    profile = recipe(study, model)
    for seed in seeds:
        folder = run_folder(runs, "simulated", STUDY.name, model, seed)
        run = train(
            *(model, parts, split, profile, seed, folder),
            checkpoint_seconds=CHECKPOINT_SECONDS,
        )
        keep_maps(run, *parts["test"])
        score = run.metrics["test"]["balanced_accuracy"]["value"]
        told = {key: run.info[key] for key in ("epochs_run", "best_epoch", "ended_by", "seconds")}
        print(f"{model}, seed {seed}: {score:.3f} on test, {told}", flush=True)


def keep_maps(run: Run, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> None:
    """Write layer-CAM maps of the class each of twelve test films is given, coarse and fine.

    A map that shows nothing is 0 throughout.
    """
    from osteo_utils.saliency.gradcam import CamWarning, layer_cam, maps_of_run

    model = load_model(run)
    rows = np.concatenate([np.flatnonzero(labels == c)[:FILMS_A_CLASS] for c in np.unique(labels)])
    found: dict[str, Any] = {"rows": rows}
    with warnings.catch_warnings(action="ignore", category=CamWarning):
        for branch, coarse in maps_of_run(run, model).items():
            for grain, layer in (("coarse", coarse), ("fine", fine_layer(branch, coarse))):
                maps = layer_cam(model, images[rows], layer=layer, flat="nan")
                found[f"{branch}/{layer}/{grain}"] = np.nan_to_num(maps)
    half = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in found.items()}
    replace_file(run.folder / "maps.npz", lambda file: np.savez_compressed(file, **half))


def fine_layer(branch: str, coarse: str) -> str:
    """The layer of a branch's fine maps, as its model names it."""
    prefix = f"{branch}_" if coarse.startswith(f"{branch}_") else ""
    return f"{prefix}{ARCHITECTURES[branch].fine_conv}"


def collect(inputs: Path, runs: Path, out: Path, study: Profile = STUDY) -> None:
    """Write the small results of all whole runs into one folder and say which are missing.

    Raises `RunError` for a run of another network, recipe or split than the study's.
    """
    parts, split = read_inputs(inputs)
    wanted = [
        (model, seed, run_folder(runs, "simulated", STUDY.name, model, seed))
        for model in ARCHITECTURES
        for seed in study.seeds
    ]
    whole = [fitting_run(*each, split, study) for each in wanted if is_complete(each[2])]
    if missing := [f"{model}, seed {seed}" for model, seed, f in wanted if not is_complete(f)]:
        print(f"Without {'; '.join(missing)}: not trained.")
    if not whole:
        raise RunError(runs, "trained networks of the study", "none", "Train them first.")
    keys = [{"model": run.info["model"], "seed": run.info["seed"]} for run in whole]
    out.mkdir(parents=True, exist_ok=True)

    def table(name: str, frames: list[pd.DataFrame]) -> None:
        rows = [frame.assign(**key) for frame, key in zip(frames, keys, strict=True)]
        all_rows = pd.concat(rows, ignore_index=True)
        first = [*keys[0], *(c for c in all_rows.columns if c not in keys[0])]
        replace_file(out / name, lambda file: all_rows[first].to_csv(file, index=False))

    films = whole[0].predictions[FILM_COLUMNS].rename_axis("film").reset_index()
    replace_file(out / "films.csv", lambda file: films.to_csv(file, index=False))
    table("predictions.csv", [by_film(run.predictions, films) for run in whole])
    table("history.csv", [run.history.round(6) for run in whole])
    shipped = read_predictions(out)
    of_run = [(shipped[list(key)] == pd.Series(key)).all(axis=1) for key in keys]
    scores = [scores_of(shipped[rows], key["seed"]) for rows, key in zip(of_run, keys, strict=True)]
    table("scores.csv", scores)
    text = json.dumps([run.info for run in whole], indent=1) + "\n"
    replace_file(out / "runs.json", lambda file: file.write_text(text, encoding="utf-8"))
    maps: dict[str, Any] = {}
    for run, key in zip(whole, keys, strict=True):
        with np.load(run.folder / "maps.npz") as found:
            maps |= {f"{key['model']}/seed{key['seed']}/{name}": found[name] for name in found}
            maps["films"] = parts["test"][0][found["rows"]]  # phantoms, so that they may be shown
    replace_file(out / "maps.npz", lambda file: np.savez_compressed(file, **maps))


def fitting_run(model: str, seed: int, folder: Path, split: pd.DataFrame, study: Profile) -> Run:
    """The run in a folder, held against what would be trained there now."""
    from osteo_utils.networks.training import method_of

    run = read_run(folder)
    expected = settings_of(
        method_of(model, recipe(study, model)), split_identity(split), seed, folder
    )
    if changed := differences(run.info, expected):
        raise no_longer_fits(folder, changed)
    return run


def by_film(predictions: pd.DataFrame, films: pd.DataFrame) -> pd.DataFrame:
    """The probabilities of each film under its number in `films.csv`."""
    rows = films.merge(predictions, on=FILM_COLUMNS, validate="one_to_one")
    if not len(rows) == len(films) == len(predictions):
        raise ValueError("expected runs on the same films, found others")
    return rows[["film", *PROBABILITY_COLUMNS]].round(5)


def scores_of(predictions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Every score of validation and test with its interval over patients."""
    from osteo_utils.scoring.evaluate import bootstrap

    found = {
        part: bootstrap(rows["label"], probabilities(rows), rows["group"], STUDY.resamples, seed)
        for part, rows in predictions.groupby("part", sort=False)
    }
    return pd.concat(found, names=["part", "score"]).round(6).reset_index()


def main() -> None:
    """The steps; `one` is what `train` starts for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--study", choices=STUDIES, default="study")
    steps = parser.add_subparsers(dest="step", required=True)
    for step, paths in (
        ("pack", ["inputs"]),
        ("train", ["inputs", "runs"]),
        ("one", ["inputs", "runs", "model"]),
        ("collect", ["inputs", "runs", "out"]),
    ):
        command = steps.add_parser(step)
        for path in paths:
            command.add_argument(path, type=str if path == "model" else Path)
        if step in ("train", "one"):
            command.add_argument("--seeds", type=int, nargs="+")
        if step == "train":
            jobs = max(1, (os.cpu_count() or 1) // 2)
            every = list(ARCHITECTURES)
            command.add_argument("--models", nargs="+", choices=every, default=every)
            command.add_argument("--jobs", type=int, default=jobs)
    asked = vars(parser.parse_args())
    study = STUDIES[asked.pop("study")]
    if not asked.get("seeds", True):
        asked["seeds"] = list(study.seeds)
    work: dict[str, Callable[..., None]] = {
        "pack": pack,
        "train": train_side_by_side,
        "one": train_one,
        "collect": collect,
    }
    work[asked.pop("step")](**asked, study=study)


if __name__ == "__main__":
    main()
