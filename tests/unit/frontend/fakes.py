"""A backend that plays a script, and a client that can leave."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

from starlette.types import ASGIApp, Message

from glm_client import (
    FinishReason,
    Generation,
    GenerationDelta,
    GenerationRequest,
    Tokenization,
    TokenLogprob,
    TokenLogprobs,
)
from unit.markup import Teller

MODEL = "glm-4.6v-flash"
CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
RESPONSES = "/v1/responses"
DECISIONS = "/v1/decisions"
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


def told_apart(
    script: Sequence[GenerationDelta | Exception | None], request: GenerationRequest
) -> list[GenerationDelta | Exception | None]:
    """The script as stage 2 sends it to who asks for events."""
    teller = Teller(request.tools or (), goes_on=goes_on(request))
    result = list[GenerationDelta | Exception | None]()
    for item in script:
        if isinstance(item, GenerationDelta):
            events = teller.events(item.text, item.finish_reason, item.logprobs)
            result.append(replace(item, text="", logprobs=(), events=events))
        else:
            result.append(item)
    return result


def sampled(backend: "FakeBackend") -> dict[str, Any]:
    """The sampling parameters of its first request, without the limit that stands for none."""
    given = dict(backend.requests[0].sampling_parameters)
    given.pop("truncate_max_tokens", None)
    if given.get("max_tokens") == 2**31 - 1:
        del given["max_tokens"]
    return given


def goes_on(request: GenerationRequest) -> bool:
    return bool((request.chat_template_kwargs or {}).get("continue_final_message"))


def _likelihoods(request: GenerationRequest) -> tuple[float, ...]:
    """Of the options of all questions, all the same."""
    return (-1.0,) * sum(len(question.options) for question in request.questions)


class FakeBackend:
    """Satisfies ``glm_frontend.core.backend.Backend``.

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
        sizes = ((200, 100),) * len(request.images) if request.return_image_sizes else ()
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
                        yield replace(item, index=index, image_sizes=sizes)
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
                option_logprobs=own[-1].option_logprobs or _likelihoods(request),
                stop_reason=own[-1].stop_reason,
                num_input_tokens=own[0].num_input_tokens or 0,
                num_image_tokens=own[0].num_image_tokens or 0,
                num_output_tokens=len(own),
                num_cached_tokens=own[0].num_cached_tokens or 0,
                num_reasoning_tokens=sum(item.num_reasoning_tokens for item in own),
                logprobs=tuple(logprobs for item in own for logprobs in item.logprobs),
                image_sizes=own[0].image_sizes,
                prompt_logprobs=own[0].prompt_logprobs,
                limits=own[0].limits,
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

    async def tokenizer_config(self, *, timeout: float | None = None) -> dict[str, Any]:
        error = self.script[0]
        if isinstance(error, Exception):
            raise error
        return {"eos_token": "<|endoftext|>", "chat_template": "[gMASK]"}

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
    """The events of a stream, parsed; its end must be ``[DONE]``."""
    *data, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(line.startswith("data: ") for line in data)
    return [json.loads(line.removeprefix("data: ")) for line in data]


def prompt_notes() -> tuple[tuple[TokenLogprobs, ...], list[Any]]:
    """Log probabilities of a prompt's three tokens, and as vLLM tells them with one alternative."""

    def token(token_id: int, text: str, logprob: float, rank: int) -> TokenLogprob:
        return TokenLogprob(token_id, text, text.encode(), logprob, rank)

    first = token(2, "Sa", math.nan, 0)
    best, second, third = (token(i, str(i), -0.5 * i, i) for i in (1, 2, 3))
    notes = (
        TokenLogprobs(first, (first,)),
        TokenLogprobs(best, (best, second)),
        TokenLogprobs(third, (best, second, third)),
    )
    told = [
        {"logprob": one.logprob, "rank": one.rank, "decoded_token": one.text}
        for one in (best, second, third)
    ]
    return notes, [None, {"1": told[0]}, {"3": told[2], "1": told[0]}]
