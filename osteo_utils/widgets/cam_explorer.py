"""Heatmaps under the reader's hand: film, model, class, method, layer and how they are drawn."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import numpy as np
import numpy.typing as npt
import traitlets
from matplotlib import colormaps

from osteo_utils.overlay import COLOURS
from osteo_utils.registry import CLASS_NAMES, SIGNED_CMAP
from osteo_utils.widgets.base import css, esm

Pixels = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Stack:
    """Maps of one model, layer and method, with the titles that the reader sees.

    `maps` are raw, float (classes, n, h, w); all NaN is a flat map, where no region speaks. A map
    that is constant counts as flat too. Raises `ValueError` for other shapes or stray NaN.
    """

    model: str
    layer: str
    method: str
    maps: Maps

    def __post_init__(self) -> None:
        if self.maps.ndim != 4 or len(self.maps) != len(CLASS_NAMES):
            expected = f"({len(CLASS_NAMES)}, films, rows, columns)"
            raise ValueError(f"{self}: expected maps {expected}, found {self.maps.shape}")
        finite = np.isfinite(self.maps).mean(axis=(2, 3))
        if ((finite > 0) & (finite < 1)).any() or np.isinf(self.maps).any():
            raise ValueError(f"{self}: expected each map finite or NaN as a whole, found both")

    def __str__(self) -> str:
        return f"{self.method} of {self.model}, {self.layer}"

    @property
    def signed(self) -> bool:
        """Whether some region speaks against a class: such maps are drawn on both sides of zero."""
        return bool((self.maps < 0).any())

    @property
    def tops(self) -> npt.NDArray[np.float32]:
        """Largest absolute value of each map, (classes, n); NaN for a flat one."""
        flat = ~(np.ptp(self.maps, axis=(2, 3)) > 0)  # true for NaN
        return np.where(flat, np.nan, np.abs(self.maps).max(axis=(2, 3))).astype("<f4")

    def levels(self) -> Pixels:
        """The maps in steps of their own top: 0 to 255, or 1 to 255 around 128 if signed."""
        zero, steps = (128, 127) if self.signed else (0, 255)
        shares = np.nan_to_num(self.maps / self.tops[..., None, None])
        return np.asarray(np.rint(np.clip(shares, -1, 1) * steps + zero), np.uint8)


class CamExplorer(anywidget.AnyWidget):
    """Heatmaps over films; all that the reader chooses is drawn in the browser.

    `films` are uint8 (n, size, size), `labels` their true classes, `names` what they are called;
    `stacks` the maps, in the order in which they are offered; `probabilities` what each model of
    the stacks answers, (n, 3) by its title; `masks` regions to outline, bool (n, size, size) by
    name. Raises `ValueError` where these do not belong together.

    Each map is sent in 255 steps of its own largest value, so that a faint one loses nothing, and
    drawn on a scale that all films and classes of its stack share, or on its own. Between the
    centres of its cells it is bilinear, as `gradcam.resized`.
    """

    _esm = esm("cam_explorer")
    _css = css("cam_explorer")

    content = traitlets.Dict().tag(sync=True)  # titles, labels and shapes, as lists
    films = traitlets.Bytes().tag(sync=True)  # uint8 (n, size, size)
    masks = traitlets.Bytes().tag(sync=True)  # bits, low first: mask, film, size * size
    maps = traitlets.Bytes().tag(sync=True)  # uint8: stack, class, film, h, w
    tops = traitlets.Bytes().tag(sync=True)  # little-endian float32: stack, class, film
    probabilities = traitlets.Bytes().tag(sync=True)  # little-endian float32: model, film, class
    tables = traitlets.Bytes().tag(sync=True)  # uint8 (colour maps, 256, 3)

    film = traitlets.Int(0, min=0).tag(sync=True)
    target = traitlets.Int(-1, min=-1, max=2).tag(sync=True)  # class; -1 is the one called
    stack = traitlets.Int(0, min=0).tag(sync=True)  # index into content["stacks"]
    beside = traitlets.Int(-1, min=-1).tag(sync=True)  # of the second map; -1 is none
    opacity = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    threshold = traitlets.Float(0.0, min=0, max=1).tag(sync=True)  # share of the scale
    colours = traitlets.Int(0, min=0).tag(sync=True)  # index into content["colours"]
    shared = traitlets.Bool(True).tag(sync=True)  # one scale for a stack, or one for each map
    outline = traitlets.Int(-1, min=-1).tag(sync=True)  # index into content["masks"]; -1 is none

    def __init__(
        self,
        films: Pixels,
        labels: Sequence[int],
        stacks: Sequence[Stack],
        probabilities: Mapping[str, npt.ArrayLike],
        names: Sequence[str] | None = None,
        masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    ) -> None:
        names = [f"Film {i + 1}" for i in range(len(films))] if names is None else list(names)
        regions = dict(masks or {})
        titles = list(dict.fromkeys(stack.model for stack in stacks))
        _check(films, labels, names, stacks, regions)
        p = [_answers(title, probabilities, len(films)) for title in titles]
        bits = [np.packbits(m.reshape(len(m), -1), 1, "little") for m in regions.values()]
        super().__init__(
            content={
                "classes": list(CLASS_NAMES),
                "names": names,
                "labels": [int(label) for label in labels],
                "size": films.shape[-1],
                "models": titles,
                "stacks": [_entry(stack, titles) for stack in stacks],
                "masks": list(regions),
                "colours": list(COLOURS.values()),
            },
            films=films.tobytes(),
            masks=b"".join(each.tobytes() for each in bits),
            maps=b"".join(stack.levels().tobytes() for stack in stacks),
            tops=b"".join(stack.tops.tobytes() for stack in stacks),
            probabilities=np.stack(p).tobytes(),
            tables=b"".join(_table(name) for name in (*COLOURS, SIGNED_CMAP)),
        )


def _check(
    films: Pixels,
    labels: Sequence[int],
    names: Sequence[str],
    stacks: Sequence[Stack],
    masks: Mapping[str, npt.NDArray[np.bool_]],
) -> None:
    n, size = films.shape[0], films.shape[-1]
    if films.dtype != np.uint8 or films.shape != (n, size, size) or n == 0:
        found = f"{films.dtype} {films.shape}"
        raise ValueError(f"films: expected uint8, square, shape (n, size, size), found {found}")
    if not stacks:
        raise ValueError("stacks: expected one or more, found none")
    counts = {"labels": len(labels), "names": len(names)}
    counts |= {str(stack): stack.maps.shape[1] for stack in stacks}
    for what, count in counts.items():
        if count != n:
            raise ValueError(f"{what}: expected one for each of {n} films, found {count}")
    for name, mask in masks.items():
        if mask.dtype != bool or mask.shape != films.shape:
            found = f"{mask.dtype} {mask.shape}"
            raise ValueError(f"mask {name}: expected bool {films.shape}, found {found}")


def _answers(
    title: str, probabilities: Mapping[str, npt.ArrayLike], n: int
) -> npt.NDArray[np.float32]:
    if title not in probabilities:
        raise ValueError(f"probabilities: expected those of {title}, found {list(probabilities)}")
    p = np.asarray(probabilities[title], "<f4")
    if p.shape != (n, len(CLASS_NAMES)):
        expected = (n, len(CLASS_NAMES))
        raise ValueError(f"probabilities of {title}: expected {expected}, found {p.shape}")
    return p


def _entry(stack: Stack, titles: list[str]) -> dict[str, Any]:
    return {
        "model": titles.index(stack.model),
        "layer": stack.layer,
        "method": stack.method,
        "height": stack.maps.shape[2],
        "width": stack.maps.shape[3],
        "signed": stack.signed,
    }


def _table(name: str) -> bytes:
    return colormaps[name](np.arange(256), bytes=True)[:, :3].tobytes()
