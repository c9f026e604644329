import dataclasses
import hashlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest
from tiny_networks import register

from osteo_utils import hardware, registry, runs
from osteo_utils.data.splits import PARTS, split_hash
from osteo_utils.errors import ImageError
from osteo_utils.networks import training
from osteo_utils.networks.cost import multiply_adds
from osteo_utils.networks.models import build
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import PROFILES
from osteo_utils.runs import RunError, read_run

SMALL = dataclasses.replace(
    PROFILES["smoke"], image_size=32, epochs=4, batch_size=8, resamples=20, precision="float32"
)


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    """Two convolutions, so that a whole training takes a second."""

    def backbone(x, weights, width):
        x = keras.layers.Conv2D(8, 3, strides=2)(x)
        return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))

    register(monkeypatch, backbone)


def wider(x, weights, width):
    """The tiny architecture as a reader may change it: one filter more."""
    x = keras.layers.Conv2D(9, 3, strides=2)(x)
    return keras.layers.ReLU()(keras.layers.BatchNormalization()(x))


@pytest.fixture(scope="module")
def data():
    """Stripes: coarse ones are Normal, finer ones Osteopenia, finest Osteoporosis."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 20)
    part = np.repeat(PARTS, [36, 12, 12])
    frequency = np.array([0.3, 1.0, 2.0])[labels, None]
    wave = np.sin(np.arange(32) * frequency + rng.normal(size=(60, 1)))
    images = 120 + 60 * wave[:, None, :] + rng.normal(0, 10, (60, 32, 32))
    images = images.clip(0, 255).astype(np.uint8)[..., None]
    split = pd.DataFrame({"path": [f"Normal {i}.png" for i in range(60)], "label": labels})
    split = split.assign(group=[f"{i // 3:02d}" for i in range(60)], part=part)
    split["sha256"] = [f"{i:064d}" for i in range(60)]
    return {p: (images[part == p], labels[part == p]) for p in PARTS}, split


class Killed(Exception):  # noqa: N818
    pass


class KillAt(keras.callbacks.Callback):
    """Die at the end of an epoch (counted from 1), or just before it."""

    def __init__(self, epoch, hook):
        super().__init__()
        self.epoch, self.hook = epoch, hook

    def on_train_batch_end(self, batch, logs=None):
        if self.hook == "batch" and self.model.optimizer.iterations >= 4 * (self.epoch - 1) + 2:
            raise Killed

    def on_epoch_end(self, epoch, logs=None):
        if self.hook == "epoch" and epoch + 1 == self.epoch:
            raise Killed


def train(data, folder, seed=0, profile=SMALL, name="tiny", **kwargs):
    parts, split = data
    return training.train(name, parts, split, profile, seed, folder, **kwargs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Where finished runs lie: a second training of one returns it as it is."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def whole(data, finished):
    """A finished run, made once."""
    return train(data, finished / "seed0")


def assert_same_history(found, expected, *more, rtol=1e-4):
    shown = ["epoch", "loss", "val_loss", "learning_rate", *more]
    pd.testing.assert_frame_equal(found.history[shown], expected.history[shown], rtol=rtol)


def assert_same_answers(found, expected):
    p, q = (runs.probabilities(run.predictions) for run in (found, expected))
    np.testing.assert_allclose(p, q, atol=1e-4)


def report_losses(monkeypatch, losses):
    """Let the validation find these losses, one an epoch."""
    original = training._Keeper.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        original(self, epoch, logs | {"val_loss": losses[epoch]})

    monkeypatch.setattr(training._Keeper, "on_epoch_end", on_epoch_end)


def test_run_folder_is_whole_and_says_what_it_is(data, whole):
    _, split = data
    run = read_run(whole.folder, split_hash(split))
    assert len(run.history) == SMALL.epochs
    assert run.history["epoch"].tolist() == [1, 2, 3, 4]
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"} <= set(run.history)
    assert run.info["best_epoch"] == run.history["val_loss"].argmin() + 1
    assert (run.info["epochs_run"], run.info["ended_by"]) == (4, "epochs")
    assert run.info["multiply_adds"] == multiply_adds(load_model(run))
    assert run.info["maps"] == {"tiny": "conv2d"}  # what its entry of the registry names
    assert run.info["precision"] == "float32"
    assert run.info["parameters"] == load_model(run).count_params()
    assert run.info["seconds"] > 0
    assert {"keras", "numpy", "backend"} <= set(run.info["versions"])
    assert not (whole.folder / "progress").exists()


def test_predictions_are_those_of_the_best_epoch(data, whole):
    parts, split = data
    rows = split[split["part"] != "train"]
    assert whole.predictions["path"].tolist() == rows["path"].tolist()
    assert set(whole.predictions["part"]) == {"validation", "test"}
    images = np.concatenate([parts["validation"][0], parts["test"][0]])
    again = load_model(whole).predict(images, verbose=0)
    np.testing.assert_allclose(runs.probabilities(whole.predictions), again, atol=1e-5)
    y, p = whole.predictions["label"], runs.probabilities(whole.predictions)
    chosen = whole.predictions["part"] == "validation"
    loss = -np.log(p[np.arange(len(y)), y])[chosen].mean()
    assert loss == pytest.approx(whole.history["val_loss"].min(), rel=1e-3)


def test_metrics_have_intervals_for_both_parts(whole):
    assert set(whole.metrics) == {"validation", "test"}
    accuracy = whole.metrics["test"]["accuracy"]
    rows = whole.predictions.query("part == 'test'")
    right = runs.probabilities(rows).argmax(axis=1) == rows["label"]
    assert accuracy["value"] == pytest.approx(right.mean(), abs=1e-6)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_learning_rate_warms_up_and_decays(whole):
    rates = whole.history["learning_rate"]
    assert rates.max() < 1e-2
    assert rates.iloc[-1] < 1e-4


def test_a_finished_run_is_returned_untouched(data, whole, monkeypatch):
    monkeypatch.setattr(training, "build", None)  # would fail if anything were trained
    before = (whole.folder / "run.json").stat().st_mtime_ns
    again = train(data, whole.folder)
    assert again.info == whole.info
    assert (whole.folder / "run.json").stat().st_mtime_ns == before


def test_it_learns(data, tmp_path):
    run = train(data, tmp_path / "run", profile=dataclasses.replace(SMALL, epochs=12))
    assert run.history["loss"].iloc[-1] < 0.9 * run.history["loss"].iloc[0]


@pytest.mark.parametrize(
    ("epoch", "hook"), [(1, "batch"), (3, "batch"), (2, "epoch"), (4, "epoch")]
)
def test_a_killed_training_ends_as_an_unkilled_one(data, whole, tmp_path, epoch, hook):
    with pytest.raises(Killed):
        train(data, tmp_path / "run", callbacks=[KillAt(epoch, hook)])
    assert not runs.is_complete(tmp_path / "run")
    resumed = train(data, tmp_path / "run")
    assert_same_history(resumed, whole, "accuracy", "val_accuracy")
    assert_same_answers(resumed, whole)


def test_best_epoch_before_the_kill_survives_it(data, tmp_path, monkeypatch):
    report_losses(monkeypatch, [0.9, 0.3, 0.8, 0.7])
    with pytest.raises(Killed):
        train(data, tmp_path / "run", callbacks=[KillAt(3, "epoch")])
    progress = tmp_path / "run" / "progress"
    kept = sorted(f.name for f in progress.glob("*.weights.h5"))
    assert kept == ["epoch002.weights.h5", "epoch003.weights.h5"]
    best = build("tiny", 32)
    best.load_weights(progress / "epoch002.weights.h5")
    run = train(data, tmp_path / "run")
    assert run.info["best_epoch"] == 2
    for found, expected in zip(load_model(run).get_weights(), best.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_killed_after_the_last_epoch_trains_no_more(data, whole, tmp_path, monkeypatch):
    def die(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_run", die)
        with pytest.raises(Killed):
            train(data, tmp_path / "run")
    assert len(train(data, tmp_path / "run").history) == 4


def test_seed_matters_and_fixes(data, whole, tmp_path):
    same, other = (train(data, tmp_path / str(s), seed=s) for s in (0, 1))
    np.testing.assert_allclose(same.history["loss"], whole.history["loss"], rtol=1e-4)
    assert not np.allclose(other.history["loss"], whole.history["loss"], rtol=1e-3)


def test_other_data_or_settings_are_refused(data, whole, tmp_path):
    parts, split = data
    regrouped = split.assign(group="x" + split["group"])
    with pytest.raises(RunError, match=r"split_hash.*Delete that folder"):
        training.train("tiny", parts, regrouped, SMALL, 0, whole.folder)
    longer = dataclasses.replace(SMALL, epochs=5)
    with pytest.raises(RunError, match="epochs: expected 5, found 4"):
        train(data, whole.folder, profile=longer)
    with pytest.raises(Killed):
        train(data, tmp_path / "run", callbacks=[KillAt(1, "epoch")])
    with pytest.raises(RunError, match="epochs: expected 5, found 4"):
        train(data, tmp_path / "run", profile=longer)


def test_arrays_that_are_not_those_of_the_split_are_refused(data, tmp_path):
    parts, split = data
    images, labels = parts["test"]
    for wrong in ((images[:-1], labels[:-1]), (images, labels[::-1]), (images[:, :16], labels)):
        with pytest.raises(RunError, match=r"test part.*load_parts"):
            training.train("tiny", parts | {"test": wrong}, split, SMALL, 0, tmp_path)


def test_divergence_is_said(data, tmp_path, monkeypatch):
    report_losses(monkeypatch, [float("nan")] * 4)
    with pytest.raises(RunError, match="diverged"):
        train(data, tmp_path / "run")


def test_rate_rises_stays_falls_once_and_ends():
    def rate(*losses):
        return training.plateau_rate(losses, 1.0, 3)

    rising = [rate(*[1.0 - 0.1 * i for i in range(n)]) for n in range(6)]
    assert rising == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    best = [0.9, 0.8, 0.7, 0.6, 0.5]
    assert rate(*best, 0.6, 0.5) == 1.0  # an equal loss is not a lower one
    assert rate(*best, 0.6, 0.5, 0.7) == pytest.approx(0.1)
    assert rate(*best, 0.6, 0.5, 0.7, 0.4, 0.41, 0.42) == pytest.approx(0.1)
    assert rate(*best, 0.6, 0.5, 0.7, 0.4, 0.41, 0.42, float("nan")) is None
    assert rate(*best, 0.6, 0.5, 0.7, 0.6, 0.6, 0.6) is None


@pytest.fixture
def falling_then_flat(monkeypatch):
    """Validation losses that are lowest in the second epoch."""
    report_losses(monkeypatch, [0.9, 0.5, *[0.6] * 18])


PATIENT = dataclasses.replace(SMALL, epochs=20, patience=2)


@pytest.fixture
def whole_with_patience(data, finished, falling_then_flat):
    return train(data, finished / "patient", profile=PATIENT)


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_training_ends_when_validation_stops_improving(data, tmp_path, falling_then_flat, seconds):
    run = train(data, tmp_path / "run", profile=PATIENT, checkpoint_seconds=seconds)
    ended = [run.info[key] for key in ("ended_by", "epochs_run", "best_epoch")]
    assert ended == ["plateau", 6, 2]
    rates = run.history["learning_rate"] / run.info["learning_rate"]
    assert rates.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.1, 0.1])
    assert run.info["epochs"] == 20


def test_kept_weights_are_those_of_the_best_epoch_however_seldom_they_are_written(
    data, tmp_path, falling_then_flat
):
    kept = []
    for seconds in (0.0, 3600.0):
        folder = tmp_path / str(seconds)
        run = train(data, folder, profile=PATIENT, checkpoint_seconds=seconds)
        kept.append(load_model(run).get_weights())
    for one, other in zip(*kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("epoch", [3, 6])
def test_a_killed_training_with_patience_ends_as_an_unkilled_one(
    data, tmp_path, whole_with_patience, epoch
):
    with pytest.raises(Killed):
        train(data, tmp_path / "run", profile=PATIENT, callbacks=[KillAt(epoch, "epoch")])
    resumed = train(data, tmp_path / "run", profile=PATIENT)
    assert_same_history(resumed, whole_with_patience)


def test_a_training_killed_between_two_writings_goes_on_from_the_last_one(
    data, tmp_path, whole_with_patience, monkeypatch
):
    original = training._Keeper.on_epoch_end

    def writing_after_the_first_and_fourth(self, epoch, logs=None):
        self.seconds = 0.0 if epoch in (0, 3) else 3600.0
        original(self, epoch, logs)

    monkeypatch.setattr(training._Keeper, "on_epoch_end", writing_after_the_first_and_fourth)
    for epoch, kept in ((3, 1), (6, 4)):  # the best one, the second, is in memory at the first kill
        with pytest.raises(Killed):
            train(data, tmp_path / "run", profile=PATIENT, callbacks=[KillAt(epoch, "epoch")])
        assert len(training._state(tmp_path / "run/progress")["history"]) == kept
    resumed = train(data, tmp_path / "run", profile=PATIENT)
    assert_same_history(resumed, whole_with_patience)
    assert resumed.info["best_epoch"] == 2
    assert_same_answers(resumed, whole_with_patience)


@pytest.mark.parametrize("key", ["warm_up_epochs", "falls", "to"])
def test_the_plateau_rule_belongs_to_a_run(data, whole_with_patience, monkeypatch, key):
    monkeypatch.setitem(training._PLATEAU, key, 3)
    with pytest.raises(RunError, match=rf"plateau\.{key}: expected 3"):
        train(data, whole_with_patience.folder, profile=PATIENT)


def test_class_weights_balance_the_loss():
    weights = training._class_weights(np.array([0] * 6 + [1] * 3 + [2] * 1))
    totals = [6 * weights[0], 3 * weights[1], 1 * weights[2]]
    assert totals == pytest.approx([10 / 3] * 3)
    assert training._class_weights(np.array([0, 0, 2])) == pytest.approx({0: 0.75, 2: 1.5})


def test_batches_cover_an_epoch_once_in_an_order_of_their_own(data):
    images = data[0]["train"][0]
    tags = np.arange(36)
    batches = training._Batches(images, tags, 8, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        batches.start_epoch(epoch)
        orders.append(np.concatenate([batches[i][1] for i in range(len(batches))]))
    assert [len(batches[i][1]) for i in range(5)] == [7] * 5  # the 36th waits
    assert [len(set(order)) for order in orders] == [35] * 3
    assert (orders[0] == orders[2]).all()
    assert (orders[0] != orders[1]).any()


@pytest.mark.parametrize(
    ("films", "sizes"), [(768, [32] * 24), (95, [31] * 3), (63, [31] * 2), (33, [16] * 2), (5, [5])]
)
def test_batches_are_never_larger_than_asked(films, sizes):
    batches = training._Batches(np.empty((films, 1)), np.arange(films), 32, seed=0)
    assert [len(batches[i][1]) for i in range(len(batches))] == sizes


def test_precision_follows_the_hardware(monkeypatch):
    bf16 = dataclasses.replace(SMALL, precision="mixed_bfloat16")
    monkeypatch.setattr(hardware, "gpus", list)
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: {"avx2"})
    assert training.precision(bf16) == "float32"
    monkeypatch.setattr(hardware, "_cpu_flags", lambda: {"avx512_bf16"})
    assert training.precision(bf16) == "mixed_bfloat16"
    assert training.precision(SMALL) == "float32"
    monkeypatch.setattr(hardware, "gpus", lambda: ["gpu:0"])
    for capability, precision in (
        ([7.5], "float32"),  # T4, Colab's free GPU
        ([8.0], "mixed_bfloat16"),  # A100
        ([9.0, 7.5], "float32"),
        ([], "float32"),  # a GPU of which nobody can tell
    ):
        monkeypatch.setattr(hardware, "_compute_capabilities", lambda found=capability: found)
        assert training.precision(bf16) == precision


def test_load_parts_keeps_the_order_of_the_rows(data, tmp_path):
    from PIL import Image

    parts, split = data
    images = np.concatenate([parts[p][0] for p in PARTS])
    for path, image in zip(split["path"], images[..., 0], strict=True):
        Image.fromarray(image).save(tmp_path / path)
    digests = [hashlib.sha256((tmp_path / path).read_bytes()).hexdigest() for path in split["path"]]
    shuffled = split.assign(sha256=digests).sample(frac=1, random_state=0)
    loaded = training.load_parts(tmp_path, shuffled, 32, tmp_path / "cache")
    order = shuffled[shuffled["part"] == "test"].index
    np.testing.assert_array_equal(loaded["test"][0], images[order])
    np.testing.assert_array_equal(loaded["test"][1], split["label"][order])
    assert (tmp_path / "cache" / "images_32.npz").exists()
    with pytest.raises(ImageError, match="expected the film with SHA-256"):
        training.load_parts(tmp_path, shuffled.assign(sha256="0" * 64), 32)


@pytest.fixture
def pretrained(monkeypatch):
    """Two convolutions with weights that are always the same; the second is to be fine-tuned."""

    def backbone(x, weights, width):
        for number in (1, 2):
            start = keras.initializers.GlorotUniform(seed=number)
            x = keras.layers.Conv2D(8, 3, 2, kernel_initializer=start, name=f"conv{number}")(x)
            x = keras.layers.BatchNormalization(name=f"bn{number}")(x)
            x = keras.layers.ReLU(name=f"relu{number}")(x)
        return x

    for name in ("tiny", "other"):
        transfer = {"pretrained": True, "fine_tuned_from": "conv2"}
        register(monkeypatch, backbone, name, last_conv="relu2", **transfer)


TRANSFER = dataclasses.replace(SMALL, weights="imagenet", head_epochs=6, epochs=3)
SHORT = dataclasses.replace(SMALL, epochs=1)
FUSION = dataclasses.replace(SMALL, weights="members", head_epochs=2, epochs=1)


@pytest.fixture
def transferred(data, pretrained, finished):
    """A run that began with pretrained weights, made once, its features beside it."""
    return train(data, finished / "transfer/seed0", profile=TRANSFER)


@pytest.fixture
def fused(data, pretrained, finished):
    """A fusion and, two folders above it, the runs of its members, made once."""
    for member in ("tiny", "other"):
        train(data, finished / "fusion" / member / "seed0", name=member, profile=SHORT)
    return train(data, finished / "fusion/fused/seed0", name="tiny+other", profile=FUSION)


def test_transfer_trains_the_head_first_and_then_the_upper_layers(data, transferred):
    run = transferred
    assert run.history["stage"].tolist() == ["head"] * 6 + ["fine-tuning"] * 3
    assert run.history["epoch"].tolist() == list(range(1, 10))
    assert run.info["weights"] == "imagenet"
    assert (run.info["head_epochs"], run.info["epochs"]) == (6, 3)
    assert run.info["epochs_run"] == 9
    assert run.info["best_epoch"] == run.history["val_loss"].argmin() + 1
    images = np.concatenate([data[0][p][0] for p in PARTS[1:]])
    again = load_model(run).predict(images, verbose=0)
    np.testing.assert_allclose(runs.probabilities(run.predictions), again, atol=1e-5)


def test_a_fusion_starts_from_the_runs_of_its_members(fused):
    assert fused.info["weights"] == "members"
    assert fused.history["stage"].tolist() == ["head", "head", "fine-tuning"]
    network = load_model(fused)
    for member in ("tiny", "other"):  # the lower convolution stands still in both stages
        alone = load_model(read_run(fused.folder.parents[1] / member / "seed0"))
        kernels = [alone.get_layer("conv1").kernel, network.get_layer(f"{member}_conv1").kernel]
        np.testing.assert_array_equal(*(np.asarray(kernel) for kernel in kernels))


def test_a_fusion_whose_member_has_no_run_says_which(data, pretrained, tmp_path):
    with pytest.raises(RunError, match=r"tiny.seed0: expected a finished run"):
        train(data, tmp_path / "fused/seed0", name="tiny+other", profile=FUSION)


def test_fine_tuning_moves_upper_convolutions_and_head_and_no_batch_norm(data, pretrained):
    model = build("tiny", 32, "imagenet")
    training.freeze(model, registry.get_architecture("tiny"))
    before = {layer.name: layer.get_weights() for layer in model.layers}
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    model.fit(*data[0]["train"], epochs=1, verbose=0)
    moved = {
        layer.name
        for layer in model.layers
        if layer.count_params()
        and any(
            (a != b).any() for a, b in zip(before[layer.name], layer.get_weights(), strict=True)
        )
    }
    assert moved - {name for name in moved if name.startswith("random_")} == {"conv2", "logits"}


def test_the_head_alone_learns_from_features_and_leaves_the_backbone(data, pretrained):
    model = build("tiny", 32, "imagenet")
    images, labels = data[0]["train"]
    features = training.features_of(model, images)
    assert features.shape == (36, 8)
    head = training.head_of(model)
    answers = head.predict(features, verbose=0), model.predict(images, verbose=0)
    np.testing.assert_allclose(*answers, 1e-4)
    kernel = model.get_layer("conv1").get_weights()[0]
    start = model.get_layer("logits").get_weights()
    head.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    head.fit(features, labels, verbose=0)
    np.testing.assert_array_equal(model.get_layer("conv1").get_weights()[0], kernel)
    assert (model.get_layer("logits").get_weights()[0] != start[0]).any()


def test_features_are_computed_once_for_all_seeds(data, transferred, monkeypatch):
    monkeypatch.setattr(training, "features_of", None)  # would fail if they were computed again
    other = train(data, transferred.folder.with_name("seed1"), seed=1, profile=TRANSFER)
    assert len(other.history) == 9


def test_features_of_other_weights_are_not_used(data, transferred, monkeypatch):
    monkeypatch.setattr(training, "_weights_digest", lambda model: "other")
    monkeypatch.setattr(training, "features_of", None)
    with pytest.raises(TypeError):
        train(data, transferred.folder.with_name("seed2"), seed=2, profile=TRANSFER)


@pytest.mark.parametrize(("epoch", "hook"), [(1, "batch"), (2, "epoch"), (3, "batch")])
def test_a_killed_fine_tuning_ends_as_an_unkilled_one(data, transferred, tmp_path, epoch, hook):
    folder = tmp_path / "other/seed0"
    with pytest.raises(Killed):
        train(data, folder, profile=TRANSFER, callbacks=[KillAt(epoch, hook)])
    resumed = train(data, folder, profile=TRANSFER)
    assert_same_history(resumed, transferred, "stage", rtol=1e-3)


def test_a_network_without_imagenet_weights_is_trained_from_scratch(data, tmp_path):
    run = train(data, tmp_path / "run", profile=TRANSFER)
    assert run.info["weights"] is None
    assert set(run.history["stage"]) == {"scratch"}
    assert run.info["learning_rate"] == 1e-2


def test_a_fusion_fine_tunes_the_upper_layers_of_every_member():
    model = build("vgg16+mobilenet_v2", 32)
    training.freeze(model, registry.get_architecture("vgg16+mobilenet_v2"))
    movable = {layer.name for layer in model.layers if layer.trainable and layer.count_params()}
    assert {"vgg16_block5_conv1", "vgg16_block5_conv3", "hidden", "logits"} <= movable
    assert {"mobilenet_v2_block_14_expand", "mobilenet_v2_Conv_1"} <= movable
    assert not movable & {"vgg16_block4_conv3", "mobilenet_v2_block_13_project"}
    assert not [name for name in movable if name.endswith(("BN", "bn"))]


def test_a_changed_network_is_refused_and_trained_again_only_when_asked(
    data, whole, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(whole.folder, tmp_path / "seed0")
    register(monkeypatch, wider)
    with pytest.raises(RunError, match=r"backbone: .*; parameters: expected 156, found 139"):
        train(data, folder)
    assert read_run(folder).info == whole.info
    with pytest.raises(Killed):  # while it is trained again the old run stays
        train(data, folder, replace_stale=True, callbacks=[KillAt(1, "epoch")])
    assert read_run(folder).info == whole.info
    capsys.readouterr()
    run = train(data, folder, replace_stale=True)
    said = capsys.readouterr().out
    assert "tiny, seed 0: trained again, since network.backbone: expected" in said
    assert said.count("\n") == 1
    assert run.info["parameters"] == load_model(run).count_params() == 156
    assert not (folder / "progress").exists()


def test_begun_work_of_another_network_is_thrown_away_only_when_asked(data, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        train(data, tmp_path / "run", callbacks=[KillAt(2, "epoch")])
    register(monkeypatch, wider)
    with pytest.raises(RunError, match=r"network\.backbone"):
        train(data, tmp_path / "run")
    assert train(data, tmp_path / "run", replace_stale=True).info["parameters"] == 156


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("_WEIGHT_DECAY", 0.5, r"optimizer\.AdamW\.weight_decay: expected 0\.5, found 0\.0001"),
        ("_WARM_UP", 0.2, r"optimizer\.AdamW\.learning_rate\.config\.warmup_steps: expected 200"),
        ("_METHOD_VERSION", 0, "method: expected 0"),
    ],
)
def test_the_optimizer_and_its_schedule_belong_to_a_run(
    data, whole, monkeypatch, name, value, told
):
    monkeypatch.setattr(training, name, value)
    with pytest.raises(RunError, match=told):
        train(data, whole.folder)


def test_other_films_of_the_same_names_and_another_precision_asked_are_refused(data, whole):
    parts, split = data
    other = split.assign(sha256=split["sha256"].str.replace("0", "1", n=1))
    with pytest.raises(RunError, match=r"\(films: expected"):
        training.train("tiny", parts, other, SMALL, 0, whole.folder)
    asked = dataclasses.replace(SMALL, precision="mixed_bfloat16")
    with pytest.raises(RunError, match="precision_asked: expected mixed_bfloat, found float32"):
        train(data, whole.folder, profile=asked)


def test_what_the_machine_had_makes_no_other_run(data, whole, monkeypatch):
    monkeypatch.setattr(training, "gpus", lambda: ["gpu:0"])
    monkeypatch.setattr(training, "installed_versions", lambda names: {"keras": "4.0"})
    monkeypatch.setattr(training, "build", None)  # would fail if anything were trained
    assert train(data, whole.folder).info == whole.info


def test_a_fusion_belongs_to_the_runs_it_started_from(data, fused, tmp_path):
    home = shutil.copytree(fused.folder.parents[1], tmp_path / "runs")
    shutil.rmtree(home / "other/seed0")
    longer = dataclasses.replace(SMALL, epochs=2)
    train(data, home / "other/seed0", name="other", profile=longer)
    with pytest.raises(RunError, match=r"\(members\.other: expected"):
        train(data, home / "fused/seed0", name="tiny+other", profile=FUSION)


def test_what_a_kill_while_tidying_up_left_is_cleared(data, whole, tmp_path):
    folder = shutil.copytree(whole.folder, tmp_path / "seed0")
    (folder / "progress").mkdir()
    (folder / "progress/epoch004.weights.h5").write_bytes(b"weights")
    train(data, folder)
    assert not (folder / "progress").exists()


def test_an_epoch_without_a_loss_hides_no_later_one(data, tmp_path, monkeypatch):
    report_losses(monkeypatch, [float("nan"), 0.9, float("nan"), 0.7])
    assert train(data, tmp_path / "run").info["best_epoch"] == 4


def test_a_head_that_diverges_is_said(data, pretrained, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_HEAD_RATE", float("nan"))
    with pytest.raises(RunError, match=r"tiny.seed0: expected a validation loss.*diverged"):
        train(data, tmp_path / "tiny/seed0", profile=TRANSFER)


def test_damaged_features_are_computed_again_with_a_warning(data, transferred, tmp_path):
    (tmp_path / "features.npz").write_bytes(b"PK not a zip")
    with pytest.warns(UserWarning, match=r"features\.npz: damaged"):
        again = train(data, tmp_path / "seed0", profile=TRANSFER)
    np.testing.assert_allclose(again.history["loss"], transferred.history["loss"], rtol=1e-3)


def test_two_processes_that_want_one_run_get_one_and_the_same(tmp_path):
    code = (
        "import sys\nfrom osteo_utils.course import open_course, train_model\n"
        "run = train_model(open_course('smoke', runs=sys.argv[1]), 'custom_cnn')\n"
        "print('finished', run.info['finished'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "runs")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({text[text.index("finished") :] for text in said}) == 1
    assert not list(tmp_path.rglob("progress")) + list(tmp_path.rglob(".part-*"))
