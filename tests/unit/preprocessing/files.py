"""Image files, and parts of them, for tests."""

import zlib
from io import BytesIO
from typing import Any

from PIL import Image


def image_file(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """What Pillow saves."""
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its length and its checksum."""
    body = kind + data
    return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
