import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest

from osteo_utils.labels import CLASS_NAMES
from osteo_utils.runs import (
    RunError,
    find_runs,
    is_complete,
    probabilities,
    read_run,
    run_folder,
    write_run,
)


def contents():
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 6)
    predictions = pd.DataFrame(
        {
            "path": [f"OS Collected Data/Normal/Normal {i}.jpg" for i in range(6)],
            "group": ["007"] * 3 + ["008"] * 3,
            "part": ["validation", "test"] * 3,
            "label": [0, 1, 2] * 2,
            "p_normal": p[:, 0],
            "p_osteopenia": p[:, 1],
            "p_osteoporosis": p[:, 2],
        }
    )
    info = {
        "class_names": list(CLASS_NAMES),
        "model": "custom_cnn",
        "preprocessing": "0..1",
        "image_size": 8,
        "seed": 0,
        "split_hash": "a" * 64,
    }
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "val_loss": [1.1, 0.9]})
    metrics = {"test": {"accuracy": {"value": 0.5, "low": 0.2, "high": 0.8}}}
    return info, model, predictions, metrics, history


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = run_folder(tmp_path_factory.mktemp("runs"), "simulated", "smoke", "custom_cnn", 0)
    write_run(folder, *contents())
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the run that a test may damage."""
    return shutil.copytree(written, tmp_path / "seed0")


def test_what_is_written_is_read(folder):
    info, model, predictions, metrics, history = contents()
    run = read_run(folder, split_hash="a" * 64)
    assert run.info == info
    assert run.metrics == metrics
    pd.testing.assert_frame_equal(run.history, history)
    pd.testing.assert_frame_equal(run.predictions, predictions)
    np.testing.assert_allclose(probabilities(run.predictions).sum(axis=1), 1)
    assert run.model().output_shape == model.output_shape


def test_nothing_temporary_is_left(folder):
    names = {file.name for file in folder.iterdir()}
    wanted = {"model.keras", "history.csv", "predictions.csv", "metrics.json", "run.json"}
    assert names == wanted


def test_run_json_is_written_last(tmp_path):
    info, model, predictions, _, history = contents()
    with pytest.raises(TypeError):
        write_run(tmp_path, info, model, predictions, {"test": object()}, history)
    assert not is_complete(tmp_path)
    assert (tmp_path / "model.keras").exists()


def test_layout_and_finding_in_order(written):
    runs = written.parents[3]
    assert written.relative_to(runs).as_posix() == "simulated/smoke/custom_cnn/seed0"
    for seed in (10, 2):
        shutil.copytree(written, written.with_name(f"seed{seed}"))
    written.with_name("seed3").mkdir()  # begun, not finished
    found = find_runs(runs, "simulated", "smoke")
    assert [f.name for f in found] == ["seed0", "seed2", "seed10"]
    assert find_runs(runs, "kaggle", "smoke") == []


def damage_table(column, value):
    def change(folder):
        table = pd.read_csv(folder / "predictions.csv")
        table[column] = table[column].astype(object)
        table.loc[1, column] = value
        table.to_csv(folder / "predictions.csv", index=False)

    return change


def drop(column):
    def change(folder):
        table = pd.read_csv(folder / "predictions.csv").drop(columns=column)
        table.to_csv(folder / "predictions.csv", index=False)

    return change


def edit_info(**changes):
    def change(folder):
        info = json.loads((folder / "run.json").read_text())
        info = {k: v for k, v in (info | changes).items() if v is not None}
        (folder / "run.json").write_text(json.dumps(info))

    return change


def rewrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove("run.json"), r"run\.json.*train it first"),
        (rewrite("run.json", '{"model": '), r"run\.json: expected JSON"),
        (rewrite("run.json", "[]"), "JSON object"),
        (edit_info(seed=None), r"missing \['seed'\]"),
        (edit_info(class_names=list(CLASS_NAMES[::-1])), "class order"),
        (edit_info(split_hash="b" * 64), "on the split aaaaaaaaaaaa, found one on bbbbbbbbbbbb"),
        (remove("metrics.json"), r"metrics\.json: expected this file"),
        (remove("predictions.csv"), r"predictions\.csv: expected this file"),
        (rewrite("predictions.csv", ""), "expected a table"),
        (drop("p_normal"), r"missing \['p_normal'\]"),
        (damage_table("p_normal", 0.9999), "line 3.*sum to 1"),
        (damage_table("p_normal", np.nan), "line 3"),
        (damage_table("p_normal", np.inf), "line 3"),
        (damage_table("p_normal", "high"), "line 3"),
        (damage_table("label", 3), r"label 0\.\.2"),
    ],
)
def test_damage_is_named(folder, harm, message):
    harm(folder)
    with pytest.raises(RunError, match=message) as caught:
        read_run(folder, split_hash="a" * 64)
    assert str(folder) in str(caught.value)


def test_a_damaged_model_is_named(folder):
    (folder / "model.keras").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"model\.keras.*train again"):
        read_run(folder).model()
    (folder / "model.keras").unlink()
    with pytest.raises(RunError, match=r"model\.keras"):
        read_run(folder).model()
