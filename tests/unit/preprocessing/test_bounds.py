"""Image files that are made to take long are refused, and before anything is decoded."""

import re
import struct
import time
import zlib

import pytest
from PIL import Image

from glm_preprocessing.bounds import MAX_PARTS, MAX_PROFILES, MAX_RUN_LENGTH_BYTES, MAX_SCANS
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.images import decode
from unit.preprocessing.files import image_file, png_chunk

MAX_PIXELS = 50_000_000
SMALL = Image.new("RGB", (64, 64), "red")


def _accepted(file: bytes) -> None:
    assert decode(file, "image[0]", MAX_PIXELS).size == (64, 64)


def _refused(file: bytes, reason: str) -> None:
    began = time.process_time()  # not of a machine that has others to serve
    with pytest.raises(InvalidInput, match=rf"^image\[0\]: .*{reason}"):
        decode(file, "image[0]", MAX_PIXELS)
    assert time.process_time() - began < 1


def _with_scans(image: Image.Image, number: int) -> bytes:
    """A progressive JPEG that goes over its pixels so often, by repeating its last scan."""
    jpeg = image_file(image, "JPEG", progressive=True)
    scans = [match.start() for match in re.finditer(rb"\xff\xda", jpeg)]
    last = jpeg[scans[-1] : -2]
    return jpeg[:-2] + last * (number - len(scans)) + jpeg[-2:]


def test_the_scans_of_a_jpeg_are_counted() -> None:
    _accepted(_with_scans(SMALL, MAX_SCANS))
    _refused(_with_scans(SMALL, MAX_SCANS + 1), rf"too many scans .*maximum {MAX_SCANS}")


def test_a_large_jpeg_of_thousands_of_scans_is_refused_at_once() -> None:
    large = _with_scans(Image.new("L", (7000, 7000)), 5000)
    assert len(large) < 1_000_000
    _refused(large, "scans")


def test_scans_of_thumbnail_and_after_the_end_are_not_counted() -> None:
    jpeg, other = image_file(SMALL, "JPEG"), _with_scans(SMALL, MAX_SCANS + 9)
    segment = b"\xff\xe1" + (len(other) + 2).to_bytes(2, "big") + other
    _accepted(jpeg[:2] + segment + jpeg[2:])
    _accepted(jpeg + other)


@pytest.mark.parametrize(
    "part",
    [
        b"\xff\xfe\0\2",  # a comment
        b"\xff\xe5\0\2",  # an application's segment
        b"\xff\xf0",  # these have no length
        b"\xff\xd0",
        b"\xff\xd9",
        b"\xff\x01",
        b"\xff",  # padding
        b"\0",  # between segments
    ],
)
def test_the_segments_of_a_jpeg_are_counted(part: bytes) -> None:
    jpeg = image_file(SMALL, "JPEG")
    _refused(jpeg[:2] + part * (MAX_PARTS + 1) + jpeg[2:], f"more than {MAX_PARTS} chunks")
    _refused(jpeg[:2] + part * (MAX_PARTS + 1), f"more than {MAX_PARTS} chunks")


def test_jpeg_with_much_metadata_is_accepted() -> None:
    jpeg = image_file(SMALL, "JPEG")
    segments = b"\xff\xe2\xff\xff" + bytes(65533)
    _accepted(jpeg[:2] + segments * 100 + b"\xff" * 1000 + jpeg[2:])


def _png_with(chunks: bytes) -> bytes:
    png = image_file(SMALL, "PNG")
    return png[:33] + chunks + png[33:]


@pytest.mark.parametrize("kind", [b"prVt", b"IDAT"])
def test_the_chunks_of_a_png_are_counted(kind: bytes) -> None:
    _refused(_png_with(png_chunk(kind, b"") * MAX_PARTS), f"more than {MAX_PARTS} chunks")
    _accepted(_png_with(png_chunk(b"prVt", b"") * 1000))


def test_png_chunks_after_the_pixels_are_counted() -> None:
    png, many = image_file(SMALL, "PNG"), png_chunk(b"prVt", b"") * MAX_PARTS
    _refused(png[:-12] + many + png[-12:], f"more than {MAX_PARTS} chunks")
    _accepted(png + many)


def test_the_colour_profiles_of_a_png_are_counted() -> None:
    profile = png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(1_000_000)))
    for number in (1, 2, MAX_PROFILES):
        _accepted(_png_with(profile * number))
    _refused(_png_with(profile * (MAX_PROFILES + 1)), f"more than {MAX_PROFILES} colour profiles")


def test_text_that_unpacks_to_much_is_refused() -> None:
    text = zlib.compress(bytes(1_000_000))
    many = b"".join(png_chunk(b"zTXt", b"key%d\0\0" % i + text) for i in range(70))
    _refused(_png_with(many), "the image is damaged")


@pytest.mark.parametrize(
    "extension",
    [
        b"!\xfe" + b"\1a" * MAX_PARTS + b"\0",  # a comment
        b"!\x01\1a\0" * MAX_PARTS,
        b"!\xfe\0" * MAX_PARTS,
        b"!\xff\x0bNETSCAPE2.0\0" + b"\1a" * MAX_PARTS + b"\0",
        b"x" * (MAX_PARTS + 1),
    ],
)
def test_the_blocks_before_a_gifs_pixels_are_counted(extension: bytes) -> None:
    gif = image_file(SMALL, "GIF")
    start = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    _refused(gif[:start] + extension + gif[start:], f"more than {MAX_PARTS} chunks")
    _accepted(gif[:start] + b"!\xfe" + b"\1a" * 1000 + b"\0" + gif[start:])


def test_gif_frame_larger_than_its_screen_is_rejected() -> None:
    gif = bytearray(image_file(Image.new("P", (64, 64)), "GIF"))
    gif[6:10] = struct.pack("<HH", 30_000, 30_000)
    _refused(bytes(gif), "30000 x 30000 pixels")
    gif[6:10] = struct.pack("<HH", 64, 64)
    start = gif.index(b",", 13 + 3 * 2 ** ((gif[10] & 7) + 1))
    gif[start + 1 : start + 5] = struct.pack("<HH", 30_000, 30_000)
    _refused(bytes(gif), "30064 x 30064 pixels")


def test_the_canvas_of_a_webp_is_checked_before_its_frames() -> None:
    webp = image_file(SMALL, "WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    canvas = (15_999).to_bytes(3, "little")
    _refused(webp[:24] + canvas + canvas + webp[30:], "16000 x 16000 pixels")


def _run_length_bmp(run: bytes, runs: int) -> bytes:
    pixels = run * runs
    header = struct.pack("<IiiHHIIiiII", 40, 64, 64, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    palette = b"\0\1\2\0" * 256
    start = 14 + len(header) + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start)
    return head + header + palette + pixels


def test_a_run_length_bmp_is_decoded_if_small() -> None:
    _accepted(_run_length_bmp(b"\x40\1\0\0", 64))
    _refused(
        _run_length_bmp(b"\1\2", MAX_RUN_LENGTH_BYTES // 2), "a compressed BMP must not exceed"
    )


@pytest.mark.parametrize("size", [(9999, 1), (1, 9999)])
def test_a_narrow_image_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    _refused(image_file(Image.new("1", size), "PNG")[:60], "at most 200 times")
