"""What the hand-written pages say about the course is computed when the book is laid out.

| mark | becomes |
|---|---|
| `{minutes}`, `{hours}` | reading and exercises of the chapters that the paragraph links, or all |
| `{hours without deeper pages}` | the same of all chapters, without the pages under them |
| `{exercises}` | the number of exercises, of the same chapters |
| `{chapters}` | the number of chapters, without the pages under them |
| `{syllabus}` | a table of all chapters with their minutes |
| `{picture NAME}` | the last figure of a chapter, with its own text |
"""

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from contents import Chapter, chapters
from minutes import exercises_of, minutes_of

_LINK: Final = re.compile(r"\]\((?:\.\./)*notebooks/(\w+)\.ipynb\)")
_ALL: Final = "hours without deeper pages"
_MARK: Final = re.compile(rf"\{{(minutes|hours|{_ALL}|exercises|chapters|syllabus|picture \w+)\}}")
_FIGURE: Final = re.compile(
    r'<img class="figure" src="data:image/webp;base64,([^"]+)"[^>]*alt="([^"]+)"'
)

Notebook = dict[str, Any]


def filled(page: str, notebooks: Mapping[str, Notebook], assets: Path) -> str:
    """A page with its marks filled in.

    Args:
        page: Markdown that lies in `book/`.
        notebooks: The executed chapters by their names.
        assets: Where pictures go, the folder `assets` beside the page.

    Returns:
        Markdown.

    Raises:
        KeyError: A paragraph with a mark links a chapter that is not there.
    """
    blocks = re.split(r"(\n{2,})", page)
    return "".join(
        _MARK.sub(lambda m, b=block: _told(m[1], b, notebooks, assets), block) for block in blocks
    )


def title(notebook: Notebook) -> str:
    """The first heading of a chapter."""
    lines = (line for cell in notebook["cells"] for line in "".join(cell["source"]).splitlines())
    return next(line[2:] for line in lines if line.startswith("# "))


def _told(mark: str, block: str, notebooks: Mapping[str, Notebook], assets: Path) -> str:
    linked = _LINK.findall(block) or list(notebooks)
    if mark == _ALL:
        mark, linked = "hours", [chapter.name for chapter in chapters() if not chapter.deeper]
    if mark in ("minutes", "hours"):
        minutes = sum(minutes_of(notebooks[name]).together for name in linked)
        return str(minutes if mark == "minutes" else round(minutes / 60))
    if mark == "exercises":
        return str(sum(len(exercises_of(notebooks[name])) for name in linked))
    if mark == "chapters":
        return str(sum(not chapter.deeper for chapter in chapters()))
    if mark == "syllabus":
        return _table(notebooks)
    return _picture(mark.removeprefix("picture "), notebooks, assets)


def _table(notebooks: Mapping[str, Notebook]) -> str:
    rows = ["| | chapter | reading | exercises |", "|--:|---|--:|--:|"]
    part = ""
    for chapter in chapters():
        if chapter.part != part:
            part = chapter.part
            rows.append(f"| | **{part}** | | |")
        rows.append(_row(chapter, notebooks[chapter.name]))
    return "\n".join(rows)


def _row(chapter: Chapter, notebook: Notebook) -> str:
    minutes = minutes_of(notebook)
    link = f"[{title(notebook)}](../notebooks/{chapter.name}.ipynb)"
    return f"| {chapter.shown_number} | {link} | {minutes.reading} min | {minutes.exercises} min |"


def _picture(name: str, notebooks: Mapping[str, Notebook], assets: Path) -> str:
    shown = [
        "".join(output.get("data", {}).get("text/html", ""))
        for cell in notebooks[name]["cells"]
        for output in cell.get("outputs", [])
    ]
    figures = _FIGURE.findall("".join(shown))
    if not figures:
        raise ValueError(f"{name}: expected a figure for the front page, found none")
    data, text = figures[-1]
    (assets / f"{name}.webp").write_bytes(base64.b64decode(data))
    return f"![{html.unescape(text)}](assets/{name}.webp)"
