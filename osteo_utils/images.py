"""One way to decode and resize a radiograph: JPEG, PNG, WebP, BMP, TIFF, GIF or DICOM in, grey out.

The bytes decide the format, never the extension. Whatever is wrong with a file leaves this
module as an `ImageError` that names the file, what was expected, what was found, what to do.
"""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy.sparse import csr_array

from osteo_utils.progress import progress

Grey = npt.NDArray[np.uint8]

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # DICOM is read by pydicom
MAX_PIXELS: Final = 80_000_000  # the largest detectors have about 20 million; below Pillow's alarm
MAX_BYTES: Final = 1_000_000_000
THREADS: Final = 3  # Pillow decodes without holding the interpreter's lock
CACHE_VERSION: Final = "1"  # change it when decoding or `fit_square` changes
_ORIENTATION: Final = 0x0112  # EXIF tag; values 5 to 8 swap width and height


class ImageError(ValueError):
    """A file that cannot be used as a radiograph: file, expected, found, what to do."""

    def __init__(self, where: object, expected: str, found: object, remedy: str) -> None:
        super().__init__(f"{where}: expected {expected}, found {found}. {remedy}")


@dataclass(frozen=True)
class ImageFacts:
    """What `probe` tells: size in pixels as displayed, Pillow's mode or DICOM's photometry."""

    format: str
    mode: str
    width: int
    height: int


def read_image(path: Path | str) -> Grey:
    """Decode one radiograph to grey uint8 (height, width), native size: `decode` of its bytes."""
    path = Path(path)
    return decode(read_bytes(path), path)


def decode(data: bytes, name: object = "image") -> Grey:
    """Decode the bytes of one radiograph to grey uint8 (height, width), native size, bright = bone.

    Colour becomes luma (ITU-R BT.601), transparency lies on black, EXIF orientation and DICOM
    rescale, window and MONOCHROME1 are applied. 16-bit and float pixels: a DICOM is mapped from
    its window, anything else from its own darkest..brightest pixel. `name` says in an error which
    file it was; nothing is opened by it. Raises `ImageError`.
    """
    with _explained(name):
        if not data:
            raise ImageError(name, "an image file", "0 bytes", "Download or export it again.")
        if data[128:132] == b"DICM":
            return _dicom_to_grey(name, _open_dicom(name, data))
        return _to_grey(name, ImageOps.exif_transpose(_open(name, data)))


def probe(path: Path | str, data: bytes | None = None) -> ImageFacts:
    """Facts of a file from its header, and a cheap look whether the whole picture is there.

    `data` are the file's bytes if the caller has them already. Cheap is measured, on 1,000 px:
    a JPEG at an eighth of its scale 1.8 ms (4.6 ms in full), checksums of a PNG 0.3 ms (5 ms).
    Other formats are rare here and decoded in full. Raises `ImageError`.
    """
    path = Path(path)
    data = read_bytes(path) if data is None else data
    with _explained(path):
        if data[128:132] == b"DICM":
            dataset = _open_dicom(path, data)
            _dicom_to_grey(path, dataset)
            mode = str(dataset.PhotometricInterpretation)
            return ImageFacts("DICOM", mode, int(dataset.Columns), int(dataset.Rows))
        image = _open(path, data)
        facts = _facts(image)
        _verify(path, image)
    return facts


def read_bytes(path: Path) -> bytes:
    """The bytes of a file; `ImageError` if it is missing, a folder, empty or beyond all reason."""
    with _explained(path):
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise ImageError(path, "an image file", found, "Check the path.")
        if not 0 < (size := path.stat().st_size) <= MAX_BYTES:
            expected = f"1 to {MAX_BYTES:,} bytes"
            raise ImageError(path, expected, f"{size:,} bytes", "Download or export it again.")
        return path.read_bytes()


def fit_square(image: Grey, size: int) -> Grey:
    """Centre an image (height, width) on a black square and resize it to (size, size).

    The aspect stays: side = max(height, width), floor((side - height) / 2) black rows above,
    likewise columns at the left. Then, along each axis, integer weights (`_weights`) whose rows
    sum to `total`: shrinking is the exact area average, enlarging is bilinear between pixel
    centres. All sums are whole numbers below 2**53, so any language gets the same pixels:
    floor((2 * sum + total**2) / (2 * total**2)), halves rounded up. (Pillow's BOX takes a
    source pixel whole or not at all where the ratio is no integer; this is the true average.)
    """
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        found = f"{image.dtype} {image.shape}"
        raise ImageError("image", "uint8 (height, width)", found, "Decode it with read_image.")
    if size < 1:
        raise ImageError("size", "at least 1 pixel", size, "Give the side of the square.")
    (height, width), side = image.shape, max(image.shape)
    top, left = (side - height) // 2, (side - width) // 2
    weights, total = _weights(side, size)
    rows = weights[:, top : top + height] @ image  # the black border adds nothing to a sum
    sums = (weights[:, left : left + width].astype(np.int64) @ rows.T.astype(np.int64)).T
    return np.asarray((2 * sums + total**2) // (2 * total**2), dtype=np.uint8)


def load_arrays(paths: Sequence[Path], size: int, cache: Path | None = None) -> Grey:
    """Decode files to uint8 (n, size, size), in their order; a bad file raises `ImageError`.

    `cache` is an .npz file, used while it belongs to exactly these contents, order and size,
    and written anew otherwise. A damaged cache is remade with a warning that says so.
    """
    paths = [Path(path) for path in paths]
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(lambda path: hashlib.sha256(read_bytes(path)).hexdigest(), paths)
        key = " ".join([CACHE_VERSION, str(size), *digests])
        if cache is not None and (cached := _read_cache(cache, key)) is not None:
            return cached
        squares = pool.map(lambda path: fit_square(read_image(path), size), paths)
        decoded = progress(squares, "decoding", len(paths), "image")
        arrays = np.array(list(decoded), dtype=np.uint8).reshape(-1, size, size)
    if cache is not None:
        _write_cache(cache, key, arrays)
    return arrays


@contextmanager
def _explained(name: object) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        found = f"damaged or unsupported data ({type(error).__name__}: {error})"
        raise ImageError(name, "a whole image", found, "Download or export it again.") from None


def _check_size(name: object, width: int, height: int) -> None:
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        found = f"{width} x {height} (not decoded)"
        raise ImageError(name, f"1 to {MAX_PIXELS:,} pixels", found, "Export it in a usual size.")


def _open(name: object, data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        expected = f"an image ({', '.join(FORMATS)} or DICOM)"
        remedy = "Convert it to PNG, or download it again."
        raise ImageError(name, expected, f"a file that begins {data[:12]!r}", remedy) from None
    _check_size(name, image.width, image.height)
    # An MPO is a phone's JPEG with a depth or brightness map behind the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        found = f"{getattr(image, 'n_frames', 'several')} frames or pages"
        raise ImageError(name, "a single image", found, "Export the one frame you want.")
    return image


def _facts(image: Image.Image) -> ImageFacts:
    width, height = image.size
    # Asking without a reason would decode a PNG; Pillow turns the size of a TIFF by itself.
    tagged = image.format != "TIFF" and image.info.keys() & {"exif", "xmp"}
    if tagged and image.getexif().get(_ORIENTATION, 1) > 4:
        width, height = height, width
    name = "JPEG" if image.format == "MPO" else str(image.format)
    return ImageFacts(name, image.mode, width, height)


def _verify(name: object, image: Image.Image) -> None:
    if image.format == "PNG":
        image.verify()
    elif image.format in ("JPEG", "MPO"):
        image.draft("L", (1, 1))  # reads every coefficient, computes few pixels
        image.load()
    else:
        _to_grey(name, image)


def _to_grey(name: object, image: Image.Image) -> Grey:
    if image.mode.startswith(("I", "F")):
        # 12-bit detectors are often saved in 16-bit files, so the type's range says nothing.
        values = np.asarray(image, dtype=np.float64)
        return _to_uint8(name, values, float(values.min()), float(values.max()))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    if image.mode != "L":
        image = image.convert("RGB").convert("L")
    return np.array(image, dtype=np.uint8)


def _to_uint8(name: object, values: npt.NDArray[Any], low: float, high: float) -> Grey:
    """Map low..high to 0..255, halves up; a flat image is black."""
    if not (np.isfinite([low, high]).all() and np.isfinite(values).all()):
        raise ImageError(name, "finite pixel values", "NaN or infinity", "Export it again.")
    scaled = np.clip((values.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1) * 255
    return np.floor(scaled + 0.5).astype(np.uint8)


def _open_dicom(name: object, data: bytes) -> Any:  # noqa: ANN401 (pydicom's Dataset is untyped)
    from pydicom import dcmread  # slow to import, and most readers never need it

    dataset = dcmread(BytesIO(data))
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        found = f"a DICOM without pixels (modality {dataset.get('Modality', 'not stated')})"
        raise ImageError(name, "a DICOM image", found, "Export the image object of the study.")
    _check_size(name, int(dataset.Columns), int(dataset.Rows))
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        remedy = "Export the one frame you want."
        raise ImageError(name, "a single image", f"{frames} frames", remedy)
    return dataset


def _dicom_to_grey(name: object, dataset: Any) -> Grey:  # noqa: ANN401
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, pixel_array

    pixels = pixel_array(dataset)
    if dataset.get("SamplesPerPixel", 1) == 3:
        return _to_grey(name, Image.fromarray(pixels))
    if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
        found = str(dataset.PhotometricInterpretation)
        raise ImageError(name, "a grey or RGB DICOM", found, "Export it as PNG.")
    values = apply_modality_lut(pixels, dataset)
    low, high = values.min(), values.max()
    window = [dataset.get("WindowCenter"), dataset.get("WindowWidth")]
    if None not in window or dataset.get("VOILUTSequence"):
        with np.errstate(over="ignore"):  # the ends of the window, from values beyond them
            low, high = apply_voi_lut(np.array([-(10**9), 10**9]), dataset)
            values = apply_voi_lut(values, dataset)
    grey = _to_uint8(name, values, float(low), float(high))
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


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


def _read_cache(cache: Path, key: str) -> Grey | None:
    if not cache.exists():
        return None
    try:
        with np.load(cache, allow_pickle=False) as stored:
            return stored["images"] if str(stored["key"]) == key else None
    except Exception as error:  # zipfile and NumPy raise nearly anything on damaged bytes
        reason = f"{type(error).__name__}: {error}"
        warnings.warn(f"{cache}: damaged cache ({reason}); decoding anew", stacklevel=3)
        return None


def _write_cache(cache: Path, key: str, images: Grey) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    part = cache.with_name(f".{cache.name}.part-{os.getpid()}")
    try:
        with part.open("wb") as file:
            np.savez(file, images=images, key=np.array(key))
        part.replace(cache)
    finally:
        part.unlink(missing_ok=True)
