"""How good any classifier can be on labels that err, under the reader's hand."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import anywidget
import numpy as np
import traitlets

from osteo_utils.phantom.corpus import (
    Population,
    best_possible,
    label_probabilities,
    true_t_scores,
)
from osteo_utils.registry import CLASS_COLOURS, CLASS_NAMES
from osteo_utils.widgets.base import css, esm

STEP: Final = 0.05  # of the slider, in T-scores
ERRORS: Final = np.arange(1, 81) * STEP
POINTS: Final = 5_000  # of the distribution of true T-scores
GRID: Final = np.linspace(-6, 3, 181)  # true T-scores at which the curves are drawn
MARKS: Final = {"DXA of the same bone": 0.25, "Ultrasound of the heel": 2.0}


class CeilingExplorer(anywidget.AnyWidget):
    """Slide the error of the labels: how sure they are, and what the best classifier reaches.

    `population` has the true T-scores, that of the simulated corpus if none is given; `marks` name
    errors that the reader can jump to. The best classifier is told the true T-score of everybody.
    Python computes all numbers for every place of the slider; the browser only draws them.
    """

    _esm = esm("ceiling_explorer")
    _css = css("ceiling_explorer")

    content = traitlets.Dict().tag(sync=True)  # lists, one number for each error or T-score
    curves = traitlets.Bytes().tag(sync=True)  # uint8 (error, class, T-score), in 255 steps
    error = traitlets.Float(MARKS["DXA of the same bone"], min=STEP, max=ERRORS[-1]).tag(sync=True)

    def __init__(
        self,
        population: Population | None = None,
        marks: Mapping[str, float] = MARKS,
        **state: float,
    ) -> None:
        usual = population or Population()
        t = true_t_scores((np.arange(POINTS) + 0.5) / POINTS, usual)
        rows = [_scores(replace(usual, error=float(error)), t) for error in ERRORS]
        drawn = np.stack([label_probabilities(GRID, float(error)).T for error in ERRORS])
        density = np.exp(-(((GRID - usual.mean) / usual.sd) ** 2) / 2)
        super().__init__(
            content={
                "errors": ERRORS.round(2).tolist(),
                **{name: [round(row[name], 4) for row in rows] for name in rows[0]},
                "t_scores": GRID.round(2).tolist(),
                "density": density.round(3).tolist(),
                "marks": [[name, round(float(error), 2)] for name, error in marks.items()],
                "classes": list(CLASS_NAMES),
                "colours": [CLASS_COLOURS[name] for name in CLASS_NAMES],
            },
            curves=np.rint(255 * drawn).astype(np.uint8).tobytes(),
            **state,
        )

    def scores(self) -> dict[str, Any]:
        """The numbers that are on the screen, by name."""
        place = int(np.abs(ERRORS - self.error).argmin())
        names = ("accuracy", "balanced_accuracy", "repeated", "majority", "correlation")
        return {name: self.content[name][place] for name in names}


def _scores(population: Population, t: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """What can be reached on labels with this error, and what they have of the truth."""
    p = label_probabilities(t, population.error)
    return {
        **best_possible(population, POINTS),
        "repeated": float((p**2).sum(axis=1).mean()),  # a second measurement gives the same label
        "majority": float(p.mean(axis=0).max()),
        "correlation": float(t.std() / np.hypot(t.std(), population.error)),
    }
