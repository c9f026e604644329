import hashlib
import re
import shutil
import struct
import warnings
import weakref
import zlib
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
import tifffile
import tiny_films
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, PngImagePlugin
from pydicom import Dataset, dcmread, uid
from pydicom.encaps import encapsulate
from tiny_films import GREY, dicom

from osteo_utils.data import images
from osteo_utils.data.images import fit_square, load_arrays, read_image
from osteo_utils.errors import ImageError
from osteo_utils.formats import films
from osteo_utils.formats.films import ImageFacts, decode, probe
from osteo_utils.formats.pixels import MAX_SIDE, own_range

PYDICOM_FILES = Path(pydicom.__file__).parent / "data/test_files"

GREY_IMAGE = Image.fromarray(GREY)


def save(path, image=GREY_IMAGE, **options):
    image.save(path, **options)
    return path


def encoded(extension, image=GREY_IMAGE, **options):
    return tiny_films.encoded(image, extension, **options)


def noisy():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8))


def png_chunk(name, data):
    body = name + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_of(pixels, width, height=1, depth=8, colour=0, more=b""):
    """A PNG of one row of packed bytes, whatever its head says of them."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = more + png_chunk(b"IDAT", zlib.compress(b"\0" + pixels)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + body


def lut(table, bits=16, length=None, first=0):
    """A sequence of one VOI or modality lookup table; bytes are taken as they are."""
    item = Dataset()
    item.LUTDescriptor = [(len(table) if length is None else length) % 65_536, first, bits]
    item.LUTData = table if isinstance(table, bytes) else np.asarray(table, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    return [item]


def grey_of(tmp_path, pixels, dtype=np.uint16, **tags):
    """What is read from a DICOM of one row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom about odd values
        path = dicom(tmp_path / "a.dcm", np.array([pixels], dtype), **tags)
        return read_image(path)[0].tolist()


# ---- formats and modes -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.gif", "lossless.webp"])
def test_lossless_formats_come_back_exactly(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, **options)
    np.testing.assert_array_equal(read_image(path), GREY)
    assert (probe(path).width, probe(path).height) == (30, 40)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_modes(tmp_path, mode):
    path = save(tmp_path / "a.JPEG", GREY_IMAGE.convert(mode), quality=95)
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 4
    assert probe(path) == ImageFacts("JPEG", mode, 30, 40)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes(tmp_path, mode):
    path = save(tmp_path / "a.png", GREY_IMAGE.convert(mode))
    expected = GREY_IMAGE.convert("1").convert("L") if mode == "1" else GREY_IMAGE
    np.testing.assert_array_equal(read_image(path), np.asarray(expected))
    assert probe(path).mode == mode


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.dcm"])
def test_bytes_are_decoded_as_the_file_is(tmp_path, name):
    path = (dicom if name == "a.dcm" else save)(tmp_path / name)
    np.testing.assert_array_equal(decode(path.read_bytes()), read_image(path))


@pytest.mark.parametrize("data", [b"", b"hello", encoded("PNG")[:60], encoded("JPEG")[:300]])
def test_bad_bytes_are_named_and_nothing_is_opened_by_that_name(tmp_path, data):
    good = save(tmp_path / "good.png")
    with pytest.raises(ImageError, match=r"good\.png: expected .*found"):
        decode(data, good)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([[255, 0, 0], [0, 255, 0], [0, 0, 255]], [76, 150, 29]),
        ([[200, 200, 200, 255], [200, 200, 200, 0], [200, 200, 200, 128]], [200, 0, 100]),
    ],
    ids=["colour", "transparency"],
)
def test_colour_becomes_luma_and_transparency_lies_on_black(tmp_path, pixels, expected):
    path = save(tmp_path / "a.png", Image.fromarray(np.array([pixels], np.uint8)))
    assert read_image(path)[0].tolist() == expected


def test_transparent_palette_lies_on_black(tmp_path):
    path = save(tmp_path / "a.png", GREY_IMAGE.convert("P"), transparency=int(GREY[20, 20]))
    grey = read_image(path)
    assert grey[20, 20] == 0
    assert grey[0, 1] == GREY[0, 1]


def test_16_bit_png_is_mapped_from_its_own_range(tmp_path):
    twelve_bit = np.array([[100, 2100, 4100]], np.uint16)
    path = save(tmp_path / "a.png", Image.fromarray(twelve_bit))
    assert read_image(path)[0].tolist() == [0, 128, 255]
    flat = save(tmp_path / "flat.png", Image.fromarray(np.full((2, 2), 900, np.uint16)))
    assert not read_image(flat).any()


def test_the_content_decides_not_the_extension(tmp_path):
    path = save(tmp_path / "really a png.JPG", format="PNG")
    np.testing.assert_array_equal(read_image(path), GREY)
    assert probe(path).format == "PNG"


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation_is_applied(tmp_path, extension, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if extension == "webp" else {}
    path = save(tmp_path / f"turned.{extension}", exif=exif, **lossless)
    expected = GREY[::-1, ::-1] if orientation == 3 else np.rot90(GREY, -1)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 6
    assert (probe(path).height, probe(path).width) == expected.shape


def exif_block(value, kind=3, count=1, magic=b"II*\0"):
    """An EXIF block of one tag, the orientation, with the type and count given."""
    order = "<" if magic.startswith(b"II") else ">"
    entry = struct.pack(f"{order}HHI", 0x0112, kind, count)
    entry += struct.pack(f"{order}HH", value, 0) if kind == 3 else bytes([value, 0, 0, 0])
    return b"Exif\0\0" + magic + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)


XMP = (
    "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/'"
    ' tiff:Orientation="6"/></x:xmpmeta>'
)


def png_with_text(name, value):
    """A PNG with a text, a long one compressed."""
    info = PngImagePlugin.PngInfo()
    if name.startswith("XML:"):
        info.add_itxt(name, value)
    else:
        info.add_text(name, value, zip=len(value) > 10_000)
    return encoded("PNG", pnginfo=info)


RAW_PROFILE = f"\nexif\n{len(exif_block(6)):8}\n{exif_block(6).hex()}\n"


def png_with_late_exif(block):
    whole = encoded("PNG")
    at = whole.index(b"IEND") - 4
    return whole[:at] + png_chunk(b"eXIf", block.removeprefix(b"Exif\0\0")) + whole[at:]


# What Chromium 156 shows as it lies.
UPRIGHT = {
    "PNG with XMP": png_with_text("XML:com.adobe.xmp", XMP),
    "PNG with a raw profile": png_with_text("Raw profile type exif", RAW_PROFILE),
    "PNG with a long text": png_with_text("comment", "x" * 3_000_000),
    "PNG with EXIF behind the pixels": png_with_late_exif(exif_block(6)),
    "PNG with broken EXIF": encoded("PNG", exif=b"Exif\0\0garbage!"),
    "JPEG with XMP": encoded("JPEG", quality=95, xmp=XMP.encode()),
    "WebP with XMP": encoded("WEBP", lossless=True, xmp=XMP.encode()),
    "TIFF with XMP": encoded("TIFF", tiffinfo={700: XMP.encode()}),
    "orientation 0": encoded("JPEG", quality=95, exif=exif_block(0)),
    "orientation 9": encoded("JPEG", quality=95, exif=exif_block(9)),
    "orientation as BYTE": encoded("JPEG", quality=95, exif=exif_block(6, kind=1)),
    "orientation as ASCII": encoded("JPEG", quality=95, exif=exif_block(0x36, kind=2)),
    "orientation as LONG": encoded("JPEG", quality=95, exif=exif_block(6, kind=4)),
    "two orientations": encoded("JPEG", quality=95, exif=exif_block(6, count=2)),
    "EXIF of no byte order": encoded("JPEG", quality=95, exif=exif_block(6, magic=b"XX*\0")),
    "EXIF that ends": encoded("JPEG", quality=95, exif=exif_block(6)[:20]),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", UPRIGHT)
def test_only_a_whole_exif_block_turns_a_picture(tmp_path, kind):
    path = tmp_path / "a.bin"
    path.write_bytes(UPRIGHT[kind])
    assert np.abs(read_image(path).astype(int) - GREY).max() <= 4
    assert (probe(path).width, probe(path).height) == (30, 40)


def test_exif_of_motorola_byte_order_turns_too():
    grey = decode(encoded("PNG", exif=exif_block(6, magic=b"MM\0*")))
    np.testing.assert_array_equal(grey, np.rot90(GREY, -1))


@settings(max_examples=150, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_exif_never_costs_the_picture(tmp_path_factory, changes):
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "a maker", 0x011A: 72.0, 0x0132: "2026:01:01 00:00:00"})
    block = bytearray(exif.tobytes())
    for position, value in changes:
        block[6 + position % (len(block) - 6)] = value
    path = tmp_path_factory.getbasetemp() / "exif.jpg"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(encoded("JPEG", exif=bytes(block)))
        assert sorted(read_image(path).shape) == [30, 40]
    assert_one_reading(path)


@pytest.mark.parametrize("lacking", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_marker_is_whole(lacking):
    for data in (encoded("JPEG"), encoded("JPEG", noisy().convert("RGB"), quality=40)):
        np.testing.assert_array_equal(decode(data[:-lacking]), decode(data))


def test_a_jpeg_without_its_end_is_decoded_into_two_pictures_at_most(monkeypatch):
    made, alive, decoded_before = [], [], films._decoded_before

    def counted(*args):
        made.append(weakref.ref(image := decoded_before(*args)))
        alive.append(sum(picture() is not None for picture in made))
        return image

    monkeypatch.setattr(films, "_decoded_before", counted)
    assert films._without_its_end(encoded("JPEG")[:-2]) is not None
    assert (len(made), max(alive)) == (6, 2)


def test_a_jpeg_that_lacks_a_pixel_is_refused():
    for data in (encoded("JPEG"), encoded("JPEG", noisy()), encoded("JPEG", progressive=True)):
        for lacking in (4, 5, 9, 40):
            with pytest.raises(ImageError, match="damaged"):
                decode(data[:-lacking])


def small_png(depth, pixels, clear):
    """A grey PNG of one row: packed bytes, one grey level transparent."""
    clear = png_chunk(b"tRNS", struct.pack(">H", clear))
    return png_of(pixels, 8 // depth * len(pixels), depth=depth, more=clear)


def test_transparent_grey_of_few_bits_lies_on_black():
    assert decode(small_png(2, b"\x1b", clear=2))[0].tolist() == [0, 85, 0, 255]
    assert decode(small_png(4, b"\x5a", clear=5))[0].tolist() == [0, 170]
    assert decode(small_png(8, b"\x50\x20", clear=0x50))[0].tolist() == [0, 32]


def test_a_wholly_transparent_picture_is_refused(tmp_path):
    clear = Image.fromarray(np.full((3, 4, 4), (200, 200, 200, 0), np.uint8))
    assert_refused(save(tmp_path / "a.png", clear), "wholly transparent")


# ---- more than 8 bits ----------------------------------------------------------------------------

TWELVE_BITS = np.array([[0, 819, 1638, 2457, 3276, 4095]])
FALLING = [255, 204, 153, 102, 51, 0]


def tiff(path, pixels, **options):
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_in_which_0_is_white_is_no_negative(tmp_path, dtype):
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    pixels = np.linspace(0, top, 6).astype(dtype)[None]
    path = tiff(tmp_path / "a.tif", pixels, photometric="miniswhite")
    assert read_image(path)[0].tolist() == FALLING


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32, np.float32])
def test_deep_tiff_is_mapped_from_its_own_range(tmp_path, dtype):
    rising = FALLING[::-1]
    path = tiff(tmp_path / "a.tif", TWELVE_BITS.astype(dtype), photometric="minisblack")
    assert read_image(path)[0].tolist() == rising
    if np.issubdtype(dtype, np.integer):
        ends = np.iinfo(dtype)
        pixels = np.linspace(ends.min, ends.max, 6).astype(dtype)[None]
        path = tiff(tmp_path / "b.tif", pixels, photometric="minisblack")
        assert read_image(path)[0].tolist() == rising


def png_of_16_bits(colour, channels):
    pixels = np.repeat(TWELVE_BITS.astype(">u2")[0, :, None], channels, axis=1)
    return png_of(pixels.tobytes(), 6, depth=16, colour=colour)


def test_16_bit_grey_is_read_and_16_bit_colour_refused(tmp_path):
    assert decode(png_of_16_bits(0, 1))[0].tolist() == FALLING[::-1]
    path = tmp_path / "a.png"
    for colour, channels in ((4, 2), (2, 3), (6, 4)):
        path.write_bytes(png_of_16_bits(colour, channels))
        assert_refused(path, "16 bits a channel")
    pixels = np.stack([TWELVE_BITS.astype(np.uint16)] * 3, -1)
    assert_refused(tiff(tmp_path / "a.tif", pixels, photometric="rgb"), "16 bits a channel")


def test_one_hot_pixel_does_not_take_the_contrast(tmp_path):
    tissues = np.tile(np.repeat(np.array([800, 1600], np.uint16), 20), (40, 1))
    tissues[0, 0] = 65_535
    expected = np.where(tissues == 800, 0, 255)
    np.testing.assert_array_equal(decode(encoded("PNG", Image.fromarray(tissues))), expected)
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "a.dcm", tissues)), expected)


def test_own_range_leaves_out_one_pixel_in_a_thousand_at_each_end():
    assert own_range(np.arange(999)) == (0, 998)
    assert own_range(np.arange(1000)) == (1, 998)
    assert own_range(np.arange(4096)) == (4, 4091)
    assert own_range(np.append(np.zeros(5000), 7)) == (0, 7)  # nearly all of one value


def test_a_tiff_that_cannot_be_read_is_called_a_tiff(tmp_path):
    path = tiff(tmp_path / "a.tif", TWELVE_BITS.astype(np.float64), photometric="minisblack")
    assert_refused(path, "a TIFF of another kind, or damaged")


def test_thumbnails_in_a_tiff_are_no_pages(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(GREY[::4, ::4], subfiletype=1, photometric="minisblack")
        file.write(GREY, photometric="minisblack")
        file.write(GREY[::2, ::2], subfiletype=1, photometric="minisblack")
    np.testing.assert_array_equal(read_image(path), GREY)
    assert (probe(path).width, probe(path).height) == (30, 40)


def test_a_phone_jpeg_with_a_second_picture_is_its_first(tmp_path):
    path = tmp_path / "phone.jpg"
    GREY_IMAGE.convert("RGB").save(path, "MPO", save_all=True, append_images=[GREY_IMAGE])
    assert probe(path).format == "JPEG"
    assert read_image(path).shape == GREY.shape


# ---- DICOM ---------------------------------------------------------------------------------------


def test_dicom_without_window_is_mapped_from_its_own_range(tmp_path):
    pixels = np.array([[1000, 2000, 3000]], np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels)
    assert read_image(path)[0].tolist() == [0, 128, 255]
    assert probe(path) == ImageFacts("DICOM", "MONOCHROME2", 3, 1)


def test_the_byte_that_fills_up_an_odd_length_is_no_frame(tmp_path):
    for values in ([7], [0, 1, 2]):
        pixels = np.array([values], np.uint8)
        path = dicom(tmp_path / "a.dcm", pixels, PixelData=pixels.tobytes() + b"\0")
        assert read_image(path).shape == pixels.shape


def test_monochrome1_is_turned_round(tmp_path):
    assert grey_of(tmp_path, [0, 100, 200], photometric="MONOCHROME1") == [255, 127, 0]


def test_dicom_window_follows_the_standard(tmp_path):
    pixels = np.array([[0, 1000, 1024, 1500, 2047, 4000]], np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels, WindowCenter=1524, WindowWidth=1001, BitsStored=12)
    # DICOM PS3.3 C.11.2.1.2: ((x - (c - 0.5)) / (w - 1) + 0.5), clipped to 0..1
    expected = np.clip((pixels - 1523.5) / 1000 + 0.5, 0, 1) * 255
    np.testing.assert_array_equal(read_image(path), np.floor(expected + 0.5))


def test_dicom_rescale_comes_before_the_window(tmp_path):
    tags = {"RescaleSlope": 2, "RescaleIntercept": 100, "WindowCenter": 100, "WindowWidth": 2001}
    assert grey_of(tmp_path, [-500, 0, 500], np.int16, **tags) == [0, 128, 255]


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_windows_keep_the_order(tmp_path, function):
    tags = {"WindowCenter": 60, "WindowWidth": 100, "VOILUTFunction": function}
    grey = read_image(dicom(tmp_path / "a.dcm", **tags))
    assert (np.diff(grey[:, 0].astype(int)) >= 0).all()
    assert np.ptp(grey) > 150


RAMP = [0, 85, 170, 255]


@pytest.mark.parametrize(
    ("pixels", "table", "expected"),
    [
        ([0, 1, 2, 3, 3, 9], lut([0, 2570, 5140, 65535]), [0, 10, 20, 255, 255, 255]),
        ([0, 1, 2, 3], lut([65535, 43690, 21845, 0]), [255, 170, 85, 0]),
        ([0, 1, 2, 3], lut([0, 65535, 32768, 16384]), [0, 255, 128, 64]),
        ([0, 1, 2, 3], lut([10000, 20000, 30000, 40000]), [39, 78, 117, 156]),
        ([0, 32768, 65535], lut(np.arange(65536)), [0, 128, 255]),
        ([0, 52428, 59999], lut(np.arange(60000) * 65535 // 59999), [0, 223, 255]),
        ([0, 1, 2, 3], lut([0, 4096, 8192, 16383]), [0, 16, 32, 64]),  # of 16 bits, as in DCMTK
        ([0, 1, 2, 3], lut([0, 1023, 2047, 4095], bits=14), [0, 16, 32, 64]),
        ([10, 11, 12, 13, 0], lut([0, 21845, 43690, 65535], first=10), [*RAMP, 0]),
        ([0, 1365, 2730, 4095], lut(np.arange(4096)), RAMP),  # 12 bits in entries of 16
        ([0, 1, 2, 3], lut(bytes(RAMP), bits=8, length=4), RAMP),  # packed
        ([0, 1, 2, 3], [Dataset()], RAMP),  # no table: the own range
    ],
    ids=[
        *("rise", "fall", "bend", "part", "65536", "60000", "dim", "12 of 14 bits", "first"),
        *("12 bits", "packed", "empty"),
    ],
)
def test_voi_table_gives_the_display_value(tmp_path, pixels, table, expected):
    assert grey_of(tmp_path, pixels, VOILUTSequence=table) == expected
    turned = [255 - level for level in expected]
    assert grey_of(tmp_path, pixels, VOILUTSequence=table, photometric="MONOCHROME1") == turned


def test_modality_table_comes_before_the_window(tmp_path):
    tags = {"ModalityLUTSequence": lut([300, 200, 100, 0])}
    assert grey_of(tmp_path, [0, 1, 2, 3], **tags) == RAMP[::-1]
    window = {"WindowCenter": 100.5, "WindowWidth": 201}  # from 0 to 200
    assert grey_of(tmp_path, [0, 1, 2, 3], **tags, **window) == [255, 255, 128, 0]


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 100, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": -50},
        {"WindowCenter": 100, "WindowWidth": "0.5"},
        {"WindowCenter": 100, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 100},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"RescaleSlope": 2, "RescaleIntercept": ""},
        {"RescaleSlope": "", "RescaleIntercept": 7},
        {"RescaleSlope": 0, "RescaleIntercept": 7},
    ],
)
def test_a_window_or_rescale_that_says_nothing_is_left_aside(tmp_path, tags):
    assert grey_of(tmp_path, [0, 1000, 2000, 3000], **tags) == RAMP


def test_the_first_usable_window_counts_and_a_comma_is_a_point(tmp_path):
    pixels = [0, 1000, 2000, 3000, 4000]
    expected = [0, 0, 128, 255, 255]  # from 1000 to 3000
    tags = {"WindowCenter": ["", "2000.5"], "WindowWidth": ["", "2001"]}
    assert grey_of(tmp_path, pixels, **tags) == expected
    tags = {"WindowCenter": ["2000.5", "9"], "WindowWidth": ["2001", "9"]}
    assert grey_of(tmp_path, pixels, **tags) == expected
    path = dicom(tmp_path / "a.dcm", np.array([pixels], np.uint16), **tags)
    data = path.read_bytes().replace(b"2000.5\\9", b"2000,5\\9")
    assert b"2000,5" in data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(data)[0].tolist() == expected


def test_a_window_over_all_32_bits(tmp_path):
    tags = {"WindowCenter": 2**31, "WindowWidth": 2**32 - 1}
    assert grey_of(tmp_path, [0, 2**31, 2**32 - 1], np.uint32, **tags) == [0, 128, 255]


def test_a_window_of_one_value_is_a_step(tmp_path):
    assert grey_of(tmp_path, [9, 10, 11], WindowCenter=11, WindowWidth=1) == [0, 0, 255]


def test_padding_does_not_take_the_contrast(tmp_path):
    pixels = [65535, 1000, 2000, 3000]
    assert grey_of(tmp_path, pixels, PixelPaddingValue=65535) == [255, 0, 128, 255]
    tags = {"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 9}
    assert grey_of(tmp_path, [0, 5, 1000, 2000, 3000], **tags) == [0, 0, 0, 128, 255]
    tags = {"PixelPaddingValue": -2000}
    assert grey_of(tmp_path, [-2000, -100, 0, 100], np.int16, **tags) == [0, 0, 128, 255]
    assert grey_of(tmp_path, [7, 7], PixelPaddingValue=7) == [0, 0]  # padding alone


def test_what_lies_above_bits_stored_is_left_out(tmp_path):
    overlay = [0x1000, 100, 0xF000 + 2047, 4095]
    assert grey_of(tmp_path, overlay, BitsStored=12) == [0, 6, 127, 255]
    signed = np.array([-2048, 0, 2047]) & 0x0FFF  # without their sign bits
    assert grey_of(tmp_path, signed, np.int16, BitsStored=12) == [0, 128, 255]


def test_presentation_lut_shape_does_not_turn_once_more(tmp_path):
    for photometric, expected in (("MONOCHROME1", RAMP[::-1]), ("MONOCHROME2", RAMP)):
        tags = {"photometric": photometric, "PresentationLUTShape": "INVERSE"}
        assert grey_of(tmp_path, [0, 1, 2, 3], **tags) == expected


def test_a_dicom_without_preamble_or_header_is_read(tmp_path):
    whole = dicom(tmp_path / "a.dcm", np.array([[1000, 2000, 3000]], np.uint16)).read_bytes()
    header = 12 + int.from_bytes(whole[140:144], "little")
    for data in (whole[132:], whole[132 + header :]):
        assert decode(data)[0].tolist() == [0, 128, 255]
    text_file = tmp_path / "a.bin"
    text_file.write_bytes(b"\x08\x00" + b"no DICOM at all" * 40)
    assert_refused(text_file, "expected")


def test_a_deflated_dicom_is_read_and_a_bomb_is_not(tmp_path):
    dicom(tmp_path / "a.dcm", syntax=uid.DeflatedExplicitVRLittleEndian)
    dicom(tmp_path / "b.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm"), read_image(tmp_path / "b.dcm"))
    plain = (tmp_path / "a.dcm").read_bytes()
    start = 144 + int.from_bytes(plain[140:144], "little")
    deflate = zlib.compressobj(wbits=-15)
    bomb = b"".join([*(deflate.compress(bytes(10**7)) for _ in range(33)), deflate.flush()])
    path = tmp_path / "bomb.dcm"
    path.write_bytes(plain[:start] + bomb)
    assert_refused(path, "320,000,000 bytes when inflated, found more (not decoded)")


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),  # JPEG Lossless
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
    ],
)
def test_every_lossless_coding_gives_the_same_pixels(compressed, plain):
    grey = read_image(PYDICOM_FILES / compressed)
    np.testing.assert_array_equal(grey, read_image(PYDICOM_FILES / plain))


def test_a_missing_decoder_is_called_by_the_name_of_its_package(tmp_path, monkeypatch):
    from osteo_utils.formats import dicom as reader

    missing = ["pylibjpeg - requires pylibjpeg>=2.0 and pylibjpeg-libjpeg>=2.1"]
    absent = SimpleNamespace(is_available=False, missing_dependencies=missing)
    monkeypatch.setattr(reader, "get_decoder", lambda syntax: absent)
    path = Path(shutil.copy(PYDICOM_FILES / "MR_small_jpeg_ls_lossless.dcm", tmp_path))
    message = refusal(path)
    assert "found JPEG-LS Lossless Image Compression" in message
    assert message.endswith("Run: pip install pylibjpeg pylibjpeg-libjpeg")


def test_compressed_dicom(tmp_path):
    pixels = encapsulate([encoded("JPEG", quality=95)])
    path = dicom(tmp_path / "jpeg.dcm", syntax=uid.JPEGBaseline8Bit, PixelData=pixels)
    low, high = np.sort(GREY, axis=None)[[1, -2]]  # of 1,200 pixels one is left out at each end
    expected = np.clip((GREY - float(low)) / (high - low), 0, 1) * 255
    assert np.abs(read_image(path) - expected).max() <= 6
    rle = dcmread(dicom(tmp_path / "rle.dcm"))
    rle.compress(uid.RLELossless)
    rle.save_as(tmp_path / "rle.dcm")
    assert np.abs(read_image(tmp_path / "rle.dcm") - expected).max() <= 0.51


def test_colour_dicom(tmp_path):
    pixels = np.repeat(GREY[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "a.dcm", pixels, "RGB")), GREY)


# ---- bad files -----------------------------------------------------------------------------------


def part(extension, share=0.5):
    data = encoded(extension, noisy())
    return data[: int(len(data) * share)]


def broken_crc():
    data = bytearray(encoded("PNG", noisy()))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def several(extension):
    frames = [Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
    return encoded(extension, save_all=True, append_images=frames)


def endless_jpeg_2000():
    """A good code stream, its size overwritten."""
    stream = bytearray(encoded("JPEG2000", no_jp2=True))
    stream[8:16] = struct.pack(">II", 65_000, 65_000)
    return bytes(stream)


FLOATS = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
NAN, INF = FLOATS.copy(), FLOATS.copy()
NAN[1, 1], INF[1, 1] = np.nan, np.inf

DICM = bytes(128) + b"DICM"

BAD_BYTES = {
    "empty": (b"", "0 bytes"),
    "one byte": (b"\xff", "begins"),
    "text": (b"Dear colleague, please find the X-ray attached.", "begins"),
    "a web page": (b"<!DOCTYPE html><html><body>Log in to download</body></html>", "begins"),
    "a large-file pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "begins"),
    "a zip": (b"PK\x03\x04" + b"\0" * 200, "begins"),
    "a PDF": (b"%PDF-1.7\n" + b"\0" * 300, "begins"),
    "noise": (np.random.default_rng(1).bytes(5000), "begins"),
    "JPEG header alone": (b"\xff\xd8\xff\xe0\x00\x10JFIF\0", "damaged"),
    "half a JPEG": (part("JPEG"), "truncated"),
    "JPEG without its end": (part("JPEG", 0.95), "truncated"),
    "half a PNG": (part("PNG"), "damaged"),
    "PNG without its end": (encoded("PNG", noisy())[:-40], "damaged"),
    "PNG with a flipped byte": (broken_crc(), "damaged"),
    "half a WebP": (part("WEBP"), "damaged"),
    "half a BMP": (part("BMP"), "damaged"),
    "half a TIFF": (part("TIFF"), "damaged"),
    "bomb": (png_of(bytes(99), 9_500, 9_000), "not decoded"),
    "gigantic bomb": (png_of(bytes(99), 60_000, 60_000), "DecompressionBomb"),
    "endless strip": (png_of(bytes(99), 1_000_000, 70), "1000000 x 70 (not decoded)"),
    "no width": (png_of(bytes(99), 0, 10), "expected"),
    "moving GIF": (several("GIF"), "3 frames"),
    "moving WebP": (several("WEBP"), "3 frames"),
    "TIFF of several pages": (several("TIFF"), "3 frames"),
    "NaN": (encoded("TIFF", Image.fromarray(NAN)), "NaN"),
    "infinity": (encoded("TIFF", Image.fromarray(INF)), "NaN or infinity"),
    "DICOM magic alone": (DICM, "DICOM without pixels"),
    "DICOM magic and noise": (DICM + np.random.default_rng(2).bytes(500), "expected"),
}


JPEG, JPEG_LS, JPEG_2000 = uid.JPEGBaseline8Bit, uid.JPEGLSLossless, uid.JPEG2000Lossless
ENDLESS = "65000 x 65000 (not decoded)"


def compressed(syntax, *frames):
    return {"syntax": syntax, "PixelData": encapsulate(list(frames))}


JPEG_LS_HEAD = b"\xf7\0\x0b\x08\xfd\xe8\xfd\xe8\1\1\x11\0"  # of 65,000 x 65,000 pixels
WINDOW = {"WindowCenter": 100, "WindowWidth": 50}

BAD_DICOM = {
    "no pixels": ({"PixelData": None}, "without pixels"),
    "several frames": ({"NumberOfFrames": 2, "PixelData": GREY.tobytes() * 2}, "2 frames"),
    "too few pixels": ({"PixelData": GREY.tobytes()[:600]}, "expected"),
    "no rows": ({"Rows": 0}, "0 (not decoded)"),
    "too many rows": ({"Rows": 65_000, "Columns": 65_000}, "not decoded"),
    "rows missing": ({"Rows": None}, "expected"),
    "unknown window function": (WINDOW | {"VOILUTFunction": "CUBIC"}, "found CUBIC"),
    "unannounced frames": ({"PixelData": 3 * GREY.tobytes()}, "a single image, found 3 frames"),
    "more compressed frames than it says": (
        compressed(JPEG, *[encoded("JPEG")] * 2),
        "a single image, found 2 frames",
    ),
    "an endless JPEG-LS": (compressed(JPEG_LS, b"\xff\xd8\xff" + JPEG_LS_HEAD), ENDLESS),
    "an endless JPEG-LS behind fill bytes": (
        compressed(JPEG_LS, b"\xff\xd8\xff\xff\xff" + JPEG_LS_HEAD),
        ENDLESS,
    ),
    "a JPEG-LS that hides its size": (
        compressed(JPEG_LS, b"\xff\xd8\xff\xda" + bytes(20)),
        "a JPEG that states its size, found none",
    ),
    "an endless JPEG 2000": (compressed(JPEG_2000, endless_jpeg_2000()), ENDLESS),
    "a JPEG 2000 that hides its size": (
        compressed(JPEG_2000, endless_jpeg_2000()[:20]),
        "a JPEG 2000 that states its size, found none",
    ),
    "a high bit that is not the last stored one": (
        {"pixels": GREY.astype(np.uint16), "BitsStored": 12, "HighBit": 15},
        "High Bit 11, found 15 for 12 bits",
    ),
    "deep colours": (
        {"pixels": np.zeros((4, 5, 3), np.uint16), "photometric": "RGB"},
        "colours of 16 bits",
    ),
    "a lookup table cut short": (
        {"VOILUTSequence": lut([0, 9], length=5)},
        "2 (the descriptor says 5)",
    ),
    "palette": ({"photometric": "PALETTE COLOR"}, "PALETTE COLOR"),
    "unsupported compression": (compressed(JPEG_LS, b"\xff\xd8\xff\xd9"), "expected"),
    "damaged compression": (compressed(JPEG, b"not a jpeg"), "expected"),
    "infinite rescale": ({"RescaleSlope": "1e308", "RescaleIntercept": "1e308"}, "NaN"),
}


def assert_refused(path, found):
    assert found in refusal(path)


def refusal(path):
    """What `read_image` and `probe` both say against a file."""
    messages = []
    for read in (read_image, probe):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries grumble before they give up
            with pytest.raises(ImageError) as caught:
                read(path)
        message = str(caught.value)
        assert path.name in message
        assert "expected" in message
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        messages.append(message)
    assert without_addresses(messages[0]) == without_addresses(messages[1])
    return messages[0]


def without_addresses(message):
    return re.sub(r"0x[0-9a-f]+", "", message)


@pytest.mark.parametrize("kind", BAD_BYTES)
def test_bad_bytes_are_refused(tmp_path, kind):
    data, found = BAD_BYTES[kind]
    path = tmp_path / "Normal 17.jpg"
    path.write_bytes(data)
    assert_refused(path, found)


@pytest.mark.parametrize("kind", BAD_DICOM)
def test_bad_dicom_is_refused(tmp_path, kind):
    tags, found = BAD_DICOM[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = dicom(tmp_path / "Normal 17.dcm", **tags)
    assert_refused(path, found)


def test_a_truncated_dicom_is_refused(tmp_path):
    path = dicom(tmp_path / "Normal 17.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    assert_refused(path, "expected")


def test_folders_and_missing_files_are_refused(tmp_path):
    assert_refused(tmp_path, "a folder")
    assert_refused(tmp_path / "absent.png", "no such file")


def test_an_enormous_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(films, "MAX_BYTES", 10)
    assert_refused(save(tmp_path / "large.png"), "bytes")


def assert_one_reading(path):
    """Either both refuse, or the facts are those of what is decoded."""
    results = []
    for read in (read_image, probe):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = read(path)
            except ImageError as error:
                results.append(without_addresses(str(error)))
            else:
                results.append(getattr(result, "shape", None) or (result.height, result.width))
    assert results[0] == results[1]


SEEDS = [encoded(name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_never_ends_in_a_foreign_error(tmp_path_factory, data):
    original = data.draw(st.sampled_from([b"", DICM, *SEEDS]))
    damaged = bytearray(original + data.draw(st.binary(max_size=60)))
    changes = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8)
    for position, value in data.draw(changes):
        if position < len(damaged):
            damaged[position] = value
    cut = data.draw(st.integers(0, len(damaged)))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(damaged[:cut] if data.draw(st.booleans()) else damaged)
    assert_one_reading(path)


@settings(max_examples=40, deadline=None)
@given(pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20)))
def test_png_round_trip(tmp_path_factory, pixels):
    path = save(tmp_path_factory.getbasetemp() / "round.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(read_image(path), pixels)


# ---- fit_square ----------------------------------------------------------------------------------


def area_average(square, size):
    """The definition, in fractions: each target pixel is the mean over its part of the source."""
    side = len(square)

    def share(k, i):
        overlap = min(Fraction((k + 1) * side, size), i + 1) - max(Fraction(k * side, size), i)
        return max(overlap, Fraction(0)) * Fraction(size, side)

    result = np.empty((size, size), np.uint8)
    for row in range(size):
        for column in range(size):
            mean = sum(
                share(row, i) * share(column, j) * int(square[i, j])
                for i in range(side)
                for j in range(side)
            )
            result[row, column] = int(mean + Fraction(1, 2))
    return result


@pytest.mark.parametrize(("side", "size"), [(7, 3), (9, 9), (10, 4), (6, 1), (8, 4), (5, 4)])
def test_shrinking_is_the_exact_area_average(side, size):
    square = np.random.default_rng(side).integers(0, 256, (side, side), dtype=np.uint8)
    np.testing.assert_array_equal(fit_square(square, size), area_average(square, size))


def test_enlarging_is_bilinear_between_pixel_centres():
    square = np.array([[0, 100], [200, 255]], np.uint8)
    expected = [[0, 25, 75, 100], [50, 72, 117, 139], [150, 167, 200, 216], [200, 214, 241, 255]]
    assert fit_square(square, 4).tolist() == expected


def test_padding_is_black_and_centred():
    wide = np.full((2, 5), 200, np.uint8)
    padded = fit_square(wide, 5)
    assert padded[:, 0].tolist() == [0, 200, 200, 0, 0]
    np.testing.assert_array_equal(fit_square(wide.T, 5), padded.T)


def test_a_thin_strip_does_not_explode():
    assert fit_square(np.full((1, 60_000), 255, np.uint8), 32).shape == (32, 32)
    with pytest.raises(ImageError, match="at most 65,535 pixels on a side, found 79,000,000"):
        fit_square(np.zeros((79_000_000, 1), np.uint8), 224)


def test_wide_and_tall_images_are_resized_alike():
    wide = np.random.default_rng(5).integers(0, 256, (3, MAX_SIDE), dtype=np.uint8)
    np.testing.assert_array_equal(fit_square(wide, 7), fit_square(wide.T.copy(), 7).T)


@settings(max_examples=80, deadline=None)
@given(
    pixels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40)),
    size=st.integers(1, 50),
)
def test_fit_square_keeps_range_and_mean(pixels, size):
    side = max(pixels.shape)
    square = fit_square(pixels, size)
    assert square.shape == (size, size)
    assert square.dtype == np.uint8
    assert square.max() <= pixels.max()
    if size <= side:
        assert abs(square.mean() - pixels.sum() / side**2) <= 0.5


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4)), np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8)],
    ids=["float", "colour", "empty"],
)
def test_fit_square_refuses_other_arrays(bad):
    with pytest.raises(ImageError, match=r"expected uint8 \(height, width\)"):
        fit_square(bad, 8)
    with pytest.raises(ImageError, match="at least 1 pixel"):
        fit_square(GREY, 0)


# ---- load_arrays ---------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    return [save(tmp_path / f"{n}.png", Image.fromarray(GREY // n)) for n in (1, 2, 3)]


def unwanted(*arguments):
    raise AssertionError(f"called with {arguments[-1]} although the cache is good")


def sha256_of(paths):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_arrays_come_in_order(three):
    loaded = load_arrays(three, 16)
    assert loaded.shape == (3, 16, 16)
    for array, path in zip(loaded, three, strict=True):
        np.testing.assert_array_equal(array, fit_square(read_image(path), 16))
    assert load_arrays([], 16).shape == (0, 16, 16)


def test_the_cache_is_used_while_it_is_right(three, tmp_path, monkeypatch):
    cache = tmp_path / "cache" / "16.npz"
    first = load_arrays(three, 16, cache)
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", unwanted)
        np.testing.assert_array_equal(load_arrays(three, 16, cache), first)
    assert load_arrays(three, 8, cache).shape == (3, 8, 8)
    assert (load_arrays(three[::-1], 8, cache) == load_arrays(three, 8)[::-1]).all()
    assert [file.name for file in cache.parent.iterdir()] == ["16.npz"]


def test_with_digests_a_cached_film_is_not_even_read(three, tmp_path, monkeypatch):
    cache, digests = tmp_path / "16.npz", sha256_of(three)
    first = load_arrays(three, 16, cache)
    monkeypatch.setattr(images, "read_bytes", unwanted)
    np.testing.assert_array_equal(load_arrays(three, 16, cache, digests), first)


def test_a_film_that_is_not_the_one_meant_is_refused(three, tmp_path):
    digests, cache = sha256_of(three), tmp_path / "16.npz"
    save(three[1], Image.fromarray(255 - GREY))
    for each in (None, cache):
        told = r"2\.png: expected the film with SHA-256 [0-9a-f]{12}"
        with pytest.raises(ImageError, match=told):
            load_arrays(three, 16, each, digests)
    assert not cache.exists()
    load_arrays(three, 16, cache, sha256_of(three))


def test_the_cache_is_not_used_by_another_decoder(three, tmp_path, monkeypatch):
    cache = tmp_path / "16.npz"
    first = load_arrays(three, 16, cache)
    monkeypatch.setattr(images, "decoder", lambda: "another")
    monkeypatch.setattr(images, "decode", lambda data, name: np.zeros((4, 4), np.uint8))
    assert first.any()
    assert not load_arrays(three, 16, cache).any()


def test_a_changed_file_invalidates_the_cache(three, tmp_path):
    cache = tmp_path / "16.npz"
    load_arrays(three, 16, cache)
    save(three[1], Image.fromarray(255 - GREY))
    np.testing.assert_array_equal(load_arrays(three, 16, cache), load_arrays(three, 16))


@pytest.mark.parametrize("damage", [b"", b"not an archive", None])
def test_a_damaged_cache_is_remade_with_a_reason(three, tmp_path, damage):
    cache = tmp_path / "16.npz"
    first = load_arrays(three, 16, cache)
    cache.write_bytes(cache.read_bytes()[:-300] if damage is None else damage)
    with pytest.warns(UserWarning, match=r"16\.npz: damaged .* its arrays are made anew"):
        np.testing.assert_array_equal(load_arrays(three, 16, cache), first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_arrays(three, 16, cache)


def test_a_bad_file_among_good_ones_is_named(three, tmp_path):
    three[1].write_bytes(b"oops")
    with pytest.raises(ImageError, match=r"2\.png"):
        load_arrays(three, 16, tmp_path / "cache.npz")
    assert not (tmp_path / "cache.npz").exists()


def test_real_radiographs_decode(real_knees, tmp_path):
    paths = sorted(real_knees.rglob("*.*"))[:12]
    loaded = load_arrays(paths, 64)
    assert loaded.shape == (len(paths), 64, 64)
    assert loaded.std(axis=(1, 2)).min() > 10
    for path in paths:
        copy = shutil.copy(path, tmp_path / f"copy of {path.name}")
        assert read_image(copy).shape == (probe(Path(copy)).height, probe(path).width)
