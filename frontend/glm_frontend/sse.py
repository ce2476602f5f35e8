"""Server-sent events: how they are written, and a response that ends what it reads from."""

import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from glm_frontend.errors import APIError, internal
from glm_frontend.logs import LOGGER_NAME
from glm_frontend.schemas.common import NamedEvent

DONE = "data: [DONE]\n\n"

logger = logging.getLogger(LOGGER_NAME)


class _TextStream(StreamingResponse):
    """Sends text, and closes ``source`` when all is sent or the client has left."""

    def __init__(self, text: AsyncGenerator[str], source: AsyncGenerator[object]) -> None:
        self._source = source
        super().__init__(
            text,
            media_type="text/event-stream",
            # For proxies: pass each event on as it comes.
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)


class EventStream(_TextStream):
    """Sends events; an error after the first byte is one more of them. ``[DONE]`` is the last.

    Args:
        source: what ``events`` are made from. It is closed when all is sent, and when the client
            leaves, wherever the sending is at that moment.
    """

    def __init__(
        self, events: AsyncGenerator[BaseModel], source: AsyncGenerator[object], request_id: str
    ) -> None:
        super().__init__(_as_text(events, request_id), source)


class NamedEventStream(_TextStream):
    """The same with events that have names; the last of them is the end, without ``[DONE]``.

    Args:
        failed: the events that tell of an error after the first byte.
    """

    def __init__(
        self,
        events: AsyncGenerator[NamedEvent],
        source: AsyncGenerator[object],
        request_id: str,
        failed: Callable[[APIError], Iterable[NamedEvent]],
    ) -> None:
        super().__init__(_as_named_text(events, request_id, failed), source)


async def _as_text(events: AsyncGenerator[BaseModel], request_id: str) -> AsyncGenerator[str]:
    try:
        async for event in events:
            yield _data(event)
    except Exception as error:
        body = _to_tell(error, request_id).body(request_id)
        yield f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
    yield DONE


async def _as_named_text(
    events: AsyncGenerator[NamedEvent],
    request_id: str,
    failed: Callable[[APIError], Iterable[NamedEvent]],
) -> AsyncGenerator[str]:
    try:
        async for event in events:
            yield f"event: {event.type}\n{_data(event)}"
    except Exception as error:
        for event in failed(_to_tell(error, request_id)):
            yield f"event: {event.type}\n{_data(event)}"


def _data(event: BaseModel) -> str:
    return f"data: {event.model_dump_json(exclude_unset=True)}\n\n"


def _to_tell(error: Exception, request_id: str) -> APIError:
    """The error as a client may know it."""
    if isinstance(error, APIError):
        return error
    logger.error("unexpected error in a stream request_id=%s", request_id, exc_info=error)
    return internal()
