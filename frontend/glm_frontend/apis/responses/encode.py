"""An answer as a response of OpenAI's Responses API, whole or as the events of a stream."""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, Literal

from glm_client import CallDelta, CallStart, TextDelta, ThoughtDelta, TokenLogprobs
from glm_frontend.apis.responses.events import (
    ContentPartEvent,
    ErrorEvent,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    LifecycleEvent,
    NumberedEvent,
    OutputItemEvent,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
)
from glm_frontend.apis.responses.schema import (
    AllowedFunctions,
    CompactedResponse,
    CompactionItem,
    FunctionCallItem,
    FunctionChoice,
    FunctionTool,
    FunctionTools,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    JSONSchema,
    KnownFunction,
    MessageItem,
    Namespace,
    NamespaceEcho,
    OutputItem,
    OutputText,
    OutputTokensDetails,
    PlainText,
    ReasoningEcho,
    ReasoningItem,
    ReasoningText,
    ResponseError,
    ResponseObject,
    ResponsesRequest,
    ResponseStatus,
    ResponseUsage,
    TextEcho,
    TextFormat,
    ToolEcho,
    as_compaction,
    known_functions,
)
from glm_frontend.apis.shared.encoder import Encoder, new_call_id
from glm_frontend.apis.shared.logprobs import to_logprobs
from glm_frontend.apis.shared.schema import ChatCompletionTokenLogprob, numbered
from glm_frontend.core.events import AnswerEvent, Finish, TokenUsage, fold
from glm_frontend.errors import APIError


class ResponseEncoder(Encoder):
    """Makes one response.

    Args:
        defaults: the checkpoint's own, by the names of sampling parameters.
    """

    def __init__(self, body: ResponsesRequest, defaults: Mapping[str, float]) -> None:
        self._body = body
        self._defaults = defaults
        self._id = _new_id("resp")
        self._created_at = int(time.time())
        self._numbers = count()
        self._done: list[OutputItem] = []
        self._open: _OpenItem | None = None
        self._status: Literal["completed", "incomplete"] = "completed"
        self._usage: TokenUsage | None = None
        self._logprobs: list[TokenLogprobs] = []  # of the text, not sent yet
        self._functions = {tool.name: tool for tool in known_functions(body.tools)}

    def whole(self, events: Sequence[AnswerEvent]) -> ResponseObject:
        """The response with which a stream of the same events ends."""
        for event in events:
            for _ in self.add(event):
                pass
        return self._response(self._status)

    def begin(self) -> Iterator[NumberedEvent]:
        yield self._lifecycle("response.created", "in_progress")
        yield self._lifecycle("response.in_progress", "in_progress")

    def end(self) -> Iterator[NumberedEvent]:
        yield self._lifecycle(f"response.{self._status}", self._status)

    def failed(self, error: APIError) -> Iterator[NumberedEvent]:
        """The events after which no other comes, when ``write`` has failed."""
        yield ErrorEvent(
            type="error",
            sequence_number=next(self._numbers),
            code=error.code,
            message=error.message,
            param=error.param,
        )
        if self._open is not None:
            self._done.append(self._open.item("incomplete"))
        yield self._lifecycle("response.failed", "failed", error)

    def add(self, event: AnswerEvent) -> Iterator[NumberedEvent]:
        self._usage = event.usage
        match event.event:
            case ThoughtDelta(text):
                thought = self._open
                if not isinstance(thought, _Thought):
                    thought = _Thought(self._numbers)
                    yield from self._begin(thought)
                yield thought.add(text)
            case TextDelta(text, tokens):
                self._logprobs += tokens
                if not text:
                    return
                message = self._open
                if not isinstance(message, _Message):
                    message = _Message(self._numbers)
                    yield from self._begin(message)
                yield message.add(text, self._take_logprobs())
            case CallStart(_, name):
                called = self._functions.get(name)
                yield from self._begin(_CallItem(self._numbers, new_call_id(), name, called))
            case CallDelta(_, arguments) if arguments:
                assert isinstance(self._open, _CallItem)
                yield self._open.add(arguments)
            case Finish(reason):
                self._status = "incomplete" if reason == "length" else "completed"
                if isinstance(self._open, _Message):
                    self._open.logprobs += self._take_logprobs()
                yield from self._end(self._status)

    def _begin(self, item: "_OpenItem") -> Iterator[NumberedEvent]:
        yield from self._end("completed")
        item.index = len(self._done)
        self._open = item
        yield from item.begin()

    def _end(self, status: ItemStatus) -> Iterator[NumberedEvent]:
        if self._open is not None:
            yield from self._open.end(status)
            self._done.append(self._open.item(status))
            self._open = None

    def _take_logprobs(self) -> list[ChatCompletionTokenLogprob]:
        told = to_logprobs(self._logprobs, self._body.top_logprobs or 0)
        self._logprobs = []
        return [] if told is None else told.content

    def _lifecycle(
        self, kind: Any, status: ResponseStatus, error: APIError | None = None
    ) -> LifecycleEvent:
        return LifecycleEvent(
            type=kind,
            sequence_number=next(self._numbers),
            response=self._response(status, error),
        )

    def _response(self, status: ResponseStatus, error: APIError | None = None) -> ResponseObject:
        body = self._body
        reasoning, text = body.reasoning, body.text
        return ResponseObject(
            id=self._id,
            object="response",
            created_at=self._created_at,
            completed_at=int(time.time()) if status == "completed" else None,
            status=status,
            error=None if error is None else _error(error),
            incomplete_details=(
                IncompleteDetails(reason="max_output_tokens") if status == "incomplete" else None
            ),
            model=body.model,
            output=list(self._done),
            usage=None if self._usage is None else _usage(self._usage),
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens or body.max_tokens,
            max_tool_calls=None,
            metadata=body.metadata or {},
            parallel_tool_calls=body.parallel_tool_calls is not False,
            previous_response_id=None,
            background=False,
            store=False,
            reasoning=ReasoningEcho(
                effort=None if reasoning is None else reasoning.effort,
                summary=None if reasoning is None else reasoning.summary,
            ),
            temperature=_or(body.temperature, self._defaults.get("temperature", 1.0)),
            text=TextEcho(format=_format((text and text.format) or PlainText(type="text"))),
            tool_choice=_choice(body.tool_choice or "auto"),
            tools=_tools(body.tools),
            top_logprobs=body.top_logprobs or 0,
            top_p=_or(body.top_p, self._defaults.get("top_p", 1.0)),
            presence_penalty=_or(body.presence_penalty, 0.0),
            frequency_penalty=_or(body.frequency_penalty, 0.0),
            truncation="disabled",
            service_tier="default",
            prompt_cache_key=body.prompt_cache_key,
            safety_identifier=body.safety_identifier,
            user=body.user,
        )


def compacted(events: Sequence[AnswerEvent]) -> CompactedResponse:
    """A conversation whose summary these are all events of."""
    (answer,) = fold(events)
    item = CompactionItem(
        type="compaction", id=_new_id("cmp"), encrypted_content=as_compaction(answer.text)
    )
    return CompactedResponse(
        id=_new_id("resp"),
        object="response.compaction",
        created_at=int(time.time()),
        output=[item],
        usage=_usage(events[-1].usage),
    )


class _OpenItem(ABC):
    """An item of the output while it is written."""

    prefix: ClassVar[str]

    def __init__(self, numbers: Iterator[int]) -> None:
        self.id = _new_id(self.prefix)
        self.index = 0
        self.text = ""
        self.numbers = numbers

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem:
        """All of it so far."""

    def begin(self) -> Iterator[NumberedEvent]:
        """The events before its first piece."""
        yield self._event("response.output_item.added", "in_progress")

    def end(self, status: ItemStatus) -> Iterator[NumberedEvent]:
        """The events after its last piece."""
        yield self._event("response.output_item.done", status)

    def _event(
        self,
        kind: Literal["response.output_item.added", "response.output_item.done"],
        status: ItemStatus,
    ) -> OutputItemEvent:
        return OutputItemEvent(
            type=kind,
            sequence_number=next(self.numbers),
            output_index=self.index,
            item=self.item(status),
        )


class _ItemOfOnePart(_OpenItem):
    """A thought or a message, whose text is in its only part."""

    @abstractmethod
    def part(self) -> ReasoningText | OutputText:
        """All of it so far."""

    @abstractmethod
    def done(self) -> NumberedEvent:
        """The event that tells the whole text."""

    def begin(self) -> Iterator[NumberedEvent]:
        yield from super().begin()
        yield self._part_event("response.content_part.added")

    def end(self, status: ItemStatus) -> Iterator[NumberedEvent]:
        yield self.done()
        yield self._part_event("response.content_part.done")
        yield from super().end(status)

    def place(self) -> dict[str, Any]:
        """What tells the events of the part from those of others."""
        return {
            "sequence_number": next(self.numbers),
            "item_id": self.id,
            "output_index": self.index,
            "content_index": 0,
        }

    def _part_event(
        self, kind: Literal["response.content_part.added", "response.content_part.done"]
    ) -> ContentPartEvent:
        return ContentPartEvent(type=kind, **self.place(), part=self.part())


class _Thought(_ItemOfOnePart):
    prefix = "rs"

    def add(self, text: str) -> ReasoningTextDelta:
        self.text += text
        return ReasoningTextDelta(type="response.reasoning_text.delta", **self.place(), delta=text)

    def done(self) -> ReasoningTextDone:
        return ReasoningTextDone(
            type="response.reasoning_text.done", **self.place(), text=self.text
        )

    def part(self) -> ReasoningText:
        return ReasoningText(type="reasoning_text", text=self.text)

    def item(self, status: ItemStatus) -> ReasoningItem:
        return ReasoningItem(
            type="reasoning",
            id=self.id,
            status=status,
            summary=[],
            content=[self.part()] if self.text else [],
        )


class _Message(_ItemOfOnePart):
    prefix = "msg"

    def __init__(self, numbers: Iterator[int]) -> None:
        super().__init__(numbers)
        self.logprobs: list[ChatCompletionTokenLogprob] = []

    def add(self, text: str, logprobs: Sequence[ChatCompletionTokenLogprob]) -> OutputTextDelta:
        self.text += text
        self.logprobs += logprobs
        return OutputTextDelta(
            type="response.output_text.delta", **self.place(), delta=text, logprobs=list(logprobs)
        )

    def done(self) -> OutputTextDone:
        return OutputTextDone(
            type="response.output_text.done",
            **self.place(),
            text=self.text,
            logprobs=self.logprobs,
        )

    def part(self) -> OutputText:
        return OutputText(
            type="output_text", text=self.text, annotations=[], logprobs=self.logprobs
        )

    def item(self, status: ItemStatus) -> MessageItem:
        return MessageItem(
            type="message",
            id=self.id,
            status=status,
            role="assistant",
            content=[self.part()] if self.text else [],
        )


class _CallItem(_OpenItem):
    prefix = "fc"

    def __init__(
        self, numbers: Iterator[int], call_id: str, name: str, called: KnownFunction | None
    ) -> None:
        super().__init__(numbers)
        self._call_id = call_id
        self._name = name if called is None else called.function.name
        self._namespace = None if called is None else called.namespace

    def add(self, arguments: str) -> FunctionCallArgumentsDelta:
        self.text += arguments
        return FunctionCallArgumentsDelta(
            type="response.function_call_arguments.delta",
            sequence_number=next(self.numbers),
            item_id=self.id,
            output_index=self.index,
            delta=arguments,
        )

    def end(self, status: ItemStatus) -> Iterator[NumberedEvent]:
        yield FunctionCallArgumentsDone(
            type="response.function_call_arguments.done",
            sequence_number=next(self.numbers),
            item_id=self.id,
            output_index=self.index,
            arguments=self.text,
        )
        yield from super().end(status)

    def item(self, status: ItemStatus) -> FunctionCallItem:
        item = FunctionCallItem(
            type="function_call",
            id=self.id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments=self.text,
        )
        if self._namespace is not None:
            item.namespace = self._namespace
        return item


def _choice(given: FunctionChoice) -> FunctionChoice:
    """With what the request left open."""
    if not isinstance(given, AllowedFunctions):
        return given
    return given.model_copy(update={"mode": given.mode})


def _format(given: TextFormat) -> TextFormat:
    """With what the request left open."""
    if not isinstance(given, JSONSchema):
        return given
    told = {"name": given.name, "description": given.description, "strict": bool(given.strict)}
    return given.model_copy(update=told)


def _tools(tools: FunctionTools | None) -> list[ToolEcho | NamespaceEcho]:
    own: list[tuple[int, FunctionTool | Namespace]] = numbered(tools)
    return [_tool(tool) for _, tool in own]


def _tool(tool: FunctionTool | Namespace) -> ToolEcho | NamespaceEcho:
    if isinstance(tool, Namespace):
        return NamespaceEcho(
            type="namespace",
            name=tool.name,
            description=tool.description,
            tools=[_function(one) for _, one in numbered(tool.tools)],
        )
    return _function(tool)


def _function(tool: FunctionTool) -> ToolEcho:
    return ToolEcho(
        type="function",
        name=tool.name,
        description=tool.description,
        parameters=tool.parameters,
        strict=bool(tool.strict),
    )


def _or(given: float | None, default: float) -> float:
    return default if given is None else given


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"


def _error(error: APIError) -> ResponseError:
    codes: dict[str, Any] = {
        "rate_limit_error": "rate_limit_exceeded",
        "invalid_request_error": "invalid_prompt",
    }
    return ResponseError(code=codes.get(error.code.type, "server_error"), message=error.message)


def _usage(usage: TokenUsage) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt,
        input_tokens_details=InputTokensDetails(
            cached_tokens=usage.cached, cache_write_tokens=0, image_tokens=usage.image
        ),
        output_tokens=usage.completion,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning),
        total_tokens=usage.prompt + usage.completion,
    )
