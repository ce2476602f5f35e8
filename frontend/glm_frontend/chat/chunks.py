"""A streamed answer in OpenAI's order: role, content, finish reason, usage."""

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass

from glm_client import FinishReason
from glm_frontend.answers import AnswerDelta
from glm_frontend.chat.logprobs import to_logprobs
from glm_frontend.schemas.chat import ChatCompletionChunk, ChunkChoice, ChunkDelta, Logprobs
from glm_frontend.schemas.common import Usage


@dataclass(frozen=True, slots=True)
class ChunkWriter:
    """Makes the chunks of one answer.

    Attributes:
        include_usage: whether one more chunk has the usage (and all others a null there).
        num_choices: answers that there will be.
        top_logprobs: how many of the likeliest tokens are told.
    """

    id: str
    created: int
    model: str
    include_usage: bool
    num_choices: int = 1
    top_logprobs: int = 0

    async def write(
        self, deltas: AsyncIterable[AnswerDelta]
    ) -> AsyncGenerator[ChatCompletionChunk]:
        """All chunks of the answers."""
        for index in range(self.num_choices):
            yield self._chunk(index, ChunkDelta(role="assistant", content=""))
        usage: Usage | None = None
        async for delta in deltas:
            usage = delta.usage or usage
            logprobs = to_logprobs(delta.logprobs, self.top_logprobs)
            pieces = []
            if delta.reasoning:
                pieces.append(
                    ChunkDelta(reasoning_content=delta.reasoning, reasoning=delta.reasoning)
                )
            if delta.content:
                pieces.append(ChunkDelta(content=delta.content))
            if logprobs and not pieces:  # of tokens without text, as one that ends the answer
                pieces.append(ChunkDelta(content=""))
            for piece in pieces:
                yield self._chunk(delta.index, piece, logprobs=logprobs)
                logprobs = None
            if delta.finish_reason:
                yield self._chunk(delta.index, ChunkDelta(), delta.finish_reason)
        if self.include_usage:
            yield self._with_choices([], usage)

    def _chunk(
        self,
        index: int,
        delta: ChunkDelta,
        finish_reason: FinishReason | None = None,
        logprobs: Logprobs | None = None,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, finish_reason=finish_reason)
        if logprobs is not None:
            choice.logprobs = logprobs
        return self._with_choices([choice], None)

    def _with_choices(self, choices: list[ChunkChoice], usage: Usage | None) -> ChatCompletionChunk:
        chunk = ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            choices=choices,
        )
        if self.include_usage:
            chunk.usage = usage
        return chunk
