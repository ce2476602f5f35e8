"""Files that stand in the request itself: data URIs and base64, as clients write them."""

import binascii
import re
from urllib.parse import unquote_to_bytes

# Possessive, or a long text without a comma would be tried in a quadratic number of ways.
_DATA_URI = re.compile(r"data:(?P<type>[^,;]*+)(?P<parameters>[^,]*+),", re.IGNORECASE)
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*+):")
_IS_BASE64 = re.compile(r";\s*base64\s*\Z", re.IGNORECASE)
# What of base64 a URL may escape. A general decoder takes seconds for a large file.
_ESCAPED = tuple(
    (escape, chr(int(escape[1:], 16)))
    for code in ("2B", "2D", "2F", "3D", "5F", "0A", "0D", "20")
    for escape in dict.fromkeys((f"%{code}", f"%{code.lower()}"))
)
_URL_SAFE = str.maketrans("-_", "+/")
_LONGEST_PREFIX = 256
# Without base64 a file is three times as long, and decoded slowly.
_MAX_ESCAPED_CHARACTERS = 4 * 1024**2


class NotBase64(ValueError):
    """The text is not base64; the message says why."""


class TooLong(ValueError):
    """The file has more bytes than are allowed."""


def scheme_of(text: str) -> str | None:
    """The scheme of a URL, in lower case; None if the text is no URL."""
    scheme = _SCHEME.match(text)
    return None if scheme is None else scheme["scheme"].lower()


def data_uri_parts(uri: str) -> tuple[str, str, bool] | None:
    """The media type of a data URI, its data, and whether that is base64; None if it has none."""
    head = _DATA_URI.match(uri)
    if head is None:
        return None
    is_base64 = _IS_BASE64.search(head["parameters"]) is not None
    return head["type"].strip().lower(), uri[head.end() :], is_base64


def frames_of(uri: str) -> list[str]:
    """The frames in a data URI of type ``video/jpeg``, as vLLM takes them: each a data URI; none
    of any other."""
    parts = data_uri_parts(uri[:_LONGEST_PREFIX])
    if parts is None or parts[0] != "video/jpeg" or not parts[2]:
        return []
    _, _, data = uri.partition(",")
    return [f"data:image/jpeg;base64,{frame}" for frame in data.split(",")]


def from_base64(text: str, max_bytes: int) -> bytes:
    """The bytes of base64, also with whitespace, of the URL-safe alphabet, or without padding.

    Raises:
        NotBase64: it is none.
        TooLong: it stands for more than ``max_bytes``.
    """
    for escape, character in _ESCAPED if "%" in text else ():
        text = text.replace(escape, character)
    text = "".join(text.split()).translate(_URL_SAFE).rstrip("=")
    if len(text) * 3 // 4 > max_bytes:
        raise TooLong
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:
        raise NotBase64(str(error).removeprefix("Invalid base64-encoded string: ")) from None


def from_escaped(text: str, max_bytes: int) -> bytes:
    """The bytes of a data URI that is not base64; percent signs escape some of them.

    Raises:
        NotBase64: it holds characters that no URI has.
        TooLong: it is too long to be read.
    """
    if len(text) > min(3 * max_bytes, _MAX_ESCAPED_CHARACTERS):
        raise TooLong
    if not text.isascii():
        raise NotBase64("string argument should contain only ASCII characters")
    return unquote_to_bytes(text)
