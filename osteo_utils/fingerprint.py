"""What a network is made of as short digests, the same with every Keras, backend and machine.

`model.to_json()` will not do: it numbers layers by how many were built before, and gains keys
with every version. Here a layer is its class, the settings in which it differs from its class's
defaults, the precision and the shapes of its weights, and which rows before it feed it; names do
not count. Of a layer that is none of Keras' the source of its own methods and its class's constants
count as well, but not the functions which these call.

What no digest holds: the values of the initial weights. How a layer draws them is one of its
settings, but what a builder changes afterwards is not seen, nor is a change inside Keras; after
such a change raise `networks.training._METHOD_VERSION`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from inspect import getsource, isfunction, signature
from itertools import takewhile
from typing import Any, Final

import keras

# No part of the network: seeds of a run, Keras' order of axes; the tensors tell the precision.
_NO_SETTINGS: Final = {"trainable", "dtype", "seed", "data_format"}  # frozen layers: see `_call`
_PREPARE: Final = ("grey_to_rgb", "preprocessing")  # begin the backbone
_OF_KERAS: Final = {"name", "module", "registered_name", "build_config"}

Node = tuple[Any, int]  # an operation, and which of its calls


def network_digests(model: keras.Model) -> dict[str, str]:
    """Digests of augmentation, backbone and head of a network.

    The augmentation ends before the first layer that prepares pixels for a backbone, the head
    begins with the layer "dropout".

    Args:
        model: A network of `models.build`.

    Returns:
        A `digest` for each of "augmentation", "backbone" and "head".

    Raises:
        ValueError: `models.build` made no such network, or a layer that is none of Keras' has its
            code in no file and no notebook.
    """
    nodes = nodes_of(model)
    names = [operation.name for operation, _ in nodes]
    prepared = [i for i, name in enumerate(names) if name.endswith(_PREPARE)]
    if not prepared or "dropout" not in names:
        expected = f"a layer {' or '.join(_PREPARE)}, and behind the backbone a layer dropout"
        raise ValueError(f"{model.name}: expected {expected}, as models.build makes; found {names}")
    first, head = prepared[0], names.index("dropout")
    rows = describe(model)
    parts = {"augmentation": rows[:first], "backbone": rows[first:head], "head": rows[head:]}
    return {name: digest(part) for name, part in parts.items()}


def describe(model: keras.Model) -> list[dict[str, Any]]:
    """Each call of a layer, in the order of the data, as plain JSON values.

    Args:
        model: A functional model, or a sequential one that has been built.

    Returns:
        A row for each call, with class, settings, options of the call, precision of its outputs,
        shapes of its weights, and, of a layer that is none of Keras', a digest of its source.
        "from" counts the rows back to those that feed it, as negative numbers; "same" likewise to
        the first call of its layer, 0 if this is it.

    Raises:
        ValueError: A layer that is none of Keras' has its code in no file and no notebook.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> [(row["class"], row["weights"], row["from"]) for row in describe(model)]
        [('InputLayer', [], []), ('Dense', [[4, 2], [2]], [-1])]
    """
    nodes = nodes_of(model)
    place = {node: number for number, node in enumerate(nodes)}
    first: dict[Any, int] = {}  # a layer that is called twice has its weights once
    for number, (operation, _) in enumerate(nodes):
        first.setdefault(operation, number)
    return [
        _call(node)
        | {"from": [place[source] - place[node] for source in sources_of(node)]}
        | {"same": first[node[0]] - place[node]}
        for node in nodes
    ]


def plain(value: Any) -> Any:  # noqa: ANN401
    """The settings of a Keras object as JSON values.

    Args:
        value: Anything. An array becomes a list, a slice its text, any other object the name of its
            class.

    Returns:
        The same in mappings, lists, texts, numbers and truth values. Mappings lose what is None or
        False, and the names that Keras gives.

    Example:
        >>> plain({"units": 2, "name": "dense_7", "use_bias": False, "axis": (1, 2)})
        {'units': 2, 'axis': [1, 2]}
    """
    if isinstance(value, Mapping):
        kept = {str(key): plain(v) for key, v in value.items() if key not in _OF_KERAS}
        return {key: v for key, v in kept.items() if v is not None and v is not False}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, slice) or value is Ellipsis:
        return str(value)
    return plain(value.tolist()) if hasattr(value, "tolist") else type(value).__name__


def digest(content: Any) -> str:  # noqa: ANN401
    """Sixteen hexadecimal digits that stand for JSON values.

    Args:
        content: What JSON can hold; the order of the keys is no matter.

    Returns:
        The beginning of the SHA-256 of the JSON text.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _call(node: Node) -> dict[str, Any]:
    operation, number = node
    call = operation._inbound_nodes[number]
    options = {k: v for k, v in call.arguments.kwargs.items() if not _holds_tensor(v)}
    weights = getattr(operation, "weights", [])
    frozen = {"frozen": True} if weights and not operation.trainable else {}
    return {
        "class": type(operation).__name__,
        "settings": plain(_settings(operation)),
        "options": plain(options | _constants(call.arguments.args)) | frozen,
        "precision": [str(tensor.dtype) for tensor in call.output_tensors],
        "weights": [list(weight.shape) for weight in weights],
    } | _source(type(operation))


def _source(kind: type) -> dict[str, str]:
    """A digest of what a class defines, up to the first class of Keras in its ancestry, if any."""
    own = takewhile(lambda each: each.__module__.partition(".")[0] != "keras", kind.__mro__)
    members = [member for each in own for member in vars(each).items()]
    code = [(name, _code(value, kind)) for name, value in members if _counts(name, value)]
    return {"source": digest(code)} if code else {}


def _function(value: Any) -> Any:  # noqa: ANN401
    """The function in a method, a static or class method, or a property; else the value itself."""
    return getattr(value, "__func__", getattr(value, "fget", value))


def _counts(name: str, value: Any) -> bool:  # noqa: ANN401
    return isfunction(_function(value)) or not (name.startswith("_") or callable(value))


def _code(value: Any, kind: type) -> Any:  # noqa: ANN401
    if not isfunction(function := _function(value)):
        return plain(value)
    try:
        return getsource(function)
    except OSError as error:
        raise ValueError(
            f"{kind.__name__}: expected a layer whose code is in a file or a notebook, found none "
            f"({error}); without it a change of the network would go unseen"
        ) from error


def _constants(arguments: Sequence[Any]) -> dict[str, list[Any]]:
    """What was given by position beside tensors, in its place, as 2 in `x * 2` or `1 - x`."""
    places = ["tensor" if _holds_tensor(value) else value for value in arguments]
    return {} if all(_holds_tensor(value) for value in arguments) else {"positions": places}


def _holds_tensor(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, list | tuple):
        return any(_holds_tensor(each) for each in value)
    return hasattr(value, "_keras_history")


def _settings(operation: Any) -> dict[str, Any]:  # noqa: ANN401
    """What its builder chose; a setting that a later Keras adds has its default in older models."""
    defaults = signature(type(operation).__init__).parameters
    standard = {key: parameter.default for key, parameter in defaults.items()}
    chosen = {
        key: value
        for key, value in operation.get_config().items()
        if key not in _NO_SETTINGS and not (key in standard and standard[key] == value)
    }
    # `plain` leaves out what says no; switching off what is on by default is a choice.
    off = {key for key, value in chosen.items() if value in (None, False) and standard.get(key)}
    return chosen | dict.fromkeys(off, "off")


def nodes_of(model: keras.Model) -> list[Node]:
    """Every call of a layer between input and output, each behind those that feed it.

    Args:
        model: A functional model, or a sequential one that has been built.

    Returns:
        For each call the layer, or the bare Keras operation, and which of its calls it is.
    """
    order: dict[Node, None] = {}
    stack = [_node(tensor) for tensor in reversed(model.outputs)]
    while stack:
        waiting = [source for source in sources_of(stack[-1]) if source not in order]
        if waiting:
            stack.append(waiting[0])
        else:
            order.setdefault(stack.pop())
    return list(order)


def sources_of(node: Node) -> list[Node]:
    """The calls that feed a call.

    Args:
        node: Of `nodes_of`.

    Returns:
        One for each tensor that it takes, in their order.
    """
    operation, number = node
    return [_node(tensor) for tensor in operation._inbound_nodes[number].input_tensors]


def _node(tensor: Any) -> Node:  # noqa: ANN401
    history = tensor._keras_history
    return history.operation, history.node_index
