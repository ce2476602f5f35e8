"""Optional Bearer keys, from the environment and from a file."""

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from pydantic import SecretStr

from glm_frontend.errors import APIError

_KEY = re.compile(r"[!-~]+")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True, slots=True)
class APIKey:
    """One key.

    Attributes:
        name: of who has it: for the log, the rate limit and the fair share.
        rate: its own rate limit instead of the general one, as ``60/minute``; None: the general.
    """

    secret: SecretStr
    name: str
    rate: str | None = None


def read_keys(file: Path, first_number: int = 1) -> list[APIKey]:
    """The keys of a file: one a line, ``KEY [name=NAME] [rate=LIMITS]``; ``#`` begins a comment.

    Args:
        first_number: of the name ``key-N`` of a key without one.

    Raises:
        ValueError: naming file, line and reason, not the key.
    """
    keys: list[APIKey] = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        secret, *options = words
        given = dict(option.partition("=")[::2] for option in options)
        name = given.get("name", f"key-{first_number + len(keys)}")
        reason = None
        if not is_key(secret):
            reason = "a key may only have visible ASCII characters"
        elif len(given) < len(options) or not given.keys() <= {"name", "rate"}:
            reason = "after the key only name=NAME and rate=LIMITS may stand, each once"
        elif not _NAME.fullmatch(name):
            reason = f"{name!r} is not a name: up to 64 letters, digits and ._@-"
        elif name in {key.name for key in keys}:
            reason = f"the name {name!r} is given twice"
        if reason is not None:
            raise ValueError(f"{file}, line {number}: {reason}")
        keys.append(APIKey(SecretStr(secret), name, given.get("rate")))
    return keys


def is_key(text: str) -> bool:
    """Whether a header could carry it."""
    return _KEY.fullmatch(text) is not None


class KeyRing:
    """The keys that are let in; with none, everybody is."""

    def __init__(self, keys: Sequence[APIKey]) -> None:
        # Digests have one length, so that a comparison tells nothing about that of a key.
        self._keys = [(_digest(key.secret.get_secret_value()), key) for key in keys]

    def check(self, key: str | None) -> APIKey | None:
        """Let ``key`` in, or not. Returns whose it is; None where no key is asked for.

        Raises:
            APIError: 401.
        """
        if not self._keys:
            return None
        if key is None:
            raise _refused("An API key is missing: send the header Authorization: Bearer <key>.")
        digest = _digest(key)
        # All are compared, wherever the match is.
        matches = [known for own, known in self._keys if hmac.compare_digest(digest, own)]
        if not matches:
            raise _refused("The API key is not known here.")
        return matches[0]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _refused(message: str) -> APIError:
    return APIError(
        HTTPStatus.UNAUTHORIZED,
        message,
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )
