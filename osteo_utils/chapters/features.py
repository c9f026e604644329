"""What the baselines see of a film: a histogram of grey levels, and its texture."""

from typing import Any

import numpy as np
import numpy.typing as npt


def histogram(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The share of pixels in each of 16 steps of grey.

    Args:
        image: Shape (height, width).

    Returns:
        Shares that sum to 1, shape (16,).

    Example:
        >>> histogram(np.uint8([[0, 15], [16, 255]]))[[0, 1, 15]].tolist()
        [0.5, 0.25, 0.25]
    """
    return np.asarray(np.bincount(image.ravel() // 16, minlength=16) / image.size)


def binary_patterns(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The share of each local binary pattern in the middle of a film (Ojala et al. 2002).

    A pixel is compared with eight neighbours on a circle of radius 1, 2 and 3. Patterns with a
    single run of ones count one by one, all others together: 59 kinds.

    Args:
        image: Square, shape (side, side), a side of at least 4.

    Returns:
        Shares that sum to 1 for each radius, shape (177,).
    """
    quarter = len(image) // 4
    middle = [
        codes(image, radius)[quarter:-quarter, quarter:-quarter].ravel() for radius in (1, 2, 3)
    ]
    return np.concatenate([np.bincount(kinds, minlength=59) / kinds.size for kinds in middle])


def codes(image: npt.NDArray[np.uint8], radius: int) -> npt.NDArray[np.int64]:
    """The kind of the local binary pattern at each pixel.

    Args:
        image: Shape (height, width).
        radius: Of the circle of eight neighbours, in pixels.

    Returns:
        Whole numbers, 0 to 58, in the shape of the image.
    """
    from skimage.feature import local_binary_pattern

    kinds: npt.NDArray[Any] = local_binary_pattern(image, 8, radius, "nri_uniform")
    return kinds.astype(np.int64)
