"""From a decoded request to the stream of its events: pictures loaded, the model server asked."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

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
from glm_frontend.core.answer_cache import AnswerCache, Batch
from glm_frontend.core.backend import Backend
from glm_frontend.core.boxes import find_boxes
from glm_frontend.core.caller import Caller
from glm_frontend.core.events import AnswerEvent, Event, Finish, PromptTokens, TokenUsage
from glm_frontend.core.health import HealthProbe
from glm_frontend.core.record import AnswerRecord
from glm_frontend.core.request import AnswerRequest
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, from_client_error
from glm_frontend.media.fetch import ImageFetcher

Answer = TypeVar("Answer")


class Generator:
    """Answers decoded requests. Cancelling a call cancels everything that it waits for.

    A call may be of several requests, which only ``/v1/completions`` makes: their answers are
    numbered one after the other, and their usage is added up.

    Args:
        cache: of answers, which may answer instead of the model server.
        timeout: seconds for one answer, without the loading of its pictures.
        drops_oldest: whether the oldest pictures and videos of a conversation go where there are
            more than fit.
        health: notified of every sign of life, and of its lack.
    """

    def __init__(
        self,
        backend: Backend,
        fetcher: ImageFetcher,
        health: HealthProbe,
        cache: AnswerCache,
        timeout: float,
        *,
        drops_oldest: bool = False,
    ) -> None:
        self._backend = backend
        self._fetcher = fetcher
        self._health = health
        self._cache = cache
        self._timeout = timeout
        self._drops_oldest = drops_oldest

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
        try:
            (answer,) = await self._backend.generate_choices(on_wire, timeout=self._timeout)
        except GLMError as error:
            raise self._failed(error, request) from error
        self._health.note_success()
        record.finish_reasons.append(answer.finish_reason)
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

        async def ask(request: AnswerRequest) -> AsyncGenerator[Tokenization]:
            yield await self._tokenize(request, await self._load(request, caller), token_texts)

        async with aclosing(self._fitting(request, caller, ask)) as answers:
            return await anext(answers)

    async def tokenizer_config(self) -> dict[str, Any]:
        """What the checkpoint says of its tokenizer.

        Raises:
            APIError: the model server does not answer.
        """
        try:
            return await self._backend.tokenizer_config(timeout=self._timeout)
        except GLMError as error:
            raise self._failed(error) from error

    async def _complete(self, request: AnswerRequest, caller: Caller) -> list[AnswerEvent]:
        record = caller.record.begin_answer(is_raw=request.is_raw)
        events: list[AnswerEvent] = []
        ask = partial(self._batches, caller=caller, record=record, stream=False)
        async with aclosing(self._fitting(request, caller, ask)) as batches:
            async for batch in batches:
                events += batch
        if not record.is_repeated:
            record.usage = events[-1].usage
        record.note_ends(events)
        return events

    async def _stream(self, request: AnswerRequest, caller: Caller) -> AsyncGenerator[AnswerEvent]:
        record = caller.record.begin_answer(is_raw=request.is_raw)
        ask = partial(self._batches, caller=caller, record=record, stream=True)
        async with aclosing(self._fitting(request, caller, ask)) as batches:
            async for batch in batches:
                record.note_ends(batch)
                if not record.is_repeated:
                    record.note_piece(batch[-1].usage, request.num_choices)
                for event in batch:
                    yield event

    async def _batches(
        self, request: AnswerRequest, caller: Caller, record: AnswerRecord, *, stream: bool
    ) -> AsyncGenerator[Batch]:
        """The events of an answer: kept ones, or as the model server sends them."""
        on_wire = await self._load(request, caller)
        compute = partial(self._pieces if stream else self._whole, request, on_wire)
        answer = self._cache.answer(request, on_wire, caller, record, compute, stream=stream)
        try:
            async with aclosing(await answer) as batches:
                async for batch in batches:
                    yield batch
        except GLMError as error:
            raise self._failed(error, request) from error

    async def _whole(
        self, request: AnswerRequest, on_wire: GenerationRequest
    ) -> AsyncGenerator[Batch]:
        """Everything at once."""
        echo = await self._echo(request, on_wire)
        answers = await self._backend.generate_choices(on_wire, timeout=self._timeout)
        self._health.note_success()
        usage = TokenUsage(
            prompt=answers[0].num_input_tokens,
            image=answers[0].num_image_tokens,
            cached=answers[0].num_cached_tokens,
            completion=0
            if request.has_no_answer
            else sum(answer.num_output_tokens for answer in answers),
            reasoning=sum(answer.num_reasoning_tokens for answer in answers),
        )
        prompt = answers[0].prompt_logprobs
        first = [PromptTokens(prompt)] if prompt else []
        echo = [replace(begin, logprobs=prompt) for begin in echo]
        events = []
        for choice, answer in enumerate(answers):
            boxes = None
            if request.finds_boxes:
                boxes = find_boxes(answer.content, answer.image_sizes[-1])
            finish = Finish(answer.finish_reason, answer.stop_reason, boxes)
            for event in (*first, *echo, *_events(answer, request), finish):
                events.append(AnswerEvent(choice, event, usage))
        yield events

    async def _pieces(
        self, request: AnswerRequest, on_wire: GenerationRequest
    ) -> AsyncGenerator[Batch]:
        """Each piece as it comes."""
        echo = await self._echo(request, on_wire)
        texts = [""] * request.num_choices
        sizes: Sequence[tuple[int, int]] = ()
        usage = TokenUsage()
        early: list[GenerationDelta] = []
        async with aclosing(self._backend.stream(on_wire, timeout=self._timeout)) as deltas:
            async for delta in deltas:
                self._health.note_success()
                if request.has_no_answer:
                    delta = replace(delta, num_output_tokens=0)
                if echo and delta.index:
                    early.append(delta)  # the first answer has what begins all of them
                    continue
                if echo:
                    begin = replace(echo[0], logprobs=delta.prompt_logprobs)
                    so_far = _with(usage, delta)
                    yield [
                        AnswerEvent(choice, begin, so_far) for choice in range(request.num_choices)
                    ]
                    echo = ()
                for piece in (delta, *early):
                    usage = _with(usage, piece)
                    events = list(_events(piece, request))
                    if request.finds_boxes:
                        texts[piece.index] += piece.content
                        sizes = piece.image_sizes or sizes
                    if piece.finish_reason is not None:
                        boxes = None
                        if request.finds_boxes:
                            boxes = find_boxes(texts[piece.index], sizes[-1])
                        events.append(Finish(piece.finish_reason, piece.stop_reason, boxes))
                    if events:
                        yield [AnswerEvent(piece.index, event, usage) for event in events]
                early.clear()

    async def _load(self, request: AnswerRequest, caller: Caller) -> GenerationRequest:
        files = await self._fetcher.load_all(request.paths.files, caller.hold, caller.tenant)
        return request.on_the_wire(files, caller)

    async def _fitting(
        self,
        request: AnswerRequest,
        caller: Caller,
        ask: Callable[[AnswerRequest], AsyncGenerator[Answer]],
    ) -> AsyncGenerator[Answer]:
        """What ``ask`` gives, if need be of a request without its oldest pictures and videos."""
        request, number, has_begun = self._within_counts(request, caller), 1, False
        while True:
            try:
                async with aclosing(ask(request)) as answers:
                    async for answer in answers:
                        has_begun = True
                        yield answer
                return
            except APIError as error:
                smaller = None if has_begun else self._smaller(request, caller, error, number)
                if smaller is None:
                    raise
                request, number = smaller, 2 * number

    def _within_counts(self, request: AnswerRequest, caller: Caller) -> AnswerRequest:
        """The request without the pictures and videos above the numbers that are allowed."""
        if not self._drops_oldest:
            return request
        surplus = {id(file) for file in self._fetcher.surplus(request.paths.files)}
        gone = [n for n, group in enumerate(request.media()) if id(group[0]) in surplus]
        return self._without(request, caller, gone) if gone else request

    def _smaller(
        self, request: AnswerRequest, caller: Caller, error: APIError, number: int
    ) -> AnswerRequest | None:
        """The request without that many of its oldest pictures and videos, if that may help.

        The last one stays: the question may be about it.
        """
        left = len(request.media()) - 1
        is_too_long = error.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
        if not (self._drops_oldest and is_too_long and left > 0):
            return None
        return self._without(request, caller, range(min(number, left)))

    def _without(
        self, request: AnswerRequest, caller: Caller, gone: Sequence[int]
    ) -> AnswerRequest:
        media = request.media()
        caller.record.left_out += [media[number][0].param for number in gone]
        return request.without(gone)

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

    def _failed(self, error: GLMError, request: AnswerRequest | None = None) -> APIError:
        if isinstance(error, UnavailableError):
            self._health.note_failure(error)
            if (report := self._health.told()) is not None:
                return APIError(ErrorCode.UNAVAILABLE, report.message)
        if request is not None and isinstance(error, InvalidRequestError) and error.param:
            param = request.paths.http(error.param)
            message = error.message
            media = request.media()
            if error.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED and len(media) > 1:
                oldest = media[0][0].param
                message += (
                    f"; the oldest picture or video is {oldest}: leave out its message, or it"
                )
            error = InvalidRequestError(message, param, code=error.code)
        return from_client_error(error)


def _events(given: Generation | GenerationDelta, request: AnswerRequest) -> Iterator[Event]:
    """What the model server sent, without what the request does not want."""
    if request.has_no_answer:
        return
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
