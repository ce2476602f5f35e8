"""From a checked request of the Responses API to the model server's request.

There, what an assistant thought, said and called is one message; here it is an item each.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
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
from glm_frontend.core.request import Translation, renamed_structure
from glm_frontend.errors import invalid
from glm_frontend.media.fetch import Picture


def translate_responses(body: ResponsesRequest) -> Translation:
    """The translation of a request of the Responses API.

    Raises:
        APIError: an output in ``input`` has no call.
    """
    conversation = _Conversation()
    if body.instructions is not None:
        conversation.say("system", body.instructions, "instructions")
    if isinstance(body.input, str):
        conversation.say("user", body.input, "input")
    else:
        for i, item in _in_call_order(body.input):
            conversation.add(item, f"input[{i}]")
    renamed = conversation.renamed | renamed_structure(body)
    renamed |= {f"tools[{i}].function": f"tools[{i}]" for i in range(len(body.tools or []))}
    if body.max_output_tokens is not None:
        renamed["sampling_parameters.max_tokens"] = "max_output_tokens"
    return Translation(
        prompt={"messages": conversation.messages},
        pictures=conversation.pictures,
        sampling_parameters=body.sampling_parameters(),
        template_kwargs=body.template_kwargs(),
        # The longest first: what is renamed as a whole may have parts with other names.
        renamed=dict(sorted(renamed.items(), key=lambda pair: -len(pair[0]))),
        tools=_tools(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )


class _Conversation:
    """Messages as the model server takes them, their pictures, and where each comes from."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.pictures: list[Picture] = []
        self.renamed = {"messages": "input"}
        self._turn: dict[str, Any] | None = None  # the assistant's, while it may go on

    def say(self, role: str, text: str, path: str) -> None:
        """Add a message that the request has as no more than a text."""
        wire = self._append({"role": role, "content": text}, path)
        self.renamed[f"{wire}.content"] = path

    def add(self, item: InputItem, path: str) -> None:
        """Add an item of the input."""
        match item:
            case ReasoningBack():
                if not item.text:
                    return
                turn, wire = self._assistant(path, goes_on=self._has_only_thought())
                thoughts = [turn["reasoning_content"]] if "reasoning_content" in turn else []
                turn["reasoning_content"] = "\n".join([*thoughts, item.text])
                self.renamed[f"{wire}.reasoning_content"] = path
            case InputMessage(role="assistant"):
                turn, wire = self._assistant(path, goes_on=self._has_only_thought())
                turn["content"] = self._content(item.content, f"{path}.content")
                self.renamed[f"{wire}.content"] = f"{path}.content"
            case FunctionCallBack():
                turn, wire = self._assistant(path, goes_on=self._turn is not None)
                calls = turn.setdefault("tool_calls", [])
                self.renamed[f"{wire}.tool_calls[{len(calls)}].function"] = path
                function = {"name": item.name, "arguments": item.arguments}
                calls.append({"id": item.call_id, "type": "function", "function": function})
            case FunctionCallOutput():
                output = self._content(item.output, f"{path}.output")
                wire = self._append({"role": "tool", "content": output}, path)
                self.renamed[f"{wire}.content"] = f"{path}.output"
            case InputMessage():
                role = "system" if item.role == "developer" else item.role
                content = self._content(item.content, f"{path}.content")
                self._append({"role": role, "content": content}, path)

    def _append(self, message: dict[str, Any], path: str) -> str:
        wire = f"messages[{len(self.messages)}]"
        self.messages.append(message)
        self.renamed[wire] = path
        self._turn = None
        return wire

    def _has_only_thought(self) -> bool:
        turn = self._turn
        return turn is not None and turn["content"] is None and "tool_calls" not in turn

    def _assistant(self, path: str, *, goes_on: bool) -> tuple[dict[str, Any], str]:
        """The assistant's turn, another one unless the last ``goes_on``, and its wire name."""
        if not goes_on or self._turn is None:
            turn: dict[str, Any] = {"role": "assistant", "content": None}
            self._append(turn, path)
            self._turn = turn
        return self._turn, f"messages[{len(self.messages) - 1}]"

    def _content(self, content: InputContent, path: str) -> str | list[dict[str, Any]]:
        if isinstance(content, str):
            return content
        return [self._part(part, f"{path}[{i}]") for i, part in enumerate(content)]

    def _part(self, part: InputPart, path: str) -> dict[str, Any]:
        if part.type != "input_image":
            return {"type": "text", "text": part.text}
        self.pictures.append(
            Picture(part.image_url, f"{path}.image_url", max_pixels=part.max_pixels)
        )
        return {"type": "image"}


def _in_call_order(items: Sequence[InputItem]) -> Iterator[tuple[int, InputItem]]:
    """The items with their indices, outputs that stand together in the order of their calls.

    GLM's prompt has no ids by which the model could tell whose output it is.

    Raises:
        APIError: an output has no call before it.
    """
    calls: dict[str, int] = {}
    for i, item in enumerate(items):
        if isinstance(item, FunctionCallBack):
            calls[item.call_id] = i
        elif isinstance(item, FunctionCallOutput) and item.call_id not in calls:
            raise invalid(
                f"input[{i}].call_id",
                "there is no function_call with it before",
            )

    def place(numbered: tuple[int, InputItem]) -> int:
        i, item = numbered
        return calls[item.call_id] if isinstance(item, FunctionCallOutput) else i

    for _, run in groupby(enumerate(items), lambda pair: isinstance(pair[1], FunctionCallOutput)):
        yield from sorted(run, key=place)


def _tools(body: ResponsesRequest) -> list[dict[str, Any]]:
    if body.tool_choice == "none":
        return []
    return [
        {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_unset=True)}
        for tool in body.tools or []
    ]
