"""A corpus of phantom knees, two for each patient, with planted faults and the truth about them."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from scipy.special import ndtr, ndtri

from osteo_utils.errors import CorpusError
from osteo_utils.phantom.knee import Setting
from osteo_utils.progress import progress
from osteo_utils.registry import (
    CLASS_NAMES,
    FILM,
    IMAGE_FOLDER,
    METADATA_COLUMNS,
    OSTEOPENIA_BELOW,
    OSTEOPOROSIS_AT_OR_BELOW,
    class_of_t_score,
)
from osteo_utils.store import make_folder, natural_key, rows_digest

TRUTH_COLUMNS: Final = (
    *("path", "patient", "side", "site", "t_score", "measured_t_score", "label_index"),
    *("fault", "fault_detail", "source", "relabelled"),
)
FAULTS: Final = (
    *("byte copy", "re-encoded", "resized", "re-contrasted", "mirrored", "rotated", "cropped"),
    *("padded", "inverted", "close-up", "relabelled"),  # the audit is known to miss close-ups
)
FAULT_SHARE: Final = 0.016  # of the images, for each kind of fault
# Site C saves PNG, stamps a white box, and sees mostly osteoporosis: this share of each class.
# It depends on the true T-score, not on the label, so it adds nothing to the best possible.
SITE_C_SHARE: Final = (0.03, 0.03, 0.3)
SUFFIXES: Final = {"A": ".jpg", "B": ".JPEG", "C": ".png"}
CORPUS_VERSION: Final = 3  # raise it when the same settings give other files


@dataclass(frozen=True)
class Population:
    """True T-scores, normal and clipped; the label comes from a measurement with normal error.

    Attributes:
        mean: Of the normal distribution, in standard deviations of healthy young adults.
        sd: Standard deviation of it.
        lowest: What lower T-scores are clipped to.
        highest: What higher T-scores are clipped to.
        error: Standard deviation of the measured T-score around the true one.
    """

    mean: float = -1.6
    sd: float = 1.5
    lowest: float = -5.0
    highest: float = 3.0
    error: float = 0.25


def corpus_info(root: Path) -> dict[str, Any]:
    """What the maker of a simulated corpus wrote down.

    Without truth.csv beside it, a corpus.json is another program's.

    Args:
        root: Folder of the corpus.

    Returns:
        Content of corpus.json; {} for any other corpus.

    Raises:
        CorpusError: The file cannot be read, or lacks the score that is best possible.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     corpus_info(Path(root))
        {}
    """
    file = root / "corpus.json"
    if not (file.is_file() and (root / "truth.csv").is_file()):
        return {}
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        if "settings" not in info:  # another program's
            return {}
        float(info["best_possible"]["balanced_accuracy"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "Restore it, or move the folder away: then the corpus is made anew."
        raise CorpusError(file, "the settings of a simulated corpus", repr(error), remedy) from None
    return info  # type: ignore[no-any-return]


def make_simulated(
    root: Path | str,
    patients: int,
    size: int,
    seed: int = 0,
    faults: bool = True,
    workers: int | None = None,
) -> Path:
    """Make a corpus of phantom knees, two for each patient.

    Beside the images: metadata.csv (what a hospital would export; copies look like new patients),
    truth.csv, `masks/<path>.png` (bit i = phantom.MASKS[i]) and corpus.json. The same arguments
    give the same bytes with the same packages, whatever the number of workers.

    Args:
        root: Folder of the corpus. A whole corpus made with the same settings is returned as it is.
        patients: How many there are, at least 10.
        size: Side of the images in pixels, at least 32.
        seed: Of everything that is drawn.
        faults: Whether copies of each kind of `FAULTS` are planted.
        workers: Number of processes; None for as many as there are cores, or one for a small
            corpus.

    Returns:
        The folder.

    Raises:
        CorpusError: There are fewer patients or pixels, or anything else is at `root`.
    """
    root = Path(root)
    if patients < 10 or size < 32:
        expected = "at least 10 patients and 32 pixels"
        raise CorpusError(root, expected, f"{patients} and {size}", "Ask for more.")
    settings: dict[str, Any] = {"patients": patients, "size": size, "seed": seed, "faults": faults}
    settings |= {"population": asdict(Population()), "version": CORPUS_VERSION}
    if root.exists():
        found = corpus_info(root).get("settings", "no corpus.json with its settings")
        if found != settings:
            remedy = "Choose another folder, or move this one away."
            raise CorpusError(root, f"a corpus made with {settings}", found, remedy)
        return root
    workers = workers or (1 if patients * size < 5000 else os.cpu_count() or 1)
    return make_folder(root, lambda part: _simulate(part, settings, workers))


def best_possible(
    population: Population | None = None, quantiles: int = 1_000_000
) -> dict[str, float]:
    """Accuracy and balanced accuracy of the Bayes rule that is told the true T-score.

    Accuracy is E[max_c P(c | T)]. Balanced accuracy weighs each class c by its prior p_c:
    E[max_c P(c | T) / p_c] / 3. Expectations by the midpoint rule over quantiles of T, which takes
    the clipped ends as they are.

    Args:
        population: The usual one if none is given.
        quantiles: How many there are.

    Returns:
        `accuracy` and `balanced_accuracy`, 0 to 1.
    """
    population = population or Population()
    t = true_t_scores((np.arange(quantiles) + 0.5) / quantiles, population)
    p = label_probabilities(t, population.error)
    balanced = (p / p.mean(axis=0)).max(axis=1).mean() / len(CLASS_NAMES)
    return {"accuracy": float(p.max(axis=1).mean()), "balanced_accuracy": float(balanced)}


def label_probabilities(t_scores: npt.NDArray[np.float64], error: float) -> npt.NDArray[np.float64]:
    """The probability of each label, which comes from a measurement with normal error.

    P(Osteoporosis | T) = Phi((-2.5 - T) / error), P(Normal | T) = Phi((T + 1) / error), and
    Osteopenia is the rest.

    Args:
        t_scores: True ones, shape (n,).
        error: Standard deviation of the measurement.

    Returns:
        Shape (n, 3).

    Example:
        >>> label_probabilities(np.array([-1.0, -2.5]), 0.25).round(2).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]]
    """
    osteoporosis = ndtr((OSTEOPOROSIS_AT_OR_BELOW - t_scores) / error)
    normal = ndtr((t_scores - OSTEOPENIA_BELOW) / error)
    return np.stack([normal, 1 - normal - osteoporosis, osteoporosis], axis=1)


def true_t_scores(
    quantiles: npt.NDArray[np.float64], population: Population
) -> npt.NDArray[np.float64]:
    """The true T-scores of a population at these quantiles.

    Args:
        quantiles: Between 0 and 1.
        population: Normal and clipped.

    Returns:
        As many T-scores.

    Example:
        >>> true_t_scores(np.array([0.5, 0.99999]), Population()).tolist()
        [-1.6, 3.0]
    """
    t = population.mean + population.sd * ndtri(quantiles)
    return np.asarray(np.clip(t, population.lowest, population.highest))


def read_truth(root: Path | str) -> pd.DataFrame:
    """truth.csv of a simulated corpus.

    Args:
        root: Folder of the corpus.

    Returns:
        A row for each file. `t_score` is the truth, `label_index` the class of `measured_t_score`;
        `fault` one of `FAULTS` or "", `source` the file it was copied from, `fault_detail` how.
        `patient`, `side` and the facts of the simulation are those of the source; `relabelled` says
        the folder's class is wrong.

    Raises:
        CorpusError: It is another corpus.
    """
    if not (table := Path(root) / "truth.csv").is_file():
        raise CorpusError(table, "a simulated corpus", "no such file", "Real sets have no truth.")
    return pd.read_csv(table, keep_default_na=False)


def read_mask(root: Path | str, path: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of one file of a simulated corpus.

    Args:
        root: Folder of the corpus.
        path: Of the file, below `root`.

    Returns:
        Masks by the names of `phantom.MASKS`, shape (height, width) each.

    Raises:
        CorpusError: There is no mask of such a file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     Path(root, "masks").mkdir()
        ...     Image.fromarray(np.uint8([[0, 1, 4]])).save(Path(root, "masks", "1.png.png"))
        ...     found = read_mask(root, "1.png")
        >>> found["joint"].tolist(), found["trabecular"].tolist(), found["cortex"].tolist()
        ([[False, True, False]], [[False, False, False]], [[False, False, True]])
    """
    from osteo_utils.phantom import MASKS

    if not (mask := Path(root) / "masks" / f"{path}.png").is_file():
        raise CorpusError(mask, "a simulated image's mask", "no such file", "Check the path.")
    with Image.open(mask) as image:
        bits = np.array(image)
    return {name: (bits >> bit & 1).astype(bool) for bit, name in enumerate(MASKS)}


def _simulate(part: Path, settings: dict[str, Any], workers: int) -> None:
    first, *streams = np.random.SeedSequence(settings["seed"]).spawn(settings["patients"] + 1)
    rng = np.random.default_rng(first)
    population = Population(**settings["population"])
    files = _draw_files(settings["patients"], population, settings["faults"], rng)
    for folder in (part / IMAGE_FOLDER, part / "masks" / IMAGE_FOLDER):
        for name in CLASS_NAMES:
            (folder / name).mkdir(parents=True)
    jobs = [
        delayed(_render)(part, files.iloc[2 * patient : 2 * patient + 2], stream, settings["size"])
        for patient, stream in enumerate(streams)
    ]
    drawn = Parallel(n_jobs=workers, return_as="generator")(jobs)
    facts = [row for pair in progress(drawn, "simulating", len(jobs), "patient") for row in pair]
    details = [_plant(part, file, rng) for file in files.to_dict("records")]
    _write_tables(part, files.assign(fault_detail=details), pd.DataFrame(facts), rng)
    info = {"settings": settings, "images": len(files), "best_possible": best_possible(population)}
    info["films"] = rows_digest(files.assign(sha256=_digests(part, files["path"])), FILM)
    info["versions"] = {name: version(name) for name in ("numpy", "scipy", "pillow")}
    (part / "corpus.json").write_text(json.dumps(info, indent=1) + "\n")


def _digests(root: Path, paths: Iterable[str]) -> list[str]:
    return [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in paths]


def _draw_files(
    patients: int, population: Population, faults: bool, rng: np.random.Generator
) -> pd.DataFrame:
    """A row for each file of a corpus, before anything is drawn of it."""
    files = _draw_knees(patients, population, rng)
    if faults:
        files = pd.concat([files, _draw_copies(files, rng)], ignore_index=True)
    return _name_files(files, rng)


def _draw_knees(patients: int, population: Population, rng: np.random.Generator) -> pd.DataFrame:
    """Two rows for each patient: T-score, its measurement, class, site, and no fault."""
    # One T-score from each of `patients` equal slices: small corpora get all classes, too.
    t = true_t_scores((rng.permutation(patients) + rng.random(patients)) / patients, population)
    measured = t + rng.normal(0, population.error, patients)
    site = rng.choice(["A", "B"], patients)
    for label, share in enumerate(SITE_C_SHARE):
        members = rng.permutation(np.flatnonzero(class_of_t_score(t) == label))
        site[members[: round(share * len(members))]] = "C"
    table = pd.DataFrame({"patient": np.arange(patients), "t_score": t})
    table = table.assign(measured_t_score=measured, label_index=class_of_t_score(measured))
    table = table.assign(site=site, seen_as=table["patient"], folder=table["label_index"])
    table = table.assign(fault="", how="", source_row=-1)
    return (
        table.loc[table.index.repeat(2)].assign(side=["L", "R"] * patients).reset_index(drop=True)
    )


def _draw_copies(knees: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """A row for each copy to plant; `seen_as` is a new patient, `how` what is done to the file."""
    fewest = min(2, len(knees) // len(FAULTS))
    fault = np.repeat(FAULTS, max(fewest, round(FAULT_SHARE * len(knees))))
    relabelled = fault == "relabelled"
    every_fourth = np.arange(len(fault)) % 4 == 0
    relabelling = np.where(every_fourth, "re-encoded", "byte copy")
    source = rng.choice(len(knees), len(fault), replace=False)
    copies = knees.iloc[source].assign(fault=fault, source_row=source)
    copies = copies.assign(how=np.where(relabelled, relabelling, fault))
    shift = np.where(relabelled, rng.integers(1, len(CLASS_NAMES), len(fault)), 0)
    new = knees["patient"].max() + 1 + np.arange(len(fault))
    return copies.assign(seen_as=new, folder=(copies["folder"] + shift) % len(CLASS_NAMES))


def _name_files(files: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Paths with a running number by class in random order, so that the number says nothing."""
    number = pd.Series(rng.permutation(len(files))).groupby(files["folder"]).rank().astype(int)
    suffix = files["site"].map(SUFFIXES).where(files["how"] != "re-encoded", ".jpg")
    path = [
        f"{IMAGE_FOLDER}/{CLASS_NAMES[label]}/{CLASS_NAMES[label]} {n}{end}"
        for label, n, end in zip(files["folder"], number, suffix, strict=True)
    ]
    source = [path[row] if row >= 0 else "" for row in files["source_row"]]
    return files.assign(path=path, source=source)


def _render(
    part: Path, knees: pd.DataFrame, stream: np.random.SeedSequence, size: int
) -> list[dict[str, Any]]:
    """Simulate and save the two knees of one patient; the facts of both."""
    from osteo_utils.phantom import MASKS, sample_anatomy, sample_setting, simulate_knee

    rng = np.random.default_rng(stream)
    anatomy = sample_anatomy(rng)
    facts: list[dict[str, Any]] = []
    for knee in knees.to_dict("records"):
        setting = _site_marker(sample_setting(rng, knee["side"]), knee["site"])
        radiograph = simulate_knee(knee["t_score"], rng, size, setting, anatomy)
        quality = int(rng.integers(75, 96))  # as mixed as in public sets; PNG has none
        Image.fromarray(radiograph.image).save(part / knee["path"], quality=quality)
        masks = np.stack([radiograph.masks[name] for name in MASKS])
        bits = np.packbits(masks, axis=0, bitorder="little")[0]
        Image.fromarray(bits).save(part / "masks" / f"{knee['path']}.png")
        facts.append(radiograph.facts)
    return facts


def _site_marker(setting: "Setting", site: str) -> "Setting":
    if site == "C":
        return replace(setting, marker_style="white box", marker_x=0.12, marker_y=0.1)
    return replace(setting, marker_style="bare") if setting.marker_style == "white box" else setting


def _plant(part: Path, file: Mapping[Any, Any], rng: np.random.Generator) -> str:
    """Make one copy and its mask, and say how it was made. An original is left alone."""
    if not file["how"]:
        return ""
    masks = [part / "masks" / f"{file[column]}.png" for column in ("source", "path")]
    if file["how"] == "byte copy":
        shutil.copyfile(part / file["source"], part / file["path"])
        shutil.copyfile(*masks)
        return "same bytes"
    quality = int(rng.integers(60, 86) if file["how"] == "re-encoded" else rng.integers(75, 96))
    with Image.open(part / file["source"]) as image, Image.open(masks[0]) as mask:
        new_image, new_mask, detail = _altered(image, mask, file["how"], rng)
    new_image.save(part / file["path"], quality=quality)
    new_mask.save(masks[1])
    return f"{detail}, quality {quality}"


def _altered(
    image: Image.Image, mask: Image.Image, how: str, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image, str]:
    if how == "resized":
        size = round(image.width * rng.uniform(0.6, 0.9))
        resized = image.resize((size, size), Image.Resampling.LANCZOS)
        return resized, mask.resize((size, size), Image.Resampling.NEAREST), f"to {size} px"
    if how == "mirrored":
        flip = Image.Transpose.FLIP_LEFT_RIGHT
        return image.transpose(flip), mask.transpose(flip), "left to right"
    if how == "rotated":
        angle = rng.uniform(2, 15) * rng.choice([-1, 1])
        turned = image.rotate(angle, Image.Resampling.BILINEAR)
        return turned, mask.rotate(angle, Image.Resampling.NEAREST), f"by {angle:.1f} degrees"
    if how in ("cropped", "close-up"):
        return _cut(image, mask, rng.uniform(0.85, 0.95) if how == "cropped" else 0.5, rng)
    if how == "padded":
        edge = round(image.width * rng.uniform(0.05, 0.1))
        colour = int(rng.choice([0, 255]))
        padded = ImageOps.expand(image, edge, colour), ImageOps.expand(mask, edge, 0)
        return *padded, f"by {edge} px of {'white' if colour else 'black'}"
    if how == "inverted":
        return ImageOps.invert(image), mask.copy(), "dark bone"
    if how == "re-contrasted":
        gamma = rng.uniform(1.15, 1.4) ** rng.choice([-1, 1])
        gain, offset = rng.uniform(0.85, 1.1), rng.uniform(-10, 15)
        curve = np.clip(255 * gain * (np.arange(256) / 255) ** gamma + offset, 0, 255)
        detail = f"gamma {gamma:.3f}, gain {gain:.3f}, offset {offset:.1f}"
        return image.point(curve.round().astype(int).tolist()), mask.copy(), detail
    return image.copy(), mask.copy(), "same pixels"


def _cut(
    image: Image.Image, mask: Image.Image, share: float, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image, str]:
    """A part of that share of each side, enlarged to the whole size again."""
    side = round(image.width * share)
    left, top = (int(rng.integers(0, image.width - side + 1)) for _ in "xy")
    box = (left, top, left + side, top + side)
    enlarged = image.resize(image.size, Image.Resampling.BICUBIC, box)
    small = mask.resize(mask.size, Image.Resampling.NEAREST, box)
    return enlarged, small, f"to {share:.0%} of each side, then enlarged"


def _write_tables(
    part: Path, files: pd.DataFrame, facts: pd.DataFrame, rng: np.random.Generator
) -> None:
    """metadata.csv as a hospital would export it (a copy is a new patient), and truth.csv."""
    number = rng.permutation(files["seen_as"].max() + 1) + 1
    ids = np.array([f"P{n:05}" for n in number])
    other_side = files["side"].map({"L": "R", "R": "L"})
    side = files["side"].where(files["how"] != "mirrored", other_side)
    metadata = files.assign(patient=ids[files["seen_as"]], side=side)
    source_row = files["source_row"].where(files["fault"] != "", files.index.to_numpy())
    facts = facts.drop(columns=["t_score", "side"]).iloc[source_row].reset_index(drop=True)
    truth = files.assign(patient=ids[files["patient"]], relabelled=files["fault"] == "relabelled")
    truth = pd.concat([truth[list(TRUTH_COLUMNS)], facts], axis=1)
    order = sorted(files.index, key=lambda row: natural_key(files["path"][row]))
    metadata.loc[order, list(METADATA_COLUMNS)].to_csv(part / "metadata.csv", index=False)
    truth.loc[order].to_csv(part / "truth.csv", index=False)
