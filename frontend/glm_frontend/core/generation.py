"""From a decoded request to the stream of its events: pictures loaded, the model server asked."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import islice

from glm_client import (
    CallDelta,
    CallStart,
    Generation,
    GenerationDelta,
    GenerationRequest,
    GLMError,
    InvalidRequestError,
    TextDelta,
    ThoughtDelta,
    Tokenization,
    UnavailableError,
)
from glm_frontend.core.backend import Backend
from glm_frontend.core.boxes import find_boxes
from glm_frontend.core.caller import Caller
from glm_frontend.core.events import AnswerEvent, Event, Finish, TokenUsage
from glm_frontend.core.health import HealthProbe
from glm_frontend.core.record import AnswerRecord
from glm_frontend.core.request import AnswerRequest
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, from_client_error
from glm_frontend.media.fetch import ImageFetcher


class Generator:
    """Answers decoded requests. Cancelling a call cancels everything that it waits for.

    A call may be of several requests, which only ``/v1/completions`` makes: their answers are
    numbered one after the other, and their usage is added up.

    Args:
        timeout: seconds for one answer, without the loading of its pictures.
        health: notified of every sign of life, and of its lack.
    """

    def __init__(
        self, backend: Backend, fetcher: ImageFetcher, health: HealthProbe, timeout: float
    ) -> None:
        self._backend = backend
        self._fetcher = fetcher
        self._health = health
        self._timeout = timeout

    async def complete(
        self, requests: Sequence[AnswerRequest], caller: Caller
    ) -> list[AnswerEvent]:
        """All events of the whole answers, which are made at the same time.

        Raises:
            APIError: with the HTTP request's names.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._complete(one, caller)) for one in requests]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        events, used, begin = list[AnswerEvent](), TokenUsage(), 0
        for request, task in zip(requests, tasks, strict=True):
            own = task.result()
            events += [_moved(event, begin, used) for event in own]
            begin, used = begin + request.num_choices, events[-1].usage
        return events

    async def stream(
        self, requests: Sequence[AnswerRequest], caller: Caller
    ) -> AsyncGenerator[AnswerEvent]:
        """The events as they come, of one request after the other; close it to cancel.

        Raises:
            APIError: with the HTTP request's names.
        """
        used, begin = TokenUsage(), 0
        for request in requests:
            latest = used
            async with aclosing(self._stream(request, caller)) as events:
                async for event in events:
                    moved = _moved(event, begin, used)
                    latest = moved.usage
                    yield moved
            begin, used = begin + request.num_choices, latest

    async def decide(
        self, request: AnswerRequest, caller: Caller
    ) -> tuple[list[Sequence[float]], TokenUsage]:
        """The log probabilities of the options of each question, and the tokens of all of them.

        Raises:
            APIError: with the HTTP request's names.
        """
        record = caller.record.begin_answer(is_raw=False)
        on_wire = await self._load(request, caller)
        (answer,) = await self._answers(request, on_wire, record)
        record.usage = usage = TokenUsage(
            prompt=answer.num_input_tokens,
            image=answer.num_image_tokens,
            cached=answer.num_cached_tokens,
        )
        logprobs = iter(answer.option_logprobs)
        return [list(islice(logprobs, len(one.options))) for one in request.questions], usage

    async def tokenize(
        self, request: AnswerRequest, caller: Caller, *, token_texts: bool = False
    ) -> Tokenization:
        """The prompt in tokens, those of its pictures included.

        Raises:
            APIError: with the HTTP request's names.
        """
        return await self._tokenize(request, await self._load(request, caller), token_texts)

    async def _complete(self, request: AnswerRequest, caller: Caller) -> list[AnswerEvent]:
        record = caller.record.begin_answer(is_raw=request.is_raw)
        on_wire = await self._load(request, caller)
        echo = await self._echo(request, on_wire)
        answers = await self._answers(request, on_wire, record)
        record.usage = usage = TokenUsage(
            prompt=answers[0].num_input_tokens,
            image=answers[0].num_image_tokens,
            cached=answers[0].num_cached_tokens,
            completion=sum(answer.num_output_tokens for answer in answers),
            reasoning=sum(answer.num_reasoning_tokens for answer in answers),
        )
        echo = [replace(begin, logprobs=answers[0].prompt_logprobs) for begin in echo]
        events = []
        for choice, answer in enumerate(answers):
            boxes = None
            if request.finds_boxes:
                boxes = find_boxes(answer.content, answer.image_sizes[-1])
            finish = Finish(answer.finish_reason, answer.stop_reason, boxes)
            for event in (*echo, *_events(answer, request), finish):
                events.append(AnswerEvent(choice, event, usage))
        return events

    async def _answers(
        self, request: AnswerRequest, on_wire: GenerationRequest, record: AnswerRecord
    ) -> Sequence[Generation]:
        """All answers, once they are whole."""
        try:
            answers = await self._backend.generate_choices(on_wire, timeout=self._timeout)
        except GLMError as error:
            raise self._failed(error, request) from error
        self._health.note_success()
        record.finish_reasons += [answer.finish_reason for answer in answers]
        return answers

    async def _stream(self, request: AnswerRequest, caller: Caller) -> AsyncGenerator[AnswerEvent]:
        record = caller.record.begin_answer(is_raw=request.is_raw)
        on_wire = await self._load(request, caller)
        echo = await self._echo(request, on_wire)
        texts = [""] * request.num_choices
        sizes: Sequence[tuple[int, int]] = ()
        usage = TokenUsage()
        early: list[GenerationDelta] = []
        try:
            async with aclosing(self._backend.stream(on_wire, timeout=self._timeout)) as deltas:
                async for delta in deltas:
                    self._health.note_success()
                    if echo and delta.index:
                        early.append(delta)  # the first answer has what begins all of them
                        continue
                    for choice in range(request.num_choices if echo else 0):
                        begin = replace(echo[0], logprobs=delta.prompt_logprobs)
                        yield AnswerEvent(choice, begin, _with(usage, delta))
                    echo = ()
                    for piece in (delta, *early):
                        usage = _with(usage, piece)
                        events = list(_events(piece, request))
                        if request.finds_boxes:
                            texts[piece.index] += piece.content
                            sizes = piece.image_sizes or sizes
                        if piece.finish_reason is not None:
                            record.finish_reasons.append(piece.finish_reason)
                            boxes = None
                            if request.finds_boxes:
                                boxes = find_boxes(texts[piece.index], sizes[-1])
                            events.append(Finish(piece.finish_reason, piece.stop_reason, boxes))
                        if events:
                            record.note_piece(usage, request.num_choices)
                        for event in events:
                            yield AnswerEvent(piece.index, event, usage)
                    early.clear()
        except GLMError as error:
            raise self._failed(error, request) from error

    async def _load(self, request: AnswerRequest, caller: Caller) -> GenerationRequest:
        files = await self._fetcher.load_all(request.paths.files, caller.hold)
        return request.on_the_wire(files, caller)

    async def _echo(
        self, request: AnswerRequest, on_wire: GenerationRequest
    ) -> Sequence[TextDelta]:
        """What the text begins with."""
        if not request.echo:
            return ()
        if on_wire.prompt is not None:
            return (TextDelta(on_wire.prompt),)
        return (TextDelta((await self._tokenize(request, on_wire, False)).text),)

    async def _tokenize(
        self, request: AnswerRequest, on_wire: GenerationRequest, token_texts: bool
    ) -> Tokenization:
        try:
            return await self._backend.tokenize(
                on_wire, token_texts=token_texts, timeout=self._timeout
            )
        except GLMError as error:
            raise self._failed(error, request) from error

    def _failed(self, error: GLMError, request: AnswerRequest) -> APIError:
        if isinstance(error, UnavailableError):
            self._health.note_failure(error)
            if (report := self._health.told()) is not None:
                return APIError(ErrorCode.UNAVAILABLE, report.message)
        if isinstance(error, InvalidRequestError) and error.param is not None:
            param = request.paths.http(error.param)
            error = InvalidRequestError(error.message, param, code=error.code)
        return from_client_error(error)


def _events(given: Generation | GenerationDelta, request: AnswerRequest) -> Iterator[Event]:
    """What the model server sent, without what the request does not want."""
    if request.is_raw:
        if given.text or given.logprobs:
            yield TextDelta(given.text, given.logprobs)
        return
    for event in given.events:
        match event:
            case ThoughtDelta(""):  # of a token without text, for its log probability
                pass
            case CallStart(index) | CallDelta(index) if index and not request.parallel_tool_calls:
                pass
            case _:
                yield event


def _with(usage: TokenUsage, delta: GenerationDelta) -> TokenUsage:
    is_first = not delta.index  # the first answer computed the prompt for all
    return TokenUsage(
        prompt=(is_first and delta.num_input_tokens) or usage.prompt,
        image=(is_first and delta.num_image_tokens) or usage.image,
        cached=(is_first and delta.num_cached_tokens) or usage.cached,
        completion=usage.completion + delta.num_output_tokens,
        reasoning=usage.reasoning + delta.num_reasoning_tokens,
    )


def _moved(event: AnswerEvent, begin: int, used: TokenUsage) -> AnswerEvent:
    """An event of one of several requests, as one of all of them."""
    if not begin:
        return event
    return AnswerEvent(begin + event.choice, event.event, used + event.usage)
