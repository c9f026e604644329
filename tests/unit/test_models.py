import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from osteo_utils.models import ARCHITECTURES, build, get_architecture

DATA = Path(os.environ.get("OSTEO_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "keras_models"
NAMES = sorted(ARCHITECTURES)


def images(n=2, size=64, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, size, size, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def models():
    return {name: build(name, 64) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_flat_uint8_in_float32_probabilities_out(models, name):
    model = models[name]
    assert model.input.dtype == "uint8"
    assert model.input_shape == (None, 64, 64, 1)
    assert model.output_shape == (None, 3)
    assert not [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    assert [layer.name for layer in model.layers[-2:]] == ["logits", "probabilities"]
    assert len(model.get_layer(get_architecture(name).last_conv).output.shape) == 4
    p = model.predict(images(), verbose=0)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_layers_of_the_library_are_found_by_their_names(models):
    assert models["mobilenet_v2"].get_layer("Conv_1").filters == 1280


def test_parameters(models):
    assert models["custom_cnn"].count_params() <= 500_000
    plain = keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, include_top=False, weights=None)
    assert models["mobilenet_v2"].count_params() == plain.count_params() + 1280 * 3 + 3


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_changes_training_and_nothing_else(models, name):
    model = models[name]
    first = next(layer for layer in model.layers if layer.name in ("block1_conv", "Conv1"))
    before = keras.Model(model.input, first.input)
    x = images(4)
    plain = [np.asarray(before(x, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*plain)
    trained = [np.asarray(before(x, training=True)) for _ in range(2)]
    assert np.abs(trained[0] - plain[0]).mean() > 0.01
    assert np.abs(trained[0] - trained[1]).mean() > 0.01
    shifts = np.abs(trained[0] - plain[0]).mean(axis=(1, 2, 3))
    assert len(np.unique(shifts)) == 4  # each image is changed in its own way


@pytest.mark.parametrize(
    ("name", "layer", "low", "high"),
    [("custom_cnn", "standard", 0, 1), ("mobilenet_v2", "Conv1", -1, 1)],
)
def test_preprocessing_is_inside(models, name, layer, low, high):
    model = models[name]
    first = model.get_layer(layer)
    x = np.zeros((1, 64, 64, 1), np.uint8)
    x[:, 32:] = 255
    seen = np.asarray(keras.Model(model.input, first.input)(x, training=False))
    assert (seen.min(), seen.max()) == (low, high)
    assert seen.shape[-1] == get_architecture(name).channels
    assert (seen == seen[..., :1]).all()


def test_batch_norm_follows_quickly_from_scratch(models):
    momenta = {
        layer.momentum
        for model in models.values()
        for layer in model.layers
        if isinstance(layer, layers.BatchNormalization)
    }
    assert momenta == {0.9}


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_without_custom_objects(models, name, tmp_path):
    model = models[name]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    x = images()
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_seed_fixes_the_initial_weights():
    one, same, other = (build("custom_cnn", 32, seed=s).get_weights()[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_mixed_precision_ends_in_float32_and_leaves_the_policy_alone():
    before = keras.config.dtype_policy().name
    model = build("custom_cnn", 32, precision="mixed_bfloat16")
    assert keras.config.dtype_policy().name == before
    assert model.get_layer("block2_conv").compute_dtype == "bfloat16"
    assert model.get_layer("logits").compute_dtype == "float32"
    assert model.get_layer("probabilities").compute_dtype == "float32"
    assert model.predict(images(size=32), verbose=0).dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet9000", "image_size": 64}, "custom_cnn"),
        ({"name": "custom_cnn", "image_size": 16}, "32 px or more"),
        ({"name": "custom_cnn", "image_size": 64, "weights": "imagenet"}, "no ImageNet weights"),
        ({"name": "mobilenet_v2", "image_size": 64, "weights": "noisy"}, "'imagenet'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def in_new_process(code, keras_home):
    environment = os.environ | {"KERAS_HOME": str(keras_home), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"https_proxy": "http://127.0.0.1:9"},  # nothing listens there
        capture_output=True,
        text=True,
        check=False,
    )


def test_absent_imagenet_weights_say_where_they_were_looked_for(tmp_path):
    code = """
from osteo_utils.models import build
try:
    build("mobilenet_v2", 224, "imagenet")
except ValueError as error:
    print(error)
"""
    done = in_new_process(code, tmp_path)
    assert str(tmp_path / "models") in done.stdout, done.stderr[-500:]
    assert "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5" in done.stdout
    assert "weights=None" in done.stdout


@pytest.mark.skipif(not WEIGHTS.is_dir(), reason=f"no weight files in {WEIGHTS}")
def test_imagenet_weights_give_the_features_of_the_plain_model(tmp_path):
    (tmp_path / "models").symlink_to(WEIGHTS.resolve())
    code = """
import keras, numpy as np
from osteo_utils.models import build
x = np.random.default_rng(0).integers(0, 255, (2, 224, 224, 1), dtype=np.uint8)
model = build("mobilenet_v2", 224, "imagenet")
found = keras.Model(model.input, model.get_layer("out_relu").output).predict(x, verbose=0)
plain = keras.applications.MobileNetV2((224, 224, 3), include_top=False, weights="imagenet")
ready = keras.applications.mobilenet_v2.preprocess_input(np.repeat(x, 3, axis=-1).astype(float))
expected = plain.predict(ready, verbose=0)
assert expected.std() > 0.1 and model.get_layer("Conv_1_bn").momentum == 0.999
np.testing.assert_allclose(found, expected, atol=1e-3)
print("equal")
"""
    done = in_new_process(code, tmp_path)
    assert "equal" in done.stdout, done.stderr[-800:]
