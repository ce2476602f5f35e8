"""``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``, in vLLM's form."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from glm_frontend.apis.chat.schema import Message, Tools, check_generation_prompt
from glm_frontend.apis.shared.schema import (
    MAX_MESSAGES,
    MAX_PROMPT_TOKENS,
    ChatTemplateKwargs,
    MediaKwargs,
    ProcessorKwargs,
    TokenId,
    thinking_kwargs,
)
from glm_frontend.http.bodies import RequestModel, at_most


class TokenizeRequest(RequestModel):
    """A text, or a conversation; give one of the two."""

    model: str | None = Field(None, description="The name of the served model; it may be left out.")
    prompt: str | None = Field(None, description="A text; tags in it are tokens.")
    messages: Annotated[list[Message], *at_most(MAX_MESSAGES)] | None = Field(
        None,
        min_length=1,
        validate_default=True,
        description="A conversation, as for chat completions.",
    )
    tools: Tools | None = Field(
        None, description="With `messages`: functions that the model knows."
    )
    chat_template_kwargs: ChatTemplateKwargs | None = Field(
        None, description="With `messages`: switches of the chat template."
    )
    continue_final_message: bool | None = Field(
        None, description="With `messages`: as for chat completions."
    )
    add_generation_prompt: bool | None = Field(
        None, description="With `messages`: as for chat completions."
    )
    mm_processor_kwargs: ProcessorKwargs | None = Field(
        None, description="With `messages`: as for chat completions."
    )
    media_io_kwargs: MediaKwargs | None = Field(
        None, description="With `messages`: as for chat completions."
    )
    add_special_tokens: bool | None = Field(
        None, description="Accepted: the tokenizer adds none by itself."
    )
    return_token_strs: bool | None = Field(
        None, description="true: also the text of each token. Default false."
    )

    @field_validator("messages")
    @classmethod
    def _is_one_of_two(
        cls, value: list[Message] | None, info: ValidationInfo
    ) -> list[Message] | None:
        # If `prompt` itself is invalid, that is the error reported.
        if "prompt" in info.data and (info.data["prompt"] is None) == (value is None):
            raise PydanticCustomError("one_of", "give either prompt or messages")
        return value

    _agree = field_validator("add_generation_prompt")(check_generation_prompt)

    def template_kwargs(self) -> dict[str, Any]:
        """Switches of the chat template."""
        kwargs = self.chat_template_kwargs
        given = thinking_kwargs(None if kwargs is None else kwargs.thinks)
        if self.continue_final_message:
            given["continue_final_message"] = True
        return given


class Tokens(BaseModel):
    """A prompt in tokens."""

    count: int
    tokens: list[int] = Field(description="A picture's placeholder stands once for each token.")
    token_strs: list[str] | None = Field(description="null unless asked for.")


class DetokenizeRequest(RequestModel):
    """Token ids."""

    model: str | None = Field(None, description="The name of the served model; it may be left out.")
    tokens: Annotated[list[TokenId], *at_most(MAX_PROMPT_TOKENS)] = Field(min_length=1)


class TokenizerInfo(BaseModel):
    """The checkpoint's `tokenizer_config.json`; it may have more fields."""

    model_config = ConfigDict(extra="allow")

    tokenizer_class: str | None = None
    bos_token: Any = Field(None, description="Absent where there is none.")
    eos_token: Any = None
    pad_token: Any = None
    chat_template: str = Field(description="Jinja source.")


class Detokenized(BaseModel):
    """Their text."""

    prompt: str
