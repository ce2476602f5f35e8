"""Image files of every kind that clients send, broken ones included."""

import base64
import time
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.images import decode, file_bytes

MAX_PIXELS = 1_000_000


def _file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


RED = _file(Image.new("RGB", (8, 4), (255, 0, 0)))


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
        (b"data:image/png," + RED, "data URI has to begin with"),
        (b"data:image/png;base64", "data URI has to begin with"),
        (b"data:image/png;base64,%%%%", "base64 text is broken"),
        (base64.b64encode(RED)[:-3], "base64 text is broken"),
    ],
)
def test_what_is_no_image_text_is_refused_with_its_reason(sent: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=rf"^image\[1\]: .*{reason}"):
        file_bytes(sent, "image[1]")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_each_accepted_format(format: str) -> None:
    image = decode(_file(Image.new("RGB", (20, 10), (250, 5, 5)), format), "image[0]", MAX_PIXELS)
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
    image = decode(_file(Image.new(mode, (3, 3), colour)), "image[0]", MAX_PIXELS)
    assert image.mode == "RGB" and image.getpixel((1, 1)) == expected


def test_palette_with_transparency() -> None:
    source = Image.new("P", (4, 4), 1)
    source.putpalette([0, 0, 0, 255, 0, 0])
    assert decode(_file(source), "image[0]", MAX_PIXELS).getpixel((0, 0)) == (255, 0, 0)
    assert decode(_file(source, transparency=1), "image[0]", MAX_PIXELS).getpixel((0, 0)) == (
        255,
        255,
        255,
    )


def test_cmyk_jpeg() -> None:
    image = decode(_file(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG"), "image[0]", MAX_PIXELS)
    assert image.getpixel((4, 4)) == (255, 255, 255)


def test_the_camera_orientation_is_applied() -> None:
    source = Image.new("RGB", (40, 20), "white")
    source.paste((0, 0, 255), (0, 0, 10, 20))  # blue at the left
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: left becomes top
    image = decode(_file(source, "JPEG", exif=exif, quality=95), "image[0]", MAX_PIXELS)
    assert image.size == (20, 40)
    assert np.asarray(image)[:8].mean(axis=(0, 1))[2] > 200
    assert np.asarray(image)[:8].mean(axis=(0, 1))[0] < 60


def test_an_animation_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (5, 5), "red"), Image.new("RGB", (5, 5), "blue")
    file = _file(first, "GIF", save_all=True, append_images=[second])
    assert decode(file, "image[0]", MAX_PIXELS).getpixel((2, 2)) == (255, 0, 0)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    header_only = _file(Image.new("1", (2000, 1000)))[:60]
    with pytest.raises(InvalidInput, match=r"^image\[0\]: 2000 x 1000 pixels are more than"):
        decode(header_only, "image[0]", MAX_PIXELS)


def test_a_decompression_bomb_is_refused() -> None:
    bomb = _file(Image.new("1", (30_000, 30_000)))
    with pytest.raises(InvalidInput, match=r"^image\[0\]: "):
        decode(bomb, "image[0]", MAX_PIXELS)


@pytest.mark.parametrize("sent", [b"this is a text file", b"%PDF-1.7\n", RED[:8], b"\x00" * 100])
def test_what_is_no_image_is_named(sent: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^image\[0\]: not an image that can be read"):
        decode(sent, "image[0]", MAX_PIXELS)


@pytest.mark.parametrize("tail", [b"\n" * 1_000_000 + b"!", b"=" * 1_000_000 + b"!"])
def test_text_made_to_be_slow_is_not(tail: bytes) -> None:
    began = time.monotonic()
    assert file_bytes(b"A" + tail, "image[0]")
    assert time.monotonic() - began < 1


def test_a_truncated_image_is_named() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    with pytest.raises(InvalidInput, match=r"^image\[0\]: the image is damaged"):
        decode(_file(noise)[:4000], "image[0]", MAX_PIXELS)
