"""Rejects image files that are expensive to decode relative to their pixel count.

Runs before Pillow opens the file. A limit on pixels bounds neither the number of scans of a
progressive JPEG nor the amount of metadata: Pillow reads each chunk, segment and block in Python.
"""

import re

from glm_preprocessing.errors import InvalidInput

# A normal file has about ten. Each may cover all pixels: 0.15 s for 50 megapixels.
MAX_SCANS = 50
# Chunks, segments and blocks, and stray bytes between them: 0.2 s.
MAX_PARTS = 100_000
# Pillow's run-length decoder is in Python as well: 0.7 s per MB.
MAX_RUN_LENGTH_BYTES = 4 * 1024**2

_PNG = b"\x89PNG\r\n\x1a\n"

# Within a scan, FF 00 is an escaped data byte, and restart markers can be ignored.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Markers without a segment: start, end, TEM, and those that Pillow treats alike.
_JPEG_ALONE = frozenset({0x01, 0xC8, 0xD8, _END_OF_IMAGE, *range(0xF0, 0xFE)})

_GIF_EXTENSION, _GIF_COMMENT, _GIF_APPLICATION = b"!", b"\xfe", b"\xff"


def check_parts(data: bytes, field: str) -> None:
    """Check the structure of an image file; the decoder checks whether it is valid and complete.

    Raises:
        InvalidInput: it has too many scans, or too much metadata.
    """
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data, field)
    elif data.startswith(_PNG):
        _check_png(data, field)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        _check_gif(data, field)
    elif data.startswith(b"BM"):
        _check_bmp(data, field)


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


def _check_jpeg(data: bytes, field: str) -> None:
    parts, scans, end = _Parts(field), 0, 2
    while marker := _JPEG_MARKER.search(data, end):
        if not scans:  # within scans these are pixel data
            parts.count(marker.start() - end)
        parts.count()
        end = marker.end()
        code = data[end - 1]
        if code == _END_OF_IMAGE and scans:
            return
        if code == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise InvalidInput(field, f"too many scans in the JPEG (maximum {MAX_SCANS})")
        if code not in _JPEG_ALONE:
            end += int.from_bytes(data[end : end + 2], "big")
    if not scans:
        parts.count(len(data) - end)


def _check_png(data: bytes, field: str) -> None:
    parts, profiles, start = _Parts(field), 0, len(_PNG)
    while start < len(data):
        parts.count()
        kind = data[start + 4 : start + 8]
        profiles += kind == b"iCCP"
        if profiles > 1:  # each may decompress to 1 MB
            raise InvalidInput(field, "the PNG has more than one colour profile")
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
