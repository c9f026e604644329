"""What is wrong with a set of radiographs: copies, label conflicts, shortcuts, and what to keep.

Byte and pixel copies are found by hashes. Near-duplicates (re-encoded, resized, re-contrasted,
mirrored) are found in two steps: the nearest neighbours of a small descriptor propose, the
normalised cross-correlation of the image's fine detail decides. Every file is decoded once.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.tree import DecisionTreeClassifier

from osteo_utils import evaluate
from osteo_utils.evaluate import interval_ends, mean_recall, multiplicities
from osteo_utils.images import THREADS, Grey, ImageError, decoder, read_image
from osteo_utils.labels import CLASS_NAMES
from osteo_utils.progress import progress
from osteo_utils.store import replace_file, source_digest

# Correlation of detail. Different radiographs stay below 0.53 (217 real ones) and 0.62 (640 phantom
# knees of 256 px; the two of a patient 0.59), mirrored or not. Twins keep at least 0.97 after what
# the simulated corpus does to it, 0.82 after JPEG of quality 10, a gamma of 0.5 or 2, or clipping.
SAME_IMAGE: Final = 0.75
SIDES: Final = (96, 192)  # pixels: detail is compared at half the shorter side, within these
NEIGHBOURS: Final = 5  # candidates of an image, as it is and mirrored
RESAMPLES: Final = 1000  # of the bootstrap and of the permutation test behind each shortcut
BORDER: Final = ["border_black", "border_white", "border_mean"]
FEATURES: Final = {
    "format": ["format", "extension", "mode"],
    "size": ["width", "height"],
    "aspect ratio": ["aspect_ratio"],
    "border": BORDER,
    "file size": ["bytes"],
    "all": ["format", "extension", "mode", "width", "height", "aspect_ratio", *BORDER, "bytes"],
}
FILES: Final = ("audit.csv", "pairs.csv", "candidates.csv", "shortcuts.csv")  # as in `Audit`
_TEXT: Final = ("patient", "site", "side", "mode", "sha256", "problem")
_LISTED: Final = (*_TEXT, "path", "label", "format", "extension", "width", "height", "bytes")

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Audit:
    """All findings, as four tables.

    `images`: the listing and, by file, `border_black`, `border_white` (shares of the outermost
    2 %), `border_mean` (0..255), `duplicate_group` (-1: none), `group` (duplicates and patient
    united: must stay in one part), `conflict`, `keep`, `reason` (why it is not kept).
    `pairs`: confirmed copies; `kind` is bytes, pixels, near or mirrored.
    `candidates`: every pair whose detail was compared, with its similarity (-1..1).
    `shortcuts`: what facts without bone predict; `p_value` is Bonferroni-corrected.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    candidates: pd.DataFrame
    shortcuts: pd.DataFrame


def audit(root: Path | str, listing: pd.DataFrame, seed: int = 0) -> Audit:
    """Audit the files of a listing (`corpus.list_corpus`) below `root`; `seed` is for shortcuts.

    Files that cannot be decoded are reported, not raised. `ValueError` if the listing lacks a
    column or is empty.
    """
    missing = sorted(set(_LISTED) - set(listing))
    if missing or listing.empty:
        found = f"found {len(listing)} files, missing columns {missing}"
        raise ValueError(f"listing: expected at least one file, as list_corpus lists it, {found}")
    images = listing.reset_index(drop=True)
    looks = _look_at_all(Path(root), images)
    images["problem"] = [look.problem for look in looks]
    images[BORDER] = [look.border for look in looks]
    hashes = images.loc[images["problem"] == "", "sha256"]
    contents = pd.Series({i: looks[i].content for i in hashes.drop_duplicates().index}, dtype=str)
    distinct = contents.drop_duplicates().index.to_numpy()
    near = _near_pairs(distinct, [looks[i] for i in distinct])
    twins = near[near["similarity"] >= SAME_IMAGE]
    pairs = pd.concat([_equal_pairs(hashes, "bytes"), _equal_pairs(contents, "pixels"), twins])
    images = _keep_one(_grouped(images, pairs))
    shortcuts = measure_shortcuts(images[images["keep"]], seed)
    return Audit(images, _named(images, pairs), _named(images, near), shortcuts)


class _Look(NamedTuple):
    """What one decoding of a file leaves behind."""

    content: str = ""  # hash of the pixels
    border: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    small: Grey = np.zeros((0, 0), np.uint8)  # stretched to the largest of SIDES
    side: int = 0  # at which its detail is worth comparing
    descriptor: Floats = np.zeros(0)  # detail averaged over 4 x 4, a unit vector as (32, 32)
    problem: str = ""


def _look_at_all(root: Path, images: pd.DataFrame) -> list[_Look]:
    def look(path: str, problem: str) -> _Look:
        try:
            return _Look(problem=problem) if problem else _look(read_image(root / path))
        except ImageError as error:
            return _Look(problem=str(error))

    with ThreadPoolExecutor(THREADS) as pool:
        looks = pool.map(look, images["path"], images["problem"])
        return list(progress(looks, "auditing", len(images), "image"))


def _look(image: Grey) -> _Look:
    content = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    small, side = _shrunk(image, SIDES[1]), int(np.clip(min(image.shape) // 2, *SIDES))
    blocks = _detail(small, 128).reshape(32, 4, 32, 4).mean((1, 3), dtype=np.float32)
    return _Look(content, _border(image), small, side, blocks / (np.linalg.norm(blocks) + 1e-6))


def _border(image: Grey) -> tuple[float, float, float]:
    """Share of black, share of white, and mean of the frame that is 2 % of the shorter side."""
    width = max(1, round(0.02 * min(image.shape)))
    sides = image[:width], image[-width:], image[:, :width], image[:, -width:]
    frame = np.concatenate([side.ravel() for side in sides])
    return float((frame == 0).mean()), float((frame == 255).mean()), float(frame.mean())


def _detail(small: Grey, side: int) -> Floats:
    """Fine structure alone: differences from the surroundings over their local spread.

    Differences over spread undo contrast and (locally) gamma; the layout that all knees share is
    too coarse to be left. Mean 0 and standard deviation 1 over (side, side).
    """
    grey = np.asarray(_shrunk(small, side), dtype=np.float32)
    fine = gaussian_filter(grey, 1) - gaussian_filter(grey, 2)
    spread = np.sqrt(gaussian_filter(fine**2, 2))
    detail = fine / (spread + 2)  # 2 grey levels: noise of an empty background stays small
    return np.asarray((detail - detail.mean()) / (detail.std() + 1e-6), np.float16)


def _shrunk(image: Grey, side: int) -> Grey:
    """Stretched to a square, so that a resized twin looks the same again."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def _equal_pairs(keys: pd.Series, kind: str) -> pd.DataFrame:
    """Pair every row whose key was seen before with the first row that has it."""
    first = pd.Series(keys.index, index=keys.index).groupby(keys).transform("first")
    first = first[first != first.index]
    return pd.DataFrame({"a": first, "b": first.index, "kind": kind, "similarity": 1.0})


def _near_pairs(rows: Ints, looks: list[_Look]) -> pd.DataFrame:
    """Nearest pairs among distinct images, each once, with the correlation of their detail."""
    if len(rows) < 2:
        return _equal_pairs(pd.Series(dtype=int), "near")
    descriptors = np.stack([look.descriptor for look in looks])
    detail = cache(lambda i, side: _detail(looks[i].small, side))
    best: dict[tuple[int, int], tuple[float, str]] = {}
    for kind, step in (("near", 1), ("mirrored", -1)):
        for i, j in _neighbours(descriptors, descriptors[:, :, ::step]):
            side = min(looks[i].side, looks[j].side)
            one, other = (detail(k, side).astype(np.float32) for k in (i, j))
            similarity = float(np.vdot(one[:, ::step], other)) / side**2
            best[i, j] = max(best.get((i, j), (-1.0, kind)), (similarity, kind))
    found = [(int(rows[i]), int(rows[j]), kind, v) for (i, j), (v, kind) in best.items()]
    return pd.DataFrame(found, columns=["a", "b", "kind", "similarity"])


def _neighbours(descriptors: Floats, queries: Floats) -> list[tuple[int, int]]:
    """Pairs (smaller, larger row) of each query with the descriptors nearest to it."""
    known, asked = (stack.reshape(len(stack), -1) for stack in (descriptors, queries))
    search = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(known)), algorithm="brute")
    nearest = search.fit(known).kneighbors(asked, return_distance=False)
    return sorted({(min(i, j), max(i, j)) for i, row in enumerate(nearest) for j in row if i != j})


def _components(pairs: pd.DataFrame, size: int) -> Ints:
    """Connected component of each row, numbered in order of their first rows."""
    ends = tuple(pairs[["a", "b"]].to_numpy(np.int32).T)  # wider ones failed in SciPy 1.11.0 to .2
    graph = coo_array((np.ones(len(pairs)), ends), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    if count != len(np.unique(component)):
        raise RuntimeError(
            f"scipy: expected as many components as were numbered, found {count} and "
            f"{len(np.unique(component))}. Update SciPy."
        )
    return np.asarray(pd.factorize(component)[0])


def _grouped(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    patients = images.loc[images["patient"] != "", "patient"]
    united = pd.concat([pairs, _equal_pairs(patients, "patient")])
    copies = pd.Series(_components(pairs, len(images)))
    numbers, _ = pd.factorize(copies.where(copies.duplicated(keep=False)))  # missing becomes -1
    return images.assign(duplicate_group=numbers, group=_components(united, len(images)))


def _keep_one(images: pd.DataFrame) -> pd.DataFrame:
    """Keep the largest copy of a group; none if labels differ: nobody knows which is right."""
    path, label, group = images["path"], images["label"], images["duplicate_group"]
    pixels = images["width"] * images["height"]
    reason = pd.Series(np.where(images["problem"] == "", "", "unreadable"), dtype=str)
    conflict = (label.groupby(group).transform("nunique") > 1) & (group >= 0)
    for rows in images[group >= 0].groupby("duplicate_group").groups.values():
        best = rows[int(pixels[rows].argmax())]
        for i in rows:
            if conflict[i]:
                other = path[rows][label[rows] != label[i]].iloc[0]
                reason[i] = f"label conflict with {other}"
            elif i != best:
                reason[i] = f"copy of {path[best]}"
    return images.assign(conflict=conflict, keep=reason == "", reason=reason)


def _named(images: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    a, b = (images.iloc[pairs[end]].reset_index() for end in ("a", "b"))
    named = {"path_a": a["path"], "path_b": b["path"], "same_label": a["label"] == b["label"]}
    return pairs.reset_index(drop=True).assign(**named).drop(columns=["a", "b"])


def measure_shortcuts(images: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """How well facts without bone predict the class: cross-validated balanced accuracy.

    A shallow decision tree (six answers take a second), groups kept together, the 95 % interval
    by bootstrap over groups, the p-value by exchanging labels between groups of equal size.
    No rows where there are not two classes with two groups each.
    """
    images = images.assign(aspect_ratio=images["width"] / images["height"])
    labels, groups = images["label"].to_numpy(), pd.factorize(images["group"])[0]
    names = ["features", "balanced_accuracy", "low", "high", "p_value", "chance"]
    sizes = images.groupby("label")["group"].nunique()
    if len(sizes) < 2 or min(sizes) < 2:
        return pd.DataFrame(columns=names)
    folds = PredefinedSplit(_folds(labels, groups, min(5, *sizes), seed))
    tree = DecisionTreeClassifier(
        max_depth=4, min_samples_leaf=5, class_weight="balanced", random_state=seed
    )
    rows = []
    for name, columns in FEATURES.items():
        facts = pd.get_dummies(images[columns], dtype=float)
        p = cross_val_predict(tree, facts, labels, cv=folds, method="predict_proba")
        predicted = np.unique(labels)[p.round(6).argmax(axis=1)]  # equals go to the first class
        rows.append((name, *_judged(labels, predicted, groups, seed), 1 / len(sizes)))
    return pd.DataFrame(rows, columns=names)


def _folds(labels: Ints, groups: Ints, count: int, seed: int) -> Ints:
    """Fold of each image: groups stay whole, those of a class are dealt out evenly.

    A group with several classes counts as one of its rarest class.
    """
    table = pd.DataFrame({"label": labels, "group": groups, "images": np.bincount(labels)[labels]})
    label = table.sort_values("images", kind="stable").groupby("group")["label"].first()
    dealt = label.sample(frac=1, random_state=seed).sort_values(kind="stable").index
    return np.asarray(pd.Series(np.arange(len(dealt)) % count, dealt)[groups])


def _judged(labels: Ints, predicted: Ints, groups: Ints, seed: int) -> tuple[float, ...]:
    """Balanced accuracy, the ends of its interval and its p-value."""
    rng, once, classes = np.random.default_rng(seed), np.ones((1, len(labels))), np.unique(labels)

    def score(labels: Ints, weights: Floats) -> npt.NDArray[np.float64]:
        return mean_recall(labels, (labels == predicted)[:, None], weights, classes)[:, 0]

    found = float(score(labels, once)[0])
    drawn = score(labels, multiplicities(groups, len(groups), RESAMPLES, seed))
    null = [score(_exchanged(labels, groups, rng), once)[0] for _ in range(RESAMPLES)]
    p_value = (1 + np.sum(np.array(null) >= found - 1e-9)) / (1 + RESAMPLES)
    return found, *interval_ends(drawn, 0.025, 0.975), min(1.0, float(p_value) * len(FEATURES))


def _exchanged(labels: Ints, groups: Ints, rng: np.random.Generator) -> Ints:
    """Labels after groups of equal size have swapped theirs: what belongs together stays so."""
    sizes, drawn = np.bincount(groups)[groups], rng.permutation(groups.max() + 1)[groups]
    swapped = np.empty_like(labels)
    swapped[np.lexsort((groups, sizes))] = labels[np.lexsort((drawn, sizes))]
    return swapped


def counts(audit: Audit) -> dict[str, int]:
    """The findings as numbers: of files, unless the name says groups or patients."""
    images = audit.images
    groups = images[images["duplicate_group"] >= 0].groupby("duplicate_group")["label"]
    patients = images[images["patient"] != ""].groupby("patient")["label"].nunique()
    found = {"files": len(images), "unreadable": sum(images["reason"] == "unreadable")}
    found |= {"duplicate_groups": len(groups), "surplus": sum(groups.size() - 1)}
    found["distinct"] = found["files"] - found["unreadable"] - found["surplus"]
    found |= {"conflict_groups": sum(groups.nunique() > 1), "conflicts": sum(images["conflict"])}
    found |= {"patients": len(patients), "patients_across_classes": sum(patients > 1)}
    return {name: int(n) for name, n in {**found, "kept": sum(images["keep"])}.items()}


def summary(audit: Audit) -> str:
    """The whole audit as a text to print."""
    n, images = counts(audit), audit.images
    kinds = audit.pairs["kind"].value_counts().to_dict()
    lines = [
        f"Files: {n['files']:,} ({_by_class(images)}), {n['unreadable']} unreadable",
        *("  " + images.loc[images["reason"] == "unreadable", "problem"]),
        f"Distinct images: {n['distinct']:,}, surplus copies: {n['surplus']}",
        f"Groups of copies: {n['duplicate_groups']}, pairs by kind: {kinds or 'none'}",
        f"Label conflicts: {n['conflict_groups']} groups ({n['conflicts']} files, none kept)",
        f"Patients: {n['patients']:,}, of these in several classes {n['patients_across_classes']}",
        f"Kept: {n['kept']:,} ({_by_class(images[images['keep']])})",
        "Shortcuts, balanced accuracy without a look at the bone:",
        *audit.shortcuts.apply(_shortcut_line, axis=1),
    ]
    few = "  not measured: it takes two classes with two groups each"
    return "\n".join([*lines, few] if audit.shortcuts.empty else lines)


def _shortcut_line(row: pd.Series) -> str:
    score = f"{row['balanced_accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    return f"  {row['features']:13}{score}, chance {row['chance']:.2f}, p = {row['p_value']:.3f}"


def _by_class(images: pd.DataFrame) -> str:
    return ", ".join(f"{name} {sum(images['label'] == i):,}" for i, name in enumerate(CLASS_NAMES))


def score_against_truth(audit: Audit, truth: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of the findings on a simulated corpus (`corpus.read_truth`).

    One row a kind: pairs of byte copies, pairs of near-duplicates, files in a label conflict.
    A planted copy is found if it is in the group of its source; a found pair is right if both
    come from the same radiograph.
    """
    facts = truth.set_index("path")[["source", "fault_detail"]]
    images = audit.images.set_index("path").join(facts, how="inner")
    if len(images) < len(audit.images):
        raise ValueError(f"truth: expected every audited path, found {len(images)}. Audit again.")
    source = images["source"].where(images["source"] != "", images.index.to_series())
    group, kind = images["duplicate_group"], audit.pairs["kind"]
    reached = (group >= 0) & (group == group[source].to_numpy())
    ends = (source[audit.pairs[end]].to_numpy() for end in ("path_a", "path_b"))
    right = pd.Series(np.equal(*ends), index=kind.index)
    copied, bytewise = images["source"] != "", images["fault_detail"] == "same bytes"
    conflict = images["label"].groupby(source).transform("nunique") > 1
    rows = [
        ("byte copies", right[kind == "bytes"], reached[copied & bytewise]),
        ("near-duplicates", right[kind != "bytes"], reached[copied & ~bytewise]),
        ("label conflicts", conflict[images["conflict"]], images["conflict"][conflict]),
    ]
    table = [(name, hit.mean(), back.mean(), len(hit), len(back)) for name, hit, back in rows]
    return pd.DataFrame(table, columns=["kind", "precision", "recall", "found", "planted"])


def write_audit(audit: Audit, folder: Path | str) -> None:
    """Write one csv file a table; audit.csv comes last: its presence says the audit is whole."""
    for name, field in reversed(list(zip(FILES, fields(audit), strict=True))):
        table: pd.DataFrame = getattr(audit, field.name)
        replace_file(Path(folder) / name, partial(table.to_csv, index=False))


def audit_code() -> str:
    """What an audit depends on beside its films: its code and all that decodes a film."""
    return f"{source_digest(__file__, evaluate.__file__)} {decoder()}"


def read_audit(folder: Path | str) -> Audit:
    """Read what `write_audit` wrote; `ValueError` names the file that is missing or damaged."""
    return Audit(*(_read(Path(folder) / name) for name in FILES))


def _read(path: Path) -> pd.DataFrame:
    text, blank = dict.fromkeys((*_TEXT, "reason"), "str"), dict.fromkeys(BORDER, "")
    try:
        return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=blank)
    except (OSError, ValueError) as error:
        found = f"expected a table of the audit, found {error}"
        raise ValueError(f"{path}: {found}. Audit again.") from None
