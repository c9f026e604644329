"""The registry of architectures and one way to build each: flat, uint8 grey in, softmax out.

Augmentation and preprocessing are layers of the model, so a saved `.keras` file takes the pixels of
a radiograph as they are and needs no custom object. The backbone is built on the tensor of the
layers before it, never nested, so that `model.get_layer("Conv_1")` and Grad-CAM work directly.
Any Keras backend will do.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import keras
from keras import layers

from osteo_utils.labels import CLASS_NAMES

Tensor = Any  # a symbolic tensor of whichever backend Keras runs on
Weights = Literal["imagenet"] | None

MOBILENET_WIDTH_FROM_SCRATCH: Final = 0.35


@dataclass(frozen=True)
class Architecture:
    """What is particular to one architecture; sizes in pixels."""

    name: str
    title: str
    backbone: Callable[[Tensor, Weights], Tensor]  # preprocessed images to feature maps
    preprocessing: Literal["0..1", "-1..1"]  # range that the backbone expects
    channels: int  # of its input: 1 grey, 3 grey repeated
    native_size: int
    min_size: int
    last_conv: str  # the layer whose maps Grad-CAM weighs
    learning_rate: float  # peak, from scratch
    year: int
    paper: str  # key in book/references.bib
    pretrained: bool = False  # whether ImageNet weights exist


def build(
    name: str,
    image_size: int,
    weights: Weights = None,
    seed: int = 0,
    precision: str = "float32",
) -> keras.Model:
    """A new model: uint8 (n, size, size, 1) in, float32 probabilities (n, 3) out.

    Layers: "radiograph", augmentation (in training alone), preprocessing, backbone, global average
    pooling, dropout, "logits" and "probabilities" (both float32). `seed` fixes the initial weights
    and the augmentation. `precision` is the Keras dtype policy of the backbone. Apply the model by
    `predict`, or call it with `training=False`: Keras' augmentation layers are on by default.
    Raises `ValueError` for an unknown name, too small a size, or weights that cannot be had.
    """
    architecture = get_architecture(name)
    _check(architecture, image_size, weights)
    keras.utils.set_random_seed(seed)
    with _policy(precision):
        inputs = keras.Input((image_size, image_size, 1), dtype="uint8", name="radiograph")
        x = _preprocess(_augment(inputs, seed), architecture)
        features = _backbone(architecture, x, weights)
        return keras.Model(inputs, _head(features), name=name)


def get_architecture(name: str) -> Architecture:
    """The architecture of that name; `ValueError` names the choices."""
    if name not in ARCHITECTURES:
        raise ValueError(f"model: expected one of {', '.join(ARCHITECTURES)}, found {name!r}")
    return ARCHITECTURES[name]


def _check(architecture: Architecture, image_size: int, weights: Weights) -> None:
    name = architecture.name
    if image_size < architecture.min_size:
        raise ValueError(
            f"{name}: expected images of {architecture.min_size} px or more, found {image_size}"
        )
    if weights not in (None, "imagenet"):
        raise ValueError(f"{name}: expected weights None or 'imagenet', found {weights!r}")
    if weights and not architecture.pretrained:
        raise ValueError(f"{name}: has no ImageNet weights; build it with weights=None")


def _augment(x: Tensor, seed: int) -> Tensor:
    """What varies between two radiographs of one knee; nothing is changed outside training.

    Nothing interpolates: a rotation by a few degrees blurs the trabeculae that are to be learned.
    """
    shift = {"fill_mode": "constant", "fill_value": 0.0, "interpolation": "nearest"}
    values = {"value_range": (0.0, 1.0), "dtype": "float32"}
    for layer in (
        layers.Rescaling(1 / 255, dtype="float32", name="to_unit_range"),
        layers.RandomFlip("horizontal", seed=seed, dtype="float32"),
        layers.RandomTranslation(0.05, 0.05, seed=seed + 1, dtype="float32", **shift),
        layers.RandomBrightness(0.08, seed=seed + 2, **values),
        layers.RandomContrast(0.15, seed=seed + 3, **values),
    ):
        x = layer(x)
    return x


def _preprocess(x: Tensor, architecture: Architecture) -> Tensor:
    """From 0..1 to the range and the channels that the backbone expects."""
    if architecture.preprocessing == "-1..1":
        x = layers.Rescaling(2.0, offset=-1.0, dtype="float32", name="preprocessing")(x)
    if architecture.channels == 3:
        x = layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    return x


def _backbone(architecture: Architecture, x: Tensor, weights: Weights) -> Tensor:
    features = architecture.backbone(x, weights)
    if weights is None:
        _quicken_batch_norm(keras.Model(keras.utils.get_source_inputs(features), features))
    return features


def _quicken_batch_norm(model: keras.Model) -> None:
    """Let the running statistics follow within tens of steps, not hundreds (from scratch only)."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9


def _head(features: Tensor) -> Tensor:
    x = layers.GlobalAveragePooling2D(name="pooled")(features)
    x = layers.Dropout(0.2, name="dropout")(x)
    x = layers.Dense(len(CLASS_NAMES), dtype="float32", name="logits")(x)
    return layers.Activation("softmax", dtype="float32", name="probabilities")(x)


def _custom_cnn(x: Tensor, weights: Weights) -> Tensor:
    """Blocks of convolution, batch norm and ReLU, each on half the side: 0.4 M parameters.

    Each image is standardised first (mean 0, deviation 1), since exposure says nothing about bone.
    """
    x = layers.GroupNormalization(1, center=False, scale=False, dtype="float32", name="standard")(x)
    for block, filters in enumerate((16, 32, 64, 128, 256), start=1):
        if block > 1:
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"block{block}_conv")(x)
        x = layers.BatchNormalization(name=f"block{block}_bn")(x)
        x = layers.ReLU(name=f"block{block}_relu")(x)
    return x


def _mobilenet_v2(x: Tensor, weights: Weights) -> Tensor:
    """Full width for transfer; from scratch a width that hundreds of images can still fill."""
    alpha = 1.0 if weights else MOBILENET_WIDTH_FROM_SCRATCH
    with _explained_download("MobileNetV2"):
        return keras.applications.MobileNetV2(
            input_tensor=x, alpha=alpha, include_top=False, weights=weights
        ).output


@contextmanager
def _explained_download(title: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Keras raises a plain Exception when a download fails
        if "URL fetch failure" not in str(error):
            raise
        folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
        raise ValueError(
            f"{title}: expected its ImageNet weights in {folder}, found none there and could not "
            f"download them ({error}); connect to the internet, copy that file into the folder, or "
            "choose a profile that trains from scratch (weights=None)"
        ) from error


@contextmanager
def _policy(name: str) -> Iterator[None]:
    """Build under a dtype policy: layers of `keras.applications` take it from nowhere else."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


ARCHITECTURES: Final = {
    a.name: a
    for a in (
        Architecture(
            name="custom_cnn",
            title="Custom CNN",
            backbone=_custom_cnn,
            preprocessing="0..1",
            channels=1,
            native_size=128,
            min_size=32,
            last_conv="block5_relu",
            learning_rate=2e-3,
            year=2015,
            paper="ioffe2015",
        ),
        Architecture(
            name="mobilenet_v2",
            title="MobileNetV2",
            backbone=_mobilenet_v2,
            preprocessing="-1..1",
            channels=3,
            native_size=224,
            min_size=32,
            last_conv="out_relu",
            learning_rate=5e-3,
            year=2018,
            paper="sandler2018",
            pretrained=True,
        ),
    )
}
