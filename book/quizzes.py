"""The quizzes for learning platforms: QTI 1.2 (Canvas and others) and Moodle XML, a file each.

    python book/quizzes.py OUT

Both come from the one file of a chapter in `osteo_utils/chapters/quizzes`. text2qti makes the QTI
packages.
"""

import io
import json
import re
import sys
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from osteo_utils.chapters.quiz import QUIZZES, read_quiz

from contents import chapters, notebooks
from syllabus import title

_MATHS: Final = re.compile(r"\$([^$\n]+)\$")

Question = dict[str, Any]


def as_text(heading: str, questions: list[Question]) -> str:
    """A quiz in the plain text that text2qti reads.

    Args:
        heading: Of the quiz.
        questions: As `jupyterquiz` takes them.

    Returns:
        Markdown with one question after another.
    """
    lines = [f"Quiz title: {heading}"]
    for number, question in enumerate(questions, 1):
        lines += ["", f"{number}. {_line(question['question'])}"]
        write = _numeric if question["type"] == "numeric" else _choices
        lines += write(question)
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """In one line; what Markdown would take for emphasis is escaped."""
    return re.sub(r"(?<=\s)([*_])(?=\s)", r"\\\1", " ".join(text.split()))


def _choices(question: Question) -> list[str]:
    lines = []
    many = question["type"] == "many_choice"
    for letter, answer in zip("abcdefghijkl", question["answers"], strict=False):
        mark = "*" if answer["correct"] else " "
        head = f"[{mark}]" if many else f"{mark.strip()}{letter})"
        lines += [f"{head} {_line(answer['answer'])}", f"... {_line(answer['feedback'])}"]
    return lines


def _numeric(question: Question) -> list[str]:
    right, other = (
        next(a for a in question["answers"] if a["type"] != "default"),
        question["answers"][-1],
    )
    low, high = _bounds(right)
    wanted = f"= {low:.0f}" if low == high else f"= [{low}, {high}]"
    return [f"+ {_line(right['feedback'])}", f"- {_line(other['feedback'])}", wanted]


def _bounds(answer: dict[str, Any]) -> tuple[float, float]:
    """The numbers that count as right: whole ones exactly, others to half a unit of the last."""
    if answer["type"] == "range":
        low, high = answer["range"]
        return low, high
    value = answer["value"]
    digits = len(str(value).partition(".")[2])
    slack = 0.5 * 10**-digits if digits and value != int(value) else 0
    return round(value - slack, digits + 1), round(value + slack, digits + 1)


def as_qti(heading: str, questions: list[Question]) -> bytes:
    """A quiz as a QTI 1.2 package, a zip."""
    from text2qti.config import Config
    from text2qti.qti import QTI
    from text2qti.quiz import Quiz

    quiz = Quiz(as_text(heading, questions), config=Config(), source_name=heading)
    buffer = io.BytesIO()
    QTI(quiz).write(buffer)
    return buffer.getvalue()


def as_moodle(heading: str, questions: list[Question]) -> bytes:
    """A quiz as Moodle XML, in a category of its own.

    Where several answers are right, all wrong ones together take away what all right ones give.
    """
    root = ET.Element("quiz")
    category = ET.SubElement(root, "question", type="category")
    place = ET.SubElement(ET.SubElement(category, "category"), "text")
    place.text = f"$course$/top/{heading}"
    for number, question in enumerate(questions, 1):
        numeric = question["type"] == "numeric"
        item = ET.SubElement(root, "question", type="numerical" if numeric else "multichoice")
        _text(ET.SubElement(item, "name"), f"{heading} {number}")
        _text(ET.SubElement(item, "questiontext", format="markdown"), question["question"])
        ET.SubElement(item, "defaultgrade").text = "1"
        if not numeric:
            ET.SubElement(item, "single").text = str(question["type"] != "many_choice").lower()
            ET.SubElement(item, "shuffleanswers").text = "true"
        for answer in question["answers"]:
            _answer(item, answer, question)
    ET.indent(root)
    page: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return page


def _answer(item: ET.Element, answer: dict[str, Any], question: Question) -> None:
    right = sum(each.get("correct", False) for each in question["answers"])
    fraction = 100 / right if answer.get("correct") else 0
    if question["type"] == "many_choice" and not answer["correct"]:
        fraction = -100 / (len(question["answers"]) - right)
    node = ET.SubElement(item, "answer", fraction=f"{fraction:.5f}".rstrip("0").rstrip("."))
    if "answer" in answer:
        node.set("format", "markdown")
        _text(node, answer["answer"])
    elif answer["type"] == "default":
        _text(node, "*")  # any other number
    else:
        low, high = _bounds(answer)
        _text(node, f"{(low + high) / 2:.10g}")
        ET.SubElement(node, "tolerance").text = f"{(high - low) / 2:.4g}"
    _text(ET.SubElement(node, "feedback", format="markdown"), answer["feedback"])


def _text(node: ET.Element, text: str) -> None:
    """The text as Moodle wants it, which knows formulas by brackets with a backslash."""
    ET.SubElement(node, "text").text = _MATHS.sub(lambda formula: rf"\\({formula[1]}\\)", text)


def write_quizzes(out: Path) -> None:
    """Write the quizzes of all chapters in both forms, a folder each."""
    forms = {"qti": (as_qti, "zip"), "moodle": (as_moodle, "xml")}
    if find_spec("text2qti") is None:
        print("No quizzes in QTI: text2qti is missing. `make book` installs it.", file=sys.stderr)
        del forms["qti"]
    for chapter, path in zip(chapters(), notebooks(), strict=True):
        if (QUIZZES / f"{chapter.name}.json").exists():
            heading = title(json.loads(path.read_text(encoding="utf-8")))
            stem, questions = Path(chapter.file).stem, read_quiz(chapter.name)
            for form, (write, kind) in forms.items():
                (out / form).mkdir(parents=True, exist_ok=True)
                (out / form / f"{stem}.{kind}").write_bytes(write(heading, questions))


if __name__ == "__main__":
    write_quizzes(Path(sys.argv[1]))
