import dataclasses
import hashlib
import json

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny_networks import register
from tiny_runs import make_run

from osteo_utils import runs
from osteo_utils.course import Course, split
from osteo_utils.data.splits import PARTS, split_hash, write_split
from osteo_utils.figures import plots, reports
from osteo_utils.networks import models
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import CLASS_NAMES, PROFILES
from osteo_utils.runs import RunError
from osteo_utils.scoring import evaluate

SCORES = ("precision", "recall", "f1")


def backbone(x, weights, width):
    return keras.layers.ReLU(name="last")(keras.layers.Conv2D(4, 3, strides=4)(x))


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    register(monkeypatch, backbone, last_conv="last")


@pytest.fixture
def page(monkeypatch):
    """What the functions put on the page: alt texts, sentences and tables."""
    shown = {"alt": [], "say": [], "tables": []}
    monkeypatch.setattr(plots, "show", lambda fig, alt: shown["alt"].append(alt))
    monkeypatch.setattr(plots, "say", shown["say"].append)
    monkeypatch.setattr(reports, "display", shown["tables"].append)
    return shown


@pytest.fixture
def course(tmp_path):
    """Eighteen films on disk, six in each part."""
    rng = np.random.default_rng(0)
    root = tmp_path / "corpus"
    labels = [0, 0, 1, 1, 2, 2] * 3
    for name in CLASS_NAMES:
        (root / name).mkdir(parents=True)
    made = {"settings": {}, "best_possible": {"balanced_accuracy": 0.9}}
    (root / "corpus.json").write_text(json.dumps(made))
    (root / "truth.csv").touch()
    paths = [f"{CLASS_NAMES[label]}/{i}.png" for i, label in enumerate(labels)]
    table = pd.DataFrame({"path": paths, "label": labels, "part": np.repeat(PARTS, 6)})
    table["group"] = [f"p{i:02d}" for i in range(18)]
    for path in table["path"]:
        Image.fromarray(rng.integers(0, 256, (32, 32), dtype=np.uint8)).save(root / path)
    digests = [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in table["path"]]
    profile = dataclasses.replace(PROFILES["smoke"], image_size=32)
    made = Course(profile, str(root), 0, tmp_path / "runs", root)
    made.folder.mkdir(parents=True)
    write_split(table.assign(sha256=digests), made.folder / "split.csv")
    return made


@pytest.fixture
def made(course):
    """A finished run; its six test films: four right, one wrong with 0.8, one wrong with 0.4."""

    def make(seed=0, hash_of=None, stages=(1, 1, 1), ended_by="plateau"):
        table = split(course)
        rows = table[table["part"] != "train"][["path", "group", "part", "label"]]
        p = np.tile(np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.7 + 0.1, (2, 1))
        p[-1], p[6] = (0.8, 0.1, 0.1), (0.3, 0.4, 0.3)
        rows = rows.assign(**dict(zip(runs.PROBABILITY_COLUMNS, p.T, strict=True)))
        score = {"value": 0.7 + 0.1 * seed, "low": 0.5, "high": 0.9}
        by_class = {f"{s}_{c}": score for s in SCORES for c in ("normal", "osteopenia")}
        by_class |= {f"{s}_osteoporosis": dict.fromkeys(score) for s in SCORES}
        metrics = {"test": {"balanced_accuracy": score, **by_class}}
        losses = {"loss": [1.0, 0.8, 0.6], "val_loss": [1.1, 0.9, 1.0]}
        history = pd.DataFrame({"epoch": [1, 2, 3], "stage": stages} | losses)
        history["val_accuracy"] = [0.3, 0.5, 0.4]
        facts = {"rows": rows, "metrics": metrics, "history": history}
        facts |= {"split_hash": hash_of or split_hash(table), "preprocessing": "0..1"}
        facts |= {"parameters": 55, "epochs_run": 3, "best_epoch": 2, "seconds": 1.5}
        facts |= {"precision": "float32", "device": "cpu", "ended_by": ended_by}
        network, folder = models.build("tiny", 32, seed=1), course.runs / f"seed{seed}"
        return make_run(folder, "tiny", 32, seed, folder=folder, trained=network, **facts)

    return make


def test_classification_table_has_scores_intervals_and_numbers_of_films(made):
    table = reports.classification_table(made())
    assert list(table.columns) == ["class", "precision", "recall", "F1", "films"]
    assert table["class"].tolist() == ["Normal", "Osteopenia", "Osteoporosis"]
    assert table["films"].tolist() == [2, 2, 2]
    for score in ("precision", "recall", "F1"):
        assert table[score].tolist() == ["0.70 (0.50 to 0.90)"] * 2 + ["not measurable"]


def test_scores_are_written_with_their_interval():
    assert evaluate.with_interval({"value": 0.8, "low": 0.7, "high": 0.9}) == "0.80 (0.70 to 0.90)"
    unknown = {"value": 0.8, "low": None, "high": None}
    assert evaluate.with_interval(unknown).endswith("(no interval)")
    assert evaluate.with_interval(dict.fromkeys(("value", "low", "high"))) == "not measurable"


def test_a_calibration_error_stands_beside_what_a_calibrated_model_has():
    error, calibrated = {"value": 0.0551, "low": None}, {"value": 0.05, "low": 0.03, "high": 0.08}
    told = "0.06 (if calibrated: 0.03 to 0.08)"
    assert evaluate.beside_calibrated(error, calibrated) == told


def test_examples_are_the_surest_and_the_least_sure(made):
    chosen = reports.choose_examples(made(), count=1)
    assert chosen["kind"].tolist() == ["right", "wrong", "unsure"]
    assert chosen.loc[5, "kind"] == "wrong"  # the wrong one with 0.8
    assert chosen.loc[0, "kind"] == "unsure"  # the other wrong one, with 0.4
    everything = reports.choose_examples(made(), count=4)
    assert sorted(everything.index) == list(range(6))  # none twice


def test_show_training_tells_what_the_runs_say(made, course, page, monkeypatch):
    both = [made(0), made(1)]
    monkeypatch.setattr(reports, "train_seeds", lambda *args: both)
    assert reports.show_training(course, "tiny") == both
    assert len(page["tables"]) == 2
    assert page["tables"][0].data["seed"].tolist() == [0, 1]
    recalls = ["0.70 (0.50 to 0.90)"] * 2 + ["not measurable"]
    assert page["tables"][1].data["recall"].tolist() == recalls
    (verdict,) = page["say"]
    assert "mean of 2 seeds: **0.75**, 0.10 from the worst seed to the best" in verdict
    assert "Chance is 0.33 and the model is 0.42 above it" in verdict
    assert "the best possible score is 0.90 and the model is 0.15 below it" in verdict
    assert len(set(page["alt"])) == 2
    assert "seed 1 kept epoch 2 of 3, training loss 0.80, validation loss 0.90" in page["alt"][0]


def test_a_training_that_its_epochs_ended_is_named_on_the_page(made, course, page, monkeypatch):
    cut = made(1, ended_by="epochs")
    assert reports.ended_by_budget([made(0)]) == ""
    told = reports.ended_by_budget([made(0), cut])
    assert told.startswith("**Ended by the budget: Tiny, seed 1 (kept epoch 2 of 3).**")
    monkeypatch.setattr(reports, "train_seeds", lambda *args: [cut])
    reports.show_training(course, "tiny")
    assert reports.ended_by_budget([cut]) in page["say"]


def test_curves_say_where_fine_tuning_began(made):
    assert "Fine-tuning" not in reports.seed_curves([made()])[1]
    fig, alt = reports.seed_curves([made(stages=(1, 1, 2))])
    assert "Fine-tuning began with epoch 3" in alt
    assert {float(ax.lines[-1].get_xdata()[0]) for ax in fig.axes} == {2.5}


def test_show_examples_draws_films_and_maps(made, course, page):
    chosen = reports.show_examples(course, made(), count=2)
    assert chosen["kind"].value_counts().to_dict() == {"right": 2, "wrong": 2, "unsure": 2}
    assert "predicts 4 of 6 test films correctly" in page["say"][0]
    assert "2 right, 2 wrong, 2 unsure" in page["alt"][0]
    flat = chosen["peak"].isna().sum()
    assert ("flat" in page["say"][0]) == (flat > 0)


def test_flat_maps_are_counted_and_not_drawn(made, course, page, monkeypatch):
    run = made()
    silent = load_model(run)
    silent.get_layer("logits").set_weights([np.zeros((4, 3)), np.zeros(3)])
    monkeypatch.setattr(reports, "load_model", lambda run: silent)
    chosen = reports.show_examples(course, run, count=1)
    assert chosen["peak"].isna().all()
    assert "For 3 of the 3 films the map is flat" in page["say"][0]
    assert "none of them has a map" in page["alt"][0]
    with pytest.raises(ValueError, match="nowhere"):
        reports.maps_or_none(silent, np.zeros((1, 32, 32, 1), np.uint8), [0], "nowhere")


def test_a_run_on_another_split_is_refused(made, course):
    with pytest.raises(RunError, match="profile 'smoke'"):
        reports.show_examples(course, made(hash_of="0" * 64))


def test_show_cost_returns_the_numbers(page):
    model = models.build("tiny", 32)
    table = reports.show_cost({"Tiny": model}, batch_size=2)
    assert table.loc["Tiny", "parameters"] == model.count_params()
    assert page["tables"][0].loc["Tiny", "parameters"] == "55"


# ---------------------------------------------------------------------------------------------
# Maps of several models


def three_columns():
    """Maps of 1 x 2 regions of two films: A has a flat one, B none, C has nothing else."""
    flat = [[np.nan, np.nan]]
    maps = {"A": [[[1, 3]], flat], "B": [[[0, 8]], [[2, 4]]], "C": [flat, flat]}
    return [reports.MapColumn(t, np.array(m, float), ["Normal", ""]) for t, m in maps.items()]


def drawn(fig):
    """What lies over the films, row by row: values in shares of the scale, or the words."""

    def seen(ax):
        if not ax.images:
            return ax.texts[-1].get_text()
        return ax.images[1].norm(ax.images[1].get_array()).round(3).tolist()[0]

    panels = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    return [[seen(ax) for ax in row] for row in (panels[1:4], panels[5:])]


def test_map_table_scales_each_column_by_its_own_largest_value():
    fig = reports.map_table(np.zeros((2, 8, 8), np.uint8), three_columns(), ["right", "wrong"])
    flat = "flat map"
    assert drawn(fig) == [[[0.333, 1.0], [0.0, 1.0], flat], [flat, [0.25, 0.5], flat]]
    titles = [ax.get_title() for ax in fig.axes[1:4]]
    assert titles == ["A\n0 to 3\nNormal", "B\n0 to 8\nNormal", "C\nall flat\nNormal"]


def test_map_table_with_a_unit_has_one_scale_for_all():
    films = np.zeros((2, 8, 8), np.uint8)
    fig = reports.map_table(films, three_columns(), ["right", "wrong"], "shares")
    assert drawn(fig)[0] == [[0.125, 0.375], [0.0, 1.0], "flat map"]
    assert fig.axes[1].get_title() == "A\nNormal"
    assert fig.axes[-1].get_ylabel() == "shares"
    assert fig.axes[-1].get_ylim() == (0, 8)


def test_map_table_of_flat_maps_alone_has_no_scale():
    fig = reports.map_table(np.zeros((2, 8, 8), np.uint8), three_columns()[2:], ["a", "b"])
    assert len(fig.axes) == 4
