"""Copies for students hold no solution, and every link of a copy leads somewhere."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
import editions
from contents import _walk, chapters

TERMS = {"grad-cam": "Grad-CAM"}
SITE = "https://site.org/book/"
CODE = """def double(x):
    # BEGIN SOLUTION
    y = x + x
    # END SOLUTION
    return y
"""


def cell(kind, source, *tags):
    made = {"cell_type": kind, "metadata": {"tags": list(tags)}, "source": source}
    return made | ({"outputs": [], "execution_count": None} if kind == "code" else {})


SOURCE = {
    "cells": [
        cell("markdown", "> **Exercise: Twice**\n>\n> Double it."),
        cell("code", CODE, "solution"),
        cell("code", "check('double(2)', lambda: double(2), 4)", "check"),
        cell(
            "markdown", "<details><summary>Solution: Twice</summary>\n\n4\n\n</details>", "solution"
        ),
        cell("markdown", "Give them five minutes.", "instructor"),
    ]
}


def sources(edition, notebook=SOURCE):
    return [
        "".join(c["source"]) for c in editions.edition_of(notebook, edition, SITE, TERMS)["cells"]
    ]


def test_a_student_gets_a_gap_and_the_check():
    assert sources("student") == [
        "> **Exercise: Twice**\n>\n> Double it.",
        "def double(x):\n    ...  # your lines\n    return y\n",
        "check('double(2)', lambda: double(2), 4)",
    ]


def test_solutions_are_whole_and_without_marks():
    whole = ["def double(x):\n    y = x + x\n    return y\n"]
    assert sources("solutions")[1:2] == whole
    assert len(sources("solutions")) == 4
    assert sources("instructor")[1:2] == whole
    assert len(sources("instructor")) == 5


@pytest.mark.parametrize(
    ("link", "address"),
    [
        ("[a](alexnet.ipynb)", "[a](https://site.org/book/notebooks/alexnet.html)"),
        ("[a](../book/data.md)", "[a](https://site.org/book/book/data.html)"),
        (
            "[t](../book/glossary.md#grad-cam)",
            "[t](https://site.org/book/book/glossary.html#term-Grad-CAM)",
        ),
        ("[p](../book/references.md#he2016)", "[p](https://site.org/book/book/references.html)"),
        ("[w](https://who.int/a.md) and [s](#here)",) * 2,
    ],
)
def test_links_lead_to_the_pages_of_the_book(link, address):
    assert sources("student", {"cells": [cell("markdown", link)]}) == [address]


def test_a_solution_without_marks_is_refused():
    notebook = {"cells": [cell("code", "x = 1", "solution")]}
    with pytest.raises(ValueError, match="expected # BEGIN SOLUTION"):
        editions.edition_of(notebook, "student", SITE, TERMS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("editions")
    editions.write_editions(out)
    return out


@pytest.mark.parametrize("edition", editions.EDITIONS)
def test_every_chapter_has_a_valid_copy(written, edition):
    names = [chapter.file for chapter in chapters()]
    assert sorted(path.name for path in (written / edition).iterdir()) == names
    for name in names:
        nbformat.validate(nbformat.read(written / edition / name, as_version=4))


def test_no_copy_for_students_holds_a_solution(written):
    texts = {path.name: path.read_text("utf-8") for path in (written / "student").iterdir()}
    assert [n for n, text in texts.items() if re.search("SOLUTION|<details>|Solution:", text)] == []


def test_no_copy_leads_to_a_file_that_it_has_not(written):
    relative = r"\]\((?!https?:|#)[^)]*\.(?:md|ipynb)"
    for path in (written / "student").iterdir():
        cells = json.loads(path.read_text("utf-8"))["cells"]
        prose = "".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        assert re.findall(relative, prose) == []


def test_copies_have_the_numbers_of_the_contents():
    pages = [{"file": "notebooks/b", "sections": [{"file": "notebooks/deep"}, {"glob": "x*"}]}]
    parts = [
        {"caption": "Start", "chapters": [{"file": "notebooks/a"}, {"file": "book/data"}]},
        {"caption": "I", "numbered": 1, "chapters": [*pages, {"file": "notebooks/c"}]},
    ]
    found = list(_walk(parts))
    assert [each.file for each in found] == [
        "00_a.ipynb",
        "01_b.ipynb",
        "01a_deep.ipynb",
        "02_c.ipynb",
    ]
    assert [each.deeper for each in found] == [False, False, True, False]
    assert [each.part for each in found] == ["Start", "I", "I", "I"]


def test_a_title_gets_the_number_of_its_chapter(written):
    for chapter in chapters():
        [head, *_] = json.loads((written / "student" / chapter.file).read_text("utf-8"))["cells"]
        number = chapter.number.lstrip("0")
        wanted = "Deeper: " if chapter.deeper else f"{number}. " if number else ""
        assert "".join(head["source"]).startswith(f"# {wanted}")


@pytest.mark.parametrize("edition", editions.EDITIONS)
def test_a_copy_opens_itself_in_colab_from_the_published_branch(written, edition):
    for chapter in chapters():
        text = (written / edition / chapter.file).read_text("utf-8")
        links = re.findall(r"https://colab[^)\s\"\\]+", text)
        end = f"/blob/gh-pages/editions/{edition}/{chapter.file}"
        assert [link.endswith(end) for link in links] == [True]
