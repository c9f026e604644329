"""The slides of a chapter are made from the chapter and hold nothing that is not in it."""

import re
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "book"))
import decks
from contents import Chapter

HEAD = """# Counting

> **At a glance**
>
> **You will be able to**
> - count to [three](three.ipynb);
> - stop.
>
> **You need first** nothing."""
EXERCISE = "Text.\n\n> **Exercise: Count**\n>\n> *Predict. 2 minutes.*\n>\n> Is $a_1 < b$?"
FIGURE = '<img class="figure" src="data:image/webp;base64,AA" alt="Three & more.">'


def prose(source, *tags):
    return {"cell_type": "markdown", "metadata": {"tags": list(tags)}, "source": source}


def code(source, *tags, shown=""):
    outputs = [{"data": {"text/html": [shown]}}] if shown else []
    cell = {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source}
    return cell | {"outputs": outputs}


def slides(*cells, number="04"):
    page = decks.deck({"cells": [prose(HEAD), *cells]}, Chapter("counting", number, "I"))
    return [part.strip() for part in re.findall(r"<section>(.*?)</section>", page, re.DOTALL)]


def test_it_begins_with_the_numbered_title_and_the_goals():
    [first] = slides()
    assert "<h1>4. Counting</h1>" in first
    assert "<li>count to three;</li>\n<li>stop.</li>" in first
    assert "<h1>Counting</h1>" in slides(number="04a")[0]


def test_a_section_shows_its_beginning_with_what_comes_first_below_it():
    text = "It is a number. It is [odd](o.md) and it is the first of them. Not told."
    cells = [prose(f"## One\n\n{text}")]
    cells += [code("x = 1", shown=FIGURE), code("y = 2\n" * 20), code("z = 3", "hide-input")]
    _, first, second = slides(*cells)
    assert "It is a number. It is odd and it is the first of them." in first
    assert "Not told" not in first
    assert "x = 1" in first
    assert second.startswith("<h2>One</h2>")
    assert FIGURE in second


def test_an_exercise_has_its_slide_and_no_solution():
    cells = [prose("## One\n\nIt is."), prose(EXERCISE), prose("Solution: one", "solution")]
    _, section, exercise = slides(*cells, code("one = 1", "solution"))
    assert "It is." in section
    assert "<h2>Count</h2>" in exercise
    assert r"\(a_1 &lt; b\)" in exercise


def test_the_set_up_the_quiz_and_what_comes_next_are_left_out():
    cells = [code("import this"), prose("## Key points\n\n- One.\n- Two.\n\n## Quiz")]
    cells += [code("show_quiz('x')", "remove-input"), prose("## What next\n\nMore.")]
    _, points = slides(*cells)
    assert "<li>One.</li>\n<li>Two.</li>" in points
