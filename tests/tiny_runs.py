"""Finished runs of tiny networks, or of none, for tests; read like any other."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd

from osteo_utils.course import Course, split
from osteo_utils.data.corpus import corpus_name
from osteo_utils.data.splits import split_identity
from osteo_utils.networks.training import method_of
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS, Run, run_folder, settings_of, write_run
from osteo_utils.scoring.evaluate import bootstrap

LABELS = np.repeat([0, 1, 2], 4)


def tiny_model(size: int, seed: int) -> keras.Model:
    """A network of one convolution with answers that depend on the film."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((size, size, 1), dtype="uint8")
    maps = keras.layers.Rescaling(1 / 64)(pixels)
    maps = keras.layers.Conv2D(6, 5, strides=2, activation="relu", name="maps")(maps)
    vector = keras.layers.GlobalAveragePooling2D()(maps)
    return keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(vector))


def make_run(runs: Path, model: str, size: int, seed: int = 0, split_hash: str = "a" * 64) -> Run:
    """A run that calls some films right; both parts hold the same twelve films."""
    called = LABELS.copy()
    called[:: 3 + seed] = 1
    p = 0.05 + 0.85 * np.eye(3)[called]
    films = {"path": [f"{i}.png" for i in range(12)], "group": [f"g{i}" for i in range(12)]}
    rows = pd.DataFrame(
        films | {"label": LABELS} | dict(zip(PROBABILITY_COLUMNS, p.T, strict=True))
    )
    predictions = pd.concat([rows.assign(part=part) for part in ("validation", "test")])
    scores = json.loads(bootstrap(LABELS, p, rows["group"], 50).to_json(orient="index"))
    info = {"class_names": list(CLASS_NAMES), "model": model, "preprocessing": "0..4"}
    info |= {"image_size": size, "seed": seed, "split_hash": split_hash}
    info |= {"corpus": "simulated", "profile": "smoke", "versions": {"keras": "3"}}
    history = pd.DataFrame({"epoch": [1], "loss": [1.0]})
    folder = runs / "simulated" / "smoke" / model / f"seed{seed}"
    both = {"validation": scores, "test": scores}
    return write_run(folder, info, tiny_model(size, seed), predictions, both, history)


def fitting_run(course: Course, model: str, seed: int = 0, **changes: Any) -> Run:
    """A run whose record says that it fits the course, but for the `changes`; it has no network."""
    name, parts = corpus_name(course.corpus), split(course)
    folder = run_folder(course.runs, name, course.profile.name, model, seed)
    method = method_of(model, course.recipe(model))
    info = settings_of(method, split_identity(parts), seed, folder) | changes
    rows = parts.loc[parts["part"] != "train", ["path", "group", "part", "label"]]
    p = (0.1 + 0.7 * np.eye(3))[rows["label"]]
    rows = rows.assign(**dict(zip(PROBABILITY_COLUMNS, p.T, strict=True)))
    network = SimpleNamespace(save=lambda part: part.write_bytes(b"none"))
    return write_run(folder, info, network, rows, {}, pd.DataFrame({"epoch": [1]}))
