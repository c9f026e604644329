"""Errors that the reader can mend: where, what was expected, what was found, what to do."""


class CourseError(ValueError):
    """Something that the reader can mend.

    Args:
        where: The file, folder or parameter.
        expected: What should be there.
        found: What is there.
        remedy: What to do, in a sentence.

    Example:
        >>> print(CourseError("seed", "a whole number", 0.5, "Choose 0 or 1."))
        seed: expected a whole number, found 0.5. Choose 0 or 1.
    """

    def __init__(self, where: object, expected: object, found: object, remedy: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}. {remedy}")


def check_count(name: str, count: int, least: int = 1) -> None:
    """Refuse an argument that counts something and is too small.

    Args:
        name: Of the argument.
        count: Its value.
        least: The least that makes sense.

    Raises:
        ValueError: It is smaller.

    Example:
        >>> check_count("bins", 0)
        Traceback (most recent call last):
        ...
        ValueError: bins: expected at least 1, found 0
    """
    if count < least:
        raise ValueError(f"{name}: expected at least {least}, found {count}")


class ImageError(CourseError):
    """A file that cannot be used as a radiograph."""


class CorpusError(CourseError):
    """A corpus that cannot be used."""
