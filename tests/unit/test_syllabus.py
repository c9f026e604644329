"""What the front page and the guide say about the chapters is counted, and complete."""

import base64
import doctest
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
import guide
import syllabus
from contents import chapters, notebooks

FRONT = (ROOT / "book/welcome.md").read_text("utf-8")
FIGURE = f'<img class="figure" src="data:image/webp;base64,{base64.b64encode(b"x").decode()}" '
FIGURE += 'width="9" alt="Four films &amp; a map.">'


def chapter(words, minutes, seconds=0.0):
    exercise = f"> **Exercise: Do it**\n>\n> *Write the line. {minutes} minutes.*"
    prose = {"cell_type": "markdown", "metadata": {}, "source": f"# Name\n\n{'word ' * words}"}
    shown = {"data": {"text/html": [FIGURE]}}
    code = {
        "cell_type": "code",
        "metadata": {"tags": ["hide-input"]},
        "source": "x",
        "outputs": [shown],
    }
    cells = [prose, {"cell_type": "markdown", "metadata": {}, "source": exercise}, code]
    return {"cells": cells, "metadata": {"papermill": {"duration": seconds}}}


@pytest.fixture(scope="module")
def course():
    """Each chapter takes 20 minutes to read and 10 of exercises."""
    return {each.name: chapter(18 * 180, 10) for each in chapters()}


def test_a_paragraph_counts_the_chapters_that_it_links(course, tmp_path):
    one, two = (each.name for each in chapters()[:2])
    page = f"[A](../notebooks/{one}.ipynb) and [B](../notebooks/{two}.ipynb): "
    page += "{minutes}, {hours}.\n\n"
    page += "{exercises} in {chapters}, {hours}, {hours without deeper pages}"
    inside, outside = syllabus.filled(page, course, tmp_path).split("\n\n")
    assert inside.endswith("60, 1.")
    whole, short = len(course), sum(not each.deeper for each in chapters())
    assert outside == f"{whole} in {short}, {round(whole / 2)}, {round(short / 2)}"


def test_the_syllabus_has_a_row_for_each_chapter_and_part(course, tmp_path):
    rows = syllabus.filled("{syllabus}", course, tmp_path).splitlines()[2:]
    assert len(rows) == len(chapters()) + len({each.part for each in chapters()})
    assert all(row.endswith("| 20 min | 10 min |") for row in rows if "notebooks/" in row)


def test_the_picture_of_the_front_page_has_the_text_of_the_figure(course, tmp_path):
    assert syllabus.filled("{picture first_look}", course, tmp_path) == (
        "![Four films & a map.](assets/first_look.webp)"
    )
    assert (tmp_path / "first_look.webp").read_bytes() == b"x"
    with pytest.raises(ValueError, match="first_look: expected a figure"):
        syllabus.filled("{picture first_look}", {"first_look": {"cells": []}}, tmp_path)


def test_no_mark_is_left_and_no_number_of_minutes_or_hours_is_typed(course, tmp_path):
    page = syllabus.filled(FRONT, course, tmp_path)
    assert re.findall(r"\{(?!term|grid|admonition|dropdown|important)[a-z ]+\}", page) == []
    typed = re.findall(r"\d+ (?:hours|minutes)", re.sub(r"\{[^}]*\}", "", FRONT))
    assert typed == []


def test_the_front_page_links_chapters_that_are_there():
    linked = set(re.findall(r"notebooks/(\w+)", FRONT))
    assert linked <= {each.name for each in chapters()}


def test_examples_are_right():
    assert doctest.testmod(guide).failed == 0


def test_every_chapter_has_its_guide():
    missing = [
        each.name
        for each in chapters()
        if not each.deeper and not (ROOT / f"book/guide/{each.name}.md").exists()
    ]
    assert missing == []


def test_every_guide_says_what_to_cut_what_is_misunderstood_and_what_to_discuss():
    for page in (ROOT / "book/guide").glob("*.md"):
        text = page.read_text("utf-8")
        heads = re.findall(r"^\*\*(.+?)\*\*", text, re.M)
        assert heads == ["What to cut.", "Misconceptions, and how to meet them", "To discuss"]
        _, wrong, questions = re.split(r"^\*\*.+?\*\*", text, flags=re.M)[1:]
        assert len(re.findall(r'^- \*".+"\* ', wrong, re.M)) == 3, page.name
        assert len(re.findall(r"^- .*[?.]$", questions, re.M)) >= 2, page.name


def test_the_guide_has_every_chapter_with_its_goals_and_both_lessons(tmp_path):
    sources = {path.stem: json.loads(path.read_text("utf-8")) for path in notebooks()}
    guide.write_guide(sources, tmp_path)
    text = "".join(page.read_text("utf-8") for page in sorted(tmp_path.iterdir()))
    wanted = sum(not each.deeper for each in chapters())
    for part in (
        "## ",
        "**Goals**",
        "**In 50 minutes.**",
        "**In 90 minutes.**",
        "**What to cut.**",
    ):
        assert len(re.findall(f"^{re.escape(part)}", text, re.M)) == wanted, part


@pytest.mark.parametrize("lesson", guide.LESSONS)
def test_a_lesson_is_as_long_as_it_says(lesson):
    exercises = [guide.Exercise(f"E{n}", "", minutes) for n, minutes in enumerate((15, 10, 8, 40))]
    told = guide.plan(lesson, exercises).split("At home")[0]
    assert sum(map(int, re.findall(r"(?:\*\*|;) (\d+) ", told))) == lesson.whole
