"""``POST /v1/responses``, in OpenAI's form: the request, and the response as an object."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
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
    ALL_THAT_IS_LEFT,
    LOW_DETAIL_PIXELS,
    MAX_MESSAGES,
    MAX_METADATA,
    MAX_PARTS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    ChatCompletionTokenLogprob,
    ChosenFunction,
    FunctionDefinition,
    FunctionName,
    Hint,
    JSONSchemaFormat,
    OfferedTool,
    OtherTool,
    ReasoningEffort,
    SamplingParameters,
    Structure,
    as_arguments,
    check_only_structure,
    closed,
    effort_thinks,
    note_ignored,
    note_unenforced,
    numbered,
    only_tools,
    own_or_other,
    thinking_kwargs,
)
from glm_frontend.http.bodies import (
    CHOICE_ERROR,
    TAG,
    RequestModel,
    at_most,
    chosen_by,
    text_or_list,
)

LOGPROBS = "message.output_text.logprobs"

ItemStatus = Literal["in_progress", "completed", "incomplete"]
ResponseStatus = Literal["in_progress", "completed", "incomplete", "failed"]

_FROM_AN_ANSWER = "As an earlier answer had it; without effect."


def _kind(value: Any) -> Any:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


# --- input -------------------------------------------------------------------------------------


class InputText(RequestModel):
    """A piece of text."""

    type: Literal["input_text"]
    text: str


class InputImage(RequestModel):
    """A picture."""

    type: Literal["input_image"]
    image_url: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="The picture itself as `data:image/png;base64,...` (recommended), or its "
        "http(s) URL. PNG, JPEG, WebP, GIF (first frame) and BMP are read."
    )
    detail: str | None = Field(
        None,
        description="How closely the model looks: `low` scales the picture down to 512 x 512 "
        "pixels in all, which takes fewer tokens; the others leave it to the model's own limit.",
    )

    @property
    def max_pixels(self) -> int:
        """Pixels that the model sees of it; 0 for its own limit."""
        return LOW_DETAIL_PIXELS if self.detail == "low" else 0


class OutputTextBack(RequestModel):
    """A piece of an earlier answer."""

    type: Literal["output_text"]
    text: str
    logprobs: Hint = Field(None, description=_FROM_AN_ANSWER)


def _part_of_another_api(part: Any) -> Any:
    """A part as other APIs write it, as one of ours; what is unknown stays as it is."""
    match part:
        case str():
            return {"type": "input_text", "text": part}
        case {"type": "text" | "summary_text" | "reasoning_text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "refusal", "refusal": text}:
            return {"type": "output_text", "text": text}
        case {"type": "image_url", "image_url": {"url": url, **rest}}:
            return {"type": "input_image", "image_url": url, "detail": rest.get("detail")}
        case {"type": "input_image" | "image_url", "image_url": {"url": url}}:
            return {"type": "input_image", "image_url": url}
        case {"type": "image_url", "image_url": url}:
            return {"type": "input_image", "image_url": url}
    return part


InputPart = Annotated[
    Annotated[InputText, Tag(f"{TAG}input_text")]
    | Annotated[InputImage, Tag(f"{TAG}input_image")]
    | Annotated[OutputTextBack, Tag(f"{TAG}output_text")],
    chosen_by("type", "input_text", "input_image", "output_text"),
    BeforeValidator(_part_of_another_api),
]


InputContent = Annotated[
    Annotated[str, Tag(f"{TAG}text")]
    | Annotated[list[InputPart], *at_most(MAX_PARTS), Tag(f"{TAG}list")],
    text_or_list("parts"),
]


def _nothing_is_empty(content: Any) -> Any:
    return "" if content is None else content


class InputMessage(RequestModel):
    """What somebody said; `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"] = Field(
        description="Who speaks; `developer` is the same as `system`."
    )
    content: Annotated[InputContent, BeforeValidator(_nothing_is_empty)]
    id: Hint = Field(None, description=_FROM_AN_ANSWER)
    status: Hint = Field(None, description=_FROM_AN_ANSWER)


class FunctionCallBack(RequestModel):
    """A call of an earlier answer."""

    type: Literal["function_call"]
    call_id: str = Field(description="By which its output refers to it.")
    name: str
    namespace: str | None = Field(None, description="Of the function, if it has one.")
    arguments: Annotated[str, BeforeValidator(as_arguments)] = Field(
        "{}", description="The arguments as the text of a JSON object."
    )
    id: Hint = Field(None, description=_FROM_AN_ANSWER)
    status: Hint = Field(None, description=_FROM_AN_ANSWER)


class FunctionCallOutput(RequestModel):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str = Field(description="That of a `function_call` before it.")
    output: Annotated[InputContent, BeforeValidator(_nothing_is_empty)] = Field(
        description="Text, or a list of text and picture parts."
    )
    id: Hint = Field(None, description=_FROM_AN_ANSWER)
    status: Hint = Field(None, description=_FROM_AN_ANSWER)


class SummaryText(RequestModel):
    """A piece of a thought's summary."""

    type: Literal["summary_text"]
    text: str


class ReasoningTextBack(RequestModel):
    """A piece of a thought."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningBack(RequestModel):
    """The thought of an earlier answer."""

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningTextBack], *at_most(MAX_PARTS)] | None = None
    summary: Annotated[list[SummaryText], *at_most(MAX_PARTS)] | None = Field(
        None, description="Used where there is no content."
    )
    id: Hint = Field(None, description=_FROM_AN_ANSWER)
    status: Hint = Field(None, description=_FROM_AN_ANSWER)

    @property
    def text(self) -> str:
        """All of the thought."""
        return "\n".join(part.text for part in self.content or self.summary or [])


class OtherItem(RequestModel):
    """What other servers' tools left in a conversation. The model does not see it."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["other"]


_ITEMS = ("message", "function_call", "function_call_output", "reasoning", "other")


# Begins the content of a compaction of ours. It is not encrypted: the client has all of it anyway.
_SUMMARY = "glm-summary:"
_SUMMARISED = "This is a summary of our conversation so far:\n\n"


def as_compaction(summary: str) -> str:
    """The content of the item that stands for a conversation from then on."""
    return _SUMMARY + base64.b64encode(summary.encode()).decode()


def _summary_of(content: str) -> str:
    try:
        return base64.b64decode(content.removeprefix(_SUMMARY), validate=True).decode()
    except ValueError:
        raise PydanticCustomError("compaction", "has no content that this server wrote") from None


def _item_of_another_server(item: Any, info: ValidationInfo) -> Any:
    """Calls of custom tools are calls, a compaction of ours is what it says; what tools of other
    servers left is left out, and named."""
    if not isinstance(item, dict):
        return item
    match item:
        case {"type": "custom_tool_call", "call_id": call_id, "name": name}:
            arguments = {"input": item.get("input")}
            return {
                "type": "function_call",
                "call_id": call_id,
                "name": name,
                "arguments": arguments,
            }
        case {"type": "custom_tool_call_output", "call_id": call_id}:
            output = item.get("output")
            return {"type": "function_call_output", "call_id": call_id, "output": output}
        case {"type": "compaction", "encrypted_content": str(content)} if content.startswith(
            _SUMMARY
        ):
            text = _SUMMARISED + _summary_of(content)
            return {"type": "message", "role": "user", "content": text}
        case {"type": "item_reference"}:
            raise PydanticCustomError(
                "item_reference",
                "is not supported: no items are stored here; send the item itself (store: false)",
            )
    kind = item.get("type")
    if isinstance(kind, str) and "role" not in item and kind not in _ITEMS:
        note_ignored(info, f"input.{kind[:64]}")
        return {"type": "other"}
    return item


def _item_tag(item: Any) -> str | None:
    kind = _kind(item)
    if isinstance(item, dict) and "role" in item:
        kind = item.get("type", "message")
    return f"{TAG}{kind}" if kind in _ITEMS else None


InputItem = Annotated[
    Annotated[InputMessage, Tag(f"{TAG}message")]
    | Annotated[FunctionCallBack, Tag(f"{TAG}function_call")]
    | Annotated[FunctionCallOutput, Tag(f"{TAG}function_call_output")]
    | Annotated[ReasoningBack, Tag(f"{TAG}reasoning")]
    | Annotated[OtherItem, Tag(f"{TAG}other")],
    Discriminator(
        _item_tag,
        custom_error_type=f"{CHOICE_ERROR}type",
        custom_error_message="must be 'message', 'function_call', 'function_call_output' or "
        "'reasoning'",
    ),
    BeforeValidator(_item_of_another_server),
]

Input = Annotated[
    Annotated[str, Tag(f"{TAG}text")]
    | Annotated[list[InputItem], *at_most(MAX_MESSAGES), Tag(f"{TAG}list")],
    text_or_list("items"),
]


# --- what is asked for -------------------------------------------------------------------------


class OfFunction(RequestModel):
    """What is of the type `function`."""

    type: Literal["function"]


class FunctionTool(FunctionDefinition, OfFunction):  # so that the type is looked at first
    """A function that the model may call."""


class Namespace(RequestModel):
    """Functions that belong together. The model knows each as `NAMESPACE__NAME`."""

    type: Literal["namespace"]
    name: FunctionName = Field(description="Without blanks, `<` and `>`.")
    description: str | None = Field(None, description="Comes back in the response.")
    tools: Annotated[
        list[
            Annotated[
                Annotated[FunctionTool, Tag(f"{TAG}tool")]
                | Annotated[SkipJsonSchema[OtherTool], Tag(f"{TAG}other")],
                Discriminator(own_or_other),
            ]
        ],
        *at_most(MAX_TOOLS),
    ]


FunctionTools = Annotated[
    list[
        Annotated[
            Annotated[FunctionTool, Tag(f"{TAG}tool")]
            | Annotated[Namespace, Tag(f"{TAG}namespace")]
            | Annotated[SkipJsonSchema[OtherTool], Tag(f"{TAG}other")],
            Discriminator(own_or_other),
        ]
    ],
    *at_most(MAX_TOOLS),
    only_tools("function", "namespace"),
]


class KnownFunction(NamedTuple):
    """A function as the model knows it.

    Attributes:
        name: that the model has for it; with its namespace, if it has one.
        path: where it stands in the request.
    """

    name: str
    namespace: str | None
    function: FunctionTool
    path: str

    def is_called(self, name: str) -> bool:
        """Whether a client means it by this name."""
        return name in (self.name, self.function.name)


def known_name(name: str, namespace: str | None) -> str:
    """The name that the model has for a function."""
    return f"{namespace.removesuffix('__')}__{name}" if namespace else name


def known_functions(
    tools: Sequence[FunctionTool | Namespace | OtherTool] | None,
) -> list[KnownFunction]:
    """All functions, those of namespaces among them."""
    found: list[KnownFunction] = []
    own: list[tuple[int, FunctionTool | Namespace]] = numbered(tools)
    for place, tool in own:
        path = f"tools[{place}]"
        if isinstance(tool, Namespace):
            for inner, one in numbered(tool.tools):
                name = known_name(one.name, tool.name)
                found.append(KnownFunction(name, tool.name, one, f"{path}.tools[{inner}]"))
        else:
            found.append(KnownFunction(tool.name, None, tool, path))
    return found


class NamedFunction(ChosenFunction, OfFunction):
    """The one function that the model has to call."""


class AllowedFunctions(RequestModel):
    """Those of the tools that the model may call."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[NamedFunction], *at_most(MAX_TOOLS)]


_MODES = ("none", "auto", "required")


def _choice_tag(choice: Any) -> str | None:
    if isinstance(choice, str):
        return f"{TAG}mode" if choice in _MODES else None
    kind = _kind(choice)
    if kind == "allowed_tools":
        return f"{TAG}allowed"
    return f"{TAG}function" if kind == "function" else None


def _choice_of_chat(choice: Any) -> Any:
    match choice:
        case {"type": "function", "function": {"name": name}}:
            return {"type": "function", "name": name}
    return choice


FunctionChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{TAG}mode")]
    | Annotated[NamedFunction, Tag(f"{TAG}function")]
    | Annotated[AllowedFunctions, Tag(f"{TAG}allowed")],
    Discriminator(
        _choice_tag,
        custom_error_type="tool_choice",
        custom_error_message="must be 'none', 'auto', 'required' or an object of the type "
        "'function'; no other is supported",
    ),
    BeforeValidator(_choice_of_chat),
]


class PlainText(RequestModel):
    """Any text."""

    type: Literal["text"]


class JSONObject(RequestModel):
    """The text of a JSON object."""

    type: Literal["json_object"]


class JSONSchema(JSONSchemaFormat):
    """JSON text after a schema."""

    model_config = ConfigDict(serialize_by_alias=True)

    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema", description="The JSON schema.")


TextFormat = Annotated[
    Annotated[PlainText, Tag(f"{TAG}text")]
    | Annotated[JSONObject, Tag(f"{TAG}json_object")]
    | Annotated[JSONSchema, Tag(f"{TAG}json_schema")],
    chosen_by("type", "text", "json_object", "json_schema"),
]


class TextOptions(RequestModel):
    """What the answer's text is like."""

    format: TextFormat | None = Field(None, description="Default: `text`.")


class ReasoningOptions(RequestModel):
    """How the model thinks."""

    effort: ReasoningEffort | None = Field(
        None,
        description="`none`: answer at once, without a thought. The model has one strength of "
        "thinking, which all others stand for; `thinking_token_budget` limits it.",
    )
    summary: Hint = Field(
        None, description="There are no summaries: the thought itself is sent, in full."
    )


class ResponsesRequest(SamplingParameters):
    """A conversation to go on with."""

    model: str = Field(description="The name of the served model; GET /v1/models tells it.")
    input: Input = Field(
        description="What the user says, or the conversation so far: messages, and the items of "
        "earlier answers just as they came. Pictures may be anywhere in it."
    )
    instructions: str | None = Field(None, description="A system message before `input`.")
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        description="OpenAI's name of `max_tokens` here; it counts where both are given. Default: "
        "what the context leaves.",
    )
    tools: FunctionTools | None = Field(None, description="Functions that the model may call.")
    tool_choice: FunctionChoice | None = Field(
        None,
        description="`auto`: the model chooses whether to call a tool. `required`: it has to call "
        "one or more. A function by its name: it has to call that one. `none`: it is not told of "
        "them. Default `auto`.",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="false: of several calls only the first is given. Default true."
    )
    reasoning: ReasoningOptions | None = Field(None, description="How the model thinks.")
    text: TextOptions | None = Field(None, description="What the answer's text is like.")
    include: Annotated[list[str], *at_most(MAX_PARTS)] | None = Field(
        None,
        description="What to tell besides: how likely each token of the answer's text was. "
        "`reasoning.encrypted_content` is taken for compatibility: thoughts are given in clear, "
        "and go back as they are.",
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="How many of the likeliest tokens to tell in each place; only with "
        "`message.output_text.logprobs` in `include`. Default 0.",
    )
    stream: bool | None = Field(
        None,
        description="true: the answer comes as server-sent events while it is written. "
        "Default false.",
    )
    user: Hint = Field(None, description="Without effect; comes back in the response.")
    service_tier: Hint = Field(None, description="Without effect.")
    prompt_cache_key: Hint = Field(
        None, description="Without effect: prompts that begin alike are computed once anyway."
    )
    safety_identifier: Hint = Field(None, description="Without effect.")
    metadata: Annotated[dict[str, Any], *at_most(MAX_METADATA)] | None = Field(
        None, description="Comes back in the response; nothing is stored."
    )

    @field_validator("input")
    @classmethod
    def _has_an_item(cls, value: Input) -> Input:
        if value == []:
            raise PydanticCustomError("no_item", "must have at least one item")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _is_one_of_the_tools(
        cls, value: FunctionChoice | None, info: ValidationInfo
    ) -> FunctionChoice | None:
        tools = known_functions(info.data.get("tools"))
        if value == "required" and not tools:
            raise PydanticCustomError("no_tools", "is only for requests with tools")
        chosen = [value] if isinstance(value, NamedFunction) else []
        if isinstance(value, AllowedFunctions):
            chosen = value.tools
        if not all(any(tool.is_called(one.name) for tool in tools) for one in chosen):
            raise PydanticCustomError("no_such_tool", "names a function that is not in tools")
        return value

    @field_validator("tools")
    @classmethod
    def _are_not_too_many(cls, tools: FunctionTools | None) -> FunctionTools | None:
        if len(known_functions(tools)) > MAX_TOOLS:
            raise PydanticCustomError(
                "too_many_functions",
                "must not have more than {most} functions",
                {"most": MAX_TOOLS},
            )
        return tools

    @field_validator("text")
    @classmethod
    def _no_other_structure(
        cls, value: TextOptions | None, info: ValidationInfo
    ) -> TextOptions | None:
        if value is not None and isinstance(value.format, JSONObject | JSONSchema):
            check_only_structure(value, info)
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and LOGPROBS not in (info.data.get("include") or []):
            raise PydanticCustomError(
                "only_with_logprobs", f"is only for requests that include {LOGPROBS}"
            )
        return value

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's tokens are to be told with their likelihood."""
        return LOGPROBS in (self.include or [])

    def template_kwargs(self) -> dict[str, Any]:
        """Switches of the chat template."""
        kwargs, reasoning = self.chat_template_kwargs, self.reasoning
        return thinking_kwargs(
            None if kwargs is None else kwargs.thinks,
            effort_thinks(None if reasoning is None else reasoning.effort),
        )

    @model_validator(mode="after")
    def _names_what_is_not_enforced(self, info: ValidationInfo) -> Self:
        offered = [
            OfferedTool(
                tool.name,
                tool.function.parameters,
                bool(tool.function.strict),
                f"{tool.path}.parameters",
            )
            for tool in self.offered_tools()
        ]
        choice = self.sampling_parameters().get("tool_choice")
        note_unenforced(info, offered, choice, self.structure())
        return self

    def offered_tools(self) -> list[KnownFunction]:
        """The functions that the model may call."""
        tools = known_functions(self.tools)
        match self.tool_choice:
            case "none":
                return []
            case AllowedFunctions(tools=allowed):
                return [t for t in tools if any(t.is_called(one.name) for one in allowed)]
        return tools

    def sampling_parameters(self) -> dict[str, Any]:
        """What was given, under the names that the model server has for it."""
        sampling = super().sampling_parameters()
        if self.wants_logprobs:
            sampling["logprobs"] = self.top_logprobs or 0
        if self.max_output_tokens is not None:
            sampling["max_tokens"] = self.max_output_tokens
        if "max_tokens" not in sampling:
            sampling |= ALL_THAT_IS_LEFT
        match self.tool_choice:
            case "required" | AllowedFunctions(mode="required"):
                sampling["tool_choice"] = "required"
            case NamedFunction(name=name):
                chosen = next(t for t in known_functions(self.tools) if t.is_called(name))
                sampling["tool_choice"] = {"type": "function", "function": {"name": chosen.name}}
        if self.tools and self.parallel_tool_calls is False:
            sampling["parallel_tool_calls"] = False
        return sampling

    def structure(self) -> Structure | None:
        """What the answer is held to; None where it is free."""
        match self.text and self.text.format:
            case JSONObject():
                return Structure("json_object", True, "text.format")
            case JSONSchema(schema_=schema, strict=True):
                return Structure("json", closed(schema), "text.format.schema")
            case JSONSchema(schema_=schema):
                return Structure("json", schema, "text.format.schema", is_lenient=True)
        return super().structure()


class CompactRequest(RequestModel):
    """A conversation to be made shorter."""

    model: str = Field(description="The name of the served model; GET /v1/models tells it.")
    input: Input = Field(description="The conversation so far, as for a response.")
    instructions: str | None = Field(None, description="A system message before `input`.")


# --- what comes back ---------------------------------------------------------------------------


class ReasoningText(BaseModel):
    """A thought."""

    type: Literal["reasoning_text"]
    text: str


class OutputText(BaseModel):
    """The answer's text."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(description="Always empty.")
    logprobs: list[ChatCompletionTokenLogprob] = Field(
        description="How likely its tokens were; empty unless asked for."
    )


class ReasoningItem(BaseModel):
    """What the model thought."""

    type: Literal["reasoning"]
    id: str
    status: ItemStatus
    summary: list[Any] = Field(description="Always empty: `content` is the whole thought.")
    content: list[ReasoningText]


class MessageItem(BaseModel):
    """What the model says."""

    type: Literal["message"]
    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class FunctionCallItem(BaseModel):
    """A call that the model asks for."""

    type: Literal["function_call"]
    id: str
    status: ItemStatus
    call_id: str = Field(description="For the `function_call_output` that is sent back.")
    name: str
    namespace: str | None = Field(
        default=None, description="Of the function; absent where it has none."
    )
    arguments: str = Field(
        description="The arguments as the text of a JSON object; check them before use."
    )


OutputItem = Annotated[ReasoningItem | MessageItem | FunctionCallItem, Field(discriminator="type")]


class IncompleteDetails(BaseModel):
    """Why the response is not complete."""

    reason: Literal["max_output_tokens"]


class ResponseError(BaseModel):
    """Why the response failed."""

    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class InputTokensDetails(BaseModel):
    """What the prompt's tokens stand for."""

    cached_tokens: int = Field(description="Tokens that an earlier request had in common.")
    cache_write_tokens: int = Field(description="Always 0: they are not counted.")
    image_tokens: int = Field(description="Tokens of the pictures.")


class OutputTokensDetails(BaseModel):
    """What the answer's tokens are."""

    reasoning_tokens: int = Field(description="Tokens of the thought.")


class InputTokens(BaseModel):
    """How long a prompt is."""

    object: Literal["response.input_tokens"]
    input_tokens: int = Field(description="Tokens of all of it, its pictures and tools included.")


class ResponseUsage(BaseModel):
    """Tokens that a request took."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int = Field(description="Tokens of the answer, its thought included.")
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class CompactionItem(BaseModel):
    """Stands for a conversation in the input of the next request."""

    type: Literal["compaction"]
    id: str
    encrypted_content: str = Field(
        description="The model's summary, in base64 behind a prefix; it is not encrypted."
    )


class CompactedResponse(BaseModel):
    """A conversation, made shorter."""

    id: str
    object: Literal["response.compaction"]
    created_at: int = Field(description="Unix time in seconds.")
    output: list[CompactionItem] = Field(description="Send it as `input`, and go on behind it.")
    usage: ResponseUsage


class ReasoningEcho(BaseModel):
    """`reasoning` as the request had it."""

    effort: ReasoningEffort | None
    summary: Hint


class ToolEcho(BaseModel):
    """A tool as the request had it, with what it left open."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class NamespaceEcho(BaseModel):
    """A namespace as the request had it."""

    type: Literal["namespace"]
    name: str
    description: str | None
    tools: list[ToolEcho]


class TextEcho(BaseModel):
    """`text` as the request had it."""

    format: TextFormat


class ResponseObject(BaseModel):
    """An answer, and what was asked for. What the request left open is null or the default."""

    id: str
    object: Literal["response"]
    created_at: int = Field(description="Unix time in seconds.")
    completed_at: int | None = Field(description="Only when `status` is `completed`.")
    status: ResponseStatus = Field(
        description="`incomplete`: it was cut at `max_output_tokens`. `in_progress` and `failed` "
        "are told in streams only."
    )
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None = Field(description="null while it is in progress.")
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, Any]
    parallel_tool_calls: bool
    previous_response_id: None
    background: Literal[False]
    store: Literal[False] = Field(description="Nothing is stored.")
    reasoning: ReasoningEcho
    temperature: float
    text: TextEcho
    tool_choice: FunctionChoice
    tools: list[Annotated[ToolEcho | NamespaceEcho, Field(discriminator="type")]]
    top_logprobs: int
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    truncation: Literal["disabled"]
    service_tier: Literal["default"]
    prompt_cache_key: Hint
    safety_identifier: Hint
    user: Hint
