"""From the bytes that a client sent to an RGB image. Everything that comes in here is untrusted."""

import base64
import binascii
import re
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glm_preprocessing.errors import InvalidInput

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Registers every format; Image.open(formats=...) fails on one that is not registered yet.
Image.init()
# The limit is ours, per call of decode().
Image.MAX_IMAGE_PIXELS = None

# Possessive, or text made for it would be tried in a quadratic number of ways.
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]++=*+\s*+")


def file_bytes(data: bytes, field: str, kind: str = "image") -> bytes:
    """The bytes of an image file, from those bytes themselves, their base64 text or a data URI.

    Args:
        kind: of the file, ``image`` or ``video``, for errors.

    Raises:
        InvalidInput: ``data`` is empty, or a data URI that is not base64 or whose base64 is broken.
    """
    if not data:
        raise InvalidInput(field, f"the {kind} is empty")
    if data[:5].lower() == b"data:":
        header, comma, body = data.partition(b",")
        if not comma or not header.lower().endswith(b";base64"):
            raise InvalidInput(
                field,
                f"a data URI has to begin with data:{kind}/<type>;base64, and then the base64 text",
            )
        return _decode_base64(body, field)
    # A file never consists of base64's letters alone: each format has other bytes near its start.
    if _BASE64.fullmatch(data):
        return _decode_base64(data, field)
    return data


def _decode_base64(text: bytes, field: str) -> bytes:
    compact = b"".join(text.split())
    try:
        decoded = base64.b64decode(compact, validate=True)
    except binascii.Error as error:
        raise InvalidInput(field, f"the base64 text is broken ({error})") from None
    if not decoded:
        raise InvalidInput(field, "the base64 text is empty")
    return decoded


def decode(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Decode an image file to RGB, upright, its first frame.

    Transparent pixels are laid over white, as transformers' image processors do
    (``image_transforms.convert_to_rgb``).

    Raises:
        InvalidInput: not an image of an accepted format, damaged, or more than ``max_pixels``
            pixels.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise InvalidInput(
                field, f"{width} x {height} pixels are more than the limit of {max_pixels} pixels"
            )
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(field, f"not an image that can be read ({', '.join(FORMATS)})") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInput(field, f"the image is damaged ({error})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    elif image.mode.startswith("I;16"):
        # Pillow's own conversion of 16-bit grey clips everything above 255 to white.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
