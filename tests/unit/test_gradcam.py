import keras
import numpy as np
import pytest
from keras import layers

from osteo_utils.gradcam import CamError, grad_cam, last_conv_layer
from osteo_utils.models import build


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 255, (5, 32, 32, 1), dtype=np.uint8)


def tiny(head="dense", seed=0):
    """One convolution, pooling, three classes; the softmax sits where `head` says."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((32, 32, 1))
    x = layers.Conv2D(4, 3, strides=2, activation="relu", name="maps")(layers.Rescaling(1 / 255)(x))
    pooled = layers.GlobalAveragePooling2D()(x)
    if head == "dense":
        return keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(pooled))
    z = layers.Dense(3, name="out")(pooled)
    ends = {
        "logits": lambda t: t,
        "activation": layers.Activation("softmax"),
        "layer": layers.Softmax(),
        "operation": keras.ops.softmax,
    }
    return keras.Model(inputs, ends[head](z))


def by_hand(model, images, target):
    """With global average pooling and one Dense layer, Grad-CAM is the weighted sum of the maps."""
    maps = keras.Model(model.inputs, model.get_layer("maps").output).predict(images, verbose=0)
    weights = model.get_layer("out").get_weights()[0][:, target]
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
    maps = keras.Model(model.inputs, model.get_layer("maps").output).predict(images, verbose=0)
    weights = model.get_layer("out").get_weights()[0]
    p = model.predict(images, verbose=0)
    c = 0
    effective = weights[:, c] - p @ weights.T  # derivative of log softmax
    expected = np.maximum(np.einsum("nhwc,nc->nhw", maps, effective), 0) / 225
    varying = [i for i in range(5) if np.ptp(expected[i]) > 0]
    assert varying
    cams = grad_cam(model, images[varying], target=c)
    np.testing.assert_allclose(cams, expected[varying], rtol=1e-3, atol=1e-7)


def backbone(seed=0):
    keras.utils.set_random_seed(seed)
    net = keras.applications.MobileNetV2(
        (64, 64, 3), alpha=0.35, include_top=False, weights=None, name="backbone"
    )
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
    net = keras.applications.MobileNetV2(
        input_tensor=scaled, alpha=0.35, include_top=False, weights=None
    )
    pooled = layers.GlobalAveragePooling2D()(net.output)
    flat = keras.Model(inputs, layers.Dense(3, activation="softmax")(pooled))
    flat.set_weights(nested.get_weights())
    return nested, flat


@pytest.mark.parametrize("layer", [None, "Conv_1"])
def test_nested_equals_flat(nested_and_flat, layer):
    nested, flat = nested_and_flat
    x = np.random.default_rng(1).integers(0, 255, (3, 64, 64, 3)).astype("float32")
    assert last_conv_layer(nested) == last_conv_layer(flat) == "out_relu"
    target = [0, 1, 2] if layer else None
    a, b = (grad_cam(model, x, target, layer) for model in (nested, flat))
    np.testing.assert_allclose(a, b, atol=1e-5 * a.max())
    assert a.max() > 0


def test_both_branches_of_a_fusion(images):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((32, 32, 1))
    branches = [
        layers.Conv2D(4, 3, strides=s, activation="relu", name=f"branch{s}")(inputs) for s in (1, 2)
    ]
    joined = layers.Concatenate()([layers.GlobalMaxPooling2D()(b) for b in branches])
    end = layers.Dense(3, activation="softmax", kernel_initializer=positive)
    model = keras.Model(inputs, end(joined))
    assert grad_cam(model, images, 0, "branch1").shape == (5, 30, 30)
    assert grad_cam(model, images, 0, "branch2").shape == (5, 15, 15)


def test_batches_equal_single_images(images):
    model = tiny()
    c = strongest(model, images)
    together = grad_cam(model, images, c, batch_size=5)
    for size in (1, 2):
        np.testing.assert_allclose(
            grad_cam(model, images, c, batch_size=size), together, rtol=1e-5, atol=1e-8
        )


def test_target_by_image_and_predicted_class(nested_and_flat):
    _, flat = nested_and_flat
    x = np.random.default_rng(2).integers(0, 255, (3, 64, 64, 3)).astype("float32")
    mixed = grad_cam(flat, x, [2, 0, 1])
    for i, c in enumerate([2, 0, 1]):
        np.testing.assert_allclose(mixed[i], grad_cam(flat, x, c)[i], rtol=1e-3, atol=1e-6)
    predicted = flat.predict(x, verbose=0).argmax(axis=1)
    np.testing.assert_allclose(grad_cam(flat, x), grad_cam(flat, x, predicted), rtol=1e-5)


def test_maps_follow_the_image_not_only_the_model(images):
    model = tiny()
    c = strongest(model, images)
    cams = grad_cam(model, images, c)
    shifted = grad_cam(model, np.roll(images, 2, axis=2), c)
    np.testing.assert_allclose(shifted[:, :, 2:-1], cams[:, :, 1:-2], rtol=1e-3, atol=1e-6)


def test_model_is_as_before_even_after_an_error(images):
    model = tiny()
    before = model.predict(images, verbose=0)
    kept = {layer.name: set(vars(layer)) for layer in model.layers}
    grad_cam(model, images, strongest(model, images))
    with pytest.raises(CamError, match="calls"):
        grad_cam(model, images, 0, layer=model.layers[0].name)  # the input is never called
    with pytest.raises(Exception, match=r"."):
        grad_cam(model, images, 7)  # no such class
    assert {layer.name: set(vars(layer)) for layer in model.layers} == kept
    assert model.get_layer("out").activation is keras.activations.softmax
    np.testing.assert_array_equal(model.predict(images, verbose=0), before)


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


def test_wrong_layer_lists_candidates(nested_and_flat):
    for model in nested_and_flat:
        with pytest.raises(CamError, match=r"'conv9'.*candidates.*out_relu.*Conv_1"):
            grad_cam(model, np.zeros((1, 64, 64, 3)), 0, layer="conv9")


def test_wrong_images_targets_and_models_are_refused(images):
    model = tiny()
    for wrong in (images[0], images[:, :16], images[:0]):
        with pytest.raises(CamError, match="images: expected shape"):
            grad_cam(model, wrong, 0)
    for wrong in ([0, 1], -1):
        with pytest.raises(CamError, match="target"):
            grad_cam(model, images, wrong)
    no_maps = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(CamError, match="feature maps"):
        last_conv_layer(no_maps)


def test_a_mixed_precision_model_works(images):
    keras.utils.set_random_seed(0)
    model = build("custom_cnn", 32, precision="mixed_bfloat16")
    cams = grad_cam(model, images, None, layer="block2_relu")
    assert cams.dtype == np.float32
    assert cams.shape == (5, 16, 16)


def test_registry_models_need_no_layer_name(images):
    model = build("custom_cnn", 32)
    assert last_conv_layer(model) == "block5_relu"
