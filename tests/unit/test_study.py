"""The shipped reference study is whole, and its scores are those of its predictions."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from osteo_utils.evaluate import scores
from osteo_utils.models import ARCHITECTURES
from osteo_utils.profiles import get_profile, recipe
from osteo_utils.runs import probabilities

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "book"))
import study

SHIPPED = ROOT / "data/reference/study"
KEYS = ["model", "seed"]


@pytest.fixture(scope="module")
def predictions():
    return study.read_predictions(SHIPPED)


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
    pd.testing.assert_frame_equal(
        again, shipped_scores[theirs][again.columns].reset_index(drop=True), atol=1e-5
    )


def test_every_network_is_there_with_its_seeds(records):
    seeds = {name: [] for name in ARCHITECTURES}
    for record in records:
        seeds[record["model"]].append(record["seed"])
    assert seeds.pop("late_fusion") == [0, 1]
    assert set(map(tuple, seeds.values())) == {get_profile("study").seeds}


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
    rows = shipped_scores[
        (shipped_scores["part"] == "test") & (shipped_scores["score"] == "balanced_accuracy")
    ]
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


def test_the_study_ships_small():
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 6e6


def test_a_small_study_runs_from_packed_films_to_tables(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 12)
    parts = np.repeat(["train", "validation", "test"], 12)
    rows = {
        "path": [f"{i}.png" for i in range(36)],
        "label": labels,
        "group": [f"p{i}" for i in range(36)],
        "part": parts,
        "sha256": [f"{i:064x}" for i in range(36)],
    }
    (tmp_path / "in").mkdir()
    study.write_split(pd.DataFrame(rows), tmp_path / "in/split.csv")
    films = {part: rng.integers(0, 255, (12, 32, 32, 1), np.uint8) for part in study.PARTS}
    np.savez(tmp_path / "in/films.npz", **films)
    small = {"image_size": 32, "epochs": 1, "batch_size": 6, "resamples": 20}
    monkeypatch.setenv("OSTEO_STUDY", json.dumps(small))
    study.train_one(tmp_path / "in", tmp_path / "runs", "custom_cnn", [0])
    study.collect(tmp_path / "runs", tmp_path / "out")
    names = sorted(file.name for file in SHIPPED.iterdir())
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    for name in ("films.csv", "predictions.csv", "scores.csv", "history.csv"):
        assert list(pd.read_csv(tmp_path / "out" / name)) == list(pd.read_csv(SHIPPED / name))
    assert recipe(get_profile("study"), "custom_cnn").epochs == 60


def test_a_fusion_waits_for_its_members_and_a_failed_one_is_named(tmp_path, monkeypatch):
    order = []

    def run(command, **kwargs):
        model = command[command.index("--models") + 1]
        order.append(model)
        return subprocess.CompletedProcess(command, int(model == "vgg19"))

    monkeypatch.setattr(study.subprocess, "run", run)
    models = ["late_fusion", "vgg16", "vgg19", "inception_v3"]
    with pytest.raises(SystemExit, match=r"^vgg19: not finished"):
        study.train_side_by_side(tmp_path / "in", tmp_path / "runs", models, [0], 2)
    assert sorted(order[:3]) == ["inception_v3", "vgg16", "vgg19"]
    assert order[3:] == ["late_fusion"]


def test_a_fusion_whose_member_failed_is_not_begun(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1)
    begun = []
    monkeypatch.setattr(
        study.subprocess, "run", lambda command, **_: begun.append(command[6]) or failed
    )
    with pytest.raises(SystemExit, match="vgg16, late_fusion: not finished"):
        study.train_side_by_side(
            tmp_path / "in", tmp_path / "runs", ["vgg16", "late_fusion"], [0], 1
        )
    assert begun == ["vgg16"]
