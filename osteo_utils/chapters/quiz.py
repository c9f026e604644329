"""The quizzes of the chapters, a file each, so that no answer stands above its question."""

import json
from pathlib import Path
from typing import Any, Final

from osteo_utils.registry import known_name

QUIZZES: Final = Path(__file__).parent / "quizzes"


def read_quiz(name: str) -> list[dict[str, Any]]:
    """The questions of a quiz with their answers.

    Args:
        name: Of the quiz, as a file in `QUIZZES` is called.

    Returns:
        Questions as `jupyterquiz` takes them.

    Raises:
        ValueError: No quiz has this name.
    """
    names = [file.stem for file in sorted(QUIZZES.glob("*.json"))]
    file = QUIZZES / f"{known_name('quiz', name, names)}.json"
    questions: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return questions


def show_quiz(name: str) -> None:
    """Show a quiz below the cell; it answers without a kernel.

    Args:
        name: Of the quiz, see `read_quiz`.

    Raises:
        ValueError: No quiz has this name.
    """
    from jupyterquiz import display_quiz

    display_quiz(read_quiz(name))
