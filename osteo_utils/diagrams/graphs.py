"""A small model as a graph, layer by layer."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import keras
from keras import layers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from osteo_utils.diagrams.drawing import (
    GREEN,
    GREY,
    INK,
    LINE,
    ROW_COLOURS,
    arrow,
    canvas,
    mixed,
    text_width,
    write,
)
from osteo_utils.networks.cost import Call, Shape, calls, kernels


@dataclass
class Box:
    """A layer, with the normalisation and activation that follow it alone.

    Attributes:
        calls: The layer, then those that follow.
        parents: Places of the boxes that feed it.
        depth: Of its row, 0 at the top.
        x: Its middle, in inches.
    """

    calls: list[Call]
    parents: list[int] = field(default_factory=list)
    depth: int = 0
    x: float = 0.0

    @property
    def lines(self) -> list[str]:
        """What is written in it: each layer, then the shape of what leaves."""
        return [*(describe(call) for call in self.calls), shape_text(self.calls[-1].output)]

    @property
    def width(self) -> float:
        """Inches."""
        *normal, last = self.lines
        return max(text_width(last, "bold"), *map(text_width, normal)) + 0.16

    @property
    def height(self) -> float:
        """Inches."""
        return len(self.lines) * LINE + 0.1


class Lane(Box):
    """Where an arrow that skips a row of boxes passes through that row."""

    lines: list[str] = []  # noqa: RUF012
    width = 0.2
    height = 0.0


_FOLLOWERS: Final = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.ReLU,
    layers.Activation,
    layers.Dropout,
)
_BAND_GAP: Final = 0.27
_SIDE_GAP: Final = 0.14
_SWEEPS: Final = 12


def graph_diagram(model: keras.Model) -> tuple[Figure, str]:
    """Every layer of a small model as boxes and arrows from top to bottom.

    Each box has the layer's kind, its main settings and the shape of its output; normalisation and
    activation stand in the box of the layer that feeds them alone.

    Args:
        model: A functional or built sequential model of up to about 40 layers.

    Returns:
        The figure and its alternative text.

    Raises:
        ValueError: `cost.calls` does not take the model, or `cost.kernels` does not know one of its
            layers.
    """
    boxes = _boxes(calls(model))
    bands, edges = _bands(boxes)
    _order(bands, edges)
    _place(bands, edges)
    heights = [max(box.height for box in band) for band in bands]
    left = min(box.x - box.width / 2 for band in bands for box in band)
    right = max(box.x + box.width / 2 for band in bands for box in band)
    total = sum(heights) + _BAND_GAP * (len(bands) - 1) + 0.1
    fig, ax = canvas(right - left + 0.1, total)
    tops, top = [], total - 0.05
    for height in heights:
        tops.append(top)
        top -= height + _BAND_GAP
    for band in bands:
        for box in band:
            box.x += 0.05 - left
    _draw_boxes(ax, bands, tops)
    _draw_edges(ax, edges, tops, heights)
    return fig, _graph_alt(model, boxes)


def describe(call: Call) -> str:
    """Kind and main settings of a layer in a few words.

    Args:
        call: Of the layer.

    Returns:
        The words.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(64, 3, strides=2)])
        >>> describe(calls(model)[1])
        'Conv2D 64, 3×3, /2'
    """
    layer = call.layer
    kind = type(layer).__name__
    if isinstance(layer, layers.InputLayer):
        return "input"
    if isinstance(layer, layers.Activation):
        return str(keras.activations.serialize(layer.activation))
    return " ".join([_SHORT.get(kind, kind), *([s] if (s := _settings(layer)) else [])])


_SHORT: Final = {
    "BatchNormalization": "batch norm",
    "GroupNormalization": "group norm",
    "GlobalAveragePooling2D": "global average",
    "MaxPooling2D": "max pool",
    "AveragePooling2D": "average pool",
    "ZeroPadding2D": "zero padding",
    "Concatenate": "concatenate",
    "Add": "add",
    "Dropout": "dropout",
}


def _settings(layer: Any) -> str:  # noqa: ANN401
    words = []
    if (filters := getattr(layer, "filters", None) or getattr(layer, "units", None)) is not None:
        words.append(f"{filters:,}")
    window = getattr(layer, "kernel_size", None) or getattr(layer, "pool_size", None)
    if window is not None:
        words.append("×".join(map(str, window)))
    stride = getattr(layer, "strides", None)
    if stride is not None and max(stride) > 1:
        words.append(f"/{max(stride)}")
    if (groups := getattr(layer, "groups", 1)) > 1 and hasattr(layer, "filters"):
        words.append(f"{groups} groups")
    if isinstance(layer, layers.Dropout):
        words.append(f"{layer.rate:g}")
    if isinstance(layer, layers.ReLU) and layer.max_value is not None:
        words.append(f"up to {layer.max_value:g}")
    return ", ".join(words)


def shape_text(shape: Shape) -> str:
    """A shape as text.

    Args:
        shape: Sides, without the batch; None for an open one, which is written "?".

    Returns:
        The sides with × between them.

    Example:
        >>> shape_text((35, 35, 192)), shape_text((None, 64))
        ('35×35×192', '?×64')
    """
    return "×".join("?" if side is None else f"{side:,}" for side in shape)


def _boxes(found: Sequence[Call]) -> list[Box]:
    children = Counter(p for call in found for p in call.parents)
    boxes: list[Box] = []
    holder: dict[int, int] = {}  # call -> box
    for call in found:
        parent = call.parents[0] if len(call.parents) == 1 else None
        joins = parent is not None and children[parent] == 1 and isinstance(call.layer, _FOLLOWERS)
        if joins and parent is not None and not isinstance(found[parent].layer, layers.InputLayer):
            holder[call.index] = holder[parent]
            boxes[holder[parent]].calls.append(call)
            continue
        holder[call.index] = len(boxes)
        parents = [holder[p] for p in dict.fromkeys(call.parents)]
        depth = 1 + max((boxes[p].depth for p in parents), default=-1)
        boxes.append(Box([call], parents, depth))
    return boxes


def _bands(boxes: Sequence[Box]) -> tuple[list[list[Box]], list[list[Box]]]:
    """Boxes by depth, with lanes for arrows that skip a band; arrows as chains of those."""
    bands: list[list[Box]] = [[] for _ in range(1 + max(box.depth for box in boxes))]
    edges = []
    for box in boxes:
        bands[box.depth].append(box)
        for parent in (boxes[p] for p in box.parents):
            lanes: list[Box] = [Lane([], depth=d) for d in range(parent.depth + 1, box.depth)]
            for lane in lanes:
                bands[lane.depth].append(lane)
            edges.append([parent, *lanes, box])
    return bands, edges


Neighbours = dict[int, list[Box]]


def _neighbours(edges: Sequence[Sequence[Box]]) -> tuple[Neighbours, Neighbours]:
    """Who is linked to each box in the band above it, and in the band below it."""
    up, down = defaultdict(list), defaultdict(list)
    for edge in edges:
        for above, below in pairwise(edge):
            up[id(below)].append(above)
            down[id(above)].append(below)
    return up, down


def _order(bands: list[list[Box]], edges: Sequence[Sequence[Box]]) -> None:
    """Fewer crossings: each box moves to the mean place of its neighbours (Sugiyama 1981)."""
    up, down = _neighbours(edges)
    best, fewest = [list(band) for band in bands], _crossings(bands, edges)
    for sweep in range(_SWEEPS):
        linked, path = (up, bands) if sweep % 2 == 0 else (down, bands[::-1])
        place = {id(box): float(k) for band in bands for k, box in enumerate(band)}
        for band in path:
            band.sort(key=lambda box: _mean_place(box, linked, place))
            place |= {id(box): float(k) for k, box in enumerate(band)}
        if (crossings := _crossings(bands, edges)) < fewest:
            best, fewest = [list(band) for band in bands], crossings
    for band, order in zip(bands, best, strict=True):
        band[:] = order


def _mean_place(box: Box, linked: Neighbours, place: dict[int, float]) -> float:
    near = [place[id(each)] for each in linked[id(box)]]
    return sum(near) / len(near) if near else place[id(box)]


def _crossings(bands: Sequence[Sequence[Box]], edges: Sequence[Sequence[Box]]) -> int:
    place = {id(box): k for band in bands for k, box in enumerate(band)}
    steps: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for edge in edges:
        for above, below in pairwise(edge):
            steps[above.depth].append((place[id(above)], place[id(below)]))
    return sum(
        (a - c) * (b - d) < 0
        for links in steps.values()
        for k, (a, b) in enumerate(links)
        for c, d in links[:k]
    )


def _place(bands: Sequence[Sequence[Box]], edges: Sequence[Sequence[Box]]) -> None:
    """Horizontal positions: near the neighbours, in order, never closer than the gap."""
    up, down = _neighbours(edges)
    for band in bands:
        _pack(band, [0.0] * len(band))
    for sweep in range(2 * _SWEEPS):
        linked, path = (up, bands) if sweep % 2 == 0 else (down, bands[::-1])
        for band in path:
            _pack(band, [_wish(box, linked[id(box)]) for box in band])


def _wish(box: Box, near: Sequence[Box]) -> float:
    """Where a box would be best: amid its neighbours; a lane straight on from a lane."""
    lanes = [each for each in near if isinstance(each, Lane)]
    chosen = lanes if isinstance(box, Lane) and lanes else near
    return sum(each.x for each in chosen) / len(chosen) if chosen else box.x


def _pack(band: Sequence[Box], wish: Sequence[float]) -> None:
    """Put boxes in their order as near to their wishes as their widths allow (least squares)."""
    offsets = [0.0]
    for one, other in pairwise(band):
        offsets.append(offsets[-1] + (one.width + other.width) / 2 + _SIDE_GAP)
    blocks: list[list[float]] = []  # sum of wishes, number of boxes; means must not fall
    for want, offset in zip(wish, offsets, strict=True):
        blocks.append([want - offset, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += number
    starts = [total / number for total, number in blocks for _ in range(int(number))]
    for box, start, offset in zip(band, starts, offsets, strict=True):
        box.x = start + offset


def _draw_boxes(ax: Axes, bands: Sequence[Sequence[Box]], tops: Sequence[float]) -> None:
    for band, top in zip(bands, tops, strict=True):
        for box in band:
            if box.calls:
                _draw_box(ax, box, top)


def _draw_box(ax: Axes, box: Box, top: float) -> None:
    corner = (box.x - box.width / 2 + 0.04, top - box.height + 0.04)
    ax.add_patch(
        FancyBboxPatch(
            corner,
            box.width - 0.08,
            box.height - 0.08,
            boxstyle="round,pad=0.04",
            facecolor=mixed(_box_colour(box.calls[0].layer), 0.35),
            edgecolor=INK,
            linewidth=0.8,
        )
    )
    for number, line in enumerate(box.lines):
        last = number == len(box.lines) - 1
        y = top - 0.05 - (number + 0.5) * LINE
        write(ax, box.x, y, line, weight="bold" if last else "normal")


def _box_colour(layer: Any) -> str:  # noqa: ANN401
    if isinstance(layer, layers.InputLayer):
        return GREY
    if kernels(layer):
        return ROW_COLOURS[0]
    return GREEN if isinstance(layer, layers.Add | layers.Concatenate) else ROW_COLOURS[1]


def _draw_edges(
    ax: Axes, edges: Sequence[Sequence[Box]], tops: Sequence[float], heights: Sequence[float]
) -> None:
    """Straight down through a band, aslant only in the gaps, where no box is."""
    for edge in edges:
        points = [(edge[0].x, tops[edge[0].depth] - edge[0].height)]
        points.append((edge[0].x, tops[edge[0].depth] - heights[edge[0].depth]))
        for lane in edge[1:-1]:
            points.append((lane.x, tops[lane.depth]))
            points.append((lane.x, tops[lane.depth] - heights[lane.depth]))
        ax.plot(*zip(*points, strict=True), color=INK, lw=0.9, solid_capstyle="round", zorder=0.5)
        arrow(ax, points[-1], (edge[-1].x, tops[edge[-1].depth]))


def _graph_alt(model: keras.Model, boxes: Sequence[Box]) -> str:
    found = [call for box in boxes for call in box.calls]
    shapes = f"from {shape_text(found[0].output)} to {shape_text(found[-1].output)}"
    children = Counter(p for box in boxes for p in box.parents)
    widest = max(children.values(), default=0)
    meets = [b for b in boxes if len(b.parents) > 1]
    weights = sum(bool(kernels(call.layer)) for call in found)
    text = (
        f"{model.name} as a graph of {len(boxes)} boxes, {shapes}, with {weights} convolutions or "
        f"dense layers and {model.count_params():,} parameters"
    )
    if not meets:
        return text + "; one layer after the other, without a branch."
    joins = Counter(describe(b.calls[0]) for b in meets)
    told = " and ".join(f"{name} ({number})" for name, number in joins.items())
    return text + f"; up to {widest} ways leave one box, and they meet again in {told}."
