"""Every check fails on what a student starts from, and passes on the solution.

An exercise is tried without the rest of its chapter, from the imports alone: what it asks for needs
nothing else. Lines that show it on the chapter's data may fail here, after the answer.
"""

import ast
import contextlib
import re
import sys
from itertools import pairwise

import nbformat
import pytest
from smoke import NOTEBOOKS, ROOT

from osteo_utils.chapters.check import WrongAnswerError

sys.path.append(str(ROOT / "book"))
from editions import edition_of

TERMS = dict.fromkeys(
    re.findall(r"glossary\.md#([\w-]+)", "".join(p.read_text("utf-8") for p in NOTEBOOKS)), ""
)


def cells_of(path, edition):
    source = nbformat.read(path, as_version=4)
    cells = edition_of(source, edition, "https://site.org/", TERMS)["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def exercises(path, edition):
    """Title of the check, and the code before it that a student writes."""
    cells = cells_of(path, edition)
    for written, checked in pairwise(cells):
        if "check" in checked["metadata"].get("tags", []):
            yield "".join(written["source"]), "".join(checked["source"])


def names_of(path):
    """What the imports of a chapter give."""
    imports = [
        node
        for cell in cells_of(path, "solutions")
        if "set_style" in "".join(cell["source"])
        for node in ast.parse(
            re.sub(r"^ *%.*$", "    pass", "".join(cell["source"]), flags=re.M)
        ).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = {}
    exec(compile(ast.Module(imports, []), str(path), "exec"), names)
    return names


ALL = [
    pytest.param(path, number, id=f"{path.stem}-{number}")
    for path in NOTEBOOKS
    for number, _ in enumerate(exercises(path, "student"))
]


def tried(path, number, edition):
    written, checked = list(exercises(path, edition))[number]
    names = names_of(path)
    with contextlib.suppress(NameError):  # a name of the chapter, in a line after the answer
        exec(written, names)
    exec(checked, names)


@pytest.mark.parametrize(("path", "number"), ALL)
def test_an_untouched_exercise_is_told_what_is_missing(path, number):
    with pytest.raises(WrongAnswerError, match=r"expected .+, found .+\. \S"):
        tried(path, number, "student")


@pytest.mark.parametrize(("path", "number"), ALL)
def test_the_solution_passes_every_check(path, number, capsys):
    tried(path, number, "solutions")
    assert "Right: " in capsys.readouterr().out


def test_there_are_exercises_to_try():
    assert len(ALL) >= 5
