"""``POST /v1/multi-modal/inference``: one prompt, pictures, one text."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from glm_client import FinishReason
from glm_frontend.apis.shared.schema import MAX_PARTS, SamplingParameters, Usage, thinking_kwargs
from glm_frontend.http.bodies import at_most


class MultimodalRequest(SamplingParameters):
    """A prompt and the pictures that it is about."""

    model: str | None = Field(None, description="The name of the served model; it may be left out.")
    prompt: str = Field(min_length=1, description="What to do with the pictures.")
    images: Annotated[list[str], *at_most(MAX_PARTS)] = Field(
        default_factory=list,
        description="The pictures, in order, each as `data:image/png;base64,...`, as plain base64 "
        "or as http(s) URL.",
    )
    enable_thinking: bool | None = Field(None, description="The same as in `chat_template_kwargs`.")
    stream: bool | None = Field(
        None,
        description="true: the answer comes as server-sent events while it is written. "
        "Default false.",
    )

    def template_kwargs(self) -> dict[str, Any]:
        """Switches of the chat template, from both places where they may be given."""
        kwargs = self.chat_template_kwargs
        return thinking_kwargs(self.enable_thinking, None if kwargs is None else kwargs.thinks)


class MultimodalInference(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["multimodal.inference"]
    created: int = Field(description="Unix time in seconds.")
    model: str
    text: str
    reasoning: str | None = Field(description="The model's thought; null when there is none.")
    finish_reason: FinishReason = Field(
        description="`stop`: the answer is complete. `length`: it was cut at `max_tokens`."
    )
    usage: Usage


class MultimodalInferenceChunk(BaseModel):
    """One event of a streamed answer; the last has finish reason and usage. Then comes `[DONE]`."""

    id: str
    object: Literal["multimodal.inference.chunk"]
    created: int = Field(description="Unix time in seconds.")
    model: str
    text: str = Field(description="What is new of the answer; may be empty.")
    reasoning: str | None = Field(description="What is new of the thought.")
    finish_reason: FinishReason | None
    usage: Usage | None
