"""Heatmaps under the reader's hand: film, model, class, method, layer and how they are drawn."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anywidget
import numpy as np
import numpy.typing as npt
import traitlets
from matplotlib import colormaps

from osteo_utils.overlay import COLOURS
from osteo_utils.registry import CLASS_NAMES, SIGNED_CMAP
from osteo_utils.widgets.base import css, esm

if TYPE_CHECKING:
    import keras

Pixels = npt.NDArray[np.uint8]
Maps = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]

OUTLINE: Final = (0, 229, 255)  # cyan: in none of the even maps, and no grey
PIXEL_CELLS: Final = 24  # cells a side of a map of pixels: finer ones would fill the page


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
        zero, steps = _steps(self.signed)
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

    def picture(self, panel: int = 0) -> Pixels:
        """What is on the first (0) or the second (1) canvas now: colours, uint8 (size, size, 3)."""
        return picture_of(self.get_state(), panel)


def picture_of(state: Mapping[str, Any], panel: int = 0) -> Pixels:
    """As `CamExplorer.picture`, for the state of a widget as a saved notebook keeps it."""
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
    zero, steps = _steps(entry["signed"])
    whole = levels.astype(np.int64).reshape(entry["height"], entry["width"]) - zero
    return _stretched(whole, content["size"]) / steps * factor


def cam_stacks(
    models: Mapping[str, "keras.Model"],
    films: Mapping[str, npt.NDArray[Any]],
    methods: Sequence[str] = ("grad_cam",),
    layers: Mapping[str, Mapping[str, str]] | None = None,
) -> list[Stack]:
    """The stacks of several models, by their titles, every class and every method.

    `films` are what each model takes, (n, size, size, 1) in its own size; `methods` keys of
    `gradcam.METHODS`; `layers` maps the title of a model to its layers, by the title that each is
    shown with (`gradcam.maps_of_run` gives those of a fusion), else the last one is taken.
    """
    from osteo_utils.saliency.gradcam import PIXEL_METHODS, last_conv_layer

    stacks = []
    for title, model in models.items():
        last = last_conv_layer(model)
        named = (layers or {}).get(title, {last: last})
        for method in methods:
            where = {"pixels": None} if method in PIXEL_METHODS else dict(named)
            stacks += [
                stack_of(title, model, films[title], method, layer, shown)
                for shown, layer in where.items()
            ]
    return stacks


def stack_of(
    title: str,
    model: "keras.Model",
    films: npt.NDArray[Any],
    method: str = "grad_cam",
    layer: str | None = None,
    layer_title: str = "last maps",
) -> Stack:
    """The maps of one model for every class; maps finer than PIXEL_CELLS a side are averaged.

    Flat maps do not warn here: the widget tells the reader of each in words.
    """
    from osteo_utils.saliency.gradcam import METHODS, TITLES, CamWarning, resized

    place = {} if layer is None else {"layer": layer}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)
        maps = [
            METHODS[method](model, films, target=c, flat="nan", **place)
            for c in range(len(CLASS_NAMES))
        ]
    if max(maps[0].shape[1:]) > PIXEL_CELLS:
        maps = [resized(each, PIXEL_CELLS) for each in maps]
    return Stack(title, layer_title, TITLES[method], np.stack(maps))


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


def _steps(signed: bool) -> tuple[int, int]:
    """The level of zero, and how many levels lie between it and the largest value."""
    return (128, 127) if signed else (0, 255)


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
