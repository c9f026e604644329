"""The three classes, their one order, their colours, and the T-score thresholds behind them.

Every array of probabilities, every confusion matrix and every file of the course uses the
order of `CLASS_NAMES`. Integers 0, 1, 2 mean exactly these names and nothing else.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

CLASS_NAMES: Final = ("Normal", "Osteopenia", "Osteoporosis")

# Blue, orange and reddish purple of Okabe & Ito (2008): distinct with any colour-vision deficiency.
CLASS_COLOURS: Final = {"Normal": "#0072B2", "Osteopenia": "#E69F00", "Osteoporosis": "#CC79A7"}

# World Health Organization, Technical Report Series 843 (1994): T-scores in standard deviations.
OSTEOPENIA_BELOW: Final = -1.0
OSTEOPOROSIS_AT_OR_BELOW: Final = -2.5


def class_of_t_score(t_score: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Class index of each T-score by the WHO thresholds (WHO Technical Report Series 843, 1994).

    Normal at or above -1.0, Osteopenia between, Osteoporosis at or below -2.5. Any shape in,
    the same shape out. Raises `ValueError` for a T-score that is not a finite number.
    """
    t = np.asarray(t_score, dtype=float)
    if not np.isfinite(t).all():
        raise ValueError(f"T-scores: expected finite numbers, found {t[~np.isfinite(t)][:3]}")
    return (t < OSTEOPENIA_BELOW).astype(np.int64) + (t <= OSTEOPOROSIS_AT_OR_BELOW)


def class_index(name: str) -> int:
    """Index of a class name, whatever its case and surrounding space; `ValueError` if unknown."""
    key = name.strip().casefold()
    for index, known in enumerate(CLASS_NAMES):
        if known.casefold() == key:
            return index
    raise ValueError(f"class name: expected one of {', '.join(CLASS_NAMES)}, found {name!r}")
