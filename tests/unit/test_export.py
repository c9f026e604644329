"""The file for the browser: what it must agree with, and what it must refuse."""

import json
import shutil

import keras
import numpy as np
import onnx
import pandas as pd
import pytest
from onnxruntime import InferenceSession
from PIL import Image
from tiny_runs import make_run, rows_of

from osteo_utils import export
from osteo_utils.data.novelty import Novelty, fit_novelty
from osteo_utils.inference import open_member
from osteo_utils.networks.models import build
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import PROBABILITY_COLUMNS, model_digest, read_run, run_digest
from osteo_utils.saliency.gradcam import grad_cam
from osteo_utils.scoring.evaluate import wilson

SIZE = 32


@pytest.fixture(scope="module")
def films():
    """Films that look different to an untrained network: coarse patterns, not noise."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 8, 8, 1), dtype=np.uint8))


@pytest.fixture(scope="module")
def member(tmp_path_factory, films):
    """A network as it was built, its last layer enlarged so that answers differ."""
    model = build("custom_cnn", SIZE, seed=1)
    logits = model.get_layer("logits")
    logits.kernel.assign(40 * logits.kernel)
    rows = rows_of(np.arange(12) % 3, model.predict(films, verbose=0))
    score = {"balanced_accuracy": {"value": 0.5, "low": 0.25, "high": 0.75}}
    facts = {"metrics": {"test": score, "validation": score}, "parameters": model.count_params()}
    run = make_run(tmp_path_factory.mktemp("run"), seed=1, trained=model, rows=rows, **facts)
    fit_novelty(films, films).save(run.folder)
    return open_member(run)


@pytest.fixture(scope="module")
def run(member):
    return member.run


@pytest.fixture(scope="module")
def file(member, films, tmp_path_factory):
    return export.export_onnx(member, films, tmp_path_factory.mktemp("site"))


def answer(file, films):
    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(["probabilities", "features"], {"radiograph": films})


def test_export_answers_as_keras_does_on_films_that_differ(run, file, films):
    wanted = load_model(run).predict(films, verbose=0)
    found, _ = answer(file, films)
    assert np.ptp(wanted, axis=0).max() > 0.01
    assert np.abs(found - wanted).max() < export.TOLERANCE


def test_export_takes_one_film_and_many(file, films):
    many, maps = answer(file, films)
    assert maps.shape == (12, 2, 2, 256)
    one = np.concatenate([answer(file, film[None])[0] for film in films])
    assert np.allclose(one, many, atol=1e-5)


def test_maps_equal_grad_cam_of_the_logit(run, file, films):
    model = load_model(run)
    _, features = answer(file, films)
    maps = export.class_maps(features, model.get_layer("logits").kernel)
    for target in range(3):
        wanted = grad_cam(model, films, target=target, flat="nan")
        alive = np.isfinite(wanted).all(axis=(1, 2))
        assert alive.any()
        difference = np.abs(maps[..., target] - wanted)[alive].max()
        assert difference < 1e-3 * wanted[alive].max()
        assert (maps[~alive, :, :, target] == maps[~alive, :1, :1, target]).all()


def test_class_maps_of_a_case_by_hand():
    features = [[[[1.0, 2.0], [0.0, 4.0]]]]  # one film, 1 x 2 places, two channels
    kernel = [[2.0, -1.0, 0.0], [1.0, 0.0, -3.0]]
    # (2 + 2, 4) / 2; (-1, 0) and (-6, -12) are cut off
    assert export.class_maps(features, kernel).tolist() == [[[[2, 0, 0], [2, 0, 0]]]]


def test_file_says_which_network_it_is(run, file):
    facts = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    assert facts["class_names"] == ", ".join(CLASS_NAMES)
    assert facts["model"] == "custom_cnn"
    assert len(facts["sha256"]) == 64
    assert file.name.startswith("custom_cnn-")


def test_file_holds_no_augmentation_and_no_long_sum(file):
    nodes = onnx.load(file).graph.node
    assert not [node.op_type for node in nodes if "Random" in node.op_type]
    axes = [onnx.helper.get_attribute_value(n.attribute[0]) for n in nodes if "Mean" in n.op_type]
    assert axes
    assert {len(each) for each in axes} == {1}


def test_export_that_disagrees_is_refused_and_leaves_no_file(member, films, tmp_path, monkeypatch):
    honest = export._converted
    other = build("custom_cnn", SIZE, seed=2)
    fake = export.with_features(other)
    monkeypatch.setattr(export, "_converted", lambda network, run: honest(fake, run))
    with pytest.raises(export.ExportError, match=r"expected probabilities within 0\.0001"):
        export.export_onnx(member, films, tmp_path)
    assert not list(tmp_path.iterdir())


def test_answers_that_are_all_alike_prove_nothing(member, films, tmp_path):
    same = np.repeat(films[:1], 5, axis=0)
    with pytest.raises(export.AlikeError, match="agrees with anything"):
        export.export_onnx(member, same, tmp_path)


def test_not_a_number_is_a_disagreement():
    with pytest.raises(export.ExportError, match="within"):
        export._agree("probabilities", float("nan"), 1e-4, "here")


def test_network_without_one_dense_layer_behind_its_pooling_is_refused():
    inputs = keras.Input((SIZE, SIZE, 1))
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(inputs)
    hidden = keras.layers.Dense(5, name="hidden")(pooled)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden))
    with pytest.raises(export.ExportError, match="between 'pooled' and 'logits'"):
        export.with_features(model)
    flat = keras.layers.Dense(3)(keras.layers.Flatten()(inputs))
    with pytest.raises(export.ExportError, match="expected global average pooling"):
        export.with_features(keras.Model(inputs, flat))


def test_confidence_table_of_a_case_by_hand():
    top = np.r_[np.full(20, 0.5), np.full(20, 0.9)]
    label = np.r_[np.zeros(10, int), np.ones(10, int), np.zeros(20, int)]
    columns = [top, (1 - top) / 2, (1 - top) / 2]
    predictions = pd.DataFrame(dict(zip(PROBABILITY_COLUMNS, columns, strict=True)))
    table = export.confidence_table(predictions.assign(label=label))
    assert table["count"].tolist() == [20, 20]
    assert table["right"].tolist() == [10, 20]
    assert table["value"].tolist() == [0.5, 1.0]
    assert table.loc[1, ["from", "to"]].tolist() == list(wilson(20, 20))
    assert table.loc[1, "from"] < 0.9  # twenty right answers do not make one sure
    assert table["low"].iloc[0] == 0
    assert table["high"].iloc[-1] == 1


def test_few_films_make_one_bin_and_equal_confidences_no_empty_one():
    few = pd.DataFrame([(0.4, 0.3, 0.3)] * 5, columns=list(PROBABILITY_COLUMNS))
    table = export.confidence_table(few.assign(label=0))
    assert table[["low", "high", "count", "right"]].to_numpy().tolist() == [[0, 1, 5, 5]]
    many = pd.concat([few] * 20).assign(label=0)
    assert export.confidence_table(many)["count"].tolist() == [100]


def test_description_is_json_and_keeps_every_weight(member, run, file, films):
    facts = json.loads(json.dumps(export.describe(member, file)))
    model = load_model(run)
    kernel = np.array(facts["kernel"], dtype=np.float32)
    assert (kernel == np.asarray(model.get_layer("logits").kernel)).all()
    assert facts["bytes"] == file.stat().st_size
    assert facts["title"] == "Custom CNN"
    assert facts["balanced_accuracy"] == {"value": 0.5, "low": 0.25, "high": 0.75}
    assert facts["test_films"] == 12
    assert facts["run"]["record"] == run_digest(run.folder)
    assert facts["run"]["sha256"] == model_digest(run)
    kept = facts["novelty"]
    again = Novelty(np.array(kept["mean"]), np.array(kept["precision"]), kept["threshold"])
    assert np.array_equal(again.score(films), member.novelty.score(films))
    assert kept["false_alarms"] == member.novelty.false_alarms


def test_examples_are_phantoms_of_the_size_asked_for_and_the_same_each_time(tmp_path):
    first = export.write_examples(tmp_path / "a", 64, (0.4, -3.8))
    export.write_examples(tmp_path / "b", 64, (0.4, -3.8))
    assert [each["label"] for each in first] == ["Normal", "Osteoporosis"]
    pictures = [np.asarray(Image.open(tmp_path / "a" / each["file"])) for each in first]
    assert {picture.shape for picture in pictures} == {(64, 64)}
    assert not np.array_equal(*pictures)
    for each in first:
        name = each["file"]
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def parts_of(films):
    """The same films in every part, all of them Normal."""
    return dict.fromkeys(("train", "validation", "test"), (films, np.zeros(len(films), np.int64)))


def test_site_holds_all_that_its_index_names(run, films, tmp_path):
    parts = parts_of(films)
    index = json.loads(export.write_site([run], [parts], tmp_path / "site", 48).read_text("utf-8"))
    named = {each["file"] for each in [*index["models"], *index["examples"]]}
    assert {path.name for path in (tmp_path / "site").iterdir()} == {*named, "index.json"}
    assert index["class_names"] == list(CLASS_NAMES)
    assert np.shape(index["colours"]) == (256, 3)
    assert index["novelty_remark"]


def test_a_site_of_another_training_or_other_bytes_is_refused(run, films, tmp_path):
    parts = parts_of(films)
    site = export.write_site([run], [parts], tmp_path / "site", 48).parent
    export.check_site(site, [run])
    anew = shutil.copytree(run.folder, tmp_path / "anew")
    (anew / "novelty.json").unlink()
    with pytest.raises(export.ExportError, match=r"expected novelty\.json for the page"):
        export.write_site([read_run(anew)], [parts], tmp_path / "none", 48)
    build("custom_cnn", SIZE, seed=2).save(anew / "model.keras")
    with pytest.raises(export.ExportError, match=r"earlier training of custom_cnn\. Delete"):
        export.check_site(site, [read_run(anew)])
    with pytest.raises(export.ExportError, match="earlier training"):
        export.check_site(site, [])
    (file,) = site.glob("*.onnx")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(export.ExportError, match="found other bytes"):
        export.check_site(site, [run])


def test_site_leaves_out_a_network_that_answers_all_films_alike_and_names_it(run, films, tmp_path):
    parts = [parts_of(np.repeat(films[:1], 5, axis=0))]
    index = json.loads(export.write_site([run], parts, tmp_path, 48).read_text("utf-8"))
    assert index["models"] == []
    assert index["left_out"] == ["Custom CNN"]
    assert not list(tmp_path.glob("*.onnx"))
