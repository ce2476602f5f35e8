"""Get answers from the model server, in the HTTP request's terms, thought and answer apart."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from glm_client import (
    FinishReason,
    GenerationRequest,
    GLMError,
    InvalidRequestError,
    ThinkingSplitter,
    UnavailableError,
    split_thinking,
)
from glm_frontend.backend import Backend
from glm_frontend.chat.translate import Translation
from glm_frontend.errors import APIError, from_client_error
from glm_frontend.health import HealthProbe
from glm_frontend.images.fetch import ImageFetcher
from glm_frontend.schemas.common import PromptTokensDetails, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``reasoning`` is empty when there is no thought."""

    reasoning: str
    content: str
    finish_reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class AnswerDelta:
    """The next piece of an answer; the last one has both finish reason and usage."""

    reasoning: str = ""
    content: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None


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

    async def complete(self, translation: Translation, request_id: str) -> Answer:
        """The whole answer.

        Raises:
            APIError: with the HTTP request's names.
        """
        request = await self._request(translation, request_id)
        try:
            generation = await self._backend.generate(request, timeout=self._timeout)
        except GLMError as error:
            raise self._failed(error, translation) from error
        self._health.note_success()
        split = split_thinking(generation.text)
        return Answer(
            reasoning=split.reasoning,
            content=split.content,
            finish_reason=generation.finish_reason,
            usage=_usage(
                generation.num_input_tokens,
                generation.num_image_tokens,
                generation.num_output_tokens,
            ),
        )

    async def stream(
        self, translation: Translation, request_id: str
    ) -> AsyncGenerator[AnswerDelta]:
        """The answer, piece by piece, none empty but perhaps the last; close it to cancel.

        Raises:
            APIError: with the HTTP request's names.
        """
        request = await self._request(translation, request_id)
        splitter = ThinkingSplitter()
        finish_reason: FinishReason | None = None
        prompt = images = completion = 0
        try:
            async with aclosing(self._backend.stream(request, timeout=self._timeout)) as deltas:
                async for delta in deltas:
                    self._health.note_success()
                    prompt = delta.num_input_tokens or prompt
                    images = delta.num_image_tokens or images
                    completion += delta.num_output_tokens
                    finish_reason = delta.finish_reason or finish_reason
                    if piece := splitter.feed(delta.text):
                        yield AnswerDelta(piece.reasoning, piece.content)
        except GLMError as error:
            raise self._failed(error, translation) from error
        rest = splitter.finish()
        yield AnswerDelta(
            rest.reasoning, rest.content, finish_reason, _usage(prompt, images, completion)
        )

    async def _request(self, translation: Translation, request_id: str) -> GenerationRequest:
        images = await self._fetcher.load_all(translation.pictures)
        return translation.request(images, request_id)

    def _failed(self, error: GLMError, translation: Translation) -> APIError:
        if isinstance(error, UnavailableError):
            self._health.note_failure(error)
        if isinstance(error, InvalidRequestError) and error.param is not None:
            error = InvalidRequestError(error.message, translation.http_param(error.param))
        return from_client_error(error)


def _usage(prompt: int, images: int, completion: int) -> Usage:
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(image_tokens=images),
    )
