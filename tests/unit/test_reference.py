"""The reference pages: every module of the core is on one, and its examples are right."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("data", "scoring", "networks", "saliency", "figures", "phantom")
CORE = {f"osteo_utils.{name}" for name in ("course", "registry", "runs")} | {
    f"osteo_utils.{room}.{path.stem}"
    for room in ROOMS
    for path in (ROOT / "osteo_utils" / room).glob("[!_]*.py")
}
# What another module of the room offers in its own name.
BEHIND = {"osteo_utils.phantom.knee", "osteo_utils.saliency.submodel"}


def test_every_module_of_the_core_is_shown_once():
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "book/api").glob("*.md"))
    shown = re.findall(r"automodule:: (osteo_utils[\w.]+)", pages)
    assert sorted(shown) == sorted(
        CORE - BEHIND | {f"osteo_utils.{name}" for name in ("diagrams", "formats.films", "phantom")}
    )


@pytest.mark.parametrize("module", sorted(CORE))
def test_examples_are_right(module):
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0
    assert found.attempted > 0 or module in BEHIND
