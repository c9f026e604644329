"""How long a chapter takes, counted on the page that was built.

To read: prose at 180 words a minute, code that is not folded at 12 lines a minute, a minute for a
figure or a widget; solutions are not counted. To do: the minutes that stand at the exercises. To
run: what the machine of the build took, rounded up.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

WORDS: Final = 180  # a minute
LINES: Final = 12
UNSEEN: Final = {"hide-input", "hide-cell", "remove-input", "injected-parameters", "solution"}
_WIDGET: Final = "application/vnd.jupyter.widget-view+json"
_EXERCISE: Final = re.compile(
    r"^> \*\*Exercise: (.+)\*\*$\n(?:>\n)*> \*(.+?)\. (\d+) minutes?\.", re.M
)


class Minutes(NamedTuple):
    """What a chapter takes.

    Attributes:
        reading: To read.
        exercises: To do its exercises.
        running: For the machine, without the trainings that came before.
    """

    reading: int
    exercises: int
    running: int

    @property
    def together(self) -> int:
        """To read and to do."""
        return self.reading + self.exercises

    def __str__(self) -> str:
        reading, exercises, running = map(_told, self)
        run = f"; running took this build {running}" if self.running else ""
        return f"reading {reading}, exercises {exercises}{run}"


class Exercise(NamedTuple):
    """An exercise as it is announced."""

    title: str
    kind: str
    minutes: int


def minutes_of(notebook: dict[str, Any]) -> Minutes:
    """What an executed chapter takes; one that was not executed has no running time."""
    seconds = notebook["metadata"].get("papermill", {}).get("duration") or 0
    exercises = sum(each.minutes for each in exercises_of(notebook))
    return Minutes(reading_minutes(notebook), exercises, math.ceil(seconds / 60))


def exercises_of(notebook: dict[str, Any]) -> list[Exercise]:
    r"""The exercises of a chapter that say how long they take.

    Args:
        notebook: As JSON.

    Returns:
        In their order.

    Example:
        >>> text = "> **Exercise: Twice**\n>\n> *Write the line. 5 minutes.*\n>\n> Double it."
        >>> cell = {"cell_type": "markdown", "metadata": {}, "source": text}
        >>> exercises_of({"cells": [cell]})
        [Exercise(title='Twice', kind='Write the line', minutes=5)]
    """
    found = _EXERCISE.findall(prose(notebook))
    return [Exercise(title, kind, int(number)) for title, kind, number in found]


def prose(notebook: dict[str, Any]) -> str:
    """The text of a chapter without its code."""
    cells = (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return "\n\n".join("".join(cell["source"]) for cell in cells)


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
        if not tags & UNSEEN:
            lines += sum(bool(line.strip()) for line in source.splitlines())
        for kind, data in _shown(cell):
            words += _words(data) if kind == "text/markdown" else 0
            figures += kind == _WIDGET or "<img" in data
    return max(1, math.ceil(words / WORDS + lines / LINES + figures))


def _told(minutes: int) -> str:
    return "1 minute" if minutes == 1 else f"{minutes} minutes"


def _shown(cell: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and content of all that stands below a cell."""
    for output in cell["outputs"]:
        for kind, data in output.get("data", {}).items():
            yield kind, "".join(data) if kind.startswith("text/") else ""


def _words(markdown: str) -> int:
    """Words of the text, without the addresses of links and without blocks of code."""
    text = re.sub(r"^(`{3,}).*?^\1|\]\([^)]*\)", " ", markdown, flags=re.MULTILINE | re.DOTALL)
    return len(re.findall(r"[^\W_]+(?:['’.-][^\W_]+)*", text))
