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


class ImageError(CourseError):
    """A file that cannot be used as a radiograph."""


class CorpusError(CourseError):
    """A corpus that cannot be used."""
