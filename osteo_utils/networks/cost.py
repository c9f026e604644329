"""What a network costs: parameters, multiply-adds, milliseconds and memory.

Multiply-adds are a fact about the network, milliseconds one about the network and the machine.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from keras import layers

from osteo_utils.fingerprint import nodes_of, sources_of

FLOAT32_BYTES: Final = 4
_MEGABYTE: Final = 1e6

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Call:
    """One use of a layer in a model; shapes are without the batch.

    Attributes:
        index: Its place in the order of computation.
        layer: A `keras.Layer`, or a bare Keras operation such as `a + b`.
        parents: Indices of the calls whose outputs it takes.
        inputs: Shapes of what it takes.
        output: Shape of its first output.
    """

    index: int
    layer: Any
    parents: tuple[int, ...]
    inputs: tuple[Shape, ...]
    output: Shape


def calls(model: keras.Model) -> list[Call]:
    """Every use of a layer on the way from the inputs to the outputs, in an order of computation.

    A nested model is one call.

    Args:
        model: A functional model, or a sequential one that has been built.

    Returns:
        The calls, each after those whose outputs it takes.

    Raises:
        ValueError: The model has never been built, or it is neither functional nor sequential.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3)])
        >>> [call.output for call in calls(model)]
        [(8, 8, 1), (6, 6, 4)]
    """
    if not getattr(model, "outputs", None):
        raise ValueError(
            f"{model.name}: expected a functional or built sequential model, found none of them; "
            "build it from keras.Input"
        )
    nodes = nodes_of(model)
    place = {node: number for number, node in enumerate(nodes)}
    return [
        Call(
            place[layer, number],
            layer,
            tuple(place[source] for source in sources_of((layer, number))),
            tuple(tuple(tensor.shape[1:]) for tensor in layer._inbound_nodes[number].input_tensors),
            tuple(layer._inbound_nodes[number].output_tensors[0].shape[1:]),
        )
        for layer, number in nodes
    ]


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of convolutions and dense layers for one image, as papers count them.

    Each weight of a kernel is used once at every output position (of a transposed convolution:
    input position); windows that reach into the padding count in full. Biases, normalisation,
    activations and pooling are left out.

    Args:
        model: As `calls` takes it; models inside it are counted as well.

    Returns:
        Their number.

    Raises:
        ValueError: A layer has another kind of weight matrix, a map has no fixed size, or `calls`
            does not take the model.

    Example:
        >>> same = layers.Conv2D(4, 3, padding="same")  # 8 * 8 places, 3 * 3 * 1 * 4 weights
        >>> multiply_adds(keras.Sequential([keras.Input((8, 8, 1)), same]))
        2304
    """
    return sum(_multiply_adds(call) for call in calls(model))


def _multiply_adds(call: Call) -> int:
    if isinstance(call.layer, keras.Model):
        return multiply_adds(call.layer)
    if isinstance(call.layer, layers.Conv2DTranspose | layers.Conv1DTranspose):
        shape = call.inputs[0]
    else:
        shape = call.output
    used = sum(math.prod(kernel.shape) for kernel in kernels(call.layer))
    return used * _size(shape[:-1], call) if used else 0


def kernels(layer: Any) -> list[Any]:  # noqa: ANN401
    """The weight arrays of a layer that are laid over its input.

    Args:
        layer: A layer or a bare Keras operation.

    Returns:
        One array of a convolution or a dense layer, two of a separable one; none for most kinds of
        layer and for a model.

    Raises:
        ValueError: A layer has weight matrices but no kernel: its multiply-adds are unknown.
    """
    if isinstance(layer, layers.SeparableConv2D | layers.SeparableConv1D):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    if getattr(layer, "kernel", None) is not None:
        return [layer.kernel]
    matrices = [w.path for w in getattr(layer, "trainable_variables", ()) if len(w.shape) > 1]
    if matrices and not isinstance(layer, keras.Model):
        raise ValueError(
            f"{layer.name}: expected a convolution or a dense layer, found a "
            f"{type(layer).__name__} with the weights {matrices}; its multiply-adds are unknown"
        )
    return []


def _size(shape: Shape, call: Call) -> int:
    if None in shape:
        raise ValueError(
            f"{call.layer.name}: expected maps of a fixed size, found {shape}; build the model "
            "with the image size in keras.Input"
        )
    return math.prod(side for side in shape if side is not None)


def memory(model: keras.Model) -> dict[str, int]:
    """Bytes of a network in float32.

    `activations` is the output of every layer, of several outputs the first, inputs left out. That
    is an upper bound on what training keeps for the gradient; prediction frees most of it on the
    way.

    Args:
        model: As `calls` takes it; models inside it are counted as well.

    Returns:
        `weights` of the model, and `activations` of one image.

    Raises:
        ValueError: A map has no fixed size, or `calls` does not take the model.

    Example:
        >>> same = layers.Conv2D(4, 3, padding="same")  # 36 weights, 4 biases, 8 * 8 * 4 outputs
        >>> memory(keras.Sequential([keras.Input((8, 8, 1)), same]))
        {'weights': 160, 'activations': 1024}
    """
    return {
        "weights": FLOAT32_BYTES * model.count_params(),
        "activations": FLOAT32_BYTES * _activations(model),
    }


def _activations(model: keras.Model) -> int:
    total = 0
    for call in calls(model):
        if isinstance(call.layer, keras.Model):
            total += _activations(call.layer)
        elif not isinstance(call.layer, layers.InputLayer):
            total += _size(call.output, call)
    return total


def milliseconds(model: keras.Model, batch: npt.NDArray[Any], repeats: int = 5) -> float:
    """Median time of a forward pass, after one pass to warm up.

    Args:
        model: Any Keras model.
        batch: Its input, an image in each row.
        repeats: How many passes are timed.

    Returns:
        Milliseconds an image, on this machine and in batches of this size.
    """
    model.predict_on_batch(batch)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict_on_batch(batch)
        taken.append(time.perf_counter() - start)
    return 1000 * float(np.median(taken)) / len(batch)


def cost_table(models: Mapping[str, keras.Model], batch_size: int = 8) -> pd.DataFrame:
    """Cost of each model, a row each.

    Multiply-adds and `activations_mb` are for one image. `milliseconds` is measured here and now on
    noise; a megabyte is a million bytes.

    Args:
        models: Name to model; each takes one input of a fixed size, with values 0 to 255.
        batch_size: Images in a batch when the time is measured.

    Returns:
        Index the names, columns parameters, multiply_adds, milliseconds, weights_mb and
        activations_mb.

    Raises:
        ValueError: The cost of a model cannot be told, see `multiply_adds`.
    """
    return pd.DataFrame.from_dict(
        {name: _row(model, batch_size) for name, model in models.items()}, orient="index"
    )


def _row(model: keras.Model, batch_size: int) -> dict[str, float]:
    noise = np.random.default_rng(0).integers(0, 256, (batch_size, *model.input_shape[1:]))
    needed = memory(model)
    return {
        "parameters": model.count_params(),
        "multiply_adds": multiply_adds(model),
        "milliseconds": milliseconds(model, noise.astype(model.input.dtype)),
        "weights_mb": needed["weights"] / _MEGABYTE,
        "activations_mb": needed["activations"] / _MEGABYTE,
    }
