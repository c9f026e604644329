"""What all decoders share: the bounds and the way from pixel values to grey levels."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from osteo_utils.errors import ImageError

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Display = Callable[[Floats], Floats]  # pixel values to brightness, 0 (black) to 1 (white)

MAX_PIXELS: Final = 80_000_000  # the largest detectors have about 20 million; below Pillow's alarm
MAX_SIDE: Final = 65_535  # no JPEG and no DICOM can be longer
_LEFT_OUT: Final = 1000  # one pixel in so many at each end of the range: hot and dead pixels
_BLOCK: Final = (
    2**20
)  # pixels that are computed at a time, so that a large film needs little memory


def check_size(name: object, width: int, height: int) -> None:
    """Refuse a picture without pixels and one beyond all reason, before it is decoded.

    Args:
        name: What an error calls the picture: its path.
        width: In pixels.
        height: In pixels.

    Raises:
        ImageError: There is no pixel, or more than `MAX_PIXELS`, or a side is longer than
            `MAX_SIDE`.

    Example:
        >>> check_size("1.png", 3000, 2000)
        >>> try:
        ...     check_size("1.png", 0, 2000)
        ... except ImageError as error:
        ...     print(str(error).split(", found ")[1])
        0 x 2000 (not decoded). Export it in a usual size.
    """
    if min(width, height) < 1 or width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        expected = f"1 to {MAX_PIXELS:,} pixels, at most {MAX_SIDE:,} on a side"
        found = f"{width} x {height} (not decoded)"
        raise ImageError(name, expected, found, "Export it in a usual size.")


def own_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Darkest and brightest value, one pixel in 1,000 left out at each end.

    Those few are hot, dead or edge pixels that would take the contrast from the bone. Fewer than
    1,000 pixels, or nearly all of one value: the very darkest and brightest.

    Args:
        values: Pixel values, any shape, at least one.

    Returns:
        The darkest and the brightest.

    Example:
        >>> own_range(np.arange(10)), own_range(np.arange(1000))
        ((0.0, 9.0), (1.0, 998.0))
    """
    left_out = values.size // _LEFT_OUT
    ends = [left_out, values.size - 1 - left_out]
    low, high = np.partition(values, ends, axis=None)[ends]
    if low == high:
        low, high = values.min(), values.max()
    return float(low), float(high)


def between(low: float, high: float) -> Display:
    """Brightness that rises in a straight line between two pixel values.

    Args:
        low: Value that is black.
        high: Value that is white. If it equals `low`, there is a step just above them.

    Returns:
        A function from pixel values to brightness, 0 at `low` and 1 at `high`, below 0 and above 1
        outside.

    Example:
        >>> between(10, 20)(np.array([10.0, 15.0, 20.0, 25.0])).tolist()
        [0.0, 0.5, 1.0, 1.5]
        >>> between(10, 10)(np.array([10.0, 11.0])).tolist()
        [0.0, 1.0]
    """
    if high - low == 0:  # infinite ends pass on, to be refused
        return lambda values: (values > low).astype(np.float64)
    return lambda values: (values - low) / (high - low)


def to_grey(name: object, values: npt.NDArray[Any], display: Display) -> Grey:
    """Grey levels of pixel values: brightness times 255, halves up, clipped.

    Args:
        name: What an error calls the picture: its path.
        values: Pixel values, shape (height, width).
        display: A function from pixel values to brightness, 0 (black) to 1 (white).

    Returns:
        Grey levels, shape (height, width).

    Raises:
        ImageError: A pixel value or its brightness is not finite.

    Example:
        >>> to_grey("1.png", np.array([[10, 15, 25]]), between(10, 20)).tolist()
        [[0, 128, 255]]
    """
    grey = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK // values.shape[1])
    for top in range(0, len(values), rows):
        block = values[top : top + rows].astype(np.float64)
        with np.errstate(all="ignore"):  # what is not finite is refused
            brightness = display(block)
        if not (np.isfinite(block).all() and np.isfinite(brightness).all()):
            raise ImageError(name, "finite pixel values", "NaN or infinity", "Export it again.")
        grey[top : top + rows] = np.floor(np.clip(brightness, 0, 1) * 255 + 0.5)
    return grey
