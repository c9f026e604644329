"""The address of the repository is set everywhere at once, and a placeholder is not overlooked."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
import address


@pytest.fixture
def clone(tmp_path):
    """The files that may hold the address, in a folder of their own."""
    for file in {file for place in address.PLACES for file in ROOT.glob(place) if file.is_file()}:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return tmp_path


def text_of(folder):
    return "".join(file.read_text("utf-8") for file in folder.rglob("*") if file.is_file())


def test_every_file_that_names_the_repository_is_known():
    old = address.address_in()
    found = subprocess.run(
        ["git", "grep", "--untracked", "-lF", old, "--", "."],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode > 1:
        pytest.skip("not a git checkout")
    known = {file.relative_to(ROOT).as_posix() for p in address.PLACES for file in ROOT.glob(p)}
    assert set(found.stdout.split()) - {"book/address.py"} <= known


def test_another_address_is_written_everywhere(clone):
    old = address.address_in(clone)
    assert set(address.set_address("ada/knees.of-ada", clone))
    assert address.address_in(clone) == "ada/knees.of-ada"
    everything = text_of(clone)
    assert old not in everything
    assert address.pages_of(old) not in everything
    assert "git+https://github.com/ada/knees.of-ada@v" in everything
    assert "https://colab.research.google.com/github/ada/knees.of-ada/blob/" in everything
    assert "https://ada.github.io/knees.of-ada/" in everything
    assert address.warning(clone) == ""


def test_there_and_back_changes_nothing(clone):
    before = text_of(clone)
    old = address.address_in(clone)
    address.set_address("ada/knees", clone)
    address.set_address(old, clone)
    assert text_of(clone) == before


def test_a_longer_name_that_begins_alike_is_left_alone(tmp_path):
    (tmp_path / "_config.yml").write_text("repository:\n  url: https://github.com/ada/knees\n")
    (tmp_path / "x.md").write_text("https://github.com/ada/knees-2 and ada/knees")
    assert address.set_address("bob/hips", tmp_path) == [tmp_path / "_config.yml"]


@pytest.mark.parametrize(
    "wrong", ["knees", "https://github.com/ada/knees", "a/b/c", "ada/", "a b/c"]
)
def test_what_is_no_address_is_refused(clone, wrong):
    with pytest.raises(ValueError, match="expected owner/name"):
        address.set_address(wrong, clone)


def test_the_placeholder_is_said_loudly(tmp_path):
    config = f"repository:\n  url: https://github.com/{address.PLACEHOLDER}\n"
    (tmp_path / "_config.yml").write_text(config)
    assert "make address REPO=owner/name" in address.warning(tmp_path)
    assert "warning()" in (ROOT / "book/build.py").read_text("utf-8")
