"""Text from outside (names of files, tables, run folders), made harmless for where it is shown.

HTML has `html.escape`; this is for terminals, Markdown and spreadsheets.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from unicodedata import category


def printable(text: object) -> str:
    r"""One line for a terminal or a table: what is not printable stands as a Python escape.

    A carriage return is `\r`, a byte of a file name that is no UTF-8 `\udcff`.

    Args:
        text: Anything; its `str` is shown.

    Returns:
        The text in one line, without control characters.

    Example:
        >>> print(printable("knee" + chr(13) + "1.png"))
        knee\r1.png
    """
    return "".join(map(_shown, str(text)))


def _shown(c: str) -> str:
    return c if c.isprintable() or category(c) == "Zs" else ascii(c)[1:-1]


def markdown(text: object) -> str:
    r"""One line in which nothing is Markdown, MyST, mathematics or HTML.

    CommonMark lets a backslash stand before any punctuation of ASCII, and then it is only that.

    Args:
        text: Anything; its `str` is shown.

    Returns:
        The text in one line, each run of white space a single space, each punctuation escaped.

    Example:
        >>> print(markdown("a *b*"))
        a \*b\*
    """
    line = printable(" ".join(str(text).split()))
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", line)


def spreadsheet(value: object) -> object:
    """The value of a cell: a text printable, and none that a spreadsheet takes for a formula.

    Args:
        value: Anything; what is no text stays as it is.

    Returns:
        The value; an apostrophe stands before a text that begins with =, +, - or @.

    Example:
        >>> spreadsheet("=1+1"), spreadsheet(-1)
        ("'=1+1", -1)
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    r"""Rows as a table in CSV, no cell of which a spreadsheet takes for a formula.

    Args:
        rows: One or more, all with the same keys; None is an empty cell.

    Returns:
        The table, with the keys as its first line.

    Example:
        >>> csv_text([{"film": "=1+1", "n": 2}])
        "film,n\n'=1+1,2\n"
    """
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([spreadsheet(value) for value in row.values()] for row in rows)
    return table.getvalue()
