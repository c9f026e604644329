"""Our maps against those of two other libraries, raw and number by number.

Where a library departs from the paper, or leaves something open, the test names the difference and
takes it out. Both want a flat model with float images and logits; the layer has the resolution of
the images, so that nothing is resized.
"""

import keras
import numpy as np
import pytest
from keras import layers

from osteo_utils.saliency import gradcam

# Optional, and of a library that loads OpenCV, which needs libGL of the system.
pytest.importorskip("tf_keras_vis", reason="pip install tf-keras-vis")
pytest.importorskip("xplique", reason="pip install xplique", exc_type=ImportError)

from tf_keras_vis.gradcam import Gradcam
from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
from tf_keras_vis.layercam import Layercam
from tf_keras_vis.scorecam import Scorecam
from xplique.attributions import GradCAM, GradCAMPP, IntegratedGradients, Occlusion

SIDE, CHANNELS = 12, 5
RAW = {"expand_cam": False, "normalize_cam": False}
NAMED = {"penultimate_layer": "maps", "seek_penultimate_conv_layer": False}


def model(pooled=True, strength=1.0):
    """Two classes; the second has no weights, so its logit is 0 for every image."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIDE, SIDE, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="tanh", name="early")(inputs)
    x = layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU(name="maps")(layers.BatchNormalization()(x))
    pool = layers.GlobalAveragePooling2D() if pooled else layers.Flatten()
    net = keras.Model(inputs, layers.Dense(2, name="logits")(pool(x)))
    kernel, bias = net.get_layer("logits").get_weights()
    kernel = np.random.default_rng(0).uniform(0.2 if pooled else -1, 1, kernel.shape)
    net.get_layer("logits").set_weights([strength * kernel * [1, 0], bias])
    return net


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(4, SIDE, SIDE, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def first():
    """The first class of every image, as xplique wants it."""
    return np.eye(2, dtype=np.float32)[np.zeros(4, dtype=int)]


def logit(outputs):
    return outputs[:, 0]


def close(found, expected, rtol=1e-4):
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("pooled", [True, False])
def test_grad_cam(pooled, images, first):
    net = model(pooled)
    ours = gradcam.grad_cam(net, images, 0, "maps")
    close(ours, Gradcam(net, clone=False)(logit, images, **NAMED, **RAW))
    close(ours, GradCAM(net, conv_layer="maps")(images, first)[..., 0])


@pytest.mark.parametrize("pooled", [True, False])
def test_layer_cam(pooled, images):
    net = model(pooled)
    theirs = Layercam(net, clone=False)(logit, images, **NAMED, **RAW)
    close(gradcam.layer_cam(net, images, 0, "maps"), theirs)


@pytest.mark.parametrize("pooled", [True, False])
def test_grad_cam_plus_plus_of_xplique(pooled, images, first):
    """It takes means over places where the paper has sums: the same for a score as many times."""
    net, steeper = model(pooled), model(pooled, strength=SIDE**2)
    theirs = GradCAMPP(steeper, conv_layer="maps")(images, first)[..., 0]
    close(gradcam.grad_cam_plus_plus(net, images, 0, "maps"), theirs)


def test_grad_cam_plus_plus_of_tf_keras_vis(images):
    """It divides each weight by the sum of its map's shares, and keeps the factor exp(score)."""
    net = model()
    features = np.asarray(keras.Model(net.inputs[0], net.get_layer("maps").output)(images))
    theirs = GradcamPlusPlus(net, clone=False)(logit, images, **NAMED, **RAW)
    ours = gradcam.grad_cam_plus_plus(net, images, 0, "maps")
    steepness = net.get_layer("logits").get_weights()[0][:, 0]
    shares = SIDE**2 / (2 + features.mean(axis=(1, 2)) * steepness)
    for n, score in enumerate(np.asarray(net(images))[:, 0]):
        flat = features[n].reshape(-1, CHANNELS)
        weights = [np.linalg.lstsq(flat, m[n].ravel())[0] for m in (ours, np.asarray(theirs))]
        close(weights[0], weights[1] * shares[n] / np.exp(score), rtol=1e-3)


def test_score_cam(images):
    """Its score is any function of the softmax; p / (1 - p) is exp(logit), the other being 0."""
    net = model(pooled=False, strength=0.1)
    theirs = Scorecam(net)(lambda p: p[:, 0] / p[:, 1], images, **NAMED, **RAW)
    ours = gradcam.score_cam(net, images, 0, "maps")
    for a, b in zip(ours, np.asarray(theirs), strict=True):
        close(a / a.max(), b / b.max())


@pytest.mark.parametrize("stride", [4, 2])
def test_occlusion(stride, images, first):
    """It sums over the patches that cover a pixel; ours is their mean."""
    net = model()
    theirs = Occlusion(net, patch_size=4, patch_stride=stride, occlusion_value=0.5)(images, first)
    starts = np.arange(0, SIDE - 3, stride)[:, None]
    lines = ((np.arange(SIDE) >= starts) & (np.arange(SIDE) < starts + 4)).sum(axis=0)
    ours = gradcam.occlusion(net, images, 0, patch=4, stride=stride, fill=0.5)
    close(ours * np.outer(lines, lines), np.asarray(theirs)[..., 0], rtol=1e-3)


def test_integrated_gradients(images, first):
    """It has trapezoids of one width; with many steps the two rules meet."""
    net = model()
    theirs = IntegratedGradients(net, steps=400, baseline_value=0.3, reducer="sum")(images, first)
    ours = gradcam.integrated_gradients(net, images, 0, steps=400, baseline=0.3, batch_size=400)
    close(ours, np.asarray(theirs)[..., 0], rtol=2e-2)
