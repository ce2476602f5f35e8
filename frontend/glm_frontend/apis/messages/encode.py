"""An answer in Anthropic's form: whole, or as events in Anthropic's order."""

import base64
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import from_json

from glm_client import CallDelta, CallStart, FinishReason, TextDelta, ThoughtDelta
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
    PingEvent,
    SignatureDelta,
    StopDelta,
    TextBlock,
    TextBlockDelta,
    ThinkingBlock,
    ThinkingBlockDelta,
    ThinkingTokens,
    ToolUseBlock,
)
from glm_frontend.apis.shared.encoder import Encoder, new_call_id
from glm_frontend.core.events import AnswerEvent, Finish, TokenUsage
from glm_frontend.http.bodies import NamedEvent


class MessageEncoder(Encoder):
    """Makes one message. Its blocks come one after the other, none open beside another."""

    def __init__(self, model: str) -> None:
        self._id = f"msg_{uuid.uuid4().hex}"
        self._model = model
        self._has_begun = False
        self._index = -1  # of the latest block
        self._open: str | int | None = None  # "thinking", "text" or the index of a call
        self._thought = ""
        self._has_calls = False

    def whole(self, events: Sequence[AnswerEvent]) -> AssistantAnswer:
        """The fold of the stream's own events."""
        content: list[ContentBlock] = []
        arguments = ""
        stop: StopDelta | None = None
        for event in events:
            for told in self.add(event):
                match told:
                    case ContentBlockStartEvent(content_block=block):
                        content.append(block)
                        arguments = ""
                    case ContentBlockDeltaEvent(delta=InputJSONDelta(partial_json=piece)):
                        arguments += piece
                    case ContentBlockDeltaEvent(delta=delta):
                        _extend(content[-1], delta)
                    case ContentBlockStopEvent() if isinstance(content[-1], ToolUseBlock):
                        content[-1].input = _parsed(arguments)
                    case MessageDeltaEvent():
                        stop = told.delta
        return self._message(content, stop, events[-1].usage)

    def add(self, event: AnswerEvent) -> Iterator[NamedEvent]:
        if not self._has_begun:
            self._has_begun = True
            yield MessageStartEvent(
                type="message_start", message=self._message([], None, event.usage)
            )
            yield PingEvent(type="ping")
        match event.event:
            case ThoughtDelta(text):
                block = ThinkingBlock(type="thinking", thinking="", signature="")
                yield from self._begin("thinking", block)
                self._thought += text
                yield self._delta(ThinkingBlockDelta(type="thinking_delta", thinking=text))
            case TextDelta(text) if text:
                yield from self._begin("text", TextBlock(type="text", text=""))
                yield self._delta(TextBlockDelta(type="text_delta", text=text))
            case CallStart(index, name):
                call = ToolUseBlock(type="tool_use", id=new_call_id(), name=name, input={})
                yield from self._begin(index, call)
                self._has_calls = True
            case CallDelta(_, arguments) if arguments:
                yield self._delta(InputJSONDelta(type="input_json_delta", partial_json=arguments))
            case Finish(reason, stop_reason):
                yield from self._close()
                yield MessageDeltaEvent(
                    type="message_delta",
                    delta=_stop(reason, stop_reason, self._has_calls),
                    usage=_usage(event.usage),
                )

    def end(self) -> Iterator[NamedEvent]:
        yield MessageStopEvent(type="message_stop")

    def _begin(self, key: str | int, block: ContentBlock) -> Iterator[NamedEvent]:
        """Open ``block``, unless it is open."""
        if self._open == key:
            return
        yield from self._close()
        self._open, self._thought = key, ""
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

    def _message(
        self, content: list[ContentBlock], stop: StopDelta | None, usage: TokenUsage
    ) -> AssistantAnswer:
        return AssistantAnswer(
            id=self._id,
            type="message",
            role="assistant",
            model=self._model,
            content=content,
            stop_reason=None if stop is None else stop.stop_reason,
            stop_sequence=None if stop is None else stop.stop_sequence,
            usage=_usage(usage),
        )


def _extend(block: ContentBlock, delta: BlockDelta) -> None:
    match block, delta:
        case ThinkingBlock(), ThinkingBlockDelta(thinking=thinking):
            block.thinking += thinking
        case ThinkingBlock(), SignatureDelta(signature=signature):
            block.signature = signature
        case TextBlock(), TextBlockDelta(text=text):
            block.text += text


def _parsed(arguments: str) -> dict[str, Any]:
    """The arguments; what is complete of them where the call was cut, as a stream's client gets."""
    try:
        whole: dict[str, Any] = json.loads(arguments)
    except ValueError:
        whole = from_json(arguments or "{}", allow_partial=True)
    return whole


def _stop(reason: FinishReason, stop_reason: str | int | None, has_calls: bool) -> StopDelta:
    if reason == "length":
        return StopDelta(stop_reason="max_tokens", stop_sequence=None)
    if isinstance(stop_reason, str):
        return StopDelta(stop_reason="stop_sequence", stop_sequence=stop_reason)
    return StopDelta(stop_reason="tool_use" if has_calls else "end_turn", stop_sequence=None)


def _usage(usage: TokenUsage) -> MessageUsage:
    return MessageUsage(
        input_tokens=usage.prompt - usage.cached,
        cache_creation_input_tokens=0,
        cache_read_input_tokens=usage.cached,
        output_tokens=usage.completion,
        output_tokens_details=ThinkingTokens(thinking_tokens=usage.reasoning),
    )


def _signature(thought: str) -> str:
    """Clients take a thought without a signature for one that is not to be sent back."""
    return base64.b64encode(hashlib.sha256(thought.encode()).digest()).decode()
