"""A release holds everything, and its checksums fit."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))

import release

COPIES = [f"editions/{edition}/01_a.ipynb" for edition in release.EDITIONS]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A release of a site of one page; its wheel is an empty file."""
    html, out = tmp_path / "html", tmp_path / "release"
    for name in ("index.html", "quizzes/qti/a.zip", "assignments/a.ipynb", *COPIES):
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / name).write_text(name)
    wheel = "osteo_utils-0-py3-none-any.whl"
    monkeypatch.setattr(release.subprocess, "run", lambda *_, **__: (out / wheel).touch())
    release.write_release(html, out)
    return out


def names(archive):
    with zipfile.ZipFile(archive) as packed:
        return {name for name in packed.namelist() if not name.endswith("/")}


def test_a_release_holds_the_pages_and_the_copies_for_every_reader(made):
    for edition in release.EDITIONS:
        assert names(made / f"{release.NAME}-{edition}.zip") == {"01_a.ipynb"}
    assert {"index.html", *COPIES} <= names(made / f"{release.NAME}-site.zip")
    assert names(made / f"{release.NAME}-quizzes.zip") == {"qti/a.zip"}
    assert names(made / f"{release.NAME}-assignments.zip") == {"a.ipynb"}
    assert len(list(made.glob("*.whl"))) == 1


def test_the_checksums_fit_and_name_every_file(made):
    lines = dict(
        reversed(line.split("  ")) for line in (made / "SHA256SUMS").read_text().splitlines()
    )
    assert set(lines) == {file.name for file in made.iterdir()} - {"SHA256SUMS"}
    assert all(
        hashlib.sha256((made / name).read_bytes()).hexdigest() == digest
        for name, digest in lines.items()
    )


def test_without_pages_there_is_no_release(tmp_path):
    with pytest.raises(FileNotFoundError, match="run make book"):
        release.write_release(tmp_path, tmp_path / "release")
    assert not (tmp_path / "release").exists()
