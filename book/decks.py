"""Slides of the chapters, a file each, made from the chapters themselves.

A deck has the goals, a slide for each section with its first sentence or two, its short pieces of
code, its figures, the exercises and the key points. Reveal.js shows it beside the pages, with no
network needed.
"""

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from contents import Chapter, chapters
from dress import EXERCISE
from minutes import UNSEEN
from syllabus import title

PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="../_static/vendor/reveal.css">
<link rel="stylesheet" href="../_static/css/deck.css">
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="../_static/vendor/mathjax.js"></script>
<script src="../_static/vendor/reveal.js"></script>
<script src="../_static/js/deck.js"></script>
</body>
</html>
"""
_GOALS: Final = re.compile(r"^> \*\*You will be able to\*\*\n((?:> - .*\n?)+)", re.MULTILINE)
_FIGURE: Final = re.compile(r'<img class="figure"[^>]*>')
_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)\s]*\)")
LINES: Final = 14  # of code on a slide
WORDS: Final = 12  # of a section's beginning, at least
_NOT_TOLD: Final = ("Quiz", "What next", "Exercises")

Notebook = dict[str, Any]


def deck(notebook: Notebook, chapter: Chapter) -> str:
    """The slides of an executed chapter as a page of HTML.

    Args:
        notebook: As JSON.
        chapter: Its place in the course.

    Returns:
        The page.
    """
    number = chapter.shown_number
    name = f"{number}. {title(notebook)}" if number else title(notebook)
    slides = "\n".join(f"<section>\n{slide}\n</section>" for slide in _slides(notebook, name))
    return PAGE.format(title=html.escape(name), slides=slides)


def goals(text: str) -> str:
    """What a chapter promises, as a list in Markdown without links; nothing if it does not say."""
    found = _GOALS.search(text)
    return _plain(re.sub(r"^> ", "", found[1], flags=re.MULTILINE)).rstrip() if found else ""


def _slides(notebook: Notebook, name: str) -> Iterator[str]:
    """One after another. What follows a section's first sentence stands on the same slide."""
    heading = begun = ""
    for cell in notebook["cells"]:
        source, tags = "".join(cell["source"]), set(cell["metadata"].get("tags", []))
        if "solution" in tags:
            continue
        if cell["cell_type"] == "code":
            for content in _shown(cell, source, tags) if heading else ():
                yield (begun or _html(f"## {heading}")) + content
                begun = ""
            continue
        if source.startswith("# "):
            yield _html(f"# {name}\n\n{_promise(goals(source))}")
        for part in re.split(r"^(?=## |> \*\*Exercise: )", source, flags=re.MULTILINE):
            if begun and part.startswith(("## ", "> **Exercise: ")):
                yield begun
                begun = ""
            if found := EXERCISE.match(part):
                text = re.sub(r"^> ?", "", found[2], flags=re.MULTILINE)
                yield f'<div class="exercise">{_html(f"## {found[1]}{text}")}</div>'
            elif part.startswith("## "):
                heading = part.splitlines()[0].removeprefix("## ").strip()
                if heading not in _NOT_TOLD:
                    begun = _html(f"## {heading}\n\n{_told(heading, part)}")


def _shown(cell: dict[str, Any], source: str, tags: set[str]) -> Iterator[str]:
    """Code that is short and not folded, and the figures below it."""
    if not tags & UNSEEN and len(source.splitlines()) <= LINES:
        yield _html(f"```python\n{source}\n```")
    shown = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
    yield from _FIGURE.findall("".join("".join(each) for each in shown))


def _promise(promised: str) -> str:
    return f"You will be able to\n\n{promised}" if promised else ""


def _told(heading: str, part: str) -> str:
    """The key points whole; of another section its first sentence."""
    body = part.partition("\n")[2].strip()
    if heading == "Key points":
        return body
    first = re.split(r"\n{2,}", body)[0] if body else ""
    if re.match(r"[|>#$`\-]|\d+\. ", first):
        return ""
    sentences = re.split(r"(?<=[.?!:])\s+(?=[A-Z*\[`$])", _plain(first))
    enough = next((n for n in (1, 2) if len(" ".join(sentences[:n]).split()) >= WORDS), 3)
    return " ".join(sentences[:enough])


def _plain(text: str) -> str:
    return _LINK.sub(r"\1", text)


def _html(markdown: str) -> str:
    made: str = _MARKDOWN.render(_plain(markdown))
    return made


def _formula(content: str, options: Mapping[str, Any]) -> str:
    """As MathJax finds it in the page."""
    left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
    return f"{left}{html.escape(content)}{right}"


_MARKDOWN: Final = MarkdownIt("commonmark").enable("table")
_MARKDOWN.use(dollarmath_plugin, renderer=_formula)


def write_decks(notebooks: Mapping[str, Notebook], out: Path) -> None:
    """Write the slides of all chapters.

    Args:
        notebooks: The executed chapters by their names.
        out: The folder, which is made.
    """
    out.mkdir(parents=True, exist_ok=True)
    for chapter in chapters():
        page = deck(notebooks[chapter.name], chapter)
        (out / Path(chapter.file).with_suffix(".html")).write_text(page, encoding="utf-8")
