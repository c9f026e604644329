"""The plumbing of a chapter: found if it is there, made if not, and said either way."""

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from osteo_utils import course as plumbing
from osteo_utils.corpus import IMAGE_FOLDER, films_digest, list_corpus
from osteo_utils.course import audited, data_file, open_course, split, with_runs
from osteo_utils.profiles import get_profile
from osteo_utils.splits import split_hash


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A course on a fresh smoke corpus."""
    return open_course("smoke", runs=tmp_path_factory.mktemp("home") / "runs")


def test_opening_makes_the_corpus_once_and_says_what_is_used(opened, capsys):
    again = open_course("smoke", runs=opened.runs)
    said = capsys.readouterr().out
    assert "profile smoke | corpus simulated | seed 0" in said
    assert "tensorflow" in said
    assert again == opened
    assert opened.folder == opened.runs / "simulated" / "smoke"
    assert (opened.root / "corpus.json").exists()


@pytest.fixture
def knees(tmp_path, simulated):
    """A reader's own folder of films: those of a simulated corpus, without its papers."""
    return shutil.copytree(simulated / IMAGE_FOLDER, tmp_path / "a" / "knees")


def test_two_folders_of_one_name_never_meet(knees, tmp_path):
    other = shutil.copytree(knees, tmp_path / "b" / "knees")
    courses = [open_course("smoke", str(root), runs=tmp_path / "runs") for root in (knees, other)]
    assert len({course.folder for course in courses}) == 2
    for course, root in zip(courses, (knees, other), strict=True):
        assert course.root == root
        assert json.loads((course.folder.parent / "corpus.json").read_text()) == {"path": str(root)}


def test_runs_of_another_corpus_under_the_same_short_name_are_refused(knees, tmp_path):
    course = open_course("smoke", str(knees), runs=tmp_path / "runs")
    (course.folder.parent / "corpus.json").write_text('{"path": "/elsewhere/knees"}')
    with pytest.raises(
        ValueError, match=r"expected the corpus .*a/knees, found .*/elsewhere/knees"
    ):
        open_course("smoke", str(knees), runs=tmp_path / "runs")
    (course.folder.parent / "corpus.json").write_text("{")
    with pytest.raises(ValueError, match=r"corpus\.json: expected the corpus"):
        open_course("smoke", str(knees), runs=tmp_path / "runs")


def test_a_course_stays_where_it_is_when_the_working_folder_changes(knees, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "a")
    course = open_course("smoke", "knees", runs=tmp_path / "runs")
    before = course.folder
    monkeypatch.chdir(tmp_path)
    assert course.folder == before
    assert open_course("smoke", course.corpus, runs=tmp_path / "runs") == course


def test_the_split_says_which_films_it_is_of(opened):
    first = split(opened)
    assert first.attrs["films"] == films_digest(opened.root, list_corpus(opened.root))
    assert split(opened).attrs["films"] == first.attrs["films"]
    assert json.loads((opened.folder / "split.json").read_text())["films"] == first.attrs["films"]


def test_runs_lie_beside_the_notebook_and_in_a_checkout_beside_its_folder(tmp_path, monkeypatch):
    for place in (colab := tmp_path / "content", chapters := tmp_path / "course/notebooks"):
        place.mkdir(parents=True)
    (tmp_path / "course/osteo_utils").mkdir()
    monkeypatch.setattr(plumbing, "open_corpus", lambda corpus, settings, home: home)
    monkeypatch.chdir(colab)
    assert (open_course().runs, open_course().root) == (colab / "runs", colab / "corpora")
    monkeypatch.chdir(chapters)
    assert open_course().runs == tmp_path / "course/runs"
    assert open_course(runs=tmp_path / "mine").root == tmp_path / "corpora"


def test_runs_may_lie_on_google_drive_where_corpora_never_do(tmp_path, monkeypatch):
    monkeypatch.setattr(plumbing, "DRIVE", drive := tmp_path / "content/drive")
    monkeypatch.setattr(plumbing, "open_corpus", lambda corpus, settings, home: home)
    with pytest.raises(
        ValueError, match=r"expected Google Drive, mounted, found nothing in .* drive\.mount"
    ):
        open_course(runs=drive / "MyDrive/osteo/runs")
    assert not drive.exists()
    (drive / "MyDrive").mkdir(parents=True)
    course = open_course(runs=drive / "MyDrive/osteo/runs")
    assert course.folder == drive / "MyDrive/osteo/runs/simulated/quick"
    assert course.root == tmp_path / "content/corpora"


def test_missing_runs_are_told_once_with_the_time_they_would_take(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plumbing, "open_corpus", lambda corpus, settings, home: home)
    finished = ["vgg16"]
    monkeypatch.setattr(plumbing, "_has_runs", lambda course, model, _: model in finished)
    course = open_course("quick", runs=tmp_path / "runs")
    capsys.readouterr()
    assert with_runs(course, ["vgg16"]) is course
    assert with_runs(course, ["vgg16", "resnet50", "alexnet"], least=1) is course
    assert capsys.readouterr().out == ""
    small = with_runs(course, ["vgg16", "resnet50", "alexnet"])
    said = capsys.readouterr().out
    assert (small.profile.name, small.runs) == ("smoke", course.runs)
    assert "No finished run of resnet50, alexnet in" in said
    assert "Training all ten takes about half an hour on two processor cores" in said
    assert said.count("\n") == 2  # what is missing, and what is used instead
    assert with_runs(small, ["resnet50"]) is small


def test_tables_of_facts_come_with_the_package():
    rows = pd.read_csv(data_file("published_summary.csv"))
    assert len(rows) == 19
    assert data_file("reference/mendeley_audit.csv").is_file()
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv: expected a table of the course"):
        data_file("nothing.csv")


def test_an_unknown_profile_or_corpus_is_refused_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match="smoke, quick, full"):
        open_course("huge", runs=tmp_path / "runs")
    with pytest.raises(ValueError, match="no_such_folder"):
        open_course("smoke", str(tmp_path / "no_such_folder"), runs=tmp_path / "runs")


def test_audit_and_split_are_made_once_and_then_read(opened, capsys, monkeypatch):
    first = audited(opened)
    parts = split(opened)
    capsys.readouterr()
    monkeypatch.setattr(plumbing, "audit", lambda *_: pytest.fail("audited twice"))
    assert audited(opened).images["group"].tolist() == first.images["group"].tolist()
    assert split_hash(split(opened)) == split_hash(parts)
    assert capsys.readouterr().out == ""


def test_a_changed_file_makes_the_audit_anew(opened, tmp_path, capsys):
    home = tmp_path / "home"
    shutil.copytree(opened.runs.parent, home)
    moved = plumbing.Course(
        get_profile("smoke"),
        "simulated",
        0,
        home / "runs",
        home / opened.root.relative_to(opened.runs.parent),
    )
    before = audited(moved).images
    image = moved.root / before["path"].iloc[0]
    image.write_bytes(b"not a radiograph any more")
    after = audited(moved).images
    assert "The files have changed since the audit" in capsys.readouterr().out
    assert "unreadable" in after.loc[after["path"] == before["path"].iloc[0], "reason"].item()


def test_a_missing_run_is_replaced_by_an_announced_smoke_run(opened, capsys):
    run = plumbing.trained(replace(opened, profile=get_profile("quick")), "custom_cnn")
    assert "No finished run" in capsys.readouterr().out
    assert run.info["profile"] == "smoke"
    plumbing.trained(opened, "custom_cnn")
    assert "No finished run" not in capsys.readouterr().out
