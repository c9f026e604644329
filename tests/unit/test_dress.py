"""Plain Markdown of a chapter becomes what the book's pages want."""

import doctest
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "book"))
import dress

TERMS = {"receptive-field": "Receptive field"}


def dressed(text):
    return dress.dressed(text, "06_cnn", TERMS)


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        (
            "its [receptive field](../book/glossary.md#receptive-field) grows",
            "its {term}`receptive field <Receptive field>` grows",
        ),
        ("wide ([Luo et al. 2016](../book/references.md#luo2016)).", "wide {cite}`luo2016`."),
        ("[Luo et al. 2016](../book/references.md#luo2016) saw", "{cite:t}`luo2016` saw"),
        ("(AdamW, ([L 2019](../book/references.md#l2019)))", "(AdamW, {cite}`l2019`)"),
        ("[next](alexnet.ipynb) and [data](../book/data.md)",) * 2,
        ("> A quotation,\n> of two lines.\n\nText",) * 2,
        ("> **Read.** More.\n", ":::{admonition} Read\n:class: note\n\nMore.\n:::\n"),
        (
            "> **Not a medical device**\n>\n> Not.\n\nText",
            ":::{admonition} Not a medical device\n:class: important\n\nNot.\n:::\n\nText",
        ),
        (
            "> **Exercise: Two readers**\n>\n> Who is right?\n>\n> - both",
            ":::{exercise} Two readers\n:label: 06_cnn-two-readers\n\nWho is right?\n\n- both\n:::",
        ),
        (
            "<details><summary>Solution: Two readers</summary>\n\nNone.\n\n</details>",
            ":::{solution} 06_cnn-two-readers\n:class: dropdown\n\nNone.\n:::",
        ),
    ],
)  # fmt: skip
def test_each_form_has_its_dress(plain, expected):
    assert dressed(plain) == expected


def test_code_is_left_as_it_is():
    code = "`[a](../book/references.md#b)`\n\n```python\n# [a](../book/references.md#b)\n```"
    assert dressed(code) == code


def test_code_in_a_solution_stays_code():
    plain = "<details><summary>Solution: A</summary>\n\n```python\nx = [1](2)\n```\n\n</details>"
    assert "\n```python\nx = [1](2)\n```\n:::" in dressed(plain)


def test_a_term_that_the_glossary_lacks_is_named():
    with pytest.raises(ValueError, match=r"glossary.md#stride.*expected a term"):
        dressed("the [stride](../book/glossary.md#stride)")


def test_examples_are_right():
    assert doctest.testmod(dress).failed == 0
