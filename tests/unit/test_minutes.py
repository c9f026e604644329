"""Minutes of reading are counted on what the reader of a page sees."""

import doctest
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "book"))
import minutes


def prose(words, *tags):
    return {"cell_type": "markdown", "metadata": {"tags": list(tags)}, "source": "word " * words}


def code(lines, *tags, outputs=()):
    source = ["x = 1\n", "\n"] * lines
    found = [{"data": data} for data in outputs]
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)},
        "source": source,
        "outputs": found,
    }


FIGURE = {"text/html": ["<img class='figure'>"], "text/plain": ["a figure"]}
WIDGET = {minutes._WIDGET: {"model_id": "1"}}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([prose(180)], 1),
        ([prose(181)], 2),
        ([prose(360, "solution"), prose(10)], 1),
        ([code(24)], 2),
        ([code(24, "hide-input"), code(24, "remove-input"), prose(10)], 1),
        ([code(12, outputs=[FIGURE]), code(12, outputs=[WIDGET])], 4),
        ([code(12, outputs=[{"text/markdown": ["said " * 180]}])], 2),
        ([code(12, outputs=[{"text/html": ["<table></table>"]}])], 1),
    ],
)
def test_each_thing_that_is_read_counts_and_nothing_else(cells, expected):
    assert minutes.reading_minutes({"cells": cells}) == expected


def test_addresses_and_blocks_of_code_are_no_words():
    text = "one [two three](a/b.md#c-d) four\n\n```python\nfive = 6\n```\n\nit's 3.5 co-operative"
    assert minutes._words(text) == 7


def test_examples_are_right():
    assert doctest.testmod(minutes).failed == 0


def exercise(kind="Write the line", time="5 minutes", title="Twice"):
    text = f"Before.\n\n> **Exercise: {title}**\n>\n> *{kind}. {time}.*\n>\n> Double it."
    return {"cell_type": "markdown", "metadata": {}, "source": text.splitlines(keepends=True)}


def test_exercises_count_what_stands_at_them():
    cells = [exercise(), prose(10), exercise("Predict before you run", "1 minute", "Guess: first")]
    notebook = {"cells": cells, "metadata": {"papermill": {"duration": 61.0}}}
    assert minutes.exercises_of(notebook) == [
        ("Twice", "Write the line", 5),
        ("Guess: first", "Predict before you run", 1),
    ]
    assert minutes.minutes_of(notebook) == (1, 6, 2)
    assert str(minutes.minutes_of(notebook)) == (
        "reading 1 minute, exercises 6 minutes; running took this build 2 minutes"
    )


def test_a_chapter_that_was_not_executed_has_no_running_time():
    assert str(minutes.minutes_of({"cells": [exercise()], "metadata": {}})) == (
        "reading 1 minute, exercises 5 minutes"
    )
