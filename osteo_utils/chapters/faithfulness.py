"""Is a saliency map any good: does it point where the truth is, and does it depend on the model?

Two kinds of question. With a phantom's masks, where the map lies: `pointing_game`, `share_inside`,
`top_overlap`. Without, whether it is about the model at all: `deletion` and `insertion`,
`average_drop`, `randomisation_cascade`, `flip_consistency`, `agreement`. None means anything alone,
so each is read beside maps that never saw the model: `random_maps`, `centre_blob`, `uniform_maps`.

Every measure gives one value an image. A map that shows nothing (NaN, as `gradcam` marks it with
flat="nan") has NaN there, never 0; `mean_interval` leaves it out and says how many are left. Maps,
(n, h, w), are laid over films or masks by `gradcam.resized`, as they are shown.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.integrate import trapezoid
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.stats import rankdata
from skimage.metrics import structural_similarity

from osteo_utils.errors import check_count
from osteo_utils.phantom.corpus import read_mask
from osteo_utils.saliency.gradcam import Maps, class_indices, resized
from osteo_utils.scoring.evaluate import interval_ends, multiplicities, ratio

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]
Target = int | Sequence[int] | None
# An entry of gradcam.METHODS, or a functools.partial of one: model, images, target -> maps.
Explain = Callable[[keras.Model, npt.NDArray[Any], npt.NDArray[np.int64]], Maps]

_DECIMALS: Final = 6  # of a map scaled to 0..1: smaller differences are rounding errors, so ties
_LEAST_SIDE: Final = 32  # pixels at which maps are compared: SSIM looks through a window of 7
_BLUR: Final = 1 / 16  # of the film's side
_CHUNK: Final = 16  # films whose curves are computed at once


# --- against masks of what should be looked at


def pointing_game(maps: Maps, masks: Masks, tolerance: float = 0) -> Floats:
    """Whether the maximum of each map lies in its mask, (n, H, W): 1 or 0 (Zhang et al. 2018).

    Where several pixels share the maximum it is the share of them inside, as if one were drawn; a
    uniform map thus has the share of the area. `tolerance` in pixels of the mask is how far outside
    still counts (Zhang allowed 15 on photographs). NaN for a NaN map and for an empty mask.
    """
    top = _levels(_fitted(maps, masks)).reshape(masks.shape) == 1
    near = masks
    if tolerance > 0:
        near = np.stack([distance_transform_edt(~mask) <= tolerance for mask in masks])
    return _where_any(masks, ratio((top & near).sum(axis=(1, 2)), top.sum(axis=(1, 2))))


def share_inside(maps: Maps, masks: Masks) -> Floats:
    """Share of the positive part of each map that lies in its mask, (n, H, W), 0 to 1.

    Chance is the share of the area: `area_share`, which a uniform map gets. NaN for a map without
    a positive value and for an empty mask.
    """
    positive = np.maximum(_fitted(maps, masks), 0)
    inside = (positive * masks).sum(axis=(1, 2), dtype=float)
    return _where_any(masks, ratio(inside, positive.sum(axis=(1, 2), dtype=float)))


def area_share(masks: Masks) -> Floats:
    """Share of the film that each mask, (n, H, W), covers; NaN for an empty mask."""
    return _where_any(masks, masks.mean(axis=(1, 2)))


def best_share(masks: Masks, cells: int) -> Floats:
    """The highest `share_inside` that a map of `cells` x `cells` can reach, (n,).

    A mean of cells is never above its best cell, so it is that of the best cell alone. Maps of few
    cells spill over any edge: below what a finer rival reaches, this may be all there is to say.
    """
    check_count("cells", cells)
    cell = np.eye(cells**2, dtype=np.float32).reshape(-1, cells, cells)
    placed = resized(cell, masks.shape[1]).reshape(cells**2, -1)
    inside = masks.reshape(len(masks), -1).astype(np.float32) @ placed.T
    return _where_any(masks, (inside / placed.sum(axis=1)).max(axis=1))


def top_overlap(maps: Maps, masks: Masks, share: float | None = None) -> Floats:
    """Intersection over union of a mask, (n, H, W), and the map's strongest pixels, 0 to 1.

    `share` is how much of the film counts as strongest; None takes the area of the mask itself, so
    that a perfect map reaches 1. Pixels that tie for the last places share them. NaN for a NaN map
    and for an empty mask.
    """
    levels, inside = _levels(_fitted(maps, masks)), masks.reshape(len(masks), -1)
    count = inside.sum(axis=1) if share is None else np.full(len(masks), share * inside.shape[1])
    strongest = _strongest(levels, np.clip(np.round(count), 1, inside.shape[1]).astype(int))
    both = (strongest * inside).sum(axis=1)
    return _where_any(masks, ratio(both, strongest.sum(axis=1) + inside.sum(axis=1) - both))


def region_masks(root: Path | str, paths: Sequence[str], size: int = 256) -> dict[str, Masks]:
    """Masks (n, size, size) of files of a simulated corpus: joint, trabecular, cortex and bone.

    "bone" is where any of the three is. Raises `CorpusError` for a corpus without masks.
    """
    masks = [read_mask(root, path) for path in paths]
    regions = {name: np.stack([_scaled(mask[name], size) for mask in masks]) for name in masks[0]}
    return regions | {"bone": np.any(list(regions.values()), axis=0)}


# --- maps that never saw the model


def random_maps(n: int, size: int, rng: np.random.Generator, cells: int = 4) -> Maps:
    """Random maps (n, size, size): `cells` x `cells` exponential draws, enlarged like a CAM's.

    White noise would be too weak an opponent: spread over every pixel, it has the same share inside
    on every film, and as an order of deletion it peppers the film, which no network stands.
    """
    check_count("cells", cells)
    return resized(rng.exponential(size=(n, cells, cells)).astype(np.float32), size)


def centre_blob(n: int, size: int, sigma: float = 0.25) -> Maps:
    """One Gaussian in the middle of the film, n times, (n, size, size).

    `sigma` is its standard deviation as a share of the side. Knees lie in the middle, so this is
    what a map has to beat to say more than "it is a film of a knee".
    """
    axis = ((np.arange(size) + 0.5) / size - 0.5) / sigma
    blob = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2)).astype(np.float32)
    return np.repeat(blob[None], n, axis=0)


def uniform_maps(n: int, size: int) -> Maps:
    """Maps that are 1 everywhere, (n, size, size): every measure by area alone."""
    return np.ones((n, size, size), np.float32)


def baselines(n: int, size: int, seed: int = 0) -> dict[str, Maps]:
    """The three maps that never saw the model, by the names they have in tables."""
    return {
        "random map": random_maps(n, size, np.random.default_rng(seed)),
        "centre blob": centre_blob(n, size),
        "uniform map": uniform_maps(n, size),
    }


# --- against the model: what happens when pixels go


def deletion(
    model: keras.Model,
    images: npt.ArrayLike,
    maps: Maps,
    target: Target = None,
    steps: int = 16,
    fill: str | float = "blur",
) -> Floats:
    """The model's output for the target as pixels go, strongest first (Petsiuk et al. 2018).

    (n, steps + 1), from the whole film to none of it: a good map makes it fall early, so a small
    `area` is good. Pixels are replaced by the film blurred with a Gaussian of a sixteenth of its
    side, which takes what is fine in it and leaves its grey levels; `fill` may be a grey level
    instead, but black is nothing a radiograph has inside a bone, and a network may answer to that
    alone. `target` as in `gradcam`; pixels that tie go in random order.
    """
    x = _films(images)
    return _curves(model, x, _filled(x, fill), maps, target_classes(model, x, target), steps)


def insertion(
    model: keras.Model,
    images: npt.ArrayLike,
    maps: Maps,
    target: Target = None,
    steps: int = 16,
    fill: str | float = "blur",
) -> Floats:
    """As `deletion`, but pixels are put back into the filled film: a large `area` is good."""
    x = _films(images)
    return _curves(model, _filled(x, fill), x, maps, target_classes(model, x, target), steps)


def area(curves: Floats) -> Floats:
    """Area under each curve, (n, steps + 1), over the share of the film from 0 to 1."""
    return np.asarray(trapezoid(curves, dx=1 / (curves.shape[1] - 1), axis=1))


class Drop(NamedTuple):
    """How the score of the target changes when only the map's part of the film is shown."""

    drop: Floats  # (n,) share of the score that is lost, 0 to 1; its mean is the average drop
    increase: Floats  # (n,) 1 where the score rises, else 0; its mean is the average increase


def average_drop(
    model: keras.Model,
    images: npt.ArrayLike,
    maps: Maps,
    target: Target = None,
    fill: str | float = "blur",
) -> Drop:
    """Average drop and increase, for each film (Chattopadhay et al. 2018).

    The film is shown through its map, the positive part divided by its maximum: film where that is
    1, `fill` (see `deletion`; the authors took black) where it is 0. A map that keeps everything
    loses nothing, so the uniform map is perfect here and explains nothing: read it beside that.
    """
    x = _films(images)
    wanted, positive = target_classes(model, x, target), np.maximum(resized(maps, x.shape[1]), 0)
    keep = ratio(positive, positive.max(axis=(1, 2), keepdims=True))[..., None]
    shown = np.nan_to_num(keep * x + (1 - keep) * _filled(x, fill))
    before, after = _score(model, x, wanted), _score(model, _cast(shown, x.dtype), wanted)
    alive = np.where(_finite(keep[..., 0]), 1, np.nan)
    drop = alive * ratio(np.maximum(before - after, 0), before)
    return Drop(drop, alive * (after > before))


# --- against the model: is the map about it at all?


def randomisation_cascade(
    explain: Explain,
    model: keras.Model,
    images: npt.ArrayLike,
    target: Target = None,
    stages: int = 5,
    seed: int = 0,
) -> pd.DataFrame:
    """How alike maps stay as the weights are lost from the top down (Adebayo et al. 2018).

    A map that shows what the model has learnt must change; an edge detector's does not. Works on a
    clone. Weights are shuffled within each tensor, the four of a batch norm by one permutation of
    the channels: drawn anew, deep networks give flat maps and nothing could be compared.

    Columns stage, layer (the lowest lost so far), layers (how many), image, spearman, ssim (both
    against the maps of the whole model, 1 if alike; NaN where a map is flat, so give a method
    flat="nan"). Stage 0 has lost nothing, the last everything; in between in equal ratios, since
    the layers above a CAM tell most. The class explained stays that of the whole model. `seed` is
    one draw of many: report several.
    """
    check_count("stages", stages)
    x, rng = _films(images), np.random.default_rng(seed)
    wanted = target_classes(model, x, target)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    found = [("none", 0, explain(clone, x, wanted))]
    layers = [layer for layer in _leaves(clone) if layer.weights][::-1]
    for end in np.unique(np.geomspace(1, len(layers), stages).round().astype(int)):
        for layer in layers[found[-1][1] : end]:
            _shuffle(layer, rng)
        found.append((layers[end - 1].name, int(end), explain(clone, x, wanted)))
    whole = found[0][2]
    return pd.concat(
        [
            pd.DataFrame(
                {"stage": stage, "layer": name, "layers": count, "image": range(len(x))}
                | {"spearman": agreement(whole, maps), "ssim": similarity(whole, maps)}
            )
            for stage, (name, count, maps) in enumerate(found)
        ],
        ignore_index=True,
    )


def flip_consistency(
    explain: Explain, model: keras.Model, images: npt.ArrayLike, target: Target = None
) -> Floats:
    """Agreement of each map with that of the mirrored film, mirrored back, (n,).

    The class is the one of the film as it is. A left knee is a mirrored right one, so a method that
    moves elsewhere on it follows something other than the bone.
    """
    x = _films(images)
    wanted = target_classes(model, x, target)
    maps, mirrored = explain(model, x, wanted), explain(model, x[:, :, ::-1], wanted)
    return agreement(maps, mirrored[:, :, ::-1])


def agreement(a: Maps, b: Maps) -> Floats:
    """Spearman rank correlation of each pair of maps, -1 to 1, (n,): of two methods, or two seeds.

    Both are laid over a common grid first: the finer one's side, at least 32 pixels. NaN where
    either is NaN or constant.
    """
    ranks = [rankdata(each.reshape(len(each), -1), axis=1) for each in _common(a, b)]
    u, v = (each - each.mean(axis=1, keepdims=True) for each in ranks)
    norm = np.sqrt((u**2).sum(axis=1) * (v**2).sum(axis=1))
    return ratio((u * v).sum(axis=1), norm)


def agreement_table(maps: Mapping[str, Maps]) -> pd.DataFrame:
    """Mean `agreement` of every pair of methods (or seeds), a square table by their names."""
    means = {
        b: {a: _mean(agreement(first, second)) for a, first in maps.items()}
        for b, second in maps.items()
    }
    return pd.DataFrame(means)


def similarity(a: Maps, b: Maps) -> Floats:
    """Structural similarity (Wang et al. 2004) of each pair of maps, each scaled to 0..1, (n,)."""
    first, second = (_levels(each).reshape(each.shape) for each in _common(a, b))
    pairs = zip(first, second, strict=True)
    return np.array([structural_similarity(u, v, data_range=1.0) for u, v in pairs])


# --- tables with intervals


def mean_interval(
    values: npt.ArrayLike,
    groups: npt.ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, float]:
    """Mean of one value an image with a percentile interval over resampled groups (patients).

    `value`, `low`, `high`, and `n`: how many images have a value; NaN ones are left out.
    """
    v = np.asarray(values, dtype=float)
    known = np.isfinite(v)
    weights = multiplicities(np.asarray(groups), len(v), resamples, seed) * known
    drawn = ratio(weights @ np.where(known, v, 0), weights.sum(axis=1))
    low, high = interval_ends(drawn, (1 - confidence) / 2, (1 + confidence) / 2)
    return {"value": _mean(v), "low": low, "high": high, "n": int(known.sum())}


def compare(
    values: Mapping[str, npt.ArrayLike],
    groups: npt.ArrayLike,
    against: str = "centre blob",
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One measure of several kinds of maps, a row each, and how far each is from one of them.

    `values` by name, (n,) each, on the same images. Columns value, low, high, n, and difference,
    difference_low, difference_high: the mean of the paired differences with the row `against`. The
    intervals of the differences hold all at once with 95 % or more (Bonferroni): each is as much
    wider as the table has rows to compare.
    """
    if against not in values:
        raise ValueError(f"against: expected one of {', '.join(values)}, found {against!r}")
    other, together = np.asarray(values[against], dtype=float), 1 - 0.05 / max(1, len(values) - 1)
    rows = {}
    for name, each in values.items():
        away = np.asarray(each, dtype=float) - other
        gap = mean_interval(away, groups, resamples, seed, together)
        rows[name] = mean_interval(each, groups, resamples, seed) | {
            "difference": gap["value"],
            "difference_low": gap["low"],
            "difference_high": gap["high"],
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("maps")


def measure(
    maps: Mapping[str, Maps],
    masks: Mapping[str, Masks],
    groups: npt.ArrayLike,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Methods and the three baselines on each region of `region_masks`, by all three measures.

    Columns region, measure, maps (the method), then those of `compare`, against the centre blob.
    """
    n, side = len(next(iter(maps.values()))), next(iter(masks.values())).shape[1]
    everything = dict(maps) | baselines(n, side, seed)
    placed = {name: resized(each, side) for name, each in everything.items()}
    tables = []
    for region, inside in masks.items():
        for of in (pointing_game, share_inside, top_overlap):
            values = {name: of(each, inside) for name, each in placed.items()}
            table = compare(values, groups, resamples=resamples, seed=seed).reset_index()
            tables.append(table.assign(region=region, measure=of.__name__))
    table = pd.concat(tables, ignore_index=True)
    return table[["region", "measure", *table.columns.drop(["region", "measure"])]]


# --- shared parts


def target_classes(
    model: keras.Model, images: npt.ArrayLike, target: Target = None
) -> npt.NDArray[np.int64]:
    """The class explained of each film, (n,): as given, or the predicted one for None."""
    if target is None:
        return np.asarray(model.predict(images, verbose=0).argmax(axis=-1), dtype=np.int64)
    return class_indices(model, target, len(np.asarray(images)))


def _score(model: keras.Model, x: npt.NDArray[Any], wanted: npt.NDArray[np.int64]) -> Floats:
    return np.asarray(model.predict(x, verbose=0)[np.arange(len(x)), wanted], dtype=float)


def _curves(
    model: keras.Model,
    start: npt.NDArray[Any],
    end: npt.NDArray[Any],
    maps: Maps,
    wanted: npt.NDArray[np.int64],
    steps: int,
) -> Floats:
    """Score as the pixels of `start` become those of `end` in the order of the maps."""
    check_count("steps", steps)
    shape, curves = start.shape[1:], np.full((len(start), steps + 1), np.nan)
    rank = _ranks(resized(maps, shape[0]))
    taken = np.linspace(0, rank.shape[1], steps + 1).round()[:, None]
    alive = np.flatnonzero(_finite(maps))
    for i in range(0, len(alive), _CHUNK):
        rows = alive[i : i + _CHUNK]
        changed = (rank[rows, None] < taken).reshape(-1, steps + 1, *shape[:2], 1)
        films = np.where(changed, end[rows, None], start[rows, None]).reshape(-1, *shape)
        scores = _score(model, films, np.repeat(wanted[rows], steps + 1))
        curves[rows] = scores.reshape(-1, steps + 1)
    return curves


def _ranks(maps: Maps) -> npt.NDArray[np.int64]:
    """Place of each pixel, (n, pixels), 0 the strongest; ties in one fixed random order."""
    levels = _levels(maps)
    shuffled = np.random.default_rng(0).permutation(levels.shape[1])
    order = shuffled[np.argsort(-levels[:, shuffled], axis=1, kind="stable")]
    return np.argsort(order, axis=1)


def _levels(maps: Maps) -> Floats:
    """Maps (n, pixels) scaled to 0..1 and rounded, so that equals are equal; constant ones are 1.

    NaN maps stay NaN.
    """
    flat = maps.reshape(len(maps), -1).astype(float)
    low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
    constant = high == low
    scaled = (flat - low + constant) / (high - low + constant)
    return np.asarray(np.round(scaled, _DECIMALS))


def _strongest(levels: Floats, counts: npt.NDArray[np.int64]) -> Floats:
    """How far each pixel, (n, pixels), is among the `counts` strongest of its map, 0 to 1."""
    pairs = zip(levels, counts, strict=True)
    edge = np.array([np.partition(row, -count)[-count] for row, count in pairs])[:, None]
    above, tied = levels > edge, levels == edge
    left = ratio(counts - above.sum(axis=1), tied.sum(axis=1))
    return np.asarray(above + tied * left[:, None])


def _filled(x: npt.NDArray[Any], fill: str | float) -> npt.NDArray[Any]:
    if isinstance(fill, str):
        if fill != "blur":
            raise ValueError(f"fill: expected 'blur' or a grey level, found {fill!r}")
        sigma = _BLUR * x.shape[1]
        return _cast(gaussian_filter(x.astype(np.float32), (0, sigma, sigma, 0)), x.dtype)
    return np.full_like(x, fill)


def _cast(x: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return (np.round(x) if np.issubdtype(dtype, np.integer) else x).astype(dtype)


def _shuffle(layer: keras.Layer, rng: np.random.Generator) -> None:
    weights = layer.get_weights()
    if isinstance(layer, keras.layers.BatchNormalization):
        channels = rng.permutation(len(weights[0]))
        layer.set_weights([each[channels] for each in weights])
    else:
        layer.set_weights([rng.permutation(each.ravel()).reshape(each.shape) for each in weights])


def _leaves(model: keras.Layer) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _leaves(layer)
        else:
            yield layer


def _films(images: npt.ArrayLike) -> npt.NDArray[Any]:
    x = np.asarray(images)
    if x.ndim != 4 or len(x) == 0 or x.shape[1] != x.shape[2]:
        raise ValueError(
            f"images: expected square films (n, size, size, channels), found {x.shape}"
        )
    return x


def _fitted(maps: Maps, masks: Masks) -> Maps:
    """Maps as they lie over the masks, (n, H, W)."""
    if masks.dtype != bool or masks.ndim != 3 or masks.shape[1] != masks.shape[2]:
        found = f"{masks.dtype} {masks.shape}"
        raise ValueError(f"masks: expected bool, square, shape (n, size, size), found {found}")
    if maps.ndim != 3 or len(maps) != len(masks):
        raise ValueError(f"maps: expected shape ({len(masks)}, h, w), found {maps.shape}")
    return maps if maps.shape == masks.shape else resized(maps, masks.shape[1])


def _common(a: Maps, b: Maps) -> tuple[Maps, Maps]:
    if len(a) != len(b):
        raise ValueError(f"maps: expected as many as the other ({len(a)}), found {len(b)}")
    side = max(*a.shape[1:], *b.shape[1:], _LEAST_SIDE)
    return resized(a, side), resized(b, side)


def _scaled(mask: Masks, size: int) -> Masks:
    return np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))


def _finite(maps: npt.NDArray[Any]) -> Masks:
    return np.asarray(np.isfinite(maps).all(axis=(1, 2)))


def _where_any(masks: Masks, values: Floats) -> Floats:
    return np.where(masks.any(axis=(1, 2)), values, np.nan)


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else np.nan
