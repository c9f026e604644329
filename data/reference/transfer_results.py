"""What features of MobileNetV2 from ImageNet tell of phantom films and of real ones.

Usage, from the root: python data/reference/transfer_results.py FOLDER WEIGHTS WORK

FOLDER holds the Mendeley set, WEIGHTS the file of MobileNetV2 without top for alpha 0.35 as Keras
names it: the original weights. WORK keeps the simulated corpus, its split, all features and all
answers, so that a second call goes on where the first was stopped. Writes transfer_films.csv,
transfer_answers.csv and transfer_results.csv, anew after each network. A quarter of an hour on one
core.

A frozen network measures each film: the means of the maps of a layer. A logistic regression is
trained on them, its strength chosen inside the training films. The control is the same network with
random weights, drawn twice. Simulated films: the split of quick, scored on its test part; for fewer
patients than all, four draws of them. Real films: as in mendeley_results.py, whole films.
Intervals: percentiles of a bootstrap over patients (simulated) or films (real) of the score
averaged over draws, repeats and random networks.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import keras
import mendeley_results as mendeley
import numpy as np
import pandas as pd

from osteo_utils.course import arrays, open_course, split
from osteo_utils.data.audit import audit
from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.images import fit_square, read_image
from osteo_utils.scoring.evaluate import interval_ends, mean_recall, multiplicities

HERE, SIDE = Path(__file__).parent, 224
LAYERS = (
    "block_1_expand_relu",
    "block_3_expand_relu",
    "block_6_expand_relu",
    "block_13_expand_relu",
    "out_relu",
)
LAST, MIDDLE = LAYERS[-1], LAYERS[2]
NETWORKS = [("ImageNet", 0), ("random", 0), ("random", 1)]  # weights and seed
FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
PATIENTS, DRAWS, RESAMPLES = (30, 100), 4, 2000
SETTING = ["films", "layer", "weights", "patients"]  # what a score is of


class Films(NamedTuple):
    """A set of films: pictures (n, 224, 224), those that train, and what is scored."""

    pictures: np.ndarray
    train: pd.DataFrame  # label and group of the first pictures; empty for cross-validation
    scored: pd.DataFrame  # films, path, label and group of the others


def simulated(work: Path) -> Films:
    """Train and test part of the profile quick."""
    course = open_course("quick", runs=work / "runs")
    table, parts = split(course), arrays(course, SIDE)
    train, test = (
        table[table["part"] == part].reset_index(drop=True) for part in ("train", "test")
    )
    pictures = np.concatenate([parts["train"][0], parts["test"][0]])[..., 0]
    return Films(pictures, train, test.assign(films="simulated"))


def real(folder: Path) -> Films:
    """The distinct films of the Mendeley set."""
    images = audit(folder, list_corpus(folder)).images.query("keep").reset_index(drop=True)
    pictures = np.array([fit_square(read_image(folder / path), SIDE) for path in images["path"]])
    return Films(pictures, images[:0], images.assign(group=images.index, films="real"))


def features(films: np.ndarray, network: tuple, weights: Path, kept: Path) -> dict:
    """What a network measures on the films (n, 224, 224), by layer; from `kept` if it is there."""
    if not kept.exists():
        name, seed = network
        keras.utils.set_random_seed(seed)
        whole = keras.applications.MobileNetV2(
            (SIDE, SIDE, 3),
            alpha=0.35,
            include_top=False,
            weights=str(weights / FILE) if name == "ImageNet" else None,
        )
        mean = keras.layers.GlobalAveragePooling2D()
        means = {layer: mean(whole.get_layer(layer).output) for layer in LAYERS}
        model = keras.Model(whole.input, means)
        measured = [
            model.predict_on_batch(np.repeat(part[..., None], 3, axis=-1) / np.float32(127.5) - 1)
            for part in np.array_split(films, len(films) // 32)
        ]
        half = kept.with_suffix(".part.npz")
        np.savez(half, **{k: np.concatenate([m[k] for m in measured]) for k in LAYERS})
        half.rename(kept)
    with np.load(kept) as found:
        return {layer: found[layer] for layer in LAYERS}


def held_out(found: dict, films: Films) -> list[tuple]:
    """Layer, number of patients, draw and answers on the test part."""
    y, groups = films.train["label"].to_numpy(), films.train["group"].to_numpy()
    patients, rows = np.unique(groups), []
    for layer, values in found.items():
        known, asked = values[: len(y)], values[len(y) :]
        sizes = [(len(patients), 1)]
        sizes += [(some, DRAWS) for some in PATIENTS if layer in (MIDDLE, LAST)]
        for some, draws in sizes:
            for draw in range(draws):
                rng = np.random.default_rng((some, draw))
                of = np.isin(groups, rng.choice(patients, some, replace=False))
                model = mendeley.fitted(known[of], y[of], groups[of])
                rows.append((layer, some, draw, model.predict(asked)))
    return rows


def cross_validated(found: dict, films: Films) -> list[tuple]:
    """Layer, number of films, repeat and out-of-fold answers."""
    labels, one = films.scored["label"].to_numpy(), films.scored.index.to_numpy()
    return [
        (layer, len(labels), repeat, answers)
        for layer in (LAST,)
        for repeat, answers in enumerate(mendeley.out_of_fold(found[layer], one, labels))
    ]


def answered(films: Films, network: tuple, weights: Path, work: Path) -> pd.DataFrame:
    """Every answer of a network on a set of films; from WORK if it is there."""
    name = "-".join(map(str, (films.scored["films"].iloc[0], *network)))
    kept = work / f"{name}.csv"
    if not kept.exists():
        found = features(films.pictures, network, weights, work / f"{name}.npz")
        rows = (cross_validated if films.train.empty else held_out)(found, films)
        table = pd.DataFrame(rows, columns=["layer", "patients", "draw", "answers"])
        table["answers"] = ["".join(map(str, each)) for each in table["answers"]]
        table = table.assign(films=films.scored["films"].iloc[0])
        table["weights"], table["seed"] = network
        table[[*SETTING, "seed", "draw", "answers"]].to_csv(kept, index=False)
        print(name, flush=True)
    return pd.read_csv(kept, dtype={"answers": str})


def scored(films: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Balanced accuracy of each setting with its interval, and that of ImageNet minus random.

    Args:
        films: Columns films, label and group.
        answers: Columns of `SETTING`, and answers, one digit a film.

    Returns:
        Columns of `SETTING`, value, low and high.
    """
    rows = []
    for key, drawn in answers.groupby([name for name in SETTING if name != "weights"]):
        mine = films[films["films"] == key[0]]
        labels = mine["label"].to_numpy()
        weights = multiplicities(mine["group"].to_numpy(), len(mine), RESAMPLES, 0)
        weights = np.vstack([np.ones(len(mine)), weights])
        means = {}
        for name, each in drawn.groupby("weights"):
            hits = np.array([[int(c) for c in text] == labels for text in each["answers"]])
            means[name] = mean_recall(labels, hits.mean(axis=0)[:, None], weights)[:, 0]
        if len(means) == 2:
            means["difference"] = means["ImageNet"] - means["random"]
        for name, values in means.items():
            ends = interval_ends(values[1:], 0.025, 0.975)
            rows.append((*key[:2], name, key[2], values[0], *ends))
    return pd.DataFrame(rows, columns=[*SETTING, "value", "low", "high"])


if __name__ == "__main__":
    folder, weights, work = map(Path, sys.argv[1:])
    work.mkdir(parents=True, exist_ok=True)
    sets, answers = [simulated(work), real(folder)], []
    films = pd.concat([each.scored for each in sets])[["films", "path", "label", "group"]]
    films.to_csv(HERE / "transfer_films.csv", index=False)
    for network in NETWORKS:
        answers += [answered(each, network, weights, work) for each in sets]
        table = pd.concat(answers)
        table.to_csv(HERE / "transfer_answers.csv", index=False)
        scored(films, table).round(4).to_csv(HERE / "transfer_results.csv", index=False)
