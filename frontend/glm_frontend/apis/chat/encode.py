"""An answer as a chat completion: whole, or in OpenAI's order of chunks."""

import time
import uuid
from collections.abc import Iterator, Sequence

from glm_client import CallDelta, CallStart, FinishReason, TextDelta, ThoughtDelta
from glm_frontend.apis.chat.schema import (
    AnswerFinishReason,
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChunkChoice,
    ChunkDelta,
    FunctionCall,
    FunctionCallDelta,
    MessageToolCall,
    PictureBox,
    ToolCallDelta,
)
from glm_frontend.apis.shared.encoder import Encoder, new_call_id, system_fingerprint
from glm_frontend.apis.shared.logprobs import to_logprobs, to_prompt_logprobs
from glm_frontend.apis.shared.schema import Logprobs, Usage
from glm_frontend.core.boxes import Box
from glm_frontend.core.events import AnswerEvent, Finish, TokenUsage, WholeAnswer, fold


class ChatEncoder(Encoder):
    """Makes one chat completion."""

    def __init__(self, body: ChatCompletionRequest) -> None:
        options = body.stream_options
        self._body = body
        self._id, self._created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
        # One more chunk has the usage, and all others a null there.
        self._include_usage = options is not None and bool(options.include_usage)
        self._continuous_usage = options is not None and bool(options.continuous_usage_stats)
        self._calling: set[int] = set()  # answers that have calls
        self._usage: TokenUsage | None = None

    def whole(self, events: Sequence[AnswerEvent]) -> ChatCompletion:
        answers = fold(events)
        whole = ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._body.model,
            system_fingerprint=system_fingerprint(self._body.model),
            choices=[self._choice(index, answer) for index, answer in enumerate(answers)],
            usage=Usage.of(events[-1].usage),
        )
        if (top := self._body.prompt_logprobs) is not None:
            whole.prompt_logprobs = to_prompt_logprobs(answers[0].prompt_logprobs, top)
        return whole

    def begin(self) -> Iterator[ChatCompletionChunk]:
        for index in range(self._body.n or 1):
            yield self._chunk(index, ChunkDelta(role="assistant", content=""))

    def add(self, event: AnswerEvent) -> Iterator[ChatCompletionChunk]:
        self._usage, index = event.usage, event.choice
        match event.event:
            case ThoughtDelta(text) if self._body.shows_thought:
                yield self._chunk(index, ChunkDelta(reasoning_content=text, reasoning=text))
            case TextDelta(text, tokens):
                logprobs = to_logprobs(tokens, self._body.top_logprobs or 0)
                yield self._chunk(index, ChunkDelta(content=text), logprobs=logprobs)
            case CallStart(call, name):
                self._calling.add(index)
                function = FunctionCallDelta(name=name, arguments="")
                delta = ToolCallDelta(
                    index=call, id=new_call_id(), type="function", function=function
                )
                yield self._chunk(index, ChunkDelta(tool_calls=[delta]))
            case CallDelta(call, arguments):
                function = FunctionCallDelta(arguments=arguments)
                delta = ToolCallDelta(index=call, function=function)
                yield self._chunk(index, ChunkDelta(tool_calls=[delta]))
            case Finish(reason, stop_reason, boxes):
                if boxes is not None:
                    yield self._chunk(index, ChunkDelta(boxes=_boxes(boxes)))
                end = self._chunk(
                    index, ChunkDelta(), _finish_reason(reason, index in self._calling)
                )
                if stop_reason is not None:
                    end.choices[0].stop_reason = stop_reason
                yield end

    def end(self) -> Iterator[ChatCompletionChunk]:
        if self._include_usage:
            yield self._with_choices([], self._usage)

    def _choice(self, index: int, answer: WholeAnswer) -> Choice:
        calls = [
            MessageToolCall(
                id=new_call_id(),
                type="function",
                function=FunctionCall(name=call.name, arguments=call.arguments),
            )
            for call in answer.calls
        ]
        content = answer.text or (None if calls else "")
        message = AssistantMessage(role="assistant", content=content, refusal=None)
        if calls:
            message.tool_calls = calls
        if answer.thought and self._body.shows_thought:
            message.reasoning_content = message.reasoning = answer.thought
        if answer.finish.boxes is not None:
            message.boxes = _boxes(answer.finish.boxes)
        choice = Choice(
            index=index,
            message=message,
            logprobs=None,
            finish_reason=_finish_reason(answer.finish.reason, bool(calls)),
        )
        if answer.finish.stop_reason is not None:
            choice.stop_reason = answer.finish.stop_reason
        if self._body.logprobs:
            choice.logprobs = to_logprobs(answer.logprobs, self._body.top_logprobs or 0)
        return choice

    def _chunk(
        self,
        index: int,
        delta: ChunkDelta,
        finish_reason: AnswerFinishReason | None = None,
        logprobs: Logprobs | None = None,
    ) -> ChatCompletionChunk:
        choice = ChunkChoice(index=index, delta=delta, finish_reason=finish_reason)
        if logprobs is not None:
            choice.logprobs = logprobs
        return self._with_choices([choice], self._usage if self._continuous_usage else None)

    def _with_choices(
        self, choices: list[ChunkChoice], usage: TokenUsage | None
    ) -> ChatCompletionChunk:
        chunk = ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._body.model,
            system_fingerprint=system_fingerprint(self._body.model),
            choices=choices,
        )
        if self._include_usage or usage is not None:
            chunk.usage = None if usage is None else Usage.of(usage)
        return chunk


def _boxes(boxes: Sequence[Box]) -> list[PictureBox]:
    return [PictureBox(box=box.pixels, label=box.label) for box in boxes]


def _finish_reason(reason: FinishReason, has_calls: bool) -> AnswerFinishReason:
    """The model's reason in OpenAI's terms: an answer that ends in calls has one of its own."""
    return "tool_calls" if has_calls and reason == "stop" else reason
