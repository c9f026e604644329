"""Fit a model and write its run folder; a killed training goes on where it stopped.

From scratch all layers learn at once. With ImageNet weights there are two stages: first the head,
on features that the frozen backbone computes once; then head and upper layers together at a low
rate, batch norm frozen throughout. A fusion may go the same way from its members' finished runs.

Fixed by the seed: initial weights, dropout, augmentation and, by seed and epoch, the order of the
images, so a resumed training sees what an unkilled one would. Not fixed: the last digits, since
sums on many threads and on GPUs are not always added in one order; and other machines, precisions
and library versions, which give other, equally good, models.

A run belongs to what decides it: the network as built, the optimizer, the split, its films, the
profile. All of it stands in `run.json` and is held against what is asked now. The circumstances
stand there, too, and decide nothing: the name of the corpus, device, versions, the precision that
the hardware allowed, and how many resamples are behind the intervals. So a run folder may travel,
and one that asked for bfloat16 is the same run on a processor that has only float32.
"""

import functools
import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from osteo_utils.data.images import cached_arrays, load_arrays
from osteo_utils.data.novelty import fit_novelty
from osteo_utils.data.splits import PARTS, split_identity
from osteo_utils.fingerprint import network_digests, plain
from osteo_utils.hardware import gpus, has_bfloat16
from osteo_utils.networks.cost import multiply_adds
from osteo_utils.networks.models import BACKBONES, Backbone, Weights, Width, build, unloaded
from osteo_utils.networks.saved import load_model
from osteo_utils.progress import progress, watched
from osteo_utils.registry import (
    CLASS_NAMES,
    Architecture,
    Profile,
    get_architecture,
    last_conv_layers,
)
from osteo_utils.runs import (
    PROBABILITY_COLUMNS,
    Run,
    RunError,
    differences,
    installed_versions,
    is_complete,
    member_folder,
    no_longer_fits,
    probabilities,
    read_run,
    settings_of,
    unfinished,
    write_run,
)
from osteo_utils.scoring.evaluate import bootstrap
from osteo_utils.store import locked, write_json

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

_WARM_UP: Final = 0.1  # share of the steps in which the learning rate rises
# Of a training that ends when it stops improving: the rate rises, and falls so often to a share.
_PLATEAU: Final = {"warm_up_epochs": 5, "falls": 1, "to": 0.1}
_WEIGHT_DECAY: Final = 1e-4
_HEAD_RATE: Final = 1e-3
_FINE_TUNING_RATE: Final = 5e-5
_HEAD_BATCH: Final = 32
_PACKAGES: Final = ("keras", "tensorflow", "jax", "torch", "numpy", "pandas", "scikit-learn")
_NOMINAL_STEPS: Final = 1000  # at which an optimizer is described, whatever the data
_METHOD_VERSION: Final = 2  # raise it when the same settings give another training


def load_parts(
    root: Path, split: pd.DataFrame, size: int, cache: Path | None = None
) -> dict[str, Arrays]:
    """Images and labels of each part, in the rows' order.

    Args:
        root: The folder of the corpus.
        split: Columns path, sha256, label and part.
        size: Side of the images in pixels.
        cache: A folder that keeps the decoded images of each size.

    Returns:
        Part to images, uint8, shape (n, size, size, 1), and labels, 0 to 2, shape (n,).

    Raises:
        ImageError: A file cannot be used as a radiograph, or is not the one that was split.
    """
    file = None if cache is None else Path(cache) / f"images_{size}.npz"
    paths, digests = [Path(root) / path for path in split["path"]], split["sha256"].tolist()
    images = load_arrays(paths, size, file, digests)[..., None]
    return by_part(images, split)


def by_part(images: npt.NDArray[np.uint8], split: pd.DataFrame) -> dict[str, Arrays]:
    """Images and labels of each part.

    Args:
        images: Shape (n, size, size, 1), in the rows' order.
        split: Columns label and part.

    Returns:
        Part to images and labels, as `load_parts` gives them.
    """
    labels = split["label"].to_numpy(dtype=np.int64)
    members = {part: (split["part"] == part).to_numpy() for part in PARTS}
    return {part: (images[rows], labels[rows]) for part, rows in members.items()}


def train(
    name: str,
    parts: Mapping[str, Arrays],
    split: pd.DataFrame,
    profile: Profile,
    seed: int,
    folder: Path,
    corpus: str = "simulated",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    replace_stale: bool = False,
    checkpoint_seconds: float = 0.0,
) -> Run:
    """The run of a model in a folder: read if whole, resumed if begun, else trained.

    Trains on the train part for `profile.epochs` (after `profile.head_epochs` of the head alone
    where it starts from the weights of ImageNet or of a fusion's members), keeps the epoch of
    lowest validation loss, and predicts validation and test once, at the end; no choice ever looks
    at the test part. With `profile.patience` it ends earlier, as soon as `plateau_rate` says so.

    Others who want the same run meanwhile wait for it and get it. An old run stays until the new
    one is trained.

    Args:
        name: Of the architecture, as `build` takes it.
        parts: What `load_parts` gives.
        split: The split that they are of.
        profile: The settings, as the model needs them (`registry.recipe`).
        seed: Fixes initial weights, dropout, augmentation and the order of the images.
        folder: Of the run.
        corpus: Name of the corpus, which is only written down.
        callbacks: Further Keras callbacks of the last stage.
        replace_stale: Train again, and print why, where the folder holds other work.
        checkpoint_seconds: Progress is written after an epoch, at most once in this time, and at
            the end.

    Returns:
        The run, read back from its folder.

    Raises:
        RunError: The training diverges; the parts are not those of the split; a member's run is
            missing; a run is damaged; or the folder holds work of another network, on another split
            or with other settings and `replace_stale` is not set.
        ValueError: The network cannot be built, see `models.build`.
    """
    folder = Path(folder)
    _check_parts(parts, split, profile.image_size, folder)
    with locked(folder):
        settings = settings_of(method_of(name, profile), split_identity(split), seed, folder)
        for member, digest in settings.get("members", {}).items():
            if digest is None:
                raise unfinished(member_folder(folder, member))
        profile, work = replace(profile, weights=settings["weights"]), folder / "progress"
        if is_complete(folder):
            run = read_run(folder)
            if _still_fits(run.info, settings, folder, replace_stale):
                shutil.rmtree(work, ignore_errors=True)  # of one killed while it tidied up
                return run
        _begin(work, settings, replace_stale)
        model = _new_model(name, profile, seed, precision(profile))
        if profile.weights == "members":
            _take_members(model, folder, settings)
        history = _fit(model, parts, profile, settings, work, checkpoint_seconds, callbacks)
        best = _best_model(name, profile, seed, work)
        predictions = _predict(best, parts, split, profile.batch_size)
        info = settings | _circumstances(profile, corpus, history)
        info["multiply_adds"] = _countable_multiply_adds(best)
        info["maps"] = last_conv_layers(name, profile.image_size)
        metrics = _metrics(predictions, profile.resamples, seed)
        novelty = fit_novelty(parts["train"][0], parts["validation"][0])
        run = write_run(folder, info, best, predictions, metrics, history, novelty.save)
        shutil.rmtree(work)
        return run


def _best_model(name: str, profile: Profile, seed: int, work: Path) -> keras.Model:
    """The model of the best epoch, in float32 whatever it was trained in."""
    file = _state(work)["best"]
    if file is None:
        raise _diverged(name, work)
    model = build(name, profile.image_size, unloaded(profile.weights), seed, width=profile.width)
    model.load_weights(work / file)
    model.run_eagerly = profile.for_tests
    return model


def _countable_multiply_adds(model: keras.Model) -> int | None:
    """Of one film; None for a network with layers that nobody can count."""
    try:
        return multiply_adds(model)
    except ValueError:
        return None


def _diverged(name: str, work: Path) -> RunError:
    found = f"none: the training of {name} diverged"
    remedy = "Lower its learning rate and delete the folder."
    expected = "a validation loss that is a number in some epoch"
    return RunError(work.parent, expected, found, remedy)


def _new_model(name: str, profile: Profile, seed: int, precision: str) -> keras.Model:
    pretrained: Weights = "imagenet" if profile.weights == "imagenet" else None
    return build(name, profile.image_size, pretrained, seed, precision, profile.width)


def _take_members(model: keras.Model, folder: Path, settings: Mapping[str, Any]) -> None:
    """Give each branch of a fusion the backbone of its member's finished run of the same seed.

    Raises `RunError` if such a run is missing or was trained on another split.
    """
    joined = model.get_layer("fused").input
    for member, vector in zip(get_architecture(settings["model"]).members, joined, strict=True):
        run = read_run(member_folder(folder, member), settings["split_hash"])
        trained = load_model(run)
        below = keras.Model(trained.input, trained.get_layer("dropout").input)
        keras.Model(model.input, vector).set_weights(below.get_weights())


def precision(profile: Profile) -> str:
    """The dtype policy to train in: that of the profile where the hardware is quick at it.

    Args:
        profile: Its `precision` is what is asked for.

    Returns:
        That, or "float32" where the processor, or one of the NVIDIA GPUs, has no bfloat16 units.

    Example:
        >>> precision(Profile("mine", 24, 96, 64, 2, 16, (0,), 50, None, "float32"))
        'float32'
    """
    wanted: str = profile.precision
    return wanted if wanted == "float32" or has_bfloat16() else "float32"


def _check_parts(parts: Mapping[str, Arrays], split: pd.DataFrame, size: int, folder: Path) -> None:
    for part in PARTS:
        expected = split.loc[split["part"] == part, "label"].to_numpy()
        images, labels = parts.get(part, (np.empty(0), np.empty(0)))
        shape = (len(expected), size, size, 1)
        if images.shape != shape or not np.array_equal(expected, labels):
            wanted = f"images of shape {shape} for the {part} part, labelled as in the split"
            found = f"shape {images.shape} or other labels"
            raise RunError(folder, wanted, found, "Use load_parts.")


def method_of(name: str, profile: Profile) -> dict[str, Any]:
    """The part of `runs.settings_of` that code and profile decide, whatever the data.

    Args:
        name: Of the architecture, as `build` takes it.
        profile: The settings, as the model needs them (`registry.recipe`).

    Returns:
        Settings as they stand in `run.json`. `members` names the networks whose finished runs a
        fusion is to start from.

    Raises:
        ValueError: The network cannot be built, see `models.build`.
    """
    architecture = get_architecture(name)
    from_members = profile.weights == "members" and architecture.members
    transfer = from_members or (profile.weights == "imagenet" and architecture.pretrained)
    weights = profile.weights if transfer else None
    thin_rate = architecture.thin_rate if profile.width == "thin" else None
    from_scratch = thin_rate or architecture.learning_rate
    rate = _FINE_TUNING_RATE if transfer else from_scratch
    branches = tuple(get_architecture(member) for member in architecture.members)
    branches = branches or (architecture,)
    builders = tuple(BACKBONES[each.name] for each in branches)
    size, width = profile.image_size, profile.width
    network = architecture, branches, builders, size, unloaded(weights), width
    digests, parameters = _network(*network)
    moved = [each.fine_tuned_from for each in branches]
    return {
        "class_names": list(CLASS_NAMES),
        "model": name,
        "preprocessing": architecture.preprocessing,
        "image_size": profile.image_size,
        "profile": profile.name,
        "weights": weights,
        "width": "published" if weights == "imagenet" else profile.width,
        "epochs": profile.epochs,
        "patience": profile.patience,
        "plateau": _PLATEAU if profile.patience else None,
        "head_epochs": profile.head_epochs if transfer else 0,
        "batch_size": profile.batch_size,
        "learning_rate": rate,
        "precision_asked": profile.precision,
        "network": digests,
        "parameters": parameters,
        "optimizer": _described(_optimizer(_rate(profile, rate, _NOMINAL_STEPS))),
        "head_optimizer": _described(_head_optimizer()) if transfer else None,
        "fine_tuned_from": moved if transfer else None,
        "class_weights": "balanced",
        "method": _METHOD_VERSION,
    } | ({"members": list(architecture.members)} if weights == "members" else {})


@functools.cache
def _network(
    architecture: Architecture,
    branches: tuple[Architecture, ...],
    builders: tuple[Backbone, ...],
    size: int,
    weights: Weights,
    width: Width,
) -> tuple[dict[str, str], int]:
    """Digests and parameters of a network as built now, once a process for each definition."""
    model = build(architecture.name, size, weights, width=width)
    return network_digests(model), model.count_params()


def _described(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    return {type(optimizer).__name__: plain(optimizer.get_config())}


def _still_fits(
    found: Mapping[str, Any], expected: Mapping[str, Any], folder: Path, replace_stale: bool
) -> bool:
    """Whether work in the folder has these settings; if not, an error, or a line that says so."""
    if not (changed := differences(found, expected)):
        return True
    if not replace_stale:
        raise no_longer_fits(folder, changed)
    print(f"{expected['model']}, seed {expected['seed']}: trained again, since {changed}.")
    return False


def _begin(work: Path, settings: dict[str, Any], replace_stale: bool) -> None:
    """Claim the folder for these settings, or check that it was claimed for the same."""
    file = work / "settings.json"
    if file.exists():
        found = json.loads(file.read_text(encoding="utf-8"))
        if _still_fits(found, settings, work.parent, replace_stale):
            return
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def _state(work: Path) -> dict[str, Any]:
    """What is done so far: names of the head's, the latest and the best weights, the history."""
    file = work / "state.json"
    if not file.exists():
        return {"head": None, "latest": None, "best": None, "history": []}
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def _fit(
    model: keras.Model,
    parts: Mapping[str, Arrays],
    profile: Profile,
    settings: Mapping[str, Any],
    work: Path,
    checkpoint_seconds: float,
    callbacks: Sequence[keras.callbacks.Callback],
) -> pd.DataFrame:
    images, labels = parts["train"]
    batches = _Batches(images, labels, profile.batch_size, settings["seed"])
    if settings["weights"]:
        _train_head(model, parts, settings, work)
        freeze(model, get_architecture(settings["model"]))
    keeper, rate = _Keeper(work, checkpoint_seconds), settings["learning_rate"]
    steps = len(batches) * profile.epochs
    _compile(model, _rate(profile, rate, steps), profile.for_tests)
    if begun := keeper.state["latest"]:
        model.load_weights(work / begun)
    plateau = [_Plateau(keeper, rate, profile.patience)] if profile.patience else []
    if plateau and plateau[0].next_rate() is None:
        return pd.DataFrame(keeper.rows)
    model.fit(
        batches,
        validation_data=parts["validation"],
        validation_batch_size=profile.batch_size,
        initial_epoch=len(keeper.rows) - settings["head_epochs"],
        epochs=profile.epochs,
        class_weight=_class_weights(labels),
        shuffle=False,  # the batches shuffle themselves, the same way after a kill
        callbacks=[_Order(batches), keeper, *plateau, _Bar(settings), *callbacks],
        verbose=0,
    )
    return pd.DataFrame(keeper.rows)


def _train_head(
    model: keras.Model, parts: Mapping[str, Arrays], settings: Mapping[str, Any], work: Path
) -> None:
    """First stage: the layers behind the features learn, from features computed once."""
    state = _state(work)
    if state["head"] is None:
        head, features = head_of(model), _cached_features(model, parts, settings, work)
        labels = parts["train"][1]
        batches = _Batches(features["train"], labels, _HEAD_BATCH, settings["seed"])
        head.compile(_head_optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
        history = _History("head")
        head.fit(
            batches,
            epochs=settings["head_epochs"],
            validation_data=(features["validation"], parts["validation"][1]),
            class_weight=_class_weights(labels),
            shuffle=False,
            callbacks=[_Order(batches), history, _Bar(settings, "head")],
            verbose=0,
        )
        if history.best is None:
            raise _diverged(settings["model"], work)
        head.set_weights(history.best[1])
        file = "head.weights.h5"
        model.save_weights(work / file)
        state = {"head": file, "latest": None, "best": file, "history": history.rows}
        write_json(work / "state.json", state)
    model.load_weights(work / state["head"])


def head_of(model: keras.Model) -> keras.Model:
    """What follows the features as a model of its own, on the same weights.

    Args:
        model: A network of `build`.

    Returns:
        A model from features, shape (n, features), to probabilities, shape (n, 3).
    """
    first = model.get_layer("dropout")
    x = inputs = keras.Input(first.input.shape[1:], name="features")
    for layer in model.layers[model.layers.index(first) :]:
        x = layer(x)
    return keras.Model(inputs, x)


def features_of(
    model: keras.Model, images: npt.NDArray[np.uint8], batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """The vector before the head for each image, without augmentation.

    Args:
        model: A network of `build`.
        images: uint8, shape (n, size, size, 1).
        batch_size: Images that are computed at once.

    Returns:
        Features, float32, shape (n, features).
    """
    below = keras.Model(model.input, model.get_layer("dropout").input)
    return np.asarray(below.predict(images, batch_size, verbose=int(watched())), dtype=np.float32)


def _cached_features(
    model: keras.Model, parts: Mapping[str, Arrays], settings: Mapping[str, Any], work: Path
) -> Mapping[str, npt.NDArray[np.float32]]:
    """Features of train and validation, shared by all seeds: the frozen backbone has none."""
    file = work.parent.parent / "features.npz"
    made_of = [settings[key] for key in ("split_hash", "films", "image_size", "weights")]
    made_of += [settings["network"]["backbone"], _weights_digest(model)]
    key = " ".join(map(str, made_of))
    return cached_arrays(
        file, key, lambda: {part: features_of(model, parts[part][0]) for part in PARTS[:2]}
    )


def _weights_digest(model: keras.Model) -> str:
    """A hash of the weights below the head."""
    sha256 = hashlib.sha256()
    for layer in model.layers[: model.layers.index(model.get_layer("dropout"))]:
        for weight in layer.get_weights():
            sha256.update(np.ascontiguousarray(weight).tobytes())
    return sha256.hexdigest()[:16]


def freeze(model: keras.Model, architecture: Architecture) -> None:
    """Second stage: leave the head and the upper layers trainable, never a batch norm.

    The layers before `architecture.fine_tuned_from` stand still, in a fusion those of each member.
    Batch norm stands still everywhere: its averages belong to the weights that it came with.

    Args:
        model: A network of `build`, changed in place.
        architecture: That of the network.

    Raises:
        ValueError: The model has no layer that is named so.
    """
    movable = {layer.name for layer in _upper_layers(model, architecture)}
    for layer in model.layers:
        layer.trainable = layer.name in movable and not isinstance(
            layer, keras.layers.BatchNormalization
        )


def _upper_layers(model: keras.Model, architecture: Architecture) -> list[keras.layers.Layer]:
    head: list[keras.layers.Layer] = model.layers[model.layers.index(model.get_layer("dropout")) :]
    names = [layer.name for layer in model.layers]
    if not architecture.members:
        return list(model.layers[names.index(architecture.fine_tuned_from) :])
    for member in architecture.members:
        own = [layer for layer in model.layers if layer.name.startswith(f"{member}_")]
        first = f"{member}_{get_architecture(member).fine_tuned_from}"
        head += own[[layer.name for layer in own].index(first) :]
    return head


def _compile(model: keras.Model, rate: Any, eagerly: bool) -> None:  # noqa: ANN401
    """Ready to fit; eagerly where a few steps do not pay for the tracing of a graph."""
    optimizer = _optimizer(rate)
    # Variables of the optimizer must exist before a checkpoint can be loaded into them.
    optimizer.build(model.trainable_variables)
    loss, metrics = "sparse_categorical_crossentropy", ["accuracy"]
    model.compile(optimizer, loss, metrics=metrics, run_eagerly=eagerly)


def _rate(profile: Profile, peak: float, steps: int) -> Any:  # noqa: ANN401
    """The learning rate of each step: linear warm-up and cosine decay to zero.

    (Loshchilov & Hutter 2017.) With `profile.patience` it is set by epoch, see `plateau_rate`.
    """
    if profile.patience:
        return peak
    warm_up = max(1, round(_WARM_UP * steps))
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=peak / 100,
        decay_steps=max(1, steps - warm_up),
        warmup_target=peak,
        warmup_steps=warm_up,
    )


def plateau_rate(losses: Sequence[float], peak: float, patience: int) -> float | None:
    """The learning rate of the next epoch after these validation losses.

    It rises to `peak` in five epochs and falls to a tenth after `patience` epochs without a lower
    loss. After `patience` more without one the training ends.

    Args:
        losses: Of the epochs so far.
        peak: The highest rate.
        patience: Epochs, 1 or more.

    Returns:
        The rate; None when it is enough.

    Example:
        >>> plateau_rate([], peak=1.0, patience=2)
        0.2
        >>> plateau_rate([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4, 0.4], peak=1.0, patience=2)
        0.1
        >>> print(plateau_rate([0.5, 0.5, 0.5, 0.5, 0.5], peak=1.0, patience=2))
        None
    """
    least, age, falls = np.inf, 0, 0
    for loss in losses:
        age = 0 if loss < least else age + 1
        least = min(least, loss)
        if age == patience:
            age, falls = 0, falls + 1
    if falls > _PLATEAU["falls"]:
        return None
    rising = min(1, (len(losses) + 1) / _PLATEAU["warm_up_epochs"])
    return float(peak * rising * _PLATEAU["to"] ** falls)


def _optimizer(rate: Any) -> keras.optimizers.Optimizer:  # noqa: ANN401
    """AdamW (Loshchilov & Hutter 2019)."""
    return keras.optimizers.AdamW(rate, weight_decay=_WEIGHT_DECAY)


def _head_optimizer() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(_HEAD_RATE)


def _class_weights(labels: npt.NDArray[np.int64]) -> dict[int, float]:
    """Weights that make every class count the same in the loss; their mean over images is 1."""
    counts = np.bincount(labels, minlength=len(CLASS_NAMES))
    return {c: len(labels) / (np.count_nonzero(counts) * n) for c, n in enumerate(counts) if n}


class _Bar(keras.callbacks.Callback):  # type: ignore[misc]
    """One bar for a training, an epoch a step, with the latest loss, where somebody watches."""

    def __init__(self, settings: Mapping[str, Any], part: str = "") -> None:
        super().__init__()
        self.what = f"training {settings['model']}, seed {settings['seed']} {part}".strip()

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self.bar = progress(None, self.what, self.params["epochs"], "epoch")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.bar.set_postfix(val_loss=f"{(logs or {})['val_loss']:.3f}", refresh=False)
        self.bar.update(epoch + 1 - self.bar.n)

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        self.bar.close()


class _History(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes down every epoch, and keeps the weights of the one of lowest validation loss."""

    def __init__(self, stage: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__()
        self.stage, self.rows = stage, list(rows)
        # Epoch and weights of one better than those before; none if no loss was a number.
        self.best: tuple[int, list[npt.NDArray[Any]]] | None = None

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        row: dict[str, Any] = {"epoch": len(self.rows) + 1} | {
            key: float(value) for key, value in (logs or {}).items()
        }
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = round(time.perf_counter() - self.started, 3)
        row["stage"] = self.stage
        if row["val_loss"] < np.nanmin([np.inf, *(r["val_loss"] for r in self.rows)]):
            self.best = row["epoch"], self.model.get_weights()
        self.rows.append(row)


class _Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one size in an order that depends on seed and epoch alone.

    As few as can be, of `batch_size` images at most. What is left over, fewer images than batches,
    waits for another epoch: JAX would compile the network again for a batch of another size.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8] | npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.images, self.labels, self.batch_size, self.seed = images, labels, batch_size, seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.labels))
        size = len(order) // len(self)
        self.batches = order[: size * len(self)].reshape(len(self), size)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.batch_size)

    def __getitem__(self, index: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        rows = self.batches[index]
        return self.images[rows], self.labels[rows]


class _Order(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the order of the images and all random states of an epoch."""

    def __init__(self, batches: _Batches) -> None:
        super().__init__()
        self.batches = batches

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.batches.start_epoch(epoch)
        _reseed(self.model, self.batches.seed, epoch)


class _Plateau(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the learning rate of each epoch by the losses so far, and ends the training."""

    def __init__(self, keeper: "_Keeper", peak: float, patience: int) -> None:
        super().__init__()
        self.keeper, self.peak, self.patience = keeper, peak, patience

    def next_rate(self) -> float | None:
        losses = [row["val_loss"] for row in self.keeper.rows if row["stage"] != "head"]
        return plateau_rate(losses, self.peak, self.patience)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.model.optimizer.learning_rate = self.next_rate()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self.model.stop_training = self.next_rate() is None


class _Keeper(_History):
    """Keeps latest weights (with optimizer), best weights and history on disk.

    Weights go into a file of their own first and `state.json`, which names them, is replaced last:
    whenever the process dies, the state names whole files of one and the same epoch.
    """

    def __init__(self, work: Path, seconds: float) -> None:
        self.work, self.seconds, self.state = work, seconds, _state(work)
        stage = "fine-tuning" if self.state["head"] else "scratch"
        super().__init__(stage, self.state["history"])
        self.written = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if time.perf_counter() - self.written >= self.seconds:
            self._write()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        if self.state["latest"] != self._file(len(self.rows)):
            self._write()

    def _write(self) -> None:
        latest = self._file(len(self.rows))
        self.model.save_weights(self.work / latest)
        if self.best is not None:
            epoch, weights = self.best
            if (best := self._file(epoch)) != latest:
                self._save(weights, best)
            self.state["best"], self.best = best, None
        self.state |= {"latest": latest, "history": self.rows}
        write_json(self.work / "state.json", self.state)
        self._tidy()
        self.written = time.perf_counter()

    def _save(self, weights: list[npt.NDArray[Any]], name: str) -> None:
        latest = self.model.get_weights()
        self.model.set_weights(weights)
        self.model.save_weights(self.work / name)
        self.model.set_weights(latest)

    @staticmethod
    def _file(epoch: int) -> str:
        return f"epoch{epoch:03d}.weights.h5"

    def _tidy(self) -> None:
        for file in self.work.glob("*.weights.h5"):
            if file.name not in (self.state[key] for key in ("head", "latest", "best")):
                file.unlink()


def _reseed(model: keras.Model, seed: int, epoch: int) -> None:
    """Set the random states of dropout and augmentation, which weight files do not carry."""
    states = [v for v in model.non_trainable_variables if "seed_generator_state" in v.name]
    for state, drawn in zip(
        states, np.random.SeedSequence((seed, epoch)).spawn(len(states)), strict=True
    ):
        state.assign(drawn.generate_state(2))


def _predict(
    model: keras.Model, parts: Mapping[str, Arrays], split: pd.DataFrame, batch_size: int
) -> pd.DataFrame:
    return pd.concat(
        [
            _rows(model.predict(parts[part][0], batch_size, verbose=0), split, part)
            for part in PARTS[1:]
        ],
        ignore_index=True,
    )


def _rows(predicted: npt.NDArray[np.float32], split: pd.DataFrame, part: str) -> pd.DataFrame:
    rows = split.loc[split["part"] == part, ["path", "group", "part", "label"]].reset_index(
        drop=True
    )
    return rows.assign(**dict(zip(PROBABILITY_COLUMNS, predicted.T.astype(float), strict=True)))


def _metrics(predictions: pd.DataFrame, resamples: int, seed: int) -> dict[str, Any]:
    def table(rows: pd.DataFrame) -> Any:  # noqa: ANN401
        found = bootstrap(rows["label"], probabilities(rows), rows["group"], resamples, seed)
        return json.loads(found.to_json(orient="index", double_precision=6))  # NaN becomes null

    return {str(part): table(rows) for part, rows in predictions.groupby("part", sort=False)}


def _ended_early(profile: Profile, history: pd.DataFrame) -> bool:
    """Whether validation had stopped improving; otherwise the planned epochs were over."""
    losses = history.loc[history["stage"] != "head", "val_loss"].tolist()
    return bool(profile.patience) and plateau_rate(losses, 1.0, profile.patience) is None


def _circumstances(profile: Profile, corpus: str, history: pd.DataFrame) -> dict[str, Any]:
    """What is written down and decides nothing."""
    return {
        "corpus": corpus,
        "resamples": profile.resamples,
        "precision": precision(profile),
        "device": (gpus() or ["cpu"])[0],
        "epochs_run": len(history),
        "ended_by": "plateau" if _ended_early(profile, history) else "epochs",
        "best_epoch": int(history["epoch"].iloc[history["val_loss"].argmin()]),
        "seconds": round(float(history["seconds"].sum()), 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"backend": keras.backend.backend()} | installed_versions(_PACKAGES),
    }
