"""A saliency map with its strongest place, laid over its film: as a picture with words, as HTML."""

import base64
from html import escape
from io import BytesIO
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import Colormap
from PIL import Image

from osteo_utils.data.images import fit_square
from osteo_utils.errors import CourseError
from osteo_utils.formats.pixels import Grey
from osteo_utils.registry import SIGNED_CMAP

Maps = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

# What the reader sees, by Matplotlib's name.
COLOURS: Final = {
    "inferno": "Inferno (even)",
    "viridis": "Viridis (even)",
    "cividis": "Cividis (even)",
    "gray": "Grey",
    "jet": "Jet (misleading)",
}


class Peak(NamedTuple):
    """The strongest place of a map: its largest absolute value, and the centre of that cell."""

    value: float
    across: float  # share of the square, from the left
    down: float  # from the top


class SaliencyMap(NamedTuple):
    """The map of one film."""

    title: str  # member, branch and layer
    cam: Maps  # raw, (h, w)
    peak: Peak | None  # None where the map is flat, NaN throughout, and shows nothing


def saliency_map(title: str, cam: Maps) -> SaliencyMap:
    """A raw map with its strongest place.

    Args:
        title: Member, branch and layer.
        cam: The map, shape (h, w); NaN throughout where it shows nothing.

    Returns:
        The map; without a place where it shows nothing.

    Example:
        >>> saliency_map("flat", np.full((2, 2), np.nan, np.float32)).peak is None
        True
    """
    from osteo_utils.saliency.gradcam import peak  # brings TensorFlow

    if np.isnan(cam).any():
        return SaliencyMap(title, cam, None)
    (rows, columns), (row, column) = cam.shape, peak(cam)
    place = Peak(float(cam[row, column]), (column + 0.5) / columns, (row + 0.5) / rows)
    return SaliencyMap(title, cam, place)


class Picture(NamedTuple):
    """A picture with what is seen in it (`alt`) and what it is (`caption`)."""

    pixels: Pixels
    alt: str
    caption: str


def picture_of_film(image: Grey, name: str, side: int) -> Picture:
    """The film on its black square of `side` pixels, as the networks see it but larger."""
    alt = f"The radiograph {name}, without a map"
    return Picture(fit_square(image, side), alt, "The film on its square, without a map")


def picture_of_map(
    image: Grey, name: str, what: str, found: SaliencyMap, colours: str, opacity: float, side: int
) -> Picture | None:
    """The map over the film of that name, with its own scale below; None where it is flat.

    `what` says which method was used for which class.
    """
    if found.peak is None:
        return None
    what = f"{what}: {found.title}"
    place = (
        f"strongest {found.peak.across:.0%} from the left and {found.peak.down:.0%} from the top"
    )
    low, top, table = _scale(found.cam, colours)
    caption = f"{what}, {place}. The scale below goes from {low:.2g} to {top:.2g}."
    laid = overlay(fit_square(image, side), found.cam, colours, opacity)
    strip = np.rint(table(np.linspace(0, 1, side))[:, :3] * 255).astype(np.uint8)
    scale = [np.zeros((4, side, 3), np.uint8), np.repeat(strip[None], 14, axis=0)]
    return Picture(np.concatenate([laid, *scale]), f"{what}, over {name}; {place}", caption)


def overlay(film: Grey, cam: Maps, colours: str, opacity: float) -> Pixels:
    """The map laid over a square film, uint8 (size, size, 3): its own scale, 0 to the largest.

    A map with negative values is drawn around 0, in colours that part there.
    """
    from osteo_utils.saliency.gradcam import resized  # brings TensorFlow

    low, top, table = _scale(cam, colours)
    colour = table((resized(cam[None], len(film))[0] - low) / (top - low))[..., :3] * 255
    mixed = colour * opacity + film[..., None] * (1 - opacity)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def _scale(cam: Maps, colours: str) -> tuple[float, float, Colormap]:
    """The ends of the scale of a map, and its colours: those chosen, or those that part at 0."""
    top = float(np.abs(cam).max())
    return (-top, top, colormaps[SIGNED_CMAP]) if cam.min() < 0 else (0.0, top, colormaps[colours])


def flat_map(found: SaliencyMap, method: str, class_name: str) -> CourseError:
    """What is told, or raised, where there is no map to show."""
    none = f"none, for nothing in this film speaks for {class_name}"
    remedy = "Choose the predicted class, another method or layer, or train the model further."
    return CourseError(f"{method}, {found.title}", "a map", none, remedy)


def figure_html(picture: Picture) -> str:
    """The picture inside a page, never wider than there is room; its words are escaped."""
    buffer = BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "webp", quality=90)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure style="margin: 0; max-width: {picture.pixels.shape[1]}px">'
        f'<img src="data:image/webp;base64,{data}" alt="{escape(picture.alt)}" '
        'style="max-width: 100%; height: auto">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
