"""Pictures as phones, scanners and editors write them, against what transformers reads."""

import re
import struct
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps
from transformers.image_transforms import convert_to_rgb

from glm_preprocessing.bounds import MAX_PARTS, MAX_RUN_LENGTH_BYTES
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.images import decode
from unit.preprocessing.files import image_file
from unit.preprocessing.test_images import ORIENTATIONS

MAX_PIXELS = 2_000_000
FILES = Path(__file__).parent / "pictures"
Pixels = npt.NDArray[np.uint8]


def _decoded(file: bytes) -> Pixels:
    return np.asarray(decode(file, "image[0]", MAX_PIXELS).image)


def _of_transformers(file: bytes) -> Pixels:
    upright = ImageOps.exif_transpose(Image.open(BytesIO(file)))
    pixels: Any = convert_to_rgb(upright, return_numpy=True)
    return np.asarray(pixels)


def _smooth(mode: str, size: tuple[int, int] = (40, 24)) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    rows = np.random.default_rng(0).integers(0, 256, (3, 5, bands)).astype(np.uint8)
    pixels = np.kron(rows, np.ones((8, 8, 1), np.uint8))
    return Image.fromarray(pixels.squeeze(), mode).resize(size)


def _palette() -> Image.Image:
    return _smooth("RGB").quantize(17)


def _refused(file: bytes, reason: str) -> None:
    began = time.process_time()  # not of a machine that has others to serve
    with pytest.raises(InvalidInput, match=rf"^image\[0\]: .*{reason}"):
        decode(file, "image[0]", MAX_PIXELS)
    assert time.process_time() - began < 2


TIFF_COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"]
SAVED: list[tuple[str, str, dict[str, Any]]] = [
    *[("TIFF", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")],
    *[("TIFF", "RGB", {"compression": name}) for name in TIFF_COMPRESSIONS],
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "RGB", {"big_tiff": True}),
    *[("AVIF", mode, {"quality": 100}) for mode in ("L", "RGB", "RGBA")],
    *[("JPEG2000", mode, {}) for mode in ("L", "LA", "RGB", "RGBA")],
    ("JPEG2000", "RGB", {"no_jp2": True}),
    ("JPEG2000", "RGB", {"tile_size": (16, 16)}),
    *[("PPM", mode, {}) for mode in ("1", "L", "RGB")],
    *[("TGA", mode, {}) for mode in ("L", "LA", "P", "RGB", "RGBA")],
    ("TGA", "RGB", {"compression": "tga_rle"}),
    ("ICO", "RGBA", {"sizes": [(40, 24), (16, 16)]}),
    ("ICO", "RGBA", {"sizes": [(40, 24)], "bitmap_format": "bmp"}),
    ("WEBP", "RGBA", {}),
    ("JPEG", "CMYK", {}),
    ("MPO", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
    ("PNG", "P", {"transparency": 3}),
]


@pytest.mark.parametrize(
    ("format", "mode", "options"), SAVED, ids=[f"{f}-{m}-{'-'.join(o)}" for f, m, o in SAVED]
)
def test_pixels_are_those_that_transformers_reads(
    format: str, mode: str, options: dict[str, Any]
) -> None:
    source = _palette() if mode == "P" else _smooth("L" if mode == "1" else mode).convert(mode)
    file = image_file(source, format, **options)
    assert np.array_equal(_decoded(file), _of_transformers(file))


@pytest.mark.parametrize("format", ["TIFF", "AVIF", "MPO"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_cameras_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    source = _smooth("RGB")
    expected = ORIENTATIONS[orientation](_decoded(image_file(source, format)))
    picture = decode(image_file(source, format, exif=exif), "image[0]", MAX_PIXELS)
    assert np.array_equal(np.asarray(picture.image), expected)
    assert picture.size == picture.image.size


QUARTERS = np.array([[(220, 30, 30), (30, 200, 60)], [(30, 60, 220), (250, 240, 40)]])


def _quarters(pixels: Pixels) -> npt.NDArray[np.int64]:
    """The colours in the middle of each quarter."""
    height, width, _ = pixels.shape
    rows, columns = [height // 4, 3 * height // 4], [width // 4, 3 * width // 4]
    return pixels[np.ix_(rows, columns)].astype(np.int64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_is_upright(orientation: int) -> None:
    picture = decode((FILES / f"turned-{orientation}.heic").read_bytes(), "image[0]", MAX_PIXELS)
    assert picture.size == picture.image.size == ((64, 48) if orientation < 5 else (48, 64))
    expected = ORIENTATIONS[orientation](QUARTERS)
    assert np.abs(_quarters(np.asarray(picture.image)) - expected).max() < 6


def test_a_heic_of_ten_bits_and_the_first_of_a_burst() -> None:
    for name in ("deep.heic", "burst.heic"):
        assert np.abs(_quarters(_decoded((FILES / name).read_bytes())) - QUARTERS).max() < 6


def test_a_heics_transparency_is_laid_over_white() -> None:
    pixels = _decoded((FILES / "alpha.heic").read_bytes())
    assert (pixels[:, 0] > 230).all()
    assert np.abs(pixels[4, -2].astype(int) - QUARTERS[0, 1]).max() < 12


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_heic_is_refused(share: float) -> None:
    file = (FILES / "turned-1.heic").read_bytes()
    _refused(file[: int(share * len(file))], "the image is damaged|not a readable image")


@pytest.mark.parametrize("format", ["TIFF", "AVIF"])
def test_the_first_of_several_pages_or_frames(format: str) -> None:
    more = [Image.new("RGB", (40, 24), colour) for colour in ("blue", "lime")]
    options = {"save_all": True, "append_images": more}
    file = image_file(Image.new("RGB", (40, 24), "red"), format, **options)
    assert np.abs(_decoded(file).astype(int) - (255, 0, 0)).max() < 4


def _with_next_page(file: bytes, place: int) -> bytes:
    """A TIFF with its second page there."""
    (start,) = struct.unpack("<I", file[4:8])
    end = start + 2 + 12 * struct.unpack("<H", file[start : start + 2])[0]
    return file[:end] + struct.pack("<I", place) + file[end + 4 :]


@pytest.mark.parametrize("num_pages", [10_000, 2_000_000])
def test_a_tiff_of_many_pages_is_not_walked_through(num_pages: int) -> None:
    file = image_file(Image.new("L", (8, 8), 77), "TIFF")
    size = len(file)
    pages = [struct.pack("<HI", 0, size + 6 * (i + 1)) for i in range(num_pages - 1)]
    file = _with_next_page(file + b"".join(pages) + bytes(6), size)
    began = time.process_time()
    assert (_decoded(file) == 77).all()
    assert time.process_time() - began < 1


def _tiff(tag: int, kind: int, count: int, num_tags: int = 1, big: bool = False) -> bytes:
    """A TIFF with one tag, its first page at the beginning."""
    if big:
        head = b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, num_tags)
        return head + struct.pack("<HHQQ", tag, kind, count, 16)
    return b"II" + struct.pack("<HIH", 42, 8, num_tags) + struct.pack("<HHII", tag, kind, count, 8)


@pytest.mark.parametrize("big", [False, True])
def test_a_tiff_of_millions_of_strips_is_refused(big: bool) -> None:
    _refused(_tiff(273, 4, 4_000_000, big=big) + bytes(16_000_000), f"more than {MAX_PARTS} chunks")


def test_a_big_tiff_of_millions_of_tags_is_refused() -> None:
    _refused(_tiff(700, 1, 1, 2**60, big=True) + bytes(16_000_000), f"more than {MAX_PARTS} chunks")


def test_a_tiff_of_a_loop_of_pages() -> None:
    file = image_file(Image.new("L", (8, 8), 77), "TIFF")
    assert (_decoded(_with_next_page(file, 8)) == 77).all()


def test_a_tiff_that_unpacks_to_more_than_is_allowed_is_refused() -> None:
    bomb = image_file(Image.new("1", (20_000, 20_000)), "TIFF", compression="tiff_adobe_deflate")
    assert len(bomb) < 200_000
    _refused(bomb, "20000 x 20000 pixels exceed")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 255, 80]], np.int32), [0, 255, 80]),
        (np.array([[0, 65535, 0x8040]], np.int32), [0, 255, 0x80]),
        (np.array([[0, 2**31 - 1, 2**30]], np.int32), [0, 255, 128]),
        (np.array([[0, 1, 0.5]], np.float32), [0, 255, 127]),
        (np.array([[0, 255, 80.5]], np.float32), [0, 255, 80]),
        (np.array([[-5, 300, 80]], np.float32), [0, 1, 0]),
        (np.array([[0, 65535, 0x8040]], np.uint16), [0, 255, 0x80]),
        (np.array([[0, 65535, 0x8040]], ">u2"), [0, 255, 0x80]),
    ],
    ids=["8", "16", "31", "unit", "bytes", "wide", "little", "big"],
)
def test_deep_grey_is_scaled_to_eight_bits(values: Any, expected: list[int]) -> None:
    file = image_file(Image.fromarray(values), "TIFF")
    assert _decoded(file)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("name", ["grey", "colour"])
@pytest.mark.parametrize("highest", [1, 7, 100, 255, 1000, 65535])
def test_a_pnm_of_each_depth(name: str, highest: int) -> None:
    shape = (5, 7, 3) if name == "colour" else (5, 7)
    values = np.random.default_rng(0).integers(0, highest + 1, shape)
    header = b"P%d # made by hand\n7\t5\n# and\n%d\n" % (6 if name == "colour" else 5, highest)
    file = header + values.astype(np.uint8 if highest < 256 else ">u2").tobytes()
    decoded = _decoded(file)
    expected = values * 255 / highest
    assert np.abs(decoded - (expected if name == "colour" else expected[..., None])).max() <= 1
    text = header.replace(b"P6", b"P3").replace(b"P5", b"P2")
    text += b" ".join(b"%d" % value for value in values.ravel())
    assert np.abs(_decoded(text).astype(int) - decoded).max() <= 1


def test_a_pnm_that_takes_long_to_read_is_refused() -> None:
    _refused(b"P5 #" + b"x" * 15_000_000 + b"\n8 8 255\n" + bytes(64), "header of the PNM")
    _refused(b"P2 1000 1000 255\n" + b"0 " * (MAX_RUN_LENGTH_BYTES // 2), "a PNM in text")
    _refused(b"P6 30000 30000 65535\n" + bytes(1000), "30000 x 30000 pixels exceed")
    _refused(b"P6 1000 1000 65535\n" + bytes(1000), "damaged")


@pytest.mark.parametrize("kind", ["png", "bmp"])
def test_an_icon_that_hides_a_larger_picture_is_refused(kind: str) -> None:
    file = bytearray(
        image_file(Image.new("RGBA", (16, 16)), "ICO", sizes=[(16, 16)], bitmap_format=kind)
    )
    start = struct.unpack("<I", file[18:22])[0]
    if kind == "png":
        file[start + 16 : start + 24] = struct.pack(">II", 30_000, 30_000)
    else:
        file[start + 4 : start + 12] = struct.pack("<ii", 30_000, 30_000)
    _refused(bytes(file), "30000 x 30000 pixels exceed")


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000", "TGA", "PPM", "HEIF"])
def test_too_many_pixels_are_refused_before_decoding(format: str) -> None:
    if format == "HEIF":
        file = (FILES / "turned-1.heic").read_bytes()
        sizes = re.compile(b"ispe\0\0\0\0.{8}", re.DOTALL)
        file = sizes.sub(b"ispe\0\0\0\0" + struct.pack(">II", 30_000, 30_000), file)
        _refused(file, "30000 x 30000 pixels exceed")
        return
    size = (4000, 3000) if format == "AVIF" else (30_000, 1500)
    options: dict[str, Any] = {"speed": 10} if format == "AVIF" else {}
    if format == "JPEG2000":  # without levels at which it could be read smaller
        options = {"num_resolutions": 1}
        size = (3000, 1000)
    _refused(image_file(Image.new("L", size), format, **options), "pixels exceed|damaged")


def _large(progressive: bool = False, **options: Any) -> bytes:
    """320,000 pixels."""
    source = _smooth("RGB", (800, 400))
    return image_file(source, "JPEG", quality=95, progressive=progressive, **options)


@pytest.mark.parametrize(
    ("max_pixels", "expected"),
    [
        (320_000, (800, 400)),
        (319_999, (400, 200)),
        (80_000, (400, 200)),
        (79_999, (200, 100)),
        (40_000, (200, 100)),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(
    max_pixels: int, expected: tuple[int, int]
) -> None:
    picture = decode(_large(), "image[0]", max_pixels)
    assert (picture.image.size, picture.size) == (expected, (800, 400))
    whole = decode(_large(), "image[0]", 320_000).image.resize((100, 50), Image.Resampling.BICUBIC)
    same = picture.image.resize((100, 50), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(whole, int) - np.asarray(same, int)).mean() < 2


def test_a_large_jpeg_has_limits() -> None:
    with pytest.raises(InvalidInput, match="800 x 400 pixels exceed the limit of 39999"):
        decode(_large(), "image[0]", 39_999)
    # In several scans: all coefficients are in memory.
    assert decode(_large(progressive=True), "image[0]", 160_000).image.size == (400, 200)
    with pytest.raises(InvalidInput, match="800 x 400 pixels exceed the limit of 159999"):
        decode(_large(progressive=True), "image[0]", 159_999)


def test_a_large_jpeg_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = decode(_large(exif=exif), "image[0]", 100_000)
    assert (picture.image.size, picture.size) == ((200, 400), (400, 800))


def test_a_large_jpeg_2000_is_decoded_at_a_fraction_of_its_size() -> None:
    file = image_file(_smooth("RGB", (800, 400)), "JPEG2000")
    picture = decode(file, "image[0]", 100_000)
    assert (picture.image.size, picture.size) == ((200, 100), (800, 400))
    with pytest.raises(InvalidInput, match=r"pixels exceed|damaged"):
        decode(file, "image[0]", 100)


@pytest.mark.parametrize("format", ["TIFF", "AVIF", "JPEG2000", "PPM", "TGA"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_image_is_named(format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    file = image_file(Image.fromarray(noise), format)
    with pytest.raises(InvalidInput, match=r"^image\[0\]: (the image is damaged|not a readable)"):
        decode(file[: int(share * len(file))], "image[0]", MAX_PIXELS)


def test_formats_of_programs_and_networks_are_never_opened() -> None:
    """Pillow would run Ghostscript for an EPS, and read the other files that an FPX names."""
    for format in ("EPS", "FPX", "WMF", "MIC", "FITS", "GBR"):
        with pytest.raises((InvalidInput, KeyError, OSError)) as error:
            decode(image_file(Image.new("RGB", (8, 8)), format), "image[0]", MAX_PIXELS)
        if isinstance(error.value, InvalidInput):
            assert re.search("not a readable image", str(error.value))
