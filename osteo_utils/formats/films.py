"""One way to decode a radiograph: JPEG, PNG, WebP, BMP, TIFF, GIF or DICOM in, grey out.

The bytes decide the format, never the extension. Whatever is wrong with a file leaves this
module as an `ImageError` that names the file, what was expected, what was found, what to do.
"""

import hashlib
import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache as remembered
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError

from osteo_utils.errors import ImageError
from osteo_utils.formats.pixels import Grey, between, check_size, own_range, to_grey
from osteo_utils.store import source_digest

FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # DICOM is read by pydicom
MAX_BYTES: Final = 1_000_000_000
THREADS: Final = 3  # Pillow decodes without holding the interpreter's lock
_DECODERS: Final = ("pillow", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg")

_LOG = logging.getLogger(__name__)
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT: Final = (b"tEXt", b"zTXt", b"iTXt")
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PHOTOMETRY, _BITS, _SAMPLE_FORMAT, _SUBFILE = 262, 258, 339, 254  # tags of TIFF 6.0
_WHITE_IS_ZERO, _REDUCED_OR_MASK = 0, 0b101
_ORIENTATION, _SHORT = 0x0112, 3  # EXIF: the tag, and the type that it must have
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_AHEAD: Final = (b"\x00", b"\x55", b"\xaa", b"\x66", b"\xcc", b"\xf0")


@dataclass(frozen=True)
class ImageFacts:
    """What a file holds.

    Attributes:
        format: One of `FORMATS`, or "DICOM".
        mode: Pillow's mode, or the photometric interpretation of a DICOM.
        width: As displayed, in pixels.
        height: As displayed, in pixels.
    """

    format: str
    mode: str
    width: int
    height: int


def read_image(path: Path | str) -> Grey:
    """Decode one radiograph: `decode` of its bytes.

    Args:
        path: Of the file.

    Returns:
        Grey levels, shape (height, width), native size, bright = bone.

    Raises:
        ImageError: The file cannot be read or decoded.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Image.fromarray(np.uint8([[0, 100, 200]])).save(Path(folder, "1.png"))
        ...     read_image(Path(folder, "1.png")).tolist()
        [[0, 100, 200]]
    """
    path = Path(path)
    return decode(read_bytes(path), path)


def decode(data: bytes, name: object = "image") -> Grey:
    """Decode the bytes of one radiograph to grey levels.

    Colour becomes luma (ITU-R BT.601), transparency lies on black, EXIF orientation (no other) and
    DICOM rescale, window and MONOCHROME1 are applied. Pixels of 16 or 32 bits and float are mapped
    from `pixels.own_range`, a DICOM (`dicom.read_dicom`) from its table or window if it has one.

    Args:
        data: The bytes of a JPEG, PNG, WebP, BMP, TIFF, GIF or DICOM, one image in it.
        name: What an error calls the file; nothing is opened by it.

    Returns:
        Grey levels, shape (height, width), native size, bright = bone.

    Raises:
        ImageError: There is no such image in these bytes, or it is damaged or of a kind not read
            here.

    Example:
        >>> file = BytesIO()
        >>> Image.new("RGB", (2, 1), "red").save(file, "PNG")
        >>> decode(file.getvalue()).tolist()  # 0.299 x 255
        [[76, 76]]
    """
    return examine(data, name)[1]


def probe(path: Path | str, data: bytes | None = None) -> ImageFacts:
    """Facts of a file.

    It is decoded, so an error is raised exactly where `decode` raises it.

    Args:
        path: Of the file.
        data: The bytes of the file if the caller has them already.

    Returns:
        Format, mode and size.

    Raises:
        ImageError: The file cannot be read or decoded.
    """
    path = Path(path)
    return examine(read_bytes(path) if data is None else data, path)[0]


def examine(data: bytes, name: object = "image") -> tuple[ImageFacts, Grey]:
    """Facts of a file and its grey levels, from one reading.

    Args:
        data: The bytes of the file.
        name: What an error calls the file.

    Returns:
        Format, mode and size, and what `decode` makes of the file.

    Raises:
        ImageError: As `decode` raises it.

    Example:
        >>> file = BytesIO()
        >>> Image.new("L", (2, 1), 7).save(file, "PNG")
        >>> examine(file.getvalue())[0]
        ImageFacts(format='PNG', mode='L', width=2, height=1)
    """
    with _explained(name):
        if not data:
            raise ImageError(name, "an image file", "0 bytes", "Download or export it again.")
        if _is_dicom(data):
            from osteo_utils.formats.dicom import (
                read_dicom,  # slow to import; most readers never need it
            )

            kind = "DICOM"
            mode, grey = read_dicom(name, data)
        else:
            image = _open(name, data)
            kind, mode = str(image.format).replace("MPO", "JPEG"), image.mode
            grey = _to_grey(name, _loaded(image, data), data)
    height, width = grey.shape
    return ImageFacts(kind, mode, width, height), grey


def read_bytes(path: Path) -> bytes:
    """The bytes of a file.

    Args:
        path: Of the file.

    Returns:
        The bytes, at least one.

    Raises:
        ImageError: The file is missing, a folder, empty, larger than `MAX_BYTES` or cannot be read.
    """
    with _explained(path):
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no such file"
            raise ImageError(path, "an image file", found, "Check the path.")
        if not 0 < (size := path.stat().st_size) <= MAX_BYTES:
            expected = f"1 to {MAX_BYTES:,} bytes"
            raise ImageError(path, expected, f"{size:,} bytes", "Download or export it again.")
        return path.read_bytes()


@remembered
def decoder() -> str:
    """Digest of what decides the facts and pixels of a film: code and versions of its packages.

    Returns:
        SHA-256 (hex).
    """
    code = [str(Path(__file__).with_name(name)) for name in ("films.py", "pixels.py", "dicom.py")]
    return _sha256(" ".join([source_digest(*code), *map(_version, _DECODERS)]).encode())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _explained(name: object) -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except MemoryError:
        expected, remedy = (
            "an image that fits into memory",
            "Close other programs, or export it smaller.",
        )
        raise ImageError(name, expected, "too little free memory", remedy) from None
    except Exception as error:  # damaged bytes make decoders raise nearly anything
        _LOG.debug("%s", name, exc_info=True)
        found = f"damaged or unsupported data ({type(error).__name__}: {error})"
        raise ImageError(name, "a whole image", found, "Download or export it again.") from None


def _is_dicom(data: bytes) -> bool:
    """With its preamble; or without, when it begins with group 2 or 8 in either byte order."""
    return data[128:132] == b"DICM" or data[:2] in (b"\2\0", b"\b\0") or data[:3] == b"\0\b\0"


def _open(name: object, data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(_without_text(data)), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unidentified(name, data) from None
    if image.format == "TIFF":
        image.info.pop("xmp", None)  # Pillow turns by it
        _seek_only_page(name, image)
    # An MPO is a phone's JPEG with a depth or brightness map behind the photograph.
    elif image.format != "MPO" and getattr(image, "is_animated", False):
        found = f"{getattr(image, 'n_frames', 'several')} frames"
        raise ImageError(name, "a single image", found, "Export the one frame you want.")
    check_size(name, image.width, image.height)
    if _is_deep_colour(image, data):
        expected, found = "grey, or colours of 8 bits", f"16 bits a channel ({image.mode})"
        raise ImageError(name, expected, found, "Save it as 16-bit grey or 8-bit colour.")
    return image


def _unidentified(name: object, data: bytes) -> ImageError:
    if data.startswith(_TIFF):
        expected = "a TIFF of 1 to 16 bits a channel, 32-bit float or whole numbers"
        remedy = "Save it as 16-bit grey, or export it again."
        return ImageError(name, expected, "a TIFF of another kind, or damaged", remedy)
    expected = f"an image ({', '.join(FORMATS)} or DICOM)"
    remedy = "Convert it to PNG, or download it again."
    return ImageError(name, expected, f"a file that begins {data[:12]!r}", remedy)


def _without_text(data: bytes) -> bytes:
    """A PNG without its text: Pillow turns by it and refuses a long one, browsers do neither."""
    if not data.startswith(_PNG) or not any(kind in data for kind in _PNG_TEXT):
        return data
    kept, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _PNG_TEXT:
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, data[at:]])


def _seek_only_page(name: object, image: Any) -> None:  # noqa: ANN401 (only a TIFF has tags)
    """Go to the one page of a TIFF that is neither a thumbnail nor a mask."""
    if (count := image.n_frames) == 1:
        return
    pages = []
    for page in range(count):
        image.seek(page)
        if not image.tag_v2.get(_SUBFILE, 0) & _REDUCED_OR_MASK:
            pages.append(page)
    if len(pages) != 1:
        found = f"{len(pages) or count} frames or pages"
        raise ImageError(name, "a single image", found, "Export the one page you want.")
    image.seek(pages[0])
    image.info.pop("xmp", None)


def _is_deep_colour(image: Any, data: bytes) -> bool:  # noqa: ANN401
    """Whether Pillow would keep the high bytes alone."""
    if image.format == "PNG":
        return data[24] == 16 and image.mode in ("LA", "RGB", "RGBA")
    if image.format == "TIFF":
        return max(image.tag_v2.get(_BITS, (1,))) > 8 and image.mode[0] not in "IF"
    return False


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    """The decoded picture, turned as its EXIF block says."""
    exif = image.info.get("exif", b"")  # now: browsers leave aside what follows the pixels of a PNG
    try:
        image.load()
    except OSError:
        if image.format != "JPEG" or (whole := _without_its_end(data)) is None:
            raise
        image = whole
    turn = _TURNS.get(_orientation(exif))  # Pillow turns a TIFF by itself
    return image if turn is None or image.format == "TIFF" else image.transpose(turn)


def _without_its_end(data: bytes) -> Image.Image | None:
    """A JPEG that lacks no more than its end marker; None if it lacks a pixel.

    A decoder looks some bits ahead. It is given several kinds of bits, and starts from black or
    white: a pixel that was not in the file differs.
    """
    image = _decoded_before(data, 16 * _AHEAD[0], 0)
    for i, ahead in enumerate(_AHEAD[1:], 1):  # one at a time: they may be large
        if ImageChops.difference(image, _decoded_before(data, 16 * ahead, 255 * (i % 2))).getbbox():
            return None
    return image


def _decoded_before(data: bytes, ahead: bytes, level: int) -> Image.Image:
    """What a JPEG decoder makes of `data`, over a picture of this level, if `ahead` follows."""
    image = Image.open(BytesIO(data.rstrip(b"\xff") + ahead), formats=("JPEG",))
    image.im = Image.new(image.mode, image.size, (level,) * len(image.getbands())).im
    with suppress(OSError):
        image.load()
    image.tile = []  # what was decoded is all there is
    return image


def _orientation(exif: bytes) -> int:
    """The orientation in an EXIF block (1 to 8), read as browsers do: 1 unless all is well."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    with suppress(struct.error):
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return int(value) if (kind, number) == (_SHORT, 1) else 1
    return 1


def _to_grey(name: object, image: Image.Image, data: bytes) -> Grey:
    if image.mode.startswith(("I", "F")):
        return _deep_to_grey(name, image)
    if image.has_transparency_data:
        _scale_transparent_grey(image, data)
        image = image.convert("RGBA")
        if not image.getchannel("A").getbbox():
            found, remedy = "a wholly transparent one", "Export it without transparency."
            raise ImageError(name, "a picture that can be seen", found, remedy)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    if image.mode != "L":
        image = image.convert("RGB").convert("L")
    return np.array(image, dtype=np.uint8)


def _deep_to_grey(name: object, image: Image.Image) -> Grey:
    """16 bits, 32 bits or float, from its own range: a 12-bit film may fill 12 of the 16 bits."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1 and tags.get(_BITS) == (32,):
        values = values.view(np.uint32)  # Pillow's mode I is signed
    grey = to_grey(name, values, between(*own_range(values)))
    return 255 - grey if tags.get(_PHOTOMETRY) == _WHITE_IS_ZERO else grey


def _scale_transparent_grey(image: Image.Image, data: bytes) -> None:
    """The grey that is transparent, in 8 bits: Pillow leaves it in the 2 or 4 of a small PNG."""
    clear = image.info.get("transparency")
    if image.format == "PNG" and image.mode == "L" and isinstance(clear, int) and data[24] < 8:
        image.info["transparency"] = clear * 255 // (2 ** data[24] - 1)
