"""The plumbing of a chapter: found if it is there, made if not, and said either way."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageOps
from tiny_runs import fitting_run

sys.path.append(str(Path(__file__).parents[2] / "book"))
from osteo_utils import course as plumbing
from osteo_utils.chapters import comparison
from osteo_utils.course import arrays, audited, data_file, fitting_runs, open_course, split
from osteo_utils.data import audit
from osteo_utils.data.corpus import films_digest, list_corpus
from osteo_utils.data.splits import split_hash, write_split
from osteo_utils.networks import training
from osteo_utils.phantom.corpus import read_truth
from osteo_utils.registry import IMAGE_FOLDER, get_profile, recipe

import build

NETWORK = {"augmentation": "a" * 16, "backbone": "b" * 16, "head": "c" * 16}


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
    told = r"expected the corpus .*a/knees, found .*/elsewhere/knees"
    with pytest.raises(ValueError, match=told):
        open_course("smoke", str(knees), runs=tmp_path / "runs")
    (course.folder.parent / "corpus.json").write_text("{")
    with pytest.raises(ValueError, match=r"corpus\.json: expected .* delete this one file"):
        open_course("smoke", str(knees), runs=tmp_path / "runs")
    (course.folder.parent / "corpus.json").unlink()
    assert open_course("smoke", str(knees), runs=tmp_path / "runs").root == course.root


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
    told = r"expected Google Drive, mounted, found nothing in .* drive\.mount"
    with pytest.raises(ValueError, match=told):
        open_course(runs=drive / "MyDrive/osteo/runs")
    assert not drive.exists()
    (drive / "MyDrive").mkdir(parents=True)
    course = open_course(runs=drive / "MyDrive/osteo/runs")
    assert course.folder == drive / "MyDrive/osteo/runs/simulated/quick"
    assert course.root == tmp_path / "content/corpora"


def test_missing_runs_are_told_once_with_the_time_they_would_take(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plumbing, "open_corpus", lambda corpus, settings, home: home)

    def fitting(course, models, seeds):
        return {model: ["a run"] if model == "vgg16" else [] for model in models}

    monkeypatch.setattr(plumbing, "fitting_runs", fitting)
    course = open_course("quick", runs=tmp_path / "runs")
    capsys.readouterr()
    assert plumbing.with_runs(course, ["vgg16"]) is course
    assert plumbing.with_runs(course, ["vgg16", "resnet50", "alexnet"], least=1) is course
    assert capsys.readouterr().out == ""
    small = plumbing.with_runs(course, ["vgg16", "resnet50", "alexnet"])
    said = capsys.readouterr().out
    assert (small.profile.name, small.runs) == ("smoke", course.runs)
    assert "No finished run of resnet50, alexnet in" in said
    assert "Training all networks takes about half an hour on two processor cores" in said
    assert said.count("\n") == 2  # what is missing, and what is used instead
    assert plumbing.with_runs(small, ["resnet50"]) is small


def test_tables_of_facts_come_with_the_package():
    rows = pd.read_csv(data_file("published_summary.csv"))
    assert len(rows) == 19
    assert data_file("reference/mendeley_audit.csv").is_file()
    with pytest.raises(FileNotFoundError, match=r"nothing\.csv: expected a table of the course"):
        data_file("nothing.csv")


def test_an_unknown_profile_or_corpus_is_refused_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of smoke, .*found 'huge'"):
        open_course("huge", runs=tmp_path / "runs")
    with pytest.raises(ValueError, match="no_such_folder"):
        open_course("smoke", str(tmp_path / "no_such_folder"), runs=tmp_path / "runs")


def test_audit_and_split_are_made_once_and_then_read(opened, capsys, monkeypatch):
    first = audited(opened)
    parts = split(opened)
    capsys.readouterr()
    monkeypatch.setattr(audit, "audit", lambda *_: pytest.fail("audited twice"))
    assert audited(opened).images["group"].tolist() == first.images["group"].tolist()
    assert split_hash(split(opened)) == split_hash(parts)
    assert capsys.readouterr().out == ""


def test_a_changed_file_makes_the_audit_anew(opened, tmp_path, capsys):
    home = tmp_path / "home"
    shutil.copytree(opened.runs.parent, home)
    root = home / opened.root.relative_to(opened.runs.parent)
    moved = replace(opened, runs=home / "runs", root=root)
    before = audited(moved).images
    image = moved.root / before["path"].iloc[0]
    image.write_bytes(b"not a radiograph any more")
    after = audited(moved).images
    assert "The files have changed since the audit" in capsys.readouterr().out
    assert "unreadable" in after.loc[after["path"] == before["path"].iloc[0], "reason"].item()


@pytest.fixture
def started(knees, tmp_path):
    """A course on a reader's own folder, audited and split, nothing trained."""
    course = open_course("smoke", str(knees), runs=tmp_path / "runs")
    split(course)
    return course


def negative(path):
    """Put another film in the place of this one."""
    with Image.open(path) as image:
        other = ImageOps.invert(image.convert("L")).rotate(90)
    other.save(path)


def test_a_replaced_film_is_seen_by_audit_split_and_arrays(started, capsys):
    before, arrays_before = split(started), arrays(started)
    film = before["path"][0]
    negative(started.root / film)
    capsys.readouterr()
    assert audited(started).images.set_index("path")["sha256"][film] != before["sha256"][0]
    assert f"since the audit (1 changed: {film}): auditing again" in capsys.readouterr().out
    after = split(started)
    assert f"since the split (1 changed: {film}): splitting again" in capsys.readouterr().out
    assert after.attrs["films"] != before.attrs["films"]
    part, row = before["part"][0], 0
    assert (arrays(started)[part][0][row] != arrays_before[part][0][row]).any()


def test_added_and_removed_films_are_seen(started, capsys):
    before = split(started)
    gone = before["path"][0]
    new = f"{gone.rpartition('/')[0]}/new.png"
    shutil.copy(started.root / gone, started.root / new)
    negative(started.root / new)
    (started.root / gone).unlink()
    capsys.readouterr()
    after = split(started)
    told = f"(1 added: {new}; 1 removed: {gone})"
    assert capsys.readouterr().out.count(told) == 2  # by the audit and by the split
    assert {new} == set(after["path"]) - set(before["path"])
    assert {gone} == set(before["path"]) - set(after["path"])
    assert len(arrays(started)["train"][0]) == sum(after["part"] == "train")


def test_a_film_that_the_audit_does_not_keep_leaves_the_split_as_it_is(started):
    before = split(started)
    copy = started.root / before["path"][0]
    shutil.copy(copy, copy.with_name(f"zzz{copy.suffix}"))
    pd.testing.assert_frame_equal(split(started), before, check_dtype=False)


@pytest.mark.parametrize("work", ["custom_cnn/seed0/progress", "baselines.csv"])
def test_a_split_on_which_something_rests_is_refused_when_the_films_change(started, work):
    (started.folder / work).mkdir(parents=True)
    before = (started.folder / "split.csv").read_bytes()
    film = split(started)["path"][0]
    negative(started.root / film)
    for use in (split, arrays):
        with pytest.raises(ValueError, match=r"split\.csv: expected the films that were") as caught:
            use(started)
        for word in (f"1 changed: {film}", work.partition("/")[0], str(started.folder)):
            assert word in str(caught.value)
    assert (started.folder / "split.csv").read_bytes() == before


def test_patients_that_were_told_later_change_the_split(started, capsys):
    films = audited(started).images["path"]
    table = pd.DataFrame({"path": films, "patient": "P1", "side": "", "site": ""})
    table["patient"] = [f"P{row // 2}" for row in range(len(films))]
    table.to_csv(started.root / "metadata.csv", index=False)
    capsys.readouterr()
    after = split(started)
    said = capsys.readouterr().out
    assert "since the audit (facts or metadata.csv): auditing again" in said
    assert "since the split (" in said
    known = after.merge(table, on="path")
    assert (known.groupby("patient")["part"].nunique() == 1).all()


def test_the_audit_is_made_again_by_other_code_or_when_its_tables_were_changed(
    started, capsys, monkeypatch
):
    first = audited(started)
    assert capsys.readouterr().out == ""
    table = started.folder / "audit.csv"
    for damage, reason in (
        (lambda: table.write_text(table.read_text().replace("True", "False", 1)), "changed or dam"),
        (lambda: (started.folder / "pairs.csv").unlink(), "No audit of this corpus yet"),
        (lambda: (started.folder / "audit.json").write_text("{"), "record is damaged"),
        (lambda: monkeypatch.setattr(audit, "audit_code", lambda: "another"), "version of the"),
    ):
        damage()
        assert audited(started).images["keep"].tolist() == first.images["keep"].tolist()
        assert reason in capsys.readouterr().out
        audited(started)
        assert capsys.readouterr().out == ""


def test_phantoms_of_another_encoder_keep_their_split(opened, tmp_path, capsys):
    here, before = replace(opened, runs=tmp_path / "runs"), split(opened)
    shutil.copytree(opened.folder, here.folder)
    table = pd.read_csv(here.folder / "split.csv", dtype=str, keep_default_na=False)
    elsewhere = table.assign(sha256="x" + table["sha256"], label=table["label"].astype(int))
    elsewhere.attrs = before.attrs
    (here.folder / "split.csv").unlink()
    write_split(elsewhere, here.folder / "split.csv")
    assert split(here)["sha256"].tolist() == before["sha256"].tolist()
    assert split_hash(split(here)) == split_hash(before)
    assert split(here).attrs["films"] == before.attrs["films"]
    assert arrays(here)["train"][0].any()


def test_two_processes_at_once_make_one_corpus_audit_and_split(tmp_path):
    code = (
        "from osteo_utils.course import open_course, split; from osteo_utils.data.splits import "
        "split_hash; import sys; print(split_hash(split(open_course('smoke', runs=sys.argv[1]))))"
    )
    line = [sys.executable, "-c", code, str(tmp_path / "runs")]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert sum("splitting now" in text for text in said) == 1
    assert sum("auditing now" in text for text in said) == 1
    course = open_course("smoke", runs=tmp_path / "runs")
    assert split_hash(split(course)) == said[0].splitlines()[-1]
    assert len(list_corpus(course.root)) == len(read_truth(course.root))
    assert list(tmp_path.rglob(".part-*")) == []


def test_the_build_sees_a_changed_folder_and_nothing_else(knees, tmp_path):
    output, film = tmp_path / "build" / "corpus.txt", next(knees.rglob("*.png"))
    states = []
    for change in (lambda: None, lambda: None, lambda: negative(film)):
        change()
        course = open_course("smoke", str(knees), runs=tmp_path / "runs")
        build.write_corpus(course, output)
        states.append((output.stat().st_mtime_ns, output.read_text()))
    assert states[0] == states[1]
    assert states[2][0] > states[1][0]
    assert states[2][1] != states[1][1]
    assert states[0][1].splitlines()[0] == str(knees)


@pytest.fixture
def quick(opened, tmp_path, monkeypatch):
    """The profile quick on the smoke corpus; how a network is built costs no time."""
    monkeypatch.setattr(training, "_network", lambda architecture, *_: (dict(NETWORK), 1_000))
    course = replace(opened, profile=get_profile("quick"), runs=tmp_path / "runs")
    course.folder.mkdir(parents=True)
    return course


def test_only_runs_of_the_network_settings_and_films_of_today_are_believed(quick, capsys):
    fitting_run(quick, "custom_cnn", 0)
    fitting_run(quick, "custom_cnn", 1, network=NETWORK | {"backbone": "of yesterday"})
    fitting_run(quick, "custom_cnn", 2, split_hash="0" * 64)
    fitting_run(quick, "custom_cnn", 7)  # none of the seeds of the profile
    fitting_run(quick, "vgg16", 0, films="0" * 64)
    found = fitting_runs(quick, ["custom_cnn", "vgg16", "alexnet"])
    seeds = {model: [run.info["seed"] for run in each] for model, each in found.items()}
    assert seeds == {"custom_cnn": [0], "vgg16": [], "alexnet": []}
    [run] = fitting_runs(quick, ["custom_cnn"], [7])["custom_cnn"]
    assert run.info["seed"] == 7
    assert list(comparison.finished(quick)) == ["custom_cnn"]
    assert "No finished run of AlexNet, VGG16, VGG19" in capsys.readouterr().out


def test_a_run_that_no_longer_fits_is_refused_where_training_it_again_is_dear(quick):
    course = replace(quick, profile=get_profile("full"))
    course.folder.mkdir(parents=True)
    fitting_run(course, "custom_cnn", 0, network=NETWORK | {"backbone": "of yesterday"})
    told = r"seed0: expected a training .*\(network\.backbone: expected"
    with pytest.raises(ValueError, match=told):
        comparison.finished(course)


def test_a_fusion_without_the_runs_it_started_from_counts_as_absent(quick):
    members = [fitting_run(quick, model) for model in ("vgg16", "inception_v3")]
    fitting_run(quick, "late_fusion")
    assert len(fitting_runs(quick, ["late_fusion"])["late_fusion"]) == 1
    shutil.rmtree(members[0].folder)
    assert fitting_runs(quick, ["late_fusion"]) == {"late_fusion": []}


def test_runs_that_nothing_but_circumstances_tells_apart_fit(quick):
    elsewhere = {"corpus": "knees-of-another-machine", "resamples": 17, "device": "gpu:0"}
    fitting_run(quick, "custom_cnn", 0, **elsewhere)
    assert len(fitting_runs(quick, ["custom_cnn"])["custom_cnn"]) == 1


def test_a_missing_run_is_replaced_by_an_announced_smoke_run(opened, capsys):
    run = plumbing.trained(replace(opened, profile=get_profile("quick")), "custom_cnn")
    assert "No finished run" in capsys.readouterr().out
    assert run.info["profile"] == "smoke"
    plumbing.trained(opened, "custom_cnn")
    assert "No finished run" not in capsys.readouterr().out


def test_a_training_says_beforehand_how_long_it_takes(tmp_path, monkeypatch):
    table = tmp_path / "seconds.csv"
    table.write_text(
        "model,seed,image_size,epochs_run,seconds\nvgg16,0,128,9,170\nvgg16,1,128,9,190\n"
    )
    monkeypatch.setattr(plumbing, "data_file", lambda name: table)
    quick, full = (recipe(get_profile(name), "vgg16") for name in ("quick", "full"))
    assert plumbing._before_training(quick, "vgg16") == (
        "VGG16 has no finished run yet and is trained now, for at most 30 epochs at 128 pixels. "
        "One core took 3 min for it in a build."
    )
    told = plumbing._before_training(full, "vgg16")
    assert told.endswith("All networks of the profile full take hours on a GPU.")
