"""Copies of the chapters for students, for instructors, and with solutions.

    python book/editions.py OUT

One source holds all: `notebooks/`. Its cells carry tags:

| tag | student | solutions | instructor |
|---|---|---|---|
| `solution`, text | left out | as it is | as it is |
| `solution`, code | a gap from `# BEGIN SOLUTION` to `# END SOLUTION` | whole | whole |
| `instructor` | left out | left out | as it is |

Links lead to the pages of the book, since a copy travels without its neighbours. The button at its
head opens the copy itself in Colab, from the branch that holds the published pages. The files have
the numbers of the chapters, so that they sort as the contents do.
"""

import copy
import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from contents import ROOT, Chapter, chapters, notebooks
from dress import glossary

Edition = Literal["student", "solutions", "instructor"]
EDITIONS: Final[tuple[Edition, ...]] = get_args(Edition)
GAP: Final = "...  # your lines"
_SOLUTION: Final = re.compile(r"^( *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION$", re.M | re.S)
_MARKS: Final = re.compile(r"^ *# (?:BEGIN|END) SOLUTION\n?", re.M)
_COLAB: Final = re.compile(r"https://colab\.research\.google\.com/\S+/(\w+)\.ipynb")
_TITLE: Final = re.compile(r"\A# ")
_LINK: Final = re.compile(r"\]\((?!https?:|#)([^)\s#]+)\.(ipynb|md)(#[\w-]+)?\)")

Notebook = dict[str, Any]


def edition_of(
    notebook: Notebook, edition: Edition, site: str, terms: Mapping[str, str]
) -> Notebook:
    """A copy of a chapter for one kind of reader.

    Args:
        notebook: The source, as JSON.
        edition: For whom.
        site: Address of the book's front page, which ends in "/".
        terms: What `dress.glossary` gives.

    Returns:
        The copy.

    Raises:
        ValueError: Code that is tagged `solution` has no marks around what a student writes.
    """
    made = copy.deepcopy(notebook)
    made["cells"] = [
        _cell(cell, edition, site, terms) for cell in made["cells"] if _is_kept(cell, edition)
    ]
    return made


def _is_kept(cell: dict[str, Any], edition: Edition) -> bool:
    tags = cell["metadata"].get("tags", [])
    if edition == "student" and cell["cell_type"] == "markdown" and "solution" in tags:
        return False
    return edition == "instructor" or "instructor" not in tags


def _cell(
    cell: dict[str, Any], edition: Edition, site: str, terms: Mapping[str, str]
) -> dict[str, Any]:
    source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
    if cell["cell_type"] == "markdown":
        source = to_pages(source, site, terms)
    elif "solution" in tags:
        if not _SOLUTION.search(source):
            raise ValueError(
                f"cell {cell.get('id')}: expected # BEGIN SOLUTION and # END SOLUTION in a cell "
                "tagged solution, found none; put them around what a student is to write"
            )
        if edition == "student":
            source = _SOLUTION.sub(lambda found: f"{found[1]}{GAP}", source)
            cell["metadata"] = {"tags": tags}  # not folded: here the reader writes
        source = _MARKS.sub("", source)
    return cell | {"source": source.splitlines(keepends=True)}


def to_pages(text: str, site: str, terms: Mapping[str, str]) -> str:
    """Markdown whose links to files beside it lead to the pages of a site.

    Args:
        text: Of a chapter.
        site: Address of the book's front page, which ends in "/".
        terms: What `dress.glossary` gives.

    Returns:
        Markdown.

    Example:
        >>> to_pages("[R](../book/glossary.md#relu), [V](vgg19.ipynb)", "../", {"relu": "ReLU"})
        '[R](../book/glossary.html#term-ReLU), [V](../notebooks/vgg19.html)'
    """
    return _LINK.sub(lambda link: _address(link, site, terms), text)


def _address(link: re.Match[str], site: str, terms: Mapping[str, str]) -> str:
    """The end of a link, from `](` on, to a page of the site instead of a file beside the copy."""
    path, place = link[1], (link[3] or "").removeprefix("#")
    page = path.removeprefix("../") if path.startswith("../") else f"notebooks/{path}"
    if page == "book/glossary":
        place = "term-" + re.sub(r"[^A-Za-z0-9]+", "-", terms[place]).strip("-")
    elif page == "book/references":
        place = ""  # its entries are numbered by the build
    return f"]({site}{page}.html{'#' if place else ''}{place})"


@functools.cache
def _config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config


def in_colab(text: str, edition: Edition = "student") -> str:
    """A text whose links to chapters in Colab open the copies on the published branch.

    Args:
        text: Markdown or an address.
        edition: Which copies.

    Returns:
        The text.
    """
    if "colab" not in text:
        return text
    url = _config()["repository"]["url"]
    branch = _config()["sphinx"]["config"]["html_context"]["published_branch"]
    base = url.replace("//github.com", "//colab.research.google.com/github")
    copies = f"{base}/blob/{branch}/editions/{edition}"
    files = {chapter.name: chapter.file for chapter in chapters()}
    return _COLAB.sub(lambda link: f"{copies}/{files[link[1]]}", text)


def numbered(text: str, chapter: Chapter) -> str:
    """A text whose title, if it begins with one, has the number of the chapter."""
    number = chapter.shown_number
    return _TITLE.sub(f"# {number}. ", text) if number else text


def write_editions(out: Path) -> None:
    """Write all editions of all chapters, a folder each."""
    site = _config()["html"]["baseurl"]
    terms = glossary((ROOT / "book/glossary.md").read_text(encoding="utf-8"))
    for edition in EDITIONS:
        (out / edition).mkdir(parents=True, exist_ok=True)
        for chapter, path in zip(chapters(), notebooks(), strict=True):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            made = edition_of(notebook, edition, site, terms)
            for cell in made["cells"]:
                if cell["cell_type"] == "markdown":
                    told = in_colab(numbered("".join(cell["source"]), chapter), edition)
                    cell["source"] = told.splitlines(keepends=True)
            text = json.dumps(made, indent=1, ensure_ascii=False)
            (out / edition / chapter.file).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_editions(Path(sys.argv[1]))
