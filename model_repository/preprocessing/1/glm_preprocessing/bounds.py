"""Rejects image files that are expensive to decode relative to their pixel count.

Runs before Pillow opens the file. A limit on pixels bounds neither the number of scans of a
progressive JPEG nor the amount of metadata: Pillow reads each chunk, segment and block in Python.
"""

import re
import struct
from typing import Literal

from glm_preprocessing.errors import InvalidInput

# A normal file has about ten. Each may cover all pixels: 0.15 s for 50 megapixels.
MAX_SCANS = 50
# Chunks, segments and blocks, and stray bytes between them: 0.2 s.
MAX_PARTS = 100_000
# Each may decompress to 1 MB. Two are common: editors add theirs.
MAX_PROFILES = 8
# Pillow's run-length decoder is in Python as well: 0.7 s per MB. So is that of a PNM in text.
MAX_RUN_LENGTH_BYTES = 4 * 1024**2

_PNG = b"\x89PNG\r\n\x1a\n"

# Within a scan, FF 00 is an escaped data byte, and restart markers can be ignored.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Markers without a segment: start, end, TEM, and those that Pillow treats alike.
_JPEG_ALONE = frozenset({0x01, 0xC8, 0xD8, _END_OF_IMAGE, *range(0xF0, 0xFE)})

# Bytes, text and undefined: what Pillow keeps as it is.
_TIFF_BYTES = frozenset({1, 2, 6, 7})

# The box with the width and height of an item.
_HEIF_SIZE = re.compile(rb"ispe\0\0\0\0(.{8})", re.DOTALL)

# Pillow reads the header byte by byte, its comments included.
_MAX_PNM_HEADER = 64 * 1024
_PNM = re.compile(rb"P[1-6f][ \t\n\v\f\r]")
_GAP = rb"(?:[ \t\n\v\f\r]|#[^\r\n]*+[\r\n])++"
_PNM_HEADER = re.compile(
    rb"P(?P<kind>[1-6f])%b(?P<width>\d+)%b(?P<height>\d+)(?:%b(?P<highest>[-.\deE]+))?"
    % (_GAP, _GAP, _GAP)
)

_GIF_EXTENSION, _GIF_COMMENT, _GIF_APPLICATION = b"!", b"\xfe", b"\xff"


def check_parts(data: bytes, field: str, max_pixels: int) -> int:
    """Check the structure of an image file; the decoder checks whether it is valid and complete.

    Returns:
        The number of scans of a JPEG; 0 for others.

    Raises:
        InvalidInput: it has too many scans, too much metadata, or a picture inside of more than
            ``max_pixels`` pixels.
    """
    if data.startswith(b"\xff\xd8"):
        return _check_jpeg(data, field)
    if data.startswith(_PNG):
        _check_png(data, field)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(data, field)
    elif data.startswith(b"BM"):
        _check_bmp(data, field)
    elif data.startswith((b"II", b"MM")):
        _check_tiff(data, field)
    elif data.startswith(b"\0\0\1\0"):
        _check_ico(data, field, max_pixels)
    elif data[4:8] == b"ftyp":
        _check_heif(data, field, max_pixels)
    elif _PNM.match(data):
        _check_pnm(data, field)
    return 0


class _Parts:
    """Counts the parts of a file."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._left = MAX_PARTS

    def count(self, number: int = 1) -> None:
        self._left -= number
        if self._left < 0:
            raise InvalidInput(
                self._field, f"the file has more than {MAX_PARTS} chunks or segments"
            )


def _check_jpeg(data: bytes, field: str) -> int:
    parts, scans, end = _Parts(field), 0, 2
    while marker := _JPEG_MARKER.search(data, end):
        if not scans:  # within scans these are pixel data
            parts.count(marker.start() - end)
        parts.count()
        end = marker.end()
        code = data[end - 1]
        if code == _END_OF_IMAGE and scans:
            return scans
        if code == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise InvalidInput(field, f"too many scans in the JPEG (maximum {MAX_SCANS})")
        if code not in _JPEG_ALONE:
            end += int.from_bytes(data[end : end + 2], "big")
    if not scans:
        parts.count(len(data) - end)
    return scans


def _check_png(data: bytes, field: str) -> None:
    parts, profiles, start = _Parts(field), 0, len(_PNG)
    while start < len(data):
        parts.count()
        kind = data[start + 4 : start + 8]
        profiles += kind == b"iCCP"
        if profiles > MAX_PROFILES:
            raise InvalidInput(field, f"the PNG has more than {MAX_PROFILES} colour profiles")
        if kind == b"IEND":
            return
        start += 12 + int.from_bytes(data[start : start + 4], "big")


def _check_gif(data: bytes, field: str) -> None:
    """Check up to the first frame, parsing as Pillow does, since that is what takes time."""
    parts, position = _Parts(field), 13
    if data[10:11] >= b"\x80":
        position += 3 << ((data[10] & 7) + 1)

    def block() -> bytes:
        nonlocal position
        parts.count()
        start = position + 1
        position = start + int.from_bytes(data[position:start])
        return data[start:position]

    while (kind := data[position : position + 1]) not in (b"", b",", b";"):
        parts.count()
        position += 1
        if kind != _GIF_EXTENSION:
            continue
        label = data[position : position + 1]
        position += 1
        first = block()
        if label == _GIF_COMMENT and not first:
            continue
        if label == _GIF_APPLICATION and first.startswith(b"NETSCAPE2.0"):
            block()
        while block():
            pass


def _check_bmp(data: bytes, field: str) -> None:
    header = int.from_bytes(data[14:18], "little")
    compression = int.from_bytes(data[30:34], "little") if header >= 40 else 0
    if compression in (1, 2) and len(data) > MAX_RUN_LENGTH_BYTES:
        raise InvalidInput(
            field,
            f"a compressed BMP must not exceed {MAX_RUN_LENGTH_BYTES} bytes; send a PNG instead",
        )


def _check_tiff(data: bytes, field: str) -> None:
    """Check the tags of the first page: Pillow reads the places of its strips one by one."""
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"

    def number(start: int, size: int) -> int:
        return int.from_bytes(data[start : start + size], order)

    # In a BigTIFF all of them are longer: the place of the tags, their number, a tag, its count.
    is_big = number(2, 2) == 43
    first, tags, tag, count = (8, 8, 20, 8) if is_big else (4, 2, 12, 4)
    start = number(first, first)
    num_tags = min(number(start, tags), len(data))
    parts = _Parts(field)
    parts.count(num_tags)
    for place in range(start + tags, start + tags + num_tags * tag, tag):
        if number(place + 2, 2) not in _TIFF_BYTES:
            parts.count(min(number(place + 4, count), len(data)))


def _check_ico(data: bytes, field: str, max_pixels: int) -> None:
    """Check the pictures inside: each has a header of its own, which the icon's may contradict."""
    for entry in range(6, min(6 + 16 * int.from_bytes(data[4:6], "little"), len(data)), 16):
        start = int.from_bytes(data[entry + 12 : entry + 16], "little")
        if data[start : start + 8] == _PNG:
            _check_png(data[start:], field)
            form, sides = ">ii", data[start + 16 : start + 24]
        else:
            form, sides = "<ii", data[start + 4 : start + 12]
        width, height = struct.unpack(form, sides.ljust(8, b"\0"))
        check_pixels(abs(width), abs(height), max_pixels, field)


def _check_heif(data: bytes, field: str, max_pixels: int) -> None:
    """Check the sizes of all that is coded, of which a clean aperture may show a small part."""
    for size in _HEIF_SIZE.finditer(data):
        width, height = struct.unpack(">II", size[1])
        check_pixels(width, height, max_pixels, field)


def check_pixels(width: int, height: int, max_pixels: int, field: str, scale: int = 1) -> None:
    """Raises InvalidInput if a picture of which each side is divided by ``scale`` is too large."""
    if width * height > max_pixels * scale**2:
        raise InvalidInput(
            field, f"{width} x {height} pixels exceed the limit of {max_pixels} pixels"
        )


def _check_pnm(data: bytes, field: str) -> None:
    header = pnm_header(data)
    if header is None:
        raise InvalidInput(field, "the header of the PNM is damaged, or too long")
    if header["kind"] in b"123" and len(data) > MAX_RUN_LENGTH_BYTES:
        raise InvalidInput(
            field,
            f"a PNM in text must not exceed {MAX_RUN_LENGTH_BYTES} bytes; send a PNG instead",
        )


def pnm_header(data: bytes) -> re.Match[bytes] | None:
    """The header of a PNM: its ``kind``, ``width``, ``height`` and ``highest`` value."""
    return _PNM_HEADER.match(data, 0, _MAX_PNM_HEADER)
