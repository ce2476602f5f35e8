"""``POST /v1/completions``, OpenAI's older endpoint for text that goes on."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from glm_client import FinishReason
from glm_frontend.apis.shared.schema import (
    MAX_CHOICES,
    MAX_PROMPT_TOKENS,
    MAX_TOP_LOGPROBS,
    PROMPT_LOGPROBS_WANTED,
    PromptLogprobs,
    PromptLogprobsWanted,
    SamplingParameters,
    StreamOptions,
    TokenId,
    Usage,
    check_prompt_logprobs,
)
from glm_frontend.http.bodies import TAG, at_most

MAX_PROMPTS = 16

Tokens = Annotated[list[TokenId], Field(min_length=1), *at_most(MAX_PROMPT_TOKENS)]


def _prompt_tag(prompt: Any) -> str | None:
    match prompt:
        case str():
            return f"{TAG}text"
        case [str(), *_]:
            return f"{TAG}texts"
        case [int(), *_]:
            return f"{TAG}tokens"
        case [list(), *_]:
            return f"{TAG}several"
    return None


Prompt = Annotated[
    Annotated[str, Tag(f"{TAG}text")]
    | Annotated[list[str], *at_most(MAX_PROMPTS), Tag(f"{TAG}texts")]
    | Annotated[Tokens, Tag(f"{TAG}tokens")]
    | Annotated[list[Tokens], *at_most(MAX_PROMPTS), Tag(f"{TAG}several")],
    Discriminator(
        _prompt_tag,
        custom_error_type="prompt_type",
        custom_error_message="must be a text, a list of token ids, or a list of texts or of such "
        "lists, none of them empty",
    ),
]


class CompletionRequest(SamplingParameters):
    """A text to go on with."""

    model: str = Field(description="The name of the served model; GET /v1/models tells it.")
    prompt: Prompt = Field(
        description="The text that the model goes on with, as it is: no chat template is used, "
        f"and tags in it are tokens. Or its token ids; or a list of up to {MAX_PROMPTS} of these."
    )
    max_tokens: int | None = Field(
        None,
        ge=0,
        description="Most tokens of the answer. 0 only with `echo`: the prompt alone comes back. "
        "Default: 512, or what the context leaves if that is less.",
        json_schema_extra={"default": 512},
        validate_default=False,
    )
    n: int | None = Field(
        None, ge=1, le=MAX_CHOICES, description="Answers to each prompt. Default 1."
    )
    best_of: int | None = Field(None, description="Only the same as `n`.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Report the log probability of each token, and this many alternatives.",
    )
    echo: bool | None = Field(
        None,
        validate_default=True,
        description="true: the text begins with the prompt, `logprobs` with those of its tokens.",
    )
    stream: bool | None = Field(
        None,
        description="true: the text comes as server-sent events while it is written, one prompt "
        "after the other. Default false.",
    )
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    prompt_logprobs: PromptLogprobsWanted = Field(None, description=PROMPT_LOGPROBS_WANTED)

    _not_in_streams = field_validator("prompt_logprobs")(check_prompt_logprobs)

    @field_validator("chat_template_kwargs", "thinking_token_budget")
    @classmethod
    def _is_for_conversations(cls, value: Any) -> Any:
        if value is not None:
            raise PydanticCustomError("no_conversation", "is for conversations only")
        return value

    @field_validator("echo")
    @classmethod
    def _goes_with_no_answer(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if not value and info.data.get("max_tokens") == 0:
            raise PydanticCustomError("no_answer", "must be true where max_tokens is 0")
        return value

    @property
    def has_no_answer(self) -> bool:
        """Whether the prompt alone comes back."""
        return self.max_tokens == 0

    @field_validator("best_of")
    @classmethod
    def _is_n(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value != (info.data.get("n") or 1):
            raise PydanticCustomError("best_of", "must be the same as n")
        return value

    def prompts(self) -> list[tuple[str, str | list[int]]]:
        """Each prompt, and where it stands."""
        given: Any = self.prompt
        if isinstance(given, str) or isinstance(given[0], int):
            return [("prompt", given)]
        return [(f"prompt[{i}]", one) for i, one in enumerate(given)]

    def sampling_parameters(self) -> dict[str, Any]:
        """What was given, under the names that the model server has for it."""
        sampling = super().sampling_parameters()
        if self.has_no_answer:
            sampling["max_tokens"] = 1  # the least that the model server takes
        if self.n is not None:
            sampling["n"] = self.n
        if self.logprobs is not None:
            sampling["logprobs"] = self.logprobs
            if self.echo:
                sampling["prompt_logprobs"] = self.logprobs
        if self.prompt_logprobs is not None and not self.stream:
            already = sampling.get("prompt_logprobs", 0)
            sampling["prompt_logprobs"] = max(self.prompt_logprobs, already)
        return sampling


class CompletionLogprobs(BaseModel):
    """How likely the tokens were."""

    tokens: list[str]
    token_logprobs: list[float | None] = Field(
        description="Natural logarithms of their probabilities; null for a prompt's first token."
    )
    top_logprobs: list[dict[str, float] | None] = Field(
        description="The likeliest in each place, and the token itself."
    )
    text_offset: list[int] = Field(description="Where in the text each begins, in characters.")


class CompletionChoice(BaseModel):
    """One text."""

    index: int = Field(description="Answer k to prompt i is i * n + k.")
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None = Field(
        description="`stop`: it is complete. `length`: it was cut at `max_tokens`."
    )
    prompt_logprobs: PromptLogprobs | None = Field(
        default=None, description="As in chat completions; absent unless asked for."
    )


class Completion(BaseModel):
    """Whole texts; as an event of a stream, the next piece of one."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Unix time in seconds.")
    model: str
    system_fingerprint: str = Field(description="Changes when the server or its model does.")
    choices: list[CompletionChoice]
    usage: Usage | None = Field(
        default=None, description="Absent in events that do not tell it; see `stream_options`."
    )
