"""Every chapter: its source has the agreed form, and it runs from the first cell to the last."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from smoke import CHAPTERS, NOTEBOOKS, ROOT, smoke_build

from osteo_utils import __version__

sys.path.append(str(ROOT / "book"))
from contents import chapters
from dress import dressed, glossary, slug
from minutes import exercises_of, reading_minutes

PARAMETERS = {"profile": "quick", "corpus": "simulated", "seed": 0, "runs": "runs"}
SECONDS = 240  # of processor time: a chapter in the smoke profile, with all that its kernel starts

each_source = pytest.mark.parametrize("path", NOTEBOOKS, ids=CHAPTERS)
each_chapter = pytest.mark.parametrize("chapter", CHAPTERS)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text(notebook, kind="markdown"):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


@each_source
def test_source_is_a_valid_notebook_for_the_python3_kernel(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


@each_source
def test_source_has_no_outputs(path):
    for cell in code_cells(read(path)):
        assert not cell.outputs
        assert cell.execution_count is None


@each_source
def test_source_has_one_cell_of_parameters(path):
    tagged = [c for c in code_cells(read(path)) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    found: dict = {}
    exec(tagged[0].source, found)
    assert {name: found.get(name) for name in PARAMETERS} == PARAMETERS


@each_source
def test_source_installs_this_version_of_the_course_in_colab_from_its_repository(path):
    url = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    code = text(read(path), "code")
    assert re.findall(r"git\+(https://[^\s\"']+)", code) == [f"{url}@v{__version__}"]


@each_source
def test_source_quiets_tensorflow_before_its_first_import(path):
    code = text(read(path), "code")
    quiet = 'os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")'
    first = re.search(r"^(?:import|from) (?:tensorflow|keras|osteo_utils)", code, re.MULTILINE)
    assert first
    assert 0 < code.index(quiet) < first.start()


@each_source
def test_source_fetches_nothing_but_the_course(path):
    assert "raw.githubusercontent" not in text(read(path), "code")


@each_source
def test_source_opens_with_one_title_and_ends_with_the_usual_sections(path):
    prose = re.sub(r"^(`{3,}).*?^\1", "", text(read(path)), flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", prose, re.MULTILINE)) == 1
    headings = [line.strip() for line in re.findall(r"^## (.+)$", prose, re.MULTILINE)]
    closing = [each for each in headings[headings.index("Key points") :] if each != "Exercises"]
    if prose.startswith("# Deeper: "):
        assert closing == ["Key points"]
    else:
        assert closing == ["Key points", "Quiz", "What next"]
        assert f'show_quiz("{path.stem}")' in text(read(path), "code")


@each_source
def test_source_has_no_heading_twice(path):
    prose = re.sub(r"^(`{3,}).*?^\1", "", text(read(path)), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ .+$", prose, re.MULTILINE)
    assert sorted(headings) == sorted(set(headings))


@each_source
def test_source_has_a_solution_for_every_exercise(path):
    exercises, solved = [], []
    for cell in read(path).cells:
        exercises += re.findall(r"^> \*\*Exercise: (.+)\*\*$", cell.source, re.M)
        solved += re.findall(r"^<details><summary>Solution: (.+)</summary>$", cell.source, re.M)
        if cell.cell_type == "code" and "solution" in cell.metadata.get("tags", []):
            assert cell.source.count("# BEGIN SOLUTION") == cell.source.count("# END SOLUTION") > 0
        if "check" in cell.metadata.get("tags", []):
            solved.append(exercises[-1])
    assert len(exercises) >= 1
    assert exercises == solved
    assert len({slug(title) for title in exercises}) == len(exercises)


@each_source
def test_source_keeps_each_solution_in_a_cell_tagged_so(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            tagged = "solution" in cell.metadata.get("tags", [])
            assert cell.source.count("<details>") == cell.source.count("</details>") == tagged


@each_source
def test_source_is_markdown_that_every_reader_of_notebooks_shows(path):
    both = text(read(path)) + text(read(path), "code")
    assert not re.search(r"\{(term|cite|cite:t|ref|doc|eq)\}`|^:::|^`{3,}\{", both, re.M)


@each_source
def test_source_folds_the_code_that_the_page_folds(path):
    folded = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # JupyterLab and Colab
    for cell in code_cells(read(path)):
        tags = set(cell.metadata.get("tags", []))
        on_the_page = tags & {"hide-input", "hide-cell", "remove-input", "solution"}
        found = {key: cell.metadata[key] for key in folded if key in cell.metadata}
        assert found == (folded if on_the_page else {})


@each_source
def test_source_links_to_terms_and_papers_that_are_there(path):
    terms = glossary((ROOT / "book/glossary.md").read_text("utf-8"))
    dress = dressed(text(read(path)), path.stem, terms)  # an unknown term is an error
    known = set(
        re.findall(r"^@\w+\{(\w+),", (ROOT / "book/references.bib").read_text("utf-8"), re.M)
    )
    assert set(re.findall(r"\{cite(?::t)?\}`(\w+)`", dress)) <= known
    assert "../book/glossary.md" not in dress
    assert "../book/references.md" not in dress


@each_chapter
def test_chapter_runs(chapter):
    notebook = json.loads((smoke_build() / f"notebooks/{chapter}.ipynb").read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells if "".join(cell["source"]).strip())
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "Traceback (most recent call last)" not in json.dumps(outputs)
    assert 0 < notebook["metadata"]["processor_seconds"] < SECONDS


# Chapters that have not got the form of the others yet; one that has must leave the list.
def test_no_chapter_is_longer_than_it_may_be():
    long = {}
    for chapter in chapters():
        built = (smoke_build() / f"notebooks/{chapter.name}.ipynb").read_text("utf-8")
        minutes, most = reading_minutes(json.loads(built)), 25 if chapter.deeper else 35
        if minutes > most:
            long[chapter.name] = f"{minutes} minutes, at most {most}"
    assert long == {}


def test_every_chapter_has_its_exercises_and_says_how_long_they_take():
    wrong = {}
    for chapter, path in zip(chapters(), NOTEBOOKS, strict=True):
        notebook = read(path)
        timed = [exercise.title for exercise in exercises_of(notebook)]
        announced = re.findall(r"^> \*\*Exercise: (.+)\*\*$", text(notebook), re.M)
        checked = sum("check" in cell.metadata.get("tags", []) for cell in notebook.cells)
        if timed != announced:
            wrong[chapter.name] = f"without minutes: {sorted({*announced} - {*timed})}"
        elif not chapter.deeper and (len(announced) < 3 or checked < 2):
            wrong[chapter.name] = f"{len(announced)} exercises, {checked} with a check"
    assert wrong == {}


def test_the_custom_cnn_that_chapter_06_builds_by_hand_is_the_one_of_the_library():
    built = (smoke_build() / "notebooks/custom_cnn.ipynb").read_text("utf-8")
    said = [output for cell in json.loads(built)["cells"] for output in cell.get("outputs", [])]
    assert "Not the same any more" not in json.dumps(said)
