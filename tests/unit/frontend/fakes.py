"""A backend that plays a script, and a client that can leave."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Message

from glm_client import (
    CallDelta,
    CallStart,
    Event,
    FinishReason,
    Generation,
    GenerationDelta,
    GenerationRequest,
    TextDelta,
    ThoughtDelta,
    Tokenization,
)
from glm_format import events as format_events
from glm_format.answer import AnswerReader, Channel
from glm_format.tags import Tag

MODEL = "glm-4.6v-flash"
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
RESPONSES = "/v1/responses"
MULTIMODAL = "/v1/multi-modal/inference"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/PchI"
    "7wAAAABJRU5ErkJggg=="
)


def delta(text: str, **values: Any) -> GenerationDelta:
    return GenerationDelta(text=text, num_output_tokens=1, **values)


ANSWER = (
    delta(
        "<think>a ",
        num_input_tokens=30,
        num_image_tokens=25,
        num_cached_tokens=16,
        num_reasoning_tokens=1,
    ),
    delta("thought</th", num_reasoning_tokens=1),
    delta("ink>\nA red"),
    delta(" circle.", finish_reason="stop"),
)


def script(text: str, size: int, reason: FinishReason = "stop") -> list[GenerationDelta]:
    """``text`` in pieces of ``size`` characters."""
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    last = delta(pieces.pop(), finish_reason=reason)
    return [*map(delta, pieces), last]


_TAG_IDS = {str(tag): number for number, tag in enumerate(Tag)}
_TAG = re.compile("|".join(map(re.escape, _TAG_IDS)))
_EVENTS: dict[type, Callable[[Any], Event]] = {
    format_events.ThoughtDelta: lambda event: ThoughtDelta(event.text, tuple(event.notes)),
    format_events.TextDelta: lambda event: TextDelta(event.text, tuple(event.notes)),
    format_events.CallStart: lambda event: CallStart(event.index, event.name),
    format_events.CallDelta: lambda event: CallDelta(event.index, event.arguments),
}


def told_apart(
    script: Sequence[GenerationDelta | Exception | None], request: GenerationRequest
) -> list[GenerationDelta | Exception | None]:
    """The script as stage 2 sends it to who asks for events: each tag is one token.

    Of a piece without log probabilities all text is one token; otherwise each of them is one.
    """
    texts: list[str] = []
    reader = AnswerReader(
        {number: Tag(text) for text, number in _TAG_IDS.items()},
        lambda token_id: texts[token_id - len(_TAG_IDS)].encode(),
        begins_in=Channel.TEXT if goes_on(request) else Channel.START,
        functions={
            tool["function"]["name"]: tool["function"].get("parameters")
            for tool in request.tools or ()
        },
    )
    held, result = "", list[GenerationDelta | Exception | None]()
    for item in script:
        if not isinstance(item, GenerationDelta):
            result.append(item)
            continue
        tokens: list[tuple[str, Any]] = [
            (token.chosen.text, token) for token in item.logprobs if item.text
        ]
        if not tokens:
            text = held + item.text
            cut = len(text) if item.finish_reason else len(text) - _begun_tag(text)
            text, held = text[:cut], text[cut:]
            tokens = [(piece, None) for piece in re.split(f"({_TAG.pattern})", text) if piece]
        events: list[format_events.Event] = []
        for text, note in tokens:
            texts.append(text)
            number = _TAG_IDS.get(text, len(_TAG_IDS) + len(texts) - 1)
            events += reader.push(number, note)
        if item.finish_reason:
            events += reader.finish(is_cut=item.finish_reason == "length")
        found = format_events.merged(events, is_whole=False)
        changed = tuple(_EVENTS[type(event)](event) for event in found)
        result.append(replace(item, text="", logprobs=(), events=changed))
    return result


def goes_on(request: GenerationRequest) -> bool:
    return bool((request.chat_template_kwargs or {}).get("continue_final_message"))


def _begun_tag(text: str) -> int:
    """How many characters at the end of a text are the beginning of a tag."""
    longest = max(map(len, _TAG_IDS))
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(tag.startswith(text[-length:]) for tag in _TAG_IDS):
            return length
    return 0


class FakeBackend:
    """Satisfies ``glm_frontend.backend.Backend``.

    ``script`` holds the pieces of every answer, of each where there are several; an exception in it
    is raised, None waits for ever.
    ``requests`` are those that came, ``waiting`` counts those that came to a None, and
    ``cancelled`` those that were given up.
    """

    def __init__(self, script: Sequence[GenerationDelta | Exception | None] = ANSWER) -> None:
        self.script = script
        self.live = True
        self.ready = {"preprocessing": True, "generation": True}
        self.requests: list[GenerationRequest] = []
        self.timeouts: list[float | None] = []
        self.waiting = 0
        self.cancelled = 0
        self.closed = False

    async def stream(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[GenerationDelta]:
        self.requests.append(request)
        self.timeouts.append(timeout)
        finished = False
        script = told_apart(self.script, request) if request.return_events else self.script
        try:
            for item in script:
                await asyncio.sleep(0)
                if item is None:
                    self.waiting += 1
                    await asyncio.Event().wait()
                elif isinstance(item, Exception):
                    finished = True
                    raise item
                else:
                    for index in range(request.num_choices):
                        yield replace(item, index=index)
            finished = True
        finally:
            self.cancelled += not finished

    async def generate_choices(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> tuple[Generation, ...]:
        deltas = [item async for item in self.stream(request, timeout=timeout)]
        pieces = [[d for d in deltas if d.index == i] for i in range(request.num_choices)]
        return tuple(
            Generation(
                text="".join(item.text for item in own),
                events=tuple(event for item in own for event in item.events),
                finish_reason=own[-1].finish_reason or "stop",
                stop_reason=own[-1].stop_reason,
                num_input_tokens=own[0].num_input_tokens or 0,
                num_image_tokens=own[0].num_image_tokens or 0,
                num_output_tokens=len(own),
                num_cached_tokens=own[0].num_cached_tokens or 0,
                num_reasoning_tokens=sum(item.num_reasoning_tokens for item in own),
                logprobs=tuple(logprobs for item in own for logprobs in item.logprobs),
            )
            for own in pieces
        )

    async def tokenize(
        self,
        request: GenerationRequest,
        *,
        token_texts: bool = False,
        timeout: float | None = None,
    ) -> Tokenization:
        self.requests.append(request)
        error = self.script[0]
        if isinstance(error, Exception):
            raise error
        texts = ("A", " red", " circle")
        return Tokenization(
            token_ids=(5, 17, 300),
            text="".join(texts),
            image_sizes=((200, 100),) * len(request.images),
            token_texts=texts if token_texts else (),
        )

    async def server_live(self) -> bool:
        return self.live

    async def models_ready(self) -> dict[str, bool]:
        return self.ready

    async def aclose(self) -> None:
        self.closed = True


class Visitor:
    """One POST of JSON straight to the app, by a client that leaves when it is told to."""

    def __init__(self, app: ASGIApp, path: str, body: dict[str, Any]) -> None:
        self.messages: list[Message] = []
        self._app = app
        self._body = json.dumps(body).encode()
        self._left = asyncio.Event()
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"test"), (b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self._sent = False

    async def run(self) -> None:
        """Returns when the app is done with the request."""
        await self._app(self._scope, self._receive, self._send)

    def leave(self) -> None:
        """Close the connection."""
        self._left.set()

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages).decode()

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.messages.append(message)


def chat(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    """The body of a chat completion with one user message."""
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}


def picture(url: str = PIXEL) -> dict[str, Any]:
    """A picture part."""
    return {"type": "image_url", "image_url": {"url": url}}


def events(text: str) -> list[Any]:
    """The events of a stream, parsed; its end has to be ``[DONE]``."""
    *data, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(line.startswith("data: ") for line in data)
    return [json.loads(line.removeprefix("data: ")) for line in data]
