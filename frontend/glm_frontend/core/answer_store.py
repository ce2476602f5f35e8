"""Where answers are kept to be given again: in this process's memory, or in Redis for several."""

import logging
import time
from typing import Any, Protocol

from cachetools import TTLCache

# A store that does not answer must cost less than what it saves.
_REDIS_TIMEOUT = 0.25
_REDIS_PAUSE = 5.0
_REDIS_PREFIX = b"glm:answer:"

logger = logging.getLogger(__name__)


class AnswerStore(Protocol):
    """Bytes by key, each for a limited time."""

    async def get(self, key: bytes) -> bytes | None:
        """What is kept under ``key``."""
        ...

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep ``value``, if there is room for it."""
        ...

    async def aclose(self) -> None:
        """Give the connection up."""
        ...


class MemoryStore:
    """Keeps the most recently used.

    Args:
        max_bytes: of all values; one of more than an eighth of it is not kept.
        seconds: after which a value is forgotten.
    """

    def __init__(self, max_bytes: int, seconds: float) -> None:
        self._max_value = max_bytes // 8
        self._values: TTLCache[bytes, bytes] = TTLCache(
            max_bytes, seconds, timer=time.monotonic, getsizeof=len
        )

    async def get(self, key: bytes) -> bytes | None:
        """See :class:`AnswerStore`."""
        return self._values.get(key)

    async def put(self, key: bytes, value: bytes) -> None:
        """See :class:`AnswerStore`."""
        if len(value) <= self._max_value:
            self._values[key] = value

    async def aclose(self) -> None:
        """See :class:`AnswerStore`."""
        self._values.clear()


class RedisStore:
    """Redis, Valkey or what else speaks its protocol; its own ``maxmemory`` bounds the bytes.

    While it fails, nothing is found and nothing is kept.

    Args:
        url: as ``redis://:password@host:6379/0``.
    """

    def __init__(self, url: str, max_value: int, seconds: float) -> None:
        # Here, because it brings more modules than the rest of the frontend needs.
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        self._redis = Redis.from_url(
            url, socket_timeout=_REDIS_TIMEOUT, socket_connect_timeout=_REDIS_TIMEOUT
        )
        self._errors = (RedisError, OSError, TimeoutError)
        self._max_value = max_value
        self._milliseconds = int(1000 * seconds)
        self._fails_until = float("-inf")

    async def get(self, key: bytes) -> bytes | None:
        """See :class:`AnswerStore`."""
        if time.monotonic() < self._fails_until:
            return None
        try:
            value: Any = await self._redis.get(_REDIS_PREFIX + key)
        except self._errors as error:
            self._note(error)
            return None
        return None if value is None else bytes(value)

    async def put(self, key: bytes, value: bytes) -> None:
        """See :class:`AnswerStore`."""
        if len(value) > self._max_value or time.monotonic() < self._fails_until:
            return
        try:
            await self._redis.set(_REDIS_PREFIX + key, value, px=self._milliseconds)
        except self._errors as error:
            self._note(error)

    async def aclose(self) -> None:
        """See :class:`AnswerStore`."""
        await self._redis.aclose()

    def _note(self, error: Exception) -> None:
        self._fails_until = time.monotonic() + _REDIS_PAUSE
        # The error's text may have the address, never the password.
        logger.warning(
            "the response cache in Redis failed, and is left out for %(seconds)g s: %(error)s",
            {"seconds": _REDIS_PAUSE, "error": error},
        )


def create_store(where: str, max_bytes: int, seconds: float) -> AnswerStore | None:
    """The store that a setting names; None for ``off``.

    Args:
        where: ``off``, ``memory`` or the URL of a Redis.
        max_bytes: of all answers in memory; one in Redis may have an eighth of it.
    """
    if where == "off":
        return None
    if where == "memory":
        return MemoryStore(max_bytes, seconds)
    return RedisStore(where, max_bytes // 8, seconds)
