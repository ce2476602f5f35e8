"""Check a conversation and render it with the checkpoint's chat template."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from glm_preprocessing.errors import InvalidInput
from glm_preprocessing.media_options import NO_OPTIONS, VideoOptions, video_options
from glm_preprocessing.tokenizer import END_MARK, PromptTokenizer

DETAILS: dict[str | None, int] = {
    None: 0,
    "auto": 0,
    "high": 0,
    "original": 0,
    "low": 512 * 512,
}
"""OpenAI's ``detail`` levels, as the maximum number of pixels of a picture; 0 for no limit."""

ROLES = ("system", "user", "assistant", "tool")
MAX_MESSAGES = 4096

# GLM's own switch: a user turn that ends in it is answered without thinking. Users may type it.
_USER_TAGS = frozenset({"/nothink"})
# Tags allowed in an assistant turn of the history, as the model may have written them itself.
_THINK, _END_THINK = "<think>", "</think>"
_ASSISTANT_TAGS = frozenset({_THINK, _END_THINK, "<|begin_of_box|>", "<|end_of_box|>"})


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image part of a message: its path in the request, and its data URI if it has one.

    Attributes:
        max_pixels: to scale the image down to; 0 for the checkpoint's own limit.
    """

    field: str
    data_uri: str | None
    max_pixels: int = 0


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A video part of a message: its path in the request, and its data URI if it has one."""

    field: str
    data_uri: str | None
    options: VideoOptions = NO_OPTIONS


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages in the form that the chat template expects, with every user-written tag escaped.

    Attributes:
        continues: whether the answer continues the last message instead of starting a new turn.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    template_kwargs: dict[str, Any]
    image_parts: list[ImagePart]
    video_parts: list[VideoPart]
    continues: bool = False


class ChatTemplate:
    """The checkpoint's Jinja template, rendered in the environment that transformers uses.

    Source: ``_cached_compile_jinja_template`` in ``transformers/utils/chat_template_utils.py``
        (5.23).
    """

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        self._template = environment.from_string(source)

    def render(self, conversation: Conversation) -> str:
        """The prompt up to where the assistant's answer begins or continues.

        Raises:
            InvalidInput: the template rejects the conversation.
        """
        try:
            prompt = self._template.render(
                messages=conversation.messages,
                tools=conversation.tools,
                **{"add_generation_prompt": not conversation.continues},
                **conversation.template_kwargs,
            )
        except (jinja2.TemplateError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidInput("messages", f"rejected by the chat template ({error})") from None
        return prompt.partition(END_MARK)[0] if conversation.continues else prompt


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def user_turn(text: str, num_images: int, num_videos: int) -> list[dict[str, Any]]:
    """One user message with its images and then its videos before the text."""
    types = ["image"] * num_images + ["video"] * num_videos
    parts: list[dict[str, Any]] = [{"type": kind} for kind in types]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def parse_conversation(
    messages: Any, tools: Any, template_kwargs: Any, tokenizer: PromptTokenizer
) -> Conversation:
    """Check messages in OpenAI chat form and convert them for the template.

    Args:
        messages: parsed JSON; content is text or a list of parts of type ``text``, ``image``,
            ``image_url`` (a data URI; nothing is fetched here), ``video`` or ``video_url``.
        tools: parsed JSON in OpenAI form, or None.
        template_kwargs: parsed JSON object for the template, or None.

    Raises:
        InvalidInput: names the path of the invalid value.
    """
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("messages", "must be a list of at least one message")
    if len(messages) > MAX_MESSAGES:
        raise InvalidInput(
            "messages", f"too many messages: {len(messages)} (maximum {MAX_MESSAGES})"
        )
    parser = _MessageParser(tokenizer)
    parsed = [parser.message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    if template_kwargs is not None and not isinstance(template_kwargs, dict):
        raise InvalidInput("chat_template_kwargs", "must be a JSON object")
    kwargs = {
        str(key): _map_strings(value, tokenizer.escape)
        for key, value in (template_kwargs or {}).items()
    }
    for key in ("messages", "tools", "add_generation_prompt"):
        if key in kwargs:
            raise InvalidInput(f"chat_template_kwargs.{key}", "is set by the server")
    continues = kwargs.pop("continue_final_message", False)
    if not isinstance(continues, bool):
        raise InvalidInput("chat_template_kwargs.continue_final_message", "must be true or false")
    if continues:
        _mark_end(parsed[-1], f"messages[{len(parsed) - 1}]")
    return Conversation(
        parsed,
        _parse_tools(tools, tokenizer),
        kwargs,
        parser.image_parts,
        parser.video_parts,
        continues,
    )


def _mark_end(message: dict[str, Any], field: str) -> None:
    """Mark where the answer goes on: behind the text of an assistant's turn."""
    if message["role"] != "assistant":
        raise InvalidInput(f"{field}.role", "must be assistant for the message to be continued")
    content = message["content"]
    if isinstance(content, list) and len(content) == 1 and content[0]["type"] == "text":
        content = message["content"] = content[0]["text"]
    begun = content.lstrip() if isinstance(content, str) else ""
    if begun.startswith(_THINK) and _END_THINK not in begun:
        # The template would close the thought; this one continues.
        message["reasoning_content"] = begun.removeprefix(_THINK) + END_MARK
        message["content"] = ""
    elif not content and message.get("reasoning_content"):
        message["reasoning_content"] += END_MARK
    elif isinstance(content, list):
        if not content or content[-1]["type"] != "text":
            raise InvalidInput(f"{field}.content", "must end in text to be continued")
        content[-1]["text"] += END_MARK
    elif message.get("tool_calls") or not content.strip():
        raise InvalidInput(f"{field}.content", "must be text to be continued")
    else:
        message["content"] = content + END_MARK


class _MessageParser:
    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._escape = tokenizer.escape
        self._separate = tokenizer.separate
        self.image_parts: list[ImagePart] = []
        self.video_parts: list[VideoPart] = []

    def message(self, message: Any, field: str) -> dict[str, Any]:
        if not isinstance(message, dict):
            raise InvalidInput(field, "must be a JSON object")
        role = message.get("role")
        if role not in ROLES:
            raise InvalidInput(f"{field}.role", f"must be one of {', '.join(ROLES)}, not {role!r}")
        allowed = _ASSISTANT_TAGS if role == "assistant" else _USER_TAGS
        parsed: dict[str, Any] = {
            "role": role,
            "content": self._content(message.get("content"), f"{field}.content", role, allowed),
        }
        if role == "assistant":
            reasoning = message.get("reasoning_content")
            if reasoning is not None:
                if not isinstance(reasoning, str):
                    raise InvalidInput(f"{field}.reasoning_content", "must be text")
                parsed["reasoning_content"] = self._escape(reasoning)
            if message.get("tool_calls"):
                parsed["tool_calls"] = self._tool_calls(
                    message["tool_calls"], f"{field}.tool_calls"
                )
        return parsed

    def _content(
        self, content: Any, field: str, role: str, allowed: frozenset[str]
    ) -> str | list[dict[str, Any]]:
        if isinstance(content, str):
            return self._escape(content, allowed)
        if content is None and role == "assistant":
            return ""  # as in a turn with tool calls only; the template would write "None"
        if isinstance(content, dict):
            content = [content]
        if not isinstance(content, list):
            raise InvalidInput(field, "must be text or a list of parts")
        parts = [self._part(part, f"{field}[{i}]", allowed) for i, part in enumerate(content)]
        # The template joins parts; "<|us" and "er|>" must not form a tag.
        for before, part in pairwise(parts):
            if before["type"] == part["type"] == "text":
                part["text"] = self._separate(part["text"])
        return parts

    def _part(self, part: Any, field: str, allowed: frozenset[str]) -> dict[str, Any]:
        if not isinstance(part, dict):
            raise InvalidInput(field, "must be a JSON object")
        match part.get("type"):
            case "text":
                if not isinstance(part.get("text"), str):
                    raise InvalidInput(f"{field}.text", "must be text")
                return {"type": "text", "text": self._escape(part["text"], allowed)}
            case "image":
                self.image_parts.append(ImagePart(field, None))
                return {"type": "image"}
            case "image_url":
                given: Any = part.get("image_url")
                url, detail = given, None
                if isinstance(given, dict):
                    url, detail = given.get("url"), given.get("detail")
                if detail not in DETAILS:
                    raise InvalidInput(
                        f"{field}.image_url.detail", "must be one of auto, low, high, original"
                    )
                part_field = f"{field}.image_url.url"
                uri = _data_uri(url, part_field)
                self.image_parts.append(ImagePart(part_field, uri, DETAILS[detail]))
                return {"type": "image"}
            case "video":
                self.video_parts.append(VideoPart(field, None, video_options(part, field)))
                return {"type": "video"}
            case "video_url":
                given = part.get("video_url")
                url = given.get("url") if isinstance(given, dict) else given
                part_field = f"{field}.video_url.url"
                uri, options = _data_uri(url, part_field), video_options(part, field)
                self.video_parts.append(VideoPart(part_field, uri, options))
                return {"type": "video"}
            case other:
                raise InvalidInput(
                    f"{field}.type",
                    f"must be one of text, image, image_url, video, video_url, not {other!r}",
                )

    def _tool_calls(self, calls: Any, field: str) -> list[dict[str, Any]]:
        if not isinstance(calls, list):
            raise InvalidInput(field, "must be a list")
        parsed = []
        for i, call in enumerate(calls):
            path = f"{field}[{i}].function"
            function = call.get("function") if isinstance(call, dict) else None
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise InvalidInput(f"{path}.name", "is missing")
            arguments = past_arguments(function.get("arguments"))
            function = {"name": function["name"], "arguments": arguments}
            parsed.append({"type": "function", "function": _map_strings(function, self._escape)})
        return parsed


def past_arguments(given: Any) -> dict[str, Any]:
    """The arguments of a call of an earlier answer, which the template needs as an object.

    History never blocks a conversation: text that is no object, as that of a call that was cut, is
    kept as one argument.

    Args:
        given: an object, or its JSON text; null for none.
    """
    if isinstance(given, dict):
        return given
    if given is None or given == "":
        return {}
    try:
        value = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"arguments": given}


def _data_uri(url: Any, field: str) -> str:
    if not isinstance(url, str) or url[:5].lower() != "data:":
        raise InvalidInput(field, "must be a data URI; URLs are not fetched here")
    return url


def _parse_tools(tools: Any, tokenizer: PromptTokenizer) -> list[dict[str, Any]] | None:
    if tools is None:
        return None
    if not isinstance(tools, list):
        raise InvalidInput("tools", "must be a list")
    for i, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidInput(f"tools[{i}].function.name", "is missing")
    escaped: list[dict[str, Any]] = _map_strings(tools, tokenizer.escape)
    return escaped


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    return value


def parse_json(text: str, field: str) -> Any:
    """Parse JSON text; raises InvalidInput naming ``field``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(field, f"is not valid JSON ({error})") from None
