"""Figures of the course: each is a Matplotlib figure, shown with a text that says what it shows.

Colours stay apart with every colour-vision deficiency, backgrounds are opaque so that a figure
reads the same on a dark page, and `show` refuses a figure without an alternative text.
"""

import base64
import html
import io
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import seaborn as sns
from IPython.display import HTML, Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image

from osteo_utils.errors import check_count
from osteo_utils.registry import CLASS_COLOURS, CLASS_NAMES, SALIENCY_CMAP, SIGNED_CMAP
from osteo_utils.runs import Run, probabilities
from osteo_utils.scoring.evaluate import confusion
from osteo_utils.scoring.evaluate import reliability as calibration

CSS_DPI: Final = 96
EXPORT_DPI: Final = 150  # sharp on a dense screen, still small on the page

Images = Sequence[npt.NDArray[Any]] | npt.NDArray[Any]


def set_style() -> None:
    """One look for every figure: quiet grid, readable type, opaque white background."""
    sns.set_theme(context="notebook", style="whitegrid", font_scale=0.9)
    plt.rcParams.update(
        {"figure.facecolor": "white", "axes.titlesize": "medium", "image.cmap": "gray"}
    )


def show(fig: Figure, alt: str) -> None:
    """Display a figure as an HTML image that carries an alternative text, then close it.

    The image travels inside the output, so it is the same in Colab, JupyterLab and the built book.

    Args:
        fig: The figure.
        alt: States the finding in a sentence or two and may be computed from the run.

    Raises:
        ValueError: The alternative text has fewer than four words, as the name of a file.

    Example:
        >>> show(plt.figure(), "fig.png")
        Traceback (most recent call last):
        ...
        ValueError: alt text: expected a sentence that says what the figure shows, found 'fig.png'
    """
    display(HTML(picture(fig, alt)))


def picture(fig: Figure, alt: str) -> str:
    """A figure as an HTML image, closed.

    Args:
        fig: The figure.
        alt: Its alternative text, as `show` takes it.

    Returns:
        The element `img`, with the picture inside.

    Raises:
        ValueError: The alternative text has fewer than four words.

    Example:
        >>> picture(plt.figure(), "There is nothing here.")[-29:]
        'alt="There is nothing here.">'
    """
    if len(alt.split()) < 4:
        raise ValueError(
            f"alt text: expected a sentence that says what the figure shows, found {alt!r}"
        )
    width = round(fig.get_figwidth() * CSS_DPI)
    data = base64.b64encode(_webp(fig)).decode("ascii")
    plt.close(fig)
    return (
        f'<img class="figure" src="data:image/webp;base64,{data}" width="{width}" '
        f'style="max-width: 100%; height: auto" alt="{html.escape(alt, quote=True)}">'
    )


def _webp(fig: Figure) -> bytes:
    """The smaller of the lossless and the lossy encoding: lines like the one, films the other."""
    drawn = io.BytesIO()  # once: to draw takes longer than to encode
    fig.savefig(
        drawn, format="png", dpi=EXPORT_DPI, bbox_inches="tight", pil_kwargs={"compress_level": 0}
    )
    pixels, encoded = Image.open(drawn), []
    for options in ({"lossless": True}, {"quality": 78}):
        buffer = io.BytesIO()
        pixels.save(buffer, "webp", **options)
        encoded.append(buffer.getvalue())
    return min(encoded, key=len)


def image_grid(
    images: Images, titles: Sequence[str], columns: int = 6, side: float = 1.7
) -> Figure:
    """Grey images in rows, all on one scale from 0 to 255, a title above each.

    Args:
        images: uint8, each of shape (h, w) or (h, w, 1).
        titles: One for each image.
        columns: Images in a row, at most.
        side: Of an image on the page, in inches.

    Returns:
        The figure.

    Raises:
        ValueError: There are not as many titles as images, no image, or no column.

    Example:
        >>> films = np.zeros((5, 8, 8), np.uint8)
        >>> len(image_grid(films, ["a", "b", "c", "d", "e"], columns=3).axes)  # 2 rows of 3
        6
    """
    fig, axes = _tiles(len(images), columns, side)
    for ax, image, title in zip(axes, images, titles, strict=True):
        ax.imshow(np.squeeze(image), cmap="gray", vmin=0, vmax=255)
        ax.set_title(title, fontsize=8)
    return fig


def cam_grid(
    images: Images,
    maps: Images,
    titles: Sequence[str],
    columns: int = 6,
    side: float = 1.7,
) -> Figure:
    """Saliency maps over their images, all maps on one scale from zero to the largest value.

    Where a map has negative values, what speaks against the class is drawn, too: the scale is
    symmetric about zero and its colours part there.

    Args:
        images: uint8, each of shape (h, w) or (h, w, 1).
        maps: Raw, one for each image; they may be coarser than the images and are stretched over
            them bilinearly. A NaN map is left out.
        titles: One for each image.
        columns: Images in a row, at most.
        side: Of an image on the page, in inches.

    Returns:
        The figure.

    Raises:
        CamError: All maps are NaN.
        ValueError: There are not as many titles or maps as images, no image, or no column.
    """
    from osteo_utils.saliency.gradcam import shared_limit  # brings TensorFlow

    top, signed = shared_limit(*map(np.abs, maps)), any((cam < 0).any() for cam in maps)
    fig, axes = _tiles(len(images), columns, side)
    for ax, image, cam, title in zip(axes, images, maps, titles, strict=True):
        shown = lay_map(ax, np.squeeze(image), cam, top, signed)
        ax.set_title(title, fontsize=8)
    fig.colorbar(shown, ax=list(axes), label="saliency (raw units)", shrink=0.7, pad=0.01)
    return fig


def lay_map(
    ax: Axes,
    film: npt.NDArray[np.uint8],
    cam: npt.NDArray[np.floating[Any]],
    top: float,
    signed: bool = False,
) -> AxesImage:
    """A raw saliency map over its film, bilinearly stretched, half of each to be seen.

    Args:
        ax: Where it is drawn.
        film: uint8, shape (H, W).
        cam: Shape (h, w); NaN is left out.
        top: Upper end of the scale, in the unit of the map.
        signed: Whether the scale begins at `-top` and not at 0, in colours that part at 0.

    Returns:
        The map as drawn, for a colour bar.
    """
    ax.imshow(film, cmap="gray", vmin=0, vmax=255)
    return ax.imshow(
        cam,
        cmap=SIGNED_CMAP if signed else SALIENCY_CMAP,
        vmin=-top if signed else 0,
        vmax=top,
        alpha=0.5,
        extent=(-0.5, film.shape[1] - 0.5, film.shape[0] - 0.5, -0.5),
        interpolation="bilinear",
    )


def _tiles(count: int, columns: int, side: float) -> tuple[Figure, list[Axes]]:
    check_count("images", count)
    check_count("columns", columns)
    columns = min(columns, count)
    rows = -(-count // columns)
    fig, grid = plt.subplots(
        rows,
        columns,
        figsize=(columns * side, rows * side * 1.15),
        squeeze=False,
        layout="constrained",
    )
    for ax in grid.flat:
        ax.axis("off")
    return fig, list(grid.flat[:count])


def confusion_matrix(matrix: npt.NDArray[Any], title: str = "", ax: Axes | None = None) -> Figure:
    """Counts, with the share of each true class behind them as shade; rows are the truth.

    Args:
        matrix: Integers, shape (3, 3), as `evaluate.confusion` gives them.
        title: Above the matrix.
        ax: Where it is drawn; by default in a figure of its own.

    Returns:
        The figure.
    """
    ax = ax or plt.subplots(figsize=(4.2, 3.6), layout="constrained")[1]
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    text = [f"{n:d}\n{part:.0%}" for n, part in zip(matrix.flat, share.flat, strict=True)]
    sns.heatmap(
        share,
        annot=np.reshape(text, matrix.shape),
        fmt="",
        vmin=0,
        vmax=1,
        cmap="Blues",
        square=True,
        ax=ax,
        xticklabels=CLASS_NAMES,
        yticklabels=CLASS_NAMES,
        cbar_kws={"label": "share of the true class"},
    )
    ax.set(xlabel="predicted class", ylabel="true class", title=title)
    ax.tick_params(axis="x", rotation=20)
    ax.tick_params(axis="y", rotation=0)
    return _figure(ax)


def intervals(
    table: pd.DataFrame, xlabel: str, lines: dict[str, float] | None = None, ax: Axes | None = None
) -> Figure:
    """Dot and whisker for every row of a table.

    Args:
        table: Columns value, low and high; the index names the rows.
        xlabel: What the values are.
        lines: Labelled vertical references such as chance or the best possible score, by name.
        ax: Where it is drawn; by default in a figure of its own.

    Returns:
        The figure.

    Example:
        >>> table = pd.DataFrame({"value": [0.8], "low": [0.7], "high": [0.9]}, index=["VGG16"])
        >>> axes = intervals(table, "accuracy", {"chance": 0.33}).axes[0]
        >>> axes.get_legend().get_texts()[0].get_text()
        'chance 0.33'
    """
    ax = ax or plt.subplots(figsize=(6.4, 0.9 + 0.34 * len(table)), layout="constrained")[1]
    rows = np.arange(len(table))[::-1]
    spread = np.abs(table[["low", "high"]].to_numpy().T - table["value"].to_numpy())
    ax.errorbar(
        table["value"], rows, xerr=spread, fmt="o", color="#0072B2", ecolor="#56B4E9", capsize=3
    )
    ax.set(yticks=rows, yticklabels=[str(name) for name in table.index], xlabel=xlabel)
    ax.set_ylim(-0.6, len(table) - 0.4)
    styles = ("--", ":", "-.")
    for (name, value), style in zip((lines or {}).items(), cycle(styles), strict=False):
        ax.axvline(value, color="#D55E00", linestyle=style, label=f"{name} {value:.2f}")
    if lines:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    return _figure(ax)


def reliability(table: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Figure:
    """Reliability diagram: observed accuracy over stated confidence, marker area by count.

    The axis of confidence begins at 0.3: the largest of three probabilities is never below 1/3.

    Args:
        table: What `evaluate.reliability` gives; empty bins are left out.
        title: Above the diagram.
        ax: Where it is drawn; by default in a figure of its own.

    Returns:
        The figure.
    """
    ax = ax or plt.subplots(figsize=(4.0, 3.8), layout="constrained")[1]
    filled = table[table["count"] > 0]
    area = 12 + 180 * filled["count"] / filled["count"].sum()
    ax.plot([0, 1], [0, 1], "--", color="#777777", label="perfectly calibrated")
    ax.plot(filled["confidence"], filled["accuracy"], "-", color="#0072B2", label="model")
    ax.scatter(filled["confidence"], filled["accuracy"], s=area, color="#0072B2")
    ax.set(xlabel="stated confidence", ylabel="observed accuracy", title=title)
    ax.set(xlim=(0.3, 1.01), ylim=(0, 1.02))
    ax.legend(fontsize=8)
    return _figure(ax)


def roc_curves(
    labels: npt.NDArray[Any], probabilities: npt.NDArray[Any], title: str = ""
) -> Figure:
    """One-against-the-rest receiver operating characteristic of each class, with its area.

    Args:
        labels: True classes, integers 0 to 2, shape (n,).
        probabilities: Shape (n, 3), in the order of `CLASS_NAMES`.
        title: Above the curves.

    Returns:
        The figure.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    fig, ax = plt.subplots(figsize=(4.2, 3.9), layout="constrained")
    for index, (name, style) in enumerate(zip(CLASS_NAMES, ("-", "--", "-."), strict=True)):
        truth = labels == index
        false_rate, true_rate, _ = roc_curve(truth, probabilities[:, index])
        area = roc_auc_score(truth, probabilities[:, index])
        label = f"{name} (area {area:.2f})"
        ax.plot(false_rate, true_rate, style, color=CLASS_COLOURS[name], label=label)
    ax.plot([0, 1], [0, 1], ":", color="#777777", label="chance")
    ax.set(xlabel="1 - specificity", ylabel="sensitivity", title=title)
    ax.legend(fontsize=8)
    return fig


def run_report(runs: Sequence[Run], lines: dict[str, float]) -> tuple[Figure, str]:
    """Test part of a model's runs in one figure.

    Balanced accuracy of every seed against reference lines; confusion matrix and reliability of the
    first.

    Args:
        runs: Of one model, at least one.
        lines: Name to score, as `course.reference_scores` gives them.

    Returns:
        The figure and its alternative text.
    """
    test = runs[0].predictions.query("part == 'test'")
    p, labels = probabilities(test), test["label"].to_numpy()
    matrix = confusion(labels, p.argmax(axis=1))
    scores = [run.metrics["test"]["balanced_accuracy"] for run in runs]
    seeds = [f"seed {run.info['seed']}" for run in runs]
    fig, axes = plt.subplot_mosaic(
        "SS;CR",
        figsize=(8.6, 4.6 + 0.3 * len(runs)),
        height_ratios=(0.7 + 0.3 * len(runs), 3.6),
        layout="constrained",
    )
    intervals(pd.DataFrame(scores, index=seeds), "balanced accuracy, test part", lines, axes["S"])
    confusion_matrix(matrix, f"{seeds[0]}: {len(test)} films", axes["C"])
    reliability(calibration(labels, p), f"{seeds[0]}: calibration", axes["R"])
    shown = ", ".join(
        f"{s['value']:.2f} ({s['low']:.2f} to {s['high']:.2f}) for {name}"
        for name, s in zip(seeds, scores, strict=True)
    )
    alt = (
        f"{runs[0].info['model']} on the test part: balanced accuracy {shown}. The confusion "
        f"matrix of {seeds[0]} has {matrix.trace()} of {matrix.sum()} films on its diagonal."
    )
    return fig, alt


def _figure(ax: Axes) -> Figure:
    fig = ax.get_figure()
    assert isinstance(fig, Figure)
    return fig


def say(markdown: str) -> None:
    """Show a sentence as text of the page: for prose that states what this very run measured.

    Args:
        markdown: The sentence, in Markdown.
    """
    display(Markdown(markdown))
