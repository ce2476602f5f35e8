"""From a checked Anthropic request to the one request of all APIs."""

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
    ToolResultBlockParam,
    ToolUseBlockParam,
    UserTurn,
)
from glm_frontend.apis.shared.schema import (
    ALL_THAT_IS_LEFT,
    LEAST_TOP_P,
    as_arguments,
    closed,
    numbered,
)
from glm_frontend.core.conversation import (
    Content,
    ConversationBuilder,
    Part,
    PastCall,
)
from glm_frontend.core.request import WIRE_SAMPLING, AnswerRequest, of_conversation
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, invalid
from glm_frontend.media.fetch import Picture

ERROR_MARK = "Error: "


def decode(body: MessagesRequest) -> AnswerRequest:
    """The request for an answer.

    Raises:
        APIError: 400, parts of it do not go together.
    """
    return replace(
        decode_prompt(body),
        sampling_parameters=_sampling_parameters(body),
        cache_salt=body.cache_salt or "",
    )


def decode_prompt(body: CountTokensRequest) -> AnswerRequest:
    """The conversation alone.

    Raises:
        APIError: 400, parts of it do not go together.
    """
    if body.thread is not None:
        raise APIError(
            ErrorCode.UNSUPPORTED_FIELD,
            "thread: is not supported by this server; send the conversation in messages",
            param="thread",
            # By this the SDK's tool runner knows that it has to.
            details={"error_code": "thread_unsupported_request", "unsupported": ["thread"]},
        )
    conversation = ConversationBuilder()
    if body.system:
        content = _content(body.system, "system")
        conversation.add("system", content, "system", content_path="system")
    for i, turn in enumerate(body.messages):
        path = f"messages[{i}]"
        match turn:
            case UserTurn():
                _add_user(conversation, turn, path)
            case AssistantTurn():
                _add_assistant(conversation, turn, path)
            case _:
                conversation.add("system", _content(turn.content, f"{path}.content"), path)
    template_kwargs = {
        "enable_thinking": body.thinking is not None and body.thinking.type != "disabled"
    }
    if isinstance(body.messages[-1], AssistantTurn):
        template_kwargs["continue_final_message"] = True
    renamed = {
        f"{WIRE_SAMPLING}stop": "stop_sequences",
        f"{WIRE_SAMPLING}structured_outputs.json": "output_config.format.schema",
        f"{WIRE_SAMPLING}thinking_token_budget": "thinking.budget_tokens",
    }
    for number, (place, _) in enumerate(numbered(body.tools)):
        renamed[f"tools[{number}].function.parameters"] = f"tools[{place}].input_schema"
        renamed[f"tools[{number}].function"] = renamed[f"tools[{number}]"] = f"tools[{place}]"
    choice = body.tool_choice
    return of_conversation(
        conversation,
        renamed,
        template_kwargs=template_kwargs,
        tools=_tools(body),
        parallel_tool_calls=choice is None or not choice.disable_parallel_tool_use,
    )


def _sampling_parameters(body: MessagesRequest) -> dict[str, Any]:
    thinking = body.thinking
    budget = None
    if thinking is not None and thinking.type == "enabled":
        budget = thinking.budget_tokens
    if budget is not None and body.max_tokens is not None and budget >= body.max_tokens:
        raise invalid("thinking.budget_tokens", "must be less than max_tokens")
    output = body.answer_format
    sampling: dict[str, Any] = {
        **ALL_THAT_IS_LEFT,
        "temperature": body.temperature,
        "top_p": LEAST_TOP_P if body.top_p == 0 else body.top_p,
        "top_k": body.top_k,
        "stop": body.stop_sequences or None,
        "thinking_token_budget": budget,
        "structured_outputs": None if output is None else {"json": output.schema_},
        "tool_choice": _tool_choice(body),
    }
    if body.max_tokens is not None:
        sampling["max_tokens"] = body.max_tokens
    if body.tools and body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use:
        sampling["parallel_tool_calls"] = False
    return {name: value for name, value in sampling.items() if value is not None}


def _tool_choice(body: MessagesRequest) -> str | dict[str, Any] | None:
    """The choice as the model server knows it; None where the model is free."""
    choice, names = body.tool_choice, [tool.name for _, tool in numbered(body.tools)]
    if choice is None:
        return None
    if choice.type == "any" and not names:
        raise invalid("tool_choice", "needs tools")
    if choice.type == "tool" and choice.name not in names:
        raise invalid("tool_choice.name", f"there is no {choice.name} in tools")
    return choice.wire()


def _tools(body: CountTokensRequest) -> list[dict[str, Any]]:
    if body.tool_choice is not None and body.tool_choice.type == "none":
        return []
    return [_tool(tool) for _, tool in numbered(body.tools)]


def _tool(tool: CustomTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    described = [tool.description] if tool.description else []
    if tool.input_examples:
        described += ["Examples:", *map(as_arguments, tool.input_examples)]
    if described:
        function["description"] = "\n".join(described)
    schema = tool.input_schema
    if tool.strict:
        schema = closed(schema)
        function["strict"] = tool.strict
    return {"type": "function", "function": function | {"parameters": schema}}


def _add_user(conversation: ConversationBuilder, turn: UserTurn, path: str) -> None:
    """Add a user's turn; the results of calls in it become messages of their own."""
    if isinstance(turn.content, str):
        conversation.add("user", turn.content, path)
        return
    parts: list[Part] = []
    for i, block in enumerate(turn.content):
        block_path = f"{path}.content[{i}]"
        if not isinstance(block, ToolResultBlockParam):
            parts.append(_part(block, block_path))
        else:
            conversation.add_result(
                block.tool_use_id,
                _result(block, block_path),
                block_path,
                id_path=f"{block_path}.tool_use_id",
            )
    if parts or not turn.content:
        conversation.add("user", parts, path)


def _add_assistant(conversation: ConversationBuilder, turn: AssistantTurn, path: str) -> None:
    """Add an assistant's turn: its thoughts, its text and its calls apart."""
    if isinstance(turn.content, str):
        conversation.add("assistant", turn.content, path)
        return
    texts: list[Part] = []
    thoughts: list[str] = []
    calls: list[PastCall] = []
    for i, block in enumerate(turn.content):
        block_path = f"{path}.content[{i}]"
        match block:
            case TextBlockParam():
                texts.append(_part(block, block_path))
            case ThinkingBlockParam():
                thoughts.append(block.thinking)
            case ToolUseBlockParam():
                arguments = as_arguments(block.input)
                calls.append(PastCall(block.id, block.name, arguments, block_path))
    conversation.add(
        "assistant",
        texts,
        path,
        thought="\n".join(thoughts) if thoughts else None,
        calls=calls,
    )


def _result(block: ToolResultBlockParam, path: str) -> Content:
    content = _content(block.content or "", f"{path}.content")
    if not block.is_error:
        return content
    if isinstance(content, str):
        return ERROR_MARK + content
    return [Part(ERROR_MARK, f"{path}.is_error"), *(content or ())]


def _content(content: str | Sequence[TextBlockParam | ImageBlockParam], path: str) -> Content:
    if isinstance(content, str):
        return content
    return [_part(block, f"{path}[{i}]") for i, block in enumerate(content)]


def _part(block: TextBlockParam | ImageBlockParam, path: str) -> Part:
    if isinstance(block, TextBlockParam):
        return Part(block.text, path)
    if isinstance(block.source, Base64Source):
        picture = Picture(block.source.data, f"{path}.source.data")
    else:
        picture = Picture(block.source.url, f"{path}.source.url")
    return Part(picture, path)
