"""Pictures for a conversation: reads them from files or URLs, and finds paths in a line."""

import base64
import re
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

MAX_BYTES = 32 * 1024 * 1024
FETCH_TIMEOUT = 10.0

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
# Magic bytes of the formats that the server supports.
_KINDS = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
}
# Terminals insert dropped paths in quotes or with backslashes.
_WORD = re.compile(r"'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<plain>(?:\\.|[^\s'\"\\])+)")


class PictureError(Exception):
    """A picture cannot be read; the message names it."""


def read_picture(source: str) -> str:
    """A picture as a data URI.

    Args:
        source: a path, a ``file://`` URL, or an http(s) URL, which is fetched from here.

    Raises:
        PictureError: it cannot be read, is not a picture, or is larger than ``MAX_BYTES``.
    """
    try:
        data = _fetch(source) if source.startswith(("http://", "https://")) else _read(source)
    except (OSError, HTTPException, ValueError) as error:
        # URLError has `reason`, others have `strerror`.
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise PictureError(f"{source}: {reason}") from None
    if len(data) > MAX_BYTES:
        raise PictureError(f"{source}: larger than {MAX_BYTES // 2**20} MiB")
    kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
    if kind is None:
        raise PictureError(f"{source}: not a picture (JPEG, PNG, WebP, GIF, BMP)")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def find_pictures(line: str) -> tuple[str, list[str], list[str]]:
    """Find paths of picture files in a line, such as those dropped into a terminal.

    Returns:
        The line without them, the paths of existing files, and names that look like pictures but
        do not exist, which stay in the line.
    """
    found: list[str] = []
    missing: list[str] = []

    def take(match: re.Match[str]) -> str:
        plain = match["plain"]
        word = re.sub(r"\\(.)", r"\1", plain) if plain else match["single"] or match["double"] or ""
        if not word.lower().endswith(_SUFFIXES) or word.startswith(("http://", "https://")):
            return match[0]
        if not is_file(word):
            missing.append(word)
            return match[0]
        found.append(word)
        return ""

    rest = _WORD.sub(take, line)
    return (re.sub(r" {2,}", " ", rest).strip() if found else line.strip()), found, missing


def is_file(source: str) -> bool:
    """Whether there is such a file."""
    try:
        return _path(source).is_file()
    except (OSError, RuntimeError, ValueError):  # an invalid name, or no such home directory
        return False


def _read(source: str) -> bytes:
    path = _path(source)
    if path.exists() and not path.is_file():
        raise PictureError(f"{source}: not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _fetch(url: str) -> bytes:
    # Called for http(s) only, and urllib follows redirects to http(s) and FTP only.
    with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT) as response:  # nosec B310
        data: bytes = response.read(MAX_BYTES + 1)
        return data


def _path(source: str) -> Path:
    if source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    return Path(source).expanduser()
