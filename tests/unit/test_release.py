"""A release holds everything, and its checksums fit."""

import hashlib
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
from contents import notebooks

import release


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A release of a site of one page; its wheel is an empty file."""
    html, out = tmp_path / "html", tmp_path / "release"
    html.mkdir()
    (html / "index.html").write_text("<p>A page.</p>")
    wheel = "osteo_utils-0-py3-none-any.whl"
    monkeypatch.setattr(release.subprocess, "run", lambda *_, **__: (out / wheel).touch())
    release.write_release(html, out)
    return out


def test_a_release_holds_every_chapter_for_every_reader(made):
    chapters = {path.name for path in notebooks()}
    for edition in release.EDITIONS:
        with zipfile.ZipFile(made / f"{release.NAME}-{edition}.zip") as copies:
            assert {name for name in copies.namelist() if not name.endswith("/")} == chapters
    with zipfile.ZipFile(made / f"{release.NAME}-site.zip") as site:
        assert "index.html" in site.namelist()
    with zipfile.ZipFile(made / f"{release.NAME}-quizzes.zip") as quizzes:
        assert "custom_cnn.json" in quizzes.namelist()


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
