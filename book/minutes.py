"""How long a chapter takes to read, counted on the page that was built.

Prose at 180 words a minute, code that is not folded at 12 lines a minute, a minute for a figure or
a widget. Solutions are not counted.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

WORDS: Final = 180  # a minute
LINES: Final = 12
_UNSEEN: Final = {"hide-input", "hide-cell", "remove-input", "injected-parameters", "solution"}
_WIDGET: Final = "application/vnd.jupyter.widget-view+json"


def reading_minutes(notebook: dict[str, Any]) -> int:
    r"""Minutes to read an executed chapter, rounded up.

    Args:
        notebook: As JSON.

    Returns:
        Minutes, 1 or more.

    Example:
        >>> prose = {"cell_type": "markdown", "metadata": {}, "source": "one two " * 90}
        >>> code = {"cell_type": "code", "metadata": {}, "source": "x = 1\n" * 6, "outputs": []}
        >>> reading_minutes({"cells": [prose, code]})
        2
    """
    words = lines = figures = 0
    for cell in notebook["cells"]:
        source, tags = "".join(cell["source"]), set(cell["metadata"].get("tags", []))
        if cell["cell_type"] == "markdown":
            words += 0 if "solution" in tags else _words(source)
            continue
        if not tags & _UNSEEN:
            lines += sum(bool(line.strip()) for line in source.splitlines())
        for kind, data in _shown(cell):
            words += _words(data) if kind == "text/markdown" else 0
            figures += kind == _WIDGET or "<img" in data
    return max(1, math.ceil(words / WORDS + lines / LINES + figures))


def _shown(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and content of all that stands below a cell."""
    for output in cell["outputs"]:
        for kind, data in output.get("data", {}).items():
            yield kind, "".join(data) if kind.startswith("text/") else ""


def _words(markdown: str) -> int:
    """Words of the text, without the addresses of links and without blocks of code."""
    text = re.sub(r"^(`{3,}).*?^\1|\]\([^)]*\)", " ", markdown, flags=re.MULTILINE | re.DOTALL)
    return len(re.findall(r"[^\W_]+(?:['’.-][^\W_]+)*", text))
