"""Writing a file so that it is whole or not there, whenever the process dies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, with its suffix, and move it into place."""
    part = path.with_name(f".part.{path.name}")
    write(part)
    part.replace(path)
