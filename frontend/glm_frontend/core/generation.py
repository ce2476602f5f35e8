"""Get answers from the model server, in the HTTP request's terms: thought, content, tool calls."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from glm_client import (
    FinishReason,
    Generation,
    GenerationDelta,
    GenerationRequest,
    GLMError,
    InvalidRequestError,
    TextDelta,
    ThoughtDelta,
    Tokenization,
    TokenLogprobs,
    UnavailableError,
)
from glm_frontend.apis.shared.schema import CompletionTokensDetails, PromptTokensDetails, Usage
from glm_frontend.core.backend import Backend
from glm_frontend.core.boxes import Box, find_boxes
from glm_frontend.core.caller import Caller
from glm_frontend.core.health import HealthProbe
from glm_frontend.core.request import Translation
from glm_frontend.core.tool_calls import ToolCallDelta, call_piece
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, from_client_error
from glm_frontend.media.fetch import ImageFetcher


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole answer.

    Attributes:
        pieces: thought, text and calls, in the order in which the model wrote them.
        stop_reason: the stop string or stop token of the request that ended it, if one did.
        boxes: places in the last picture; None unless they were asked for.
    """

    pieces: Sequence["AnswerDelta"]
    finish_reason: FinishReason
    stop_reason: str | int | None
    boxes: Sequence[Box] | None = None

    @property
    def reasoning(self) -> str:
        """The thought; empty when there is none."""
        return "".join(piece.reasoning for piece in self.pieces)

    @property
    def content(self) -> str:
        """The text."""
        return "".join(piece.content for piece in self.pieces)

    @property
    def tool_calls(self) -> list[ToolCallDelta]:
        """Pieces of all calls."""
        return [call for piece in self.pieces for call in piece.tool_calls]

    @property
    def logprobs(self) -> list[TokenLogprobs]:
        """Of the tokens of the text."""
        return [token for piece in self.pieces for token in piece.logprobs]


@dataclass(frozen=True, slots=True)
class Answer:
    """All answers to a request, and what they took together."""

    choices: Sequence[Choice]
    usage: Usage


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """The next piece of an answer: of its thought, its text or a call, at most one of these.

    Attributes:
        logprobs: of the tokens of ``content``.
        finish_reason: in the last piece of each answer.
        stop_reason: with it, as in :class:`Choice`.
        usage: so far; in all in the last piece.
        boxes: in the last piece of each answer, as in :class:`Choice`.
    """

    index: int = 0
    reasoning: str = ""
    content: str = ""
    tool_calls: Sequence[ToolCallDelta] = ()
    logprobs: Sequence[TokenLogprobs] = ()
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    boxes: Sequence[Box] | None = None

    @property
    def says_something(self) -> bool:
        """Whether there is a reason to send it."""
        return bool(
            self.reasoning or self.content or self.tool_calls or self.logprobs or self.finish_reason
        )


def pieces(given: Generation | GenerationDelta, translation: Translation) -> list["AnswerDelta"]:
    """What the model server sent, as one piece for each of its events, in their order."""
    if translation.is_raw:
        return [AnswerDelta(content=given.text, logprobs=given.logprobs)]
    found = []
    for event in given.events:
        match event:
            case ThoughtDelta(text):
                found.append(AnswerDelta(reasoning=text))
            case TextDelta(text, logprobs):
                found.append(AnswerDelta(content=text, logprobs=logprobs))
            case _ if translation.parallel_tool_calls or not event.index:
                found.append(AnswerDelta(tool_calls=[call_piece(event)]))
    return found


class Answerer:
    """Answers translated requests. Cancelling a call cancels everything that it waits for.

    Args:
        timeout: seconds for one answer, without the loading of its pictures.
        health: is told of every sign of life, and of its lack.
    """

    def __init__(
        self, backend: Backend, fetcher: ImageFetcher, health: HealthProbe, timeout: float
    ) -> None:
        self._backend = backend
        self._fetcher = fetcher
        self._health = health
        self._timeout = timeout

    async def complete(self, translation: Translation, caller: Caller) -> Answer:
        """The whole answers.

        Raises:
            APIError: with the HTTP request's names.
        """
        record = caller.record.begin_answer(is_raw=translation.is_raw)
        request = await self._request(translation, caller)
        try:
            generations = await self._backend.generate_choices(request, timeout=self._timeout)
        except GLMError as error:
            raise self._failed(error, translation) from error
        self._health.note_success()
        choices = []
        for generation in generations:
            choice = Choice(
                pieces(generation, translation), generation.finish_reason, generation.stop_reason
            )
            if translation.finds_boxes:
                boxes = find_boxes(choice.content, generation.image_sizes[-1])
                choice = replace(choice, boxes=boxes)
            choices.append(choice)
        record.usage = _usage(
            prompt=generations[0].num_input_tokens,
            images=generations[0].num_image_tokens,
            cached=generations[0].num_cached_tokens,
            completion=sum(generation.num_output_tokens for generation in generations),
            reasoning=sum(generation.num_reasoning_tokens for generation in generations),
        )
        record.finish_reasons += [generation.finish_reason for generation in generations]
        return Answer(choices, record.usage)

    async def stream(self, translation: Translation, caller: Caller) -> AsyncGenerator[AnswerDelta]:
        """The answers, piece by piece, none empty but perhaps the last; close it to cancel.

        Raises:
            APIError: with the HTTP request's names.
        """
        record = caller.record.begin_answer(is_raw=translation.is_raw)
        request = await self._request(translation, caller)
        contents = [""] * request.num_choices
        sizes: Sequence[tuple[int, int]] = ()
        counts = {"prompt": 0, "images": 0, "cached": 0, "completion": 0, "reasoning": 0}
        try:
            async with aclosing(self._backend.stream(request, timeout=self._timeout)) as deltas:
                async for delta in deltas:
                    self._health.note_success()
                    if not delta.index:  # the first answer computed the prompt for all
                        counts["prompt"] = delta.num_input_tokens or counts["prompt"]
                        counts["images"] = delta.num_image_tokens or counts["images"]
                        counts["cached"] = delta.num_cached_tokens or counts["cached"]
                    counts["completion"] += delta.num_output_tokens
                    counts["reasoning"] += delta.num_reasoning_tokens
                    own = pieces(delta, translation)
                    if translation.finds_boxes:
                        contents[delta.index] += "".join(piece.content for piece in own)
                        sizes = delta.image_sizes or sizes
                    if delta.finish_reason is not None:
                        record.finish_reasons.append(delta.finish_reason)
                        own = own or [AnswerDelta()]
                        boxes = None
                        if translation.finds_boxes:
                            boxes = find_boxes(contents[delta.index], sizes[-1])
                        own[-1] = replace(
                            own[-1],
                            finish_reason=delta.finish_reason,
                            stop_reason=delta.stop_reason,
                            boxes=boxes,
                        )
                    own = [piece for piece in own if piece.says_something]
                    if not own:
                        continue
                    usage = _usage(**counts)
                    record.note_piece(usage, request.num_choices)
                    for piece in own:
                        yield replace(piece, index=delta.index, usage=usage)
        except GLMError as error:
            raise self._failed(error, translation) from error

    async def tokenize(
        self, translation: Translation, caller: Caller, *, token_texts: bool = False
    ) -> Tokenization:
        """The prompt in tokens, those of its pictures included.

        Raises:
            APIError: with the HTTP request's names.
        """
        request = await self._request(translation, caller)
        try:
            return await self._backend.tokenize(
                request, token_texts=token_texts, timeout=self._timeout
            )
        except GLMError as error:
            raise self._failed(error, translation) from error

    async def _request(self, translation: Translation, caller: Caller) -> GenerationRequest:
        images = await self._fetcher.load_all(translation.pictures, caller.hold)
        return translation.request(images, caller)

    def _failed(self, error: GLMError, translation: Translation) -> APIError:
        if isinstance(error, UnavailableError):
            self._health.note_failure(error)
            if (told := self._health.told()) is not None:
                return APIError(ErrorCode.UNAVAILABLE, told.message)
        if isinstance(error, InvalidRequestError) and error.param is not None:
            param = translation.http_param(error.param)
            error = InvalidRequestError(error.message, param, code=error.code)
        return from_client_error(error)


def _usage(*, prompt: int, images: int, cached: int, completion: int, reasoning: int) -> Usage:
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(image_tokens=images, cached_tokens=cached),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=reasoning),
    )
