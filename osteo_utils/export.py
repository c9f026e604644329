"""A trained network as a file that a web page can run: ONNX, checked against Keras.

The file gives two outputs, the class probabilities and the last feature maps. Where these maps are
averaged and one dense layer follows, every class-activation map is a weighted sum of them (Zhou et
al. 2016) and equals Grad-CAM of the logit, so a page needs no gradients to draw one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from PIL import Image

from osteo_utils.data.novelty import FILE, REMARK, SIDE, Novelty
from osteo_utils.errors import CourseError
from osteo_utils.inference import Member, open_member
from osteo_utils.networks.training import Arrays
from osteo_utils.phantom import simulate_knee
from osteo_utils.registry import CLASS_NAMES, SALIENCY_CMAP, class_of_t_score, get_architecture
from osteo_utils.runs import Run, model_digest, probabilities, run_digest
from osteo_utils.saliency.gradcam import Maps
from osteo_utils.scoring.evaluate import wilson
from osteo_utils.store import replace_file

OPSET: Final = 17
TOLERANCE: Final = 1e-4  # of a probability, from the same pixels
MAP_TOLERANCE: Final = 1e-3  # of a heatmap, relative to its maximum
COMPARED: Final = 64  # films, of test first, on which `write_site` compares
LEAST_SPREAD: Final = 1e-3  # of the probabilities over the images that are compared
EXAMPLE_T_SCORES: Final = (0.4, -1.7, -2.4, -3.8)
_FILMS_IN_BIN: Final = 20  # the least that make a share worth telling


class ExportError(CourseError):
    """A network that cannot be exported, or whose export does not do what the network does."""


class AlikeError(ExportError):
    """A network that gives every film the same answer: nothing to compare, nothing to offer."""


def export_onnx(member: Member, images: npt.ArrayLike, folder: Path | str) -> Path:
    """Write the network of `member` to `folder` and return the file, `<model>-<digest>.onnx`.

    Input "radiograph", uint8 (n, size, size, 1); outputs "probabilities" (n, 3), in the order of
    `CLASS_NAMES`, and "features" (n, h, w, channels). `images` like the input, real films and not
    noise, are those on which the file is compared with Keras before it gets its name.

    Raises `ExportError` for a network whose maps are not pooled straight into one dense layer, and
    if probabilities or heatmaps differ (`TOLERANCE`, `MAP_TOLERANCE`); `AlikeError` if the
    probabilities are so alike between the images that the comparison would say nothing.
    """
    run, network = member.run, with_features(member.network)
    content = _converted(network, run)
    _compare(content, network, np.asarray(images), run.folder)
    name = f"{run.info['model']}-{hashlib.sha256(content).hexdigest()[:12]}.onnx"
    target = Path(folder) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, lambda part: part.write_bytes(content))
    return target


def with_features(model: keras.Model) -> keras.Model:
    """The same network with a second output: the feature maps that it averages.

    Raises `ExportError` if they are not averaged straight into the one dense layer "logits".
    """
    layers = {layer.name: layer for layer in model.layers}
    pooled, logits = layers.get("pooled"), layers.get("logits")
    if not isinstance(pooled, keras.layers.GlobalAveragePooling2D) or logits is None:
        raise ExportError(
            model.name,
            "global average pooling ('pooled') and one dense layer ('logits') at its end",
            ", ".join(layer.name for layer in model.layers[-4:]),
            "Its heatmaps need gradients, which a page has not: export another network.",
        )
    if (inputs := logits.kernel.shape[0]) != (pooled_maps := pooled.output.shape[-1]):
        raise ExportError(
            model.name,
            "nothing to learn between 'pooled' and 'logits'",
            f"{pooled_maps} maps pooled for {inputs} inputs",
            "Export a network without a hidden layer.",
        )
    return keras.Model(model.input, [model.output, pooled.input], name=model.name)


def class_maps(features: npt.ArrayLike, kernel: npt.ArrayLike) -> Maps:
    """Class-activation maps (n, h, w, 3) from feature maps (n, h, w, c) and weights (c, 3).

    max(0, features . kernel) / (h w): what each place adds to the logit of each class, without
    the bias, negative values cut to 0 as in Grad-CAM. It is Grad-CAM for such a network, because
    the gradient of the logit is kernel / (h w) at every place.
    """
    x = np.asarray(features, dtype=np.float32)
    maps: Maps = np.maximum(x @ np.asarray(kernel, dtype=np.float32), 0) / (x.shape[1] * x.shape[2])
    return maps


def confidence_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """How often a network is right, by how sure it is: up to five bins of as many films each.

    One row a bin of the highest probability: `low`, `high` (edges), `count`, `right` (films), and
    `value`, `from`, `to`: their share with its 95 % interval (Wilson 1927, each film for itself:
    where all films of a bin are right, no resample of them has a wrong one).
    """
    p = probabilities(predictions)
    top = p.max(axis=1)
    right = p.argmax(axis=1) == predictions["label"].to_numpy()
    bins = int(np.clip(len(top) // _FILMS_IN_BIN, 1, 5))
    inner = np.unique(np.quantile(top, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(inner, top, side="right")
    edges = [0.0, *inner, 1.0]
    rows = []
    for k in np.unique(place):
        hits, count = int(right[place == k].sum()), int((place == k).sum())
        rows.append((edges[k], edges[k + 1], count, hits, hits / count, *wilson(hits, count)))
    return pd.DataFrame(rows, columns=["low", "high", "count", "right", "value", "from", "to"])


def describe(member: Member, file: Path) -> dict[str, Any]:
    """What a page must know of an exported network: names, scores, weights, version.

    Where the run can tell a film unlike those of the training, also how. All of it can be written
    as JSON.
    """
    run, info, version = member.run, member.run.info, _version(member.run)
    test = run.predictions[run.predictions["part"] == "test"]
    logits = member.network.get_layer("logits")
    return {
        "name": info["model"],
        "title": get_architecture(info["model"]).title,
        "file": file.name,
        "bytes": file.stat().st_size,
        "version": version["sha256"][:12],
        "run": version,
        "image_size": info["image_size"],
        "parameters": info["parameters"],
        "balanced_accuracy": run.metrics["test"]["balanced_accuracy"],
        "test_films": len(test),
        "confidence": confidence_table(test).round(6).to_dict("records"),
        "kernel": _short(logits.kernel),
        "bias": _short(logits.bias),
    } | ({"novelty": _novelty_facts(member.novelty)} if member.novelty else {})


def write_examples(
    folder: Path | str, size: int, t_scores: Sequence[float] = EXAMPLE_T_SCORES, seed: int = 0
) -> list[dict[str, Any]]:
    """Draw a new phantom for each T-score, save it as PNG of `size` pixels; what each shows."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for number, t_score in enumerate(t_scores, start=1):
        # A stream of its own: no film of a corpus is drawn from it.
        rng = np.random.default_rng((seed, number, int.from_bytes(b"try it", "big")))
        file = folder / f"phantom_{number}.png"
        Image.fromarray(simulate_knee(t_score, rng, size).image).save(file)
        label = CLASS_NAMES[int(class_of_t_score(t_score))]
        examples.append({"file": file.name, "t_score": t_score, "label": label})
    return examples


def write_site(
    runs: Sequence[Run],
    parts: Sequence[Mapping[str, Arrays]],
    folder: Path | str,
    example_size: int = 256,
    seed: int = 0,
) -> Path:
    """Everything the page "Try your own X-ray" loads, in one folder; returns its `index.json`.

    For each run its network, compared with Keras on test films of its `parts` (images and labels
    by part, in the size of the run); example phantoms; and the index: class names, colours of the
    heatmap, what `describe` says of each network. A network that answers all films alike, as after
    a training of two epochs, is left out and named there. Raises `ExportError` as `export_onnx`.
    """
    folder = Path(folder)
    models: list[dict[str, Any]] = []
    left_out: list[str] = []
    for run, films in zip(runs, parts, strict=True):
        try:
            models.append(_exported(run, films, folder))
        except AlikeError:
            left_out.append(get_architecture(run.info["model"]).title)
    colours = colormaps[SALIENCY_CMAP](np.arange(256), bytes=True)[:, :3]
    index = {
        "class_names": list(CLASS_NAMES),
        "corpus": runs[0].info["corpus"],
        "colours": colours.tolist(),
        "novelty_remark": REMARK,
        "models": models,
        "left_out": left_out,
        "examples": write_examples(folder, example_size, seed=seed),
    }
    target = folder / "index.json"
    replace_file(target, lambda part: part.write_text(json.dumps(index), encoding="utf-8"))
    return target


def check_site(folder: Path | str, runs: Iterable[Run]) -> None:
    """`ExportError` unless each network in the folder of `write_site` is that of a run, and whole.

    `runs` are those of today; a network of an earlier training is none of them.
    """
    folder = Path(folder)
    remedy = f"Delete {folder} and build again."
    known = {(run.info["model"], run.info["seed"]): model_digest(run) for run in runs}
    for facts in json.loads((folder / "index.json").read_text("utf-8"))["models"]:
        file, made_of = folder / facts["file"], facts["run"]
        if known.get((made_of["model"], made_of["seed"])) != made_of["sha256"]:
            found = f"that of an earlier training of {facts['name']}"
            raise ExportError(file, "the network of a run of today", found, remedy)
        if not file.stem.endswith(hashlib.sha256(file.read_bytes()).hexdigest()[:12]):
            raise ExportError(file, "the digest of its bytes in its name", "other bytes", remedy)


def _exported(run: Run, parts: Mapping[str, Arrays], folder: Path) -> dict[str, Any]:
    member = open_member(run)
    if member.novelty is None:
        raise ExportError(run.folder, f"{FILE} for the page", "none", "Train it again.")
    films = np.concatenate([parts["test"][0], parts["validation"][0]])[:COMPARED]
    return describe(member, export_onnx(member, films, folder))


def _novelty_facts(novelty: Novelty) -> dict[str, Any]:
    arrays = {"mean": novelty.mean.tolist(), "precision": novelty.precision.tolist()}
    limit = {"threshold": novelty.threshold, "false_alarms": novelty.false_alarms}
    return arrays | limit | {"side": SIDE}


def _converted(network: keras.Model, run: Run) -> bytes:
    """The ONNX file. `model.export` would keep the augmentation, which is on by default."""
    import onnx
    import tensorflow as tf
    from tf2onnx.convert import from_function

    signature = [tf.TensorSpec((None, *network.input_shape[1:]), tf.uint8, name="radiograph")]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator]
    def inference(radiograph: Any) -> dict[str, Any]:  # noqa: ANN401
        found, features = network(radiograph, training=False)
        return {"probabilities": found, "features": features}

    proto, _ = from_function(inference, signature, opset=OPSET)
    _mean_by_axis(proto.graph)
    facts = {"class_names": ", ".join(CLASS_NAMES), **_version(run)}
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in facts.items()})
    content: bytes = proto.SerializeToString()
    return content


def _mean_by_axis(graph: Any) -> None:  # noqa: ANN401
    """Take a mean over several axes one axis after the other: the same mean, rounded less.

    onnxruntime adds all numbers into one of single precision; over the pixels of a film that alone
    moves a probability by more than `TOLERANCE`.
    """
    from onnx import helper

    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        facts = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axes = facts.get("axes", [])
        if node.op_type != "ReduceMean" or len(axes) < 2 or not facts.get("keepdims", 1):
            graph.node.append(node)
            continue
        names = [node.input[0], *(f"{node.output[0]}/{axis}" for axis in axes[1:]), node.output[0]]
        for axis, source, target in zip(reversed(axes), names[:-1], names[1:], strict=True):
            graph.node.append(helper.make_node("ReduceMean", [source], [target], axes=[axis]))


def _version(run: Run) -> dict[str, Any]:
    """Which training this is: place, seed, day, the digests of its record and of its weights."""
    keys = ("corpus", "profile", "model", "seed", "split_hash", "finished")
    digests = {"record": run_digest(run.folder), "sha256": model_digest(run)}
    return {key: run.info[key] for key in keys if key in run.info} | digests


def _compare(
    content: bytes, network: keras.Model, images: npt.NDArray[np.uint8], where: object
) -> None:
    from onnxruntime import InferenceSession

    session = InferenceSession(content, providers=["CPUExecutionProvider"])
    kernel = np.asarray(network.get_layer("logits").kernel)
    wanted, features = network.predict(images, verbose=0)
    found, exported = session.run(["probabilities", "features"], {"radiograph": images})
    if (spread := np.ptp(wanted, axis=0).max()) < LEAST_SPREAD:
        raise AlikeError(
            where,
            f"probabilities that differ between {len(images)} images by {LEAST_SPREAD} or more",
            f"{spread:.1e}",
            "It agrees with anything: compare on other images, or train it further.",
        )
    _agree("probabilities", float(np.abs(wanted - found).max()), TOLERANCE, where)
    maps = class_maps(features, kernel)
    error = np.abs(maps - class_maps(exported, kernel)).max(axis=(1, 2, 3))
    relative = float((error / np.maximum(maps.max(axis=(1, 2, 3)), 1e-6)).max())
    _agree("heatmaps, relative to their maximum,", relative, MAP_TOLERANCE, where)


def _agree(what: str, difference: float, tolerance: float, where: object) -> None:
    if not difference <= tolerance:  # true for NaN as well
        raise ExportError(
            where,
            f"{what} within {tolerance} of Keras",
            f"a difference of {difference:.1e}",
            "Check the versions of tf2onnx, onnx and onnxruntime against constraints.txt.",
        )


def _short(values: Any) -> Any:  # noqa: ANN401
    """Numbers of single precision as a list, with the nine digits that tell them apart."""
    array = np.asarray(values, dtype=np.float32)
    return np.reshape([float(f"{x:.9g}") for x in array.ravel()], array.shape).tolist()
