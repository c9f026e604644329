"""A network as the saliency methods ask it: flat, float pixels in, logits out, cut at one layer.

The layers of the model are called once more, on symbolic tensors of their own, and keep their
weights: what is trained further is seen, and nothing of the model is changed, so any thread may go
on using it. Nested models become one graph, the softmax at the end is simply not called, and pixels
stay floats where the model takes integers, since no gradient passes a cast to those.
"""

from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import keras
import numpy.typing as npt
from keras import layers, ops

Tensor = Any  # of whichever backend Keras runs on, or symbolic
Array = npt.NDArray[Any]
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_LEAST_OUTPUT: Final = 1e-30  # before its logarithm; no gradient passes where it is raised to this
_LOCK: Final = RLock()
# By model: its sub-model of each layer, and each question, None while it has been put only once.
_CUT: Final[WeakKeyDictionary[keras.Model, dict[Any, Any]]] = WeakKeyDictionary()
_COMPILED: Final[WeakKeyDictionary[keras.Model, dict[Any, Any]]] = WeakKeyDictionary()


class Call(NamedTuple):
    """A layer or operation of the model, called in the flat graph.

    Attributes:
        operation: What is called.
        inputs: The symbolic tensors that go in.
        output: The one that comes out.
    """

    operation: keras.Operation
    inputs: list[Tensor]
    output: Tensor


class Submodel(NamedTuple):
    """A model in two parts, below and above the maps of a layer or, without one, the pixels.

    Attributes:
        calls: By the id of the output, each behind those that feed it.
        output: Of the whole model.
        below: From float pixels, shape (n, H, W, channels), to maps, shape (n, h, w, channels).
        above: From maps and pixels, since something may pass the maps by, to logits, (n, classes).
    """

    calls: dict[int, Call]
    output: Tensor
    below: keras.Model
    above: keras.Model


def scores(model: keras.Model, x: Array, target: Array) -> list[Array]:
    """The score of each image's target.

    A score is a logit; of a model whose logits cannot be reached, the logarithm of its output.

    Args:
        model: Functional or a built Sequential, of one input and one output.
        x: Pixels, float32, shape (n, H, W, channels).
        target: Class of each image, shape (n,); -1 is the predicted one.

    Returns:
        The scores, float32, and the classes that they are of, each of shape (n,).

    Example:
        >>> model = keras.Sequential([keras.Input((1, 1, 2)), layers.Flatten(), layers.Softmax()])
        >>> score, target = scores(model, [[[[3.0, 5.0]]]], [-1])
        >>> score.tolist(), target.tolist()  # before the softmax
        ([5.0], [1])
    """
    return _asked(_scores, model, None, x, target)


def gradients(model: keras.Model, layer: str | None, x: Array, target: Array) -> list[Array]:
    """Maps of a layer, or the pixels, and the gradient of the score there.

    Args:
        model: As in `scores`.
        layer: Name of a layer that is called once; None for the pixels.
        x: Pixels, float32, shape (n, H, W, channels).
        target: Class of each image, shape (n,); -1 is the predicted one.

    Returns:
        The maps and the gradients, float32, each of shape (n, h, w, channels).
    """
    return _asked(_gradients, model, layer, x, target)


def cut(model: keras.Model, layer: str | None = None) -> Submodel:
    """The two parts of a model, made at their first use.

    Args:
        model: As in `scores`.
        layer: Name of a layer that is called once, between the parts; None for the pixels.

    Returns:
        The parts, which go with the model when nothing else holds it.
    """
    with _LOCK:
        made = _CUT.setdefault(model, {})
        if layer not in made:
            made[layer] = _cut(model, layer)
        found: Submodel = made[layer]
        return found


# ---------------------------------------------------------------------------------------------
# The graph


def _cut(model: keras.Model, layer: str | None) -> Submodel:
    pixels = keras.Input(model.input_shape[1:], name="submodel_pixels")
    calls: dict[int, Call] = {}
    # As they are made, and as an input. Some versions of Keras refuse a model that gives its input.
    maps = [] if layer else [layers.Identity()(pixels), _input_like(pixels)]

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        inputs = [t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
        if isinstance(operation, keras.Model) and getattr(operation, "inputs", None):
            return _through(operation, inputs, call)
        names = {each.operation.name for each in calls.values() if each.operation is not operation}
        again = operation
        if operation.name in names:  # two nested models may have it; a graph has no name twice
            again = _Function(operation, f"{operation.name}_{len(calls)}")
        output = again(*args, **kwargs)
        if operation.name == layer:
            maps.extend([output, _input_like(output)])
            return maps[-1]
        for each in keras.tree.flatten(output):
            calls[id(each)] = Call(operation, inputs, each)
        return output

    (output,) = keras.tree.flatten(_through(model, maps[1:] or [pixels], call))
    above = keras.Model([maps[1], pixels], _logits(calls[id(output)]))
    return Submodel(calls, output, keras.Model(pixels, maps[0]), above)


def _input_like(tensor: Tensor) -> Tensor:
    return keras.Input(tensor.shape[1:], dtype=tensor.dtype, name="submodel_maps")


def _through(model: keras.Model, inputs: list[Tensor], call: Callable[..., Tensor]) -> Tensor:
    """What the model makes of symbolic inputs when each of its operations goes through `call`."""
    graph = keras.Model(model.inputs, model.outputs)  # a Sequential has one, too
    return graph._run_through_graph(inputs, lambda operation: partial(call, operation))


class _Function(layers.Layer):  # type: ignore[misc]
    """A function, or an operation under another name, as a layer."""

    def __init__(self, function: Callable[..., Tensor], name: str) -> None:
        super().__init__(name=name, autocast=False)
        self.function = function

    def call(self, *inputs: Tensor, **options: Any) -> Tensor:  # noqa: ANN401
        return self.function(*inputs, **options)


def _logits(last: Call) -> Tensor:
    """The score of each class, before the softmax if there is one at the end."""
    operation, activation = last.operation, getattr(last.operation, "activation", None)
    softmax = activation is keras.activations.softmax
    if isinstance(operation, layers.Softmax) or (softmax and not operation.weights):
        return last.inputs[0]
    if softmax and isinstance(operation, layers.Dense):
        return _Function(partial(_weighed, operation), "submodel_logits")(last.inputs[0])
    if activation is keras.activations.linear:
        return last.output
    return ops.log(ops.maximum(last.output, _LEAST_OUTPUT))


def _weighed(dense: layers.Dense, x: Tensor) -> Tensor:
    """A dense layer without its activation."""
    return ops.matmul(x, dense.kernel) + (dense.bias if dense.use_bias else 0.0)


# ---------------------------------------------------------------------------------------------
# Questions


def _scores(parts: Submodel, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return _score(parts, x, x, target)


def _gradients(parts: Submodel, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    maps = parts.below(x, training=False)
    gradient = _gradient(lambda at: ops.sum(_score(parts, at, x, target)[0]), maps)
    return ops.cast(maps, "float32"), ops.cast(gradient, "float32")


def _score(parts: Submodel, maps: Tensor, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = parts.above([maps, x], training=False)
    classes = ops.where(target < 0, ops.cast(ops.argmax(logits, axis=-1), "int32"), target)
    chosen = ops.take_along_axis(logits, classes[:, None], axis=1)[:, 0]
    return ops.cast(chosen, "float32"), classes


def _gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    if keras.backend.backend() == "jax":
        import jax

        return jax.grad(function)(at)
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(at)
        value = function(at)
    return tape.gradient(value, at, unconnected_gradients="zero")


def _asked(
    question: Callable[..., Any], model: keras.Model, layer: str | None, x: Array, target: Array
) -> list[Array]:
    """The answers. On TensorFlow the first is eager, since to trace a graph takes seconds."""
    step: Step = partial(question, cut(model, layer))
    key = question, layer
    with _LOCK:
        compiled = _COMPILED.setdefault(model, {})
        if key in compiled or keras.backend.backend() == "jax":
            step = compiled[key] = compiled.get(key) or _compiled(step, model)
        else:
            compiled[key] = None
    answers = step(ops.convert_to_tensor(x, "float32"), ops.convert_to_tensor(target, "int32"))
    return [ops.convert_to_numpy(answer) for answer in answers]


def _compiled(step: Step, model: keras.Model) -> Step:
    if keras.backend.backend() == "jax":
        return _compiled_by_jax(step, list(model.variables))
    import tensorflow as tf

    shapes = [tf.TensorSpec((None, *model.input_shape[1:])), tf.TensorSpec((None,), tf.int32)]
    compiled: Step = tf.function(step, input_signature=shapes, autograph=False)
    return compiled


def _compiled_by_jax(step: Step, variables: list[keras.Variable]) -> Step:
    """JAX keeps what a function closes over as it is, so the weights go in anew at each call."""
    import jax

    @jax.jit
    def with_weights(weights: list[Tensor], x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            return step(x, target)

    return lambda x, target: with_weights([each.value for each in variables], x, target)
