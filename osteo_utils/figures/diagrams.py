"""Diagrams drawn from the model itself, so that a picture cannot differ from the network.

Everything is laid out in inches on one set of axes, sized for a page of 700 pixels.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import keras
import matplotlib.pyplot as plt
from keras import layers
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from matplotlib.textpath import TextToPath

from osteo_utils.networks.cost import Call, Shape, calls, kernels
from osteo_utils.registry import ARCHITECTURES

FONT: Final = 8  # points
LINE: Final = 0.145  # height of a line of text
PAGE: Final = 7.3  # 700 pixels

_ROW_COLOURS: Final = ("#56B4E9", "#E69F00", "#CC79A7")  # Okabe & Ito 2008
_INK: Final = "#222222"
_GREY: Final = "#D9D9D9"
_GREEN: Final = "#009E73"

_SAME_STAGE: Final = 0.9  # sides at least this much alike (149 and 147) belong together
_TALLEST, _LOWEST = 1.35, 0.16
_CHANNEL_WIDTH: Final = 0.045  # for each doubling of the channels
_SLANT: Final = 0.3
_COLUMN_GAP: Final = 0.09

# What a layer is called under a slab, the most telling kinds first.
_KINDS: Final[tuple[tuple[str, tuple[type, ...]], ...]] = (
    ("conv", (layers.Conv2D,)),
    ("depthwise", (layers.DepthwiseConv2D,)),
    ("separable", (layers.SeparableConv2D,)),
    ("max pool", (layers.MaxPooling2D,)),
    ("avg pool", (layers.AveragePooling2D,)),
    ("add", (layers.Add,)),
    ("concat", (layers.Concatenate,)),
)
_VECTOR_KINDS: Final = {
    layers.GlobalAveragePooling2D: "averaged",
    layers.GlobalMaxPooling2D: "max",
    layers.Flatten: "flattened",
    layers.Dense: "dense",
    layers.Concatenate: "joined",
}


# ---------------------------------------------------------------------------------------------
# The whole network as a row of slabs


@dataclass
class Stage:
    """The layers that work on maps of about one size.

    Attributes:
        side: Height and width of the maps that leave it.
        channels: How many maps leave it.
        calls: Its layers, in the order of computation.
        final: Whether side and channels are those of a layer that all ways pass.
    """

    side: tuple[int, int]
    channels: int
    calls: list[Call] = field(default_factory=list)
    final: bool = False

    @property
    def size(self) -> str:
        """Height, width and channels of what leaves the stage."""
        return f"{self.side[0]}×{self.side[1]}×{self.channels:,}"

    @property
    def contents(self) -> list[str]:
        """How many layers of each telling kind it has."""
        count = Counter(_kind(call.layer) for call in self.calls)
        return [f"{count[name]} {name}" for name, _ in _KINDS if count[name]]


@dataclass
class Outline:
    """A network in short: what goes in, one row of stages a branch, the vectors at the end.

    Attributes:
        image: What goes in.
        rows: Stages of each branch, from the image on.
        tails: Vectors of each row alone, where there are several rows.
        tail: Vectors of the only row, or after the rows have met.
        parameters: Of the whole network.
    """

    image: Stage
    rows: list[list[Stage]]
    tails: list[list[Call]]
    tail: list[Call]
    parameters: int

    def share(self, counted: Iterable[Call]) -> float:
        """Part of all parameters that is in these layers.

        Args:
            counted: Calls of the layers.

        Returns:
            The share, 0 to 1.
        """
        return sum(map(_parameters, counted)) / max(1, self.parameters)


@dataclass
class Sheet:
    """Where a drawing is made: axes in inches, and the space for lines and between columns.

    Attributes:
        ax: The axes.
        net: What is drawn.
        lines: Of text under the fullest slab.
        gap: Between two columns, in inches.
        row_height: In inches.
    """

    ax: Axes
    net: Outline
    lines: int
    gap: float
    row_height: float

    def base(self, top: float) -> float:
        """Height of the base line of a row.

        Args:
            top: Height at which the row begins, in inches.

        Returns:
            The height, in inches.
        """
        return top - _TALLEST * (1 + _SLANT / 2) - 0.1


def stage_diagram(model: keras.Model) -> tuple[Figure, str]:
    """The network as a row of slabs, one for each size of its maps.

    The height of a slab goes with the square root of the maps' side, its width with the logarithm
    of their number. Below: what leaves the slab, its layers, and their share of all parameters.
    Branches that meet only after their maps have been pooled away (late fusion) are drawn as rows
    that join.

    Args:
        model: A flat model with feature maps.

    Returns:
        The figure and its alternative text.

    Raises:
        ValueError: The model has no feature maps, `cost.calls` does not take it, or `cost.kernels`
            does not know one of its layers.
    """
    net = outline(model)
    columns = 2 + max(map(len, net.rows)) + any(map(bool, net.tails))
    natural = _natural_width(net)
    gap = max(_COLUMN_GAP, (PAGE - 0.2 - natural) / columns)
    width = 0.2 + natural + gap * columns
    lines = [1 + len(stage.contents) for row in net.rows for stage in row]
    lines += map(len, [net.tail, *net.tails])
    height = (_TALLEST * (1 + _SLANT / 2) + 0.1 + (max(lines) + 2.4) * LINE) * len(net.rows)
    fig, ax = _canvas(width, height)
    _draw_outline(Sheet(ax, net, max(lines), gap, height / len(net.rows)), height)
    return fig, _stage_alt(model, net)


def _natural_width(net: Outline) -> float:
    """Inches of all columns without the gaps."""
    rows = [
        sum(map(_column_width, row)) + _tail_width(tail)
        for row, tail in zip(net.rows, net.tails, strict=True)
    ]
    return _column_width(net.image) + max(rows) + _tail_width(net.tail)


def _draw_outline(sheet: Sheet, height: float) -> None:
    net, middle = sheet.net, (height + sheet.row_height) / 2
    first = _draw_stage(sheet, 0.1, middle, net.image)
    ends = []
    for index, row in enumerate(net.rows):
        colour, top = _ROW_COLOURS[index % len(_ROW_COLOURS)], height - index * sheet.row_height
        left = first
        for stage in row:
            left = _draw_stage(sheet, left, top, stage, colour)
        ends.append(_draw_tail(sheet, left, top, net.tails[index], colour))
    last, bottom = max(ends), sheet.base(sheet.row_height)
    at = 0.1 + _column_width(net.image) / 2
    _write(sheet.ax, at, bottom - (sheet.lines + 1.1) * LINE, "parameters")
    if len(ends) > 1:
        for index, end in enumerate(ends):
            base = sheet.base(height - index * sheet.row_height)
            _arrow(sheet.ax, (first - sheet.gap, sheet.base(middle) + 0.4), (first, base + 0.2))
            _arrow(sheet.ax, (end - sheet.gap, base + 0.2), (last, sheet.base(middle) + 0.3))
    _draw_tail(sheet, last, middle, net.tail, _GREEN)


def outline(model: keras.Model) -> Outline:
    """Group the layers of a flat model into stages.

    Args:
        model: A flat model with feature maps.

    Returns:
        The network in short.

    Raises:
        ValueError: As in `stage_diagram`.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(4, 3, padding="same")])
        >>> model.add(layers.MaxPooling2D())
        >>> [stage.size for stage in outline(model).rows[0]]
        ['8×8×4', '4×4×4']
    """
    found = calls(model)
    maps = {call.index for call in found if len(call.output) == 3}
    ends = sorted(maps - {p for call in found if call.index in maps for p in call.parents})
    if not ends:
        raise ValueError(
            f"{model.name}: expected a flat model with feature maps, found none; for a model in a "
            "model, pass the inner one"
        )
    above, pixels = _ancestors(found), _before_weights(found)
    rows = [_stages(found, (above[end] & maps) - pixels, above) for end in ends]
    vectors = [call for call in found if call.index not in maps and _tells(call)]
    reached = {v.index: [k for k, end in enumerate(ends) if end in above[v.index]] for v in vectors}
    alone = [[v for v in vectors if reached[v.index] == [k]] for k in range(len(ends))]
    together = [v for v in vectors if len(reached[v.index]) > 1]
    if len(ends) == 1:
        alone, together = [[]], alone[0]
    height, width, channels = (int(side or 0) for side in found[0].output)
    image = Stage((height, width), channels)
    return Outline(image, rows, alone, together, model.count_params())


def _ancestors(found: Sequence[Call]) -> list[set[int]]:
    """For each call, itself and all that it needs."""
    above: list[set[int]] = []
    for call in found:
        above.append({call.index}.union(*(above[p] for p in call.parents)))
    return above


def _before_weights(found: Sequence[Call]) -> set[int]:
    """Calls that only prepare the pixels: no kernel is used in them or before them."""
    prepared: set[int] = set()
    for call in found:
        if all(p in prepared for p in call.parents) and not kernels(call.layer):
            prepared.add(call.index)
    return prepared


def _stages(found: Sequence[Call], members: set[int], above: Sequence[set[int]]) -> list[Stage]:
    stages: list[Stage] = []
    for call in (found[index] for index in sorted(members)):
        if isinstance(call.layer, layers.ZeroPadding2D | layers.Cropping2D):
            continue
        height, width, channels = (int(side or 0) for side in call.output)
        stage = next((s for s in stages if _alike(s.side[0], height)), None)
        if stage is None:
            stages.append(stage := Stage((height, width), channels))
        if (all_pass := _all_pass(call, members, above)) or not stage.final:
            stage.side, stage.channels, stage.final = (height, width), channels, all_pass
        stage.calls.append(call)
    return stages


def _all_pass(call: Call, members: set[int], above: Sequence[set[int]]) -> bool:
    """Whether the call is on every way through the row: no branch goes round it."""
    return all(other in above[call.index] or call.index in above[other] for other in members)


def _alike(one: int, other: int) -> bool:
    return min(one, other) >= _SAME_STAGE * max(one, other)


def _tells(call: Call) -> bool:
    return len(call.output) == 1 and isinstance(call.layer, tuple(_VECTOR_KINDS))


def _parameters(call: Call) -> int:
    return int(call.layer.count_params()) if isinstance(call.layer, keras.Layer) else 0


def _kind(layer: Any) -> str:  # noqa: ANN401
    return next((name for name, types in _KINDS if type(layer) in types), "other")


def _height(stage: Stage, net: Outline) -> float:
    return max(_LOWEST, _TALLEST * math.sqrt(stage.side[0] / max(1, net.image.side[0])))


def _width(stage: Stage) -> float:
    return _CHANNEL_WIDTH * math.log2(stage.channels + 1)


def _column_width(stage: Stage) -> float:
    text = [_text_width(stage.size, "bold"), *map(_text_width, stage.contents)]
    return max(*text, _width(stage) + 0.25, 0.6)


def _tail_width(tail: Sequence[Call]) -> float:
    return max((_text_width(_vector_text(call)) for call in tail), default=0.0)


def _vector_text(call: Call) -> str:
    name = next(text for kind, text in _VECTOR_KINDS.items() if isinstance(call.layer, kind))
    return f"{name} {call.output[0]:,}"


def _draw_stage(sheet: Sheet, left: float, top: float, stage: Stage, colour: str = _GREY) -> float:
    """A slab on its base line with the text below it; returns the left edge of the next one."""
    column, base = _column_width(stage), sheet.base(top)
    height, width, middle = _height(stage, sheet.net), _width(stage), left + column / 2
    _slab(sheet.ax, middle - (width + _SLANT * height) / 2, base, width, height, colour)
    for number, line in enumerate([stage.size, *(stage.contents or ["image"])]):
        weight = "bold" if number == 0 else "normal"
        _write(sheet.ax, middle, base - (number + 0.9) * LINE, line, weight=weight)
    if stage.calls:
        _bar(sheet, left, base, column, stage.calls, colour)
    return left + column + sheet.gap


def _slab(ax: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A box in oblique view: as deep as it is high, since maps are as wide as high."""
    dx, dy = _SLANT * height, _SLANT * height / 2
    style: dict[str, Any] = {"edgecolor": _INK, "linewidth": 0.7}
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, **style))
    lid = [(x, y + height), (x + dx, y + height + dy)]
    lid += [(x + width + dx, y + height + dy), (x + width, y + height)]
    ax.add_patch(Polygon(lid, facecolor=_mixed(colour, 0.45), **style))
    flank = [(x + width, y), (x + width + dx, y + dy)]
    flank += [(x + width + dx, y + height + dy), (x + width, y + height)]
    ax.add_patch(Polygon(flank, facecolor=_mixed(colour, 0.7), **style))


def _mixed(colour: str, share: float) -> tuple[float, ...]:
    """The colour on white, `share` of it."""
    return tuple(1 - share * (1 - c) for c in to_rgb(colour))


def _bar(
    sheet: Sheet, x: float, base: float, width: float, counted: Sequence[Call], colour: str
) -> None:
    """The share of the parameters: a number over a bar of which the column is the whole."""
    share, y = sheet.net.share(counted), base - (sheet.lines + 1.1) * LINE
    _write(sheet.ax, x + width / 2, y, _percent(share))
    sheet.ax.add_patch(Rectangle((x, y - LINE), width, 0.07, facecolor="#E6E6E6"))
    sheet.ax.add_patch(Rectangle((x, y - LINE), width * share, 0.07, facecolor=colour))


def _percent(share: float) -> str:
    return "< 1 %" if 0 < share < 0.005 else f"{share:.0%}".replace("%", " %")


def _draw_tail(sheet: Sheet, left: float, top: float, tail: Sequence[Call], colour: str) -> float:
    """The vectors as thin bars in a row, named below; returns where the next column begins."""
    if not tail:
        return left
    base, width = sheet.base(top), _tail_width(tail)
    for number, call in enumerate(tail):
        height = 0.1 * math.log2(int(call.output[0] or 1) + 1)
        x = left + 0.08 + 0.17 * number
        bar = Rectangle((x, base), 0.07, height, facecolor=colour, edgecolor=_INK, linewidth=0.7)
        sheet.ax.add_patch(bar)
        middle = left + width / 2
        _write(sheet.ax, middle, base - (number + 0.9) * LINE, _vector_text(call))
    if any(map(_parameters, tail)):
        _bar(sheet, left, base, width, tail, colour)
    return left + width + sheet.gap


def _stage_alt(model: keras.Model, net: Outline) -> str:
    title = ARCHITECTURES[model.name].title if model.name in ARCHITECTURES else model.name
    rows = "; ".join(map(_row_text, net.rows))
    branches = f", in {len(net.rows)} branches" if len(net.rows) > 1 else ""
    vectors = ", ".join(map(_vector_text, net.tail))
    return (
        f"{title} drawn as slabs{branches}, from an image of {net.image.size}: {rows}"
        + (f"; then vectors, {vectors}" if vectors else "")
        + f". {_heaviest(net)}"
    )


def _row_text(row: Sequence[Stage]) -> str:
    return f"maps of {len(row)} sizes from {row[0].size} to {row[-1].size}"


def _heaviest(net: Outline) -> str:
    groups = {
        f"the layers at {stage.side[0]}×{stage.side[1]}": net.share(stage.calls)
        for row in net.rows
        for stage in row
    }
    groups["the layers after the maps"] = net.share(net.tail)
    name = max(groups, key=lambda group: groups[group])
    return (
        f"The largest part of its {net.parameters:,} parameters, {_percent(groups[name])}, is in "
        f"{name}."
    )


# ---------------------------------------------------------------------------------------------
# A small model, layer by layer


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
        return max(_text_width(last, "bold"), *map(_text_width, normal)) + 0.16

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
    fig, ax = _canvas(right - left + 0.1, total)
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
        if joins and parent is not None and not _is_input(found[parent]):
            holder[call.index] = holder[parent]
            boxes[holder[parent]].calls.append(call)
            continue
        holder[call.index] = len(boxes)
        parents = [holder[p] for p in dict.fromkeys(call.parents)]
        depth = 1 + max((boxes[p].depth for p in parents), default=-1)
        boxes.append(Box([call], parents, depth))
    return boxes


def _is_input(call: Call) -> bool:
    return isinstance(call.layer, layers.InputLayer)


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
            facecolor=_mixed(_box_colour(box.calls[0].layer), 0.35),
            edgecolor=_INK,
            linewidth=0.8,
        )
    )
    for number, line in enumerate(box.lines):
        last = number == len(box.lines) - 1
        y = top - 0.05 - (number + 0.5) * LINE
        _write(ax, box.x, y, line, weight="bold" if last else "normal")


def _box_colour(layer: Any) -> str:  # noqa: ANN401
    if isinstance(layer, layers.InputLayer):
        return _GREY
    if kernels(layer):
        return _ROW_COLOURS[0]
    return _GREEN if isinstance(layer, layers.Add | layers.Concatenate) else _ROW_COLOURS[1]


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
        ax.plot(*zip(*points, strict=True), color=_INK, lw=0.9, solid_capstyle="round", zorder=0.5)
        _arrow(ax, points[-1], (edge[-1].x, tops[edge[-1].depth]))


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


# ---------------------------------------------------------------------------------------------
# Paper and pen


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """White paper whose axes are in inches."""
    fig = plt.figure(figsize=(width, height), facecolor="white")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def _text_width(text: str, weight: str = "normal") -> float:
    """Inches that a line of text takes."""
    font = FontProperties(size=FONT, weight=weight)
    return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "color": _INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def _write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    weight: str = "normal",
) -> None:
    ax.text(x, y, text, fontsize=FONT, weight=weight, ha="center", va="center", color=_INK)
