"""Films as networks take them: squares of one size, decoded once and kept."""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from osteo_utils.errors import ImageError
from osteo_utils.formats.films import THREADS, decode, decoder, probe, read_bytes, read_image
from osteo_utils.formats.pixels import MAX_SIDE, Grey
from osteo_utils.progress import progress
from osteo_utils.store import replace_file

__all__ = ["Grey", "cached_arrays", "fit_square", "load_arrays", "probe", "read_image"]


def fit_square(image: Grey, size: int) -> Grey:
    """Centre an image on a black square and resize it.

    The aspect stays: side = max(height, width), floor((side - height) / 2) black rows above,
    likewise columns at the left. Then, along each axis, integer weights (`_weights`) whose rows
    sum to `total`: shrinking is the exact area average, enlarging is bilinear between pixel
    centres. All sums are whole numbers below 2**53, so any language gets the same pixels:
    floor((2 * sum + total**2) / (2 * total**2)), halves rounded up. (Pillow's BOX takes a
    source pixel whole or not at all where the ratio is no integer; this is the true average.)

    Args:
        image: Grey levels, shape (height, width), each side at most `MAX_SIDE`.
        size: Side of the square in pixels, at least 1.

    Returns:
        Grey levels, shape (size, size).

    Raises:
        ImageError: The image is not uint8 of this shape, has no pixel or a longer side, or the size
            is below 1.

    Example:
        >>> fit_square(np.uint8([[0, 100], [200, 255]]), 1).tolist()  # 138.75
        [[139]]
        >>> fit_square(np.uint8([[9, 9]]), 2).tolist()  # no black row above, one below
        [[9, 9], [0, 0]]
    """
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        found = f"{image.dtype} {image.shape}"
        raise ImageError("image", "uint8 (height, width)", found, "Decode it with read_image.")
    if size < 1:
        raise ImageError("size", "at least 1 pixel", size, "Give the side of the square.")
    if max(image.shape) > MAX_SIDE:
        expected, found = f"at most {MAX_SIDE:,} pixels on a side", f"{max(image.shape):,}"
        raise ImageError("image", expected, found, "Cut out the part that you want.")
    if image.shape[0] < image.shape[1]:
        return fit_square(image.T, size).T  # the longer axis first: small sums of a long strip
    (side, width) = image.shape
    left = (side - width) // 2
    weights, total = _weights(side, size)
    rows = weights @ image
    # The black border adds nothing to a sum.
    sums = (weights[:, left : left + width].astype(np.int64) @ rows.T.astype(np.int64)).T
    return np.asarray((2 * sums + total**2) // (2 * total**2), dtype=np.uint8)


def load_arrays(
    paths: Sequence[Path],
    size: int,
    cache: Path | None = None,
    digests: Sequence[str] | None = None,
) -> Grey:
    """Decode files to squares of one size, in their order.

    A damaged cache is remade with a warning that says so.

    Args:
        paths: Of the files.
        size: Side of the squares in pixels, at least 1.
        cache: An .npz file, used while it belongs to exactly these contents, order, size and
            `decoder`, and written anew otherwise; with `digests` no film is read then.
        digests: SHA-256 (hex) of the films that are meant, in the same order.

    Returns:
        Grey levels, shape (n, size, size).

    Raises:
        ImageError: A file cannot be read or decoded, or has another content than is meant.
        ValueError: There are not as many digests as paths.

    Example:
        >>> from PIL import Image
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("L", (6, 6), 7).save(Path(folder, "1.png"))
        ...     load_arrays([Path(folder, "1.png")], size=2).tolist()
        [[[7, 7], [7, 7]]]
    """
    paths = [Path(path) for path in paths]
    with ThreadPoolExecutor(THREADS) as pool:
        if digests is None and cache is not None:
            digests = list(pool.map(lambda path: _sha256(read_bytes(path)), paths))
        expected: Sequence[str | None] = [None] * len(paths) if digests is None else digests
        films = list(zip(paths, expected, strict=True))

        def decoded() -> dict[str, Grey]:
            squares = pool.map(lambda film: fit_square(_decode_film(*film), size), films)
            images = list(progress(squares, "decoding", len(paths), "image"))
            return {"images": np.array(images, dtype=np.uint8).reshape(-1, size, size)}

        if cache is None:
            return decoded()["images"]
        made_of = json.dumps([decoder(), size, *(digest for _, digest in films)])
        return cached_arrays(cache, _sha256(made_of.encode()), decoded)["images"]


def cached_arrays(
    file: Path, key: str, make: Callable[[], Mapping[str, npt.NDArray[Any]]]
) -> Mapping[str, npt.NDArray[Any]]:
    """Arrays from a file, made (and kept there) if it is not of the same key.

    A damaged file is replaced with a warning that says so.

    Args:
        file: Name ends in .npz; folders above it are made.
        key: Names all that the arrays are made of.
        make: Makes the arrays; none is named "key".

    Returns:
        The arrays by name.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "kept.npz"
        ...     _ = cached_arrays(file, "sum of 1 and 2", lambda: {"sum": np.array(3)})
        ...     cached_arrays(file, "sum of 1 and 2", lambda: {"sum": np.array(4)})["sum"].item()
        3
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                return {name: stored[name] for name in stored.files if name != "key"}
    except FileNotFoundError:
        pass
    except Exception as error:  # zipfile and NumPy raise nearly anything on damaged bytes
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"{file}: damaged ({reason}); its arrays are made anew", stacklevel=3)
    arrays = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {"key": np.array(key), **arrays}
    replace_file(file, lambda part: np.savez(part, **kept))
    return arrays


def _decode_film(path: Path, digest: str | None) -> Grey:
    data = read_bytes(path)
    if digest is not None and (found := _sha256(data)) != digest:
        remedy = "Put the film back, or list the corpus again."
        expected = f"the film with SHA-256 {digest[:12]}"
        raise ImageError(path, expected, f"one with {found[:12]}", remedy)
    return decode(data, path)


def _weights(side: int, size: int) -> tuple[csr_array, int]:
    """Integer weights (size, side) of one axis and the sum of each row.

    Shrinking, in units of 1 / (side * size): how much of source pixel i lies in target pixel k.
    Enlarging, in units of 1 / (2 * size): k samples at ((2 k + 1) side - size) / (2 size).
    """
    target = np.arange(size, dtype=np.int64)
    if size > side:
        position = np.clip((2 * target + 1) * side - size, 0, 2 * size * (side - 1))
        first, right = np.divmod(position, 2 * size)
        columns = np.stack([first, np.minimum(first + 1, side - 1)])
        values, total = np.stack([2 * size - right, right]), 2 * size
    else:
        reach = np.arange(-(-side // size) + 1)[:, None]
        columns = target * side // size + reach
        ends = np.minimum((columns + 1) * size, (target + 1) * side)
        values = np.maximum(ends - np.maximum(columns * size, target * side), 0)
        columns, total = np.minimum(columns, side - 1), side
    rows = np.broadcast_to(target, columns.shape)
    entries = (values.ravel().astype(np.int32), (rows.ravel(), columns.ravel()))
    return csr_array(entries, shape=(size, side)), total


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
