"""One request for all APIs: what an API decodes its own request into."""

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

from glm_client import GenerationRequest, Question
from glm_frontend.core.caller import Caller
from glm_frontend.core.conversation import ConversationBuilder, Paths
from glm_frontend.errors import invalid
from glm_frontend.media.fetch import Picture

_LEFT_OUT = "(A picture or video was here. It has been left out, since there are too many.)"
_MEDIA = ("image", "video")
WIRE_SAMPLING = "sampling_parameters."


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRequest:
    """A request that lacks but the bytes of its pictures and videos.

    Attributes:
        prompt: ``messages``, or what stands for it in the model server's request.
        paths: where each part of it stands in the HTTP request, and its pictures and videos.
        sampling_parameters: with the model server's names.
        template_kwargs: switches of the chat template.
        processor_kwargs: how pictures and videos are resized, with the processor's names.
        tools: that the model may call, in OpenAI's form.
        parallel_tool_calls: whether it may call several.
        is_raw: whether the answer is plain text, without a thought or calls.
        cache_salt: divides the caller's part of the caches further.
        echo: whether the text begins with the prompt.
        has_no_answer: whether the prompt is all of the text.
        finds_boxes: whether the boxes of the answer are looked for.
        questions: to be answered with the log probabilities of their options.
    """

    prompt: Mapping[str, Any]
    paths: Paths = field(default_factory=Paths)
    sampling_parameters: Mapping[str, Any] = field(default_factory=dict)
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tools: Sequence[Mapping[str, Any]] = ()
    parallel_tool_calls: bool = True
    cache_salt: str = ""
    is_raw: bool = False
    echo: bool = False
    has_no_answer: bool = False
    finds_boxes: bool = False
    questions: Sequence[Question] = ()

    @property
    def num_choices(self) -> int:
        """Answers that there will be."""
        return int(self.sampling_parameters.get("n", 1))

    def media(self) -> list[list[Picture]]:
        """The pictures and videos of the conversation, the oldest first; of frames all of one."""
        files = iter(self.paths.files)
        return [list(islice(files, part.get("frames", 1))) for part in self._media_parts()]

    def without(self, gone: Container[int]) -> "AnswerRequest":
        """The same with a sentence in the place of those of :meth:`media` with these numbers."""
        numbers = count()
        messages = []
        for message in self.prompt.get("messages", ()):
            content = message["content"]
            if isinstance(content, list):
                content = [
                    {"type": "text", "text": _LEFT_OUT}
                    if part["type"] in _MEDIA and next(numbers) in gone
                    else part
                    for part in content
                ]
            messages.append({**message, "content": content})
        kept = [group for number, group in enumerate(self.media()) if number not in gone]
        paths = Paths(self.paths.renamed, [file for group in kept for file in group])
        return replace(self, prompt={**self.prompt, "messages": messages}, paths=paths)

    def _media_parts(self) -> Iterator[Mapping[str, Any]]:
        for message in self.prompt.get("messages", ()):
            if isinstance(message["content"], list):
                yield from (part for part in message["content"] if part["type"] in _MEDIA)

    def on_the_wire(self, files: Sequence[bytes], caller: Caller) -> GenerationRequest:
        """The model server's request.

        Args:
            files: the bytes of ``paths.files``.
        """
        given = list(zip(self.paths.files, files, strict=True))
        images = [file for picture, file in given if picture.kind == "image"]
        videos = [file for picture, file in given if picture.kind == "video"]
        budgets = [picture.max_pixels for picture, _ in given if picture.kind == "image"]
        return GenerationRequest(
            **self.prompt,
            images=images,
            image_max_pixels=budgets if any(budgets) else (),
            videos=videos,
            questions=self.questions,
            tools=self.tools or None,
            sampling_parameters=self.sampling_parameters,
            chat_template_kwargs=self.template_kwargs or None,
            mm_processor_kwargs=self.processor_kwargs or None,
            request_id=caller.request_id,
            return_events=not self.is_raw and not self.questions,
            return_image_sizes=self.finds_boxes,
            tenant=caller.tenant,
            cache_salt=self.cache_salt,
            trace_context=caller.record.trace_context,
        )


def of_conversation(
    conversation: ConversationBuilder, renamed: Mapping[str, str], **fields: Any
) -> AnswerRequest:
    """The request to go on with a conversation.

    Args:
        renamed: paths of the wire beside those of its messages.
        fields: of :class:`AnswerRequest`.
    """
    paths = conversation.finish().paths
    if not conversation.messages:
        raise invalid(renamed.get("messages", "messages"), "has nothing that the model could read")
    paths.renamed.update(renamed)
    return AnswerRequest(prompt={"messages": conversation.messages}, paths=paths, **fields)


def of_prompt(
    prompt: Mapping[str, Any],
    renamed: Mapping[str, str],
    files: Sequence[Picture] = (),
    **fields: Any,
) -> AnswerRequest:
    """The request for what follows a prompt that is no conversation; arguments as above."""
    return AnswerRequest(prompt=prompt, paths=Paths(dict(renamed), list(files)), **fields)
