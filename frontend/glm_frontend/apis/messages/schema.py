"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``, in Anthropic's form."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import PydanticCustomError

from glm_frontend.apis.shared.schema import (
    CACHE_SALT_FIELD,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_STOP_STRINGS,
    CacheSalt,
    FunctionName,
    Hint,
    OfferedTool,
    OtherTool,
    StopString,
    note_ignored,
    note_unenforced,
    numbered,
    only_tools,
    own_or_other,
    stop_strings,
)
from glm_frontend.http.bodies import (
    TAG,
    NamedEvent,
    RequestModel,
    at_most,
    chosen_by,
    text_or_list,
)

MAX_TOOLS = 128

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class TextBlockParam(RequestModel):
    """A piece of text."""

    type: Literal["text"]
    text: str


class Base64Source(RequestModel):
    """A picture in the request itself."""

    type: Literal["base64"]
    media_type: Hint = Field(None, description="The file itself says what it is.")
    data: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="The file in base64; as data URI as well."
    )


class URLSource(RequestModel):
    """A picture elsewhere."""

    type: Literal["url"]
    url: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="Its http(s) URL, on the public internet."
    )


class ImageBlockParam(RequestModel):
    """A picture: PNG, JPEG, WebP or GIF (first frame)."""

    type: Literal["image"]
    source: Annotated[
        Annotated[Base64Source, Tag(f"{TAG}base64")] | Annotated[URLSource, Tag(f"{TAG}url")],
        chosen_by("type", "base64", "url"),
    ]


def _block_of_another_kind(block: Any, info: ValidationInfo) -> Any:
    """Documents and search results of text as text; what the model cannot see is left out, and
    named."""
    match block:
        case str():
            return {"type": "text", "text": block}
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return {"type": "text", "text": _titled(block, text)}
        case {"type": "document", "source": {"type": "content", "content": str(text)}}:
            return {"type": "text", "text": _titled(block, text)}
        case {"type": "document", "source": {"type": "content", "content": list(parts)}}:
            return {"type": "text", "text": _titled(block, _texts(parts))}
        case {"type": "search_result", "content": list(parts)}:
            return {"type": "text", "text": _titled(block, _texts(parts))}
        case {"type": "redacted_thinking" | "tool_reference" | "server_tool_use" as kind}:
            return _left_out(kind, info)
        case {"type": str(kind)} if kind.endswith("_tool_result"):
            return _left_out(kind, info)
    return block


def _titled(block: Mapping[str, Any], text: str) -> str:
    heads = [block[name] for name in ("title", "source", "context") if _is_text(block.get(name))]
    return "\n".join([*heads, text])


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _texts(parts: Sequence[Any]) -> str:
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def _left_out(kind: str, info: ValidationInfo) -> dict[str, Any]:
    note_ignored(info, kind[:64])
    return {"type": "text", "text": ""}


SeenBlock = Annotated[
    Annotated[TextBlockParam, Tag(f"{TAG}text")] | Annotated[ImageBlockParam, Tag(f"{TAG}image")],
    chosen_by("type", "text", "image"),
    BeforeValidator(_block_of_another_kind),
]


class ToolResultBlockParam(RequestModel):
    """What a call of the turn before gave."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(description="Which `tool_use` of the turn before it is the result of.")
    content: (
        Annotated[
            Annotated[str, Tag(f"{TAG}text")]
            | Annotated[list[SeenBlock], *at_most(MAX_PARTS), Tag(f"{TAG}list")],
            text_or_list("blocks"),
        ]
        | None
    ) = Field(None, description="Text, or a list of text and picture blocks.")
    is_error: bool | None = Field(
        None, description="true: the model reads `Error: ` before the content. Default false."
    )


class ThinkingBlockParam(RequestModel):
    """The model's thought, as an earlier answer of this server gave it."""

    type: Literal["thinking"]
    thinking: str
    signature: Hint = Field(None, description="Not checked.")


class ToolUseBlockParam(RequestModel):
    """A call, as an earlier answer of this server gave it."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Hint = Field(None, description="An object; what else it may have become stays text.")


class UserTurn(RequestModel):
    """What the user says, or what calls gave."""

    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag(f"{TAG}text")]
        | Annotated[
            list[
                Annotated[
                    Annotated[TextBlockParam, Tag(f"{TAG}text")]
                    | Annotated[ImageBlockParam, Tag(f"{TAG}image")]
                    | Annotated[ToolResultBlockParam, Tag(f"{TAG}tool_result")],
                    chosen_by("type", "text", "image", "tool_result"),
                    BeforeValidator(_block_of_another_kind),
                ]
            ],
            *at_most(MAX_PARTS),
            Tag(f"{TAG}list"),
        ],
        text_or_list("blocks"),
    ] = Field(
        description="Text, or a list of text, picture and `tool_result` blocks. The model reads "
        "results before the rest."
    )


class AssistantTurn(RequestModel):
    """What the model said."""

    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag(f"{TAG}text")]
        | Annotated[
            list[
                Annotated[
                    Annotated[TextBlockParam, Tag(f"{TAG}text")]
                    | Annotated[ThinkingBlockParam, Tag(f"{TAG}thinking")]
                    | Annotated[ToolUseBlockParam, Tag(f"{TAG}tool_use")],
                    chosen_by("type", "text", "thinking", "tool_use"),
                    BeforeValidator(_block_of_another_kind),
                ]
            ],
            *at_most(MAX_PARTS),
            Tag(f"{TAG}list"),
        ],
        text_or_list("blocks"),
    ] = Field(description="Text, or the blocks of an earlier answer.")


SystemContent = Annotated[
    Annotated[str, Tag(f"{TAG}text")]
    | Annotated[list[TextBlockParam], *at_most(MAX_PARTS), Tag(f"{TAG}list")],
    text_or_list("blocks"),
]


class SystemTurn(RequestModel):
    """An instruction in the middle of the conversation."""

    role: Literal["system"]
    content: SystemContent


Turn = Annotated[
    Annotated[UserTurn, Tag(f"{TAG}user")]
    | Annotated[AssistantTurn, Tag(f"{TAG}assistant")]
    | Annotated[SystemTurn, Tag(f"{TAG}system")],
    chosen_by("role", "user", "assistant", "system"),
]


class Thinking(RequestModel):
    """Whether the model thinks before it answers."""

    type: Literal["enabled", "adaptive", "disabled"] = Field(
        description="`enabled`: within a budget, if there is one. `adaptive`: without one. "
        "`disabled`: not at all."
    )
    budget_tokens: int | None = Field(
        None,
        ge=0,
        description="With `enabled`: number of tokens after which the thought must end; the "
        "answer follows. Less than `max_tokens`.",
    )
    display: Hint = Field(None, description="Without effect: the whole thought is sent.")


class CustomTool(RequestModel):
    """A function that the model may call."""

    type: Literal["custom", "function"] | None = None
    name: FunctionName = Field(description="Without blanks, `<` and `>`.")
    description: str | None = Field(None, description="What it does, for the model.")
    input_schema: dict[str, Any] = Field(description="JSON schema of its input, an object's.")
    input_examples: Annotated[list[dict[str, Any]], *at_most(MAX_PARTS)] | None = Field(
        None, description="Inputs that are right, for the model."
    )
    strict: bool | None = Field(
        None,
        description="true: what the model calls it with obeys the schema, whatever it would like.",
    )


class ToolChoice(RequestModel):
    """Whether the model calls a tool."""

    type: Literal["auto", "any", "tool", "none"] = Field(
        description="`auto`: the model chooses. `any`: it has to call one or more. `tool`: it has "
        "to call the one of this `name`. `none`: it is not told of them."
    )
    name: str | None = Field(None, validate_default=True, description="With `tool`.")
    disable_parallel_tool_use: bool | None = Field(
        None, description="true: of several calls only the first is given. Default false."
    )

    @field_validator("name")
    @classmethod
    def _goes_with_the_type(cls, name: str | None, info: ValidationInfo) -> str | None:
        kind = info.data.get("type")
        if kind == "tool" and name is None:
            raise PydanticCustomError("missing", "is required")
        return name

    def wire(self) -> str | dict[str, Any] | None:
        """The model server's ``tool_choice``; None where the model is free."""
        if self.type == "tool":
            return {"type": "function", "function": {"name": self.name}}
        return "required" if self.type == "any" else None


class JSONOutputFormat(RequestModel):
    """A JSON document."""

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema", description="Its schema.")


class OutputConfig(RequestModel):
    """How the answer is to be."""

    format: JSONOutputFormat | None = Field(
        None,
        description="What the answer must be; the model can write nothing else. Its thought "
        "stays free.",
    )
    effort: Hint = Field(
        None,
        description="Without effect: the model has one strength of thinking, which all of them "
        "stand for.",
    )


class CountTokensRequest(RequestModel):
    """A conversation whose tokens are to be counted."""

    model: str = Field(description="The name of the served model; GET /v1/models tells it.")
    messages: Annotated[list[Turn], *at_most(MAX_MESSAGES)] = Field(
        min_length=1,
        description="The conversation so far; pictures may be anywhere in it. The answer goes on "
        "with the last turn if it is the assistant's.",
    )
    system: SystemContent | None = Field(None, description="An instruction before all of it.")
    thinking: Thinking | None = Field(
        None, description="Whether the model thinks before it answers. Default: it does not."
    )
    tools: (
        Annotated[
            list[
                Annotated[
                    Annotated[CustomTool, Tag(f"{TAG}tool")]
                    | Annotated[SkipJsonSchema[OtherTool], Tag(f"{TAG}other")],
                    Discriminator(own_or_other),
                ]
            ],
            *at_most(MAX_TOOLS),
            only_tools("custom", "function"),
        ]
        | None
    ) = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(
        None, description='Whether the model calls a tool. Default `{"type": "auto"}`.'
    )
    output_config: OutputConfig | None = Field(None, description="How the answer is to be.")
    thread: Hint = Field(None, description="Not supported: the conversation is sent whole.")
    output_format: JSONOutputFormat | None = Field(
        None, description="Earlier name of `output_config.format`."
    )

    @property
    def answer_format(self) -> JSONOutputFormat | None:
        """What the answer must be, under whichever name it came."""
        output = None if self.output_config is None else self.output_config.format
        return self.output_format if output is None else output


class MessagesRequest(CountTokensRequest):
    """A conversation to go on with."""

    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens of the answer, its thought included. By default, and at most, "
        "what the context leaves.",
    )
    stream: bool | None = Field(
        None,
        description="true: the answer comes as server-sent events while it is written. "
        "Default false.",
    )
    stop_sequences: (
        Annotated[list[StopString], *at_most(MAX_STOP_STRINGS), BeforeValidator(stop_strings)]
        | None
    ) = Field(
        None,
        description=f"Up to {MAX_STOP_STRINGS} texts that end the answer; they are not part of it, "
        "and are looked for in its text only, not in its thought or in calls.",
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
        "Default: the checkpoint's own.",
    )
    top_k: int | None = Field(
        None,
        ge=-1,
        le=2**31 - 1,
        description="Choose among this many of the likeliest tokens; 0: all. Default: the "
        "checkpoint's own.",
    )
    cache_salt: CacheSalt | None = CACHE_SALT_FIELD

    @model_validator(mode="after")
    def _names_what_is_not_enforced(self, info: ValidationInfo) -> Self:
        choice = self.tool_choice
        if choice is None or choice.type != "none":
            offered = [
                OfferedTool(
                    tool.name, tool.input_schema, bool(tool.strict), f"tools[{place}].input_schema"
                )
                for place, tool in numbered(self.tools)
            ]
            note_unenforced(info, offered, None if choice is None else choice.wire())
        return self


class TextBlock(BaseModel):
    """The answer's text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(BaseModel):
    """The model's thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str = Field(description="Stands for the thought; send it back as it is.")


class ToolUseBlock(BaseModel):
    """A call that the model asks for."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any] = Field(description="Check it before use.")


ContentBlock = Annotated[ThinkingBlock | TextBlock | ToolUseBlock, Field(discriminator="type")]


class ThinkingTokens(BaseModel):
    """What the answer's tokens are."""

    thinking_tokens: int = Field(description="Tokens of the thought.")


class MessageUsage(BaseModel):
    """Tokens that a request took; the prompt's are those of the three input fields together."""

    input_tokens: int
    cache_creation_input_tokens: int = Field(description="Always 0.")
    cache_read_input_tokens: int = Field(
        description="Tokens that an earlier request had in common."
    )
    output_tokens: int = Field(description="Tokens of the answer, its thought included.")
    output_tokens_details: ThinkingTokens


class AssistantAnswer(BaseModel):
    """A whole answer."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ContentBlock] = Field(description="The thought, the text, the calls.")
    stop_reason: StopReason | None = Field(
        description="`end_turn`: the answer is complete. `max_tokens`: it was cut. "
        "`stop_sequence`: one of `stop_sequences` ended it. `tool_use`: it asks for calls. "
        "null where a stream begins."
    )
    stop_sequence: str | None = Field(description="Which of `stop_sequences` ended it.")
    usage: MessageUsage


class TokenCount(BaseModel):
    """How long a prompt is."""

    input_tokens: int = Field(description="Tokens of all of it, its pictures and tools included.")


class MessageStartEvent(NamedEvent):
    """The first event: the answer, still empty."""

    type: Literal["message_start"]
    message: AssistantAnswer


class PingEvent(NamedEvent):
    """Says nothing."""

    type: Literal["ping"]


class ContentBlockStartEvent(NamedEvent):
    """A block begins, empty."""

    type: Literal["content_block_start"]
    index: int
    content_block: ContentBlock


class TextBlockDelta(BaseModel):
    """The next piece of text."""

    type: Literal["text_delta"]
    text: str


class ThinkingBlockDelta(BaseModel):
    """The next piece of a thought."""

    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(BaseModel):
    """The end of a thought."""

    type: Literal["signature_delta"]
    signature: str


class InputJSONDelta(BaseModel):
    """The next piece of a call's input, as JSON text."""

    type: Literal["input_json_delta"]
    partial_json: str


BlockDelta = TextBlockDelta | ThinkingBlockDelta | SignatureDelta | InputJSONDelta


class ContentBlockDeltaEvent(NamedEvent):
    """The next piece of the block that is open."""

    type: Literal["content_block_delta"]
    index: int
    delta: Annotated[BlockDelta, Field(discriminator="type")]


class ContentBlockStopEvent(NamedEvent):
    """The block is complete."""

    type: Literal["content_block_stop"]
    index: int


class StopDelta(BaseModel):
    """Why the answer ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDeltaEvent(NamedEvent):
    """The end of the answer, with what it took in all."""

    type: Literal["message_delta"]
    delta: StopDelta
    usage: MessageUsage


class MessageStopEvent(NamedEvent):
    """The last event."""

    type: Literal["message_stop"]


MESSAGE_EVENTS = (
    MessageStartEvent,
    PingEvent,
    ContentBlockStartEvent,
    ContentBlockDeltaEvent,
    ContentBlockStopEvent,
    MessageDeltaEvent,
    MessageStopEvent,
)
"""In the order of a stream; those of blocks are repeated."""
