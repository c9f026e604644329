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
