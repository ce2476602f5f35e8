"""Decodes the bytes that a client sent to an RGB image. All input is untrusted."""

import base64
import binascii
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pi_heif
from PIL import ExifTags, Image, UnidentifiedImageError

from glm_preprocessing.bounds import check_parts, check_pixels, pnm_header
from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.patches import check_aspect_ratio

# The last one has no signature: it is tried when no other has recognised the file.
FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "ICO", "TGA",
)  # fmt: skip
# Registers all formats; Image.open(formats=...) fails for one that is not registered yet.
Image.init()
pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
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
# A JPEG may have so many times the allowed pixels: it is decoded at a half, a quarter or an eighth
# of its size. One in several scans may have fewer, since its coefficients are all in memory.
_MOST_REDUCED, _MOST_REDUCED_SCANS = 8, 2
# Decoders of JPEG 2000 hold four bytes for each value.
_JPEG2000_SHARE = 2

# What other files begin with, and what to send instead.
_OTHER_FILES = (
    (
        b"%PDF",
        "this is a PDF; send its pages as pictures, for example those of "
        "`pdftoppm -png -r 150 file.pdf page`",
    ),
    (b"<svg", "this is an SVG; send it as a PNG"),
    (b"<?xml", "this is XML, perhaps an SVG; send it as a PNG"),
    (b"%!PS", "this is PostScript; send it as a PNG"),
    (b"8BPS", "this is a Photoshop file; send it as a PNG"),
    (b"\xff\x0a", "this is JPEG XL; send it as a PNG or JPEG"),
    (b"\0\0\0\x0cJXL ", "this is JPEG XL; send it as a PNG or JPEG"),
    (b"\x1a\x45\xdf\xa3", "this is a video; send it as a video"),
    (b"<", "this is a page of the web, not the picture on it"),
)

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


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: RGB, upright; of a very large file at a fraction of its size.
        size: width and height of the file's picture, upright.
    """

    image: Image.Image
    size: tuple[int, int]


def decode(data: bytes, field: str, max_pixels: int) -> Picture:
    """Decode an image file to RGB, upright: its first frame, or its first page.

    Transparent pixels are composited over white, as transformers' image processors do
    (``image_transforms.convert_to_rgb``).

    Args:
        max_pixels: that are decoded. A JPEG, or a JPEG 2000, with more of them is decoded at a
            fraction of its size.

    Raises:
        InvalidInput: not an image of an accepted format, damaged, more than ``max_pixels`` pixels,
            too narrow, or too expensive to decode.
    """
    scans = check_parts(data, field, max_pixels)
    try:
        image: Image.Image = _deep_pnm(data, max_pixels) or Image.open(
            BytesIO(data), formats=FORMATS
        )
        size = width, height = image.size
        # Pillow allocates memory per row, so a narrow image needs more than its pixels suggest.
        check_aspect_ratio(width, height, field)
        scale = _reduce(image, max_pixels, scans)
        check_pixels(width, height, max_pixels, field, scale)
        image.load()
        if image.format == "PNG":
            _rescale_transparency(image, bit_depth=data[24])
        upright = _upright(image)
        if scale == 1:
            size = upright.size
        elif upright.size != image.size:
            size = height, width
        del image  # large images fill memory
        return Picture(_to_rgb(upright), size)
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        reason = f"not a readable image (supported: {', '.join(FORMATS)})"
        raise InvalidInput(field, f"{reason}{_other_file(data)}") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise InvalidInput(field, f"the image is damaged ({error})") from None


def _deep_pnm(data: bytes, max_pixels: int) -> Image.Image | None:
    """A binary PNM of a depth that Pillow would decode in Python; None for any other file."""
    header = pnm_header(data)
    if header is None or header["kind"] not in (b"5", b"6") or header["highest"] in (b"255", None):
        return None
    width, height, highest = (int(header[name]) for name in ("width", "height", "highest"))
    bands = 3 if header["kind"] == b"6" else 1
    if not 0 < highest < 65536 or width * height > max_pixels:
        return None
    depth = np.dtype(np.uint8 if highest < 256 else ">u2")
    values: npt.NDArray[Any] = np.frombuffer(data, depth, width * height * bands, header.end() + 1)
    levels = (values * (255 / highest)).clip(max=255).astype(np.uint8)
    shape = (height, width, 3) if bands == 3 else (height, width)
    return Image.fromarray(levels.reshape(shape))


def _reduce(image: Image.Image, max_pixels: int, scans: int) -> int:
    """Have the decoder scale down a picture of more pixels than are allowed, if it can.

    Returns:
        How much smaller each side will be: 1, 2, 4 and so on.
    """
    pixels, scale = image.width * image.height, 1
    if image.format in ("JPEG", "MPO"):
        most = _MOST_REDUCED_SCANS if scans > 1 else _MOST_REDUCED
        while max_pixels * scale**2 < pixels <= max_pixels * most and scale < 8:
            scale *= 2
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
    elif image.format == "JPEG2000":
        while max_pixels * scale**2 < pixels * _JPEG2000_SHARE and scale < 32:
            scale *= 2
        if scale > 1:
            image.reduce = scale.bit_length() - 1  # type: ignore[method-assign,assignment]
    return scale


def _other_file(data: bytes) -> str:
    """A hint for a file that is recognised though it is not a picture."""
    begin = data[:64].lstrip().removeprefix(b"\xef\xbb\xbf")
    for magic, hint in _OTHER_FILES:
        if begin[: len(magic)].lower() == magic.lower():
            return f": {hint}"
    return ": this is a video; send it as a video" if data[4:8] == b"ftyp" else ""


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
    scale = _grey_scale(image)
    rgb = Image.new("RGB", image.size)
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        rgb.paste(_strip_to_rgb(strip, scale), (0, top))
    return rgb


def _grey_scale(image: Image.Image) -> float:
    """What the values of a picture of one deep channel are multiplied by, for white to be 255."""
    if image.mode.startswith("I;16"):
        return 1 / 256
    if image.mode not in ("I", "F"):
        return 1
    extrema: Any = image.getextrema()
    lowest, highest = extrema
    if image.mode == "F" and lowest >= 0 and highest <= 1:
        return 255
    # Values of 8 bits, of 16 as in a PNM, or of all 31.
    return 1 if highest < 256 else 1 / 256 if highest < 65536 else 1 / 2**23


def _strip_to_rgb(strip: Image.Image, scale: float) -> Image.Image:
    if strip.mode in ("I", "F") or strip.mode.startswith("I;16"):
        # Pillow's own conversions clip everything above 255 to white.
        grey = np.asarray(strip)
        transparent = grey == strip.info.get("transparency", -1)
        levels = np.clip(grey * scale, 0, 255)
        strip = Image.fromarray(np.where(transparent, 255, levels).astype(np.uint8))
    elif strip.has_transparency_data:
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        strip = Image.alpha_composite(white, strip)
    return strip.convert("RGB")
