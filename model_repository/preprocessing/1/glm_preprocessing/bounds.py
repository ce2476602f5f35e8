"""Files whose reading takes long for their pixels are refused before Pillow gets them.

The number of pixels bounds neither how often a progressive JPEG goes over them nor what stands
beside them: Pillow reads each chunk, segment and block of metadata in Python.
"""

import re

from glm_preprocessing.errors import InvalidInput

# Some ten in a normal file. Each may go over all pixels: 50 megapixels take up to 0.15 s.
MAX_SCANS = 50
# Chunks, segments and blocks, and bytes that are lost between them: 0.2 s.
MAX_PARTS = 100_000
# Pillow's decoder of run lengths is in Python as well: 0.7 s a MB.
MAX_RUN_LENGTH_BYTES = 4 * 1024**2

_PNG = b"\x89PNG\r\n\x1a\n"

# In a scan FF 00 is a byte of pixels, and a restart changes nothing.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
# Start, end and TEM, and what Pillow takes for such.
_JPEG_ALONE = frozenset({0x01, 0xC8, 0xD8, _END_OF_IMAGE, *range(0xF0, 0xFE)})

_GIF_EXTENSION, _GIF_COMMENT, _GIF_APPLICATION = b"!", b"\xfe", b"\xff"


def check_parts(data: bytes, field: str) -> None:
    """Check an image file's structure; whether it is one, and whole, is for its decoder to say.

    Raises:
        InvalidInput: it has too many scans, or too much beside its pixels.
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
            raise InvalidInput(self._field, f"the file has more than {MAX_PARTS} parts")


def _check_jpeg(data: bytes, field: str) -> None:
    parts, scans, end = _Parts(field), 0, 2
    while marker := _JPEG_MARKER.search(data, end):
        if not scans:  # else those are pixels
            parts.count(marker.start() - end)
        parts.count()
        end = marker.end()
        code = data[end - 1]
        if code == _END_OF_IMAGE and scans:
            return
        if code == _START_OF_SCAN:
            scans += 1
            if scans > MAX_SCANS:
                raise InvalidInput(
                    field, f"the JPEG has more than {MAX_SCANS} scans, which takes too long"
                )
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
        if profiles > 1:  # each may be unpacked to 1 MB
            raise InvalidInput(field, "the PNG has more than one colour profile")
        if kind == b"IEND":
            return
        start += 12 + int.from_bytes(data[start : start + 4], "big")


def _check_gif(data: bytes, field: str) -> None:
    """Up to the first frame, and as Pillow reads it, which is what costs the time."""
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
            field, f"a compressed BMP may have at most {MAX_RUN_LENGTH_BYTES} bytes; send a PNG"
        )
