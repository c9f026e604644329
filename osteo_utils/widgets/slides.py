"""Pictures under sliders: drawn once in Python, changed in the browser."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import anywidget
import traitlets
from matplotlib.figure import Figure

from osteo_utils.figures import plots
from osteo_utils.widgets.base import css, esm


class Slides(anywidget.AnyWidget):
    """A picture for every setting of one slider or more; moving a slider shows another one.

    All pictures are drawn beforehand, so nothing computes when the reader moves.

    Args:
        name: What is shown, for those who cannot see it.
        settings: Name of each slider to its values, in order.
        draw: Given a value of each slider, the figure and its alternative text.
        start: Place of each slider at first; by default the first value of each.

    Raises:
        ValueError: There is no slider, one without values, or a start that is no place.

    Example:
        >>> from matplotlib import pyplot as plt
        >>> def power(n):
        ...     return plt.figure(), f"Two to the power {n}."
        >>> powers = Slides("Powers", {"n": [2, 3]}, power)
        >>> len(powers.pages), powers.places
        (2, [0])
    """

    _esm = esm("slides")
    _css = css("slides")

    content = traitlets.Dict().tag(sync=True)  # name, and of each slider name and values
    pages: traitlets.List[Any] = traitlets.List().tag(
        sync=True
    )  # HTML; the last slider moves fastest
    places: traitlets.List[Any] = traitlets.List().tag(sync=True)  # of each slider, from 0

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Sequence[Any]],
        draw: Callable[..., tuple[Figure, str]],
        start: Sequence[int] | None = None,
    ) -> None:
        values = [list(each) for each in settings.values()]
        places = [0] * len(values) if start is None else list(start)
        if (
            not values
            or len(places) != len(values)
            or not all(0 <= at < len(of) for at, of in zip(places, values, strict=True))
        ):
            raise ValueError(f"{name}: expected a place for each of {settings}, found {places}")
        sliders = [
            [label, [str(value) for value in of]]
            for label, of in zip(settings, values, strict=True)
        ]
        super().__init__(
            content={"name": name, "sliders": sliders},
            pages=[plots.picture(*draw(*chosen)) for chosen in product(*values)],
            places=places,
        )
