"""From a checked chat completion request to the one request of all APIs."""

from collections.abc import Mapping, Sequence
from typing import Any

from glm_frontend.apis.chat.schema import (
    ChatCompletionRequest,
    ContentPart,
    FramesPart,
    ImagePart,
    Message,
    TextPart,
    VideoPart,
)
from glm_frontend.apis.shared.schema import ProcessorKwargs, VideoSampling, as_wire_tool
from glm_frontend.core.conversation import Clip, Content, ConversationBuilder, Part, PastCall
from glm_frontend.core.request import WIRE_SAMPLING, AnswerRequest, of_conversation
from glm_frontend.media.fetch import Picture
from glm_frontend.media.inline import frames_of


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
    reading = body.media_io_kwargs
    return of_conversation(
        decode_messages(body.messages, None if reading is None else reading.video),
        renamed,
        processor_kwargs=processor_kwargs(body.mm_processor_kwargs),
        sampling_parameters=body.sampling_parameters(),
        cache_salt=body.cache_salt or "",
        template_kwargs=body.template_kwargs(),
        tools=[as_wire_tool(tool.function) for _, tool in body.offered_tools()],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        finds_boxes=bool(body.return_boxes),
    )


def processor_kwargs(given: ProcessorKwargs | None) -> dict[str, Any]:
    """How media are resized, as the model server takes it."""
    return {} if given is None else given.model_dump(exclude_none=True)


def decode_messages(
    messages: Sequence[Message], sampling: VideoSampling | None = None
) -> ConversationBuilder:
    """The conversation of OpenAI's messages.

    Args:
        sampling: of videos that say nothing about it themselves.

    Raises:
        APIError: a result of a call has no call.
    """
    conversation = ConversationBuilder()
    usual = {} if sampling is None else sampling.model_dump(exclude_none=True)
    if usual.get("num_frames", 1) < 1:
        del usual["num_frames"]
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        content = _content(message.content, f"{path}.content", usual)
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


def _content(given: object, path: str, usual: Mapping[str, Any]) -> Content:
    match given:
        case None | str():
            return given
        case list():
            return [_part(part, f"{path}[{place}]", usual) for place, part in enumerate(given)]
        case TextPart() | ImagePart() | VideoPart() | FramesPart():
            return [_part(given, path, usual)]
    raise TypeError(given)


def _part(part: ContentPart, path: str, usual: Mapping[str, Any]) -> Part:
    match part:
        case TextPart():
            return Part(part.text, path)
        case ImagePart(image_url=image):
            url = "" if image is None else image.url
            where = f"{path}.image_url.url" if image else f"{path}.uuid"
            return Part(Picture(url, where, max_pixels=part.wanted_pixels, uuid=part.uuid), path)
        case VideoPart(video_url=video):
            url, options = "" if video is None else video.url, dict(usual) | part.options()
            where = f"{path}.video_url.url" if video else f"{path}.uuid"
            frames = frames_of(url)
            if frames:
                return Part(Clip.of([(frame, where) for frame in frames], options), path)
            picture = Picture(url, where, kind="video", options=options, uuid=part.uuid)
            return Part(picture, path)
        case FramesPart(video=frames, times=times):
            options = part.video_options() | ({} if times is None else {"times": times})
            sources = [(frame, f"{path}.video[{place}]") for place, frame in enumerate(frames)]
            return Part(Clip.of(sources, options), path)
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
