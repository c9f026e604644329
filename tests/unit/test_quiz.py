"""Every quiz can be answered, and tells why an answer is right or wrong."""

import pytest

from osteo_utils.chapters import quiz

NAMES = [file.stem for file in sorted(quiz.QUIZZES.glob("*.json"))]


@pytest.mark.parametrize("name", NAMES)
def test_every_question_has_its_right_answers_and_feedback(name):
    for question in quiz.read_quiz(name):
        answers, kind = question["answers"], question["type"]
        right = [answer.get("correct", False) for answer in answers]
        assert sum(right) == 1 if kind in ("multiple_choice", "numeric") else sum(right) > 0
        assert len({answer.get("answer", answer.get("value")) for answer in answers}) == len(
            answers
        )
        assert all(answer["feedback"].strip() for answer in answers)
        assert kind != "numeric" or answers[-1]["type"] == "default"


def test_an_unknown_quiz_is_answered_with_the_one_meant():
    with pytest.raises(ValueError, match="Did you mean resnet50"):
        quiz.read_quiz("resnet5")
