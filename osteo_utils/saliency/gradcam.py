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

The model is asked through a sub-model of its own layers (`submodel`), so flat models, nested
backbones and fused branches are all treated alike, and nothing of the model is changed: any thread
may go on using it. Keras may run on TensorFlow or JAX.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Final, Literal, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import Model

from osteo_utils.errors import CourseError, check_count
from osteo_utils.networks.models import registry_name
from osteo_utils.registry import SALIENCY_METHODS, get_architecture, known_name
from osteo_utils.runs import Run
from osteo_utils.saliency import submodel

Maps = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Target = int | Sequence[int] | Ints | None
Flat = Literal["raise", "nan"]

_LEAST_SPREAD: Final = 1e-6  # in units of the score; untrained MobileNetV2 gives 1e-11
_SHOW_NOTHING: Final = "These maps show nothing: choose another class, layer or method."
_FINER: Final = 3  # power by which the steps of integrated gradients narrow towards the baseline


class CamError(CourseError):
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

    Args:
        model: Functional or built Sequential, of one input (n, H, W, channels) and one output
            (n, classes); it may be nested.
        images: As the model takes them, shape (n, H, W, channels).
        target: Class of all images, or one an image, shape (n,); by default the predicted one.
        layer: Whose maps are weighed; by default `last_conv_layer(model)`.
        batch_size: Images that go through the model at once, at least 1.
        flat: What becomes of a map that shows nothing: "raise" refuses it, "nan" makes it NaN.

    Returns:
        Raw maps, 0 or more, in units of the score, shape (n, h, w) of the layer's maps.

    Raises:
        CamError: Model, images, target or layer do not fit, or a map shows nothing.
        ValueError: There is no image in a batch.

    Example:
        >>> ones = {"kernel_initializer": "ones"}
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Conv2D(1, 1, **ones)])
        >>> model.add(keras.layers.GlobalAveragePooling2D())
        >>> model.add(keras.layers.Dense(1, **ones))
        >>> film = np.array([[0, 4], [8, 12]]).reshape(1, 2, 2, 1)
        >>> grad_cam(model, film, target=0).tolist()  # the score is the mean: a gradient of 1/4
        [[[0.0, 1.0], [2.0, 3.0]]]
    """
    features, gradients, where = _at_layer(model, images, target, layer, batch_size)
    maps = _weighted(features, gradients.mean(axis=(1, 2)))
    return _checked(np.maximum(maps, 0), where, flat)


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

    Args:
        model: As in `grad_cam`, as all that follows.
        images: Shape (n, H, W, channels).
        target: Class of all images, or one an image, shape (n,); by default the predicted one.
        layer: Whose maps are weighed; by default `last_conv_layer(model)`.
        batch_size: Images that go through the model at once, at least 1.
        flat: "raise" refuses a map that shows nothing, "nan" makes it NaN.

    Returns:
        Raw maps, 0 or more, shape (n, h, w) of the layer's maps.

    Raises:
        CamError: As in `grad_cam`.
        ValueError: There is no image in a batch.
    """
    features, gradients, where = _at_layer(model, images, target, layer, batch_size)
    total = features.sum(axis=(1, 2), keepdims=True)
    below = 2 * gradients**2 + total * gradients**3
    shares = gradients**2 / np.where(below == 0, 1, below)
    maps = _weighted(features, (shares * np.maximum(gradients, 0)).sum(axis=(1, 2)))
    return _checked(np.maximum(maps, 0), where, flat)


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

    Args:
        model: As in `grad_cam`, as all that follows.
        images: Shape (n, H, W, channels).
        target: Class of all images, or one an image, shape (n,); by default the predicted one.
        layer: Whose maps are weighed; by default `last_conv_layer(model)`.
        batch_size: Images that go through the model at once, at least 1.
        flat: "raise" refuses a map that shows nothing, "nan" makes it NaN.

    Returns:
        Raw maps, 0 or more, in units of the score, shape (n, h, w) of the layer's maps.

    Raises:
        CamError: As in `grad_cam`.
        ValueError: There is no image in a batch.
    """
    features, gradients, where = _at_layer(model, images, target, layer, batch_size)
    maps = (features * np.maximum(gradients, 0)).sum(axis=3)
    return _checked(np.maximum(maps, 0), where, flat)


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
    gradient; one pass a map and image.

    Args:
        model: As in `grad_cam`, as all that follows.
        images: Shape (n, H, W, channels).
        target: Class of all images, or one an image, shape (n,); by default the predicted one.
        layer: Whose maps are weighed; by default `last_conv_layer(model)`.
        batch_size: Images that go through the model at once, at least 1.
        flat: "raise" refuses a map that shows nothing, "nan" makes it NaN.
        top: How many maps are asked about, at least 1: those that vary most, by their standard
            deviation. By default all.

    Returns:
        Raw maps, 0 or more, in units of the feature maps, shape (n, h, w) of the layer's maps.

    Raises:
        CamError: As in `grad_cam`.
        ValueError: There is no image in a batch, or no map.
    """
    if top is not None:
        check_count("top", top)
    features, _, where = _at_layer(model, images, target, layer, batch_size)
    x, _, wanted = _at_pixels(model, images, target, None, batch_size)
    order = np.argsort(-features.std(axis=(1, 2)), axis=1, kind="stable")[:, :top]
    features = np.take_along_axis(features, order[:, None, None], axis=3)
    low, high = features.min(axis=(1, 2), keepdims=True), features.max(axis=(1, 2), keepdims=True)
    masks = np.moveaxis((features - low) / np.where(high > low, high - low, 1), 3, 1)

    def kept(i: Ints, k: Ints) -> Maps:
        return resized(masks[i, k], x.shape[1:3])

    scores = _masked_scores(model, x, wanted, masks.shape[1], kept, batch_size)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    maps = _weighted(features, weights / weights.sum(axis=1, keepdims=True))
    return _checked(np.maximum(maps, 0), where, flat)


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

    Zeiler & Fergus 2014. A pixel has the mean fall over all patches that cover it.

    Args:
        model: As in `grad_cam`, as all that follows.
        images: Shape (n, H, W, channels).
        target: Class of all images, or one an image, shape (n,); by default the predicted one.
        layer: None: the method has no layer.
        batch_size: Images that go through the model at once, at least 1.
        flat: "raise" refuses a map that shows nothing, "nan" makes it NaN.
        patch: Side of the patch in pixels; by default an eighth of the shorter side.
        stride: Pixels from one patch to the next, at most `patch`; by default half a patch.
        fill: Grey level of the patch; by default black: nothing absorbs there, so no bone.

    Returns:
        Raw maps in units of the score, shape (n, H, W); positive where the class loses.

    Raises:
        CamError: As in `grad_cam`, or patches of these sizes do not cover the image.
        ValueError: There is no image in a batch.

    Example:
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
        >>> model.add(keras.layers.Dense(1, kernel_initializer="ones"))
        >>> film = np.array([[0, 4], [8, 12]]).reshape(1, 2, 2, 1)
        >>> occlusion(model, film, target=0, patch=1).tolist()  # the score is the sum
        [[[0.0, 4.0], [8.0, 12.0]]]
    """
    x, before, wanted = _at_pixels(model, images, target, layer, batch_size)
    hidden = _patches(x.shape[1:3], patch, stride)
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
    The steps are finer towards the baseline, since a model that standardises each image has its
    whole change just beside a plain one.

    Args:
        model: As in `grad_cam`, as all that follows.
        images: Shape (n, H, W, channels).
        target: Class of all images, or one an image, shape (n,); by default the predicted one.
        layer: None: the method has no layer.
        batch_size: Images that go through the model at once, at least 1.
        flat: "raise" refuses a map that shows nothing, "nan" makes it NaN.
        steps: Of the path, at least 1.
        baseline: Grey levels that broadcast to `images`; by default black: nothing absorbs there,
            so no bone.
        samples: Copies with normal noise to average over (SmoothGrad, Smilkov et al. 2017); 0 for
            the image itself.
        noise: Standard deviation of the noise, as a share of the image's range.
        seed: Of the noise, which is the same for every image.

    Returns:
        Raw maps in units of the score, shape (n, H, W).

    Raises:
        CamError: As in `grad_cam`.
        ValueError: There is no image in a batch, no step, or fewer than 0 samples.

    Example:
        >>> model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
        >>> model.add(keras.layers.Dense(1, kernel_initializer="ones"))
        >>> film = np.array([[0, 4], [8, 12]]).reshape(1, 2, 2, 1)
        >>> integrated_gradients(model, film, target=0, steps=2).tolist()  # the score is the sum
        [[[0.0, 4.0], [8.0, 12.0]]]
    """
    check_count("steps", steps)
    check_count("samples", samples, 0)
    x, _, wanted = _at_pixels(model, images, target, layer, batch_size)
    start = np.broadcast_to(np.asarray(baseline, dtype=np.float32), x.shape)
    drawn = np.random.default_rng(seed).normal(0, noise, (max(samples, 1), *x.shape[1:]))
    range_ = np.ptp(x, axis=(1, 2, 3), keepdims=True) * (samples > 0)
    edges = np.linspace(0, 1, steps + 1) ** _FINER
    place, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    total = np.zeros(x.shape)
    for i, s, k in _chunks((len(x), len(drawn), steps), batch_size):
        way = x[i] + drawn[s] * range_[i] - start[i]
        point = start[i] + place[k, None, None, None] * way
        _, gradient = submodel.gradients(model, None, point, wanted[i])
        np.add.at(total, i, width[k, None, None, None] * way * gradient)
    return _checked(total.sum(axis=3) / len(drawn), "over the pixels", flat)


Method = Callable[..., Maps]
METHODS: Final[dict[str, Method]] = {name: globals()[name] for name in SALIENCY_METHODS}
TITLES: Final = {name: method.title for name, method in SALIENCY_METHODS.items()}
PIXEL_METHODS: Final = tuple(n for n, each in SALIENCY_METHODS.items() if each.reads == "pixels")


# ---------------------------------------------------------------------------------------------
# Several models, one scale


class EnsembleMaps(NamedTuple):
    """Maps of an ensemble, all of one size, each divided by the sum of its absolute values.

    Attributes:
        members: Of each model, shape (n, size, size).
        mean: Their weighted mean, shape (n, size, size).
    """

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
    """The map of every member, made comparable, and their weighted mean.

    Members score in units of their own, so each map counts by its shape alone. A map that is NaN
    (with `flat="nan"`) has no say in the mean of its image.

    Args:
        models: As `grad_cam` takes them, one or more.
        images: For each model the same n images in its own size.
        target: Class of all images, or one an image, shape (n,); by default that of the weighted
            mean probability.
        method: A key of `METHODS`.
        layers: For each model a layer, or None for its usual one; by default the usual ones.
        weights: Of the vote, one for each model, 0 or more; by default equal ones.
        size: Side of the maps in pixels; by default the longest of the images.
        **options: Go to the method.

    Returns:
        The maps of the members, and their mean.

    Raises:
        CamError: There is no such method, the weights are not such, or as the method raises it.
    """
    explain = METHODS[known_name("method", method, METHODS, CamError)]
    pictures, w = [np.asarray(x) for x in images], _weights(weights, len(models))
    layers = layers or [None] * len(models)
    if target is None:
        each = [m(x, training=False) for m, x in zip(models, pictures, strict=True)]
        target = np.tensordot(w, each, axes=1).argmax(axis=1)
    side = size or max(max(x.shape[1:3]) for x in pictures)
    members = []
    for model, x, layer in zip(models, pictures, layers, strict=True):
        maps = resized(explain(model, x, target, layer, **options), side)
        total = np.abs(maps).sum(axis=(1, 2), keepdims=True)
        members.append(np.asarray(maps / np.where(total > 0, total, 1), dtype=np.float32))
    say = w[:, None, None, None] * np.isfinite(members)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an image without a map
        mean = np.nansum(say * members, axis=0) / say.sum(axis=0)
    return EnsembleMaps(members, mean.astype(np.float32))


def _weights(weights: npt.ArrayLike | None, n: int) -> npt.NDArray[np.float64]:
    w: npt.NDArray[np.float64] = np.asarray(np.ones(n) if weights is None else weights, dtype=float)
    if n == 0 or w.shape != (n,) or (w < 0).any() or w.sum() <= 0:
        expected = f"one for each of {n} models, none of them negative"
        raise CamError("weights", expected, w, "Leave them out to let all models count the same.")
    return np.asarray(w / w.sum())


def resized(maps: npt.ArrayLike, size: int | Sequence[int]) -> Maps:
    """Maps laid over a film: bilinear between the centres of cells, constant beyond the outermost.

    Args:
        maps: Shape (n, h, w). A NaN map stays NaN.
        size: Side of the film in pixels, or its height and width.

    Returns:
        Shape (n, size, size), or (n, height, width).

    Example:
        >>> resized([[[0, 4]]], 4)[0, 0].tolist()  # the centres lie at a quarter and three
        [0.0, 1.0, 3.0, 4.0]
    """
    shape = (size, size) if isinstance(size, int) else tuple(size)
    cells = np.asarray(maps, dtype=np.float32)[..., None]
    options = {"interpolation": "bilinear", "antialias": True, "data_format": "channels_last"}
    laid = keras.ops.image.resize(cells, shape, **options)
    return np.asarray(keras.ops.convert_to_numpy(laid)[..., 0])


def shared_limit(*maps: npt.ArrayLike) -> float:
    """The upper end of one display scale for several maps: their largest finite value.

    Args:
        *maps: Each of any shape.

    Returns:
        The value, in the unit of the maps.

    Raises:
        CamError: Nothing in the maps is finite.

    Example:
        >>> shared_limit([[1.0, float("nan")]], [[3.0, -9.0]])
        3.0
    """
    values = np.concatenate([np.zeros(0), *(np.ravel(np.asarray(m, dtype=float)) for m in maps)])
    if not np.isfinite(values).any():
        raise CamError("maps", "at least one finite value to scale by", "none", _SHOW_NOTHING)
    return float(values[np.isfinite(values)].max())


def peak(cam: npt.ArrayLike) -> tuple[int, int]:
    """Row and column of the strongest place of a map: its largest absolute value.

    In a signed map that may be what speaks most against the class. NaN counts for nothing.

    Args:
        cam: The map, shape (h, w).

    Returns:
        Row and column, from 0.

    Raises:
        CamError: Nothing in the map is finite.

    Example:
        >>> peak([[0.1, -3.0], [2.0, float("nan")]])
        (0, 1)
    """
    size = np.abs(np.asarray(cam, dtype=float))
    if not np.isfinite(size).any():
        raise CamError("map", "at least one finite value to find a peak", "none", _SHOW_NOTHING)
    row, column = np.unravel_index(int(np.nanargmax(size)), size.shape)
    return int(row), int(column)


# ---------------------------------------------------------------------------------------------
# Layers


def layer_candidates(model: Model) -> list[str]:
    """Names of the layers with feature maps larger than 1 x 1, first to last.

    Args:
        model: As in `grad_cam`; layers inside nested models are found too.

    Returns:
        The names; none for a network without feature maps.

    Raises:
        CamError: The model is none that `grad_cam` takes.

    Example:
        >>> kinds = keras.layers.Conv2D(1, 3, name="maps"), keras.layers.Flatten()
        >>> layer_candidates(keras.Sequential([keras.Input((8, 8, 1)), *kinds]))
        ['maps']
    """
    with_maps = {id(call.operation) for call in _calls(model).values() if _has_maps(call)}
    return [layer.name for layer in _all_layers(model) if id(layer) in with_maps]


def _all_layers(model: Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        yield layer
        if getattr(layer, "layers", None):
            yield from _all_layers(layer)


def last_conv_layer(model: Model) -> str:
    """Name of the layer that a CAM reads unless told otherwise: the first of `last_maps`.

    Args:
        model: As in `grad_cam`.

    Returns:
        The name.

    Raises:
        CamError: The model has no feature maps, or is none that `grad_cam` takes.
    """
    return next(iter(last_maps(model).values()))


def last_maps(model: Model) -> dict[str, str]:
    """The layer whose maps are pooled before the head, by branch: one, or one a fused backbone.

    It is the last layer that the whole answer of its branch passes through with maps larger than
    1 x 1, pooling left out: in VGG, as Selvaraju et al. 2017 did, the last convolution, in a small
    InceptionV3 the last maps that are joined from all towers. `registry.last_conv_layers` names the
    same without building the network.

    Args:
        model: As in `grad_cam`.

    Returns:
        Branch to layer. A branch has the name of its backbone, or, in a model that is none of the
        registry, of the layer.

    Raises:
        CamError: The model has no feature maps, or is none that `grad_cam` takes.

    Example:
        >>> kinds = keras.layers.Conv2D(1, 3, name="maps"), keras.layers.Flatten()
        >>> last_maps(keras.Sequential([keras.Input((8, 8, 1)), *kinds, keras.layers.Dense(3)]))
        {'maps': 'maps'}
    """
    calls = _calls(model)
    through: dict[int, set[int]] = {}  # for each tensor those on every way from the pixels to it
    for key, call in calls.items():
        before = [through.get(id(tensor), set()) for tensor in call.inputs]
        through[key] = {key}.union(set.intersection(*before) if before else ())
    found = []
    for end in _pooled(id(submodel.cut(model).output), calls):
        on_the_way = [call for key, call in calls.items() if key in through[end]]
        maps = [call for call in on_the_way if _has_maps(call) and not _is_pooling(call)]
        found += [call.operation.name for call in maps[-1:]]
    if not found:
        remedy = f"Use a method on pixels: {' or '.join(PIXEL_METHODS)}."
        raise CamError(model.name, "a layer with feature maps", "none", remedy)
    return dict(zip(_branches(model, found), found, strict=True))


def maps_of_run(run: Run, model: Model) -> dict[str, str]:
    """The layer that a CAM of a finished network reads unless told otherwise, by branch.

    It was written down when the network was trained; for an older run, or one of another program,
    the same rule finds it.

    Args:
        run: The run.
        model: Its network.

    Returns:
        Branch to layer, as in `last_maps`.

    Raises:
        CamError: As in `last_maps`.
    """
    return dict(run.info.get("maps") or last_maps(model))


def _pooled(tensor: int, calls: Mapping[int, submodel.Call]) -> list[int]:
    """The tensors (n, h, w, channels) from which a tensor without places is made."""
    if tensor not in calls:
        return []
    if len(calls[tensor].output.shape) == 4:
        return [tensor]
    ends = [end for each in calls[tensor].inputs for end in _pooled(id(each), calls)]
    return list(dict.fromkeys(ends))


def _branches(model: Model, found: Sequence[str]) -> Sequence[str]:
    name = registry_name(model.name)
    try:
        names = get_architecture(name).members or (name,)
    except ValueError:
        names = ()
    return names if len(names) == len(found) else found


def _calls(model: Model) -> dict[int, submodel.Call]:
    _check_model(model)
    return submodel.cut(model).calls


def _has_maps(call: submodel.Call) -> bool:
    shape = call.output.shape
    return isinstance(call.operation, keras.Layer) and len(shape) == 4 and shape[1] != 1


def _is_pooling(call: submodel.Call) -> bool:
    """Pooling, or the padding before a convolution in steps: no maps of their own."""
    kind = type(call.operation).__name__
    return "Pooling" in kind or "Padding" in kind


def _find_layer(model: Model, name: str | None) -> str:
    """The name of a layer with maps that is called once."""
    name = name or last_conv_layer(model)
    calls = [call for call in _calls(model).values() if call.operation.name == name]
    if (count := len({id(call.operation) for call in calls})) > 1:
        remedy = "Give the layers of the model different names."
        raise CamError("layer", "a name that one layer has", f"{count} {name!r}", remedy)
    if not calls or len(calls[0].output.shape) != 4:
        candidates = ", ".join(reversed(layer_candidates(model)[-12:]))
        expected = f"one with feature maps that {model.name} calls"
        remedy = f"Choose one of these candidates, last first: {candidates}."
        raise CamError("layer", expected, repr(name), remedy)
    if len(calls) > 1:
        found = f"{name!r} called {len(calls)} times, with other maps each time"
        remedy = "Choose a layer behind the calls."
        raise CamError("layer", f"one that {model.name} calls once", found, remedy)
    return name


# ---------------------------------------------------------------------------------------------
# Passes through the model


def _at_layer(
    model: Model, images: npt.ArrayLike, target: Target, layer: str | None, batch_size: int
) -> tuple[Maps, Maps, str]:
    """Feature maps of a layer, the gradients of the score there, and the place in words."""
    x, wanted = _prepared(model, images, target)
    layer = _find_layer(model, layer)
    ask = partial(submodel.gradients, model, layer)
    features, gradients = _batched(ask, x, wanted, batch_size)
    return features, gradients, f"at layer {layer!r}"


def _at_pixels(
    model: Model, images: npt.ArrayLike, target: Target, layer: str | None, batch_size: int
) -> tuple[Maps, Maps, Ints]:
    """Images as float32, the score of each, and the class that it is of."""
    x, wanted = _prepared(model, images, target)
    if layer is not None:
        expected = "None, since this method works on pixels"
        raise CamError("layer", expected, repr(layer), "Leave the layer out.")
    scores, wanted = _batched(partial(submodel.scores, model), x, wanted, batch_size)
    return x, scores, wanted


def _weighted(features: Maps, weights: Maps) -> Maps:
    maps: Maps = np.einsum("nhwc,nc->nhw", features, weights)
    return maps


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
        scores[i, k] = submodel.scores(model, copies, target[i])[0]
    return scores


def _batched(
    ask: Callable[[Maps, Ints], list[npt.NDArray[Any]]], x: Maps, target: Ints, batch_size: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The two answers to a question about all images, some at a time."""
    parts = [ask(x[i], target[i]) for (i,) in _chunks((len(x),), batch_size)]
    first, second = (np.concatenate(part) for part in zip(*parts, strict=True))
    return first, second


def _chunks(shape: tuple[int, ...], size: int) -> Iterator[tuple[Ints, ...]]:
    """Indices of all elements of an array of that shape, `size` at a time."""
    check_count("batch_size", size)
    count = int(np.prod(shape))
    for start in range(0, count, size):
        yield np.unravel_index(np.arange(start, min(start + size, count)), shape)


# ---------------------------------------------------------------------------------------------
# What goes in and what comes out


def _prepared(model: Model, images: npt.ArrayLike, target: Target) -> tuple[Maps, Ints]:
    """Images as float32 and a class for each, -1 for the predicted one; both checked."""
    if (backend := keras.backend.backend()) not in ("tensorflow", "jax"):
        remedy = "Set KERAS_BACKEND=tensorflow before starting Python."
        raise CamError("KERAS_BACKEND", "tensorflow or jax", backend, remedy)
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
            model.name,
            "a functional or built Sequential model",
            f"a {type(model).__name__} whose inputs and outputs are not known",
            "Wrap it as keras.Model(x, net(x)) with an x = keras.Input(...).",
        ) from None
    for end, name, axes in zip(ends, ("input", "output"), (4, 2), strict=True):
        if not isinstance(end, tuple) or len(end) != axes or isinstance(end[-1], tuple):
            what = "(n, H, W, channels)" if name == "input" else "(n, classes)"
            remedy = "Wrap the one that is meant in a keras.Model of its own."
            raise CamError(model.name, f"one {name} of shape {what}", end, remedy)


def _check_images(model: Model, x: npt.NDArray[Any]) -> None:
    shape = tuple(model.input_shape[1:])
    if x.dtype.kind not in "uif":
        remedy = "Pass the films as uint8 or float32."
        raise CamError("images", "an array of numbers", f"one of {x.dtype}", remedy)
    fits = x.ndim == 4 and all(
        want in (None, has) for want, has in zip(shape, x.shape[1:], strict=True)
    )
    if not fits or len(x) == 0:
        expected = f"shape (n, {', '.join(map(str, shape))})"
        raise CamError("images", expected, x.shape, "Resize them to the input of the model.")
    low, high = float(x.min()), float(x.max())
    if not np.isfinite([low, high]).all():
        remedy = "Look at how they were read and scaled."
        raise CamError("images", "finite numbers", "NaN or infinity", remedy)
    grey = "int" in str(model.inputs[0].dtype)
    if grey and (low < 0 or high > 255 or (x.dtype.kind == "f" and 0 < high <= 1)):
        expected = f"grey levels 0 to 255, as {model.name} takes them"
        found = f"{x.dtype} from {low:g} to {high:g}"
        raise CamError("images", expected, found, "Do not scale them: the model does it itself.")


def class_indices(model: Model, target: Target, n: int) -> Ints:
    """The class of each image, checked.

    Args:
        model: Whose outputs are the classes.
        target: Class of all images, or one an image, shape (n,).
        n: How many images there are.

    Returns:
        Shape (n,).

    Raises:
        CamError: There is not one class, or one for each image, or it is no output of the model.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> class_indices(model, 2, n=2).tolist()
        [2, 2]
    """
    classes, wanted = model.output_shape[-1], np.asarray(target)
    if wanted.ndim > 0 and wanted.shape != (n,):
        expected = f"one class, or one for each of {n} images"
        raise CamError("target", expected, target, "None takes the predicted class of each.")
    if wanted.dtype.kind not in "iu" or not ((wanted >= 0) & (wanted < classes)).all():
        expected = f"whole class indices 0 to {classes - 1}, the outputs of {model.name}"
        raise CamError("target", expected, target, "None takes the predicted class of each.")
    return np.broadcast_to(wanted.astype(np.int64), (n,))


def _patches(shape: Sequence[int], patch: int | None, stride: int | None) -> npt.NDArray[np.bool_]:
    """Squares that together cover an image, (count, H, W)."""
    side = max(min(shape) // 8, 1) if patch is None else patch
    step = max(side // 2, 1) if stride is None else stride
    if not 1 <= step <= side <= min(shape):
        expected = f"1 <= stride <= patch <= {min(shape)} pixels, so that patches cover the image"
        remedy = "Leave both out for an eighth of the side and half of that."
        raise CamError("occlusion", expected, f"stride {step}, patch {side}", remedy)
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
        remedy = (
            "No region speaks for this class: choose the predicted one (target=None), another "
            "layer, or train the model further."
        )
        raise CamError(f"image {dead[0]}", f"a map that varies {where}", found, remedy)
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
