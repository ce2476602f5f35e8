"""Server-sent events: how they are written, and a response that ends what it reads from."""

import json
import logging
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing

from pydantic import BaseModel
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from glm_frontend.core.caller import Caller
from glm_frontend.errors import APIError, internal
from glm_frontend.http.bodies import NamedEvent
from glm_frontend.observability.logs import LOGGER_NAME

logger = logging.getLogger(LOGGER_NAME)


class EventStream(StreamingResponse):
    """Sends events as OpenAI does: an error after the first byte is one more, ``[DONE]`` the last.

    A subclass may write them in another way.

    Args:
        source: what ``events`` are made from. It is closed when all is sent, and when the client
            leaves, wherever the sending is at that moment.
    """

    def __init__(
        self, events: AsyncGenerator[BaseModel], source: AsyncGenerator[object], caller: Caller
    ) -> None:
        self._source = source
        super().__init__(
            self._as_text(events, caller),
            media_type="text/event-stream",
            # For proxies: pass each event on as it comes.
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._source):
            await super().__call__(scope, receive, send)

    def _event(self, event: BaseModel) -> str:
        return f"data: {event.model_dump_json(exclude_unset=True)}\n\n"

    def _error(self, error: APIError, request_id: str) -> str:
        return f"data: {json.dumps(error.openai_body(request_id), ensure_ascii=False)}\n\n"

    def _end(self) -> str:
        return "data: [DONE]\n\n"

    async def _as_text(
        self, events: AsyncGenerator[BaseModel], caller: Caller
    ) -> AsyncGenerator[str]:
        try:
            async for event in events:
                yield self._event(event)
        except Exception as failure:
            error = failure if isinstance(failure, APIError) else internal()
            if error is not failure:
                logger.exception(
                    "unexpected error in a stream request_id=%(request_id)s",
                    {"request_id": caller.request_id},
                )
            caller.record.error_code, caller.record.failed_in_stream = error.code, True
            yield self._error(error, caller.request_id)
        yield self._end()


class NamedEventStream(EventStream):
    """Sends events with their ``type`` as their name, and nothing after the last."""

    def _event(self, event: BaseModel) -> str:
        assert isinstance(event, NamedEvent)
        return f"event: {event.type}\n{super()._event(event)}"

    def _end(self) -> str:
        return ""


class MessageStream(NamedEventStream):
    """Sends events as Anthropic's Messages API does."""

    def _error(self, error: APIError, request_id: str) -> str:
        body = json.dumps(error.anthropic_body(request_id), ensure_ascii=False)
        return f"event: error\ndata: {body}\n\n"


class ResponseStream(NamedEventStream):
    """Sends events as OpenAI's Responses API does.

    Args:
        failed: the events that tell of an error after the first byte.
    """

    def __init__(
        self,
        events: AsyncGenerator[BaseModel],
        source: AsyncGenerator[object],
        caller: Caller,
        failed: Callable[[APIError], Iterable[BaseModel]],
    ) -> None:
        self._failed = failed
        super().__init__(events, source, caller)

    def _error(self, error: APIError, request_id: str) -> str:
        return "".join(self._event(event) for event in self._failed(error))
