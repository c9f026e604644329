import json
import shutil

import keras
import numpy as np
import pandas as pd
import pytest

from osteo_utils import runs
from osteo_utils.fingerprint import network_digests
from osteo_utils.networks.models import build
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import RunError, is_complete, probabilities, read_run, write_run


def network(shape, last):
    """From uint8 films of a shape to what the last layer makes of them."""
    films = keras.Input(shape, dtype="uint8")
    return keras.Model(films, last(keras.layers.Flatten()(films)))


def contents():
    paths = [f"OS Collected Data/Normal/Normal {i}.jpg" for i in range(6)]
    predictions = pd.DataFrame({"path": paths, "group": ["007"] * 3 + ["008"] * 3})
    predictions = predictions.assign(part=["validation", "test"] * 3, label=[0, 1, 2] * 2)
    p = np.random.default_rng(0).dirichlet([1, 1, 1], 6)
    predictions[["p_normal", "p_osteopenia", "p_osteoporosis"]] = p
    info = {"class_names": list(CLASS_NAMES), "model": "custom_cnn", "preprocessing": "0..1"}
    info |= {"image_size": 8, "seed": 0, "split_hash": "a" * 64}
    model = network((8, 8, 1), keras.layers.Dense(3, activation="softmax"))
    history = pd.DataFrame({"epoch": [1, 2], "loss": [1.0, 0.5], "val_loss": [1.1, 0.9]})
    metrics = {"test": {"accuracy": {"value": 0.5, "low": 0.2, "high": 0.8}}}
    return info, model, predictions, metrics, history


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = runs.run_folder(tmp_path_factory.mktemp("runs"), "simulated", "smoke", "custom_cnn", 0)
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
    assert load_model(run).output_shape == model.output_shape


def test_nothing_temporary_is_left(folder):
    names = {file.name for file in folder.iterdir()}
    wanted = {"model.keras", "history.csv", "predictions.csv", "metrics.json", "run.json"}
    assert names == wanted


@pytest.mark.parametrize("trained_before", [False, True])
def test_run_json_is_written_last_and_no_folder_is_a_mixture(tmp_path, folder, trained_before):
    info, model, predictions, _, history = contents()
    place = folder if trained_before else tmp_path / "new"
    with pytest.raises(TypeError):
        write_run(place, info, model, predictions, {"test": object()}, history)
    assert not is_complete(place)
    assert (place / "model.keras").exists()


def test_each_run_has_a_folder_of_its_own(written):
    runs = written.parents[3]
    assert written.relative_to(runs).as_posix() == "simulated/smoke/custom_cnn/seed0"


def edit_table(edit):
    def change(folder):
        table = edit(pd.read_csv(folder / "predictions.csv"))
        table.to_csv(folder / "predictions.csv", index=False)

    return change


def damage_table(column, value):
    return edit_table(lambda t: t.assign(**{column: [t[column][0], value, *t[column][2:]]}))


def set_info(*lacking, **changes):
    def change(folder):
        info = json.loads((folder / "run.json").read_text()) | changes
        info = {key: value for key, value in info.items() if key not in lacking}
        (folder / "run.json").write_text(json.dumps(info))

    return change


def rewrite(name, text):
    return lambda folder: (folder / name).write_text(text)


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove("run.json"), r"run\.json.*Train it first"),
        (rewrite("run.json", '{"model": '), r"run\.json: expected JSON"),
        (rewrite("run.json", "[]"), "JSON object"),
        (set_info("seed"), "expected seed to be of type int, found no such key"),
        (set_info(class_names=list(CLASS_NAMES[::-1])), "class order"),
        (set_info(split_hash="b" * 64), "on the split aaaaaaaaaaaa, found one on bbbbbbbbbbbb"),
        (set_info(seed=None), "expected seed to be of type int, found None"),
        (set_info(seed="abc"), "expected seed to be of type int, found 'abc'"),
        (set_info(image_size=True), "expected image_size to be of type int, found True"),
        (set_info(class_names=None), "expected class_names to be of type list, found None"),
        (set_info(model=["vgg16"]), "expected model to be of type str"),
        (
            rewrite("metrics.json", '{"validation": []}'),
            r"metrics\.json: expected .* for the valid.*\[\]",
        ),
        (rewrite("metrics.json", '{"test": null}'), r"metrics\.json.*found None"),
        (rewrite("metrics.json", '{"test": {"accuracy": null}}'), r"metrics\.json.*accuracy"),
        (rewrite("metrics.json", '{"test": {"accuracy": {"value": "1"}}}'), r"metrics\.json"),
        (remove("metrics.json"), r"metrics\.json: expected this file"),
        (remove("predictions.csv"), r"predictions\.csv: expected this file"),
        (rewrite("predictions.csv", ""), "expected a table"),
        (edit_table(lambda t: t.drop(columns="p_normal")), "found none named p_normal"),
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
    data = (folder / "model.keras").read_bytes()
    (folder / "model.keras").write_bytes(data[: len(data) // 2])
    with pytest.raises(RunError, match=r"model\.keras.*Train again"):
        load_model(read_run(folder))
    (folder / "model.keras").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"model\.keras.*Train again"):
        load_model(read_run(folder))
    (folder / "model.keras").unlink()
    with pytest.raises(RunError, match=r"model\.keras"):
        load_model(read_run(folder))


def test_a_score_that_could_not_be_measured_is_no_damage(folder):
    score = {"value": None, "low": None, "high": None}
    (folder / "metrics.json").write_text(json.dumps({"test": {"auc": score}}))
    assert read_run(folder).metrics["test"]["auc"] == score


def test_groups_are_names_whatever_they_look_like(tmp_path):
    info, model, predictions, metrics, history = contents()
    groups = ["NA", "null", "007", "nan", "1e3", "None"]
    write_run(tmp_path, info, model, predictions.assign(group=groups), metrics, history)
    assert read_run(tmp_path).predictions["group"].tolist() == groups


def test_a_network_that_was_read_with_a_list_of_one_input_takes_films_as_they_are(
    tmp_path, recwarn
):
    info, model, predictions, metrics, history = contents()
    listed = keras.Model([model.input], model.output)
    write_run(tmp_path, info, listed, predictions, metrics, history)
    films = np.zeros((2, 8, 8, 1), np.uint8)
    assert load_model(read_run(tmp_path))(films, training=False).shape == (2, 3)
    assert [str(each.message) for each in recwarn if "structure" in str(each.message)] == []


def two_answers():
    films = keras.Input((8, 8, 1), dtype="uint8")
    vector = keras.layers.Flatten()(films)
    return keras.Model(films, [keras.layers.Dense(3, "softmax")(vector) for _ in range(2)])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: network((8, 8, 3), keras.layers.Dense(3, activation="softmax")), "8 x 8 x 1 in"),
        (lambda: network((9, 9, 1), keras.layers.Dense(3, activation="softmax")), "8 x 8 x 1 in"),
        (lambda: network((8, 8, 1), keras.layers.Dense(5, activation="softmax")), "3 probabil"),
        (two_answers, "3 probabilities out"),
        (lambda: network((8, 8, 1), keras.layers.Dense(3)), r"probabilities that sum to 1"),
    ],
    ids=["channels", "size", "classes", "outputs", "logits"],
)
def test_a_network_for_other_films_or_answers_is_named(tmp_path, model, told):
    info, _, predictions, metrics, history = contents()
    write_run(tmp_path, info, model(), predictions, metrics, history)
    wanted = rf"model\.keras: expected .*{told}.*train again.*open only runs that you trained"
    with pytest.raises(RunError, match=wanted) as caught:
        load_model(read_run(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_network_of_the_registry_is_built_by_name_and_only_its_numbers_are_read(
    tmp_path, monkeypatch, capsys
):
    info, _, predictions, metrics, history = contents()
    model = build("custom_cnn", 32, seed=1)
    info |= {"image_size": 32, "weights": None, "network": network_digests(model)}
    write_run(tmp_path, info, model, predictions, metrics, history)
    monkeypatch.setattr(keras.models, "load_model", None)  # would fail if layers were read
    loaded = load_model(read_run(tmp_path))
    films = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 1), np.uint8)
    answers = [each.predict_on_batch(films) for each in (loaded, model)]
    np.testing.assert_allclose(*answers, atol=1e-6)
    assert capsys.readouterr().err == ""


def test_a_network_that_the_registry_builds_otherwise_by_now_is_read_from_its_file(
    tmp_path, capsys
):
    info, _, predictions, metrics, history = contents()
    model = build("custom_cnn", 32, seed=1)
    info |= {"image_size": 32, "network": network_digests(model) | {"head": "of old"}}
    write_run(tmp_path, info, model, predictions, metrics, history)
    assert load_model(read_run(tmp_path)).count_params() == model.count_params()
    assert "No network of this course as it is now" in capsys.readouterr().err


def test_versions_are_those_of_the_packages_that_are_there():
    found = runs.installed_versions(["keras", "no-such-package"])
    assert found == {"keras": keras.__version__}
