"""What every API's endpoint does once its request is decoded: answer whole, or as a stream."""

import hashlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from functools import cache
from importlib.metadata import version

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response

from glm_client import Tokenization
from glm_frontend.core.caller import Caller
from glm_frontend.core.events import AnswerEvent
from glm_frontend.core.request import AnswerRequest
from glm_frontend.http.disconnect import started, until_disconnect
from glm_frontend.http.openapi import json_response
from glm_frontend.http.services import Services
from glm_frontend.http.sse import EventStream

LEFT_OUT_HEADER = "x-glm-left-out-media"
MAX_LEFT_OUT_HEADER = 2000


class Encoder(ABC):
    """Writes the events of one response in an API's form. Make one for each request."""

    @abstractmethod
    def whole(self, events: Sequence[AnswerEvent]) -> BaseModel:
        """The body of a response that is not streamed; ``events`` are all of it."""

    def begin(self) -> Iterable[BaseModel]:
        """What a stream begins with."""
        return ()

    @abstractmethod
    def add(self, event: AnswerEvent) -> Iterable[BaseModel]:
        """What a stream has for this event."""

    def end(self) -> Iterable[BaseModel]:
        """What a stream ends with, if all went well."""
        return ()

    async def stream(self, events: AsyncIterable[AnswerEvent]) -> AsyncGenerator[BaseModel]:
        """The whole stream."""
        for chunk in self.begin():
            yield chunk
        async for event in events:
            for chunk in self.add(event):
                yield chunk
        for chunk in self.end():
            yield chunk


async def respond(
    request: Request,
    services: Services,
    caller: Caller,
    wanted: Sequence[AnswerRequest],
    encoder: Encoder,
    *,
    stream: bool,
    style: Callable[..., EventStream] = EventStream,
) -> Response:
    """The response to a request whose body has been read.

    Args:
        wanted: what the request asks for; several only for several prompts.
        style: how the events of a stream are written.

    Raises:
        APIError: also in a stream, as long as nothing of it has been sent.
        ClientDisconnect: the client has left.
    """
    if stream:
        events = services.generator.stream(wanted, caller)
        begun = await started(request, events)
        _tell_left_out(request, caller)
        return style(encoder.stream(begun), events, caller)
    whole = await until_disconnect(request, services.generator.complete(wanted, caller))
    _tell_left_out(request, caller)
    return json_response(encoder.whole(whole))


async def tokenized(
    request: Request,
    services: Services,
    caller: Caller,
    wanted: AnswerRequest,
    *,
    token_texts: bool = False,
) -> Tokenization:
    """The prompt of a request whose body has been read, in tokens.

    Raises:
        APIError: with the HTTP request's names.
        ClientDisconnect: the client has left.
    """
    counting = services.generator.tokenize(wanted, caller, token_texts=token_texts)
    tokens = await until_disconnect(request, counting)
    _tell_left_out(request, caller)
    return tokens


def _tell_left_out(request: Request, caller: Caller) -> None:
    """Name the pictures and videos that went in a header of the response."""
    if caller.record.left_out:
        names = ", ".join(caller.record.left_out)[:MAX_LEFT_OUT_HEADER]
        earlier = getattr(request.state, "headers", {})
        request.state.headers = {**earlier, LEFT_OUT_HEADER: names}


def new_call_id() -> str:
    """For a call of the answer; its result refers to it."""
    return f"call_{uuid.uuid4().hex[:24]}"


@cache
def system_fingerprint(model: str) -> str:
    """Stands for what answers: this server's version with this model."""
    release = f"{version('glm-triton-server')} {model}"
    return f"fp_{hashlib.sha256(release.encode()).hexdigest()[:10]}"
