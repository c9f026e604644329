"""The leakage laboratory: deal films under one protocol or another, and keep what each one claims.

Every repeat has phantom patients of its own (`new_patients`). The *study* is what an author holds:
every file of some of them, copies included. The *world* is the other patients, one file for each
radiograph: whoever will be met after the study. A protocol
claims a score inside the study; the world says what the same model is worth. Their difference,
the optimism, is what the protocol's faults add (Kapoor & Narayanan 2023 list such faults).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import t as student

from osteo_utils.data.corpus import list_corpus
from osteo_utils.data.images import load_arrays
from osteo_utils.data.splits import PARTS, make_split
from osteo_utils.networks.models import seeded
from osteo_utils.phantom.corpus import make_simulated, read_truth
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.scoring.evaluate import SMALLEST, balanced_accuracy
from osteo_utils.store import replace_file

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FRACTIONS: Final = (0.5, 0.2, 0.3)  # a large test part: here the score is the measurement
KIN: Final = ("copy", "other knee", "nobody")  # of a test film, among the training films


@dataclass(frozen=True)
class Protocol:
    """How a study is dealt: which files, what must stay in one part, and whether each is doubled.

    `unit` is a column of the table of an audit ("group", "patient"), or "image" for each file by
    itself. `twice` takes half of the patients and every film of theirs two times, byte for byte.
    """

    audited: bool
    unit: Literal["group", "patient", "image"]
    twice: bool = False


def new_patients(
    patients: int, size: int, seed: int
) -> tuple[npt.NDArray[np.uint8], pd.DataFrame, pd.DataFrame]:
    """Phantom patients whom nobody has met: their films, the table of an audit, the true record.

    The audit is perfect: `group` is the person, `keep` is false for every planted copy. `patient`
    is what the metadata say, where a copy looks like somebody new. Every fifth patient of each
    class from the sites A and B becomes one of site "D", which differs in nothing but the name: a
    place that a study can leave out. Films are uint8 (n, size, size, 1); all have the same rows.
    """
    with TemporaryDirectory() as folder:
        root = make_simulated(Path(folder, "corpus"), patients, size, seed)
        truth, images = read_truth(root), list_corpus(root)
        films = load_arrays([root / path for path in truth["path"]], size)[..., None]
    images = images.set_index("path").loc[truth["path"]].reset_index()
    images["group"] = pd.factorize(truth["patient"])[0]
    images["keep"] = (truth["fault"] == "").to_numpy()
    people = truth[truth["site"] != "C"].drop_duplicates("patient")
    fifth = people.loc[people.groupby("label_index").cumcount() % 5 == 0, "patient"]
    truth.loc[truth["patient"].isin(fifth), "site"] = "D"
    return films, images, truth


def spectra(films: npt.NDArray[np.uint8], rings: int = 10, directions: int = 6) -> Floats:
    """Log power of the middle of each film by ring (coarse to fine) and direction.

    Shape (n, (`rings` - 1) x `directions`): the innermost ring is layout, not grain.
    """
    edge = films.shape[1] // 8
    middle = films[:, edge:-edge, edge:-edge, 0].astype(np.float32)
    middle = middle - middle.mean(axis=(1, 2), keepdims=True)
    middle /= np.maximum(middle.std(axis=(1, 2), keepdims=True), 1e-6)
    taper = np.hanning(middle.shape[1])
    power = np.abs(np.fft.rfft2(middle * np.outer(taper, taper))) ** 2
    cell = spectrum_cells(len(taper), rings, directions).ravel()
    sums = np.array([np.bincount(cell, each.ravel(), rings * directions) for each in power])
    return np.log(sums / np.maximum(np.bincount(cell), 1) + 1e-3)[:, directions:]


def spectrum_cells(side: int, rings: int = 10, directions: int = 6) -> Ints:
    """For each frequency of `numpy.fft.rfft2` of a square: ring times `directions` + direction."""
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    ring = np.minimum(np.hypot(y, x) * 2 * rings, rings - 1).astype(int)
    angle = (np.mod(np.arctan2(y, x), np.pi) / np.pi * directions).astype(int) % directions
    return np.asarray(ring * directions + angle)


def study_and_world(truth: pd.DataFrame, seed: int, share: float = 0.6) -> tuple[Ints, Ints]:
    """Rows of a study, `share` of the patients of each class, and of the world, all the others.

    `truth` is `corpus.read_truth`: a copy counts to the patient it was copied from, whatever its
    file says. The study has all files of its patients, the world only those that are no copies.
    """
    people = truth.drop_duplicates("patient").sample(frac=1, random_state=seed)
    rank = people.groupby("label_index").cumcount()
    size = people.groupby("label_index")["patient"].transform("size")
    inside = truth["patient"].isin(people.loc[rank < (share * size).round(), "patient"])
    world = ~inside & (truth["fault"] == "")
    return np.flatnonzero(inside), np.flatnonzero(world)


def deal(images: pd.DataFrame, study: Ints, protocol: Protocol, seed: int) -> dict[str, Ints]:
    """Rows of `images` (`Audit.images`) in each of PARTS, dealt from the rows of a `study`.

    The dealer is that of the course (`splits.make_split`) with its seals broken on purpose: each
    row is presented as a film of its own, so that nothing notices copies and torn patients.
    """
    rows = study[images["keep"].to_numpy()[study]] if protocol.audited else study
    if protocol.twice:
        rows = np.repeat(_half_of_the_groups(images, rows, seed), 2)
    name = np.arange(len(rows)).astype(str)
    own = pd.Series(name) if protocol.unit == "image" else images[protocol.unit].iloc[rows]
    films = pd.DataFrame({"path": name, "sha256": name, "group": own.to_numpy(), "keep": True})
    films["label"] = images["label"].to_numpy()[rows]
    part = make_split(films, FRACTIONS, seed)["part"].to_numpy()
    return {each: rows[part == each] for each in PARTS}


def _half_of_the_groups(images: pd.DataFrame, rows: Ints, seed: int) -> Ints:
    """The rows of every second group of each class, in random order of the groups."""
    groups = images.iloc[rows].drop_duplicates("group").sample(frac=1, random_state=seed)
    chosen = groups.loc[groups.groupby("label").cumcount() % 2 == 0, "group"]
    return rows[images["group"].iloc[rows].isin(chosen).to_numpy()]


def kin(truth: pd.DataFrame, parts: Mapping[str, Ints]) -> npt.NDArray[np.str_]:
    """For each test film its nearest relative (KIN) in the training part, by the true record."""
    source = truth["source"].where(truth["source"] != "", truth["path"]).to_numpy()
    person, train, test = truth["patient"].to_numpy(), parts["train"], parts["test"]
    copy = np.isin(source[test], source[train])
    return np.select([copy, np.isin(person[test], person[train])], KIN[:2], KIN[2])


def fit(
    model: keras.Model,
    films: npt.NDArray[np.uint8],
    labels: Ints,
    parts: Mapping[str, Ints],
    epochs: int,
    seed: int,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Train a compiled model anew; it keeps the weights of the epoch of lowest validation loss.

    The same compiled model serves all trainings (tracing takes longer than training here): first
    weights and optimizer are put back to a fresh start drawn from `seed`. No augmentation. Back
    comes a row an epoch: `loss` and `balanced_accuracy` of the validation part. `ValueError` where
    no epoch has a loss that is a number.
    """
    _start_again(model, seed)
    rng, history, least, best = np.random.default_rng(seed), [], np.inf, None
    for _ in range(epochs):
        _epoch(model, films, labels, rng.permutation(parts["train"]), batch_size)
        history.append(_look(model, films, labels, parts["validation"]))
        if (loss := history[-1]["loss"]) <= least:  # false for a NaN
            least, best = loss, model.get_weights()
    if best is None:
        raise ValueError(
            f"training: expected a finite validation loss in one of {epochs} epochs, found none; "
            "lower the learning rate"
        )
    model.set_weights(best)
    return pd.DataFrame(history)


def _start_again(model: keras.Model, seed: int) -> None:
    with seeded(seed):
        model.set_weights(keras.models.clone_model(model).get_weights())
    for variable in model.optimizer.variables:
        if "learning_rate" not in variable.path:
            variable.assign(np.zeros(variable.shape, variable.dtype))


def _epoch(
    model: keras.Model, films: npt.NDArray[np.uint8], labels: Ints, order: Ints, batch_size: int
) -> None:
    """One pass in full batches (one size is traced once); every class weighs the same."""
    count = np.bincount(labels[order], minlength=len(CLASS_NAMES))
    weight = len(order) / (len(CLASS_NAMES) * np.maximum(count, 1))[labels]
    for start in range(0, max(1, len(order) - batch_size + 1), batch_size):
        rows = order[start : start + batch_size]
        model.train_on_batch(films[rows], labels[rows], sample_weight=weight[rows])


def _look(
    model: keras.Model, films: npt.NDArray[np.uint8], labels: Ints, rows: Ints
) -> dict[str, float]:
    p, y = predict(model, films, rows), labels[rows]
    loss = -np.log(np.maximum(p[np.arange(len(y)), y], SMALLEST)).mean()
    return {"loss": float(loss), "balanced_accuracy": balanced_accuracy(y, p.argmax(axis=1))}


def predict(model: keras.Model, films: npt.NDArray[np.uint8], rows: Ints, size: int = 64) -> Floats:
    """Probabilities, shape (n, 3), of some rows; the last batch is padded to the one size."""
    padded = np.resize(rows, -(-len(rows) // size) * size)
    batches = [model.predict_on_batch(films[each]) for each in padded.reshape(-1, size)]
    return np.concatenate(batches)[: len(rows)].astype(float)


def judge(
    called: Ints,
    labels: Ints,
    parts: Mapping[str, Ints],
    world: Ints,
    elsewhere: Ints,
    relatives: npt.NDArray[np.str_],
) -> dict[str, float]:
    """What one trained model may claim, and what is true: balanced accuracies, and hits by kin.

    `called` is the predicted class of every row (anything where no row is asked for). `train`,
    `validation` and `test` are the scores in the study, `world` and `elsewhere` those of the rows
    outside it; `hits copy`, `films copy` and so on count the test films by their `relatives`.
    """
    asked = {**parts, "world": world, "elsewhere": elsewhere}
    row = {name: balanced_accuracy(labels[rows], called[rows]) for name, rows in asked.items()}
    hit = called[parts["test"]] == labels[parts["test"]]
    for name in KIN:
        row[f"hits {name}"] = float(hit[relatives == name].sum())
        row[f"films {name}"] = float((relatives == name).sum())
    return row


def best_of(claimed: npt.ArrayLike, true: npt.ArrayLike, k: int) -> tuple[float, float]:
    """Expected claim of the best of `k` of these runs, and what that winner is truly worth.

    The mean over all choices of `k` runs; the winner is the one that claims most. NaN where a run
    claims nothing that can be measured: nobody knows whether it would have won.
    """
    c, w = np.asarray(claimed, float), np.asarray(true, float)
    if np.isnan(c).any():
        return np.nan, np.nan
    chosen = [max(each, key=lambda i: c[i]) for each in combinations(range(len(c)), k)]
    return float(c[chosen].mean()), float(w[chosen].mean())


def jackknife(statistic: Callable[[Ints], float], repeats: int) -> tuple[float, float, float]:
    """Value and 95 % interval of a statistic of independent repeats (Tukey 1958).

    Independent are repeats with patients of their own; dealt anew from the same patients they are
    not, and the interval is too narrow (Nadeau & Bengio 2003). `statistic` takes the numbers of
    the repeats to use. Leaving out one after the other gives the standard error; the interval is
    Student's with `repeats` - 1 degrees of freedom. For a mean it is the usual interval. NaN ends
    with fewer than 3 repeats.
    """
    everyone = np.arange(repeats)
    value = statistic(everyone)
    if repeats < 3:
        return value, np.nan, np.nan
    without = np.array([statistic(np.delete(everyone, i)) for i in everyone])
    error = np.sqrt((repeats - 1) / repeats * np.square(without - without.mean()).sum())
    half = float(student.ppf(0.975, repeats - 1) * error)
    return value, value - half, value + half


def optimism(
    runs: pd.DataFrame, claim: str = "test", truth: str = "world", k: int = 1
) -> "pd.Series[float]":
    """Claimed minus true score over the repeats of one protocol, with its interval.

    `runs` has a row a repeat as `judge` gives it; `claim` and `truth` name its columns and `k` how
    many runs the reported one is the best of. A Series: claimed, true, value, low, high.
    """
    claimed, true = runs[claim].to_numpy(), runs[truth].to_numpy()

    def gap(chosen: Ints) -> float:
        return float(np.subtract(*best_of(claimed[chosen], true[chosen], k)))

    names = ("claimed", "true", "value", "low", "high")
    values = (*best_of(claimed, true, k), *jackknife(gap, len(runs)))
    return pd.Series(values, index=names)


def write_results(table: pd.DataFrame, settings: Mapping[str, Any], path: Path) -> None:
    """Write a table whole, with the settings that made it as its first line (JSON)."""
    text = "# " + json.dumps(settings) + "\n" + table.to_csv(index=False, lineterminator="\n")
    replace_file(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_results(settings: Mapping[str, Any], path: Path) -> pd.DataFrame | None:
    """The table of `write_results` if it was made with exactly these settings, otherwise None."""
    if not path.exists():
        return None
    first, _, _ = path.read_text(encoding="utf-8").partition("\n")
    return pd.read_csv(path, skiprows=1) if first == f"# {json.dumps(settings)}" else None
