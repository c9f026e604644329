"""The chapters in the order of the table of contents, those of a deeper page behind their own."""

from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent


class Chapter(NamedTuple):
    """A notebook and its place in the course.

    Attributes:
        name: Of the notebook.
        number: As in the sidebar, "00" before the first; a deeper page has a letter behind it.
        part: Caption of the part.
    """

    name: str
    number: str
    part: str

    @property
    def file(self) -> str:
        """Name of its copies, which sort as the contents do."""
        return f"{self.number}_{self.name}.ipynb"

    @property
    def shown_number(self) -> str:
        """As in the sidebar: none before the first chapter and on a deeper page."""
        return "" if self.deeper else self.number.lstrip("0")

    @property
    def deeper(self) -> bool:
        """Whether it is a page under a chapter."""
        return len(self.number) > 2


def chapters() -> list[Chapter]:
    """All notebooks in the order of `_toc.yml`."""
    return list(_walk(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))["parts"]))


def notebooks() -> list[Path]:
    """The files of all notebooks, in the order of `_toc.yml`."""
    return [ROOT / f"notebooks/{chapter.name}.ipynb" for chapter in chapters()]


def _walk(parts: list[dict[str, Any]]) -> Iterator[Chapter]:
    number = 0
    for part in parts:
        for entry in part["chapters"]:
            number += bool(part.get("numbered"))
            pages = [entry, *entry.get("sections", [])]
            names = [page["file"] for page in pages if "file" in page]
            ours = [name.split("/")[1] for name in names if name.startswith("notebooks/")]
            for name, letter in zip(ours, ["", *ascii_lowercase], strict=False):
                yield Chapter(name, f"{number:02}{letter}", part["caption"])
