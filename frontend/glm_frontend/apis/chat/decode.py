"""From a checked chat completion request to the one request of all APIs."""

from collections.abc import Sequence

from glm_frontend.apis.chat.schema import (
    ChatCompletionRequest,
    ContentPart,
    ImagePart,
    Message,
    TextPart,
    VideoPart,
)
from glm_frontend.apis.shared.schema import as_wire_tool
from glm_frontend.core.conversation import Content, ConversationBuilder, Part, PastCall
from glm_frontend.core.request import WIRE_SAMPLING, AnswerRequest, of_conversation
from glm_frontend.media.fetch import Picture


def decode(body: ChatCompletionRequest) -> AnswerRequest:
    """The request that ``body`` makes.

    Raises:
        APIError: a result of a call has no call.
    """
    renamed = body.renamed()
    for number, (place, _) in enumerate(body.offered_tools()):
        if number != place:
            renamed[f"tools[{number}]"] = f"tools[{place}]"
    if body.max_completion_tokens is not None:
        renamed[f"{WIRE_SAMPLING}max_tokens"] = "max_completion_tokens"
    return of_conversation(
        decode_messages(body.messages),
        renamed,
        sampling_parameters=body.sampling_parameters(),
        cache_salt=body.cache_salt or "",
        template_kwargs=body.template_kwargs(),
        tools=[as_wire_tool(tool.function) for _, tool in body.offered_tools()],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        finds_boxes=bool(body.return_boxes),
    )


def decode_messages(messages: Sequence[Message]) -> ConversationBuilder:
    """The conversation of OpenAI's messages.

    Raises:
        APIError: a result of a call has no call.
    """
    conversation = ConversationBuilder()
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        content = _content(message.content, f"{path}.content")
        if content is None and (message.refusal or message.role not in ("assistant",)):
            content = message.refusal or ""
        if message.role == "user" and message.name:
            content = _said_by(message.name, content, f"{path}.name")
        if message.role in ("tool", "function"):
            conversation.add_result(
                message.tool_call_id or None, content, path, id_path=f"{path}.tool_call_id"
            )
            continue
        calls = [
            PastCall(
                call.id,
                call.function.name,
                call.function.arguments,
                f"{path}.tool_calls[{place}].function",
            )
            for place, call in enumerate(message.tool_calls or [])
        ]
        role = "system" if message.role == "developer" else message.role
        conversation.add(role, content, path, thought=message.thought, calls=calls)
    return conversation


def _content(given: object, path: str) -> Content:
    match given:
        case None | str():
            return given
        case list():
            return [_part(part, f"{path}[{place}]") for place, part in enumerate(given)]
        case TextPart() | ImagePart() | VideoPart():
            return [_part(given, path)]
    raise TypeError(given)


def _part(part: ContentPart, path: str) -> Part:
    match part:
        case TextPart():
            return Part(part.text, path)
        case ImagePart(image_url=image):
            where = f"{path}.image_url.url"
            picture = Picture(image.url, where, max_pixels=image.max_pixels)
            return Part(picture, path)
        case VideoPart(video_url=video):
            return Part(Picture(video.url, f"{path}.video_url.url", kind="video"), path)
    raise TypeError(part)


def _said_by(name: str, content: Content, path: str) -> Content:
    """The content as the model reads it of one of several users."""
    if isinstance(content, str):
        return f"{name}: {content}"
    parts = list(content or ())
    if parts and isinstance(parts[0].content, str):
        parts[0] = Part(f"{name}: {parts[0].content}", parts[0].path)
        return parts
    return [Part(f"{name}: ", path), *parts]
