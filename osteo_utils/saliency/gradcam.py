"""Which regions of a radiograph raise the score of a class: six methods over one shared flow.

Class-activation maps weigh the feature maps of a layer: Grad-CAM (Selvaraju et al. 2017),
Grad-CAM++ (Chattopadhay et al. 2018), Layer-CAM (Jiang et al. 2021), Score-CAM (Wang et al. 2020).
Occlusion (Zeiler & Fergus 2014) and integrated gradients (Sundararajan et al. 2017) work on pixels.

Every method is `method(model, images, target=None, layer=None, batch_size=32, flat="raise")`:

- `images` of shape (n, H, W, channels) as the model takes them, and raw float32 maps (n, h, w) out,
  unscaled, so that maps of one model can be compared; `batch_size` images go through in one pass.
- `target` is a class for all images, or one an image; None means the predicted class. Its score is
  the logit, since the softmax mixes in what speaks against other classes; of a model whose logits
  cannot be reached it is the logarithm of its output.
- `layer` defaults to `last_conv_layer(model)`; methods on pixels have none and refuse one.
- `model` is functional or a built Sequential, of one input (n, H, W, channels) and one output
  (n, classes); it may be nested.
- A map that is constant or not finite shows nothing, and no colour map should make it look like a
  finding: `CamError` names the first such image, or, with `flat="nan"`, the map is NaN throughout
  and one `CamWarning` counts them. `CamError` also tells of models, images, targets and layers that
  do not fit; for a wrong layer it lists the candidates.

The chosen layer's `call` is wrapped for one forward pass under a gradient tape and then restored,
so flat models, nested backbones and fused branches are all treated alike and no part of the model
is rebuilt. What is wrapped acts as ever in any other thread, which may go on calling the model.
Needs Keras on its TensorFlow backend, the one whose tape can watch inside a call.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from threading import RLock, get_ident
from typing import Any, Final, Literal, NamedTuple
from weakref import WeakKeyDictionary, ref

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import Layer, Model

from osteo_utils.networks.models import registry_name
from osteo_utils.registry import last_conv_layers

Maps = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Target = int | Sequence[int] | Ints | None
Flat = Literal["raise", "nan"]
Tensor = Any  # of TensorFlow
Tensors = tuple[Tensor, ...]
Pass = Callable[[Model, Layer | None, Tensor, Tensor], Tensors]

_LEAST_SPREAD: Final = 1e-6  # in units of the score; untrained MobileNetV2 gives 1e-11
_LEAST_OUTPUT: Final = 1e-30  # before its logarithm; no gradient passes where it is raised to this
_FINER: Final = 3  # power by which the steps of integrated gradients narrow towards the baseline
_LOCK: Final = RLock()  # two threads must not wrap one layer at the same time
# By model, the graph of each pass; None after the first run, which is eager.
_PASSES: Final[WeakKeyDictionary[Model, dict[Any, Any]]] = WeakKeyDictionary()


class CamError(ValueError):
    """No map can be made, or the map shows nothing."""


class CamWarning(UserWarning):
    """Some maps show nothing and are NaN."""


# ---------------------------------------------------------------------------------------------
# The methods


def grad_cam(
    model: Model,
    images: npt.ArrayLike,
    target: Target = None,
    layer: str | None = None,
    batch_size: int = 32,
    flat: Flat = "raise",
) -> Maps:
    """Grad-CAM: feature maps, each weighted by the mean gradient of the score; negatives cut to 0.

    Selvaraju et al. 2017. A map sums to what its regions add to the score, to first order.
    """
    return _cams(_mean_weighted, model, images, target, layer, batch_size, flat)


def _mean_weighted(features: Maps, gradients: Maps) -> Maps:
    return _weighted(features, gradients.mean(axis=(1, 2)))


def _weighted(features: Maps, weights: Maps) -> Maps:
    maps: Maps = np.einsum("nhwc,nc->nhw", features, weights)
    return maps


def grad_cam_plus_plus(
    model: Model,
    images: npt.ArrayLike,
    target: Target = None,
    layer: str | None = None,
    batch_size: int = 32,
    flat: Flat = "raise",
) -> Maps:
    """Grad-CAM++: as Grad-CAM, but only rising gradients count, and a lone place as much as many.

    Chattopadhay et al. 2018, equation 19: of exp(score) every higher derivative is a power of the
    first. The factor exp(score), common to a whole map, is left out, so the units stay the score's.
    """
    return _cams(_place_weighted, model, images, target, layer, batch_size, flat)


def _place_weighted(features: Maps, gradients: Maps) -> Maps:
    total = features.sum(axis=(1, 2), keepdims=True)
    below = 2 * gradients**2 + total * gradients**3
    shares = gradients**2 / np.where(below == 0, 1, below)
    return _weighted(features, (shares * np.maximum(gradients, 0)).sum(axis=(1, 2)))


def layer_cam(
    model: Model,
    images: npt.ArrayLike,
    target: Target = None,
    layer: str | None = None,
    batch_size: int = 32,
    flat: Flat = "raise",
) -> Maps:
    """Layer-CAM: every place of a feature map weighted by its own gradient, where that is rising.

    Jiang et al. 2021. Fine enough for early layers, where one weight for a whole map says little.
    """
    return _cams(_own_weighted, model, images, target, layer, batch_size, flat)


def _own_weighted(features: Maps, gradients: Maps) -> Maps:
    maps: Maps = (features * np.maximum(gradients, 0)).sum(axis=3)
    return maps


def score_cam(
    model: Model,
    images: npt.ArrayLike,
    target: Target = None,
    layer: str | None = None,
    batch_size: int = 32,
    flat: Flat = "raise",
    top: int | None = None,
) -> Maps:
    """Score-CAM: feature maps, each weighted by the score of the image seen through it alone.

    Wang et al. 2020: a map, stretched to 0..1, multiplies the image; the scores of all copies go
    through a softmax over the maps (so the score of a black image, subtracted there, cancels). No
    gradient; one pass a map and image. `top` keeps the maps that vary most, by standard deviation.
    """
    x, wanted = _prepared(model, images, target)
    chosen = _find_layer(model, layer)
    features, _ = _batched(_layer_pass, model, chosen, x, wanted, batch_size)
    order = np.argsort(-features.std(axis=(1, 2)), axis=1, kind="stable")[:, :top]
    features = np.take_along_axis(features, order[:, None, None], axis=3)
    low, high = features.min(axis=(1, 2), keepdims=True), features.max(axis=(1, 2), keepdims=True)
    masks = np.moveaxis((features - low) / np.where(high > low, high - low, 1), 3, 1)
    _, wanted = _batched(_score_pass, model, None, x, wanted, batch_size)
    scores = _masked_scores(
        model, x, wanted, masks.shape[1], lambda i, k: _laid(masks[i, k], x.shape[1:3]), batch_size
    )
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    maps = _weighted(features, weights / weights.sum(axis=1, keepdims=True))
    return _checked(np.maximum(maps, 0), f"at layer {chosen.name!r}", flat)


def occlusion(
    model: Model,
    images: npt.ArrayLike,
    target: Target = None,
    layer: None = None,
    batch_size: int = 32,
    flat: Flat = "raise",
    patch: int | None = None,
    stride: int | None = None,
    fill: float = 0.0,
) -> Maps:
    """Occlusion: how far the score falls when a square patch is covered; signed, one value a pixel.

    Zeiler & Fergus 2014. A pixel has the mean fall over all patches that cover it. `patch` (an
    eighth of the shorter side) and `stride` (half a patch) are in pixels; `fill` is the grey level
    of the patch, by default black: nothing absorbs there, so no bone.
    """
    x, wanted = _prepared(model, images, target)
    _refuse_layer(layer)
    hidden = _patches(x.shape[1:3], patch, stride)
    before, wanted = _batched(_score_pass, model, None, x, wanted, batch_size)
    after = _masked_scores(model, x, wanted, len(hidden), lambda _, k: ~hidden[k], batch_size, fill)
    covered = hidden.astype(np.float32)
    maps = np.tensordot(before[:, None] - after, covered, axes=1) / covered.sum(axis=0)
    return _checked(maps, "over the pixels", flat)


def integrated_gradients(
    model: Model,
    images: npt.ArrayLike,
    target: Target = None,
    layer: None = None,
    batch_size: int = 32,
    flat: Flat = "raise",
    steps: int = 32,
    baseline: npt.ArrayLike = 0.0,
    samples: int = 0,
    noise: float = 0.1,
    seed: int = 0,
) -> Maps:
    """Integrated gradients, signed, one value a pixel: its share of score(image) - score(baseline).

    Sundararajan et al. 2017: gradients along the straight path from the baseline, times the way.
    `baseline`, grey levels that broadcast to `images`, is black by default: nothing absorbs, so no
    bone. `steps` are finer towards it, since a model that standardises each image has its whole
    change just beside a plain one. `samples` above 0 averages over that many copies with normal
    noise of `noise` times the image's range (SmoothGrad, Smilkov et al. 2017), from `seed`, the
    same for every image.
    """
    x, wanted = _prepared(model, images, target)
    _refuse_layer(layer)
    _, wanted = _batched(_score_pass, model, None, x, wanted, batch_size)
    start = np.broadcast_to(np.asarray(baseline, dtype=np.float32), x.shape)
    drawn = np.random.default_rng(seed).normal(0, noise, (max(samples, 1), *x.shape[1:]))
    range_ = np.ptp(x, axis=(1, 2, 3), keepdims=True) * (samples > 0)
    edges = np.linspace(0, 1, steps + 1) ** _FINER
    place, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    total = np.zeros(x.shape)
    for i, s, k in _chunks((len(x), len(drawn), steps), batch_size):
        way = x[i] + drawn[s] * range_[i] - start[i]
        point = start[i] + place[k, None, None, None] * way
        (gradient,) = _run(_pixel_pass, model, None, point, wanted[i])
        np.add.at(total, i, width[k, None, None, None] * way * gradient)
    return _checked(total.sum(axis=3) / len(drawn), "over the pixels", flat)


METHODS: Final[dict[str, Callable[..., Maps]]] = {
    "grad_cam": grad_cam,
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "layer_cam": layer_cam,
    "score_cam": score_cam,
    "occlusion": occlusion,
    "integrated_gradients": integrated_gradients,
}
TITLES: Final[dict[str, str]] = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "layer_cam": "Layer-CAM",
    "score_cam": "Score-CAM",
    "occlusion": "Occlusion",
    "integrated_gradients": "Integrated gradients",
}
PIXEL_METHODS: Final = ("occlusion", "integrated_gradients")


# ---------------------------------------------------------------------------------------------
# Several branches, several models, one scale


def by_branch(
    model: Model,
    images: npt.ArrayLike,
    target: Target = None,
    layers: Mapping[str, str] | None = None,
    method: str = "grad_cam",
    **options: object,
) -> dict[str, Maps]:
    """The maps of every branch of a fused model, all for the same target.

    `layers` names a layer for each title, by default those of a model of the registry
    (`registry.last_conv_layers`), a fusion of two backbones included. `options` go to the method.
    """
    if layers is None:
        _check_model(model)
        try:
            layers = last_conv_layers(registry_name(model.name), model.input_shape[1])
        except ValueError as error:
            raise CamError(
                f"layers: expected a layer for each branch of {model.name!r}, which is not of the "
                f"registry; candidates: {', '.join(layer_candidates(model))}"
            ) from error
    explain = _method(method)
    return {
        title: explain(model, images, target, name, **options) for title, name in layers.items()
    }


class EnsembleMaps(NamedTuple):
    """Maps of an ensemble, all of one size, each divided by the sum of its absolute values."""

    members: list[Maps]
    mean: Maps


def ensemble_maps(
    models: Sequence[Model],
    images: Sequence[npt.ArrayLike],
    target: Target = None,
    method: str = "grad_cam",
    layers: Sequence[str | None] | None = None,
    weights: npt.ArrayLike | None = None,
    size: int | None = None,
    **options: object,
) -> EnsembleMaps:
    """The map of every member, made comparable, and their weighted mean, (n, size, size).

    `images` holds, for each model, the same images in its own size; `layers` a layer or None for
    each; `weights` are those of the vote (equal by default). Members score in units of their own,
    so each map counts by its shape alone. `target` None is the class of the weighted mean
    probability. `size` defaults to the longest side of the images. A map that is NaN (with
    `flat="nan"`) has no say in the mean of its image.
    """
    explain, pictures = _method(method), [np.asarray(x) for x in images]
    w = _weights(weights, len(models))
    layers = layers or [None] * len(models)
    if target is None:
        each = [m(x, training=False) for m, x in zip(models, pictures, strict=True)]
        target = np.tensordot(w, each, axes=1).argmax(axis=1)
    side = size or max(max(x.shape[1:3]) for x in pictures)
    members = [
        _shares(resized(explain(model, x, target, layer, **options), side))
        for model, x, layer in zip(models, pictures, layers, strict=True)
    ]
    say = w[:, None, None, None] * np.isfinite(members)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an image without a map
        mean = np.nansum(say * members, axis=0) / say.sum(axis=0)
    return EnsembleMaps(members, mean.astype(np.float32))


def _weights(weights: npt.ArrayLike | None, n: int) -> npt.NDArray[np.float64]:
    w: npt.NDArray[np.float64] = np.asarray(np.ones(n) if weights is None else weights, dtype=float)
    if n == 0 or w.shape != (n,) or (w < 0).any() or w.sum() <= 0:
        raise CamError(
            f"weights: expected one for each of {n} models, none of them negative; found {w}"
        )
    return np.asarray(w / w.sum())


def _shares(maps: Maps) -> Maps:
    total = np.abs(maps).sum(axis=(1, 2), keepdims=True)
    return np.asarray(maps / np.where(total > 0, total, 1), dtype=np.float32)


def _method(name: str) -> Callable[..., Maps]:
    if name not in METHODS:
        raise CamError(f"method: expected one of {', '.join(METHODS)}, found {name!r}")
    return METHODS[name]


def resized(maps: npt.ArrayLike, size: int) -> Maps:
    """Maps (n, h, w) laid over a film of `size` pixels: (n, size, size).

    Bilinear between the centres of cells, constant beyond the outermost. A NaN map stays NaN.
    """
    return _laid(np.asarray(maps, dtype=np.float32), (size, size))


def _laid(maps: Maps, shape: Sequence[int]) -> Maps:
    options = {"interpolation": "bilinear", "antialias": True, "data_format": "channels_last"}
    laid = keras.ops.image.resize(maps[..., None], tuple(shape), **options)
    return np.asarray(keras.ops.convert_to_numpy(laid)[..., 0])


def shared_limit(*maps: npt.ArrayLike) -> float:
    """The upper end of one display scale for all `maps`: their largest finite value."""
    values = np.concatenate([np.zeros(0), *(np.ravel(np.asarray(m, dtype=float)) for m in maps)])
    if not np.isfinite(values).any():
        raise CamError("maps: expected at least one finite value to scale by, found none")
    return float(values[np.isfinite(values)].max())


def peak(cam: npt.ArrayLike) -> tuple[int, int]:
    """Row and column of the strongest place of a map (h, w): its largest absolute value.

    In a signed map that may be what speaks most against the class. NaN counts for nothing.
    """
    size = np.abs(np.asarray(cam, dtype=float))
    if not np.isfinite(size).any():
        raise CamError("map: expected at least one finite value to find a peak, found none")
    row, column = np.unravel_index(int(np.nanargmax(size)), size.shape)
    return int(row), int(column)


# ---------------------------------------------------------------------------------------------
# Layers


def layer_candidates(model: Model) -> list[str]:
    """Names of the layers with feature maps larger than 1 x 1, first to last.

    Layers inside nested models are found too.
    """
    return [layer.name for layer in _all_layers(model) if _has_maps(layer)]


def last_conv_layer(model: Model) -> str:
    """Name of the layer that a CAM reads unless told otherwise.

    Of a model of the registry it is the one that the registry names for its size, of a fusion that
    of the first branch (`registry.last_conv_layers`; `by_branch` reads all): in VGG, as Selvaraju
    et al. 2017 did, the last convolution and not the coarser pooling behind it, in a small
    InceptionV3 the last maps that are larger than 1 x 1 and joined from all towers. Of any other
    model it is simply the last layer with feature maps, which with parallel branches is one of
    them: name it.
    """
    names = layer_candidates(model)
    if not names:
        raise CamError(
            f"{model.name}: expected a layer with feature maps, found none; Grad-CAM needs one"
        )
    _check_model(model)
    try:
        known = last_conv_layers(registry_name(model.name), model.input_shape[1])
    except ValueError:
        return names[-1]
    usual = next(iter(known.values()))
    return usual if usual in names else names[-1]


def _all_layers(model: Layer) -> Iterator[Layer]:
    for layer in model.layers:
        yield layer
        if getattr(layer, "layers", None):
            yield from _all_layers(layer)


def _has_maps(layer: Layer) -> bool:
    if isinstance(layer, keras.layers.InputLayer) or getattr(layer, "layers", None):
        return False
    try:
        shape = layer.output.shape
    except (AttributeError, ValueError):  # never called, or several outputs
        return False
    return len(shape) == 4 and shape[1] != 1


def _find_layer(model: Model, name: str | None) -> Layer:
    name = name or last_conv_layer(model)
    found = {id(layer): layer for layer in _all_layers(model) if layer.name == name}
    if len(found) > 1:
        raise CamError(f"layer: expected a name that one layer has, found {len(found)} {name!r}")
    if not found:
        raise _no_maps(model, name)
    return next(iter(found.values()))


def _no_maps(model: Model, name: str) -> CamError:
    return CamError(
        f"layer: expected one with feature maps that {model.name} calls, found {name!r}; "
        f"candidates, last first: {', '.join(reversed(layer_candidates(model)[-12:]))}"
    )


def _refuse_layer(layer: str | None) -> None:
    if layer is not None:
        raise CamError(f"layer: expected None, since this method works on pixels; found {layer!r}")


# ---------------------------------------------------------------------------------------------
# Passes through the model


def _cams(
    combine: Callable[[Maps, Maps], Maps],
    model: Model,
    images: npt.ArrayLike,
    target: Target,
    layer: str | None,
    batch_size: int,
    flat: Flat,
) -> Maps:
    """The flow of every gradient CAM: features and gradients of a layer, combined, cut at 0."""
    x, wanted = _prepared(model, images, target)
    chosen = _find_layer(model, layer)
    maps = combine(*_batched(_layer_pass, model, chosen, x, wanted, batch_size))
    return _checked(np.maximum(maps, 0), f"at layer {chosen.name!r}", flat)


def _masked_scores(
    model: Model,
    x: Maps,
    target: Ints,
    count: int,
    kept: Callable[[Ints, Ints], npt.NDArray[Any]],
    batch_size: int,
    fill: float = 0.0,
) -> Maps:
    """Score of every image under each of `count` masks, (n, count).

    `kept(i, k)`, (b, H, W), is the share that stays of images i under their masks k; the rest is
    `fill`. Copies of several images go through together.
    """
    scores = np.zeros((len(x), count), np.float32)
    for i, k in _chunks(scores.shape, batch_size):
        copies = fill + (x[i] - fill) * kept(i, k)[..., None]
        scores[i, k] = _run(_score_pass, model, None, copies, target[i])[0]
    return scores


def _batched(
    work: Pass,
    model: Model,
    layer: Layer | None,
    x: Maps,
    target: Ints,
    batch_size: int,
) -> list[npt.NDArray[Any]]:
    """The results of one pass over all images."""
    parts = [_run(work, model, layer, x[i], target[i]) for (i,) in _chunks((len(x),), batch_size)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _chunks(shape: tuple[int, ...], size: int) -> Iterator[tuple[Ints, ...]]:
    """Indices of all elements of an array of that shape, `size` at a time."""
    count = int(np.prod(shape))
    for start in range(0, count, size):
        yield np.unravel_index(np.arange(start, min(start + size, count)), shape)


def _run(
    work: Pass, model: Model, layer: Layer | None, x: npt.NDArray[Any], target: Ints
) -> list[npt.NDArray[Any]]:
    """One pass: eager the first time, since tracing takes seconds, and as a graph from then on."""
    with _LOCK:
        passes, key = _PASSES.setdefault(model, {}), (work, layer)
        if key in passes and passes[key] is None:
            passes[key] = _traced(work, model, layer)
        step = passes.setdefault(key, None) or partial(work, model, layer)
        results = step(tf.constant(x, tf.float32), tf.constant(target, tf.int64))
    return [result.numpy() for result in results]


def _traced(work: Pass, model: Model, layer: Layer | None) -> Callable[..., Tensors]:
    alive = ref(model)  # so that a model that is no longer needed is freed with its passes
    shapes = [tf.TensorSpec((None, *model.input_shape[1:])), tf.TensorSpec((None,), tf.int64)]

    def step(x: Tensor, target: Tensor) -> Tensors:
        return work(alive(), layer, x, target)

    traced: Callable[..., Tensors] = tf.function(step, input_signature=shapes, autograph=False)
    return traced


def _score_pass(model: Model, _: Layer | None, x: Tensor, target: Tensor) -> Tensors:
    """The target's score and the target, both (n,); a target of -1 is the class of the highest."""
    with _float_pixels(model), _folded(model), _logits_of(model) as score:
        (output,) = tf.nest.flatten(model(x, training=False))  # of {"name": tensor}, the tensor
        output = score(output)
    classes = tf.where(target < 0, tf.argmax(output, axis=-1), target)
    return tf.cast(tf.gather(output, classes, axis=1, batch_dims=1), tf.float32), classes


def _layer_pass(model: Model, layer: Layer, x: Tensor, target: Tensor) -> Tensors:
    """Feature maps of `layer` and the gradient of the score there, both (n, h, w, channels)."""
    with tf.GradientTape(watch_accessed_variables=False) as tape, _watched(layer, tape) as seen:
        score, _ = _score_pass(model, None, x, target)
    if not seen or len(getattr(seen[-1], "shape", ())) != 4:
        raise _no_maps(model, layer.name)
    if len(seen) > 1:
        raise CamError(
            f"layer: expected one that {model.name} calls once, found {layer.name!r} called "
            f"{len(seen)} times, with other maps each time; choose a layer behind the calls"
        )
    gradient = tape.gradient(score, seen[-1], unconnected_gradients="zero")
    return tf.cast(seen[-1], tf.float32), tf.cast(gradient, tf.float32)


def _pixel_pass(model: Model, _: Layer | None, x: Tensor, target: Tensor) -> Tensors:
    """Gradient of the score with respect to the pixels, shape of x."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        score, _ = _score_pass(model, None, x, target)
    gradient = tape.gradient(score, x)
    if gradient is None:
        raise CamError(f"{model.name}: expected a score that follows the pixels, found no gradient")
    return (gradient,)


@contextmanager
def _watched(layer: Layer, tape: tf.GradientTape) -> Iterator[list[Tensor]]:
    """The outputs of every call of `layer` in this block, watched by the tape."""
    seen: list[Tensor] = []
    original = layer.call

    def call(*args: object, **kwargs: object) -> Tensor:
        # A copy, so that no batch norm is folded into this layer.
        output = tf.nest.map_structure(tf.identity, original(*args, **kwargs))
        tape.watch(output)
        seen.append(output)
        return output

    with _replaced(layer, "call", call):
        yield seen


@contextmanager
def _float_pixels(model: Model) -> Iterator[None]:
    """In this block a model with an integer input takes floats as they are, at whatever depth.

    Keras would round them first, and no gradient passes a cast to integers.
    """
    with ExitStack() as stack:
        for part in (model, *_all_layers(model)):
            net = getattr(part, "_functional", None) or part  # a Sequential holds one
            if any("int" in str(x.dtype) for x in getattr(net, "inputs", None) or ()):
                stack.enter_context(_replaced(net, "_convert_inputs_to_tensors", list))
        yield


@contextmanager
def _folded(model: Model) -> Iterator[None]:
    """In this block batch norm just after a convolution scales the kernel, not the feature maps.

    The same numbers with fewer passes over memory: up to 1.7 times as fast. Only in a graph, where
    a tensor knows the operation it comes from and the first, unscaled convolution is left out.
    """
    with ExitStack() as stack:
        for layer in _all_layers(model):
            plain = type(layer) is keras.layers.BatchNormalization and "call" not in vars(layer)
            if plain and layer.axis in (-1, 3):
                stack.enter_context(_replaced(layer, "call", partial(_fold, layer, layer.call)))
        yield


def _fold(norm: Layer, call: Callable[..., Tensor], x: Tensor, **options: object) -> Tensor:
    made_by = x.op if tf.is_symbolic_tensor(x) and x.dtype == tf.float32 else None
    if made_by is None or made_by.type not in ("Conv2D", "DepthwiseConv2dNative"):
        return call(x, **options)
    scale = tf.math.rsqrt(norm.moving_variance + norm.epsilon)
    scale = scale * norm.gamma if norm.scale else scale
    offset = (norm.beta if norm.center else 0.0) - norm.moving_mean * scale
    image, kernel = made_by.inputs
    folded = kernel * tf.reshape(scale, kernel.shape[2:] if "Depth" in made_by.type else (-1,))
    how = {name: made_by.get_attr(name) for name in ("strides", "explicit_paddings", "dilations")}
    convolve = getattr(tf.raw_ops, made_by.type)
    padding = made_by.get_attr("padding").decode()
    return tf.nn.bias_add(convolve(input=image, filter=folded, padding=padding, **how), offset)


@contextmanager
def _logits_of(model: Model) -> Iterator[Callable[[Any], Any]]:
    """In this block the model leaves out its softmax; yields what makes its output a score."""
    final = _final_layer(model)
    with ExitStack() as stack:
        if isinstance(final, keras.layers.Softmax):
            stack.enter_context(_replaced(final, "call", lambda inputs, *_, **__: inputs))
        elif getattr(final, "activation", None) is keras.activations.softmax:
            stack.enter_context(_replaced(final, "activation", keras.activations.linear))
        elif getattr(final, "activation", None) is not keras.activations.linear:
            yield lambda output: keras.ops.log(keras.ops.maximum(output, _LEAST_OUTPUT))
            return
        yield lambda output: output


@contextmanager
def _replaced(layer: Layer, name: str, value: Callable[..., object]) -> Iterator[None]:
    """Set a function of a layer for this block and this thread alone, whatever happens in it.

    Another thread that calls the layer meanwhile, and may trace a graph to keep, has the old one.
    """
    own, owner = name in vars(layer), get_ident()
    before = getattr(layer, name)

    def by_thread(*args: object, **kwargs: object) -> object:
        return (value if get_ident() == owner else before)(*args, **kwargs)

    object.__setattr__(layer, name, by_thread)
    try:
        yield
    finally:
        if own:
            object.__setattr__(layer, name, before)
        else:
            object.__delattr__(layer, name)


def _final_layer(model: Model) -> keras.Operation:
    """What makes the output: a layer or an operation, inside the last nested model if need be."""
    final = model
    while getattr(final, "layers", None):
        outputs = getattr(final, "outputs", None)
        final = outputs[0]._keras_history.operation if outputs else final.layers[-1]
    return final


# ---------------------------------------------------------------------------------------------
# What goes in and what comes out


def _prepared(model: Model, images: npt.ArrayLike, target: Target) -> tuple[Maps, Ints]:
    """Images as float32 and a class for each, -1 for the predicted one; both checked."""
    if keras.backend.backend() != "tensorflow":
        raise CamError(
            f"Grad-CAM: expected Keras on TensorFlow, found {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow before starting Python"
        )
    x = np.asarray(images)
    _check_model(model)
    _check_images(model, x)
    wanted = np.full(len(x), -1) if target is None else class_indices(model, target, len(x))
    return x.astype(np.float32, copy=False), wanted


def _check_model(model: Model) -> None:
    """A model whose graph is known, of one input and one output that is a score for each class."""
    try:
        ends = model.input_shape, model.output_shape
    except AttributeError:  # a subclassed model has no graph, and neither has an unbuilt one
        raise CamError(
            f"{model.name}: expected a functional or built Sequential model, found a "
            f"{type(model).__name__} whose inputs and outputs are not known; wrap it as "
            "keras.Model(x, net(x)) with an x = keras.Input(...)"
        ) from None
    for end, name, axes in zip(ends, ("input", "output"), (4, 2), strict=True):
        if not isinstance(end, tuple) or len(end) != axes or isinstance(end[-1], tuple):
            what = "(n, H, W, channels)" if name == "input" else "(n, classes)"
            raise CamError(
                f"{model.name}: expected one {name} of shape {what}, found {end}; "
                "wrap the one that is meant in a keras.Model of its own"
            )


def _check_images(model: Model, x: npt.NDArray[Any]) -> None:
    shape = tuple(model.input_shape[1:])
    if x.dtype.kind not in "uif":
        raise CamError(f"images: expected an array of numbers, found one of {x.dtype}")
    fits = x.ndim == 4 and all(
        want in (None, has) for want, has in zip(shape, x.shape[1:], strict=True)
    )
    if not fits or len(x) == 0:
        raise CamError(f"images: expected shape (n, {', '.join(map(str, shape))}), found {x.shape}")
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        raise CamError("images: expected finite numbers, found NaN or infinity")
    grey = "int" in str(model.inputs[0].dtype)
    if grey and (low < 0 or high > 255 or (x.dtype.kind == "f" and 0 < high <= 1)):
        raise CamError(
            f"images: expected grey levels 0 to 255, as {model.name} takes them, found {x.dtype} "
            f"from {low:g} to {high:g}; scaling is part of the model"
        )


def class_indices(model: Model, target: Target, n: int) -> Ints:
    """The class of each of `n` images, (n,), from one class or one an image; checked."""
    classes, wanted = model.output_shape[-1], np.asarray(target)
    if wanted.ndim > 0 and wanted.shape != (n,):
        raise CamError(f"target: expected one class, or one for each of {n} images, found {target}")
    if wanted.dtype.kind not in "iu" or not ((wanted >= 0) & (wanted < classes)).all():
        raise CamError(
            f"target: expected whole class indices 0 to {classes - 1}, the outputs of "
            f"{model.name}, found {target}"
        )
    return np.broadcast_to(wanted.astype(np.int64), (n,))


def _patches(shape: Sequence[int], patch: int | None, stride: int | None) -> npt.NDArray[np.bool_]:
    """Squares that together cover an image, (count, H, W)."""
    side = max(min(shape) // 8, 1) if patch is None else patch
    step = max(side // 2, 1) if stride is None else stride
    if not 1 <= step <= side <= min(shape):
        raise CamError(
            f"occlusion: expected 1 <= stride <= patch <= {min(shape)} pixels, so that patches "
            f"cover the image; found stride {step}, patch {side}"
        )
    starts = [(*range(0, length - side, step), length - side) for length in shape]
    hidden = np.zeros((len(starts[0]) * len(starts[1]), *shape), dtype=bool)
    for mask, (top, left) in zip(hidden, product(*starts), strict=True):
        mask[top : top + side, left : left + side] = True
    return hidden


def _checked(maps: npt.NDArray[Any], where: str, flat: Flat) -> Maps:
    """A map sums to what its regions add to the score, so a spread far below 1 shows nothing."""
    spread = np.ptp(maps.reshape(len(maps), -1), axis=1) * maps[0].size
    dead = np.flatnonzero(~(spread > _LEAST_SPREAD))  # true for a NaN
    if len(dead) and flat == "raise":
        found = "numbers that are not finite" if np.isnan(spread[dead[0]]) else "a constant one"
        raise CamError(
            f"image {dead[0]}: expected a map that varies {where}, found {found}; no "
            "region speaks for this class: choose the predicted one (target=None), another layer, "
            "or train the model further"
        )
    if len(dead):
        warnings.warn(
            f"{len(dead)} of {len(maps)} maps {where} are constant or not finite and show nothing: "
            f"NaN for images {', '.join(map(str, dead[:12]))}",
            CamWarning,
            stacklevel=3,
        )
    maps = maps.astype(np.float32)
    maps[dead] = np.nan
    return maps
