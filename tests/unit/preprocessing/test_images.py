"""Image files of every kind that clients send, broken ones included."""

import base64
import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.images import decode, file_bytes
from unit.preprocessing.files import image_file, png_chunk

MAX_PIXELS = 2_000_000
Pixels = npt.NDArray[np.uint8]


def _decoded(file: bytes) -> Pixels:
    image = decode(file, "image[0]", MAX_PIXELS).image
    assert image.mode == "RGB"
    return np.asarray(image)


def _noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _png(depth: int, colour_type: int, pixels: bytes, width: int, transparent: bytes) -> bytes:
    """A PNG of one row, with a tRNS chunk."""
    head = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"tRNS", transparent)]
    chunks += [(b"IDAT", zlib.compress(b"\0" + pixels)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


RED = image_file(Image.new("RGB", (8, 4), (255, 0, 0)))


@pytest.mark.parametrize(
    "sent",
    [
        RED,
        base64.b64encode(RED),
        base64.encodebytes(RED),
        b"data:image/png;base64," + base64.b64encode(RED),
        b"DATA:image/png;BASE64," + base64.encodebytes(RED),
    ],
)
def test_bytes_base64_and_data_uri_are_the_same_image(sent: bytes) -> None:
    assert file_bytes(sent, "image[0]") == RED


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "empty"),
        (b"data:image/png;base64,", "empty"),
        (b"data:image/png," + RED, "data URI must have the form"),
        (b"data:image/png;base64", "data URI must have the form"),
        (b"data:image/png;base64,%%%%", "invalid base64"),
        (base64.b64encode(RED)[:-3], "invalid base64"),
    ],
)
def test_invalid_data_uri_or_base64_is_rejected(sent: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^image\[1\]: .*{reason}"):
        file_bytes(sent, "image[1]")


@pytest.mark.parametrize(
    "format",
    ["PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA"],
)
def test_each_accepted_format(format: str) -> None:
    options = {"sizes": [(20, 10)]} if format == "ICO" else {}
    file = image_file(Image.new("RGB", (20, 10), (250, 5, 5)), format, **options)
    image = decode(file, "image[0]", MAX_PIXELS).image
    assert (image.mode, image.size) == ("RGB", (20, 10))
    red, green, blue = image.getpixel((10, 5))  # type: ignore[misc]
    assert red > 240 and green < 20 and blue < 20


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (100, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 255, 0, 127), (255, 255, 128)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("I;16", 0x8040, (0x80, 0x80, 0x80)),
    ],
)
def test_each_mode_becomes_rgb_over_white(mode: str, colour: Any, expected: Any) -> None:
    image = decode(image_file(Image.new(mode, (3, 3), colour)), "image[0]", MAX_PIXELS).image
    assert image.mode == "RGB" and image.getpixel((1, 1)) == expected


def test_grey_and_one_bit_pixels_are_kept() -> None:
    grey = _noise(9, 7)
    expected = np.stack([grey] * 3, axis=-1)
    assert np.array_equal(_decoded(image_file(Image.fromarray(grey))), expected)
    black_and_white = np.where(grey > 99, np.uint8(255), np.uint8(0))
    bits = image_file(Image.fromarray(black_and_white).convert("1"))
    assert np.array_equal(_decoded(bits), np.stack([black_and_white] * 3, axis=-1))


def test_sixteen_bits_keep_their_upper_eight() -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (9, 7)).astype(np.uint16)
    expected = np.stack([(grey >> 8).astype(np.uint8)] * 3, axis=-1)
    assert np.array_equal(_decoded(image_file(Image.fromarray(grey))), expected)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_laid_over_white(format: str) -> None:
    # More rows than are converted at a time.
    pixels = np.tile(_noise(20, 1000, 4), (60, 1, 1))[:, :990]
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    decoded = _decoded(image_file(Image.fromarray(pixels), format, **options))
    assert decoded.shape == (1200, 990, 3)
    assert np.abs(decoded - expected).max() <= 1


def test_grey_with_alpha_is_laid_over_white() -> None:
    pixels = _noise(9, 7, 2)
    grey, alpha = pixels[..., :1].astype(float), pixels[..., 1:] / 255
    expected = (grey * alpha + 255 * (1 - alpha)).repeat(3, axis=-1)
    assert np.abs(_decoded(image_file(Image.fromarray(pixels))) - expected).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_palette_with_and_without_a_transparent_colour(format: str) -> None:
    indices, palette = _noise(9, 7) % 4, _noise(4, 3)
    source = Image.fromarray(indices).convert("L")
    source = Image.frombytes("P", source.size, source.tobytes())
    source.putpalette(palette.tobytes())
    assert np.array_equal(_decoded(image_file(source, format)), palette[indices])
    palette[2] = 255
    file = image_file(source, format, transparency=2)
    assert np.array_equal(_decoded(file), palette[indices])


def test_a_palette_with_half_transparent_colours() -> None:
    source = Image.frombytes("P", (2, 1), b"\0\1")
    source.putpalette([10, 20, 30, 255, 0, 0])
    file = image_file(source, transparency=b"\xff\x80")
    assert _decoded(file).tolist() == [[[10, 20, 30], [255, 127, 127]]]


@pytest.mark.parametrize(
    ("depth", "colour_type", "pixels", "width", "transparent", "expected"),
    [
        (1, 0, b"\x60", 4, b"\0\0", [255, 255, 255, 255]),
        (2, 0, b"\x63", 4, b"\0\1", [255, 170, 0, 255]),
        (4, 0, b"\x1f", 2, b"\0\1", [255, 255]),
        (8, 0, b"\x10\x20", 2, b"\0\x10", [255, 32]),
        (16, 0, b"\x12\x34\x12\xff", 2, b"\x12\x34", [255, 0x12]),
        (8, 2, b"\1\1\1\2\2\2", 2, b"\0\1" * 3, [255, 2]),
        (16, 2, b"\1\7" * 3 + b"\2\7" * 3, 2, b"\1\7" * 3, [255, 2]),
    ],
)
def test_a_transparent_colour_of_each_bit_depth(
    depth: int,
    colour_type: int,
    pixels: bytes,
    width: int,
    transparent: bytes,
    expected: list[int],
) -> None:
    decoded = _decoded(_png(depth, colour_type, pixels, width, transparent))
    assert decoded.tolist() == [[[value] * 3 for value in expected]]


def test_cmyk_jpeg() -> None:
    smooth = np.kron(_noise(6, 4, 4), np.ones((16, 16, 1), np.uint8))
    decoded = _decoded(image_file(Image.fromarray(smooth, "CMYK"), "JPEG", quality=100))
    ink = smooth.astype(float)
    expected = (255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255
    assert np.abs(decoded - expected).max() <= 6


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 1}])
def test_jpegs_pixels_come_out_of_each_kind_of_file(options: dict[str, Any]) -> None:
    source = Image.fromarray(np.kron(_noise(8, 8, 3), np.ones((8, 8, 1), np.uint8)))
    baseline = _decoded(image_file(source, "JPEG"))
    assert np.array_equal(_decoded(image_file(source, "JPEG", **options)), baseline)
    assert np.abs(baseline.mean(axis=(0, 1)) - np.asarray(source).mean(axis=(0, 1))).max() < 2


def test_an_interlaced_png() -> None:
    # Written by hand: Pillow writes none. 3 x 3 grey pixels 0 to 8, pass by pass.
    rows = b"\0\0" + b"\0\2" + b"\0\6\x08" + b"\0\1" + b"\0\7" + b"\0\3\4\5"
    head = struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 1)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    file = b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)
    assert _decoded(file)[..., 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_lossless_webp() -> None:
    pixels = _noise(9, 7, 3)
    file = image_file(Image.fromarray(pixels), "WEBP", lossless=True)
    assert np.array_equal(_decoded(file), pixels)


ORIENTATIONS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
    9: lambda pixels: pixels,  # not one of the eight
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_cameras_orientation_is_applied(format: str, orientation: int) -> None:
    source, exif = Image.fromarray(_noise(20, 40, 3)), Image.Exif()
    exif[0x0112] = orientation
    expected = ORIENTATIONS[orientation](_decoded(image_file(source, format)))
    assert np.array_equal(_decoded(image_file(source, format, exif=exif)), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("exif", [b"nonsense", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_does_not_matter(format: str, exif: bytes) -> None:
    source = Image.fromarray(_noise(20, 40, 3))
    file = image_file(source, format, exif=b"Exif\0\0" + exif)
    assert np.array_equal(_decoded(file), _decoded(image_file(source, format)))


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("GIF", {}),
        ("PNG", {}),
        ("PNG", {"default_image": True}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_an_animation_gives_its_first_frame(format: str, options: dict[str, Any]) -> None:
    first, second, third = (Image.new("RGB", (5, 5), c) for c in ("red", "blue", "lime"))
    animated = {"save_all": True, "append_images": [second, third]}
    file = image_file(first, format, **animated, **options)
    assert Image.open(BytesIO(file)).n_frames >= 2  # type: ignore[attr-defined]
    assert (_decoded(file) == (255, 0, 0)).all()


@pytest.mark.parametrize("format", ["PCX", "PDF", "EPS", "SGI"])
def test_other_formats_are_refused_by_their_content(format: str) -> None:
    file = image_file(Image.new("RGB", (16, 16)), format)
    with pytest.raises(InvalidInput, match=r"^image\[0\]: not a readable image"):
        decode(file_bytes(file, "image[0]"), "image[0]", MAX_PIXELS)


@pytest.mark.parametrize(
    ("file", "hint"),
    [
        (image_file(Image.new("RGB", (16, 16)), "PDF"), "pdftoppm -png -r 150"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"\n<!DOCTYPE html><html>", "a page of the web"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "send it as a video"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
    ],
)
def test_what_is_no_picture_is_told_what_to_send_instead(file: bytes, hint: str) -> None:
    with pytest.raises(InvalidInput, match=rf"not a readable image .*{hint}"):
        decode(file, "image[0]", MAX_PIXELS)


def test_the_declared_type_does_not_matter() -> None:
    sent = b"data:image/jpeg;base64," + base64.b64encode(RED)
    assert (_decoded(file_bytes(sent, "image[0]")) == (255, 0, 0)).all()


def test_too_many_pixels_are_refused_before_decoding() -> None:
    header_only = image_file(Image.new("1", (3000, 1000)))[:60]
    with pytest.raises(InvalidInput, match=r"^image\[0\]: 3000 x 1000 pixels exceed"):
        decode(header_only, "image[0]", MAX_PIXELS)


def test_a_decompression_bomb_is_refused() -> None:
    bomb = image_file(Image.new("1", (30_000, 30_000)))
    with pytest.raises(InvalidInput, match=r"^image\[0\]: "):
        decode(bomb, "image[0]", MAX_PIXELS)


@pytest.mark.parametrize("sent", [b"this is a text file", b"%PDF-1.7\n", RED[:8], b"\x00" * 100])
def test_undecodable_bytes_are_rejected(sent: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^image\[0\]: not a readable image"):
        decode(sent, "image[0]", MAX_PIXELS)


@pytest.mark.parametrize("tail", [b"\n" * 1_000_000 + b"!", b"=" * 1_000_000 + b"!"])
def test_base64_detection_is_linear(tail: bytes) -> None:
    began = time.process_time()  # not of a machine that has others to serve
    assert file_bytes(b"A" + tail, "image[0]")
    assert time.process_time() - began < 1


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
    ],
)
def test_a_truncated_image_is_named(format: str, options: dict[str, Any], share: float) -> None:
    file = image_file(Image.fromarray(_noise(64, 64, 3)), format, **options)
    with pytest.raises(InvalidInput, match=r"^image\[0\]: the image is damaged"):
        decode(file[: int(share * len(file))], "image[0]", MAX_PIXELS)
