"""What is wrong with a set of radiographs: copies, label conflicts, shortcuts, and what to keep.

Byte and pixel copies are found by hashes, altered ones by `near_duplicates`. Every file is decoded
once.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from osteo_utils import near_duplicates
from osteo_utils.data.images import read_image
from osteo_utils.errors import ImageError
from osteo_utils.formats.films import THREADS, decoder
from osteo_utils.formats.pixels import Grey
from osteo_utils.progress import progress
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.scoring import evaluate
from osteo_utils.scoring.evaluate import interval_ends, mean_recall, multiplicities, wilson
from osteo_utils.store import replace_file, source_digest

# Correlation of detail after registration. The most similar of all pairs of 210 different real
# radiographs have 0.79, of the knees of the quick corpus (the two of a patient among them) 0.75.
# Of altered copies of these radiographs the lowest has 0.87 (contrast stretched locally), nearly
# all have 0.95 (benchmarks/bench_near_duplicates.py).
SAME_IMAGE: Final = 0.84
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

    The columns of `images` are those of the listing and, by file:

    - `border_black`, `border_white`: shares of black and of white pixels in the outermost frame, as
      wide as 2 % of the shorter side, 0 to 1.
    - `border_mean`: mean grey level of this frame, 0 to 255.
    - `duplicate_group`: number of its group of copies; -1 for a film without a copy.
    - `group`: number of its group of duplicates and patients united: it must stay in one part.
    - `conflict`: whether its copies have different labels.
    - `keep`, and `reason`: why it is not kept, or "".

    The columns of `pairs`, and of `candidates`:

    - `path_a`, `path_b`, and `same_label`.
    - `kind`: the first that fits of bytes, pixels, inverted (also if mirrored, turned or cut
      besides), mirrored (also if turned or cut), transformed (rotated, shifted, cropped, zoomed or
      padded) and near (in place: re-encoded, resized, another contrast).
    - `similarity` of their detail, -1 to 1.
    - `rotation` (degrees, counter-clockwise), `scale` and `shift` (share of the side): how the
      second film lies on the first.

    Attributes:
        images: A row for each file of the listing.
        pairs: A row for each confirmed pair of copies. Of files with the same bytes, or the same
            pixels, each is paired with the first one alone.
        candidates: A row for every pair whose detail was compared.
        shortcuts: What facts without bone predict, as `measure_shortcuts` gives it.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    candidates: pd.DataFrame
    shortcuts: pd.DataFrame


def audit(root: Path | str, listing: pd.DataFrame, seed: int = 0) -> Audit:
    """Audit the files of a listing.

    Files that cannot be decoded are reported, not raised. Of a group of copies the largest film is
    kept (of equals the first); none if their labels differ, since nobody knows which is right.

    Args:
        root: Folder of the corpus.
        listing: As `corpus.list_corpus` gives it.
        seed: For `measure_shortcuts`.

    Returns:
        The findings.

    Raises:
        ValueError: The listing lacks a column or is empty.
    """
    missing = sorted(set(_LISTED) - set(listing))
    if missing or listing.empty:
        found = f"found {len(listing)} files, missing columns {missing}"
        raise ValueError(f"listing: expected at least one file, as list_corpus lists it, {found}")
    images = listing.reset_index(drop=True)
    decoded = _decode_all(Path(root), images)
    images["problem"] = [each.problem for each in decoded]
    images[BORDER] = [each.border for each in decoded]
    hashes = images.loc[images["problem"] == "", "sha256"]
    contents = pd.Series({i: decoded[i].content for i in hashes.drop_duplicates().index}, dtype=str)
    distinct = contents.drop_duplicates().index.to_numpy()
    near = _near_pairs(images.loc[distinct], [decoded[i].film for i in distinct])
    twins = near[near["similarity"] >= SAME_IMAGE]
    pairs = pd.concat([_equal_pairs(hashes, "bytes"), _equal_pairs(contents, "pixels"), twins])
    images = _keep_one(_grouped(images, pairs))
    shortcuts = measure_shortcuts(images[images["keep"]], seed)
    return Audit(images, _named(images, pairs), _named(images, near), shortcuts)


class _Decoded(NamedTuple):
    """What one decoding of a file leaves behind."""

    content: str = ""  # hash of the pixels
    border: tuple[float, float, float] = (np.nan, np.nan, np.nan)
    film: near_duplicates.Film | None = None
    problem: str = ""


def _decode_all(root: Path, images: pd.DataFrame) -> list[_Decoded]:
    def decode(path: str, problem: str) -> _Decoded:
        try:
            return _Decoded(problem=problem) if problem else _facts_of(read_image(root / path))
        except ImageError as error:
            return _Decoded(problem=str(error))

    with ThreadPoolExecutor(THREADS) as pool:
        decoded = pool.map(decode, images["path"], images["problem"])
        return list(progress(decoded, "auditing", len(images), "image"))


def _facts_of(image: Grey) -> _Decoded:
    content = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
    return _Decoded(content, _border(image), near_duplicates.extract_features(image))


def _border(image: Grey) -> tuple[float, float, float]:
    """Share of black, share of white, and mean of the frame that is 2 % of the shorter side."""
    width = max(1, round(0.02 * min(image.shape)))
    sides = image[:width], image[-width:], image[:, :width], image[:, -width:]
    frame = np.concatenate([side.ravel() for side in sides])
    return float((frame == 0).mean()), float((frame == 255).mean()), float(frame.mean())


def _equal_pairs(keys: pd.Series, kind: str) -> pd.DataFrame:
    """Pair every row whose key was seen before with the first row that has it."""
    first = pd.Series(keys.index, index=keys.index).groupby(keys).transform("first")
    first = first[first != first.index]
    pairs = pd.DataFrame({"a": first, "b": first.index, "kind": kind, "similarity": 1.0})
    return pairs.assign(rotation=0.0, scale=1.0, shift=0.0)


def _near_pairs(images: pd.DataFrame, films: list[near_duplicates.Film]) -> pd.DataFrame:
    """Pairs among distinct images whose detail was compared; `a` and `b` are rows of `images`."""
    sizes, rows = images[["width", "height"]].to_numpy(float), images.index.to_numpy()
    found = []
    for pair in near_duplicates.find_pairs(films):
        rotation, scale, shift = _rotation_scale_shift(pair, sizes[pair.a], sizes[pair.b])
        in_place = abs(rotation) < 1 and abs(scale - 1) < 0.02 and shift < 0.02
        kind = "near" if in_place else "transformed"
        kind = "inverted" if pair.inverted else "mirrored" if pair.mirrored else kind
        found.append((*rows[[pair.a, pair.b]], kind, pair.similarity, rotation, scale, shift))
    columns = ["a", "b", "kind", "similarity", "rotation", "scale", "shift"]
    table = pd.DataFrame(found, columns=columns)
    return table.astype({"a": int, "b": int, "kind": str} | dict.fromkeys(columns[3:], float))


def _rotation_scale_shift(
    pair: near_duplicates.Pair, size_a: Floats, size_b: Floats
) -> tuple[float, float, float]:
    """Degrees counter-clockwise, scale, and shift of the middle, in shares of the film's side."""
    linear = pair.affine[:, :2] * (-1 if pair.mirrored else 1, 1)
    (xx, xy), (yx, yy) = linear * np.outer(size_a, 1 / size_b)  # in pixels, squares are no longer
    rotation = -np.degrees(np.arctan2(yx - xy, xx + yy))  # y points down
    shift = float(np.linalg.norm(pair.affine[:, 2]))
    return float(rotation), float(np.sqrt(abs(np.linalg.det(linear)))), shift


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

    A shallow decision tree (six answers take a second) learns from each group of facts in
    `FEATURES`, groups of films kept together.

    Args:
        images: As `Audit.images`, only those films that are kept.
        seed: Of the folds, the tree, the bootstrap and the exchange of labels.

    Returns:
        A row for each group of facts. `features` is its name. `balanced_accuracy`, 0 to 1, has
        `low` and `high`, the 95 % interval by bootstrap over groups. `p_value`, 0 to 1, is found by
        exchanging labels between groups of equal size and is Bonferroni-corrected. `chance` is one
        over the number of classes. No rows unless there are two classes, each with two groups.

    Example:
        >>> facts = {"label": [0, 1], "group": [0, 1], "width": 96, "height": 96}
        >>> len(measure_shortcuts(pd.DataFrame(facts)))  # a class needs two groups
        0
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
    """The findings as numbers.

    Args:
        audit: The findings.

    Returns:
        Numbers of files, unless the name says groups or patients. `surplus` are the copies beyond
        the first of each group, and `distinct` is what is left without them and the `unreadable`.
        `conflicts` are the files in the `conflict_groups`, `patients_across_classes` the patients
        with films of several classes. `duplicate_groups`, `files`, `patients` and `kept` say what
        they are.

    Example:
        >>> copies = {"label": 0, "patient": "", "duplicate_group": [0, 0, -1], "conflict": False}
        >>> images = pd.DataFrame(copies | {"reason": ["", "copy of 1.png", ""]})
        >>> images["keep"] = images["reason"] == ""
        >>> found = counts(Audit(images, *[pd.DataFrame()] * 3))
        >>> found["files"], found["surplus"], found["distinct"], found["kept"]
        (3, 1, 2, 2)
    """
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
    """The whole audit as a text to print.

    Args:
        audit: The findings.

    Returns:
        Lines of text.
    """
    n, images = counts(audit), audit.images
    kinds = [f"{name} {number:,}" for name, number in audit.pairs["kind"].value_counts().items()]
    patients = f"{n['patients']:,}, of these in several classes {n['patients_across_classes']}"
    lines = [
        f"Files: {n['files']:,} ({_by_class(images)}), {n['unreadable']} unreadable",
        *("  " + images.loc[images["reason"] == "unreadable", "problem"]),
        f"Distinct images: {n['distinct']:,}, surplus copies: {n['surplus']}",
        f"Groups of copies: {n['duplicate_groups']}, pairs by kind: {', '.join(kinds) or 'none'}",
        f"Label conflicts: {n['conflict_groups']} groups ({n['conflicts']} files, none kept)",
        f"Patients: {patients if n['patients'] else 'not known'}",
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
    """Precision and recall of the findings on a simulated corpus.

    A planted copy is found if it is in the group of its source; a found pair is right if both
    come from the same radiograph.

    Args:
        audit: The findings.
        truth: As `phantom.corpus.read_truth` gives it.

    Returns:
        A row for each kind, that is pairs of byte copies, pairs of near-duplicates (all other
        copies) and files in a label conflict. `precision` is the share of what was found that is
        right, and `recall` the share of what was planted that was found, 0 to 1 (NaN of nothing);
        `found` and `planted` are the numbers.

    Raises:
        ValueError: The truth lacks an audited path.
    """
    images = _with_truth(audit, truth)
    source, reached, kind = images["origin"], images["reached"], audit.pairs["kind"]
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


def recall_by_fault(audit: Audit, truth: pd.DataFrame) -> pd.DataFrame:
    """How many of the copies that were planted with each fault are in the group of their source.

    Args:
        audit: The findings.
        truth: As `phantom.corpus.read_truth` gives it.

    Returns:
        A row for each fault. `planted` and `found` are numbers of copies, `recall` their share, 0
        to 1, and `low` and `high` the ends of its 95 % interval (Wilson).

    Raises:
        ValueError: The truth lacks an audited path.
    """
    images = _with_truth(audit, truth)
    rows = []
    for fault, reached in images[images["source"] != ""].groupby("fault")["reached"]:
        found, planted = int(reached.sum()), len(reached)
        rows.append((fault, planted, found, found / planted, *wilson(found, planted)))
    return pd.DataFrame(rows, columns=["fault", "planted", "found", "recall", "low", "high"])


def _with_truth(audit: Audit, truth: pd.DataFrame) -> pd.DataFrame:
    """Audited images by path with their truth, `origin` and whether their group `reached` it."""
    facts = truth.set_index("path")[["source", "fault", "fault_detail"]]
    images = audit.images.set_index("path").join(facts, how="inner")
    if len(images) < len(audit.images):
        raise ValueError(f"truth: expected every audited path, found {len(images)}. Audit again.")
    origin = images["source"].where(images["source"] != "", images.index.to_series())
    group = images["duplicate_group"]
    reached = (group >= 0) & (group == group[origin].to_numpy())
    return images.assign(origin=origin, reached=reached)


def write_audit(audit: Audit, folder: Path | str) -> None:
    """Write the audit, a csv file for each table.

    audit.csv comes last: its presence says the audit is whole.

    Args:
        audit: The findings.
        folder: Where `FILES` are written; it exists.
    """
    for name, field in reversed(list(zip(FILES, fields(audit), strict=True))):
        table: pd.DataFrame = getattr(audit, field.name)
        replace_file(Path(folder) / name, partial(table.to_csv, index=False))


def audit_code() -> str:
    """What an audit depends on beside its films: its code and all that decodes a film.

    Returns:
        Two digests, SHA-256 (hex), with a space between.
    """
    return f"{source_digest(__file__, near_duplicates.__file__, evaluate.__file__)} {decoder()}"


def read_audit(folder: Path | str) -> Audit:
    """Read what `write_audit` wrote.

    Args:
        folder: Where `FILES` are.

    Returns:
        The findings.

    Raises:
        ValueError: A file is missing or damaged; the message names it.
    """
    return Audit(*(_read(Path(folder) / name) for name in FILES))


def _read(path: Path) -> pd.DataFrame:
    text, blank = dict.fromkeys((*_TEXT, "reason"), "str"), dict.fromkeys(BORDER, "")
    try:
        return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=blank)
    except (OSError, ValueError) as error:
        found = f"expected a table of the audit, found {error}"
        raise ValueError(f"{path}: {found}. Audit again.") from None
