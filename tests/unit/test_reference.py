"""The reference pages: every module of the core is on one, and its examples are right."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "book/api").glob("*.md"))
SHOWN = [
    module
    for page in PAGES
    for module in re.findall(r"automodule:: (osteo_utils[\w.]+)", page.read_text("utf-8"))
]
CORE = ("data", "scoring", "networks", "saliency", "figures", "phantom")
BEHIND = {  # parts of a module that is shown
    *("data.archives", "data.copies", "data.dicom", "data.pixels", "networks.fingerprint"),
}


def test_every_module_of_the_core_is_shown_once():
    package = ROOT / "osteo_utils"
    files = [path for room in CORE for path in (package / room).glob("[!_]*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    behind = {f"osteo_utils.{name}" for name in BEHIND}
    top = {f"osteo_utils.{name}" for name in ("course", "registry", "runs")}
    assert sorted(SHOWN) == sorted(modules - behind | top)


@pytest.mark.parametrize("module", SHOWN)
def test_examples_are_right(module):
    found = doctest.testmod(importlib.import_module(module))
    assert found.failed == 0
    assert found.attempted > 0
