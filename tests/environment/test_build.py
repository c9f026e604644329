"""The build trains again what no longer fits, what depends on it, and nothing else."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from snakemake.common.configfile import load_configfile

from osteo_utils.registry import ARCHITECTURES, get_profile, recipe
from osteo_utils.runs import run_digest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
import build

SOURCES = ("osteo_utils", "notebooks", "book", "data", "_config.yml", "_toc.yml", "Snakefile")
METHODS = {name: {"network": {"backbone": name}, "epochs": 2} for name in ("custom_cnn", "vgg16")}
METHODS["late_fusion"] = {"network": {"backbone": "both"}, "epochs": 1, "members": ["vgg16"]}
QUICK = get_profile("quick")
CHAPTERS = {
    path.stem: json.loads(path.read_text("utf-8"))["metadata"]["osteo"]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
}
SPLIT = {"split_hash": "a" * 64, "films": "b" * 64}


def write(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    """Finished runs that fit, in the two files that say so."""
    folder = tmp_path / "runs/quick"
    write(folder / "split.json", SPLIT)
    for model, seed in (("custom_cnn", 0), ("custom_cnn", 1), ("vgg16", 0)):
        write(folder / f"{model}/seed{seed}/run.json", METHODS[model] | SPLIT | {"seed": seed})
    members = {"seed": 0, "members": {"vgg16": run_digest(folder / "vgg16/seed0")}}
    write(folder / "late_fusion/seed0/run.json", METHODS["late_fusion"] | SPLIT | members)
    return folder


def stale(runs, expected=METHODS):
    finished = {file.parent for file in runs.glob("*/seed*/run.json")}
    wrong = finished - set(build.fitting_folders(runs, expected))
    return sorted(folder.relative_to(runs).as_posix() for folder in wrong)


def test_runs_that_fit_are_left_alone(runs):
    assert stale(runs) == []


def test_a_changed_network_makes_its_own_runs_stale(runs):
    changed = METHODS | {"custom_cnn": {"network": {"backbone": "another"}, "epochs": 2}}
    assert stale(runs, changed) == ["custom_cnn/seed0", "custom_cnn/seed1"]


def test_another_split_or_other_films_make_every_run_stale(runs):
    for change in ({"split_hash": "c" * 64}, {"films": "c" * 64}):
        write(runs / "split.json", SPLIT | change)
        assert len(stale(runs)) == 4
    (runs / "split.json").unlink()
    assert len(stale(runs)) == 4


def test_a_fusion_is_stale_when_a_member_was_trained_again_or_is_gone(runs):
    again = METHODS["vgg16"] | SPLIT | {"seed": 0, "finished": "later"}
    write(runs / "vgg16/seed0/run.json", again)
    assert stale(runs) == ["late_fusion/seed0"]
    (runs / "vgg16/seed0/run.json").unlink()
    assert stale(runs) == ["late_fusion/seed0"]


def test_a_seed_that_is_none_of_the_profile_is_not_shown(runs):
    write(runs / "vgg16/seed1/run.json", METHODS["vgg16"] | SPLIT | {"seed": 1})
    assert stale(runs) == ["vgg16/seed1"]


def test_what_decides_nothing_leaves_a_run_as_it_is(runs):
    circumstances = {"seed": 0, "corpus": "of another name", "resamples": 7, "device": "gpu:0"}
    write(runs / "custom_cnn/seed0/run.json", METHODS["custom_cnn"] | SPLIT | circumstances)
    assert stale(runs) == []


def test_a_damaged_record_fits_nothing(runs):
    (runs / "custom_cnn/seed1/run.json").write_text('{"model":')
    assert stale(runs) == ["custom_cnn/seed1"]


def test_networks_are_described_again_only_when_the_package_changed(tmp_path):
    module = tmp_path / "networks/models.py"
    module.parent.mkdir()
    module.write_text("filters = 16")
    first = build.sources_digest(tmp_path)
    os.utime(module, (0, 0))
    assert build.sources_digest(tmp_path) == first
    module.write_text("filters = 17")
    assert build.sources_digest(tmp_path) != first


@pytest.mark.parametrize("corpus", ["simulated", "/data/007", "/data/1e3", "/data/{x}: 'y' \"z\""])
def test_snakemake_takes_every_name_as_it_is(tmp_path, corpus):
    found = load_configfile(build.write_settings("smoke", corpus, tmp_path))
    assert found == {"profile": "smoke", "corpus": corpus, "name": build.corpus_name(corpus)}


def stamps(folder):
    return {file.name: file.stat().st_mtime_ns for file in (folder / "trained").glob("*.txt")}


def test_each_run_that_fits_has_its_stamp_which_stays_as_long_as_the_run(runs, tmp_path):
    folder = tmp_path / "build"
    write(folder / "corpus.txt", "films")
    fitting = build.fitting_folders(runs, METHODS)
    build.update_stamps(fitting, folder)
    first = stamps(folder)
    assert len(first) == 4
    build.update_stamps(fitting, folder)
    assert stamps(folder) == first
    again = {"seed": 0, "finished": "in a notebook"}
    write(runs / "vgg16/seed0/run.json", METHODS["vgg16"] | SPLIT | again)
    build.update_stamps(build.fitting_folders(runs, METHODS), folder)
    changed = {name for name in first if stamps(folder).get(name) != first[name]}
    assert changed == {"vgg16-seed0.txt", "late_fusion-seed0.txt"}
    assert "late_fusion-seed0.txt" not in stamps(folder)


def test_after_a_change_of_the_corpus_every_run_is_asked(runs, tmp_path):
    folder = tmp_path / "build"
    write(folder / "corpus.txt", "films")
    build.update_stamps(build.fitting_folders(runs, METHODS), folder)
    later = (folder / "corpus.txt").stat().st_mtime + 100
    os.utime(folder / "corpus.txt", (later, later))
    build.update_stamps(build.fitting_folders(runs, METHODS), folder)
    assert stamps(folder) == {}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A checkout in which the whole book has been built, as far as Snakemake can tell."""
    home = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        (home / name).symlink_to(ROOT / name)
    folder = home / "build/simulated/quick"
    chapters = {c: folder / f"notebooks/{c}.ipynb" for c in CHAPTERS}
    runs = [f"{m}-seed{seed}.txt" for m in ARCHITECTURES for seed in recipe(QUICK, m).seeds]
    steps = [
        [folder / "corpus.txt"],
        [file for chapter, file in chapters.items() if not CHAPTERS[chapter]["runs"]],
        [folder / "trained" / run for run in runs if "fusion" not in run],
        [folder / "trained/late_fusion-seed0.txt"],
        [file for chapter, file in chapters.items() if CHAPTERS[chapter]["runs"]],
        [folder / "models/.snakemake_timestamp", home / "build/vendor/.snakemake_timestamp"],
        [folder / "html/index.html"],
    ]
    now = time.time()
    for number, files in enumerate(steps):
        for file in files:
            write(file, {})
            os.utime(file, (now + number, now + number))
    return home


@pytest.fixture
def planned(built, monkeypatch):
    """The trainings and the chapters that the build would run now."""
    monkeypatch.setattr(build, "ROOT", built)

    def plan():
        settings = build.write_settings("quick", "simulated", built)
        missing = build.missing_stamps("quick", built / "build/simulated/quick")
        command = build.snakemake_command(settings, missing)
        at = command.index("--quiet")
        command[at : at + 2] = ["--dry-run"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        text = done.stdout + done.stderr
        trained = re.findall(r"^    wildcards: model=(\w+), seed=(\d)", text, re.M)
        chapters = re.findall(r"^    wildcards: chapter=(\w+)", text, re.M)
        rules = set(re.findall(r"^(?:local)?rule (\w+):", text, re.M))
        return sorted({f"{model}-seed{seed}" for model, seed in trained}), {*chapters}, rules

    return plan


@pytest.fixture
def trained(built):
    """The stamps of the runs, put back after the test."""
    folder = built / "build/simulated/quick/trained"
    kept = {file: file.stat().st_mtime for file in folder.iterdir()}
    yield folder
    for file, changed in kept.items():
        write(file, {})
        os.utime(file, (changed, changed))


def chapters_with(*models):
    """The chapters that read runs of one of these models."""
    return {
        c for c, each in CHAPTERS.items() if each["runs"] == "all" or {*models} & {*each["runs"]}
    }


def touch(file):
    """Make it newer than everything; its time until then comes back."""
    before = file.stat().st_mtime
    os.utime(file, (before + 100, before + 100))
    return before


def test_a_second_build_has_nothing_to_do(planned):
    assert planned() == ([], set(), set())


def test_a_changed_network_is_trained_with_its_chapters_and_nothing_else(planned, trained):
    for seed in (0, 1, 2):
        (trained / f"custom_cnn-seed{seed}.txt").unlink()
    models, chapters, rules = planned()
    assert models == ["custom_cnn-seed0", "custom_cnn-seed1", "custom_cnn-seed2"]
    assert chapters == chapters_with("custom_cnn")
    assert {"export", "html"} <= rules


def test_a_fusion_that_starts_from_a_changed_network_is_trained_again(planned, trained):
    (trained / "vgg16-seed0.txt").unlink()
    models, chapters, _ = planned()
    assert models == ["late_fusion-seed0", "vgg16-seed0"]
    assert chapters == chapters_with("vgg16", "late_fusion")


def test_a_changed_network_is_trained_while_every_chapter_is_executed_again(
    planned, trained, built
):
    (trained / "alexnet-seed0.txt").unlink()
    listing = built / "build/simulated/quick/corpus.txt"
    before = touch(listing)
    models, chapters, rules = planned()
    os.utime(listing, (before, before))
    assert models == ["alexnet-seed0"]
    assert chapters == set(CHAPTERS)
    assert {"export", "html"} <= rules


def test_after_the_runs_were_removed_all_of_them_are_trained_again(planned, trained, built):
    folder = built / "build/simulated/quick"
    build.update_stamps(build.fitting_folders(built / "runs/simulated/quick", METHODS), folder)
    models, chapters, rules = planned()
    every = {f"{m}-seed{seed}" for m in ARCHITECTURES for seed in recipe(QUICK, m).seeds}
    assert set(models) == every
    assert chapters == chapters_with(*ARCHITECTURES)
    assert {"export", "html"} <= rules


def test_a_chapter_executed_again_trains_nothing(planned, built):
    [writer] = [chapter for chapter, each in CHAPTERS.items() if "split" in each["writes"]]
    changed = built / f"build/simulated/quick/notebooks/{writer}.ipynb"
    before = touch(changed)
    models, chapters, _ = planned()
    os.utime(changed, (before, before))
    assert models == []
    assert {chapter for chapter, each in CHAPTERS.items() if "split" in each["reads"]} <= chapters
