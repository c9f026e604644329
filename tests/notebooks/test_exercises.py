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


def stored(node):
    """Names that a statement of a cell gives to the cells behind it."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return {
        n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }


def loaded(node):
    """Names that a statement takes from elsewhere."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - stored(node)


def stopped(cells):
    """Cells that fail because of an exercise left unsolved, other than those that show it.

    A cell that uses what a student writes shows it. No other cell may need what such a cell makes.
    """
    missing, shown, found = set(), {}, []
    for number, cell in enumerate(cells):
        tags = cell["metadata"].get("tags", [])
        source = re.sub(r"^( *)%.*$", r"\1pass", "".join(cell["source"]), flags=re.M)
        gaps = [
            n
            for n, line in enumerate(source.splitlines(), 1)
            if re.search(r"# (BEGIN|END) S", line)
        ]
        if "check" in tags:
            continue
        for node in ast.parse(source).body:
            used = loaded(node)
            gap = any(node.lineno <= line <= node.end_lineno for line in gaps) or any(
                begin < node.lineno < end for begin, end in zip(gaps[::2], gaps[1::2], strict=True)
            )
            waits = used & (missing | shown.keys()) and "solution" not in tags
            if waits and any(shown.get(name, number) != number for name in used):
                found.append(number)
            missing -= stored(node)
            shown = {name: at for name, at in shown.items() if name not in stored(node)}
            if "solution" in tags and gap:
                missing |= stored(node)
            elif waits:
                shown |= dict.fromkeys(stored(node), number)
    return sorted(set(found))


def cell(source, *tags):
    return {"metadata": {"tags": list(tags)}, "source": source}


def test_a_cell_that_waits_for_an_exercise_is_found():
    written = cell("def f():\n    # BEGIN SOLUTION\n    return 1\n    # END SOLUTION", "solution")
    assert stopped([written, cell("check(f)", "check"), cell("print(f())"), cell("x = 2")]) == []
    assert stopped([written, cell("x = f()"), cell("y = 2"), cell("print(x)")]) == [3]
    assert stopped([written, cell("x = f()"), cell("x = 2"), cell("print(x)")]) == []
    one = cell("# BEGIN SOLUTION\na = 1\n# END SOLUTION\nb = 2", "solution")
    assert stopped([one, cell("c = a"), cell("d = b"), cell("e = c + d")]) == [3]


@pytest.mark.parametrize(
    "path", [p for p in NOTEBOOKS if p.stem != "capstone"], ids=lambda p: p.stem
)
def test_an_exercise_left_unsolved_stops_no_other_cell(path):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    waiting = [cells[number].source for number in stopped(cells)]
    assert waiting == [], "give the cells before them a folded function of their own"
