"""Paper and pen of the diagrams: axes in inches, sized for a page of 700 pixels."""

from typing import Final

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

FONT: Final = 8  # points
LINE: Final = 0.145  # height of a line of text
PAGE: Final = 7.3  # 700 pixels
ROW_COLOURS: Final = ("#56B4E9", "#E69F00", "#CC79A7")  # Okabe & Ito 2008
INK: Final = "#222222"
GREY: Final = "#D9D9D9"
GREEN: Final = "#009E73"


def mixed(colour: str, share: float) -> tuple[float, ...]:
    """The colour on white, `share` of it."""
    return tuple(1 - share * (1 - c) for c in to_rgb(colour))


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """White paper whose axes are in inches."""
    fig = plt.figure(figsize=(width, height), facecolor="white")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.axis("off")
    return fig, ax


def text_width(text: str, weight: str = "normal") -> float:
    """Inches that a line of text takes."""
    font = FontProperties(size=FONT, weight=weight)
    return float(TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between two points, in inches."""
    style = {"arrowstyle": "-|>", "color": INK, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=style)


def write(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    weight: str = "normal",
) -> None:
    """A line of text centred at a point, in inches."""
    ax.text(x, y, text, fontsize=FONT, weight=weight, ha="center", va="center", color=INK)
