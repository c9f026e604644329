"""From a DICOM to grey levels, as DICOM PS3.3 describes it: modality, VOI, MONOCHROME1.

The steps are written out here and not left to pydicom, whose lookup tables and windows hold no
bounds for tables that fall, that are long or empty, or for pixels of 32 bits.

Presentation LUT Shape is left aside. In an image (PS3.3 C.8.11.3) INVERSE goes with MONOCHROME1
and says the same once more: the inversion that MONOCHROME1 asks for is the only one. A MONOCHROME2
with INVERSE contradicts that table (DCMTK inverts it, most viewers do not).
"""

import struct
import zlib
from io import BytesIO
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset, read_preamble
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

from osteo_utils.errors import ImageError
from osteo_utils.formats.pixels import (
    MAX_PIXELS,
    Display,
    Grey,
    between,
    check_size,
    own_range,
    to_grey,
)

_MAX_INFLATED: Final = 4 * MAX_PIXELS  # bytes of a deflated file: more than any film has
_NO_FRAME_HEADER: Final = (0xC4, 0xC8, 0xCC, *range(0xD0, 0xF7))  # of the markers C0 to F7
_JPEG_2000_SIZE: Final = b"\xff\x4f\xff\x51"
_JPEG_2000: Final = (_JPEG_2000_SIZE, b"\0\0\0\x0cjP")  # a code stream, or a file around it
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def read_dicom(name: object, data: bytes) -> tuple[str, Grey]:
    """Photometric interpretation and grey levels of a DICOM.

    Rescale or modality table, then VOI table or the first usable window, then MONOCHROME1. Without
    a usable window: `own_range` of the pixels that are no padding. A DICOM in colours of 8 bits
    becomes luma.

    Args:
        name: What an error calls the file: its path.
        data: Its bytes.

    Returns:
        The photometric interpretation, such as "MONOCHROME1", and grey levels, shape (height,
        width), bright = bone.

    Raises:
        ImageError: It is no DICOM image of one frame, grey or in colours of 8 bits, of a usual size
            and in a compression that is read here.
        Exception: Damaged data raise nearly anything (`films.decode` makes an `ImageError` of it).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> film, file = Dataset(), BytesIO()
        >>> film.Rows, film.Columns, film.PixelRepresentation, film.SamplesPerPixel = 1, 2, 0, 1
        >>> film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
        >>> film.PhotometricInterpretation, film.PixelData = "MONOCHROME1", bytes([10, 20])
        >>> film.save_as(file, implicit_vr=False, little_endian=True)
        >>> read_dicom("two pixels", file.getvalue())[1].tolist()  # low is bright
        [[255, 0]]
    """
    dataset = _open(name, data)
    photometry = str(dataset.PhotometricInterpretation)
    colour = int(dataset.get("SamplesPerPixel", 1)) == 3
    if not colour and photometry not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageError(name, "a grey or RGB DICOM", photometry, "Export it as PNG.")
    pixels = _only_frame(name, dataset)
    if not colour:
        return photometry, _displayed(name, dataset, _stored_bits(name, dataset, pixels))
    if pixels.dtype != np.uint8:
        found = f"colours of {8 * pixels.itemsize} bits"
        raise ImageError(name, "a grey DICOM, or colours of 8 bits", found, "Export it as grey.")
    return photometry, np.array(Image.fromarray(pixels).convert("L"))


# ---- reading -----------------------------------------------------------------------------------


def _open(name: object, data: bytes) -> Any:  # noqa: ANN401 (pydicom's Dataset is untyped)
    _check_inflated_size(name, data)
    dataset = dcmread(BytesIO(data), force=True)  # also without preamble or header
    if not any(key in dataset for key in _PIXELS):
        found = f"a DICOM without pixels (modality {dataset.get('Modality', 'not stated')})"
        raise ImageError(name, "a DICOM image", found, "Export the image object of the study.")
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _plain_syntax(name, dataset)
    check_size(name, int(dataset.Columns), int(dataset.Rows))
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise _several(name, f"{frames} frames")
    return dataset


def _check_inflated_size(name: object, data: bytes) -> None:
    stream = BytesIO(data)
    read_preamble(stream, force=True)
    meta = read_dataset(stream, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), _MAX_INFLATED + 1)
    if len(inflated) > _MAX_INFLATED:
        expected = f"at most {_MAX_INFLATED:,} bytes when inflated"
        raise ImageError(name, expected, "more (not decoded)", "Export it in a usual size.")


def _plain_syntax(name: object, dataset: Any) -> UID:  # noqa: ANN401
    """The uncompressed transfer syntax in which a file that names none was found to be written."""
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        found = "compressed pixels and no Transfer Syntax UID"
        raise ImageError(name, "a DICOM with its header", found, "Export it again.")
    is_implicit, is_little_endian = dataset.original_encoding
    if is_implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian


def _several(name: object, found: str) -> ImageError:
    return ImageError(name, "a single image", found, "Export the one frame you want.")


def _only_frame(name: object, dataset: Any) -> npt.NDArray[Any]:  # noqa: ANN401
    """The decoded pixels (height, width) or (height, width, 3); refused if more frames follow."""
    if (count := _count_frames(name, dataset)) > 1:
        raise _several(name, f"{count} frames")
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        found, remedy = syntax.name, "Export it uncompressed."
        raise ImageError(name, "a DICOM of a single image", found, remedy) from None
    if not decoder.is_available:
        needs_openjpeg = any("openjpeg" in missing for missing in decoder.missing_dependencies)
        remedy = (
            f"Run: pip install pylibjpeg pylibjpeg-{'openjpeg' if needs_openjpeg else 'libjpeg'}"
        )
        raise ImageError(name, "a compression that is read here", syntax.name, remedy)
    # Pillow where it can: the pixels then do not depend on what else is installed.
    pillow = "pillow" in decoder.available_plugins and syntax != JPEGExtended12Bit
    return np.asarray(pixel_array(dataset, index=0, decoding_plugin="pillow" if pillow else ""))


def _check_jpeg_size(name: object, frame: bytes) -> None:
    """Refuse a JPEG (also Lossless, LS) that is larger than a film may be, or hides its size."""
    at = 2
    while at + 9 <= len(frame) and frame[at] == 0xFF and frame[at + 1] != 0xDA:
        if frame[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= frame[at + 1] <= 0xF7 and frame[at + 1] not in _NO_FRAME_HEADER:
            height, width = (int.from_bytes(frame[at + i : at + i + 2], "big") for i in (5, 7))
            return check_size(name, width, height)
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ImageError(name, "a JPEG that states its size", "none that does", "Export it again.")


def _check_jpeg_2000_size(name: object, frame: bytes) -> None:
    """The same for JPEG 2000, whose code stream begins with its size (ISO 15444-1 A.5.1)."""
    if (at := frame.find(_JPEG_2000_SIZE)) < 0 or len(frame) < at + 24:
        expected = "a JPEG 2000 that states its size"
        raise ImageError(name, expected, "none that does", "Export it again.")
    width, height, left, top = struct.unpack_from(">4I", frame, at + 8)
    check_size(name, width - left, height - top)


def _count_frames(name: object, dataset: Any) -> int:  # noqa: ANN401
    """How many frames the pixel data holds, whatever Number of Frames says."""
    data = next(dataset[key].value for key in _PIXELS if key in dataset)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        frames = list(generate_frames(data, number_of_frames=1))
        if frames and frames[0].startswith(b"\xff\xd8"):
            _check_jpeg_size(name, frames[0])
        elif frames and frames[0].startswith(_JPEG_2000):
            _check_jpeg_2000_size(name, frames[0])
        return len(frames)
    bits = int(dataset.BitsAllocated) * int(dataset.get("SamplesPerPixel", 1))
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits * 2 // 3
    size = -(-int(dataset.Rows) * int(dataset.Columns) * bits // 8)  # bytes, rounded up
    return 1 if len(data) == size + size % 2 else len(data) // size  # one frame may be padded


def _stored_bits(name: object, dataset: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:  # noqa: ANN401
    """The pixels without what lies above Bits Stored: there may be an overlay."""
    if pixels.dtype.kind == "f":
        return pixels
    stored = int(dataset.BitsStored)
    if (high := int(dataset.get("HighBit", stored - 1))) != stored - 1:
        found = f"{high} for {stored} bits"
        raise ImageError(name, f"High Bit {stored - 1}", found, "Export it again, or as PNG.")
    spare = max(8 * pixels.itemsize - stored, 0)
    return (pixels << spare) >> spare if spare else pixels  # keeps the sign, too


# ---- display -----------------------------------------------------------------------------------


def _displayed(name: object, dataset: Any, pixels: npt.NDArray[Any]) -> Grey:  # noqa: ANN401
    padding = _padding(dataset, pixels)
    slope, intercept = 1.0, 0.0
    if item := _first_table(dataset, "ModalityLUTSequence"):
        table, first = _table(name, dataset, item)
        pixels = table[np.clip(pixels.astype(np.int64) - first, 0, len(table) - 1)]
    else:
        slope, intercept = _rescale(dataset)
    voi = _voi_table(name, dataset) or _window(name, dataset)
    if voi is None:
        ends = own_range(pixels if padding is None else pixels[~padding])
        voi = between(*sorted(slope * end + intercept for end in ends))
    grey = to_grey(name, pixels, lambda values: voi(values * slope + intercept))
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def _padding(dataset: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:  # noqa: ANN401
    """Where there is no picture (PS3.3 C.7.5.1.1.2); None where nothing or all is padding."""
    value = dataset.get("PixelPaddingValue")
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [end for end in (value, limit) if isinstance(end, int)]
    if not isinstance(value, int):
        return None
    if pixels.dtype.kind == "i":  # some files write 63536 for -2000
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    padding = np.asarray((pixels >= min(ends)) & (pixels <= max(ends)))
    return padding if 0 < np.count_nonzero(padding) < padding.size else None


def _rescale(dataset: Any) -> tuple[float, float]:  # noqa: ANN401
    """Slope and intercept; as in DCMTK only if both are given and the slope is not 0."""
    slope, intercept = (_numbers(dataset, f"Rescale{name}")[0] for name in ("Slope", "Intercept"))
    return (slope, intercept) if slope and intercept is not None else (1.0, 0.0)


def _numbers(dataset: Any, keyword: str) -> list[float | None]:  # noqa: ANN401
    """The values of a decimal string; None for one that is empty or no number."""

    def number(text: str) -> float | None:
        try:
            value = float(text.replace(",", "."))  # European exports write 2048,0
        except ValueError:
            return None
        return value if np.isfinite(value) else None

    value = dataset.get(keyword)
    return [number(str(each)) for each in ([value] if not _is_many(value) else value)]


def _is_many(value: object) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes)


def _window(name: object, dataset: Any) -> Display | None:  # noqa: ANN401
    """The first usable window (PS3.3 C.11.2.1.2 and .3) as brightness."""
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        expected = "VOI LUT Function LINEAR, LINEAR_EXACT or SIGMOID"
        raise ImageError(name, expected, function, "Export it as PNG.")
    windows = zip(_numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False)
    for centre, width in windows:
        if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
            continue
        if function == "SIGMOID":
            return _sigmoid(centre, width)
        cut = 1 if function == "LINEAR" else 0
        return between(centre - width / 2, centre + width / 2 - cut)
    return None


def _sigmoid(centre: float, width: float) -> Display:
    return lambda values: 1 / (1 + np.exp(-4 * (values - centre) / width))


def _first_table(dataset: Any, sequence: str) -> Any:  # noqa: ANN401
    """The first item of a table sequence, or None; some anonymisers leave an empty one."""
    items = dataset.get(sequence)
    item = items[0] if items else {}
    return item if item.get("LUTDescriptor") and item.get("LUTData") else None


def _table(name: object, dataset: Any, item: Any) -> tuple[npt.NDArray[np.uint16], int]:  # noqa: ANN401
    """The entries of a lookup table, and the value that the first one belongs to."""
    length, first = int(item.LUTDescriptor[0]) % 2**16 or 2**16, int(item.LUTDescriptor[1])
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] is not False else ">"
        # A table of 8-bit entries may be packed, two in a word.
        packed = length <= len(data) < 2 * length
        data = np.frombuffer(data[: len(data) // 2 * 2], np.uint8 if packed else f"{order}u2")
    table = np.atleast_1d(np.asarray(data)).astype(np.uint16)[:length]
    if len(table) < length:
        found = f"{len(table):,} (the descriptor says {length:,})"
        raise ImageError(name, "a whole lookup table", found, "Export it again, or as PNG.")
    return table, first


def _voi_table(name: object, dataset: Any) -> Display | None:  # noqa: ANN401
    """The VOI table as brightness: white is the highest number of the descriptor's bits.

    So says PS3.3 C.11.2.1.1. Where a table needs more bits, or leaves four or more of them empty
    (some writers say 16 and fill 12), the bits are those that it needs.
    """
    if (item := _first_table(dataset, "VOILUTSequence")) is None:
        return None
    table, first = _table(name, dataset, item)
    bits, needed = int(item.LUTDescriptor[2]), int(table.max()).bit_length()
    brightness = table / max(2 ** (bits if needed <= bits < needed + 4 else needed) - 1, 1)
    last = len(table) - 1
    return lambda values: brightness[np.clip(values - first, 0, last).astype(np.int64)]
