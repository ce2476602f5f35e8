"""From a checked HTTP request to the model server's request, and from its field names back."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glm_client import GenerationRequest
from glm_frontend.apis.chat.schema import (
    ChatCompletionRequest,
    ContentPart,
    ImagePart,
    Message,
    TextPart,
    VideoPart,
)
from glm_frontend.apis.completions.schema import CompletionRequest
from glm_frontend.apis.multimodal.schema import MultimodalRequest
from glm_frontend.apis.shared.schema import SamplingParameters
from glm_frontend.apis.tokens.schema import DetokenizeRequest, TokenizeRequest
from glm_frontend.core.caller import Caller
from glm_frontend.media.fetch import Picture

_WIRE_FILE = re.compile(r"(image|video)\[(\d+)\]")
WIRE_SAMPLING = "sampling_parameters."


@dataclass(frozen=True, slots=True)
class Translation:
    """A request that lacks but the files of its pictures and videos.

    Attributes:
        prompt: ``messages``, or what stands for it in the model server's request.
        pictures: and videos, in the order in which the prompt refers to them.
        renamed: from paths on the wire to what the HTTP request calls the same place. Paths below
            them follow.
        tools: that the model may call, in OpenAI's form.
        parallel_tool_calls: whether it may call several.
        is_raw: whether the answer is plain text, without a thought or calls.
        finds_boxes: whether the boxes of the answer are looked for.
    """

    prompt: Mapping[str, Any]
    pictures: Sequence[Picture]
    sampling_parameters: Mapping[str, Any]
    template_kwargs: Mapping[str, Any]
    renamed: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    parallel_tool_calls: bool = True
    is_raw: bool = False
    finds_boxes: bool = False

    def request(self, files: Sequence[bytes], caller: Caller) -> GenerationRequest:
        """The model server's request, with the files of ``pictures``."""
        given = list(zip(self.pictures, files, strict=True))
        images = [file for picture, file in given if picture.kind == "image"]
        videos = [file for picture, file in given if picture.kind == "video"]
        budgets = [picture.max_pixels for picture in self._of_kind("image")]
        return GenerationRequest(
            **self.prompt,
            images=images,
            image_max_pixels=budgets if any(budgets) else (),
            videos=videos,
            tools=self.tools or None,
            sampling_parameters=self.sampling_parameters,
            chat_template_kwargs=self.template_kwargs or None,
            request_id=caller.request_id,
            return_events=not self.is_raw,
            return_image_sizes=self.finds_boxes,
            tenant=caller.tenant,
            trace_context=caller.record.trace_context,
        )

    def http_param(self, wire_param: str) -> str:
        """Where in the HTTP request that is which the model server calls ``wire_param``."""
        if match := _WIRE_FILE.match(wire_param):
            return self._of_kind(match[1])[int(match[2])].param
        for wire, name in self.renamed.items():
            if wire_param.startswith(wire):
                return name + wire_param.removeprefix(wire)
        return wire_param.removeprefix(WIRE_SAMPLING)

    def _of_kind(self, kind: str) -> list[Picture]:
        return [picture for picture in self.pictures if picture.kind == kind]


def translate_chat(body: ChatCompletionRequest) -> Translation:
    """The translation of a chat completion request."""
    messages, pictures, renamed = _conversation(body.messages)
    renamed |= renamed_structure(body)
    if body.max_completion_tokens is not None:
        renamed[f"{WIRE_SAMPLING}max_tokens"] = "max_completion_tokens"
    return Translation(
        prompt={"messages": messages},
        pictures=pictures,
        sampling_parameters=body.sampling_parameters(),
        template_kwargs=body.template_kwargs(),
        renamed=renamed,
        tools=_tools(body),
        parallel_tool_calls=body.parallel_tool_calls is not False,
        finds_boxes=bool(body.return_boxes),
    )


def renamed_structure(body: SamplingParameters) -> dict[str, str]:
    """Where the request tells what the answer is held to, by the name on the wire."""
    structure = body.structure()
    if structure is None:
        return {}
    return {f"{WIRE_SAMPLING}structured_outputs.{structure.kind}": structure.path}


def _conversation(
    given: Sequence[Message],
) -> tuple[list[dict[str, Any]], list[Picture], dict[str, str]]:
    """Messages for the wire, their pictures, and the paths that are others there."""
    pictures: list[Picture] = []
    renamed: dict[str, str] = {}
    messages = []
    for i, message in enumerate(given):
        path = f"messages[{i}].content"
        if isinstance(
            message.content, TextPart | ImagePart | VideoPart
        ):  # a list of one on the wire
            renamed[f"{path}[0]"] = path
        messages.append(_message(message, path, pictures))
        if message.role == "user" and message.name is not None:
            _say_who_speaks(messages[-1], message.name)
    return messages, pictures, renamed


def _tools(body: ChatCompletionRequest) -> list[dict[str, Any]]:
    if body.tool_choice == "none":
        return []
    return [tool.model_dump(exclude_unset=True) for tool in body.tools or []]


def _message(message: Message, path: str, pictures: list[Picture]) -> dict[str, Any]:
    """``message`` for the wire; its pictures and videos are added to ``pictures``."""
    translated: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    match message.content:
        case list() as parts:
            translated["content"] = [
                _part(part, f"{path}[{i}]", pictures) for i, part in enumerate(parts)
            ]
        case TextPart() | ImagePart() | VideoPart() as part:
            translated["content"] = [_part(part, path, pictures)]
        case content:
            translated["content"] = content
    if message.tool_calls:
        translated["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.thought is not None:
        translated["reasoning_content"] = message.thought
    return translated


def _say_who_speaks(message: dict[str, Any], name: str) -> None:
    content = message["content"]
    if isinstance(content, str):
        message["content"] = f"{name}: {content}"
    elif content and content[0]["type"] == "text":
        content[0]["text"] = f"{name}: {content[0]['text']}"
    else:
        content.insert(0, {"type": "text", "text": f"{name}: "})


def _part(part: ContentPart, path: str, pictures: list[Picture]) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, VideoPart):
        pictures.append(Picture(part.video_url.url, f"{path}.video_url.url", kind="video"))
        return {"type": "video"}
    image = part.image_url
    pictures.append(Picture(image.url, f"{path}.image_url.url", max_pixels=image.max_pixels))
    return {"type": "image"}


def translate_multimodal(body: MultimodalRequest, pictures: Sequence[Picture]) -> Translation:
    """The translation of a multimodal request about ``pictures``, wherever they came from."""
    return Translation(
        prompt={"text_input": body.prompt},
        pictures=pictures,
        sampling_parameters=body.sampling_parameters(),
        template_kwargs=body.template_kwargs(),
        # A conversation is what stage 1 makes of the prompt; its faults are the prompt's.
        renamed={"text_input": "prompt", "messages": "prompt"} | renamed_structure(body),
    )


def translate_completions(body: CompletionRequest) -> list[Translation]:
    """The translation of each prompt of a completion request."""
    translations = []
    for path, prompt in body.prompts():
        name = "prompt" if isinstance(prompt, str) else "prompt_token_ids"
        translations.append(
            Translation(
                prompt={name: prompt},
                pictures=(),
                sampling_parameters=body.sampling_parameters(),
                template_kwargs={},
                renamed={name: path} | renamed_structure(body),
                is_raw=True,
            )
        )
    return translations


def translate_tokenize(body: TokenizeRequest) -> Translation:
    """The translation of a request for the tokens of a prompt."""
    if body.messages is None:
        return Translation({"prompt": body.prompt}, (), {}, {})
    messages, pictures, renamed = _conversation(body.messages)
    tools = [tool.model_dump(exclude_unset=True) for tool in body.tools or []]
    return Translation(
        {"messages": messages}, pictures, {}, body.template_kwargs(), renamed, tools=tools
    )


def translate_detokenize(body: DetokenizeRequest) -> Translation:
    """The translation of a request for the text of some tokens."""
    renamed = {"prompt_token_ids": "tokens"}
    return Translation({"prompt_token_ids": body.tokens}, (), {}, {}, renamed)
