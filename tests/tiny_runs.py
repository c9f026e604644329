"""Finished runs of tiny networks, or of none, for tests; read like any other."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from tiny_films import encoded

from osteo_utils import runs
from osteo_utils.course import Course, split
from osteo_utils.data.corpus import corpus_name
from osteo_utils.data.splits import split_identity
from osteo_utils.networks.training import method_of
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS, Run, probabilities, run_folder, write_run
from osteo_utils.scoring.evaluate import bootstrap

LABELS = np.repeat([0, 1, 2], 4)


def png(seed: int = 0, shape: tuple[int, int] = (50, 40)) -> bytes:
    """A file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def tiny_model(size: int, seed: int) -> keras.Model:
    """A network of one convolution with answers that depend on the film."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((size, size, 1), dtype="uint8")
    maps = keras.layers.Rescaling(1 / 64)(pixels)
    maps = keras.layers.Conv2D(6, 5, strides=2, activation="relu", name="maps")(maps)
    vector = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(vector))


def rows_of(labels: npt.ArrayLike, p: npt.ArrayLike) -> pd.DataFrame:
    """Predictions (n, 3) for films of these labels, a group each, the same in both parts."""
    y, n = np.asarray(labels), len(np.asarray(labels))
    films = {"path": [f"{i}.png" for i in range(n)], "group": [f"g{i}" for i in range(n)]}
    columns = dict(zip(PROBABILITY_COLUMNS, np.asarray(p).T, strict=True))
    rows = pd.DataFrame(films | {"label": y} | columns)
    return pd.concat([rows.assign(part=part) for part in ("validation", "test")])


def scores_of(rows: pd.DataFrame) -> dict[str, Any]:
    """The metrics of each part, as a training writes them."""
    return {
        part: json.loads(
            bootstrap(each["label"], probabilities(each), each["group"], 50).to_json(orient="index")
        )
        for part, each in rows.groupby("part")
    }


def make_run(
    runs: Path,
    model: str = "custom_cnn",
    size: int = 32,
    seed: int = 0,
    *,
    folder: Path | None = None,
    trained: keras.Model | None = None,
    rows: pd.DataFrame | None = None,
    metrics: dict[str, Any] | None = None,
    history: pd.DataFrame | None = None,
    **info: Any,
) -> Run:
    """A finished run in its place below `runs`, or in `folder`; `info` goes into run.json.

    Without `trained` it is a tiny one; without `rows` some of twelve films are called right.
    """
    if rows is None:
        called = LABELS.copy()
        called[:: 3 + seed] = 1
        rows = rows_of(LABELS, 0.05 + 0.85 * np.eye(3)[called])
    facts = {"class_names": list(CLASS_NAMES), "model": model, "preprocessing": "0..4"}
    facts |= {"image_size": size, "seed": seed, "split_hash": "a" * 64}
    facts |= {"corpus": "simulated", "profile": "smoke", "versions": {"keras": "3"}} | info
    return write_run(
        folder or run_folder(runs, facts["corpus"], facts["profile"], model, seed),
        facts,
        trained or tiny_model(size, seed),
        rows,
        scores_of(rows) if metrics is None else metrics,
        pd.DataFrame({"epoch": [1], "loss": [1.0]}) if history is None else history,
    )


def fitting_run(course: Course, model: str, seed: int = 0, **changes: Any) -> Run:
    """A run whose record says that it fits the course, but for the `changes`; it has no network."""
    name, parts = corpus_name(course.corpus), split(course)
    folder = run_folder(course.runs, name, course.profile.name, model, seed)
    method = method_of(model, course.recipe(model))
    info = runs.settings_of(method, split_identity(parts), seed, folder) | changes
    rows = parts.loc[parts["part"] != "train", ["path", "group", "part", "label"]]
    p = (0.1 + 0.7 * np.eye(3))[rows["label"]]
    rows = rows.assign(**dict(zip(PROBABILITY_COLUMNS, p.T, strict=True)))
    network = SimpleNamespace(save=lambda part: part.write_bytes(b"none"))
    return write_run(folder, info, network, rows, {}, pd.DataFrame({"epoch": [1]}))
