"""The events of a streamed response, in OpenAI's form.

Two tell that it begins. Every item of the output is added, told piece by piece, and done, one after
another. One event tells how the response has ended.
"""

from typing import Annotated, Literal

from pydantic import Field

from glm_frontend.apis.responses.schema import OutputItem, OutputText, ReasoningText, ResponseObject
from glm_frontend.apis.shared.schema import ChatCompletionTokenLogprob
from glm_frontend.http.bodies import NamedEvent


class NumberedEvent(NamedEvent):
    """What all events have."""

    sequence_number: int = Field(description="Counts from 0.")


class LifecycleEvent(NumberedEvent):
    """The response begins, and ends in one of the last three."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class OutputItemEvent(NumberedEvent):
    """An item of the output begins, or ends."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class PartEvent(NumberedEvent):
    """An event about one part of one item."""

    item_id: str
    output_index: int
    content_index: int


class ContentPartEvent(PartEvent):
    """A part of a message or of a thought begins, or ends."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class ReasoningTextDelta(PartEvent):
    """The next piece of a thought."""

    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningTextDone(PartEvent):
    """A thought is complete."""

    type: Literal["response.reasoning_text.done"]
    text: str


class OutputTextDelta(PartEvent):
    """The next piece of the answer's text."""

    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[ChatCompletionTokenLogprob]


class OutputTextDone(PartEvent):
    """The answer's text is complete."""

    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[ChatCompletionTokenLogprob]


class FunctionCallArgumentsDelta(NumberedEvent):
    """The next piece of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    item_id: str
    output_index: int
    delta: str


class FunctionCallArgumentsDone(NumberedEvent):
    """A call's arguments are complete."""

    type: Literal["response.function_call_arguments.done"]
    item_id: str
    output_index: int
    arguments: str


class ErrorEvent(NumberedEvent):
    """What went wrong after the stream began; `response.failed` follows."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None


RESPONSE_EVENTS = (
    LifecycleEvent,
    OutputItemEvent,
    ContentPartEvent,
    ReasoningTextDelta,
    ReasoningTextDone,
    OutputTextDelta,
    OutputTextDone,
    FunctionCallArgumentsDelta,
    FunctionCallArgumentsDone,
    ErrorEvent,
)
