"""The shipped reference study is whole, and its scores are those of its predictions."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from osteo_utils.data.splits import SplitError
from osteo_utils.networks.training import method_of
from osteo_utils.registry import ARCHITECTURES, STUDY, recipe
from osteo_utils.runs import RunError, differences, probabilities
from osteo_utils.scoring.evaluate import scores
from osteo_utils.study import beside_study, read_predictions, shipped_study

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
import study

SHIPPED = ROOT / "data/reference/study"
KEYS = ["model", "seed"]


@pytest.fixture(scope="module")
def predictions():
    return read_predictions(SHIPPED)


@pytest.fixture(scope="module")
def shipped_scores():
    return pd.read_csv(SHIPPED / "scores.csv")


@pytest.fixture(scope="module")
def records():
    return json.loads((SHIPPED / "runs.json").read_text(encoding="utf-8"))


def test_every_shipped_score_is_that_of_the_shipped_predictions(predictions, shipped_scores):
    found = shipped_scores.set_index([*KEYS, "part", "score"])["value"]
    runs = 0
    for key, rows in predictions.groupby([*KEYS, "part"]):
        for name, value in scores(rows["label"], probabilities(rows)).items():
            assert found[(*key, name)] == pytest.approx(value, abs=1e-6), (key, name)
        runs += 1
    assert runs * found.groupby([*KEYS, "part"]).size().iloc[0] == len(found)


def test_shipped_intervals_are_those_of_the_shipped_predictions(predictions, shipped_scores):
    ours = (predictions["model"] == "resnet50") & (predictions["seed"] == 1)
    theirs = (shipped_scores["model"] == "resnet50") & (shipped_scores["seed"] == 1)
    again = study.scores_of(predictions[ours], 1)
    shipped = shipped_scores.loc[theirs, again.columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, shipped, atol=1e-5)


def test_a_chapter_reads_the_shipped_runs_as_it_reads_its_own(records, predictions):
    runs = shipped_study()
    assert [(r.info["model"], r.info["seed"]) for each in runs.values() for r in each] == [
        (name, r["seed"]) for name in runs for r in records if r["model"] == name
    ]
    run = runs["resnet50"][1]
    mine = (predictions["model"] == "resnet50") & (predictions["seed"] == run.info["seed"])
    np.testing.assert_array_equal(probabilities(run.predictions), probabilities(predictions[mine]))
    rows = run.predictions.query("part == 'test'")
    found = scores(rows["label"], probabilities(rows))["balanced_accuracy"]
    told = run.metrics["test"]["balanced_accuracy"]
    assert told["value"] == pytest.approx(found, abs=1e-6)
    assert told["low"] < found < told["high"]
    assert len(run.history) == run.info["epochs_run"]


def test_the_runs_of_a_build_stand_above_those_of_the_study():
    shipped = shipped_study()["resnet50"]
    own = replace(shipped[0], info=shipped[0].info | {"seed": 7, "image_size": 96})
    table = beside_study([own])
    expected = ["here, seed 7", *(f"reference study, seed {k}" for k in (0, 1, 2))]
    assert table["training"].tolist() == expected
    assert table["pixels"].tolist() == [96, 128, 128, 128]
    assert table.iloc[:, -1].tolist()[:2] == ["0.91 (0.87 to 0.94)"] * 2
    assert len(beside_study([replace(own, info=own.info | {"model": "vgg16+custom_cnn"})])) == 1


def test_every_network_is_there_with_its_seeds(records):
    seeds = {record["model"]: [] for record in records}
    for record in records:
        seeds[record["model"]].append(record["seed"])
    assert len(seeds) == 10
    assert seeds.pop("late_fusion") == [0, 1]
    assert set(map(tuple, seeds.values())) == {STUDY.seeds}


@pytest.mark.parametrize("name", ARCHITECTURES)  # one that came later has none yet
def test_every_shipped_run_is_of_the_network_and_the_recipe_of_today(records, name):
    method = method_of(name, recipe(STUDY, name))
    assert method.pop("plateau") == {"warm_up_epochs": 5, "falls": 1, "to": 0.1}  # as then
    method.pop("members", None)
    for record in records:
        if record["model"] == name:
            assert differences(record, method) == ""


def test_every_training_ended_because_validation_stopped_improving(records):
    history = pd.read_csv(SHIPPED / "history.csv").groupby(KEYS)
    for record in records:
        rows = history.get_group((record["model"], record["seed"]))
        assert record["ended_by"] == "plateau"
        assert record["best_epoch"] < record["epochs_run"] == len(rows)
        assert record["best_epoch"] == rows["epoch"].iloc[rows["val_loss"].argmin()]


def test_all_saw_the_same_films_at_one_size_in_published_width(records, predictions):
    for key in ("split_hash", "films", "image_size", "width", "batch_size"):
        assert len({record[key] for record in records}) == 1, key
    assert {record["width"] for record in records} == {"published"}
    tables = [rows["film"].tolist() for _, rows in predictions.groupby(KEYS)]
    assert all(table == tables[0] for table in tables)


def test_every_interval_lies_above_chance(shipped_scores):
    rows = shipped_scores.query("part == 'test' and score == 'balanced_accuracy'")
    assert (rows["low"] > 1 / 3).all()


def test_maps_have_ten_regions_across_or_more_where_they_are_called_fine(records):
    with np.load(SHIPPED / "maps.npz") as maps:
        fine = {name: maps[name] for name in maps if name.endswith("/fine")}
    assert len(fine) == len(records) + sum(r["model"] == "late_fusion" for r in records)
    for name, values in fine.items():
        assert len(values) == 12, name
        assert min(values.shape[1:]) >= 10, name
        assert np.isfinite(values).all(), name
        assert (values.max(axis=(1, 2)) > 0).mean() > 0.5, name


def test_the_films_of_the_maps_are_shipped_with_them(records):
    with np.load(SHIPPED / "maps.npz") as maps:
        films, rows = maps["films"], maps["vgg16/seed0/rows"]
        assert all((maps[name] == rows).all() for name in maps if name.endswith("/rows"))
    assert films.shape == (12, records[0]["image_size"], records[0]["image_size"], 1)
    assert films.dtype == np.uint8
    table = pd.read_csv(SHIPPED / "films.csv").query("part == 'test'")
    assert table["label"].iloc[rows].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_the_study_ships_small():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 6e6


@pytest.fixture
def inputs(tmp_path):
    """Twelve films of noise in each part, packed."""
    rng = np.random.default_rng(0)
    rows = {"path": [f"{i}.png" for i in range(36)], "label": np.tile([0, 1, 2], 12)}
    rows |= {"group": [f"p{i}" for i in range(36)], "part": np.repeat(study.PARTS, 12)}
    rows |= {"sha256": [f"{i:064x}" for i in range(36)]}
    folder = tmp_path / "inputs"
    folder.mkdir()
    study.write_split(pd.DataFrame(rows), folder / "split.csv")
    films = {part: rng.integers(0, 255, (12, 32, 32, 1), np.uint8) for part in study.PARTS}
    digest = study.read_split(folder / "split.csv").attrs["films"]
    np.savez(folder / "films.npz", **films, films=np.array(digest))
    return folder


SMALL = replace(STUDY, image_size=32, epochs=1, batch_size=6, resamples=20, seeds=(0, 1))


def test_a_small_study_runs_from_packed_films_to_tables(inputs, tmp_path, capsys):
    study.train_one(inputs, tmp_path / "runs", "custom_cnn", [0], SMALL)
    study.collect(inputs, tmp_path / "runs", tmp_path / "out", SMALL)
    assert "Without custom_cnn, seed 1; alexnet, seed 0;" in capsys.readouterr().out
    names = sorted(file.name for file in SHIPPED.iterdir())
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    for name in ("films.csv", "predictions.csv", "scores.csv", "history.csv"):
        assert list(pd.read_csv(tmp_path / "out" / name)) == list(pd.read_csv(SHIPPED / name))
    with pytest.raises(RunError, match="epochs: expected 60, found 1"):
        study.collect(inputs, tmp_path / "runs", tmp_path / "out")
    with pytest.raises(RunError, match="expected trained networks of the study, found none"):
        study.collect(inputs, tmp_path / "nothing", tmp_path / "out", SMALL)


def test_films_of_another_split_are_refused(inputs):
    with np.load(inputs / "films.npz") as films:
        np.savez(inputs / "films.npz", **{**films, "films": np.array("others")})
    told = r"the films that were split, found others\. Pack them again"
    with pytest.raises(SplitError, match=told):
        study.read_inputs(inputs)


def test_a_fusion_waits_for_its_members_and_a_failed_one_is_named(tmp_path, monkeypatch):
    order = []

    def run(command, **kwargs):
        model = command[7]
        order.append(model)
        return subprocess.CompletedProcess(command, int(model == "vgg19"))

    monkeypatch.setattr(study.subprocess, "run", run)
    models = ["late_fusion", "vgg16", "vgg19", "inception_v3"]
    with pytest.raises(SystemExit, match=r"^vgg19: not finished"):
        study.train_side_by_side(tmp_path / "in", tmp_path / "runs", models, [0], 2)
    assert sorted(order) == sorted(models)
    assert order.index("late_fusion") > max(map(order.index, ["vgg16", "inception_v3"]))


def test_a_fusion_whose_member_failed_is_not_begun(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1)
    begun = []
    monkeypatch.setattr(
        study.subprocess, "run", lambda command, **_: begun.append(command[7]) or failed
    )
    models = ["vgg16", "late_fusion"]
    with pytest.raises(SystemExit, match="vgg16, late_fusion: not finished"):
        study.train_side_by_side(tmp_path / "in", tmp_path / "runs", models, [0], 1)
    assert begun == ["vgg16"]
