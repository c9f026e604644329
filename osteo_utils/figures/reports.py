"""What every architecture chapter shows of a trained model, so that no chapter copies another.

The functions display tables, figures and sentences that are computed from the runs, and return
what a chapter may want to go on with.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from osteo_utils.course import Course, arrays, reference_scores, scores_by_seed, split, train_seeds
from osteo_utils.data.splits import split_hash
from osteo_utils.figures import plots
from osteo_utils.networks.saved import load_model
from osteo_utils.registry import CLASS_NAMES, get_architecture
from osteo_utils.runs import Run, RunError, probabilities
from osteo_utils.scoring.evaluate import interval_text, with_interval

if TYPE_CHECKING:
    import keras

_TITLES: Final = {
    "seed": "seed",
    "image_size": "pixels",
    "parameters": "parameters",
    "epochs_run": "epochs",
    "best_epoch": "best epoch",
    "ended_by": "ended by",
    "seconds": "seconds",
    "precision": "precision",
    "device": "device",
}
_SEED_STYLES: Final = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))


# ---------------------------------------------------------------------------------------------
# Training


def show_training(course: Course, model: str) -> list[Run]:
    """Read or train every seed of a model and show what came of it.

    Shown: a table of the runs, learning curves of all seeds, scores by class of the first seed,
    test scores against the reference lines with confusion matrix and reliability, how far the mean
    over the seeds is from chance, the best baseline and the best possible score, and which
    trainings their epochs ended.

    Args:
        course: In which it is trained.
        model: Name of the architecture.

    Returns:
        A run for each seed.

    Raises:
        ValueError: No architecture has this name.
        RunError: As `course.train_model` raises it.
        SplitError: As `course.split` raises it.
    """
    runs = train_seeds(course, model)
    title = get_architecture(model).title
    _show_table(runs_table(runs), f"{title}: the runs of the profile {course.profile.name}")
    figure, alt = seed_curves(runs)
    plots.show(figure, alt)
    caption = f"{title}, seed {runs[0].info['seed']}: test films by class, with 95 % intervals"
    _show_table(classification_table(runs[0]), caption)
    lines = reference_scores(course)
    figure, alt = plots.run_report(runs, lines)
    plots.show(figure, alt)
    plots.say(_verdict(title, runs, lines))
    if cut := ended_by_budget(runs):
        plots.say(cut)
    return runs


def ended_by_budget(runs: Sequence[Run]) -> str:
    """Which trainings ended with their epochs while the validation loss might have fallen further.

    Every page that shows or compares runs says it: such a score tells of the budget, too.

    Args:
        runs: Finished runs, of any models.

    Returns:
        A paragraph, empty if all of them ended because validation had stopped improving.
    """
    cut = [
        f"{get_architecture(run.info['model']).title}, seed {run.info['seed']} (kept epoch "
        f"{run.info['best_epoch']} of {run.info['epochs_run']})"
        for run in runs
        if run.info["ended_by"] != "plateau"
    ]
    if not cut:
        return ""
    return (
        f"**Ended by the budget: {'; '.join(cut)}.** There were no more epochs, while validation "
        "might have improved further: such a score tells of the budget as well as of the network."
    )


def _show_table(table: pd.DataFrame, caption: str) -> None:
    display(table.style.set_caption(caption).format(thousands=",", precision=1).hide(axis="index"))


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each run: what was trained, how long and on what.

    Args:
        runs: Finished runs.

    Returns:
        Columns seed, pixels, parameters, epochs, best epoch, ended by (a plateau of the validation
        loss, or the number of epochs), seconds, precision and device.
    """
    rows = [{title: run.info[key] for key, title in _TITLES.items()} for run in runs]
    return pd.DataFrame(rows)


def seed_curves(runs: Sequence[Run]) -> tuple[Figure, str]:
    """Training loss, validation loss and validation accuracy of every seed.

    Stars mark the epochs that were kept; a vertical line is where fine-tuning began.

    Args:
        runs: Of one model, at least one.

    Returns:
        The figure and its alternative text.
    """
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.1), layout="constrained")
    columns = {"loss": "training loss", "val_loss": "validation loss"}
    columns["val_accuracy"] = "validation accuracy"
    for run, (colour, style) in zip(runs, _SEED_STYLES * len(runs), strict=False):
        history = run.history.set_index("epoch")
        best = run.info["best_epoch"]
        for ax, (column, title) in zip(axes, columns.items(), strict=True):
            label = f"seed {run.info['seed']}"
            ax.plot(history.index, history[column], style, color=colour, label=label)
            ax.plot(best, history[column].loc[best], "*", color=colour, ms=10)
            ax.set(xlabel="epoch", title=title)
            ax.xaxis.get_major_locator().set_params(integer=True)
    if (change := _fine_tuning_begins(runs[0].history)) is not None:
        for ax in axes:
            ax.axvline(change - 0.5, color="#777777", linestyle=":")
    axes[0].legend(fontsize=8)
    return fig, _curves_alt(runs, change)


def _fine_tuning_begins(history: pd.DataFrame) -> float | None:
    """First epoch of the second stage; None for a training of one stage."""
    if "stage" not in history or history["stage"].nunique() < 2:
        return None
    second = history["stage"] != history["stage"].iloc[0]
    return float(history.loc[second, "epoch"].iloc[0])


def _curves_alt(runs: Sequence[Run], change: float | None) -> str:
    told = []
    for run in runs:
        kept = run.history.set_index("epoch").loc[run.info["best_epoch"]]
        told.append(
            f"seed {run.info['seed']} kept epoch {run.info['best_epoch']} of {len(run.history)}, "
            f"training loss {kept['loss']:.2f}, validation loss {kept['val_loss']:.2f}"
        )
    title = get_architecture(runs[0].info["model"]).title
    tuned = "" if change is None else f" Fine-tuning began with epoch {change:.0f}."
    return f"Learning curves of {title}: {'; '.join(told)}.{tuned}"


def _verdict(title: str, runs: Sequence[Run], lines: Mapping[str, float]) -> str:
    """The mean over the seeds, beside every reference line that is known."""
    table = scores_by_seed(runs)
    mean, many = table["value"].mean(), len(runs) > 1
    whose = f"mean of {len(runs)} seeds" if many else f"seed {runs[0].info['seed']}"
    spread = table["value"].max() - table["value"].min()
    text = f"Balanced accuracy of {title} on the test part, {whose}: **{mean:.2f}**"
    text += f", {spread:.2f} from the worst seed to the best" if many else ""
    first = interval_text(runs[0].metrics["test"]["balanced_accuracy"])
    text += f" (interval{' of the first seed' * many} {first}). "
    return text + "; ".join(_beside(mean, name, value) for name, value in lines.items()) + "."


def _beside(mean: float, name: str, value: float) -> str:
    names = {"chance": "Chance is", "best baseline": "the best baseline without a network has"}
    begin = names.get(name, f"the {name} score is")
    gap = mean - value
    side = "above" if gap > 0 else "below"
    told = "the model equals it" if abs(gap) < 0.005 else f"the model is {abs(gap):.2f} {side} it"
    return f"{begin} {value:.2f} and {told}"


# ---------------------------------------------------------------------------------------------
# Scores by class


def classification_table(run: Run, part: str = "test") -> pd.DataFrame:
    """Precision, recall and F1 of each class of one part, with their intervals, in words.

    Args:
        run: A finished run.
        part: "validation" or "test".

    Returns:
        Rows in the order of `CLASS_NAMES`; columns class, precision, recall, F1, and films, how
        many the class has. A score that the part cannot tell is "not measurable".
    """
    labels = run.predictions.loc[run.predictions["part"] == part, "label"]
    counts = [int((labels == index).sum()) for index in range(len(CLASS_NAMES))]
    table = {"class": list(CLASS_NAMES)}
    for score in ("precision", "recall", "F1"):
        found = [run.metrics[part][f"{score.lower()}_{name.lower()}"] for name in CLASS_NAMES]
        table[score] = [with_interval(each) for each in found]
    return pd.DataFrame(table).assign(films=counts)


# ---------------------------------------------------------------------------------------------
# Films


def show_examples(course: Course, run: Run, count: int = 3) -> pd.DataFrame:
    """Test films that a run calls most surely right, most surely wrong, and least surely.

    Each film stands beside its Grad-CAM for the predicted class, all maps raw and on one scale. A
    film whose map is flat (nothing speaks for that class) is shown without and counted.

    Args:
        course: On whose split the run was trained.
        run: The run; of a fusion the maps are those of the first member.
        count: Films of each kind, at most.

    Returns:
        What `choose_examples` gives, and a column peak, the largest value of the map, NaN where it
        is flat.

    Raises:
        RunError: The run is on another split than the course's, or damaged.
    """
    from osteo_utils.saliency.gradcam import maps_of_run

    films, model = _test_films(course, run), load_model(run)
    chosen = choose_examples(run, count)
    layer = next(iter(maps_of_run(run, model).values()))
    maps = maps_or_none(model, films[chosen.index], chosen["called"].to_numpy(), layer)
    chosen["peak"] = [math.nan if cam is None else float(cam.max()) for cam in maps]
    figure = _draw_examples(films[chosen.index], maps, chosen, count)
    title = get_architecture(run.info["model"]).title
    plots.show(figure, _examples_alt(title, run, chosen))
    plots.say(_examples_text(run, chosen, layer))
    return chosen


def _test_films(course: Course, run: Run) -> npt.NDArray[np.uint8]:
    parts = split(course)
    if (found := run.info["split_hash"]) != split_hash(parts):
        expected = f"a run on the split of {course.folder}"
        remedy = f"Open the course with the profile {run.info['profile']!r}."
        raise RunError(run.folder, expected, f"one on another ({found[:12]})", remedy)
    return arrays(course, run.info["image_size"])["test"][0]


def choose_examples(run: Run, count: int = 3) -> pd.DataFrame:
    """Test films of each kind (right, wrong, unsure), none twice.

    Args:
        run: A finished run.
        count: Films of each kind, at most.

    Returns:
        The index is the film's place in the test part; columns path, label, called, confidence and
        kind.

    Example:
        >>> from pathlib import Path
        >>> films = {"path": ["a.png", "b.png"], "part": "test", "label": [0, 2]}
        >>> p = {"p_normal": [0.9, 0.6], "p_osteopenia": [0.1, 0.3], "p_osteoporosis": [0.0, 0.1]}
        >>> run = Run(Path(), {}, pd.DataFrame(films | p), {}, pd.DataFrame())
        >>> choose_examples(run, count=1)[["path", "called", "kind"]].to_numpy().tolist()
        [['a.png', 0, 'right'], ['b.png', 0, 'wrong']]
    """
    test = run.predictions[run.predictions["part"] == "test"].reset_index(drop=True)
    p = probabilities(test)
    test = test[["path", "label"]].assign(called=p.argmax(axis=1), confidence=p.max(axis=1))
    right = test["called"] == test["label"]
    picked = {
        "right": test[right].nlargest(count, "confidence"),
        "wrong": test[~right].nlargest(count, "confidence"),
    }
    rest = test.drop(index=[i for rows in picked.values() for i in rows.index])
    picked["unsure"] = rest.nsmallest(count, "confidence")
    return pd.concat([rows.assign(kind=kind) for kind, rows in picked.items()])


def maps_or_none(
    model: "keras.Model",
    images: npt.NDArray[np.uint8],
    target: npt.NDArray[np.int64],
    layer: str | None = None,
) -> list[npt.NDArray[np.float32] | None]:
    """The raw Grad-CAM of every image for its target, None where the map is flat.

    Args:
        model: A network of the course.
        images: uint8, shape (n, size, size, 1).
        target: Class of each image, 0 to 2, shape (n,).
        layer: Whose maps are weighed; by default the one that `gradcam.grad_cam` takes.

    Returns:
        A map for each image, shape (h, w), or None.
    """
    from osteo_utils.saliency.gradcam import CamWarning, grad_cam

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CamWarning)  # the caller sees None
        maps = grad_cam(model, images, target, layer, flat="nan")
    return [None if np.isnan(cam).all() else cam for cam in maps]


def _draw_examples(
    films: npt.NDArray[np.uint8],
    maps: Sequence[npt.NDArray[np.float32] | None],
    chosen: pd.DataFrame,
    count: int,
) -> Figure:
    """A row for each kind; film and map side by side."""
    kinds = list(dict.fromkeys(chosen["kind"]))
    size = (2.5 * count + 1.0, 1.75 * len(kinds))
    fig, grid = plt.subplots(
        len(kinds), 2 * count, figsize=size, squeeze=False, layout="constrained"
    )
    top = max((float(cam.max()) for cam in maps if cam is not None), default=1.0)
    free = {kind: iter(grid[row].reshape(-1, 2)) for row, kind in enumerate(kinds)}
    shown = None
    for film, cam, row in zip(films, maps, chosen.to_dict("records"), strict=True):
        left, right = next(free[row["kind"]])
        left.imshow(film[..., 0], cmap="gray", vmin=0, vmax=255)
        left.set_title(f"label\n{CLASS_NAMES[row['label']]}", fontsize=8)
        called = f"called\n{CLASS_NAMES[row['called']]} {row['confidence']:.2f}"
        right.set_title(called, fontsize=8)
        shown = _draw_map(right, film[..., 0], cam, top) or shown
    for ax in grid.flat:
        ax.axis("off")
    for ax, kind in zip(grid[:, 0], kinds, strict=True):
        _row_title(ax, kind)
    if shown is not None:
        fig.colorbar(shown, ax=list(grid.flat), label="saliency (raw units)", shrink=0.6, pad=0.01)
    return fig


def _row_title(ax: Axes, kind: str) -> None:
    look: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "center", "weight": "bold"}
    ax.text(-0.06, 0.5, kind, transform=ax.transAxes, fontsize=9, **look)


def _draw_map(
    ax: Axes,
    film: npt.NDArray[np.uint8],
    cam: npt.NDArray[np.float32] | None,
    top: float,
) -> Any:  # noqa: ANN401
    if cam is None:
        ax.text(0.5, 0.5, "flat map", ha="center", va="center", transform=ax.transAxes, fontsize=8)
        return None
    return plots.lay_map(ax, film, cam, top)


def _examples_alt(title: str, run: Run, chosen: pd.DataFrame) -> str:
    counts = chosen["kind"].value_counts()
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in dict.fromkeys(chosen["kind"]))
    drawn = chosen["peak"].dropna()
    if drawn.empty:
        maps = "none of them has a map that is not flat"
    else:
        maps = f"the peaks of their maps run from {drawn.min():.2g} to {drawn.max():.2g}"
    return (
        f"{len(chosen)} test films beside their Grad-CAM by {title}, seed {run.info['seed']}: "
        f"{kinds}; {maps}."
    )


def _examples_text(run: Run, chosen: pd.DataFrame, layer: str) -> str:
    test = run.predictions[run.predictions["part"] == "test"]
    right = int((probabilities(test).argmax(axis=1) == test["label"]).sum())
    flat = int(chosen["peak"].isna().sum())
    text = (
        f"Seed {run.info['seed']} predicts {right} of {len(test)} test films correctly. "
        "Shown are those it is most sure of, and the ones it is least sure of; "
        f"the maps are those of the layer `{layer}` for the predicted class. "
    )
    if flat:
        text += (
            f"For {flat} of the {len(chosen)} films the map is flat: no region of it speaks for "
            "the predicted class, which then won by the constant of the last layer alone."
        )
    return text.strip()


# ---------------------------------------------------------------------------------------------
# Maps of several models


class MapColumn(NamedTuple):
    """One column of `map_table`.

    Attributes:
        title: Above it.
        maps: Raw, shape (n, h, w), all NaN where flat.
        captions: One for each map.
    """

    title: str
    maps: npt.NDArray[np.floating[Any]]
    captions: Sequence[str]


def map_table(
    films: npt.NDArray[np.uint8],
    columns: Sequence[MapColumn],
    rows: Sequence[str],
    unit: str = "",
    side: float = 1.2,
) -> Figure:
    """The same films under several maps: a row a film, its title at the left.

    Each column has a scale of its own, from 0 to its largest value, which stands above it; where a
    unit is given there is one scale for all, in that unit. A flat map is said in words.

    Args:
        films: uint8, shape (n, H, W).
        columns: The maps of these films.
        rows: A title for each film.
        unit: Of the one scale; "" for a scale for each column.
        side: Of a film on the page, in inches.

    Returns:
        The figure.

    Raises:
        ValueError: There are not as many titles, maps or captions as films.
    """
    size = ((len(columns) + 1) * side + 0.8, len(films) * side * 1.3 + 0.2)
    fig, grid = plt.subplots(
        len(films), len(columns) + 1, figsize=size, squeeze=False, layout="constrained"
    )
    for ax in grid.flat:
        ax.axis("off")
        ax.set_aspect("equal")
    for ax, film, title in zip(grid[:, 0], films, rows, strict=True):
        ax.imshow(film, cmap="gray", vmin=0, vmax=255)
        _row_title(ax, title)
    tops = [_top(column.maps) for column in columns]
    drawn = [
        _draw_column(axes, films, column, max(tops) if unit else top, own=not unit)
        for axes, column, top in zip(grid.T[1:], columns, tops, strict=True)
    ]
    if (shown := next((each for each in drawn if each), None)) is not None:
        label = unit or "share of the column's scale"
        fig.colorbar(shown, ax=list(grid.flat), label=label, shrink=0.7, pad=0.01)
    return fig


def _top(maps: npt.NDArray[np.floating[Any]]) -> float:
    """The largest finite value; 0 where there is none."""
    return float(np.max(maps, where=np.isfinite(maps), initial=0.0))


def _draw_column(
    axes: Sequence[Axes],
    films: npt.NDArray[np.uint8],
    column: MapColumn,
    top: float,
    own: bool,
) -> Any:  # noqa: ANN401
    """A column on the scale 0 to `top`, drawn in shares of it if it is the column's own."""
    shown, scale = None, top if own and top > 0 else 1.0
    for ax, film, cam, text in zip(axes, films, column.maps, column.captions, strict=True):
        flat = np.isnan(cam).all() or top == 0
        shown = _draw_map(ax, film, None if flat else cam / scale, top / scale) or shown
        ax.set_title(text, fontsize=7, pad=2)
    above = f"0 to {top:.2g}" if top > 0 else "all flat"
    heading = [column.title, *([above] if own else []), axes[0].get_title()]
    axes[0].set_title("\n".join(heading), fontsize=7, pad=2)
    return shown


# ---------------------------------------------------------------------------------------------
# Cost


def show_cost(models: Mapping[str, "keras.Model"], batch_size: int = 8) -> pd.DataFrame:
    """Show `cost.cost_table` of the models in readable units.

    Args:
        models: Name to model, as `cost.cost_table` takes them.
        batch_size: Images in a batch when the time is measured.

    Returns:
        The table of `cost.cost_table`, in its own units.

    Raises:
        ValueError: The cost of a model cannot be told, see `cost.multiply_adds`.
    """
    from osteo_utils.networks.cost import cost_table

    table = cost_table(models, batch_size)
    shown = pd.DataFrame(
        {
            "parameters": table["parameters"].map("{:,.0f}".format),
            "million multiply-adds": (table["multiply_adds"] / 1e6).map("{:,.1f}".format),
            "ms an image": table["milliseconds"].map("{:,.1f}".format),
            "weights (MB)": table["weights_mb"].map("{:,.1f}".format),
            "activations (MB an image)": table["activations_mb"].map("{:,.1f}".format),
        }
    )
    display(shown)
    return table
