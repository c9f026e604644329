"""The registry of architectures and one way to build each: flat, uint8 grey in, softmax out.

Augmentation and preprocessing are layers of the model, so a saved `.keras` file takes the pixels of
a radiograph as they are and needs no custom object. A backbone is built on the tensor of the
layers before it, never nested, so that `model.get_layer("Conv_1")` and Grad-CAM work directly.
Any Keras backend will do.
"""

import os
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import keras
import numpy as np
from keras import layers

from osteo_utils.registry import CLASS_NAMES, Architecture, get_architecture

Tensor = Any  # a symbolic tensor of whichever backend Keras runs on
# "unloaded" is the network that ImageNet's weights are for, before they are loaded.
Weights = Literal["imagenet", "unloaded"] | None
Width = Literal["thin", "published"]
Backbone = Callable[[Tensor, Weights, float], Tensor]  # images, weights, width to feature maps

_JOINT: Final = "_and_"  # instead of the + in the name of a Keras model, as TensorFlow allows

_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])  # red, green, blue of 0..1 photographs
_IMAGENET_SPREAD = np.array([0.229, 0.224, 0.225])
# Scale and offset that take grey levels from 0..1 to what the weights were trained on.
PREPROCESSING: Final[dict[str, tuple[Any, Any]]] = {
    "0..1": (1.0, 0.0),
    "-1..1": (2.0, -1.0),
    "bgr": (255.0, [-103.939, -116.779, -123.68]),  # as Caffe: blue first, mean subtracted
    "imagenet": (
        (1 / _IMAGENET_SPREAD).tolist(),
        (-_IMAGENET_MEAN / _IMAGENET_SPREAD).tolist(),
    ),
}


def _pooled(maps: Tensor, width: float) -> Tensor:
    return layers.GlobalAveragePooling2D(name="pooled")(maps)


def build(
    name: str,
    image_size: int,
    weights: Weights = None,
    seed: int = 0,
    precision: str = "float32",
    width: Width = "published",
) -> keras.Model:
    """A new model: uint8 (n, size, size, 1) in, float32 probabilities (n, 3) out.

    Layers: "radiograph", augmentation (in training alone), preprocessing, backbone, one vector an
    image ("pooled", of AlexNet its dense layers, of a fusion "fused"), dropout, "logits" and
    "probabilities" (both float32).

    Apply the model by `predict`, or call it with `training=False`: Keras' augmentation layers are
    on by default.

    Args:
        name: One of `ARCHITECTURES`, or backbones joined by "+" (`registry.fusion`).
        image_size: Side of the images in pixels, `min_size` of the architecture or more.
        weights: None to train from scratch, "imagenet", or "unloaded" for the network of "imagenet"
            that will get other weights.
        seed: Fixes the initial weights and the augmentation; the caller's random numbers go on as
            if nothing had been drawn.
        precision: Keras dtype policy of the backbone and of what lies between it and the logits.
        width: "published", or "thin" for the share of it that some hundred films can fill, see
            `Architecture.thin`; with ImageNet weights there is none but the published one.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: The name is unknown, the size too small, or the weights cannot be had.

    Example:
        >>> model = build("custom_cnn", 32)
        >>> model.input_shape, model.output_shape
        ((None, 32, 32, 1), (None, 3))
    """
    architecture = get_architecture(name)
    _check(architecture, image_size, weights, width)
    with seeded(seed), _policy(precision):
        inputs = keras.Input((image_size, image_size, 1), dtype="uint8", name="radiograph")
        published = weights is not None or width == "published"
        vector = _vector(architecture, _augment(inputs, seed), weights, published)
        answer = _head(vector, architecture.hidden)
        model = keras.Model(inputs, answer, name=name.replace("+", _JOINT))
    if weights is None:
        _quicken_batch_norm(model)
    return model


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let Keras draw initial weights by a seed; the caller's `random` is put back afterwards.

    Layers and initialisers take their seeds from `random` alone, on every backend.

    Args:
        seed: Of the draws inside the `with` block.

    Example:
        >>> import random
        >>> random.seed(7)
        >>> with seeded(0):
        ...     inside = random.random()
        >>> random.random() == random.Random(7).random()
        True
    """
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def unloaded(weights: str | None) -> Weights:
    """The network of some weights before they are loaded, as `build` takes it.

    Args:
        weights: What a training starts from, see `Profile.weights`.

    Returns:
        "unloaded" for ImageNet's weights, else None.
    """
    return "unloaded" if weights == "imagenet" else None


def registry_name(model_name: str) -> str:
    """The name by which `get_architecture` knows a model that `build` has made.

    Args:
        model_name: Name of the Keras model.

    Returns:
        The same, of a fusion with the "+" that a Keras model may not have in its name.

    Example:
        >>> registry_name("vgg16_and_inception_v3")
        'vgg16+inception_v3'
    """
    return model_name.replace(_JOINT, "+")


def _check(architecture: Architecture, image_size: int, weights: Weights, width: Width) -> None:
    name = architecture.name
    if image_size < architecture.min_size:
        raise ValueError(
            f"{name}: expected images of {architecture.min_size} px or more, found {image_size}"
        )
    if weights not in (None, "imagenet", "unloaded"):
        expected = "None, 'imagenet' or 'unloaded'"
        raise ValueError(f"{name}: expected weights {expected}, found {weights!r}")
    if width not in ("thin", "published"):
        raise ValueError(f"{name}: expected width 'thin' or 'published', found {width!r}")
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
        # One layer that refuses to be compiled makes JAX do a whole network step by step.
        layer.supports_jit = layer.supports_jit or keras.backend.backend() == "jax"
        x = layer(x)
    return x


def _vector(architecture: Architecture, x: Tensor, weights: Weights, published: bool) -> Tensor:
    """One vector an image, of a fusion the joined vectors of its members."""
    if not architecture.members:
        ready = _preprocess(x, architecture, weights)
        width = 1.0 if published else architecture.thin
        with _explained_download(architecture.title):
            maps = BACKBONES[architecture.name](ready, weights, width)
        return SUMMARIES.get(architecture.name, _pooled)(maps, width)
    vectors = [_prefixed(get_architecture(m), x, weights, published) for m in architecture.members]
    return layers.Concatenate(name="fused")(vectors)


def _prefixed(member: Architecture, x: Tensor, weights: Weights, published: bool) -> Tensor:
    """The vector of one member, the layers behind it named after it."""
    vector = _vector(member, x, weights, published)
    for layer in keras.Model(x, vector).layers:
        if not isinstance(layer, layers.InputLayer):
            layer.name = f"{member.name}_{layer.name}"
    return vector


def _preprocess(x: Tensor, architecture: Architecture, weights: Weights) -> Tensor:
    """From 0..1 to the channels and the range that the backbone expects.

    From scratch nothing is expected, and each image is standardised on top (mean 0, deviation 1):
    exposure says nothing about bone.
    """
    scale, offset = PREPROCESSING[architecture.preprocessing]
    if architecture.channels == 3:
        x = layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    x = layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")(x)
    if weights:
        return x
    options = {"center": False, "scale": False, "dtype": "float32"}
    return layers.GroupNormalization(1, name="standardised", **options)(x)


def _quicken_batch_norm(model: keras.Model) -> None:
    """Let the running statistics follow within tens of steps, not hundreds (from scratch only)."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9


def _head(vector: Tensor, hidden: int) -> Tensor:
    x = layers.Dropout(0.2, name="dropout")(vector)
    if hidden:
        x = layers.Dense(hidden, activation="relu", name="hidden")(x)
    x = layers.Dense(len(CLASS_NAMES), dtype="float32", name="logits")(x)
    return layers.Activation("softmax", dtype="float32", name="probabilities")(x)


def _custom_cnn(x: Tensor, weights: Weights, width: float) -> Tensor:
    """Blocks of convolution, batch norm and ReLU, each on half the side: 0.4 M parameters."""
    for block, filters in enumerate((16, 32, 64, 128, 256), start=1):
        if block > 1:
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"block{block}_conv")(x)
        x = layers.BatchNormalization(name=f"block{block}_bn")(x)
        x = layers.ReLU(name=f"block{block}_relu")(x)
    return x


def alexnet_maps(x: Tensor, batch_norm: bool = False, width: float = 1.0) -> Tensor:
    """The five convolutions of AlexNet, its two towers joined into one (Krizhevsky et al. 2012).

    Local response normalisation, of little use even then (Simonyan & Zisserman 2015), is left out.

    Args:
        x: Images, symbolic, shape (n, h, w, channels).
        batch_norm: Puts batch norm after each convolution, in place of its bias.
        width: Share of the filters of each convolution, above 0.

    Returns:
        The last 256 maps after ReLU; those of images of 227 px are 13 x 13.

    Example:
        >>> alexnet_maps(keras.Input((227, 227, 3))).shape
        (None, 13, 13, 256)
    """
    shapes = (
        (96, 11, 4, "valid"),
        (256, 5, 1, "same"),
        *((n, 3, 1, "same") for n in (384, 384, 256)),
    )
    for number, (published, side, stride, padding) in enumerate(shapes, start=1):
        if number in (2, 3):
            x = layers.MaxPooling2D(3, 2, name=f"pool{number - 1}")(x)
        filters, bias = round(published * width), not batch_norm
        x = layers.Conv2D(filters, side, stride, padding, use_bias=bias, name=f"conv{number}")(x)
        x = layers.BatchNormalization(name=f"conv{number}_bn")(x) if batch_norm else x
        x = layers.ReLU(name=f"conv{number}_relu")(x)
    return x


def alexnet_vector(maps: Tensor, width: int = 4096, batch_norm: bool = False) -> Tensor:
    """The last pooling and the two dense layers of AlexNet.

    Args:
        maps: What `alexnet_maps` gives.
        width: Units of each dense layer.
        batch_norm: Puts batch norm after each dense layer, in place of its bias.

    Returns:
        The vector of each image, shape (n, width).
    """
    x = layers.MaxPooling2D(3, 2, name="pool5")(maps)
    x = layers.Flatten(name="flattened")(x)
    for number in (6, 7):
        x = layers.Dropout(0.5, name=f"dropout{number}")(x)
        x = layers.Dense(width, use_bias=not batch_norm, name=f"dense{number}")(x)
        x = layers.BatchNormalization(name=f"dense{number}_bn")(x) if batch_norm else x
        x = layers.ReLU(name=f"dense{number}_relu")(x)
    return x


def _alexnet(x: Tensor, weights: Weights, width: float) -> Tensor:
    return alexnet_maps(x, batch_norm=True, width=width)


def _alexnet_summary(maps: Tensor, width: float) -> Tensor:
    """Its width is that of the dense layers, which hold 58 of AlexNet's 62 million weights."""
    return alexnet_vector(maps, width=round(4096 * width), batch_norm=True)


def _centred_start(model: keras.Model) -> None:
    """Draw the kernels so that unit variance and zero mean pass from layer to layer.

    What ReLU lets through has a mean of 0.40 and a variance of 0.34 of a unit normal. The mean is
    the same for every image, and layer by layer it drowns what differs between them, with Glorot's
    start and with He's (He et al. 2015). Filters that sum to zero do not pass it on, and a
    variance of 1 / (0.34 inputs) keeps the rest. Batch norm does the same in every step.
    """
    seeds = keras.random.SeedGenerator()
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            shape = layer.kernel.shape
            kernel = keras.random.normal(shape, stddev=_relu_gain(shape), seed=seeds)
            layer.kernel.assign(kernel - keras.ops.mean(kernel, axis=(0, 1, 2), keepdims=True))


def _relu_gain(shape: tuple[int, ...]) -> float:
    variance_after_relu = 0.5 - 0.5 / np.pi
    return float((variance_after_relu * np.prod(shape[:3])) ** -0.5)


def _application(class_name: str, start: Callable[[keras.Model], None] | None = None) -> Backbone:
    """A backbone of `keras.applications`, without its top, on the tensor before it.

    `start` draws its kernels where it is trained from scratch.
    """

    def backbone(x: Tensor, weights: Weights, width: float) -> Tensor:
        application = getattr(keras.applications, class_name)
        options = {"include_top": False, "weights": _file(weights)}
        with warnings.catch_warnings():  # some take the weights for 224 px at any size, as wanted
            warnings.filterwarnings("ignore", ".*input_shape. is undefined")
            if width == 1:
                maps = application(input_tensor=x, **options).output
            else:
                maps = narrowed(application(input_shape=x.shape[1:], **options), x, width)
        if start is not None and weights is None:
            start(keras.Model(x, maps))
        return maps

    return backbone


def narrowed(network: keras.Model, x: Tensor, width: float) -> Tensor:
    """What a network gives on a tensor if every convolution has a share of its filters.

    The graph, the names of the layers and all other settings are those of the network; the weights
    are new.

    Args:
        network: Has one input and one output.
        x: Takes the place of its input, symbolic, shape (n, h, w, channels).
        width: Share of the filters of each convolution, above 0.

    Returns:
        The output, symbolic.

    Example:
        >>> vgg16 = keras.applications.VGG16(include_top=False, weights=None)
        >>> narrowed(vgg16, keras.Input((64, 64, 3)), 0.25).shape
        (None, 2, 2, 128)
    """
    outputs = []

    def with_fewer_filters(layer: keras.layers.Layer) -> keras.layers.Layer:
        settings = layer.get_config()
        if "filters" in settings:
            settings["filters"] = max(1, round(width * settings["filters"]))
        return type(layer).from_config(settings)

    def call(layer: keras.layers.Layer, *arguments: Any, **options: Any) -> Tensor:  # noqa: ANN401
        outputs.append(layer(*arguments, **options))
        return outputs[-1]

    keras.models.clone_model(
        network, input_tensors=x, clone_function=with_fewer_filters, call_function=call
    )
    return outputs[-1]  # that of the clone would be on an input of its own


def _file(weights: Weights) -> Weights:
    """What `keras.applications` is to load."""
    return None if weights == "unloaded" else weights


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


# What builds the feature maps of each architecture, and what sums them up to one vector.
BACKBONES: Final[dict[str, Backbone]] = {
    "custom_cnn": _custom_cnn,
    "alexnet": _alexnet,
    "vgg16": _application("VGG16", _centred_start),
    "vgg19": _application("VGG19", _centred_start),
    "resnet50": _application("ResNet50"),
    "inception_v3": _application("InceptionV3"),
    "xception": _application("Xception"),
    "densenet121": _application("DenseNet121"),
    "mobilenet_v2": _application("MobileNetV2"),
}
SUMMARIES: Final[dict[str, Callable[[Tensor, float], Tensor]]] = {"alexnet": _alexnet_summary}
