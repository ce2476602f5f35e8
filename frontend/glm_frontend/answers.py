"""Get answers from the model server, in the HTTP request's terms: thought, content, tool calls."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from glm_client import (
    FinishReason,
    GenerationRequest,
    GLMError,
    InvalidRequestError,
    ThinkingSplitter,
    Tokenization,
    TokenLogprobs,
    UnavailableError,
)
from glm_frontend.backend import Backend
from glm_frontend.caller import Caller
from glm_frontend.chat.boxes import Box, find_boxes
from glm_frontend.chat.tool_calls import ToolCallDelta, ToolCallParser
from glm_frontend.chat.translate import Translation
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, from_client_error
from glm_frontend.health import HealthProbe
from glm_frontend.images.fetch import ImageFetcher
from glm_frontend.schemas.common import CompletionTokensDetails, PromptTokensDetails, Usage


@dataclass(frozen=True, slots=True)
class Choice:
    """One whole answer.

    Attributes:
        reasoning: empty when there is no thought.
        tool_calls: pieces of all calls.
        stop_reason: the stop string or stop token of the request that ended it, if one did.
        num_reasoning_tokens: those of ``logprobs`` that are of the thought; they are the first.
        boxes: places in the last picture; None unless they were asked for.
    """

    reasoning: str
    content: str
    tool_calls: Sequence[ToolCallDelta]
    finish_reason: FinishReason
    stop_reason: str | int | None
    logprobs: Sequence[TokenLogprobs]
    num_reasoning_tokens: int
    boxes: Sequence[Box] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """All answers to a request, and what they took together."""

    choices: Sequence[Choice]
    usage: Usage


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """The next piece of an answer.

    Attributes:
        num_reasoning_tokens: those of ``logprobs`` that are of the thought; they are the first.
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
    num_reasoning_tokens: int = 0
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    boxes: Sequence[Box] | None = None


class AnswerParser:
    """Parts the text of one answer into thought, content and tool calls."""

    def __init__(self, translation: Translation) -> None:
        self._is_raw = translation.is_raw
        self._thinking = ThinkingSplitter(in_answer=translation.continues)
        self._tools = None
        if translation.tools:
            self._tools = ToolCallParser(
                translation.tools, parallel=translation.parallel_tool_calls
            )

    def parse(self, text: str, *, last: bool) -> tuple[str, str, list[ToolCallDelta]]:
        """What is certain after ``text``: thought, content and pieces of calls."""
        if self._is_raw:
            return "", text, []
        split = self._thinking.feed(text)
        if last:
            split += self._thinking.finish()
        if self._tools is None:
            return split.reasoning, split.content, []
        content, calls = self._tools.feed(split.content)
        if last:
            rest, more = self._tools.finish()
            content, calls = content + rest, calls + more
        return split.reasoning, content, calls


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
        size = await self._picture_size(translation, request)
        try:
            generations = await self._backend.generate_choices(request, timeout=self._timeout)
        except GLMError as error:
            raise self._failed(error, translation) from error
        self._health.note_success()
        choices = []
        for generation in generations:
            reasoning, text, calls = AnswerParser(translation).parse(generation.text, last=True)
            choices.append(
                Choice(
                    reasoning,
                    text,
                    calls,
                    generation.finish_reason,
                    generation.stop_reason,
                    generation.logprobs,
                    generation.num_reasoning_tokens,
                    boxes=find_boxes(text, size) if size else None,
                )
            )
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
        size = await self._picture_size(translation, request)
        contents = [""] * request.num_choices
        parsers = [AnswerParser(translation) for _ in range(request.num_choices)]
        unfinished = len(parsers)
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
                    last = delta.finish_reason is not None
                    reasoning, content, calls = parsers[delta.index].parse(delta.text, last=last)
                    unfinished -= last
                    contents[delta.index] += content if size else ""
                    if delta.finish_reason is not None:
                        record.finish_reasons.append(delta.finish_reason)
                    if reasoning or content or calls or delta.logprobs or last:
                        usage = _usage(**counts)
                        record.note_piece(usage, len(parsers))
                        yield AnswerDelta(
                            index=delta.index,
                            reasoning=reasoning,
                            content=content,
                            tool_calls=calls,
                            logprobs=delta.logprobs,
                            num_reasoning_tokens=delta.num_reasoning_tokens,
                            finish_reason=delta.finish_reason,
                            stop_reason=delta.stop_reason,
                            usage=usage,
                            boxes=find_boxes(contents[delta.index], size)
                            if size and last
                            else None,
                        )
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

    async def _picture_size(
        self, translation: Translation, request: GenerationRequest
    ) -> tuple[int, int] | None:
        """Width and height of the last picture, where boxes in it are asked for."""
        if not translation.finds_boxes:
            return None
        try:
            tokens = await self._backend.tokenize(request, timeout=self._timeout)
        except GLMError as error:
            raise self._failed(error, translation) from error
        return tokens.image_sizes[-1]

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
