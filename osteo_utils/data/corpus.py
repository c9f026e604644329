"""Make, fetch, unpack and list a corpus: a folder with one sub-folder for each class.

Every writer works in a hidden folder beside its target and moves it into place last, so a kill
leaves a whole corpus or none. A folder the reader brings is used where it is, never written to.
"""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Final

import pandas as pd

from osteo_utils.errors import CorpusError, ImageError
from osteo_utils.formats.archives import download, extract, is_hidden
from osteo_utils.formats.films import THREADS, ImageFacts, decoder, probe, read_bytes
from osteo_utils.progress import progress
from osteo_utils.registry import CLASS_NAMES, FILM, IMAGE_FOLDER, METADATA_COLUMNS, Profile
from osteo_utils.store import make_folder, natural_key, rows_digest, source_digest, write_json

KNOWN: Final = ("simulated", "kaggle")
KAGGLE_SET: Final = "mohamedgobara/multi-class-knee-osteoporosis-x-ray-dataset"
KAGGLE_PAGE: Final = f"https://www.kaggle.com/datasets/{KAGGLE_SET}"
KAGGLE_URL: Final = (
    f"https://www.kaggle.com/api/v1/datasets/download/{KAGGLE_SET}?datasetVersionNumber=1"
)
KAGGLE_COUNTS: Final = (780, 374, 793)
MAX_DEPTH: Final = 4  # of a class folder below the folder given
_NO_CHARACTERS: Final = re.compile(r"[\x00-\x1f\x7f]")
_SETTLED: Final = 2_000_000_000  # ns; a younger file may change again within one tick of its clock


def open_corpus(
    name: str, profile: Profile, home: Path | str = Path("corpora"), seed: int = 0
) -> Path:
    """The folder of a corpus, made, fetched or unpacked if it is not there yet.

    Args:
        name: "simulated" is made for the profile, "kaggle" is fetched, a zip is unpacked, and any
            other path must be a folder with a sub-folder for each class, used in place.
        profile: Says how many patients and pixels a simulated corpus has.
        home: Folder below which corpora are made, fetched and unpacked.
        seed: Of a simulated corpus.

    Returns:
        The folder.

    Raises:
        CorpusError: There is no such path, or what is there or was fetched cannot be used.
    """
    home = Path(home)
    if name == "simulated":
        from osteo_utils.phantom.corpus import make_simulated  # it loads much of SciPy

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
    """Absolute path of a reader's own folder or zip, `~` and links resolved.

    Args:
        name: Of a corpus, as for `open_corpus`.

    Returns:
        The path. None for "simulated" and "kaggle", which always mean those two, also where a
        folder of that name exists.

    Example:
        >>> corpus_path("kaggle") is None, corpus_path("films.zip") == Path("films.zip").resolve()
        (True, True)
    """
    return None if name in KNOWN else Path(os.path.expanduser(name)).resolve()  # noqa: PTH111 (~nobody stays)


def corpus_name(name: str) -> str:
    """Name of a corpus in paths.

    Args:
        name: Of a corpus, as for `open_corpus`.

    Returns:
        Letters, digits and `._-` alone, another name for another path. It is "simulated", "kaggle",
        or the name of the folder or zip with six hex digits of the SHA-256 of its path.

    Example:
        >>> corpus_name("simulated"), corpus_name("my films.zip")[:-6]
        ('simulated', 'my-films-')
    """
    if (path := corpus_path(name)) is None:
        return name
    stem = re.sub(r"\.zip$", "", path.name, flags=re.IGNORECASE)
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.")[:40]
    return f"{slug or 'corpus'}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:6]}"


def films_digest(root: Path | str, listing: pd.DataFrame) -> str:
    """What names the films of a whole listing.

    A simulated corpus whose files are still those that were made is named by its settings, since
    other versions of an encoder write the same phantoms in other bytes; any other by its files.

    Args:
        root: Folder of the corpus.
        listing: As `list_corpus` gives it; columns path and sha256.

    Returns:
        SHA-256 (hex).

    Raises:
        CorpusError: corpus.json of a simulated corpus is damaged.
    """
    digest = rows_digest(listing, FILM)
    from osteo_utils.phantom.corpus import corpus_info  # it loads much of SciPy

    made = corpus_info(Path(root))
    if made.get("films") != digest:
        return digest
    return hashlib.sha256(json.dumps(made["settings"], sort_keys=True).encode()).hexdigest()


def listing_digest(listing: pd.DataFrame) -> str:
    """What names everything that `list_corpus` tells of a corpus, patients included.

    Args:
        listing: As `list_corpus` gives it.

    Returns:
        SHA-256 (hex).

    Example:
        >>> one, other = (pd.DataFrame({"path": ["1.png"], "patient": p}) for p in ("", "P1"))
        >>> listing_digest(one) == listing_digest(one), listing_digest(one) == listing_digest(other)
        (True, False)
    """
    return rows_digest(listing, list(listing.columns))


def fetch_kaggle(
    root: Path | str, url: str = KAGGLE_URL, counts: Sequence[int] = KAGGLE_COUNTS
) -> Path:
    """Download the public knee set (1.2 GB, no account needed), check it and put it in place.

    The archive's MD5 (where the server tells it), paths, sizes, checksums and its number of files
    in each class are checked before anything is put in place; nothing stays behind if that fails. A
    folder that is there already only has to hold files of each class.

    Args:
        root: Folder of the corpus.
        url: Address of the zip.
        counts: Number of files in each class, in the order of `CLASS_NAMES`.

    Returns:
        The folder.

    Raises:
        CorpusError: One of these checks fails, or the server cannot be reached.
    """

    def fill(part: Path) -> None:
        archive = part / "archive.zip"
        download(url, archive)
        extract(archive, part, url)
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
    """Unpack a zip with a sub-folder for each class, once.

    Args:
        archive: The zip.
        root: Folder of the corpus.

    Returns:
        The folder.

    Raises:
        CorpusError: There is no such zip, it is damaged or unsafe, it lacks a class, or the folder
            holds something else.
    """
    archive, root = Path(archive), Path(root)
    if not archive.is_file():
        raise CorpusError(archive, "a zip", "no such file", "Check the path.")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()

    def fill(part: Path) -> None:
        extract(archive, part, archive)
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

    metadata.csv in the folder may say who the patients are. One with neither a column path nor a
    column patient is another program's: it is left aside, and stderr says so.

    Args:
        root: Folder of the corpus.
        cache: A JSON file. A good film whose size and times are those of the last listing is not
            read again.

    Returns:
        Columns path (below `root`), label, patient, site, side (from metadata.csv, "" without),
        format, extension, mode, width, height, bytes, sha256, problem ("" or why it cannot be
        used).

    Raises:
        CorpusError: A class has no file, a folder cannot be read, or metadata.csv does not fit the
            files.

    Example:
        >>> from PIL import Image
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as root:
        ...     for name in CLASS_NAMES:
        ...         Path(root, name).mkdir()
        ...         Image.new("L", (3, 2)).save(Path(root, name, "1.png"))
        ...     listing = list_corpus(root)
        >>> listing["path"].tolist(), listing["label"].tolist(), listing["width"].tolist()
        (['Normal/1.png', 'Osteopenia/1.png', 'Osteoporosis/1.png'], [0, 1, 2], [3, 3, 3])
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
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_json(cache, {"code": _listing_code(), "films": good})
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
        found = _printable(", ".join(sorted(folders)[:12]))[0] or "no folder below it"
        raise CorpusError(name or root, expected, f"files in: {found}", "Rename or add folders.")
    return sorted(files, key=lambda file: natural_key(file[0].relative_to(root).as_posix()))


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
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            yield from _files_below(entry, (*above, here))
        else:
            yield entry


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
