"""From a checked HTTP request to the model server's request, and from its field names back."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glm_client import GenerationRequest
from glm_frontend.images.fetch import Picture
from glm_frontend.schemas.chat import ChatCompletionRequest, ImagePart, Message, TextPart
from glm_frontend.schemas.common import SamplingParameters
from glm_frontend.schemas.multimodal import MultimodalRequest

_WIRE_IMAGE = re.compile(r"image\[(\d+)\]")
WIRE_SAMPLING = "sampling_parameters."


@dataclass(frozen=True, slots=True)
class Translation:
    """A request that lacks but the files of its pictures.

    Attributes:
        prompt: ``messages`` or ``text_input`` of the model server's request.
        pictures: in the order in which the prompt refers to them.
        renamed: from paths on the wire to what the HTTP request calls the same place. Paths below
            them follow.
        tools: that the model may call, in OpenAI's form.
        parallel_tool_calls: whether it may call several.
    """

    prompt: Mapping[str, Any]
    pictures: Sequence[Picture]
    sampling_parameters: Mapping[str, Any]
    template_kwargs: Mapping[str, Any]
    renamed: Mapping[str, str] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    parallel_tool_calls: bool = True

    def request(self, images: Sequence[bytes], request_id: str) -> GenerationRequest:
        """The model server's request, with the files of ``pictures``."""
        return GenerationRequest(
            **self.prompt,
            images=images,
            tools=self.tools or None,
            sampling_parameters=self.sampling_parameters,
            chat_template_kwargs=self.template_kwargs or None,
            request_id=request_id,
        )

    def http_param(self, wire_param: str) -> str:
        """Where in the HTTP request that is which the model server calls ``wire_param``."""
        if match := _WIRE_IMAGE.match(wire_param):
            return self.pictures[int(match[1])].param
        for wire, name in self.renamed.items():
            if wire_param.startswith(wire):
                return name + wire_param.removeprefix(wire)
        return wire_param.removeprefix(WIRE_SAMPLING)


def translate_chat(body: ChatCompletionRequest) -> Translation:
    """The translation of a chat completion request."""
    pictures: list[Picture] = []
    renamed: dict[str, str] = {}
    messages = []
    for i, message in enumerate(body.messages):
        path = f"messages[{i}].content"
        if isinstance(message.content, TextPart | ImagePart):  # a list of one on the wire
            renamed[f"{path}[0]"] = path
        messages.append(_message(message, path, pictures))
    renamed |= _renamed_structure(body)
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
    )


def _renamed_structure(body: SamplingParameters) -> dict[str, str]:
    structure = body.structure()
    if structure is None:
        return {}
    return {f"{WIRE_SAMPLING}structured_outputs.{structure.kind}": structure.path}


def _tools(body: ChatCompletionRequest) -> list[dict[str, Any]]:
    if body.tool_choice == "none":
        return []
    return [tool.model_dump(exclude_unset=True) for tool in body.tools or []]


def _message(message: Message, path: str, pictures: list[Picture]) -> dict[str, Any]:
    """``message`` for the wire; its pictures are added to ``pictures``."""
    translated: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    match message.content:
        case list() as parts:
            translated["content"] = [
                _part(part, f"{path}[{i}]", pictures) for i, part in enumerate(parts)
            ]
        case TextPart() | ImagePart() as part:
            translated["content"] = [_part(part, path, pictures)]
        case content:
            translated["content"] = content
    if message.tool_calls:
        translated["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    if message.thought is not None:
        translated["reasoning_content"] = message.thought
    return translated


def _part(part: TextPart | ImagePart, path: str, pictures: list[Picture]) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    pictures.append(Picture(part.image_url.url, f"{path}.image_url.url"))
    return {"type": "image"}


def translate_multimodal(body: MultimodalRequest, pictures: Sequence[Picture]) -> Translation:
    """The translation of a multimodal request about ``pictures``, wherever they came from."""
    return Translation(
        prompt={"text_input": body.prompt},
        pictures=pictures,
        sampling_parameters=body.sampling_parameters(),
        template_kwargs=body.template_kwargs(),
        # A conversation is what stage 1 makes of the prompt; its faults are the prompt's.
        renamed={"text_input": "prompt", "messages": "prompt"} | _renamed_structure(body),
    )
