"""A streamed answer in OpenAI's order: role, content, finish reason, usage."""

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass

from glm_client import FinishReason
from glm_frontend.answers import AnswerDelta
from glm_frontend.schemas.chat import ChatCompletionChunk, ChunkChoice, ChunkDelta
from glm_frontend.schemas.common import Usage


@dataclass(frozen=True, slots=True)
class ChunkWriter:
    """Makes the chunks of one answer.

    Attributes:
        include_usage: whether one more chunk has the usage (and all others a null there).
    """

    id: str
    created: int
    model: str
    include_usage: bool

    async def write(
        self, deltas: AsyncIterable[AnswerDelta]
    ) -> AsyncGenerator[ChatCompletionChunk]:
        """All chunks of the answer."""
        yield self._chunk(ChunkDelta(role="assistant", content=""))
        usage: Usage | None = None
        finish_reason: FinishReason | None = None
        async for delta in deltas:
            if delta.reasoning:
                yield self._chunk(ChunkDelta(reasoning_content=delta.reasoning))
            if delta.content:
                yield self._chunk(ChunkDelta(content=delta.content))
            finish_reason, usage = delta.finish_reason, delta.usage
        yield self._chunk(ChunkDelta(), finish_reason)
        if self.include_usage:
            yield self._with_choices([], usage)

    def _chunk(
        self, delta: ChunkDelta, finish_reason: FinishReason | None = None
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=0, delta=delta, finish_reason=finish_reason)
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
