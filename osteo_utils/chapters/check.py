"""Checks of exercises: right, or what is not right yet, in one line.

    check("wilson(8, 10)", lambda: wilson(8, 10), (0.490, 0.943), "The centre is not p.", 1e-3)

A check that fails ends the cell with its line and without a traceback.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np


class WrongAnswerError(AssertionError):
    """An exercise that is not solved yet: what was expected, what was found, a hint."""

    def _render_traceback_(self) -> list[str]:  # which IPython asks for
        return [f"Not yet. {self}"]


@dataclass(frozen=True)
class Secret:
    """A number that must not stand in the open.

    Attributes:
        digest: What `secret` gives for it.
        digits: Decimals that count; one unit of the last may be missed, but none of a whole number.
    """

    digest: str
    digits: int


def secret(what: str, number: float, digits: int) -> Secret:
    """The form in which the author of an exercise writes down its answer.

    Args:
        what: As the check says it.
        number: The answer.
        digits: Decimals that count.

    Returns:
        To be written into the check as `expected`.

    Example:
        >>> secret("the share", 0.372, 2)
        Secret(digest='14b8e1b5', digits=2)
    """
    return Secret(_digest(what, round(number * 10**digits)), digits)


def check(
    what: str,
    found: Any,  # noqa: ANN401
    expected: Any,  # noqa: ANN401
    hint: str = "",
    tolerance: float = 1e-6,
) -> None:
    """Say that an answer is right, or end the cell and say what is not.

    Args:
        what: The answer, as the reader knows it, such as "wilson(8, 10)".
        found: The answer, or a function without arguments that computes it, so that its errors are
            told as well.
        expected: Numbers, arrays, texts or collections of them, or a `Secret`.
        hint: What to think of where it is wrong, in a sentence.
        tolerance: Largest difference of two numbers, relative or absolute.

    Raises:
        WrongAnswerError: The answer is not the expected one.

    Example:
        >>> check("1 + 1", lambda: 1 + 1, 2)
        Right: 1 + 1.
        >>> check("1 + 1", lambda: 1 + "1", 2, "Both are numbers.")
        Traceback (most recent call last):
        osteo_utils.chapters.check.WrongAnswerError: 1 + 1: expected 2, found TypeError: \
unsupported operand type(s) for +: 'int' and 'str'. Both are numbers.
    """
    try:
        value = found() if callable(found) else found
    except Exception as error:
        raise _not_yet(what, expected, f"{type(error).__name__}: {error}", hint) from None
    if not _agree(what, value, expected, tolerance):
        raise _not_yet(what, expected, _told(value), hint)
    print(f"Right: {what}.")


def _not_yet(what: str, expected: Any, found: str, hint: str) -> WrongAnswerError:  # noqa: ANN401
    wanted = "another number" if isinstance(expected, Secret) else _told(expected)
    return WrongAnswerError(f"{what}: expected {wanted}, found {found}. {hint}".rstrip())


def _told(value: Any) -> str:  # noqa: ANN401
    if value is None or value is ...:
        return "nothing yet"
    with np.printoptions(precision=4, threshold=12, linewidth=1000):
        text = str(value).replace("\n", "") if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _agree(what: str, found: Any, expected: Any, tolerance: float) -> bool:  # noqa: ANN401
    if isinstance(expected, Secret):
        return _is_number(found) and _is_secret(what, float(found), expected)
    if not np.issubdtype(np.asarray(expected).dtype, np.number):  # words, truth values and so on
        return bool(found == expected)
    try:
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)
    except (AssertionError, TypeError, ValueError):
        return False
    return bool(np.shape(found) == np.shape(expected))


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)


def _is_secret(what: str, found: float, expected: Secret) -> bool:
    near = round(found * 10**expected.digits)
    steps = (-1, 0, 1) if expected.digits else (0,)
    return any(_digest(what, near + step) == expected.digest for step in steps)


def _digest(what: str, number: int) -> str:
    return hashlib.sha256(f"{what}|{number}".encode()).hexdigest()[:8]
