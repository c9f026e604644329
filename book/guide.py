"""The guide for instructors, a page a part: what is written by hand, and what the build knows.

By hand, in `book/guide/<chapter>.md`: what to cut, misconceptions, questions. From the chapter
itself: its goals, its minutes, and which exercises fit into a lesson of 50 or 90 minutes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from contents import ROOT, Chapter, chapters
from decks import goals
from minutes import Exercise, exercises_of, minutes_of, prose
from syllabus import title

Notebook = dict[str, Any]


class Lesson(NamedTuple):
    """How a lesson is spent, in minutes; what is left is for the exercises."""

    whole: int
    question: int
    talk: int
    close: int

    @property
    def exercises(self) -> int:
        """Minutes for exercises in class."""
        return self.whole - self.question - self.talk - self.close


LESSONS: Final = (Lesson(50, 5, 15, 10), Lesson(90, 5, 25, 15))


def plan(lesson: Lesson, exercises: list[Exercise]) -> str:
    """A lesson in a paragraph: the exercises that fit, in their order, and what stays for home.

    Args:
        lesson: How long it is.
        exercises: Of the chapter.

    Returns:
        Markdown.

    Example:
        >>> plan(Lesson(50, 5, 15, 10), [Exercise("Long", "", 15), Exercise("Next", "", 10)])
        '**In 50 minutes.** 5 a question for discussion; 15 slides; 15 *Long*; 15 the rest of the \
questions, key points and quiz. At home: the chapter, and *Next* (10).'
    """
    inside: list[Exercise] = []
    for each in exercises:
        if sum(e.minutes for e in inside) + each.minutes <= lesson.exercises:
            inside.append(each)
    left = lesson.exercises - sum(e.minutes for e in inside)
    steps = [f"{lesson.question} a question for discussion", f"{lesson.talk} slides"]
    steps += [f"{e.minutes} *{e.title}*" for e in inside]
    steps.append(f"{lesson.close + left} the rest of the questions, key points and quiz")
    home = [f"*{e.title}* ({e.minutes})" for e in exercises if e not in inside]
    rest = f", and {', '.join(home)}" if home else ""
    return f"**In {lesson.whole} minutes.** {'; '.join(steps)}. At home: the chapter{rest}."


def section(chapter: Chapter, notebook: Notebook) -> str:
    """What the guide says of a chapter."""
    number = chapter.shown_number
    parts = [
        f"## {f'{number}. ' if number else ''}{title(notebook)}",
        f"[To the chapter](../../notebooks/{chapter.name}.ipynb); {minutes_of(notebook)}.",
    ]
    if promised := goals(prose(notebook)):
        parts.append(f"**Goals**\n\n{promised}")
    parts += [plan(lesson, exercises_of(notebook)) for lesson in LESSONS]
    written = ROOT / f"book/guide/{chapter.name}.md"
    if written.exists():
        parts.append(written.read_text(encoding="utf-8").strip())
    return "\n\n".join(parts)


def write_guide(notebooks: Mapping[str, Notebook], out: Path) -> None:
    """Write a page a part, `part_0.md` and so on.

    Args:
        notebooks: The executed chapters by their names.
        out: The folder, which is made.
    """
    out.mkdir(parents=True, exist_ok=True)
    pages: dict[str, list[str]] = {}
    for chapter in chapters():
        if not chapter.deeper:
            pages.setdefault(chapter.part, []).append(section(chapter, notebooks[chapter.name]))
    for number, (part, sections) in enumerate(pages.items()):
        text = "\n\n".join([f"# Guide: {part}", *sections])
        (out / f"part_{number}.md").write_text(f"{text}\n", encoding="utf-8")
