"""Checks of exercises tell right from wrong, and say what is wrong."""

import doctest
import math

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from osteo_utils.chapters import check as module
from osteo_utils.chapters.check import WrongAnswerError, check, secret


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (2, 2),
        (0.1 + 0.2, 0.3),
        ((0.5, 1.0), [0.5, 1]),
        (np.eye(2), [[1, 0], [0, 1]]),
        ("VGG16", "VGG16"),
        (["train", "test"], ["train", "test"]),
        ([[True, False]], [[True, False]]),
        ({"a", "b"}, {"b", "a"}),
        ({"a": 1}, {"a": 1}),
        (True, True),
        (np.float64(3.14), secret("x", math.pi, 2)),
        (3.15, secret("x", math.pi, 2)),
        (lambda: 2, 2),
    ],
)
def test_a_right_answer_is_told(found, expected, capsys):
    check("x", found, expected)
    assert capsys.readouterr().out == "Right: x.\n"


@pytest.mark.parametrize(
    ("found", "expected", "told"),
    [
        (3, 2, "expected 2, found 3. Think."),
        (None, 2, "expected 2, found nothing yet. Think."),
        (..., 2, "expected 2, found nothing yet. Think."),
        ((1, 2), (1, 2, 3), "expected (1, 2, 3), found (1, 2). Think."),
        (1.0, (1.0, 1.0), "expected (1.0, 1.0), found 1.0. Think."),
        (float("nan"), 2, "expected 2, found nan. Think."),
        (["a"], ["b"], "expected ['b'], found ['a']. Think."),
        ("2", 2, "expected 2, found '2'. Think."),
        (3.17, secret("x", math.pi, 2), "expected another number, found 3.17. Think."),
        (2, secret("x", 3, 0), "expected another number, found 2. Think."),
        ("pi", secret("x", math.pi, 2), "expected another number, found 'pi'. Think."),
        (lambda: [][1], 2, "expected 2, found IndexError: list index out of range. Think."),
        (np.arange(500), 2, "found [  0   1   2 ... 497 498 499]. Think."),
    ],
)
def test_a_wrong_answer_is_told_with_what_was_expected(found, expected, told):
    with pytest.raises(WrongAnswerError) as error:
        check("x", found, expected, "Think.")
    assert str(error.value).startswith("x: expected ")
    assert str(error.value).endswith(told)


def test_the_number_does_not_stand_in_the_open():
    assert "3" not in repr(secret("x", 3.0, 0)).replace(secret("x", 3.0, 0).digest, "")
    assert secret("x", 3.0, 0) != secret("y", 3.0, 0)


def test_in_a_notebook_a_failed_check_is_one_line(capsys):
    shell = InteractiveShell.instance()
    code = "from osteo_utils.chapters.check import check\ncheck('2 + 2', 5, 4, 'Count again.')"
    result = shell.run_cell(code)
    assert isinstance(result.error_in_exec, WrongAnswerError)
    assert capsys.readouterr().out == "Not yet. 2 + 2: expected 4, found 5. Count again.\n"


def test_examples_are_right():
    assert doctest.testmod(module).failed == 0
