"""From a checked Anthropic request to the model server's request: the same one as a chat's."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from glm_frontend.apis.messages.schema import (
    AssistantTurn,
    Base64Source,
    CountTokensRequest,
    CustomTool,
    ImageBlockParam,
    MessagesRequest,
    TextBlockParam,
    ThinkingBlockParam,
    ToolChoice,
    ToolResultBlockParam,
    ToolUseBlockParam,
    UserTurn,
)
from glm_frontend.core.request import WIRE_SAMPLING, Translation
from glm_frontend.errors import invalid
from glm_frontend.media.fetch import Picture

ERROR_MARK = "Error: "

# A block and its path in the HTTP request.
Placed = tuple[TextBlockParam | ImageBlockParam, str]
Content = str | Sequence[Placed]


def translate_messages(body: MessagesRequest) -> Translation:
    """The translation of a request for an answer.

    Raises:
        APIError: 400, parts of it do not go together.
    """
    return replace(translate_prompt(body), sampling_parameters=_sampling_parameters(body))


def translate_prompt(body: CountTokensRequest) -> Translation:
    """The translation of a conversation alone.

    Raises:
        APIError: 400, parts of it do not go together.
    """
    conversation = _Conversation()
    if body.system:
        conversation.add("system", _placed(body.system, "system"), "system", "system")
    for i, turn in enumerate(body.messages):
        path = f"messages[{i}]"
        match turn:
            case UserTurn():
                conversation.add_user(turn, path)
            case AssistantTurn():
                conversation.add_assistant(turn, path)
            case _:
                content_path = f"{path}.content"
                content = _placed(turn.content, content_path)
                conversation.add("system", content, path, content_path)
    template_kwargs = {
        "enable_thinking": body.thinking is not None and body.thinking.type != "disabled"
    }
    continues = isinstance(body.messages[-1], AssistantTurn)
    if continues:
        template_kwargs["continue_final_message"] = True
    renamed = conversation.renamed | {
        f"{WIRE_SAMPLING}stop": "stop_sequences",
        f"{WIRE_SAMPLING}structured_outputs.json": "output_config.format.schema",
        f"{WIRE_SAMPLING}thinking_token_budget": "thinking.budget_tokens",
    }
    for i in range(len(body.tools or [])):
        renamed[f"tools[{i}].function.parameters"] = f"tools[{i}].input_schema"
        renamed[f"tools[{i}].function"] = f"tools[{i}]"
    choice = body.tool_choice
    return Translation(
        prompt={"messages": conversation.messages},
        pictures=conversation.pictures,
        sampling_parameters={},
        template_kwargs=template_kwargs,
        renamed=renamed,
        tools=_tools(body),
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
    )


def _sampling_parameters(body: MessagesRequest) -> dict[str, Any]:
    budget = None if body.thinking is None else body.thinking.budget_tokens
    if budget is not None and budget >= body.max_tokens:
        raise invalid("thinking.budget_tokens", "has to be less than max_tokens")
    output = None if body.output_config is None else body.output_config.format
    sampling: dict[str, Any] = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": body.stop_sequences or None,
        "thinking_token_budget": budget,
        "structured_outputs": None if output is None else {"json": output.schema_},
        "tool_choice": _tool_choice(body),
    }
    if body.tools and body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use:
        sampling["parallel_tool_calls"] = False
    return {name: value for name, value in sampling.items() if value is not None}


def _tool_choice(body: MessagesRequest) -> str | dict[str, Any] | None:
    """The choice as the model server knows it; None where the model is free."""
    match body.tool_choice:
        case ToolChoice(type="any"):
            if not body.tools:
                raise invalid("tool_choice", "needs tools")
            return "required"
        case ToolChoice(type="tool", name=name):
            if name not in [tool.name for tool in body.tools or []]:
                raise invalid("tool_choice.name", f"there is no {name} in tools")
            return {"type": "function", "function": {"name": name}}
    return None


def _tools(body: CountTokensRequest) -> list[dict[str, Any]]:
    if body.tool_choice is not None and body.tool_choice.type == "none":
        return []
    return [_tool(tool) for tool in body.tools or []]


def _tool(tool: CustomTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function | {"parameters": tool.input_schema}}


class _Conversation:
    """The wire's messages, and where in the HTTP request their parts come from.

    Attributes:
        renamed: from paths on the wire to those of the HTTP request, the longer ones first.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.pictures: list[Picture] = []
        self.renamed: dict[str, str] = {}
        self._calls: list[str] = []  # ids in the assistant's latest turn

    def add(self, role: str, content: Content, path: str, content_path: str, **more: Any) -> None:
        """Add a message that comes from ``path``, its content from ``content_path``."""
        wire = f"messages[{len(self.messages)}]"
        message: dict[str, Any] = {"role": role, "content": content, **more}
        if not isinstance(content, str):
            message["content"] = []
            for block, block_path in content:
                self.renamed[f"{wire}.content[{len(message['content'])}]"] = block_path
                message["content"].append(self._part(block, block_path))
        self.renamed[f"{wire}.content"] = content_path
        self.renamed[wire] = path
        self.messages.append(message)

    def add_user(self, turn: UserTurn, path: str) -> None:
        """Add a user's turn; the results of calls in it become messages of their own."""
        content_path = f"{path}.content"
        if isinstance(turn.content, str):
            self.add("user", turn.content, path, content_path)
            return
        results: list[tuple[int, ToolResultBlockParam, str]] = []
        others: list[Placed] = []
        for i, block in enumerate(turn.content):
            block_path = f"{content_path}[{i}]"
            if not isinstance(block, ToolResultBlockParam):
                others.append((block, block_path))
            elif others:
                raise invalid(block_path, "tool_result blocks have to come before all others")
            elif block.tool_use_id not in self._calls:
                raise invalid(
                    f"{block_path}.tool_use_id",
                    "there is no tool_use of this id in the assistant's turn before",
                )
            else:
                results.append((self._calls.index(block.tool_use_id), block, block_path))
        # The model sees no ids: it takes results in the order of its calls.
        for _, block, block_path in sorted(results, key=lambda result: result[0]):
            self._add_result(block, block_path)
        if others or not results:
            self.add("user", others, path, content_path)

    def add_assistant(self, turn: AssistantTurn, path: str) -> None:
        """Add an assistant's turn: its thoughts, its text and its calls apart."""
        content_path = f"{path}.content"
        self._calls = []
        if isinstance(turn.content, str):
            self.add("assistant", turn.content, path, content_path)
            return
        texts: list[Placed] = []
        thoughts: list[str] = []
        calls: list[dict[str, Any]] = []
        for i, block in enumerate(turn.content):
            match block:
                case TextBlockParam():
                    texts.append((block, f"{content_path}[{i}]"))
                case ThinkingBlockParam():
                    thoughts.append(block.thinking)
                case ToolUseBlockParam():
                    calls.append(_call(block))
                    self._calls.append(block.id)
        more: dict[str, Any] = {}
        if calls:
            more["tool_calls"] = calls
        if thoughts:
            more["reasoning_content"] = "\n".join(thoughts)
        self.add("assistant", texts, path, content_path, **more)

    def _add_result(self, block: ToolResultBlockParam, path: str) -> None:
        content = _placed(block.content or "", f"{path}.content")
        if block.is_error and isinstance(content, str):
            content = ERROR_MARK + content
        elif block.is_error:
            mark = TextBlockParam(type="text", text=ERROR_MARK, cache_control=None)
            content = [(mark, f"{path}.is_error"), *content]
        self.add("tool", content, path, f"{path}.content")

    def _part(self, block: TextBlockParam | ImageBlockParam, path: str) -> dict[str, Any]:
        if isinstance(block, TextBlockParam):
            return {"type": "text", "text": block.text}
        if isinstance(block.source, Base64Source):
            picture = Picture(block.source.data, f"{path}.source.data", plain_base64=True)
        else:
            picture = Picture(block.source.url, f"{path}.source.url")
        self.pictures.append(picture)
        return {"type": "image"}


def _placed(content: str | Sequence[TextBlockParam | ImageBlockParam], path: str) -> Content:
    if isinstance(content, str):
        return content
    return [(block, f"{path}[{i}]") for i, block in enumerate(content)]


def _call(block: ToolUseBlockParam) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {
        "id": block.id,
        "type": "function",
        "function": {"name": block.name, "arguments": arguments},
    }
