"""From a checked request of the Responses API to the one request of all APIs.

There, what an assistant thought, said and called is one message; here it is an item each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from glm_frontend.apis.responses.schema import (
    FunctionCallBack,
    FunctionCallOutput,
    InputContent,
    InputItem,
    InputMessage,
    InputPart,
    ReasoningBack,
    ResponsesRequest,
)
from glm_frontend.apis.shared.schema import as_wire_tool
from glm_frontend.core.conversation import Content, ConversationBuilder, Part, PastCall
from glm_frontend.core.request import WIRE_SAMPLING, AnswerRequest, of_conversation
from glm_frontend.media.fetch import Picture


def decode(body: ResponsesRequest) -> AnswerRequest:
    """The request that ``body`` makes.

    Raises:
        APIError: an output in ``input`` has no call.
    """
    conversation = ConversationBuilder()
    if body.instructions is not None:
        where = "instructions"
        conversation.add("system", body.instructions, where, content_path=where)
    add_input(conversation, body.input)
    renamed = {"messages": "input"} | body.renamed()
    for number, (place, _) in enumerate(body.offered_tools()):
        renamed[f"tools[{number}].function"] = renamed[f"tools[{number}]"] = f"tools[{place}]"
    if body.max_output_tokens is not None:
        renamed[f"{WIRE_SAMPLING}max_tokens"] = "max_output_tokens"
    return of_conversation(
        conversation,
        renamed,
        sampling_parameters=body.sampling_parameters(),
        template_kwargs=body.template_kwargs(),
        tools=_tools(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )


def add_input(conversation: ConversationBuilder, given: str | Sequence[InputItem]) -> None:
    """Add what ``input`` has to a conversation.

    Raises:
        APIError: an output has no call.
    """
    if isinstance(given, str):
        conversation.add("user", given, "input", content_path="input")
    else:
        _add_items(conversation, given)


@dataclass(slots=True)
class _Turn:
    """The assistant's, of all items that are one turn."""

    path: str
    thoughts: list[str] = field(default_factory=list)
    thought_path: str | None = None
    content: Content = None
    content_path: str | None = None
    calls: list[PastCall] = field(default_factory=list)

    @property
    def has_only_thought(self) -> bool:
        return self.content_path is None and not self.calls

    def add_to(self, conversation: ConversationBuilder) -> None:
        conversation.add(
            "assistant",
            self.content,
            self.path,
            content_path=self.content_path,
            thought="\n".join(self.thoughts) if self.thoughts else None,
            thought_path=self.thought_path,
            calls=self.calls,
        )


def _add_items(conversation: ConversationBuilder, items: Sequence[InputItem]) -> None:
    turn: _Turn | None = None

    def end_turn() -> None:
        nonlocal turn
        if turn is not None:
            turn.add_to(conversation)
        turn = None

    for number, item in enumerate(items):
        path = f"input[{number}]"
        match item:
            case ReasoningBack():
                if not item.text:
                    continue
                if turn is None or not turn.has_only_thought:
                    end_turn()
                    turn = _Turn(path)
                turn.thoughts.append(item.text)
                turn.thought_path = path
            case InputMessage(role="assistant"):
                if turn is None or not turn.has_only_thought:
                    end_turn()
                    turn = _Turn(path)
                turn.content_path = f"{path}.content"
                turn.content = _content(item.content, turn.content_path)
            case FunctionCallBack():
                turn = turn or _Turn(path)
                turn.calls.append(PastCall(item.call_id, item.name, item.arguments, path))
            case FunctionCallOutput():
                end_turn()
                conversation.add_result(
                    item.call_id,
                    _content(item.output, f"{path}.output"),
                    path,
                    id_path=f"{path}.call_id",
                    content_path=f"{path}.output",
                )
            case InputMessage():
                end_turn()
                role = "system" if item.role == "developer" else item.role
                conversation.add(role, _content(item.content, f"{path}.content"), path)
    end_turn()


def _content(content: InputContent, path: str) -> Content:
    if isinstance(content, str):
        return content
    return [read_part(part, f"{path}[{i}]") for i, part in enumerate(content)]


def read_part(part: InputPart, path: str) -> Part:
    """A part of a message; ``path`` is where it stands."""
    if part.type != "input_image":
        return Part(part.text, path)
    return Part(
        Picture(part.image_url, f"{path}.image_url", plain_base64=True, max_pixels=part.max_pixels),
        path,
    )


def _tools(body: ResponsesRequest) -> list[dict[str, Any]]:
    return [as_wire_tool(tool) for _, tool in body.offered_tools()]
