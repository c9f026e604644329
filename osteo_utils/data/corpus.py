"""Make, fetch, unpack and list a corpus: a folder with one sub-folder for each class.

Every writer works in a hidden folder beside its target and moves it into place last, so a kill
leaves a whole corpus or none. A folder the reader brings is used where it is, never written to.
"""

import base64
import hashlib
import http.client
import json
import os
import re
import shutil
import stat
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from scipy.special import ndtr, ndtri
from tqdm import tqdm

from osteo_utils.data.images import THREADS, ImageError, ImageFacts, decoder, probe, read_bytes
from osteo_utils.progress import progress, watched
from osteo_utils.registry import (
    CLASS_NAMES,
    OSTEOPENIA_BELOW,
    OSTEOPOROSIS_AT_OR_BELOW,
    Profile,
    class_of_t_score,
)
from osteo_utils.store import make_folder, replace_file, rows_digest, source_digest

# The phantom loads much of SciPy, so only those functions import it that draw one.
if TYPE_CHECKING:
    from osteo_utils.phantom import Setting

IMAGE_FOLDER: Final = "OS Collected Data"
KNOWN: Final = ("simulated", "kaggle")
FILM: Final = ("path", "sha256")  # what a film is, in a listing
METADATA_COLUMNS: Final = ("path", "patient", "side", "site")
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

KAGGLE_SET: Final = "mohamedgobara/multi-class-knee-osteoporosis-x-ray-dataset"
KAGGLE_PAGE: Final = f"https://www.kaggle.com/datasets/{KAGGLE_SET}"
KAGGLE_URL: Final = (
    f"https://www.kaggle.com/api/v1/datasets/download/{KAGGLE_SET}?datasetVersionNumber=1"
)
KAGGLE_COUNTS: Final = (780, 374, 793)
MAX_UNPACKED: Final = 20_000_000_000  # bytes; the public set has 1.2 billion
MAX_MEMBERS: Final = 100_000
MAX_DEPTH: Final = 4  # of a class folder below the folder given
_IGNORED: Final = {"__macosx", "thumbs.db", "desktop.ini", "icon\r", "@eadir"}
_NO_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f]")
_SETTLED: Final = 2_000_000_000  # ns; a younger file may change again within one tick of its clock


class CorpusError(ValueError):
    """A corpus that cannot be used: where, expected, found, what to do."""

    def __init__(self, where: object, expected: object, found: object, remedy: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}. {remedy}")


@dataclass(frozen=True)
class Population:
    """True T-scores: normal, clipped; the label comes from a measurement with normal error."""

    mean: float = -1.6
    sd: float = 1.5
    lowest: float = -5.0
    highest: float = 3.0
    error: float = 0.25  # standard deviation of the measured T-score around the true one


def open_corpus(
    name: str, profile: Profile, home: Path | str = Path("corpora"), seed: int = 0
) -> Path:
    """The folder of a corpus, made, fetched or unpacked below `home` if it is not there yet.

    "simulated" is made for the profile, "kaggle" is fetched, a zip is unpacked, and any other
    path must be a folder with a sub-folder for each class, used in place. Raises `CorpusError`.
    """
    home = Path(home)
    if name == "simulated":
        root = home / f"simulated-{profile.name}{f'-seed{seed}' if seed else ''}"
        return make_simulated(root, profile.patients, profile.corpus_size, seed)
    if name == "kaggle":
        return fetch_kaggle(home / "kaggle")
    path = corpus_path(name) or Path()
    if path.is_file():
        return unpack(path, home / corpus_name(name))
    if not path.is_dir():
        expected = "'simulated', 'kaggle', or the path of a folder or zip"
        raise CorpusError(f"corpus {name!r}", expected, "no such path", "Check the path.")
    _labelled_files(path)
    return path


def corpus_path(name: str) -> Path | None:
    """Absolute path of a reader's own folder or zip, `~` and links resolved; None for the others.

    "simulated" and "kaggle" always mean those two, also where a folder of that name exists.
    """
    return None if name in KNOWN else Path(os.path.expanduser(name)).resolve()  # noqa: PTH111 (~nobody stays)


def corpus_name(name: str) -> str:
    """Name of a corpus in paths: letters, digits and `._-` alone, another one for another path.

    "simulated", "kaggle", or the name of the folder or zip with six hex digits of the SHA-256 of
    its path.
    """
    if (path := corpus_path(name)) is None:
        return name
    stem = re.sub(r"\.zip$", "", path.name, flags=re.IGNORECASE)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:40]
    return f"{slug or 'corpus'}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"


def films_digest(root: Path | str, listing: pd.DataFrame) -> str:
    """SHA-256 (hex) that names the films of a whole listing (columns path and sha256).

    A simulated corpus whose files are still those that were made is named by its settings, since
    other versions of an encoder write the same phantoms in other bytes; any other by its files.
    """
    digest = rows_digest(listing, FILM)
    made = corpus_info(Path(root))
    if made.get("films") != digest:
        return digest
    return hashlib.sha256(json.dumps(made["settings"], sort_keys=True).encode()).hexdigest()


def listing_digest(listing: pd.DataFrame) -> str:
    """SHA-256 (hex) of everything that `list_corpus` tells of a corpus, patients included."""
    return rows_digest(listing, list(listing.columns))


def corpus_info(root: Path) -> dict[str, Any]:
    """What the maker of a simulated corpus wrote down, {} for any other; `CorpusError`.

    Without truth.csv beside it, a file of that name is another program's.
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
    """Make a corpus of phantom knees, two for each patient, `size` pixels square.

    Beside the images: metadata.csv (what a hospital would export; copies look like new patients),
    truth.csv, masks/<path>.png (bit i = phantom.MASKS[i]) and corpus.json. `faults` plants copies
    of each kind of FAULTS. The same arguments give the same bytes, whatever the number of
    `workers` (processes; None: as many as cores, one for a small corpus). A whole corpus made
    with the same settings is returned as it is; anything else at `root` raises `CorpusError`.
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


def best_possible(population: Population | None = None) -> dict[str, float]:
    """Accuracy and balanced accuracy of the Bayes rule that is told the true T-score.

    With error e, P(Osteoporosis | T) = Phi((-2.5 - T) / e), P(Normal | T) = Phi((T + 1) / e), and
    Osteopenia is the rest. Accuracy is E[max_c P(c | T)]. Balanced accuracy weighs each class c
    by its prior p_c: E[max_c P(c | T) / p_c] / 3. Expectations by the midpoint rule over a
    million quantiles of T, which takes the clipped ends as they are.
    """
    population = population or Population()
    t = _t_scores((np.arange(1_000_000) + 0.5) / 1_000_000, population)
    osteoporosis = ndtr((OSTEOPOROSIS_AT_OR_BELOW - t) / population.error)
    normal = ndtr((t - OSTEOPENIA_BELOW) / population.error)
    p = np.stack([normal, 1 - normal - osteoporosis, osteoporosis], axis=1)
    balanced = (p / p.mean(axis=0)).max(axis=1).mean() / len(CLASS_NAMES)
    return {"accuracy": float(p.max(axis=1).mean()), "balanced_accuracy": float(balanced)}


def read_truth(root: Path | str) -> pd.DataFrame:
    """truth.csv of a simulated corpus, a row for each file; `CorpusError` for any other corpus.

    `t_score` is the truth, `label_index` the class of `measured_t_score`; `fault` one of FAULTS or
    "", `source` the file it was copied from, `fault_detail` how. `patient`, `side` and the facts
    of the simulation are those of the source; `relabelled` says the folder's class is wrong.
    """
    if not (table := Path(root) / "truth.csv").is_file():
        raise CorpusError(table, "a simulated corpus", "no such file", "Real sets have no truth.")
    return pd.read_csv(table, keep_default_na=False)


def read_mask(root: Path | str, path: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks (height, width) of one file of a simulated corpus, by the names of phantom.MASKS."""
    from osteo_utils.phantom import MASKS

    if not (mask := Path(root) / "masks" / f"{path}.png").is_file():
        raise CorpusError(mask, "a simulated image's mask", "no such file", "Check the path.")
    with Image.open(mask) as image:
        bits = np.array(image)
    return {name: (bits >> bit & 1).astype(bool) for bit, name in enumerate(MASKS)}


def fetch_kaggle(
    root: Path | str, url: str = KAGGLE_URL, counts: Sequence[int] = KAGGLE_COUNTS
) -> Path:
    """Download the public knee set (1.2 GB, no account needed), check it and put it at `root`.

    The archive's MD5 (where the server tells it), paths, sizes, checksums and its number of files
    in each class (`counts`) are checked before anything is put in place; nothing stays behind if
    that fails (`CorpusError`).
    """

    def fill(part: Path) -> None:
        archive = part / "archive.zip"
        _download(url, archive)
        _extract(archive, part, url)
        archive.unlink()
        labels = [label for _, label in _labelled_files(part, url)]
        found = tuple(labels.count(label) for label in range(len(CLASS_NAMES)))
        if found != tuple(counts):
            expected = f"{tuple(counts)} files of {', '.join(CLASS_NAMES)}"
            remedy = f"The set may have changed: see {KAGGLE_PAGE}"
            raise CorpusError(url, expected, found, remedy)

    if Path(root).exists():
        _labelled_files(Path(root))
        return Path(root)
    print(f"Please read the licence at {KAGGLE_PAGE} (statements elsewhere conflict).")
    return make_folder(Path(root), fill)


def unpack(archive: Path | str, root: Path | str) -> Path:
    """Unpack a zip with a sub-folder for each class at `root`, once; `CorpusError` if unsafe."""
    archive, root = Path(archive), Path(root)
    if not archive.is_file():
        raise CorpusError(archive, "a zip", "no such file", "Check the path.")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def fill(part: Path) -> None:
        _extract(archive, part, archive)
        _labelled_files(part, archive)
        (part / "archive.sha256").write_text(digest)

    known = root / "archive.sha256"
    if not root.exists():
        return make_folder(root, fill)
    if not known.is_file() or known.read_text() != digest:
        remedy = "Move that folder away, or rename the zip."
        raise CorpusError(root, f"the unpacked {archive}", "something else", remedy)
    return root


def list_corpus(root: Path | str, cache: Path | None = None) -> pd.DataFrame:
    """One row for each file in the class folders, sorted naturally by path.

    Columns: path (below `root`), label, patient, site, side (from metadata.csv, "" without),
    format, extension, mode, width, height, bytes, sha256, problem ("" or why it cannot be used).
    `cache` is a JSON file: a good film whose size and times are those of the last listing is not
    read again.
    """
    root = Path(root)
    files, known, now = _labelled_files(root), _read_known(cache), time.time_ns()
    stamps = [_stamp(file, now) for file, _ in files]
    unread = [film for film, stamp in zip(files, stamps, strict=True) if stamp not in known]
    with ThreadPoolExecutor(THREADS) as pool:
        read = pool.map(lambda film: _row(root, *film), unread)
        read = iter(list(progress(read, "listing", len(unread), "file")) if unread else ())
        rows = [known[stamp] if stamp in known else next(read) for stamp in stamps]
    good = {s: row for s, row in zip(stamps, rows, strict=True) if s and not row["problem"]}
    if cache is not None and good != known:
        text = json.dumps({"code": _listing_code(), "films": good})
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cache, lambda part: part.write_text(text, encoding="utf-8"))
    table = pd.DataFrame(rows)
    metadata = _metadata(root, table["path"]).reindex(table["path"], fill_value="")
    return table.assign(**{name: metadata[name].to_numpy() for name in METADATA_COLUMNS[1:]})


def _stamp(file: Path, now: int) -> str:
    """Path, size and times of a file, other ones for another content; "" where nobody can know."""
    try:
        facts = file.stat()
    except OSError:  # `read_bytes` will say what is wrong
        return ""
    young = max(facts.st_mtime_ns, facts.st_ctime_ns) > now - _SETTLED
    return "" if young else f"{file} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"


def _read_known(cache: Path | None) -> dict[str, Any]:
    """Rows of the last listing by the stamps of their files; {} if this code made none."""
    if cache is None or not cache.is_file():
        return {}
    try:
        stored = json.loads(cache.read_text(encoding="utf-8"))
        return dict(stored["films"]) if stored["code"] == _listing_code() else {}
    except (OSError, ValueError, KeyError, TypeError):  # damaged: read the films again
        return {}


def _listing_code() -> str:
    return f"{source_digest(__file__)} {decoder()}"


def _t_scores(quantiles: npt.NDArray[np.float64], population: Population) -> Any:  # noqa: ANN401
    t = population.mean + population.sd * ndtri(quantiles)
    return np.clip(t, population.lowest, population.highest)


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
    t = _t_scores((rng.permutation(patients) + rng.random(patients)) / patients, population)
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
    order = sorted(files.index, key=lambda row: _natural(files["path"][row]))
    metadata.loc[order, list(METADATA_COLUMNS)].to_csv(part / "metadata.csv", index=False)
    truth.loc[order].to_csv(part / "truth.csv", index=False)


def _download(url: str, target: Path) -> None:
    remedy = "Check the connection and try again, or give the path of a downloaded zip."
    try:
        with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
            expected, md5 = int(response.headers.get("Content-Length") or 0), _told_md5(response)
            _check_space(url, target.parent, expected)
            bar = tqdm.wrapattr(file, "write", expected, desc="downloading", disable=not watched())
            with bar as writer:
                shutil.copyfileobj(response, writer, 1 << 20)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(url, "a zip", error, remedy) from None
    if (size := target.stat().st_size) < expected:
        raise CorpusError(url, f"{expected:,} bytes", f"the end after {size:,}", remedy)
    with target.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()
    if md5 is not None and found != md5:
        raise CorpusError(url, f"MD5 {md5.hex()}", found.hex(), remedy)


def _told_md5(response: Any) -> bytes | None:  # noqa: ANN401 (what urlopen returns)
    """The MD5 that a server states: Google's storage, where Kaggle keeps its files, does."""
    hashes = ",".join(response.headers.get_all("x-goog-hash") or [])
    told = re.search(r"md5=([A-Za-z0-9+/]{22}==)", hashes)
    return base64.b64decode(told[1]) if told else None


def _check_space(name: object, folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        expected, remedy = f"{needed:,} bytes free on the disk", "Free some space and try again."
        raise CorpusError(name, expected, f"{free:,} in {folder.parent}", remedy)


def _extract(archive: Path, folder: Path, name: object) -> None:
    """Unpack a zip into a folder, checksums verified on the way; `CorpusError` if it is bad."""
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _check_members(name, members)
            _check_space(name, folder, sum(member.file_size for member in members))
            for member in progress(members, "unpacking", unit="file"):
                if "/" not in member.filename:  # made on Windows, against the standard
                    member.filename = member.filename.replace("\\", "/")
                if not (member.is_dir() or _is_hidden(member.filename)):
                    opened.extract(member, folder)
    except CorpusError:
        raise
    except Exception as error:  # damaged archives make zipfile raise nearly anything
        found = f"{type(error).__name__}: {error}"
        remedy = "Download it again; if the disk is full, free some space."
        if isinstance(error, NotImplementedError):  # Deflate64 of Windows, for example
            remedy = "Unpack it with another program and give the path of the folder."
        raise CorpusError(name, "a whole zip", found, remedy) from None


def _check_members(name: object, members: Sequence[zipfile.ZipInfo]) -> None:
    for member in members:
        if reason := _unsafe(member):
            found = f"{member.orig_filename!r} ({reason})"
            raise CorpusError(name, "plain files", found, "Do not trust this zip.")
    total = sum(member.file_size for member in members)
    if total > MAX_UNPACKED or len(members) > MAX_MEMBERS:
        expected = f"at most {MAX_MEMBERS:,} files and {MAX_UNPACKED:,} bytes"
        found = f"{len(members):,} and {total:,}"
        raise CorpusError(name, expected, found, "Unpack it yourself if you trust it.")


def _unsafe(member: zipfile.ZipInfo) -> str:
    """Why an entry must not be unpacked, or "". `orig_filename` is what the archive really says."""
    paths = PurePosixPath(member.orig_filename), PureWindowsPath(member.orig_filename)
    if any(path.anchor or ".." in path.parts for path in paths):
        return "points outside"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a symbolic link"
    return "encrypted" if member.flag_bits & 1 else ""


def _is_hidden(path: PurePath | str) -> bool:
    """Whether any part starts with a dot or is what an operating system leaves behind."""
    parts = PurePath(path).parts
    return any(p.startswith(".") or p.casefold() in _IGNORED for p in parts)


def _labelled_files(root: Path, name: object = None) -> list[tuple[Path, int]]:
    """Files in folders named as a class (any case) with its index, sorted naturally by path.

    The outermost such folder counts, at most MAX_DEPTH below `root`. `CorpusError` unless every
    class has a file; it speaks of `name` where the folder is not the reader's.
    """
    indices = {name.casefold(): index for index, name in enumerate(CLASS_NAMES)}
    top = root / IMAGE_FOLDER if (root / IMAGE_FOLDER).is_dir() else root
    files: list[tuple[Path, int]] = []
    folders: set[str] = set()
    for file in _files_below(top):
        parts = file.relative_to(top).parts[:-1][:MAX_DEPTH]
        folders.update(parts)
        names = [part.strip().casefold() for part in parts]
        if labels := [indices[name] for name in names if name in indices]:
            files.append((file, labels[0]))
    if len({label for _, label in files}) < len(CLASS_NAMES):
        expected = f"files in sub-folders named {', '.join(CLASS_NAMES)}"
        found = f"files in: {_printable(', '.join(sorted(folders)[:12]))[0] or 'no sub-folder'}"
        raise CorpusError(name or root, expected, found, "Rename or add folders.")
    return sorted(files, key=lambda file: _natural(file[0].relative_to(root).as_posix()))


def _files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Every file that is not hidden; links to folders are followed, but never in a circle."""
    if (here := folder.resolve()) in above:
        return
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        remedy = "Check its permissions."
        raise CorpusError(folder, "a folder that can be read", error, remedy) from None
    for entry in entries:
        if _is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _files_below(entry, (*above, here))
        else:
            yield entry


def _natural(path: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key in which 2 comes before 10, and case matters only between equals."""
    pieces = re.split(r"(\d+)", path.casefold())
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces], path


def _printable(name: str) -> tuple[str, bool]:
    """A name as a table and a terminal can hold it, and whether it is whole: bytes that are no
    UTF-8 and control characters are escaped.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    text = _NO_CHARACTERS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text, text == name


def _row(root: Path, file: Path, label: int) -> dict[str, Any]:
    data, facts, problem = b"", ImageFacts("", "", 0, 0), ""
    path, whole = _printable(file.relative_to(root).as_posix())
    try:
        data = read_bytes(file)
        if not whole:
            expected = "a name in UTF-8 without control characters"
            raise ImageError(path, expected, "others, escaped here", "Rename the file or folder.")
        facts = probe(file, data)
    except Exception as error:  # one bad file never ends a listing
        known = isinstance(error, ImageError)
        problem = _printable(str(error) if known else f"{file}: {type(error).__name__}: {error}")[0]
    row = {"path": path, "label": label}
    row |= {"patient": "", "site": "", "side": ""}
    row |= {"format": facts.format, "extension": _printable(file.suffix)[0], "mode": facts.mode}
    row |= {"width": facts.width, "height": facts.height, "bytes": len(data)}
    return row | {"sha256": hashlib.sha256(data).hexdigest(), "problem": problem}


def _metadata(root: Path, paths: "pd.Series[str]") -> pd.DataFrame:
    """metadata.csv by path, empty if there is none; `CorpusError` if it does not fit the files."""
    if not (table := root / "metadata.csv").is_file():
        return _metadata_of_nobody()
    try:
        metadata = pd.read_csv(table, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise CorpusError(table, "a CSV table", error, "Save it again as CSV (UTF-8).") from None
    metadata.columns = pd.Index([str(name).strip().casefold() for name in metadata])
    columns = {part.strip() for name in metadata for part in re.split("[;\t]", str(name))}
    if not columns & {"path", "patient"}:
        _tell_once(f"{table}: left aside, for it has no column path; patients are not known.")
        return _metadata_of_nobody()
    if not columns & set(metadata):
        remedy = "Save it again as CSV with commas."
        raise CorpusError(table, "columns between commas", list(metadata), remedy)
    if metadata.columns.has_duplicates:
        raise CorpusError(table, "each column once", list(metadata), "Rename or remove columns.")
    if missing := [name for name in METADATA_COLUMNS if name not in metadata]:
        expected = f"the columns {', '.join(METADATA_COLUMNS)}"
        raise CorpusError(table, expected, list(metadata.columns), f"Add {', '.join(missing)}.")
    wrong = metadata.loc[~metadata["path"].isin(paths) | metadata["path"].duplicated(), "path"]
    if len(wrong):
        found = f"{len(wrong)} that are not, such as {wrong.iloc[0]!r}"
        raise CorpusError(table, "each path to be a file, once", found, "Correct these rows.")
    return metadata.set_index("path")


@cache
def _tell_once(line: str) -> None:
    print(line, file=sys.stderr)


def _metadata_of_nobody() -> pd.DataFrame:
    return pd.DataFrame(columns=list(METADATA_COLUMNS)).set_index("path")
