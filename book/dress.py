"""Dress the plain Markdown of a chapter for the book.

The notebooks in `notebooks/` hold Markdown that GitHub, JupyterLab and Colab show as it is meant.
For the pages of the book it becomes what Sphinx knows more about:

| in a notebook | in the book |
|---|---|
| `[bootstrap](../book/glossary.md#bootstrap)` | a term with its definition |
| `([Efron 1993](../book/references.md#efron1993))` | a citation; without brackets, in the text |
| `> **At a glance**` and the lines quoted below it | a box of that title |
| `> **Exercise: Two readers**` | a numbered exercise |
| `<details><summary>Solution: Two readers</summary>` to `</details>` | its solution, folded |
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

BOXES: Final = {"At a glance": "tip", "Not a medical device": "important"}
# Its title, and the quoted lines below.
EXERCISE: Final = re.compile(r"^> \*\*Exercise: (.+)\*\*$((?:\n>.*)*)", re.MULTILINE)
_TERM: Final = re.compile(r"\[([^\]]+)\]\(\.\./book/glossary\.md#([\w-]+)\)")
_CITATION: Final = re.compile(r"\[[^\]]+\]\(\.\./book/references\.md#(\w+)\)")
_BRACKETED: Final = re.compile(rf"\({_CITATION.pattern}\)")
_QUOTE: Final = re.compile(r"(?:^>.*\n?)+", re.MULTILINE)
_TITLE: Final = re.compile(r"\*\*(.+?)\*\*\s*\n?")
_FENCE: Final = re.compile(r"^(`{3,}).*?^\1\s*$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_SOLUTION: Final = re.compile(
    r"^<details>\s*<summary>Solution: (.+?)</summary>\n(.*?)^</details>", re.MULTILINE | re.DOTALL
)


def dressed(text: str, chapter: str, terms: Mapping[str, str]) -> str:
    r"""The Markdown of one cell as the book's pages want it.

    Args:
        text: Of the cell.
        chapter: Name of the notebook, which tells apart exercises of one title.
        terms: The last part of a link to the glossary, see `glossary`, to the term.

    Returns:
        MyST Markdown.

    Raises:
        ValueError: The glossary lacks a term.

    Example:
        >>> dressed("> **Note**\n>\n> Read on.", "01_bones", {})
        ':::{admonition} Note\n:class: note\n\nRead on.\n:::'
    """
    text = _SOLUTION.sub(lambda found: _solution(found[1], found[2], chapter), text)
    text = _QUOTE.sub(lambda found: _box(found[0], chapter), text)
    return _outside_code(text, lambda prose: _linked(prose, terms))


def glossary(page: str) -> dict[str, str]:
    r"""The terms of a glossary page by the last part of the links to them.

    Args:
        page: Its MyST Markdown.

    Returns:
        Slug to term.

    Example:
        >>> glossary(":::{glossary}\nBeer-Lambert law\n  How X-rays are weakened.\n:::")
        {'beer-lambert-law': 'Beer-Lambert law'}
    """
    lists = re.findall(r"^:::\{glossary\}\n(.*?)^:::", page, re.MULTILINE | re.DOTALL)
    terms = [line for each in lists for line in each.splitlines() if line and line[0] != " "]
    return {slug(term): term for term in terms}


def slug(words: str) -> str:
    """Words as the last part of an address.

    Args:
        words: A term or a title.

    Returns:
        Small letters and digits, joined by "-".

    Example:
        >>> slug("Grad-CAM: where?")
        'grad-cam-where'
    """
    return re.sub(r"[\W_]+", "-", words.lower()).strip("-")


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change what lies between fenced blocks and code spans."""
    parts: list[str] = []
    end = 0
    for code in _FENCE.finditer(text):
        parts += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, change(text[end:])])


def _linked(prose: str, terms: Mapping[str, str]) -> str:
    def term(found: re.Match[str]) -> str:
        words, key = found.groups()
        if key not in terms:
            raise ValueError(f"{found[0]}: expected a term of book/glossary.md, found none of it")
        return f"{{term}}`{words} <{terms[key]}>`"

    prose = _TERM.sub(term, prose)
    prose = _BRACKETED.sub(r"{cite}`\1`", prose)
    return _CITATION.sub(r"{cite:t}`\1`", prose)


def _box(quote: str, chapter: str) -> str:
    """A quotation that begins with a title in bold letters as a box; any other as it is."""
    inside = re.sub(r"^> ?", "", quote, flags=re.MULTILINE)
    if not (found := _TITLE.match(inside)):
        return quote
    title, rest = found[1].rstrip("."), inside[found.end() :].strip("\n")
    end = "\n" if quote.endswith("\n") else ""
    if title.startswith("Exercise: "):
        title = title.removeprefix("Exercise: ")
        return f":::{{exercise}} {title}\n:label: {_label(title, chapter)}\n\n{rest}\n:::{end}"
    kind = BOXES.get(title, "note")
    return f":::{{admonition}} {title}\n:class: {kind}\n\n{rest}\n:::{end}"


def _solution(title: str, text: str, chapter: str) -> str:
    inside = text.strip("\n")
    return f":::{{solution}} {_label(title, chapter)}\n:class: dropdown\n\n{inside}\n:::"


def _label(title: str, chapter: str) -> str:
    return f"{chapter}-{slug(title)}"
