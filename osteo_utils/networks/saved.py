"""From a finished run back to its network."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.runs import Run, RunError

if TYPE_CHECKING:
    import keras

_LOG: Final = logging.getLogger(__name__)
_FOREIGN: Final = (
    "No network of this course as it is now, so its layers come from the file; open only runs that "
    "you trained or whose maker you trust."
)


def load_model(run: Run) -> "keras.Model":
    """The trained Keras model of a run, loaded anew: uint8 grey in, probabilities out.

    A network of the registry is float32, whatever it was trained in. What `load_with_note` remarks
    is told on stderr.

    Args:
        run: A finished run.

    Returns:
        The model, not compiled.

    Raises:
        RunError: As `load_with_note` raises it.
    """
    model, note = load_with_note(run)
    if note:
        print(note, file=sys.stderr)
    return model


def load_with_note(run: Run) -> "tuple[keras.Model, str]":
    """The trained Keras model of a run, and what a reader must know of its origin.

    A network of the registry is built here, and only numbers are read from the file. Any other is
    read from the file, layers and all, in Keras' safe mode, and the note says so: open such runs
    only from people you trust.

    Args:
        run: A finished run.

    Returns:
        The model, not compiled, and the note, "" for a network of the registry.

    Raises:
        RunError: The file is damaged, or its images or answers are not those of the course.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import keras
        >>> own = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
        >>> own.add(keras.layers.Dense(3, "softmax"))  # 8 * 8 * 3 weights, 3 biases
        >>> with TemporaryDirectory() as folder:
        ...     own.save(Path(folder) / "model.keras")
        ...     model, note = load_with_note(Run(Path(folder), {"image_size": 8}, None, {}, None))
        >>> model.count_params(), "open only runs that you trained" in note
        (195, True)
    """
    file = run.folder / "model.keras"
    model = _build_by_name(run)
    try:
        if model is not None:
            model.load_weights(file)
            return model, ""
        model = _read_layers(file)
        _check_answers(model, run.info["image_size"], file)
    except RunError:
        raise
    except Exception as error:  # a damaged archive makes Keras raise nearly anything
        _LOG.debug("%s", file, exc_info=True)
        found = f"{type(error).__name__}: {error}"
        raise RunError(file, "a saved Keras model", found, "Train again.") from error
    return model, f"{file}: {_FOREIGN}"


def _build_by_name(run: Run) -> Any:  # noqa: ANN401
    """The network that the registry builds under this name, if it is the one that was trained."""
    from osteo_utils.fingerprint import network_digests
    from osteo_utils.networks.models import build, unloaded

    if not isinstance(known := run.info.get("network"), dict):
        return None
    weights = unloaded(run.info.get("weights"))
    try:
        model = build(
            *(run.info["model"], run.info["image_size"], weights, run.info["seed"]),
            width=run.info.get("width", "thin"),
        )
    except ValueError:  # no network of this name or size any more
        return None
    return model if network_digests(model) == known else None


def _read_layers(file: Path) -> Any:  # noqa: ANN401
    """The network as its file describes it."""
    import keras

    model = keras.models.load_model(file, compile=False, safe_mode=True)
    if isinstance(getattr(model, "input", None), list) and len(model.inputs) == 1:
        # So Keras 3.10 reads any single input, and then warns whenever films come without a list.
        model = keras.Model(model.inputs[0], model.output)
    return model


def _check_answers(model: Any, size: int, file: Path) -> None:  # noqa: ANN401
    """`RunError` unless films of that size go in and, of a grey one, probabilities come out."""
    classes = len(CLASS_NAMES)
    shapes, wanted = [model.input_shape, model.output_shape], [(size, size, 1), (classes,)]
    if [tuple(shape[1:]) if isinstance(shape, tuple) else shape for shape in shapes] != wanted:
        expected = f"films of {size} x {size} x 1 in and {classes} probabilities out"
        found = f"the shapes {shapes[0]} and {shapes[1]}"
        raise RunError(file, expected, found, f"Build it for them and train again. {_FOREIGN}")
    answer = np.asarray(model.predict_on_batch(np.full((1, size, size, 1), 128, np.uint8)))
    if not np.isclose(answer.sum(), 1, atol=1e-3) or (answer < 0).any():
        found = f"{answer[0].tolist()} for a grey film"
        remedy = f"End the network in a softmax and train again. {_FOREIGN}"
        raise RunError(file, "probabilities that sum to 1", found, remedy)
