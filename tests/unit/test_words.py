"""The text uses words that can be searched for, and says nothing that another run could refute."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
from contents import notebooks

# What is not said, and what is said instead.
WORDS = {
    r"(?:called|answered) (?:rightly|wrongly)|(?:rightly|wrongly) called": "predicted correctly",
    r"\bmixers?\b": "pointwise convolution",
    r"\bthe looking\b": "depthwise convolution",
    r"\bfusion joints?\b|\bjoints? of the fusion\b": "fusion point",
    r"\btoo shy\b": "underconfident",
    r"\bturn(?:s|ed)? the knobs?\b": "chooses the hyperparameter",
    r"\bX-ray photo": "film or radiograph",
}
# Turns of speech that a reader with English as a third language has to look up.
IDIOMS = [
    r"cr(?:y|ies|ied) wolf", r"a lot of work in such", r"have no business",
    r"in a nutshell", r"piece of cake", r"silver bullet", r"rabbit hole", r"sweet spot",
    r"low-hanging", r"out of the blue", r"by and large", r"take it with a (?:grain|pinch)",
    r"the devil is", r"at the end of the day", r"hand-?wav", r"goes without saying",
    r"heavy lifting", r"under the hood", r"free lunch", r"red herring", r"needle in a",
    r"tip of the iceberg",
    r"rings? a bell", r"pays? the price", r"bites? (?:you|us|back)", r"smoking gun",
    r"cherry-?pick",
]  # fmt: skip
# Words of praise and of haste.
TONE = [
    r"\b(?:amazing|impressive|revolutionary|groundbreaking|magical|powerful|astonishing)(?:ly)?\b",
    r"(?<!not )\b(?:obviously|trivially|needless to say|it is clear that|as everybody knows)\b",
]
# Verdicts on a run that stand in the text instead of being computed.
VERDICTS = [
    r"\bas expected\b", r"\bclearly (?:better|worse|wins?|loses?|higher|lower)\b", 
    r"\bthe damage is\b", r"\bgrows in all (?:two|three|four|ten)\b", r"\bas you can see\b",
    r"\bnot surprisingly\b", r"\bis no surprise\b", r"\bwins (?:here|again|easily)\b",
    r"\bthe (?:table|figure|curve) (?:shows|proves) that\b",
]  # fmt: skip


def prose(path: Path) -> str:
    """The text of a page or of a notebook, without code, addresses and solutions' code."""
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = path.read_text(encoding="utf-8")
    text = re.sub(r"^(`{3,}).*?^\1|`[^`\n]+`|\]\([^)]*\)", " ", text, flags=re.M | re.S)
    return re.sub(r"\s+", " ", text)


PAGES = [
    *notebooks(),
    *sorted((ROOT / "book").glob("*.md")),
    *sorted((ROOT / "book/guide").glob("*.md")),
]
TEXTS = {path: prose(path) for path in PAGES}


def found(patterns, paths=TEXTS):
    """Page and words around each place where one of the patterns is, for all pages at once."""
    return [
        f"{path.stem}: ...{TEXTS[path][max(0, m.start() - 40) : m.end() + 40]}..."
        for path in paths
        for pattern in patterns
        for m in re.finditer(pattern, TEXTS[path], re.IGNORECASE)
    ]


@pytest.mark.parametrize(("word", "instead"), WORDS.items())
def test_no_private_word_stands_for_a_standard_term(word, instead):
    assert found([word]) == [], f"say: {instead}"


def test_no_idiom_has_to_be_looked_up():
    assert found(IDIOMS) == []


def test_the_tone_is_calm():
    assert found(TONE) == []


def test_no_verdict_on_a_run_is_typed():
    assert found(VERDICTS, notebooks()) == []


def test_the_patterns_find_what_they_are_for():
    text = "Films called rightly grow; a detector cries wolf. It is clearly better."
    hits = [p for p in [*WORDS, *IDIOMS, *TONE, *VERDICTS] if re.search(p, text, re.I)]
    assert len(hits) == 3
