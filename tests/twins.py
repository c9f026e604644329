"""What the widgets work out in JavaScript, in Python: tests hold the browser against it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from osteo_utils.registry import CLASS_NAMES
from osteo_utils.scoring.ensembles import Ints
from osteo_utils.scoring.evaluate import confusion, design_effect, wilson

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

OUTLINE: Final = (0, 229, 255)  # cyan: in none of the even maps, and no grey


def picture_of(state: Mapping[str, Any], panel: int = 0) -> Pixels:
    """What is on the first (0) or the second (1) canvas of a heatmap explorer in that state."""
    which = int(state["beside" if panel else "stack"])
    if which < 0:
        raise ValueError("panel 1: expected a second map, found none; set `beside` to a stack")
    size = state["content"]["size"]
    film = np.frombuffer(state["films"], np.uint8).reshape(-1, size, size)[state["film"]]
    picture = np.repeat(film[..., None], 3, axis=2)
    share, opacity = share_of(state, which), state["opacity"]
    shown = np.abs(share) >= state["threshold"]  # nowhere in a flat map, which is NaN
    colour = _coloured(state, which, share[shown])
    picture[shown] = np.floor(colour * opacity + picture[shown] * (1 - opacity) + 0.5)
    if state["outline"] >= 0:
        picture[_edge(_mask(state))] = OUTLINE
    return picture


def share_of(state: Mapping[str, Any], which: int) -> Floats:
    """The map that stack `which` has for the film and class of `state`, in shares of its scale.

    Shape (size, size), 0 to 1, or -1 to 1 of a signed stack; NaN where the map is flat.
    """
    content, film = state["content"], state["film"]
    n, classes, entry = len(content["names"]), len(content["classes"]), content["stacks"][which]
    target = state["target"]
    if target < 0:
        p = np.frombuffer(state["probabilities"], "<f4").reshape(-1, n, classes)
        target = int(p[entry["model"], film].argmax())
    tops = np.frombuffer(state["tops"], "<f4").reshape(-1, classes, n)[which].astype(float)
    top = tops[target, film]
    if np.isnan(top):
        return np.full((content["size"], content["size"]), np.nan)
    factor = top / np.nanmax(tops) if state["shared"] else 1.0
    cells = [each["height"] * each["width"] for each in content["stacks"]]
    start = sum(cells[:which]) * classes * n + (target * n + film) * cells[which]
    levels = np.frombuffer(state["maps"], np.uint8, cells[which], start)
    zero, steps = (128, 127) if entry["signed"] else (0, 255)
    whole = levels.astype(np.int64).reshape(entry["height"], entry["width"]) - zero
    return _stretched(whole, content["size"]) / steps * factor


def _stretched(cells: npt.NDArray[np.int64], size: int) -> Floats:
    """Whole numbers (h, w) laid over (size, size): `gradcam.resized` without any rounding.

    Up to the last division all is in whole numbers, so the browser gets the same to the last bit:
    no pixel can fall on the other side of a threshold there.
    """
    rows, columns = (_weights(count, size) for count in cells.shape)
    return (rows @ cells @ columns.T) / (4 * size * size)


def _weights(count: int, size: int) -> npt.NDArray[np.int64]:
    """What each of `count` cells gives to each pixel, (size, count), in parts of 2 * size."""
    weights = np.zeros((size, count), np.int64)
    for pixel in range(size):
        place = min(max((2 * pixel + 1) * count - size, 0), 2 * size * (count - 1))
        low, rest = divmod(place, 2 * size)
        weights[pixel, low] += 2 * size - rest
        weights[pixel, min(low + 1, count - 1)] += rest
    return weights


def _coloured(state: Mapping[str, Any], which: int, share: Floats) -> Floats:
    tables = np.frombuffer(state["tables"], np.uint8).reshape(-1, 256, 3)
    if state["content"]["stacks"][which]["signed"]:
        return np.asarray(tables[-1][np.floor((share + 1) * 127.5 + 0.5).astype(int)], float)
    return np.asarray(tables[state["colours"]][np.floor(share * 255 + 0.5).astype(int)], float)


def _mask(state: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    size, n = state["content"]["size"], len(state["content"]["names"])
    packed = np.frombuffer(state["masks"], np.uint8).reshape(-1, n, -(-size * size // 8))
    bits = np.unpackbits(
        packed[state["outline"], state["film"]], count=size * size, bitorder="little"
    )
    return bits.reshape(size, size).astype(bool)


def _edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of a mask beside one that is not; the border of the film is no edge."""
    wide = np.pad(mask, 1, mode="edge")
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner


def with_intervals(
    labels: Ints, called: Ints, groups: npt.ArrayLike, costs: npt.ArrayLike
) -> pd.DataFrame:
    """What the browser shows of answers (n,), by the same rule: columns value, low, high.

    Rows: sensitivity and specificity of each class (`sensitivity_normal`), accuracy,
    balanced_accuracy and cost. Shares have Wilson's interval with the design effect of `groups`;
    of a weighted sum of shares the weighted margins are added as squares (Zou & Donner 2008).
    """
    y, z, g, price = labels, called, np.asarray(groups), np.asarray(costs, dtype=float)
    matrix, right = confusion(y, z), (y == z).astype(float)
    rows = {}
    for c, name in enumerate(CLASS_NAMES):
        agreed = ((y == c) == (z == c)).astype(float)
        for score, counted in (("sensitivity", y == c), ("specificity", y != c)):
            rows[f"{score}_{name.lower()}"] = _share(agreed[counted], g[counted])
    count = matrix.sum(axis=1)
    recall, paid = matrix.diagonal() / count, price[y, z]
    rows["accuracy"] = _share(right, g)
    effect = design_effect((right - recall[y]) / count[y], g)
    ends = [wilson(k, n, effect=effect) for k, n in zip(matrix.diagonal(), count, strict=True)]
    rows["balanced_accuracy"] = _combined(recall, ends, np.full(len(count), 1 / len(count)))
    effect = design_effect(paid - paid.mean(), g)
    ends = [wilson(float(k), len(y), effect=effect) for k in matrix.ravel()]
    rows["cost"] = _combined(matrix.ravel() / len(y), ends, price.ravel())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "low", "high"])


def _share(right: Floats, groups: npt.NDArray[Any]) -> tuple[float, float, float]:
    if not right.size:
        return np.nan, np.nan, np.nan
    effect = design_effect(right - right.mean(), groups)
    return (float(right.mean()), *wilson(right.sum(), right.size, effect=effect))


def _combined(
    shares: Floats, ends: Sequence[tuple[float, float]], weights: Floats
) -> tuple[float, float, float]:
    margins = np.hypot.reduce(weights[:, None] * (np.array(ends) - shares[:, None]))
    value = float(weights @ shares)
    return value, value - float(margins[0]), value + float(margins[1])
