"""Is this film like those a model was trained on? If not, its answer means little.

A film is shrunk to 8 x 8 grey levels, and its Mahalanobis distance from the training films is held
against those of the validation films, as in conformal prediction (Vovk et al. 2005): if a new film
is one more draw of the same kind, its rank among them is as likely to be any as any other. The
layout of a knee film is in these few numbers, and a photograph or a page of text lies far off. The
better known distance in a network's own pooled features (Lee et al. 2018) was tried as well and
depends on the network: what one learned to tell apart another may map right among the films. This
one needs no network and is a few lines anywhere.

It cannot say what a film *is*: a real radiograph is unlike simulated ones, and that is right.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from osteo_utils.data.images import fit_square
from osteo_utils.runs import RunError
from osteo_utils.store import write_json

Floats = npt.NDArray[np.float64]
Films = Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]

FILE: Final = "novelty.json"  # in the run folder
SIDE: Final = 8  # cells a side of the shrunk film
QUANTILE: Final = 0.99  # of films like the validation films, at least this share is to pass
REMARK: Final = (
    "This film is unlike the films this model was trained on, so its answer means little."
)
_DECIMALS: Final = 4  # of what is kept, so that a file says exactly what was calibrated


@dataclass(frozen=True, eq=False)
class Novelty:
    """Where the training films lie; a film whose score is above the threshold is unlike them.

    Attributes:
        mean: Of the `descriptors` of the training films, shape (66,).
        precision: Inverse of their shrunk covariance, shape (66, 66).
        threshold: The highest score of a film like them, in deviations.
        false_alarms: Expected share of films like those that is above the threshold, 0 to 1.

    Example:
        >>> known = Novelty(np.zeros(66), np.eye(66), threshold=9.0)
        >>> film = np.full((16, 16), 160, np.uint8)
        >>> known.score([film]).tolist(), known.is_new([film]).tolist()
        ([10.0], [True])
    """

    mean: Floats
    precision: Floats
    threshold: float
    false_alarms: float = np.nan

    def score(self, films: Films) -> Floats:
        """Mahalanobis distance of films from the training films.

        Args:
            films: uint8, shape (height, width) or (size, size, 1) each.

        Returns:
            Distances in deviations, at least 0, shape (n,).

        Raises:
            ImageError: A film has another type or shape.
        """
        away = descriptors(films) - self.mean
        squares: Floats = np.einsum("ni,ij,nj->n", away, self.precision, away)
        return np.sqrt(squares)

    def is_new(self, films: Films) -> npt.NDArray[np.bool_]:
        """Whether each film is unlike the training films.

        Args:
            films: uint8, shape (height, width) or (size, size, 1) each.

        Returns:
            Whether the score is above the threshold, shape (n,); True for a film without a score.

        Raises:
            ImageError: A film has another type or shape.
        """
        return ~(self.score(films) <= self.threshold)

    def save(self, folder: Path | str) -> None:
        """Write `novelty.json`, whole or not at all.

        Args:
            folder: The run folder.
        """
        content = {"threshold": self.threshold, "false_alarms": self.false_alarms}
        arrays = {"mean": self.mean.tolist(), "precision": self.precision.tolist()}
        write_json(Path(folder) / FILE, content | arrays)


def fit_novelty(train_films: Films, validation_films: Films) -> Novelty:
    """Learn what training films look like, and from which score on a film is unlike them.

    The threshold is one of the n validation scores: the one of rank ceil((n + 1) 0.99), so that of
    new films like these at most one in a hundred is expected above it. Fewer than 99 validation
    films cannot promise that: then it is the largest score, and one new film in n + 1 is expected
    above. `false_alarms` is this share. The covariance is shrunk (Ledoit & Wolf 2004), so a few
    dozen films will do.

    Args:
        train_films: uint8, shape (height, width) or (size, size, 1) each, best in the size that the
            model takes; two or more.
        validation_films: As those of training; one or more.

    Returns:
        Mean and precision of the training films, the threshold and its share of false alarms.

    Raises:
        ValueError: There are fewer than two training films or no validation film.
        ImageError: A film has another type or shape.
    """
    from sklearn.covariance import LedoitWolf  # slow to import; scoring does without it

    if len(train_films) < 2 or len(validation_films) < 1:
        raise ValueError(
            "novelty: expected two or more training films and one or more for validation, "
            f"found {len(train_films)} and {len(validation_films)}"
        )
    known = LedoitWolf().fit(descriptors(train_films))
    mean, precision = known.location_.round(_DECIMALS), known.precision_.round(_DECIMALS)
    scores = np.sort(Novelty(mean, precision, np.inf).score(validation_films))
    rank = min(math.ceil(round((len(scores) + 1) * QUANTILE, 9)), len(scores))
    return Novelty(mean, precision, float(scores[rank - 1]), 1 - rank / (len(scores) + 1))


def load_novelty(folder: Path | str) -> Novelty:
    """What `Novelty.save` wrote.

    Args:
        folder: The run folder.

    Returns:
        The same `Novelty`.

    Raises:
        RunError: The file is missing or damaged.
    """
    file = Path(folder) / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _restored(content)
    except FileNotFoundError:
        raise RunError(file, "this file", "none", "Make it with fit_novelty.") from None
    except (ValueError, KeyError, TypeError) as error:
        expected = f"the mean of {SIDE**2 + 2} numbers, their precision, threshold and false alarms"
        raise RunError(file, expected, repr(error), "Delete it and fit again.") from error


def descriptors(films: Films) -> Floats:
    """Each film in 66 numbers.

    The first 64 are its 8 x 8 cells, row by row, less their mean and over their deviation (at
    least 1 grey level). The last two are 4 ln(deviation) and mean / 16 of the cells: contrast and
    brightness of the whole, each scaled to count like 16 cells and not to drown among them.

    Args:
        films: uint8, shape (height, width) or (size, size, 1) each.

    Returns:
        The numbers, shape (n, 66).

    Raises:
        ImageError: A film has another type or shape.

    Example:
        >>> flat = descriptors([np.full((16, 16), 160, np.uint8)])
        >>> flat.shape, flat[0, 0].item(), flat[0, -2:].tolist()  # 4 ln(1) and 160 / 16
        ((1, 66), 0.0, [0.0, 10.0])
    """
    return np.array([_descriptor(np.squeeze(film)) for film in films]).reshape(-1, SIDE**2 + 2)


def _descriptor(film: npt.NDArray[np.uint8]) -> Floats:
    cells = fit_square(film, SIDE).ravel().astype(float)
    mean, deviation = cells.mean(), max(cells.std(), 1.0)
    return np.append((cells - mean) / deviation, (4 * np.log(deviation), mean / 16))


def _restored(content: dict[str, Any]) -> Novelty:
    mean, precision = np.array(content["mean"], float), np.array(content["precision"], float)
    size = SIDE**2 + 2
    if mean.shape != (size,) or precision.shape != (size, size):
        raise ValueError(f"shapes {mean.shape} and {precision.shape}")
    threshold, false_alarms = float(content["threshold"]), float(content["false_alarms"])
    if not all(np.isfinite(each).all() for each in (mean, precision, threshold, false_alarms)):
        raise ValueError("numbers that are not finite")
    return Novelty(mean, precision, threshold, false_alarms)
