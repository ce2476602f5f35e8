"""Optional Bearer keys."""

import hashlib
import hmac
from collections.abc import Sequence
from http import HTTPStatus

from pydantic import SecretStr

from glm_frontend.errors import APIError


class KeyRing:
    """The keys that are let in; with none, everybody is."""

    def __init__(self, keys: Sequence[SecretStr]) -> None:
        # Digests have one length, so that a comparison tells nothing about that of a key.
        self._digests = [_digest(key.get_secret_value()) for key in keys]

    def check(self, key: str | None) -> None:
        """Let ``key`` in, or not.

        Raises:
            APIError: 401.
        """
        if not self._digests:
            return
        if key is None:
            raise _refused("An API key is missing: send the header Authorization: Bearer <key>.")
        digest = _digest(key)
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if not any(matches):
            raise _refused("The API key is not known here.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _refused(message: str) -> APIError:
    return APIError(
        HTTPStatus.UNAUTHORIZED,
        message,
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )
