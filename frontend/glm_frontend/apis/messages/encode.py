"""An answer in Anthropic's form: whole, or as events in Anthropic's order."""

import base64
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from itertools import groupby
from typing import Any

from pydantic_core import from_json

from glm_client import FinishReason
from glm_frontend.apis.messages.schema import (
    AssistantAnswer,
    BlockDelta,
    ContentBlock,
    ContentBlockDeltaEvent,
    ContentBlockStartEvent,
    ContentBlockStopEvent,
    InputJSONDelta,
    MessageDeltaEvent,
    MessageStartEvent,
    MessageStopEvent,
    MessageUsage,
    OutputTokensDetails,
    PingEvent,
    SignatureDelta,
    StopDelta,
    TextBlock,
    TextDelta,
    ThinkingBlock,
    ThinkingDelta,
    ToolUseBlock,
)
from glm_frontend.apis.shared.schema import NamedEvent, Usage
from glm_frontend.core.generation import Answer, AnswerDelta
from glm_frontend.core.tool_calls import ToolCallDelta, joined


def whole_answer(id: str, model: str, answer: Answer) -> AssistantAnswer:
    """The whole of ``answer``, which has one choice."""
    (choice,) = answer.choices
    content: list[ContentBlock] = []
    calls = joined(choice.tool_calls)
    for kind, group in groupby(choice.pieces, key=_kind):
        pieces = list(group)
        if kind == "thinking":
            thought = "".join(piece.reasoning for piece in pieces)
            signature = _signature(thought)
            content.append(ThinkingBlock(type="thinking", thinking=thought, signature=signature))
        elif kind == "text":
            if text := "".join(piece.content for piece in pieces):
                content.append(TextBlock(type="text", text=text))
        else:
            call = calls[int(kind)]
            arguments = _parsed(call.arguments)
            content.append(
                ToolUseBlock(type="tool_use", id=call.id, name=call.name, input=arguments)
            )
    stop = _stop(choice.finish_reason, choice.stop_reason, bool(calls))
    return _answer(id, model, content, stop, answer.usage)


def _parsed(arguments: str) -> dict[str, Any]:
    """The arguments; what is complete of them where the call was cut, as a stream's client gets."""
    try:
        whole: dict[str, Any] = json.loads(arguments)
    except ValueError:
        whole = from_json(arguments or "{}", allow_partial=True)
    return whole


def _kind(piece: AnswerDelta) -> str | int:
    """The block that a piece belongs to: of a call its index."""
    if piece.tool_calls:
        return piece.tool_calls[0].index
    return "thinking" if piece.reasoning else "text"


class EventWriter:
    """Makes the events of one answer: the blocks' one after the other, none open beside another."""

    def __init__(self, id: str, model: str) -> None:
        self._id = id
        self._model = model
        self._index = -1  # of the latest block
        self._open: str | int | None = None  # "thinking", "text" or the index of a call
        self._thought = ""
        self._calls = False

    async def write(self, deltas: AsyncIterable[AnswerDelta]) -> AsyncGenerator[NamedEvent]:
        """All events of the answer."""
        is_first = True
        async for delta in deltas:
            if is_first and delta.usage:
                start = _answer(self._id, self._model, [], None, delta.usage)
                yield MessageStartEvent(type="message_start", message=start)
                yield PingEvent(type="ping")
                is_first = False
            for event in self._pieces(delta):
                yield event
            if delta.finish_reason and delta.usage:
                for event in self._close():
                    yield event
                yield MessageDeltaEvent(
                    type="message_delta",
                    delta=_stop(delta.finish_reason, delta.stop_reason, self._calls),
                    usage=_usage(delta.usage),
                )
        yield MessageStopEvent(type="message_stop")

    def _pieces(self, delta: AnswerDelta) -> Iterator[NamedEvent]:
        if delta.reasoning:
            self._thought += delta.reasoning
            block = ThinkingBlock(type="thinking", thinking="", signature="")
            yield from self._begin("thinking", block)
            yield self._delta(ThinkingDelta(type="thinking_delta", thinking=delta.reasoning))
        if delta.content:
            yield from self._begin("text", TextBlock(type="text", text=""))
            yield self._delta(TextDelta(type="text_delta", text=delta.content))
        for call in delta.tool_calls:
            yield from self._call(call)

    def _call(self, call: ToolCallDelta) -> Iterator[NamedEvent]:
        if call.id is not None and call.name is not None:
            block = ToolUseBlock(type="tool_use", id=call.id, name=call.name, input={})
            yield from self._begin(call.index, block)
            self._calls = True
        if call.arguments:
            delta = InputJSONDelta(type="input_json_delta", partial_json=call.arguments)
            yield self._delta(delta)

    def _begin(self, key: str | int, block: ContentBlock) -> Iterator[NamedEvent]:
        """Open ``block``, unless it is open."""
        if self._open == key:
            return
        yield from self._close()
        self._open = key
        self._index += 1
        yield ContentBlockStartEvent(
            type="content_block_start", index=self._index, content_block=block
        )

    def _delta(self, delta: BlockDelta) -> NamedEvent:
        return ContentBlockDeltaEvent(type="content_block_delta", index=self._index, delta=delta)

    def _close(self) -> Iterator[NamedEvent]:
        """Close the block that is open, if there is one."""
        if self._open == "thinking":
            signature = _signature(self._thought)
            yield self._delta(SignatureDelta(type="signature_delta", signature=signature))
        if self._open is not None:
            yield ContentBlockStopEvent(type="content_block_stop", index=self._index)
        self._open = None


def _answer(
    id: str, model: str, content: list[ContentBlock], stop: StopDelta | None, usage: Usage
) -> AssistantAnswer:
    return AssistantAnswer(
        id=id,
        type="message",
        role="assistant",
        model=model,
        content=content,
        stop_reason=None if stop is None else stop.stop_reason,
        stop_sequence=None if stop is None else stop.stop_sequence,
        usage=_usage(usage),
    )


def _stop(reason: FinishReason, stop_reason: str | int | None, has_calls: bool) -> StopDelta:
    if reason == "length":
        return StopDelta(stop_reason="max_tokens", stop_sequence=None)
    if isinstance(stop_reason, str):
        return StopDelta(stop_reason="stop_sequence", stop_sequence=stop_reason)
    return StopDelta(stop_reason="tool_use" if has_calls else "end_turn", stop_sequence=None)


def _usage(usage: Usage) -> MessageUsage:
    cached = usage.prompt_tokens_details.cached_tokens
    thought = usage.completion_tokens_details.reasoning_tokens
    return MessageUsage(
        input_tokens=usage.prompt_tokens - cached,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=cached,
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(thinking_tokens=thought),
    )


def _signature(thought: str) -> str:
    """Clients take a thought without a signature for one that is not to be sent back."""
    return base64.b64encode(hashlib.sha256(thought.encode()).digest()).decode()
