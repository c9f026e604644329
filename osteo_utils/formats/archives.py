"""Fetch and unpack archives of films: checked on the way, and nothing is written outside.

What was written before a fault was met stays: work in a folder that is cleared away then
(`store.make_folder`).
"""

import base64
import hashlib
import http.client
import re
import shutil
import stat
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final

from tqdm import tqdm

from osteo_utils.errors import CorpusError
from osteo_utils.progress import progress, watched

MAX_UNPACKED: Final = 20_000_000_000  # bytes; the public set has 1.2 billion
MAX_MEMBERS: Final = 100_000


_IGNORED: Final = {"__macosx", "thumbs.db", "desktop.ini", "icon\r", "@eadir"}


def download(url: str, target: Path) -> None:
    """Fetch a file and check that it is whole.

    It may not be shorter than the server states. Where the server states its MD5 (Google's storage,
    where Kaggle keeps its files, does), that must be right.

    Args:
        url: Its address.
        target: Where it is written.

    Raises:
        CorpusError: The server cannot be reached, the file is not whole or cannot be written, or
            the disk has no room for it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     film, copy = Path(folder, "film"), Path(folder, "copy")
        ...     _ = film.write_bytes(b"grey")
        ...     download(film.as_uri(), copy)
        ...     copy.read_bytes()
        b'grey'
    """
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


def extract(archive: Path, folder: Path, name: object) -> None:
    """Unpack a zip into a folder, checksums verified on the way.

    Hidden files (`is_hidden`) are left out.

    Args:
        archive: The zip.
        folder: Where its files go; it exists.
        name: What an error calls the zip: its path or address.

    Raises:
        CorpusError: The zip is damaged or not read here, an entry points outside, is a symbolic
            link or encrypted, there are more than `MAX_MEMBERS` entries or `MAX_UNPACKED` bytes, or
            the disk has no room for them.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with zipfile.ZipFile(Path(folder, "films.zip"), "w") as films:
        ...         films.writestr("Normal/1.png", "grey")
        ...         films.writestr("Normal/.DS_Store", "")
        ...     extract(Path(folder, "films.zip"), Path(folder), "films.zip")
        ...     [path.name for path in Path(folder, "Normal").iterdir()]
        ['1.png']
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            _check_members(name, members)
            _check_space(name, folder, sum(member.file_size for member in members))
            for member in progress(members, "unpacking", unit="file"):
                if "/" not in member.filename:  # made on Windows, against the standard
                    member.filename = member.filename.replace("\\", "/")
                if not (member.is_dir() or is_hidden(member.filename)):
                    opened.extract(member, folder)
    except CorpusError:
        raise
    except Exception as error:  # damaged archives make zipfile raise nearly anything
        found = f"{type(error).__name__}: {error}"
        remedy = "Download it again; if the disk is full, free some space."
        if isinstance(error, zipfile.BadZipFile):
            remedy = "A corpus is a folder or a zip; download a broken zip again."
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


def is_hidden(path: PurePath | str) -> bool:
    """Whether a path is one that nobody sees.

    Args:
        path: Of a file or folder.

    Returns:
        Whether any part starts with a dot or is what an operating system leaves behind.

    Example:
        >>> is_hidden("Normal/.1.png"), is_hidden("__MACOSX/1.png"), is_hidden("Normal/1.png")
        (True, True, False)
    """
    parts = PurePath(path).parts
    return any(p.startswith(".") or p.casefold() in _IGNORED for p in parts)
