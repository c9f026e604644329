"""The coded exercises of each chapter as an assignment that otter-grader understands.

    python book/assignments.py OUT

A file is the source of an assignment: `otter assign 03_splitting_without_leaking.ipynb dist` makes
of it a notebook for students and an autograder. What an exercise asks for needs nothing but the
imports of its chapter, so an assignment trains nothing and takes seconds.
"""

import ast
import builtins
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_raw_cell

from contents import Chapter, chapters, notebooks
from dress import EXERCISE, slug
from syllabus import title

Notebook = dict[str, Any]


def assignment(notebook: Notebook, chapter: Chapter) -> nbformat.NotebookNode | None:
    """The source of an assignment, none if a chapter has no exercise with a check.

    Args:
        notebook: The source of the chapter, as JSON.
        chapter: Its place, whose number and name the assignment gets.

    Returns:
        A notebook.
    """
    cells = [cell for exercise in _exercises(notebook) for cell in _question(*exercise)]
    if not cells:
        return None
    setup, package = _setup(notebook)
    config = f"# ASSIGNMENT CONFIG\nname: {Path(chapter.file).stem}\nexport_cell: false\n"
    config += f"tests:\n  ok_format: false\nrequirements:\n- {package}\n"
    head = [new_raw_cell(config), new_markdown_cell(f"# {title(notebook)}"), new_code_cell(setup)]
    kernel = {"kernelspec": notebook["metadata"]["kernelspec"]}
    return new_notebook(cells=head + cells, metadata=kernel)


def _exercises(notebook: Notebook) -> Iterator[tuple[str, str, str, str]]:
    """Title, text, code with marks and check of each coded exercise."""
    text, name, code = "", "", ""
    for cell in notebook["cells"]:
        source, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        if cell["cell_type"] == "markdown":
            for found in EXERCISE.finditer(source):
                text, name = found[0], found[1]
        elif "check" in tags:
            yield name, text, code, source
        code = source if cell["cell_type"] == "code" else code


def _question(name: str, text: str, code: str, check: str) -> list[nbformat.NotebookNode]:
    """The cells of one exercise. Its check becomes a test that takes the names it asks for."""
    identifier = slug(name).replace("-", "_")
    needed = ", ".join(sorted(_free_names(check)))
    test = f"def test_{identifier}({needed}):\n{indent(check, '    ')}\n"
    return [
        new_raw_cell(f"# BEGIN QUESTION\nname: {identifier}\npoints: 1"),
        new_markdown_cell(text),
        new_raw_cell("# BEGIN SOLUTION"),
        new_code_cell(code),
        new_raw_cell("# END SOLUTION"),
        new_raw_cell("# BEGIN TESTS"),
        new_code_cell(test),
        new_raw_cell("# END TESTS"),
        new_raw_cell("# END QUESTION"),
    ]


def _free_names(source: str) -> set[str]:
    """The names that a check takes from the notebook."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {
        (node.id, isinstance(node.ctx, ast.Load)) for node in nodes if isinstance(node, ast.Name)
    }
    own = {name for name, loaded in names if not loaded}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return {name for name, loaded in names if loaded} - own - set(dir(builtins))


def _setup(notebook: Notebook) -> tuple[str, str]:
    """The imports of a chapter, and how its helper package is installed."""
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    source = next(each for each in code if "plots.set_style()" in each)
    package = re.search(r'"(osteo-utils @ [^"]+)"', source)
    assert package
    return source.split("\nplots.set_style()")[0].rstrip(), package[1]


def write_assignments(out: Path) -> None:
    """Write the assignments of all chapters that have one."""
    out.mkdir(parents=True, exist_ok=True)
    for chapter, path in zip(chapters(), notebooks(), strict=True):
        if made := assignment(json.loads(path.read_text(encoding="utf-8")), chapter):
            nbformat.write(made, out / chapter.file)


if __name__ == "__main__":
    write_assignments(Path(sys.argv[1]))
