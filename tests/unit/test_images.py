import io
import shutil
import struct
import warnings
import zlib
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from osteo_utils import images
from osteo_utils.images import ImageError, decode, fit_square, load_arrays, probe, read_image

GREY = np.add.outer(np.arange(0, 120, 3), np.arange(0, 90, 3)).astype(np.uint8)  # (40, 30)
GREY_IMAGE = Image.fromarray(GREY)


def save(path, image=GREY_IMAGE, **options):
    image.save(path, **options)
    return path


def encoded(extension, image=GREY_IMAGE, **options):
    buffer = io.BytesIO()
    image.save(buffer, extension, **options)
    return buffer.getvalue()


def dicom(path, pixels=GREY, photometric="MONOCHROME2", syntax=ExplicitVRLittleEndian, **tags):
    """Write a minimal DICOM; tags set to None are left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = Dataset()
    dataset.file_meta = meta
    bits = pixels.dtype.itemsize * 8
    values = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": "1.2.3",
        "Modality": "DX",
        "PhotometricInterpretation": photometric,
        "SamplesPerPixel": 3 if pixels.ndim == 3 else 1,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    }
    if pixels.ndim == 3:
        values["PlanarConfiguration"] = 0
    for name, value in (values | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


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
    assert probe(path) == images.ImageFacts("JPEG", mode, 30, 40)


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


def test_colour_becomes_luma(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(colours))
    assert read_image(path).tolist() == [[76, 150, 29]]


def test_transparency_lies_on_black(tmp_path):
    pixels = np.array([[[200, 200, 200, 255], [200, 200, 200, 0], [200, 200, 200, 128]]], np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(pixels))
    assert read_image(path)[0].tolist() == [200, 0, 100]


def test_transparent_palette_lies_on_black(tmp_path):
    path = save(tmp_path / "a.png", GREY_IMAGE.convert("P"), transparency=int(GREY[20, 20]))
    grey = read_image(path)
    assert grey[20, 20] == 0
    assert grey[0, 1] == GREY[0, 1]


def test_16_bit_png_is_mapped_from_its_own_range(tmp_path):
    twelve_bit = np.array([[100, 2100, 4100]], np.uint16)
    assert read_image(save(tmp_path / "a.png", Image.fromarray(twelve_bit)))[0].tolist() == [
        0,
        128,
        255,
    ]
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
    assert probe(path) == images.ImageFacts("DICOM", "MONOCHROME2", 3, 1)


def test_monochrome1_is_turned_round(tmp_path):
    path = dicom(tmp_path / "a.dcm", np.array([[0, 100, 200]], np.uint16), "MONOCHROME1")
    assert read_image(path)[0].tolist() == [255, 127, 0]


def test_dicom_window_follows_the_standard(tmp_path):
    pixels = np.array([[0, 1000, 1024, 1500, 2047, 4000]], np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels, WindowCenter=1524, WindowWidth=1001, BitsStored=12)
    # DICOM PS3.3 C.11.2.1.2: ((x - (c - 0.5)) / (w - 1) + 0.5), clipped to 0..1
    expected = np.clip((pixels - 1523.5) / 1000 + 0.5, 0, 1) * 255
    np.testing.assert_array_equal(read_image(path), np.floor(expected + 0.5))


def test_dicom_rescale_comes_before_the_window(tmp_path):
    pixels = np.array([[-500, 0, 500]], np.int16)
    tags = {"RescaleSlope": 2, "RescaleIntercept": 100, "WindowCenter": 100, "WindowWidth": 2001}
    path = dicom(tmp_path / "a.dcm", pixels, **tags)
    assert read_image(path)[0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("function", ["LINEAR_EXACT", "SIGMOID"])
def test_other_windows_keep_the_order(tmp_path, function):
    tags = {"WindowCenter": 60, "WindowWidth": 100, "VOILUTFunction": function}
    grey = read_image(dicom(tmp_path / "a.dcm", **tags))
    assert (np.diff(grey[:, 0].astype(int)) >= 0).all()
    assert np.ptp(grey) > 150


def test_dicom_lookup_table(tmp_path):
    item = Dataset()
    item.LUTDescriptor = [4, 0, 16]
    item.LUTData = np.array([0, 2570, 5140, 65535], "<u2").tobytes()
    item["LUTData"].VR = "OW"
    pixels = np.array([[0, 1, 2, 3, 3, 3]], np.uint16)
    path = dicom(tmp_path / "a.dcm", pixels, VOILUTSequence=[item])
    assert read_image(path)[0].tolist() == [0, 10, 20, 255, 255, 255]


def test_compressed_dicom(tmp_path):
    pixels = encapsulate([encoded("JPEG", quality=95)])
    path = dicom(tmp_path / "jpeg.dcm", syntax=JPEGBaseline8Bit, PixelData=pixels)
    expected = (GREY.astype(float) - GREY.min()) / np.ptp(GREY) * 255
    assert np.abs(read_image(path) - expected).max() <= 6
    rle = dcmread(dicom(tmp_path / "rle.dcm"))
    rle.compress(RLELossless)
    rle.save_as(tmp_path / "rle.dcm")
    assert np.abs(read_image(tmp_path / "rle.dcm") - expected).max() <= 0.51


def test_colour_dicom(tmp_path):
    pixels = np.repeat(GREY[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "a.dcm", pixels, "RGB")), GREY)


# ---- bad files -----------------------------------------------------------------------------------


def png_header(width, height):
    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def noisy():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8))


def part(data, share):
    return data[: int(len(data) * share)]


def broken_crc():
    data = bytearray(encoded("PNG", noisy()))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def several(extension):
    frames = [Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
    return encoded(extension, save_all=True, append_images=frames)


FLOATS = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
NAN, INF = FLOATS.copy(), FLOATS.copy()
NAN[1, 1], INF[1, 1] = np.nan, np.inf

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
    "half a JPEG": (part(encoded("JPEG", noisy()), 0.5), "truncated"),
    "JPEG without its end": (part(encoded("JPEG", noisy()), 0.95), "truncated"),
    "half a PNG": (part(encoded("PNG", noisy()), 0.5), "damaged"),
    "PNG without its end": (encoded("PNG", noisy())[:-40], "damaged"),
    "PNG with a flipped byte": (broken_crc(), "damaged"),
    "half a WebP": (part(encoded("WEBP", noisy()), 0.5), "damaged"),
    "half a BMP": (part(encoded("BMP", noisy()), 0.5), "damaged"),
    "half a TIFF": (part(encoded("TIFF", noisy()), 0.5), "damaged"),
    "bomb": (png_header(9_500, 9_000), "not decoded"),
    "gigantic bomb": (png_header(60_000, 60_000), "DecompressionBomb"),
    "no width": (png_header(0, 10), "expected"),
    "moving GIF": (several("GIF"), "3 frames"),
    "moving WebP": (several("WEBP"), "3 frames"),
    "TIFF of several pages": (several("TIFF"), "3 frames"),
    "NaN": (encoded("TIFF", Image.fromarray(NAN)), "NaN"),
    "infinity": (encoded("TIFF", Image.fromarray(INF)), "NaN or infinity"),
    "DICOM magic alone": (b"\0" * 128 + b"DICM", "DICOM without pixels"),
    "DICOM magic and noise": (
        b"\0" * 128 + b"DICM" + np.random.default_rng(2).bytes(500),
        "expected",
    ),
}

BAD_DICOM = {
    "no pixels": ({"PixelData": None}, "without pixels"),
    "several frames": ({"NumberOfFrames": 2, "PixelData": GREY.tobytes() * 2}, "2 frames"),
    "too few pixels": ({"PixelData": GREY.tobytes()[:600]}, "expected"),
    "no rows": ({"Rows": 0}, "0 (not decoded)"),
    "too many rows": ({"Rows": 65_000, "Columns": 65_000}, "not decoded"),
    "rows missing": ({"Rows": None}, "expected"),
    "window of no width": ({"WindowCenter": 100, "WindowWidth": 0}, "Window Width"),
    "palette": ({"photometric": "PALETTE COLOR"}, "PALETTE COLOR"),
    "unsupported compression": (
        {"syntax": JPEGLSLossless, "PixelData": encapsulate([b"\xff\xd8\xff\xd9"])},
        "expected",
    ),
    "damaged compression": (
        {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([b"not a jpeg"])},
        "expected",
    ),
    "infinite rescale": ({"RescaleSlope": "1e308", "RescaleIntercept": "1e308"}, "NaN"),
}


def assert_refused(path, found):
    for read in (read_image, probe):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries grumble before they give up
            with pytest.raises(ImageError) as caught:
                read(path)
        message = str(caught.value)
        assert path.name in message
        assert "expected" in message
        assert found in message, message
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


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
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    assert_refused(save(tmp_path / "large.png"), "bytes")


SEEDS = [encoded(name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")]


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damage_never_ends_in_a_foreign_error(tmp_path_factory, data):
    original = data.draw(st.sampled_from([b"", b"\0" * 128 + b"DICM", *SEEDS]))
    damaged = bytearray(original + data.draw(st.binary(max_size=60)))
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8)
    ):
        if position < len(damaged):
            damaged[position] = value
    cut = data.draw(st.integers(0, len(damaged)))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(damaged[:cut] if data.draw(st.booleans()) else damaged)
    for read in (read_image, probe):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(ImageError):
                read(path)


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


def no_decoding(path):
    raise AssertionError(f"{path} was decoded although the cache is good")


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
        patch.setattr(images, "read_image", no_decoding)
        np.testing.assert_array_equal(load_arrays(three, 16, cache), first)
    assert load_arrays(three, 8, cache).shape == (3, 8, 8)
    assert (load_arrays(three[::-1], 8, cache) == load_arrays(three, 8)[::-1]).all()
    assert [file.name for file in cache.parent.iterdir()] == ["16.npz"]


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
    with pytest.warns(UserWarning, match=r"16\.npz: damaged cache .* decoding anew"):
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
