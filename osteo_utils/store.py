"""Write a file or a folder whole or not at all, one process at a time; name data by its digest.

A killed process leaves at most hidden `.part-` files and folders; the next writer beside them
clears them away.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows: what a killed process leaves there stays
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to a file or folder, whether that exists yet or not.

    The lock is the hidden file `.<name>.lock` beside it, which stays. It is let go when the process
    ends, however it ends, and may be taken again by the thread that holds it. Whoever has to wait
    for another process or thread is told so on stderr.

    Args:
        path: Of the file or folder; folders above it are made.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(f".{path.name}.lock"), is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{path}: another process is at work on it, waiting for it.", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let a function fill a temporary file beside `path`, and move it into place.

    Of two writers at once the later one wins, and both files are whole. If `write` raises, `path`
    is as it was and nothing else is left behind; so it is where `path` may not be replaced.

    Args:
        path: Of the file, in a folder that exists.
        write: Called with the path of the temporary file, which has the same suffix.

    Raises:
        PermissionError: `path` may not be replaced, as one that is open on Windows.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "note.txt"
        ...     replace_file(file, lambda part: part.write_text("whole"))
        ...     file.read_text()
        'whole'
    """
    path = Path(path)
    _clear_dead_parts(path.parent)
    while True:
        part = path.with_name(f".part-{secrets.token_hex(4)}-{path.name}")
        with part.open("xb") as held:
            if fcntl is None:
                held.close()  # Windows moves no file that is open
            else:
                fcntl.flock(held, fcntl.LOCK_EX)  # tells others that its writer lives
                if os.fstat(held.fileno()).st_nlink == 0:
                    continue  # another writer took it for dead before it was locked
            try:
                write(part)
                _to_disk(part)
                _move(part, path)
            finally:
                part.unlink(missing_ok=True)
            return


def write_json(file: Path, content: Any) -> None:  # noqa: ANN401
    """Write JSON to a temporary name beside a file and move it into place.

    Args:
        file: To be written, in a folder that exists.
        content: What JSON can hold.

    Raises:
        PermissionError: The file may not be replaced, as one that is open on Windows.
    """
    text = json.dumps(content, indent=2) + "\n"
    replace_file(file, lambda part: part.write_text(text, encoding="utf-8"))


def _move(part: Path, path: Path) -> None:
    try:
        part.replace(path)
    except PermissionError as error:
        remedy = "cannot be replaced: close the program that has it open, or allow writing there"
        raise PermissionError(error.errno, remedy, str(path)) from error


def make_folder(path: Path, fill: Callable[[Path], None]) -> Path:
    """Let a function fill a hidden folder beside `path`, and move it into place, once.

    What is there already is returned as it is. Of two makers at once the second one waits and finds
    the work of the first. If `fill` raises, nothing is left behind.

    Args:
        path: Of the folder.
        fill: Called with the path of the hidden folder, which is empty.

    Returns:
        `path`, which exists now.
    """
    path = Path(path)
    with locked(path):
        if path.exists():
            return path
        part = path.with_name(f".part-{path.name}")
        shutil.rmtree(part, ignore_errors=True)  # of a maker that was killed
        try:
            part.mkdir()
            fill(part)
            part.replace(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return path


def rows_digest(table: "pd.DataFrame", columns: Sequence[str]) -> str:
    """SHA-256 over these columns of a table, as text; the order of its rows is no matter.

    Args:
        table: Has these columns.
        columns: Their names; their order counts.

    Returns:
        Sixty-four hexadecimal digits.

    Example:
        >>> import pandas as pd
        >>> films = pd.DataFrame({"path": ["a.png", "b.png"], "label": [0, 1]})
        >>> rows_digest(films, ["path", "label"]) == rows_digest(films[::-1], ["path", "label"])
        True
    """
    rows = sorted(table[list(columns)].astype(str).to_numpy().tolist())
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def source_digest(*files: str) -> str:
    """SHA-256 of these source files: the same code gives the same results.

    Args:
        files: Their paths; their order counts.

    Returns:
        Sixty-four hexadecimal digits.
    """
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def natural_key(path: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key in which 2 comes before 10, and case matters only between equals.

    Args:
        path: Any text, such as a path.

    Returns:
        What `sorted` takes as the key of it.

    Example:
        >>> sorted(["b.png", "film10.png", "Film2.png"], key=natural_key)
        ['b.png', 'Film2.png', 'film10.png']
    """
    pieces = re.split(r"(\d+)", path.casefold())
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in pieces], path


def _clear_dead_parts(folder: Path) -> None:
    """Remove the temporary files whose writers were killed: nobody holds their locks."""
    if fcntl is None:
        return
    for part in folder.glob(".part-*"):
        try:
            with part.open("rb") as left:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink(missing_ok=True)
        except OSError:  # a folder, a living writer, or gone by now
            continue


def _to_disk(path: Path) -> None:
    """Have the system write its buffers, so that a power cut cannot leave an empty file."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
