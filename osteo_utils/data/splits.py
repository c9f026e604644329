"""One split into train, validation and test: whole groups, all classes, written once, hashed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from osteo_utils.errors import CourseError
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.store import replace_file, rows_digest, write_json

PARTS: Final = ("train", "validation", "test")
IDENTITY: Final = ("path", "label", "group", "part")
COLUMNS: Final = (*IDENTITY, "sha256")
_ANEW: Final = "Make the split anew from the audit."


class SplitError(CourseError):
    """A split that must not be used."""


def make_split(
    images: pd.DataFrame, fractions: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0
) -> pd.DataFrame:
    """Deal the kept images of an audit to train, validation and test, group by group.

    Groups come in random order, large ones first; each goes where its classes are most lacking, so
    every class is shared out in `fractions` as well as whole groups allow. The same seed gives the
    same split.

    Args:
        images: As `Audit.images`; columns path, label, group, sha256 and keep.
        fractions: Shares of train, validation and test, each above 0, with sum 1.
        seed: Of the order of the groups.

    Returns:
        Columns path, label, group, part and sha256, sorted as `images`. Its `attrs` hold the seed
        and the fractions.

    Raises:
        SplitError: The fractions are not such, a column is missing, or no split of these images is
            valid (see `check_split`).

    Example:
        >>> films = {"path": [f"{i}.png" for i in range(9)], "label": [0, 1, 2] * 3}
        >>> images = pd.DataFrame(films | {"group": range(9), "keep": True})
        >>> split = make_split(images.assign(sha256=images["path"]))
        >>> [sorted(split.loc[split["part"] == part, "label"].tolist()) for part in PARTS]
        [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    """
    if len(fractions) != len(PARTS) or min(fractions) <= 0 or not np.isclose(sum(fractions), 1):
        remedy = "Give the shares of train, validation and test."
        raise SplitError("fractions", "three above 0 with sum 1", tuple(fractions), remedy)
    if missing := {"path", "label", "group", "sha256", "keep"} - set(images):
        found = f"no column {', '.join(sorted(missing))}"
        raise SplitError("images", "the table of an audit", found, "Give Audit.images.")
    kept = images[images["keep"]]
    counts = pd.crosstab(kept["group"], kept["label"])  # images of each class in each group
    shares = (counts / counts.sum()).to_numpy()
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts.to_numpy().sum(axis=1)[order], kind="stable")]
    target = np.array(fractions)[:, None]
    lacking = target + np.zeros(shares.shape[1])  # share of each class that a part still lacks
    part_of = {}
    for row in order:
        part = int(np.argmax(np.round(lacking / target @ shares[row], 9)))  # ties alike anywhere
        lacking[part] -= shares[row]
        part_of[counts.index[row]] = PARTS[part]
    split = kept.assign(part=kept["group"].map(part_of))[list(COLUMNS)].reset_index(drop=True)
    split.attrs = {"seed": seed, "fractions": list(fractions)}  # for split.json
    check_split(split)
    return split


def check_split(split: pd.DataFrame) -> None:
    """Refuse a split that would leak, repeat a file or leave a class out.

    Args:
        split: Columns path, label, group, part and sha256.

    Raises:
        SplitError: A column is missing, a part or label is none of those known, a path or a content
            is there twice, a group is in two parts, or a part has no film of a class.

    Example:
        >>> films = {"path": list("abcdefghi"), "sha256": list("abcdefghi"), "label": [0, 1, 2] * 3}
        >>> split = pd.DataFrame(films | {"part": np.repeat(PARTS, 3), "group": range(9)})
        >>> check_split(split)
        >>> try:
        ...     check_split(split.assign(group=[0, 1, 2, 0, 4, 5, 6, 7, 8]))
        ... except SplitError as error:
        ...     print(str(error).partition(".")[0])
        split: expected each group in one part, found group 0 in train and validation
    """
    if missing := [name for name in COLUMNS if name not in split]:
        found = f"none named {', '.join(missing)}"
        raise SplitError("split", f"the columns {', '.join(COLUMNS)}", found, _ANEW)
    allowed: dict[str, list[object]] = {"part": [*PARTS], "label": [*range(len(CLASS_NAMES))]}
    for column, known in allowed.items():
        if unknown := set(split[column]) - set(known):
            raise SplitError("split", f"each {column} in {known}", unknown, _ANEW)
    for column, what in (("path", "path"), ("sha256", "content")):
        twice = split.loc[split[column].duplicated(keep=False)].sort_values(column)["path"]
        if len(twice):
            raise SplitError("split", f"each {what} once", f"{list(twice[:2])} alike", _ANEW)
    parts = split.groupby("group")["part"].unique()
    for group, crossed in parts[parts.map(len) > 1].items():
        found = f"group {group} in {' and '.join(crossed)}"
        why = "Copies or one patient's knees on both sides let a network score by memory."
        raise SplitError("split", "each group in one part", found, f"{why} {_ANEW}")
    for part in PARTS:
        labels = set(split.loc[split["part"] == part, "label"])
        if absent := [name for label, name in enumerate(CLASS_NAMES) if label not in labels]:
            found = f"no {' and no '.join(absent)} in {part}"
            remedy = "Use a larger corpus: it takes three groups a class, better many more."
            raise SplitError("split", "every class in each part", found, remedy)


def film_changes(before: pd.DataFrame, now: pd.DataFrame) -> str:
    """What happened to films between two tables, in words.

    Args:
        before: Columns path and sha256.
        now: The same columns.

    Returns:
        How many films were added, removed and changed, with up to three paths each; "" if none.

    Example:
        >>> before = pd.DataFrame({"path": ["1.png", "2.png"], "sha256": ["a", "b"]})
        >>> now = pd.DataFrame({"path": ["2.png", "3.png"], "sha256": ["c", "d"]})
        >>> film_changes(before, now)
        '1 added: 3.png; 1 removed: 1.png; 1 changed: 2.png'
    """
    old, new = (dict(zip(t["path"], t["sha256"], strict=True)) for t in (before, now))
    kinds = {
        "added": [path for path in new if path not in old],
        "removed": [path for path in old if path not in new],
        "changed": [path for path in new if old.get(path, new[path]) != new[path]],
    }
    return "; ".join(
        f"{len(paths)} {kind}: {', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''}"
        for kind, paths in kinds.items()
        if paths
    )


def split_changes(split: pd.DataFrame, kept: pd.DataFrame) -> str:
    """How the films that an audit keeps now differ from those of a split, in words.

    Groups are compared as sets of films, whatever their names.

    Args:
        split: Columns path, label, group and sha256.
        kept: The same columns, of the films that are kept now.

    Returns:
        As `film_changes`, or that the same films are in other groups or classes; "" if nothing
        differs.

    Example:
        >>> films = {"path": ["1.png", "2.png"], "sha256": ["a", "b"], "label": 0}
        >>> split, kept = (pd.DataFrame(films | {"group": names}) for names in ([0, 1], ["x", "y"]))
        >>> split_changes(split, kept), split_changes(split, kept.assign(group=0))
        ('', 'the same films in other groups or classes')
    """
    if changes := film_changes(split, kept):
        return changes
    kept = kept.set_index("path").loc[split["path"]]
    before, now = (pd.factorize(table["group"])[0] for table in (split, kept))
    same = np.array_equal(before, now) and np.array_equal(split["label"], kept["label"])
    return "" if same else "the same films in other groups or classes"


def split_hash(split: pd.DataFrame) -> str:
    """The name of this split in every run.

    The content of the files is no part of it: encoders write the same phantom in other bytes.

    Args:
        split: Columns path, label, group and part.

    Returns:
        SHA-256 (hex) over these columns (`IDENTITY`) of the rows in any order.

    Example:
        >>> columns = {"path": ["1.png", "2.png"], "label": [0, 1], "group": [0, 1], "part": "test"}
        >>> split = pd.DataFrame(columns)
        >>> split_hash(split) == split_hash(split[::-1]), split_hash(split) == split_hash(split[:1])
        (True, False)
    """
    return rows_digest(split, IDENTITY)


def split_identity(split: pd.DataFrame) -> dict[str, str]:
    """What names a split and its films.

    A table that does not say which films were split (`attrs["films"]`) is named by its rows.

    Args:
        split: Columns path, label, group, part and sha256.

    Returns:
        `split_hash`, and `films` (`corpus.films_digest`), each SHA-256 (hex).
    """
    films = split.attrs.get("films") or rows_digest(split, ("path", "sha256"))
    return {"split_hash": split_hash(split), "films": films}


def write_split(split: pd.DataFrame, path: Path | str) -> str:
    """Write split.csv and, beside it, split.json with its `split_identity`.

    Writing the same split of the same films again changes nothing.

    Args:
        split: As `make_split` gives it; `attrs["films"]` may name the films
            (`corpus.films_digest`).
        path: Of split.csv; its folder exists.

    Returns:
        The `split_hash`.

    Raises:
        SplitError: The split is not valid (see `check_split`), or another one or a damaged one is
            there: models trained on it would be tested on what they have seen.
    """
    check_split(split)
    path, identity = Path(path), split_identity(split)
    digest = identity["split_hash"]
    if path.exists():
        known = read_split(path)
        if split_identity(known) == identity:
            return digest
        found = f"another split ({split_hash(known)[:12]}) or one of other films"
        remedy = "Use read_split; to start over, delete its whole folder, as runs may rest on it."
        raise SplitError(path, f"this split ({digest[:12]})", found, remedy)
    counts = pd.crosstab(split["part"], split["label"]).loc[list(PARTS)].T.to_dict("list")
    info = split.attrs | identity | {"class_names": CLASS_NAMES}
    info |= {"counts": counts, "rows": rows_digest(split, COLUMNS)}
    write_json(path.with_suffix(".json"), info)
    table = split[list(COLUMNS)]
    replace_file(path, lambda part: table.to_csv(part, index=False, lineterminator="\n"))
    return digest


def read_split(path: Path | str) -> pd.DataFrame:
    """Read a split that `write_split` wrote.

    Args:
        path: Of split.csv.

    Returns:
        Columns path, label, group, part and sha256. Its `attrs["films"]` is the digest of the films
        that were split.

    Raises:
        SplitError: A file is missing or damaged, was changed since, or the split is not valid.
    """
    path = Path(path)
    beside = path.with_suffix(".json")
    text = {"path": "str", "group": "str", "sha256": "str"}
    try:
        split = pd.read_csv(path, dtype=text, keep_default_na=False)
        info = json.loads(beside.read_text(encoding="utf-8"))
        films, written = info["films"], [info["split_hash"], info["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        remedy = "Restore both, or delete the folder and split again."
        expected = f"a split and {beside.name} with its hash"
        raise SplitError(path, expected, repr(error), remedy) from None
    check_split(split)
    if split["group"].str.fullmatch(r"0|[1-9]\d{0,17}").all():  # numbers, and no names like 007
        split["group"] = split["group"].astype(np.int64)
    if [split_hash(split), rows_digest(split, COLUMNS)] != written:
        remedy = "Restore the file, or delete the folder and split again."
        expected = f"the split that {beside.name} is of"
        raise SplitError(path, expected, "one that was changed since", remedy)
    split.attrs["films"] = films
    return split
