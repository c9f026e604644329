"""Grad-CAM: which regions of a radiograph raise the score of a class (Selvaraju et al. 2017).

The chosen layer's `call` is wrapped for one forward pass under a gradient tape and then restored,
so flat models, nested backbones and fused branches are all treated alike and no part of the model
is rebuilt. Needs Keras on its TensorFlow backend, the one whose tape can watch inside a call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

Maps = npt.NDArray[np.float32]

_LEAST_SPREAD: Final = 1e-6  # in units of the score; untrained MobileNetV2 gives 1e-11
_LOCK: Final = RLock()  # two threads must not wrap one layer at the same time


class CamError(ValueError):
    """No map can be made, or the map shows nothing."""


def last_conv_layer(model: keras.Model) -> str:
    """Name of the last layer with feature maps: larger than 1 x 1, before they are pooled away.

    In a network of convolution, batch norm and ReLU blocks that is the last ReLU. Layers inside
    nested models are found too.
    """
    names = _spatial_layers(model)
    if not names:
        raise CamError(
            f"{model.name}: expected a layer with feature maps, found none; Grad-CAM needs one"
        )
    return names[-1]


def grad_cam(
    model: keras.Model,
    images: npt.ArrayLike,
    target: int | Sequence[int] | None = None,
    layer: str | None = None,
    batch_size: int = 32,
) -> Maps:
    """Raw maps, float32 (n, h, w) in the resolution of the layer, for images (n, H, W, channels).

    Each map is the sum of the layer's feature maps, weighted by the mean gradient of the target's
    score, with negative values cut to 0: unscaled, so maps of one model can be compared. The score
    is the logit, since the softmax mixes in what speaks against other classes; of a model whose
    logits cannot be reached it is the logarithm of its output. `target` is a class for all images,
    or one an image; None means the predicted class. `layer` defaults to `last_conv_layer(model)`.

    Raises `CamError` for an unknown layer (candidates are listed) and for a map that is constant or
    not finite (the image's index is named), which no colour map should make look like a finding.
    """
    if keras.backend.backend() != "tensorflow":
        raise CamError(
            f"Grad-CAM: expected Keras on TensorFlow, found {keras.backend.backend()}; "
            "set KERAS_BACKEND=tensorflow before starting Python"
        )
    x = np.asarray(images)
    _check_images(model, x)
    wanted = _targets(target, len(x))
    chosen = _find_layer(model, layer or last_conv_layer(model))
    batches = range(0, len(x), batch_size)
    with _LOCK:
        maps = [
            _batch_maps(model, chosen, x[i : i + batch_size], wanted[i : i + batch_size])
            for i in batches
        ]
    return _checked(np.concatenate(maps), chosen.name)


def _batch_maps(
    model: keras.Model, layer: keras.Layer, x: npt.NDArray[Any], target: npt.NDArray[np.int64]
) -> Maps:
    features, gradients = _features_and_gradients(model, layer, x, target)
    weights = gradients.mean(axis=(1, 2))
    maps: Maps = np.einsum("nhwc,nc->nhw", features, weights)
    return np.maximum(maps, 0)


def _features_and_gradients(
    model: keras.Model, layer: keras.Layer, x: npt.NDArray[Any], target: npt.NDArray[np.int64]
) -> tuple[Maps, Maps]:
    """Feature maps of `layer` and the gradient of the target's score, both (n, h, w, channels).

    A target of -1 is the class of the highest score.
    """
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        with _watched(layer, tape) as seen, _logits_of(model) as score:
            output = score(model(x, training=False))
        if not seen:
            raise CamError(f"layer {layer.name!r}: expected one that the model calls; it does not")
        columns = tf.where(target < 0, tf.argmax(output, axis=-1), target)
        chosen = tf.gather(output, columns, axis=1, batch_dims=1)
    gradient = tape.gradient(chosen, seen[-1], unconnected_gradients="zero")
    return tf.cast(seen[-1], tf.float32).numpy(), tf.cast(gradient, tf.float32).numpy()


@contextmanager
def _watched(layer: keras.Layer, tape: Any) -> Iterator[list[Any]]:  # noqa: ANN401
    """The outputs of every call of `layer` in this block, watched by the tape."""
    seen: list[Any] = []
    original = layer.call

    def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        output = original(*args, **kwargs)
        tape.watch(output)
        seen.append(output)
        return output

    with _replaced(layer, "call", call):
        yield seen


@contextmanager
def _logits_of(model: keras.Model) -> Iterator[Callable[[Any], Any]]:
    """In this block the model leaves out its softmax; yields what makes its output a score."""
    final = _final_layer(model)
    with ExitStack() as stack:
        if isinstance(final, keras.layers.Softmax):
            stack.enter_context(_replaced(final, "call", lambda inputs, *_, **__: inputs))
        elif getattr(final, "activation", None) is keras.activations.softmax:
            stack.enter_context(_replaced(final, "activation", keras.activations.linear))
        elif getattr(final, "activation", None) is not keras.activations.linear:
            yield lambda output: keras.ops.log(keras.ops.maximum(output, 1e-30))
            return
        yield lambda output: output


@contextmanager
def _replaced(layer: keras.Layer, name: str, value: Any) -> Iterator[None]:  # noqa: ANN401
    """Set an attribute of a layer for this block alone, whatever happens in it."""
    own = name in vars(layer)
    before = getattr(layer, name)
    object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        if own:
            object.__setattr__(layer, name, before)
        else:
            object.__delattr__(layer, name)


def _final_layer(model: keras.Model) -> keras.Operation:
    """What makes the output: a layer or an operation, inside the last nested model if need be."""
    final = model
    while getattr(final, "layers", None):
        outputs = getattr(final, "outputs", None)
        final = outputs[0]._keras_history.operation if outputs else final.layers[-1]
    return final


def _all_layers(model: keras.Layer) -> Iterator[keras.Layer]:
    for layer in model.layers:
        yield layer
        if getattr(layer, "layers", None):
            yield from _all_layers(layer)


def _spatial_layers(model: keras.Model) -> list[str]:
    return [layer.name for layer in _all_layers(model) if _has_maps(layer)]


def _has_maps(layer: keras.Layer) -> bool:
    try:
        shape = layer.output.shape
    except (AttributeError, ValueError):  # never called, or several outputs
        return False
    return len(shape) == 4 and shape[1] != 1 and not getattr(layer, "layers", None)


def _find_layer(model: keras.Model, name: str) -> keras.Layer:
    for layer in _all_layers(model):
        if layer.name == name:
            return layer
    raise CamError(
        f"layer: expected one with feature maps of {model.name}, found {name!r}; "
        f"candidates, last first: {', '.join(reversed(_spatial_layers(model)[-12:]))}"
    )


def _check_images(model: keras.Model, x: npt.NDArray[Any]) -> None:
    shape = tuple(model.input_shape[1:])
    fits = x.ndim == 4 and all(
        want in (None, has) for want, has in zip(shape, x.shape[1:], strict=True)
    )
    if not fits or len(x) == 0:
        raise CamError(f"images: expected shape (n, {', '.join(map(str, shape))}), found {x.shape}")


def _targets(target: int | Sequence[int] | None, n: int) -> npt.NDArray[np.int64]:
    wanted = np.asarray(-1 if target is None else target, dtype=np.int64)
    if wanted.ndim > 0 and wanted.shape != (n,):
        raise CamError(f"target: expected one class, or one for each of {n} images, found {target}")
    if target is not None and (wanted < 0).any():
        raise CamError(f"target: expected class indices from 0, found {target}")
    return np.broadcast_to(wanted, (n,))


def _checked(maps: Maps, layer: str) -> Maps:
    """A map sums to what its regions add to the score, so a spread far below 1 shows nothing."""
    spread = np.ptp(maps.reshape(len(maps), -1), axis=1) * maps[0].size
    alive = spread > _LEAST_SPREAD  # false for a NaN
    if not alive.all():
        index = int(np.argmin(alive))
        found = "numbers that are not finite" if np.isnan(spread[index]) else "a constant one"
        raise CamError(
            f"image {index}: expected a map that varies at layer {layer!r}, found {found}; no "
            "region speaks for this class: choose the predicted one (target=None), another layer, "
            "or train the model further"
        )
    return maps
