"""Server-sent events: how they are written, and a response that ends what it reads from."""

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from glm_frontend.errors import APIError, internal
from glm_frontend.logs import LOGGER_NAME

DONE = "data: [DONE]\n\n"

logger = logging.getLogger(LOGGER_NAME)


class EventStream(StreamingResponse):
    """Sends events; an error after the first byte is one more of them. ``[DONE]`` is the last.

    Args:
        source: what ``events`` are made from. It is closed when all is sent, and when the client
            leaves, wherever the sending is at that moment.
    """

    def __init__(
        self, events: AsyncGenerator[BaseModel], source: AsyncGenerator[object], request_id: str
    ) -> None:
        self._source = source
        super().__init__(
            _as_text(events, request_id),
            media_type="text/event-stream",
            # For proxies: pass each event on as it comes.
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)


async def _as_text(events: AsyncGenerator[BaseModel], request_id: str) -> AsyncGenerator[str]:
    try:
        async for event in events:
            yield f"data: {event.model_dump_json(exclude_unset=True)}\n\n"
    except APIError as error:
        yield _error_event(error, request_id)
    except Exception:
        logger.exception("unexpected error in a stream request_id=%s", request_id)
        yield _error_event(internal(), request_id)
    yield DONE


def _error_event(error: APIError, request_id: str) -> str:
    return f"data: {json.dumps(error.body(request_id), ensure_ascii=False)}\n\n"
