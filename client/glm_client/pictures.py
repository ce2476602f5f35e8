"""Pictures for a conversation: read from files or the web, and found in a line of text."""

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
# How the files begin that the server reads.
_KINDS = {
    b"\xff\xd8\xff": "jpeg",
    b"\x89PNG": "png",
    b"RIFF": "webp",
    b"GIF8": "gif",
    b"BM": "bmp",
}
# As terminals write a path that is dropped into them: in quotes, or with backslashes.
_WORD = re.compile(r"'(?P<single>[^']*)'|\"(?P<double>[^\"]*)\"|(?P<plain>(?:\\.|[^\s'\"\\])+)")


class PictureError(Exception):
    """A picture cannot be had; the message names it."""


def read_picture(source: str) -> str:
    """A picture as a data URI.

    Args:
        source: a path, a ``file://`` URL, or an http(s) URL, which is fetched from here.

    Raises:
        PictureError: it cannot be read, is no picture, or is larger than ``MAX_BYTES``.
    """
    try:
        data = _fetch(source) if source.startswith(("http://", "https://")) else _read(source)
    except (OSError, HTTPException, ValueError) as error:
        # URLError keeps the reason in an exception of its own, others in `strerror`.
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise PictureError(f"{source}: {reason}") from None
    if len(data) > MAX_BYTES:
        raise PictureError(f"{source}: is larger than {MAX_BYTES // 2**20} MiB")
    kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
    if kind is None:
        raise PictureError(f"{source}: is no picture (JPEG, PNG, WebP, GIF, BMP)")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def find_pictures(line: str) -> tuple[str, list[str], list[str]]:
    """Picture files whose paths stand in a line, as when they are dropped into a terminal.

    Returns:
        The line without them, the paths of those that exist, and what looks like the name of a
        picture but is none, which stays in the line.
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
    except (OSError, RuntimeError, ValueError):  # no name that a file could have, no such home
        return False


def _read(source: str) -> bytes:
    path = _path(source)
    if path.exists() and not path.is_file():
        raise PictureError(f"{source}: is no file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _fetch(url: str) -> bytes:
    # Only http(s) comes here, and urllib follows redirects to nothing else but FTP.
    with urllib.request.urlopen(url, timeout=FETCH_TIMEOUT) as response:  # nosec B310
        data: bytes = response.read(MAX_BYTES + 1)
        return data


def _path(source: str) -> Path:
    if source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    return Path(source).expanduser()
