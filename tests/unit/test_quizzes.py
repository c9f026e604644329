"""The quizzes for learning platforms, read back, ask the same and count the same as right."""

import html
import io
import re
import sys
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import pytest

from osteo_utils.chapters.quiz import QUIZZES, read_quiz

sys.path.append(str(Path(__file__).resolve().parents[2] / "book"))
import quizzes

NAMES = [file.stem for file in sorted(QUIZZES.glob("*.json"))]
QTI = "{http://www.imsglobal.org/xsd/ims_qtiasiv1p2}"
each_quiz = pytest.mark.parametrize("name", NAMES)


def expected(questions):
    """What must come back: for each question its right answers, or the bounds of its number."""
    found = []
    for question in questions:
        right = [answer for answer in question["answers"] if answer.get("correct")]
        if question["type"] == "numeric":
            found.append((len(right), quizzes._bounds(right[0])))
        else:
            found.append((len(question["answers"]), sorted(plain(r["answer"]) for r in right)))
    return found


def plain(text):
    """Words alone: how a formula or an emphasis is written differs from form to form."""
    bare = re.sub(r"<[^>]*>|\$[^$]*\$|\\\\\(.*?\\\\\)|['’]", " ", html.unescape(text))
    return re.sub(r"\W+", " ", bare).strip()


def from_qti(package):
    """The same, from a QTI package, by what gives points."""
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        names = [n for n in archive.namelist() if re.fullmatch(r"(\w+)/\1\.xml", n)]
        root = ET.fromstring(archive.read(names[0]))
    found = []
    for item in root.iter(f"{QTI}item"):
        scored = [c for c in item.iter(f"{QTI}respcondition") if c.find(f"{QTI}setvar") is not None]
        wanted = next(c for c in scored if float(c.find(f"{QTI}setvar").text) == 100)
        labels = {
            label.get("ident"): plain(label.find(f".//{QTI}mattext").text)
            for label in item.iter(f"{QTI}response_label")
            if label.find(f".//{QTI}mattext") is not None
        }
        denied = {id(v) for n in wanted.iter(f"{QTI}not") for v in n.iter(f"{QTI}varequal")}
        if labels:
            chosen = [v.text for v in wanted.iter(f"{QTI}varequal") if id(v) not in denied]
            found.append((len(labels), sorted(labels[each] for each in chosen)))
        else:
            low, high = (wanted.find(f".//{QTI}{bound}") for bound in ("vargte", "varlte"))
            found.append((1, (float(low.text), float(high.text))))
    return found


def from_moodle(page):
    """The same, from Moodle XML, by the fractions."""
    found = []
    for question in ET.fromstring(page).iter("question"):
        answers = question.findall("answer")
        right = [a for a in answers if float(a.get("fraction")) > 0]
        if question.get("type") == "numerical":
            value, slack = (float(right[0].findtext(tag)) for tag in ("text", "tolerance"))
            found.append((len(right), (value - slack, value + slack)))
        elif question.get("type") == "multichoice":
            found.append((len(answers), sorted(plain(a.findtext("text")) for a in right)))
            assert sum(float(a.get("fraction")) for a in right) == pytest.approx(100, abs=1e-3)
    return found


def same(found, wanted):
    assert [number for number, _ in found] == [number for number, _ in wanted]
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        if isinstance(other, tuple):
            assert one == pytest.approx(other, rel=1e-9, abs=1e-9)
        else:
            assert one == other


@each_quiz
def test_qti_counts_the_same_answers_as_right(name):
    pytest.importorskip("text2qti")  # make installs it
    questions = read_quiz(name)
    same(from_qti(quizzes.as_qti("A title", questions)), expected(questions))


@each_quiz
def test_moodle_counts_the_same_answers_as_right(name):
    questions = read_quiz(name)
    same(from_moodle(quizzes.as_moodle("A title", questions)), expected(questions))


@each_quiz
def test_every_explanation_travels_along(name):
    questions = read_quiz(name)
    told = [plain(answer["feedback"]) for q in questions for answer in q["answers"]]
    found = ET.fromstring(quizzes.as_moodle("T", questions)).findall(".//feedback/text")
    assert [plain(node.text) for node in found] == told
    lines = quizzes.as_text("T", questions).splitlines()
    explained = [plain(line[1:]) for line in lines if re.match(r"\.\.\. |[+-] ", line)]
    assert explained == told


@pytest.mark.parametrize(
    ("answer", "bounds"),
    [
        ({"type": "value", "value": 15}, (15, 15)),
        ({"type": "value", "value": 10_000_000.0}, (10_000_000, 10_000_000)),
        ({"type": "value", "value": 0.75}, (0.745, 0.755)),
        ({"type": "range", "range": [0.7, 0.8]}, (0.7, 0.8)),
    ],
)
def test_numbers_are_right_to_half_a_unit_of_the_last_digit(answer, bounds):
    assert quizzes._bounds(answer) == bounds


def test_a_formula_is_marked_as_moodle_knows_it():
    question = {
        "question": "Is $x^2$ small?",
        "type": "multiple_choice",
        "answers": [{"answer": "Yes.", "correct": True, "feedback": "$x$ is."}],
    }
    page = quizzes.as_moodle("A title", [question]).decode()
    assert r"Is \\(x^2\\) small?" in page
    assert "$course$/top/A title" in page
