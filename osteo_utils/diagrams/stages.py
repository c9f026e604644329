"""A whole network as a row of slabs, one for each size of its maps."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import keras
from keras import layers
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from osteo_utils.diagrams.drawing import (
    GREEN,
    GREY,
    INK,
    LINE,
    PAGE,
    ROW_COLOURS,
    arrow,
    canvas,
    mixed,
    text_width,
    write,
)
from osteo_utils.networks.cost import Call, calls, kernels
from osteo_utils.registry import ARCHITECTURES

_SAME_STAGE: Final = 0.9  # sides at least this much alike (149 and 147) belong together
_TALLEST, _LOWEST = 1.35, 0.16
_CHANNEL_WIDTH: Final = 0.045  # for each doubling of the channels
_SLANT: Final = 0.3
_COLUMN_GAP: Final = 0.09
# What a layer is called under a slab, the most telling kinds first.
_KINDS: Final = {
    layers.Conv2D: "conv",
    layers.DepthwiseConv2D: "depthwise",
    layers.SeparableConv2D: "separable",
    layers.MaxPooling2D: "max pool",
    layers.AveragePooling2D: "avg pool",
    layers.Add: "add",
    layers.Concatenate: "concat",
}
_VECTOR_KINDS: Final = {
    layers.GlobalAveragePooling2D: "averaged",
    layers.GlobalMaxPooling2D: "max",
    layers.Flatten: "flattened",
    layers.Dense: "dense",
    layers.Concatenate: "joined",
}


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
        count = Counter(type(call.layer) for call in self.calls)
        return [f"{count[kind]} {name}" for kind, name in _KINDS.items() if count[kind]]


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
    fig, ax = canvas(width, height)
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
        colour, top = ROW_COLOURS[index % len(ROW_COLOURS)], height - index * sheet.row_height
        left = first
        for stage in row:
            left = _draw_stage(sheet, left, top, stage, colour)
        ends.append(_draw_tail(sheet, left, top, net.tails[index], colour))
    last, bottom = max(ends), sheet.base(sheet.row_height)
    at = 0.1 + _column_width(net.image) / 2
    write(sheet.ax, at, bottom - (sheet.lines + 1.1) * LINE, "parameters")
    if len(ends) > 1:
        for index, end in enumerate(ends):
            base = sheet.base(height - index * sheet.row_height)
            arrow(sheet.ax, (first - sheet.gap, sheet.base(middle) + 0.4), (first, base + 0.2))
            arrow(sheet.ax, (end - sheet.gap, base + 0.2), (last, sheet.base(middle) + 0.3))
    _draw_tail(sheet, last, middle, net.tail, GREEN)


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


def _height(stage: Stage, net: Outline) -> float:
    return max(_LOWEST, _TALLEST * math.sqrt(stage.side[0] / max(1, net.image.side[0])))


def _width(stage: Stage) -> float:
    return _CHANNEL_WIDTH * math.log2(stage.channels + 1)


def _column_width(stage: Stage) -> float:
    text = [text_width(stage.size, "bold"), *map(text_width, stage.contents)]
    return max(*text, _width(stage) + 0.25, 0.6)


def _tail_width(tail: Sequence[Call]) -> float:
    return max((text_width(_vector_text(call)) for call in tail), default=0.0)


def _vector_text(call: Call) -> str:
    name = next(text for kind, text in _VECTOR_KINDS.items() if isinstance(call.layer, kind))
    return f"{name} {call.output[0]:,}"


def _draw_stage(sheet: Sheet, left: float, top: float, stage: Stage, colour: str = GREY) -> float:
    """A slab on its base line with the text below it; returns the left edge of the next one."""
    column, base = _column_width(stage), sheet.base(top)
    height, width, middle = _height(stage, sheet.net), _width(stage), left + column / 2
    _slab(sheet.ax, middle - (width + _SLANT * height) / 2, base, width, height, colour)
    for number, line in enumerate([stage.size, *(stage.contents or ["image"])]):
        weight = "bold" if number == 0 else "normal"
        write(sheet.ax, middle, base - (number + 0.9) * LINE, line, weight=weight)
    if stage.calls:
        _bar(sheet, left, base, column, stage.calls, colour)
    return left + column + sheet.gap


def _slab(ax: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A box in oblique view: as deep as it is high, since maps are as wide as high."""
    dx, dy = _SLANT * height, _SLANT * height / 2
    style: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.7}
    ax.add_patch(Rectangle((x, y), width, height, facecolor=colour, **style))
    lid = [(x, y + height), (x + dx, y + height + dy)]
    lid += [(x + width + dx, y + height + dy), (x + width, y + height)]
    ax.add_patch(Polygon(lid, facecolor=mixed(colour, 0.45), **style))
    flank = [(x + width, y), (x + width + dx, y + dy)]
    flank += [(x + width + dx, y + height + dy), (x + width, y + height)]
    ax.add_patch(Polygon(flank, facecolor=mixed(colour, 0.7), **style))


def _bar(
    sheet: Sheet, x: float, base: float, width: float, counted: Sequence[Call], colour: str
) -> None:
    """The share of the parameters: a number over a bar of which the column is the whole."""
    share, y = sheet.net.share(counted), base - (sheet.lines + 1.1) * LINE
    write(sheet.ax, x + width / 2, y, _percent(share))
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
        bar = Rectangle((x, base), 0.07, height, facecolor=colour, edgecolor=INK, linewidth=0.7)
        sheet.ax.add_patch(bar)
        middle = left + width / 2
        write(sheet.ax, middle, base - (number + 0.9) * LINE, _vector_text(call))
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
