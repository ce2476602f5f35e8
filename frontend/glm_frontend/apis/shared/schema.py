"""What the bodies of both inference endpoints have in common."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, from_json

from glm_frontend.apis.shared.unenforced import (
    OF_NAMES,
    VALUES,
    unenforced,
    unenforced_arguments,
)
from glm_frontend.core.events import TokenUsage
from glm_frontend.core.request import WIRE_SAMPLING
from glm_frontend.http.bodies import IGNORED, TAG, RequestModel, at_most

ALL_THAT_IS_LEFT: Mapping[str, Any] = MappingProxyType(
    {"max_tokens": 2**31 - 1, "truncate_max_tokens": True}
)
"""Sampling parameters for an answer as long as the context allows."""

MAX_STOP_STRINGS = 16
LEAST_TOP_P = 1e-6
"""Stands for 0, which leaves the likeliest token."""
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_TOOLS = 128
LOW_DETAIL_PIXELS = 512 * 512
MAX_MESSAGES = 4096
MAX_PARTS = 1024
"""Of one message, and of what else is a list of parts."""
MAX_TOKEN_IDS = 1024
"""Of `stop_token_ids` and `logit_bias`."""
MAX_PROMPT_TOKENS = 256 * 1024
MAX_CHOICES_OF_TEXT = 1000
MAX_METADATA = 64
MAX_SALT = 1024


StopString = Annotated[str, StringConstraints(min_length=1)]


def stop_strings(value: Any) -> Any:
    """A validator: one string is a list of one, and empty ones, which nothing could end, go."""
    given = [value] if isinstance(value, str) else value
    return [one for one in given if one != ""] if isinstance(given, list) else given


Stop = Annotated[
    list[StopString],
    *at_most(MAX_STOP_STRINGS),
    BeforeValidator(stop_strings),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "maxItems": MAX_STOP_STRINGS},
            ]
        }
    ),
]
# The wire has 32 bits for one.
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIdText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]


Hint = Annotated[Any, WithJsonSchema({})]
"""A field without effect, whatever its value."""


class ChatTemplateKwargs(RequestModel):
    """Switches of the model's chat template. Those of other vendors' templates have no effect."""

    model_config = ConfigDict(extra="ignore")

    enable_thinking: bool | None = Field(
        None,
        description="false: answer at once. By default the model thinks first; the thought comes "
        "as `reasoning_content`.",
    )
    thinking: bool | None = Field(
        None, description="The same, as other vendors' templates have it."
    )

    @property
    def thinks(self) -> bool | None:
        """Whether the model thinks first; None where nothing says so."""
        return self.thinking if self.enable_thinking is None else self.enable_thinking


ReasoningEffort = Annotated[str, StringConstraints(max_length=32)]
NO_THINKING = frozenset({"none", "off", "disabled", "disable"})


class ThinkingSwitch(RequestModel):
    """Whether the model thinks first, as Z.ai's own API has it."""

    model_config = ConfigDict(extra="ignore")

    type: str | None = Field(None, description="`enabled`, `adaptive` or `disabled`.")
    budget_tokens: int | None = Field(None, ge=0, description="As `thinking_token_budget`.")

    @property
    def thinks(self) -> bool | None:
        """Whether the model thinks first; None where nothing says so."""
        return None if self.type is None else self.type not in NO_THINKING


class ReasoningSwitch(RequestModel):
    """How the model thinks, as OpenRouter and OpenAI's newer API have it."""

    model_config = ConfigDict(extra="ignore")

    effort: ReasoningEffort | None = Field(None, description="As `reasoning_effort`.")
    enabled: bool | None = Field(None, description="false: answer at once.")
    exclude: bool | None = Field(None, description="true: the thought is not sent.")
    max_tokens: int | None = Field(None, ge=0, description="As `thinking_token_budget`.")

    @property
    def thinks(self) -> bool | None:
        """Whether the model thinks first; None where nothing says so."""
        return effort_thinks(self.effort) if self.enabled is None else self.enabled


def thinking_kwargs(*switches: bool | None) -> dict[str, Any]:
    """The chat template's switch for thinking: the first one that says something."""
    given = [thinks for thinks in switches if thinks is not None]
    return {"enable_thinking": given[0]} if given else {}


def effort_thinks(effort: ReasoningEffort | None) -> bool | None:
    """Whether an effort means a thought; None where none is given."""
    return None if effort is None else effort.lower() not in NO_THINKING


class StructuredOutputs(RequestModel):
    """What the answer must be, but for its thought; give exactly one. Names are vLLM's."""

    schema_: dict[str, Any] | str | bool | None = Field(
        None, alias="json", description="A document of this JSON schema."
    )
    json_object: Literal[True] | None = Field(None, description="true: any JSON object.")
    regex: str | None = Field(
        None, description="A text that matches this regular expression as a whole."
    )
    choice: Annotated[list[str], *at_most(MAX_CHOICES_OF_TEXT)] | None = Field(
        None, description="One of these texts."
    )
    grammar: str | None = Field(
        None, description="A text of this context-free grammar, in Lark's form or in GBNF."
    )


class Structure(NamedTuple):
    """What an answer is held to: a key and value of ``StructuredOutputs``, and where they stood.

    Attributes:
        is_lenient: whether keywords of a schema that cannot be enforced are left out, instead of
            being refused.
    """

    kind: str
    value: Any
    path: str
    is_lenient: bool = False

    def on_the_wire(self) -> dict[str, Any]:
        """The model server's ``structured_outputs``."""
        if not self.is_lenient:
            return {self.kind: self.value}
        return {self.kind: {**self.value, "x-guidance": {"lenient": True}}}


GUIDED_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "guided_json": "json",
        "guided_regex": "regex",
        "guided_choice": "choice",
        "guided_grammar": "grammar",
    }
)
"""vLLM's earlier names of the keys of ``structured_outputs``."""
_STRUCTURE_FIELDS = ("structured_outputs", *GUIDED_FIELDS, "response_format")


def _asked_of_vllm(name: str | None, value: Any) -> dict[str, Any] | None:
    """What a field of vLLM's asks for, under its newest name; None for other fields."""
    if name == "structured_outputs" and value is not None:
        asked: dict[str, Any] = value.model_dump(by_alias=True, exclude_none=True)
        return asked
    return {GUIDED_FIELDS[name]: value} if name is not None and name in GUIDED_FIELDS else None


def check_only_structure(value: Any, info: ValidationInfo) -> Any:
    """A validator of the fields that hold an answer to something: one of them only. The same by
    two of vLLM's names, which clients send for its older versions, is one."""
    others = [name for name in _STRUCTURE_FIELDS if info.data.get(name) is not None]
    own = _asked_of_vllm(info.field_name, value)
    others = [
        name for name in others if own is None or own != _asked_of_vllm(name, info.data[name])
    ]
    if value is not None and others:
        raise PydanticCustomError(
            "structured_twice", "cannot be combined with {other}", {"other": others[0]}
        )
    return value


CacheSalt = Annotated[str, Field(min_length=1, max_length=MAX_SALT)]
CACHE_SALT_FIELD: Any = Field(
    None,
    description="What the server keeps of this request is reused only by requests of the same "
    "caller with the same salt. Default: by all of the caller's without one.",
)


class SamplingParameters(RequestModel):
    """How the answer's tokens are chosen, and when it ends."""

    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens of the answer, its thought included. Default: 512 after the "
        "thought, or what the context leaves if that is less.",
        json_schema_extra={"default": 512},
    )
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="0 takes the likeliest token; higher is more random. Default: the "
        "checkpoint's own.",
    )
    top_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Choose among the likeliest tokens that together have this probability. "
        "0.9 is a good value. Default: the checkpoint's own.",
    )
    top_k: int | None = Field(
        None,
        ge=-1,
        le=2**31 - 1,
        description="Choose among this many of the likeliest tokens; 0 or -1: all. Default: the "
        "checkpoint's own.",
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Leave out tokens less likely than this fraction of the likeliest one's "
        "probability. Default 0.",
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        le=2**63 - 1,
        description="The same request with the same seed gets the same answer.",
    )
    stop: Stop | None = Field(
        None,
        description=f"Up to {MAX_STOP_STRINGS} texts that end the answer; they are not part of it, "
        "and are looked for in its text only, not in its thought or in calls.",
    )
    stop_token_ids: Annotated[list[TokenId], *at_most(MAX_TOKEN_IDS)] | None = Field(
        None, description="Further tokens that end the answer."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Above 0: less of what was written already. Default 0."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="Above 0: less of what was written often. Default 0."
    )
    repetition_penalty: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="Above 1: less of what the prompt and the answer hold already. Default: the "
        "checkpoint's own.",
    )
    logit_bias: (
        Annotated[
            dict[TokenIdText, Annotated[float, Field(ge=-100, le=100)]], *at_most(MAX_TOKEN_IDS)
        ]
        | None
    ) = Field(None, description="From token ids to what is added to their logits, -100 to 100.")
    min_tokens: int | None = Field(
        None,
        ge=0,
        description="Minimum number of tokens before the model may end the answer; `stop` may. "
        "Default 0.",
    )
    ignore_eos: bool | None = Field(
        None, description="true: only `max_tokens` and `stop` end the answer, for benchmarks."
    )
    thinking_token_budget: int | None = Field(
        None,
        ge=0,
        description="Number of tokens after which the thought must end, and the answer follows. "
        "Default: no limit.",
    )
    chat_template_kwargs: ChatTemplateKwargs | None = Field(
        None, description="Switches of the chat template."
    )
    structured_outputs: StructuredOutputs | None = Field(
        None,
        description="What the answer must be; the model can write nothing else. Its thought "
        "stays free.",
    )
    guided_json: dict[str, Any] | str | bool | None = Field(
        None, description="The same as `structured_outputs.json`, by its earlier name."
    )
    guided_regex: str | None = Field(
        None, description="The same as `structured_outputs.regex`, by its earlier name."
    )
    guided_choice: Annotated[list[str], *at_most(MAX_CHOICES_OF_TEXT)] | None = Field(
        None, description="The same as `structured_outputs.choice`, by its earlier name."
    )
    guided_grammar: str | None = Field(
        None, description="The same as `structured_outputs.grammar`, by its earlier name."
    )

    cache_salt: CacheSalt | None = CACHE_SALT_FIELD

    _one_structure = field_validator("structured_outputs", *GUIDED_FIELDS)(check_only_structure)

    @field_validator("structured_outputs")
    @classmethod
    def _has_one_key(cls, value: StructuredOutputs | None) -> StructuredOutputs | None:
        if value is not None and len(value.model_dump(exclude_none=True)) != 1:
            raise PydanticCustomError("one_key", "must have exactly one key")
        return value

    @field_validator("min_tokens")
    @classmethod
    def _min_is_not_above_max(cls, value: int | None, info: ValidationInfo) -> int | None:
        max_tokens = info.data.get("max_tokens")
        if value is not None and max_tokens is not None and value > max_tokens:
            raise PydanticCustomError("above_max_tokens", "must not be greater than max_tokens")
        return value

    def sampling_parameters(self) -> dict[str, Any]:
        """What was given, under the names that the model server has for it."""
        elsewhere = {"chat_template_kwargs", "structured_outputs", "cache_salt", *GUIDED_FIELDS}
        given = self.model_dump(
            include=set(SamplingParameters.model_fields) - elsewhere, exclude_none=True
        )
        if self.top_p == 0:
            given["top_p"] = LEAST_TOP_P
        structure = self.structure()
        if structure is not None:
            given["structured_outputs"] = structure.on_the_wire()
        return given

    def renamed(self) -> dict[str, str]:
        """From paths on the wire to where this request has the same."""
        structure = self.structure()
        if structure is None:
            return {}
        return {f"{WIRE_SAMPLING}structured_outputs.{structure.kind}": structure.path}

    def structure(self) -> Structure | None:
        """What the answer is held to; None where it is free."""
        if self.structured_outputs is not None:
            ((kind, value),) = self.structured_outputs.model_dump(
                by_alias=True, exclude_none=True
            ).items()
            return Structure(kind, value, f"structured_outputs.{kind}")
        for name, kind in GUIDED_FIELDS.items():
            if (value := getattr(self, name)) is not None:
                return Structure(kind, value, name)
        return None


class PromptTokensDetails(BaseModel):
    """What the prompt's tokens stand for."""

    image_tokens: int = Field(description="Tokens of the pictures, and of the frames of videos.")
    cached_tokens: int = Field(description="Tokens that an earlier request had in common.")


class CompletionTokensDetails(BaseModel):
    """What the answer's tokens are."""

    reasoning_tokens: int = Field(description="Tokens of the thought.")


class Usage(BaseModel):
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int = Field(description="Tokens of the answer, its thought included.")
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails

    @classmethod
    def of(cls, usage: TokenUsage) -> Self:
        """In OpenAI's form."""
        return cls(
            prompt_tokens=usage.prompt,
            completion_tokens=usage.completion,
            total_tokens=usage.prompt + usage.completion,
            prompt_tokens_details=PromptTokensDetails(
                image_tokens=usage.image, cached_tokens=usage.cached
            ),
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=usage.reasoning),
        )


FunctionName = Annotated[str, StringConstraints(pattern=r"^[^\s<>]{1,128}$")]


def closed(schema: Any) -> Any:
    """A schema as ``strict: true`` means it: objects have no members but those that it names."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    is_combined = not _COMBINING.isdisjoint(schema)
    has_members = isinstance(schema.get("properties"), dict)
    inner: dict[str, Any] = {}
    for key, value in schema.items():
        if key in OF_NAMES and isinstance(value, dict):
            inner[key] = {name: closed(one) for name, one in value.items()}
        elif key in VALUES or (key in _COMBINING and (has_members or key not in _CHOICES)):
            inner[key] = value  # what is closed here could not have the members from there
        else:
            inner[key] = closed(value)
    if has_members and not is_combined and "patternProperties" not in schema:
        inner.setdefault("additionalProperties", False)
    return inner


_CHOICES = frozenset({"anyOf", "oneOf"})
_COMBINING = _CHOICES | {"allOf", "not", "if", "then", "else", "$ref"}


def as_wire_tool(function: "FunctionDefinition") -> dict[str, Any]:
    """A tool in OpenAI's form, without what asks for nothing."""
    given = function.model_dump(exclude={"type"}, exclude_none=True)
    if not function.strict:
        given.pop("strict", None)
    elif function.parameters is not None:
        given["parameters"] = closed(function.parameters)
    return {"type": "function", "function": given}


class OtherTool(RequestModel):
    """A tool that another server would run. The model does not see it."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["other"]


def only_tools(*types: str) -> BeforeValidator:
    """A validator of a list of tools: those of other types become an ``OtherTool``, so that the
    others keep their places, and are named. Within a namespace likewise."""

    def own(tool: Any, path: str, info: ValidationInfo) -> Any:
        match tool:
            case {"type": "namespace", "tools": list(inner)} if "namespace" in types:
                kept = [own(one, f"{path}.tools[{i}]", info) for i, one in enumerate(inner)]
                return {**tool, "tools": kept}
            case dict() if tool.get("type") not in (*types, None):
                note_ignored(info, path)
                return {"type": "other"}
        return tool

    def check(tools: Any, info: ValidationInfo) -> Any:
        if not isinstance(tools, list):
            return tools
        return [own(tool, f"{info.field_name}[{i}]", info) for i, tool in enumerate(tools)]

    return BeforeValidator(check)


def own_or_other(tool: Any) -> str:
    """The tag of a tool: ``~other`` for an ``OtherTool``, ``~namespace``, else ``~tool``."""
    kind = tool.get("type") if isinstance(tool, dict) else getattr(tool, "type", None)
    return f"{TAG}{kind if kind in ('other', 'namespace') else 'tool'}"


AnyTool = TypeVar("AnyTool", bound=RequestModel)


def numbered(tools: Sequence[AnyTool | OtherTool] | None) -> list[tuple[int, AnyTool]]:
    """The tools that the model may see, with their places in the request."""
    given = enumerate(tools or ())
    return [(place, tool) for place, tool in given if not isinstance(tool, OtherTool)]


def note_ignored(info: ValidationInfo, path: str) -> None:
    """Name what a validator leaves out; see ``http.validation.validate``."""
    ignored = (info.context or {}).get(IGNORED)
    if ignored is not None:
        ignored.append(path)


class OfferedTool(NamedTuple):
    """A function that the model may call, and where its schema stands."""

    name: str
    parameters: Mapping[str, Any] | None
    is_strict: bool
    path: str


def note_unenforced(
    info: ValidationInfo,
    tools: Sequence[OfferedTool],
    tool_choice: object,
    structure: Structure | None = None,
) -> None:
    """Name the keywords of schemas that the engine leaves out where it enforces a schema.

    Args:
        tool_choice: the model server's: "required", a function by its name, or None.
    """
    match tool_choice:
        case {"function": {"name": name}}:
            tools = [tool for tool in tools if tool.name == name]
        case "required":
            pass
        case _ if not any(tool.is_strict for tool in tools):
            tools = ()
    for tool in tools:
        if not tool.is_strict:
            for path in unenforced_arguments(tool.parameters, tool.path):
                note_ignored(info, path)
    if structure is not None and structure.is_lenient:
        for path in unenforced(structure.value, structure.path):
            note_ignored(info, path)


def as_arguments(arguments: Any) -> str:
    """A validator of the arguments of an earlier call: JSON text, whatever form they came in."""
    if arguments is None or arguments == "":
        return "{}"
    if not isinstance(arguments, str):
        return json.dumps(arguments, ensure_ascii=False)
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError):  # of a call that was cut, what is complete
            complete = from_json(arguments, allow_partial="trailing-strings")
            if isinstance(complete, dict):
                return json.dumps(complete, ensure_ascii=False)
    return arguments


class FunctionDefinition(RequestModel):
    """A function that the model may call."""

    name: FunctionName = Field(description="Without blanks, `<` and `>`.")
    description: str | None = Field(None, description="What it does, for the model.")
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of its arguments, an object's."
    )
    strict: bool | None = Field(
        None,
        description="true: what the model calls it with obeys the schema, whatever it would like.",
    )


class ChosenFunction(RequestModel):
    """The name of a function."""

    name: FunctionName


class JSONSchemaFormat(RequestModel):
    """A JSON schema and its name."""

    name: str = Field("answer", description="Without effect.")
    description: str | None = Field(None, description="Without effect.")
    schema_: dict[str, Any] | None = Field(
        None, alias="schema", description="The schema; any JSON object where it is absent."
    )
    strict: bool | None = Field(
        None,
        description="true: objects have no members but those that the schema names. Every answer "
        "obeys the schema anyway, or is cut at its end.",
    )


def check_prompt_logprobs(value: int | None, info: ValidationInfo) -> int | None:
    """A validator of ``prompt_logprobs``, which stands after ``stream``; as vLLM has it."""
    if value and info.data.get("stream"):
        raise PydanticCustomError("not_streamed", "is not available in streams")
    return value


PromptLogprobsWanted = Annotated[int | None, Field(ge=0, le=MAX_TOP_LOGPROBS)]
PROMPT_LOGPROBS_WANTED = (
    "Report how likely each token of the prompt was, and this many alternatives, as vLLM does. Not "
    "in streams."
)


class _OnlyKnown(RequestModel):
    """What would change the answer: an unknown field is refused, never left out."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        unknown = (
            [key for key in data if key not in cls.known_fields()] if isinstance(data, dict) else []
        )
        if any(data[key] is not None for key in unknown):
            raise PydanticCustomError(
                "not_supported",
                "{key} is not supported, only {known}",
                {"key": str(unknown[0])[:64], "known": ", ".join(cls.known_fields())},
            )
        return data


MAX_FRAMES = 640
"""Of one video that the model looks at."""
MaxPixels = Annotated[int, Field(ge=1, lt=2**31)]
FramesPerSecond = Annotated[float, Field(gt=0, le=240)]
NumFrames = Annotated[int, Field(ge=1, le=MAX_FRAMES)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]


class ProcessorSize(_OnlyKnown):
    """Limits of frames x height x width in pixels; a picture counts as two frames."""

    shortest_edge: MaxPixels | None = None
    longest_edge: MaxPixels | None = None


class ProcessorKwargs(_OnlyKnown):
    """How all pictures and videos are resized, under the names of vLLM and transformers."""

    size: ProcessorSize | None = Field(
        None, description="The processor's own name of the next two."
    )
    min_pixels: MaxPixels | None = Field(
        None, description="Least pixels of frames x height x width; smaller media are scaled up."
    )
    max_pixels: MaxPixels | None = Field(
        None, description="Most pixels of frames x height x width; a picture counts as two frames."
    )
    do_resize: bool | None = Field(
        None,
        description="false: media stay as they are; each side must be a multiple of a token's.",
    )
    fps: FramesPerSecond | None = Field(
        None, description="Frames of a second of video that are looked at."
    )


class VideoSampling(_OnlyKnown):
    """Which frames of a video are looked at. Default: GLM's own choice."""

    fps: FramesPerSecond | None = Field(None, description="So many of a second, 640 at most.")
    num_frames: Annotated[int, Field(ge=-1, le=MAX_FRAMES)] | None = Field(
        None, description="At most so many, evenly spaced; -1: GLM's own choice."
    )


class MediaKwargs(_OnlyKnown):
    """How files are read, under vLLM's names."""

    video: VideoSampling | None = None
    image: Hint = None


class VideoFields(RequestModel):
    """Which frames of a video are looked at, and how closely. Default: GLM's own choice."""

    fps: FramesPerSecond | None = Field(
        None,
        description="Frames of a second that are looked at, 640 in all at most. Of given frames: "
        "how many a second has.",
    )
    num_frames: NumFrames | None = Field(
        None, description="At most so many frames are looked at, evenly spaced."
    )
    video_start: Seconds | None = Field(
        None, description="Seconds; what is before is not looked at."
    )
    video_end: Seconds | None = Field(None, description="Seconds; nor is what is after it.")
    max_pixels: MaxPixels | None = Field(
        None, description="Of a frame: larger ones are scaled down."
    )

    def video_options(self) -> dict[str, Any]:
        """What was given, under the names that the model server has for it."""
        return self.model_dump(include=set(VideoFields.model_fields), exclude_none=True)


class StreamOptions(RequestModel):
    """What a stream holds."""

    include_usage: bool | None = Field(
        None, description="true: one more chunk before `[DONE]` has the usage. Default false."
    )
    continuous_usage_stats: bool | None = Field(
        None, description="true: every chunk has the usage so far. Default false."
    )


class AlternativeToken(BaseModel):
    """A token and how likely it was, before temperature and filters."""

    token: str
    bytes: list[int] | None = Field(
        description="Its bytes in UTF-8; a character may be made of several tokens."
    )
    logprob: float = Field(description="Natural logarithm of its probability.")


class ChatCompletionTokenLogprob(AlternativeToken):
    """A token of the answer."""

    top_logprobs: list[AlternativeToken] = Field(description="The likeliest ones, best first.")


class PromptLogprob(BaseModel):
    """How likely a token of the prompt was in its place."""

    logprob: float = Field(description="Natural logarithm of its probability.")
    rank: int = Field(description="1 for the likeliest token.")
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]
"""For each token of the prompt, by token id: the token itself, then the likeliest ones."""


class Logprobs(BaseModel):
    """How likely the tokens of the answer were."""

    content: list[ChatCompletionTokenLogprob] = Field(description="The tokens of `content`.")
