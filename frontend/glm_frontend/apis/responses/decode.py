"""From a checked request of the Responses API to the one request of all APIs.

There, what an assistant thought, said and called is one message; here it is an item each.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from glm_frontend.apis.responses.schema import (
    CompactRequest,
    FunctionCallBack,
    FunctionCallOutput,
    InputContent,
    InputItem,
    InputMessage,
    InputPart,
    ReasoningBack,
    ResponsesRequest,
    known_name,
)
from glm_frontend.apis.shared.schema import as_wire_tool
from glm_frontend.core.conversation import Content, ConversationBuilder, Part, PastCall
from glm_frontend.core.request import WIRE_SAMPLING, AnswerRequest, of_conversation
from glm_frontend.media.fetch import Picture

SUMMARISE = (
    "Summarise our conversation so far, for somebody who goes on with it without having read it: "
    "what was asked for, what was found out, decided and done, names, numbers and paths exactly, "
    "and what is left to do. Write nothing but the summary."
)
_SUMMARY_TOKENS = 2048


def decode(body: ResponsesRequest) -> AnswerRequest:
    """The request that ``body`` makes.

    Raises:
        APIError: an output in ``input`` has no call.
    """
    conversation = _conversation(body)
    renamed = {"messages": "input"} | body.renamed()
    for number, tool in enumerate(body.offered_tools()):
        renamed[f"tools[{number}].function"] = renamed[f"tools[{number}]"] = tool.path
    if body.max_output_tokens is not None:
        renamed[f"{WIRE_SAMPLING}max_tokens"] = "max_output_tokens"
    return of_conversation(
        conversation,
        renamed,
        sampling_parameters=body.sampling_parameters(),
        cache_salt=body.cache_salt or "",
        template_kwargs=body.template_kwargs(),
        tools=_tools(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )


def decode_compaction(body: CompactRequest) -> AnswerRequest:
    """The request whose answer is the summary of a conversation.

    Raises:
        APIError: an output in ``input`` has no call.
    """
    conversation = _conversation(body)
    conversation.add("user", SUMMARISE, "input", content_path="input")
    return of_conversation(
        conversation,
        {"messages": "input"},
        sampling_parameters={"max_tokens": _SUMMARY_TOKENS, "truncate_max_tokens": True},
        template_kwargs={"enable_thinking": False},
    )


def _conversation(body: ResponsesRequest | CompactRequest) -> ConversationBuilder:
    conversation = ConversationBuilder()
    if body.instructions is not None:
        where = "instructions"
        conversation.add("system", body.instructions, where, content_path=where)
    add_input(conversation, body.input)
    return conversation


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
                name = known_name(item.name, item.namespace)
                turn.calls.append(PastCall(item.call_id, name, item.arguments, path))
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
        Picture(part.image_url, f"{path}.image_url", max_pixels=part.max_pixels),
        path,
    )


def _tools(body: ResponsesRequest) -> list[dict[str, Any]]:
    return [
        as_wire_tool(tool.function.model_copy(update={"name": tool.name}))
        for tool in body.offered_tools()
    ]
