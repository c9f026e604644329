"""The rooms of the package: imports go downwards, and what must be light is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "osteo_utils"
# From the ground up: a module may import from its own room and from those before it.
FLOORS = (
    *("errors", "escape", "registry", "store", "progress", "runs", "fingerprint", "hardware"),
    *("scoring", "phantom", "formats", "near_duplicates"),
    *("data", "networks", "saliency", "course", "study", "figures"),
    *("diagrams", "overlay"),
    *("inference", "widgets", "chapters", "export", "cli", "__main__"),
)


def room_of(module: str) -> str:
    """The room of "osteo_utils.data.images" is "data"."""
    return module.split(".")[1]


def imports_of(file: Path) -> set[str]:
    """Every module of the package that a file imports, also late ones inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "osteo_utils":
            found |= {f"osteo_utils.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("osteo_utils."):
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.startswith("osteo_utils.")}
    return found - {"osteo_utils.__version__", "osteo_utils.NOTICE"}


MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem != "__init__"
)


@pytest.mark.parametrize("file", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_downwards(file):
    own = file.relative_to(PACKAGE).with_suffix("").parts[0]
    allowed = FLOORS[: FLOORS.index(own) + 1]
    assert [name for name in sorted(imports_of(file)) if room_of(name) not in allowed] == []


def test_every_room_says_what_is_in_it():
    for room in (path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()):
        assert ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))), room.name


@pytest.mark.parametrize(
    "module",
    ["registry", "phantom", "data.corpus", "scoring.evaluate", "inference", "widgets", "cli"],
)
def test_what_needs_no_network_loads_no_keras(module):
    code = f"import osteo_utils.{module}, sys; print({{'keras', 'tensorflow'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
