import dataclasses
import os
import random
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from osteo_utils import registry
from osteo_utils.networks.models import (
    PREPROCESSING,
    _vector,
    alexnet_maps,
    alexnet_vector,
    build,
    narrowed,
)
from osteo_utils.registry import ARCHITECTURES, PROFILES, get_architecture, last_conv_layers, recipe
from osteo_utils.saliency.gradcam import last_maps

DATA = Path(os.environ.get("OSTEO_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
WEIGHTS = DATA / "keras_models"
NAMES = list(ARCHITECTURES)
SIZE = 80  # every network of the registry takes it
APPLICATIONS = {"vgg16": "VGG16", "vgg19": "VGG19", "resnet50": "ResNet50", "xception": "Xception"}
APPLICATIONS |= {"inception_v3": "InceptionV3", "densenet121": "DenseNet121"}
APPLICATIONS |= {"mobilenet_v2": "MobileNetV2"}
MODULES = {name: name for name in APPLICATIONS}
MODULES |= {"resnet50": "resnet", "densenet121": "densenet"}


def images(n=2, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n, size, size, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def models():
    return {name: build(name, SIZE) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_flat_uint8_in_float32_probabilities_out(models, name):
    model = models[name]
    assert model.input.dtype == "uint8"
    assert model.input_shape == (None, SIZE, SIZE, 1)
    assert model.output_shape == (None, 3)
    assert not [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
    assert [layer.name for layer in model.layers[-2:]] == ["logits", "probabilities"]
    for last in last_conv_layers(name, SIZE).values():
        _, height, width, channels = model.get_layer(last).output.shape
        assert min(height, width) > 1
        assert channels > model.output_shape[-1]
    p = np.asarray(model(images(), training=False))
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_cam_reads_the_layer_that_the_registry_names_and_all_of_its_towers(models, name):
    found = last_maps(models[name])
    assert found == last_conv_layers(name, SIZE)
    last = next(iter(found.values()))
    expected = {"inception_v3": ("mixed7", (None, 3, 3, 768)), "vgg16": ("block5_conv3",)}
    expected["late_fusion"] = ("vgg16_block5_conv3", (None, 5, 5, 512))
    found = last, models[name].get_layer(last).output.shape
    assert found[: len(expected.get(name, ()))] == expected.get(name, ())


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet50", 32), ("mobilenet_v2", 32), ("densenet121", 60), ("densenet121", 61)],
)
def test_on_the_smallest_images_the_registry_names_an_earlier_layer_as_the_graph_has_it(name, size):
    model = build(name, size)
    assert last_maps(model) == last_conv_layers(name, size)
    assert model.get_layer(last_conv_layers(name, size)[name]).output.shape[1] > 1


def test_layers_of_the_library_are_found_by_their_names(models):
    assert models["mobilenet_v2"].get_layer("Conv_1").filters == 1280


@pytest.mark.parametrize("name", APPLICATIONS)
def test_parameters_are_those_of_the_plain_backbone_and_our_head(models, name):
    options = {"input_shape": (SIZE, SIZE, 3), "include_top": False, "weights": None}
    plain = getattr(keras.applications, APPLICATIONS[name])(**options)
    vector = plain.output_shape[-1]
    assert models[name].count_params() == plain.count_params() + vector * 3 + 3


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "xception"])
def test_published_parameters_are_those_of_the_whole_network(name):
    whole = getattr(keras.applications, APPLICATIONS[name])(weights=None)
    assert get_architecture(name).parameters == whole.count_params()


def test_alexnet_as_published_has_its_parameters():
    inputs = keras.Input((227, 227, 3))
    maps = alexnet_maps(inputs)
    vector = alexnet_vector(maps)
    assert maps.shape == (None, 13, 13, 256)
    published = keras.Model(inputs, layers.Dense(1000)(vector)).count_params()
    # 34,944 + 614,656 + 885,120 + 1,327,488 + 884,992 and 37,752,832 + 16,781,312 + 4,097,000
    assert published == get_architecture("alexnet").parameters == 62_378_344


def test_alexnet_can_be_narrower_and_normalised():
    inputs = keras.Input((80, 80, 3))
    maps = alexnet_maps(inputs, batch_norm=True, width=0.25)
    assert maps.shape[-1] == 64
    model = keras.Model(inputs, alexnet_vector(maps, width=32, batch_norm=True))
    assert model.output_shape == (None, 32)
    assert sum(isinstance(layer, layers.BatchNormalization) for layer in model.layers) == 7
    assert model.get_layer("conv1").bias is None


def test_late_fusion_joins_the_vectors_of_its_members(models):
    model = models["late_fusion"]
    assert model.get_layer("vgg16_pooled").output.shape == (None, 512)
    assert model.get_layer("inception_v3_pooled").output.shape == (None, 2048)
    assert model.get_layer("fused").output.shape == (None, 2560)
    members = sum(models[m].count_params() - (v * 3 + 3) for m, v in MEMBERS.items())
    assert model.count_params() == members + 2560 * 256 + 256 + 256 * 3 + 3
    lasts = {"vgg16": "vgg16_block5_conv3", "inception_v3": "inception_v3_mixed10"}
    assert last_conv_layers("late_fusion") == lasts


MEMBERS = {"vgg16": 512, "inception_v3": 2048}


@pytest.mark.parametrize(("size", "layer", "side"), [(106, "mixed7", 4), (107, "mixed10", 2)])
def test_on_small_images_inception_is_asked_at_an_earlier_layer(size, layer, side):
    assert last_conv_layers("inception_v3", size) == {"inception_v3": layer}
    model = build("inception_v3", size)
    assert model.get_layer(layer).output.shape[1] == side
    assert model.get_layer("mixed10").output.shape[1] == (1 if size < 107 else 2)


def test_any_two_backbones_can_be_fused_even_with_equal_layer_names():
    model = build("vgg16+vgg19", 32)
    assert model.get_layer("vgg16_block1_conv1") is not model.get_layer("vgg19_block1_conv1")
    assert model.get_layer("fused").output.shape == (None, 1024)


def first_maps(model):
    """What the first convolution, or the standardisation before it, is given."""
    kinds = layers.Conv2D | layers.ZeroPadding2D
    first = next(layer for layer in model.layers if isinstance(layer, kinds))
    return keras.Model(model.input, first.input)


@pytest.mark.parametrize("name", NAMES)
def test_augmentation_changes_training_and_nothing_else(models, name):
    before = first_maps(models[name])
    x = images(4)
    plain = [np.asarray(before(x, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*plain)
    trained = [np.asarray(before(x, training=True)) for _ in range(2)]
    spread = plain[0].std()
    assert np.abs(trained[0] - plain[0]).mean() > 0.01 * spread
    assert np.abs(trained[0] - trained[1]).mean() > 0.01 * spread
    shifts = np.abs(trained[0] - plain[0]).mean(axis=(1, 2, 3))
    assert len(np.unique(shifts)) == 4  # each image is changed in its own way


@pytest.mark.parametrize("name", [n for n in NAMES if n != "late_fusion"])
def test_preprocessing_is_inside(models, name):
    x = np.zeros((1, SIZE, SIZE, 1), np.uint8)
    x[:, SIZE // 2 :] = 255
    model = models[name]
    ready = keras.Model(model.input, model.get_layer("preprocessing").output)
    seen = np.asarray(ready(x, training=False))
    scale, offset = (np.asarray(v) for v in PREPROCESSING[get_architecture(name).preprocessing])
    channels = get_architecture(name).channels
    assert seen.shape[-1] == channels
    np.testing.assert_allclose(seen[0, 0, 0], np.broadcast_to(offset, channels), rtol=1e-5)
    np.testing.assert_allclose(seen[0, -1, -1], np.broadcast_to(scale + offset, channels), 1e-5)


def test_from_scratch_each_image_is_standardised(models):
    x = np.stack([images(1)[0] // 4, images(1)[0] // 2 + 100])
    seen = np.asarray(first_maps(models["resnet50"])(x, training=False))
    np.testing.assert_allclose(seen.mean(axis=(1, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std(axis=(1, 2, 3)), 1, rtol=1e-2)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_preprocessing_is_that_of_the_library(name):
    grey = np.arange(0, 256, 15, dtype=np.float32)
    module = getattr(keras.applications, MODULES[name])
    expected = module.preprocess_input(np.repeat(grey[:, None], 3, axis=1)[None, :, None, :].copy())
    scale, offset = (np.asarray(v) for v in PREPROCESSING[get_architecture(name).preprocessing])
    ours = (grey / 255)[None, :, None, None] * scale + offset
    np.testing.assert_allclose(np.broadcast_to(ours, expected.shape), expected, atol=2e-3)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_has_images_that_every_network_takes(profile):
    for name, architecture in ARCHITECTURES.items():
        own = recipe(PROFILES[profile], name)
        assert own.image_size >= architecture.min_size, name
        assert own.epochs >= 1
        assert 0 in own.seeds


def test_recipes_are_of_profiles_and_change_their_settings():
    settings = {field.name for field in dataclasses.fields(registry.Profile)}
    for architecture in ARCHITECTURES.values():
        assert set(architecture.recipes) <= {*PROFILES, registry.STUDY.name}
        assert all(set(changes) <= settings for changes in architecture.recipes.values())
        recipe(registry.STUDY, architecture.name)


def test_vgg_from_scratch_keeps_the_signal_and_what_differs_between_images(models):
    model = models["vgg16"]
    convolutions = [layer.output for layer in model.layers if isinstance(layer, layers.Conv2D)]
    maps = keras.Model(model.input, convolutions)(images(4), training=False)
    spread = [float(np.std(each)) for each in maps]
    between = [float(np.asarray(each).std(axis=0).mean()) for each in maps]
    assert 0.5 < spread[-1] / spread[0] < 2
    assert between[-1] > 0.3 * spread[-1]
    kernel = model.get_layer("block4_conv2").get_weights()[0]
    np.testing.assert_allclose(kernel.mean(axis=(0, 1, 2)), 0, atol=1e-6)


def test_batch_norm_follows_quickly_from_scratch(models):
    every = [layer for model in models.values() for layer in model.layers]
    norms = [layer for layer in every if isinstance(layer, layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.9}


@pytest.mark.parametrize("name", ["custom_cnn", "alexnet", "mobilenet_v2", "late_fusion"])
def test_saved_and_loaded_without_custom_objects(models, name, tmp_path):
    model = models[name]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    x = images()
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


def test_building_leaves_the_random_numbers_and_the_precision_of_the_caller_alone():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002  (the one that libraries may still use)
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    build("custom_cnn", 32, seed=1, precision="mixed_bfloat16")
    with pytest.raises(ValueError, match="expected images"):
        build("vgg16", 8, seed=1, precision="mixed_bfloat16")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
    assert keras.config.dtype_policy().name == "float32"


def test_the_initial_weights_are_those_that_keras_draws_for_the_seed():
    model = build("custom_cnn", 32, seed=3)
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, 1), dtype="uint8")
    drawn = keras.Model(inputs, _vector(ARCHITECTURES["custom_cnn"], inputs, None, False))
    kernels = [each.get_layer("block3_conv").get_weights()[0] for each in (model, drawn)]
    np.testing.assert_array_equal(*kernels)


def test_a_network_for_imagenet_weights_can_be_built_without_them(monkeypatch):
    monkeypatch.setattr(keras.utils, "get_file", None)  # would fail if anything were fetched
    unloaded = build("mobilenet_v2", 32, "unloaded")
    assert unloaded.count_params() == 2_261_827  # full width, as ImageNet's weights are
    assert "standardised" not in [layer.name for layer in unloaded.layers]


def test_a_width_that_is_none_is_refused():
    with pytest.raises(ValueError, match="alexnet: expected width 'thin' or 'published'"):
        build("alexnet", 96, width="publised")


def test_published_width_is_that_of_the_papers_and_thin_the_networks_own():
    counts = {
        (name, width): build(name, 71, width=width).count_params()
        for name in ("mobilenet_v2", "alexnet", "custom_cnn")
        for width in ("thin", "published")
    }
    assert counts["mobilenet_v2", "published"] == 2_257_984 + 3 * 1281  # Keras, alpha 1, no top
    assert counts["mobilenet_v2", "thin"] == 308_151
    assert counts["alexnet", "published"] > 10 * counts["alexnet", "thin"]
    assert counts["custom_cnn", "published"] == counts["custom_cnn", "thin"]


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
        ({"name": "vgg16+vgg16", "image_size": 64}, "different backbones"),
        ({"name": "vgg16+late_fusion", "image_size": 64}, "different backbones"),
        ({"name": "vgg16+resnet9000", "image_size": 64}, "resnet9000"),
        ({"name": "late_fusion", "image_size": 64}, "75 px or more"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def in_new_process(code, keras_home):
    environment = os.environ | {"KERAS_HOME": str(keras_home), "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment |= {"https_proxy": "http://127.0.0.1:9"}  # nothing listens there
    options = {"capture_output": True, "text": True, "check": False, "env": environment}
    return subprocess.run([sys.executable, "-c", code], **options)


def test_absent_imagenet_weights_say_where_they_were_looked_for(tmp_path):
    code = """
from osteo_utils.networks.models import build
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
from osteo_utils.networks.models import build
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


@pytest.mark.parametrize("application", ["VGG16", "ResNet50", "MobileNetV2"])
def test_a_narrowed_network_is_the_same_with_a_share_of_its_filters(application):
    whole = getattr(keras.applications, application)(input_shape=(64, 64, 3), weights=None)
    whole = keras.Model(whole.input, whole.layers[-3].output)
    images = keras.Input((64, 64, 3))
    thin = keras.Model(images, narrowed(whole, images, 0.5))
    assert [layer.name for layer in thin.layers[1:]] == [layer.name for layer in whole.layers[1:]]
    for ours, theirs in zip(thin.layers[1:], whole.layers[1:], strict=True):
        assert ours.output.shape[1:-1] == theirs.output.shape[1:-1]
        if hasattr(theirs, "filters"):
            assert ours.filters == theirs.filters // 2
            assert ours.kernel_size == theirs.kernel_size
