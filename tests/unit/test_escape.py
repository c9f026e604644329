"""Text from outside, made harmless for where it is shown."""

import string
from html import escape

import pytest
from markdown_it import MarkdownIt

from osteo_utils.escape import csv_text, markdown, printable, spreadsheet

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "![x](https://a.b/c.png)",
    "a | b || c",
    "{cite}`x` and {{ x }}",
    "$x$ `c` *d* _e_ ~~f~~ #g",
    "[a]: https://a.b",
    "&lt;b&gt; https://a.b",
    string.punctuation,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_it_is_markdown_or_html(text):
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")
    literal = escape(text, quote=False).replace('"', "&quot;")
    assert parser.render(markdown(text)) == f"<p>{literal}</p>\n"
    row = f"| a | b |\n| --- | --- |\n| {markdown(text)} | 2 |\n"
    assert parser.render(row).count("<td>") == 2


def test_what_is_not_printable_stands_as_an_escape_and_letters_stay():
    assert printable("Knie ä 膝\u3000e\u0301.png") == "Knie ä 膝\u3000e\u0301.png"
    name = b"\xd5\xfd\r\x1b[2J.png".decode("utf-8", "surrogateescape")
    assert printable(name) == r"\udcd5\udcfd\r\x1b[2J.png"
    assert printable(7) == "7"


def test_no_text_of_a_table_is_a_formula():
    texts = ["=1+1", "@x", "a=b", "-a", "+a", "\t=a"]
    assert [*map(spreadsheet, texts)] == ["'=1+1", "'@x", "a=b", "'-a", "'+a", r"\t=a"]
    assert [*map(spreadsheet, [-1.5, None, True])] == [-1.5, None, True]
    rows = [
        {"film": "=1+1", "model": "VGG16", "p": 1},
        {"film": "a=b", "model": "@y, z", "p": None},
    ]
    lines = csv_text(rows).splitlines()
    assert lines == ["film,model,p", "'=1+1,VGG16,1", 'a=b,"\'@y, z",']
