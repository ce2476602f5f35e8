"""Decodes the bytes that a client sent to an RGB image. All input is untrusted."""

import base64
import binascii
import re
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from glm_preprocessing.bounds import check_parts
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.patches import check_aspect_ratio

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Registers all formats; Image.open(formats=...) fails for one that is not registered yet.
Image.init()
# decode() enforces its own limit.
Image.MAX_IMAGE_PIXELS = None

# The transposition that undoes each EXIF orientation; 1 is upright.
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRIP_PIXELS = 1 << 20

# Possessive quantifiers: crafted text would otherwise cause quadratic backtracking.
_BASE64 = re.compile(rb"[A-Za-z0-9+/\r\n]++=*+\s*+")


def file_bytes(data: bytes, field: str, kind: str = "image") -> bytes:
    """The bytes of an image file, given as raw bytes, base64 text or a data URI.

    Args:
        kind: ``image`` or ``video``, used in error messages.

    Raises:
        InvalidInput: ``data`` is empty, or a data URI that is not base64, or the base64 is invalid.
    """
    if not data:
        raise InvalidInput(field, f"the {kind} is empty", code=f"empty_{kind}")
    if data[:5].lower() == b"data:":
        header, comma, body = data.partition(b",")
        if not comma or not header.lower().endswith(b";base64"):
            raise InvalidInput(
                field,
                f"a data URI must have the form data:{kind}/<type>;base64,<base64 text>",
                code="invalid_base64",
            )
        return _decode_base64(body, field)
    # A file never consists of base64 characters alone: each format has other bytes near its start.
    if _BASE64.fullmatch(data):
        return _decode_base64(data, field)
    return data


def _decode_base64(text: bytes, field: str) -> bytes:
    compact = b"".join(text.split())
    try:
        decoded = base64.b64decode(compact, validate=True)
    except binascii.Error as error:
        raise InvalidInput(field, f"invalid base64 ({error})", code="invalid_base64") from None
    if not decoded:
        raise InvalidInput(field, "the base64 data is empty", code="invalid_base64")
    return decoded


def decode(data: bytes, field: str, max_pixels: int) -> Image.Image:
    """Decode an image file to RGB, upright, its first frame.

    Transparent pixels are composited over white, as transformers' image processors do
    (``image_transforms.convert_to_rgb``).

    Raises:
        InvalidInput: not an image of an accepted format, damaged, more than ``max_pixels`` pixels,
            too narrow, or too expensive to decode.
    """
    check_parts(data, field)
    try:
        image: Image.Image = Image.open(BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > max_pixels:
            raise InvalidInput(
                field, f"{width} x {height} pixels exceed the limit of {max_pixels} pixels"
            )
        # Pillow allocates memory per row, so a narrow image needs more than its pixels suggest.
        check_aspect_ratio(width, height, field)
        image.load()
        if image.format == "PNG":
            _rescale_transparency(image, bit_depth=data[24])
        image = _upright(image)  # drops the original: large images fill memory
        return _to_rgb(image)
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(
            field, f"not a readable image (supported: {', '.join(FORMATS)})"
        ) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInput(field, f"the image is damaged ({error})") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF: show the image as it is, as viewers do
        return image
    return image if turn is None else image.transpose(turn)


def _rescale_transparency(image: Image.Image, bit_depth: int) -> None:
    """Convert a PNG's transparent colour from the file's bit depth to that of the pixels."""
    colour = image.info.get("transparency")
    if image.mode == "L" and colour is not None:
        highest = 2**bit_depth - 1
        image.info["transparency"] = (colour & highest) * 255 // highest
    elif image.mode == "RGB" and colour is not None and bit_depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Composite the image over white, in strips to avoid a third copy of all pixels in memory."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rgb = Image.new("RGB", image.size)
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        rgb.paste(_strip_to_rgb(strip), (0, top))
    return rgb


def _strip_to_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode.startswith("I;16"):
        # Pillow's own conversion of 16-bit grey clips everything above 255 to white.
        grey = np.asarray(strip)
        transparent = grey == strip.info.get("transparency", -1)
        strip = Image.fromarray(np.where(transparent, 255, grey >> 8).astype(np.uint8))
    elif strip.has_transparency_data:
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        strip = Image.alpha_composite(white, strip)
    return strip.convert("RGB")
