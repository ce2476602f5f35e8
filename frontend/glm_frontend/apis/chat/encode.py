"""A streamed answer in OpenAI's order: role, content, finish reason, usage."""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from glm_client import FinishReason
from glm_frontend.apis.chat import schema as schemas
from glm_frontend.apis.chat.schema import (
    AnswerFinishReason,
    ChatCompletionChunk,
    ChunkChoice,
    ChunkDelta,
    FunctionCallDelta,
    Logprobs,
    PictureBox,
)
from glm_frontend.apis.shared.logprobs import to_logprobs
from glm_frontend.apis.shared.schema import Usage
from glm_frontend.core.boxes import Box
from glm_frontend.core.generation import AnswerDelta
from glm_frontend.core.tool_calls import ToolCallDelta


@dataclass(frozen=True, slots=True)
class ChunkWriter:
    """Makes the chunks of one answer.

    Attributes:
        include_usage: whether one more chunk has the usage (and all others a null there).
        continuous_usage: whether all chunks have the usage so far.
        num_choices: answers that there will be.
        top_logprobs: how many of the likeliest tokens are told.
    """

    id: str
    created: int
    model: str
    include_usage: bool
    continuous_usage: bool = False
    num_choices: int = 1
    top_logprobs: int = 0

    async def write(
        self, deltas: AsyncIterable[AnswerDelta]
    ) -> AsyncGenerator[ChatCompletionChunk]:
        """All chunks of the answers."""
        for index in range(self.num_choices):
            yield self._chunk(index, ChunkDelta(role="assistant", content=""))
        usage: Usage | None = None
        calling: set[int] = set()  # answers that have tool calls
        async for delta in deltas:
            if delta.tool_calls:
                calling.add(delta.index)
            usage = delta.usage or usage
            logprobs = to_logprobs(delta.logprobs, self.top_logprobs)
            pieces = []
            if delta.reasoning:
                pieces.append(
                    ChunkDelta(reasoning_content=delta.reasoning, reasoning=delta.reasoning)
                )
            if delta.content:
                pieces.append(ChunkDelta(content=delta.content))
            pieces += [ChunkDelta(tool_calls=[_call(call)]) for call in delta.tool_calls]
            if delta.boxes is not None:
                pieces.append(ChunkDelta(boxes=to_boxes(delta.boxes)))
            if logprobs and not pieces:  # of tokens without text, as one that ends the answer
                pieces.append(ChunkDelta(content=""))
            for piece in pieces:
                yield self._chunk(delta.index, piece, logprobs=logprobs, usage=usage)
                logprobs = None
            if delta.finish_reason:
                reason = answer_finish_reason(delta.finish_reason, delta.index in calling)
                end = self._chunk(delta.index, ChunkDelta(), reason, usage=usage)
                if delta.stop_reason is not None:
                    end.choices[0].stop_reason = delta.stop_reason
                yield end
        if self.include_usage:
            yield self._with_choices([], usage)

    def _chunk(
        self,
        index: int,
        delta: ChunkDelta,
        finish_reason: AnswerFinishReason | None = None,
        logprobs: Logprobs | None = None,
        usage: Usage | None = None,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, finish_reason=finish_reason)
        if logprobs is not None:
            choice.logprobs = logprobs
        return self._with_choices([choice], usage if self.continuous_usage else None)

    def _with_choices(self, choices: list[ChunkChoice], usage: Usage | None) -> ChatCompletionChunk:
        chunk = ChatCompletionChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.model,
            system_fingerprint=system_fingerprint(self.model),
            choices=choices,
        )
        if self.include_usage or usage is not None:
            chunk.usage = usage
        return chunk


def to_boxes(boxes: Sequence[Box]) -> list[PictureBox]:
    """Boxes in the answer's form."""
    return [PictureBox(box=box.pixels, label=box.label) for box in boxes]


@cache
def system_fingerprint(model: str) -> str:
    """Stands for what answers: this server's version with this model."""
    release = f"{version('glm-triton-server')} {model}"
    return f"fp_{hashlib.sha256(release.encode()).hexdigest()[:10]}"


def answer_finish_reason(reason: FinishReason, has_calls: bool) -> AnswerFinishReason:
    """The model's reason in OpenAI's terms: an answer that ends in calls has one of its own."""
    return "tool_calls" if has_calls and reason == "stop" else reason


def _call(call: ToolCallDelta) -> schemas.ToolCallDelta:
    if call.name is None:
        function = FunctionCallDelta(arguments=call.arguments)
        return schemas.ToolCallDelta(index=call.index, function=function)
    function = FunctionCallDelta(name=call.name, arguments=call.arguments)
    return schemas.ToolCallDelta(index=call.index, id=call.id, type="function", function=function)
