"""The assignments grade a right submission as right, and an untouched one as wrong."""

import os
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
from assignments import _free_names, assignment
from contents import chapters, notebooks

SOURCES = {c: nbformat.read(p, 4) for c, p in zip(chapters(), notebooks(), strict=True)}
MADE = {c: made for c, source in SOURCES.items() if (made := assignment(source, c))}
QUICK = sorted(MADE, key=lambda chapter: "keras" in MADE[chapter].cells[2].source)[:5]


def test_a_check_asks_for_what_it_does_not_make_itself():
    source = "def same(a):\n    return len(a) == n\n\ncheck('x', lambda: same(x), [i for i in y])"
    assert _free_names(source) == {"check", "n", "x", "y"}


def test_every_exercise_with_a_check_is_a_question():
    for chapter, source in SOURCES.items():
        checks = sum("check" in cell.metadata.get("tags", []) for cell in source.cells)
        questions = MADE[chapter].cells if chapter in MADE else []
        assert sum("# BEGIN QUESTION" in cell.source for cell in questions) == checks


def test_an_assignment_names_each_question_once():
    for chapter, made in MADE.items():
        nbformat.validate(made)
        names = [cell.source for cell in made.cells if "# BEGIN QUESTION" in cell.source]
        assert len(set(names)) == len(names), chapter.name


def test_there_are_assignments_for_five_chapters():
    assert len(MADE) >= 5


@pytest.mark.parametrize("chapter", QUICK, ids=lambda chapter: chapter.name)
def test_a_right_submission_gets_all_points_and_an_untouched_one_none(
    chapter, tmp_path, monkeypatch
):
    pytest.importorskip("otter")  # make test installs it
    from otter.api import grade_submission
    from otter.assign import main as assign

    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    source = tmp_path / chapter.file
    nbformat.write(MADE[chapter], source)
    assign(str(source), str(tmp_path / "made"), no_run_tests=True, no_pdfs=True)
    [autograder] = (tmp_path / "made/autograder").glob("*.zip")
    right, untouched = (
        grade_submission(str(tmp_path / f"made/{who}/{chapter.file}"), str(autograder), quiet=True)
        for who in ("autograder", "student")
    )
    questions = sum("# BEGIN QUESTION" in cell.source for cell in MADE[chapter].cells)
    assert (right.total, right.possible) == (questions, questions)
    assert (untouched.total, untouched.possible) == (0, questions)
    assert "expected" in untouched.summary()
