"""Optional Bearer keys, from the environment and from a file."""

import hashlib
import hmac
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from glm_frontend.admission.rates import parse_rates
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError

_KEY = re.compile(r"[!-~]+")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


@dataclass(frozen=True, slots=True)
class APIKey:
    """One key.

    Attributes:
        name: of who has it, for the log.
        tenant: whose it is: keys of one tenant share its rate limit, its share of the engine and
            its caches. By default each key is a tenant of its own, with the key's name.
        rate: its own rate limit instead of the general one, as ``60/minute``; None: the general.
    """

    secret: SecretStr
    name: str
    tenant: str
    rate: str | None = None


def tenant_of(key: APIKey | None) -> str:
    """The tenant of a request with this key; empty where no key is asked for."""
    return "" if key is None else key.tenant


def all_keys(from_environment: Sequence[SecretStr], file: Path | None) -> tuple[APIKey, ...]:
    """The keys of both sources; those without a name are called ``key-N`` by their places.

    Raises:
        ValueError: naming the file, the line and what is wrong, not the key.
    """
    keys = [
        APIKey(secret, f"key-{n}", f"key-{n}") for n, secret in enumerate(from_environment, start=1)
    ]
    if file is not None:
        before = len(keys)
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} cannot be read: {error}") from None
        for number, line in enumerate(lines, start=1):
            words = list(itertools.takewhile(lambda word: not word.startswith("#"), line.split()))
            if not words:
                continue
            try:
                keys.append(_parse(words, f"key-{len(keys) + 1}"))
                _check_new(keys[-1], keys[:-1])
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
        if len(keys) == before:  # which would let everybody in
            raise ValueError(f"{file} has no key in it")
    return tuple(keys)


def _parse(words: Sequence[str], name: str) -> APIKey:
    secret, *options = words
    given = dict(option.partition("=")[::2] for option in options)
    if not is_key(secret):
        raise ValueError("a key may only have visible ASCII characters")
    if len(given) < len(options) or not given.keys() <= {"name", "tenant", "rate"}:
        raise ValueError(
            "after the key only name=NAME, tenant=NAME and rate=LIMITS may stand, each once"
        )
    for option in ("name", "tenant"):
        if option in given and not _NAME.fullmatch(given[option]):
            raise ValueError(
                f"{given[option]!r} is not a {option}: up to 64 letters, digits and ._@-"
            )
    name = given.get("name", name)
    parse_rates(given.get("rate", ""))
    return APIKey(SecretStr(secret), name, given.get("tenant", name), given.get("rate"))


def _check_new(key: APIKey, before: Sequence[APIKey]) -> None:
    for other in before:
        if other.secret == key.secret:
            raise ValueError(f"the key is also that of {other.name!r}")
        if other.name == key.name:
            raise ValueError(f"the name {key.name!r} is given twice")


def is_key(text: str) -> bool:
    """Whether a header could carry it."""
    return _KEY.fullmatch(text) is not None


class KeyRing:
    """The accepted keys; without any, everybody is accepted."""

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
    return APIError(ErrorCode.INVALID_API_KEY, message, headers={"www-authenticate": "Bearer"})
