import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers

from osteo_utils.networks.models import build
from osteo_utils.runs import Run
from osteo_utils.saliency import gradcam, submodel
from osteo_utils.saliency.gradcam import METHODS, PIXEL_METHODS, CamError, CamWarning, grad_cam

LAYER_METHODS = [name for name in METHODS if name not in PIXEL_METHODS]
# Few passes, where that is all that a test needs.
FEW = {"occlusion": {"patch": 8, "stride": 8}, "integrated_gradients": {"samples": 2, "steps": 4}}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 255, (5, 32, 32, 1), dtype=np.uint8)


def values(model, x):
    return np.asarray(model(x, training=False))


def tiny(head="dense", seed=0):
    """One convolution, pooling, three classes; the softmax sits where `head` says."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((32, 32, 1))
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="maps")(layers.Rescaling(1 / 255)(x))
    pooled = layers.GlobalAveragePooling2D()(x)
    if head == "dense":
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(pooled))
    z = layers.Dense(3, name="out")(pooled)
    ends = {"activation": layers.Activation("softmax"), "layer": layers.Softmax()}
    ends |= {"logits": lambda t: t, "operation": keras.ops.softmax}
    return keras.Model(inputs, ends[head](z))


def parts(model, images, target):
    """Feature maps and the weight of each for the target."""
    maps = values(keras.Model(model.inputs[0], model.get_layer("maps").output), images)
    return maps, model.get_layer("out").get_weights()[0][:, target]


def by_hand(model, images, target):
    """With global average pooling and one Dense layer, Grad-CAM is the weighted sum of the maps."""
    maps, weights = parts(model, images, target)
    return np.maximum(maps @ weights, 0) / (maps.shape[1] * maps.shape[2])


def strongest(model, images):
    """A class whose maps by hand show something for every image."""
    return next(c for c in range(3) if all(np.ptp(m) > 0 for m in by_hand(model, images, c)))


@pytest.mark.parametrize("head", ["dense", "logits", "activation", "layer"])
def test_equals_the_hand_computed_case_wherever_the_softmax_sits(head, images):
    model = tiny(head)
    c = strongest(model, images)
    cams = grad_cam(model, images, target=c)
    assert cams.shape == (5, 15, 15)
    assert cams.dtype == np.float32
    np.testing.assert_allclose(cams, by_hand(model, images, c), rtol=1e-4, atol=1e-7)


def test_unreachable_logits_use_the_logarithm_of_the_output(images):
    model = tiny("operation")
    maps, weights = parts(model, images, slice(None))
    c, p = 0, values(model, images)
    effective = weights[:, c] - p @ weights.T  # derivative of log softmax
    expected = np.maximum(np.einsum("nhwc,nc->nhw", maps, effective), 0) / 225
    varying = [i for i in range(5) if np.ptp(expected[i]) > 0]
    assert varying
    cams = grad_cam(model, images[varying], target=c)
    np.testing.assert_allclose(cams, expected[varying], rtol=1e-3, atol=1e-7)


NARROW = {"alpha": 0.35, "include_top": False, "weights": None}


def backbone(seed=0):
    keras.utils.set_random_seed(seed)
    net = keras.applications.MobileNetV2((64, 64, 3), name="backbone", **NARROW)
    rng = np.random.default_rng(seed)
    for layer in net.layers:  # statistics as after training, so that maps are alive
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            scale = rng.uniform(0.5, 1.5, gamma.shape)
            layer.set_weights([gamma * scale, beta + 0.3, mean, variance * 0.05])
    return net


def positive(shape, dtype=None):
    """Weights with which every map speaks for every class."""
    return np.random.default_rng(0).uniform(0.1, 1, shape).astype(dtype)


@pytest.fixture(scope="module")
def nested_and_flat():
    """A reader's Sequential around a backbone, and the same network built flat."""
    inner = backbone()
    head = layers.Dense(3, activation="softmax", name="head", kernel_initializer=positive)
    stack = [layers.Rescaling(1 / 127.5, offset=-1.0), inner, layers.GlobalAveragePooling2D(), head]
    nested = keras.Sequential([keras.Input((64, 64, 3)), *stack])
    inputs = keras.Input((64, 64, 3))
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0)(inputs)
    net = keras.applications.MobileNetV2(input_tensor=scaled, **NARROW)
    pooled = layers.GlobalAveragePooling2D()(net.output)
    flat = keras.Model(inputs, layers.Dense(3, activation="softmax")(pooled))
    flat.set_weights(nested.get_weights())
    return nested, flat


@pytest.mark.parametrize("layer", [None, "Conv_1"])
def test_nested_equals_flat(nested_and_flat, layer):
    nested, flat = nested_and_flat
    x = np.random.default_rng(1).integers(0, 255, (3, 64, 64, 3)).astype("float32")
    assert gradcam.last_conv_layer(nested) == gradcam.last_conv_layer(flat) == "out_relu"
    target = [0, 1, 2] if layer else None
    a, b = (grad_cam(model, x, target, layer) for model in (nested, flat))
    np.testing.assert_allclose(a, b, atol=1e-5 * a.max())
    assert a.max() > 0


def lively():
    """A tiny model all of whose maps speak for every class."""
    model = tiny()
    kernel = model.get_layer("out").get_weights()[0]
    model.get_layer("out").set_weights([positive(kernel.shape), np.zeros(3)])
    return model


@pytest.mark.parametrize("name", METHODS)
def test_batches_equal_single_images(name, images):
    model, explain = lively(), METHODS[name]
    options = FEW.get(name, {})
    together = explain(model, images, 1, batch_size=32, **options)
    assert together.dtype == np.float32
    assert together.shape == ((5, 32, 32) if name in PIXEL_METHODS else (5, 15, 15))
    scale = np.abs(together).max()
    for size in (1, 2):
        alone = explain(model, images, 1, batch_size=size, **options)
        np.testing.assert_allclose(alone, together, atol=1e-5 * scale)
    one = np.concatenate([explain(model, x[None], 1, **options) for x in images])
    np.testing.assert_allclose(one, together, atol=1e-5 * scale)


@pytest.mark.parametrize("name", METHODS)
def test_target_by_image_and_predicted_class(name, images):
    model, explain = lively(), METHODS[name]
    options = {"flat": "nan", **FEW.get(name, {})}
    predicted = values(model, images).argmax(axis=1)
    same = explain(model, images, predicted, **options)
    np.testing.assert_allclose(explain(model, images, **options), same, rtol=1e-3, atol=1e-6)
    mixed = explain(model, images[:3], [2, 0, 1], **options)
    for i, c in enumerate([2, 0, 1]):
        alone = explain(model, images[:3], c, **options)[i]
        np.testing.assert_allclose(mixed[i], alone, rtol=1e-3, atol=1e-6)


def test_maps_follow_the_image_not_only_the_model(images):
    model = tiny()
    c = strongest(model, images)
    cams = grad_cam(model, images, c)
    shifted = grad_cam(model, np.roll(images, 2, axis=2), c)
    np.testing.assert_allclose(shifted[:, :, 2:-1], cams[:, :, 1:-2], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_model_is_as_before_even_after_an_error(name):
    x = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 1), dtype=np.uint8)
    model = registry_like()
    before = values(model, x)
    kept = {layer.name: set(vars(layer)) for layer in (model, *model.layers)}
    for _ in range(2):  # eager, then as a graph
        METHODS[name](model, x, flat="nan", **FEW.get(name, {}))
        with pytest.raises(Exception, match=r"."):
            METHODS[name](model, x, 7)  # no such class
    assert {layer.name: set(vars(layer)) for layer in (model, *model.layers)} == kept
    assert model.layers[-1].activation is keras.activations.softmax
    np.testing.assert_array_equal(values(model, x), before)


def test_untrained_mobilenet_is_refused_and_not_shown_blank():
    model = build("mobilenet_v2", 64)
    x = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 1), dtype=np.uint8)
    with pytest.raises(CamError, match=r"image 0.*constant.*train the model"):
        grad_cam(model, x)


def test_map_that_is_not_finite_is_refused(images):
    model = tiny()
    broken = model.get_layer("maps").get_weights()
    model.get_layer("maps").set_weights([broken[0] * np.nan, broken[1]])
    with pytest.raises(CamError, match="not finite"):
        grad_cam(model, images, 0)


def test_dead_maps_name_the_image(images):
    model = tiny()
    c = strongest(model, images)
    dark = images.copy()
    dark[3] = 0  # no light, no bias: every feature map is zero
    with pytest.raises(CamError, match="image 3"):
        grad_cam(model, dark, c)


@pytest.mark.parametrize("name", LAYER_METHODS)
def test_wrong_layer_lists_candidates(name, nested_and_flat, images):
    for model in nested_and_flat:
        with pytest.raises(CamError, match=r"'conv9'.*candidates.*out_relu.*Conv_1"):
            METHODS[name](model, np.zeros((1, 64, 64, 3)), 0, layer="conv9")
    model = tiny()
    for layer in ("out", model.layers[0].name):  # no maps; never called
        with pytest.raises(CamError, match=f"calls, found '{layer}'.*candidates.*: maps"):
            METHODS[name](model, images, 0, layer=layer)


def named_c():
    return keras.Sequential([keras.Input((32, 32, 1)), layers.Conv2D(2, 3, name="c")])


def test_a_name_that_two_layers_have_is_refused(images):
    inputs = keras.Input((32, 32, 1))
    pooled = [layers.GlobalAveragePooling2D()(part(inputs)) for part in (named_c(), named_c())]
    model = keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(pooled)))
    with pytest.raises(CamError, match="found 2 'c'"):
        grad_cam(model, images, 0, layer="c")
    assert gradcam.occlusion(model, images, 0).shape == images.shape[:3]


@pytest.mark.parametrize("name", PIXEL_METHODS)
def test_methods_on_pixels_refuse_a_layer(name, images):
    with pytest.raises(CamError, match="works on pixels, found 'maps'"):
        METHODS[name](tiny(), images, 0, layer="maps")


def test_wrong_images_targets_and_models_are_refused(images):
    model = tiny()
    for wrong in (images[0], images[:, :16], images[:0]):
        with pytest.raises(CamError, match="images: expected shape"):
            grad_cam(model, wrong, 0)
    for wrong in ([0, 1], -1):
        with pytest.raises(CamError, match="target"):
            grad_cam(model, images, wrong)
    table = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(CamError, match=r"one input of shape \(n, H, W, channels\), found"):
        gradcam.last_conv_layer(table)
    no_maps = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3)])
    with pytest.raises(CamError, match="a layer with feature maps, found none"):
        gradcam.last_conv_layer(no_maps)


EITHER = pytest.mark.parametrize("name", ["grad_cam", "occlusion"])  # on a layer, on pixels


@EITHER
@pytest.mark.parametrize("wrong", [3, 7, -1, [0, 1, 2, 3, 0], 1.5, [0.0] * 5, "1", True])
def test_a_target_that_is_no_output_of_the_model_is_refused(name, wrong, images):
    with pytest.raises(CamError, match=r"target: expected whole class indices 0 to 2.*found"):
        METHODS[name](tiny(), images, wrong)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = tiny()

    def call(self, x):
        return self.body(x)


def end_of(make):
    """A model of the same body as `tiny` whose outputs are as `make` makes them of two heads."""
    x = inputs = keras.Input((32, 32, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="maps")(x))
    heads = [layers.Dense(3, activation="softmax", name=name)(x) for name in ("a", "b")]
    return keras.Model(inputs, make(*heads))


@EITHER
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: end_of(lambda a, b: [a, b]), r"one output of shape \(n, classes\), found \["),
        (lambda: end_of(lambda a, b: {"a": a, "b": b}), r"one output of shape"),
        (lambda: keras.Sequential([keras.Input((8, 8, 1)), layers.ReLU()]), r"one output of shape"),
        (lambda: end_of(lambda a, _: layers.Reshape((3, 1))(a)), r"one output of shape"),
        (Subclassed, "functional or built Sequential model, found a Subclassed"),
        (lambda: keras.Sequential([layers.Conv2D(3, 3), layers.Flatten()]), "found a Sequential"),
    ],
)
def test_a_model_without_one_output_or_a_known_graph_is_refused(name, make, told, images):
    with pytest.raises(CamError, match=told):
        METHODS[name](make(), images, 1)


@EITHER
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda x: x / 255, r"grey levels 0 to 255.*found float64 from 0 to 1"),
        (lambda x: x - 128.0, r"grey levels 0 to 255.*from -128"),
        (lambda x: x.astype(np.uint16) * 257, r"grey levels 0 to 255.*found uint16.* to 65535"),
        (lambda x: np.where(x > 250, np.nan, x), "finite numbers"),
        (lambda x: x > 9, "array of numbers, found one of bool"),
        (lambda x: x.astype(str), "array of numbers, found one of <U"),
    ],
)
def test_images_that_are_no_grey_levels_are_refused_by_a_model_of_grey_levels(name, wrong, told):
    images = np.linspace(0, 255, 32 * 32).round().astype(np.uint8).reshape(1, 32, 32, 1)
    x = inputs = keras.Input((32, 32, 1), dtype="uint8")
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Conv2D(2, 3)(x))))
    with pytest.raises(CamError, match=told):
        METHODS[name](model, wrong(images), 0)


def test_one_output_may_have_a_name(images):
    model = end_of(lambda a, _: {"a": a})
    plain = keras.Model(model.inputs[0], model.get_layer("a").output)
    named, found = (grad_cam(each, images, None, flat="nan") for each in (model, plain))
    np.testing.assert_allclose(named, found, rtol=1e-5, atol=1e-6)


def test_grey_levels_may_be_floats_and_a_model_with_an_input_of_floats_takes_any(images):
    model = build("custom_cnn", 32)
    black = np.zeros((1, 32, 32, 1))
    with pytest.warns(CamWarning):
        assert np.isnan(grad_cam(model, black, 0, flat="nan")).all()
    assert grad_cam(lively(), images / 255, 0).shape == (5, 15, 15)


def test_a_layer_called_twice_is_refused_and_the_one_behind_is_not(images):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 1))
    shared = layers.Conv2D(4, 3, activation="relu", name="half")
    both = layers.Concatenate(name="both")([shared(inputs[:, :, :16]), shared(inputs[:, :, 16:])])
    end = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(both))
    model = keras.Model(inputs, end, name="halves")
    with pytest.raises(CamError, match="that halves calls once, found 'half' called 2 times"):
        grad_cam(model, images, 0, layer="half")
    assert grad_cam(model, images, None, "both", flat="nan").shape == (5, 30, 14)


@pytest.mark.parametrize("moment", ["_logits", "_gradient"])  # while it is built, while it runs
def test_another_thread_never_meets_the_model_without_its_softmax(moment, images, monkeypatch):
    model, met, step = tiny(), [], getattr(submodel, moment)

    def meanwhile(*arguments):
        with ThreadPoolExecutor(1) as pool:  # traced here, and kept
            met.append(pool.submit(model.predict, images, verbose=0).result())
        return step(*arguments)

    monkeypatch.setattr(submodel, moment, meanwhile)
    for _ in range(2):  # eager, then as a graph
        grad_cam(model, images, flat="nan")
    assert len(met) >= 2
    for answer in (*met, model.predict(images, verbose=0)):
        np.testing.assert_allclose(answer.sum(axis=1), 1, rtol=1e-5)


def test_threads_that_ask_a_new_model_at_once_get_the_same_maps(images):
    model = lively()
    with ThreadPoolExecutor(4) as pool:
        maps = list(pool.map(lambda _: grad_cam(model, images, 0), range(8)))
    for each in maps:
        np.testing.assert_allclose(each, maps[0], rtol=1e-5)


def test_a_mixed_precision_model_works(images):
    keras.utils.set_random_seed(0)
    model = build("custom_cnn", 32, precision="mixed_bfloat16")
    cams = grad_cam(model, images, None, layer="block2_relu")
    assert cams.dtype == np.float32
    assert cams.shape == (5, 16, 16)


def of_maps(*head, side=32):
    """Two layers with maps, "early" and "last", a side branch beside each, and then a head."""
    x = inputs = keras.Input((side, side, 1))
    for name in ("early", "last"):
        towers = [layers.Conv2D(2, 3, strides=2, padding="same")(x) for _ in "ab"]
        x = layers.Concatenate(name=name)(towers)
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3)(x))


KEPT_MAXIMA = layers.GlobalMaxPooling2D(keepdims=True)
KEPT_MEANS = layers.GlobalAveragePooling2D(keepdims=True)


@pytest.mark.parametrize(
    ("head", "side", "layer"),
    [
        ([layers.GlobalAveragePooling2D()], 32, "last"),
        ([layers.MaxPooling2D(), layers.Flatten()], 32, "last"),
        ([layers.AveragePooling2D(2), KEPT_MAXIMA, layers.Flatten()], 32, "last"),
        ([KEPT_MEANS, layers.Conv2D(5, 1), layers.Flatten()], 32, "last"),
        ([layers.Reshape((64, 4)), layers.GlobalAveragePooling1D()], 32, "last"),
        ([layers.GlobalAveragePooling2D()], 4, "early"),  # the last maps are 1 x 1
    ],
)
def test_the_last_maps_are_those_that_are_pooled_and_larger_than_one_place(head, side, layer):
    assert list(gradcam.last_maps(of_maps(*head, side=side)).values()) == [layer]


# ---------------------------------------------------------------------------------------------
# Each method against a case computed by hand


def test_grad_cam_plus_plus_by_hand(images):
    model = tiny()
    c = strongest(model, images)
    maps, w = parts(model, images, c)
    # The gradient is w / N in all N places: each has the share 1 / (2 + sum(A) w / N).
    weights = np.maximum(w, 0) / (2 + maps.mean(axis=(1, 2)) * w)
    expected = np.einsum("nhwc,nc->nhw", maps, weights)
    np.testing.assert_allclose(gradcam.grad_cam_plus_plus(model, images, c), expected, rtol=1e-4)


def test_grad_cam_plus_plus_counts_a_lone_place_as_much_as_many():
    """The case of the paper: the score is the maximum of each map, so one place has a gradient."""
    inputs = keras.Input((4, 4, 2))
    maps = layers.Activation("linear", name="maps")(inputs)
    head = layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = keras.Model(inputs, head(layers.GlobalMaxPooling2D()(maps)))
    x = np.zeros((1, 4, 4, 2), np.float32)
    x[0, 0, 0, 0] = 2.0  # alone: share 1 / (2 + 2)
    x[0, 1:, 1:, 1] = 0.5
    x[0, 3, 3, 1] = 1.0  # one of nine, sum 5: share 1 / (2 + 5)
    expected = x[0, :, :, 0] / 4 + x[0, :, :, 1] / 7
    found = gradcam.grad_cam_plus_plus(model, x, 0, "maps")[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_layer_cam_by_hand(images):
    model = tiny()
    c = strongest(model, images)
    maps, w = parts(model, images, c)
    expected = maps @ np.maximum(w, 0) / 225
    np.testing.assert_allclose(gradcam.layer_cam(model, images, c), expected, rtol=1e-4)


def test_layer_cam_takes_the_gradient_of_each_place():
    weights = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    model, x = linear(weights, 4), np.random.default_rng(1).uniform(size=(2, 4, 4, 1))
    rising = np.maximum(weights[:, 1].reshape(4, 4), 0)
    expected = x[..., 0] * rising
    np.testing.assert_allclose(gradcam.layer_cam(model, x, 1, "maps"), expected, rtol=1e-5)


def linear(weights, side, dtype="float32", bias=(0.0, 0.0)):
    """The score of each class is a weighted sum of pixels; "maps" is the image itself."""
    inputs = keras.Input((side, side, 1), dtype=dtype)
    x = layers.Rescaling(1.0, name="maps")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    model.set_weights([weights, np.asarray(bias)])
    return model


def two_maps():
    """Layer "maps" has the image and its mirror image; the score is the sum of the left half."""
    inputs = keras.Input((4, 4, 2))
    maps = layers.Activation("linear", name="maps")(inputs)
    model = keras.Model(inputs, layers.Dense(1, use_bias=False)(layers.Flatten()(maps)))
    left = np.zeros((4, 4, 2), np.float32)
    left[:, :2] = 1
    model.set_weights([left.reshape(32, 1)])
    return model


def test_score_cam_by_hand():
    model = two_maps()
    x = np.random.default_rng(0).uniform(0, 1, (3, 4, 4, 2)).astype(np.float32)
    low, high = x.min(axis=(1, 2), keepdims=True), x.max(axis=(1, 2), keepdims=True)
    masks = (x - low) / (high - low)
    for n, image in enumerate(x):
        scores = [(image * masks[n, :, :, k, None])[:, :2].sum() for k in (0, 1)]
        share = np.exp(scores) / np.exp(scores).sum()
        cam = gradcam.score_cam(model, x, 0, "maps", batch_size=4)[n]
        np.testing.assert_allclose(cam, image @ share, rtol=1e-4)
        varied = int(np.argmax(image.std(axis=(0, 1))))
        cam = gradcam.score_cam(model, x[n : n + 1], 0, "maps", top=1)[0]
        np.testing.assert_allclose(cam, image[..., varied], rtol=1e-4)


def test_score_cam_survives_a_map_that_is_constant(images):
    model = lively()
    kernel, bias = model.get_layer("maps").get_weights()
    kernel[..., 0] = 0
    model.get_layer("maps").set_weights([kernel, bias])
    assert np.isfinite(gradcam.score_cam(model, images, 0)).all()


def test_occlusion_by_hand_falls_by_the_weights_under_the_patch():
    weights = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    x = np.random.default_rng(1).integers(0, 255, (3, 8, 8, 1), dtype=np.uint8)
    model = linear(weights, 8, "uint8", (3.0, -1.0))
    for fill in (0.0, 90.5):
        given = (x[..., 0] - fill) * weights[:, 1].reshape(8, 8)
        fall = given.reshape(3, 4, 2, 4, 2).sum(axis=(2, 4)).repeat(2, axis=1).repeat(2, axis=2)
        found = gradcam.occlusion(model, x, 1, patch=2, stride=2, fill=fill, batch_size=5)
        np.testing.assert_allclose(found, fall, rtol=1e-3, atol=1e-2)


def test_occlusion_is_the_mean_over_the_patches_that_cover_a_pixel():
    model = linear(np.ones((25, 2), np.float32), 5)
    x = np.zeros((1, 5, 5, 1))
    x[0, 0, 0] = 1.0  # under the first patch alone
    x[0, 4, 2] = 2.0
    found = gradcam.occlusion(model, x, 0, patch=2, stride=2)[0]  # starts 0, 2 and, for the rest, 3
    expected = np.zeros((5, 5))
    expected[:2, :2] = 1  # one patch
    expected[3:, 2] = [1.0, 2.0]  # row 3 is also covered by the row of patches above
    expected[3:, 3] = [0.5, 1.0]  # and column 3 by the patches to the right
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_occlusion_refuses_patches_that_leave_gaps(images):
    for patch, stride in ((4, 5), (33, 1), (0, 0)):
        told = f"stride <= patch <= 32.*stride {stride}, patch {patch}"
        with pytest.raises(CamError, match=told):
            gradcam.occlusion(tiny(), images, 0, patch=patch, stride=stride)


@pytest.mark.parametrize(
    ("name", "wrong", "least"),
    [
        *((name, {"batch_size": 0}, 1) for name in METHODS),
        ("score_cam", {"top": 0}, 1),
        ("integrated_gradients", {"steps": 0}, 1),
        ("integrated_gradients", {"samples": -1}, 0),
    ],
)
def test_counts_that_are_too_small_are_refused(name, wrong, least, images):
    ((argument, count),) = wrong.items()
    with pytest.raises(ValueError, match=f"{argument}: expected at least {least}, found {count}"):
        METHODS[name](tiny(), images, 0, **wrong)


def test_integrated_gradients_of_a_linear_model_are_exact():
    weights = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    x = np.random.default_rng(1).integers(0, 255, (3, 8, 8, 1), dtype=np.uint8)
    model, w = linear(weights, 8, "uint8", (3.0, -1.0)), weights[:, 1].reshape(8, 8)
    for baseline in (0.0, 40.0, np.roll(x, 1, axis=0)):
        found = gradcam.integrated_gradients(model, x, 1, steps=3, baseline=baseline)
        expected = (x - np.float32(baseline))[..., 0] * w
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    found = gradcam.integrated_gradients(model, x, 1, samples=5, noise=0.2, seed=3)
    noise = np.random.default_rng(3).normal(0, 0.2, (5, 8, 8, 1)).mean(axis=0)
    noisy = x + noise * np.ptp(x, axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found, noisy[..., 0] * w, rtol=1e-4, atol=1e-3)


def test_integrated_gradients_sum_to_the_difference_of_scores():
    inputs = keras.Input((4, 4, 1))
    squares = layers.Flatten()(layers.Multiply()([inputs, inputs]))
    model = keras.Model(inputs, layers.Dense(1, kernel_initializer="ones")(squares))
    x = np.random.default_rng(0).uniform(0, 1, (2, 4, 4, 1))
    # Along the path the gradient is linear, and the middle of a step is exact.
    found = gradcam.integrated_gradients(model, x, 0, steps=2, baseline=0.5)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), (x**2 - 0.25).sum(axis=(1, 2, 3)), rtol=0.2)
    found = gradcam.integrated_gradients(model, x, 0, steps=32)
    np.testing.assert_allclose(found, x[..., 0] ** 2, rtol=2e-3)


def registry_like():
    """As the registry builds them: uint8 in, augmentation, each image standardised, batch norm."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 1), dtype="uint8")
    x = layers.RandomFlip(dtype="float32")(layers.Rescaling(1 / 255)(inputs))
    x = layers.GroupNormalization(1, center=False, scale=False)(x)
    x = layers.Conv2D(4, 3, use_bias=False, name="maps")(x)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization(name="norm")(x)))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))
    set_statistics(model)
    return model


def test_pixels_of_a_nested_uint8_model_are_followed_without_rounding():
    x = np.random.default_rng(0).integers(0, 255, (2, 32, 32, 1), dtype=np.uint8)
    model = registry_like()
    before, after = (np.log(values(model, images)) for images in (0 * x, x))
    gain = after - before  # a logarithm of a probability is its logit less a number for all classes
    change = gain[:, 2] - gain[:, 0]
    nested = keras.Sequential([keras.Input((32, 32, 1)), model])
    of = [gradcam.integrated_gradients(nested, x, c, steps=64, batch_size=128) for c in (2, 0)]
    np.testing.assert_allclose((of[0] - of[1]).sum(axis=(1, 2)), change, rtol=0.05)
    # A score of the image at 1/300 of its brightness: as uint8 it would be black.
    faint = x / 300
    faint[:, 0, 0] = 255  # a film has a white somewhere
    maps = gradcam.occlusion(linear(np.ones((1024, 2), np.float32), 32, "uint8"), faint, 0)
    assert (np.ptp(maps[:, 8:, 8:], axis=(1, 2)) > 0).all()  # where no patch covers the white


# ---------------------------------------------------------------------------------------------
# Graphs


def convolutions():
    """Batch norm behind every kind of convolution, with and without scale, offset and bias."""
    keras.utils.set_random_seed(0)
    plain = {"use_bias": False, "padding": "same"}
    kinds = (
        (layers.Conv2D(4, 3, strides=2, name="first", **plain), {}),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, **plain), {"scale": False}),
        (layers.SeparableConv2D(6, 3, **plain), {"center": False}),
        (layers.Conv2D(6, 3, dilation_rate=2, groups=2, **plain), {}),
        (layers.Conv2D(4, 1), {}),  # with a bias, so that no norm follows it directly
        (layers.MaxPooling2D(1), {}),
    )
    x = inputs = keras.Input((16, 16, 2))
    for number, (layer, options) in enumerate(kinds):
        x = layers.BatchNormalization(name=f"norm{number}", **options)(layer(x))
        x = layers.LeakyReLU(name=f"relu{number}")(x)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    set_statistics(model)
    return model


def set_statistics(model):
    """Batch norm as after training: no two channels alike."""
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "norm" in variable.path:
            low, high = (0.5, 1.5) if variable.path.endswith(("gamma", "variance")) else (-0.1, 0.1)
            variable.assign(rng.uniform(low, high, variable.shape))


def test_maps_and_gradients_are_those_of_the_layers_themselves():
    model, x = convolutions(), np.random.default_rng(1).normal(size=(2, 16, 16, 2))
    maps = keras.Model(model.inputs, model.get_layer("norm0").output)(x, training=False)
    above = keras.Sequential([keras.Input(maps.shape[1:])])
    names = [layer.name for layer in model.layers]
    for layer in model.layers[names.index("norm0") + 1 :]:
        above.add(layer)
    with tf.GradientTape() as tape:
        tape.watch(maps)
        score = tf.reduce_sum(above(maps, training=False)[:, 1])
    rising = np.maximum(tape.gradient(score, maps), 0)
    expected = np.maximum((np.asarray(maps) * rising).sum(axis=3), 0)
    found = gradcam.layer_cam(model, x, 1, "norm0")
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())


@pytest.mark.parametrize("layer", ["first", "norm1", None])
def test_graph_gives_the_same_as_the_first_eager_run(layer):
    model, x = convolutions(), np.random.default_rng(1).normal(size=(2, 16, 16, 2))
    first, second = (gradcam.layer_cam(model, x, 0, layer) for _ in range(2))
    np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-5 * first.max())


def test_graph_gives_the_same_gradient_of_the_pixels():
    model, x = convolutions(), np.random.default_rng(1).normal(size=(2, 16, 16, 2))
    first, second = (gradcam.integrated_gradients(model, x, 0, steps=1) for _ in range(2))
    np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-5 * np.abs(first).max())


def test_graph_follows_new_weights_and_dies_with_its_model(images):
    model = lively()
    first = [grad_cam(model, images, 0) for _ in range(2)][1]
    kernel, bias = model.get_layer("out").get_weights()
    model.get_layer("out").set_weights([2 * kernel, bias])
    np.testing.assert_allclose(grad_cam(model, images, 0), 2 * first, rtol=1e-4)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


# ---------------------------------------------------------------------------------------------
# Flat maps, branches, ensembles, scales


def test_flat_maps_are_nan_when_asked_and_counted_once(images):
    model = lively()
    dark = images.copy()
    dark[[1, 3]] = 0
    with pytest.warns(CamWarning, match="2 of 5 maps at layer 'maps'.*images 1, 3") as told:
        found = grad_cam(model, dark, 0, flat="nan")
    assert len(told) == 1
    assert np.isnan(found[[1, 3]]).all()
    bright = [0, 2, 4]
    np.testing.assert_allclose(found[bright], grad_cam(model, dark[bright], 0), rtol=1e-4)


def test_a_map_that_is_negative_everywhere_is_flat(images):
    model = lively()
    kernel, bias = model.get_layer("out").get_weights()
    model.get_layer("out").set_weights([-kernel, bias])
    for explain in (grad_cam, gradcam.grad_cam_plus_plus, gradcam.layer_cam):
        with pytest.raises(CamError, match=r"image 0.*a constant one"):
            explain(model, images, 0)


@pytest.mark.parametrize("name", PIXEL_METHODS)
def test_a_model_that_ignores_its_pixels_has_flat_maps(name, images):
    model = tiny()
    model.get_layer("out").set_weights([np.zeros((4, 3)), np.ones(3)])
    with pytest.raises(CamError, match=r"image 0.*over the pixels.*a constant one"):
        METHODS[name](model, images, 0)
    with pytest.warns(CamWarning, match="5 of 5"):
        assert np.isnan(METHODS[name](model, images, 0, flat="nan")).all()


def fused():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 1))
    branches = [layers.Conv2D(4, 3, s, activation="relu", name=f"branch{s}") for s in (1, 2)]
    pooled = [layers.GlobalAveragePooling2D()(branch(inputs)) for branch in branches]
    joined = layers.Concatenate()(pooled)
    end = layers.Dense(3, activation="softmax", kernel_initializer=positive)
    return keras.Model(inputs, end(joined), name="pair")


def test_branches_are_named_by_their_layers_or_by_the_registry():
    assert gradcam.last_maps(fused()) == {"branch1": "branch1", "branch2": "branch2"}
    assert gradcam.last_maps(build("custom_cnn", 32)) == {"custom_cnn": "block5_relu"}


def test_a_pair_of_backbones_has_a_map_for_each():
    model = build("custom_cnn+mobilenet_v2", 64)
    films = np.random.default_rng(0).integers(0, 255, (1, 64, 64, 1), dtype=np.uint8)
    with warnings.catch_warnings(action="ignore", category=CamWarning):
        maps = {
            b: grad_cam(model, films, 0, of, flat="nan")
            for b, of in gradcam.last_maps(model).items()
        }
    shapes = {branch: each.shape for branch, each in maps.items()}
    assert shapes == {"custom_cnn": (1, 4, 4), "mobilenet_v2": (1, 2, 2)}
    assert gradcam.last_conv_layer(model) == "custom_cnn_block5_relu"


def test_the_maps_of_a_network_are_those_that_its_run_names():
    nothing = pd.DataFrame()
    recorded, older = (
        Run(Path(), info, nothing, {}, nothing) for info in ({"maps": {"mine": "branch2"}}, {})
    )
    assert gradcam.maps_of_run(recorded, fused()) == {"mine": "branch2"}
    assert gradcam.maps_of_run(older, fused()) == gradcam.last_maps(fused())


def test_a_method_that_is_none_is_refused(images):
    with pytest.raises(CamError, match=r"method: expected one of grad_cam.*found 'cam'"):
        gradcam.ensemble_maps([tiny()], [images], method="cam")


def test_a_member_whose_map_is_nearly_all_negative_has_one_vote(monkeypatch, images):
    # One place for the class against many that speak against it: by the positive part alone the
    # map would be stretched to -99 and drown the other member, which is +1 in one place.
    against, speaking = np.full((5, 10, 10), -1.0), np.zeros((5, 10, 10))
    against[:, 0, 0], speaking[:, 9, 9] = 1, 1
    maps = iter([against, speaking])
    monkeypatch.setitem(METHODS, "occlusion", lambda *_, **__: next(maps))
    pair = [tiny(), tiny()], [images, images]
    members, mean = gradcam.ensemble_maps(*pair, 0, "occlusion", size=10)
    for member in members:
        np.testing.assert_allclose(np.abs(member).sum(axis=(1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(mean[:, 9, 9], (1 - 0.01) / 2, rtol=1e-5)
    np.testing.assert_allclose(mean[:, 0, 1], -0.01 / 2, rtol=1e-5)


def test_ensemble_is_the_weighted_mean_of_maps_that_sum_to_one():
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.1, 1, size=(s * s, 2)).astype(np.float32) for s in (4, 8)]
    models = [linear(w, s) for w, s in zip(weights, (4, 8), strict=True)]
    x = [rng.uniform(size=(2, s, s, 1)) for s in (4, 8)]
    members, mean = gradcam.ensemble_maps(models, x, 1, "layer_cam", ["maps", None], weights=[3, 1])
    for s, w, image, found in zip((4, 8), weights, x, members, strict=True):
        raw = gradcam.resized(image[..., 0] * w[:, 1].reshape(s, s), 8)
        np.testing.assert_allclose(found, raw / raw.sum(axis=(1, 2), keepdims=True), rtol=1e-4)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, 0.75 * members[0] + 0.25 * members[1], rtol=1e-4)
    signed = gradcam.ensemble_maps(models, x, 1, "integrated_gradients", size=4)
    assert signed.mean.shape == (2, 4, 4)


def test_ensemble_explains_the_class_of_the_weighted_vote(images):
    sure, unsure = tiny(), tiny()
    kernel = positive((4, 3))
    sure.get_layer("out").set_weights([kernel, np.array([4.0, 0, 0])])
    unsure.get_layer("out").set_weights([kernel[:, ::-1], np.array([0, 0, 2.0])])
    for weights, c in (((0.9, 0.1), 0), ((0.1, 0.9), 2)):
        voted = gradcam.ensemble_maps([sure, unsure], [images, images], weights=weights)
        named = gradcam.ensemble_maps([sure, unsure], [images, images], c, weights=weights)
        np.testing.assert_allclose(voted.mean, named.mean, rtol=1e-3, atol=1e-8)


def test_a_member_without_a_map_has_no_say(images):
    silent, speaking = tiny(), lively()
    silent.get_layer("out").set_weights([np.zeros((4, 3)), np.zeros(3)])
    dark = images.copy()
    dark[2] = 0  # neither has a map
    with pytest.warns(CamWarning):
        members, mean = gradcam.ensemble_maps([silent, speaking], [dark, dark], 0, flat="nan")
    assert np.isnan(members[0]).all()
    np.testing.assert_allclose(mean, members[1], rtol=1e-5)
    assert np.isnan(mean[2]).all()


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0]])
def test_wrong_weights_of_an_ensemble_are_refused(weights, images):
    with pytest.raises(CamError, match="weights: expected one for each of 2 models"):
        gradcam.ensemble_maps([tiny(), tiny()], [images, images], 0, weights=weights)


def test_resized_is_bilinear_between_the_centres_of_cells():
    found = gradcam.resized(np.array([[[0.0, 4.0], [8.0, 12.0]]]), 4)[0]
    np.testing.assert_allclose(found[0], [0, 1, 3, 4])  # clamped beyond the outermost centres
    np.testing.assert_allclose(found[:, 0], [0, 2, 6, 8])
    maps = np.stack([np.eye(3), np.full((3, 3), np.nan)])
    assert np.isnan(gradcam.resized(maps, 7)[1]).all()
    assert np.isfinite(gradcam.resized(maps, 7)[0]).all()
    np.testing.assert_allclose(gradcam.resized(maps[:1], 3), maps[:1], atol=1e-6)


def test_shared_limit_is_the_largest_finite_value():
    assert gradcam.shared_limit(np.array([[1.0, np.nan]]), [[3.0, -9.0], [np.inf, 2.0]]) == 3.0
    for empty in ([], [np.full((1, 2, 2), np.nan)]):
        with pytest.raises(CamError, match="at least one finite"):
            gradcam.shared_limit(*empty)


def test_the_peak_of_a_map_is_its_largest_absolute_value():
    assert gradcam.peak([[1.0, 2.0], [0.0, np.nan]]) == (0, 1)
    assert gradcam.peak(np.array([[-1.0, -0.1], [-9.0, -2.0]])) == (1, 0)  # not the least negative
    with pytest.raises(CamError, match="at least one finite value to find a peak"):
        gradcam.peak(np.full((2, 2), np.nan))


def test_every_method_has_a_title():
    assert list(gradcam.TITLES) == list(METHODS)
    assert all(METHODS[name].__name__ == name for name in METHODS)


def test_candidates_are_layers_with_maps_first_to_last(nested_and_flat):
    assert gradcam.layer_candidates(fused()) == ["branch1", "branch2"]
    nested, flat = map(gradcam.layer_candidates, nested_and_flat)
    assert nested[-3:] == flat[-3:] == ["Conv_1", "Conv_1_bn", "out_relu"]
