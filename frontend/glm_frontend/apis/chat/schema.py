"""``POST /v1/chat/completions``, in OpenAI's form."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
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
    LOW_DETAIL_PIXELS,
    MAX_CHOICES,
    MAX_FRAMES,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    PROMPT_LOGPROBS_WANTED,
    ChosenFunction,
    FunctionDefinition,
    Hint,
    JSONSchemaFormat,
    Logprobs,
    MaxPixels,
    MediaKwargs,
    OfferedTool,
    OtherTool,
    ProcessorKwargs,
    PromptLogprobs,
    PromptLogprobsWanted,
    ReasoningEffort,
    ReasoningSwitch,
    SamplingParameters,
    Seconds,
    StreamOptions,
    Structure,
    ThinkingSwitch,
    Usage,
    VideoFields,
    as_arguments,
    check_only_structure,
    check_prompt_logprobs,
    closed,
    effort_thinks,
    note_unenforced,
    numbered,
    only_tools,
    own_or_other,
    thinking_kwargs,
)
from glm_frontend.http.bodies import TAG, RequestModel, at_most, chosen_by

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
# "tool_calls": the answer ends in calls, whose results are to be sent back.
AnswerFinishReason = Literal["stop", "length", "tool_calls"]


class ImageURL(RequestModel):
    """Where a picture is."""

    url: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="The picture itself as `data:image/png;base64,...` (recommended), or its "
        "http(s) URL. JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, HEIC, JPEG 2000, PNM, ICO and TGA are "
        "read; of several pages or frames, the first."
    )
    detail: str | None = Field(
        None,
        description="How closely the model looks: `low` scales the picture down to 512 x 512 "
        "pixels in all, which takes fewer tokens; `high`, `original` and `auto` leave it to the "
        "model's own limit.",
    )
    max_pixels: MaxPixels | None = Field(
        None, description="A picture of more pixels is scaled down to these."
    )


def _with_url(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


def _without_empty_url(value: Any, info: ValidationInfo) -> Any:
    """Beside a uuid, an absent picture may be written as an object without a URL."""
    is_empty = isinstance(value, dict) and not value.get("url")
    return None if is_empty and info.data.get("uuid") else _with_url(value)


UUID = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _needs_one(value: Any, info: ValidationInfo) -> Any:
    if value is None and info.data.get("uuid") is None:
        raise PydanticCustomError("missing", "is required")
    return value


class TextPart(RequestModel):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImagePart(RequestModel):
    """A picture."""

    type: Literal["image_url"]
    uuid: UUID | None = Field(
        None,
        description="A name of your own for it. A later request may send the name alone, as long "
        "as the server remembers the picture.",
    )
    image_url: Annotated[
        Annotated[ImageURL, BeforeValidator(_with_url)] | None,
        BeforeValidator(_without_empty_url),
        AfterValidator(_needs_one),
    ] = Field(None, validate_default=True, description="May be absent beside a `uuid`.")
    detail: str | None = Field(None, description="The same as in `image_url`.")
    max_pixels: MaxPixels | None = Field(None, description="The same as in `image_url`.")

    @property
    def wanted_pixels(self) -> int:
        """Pixels that the model sees of it; 0 for its own limit."""
        url = self.image_url
        details = (self.detail, None if url is None else url.detail)
        given = [self.max_pixels, None if url is None else url.max_pixels]
        given += [LOW_DETAIL_PIXELS for detail in details if detail == "low"]
        return min((pixels for pixels in given if pixels), default=0)


class VideoURL(VideoFields):
    """Where a video is."""

    url: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="The video itself as `data:video/mp4;base64,...`, or its http(s) URL; or its "
        "frames as `data:video/jpeg;base64,FRAME,FRAME,...`. MP4, MOV, 3GP, WebM, Matroska, AVI, "
        "MPEG, FLV, WMV, Ogg and animated GIF are read. The model looks at 6 frames of a second "
        "where the video has up to 30 s, at 2 up to 5 minutes, then at 1, and at 640 in all; "
        "their tokens count as `image_tokens`."
    )


class VideoPart(VideoFields):
    """A video, without its sound. The fields beside the URL may also stand in `video_url`."""

    type: Literal["video_url"]
    uuid: UUID | None = Field(None, description="As of a picture.")
    video_url: Annotated[
        Annotated[VideoURL, BeforeValidator(_with_url)] | None,
        BeforeValidator(_without_empty_url),
        AfterValidator(_needs_one),
    ] = Field(None, validate_default=True, description="May be absent beside a `uuid`.")

    def options(self) -> dict[str, Any]:
        """What was given, under the names that the model server has for it."""
        inner = {} if self.video_url is None else self.video_url.video_options()
        return inner | self.video_options()


class FramesPart(VideoFields):
    """A video of which some frames are given, as pictures."""

    type: Literal["video"]
    video: Annotated[
        list[Annotated[str, StringConstraints(min_length=1)]], *at_most(MAX_FRAMES)
    ] = Field(min_length=1, description="Each as the URL of a picture.")
    times: Annotated[list[Seconds], *at_most(MAX_FRAMES)] | None = Field(
        None, description="Of each in seconds; by default they are 1 / `fps` apart, or 1 s."
    )


def _of_another_api(part: Any) -> Any:
    """A part as other APIs write it, as one of ours; what is unknown stays as it is."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    match part:
        case {"type": "input_text" | "output_text" | "reasoning_text", "text": text}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": text} | {"type": "thinking", "thinking": text}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": url}:
            detail = part.get("detail")
            return {"type": "image_url", "image_url": {"url": url, "detail": detail}}
        case {"type": "image", "image": str(url), **rest} | {
            "type": "image",
            "url": str(url),
            **rest,
        }:
            return rest | {"type": "image_url", "image_url": url}
        case {"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}:
            return {"type": "image_url", "image_url": f"data:{kind};base64,{data}"}
        case {"type": "image", "source": {"type": "url", "url": url}}:
            return {"type": "image_url", "image_url": url}
        case {"type": "video", "video": str(url), **rest} | {
            "type": "video",
            "url": str(url),
            **rest,
        }:
            return rest | {"type": "video_url", "video_url": url}
    if isinstance(part, dict) and "type" not in part:
        for kind in ("text", "image_url", "video_url"):
            if kind in part:
                return {"type": kind, **part}
    return part


ContentPart = Annotated[
    Annotated[TextPart, Tag(f"{TAG}text")]
    | Annotated[ImagePart, Tag(f"{TAG}image_url")]
    | Annotated[VideoPart, Tag(f"{TAG}video_url")]
    | Annotated[FramesPart, Tag(f"{TAG}video")],
    chosen_by("type", "text", "image_url", "video_url", "video"),
    BeforeValidator(_of_another_api),
]


def _content_tag(content: Any) -> str | None:
    match content:
        case str():
            return f"{TAG}text"
        case list():
            return f"{TAG}parts"
        case dict() | TextPart() | ImagePart() | VideoPart() | FramesPart():
            return f"{TAG}part"
    return None


Content = Annotated[
    Annotated[str, Tag(f"{TAG}text")]
    | Annotated[list[ContentPart], *at_most(MAX_PARTS), Tag(f"{TAG}parts")]
    | Annotated[ContentPart, Tag(f"{TAG}part")],
    Discriminator(
        _content_tag,
        custom_error_type="content_type",
        custom_error_message="must be a string, a list of parts or one part",
    ),
]


class Tool(RequestModel):
    """Something that the model may call."""

    type: Literal["function"] = "function"
    function: FunctionDefinition


Tools = Annotated[
    list[
        Annotated[
            Annotated[Tool, Tag(f"{TAG}tool")]
            | Annotated[SkipJsonSchema[OtherTool], Tag(f"{TAG}other")],
            Discriminator(own_or_other),
        ]
    ],
    *at_most(MAX_TOOLS),
    only_tools("function"),
]


class NamedToolChoice(RequestModel):
    """The one function that the model has to call."""

    type: Literal["function"]
    function: ChosenFunction


class AllowedTools(RequestModel):
    """Those of the tools that the model may call."""

    mode: Literal["auto", "required"] = "auto"
    tools: Annotated[list[NamedToolChoice], *at_most(MAX_TOOLS)]


class AllowedToolsChoice(RequestModel):
    """The choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _tool_choice_tag(choice: Any) -> str | None:
    if isinstance(choice, str):
        return f"{TAG}mode"
    kind = choice.get("type") if isinstance(choice, dict) else getattr(choice, "type", None)
    if kind == "allowed_tools":
        return f"{TAG}allowed"
    return f"{TAG}function" if isinstance(choice, dict | NamedToolChoice) else None


def _choice_of_another_api(choice: Any) -> Any:
    """A choice as other APIs write it, as one of ours."""
    match choice:
        case "any" | {"type": "any" | "required"}:
            return "required"
        case {"type": "auto" | "none" as mode}:
            return mode
        case {"type": "tool" | "function", "name": name}:
            return {"type": "function", "function": {"name": name}}
    return choice


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag(f"{TAG}mode")]
    | Annotated[NamedToolChoice, Tag(f"{TAG}function")]
    | Annotated[AllowedToolsChoice, Tag(f"{TAG}allowed")],
    Discriminator(
        _tool_choice_tag,
        custom_error_type="tool_choice_type",
        custom_error_message="must be 'none', 'auto', 'required' or a function by its name",
    ),
    BeforeValidator(_choice_of_another_api),
]


class ResponseFormat(RequestModel):
    """What the answer must be, but for its thought."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="`text`: anything. `json_object`: any JSON object; say in the prompt what "
        "should be in it. `json_schema`: a document of that schema."
    )
    json_schema: JSONSchemaFormat | None = Field(None, description="For `json_schema`.")
    schema_: dict[str, Any] | None = Field(
        None,
        alias="schema",
        description="With `json_object`: its schema, as other servers have it.",
    )

    @field_validator("json_schema")
    @classmethod
    def _belongs_to_its_type(
        cls, value: JSONSchemaFormat | None, info: ValidationInfo
    ) -> JSONSchemaFormat | None:
        if value is not None and info.data.get("type") not in ("json_schema", None):
            raise PydanticCustomError("wrong_type", "is only for the type json_schema")
        return value

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if self.type == "json_schema" and self.json_schema is None and self.schema_ is None:
            raise PydanticCustomError("no_schema", "needs json_schema for this type")
        return self


class CalledFunction(RequestModel):
    """A function and what it was called with."""

    name: str
    arguments: Annotated[str, BeforeValidator(as_arguments)] = Field(
        "{}", description="The arguments as the text of a JSON object."
    )


def _call_of_a_custom_tool(call: Any) -> Any:
    match call:
        case {"custom": {"name": name, **rest}}:
            function = {"name": name, "arguments": {"input": rest.get("input")}}
            return {"id": call.get("id"), "function": function}
    return call


class ToolCall(RequestModel):
    """A call of an earlier answer, whatever has become of it."""

    id: str | None = None
    type: Hint = "function"
    index: Hint = None
    function: CalledFunction


def _of_the_older_form(message: Any) -> Any:
    """A call as OpenAI's older ``function_call`` is one of the ``tool_calls``."""
    match message:
        case {"role": "assistant", "function_call": {"name": _} as function, **rest}:
            calls = rest.get("tool_calls") or [{"id": None, "function": function}]
            return {**rest, "role": "assistant", "tool_calls": calls}
    return message


def _text_only(thought: Any) -> Any:
    return thought if isinstance(thought, str) else None


class Message(RequestModel):
    """One turn of the conversation."""

    role: Role = Field(
        description="Who speaks; `developer` is the same as `system`, `tool` is a call's result."
    )
    content: Content | None = Field(
        None,
        validate_default=True,
        description="Text, or a list of text and picture parts, or one such part. The "
        "assistant's and a tool's may be null.",
    )
    name: str | None = Field(
        None,
        description="Who speaks, where several do. The model reads a user's name as `NAME: ` "
        "before the text; its template has no place for other names, which it is not told.",
    )
    reasoning_content: str | None = Field(
        None, description="The assistant's thought, as an earlier answer of this server gave it."
    )
    reasoning: Annotated[str | None, BeforeValidator(_text_only)] = Field(
        None, description="Newer name of `reasoning_content`, which counts where both are given."
    )
    tool_calls: (
        Annotated[
            list[Annotated[ToolCall, BeforeValidator(_call_of_a_custom_tool)]], *at_most(MAX_PARTS)
        ]
        | None
    ) = Field(
        None, description="The assistant's calls, as an earlier answer of this server gave them."
    )
    tool_call_id: str | None = Field(
        None,
        description="Which call a `tool` message is the result of. Without it, results come in the "
        "order of the calls.",
    )
    refusal: str | None = Field(None, description="What the assistant said in place of `content`.")
    audio: Hint = Field(None, description="Of an earlier answer of another server; not heard.")

    @field_validator("tool_calls", "reasoning_content", "reasoning")
    @classmethod
    def _is_the_assistants(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("role") != "assistant":
            raise PydanticCustomError(
                "wrong_role", "only a message with the role assistant may have it"
            )
        return value

    @field_validator("content")
    @classmethod
    def _only_some_may_be_null(
        cls, content: Content | None, info: ValidationInfo
    ) -> Content | None:
        if content is None and info.data.get("role") in ("system", "developer", "user"):
            raise PydanticCustomError("missing", "is required")
        return content

    @property
    def has_picture(self) -> bool:
        """Whether there is a picture in it."""
        parts = self.content if isinstance(self.content, list) else [self.content]
        return any(isinstance(part, ImagePart) for part in parts)

    @property
    def thought(self) -> str | None:
        """The assistant's thought, under whichever name it came."""
        return self.reasoning_content or self.reasoning


def check_generation_prompt(value: bool | None, info: ValidationInfo) -> bool | None:
    """A validator of vLLM's other name of ``continue_final_message``, which stands before it."""
    continues = bool(info.data.get("continue_final_message"))
    if value is not None and value == continues:
        raise PydanticCustomError(
            "names_disagree", "must be the opposite of continue_final_message"
        )
    return value


class ChatCompletionRequest(SamplingParameters):
    """A conversation to go on with."""

    model: str = Field(description="The name of the served model; GET /v1/models tells it.")
    messages: Annotated[
        list[Annotated[Message, BeforeValidator(_of_the_older_form)]], *at_most(MAX_MESSAGES)
    ] = Field(min_length=1, description="The conversation so far; pictures may be anywhere in it.")
    max_completion_tokens: int | None = Field(
        None,
        ge=1,
        description="OpenAI's newer name of `max_tokens`; it counts where both are given.",
    )
    n: int | None = Field(
        None,
        ge=1,
        le=MAX_CHOICES,
        description="Number of answers; the prompt is read once for all of them. Default 1.",
    )
    logprobs: bool | None = Field(
        None,
        description="true: how likely each token of the answer's text was. Default false.",
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="How many of the likeliest tokens to tell in each place; only with "
        "`logprobs`. Default 0.",
    )
    tools: Tools | None = Field(None, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(
        None,
        description="`auto`: the model chooses whether to call a tool. `required`: it has to call "
        "one or more. A function by its name: it has to call that one. `none`: it is not told of "
        "them. Default `auto`.",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="false: of several calls only the first is given. Default true."
    )
    response_format: ResponseFormat | None = Field(
        None, description="What the answer must be. Default `text`."
    )
    reasoning_effort: ReasoningEffort | None = Field(
        None,
        description="`none`: answer at once, without a thought. The model has one strength of "
        "thinking, which all others stand for; `thinking_token_budget` limits it.",
    )
    thinking: ThinkingSwitch | None = Field(
        None, description="The same switch as Z.ai's own API has it."
    )
    enable_thinking: bool | None = Field(None, description="The same as in `chat_template_kwargs`.")
    reasoning: ReasoningSwitch | None = Field(
        None, description="The same switch as OpenRouter and OpenAI's newer API have it."
    )
    think: bool | str | None = Field(None, description="The same switch as Ollama has it.")
    do_sample: bool | None = Field(None, description="false: the same as `temperature: 0`.")
    include_reasoning: bool | None = Field(
        None, description="false: the thought is not sent. Default true."
    )
    stream: bool | None = Field(
        None,
        description="true: the answer comes as server-sent events while it is written. "
        "Default false.",
    )
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    prompt_logprobs: PromptLogprobsWanted = Field(None, description=PROMPT_LOGPROBS_WANTED)
    return_boxes: bool | None = Field(
        None,
        description="true: the message has `boxes`, the places in the last picture that the "
        "answer names. Default false.",
    )
    continue_final_message: bool | None = Field(
        None,
        description="true: the answer goes on with the last message, the assistant's, instead of "
        "beginning a turn. It does not repeat it. Default false.",
    )
    add_generation_prompt: bool | None = Field(
        None,
        description="vLLM's switch: false only beside `continue_final_message`, with which it may "
        "be left out.",
    )
    mm_processor_kwargs: ProcessorKwargs | None = Field(
        None, description="How all pictures and videos are resized."
    )
    media_io_kwargs: MediaKwargs | None = Field(
        None,
        description="Which frames of videos are looked at; what stands beside a video counts more.",
    )
    _no_other_structure = field_validator("response_format")(check_only_structure)
    _not_in_streams = field_validator("prompt_logprobs")(check_prompt_logprobs)

    @field_validator("tool_choice")
    @classmethod
    def _is_among_the_tools(cls, choice: ToolChoice | None, info: ValidationInfo) -> Any:
        tools = [tool for _, tool in numbered(info.data.get("tools"))]
        if choice == "required" and not tools:
            raise PydanticCustomError("no_tools", "needs tools")
        chosen = [choice] if isinstance(choice, NamedToolChoice) else []
        if isinstance(choice, AllowedToolsChoice):
            chosen = choice.allowed_tools.tools
        for name in [one.function.name for one in chosen]:
            if name not in [tool.function.name for tool in tools]:
                raise PydanticCustomError("no_tool", "there is no {name} in tools", {"name": name})
        return choice

    @field_validator("return_boxes")
    @classmethod
    def _needs_a_picture(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        messages: list[Message] = info.data.get("messages", [])
        if value and not any(message.has_picture for message in messages):
            raise PydanticCustomError("no_picture", "needs a picture in the messages")
        return value

    _agree = field_validator("add_generation_prompt")(check_generation_prompt)

    def template_kwargs(self) -> dict[str, Any]:
        """Switches of the chat template."""
        kwargs = self.chat_template_kwargs
        given = thinking_kwargs(
            None if kwargs is None else kwargs.thinks,
            self.enable_thinking,
            None if self.thinking is None else self.thinking.thinks,
            effort_thinks(self.reasoning_effort),
            None if self.reasoning is None else self.reasoning.thinks,
            effort_thinks(self.think) if isinstance(self.think, str) else self.think,
        )
        if self.continue_final_message:
            given["continue_final_message"] = True
        return given

    @property
    def shows_thought(self) -> bool:
        """Whether the thought is sent."""
        hides = self.reasoning is not None and bool(self.reasoning.exclude)
        return self.include_reasoning is not False and not hides

    def offered_tools(self) -> list[tuple[int, Tool]]:
        """The tools that the model may call, with their places."""
        tools = numbered(self.tools)
        match self.tool_choice:
            case "none":
                return []
            case AllowedToolsChoice(allowed_tools=AllowedTools(tools=allowed)):
                names = {tool.function.name for tool in allowed}
                return [(place, tool) for place, tool in tools if tool.function.name in names]
        return tools

    @model_validator(mode="after")
    def _names_what_is_not_enforced(self, info: ValidationInfo) -> Self:
        offered = [
            OfferedTool(
                tool.function.name,
                tool.function.parameters,
                bool(tool.function.strict),
                f"tools[{place}].function.parameters",
            )
            for place, tool in self.offered_tools()
        ]
        choice = self.sampling_parameters().get("tool_choice")
        note_unenforced(info, offered, choice, self.structure())
        return self

    @field_validator("top_logprobs")
    @classmethod
    def _only_with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise PydanticCustomError(
                "only_with_logprobs", "is only for requests with logprobs: true"
            )
        return value

    def sampling_parameters(self) -> dict[str, Any]:
        """What was given, under the names that the model server has for it."""
        sampling = super().sampling_parameters()
        if self.n is not None:
            sampling["n"] = self.n
        if self.logprobs:
            sampling["logprobs"] = self.top_logprobs or 0
        if self.prompt_logprobs is not None and not self.stream:
            sampling["prompt_logprobs"] = self.prompt_logprobs
        if self.do_sample is False:
            sampling["temperature"] = 0
        budgets = (
            None if self.thinking is None else self.thinking.budget_tokens,
            None if self.reasoning is None else self.reasoning.max_tokens,
        )
        for budget in budgets:
            if budget is not None:
                sampling.setdefault("thinking_token_budget", budget)
        if self.max_completion_tokens is not None:
            sampling["max_tokens"] = self.max_completion_tokens
        match self.tool_choice:
            case "required" | AllowedToolsChoice(allowed_tools=AllowedTools(mode="required")):
                sampling["tool_choice"] = "required"
            case NamedToolChoice() as choice:
                sampling["tool_choice"] = choice.model_dump()
        if self.tools and self.parallel_tool_calls is False:
            sampling["parallel_tool_calls"] = False
        return sampling

    def structure(self) -> Structure | None:
        """What the answer is held to; None where it is free."""
        wanted = self.response_format
        if wanted is None or wanted.type == "text":
            return super().structure()
        if wanted.schema_ is not None and wanted.json_schema is None:
            return Structure("json", wanted.schema_, "response_format.schema", is_lenient=True)
        if wanted.json_schema is None or wanted.json_schema.schema_ is None:
            return Structure("json_object", True, "response_format")
        schema, path = wanted.json_schema.schema_, "response_format.json_schema.schema"
        if wanted.json_schema.strict:
            return Structure("json", closed(schema), path)
        return Structure("json", schema, path, is_lenient=True)


class FunctionCall(BaseModel):
    """A function and what it is to be called with."""

    name: str
    arguments: str = Field(
        description="The arguments as the text of a JSON object; check them before use."
    )


class MessageToolCall(BaseModel):
    """A call that the model asks for."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class PictureBox(BaseModel):
    """A place in the last picture of the conversation."""

    box: tuple[int, int, int, int] = Field(
        description="Left, top, right, bottom, in pixels of the picture as it was sent (upright, "
        "if it is a photograph with an orientation)."
    )
    label: str | None = Field(description="What the model calls it; null where it does not.")


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str | None = Field(description="null where there is nothing but tool calls.")
    tool_calls: list[MessageToolCall] | None = Field(
        default=None, description="Absent when there are none."
    )
    reasoning_content: str | None = Field(
        default=None, description="The model's thought; absent when there is none."
    )
    reasoning: str | None = Field(default=None, description="The same, as newer clients call it.")
    refusal: None = Field(description="Always null, as OpenAI's answers have it.")
    boxes: list[PictureBox] | None = Field(
        default=None, description="Absent unless `return_boxes` asks for them."
    )


class Choice(BaseModel):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None = Field(description="null unless asked for.")
    finish_reason: AnswerFinishReason = Field(
        description="`stop`: the answer is complete. `length`: it was cut at `max_tokens`. "
        "`tool_calls`: it is complete and asks for calls."
    )
    stop_reason: str | int | None = Field(
        default=None,
        description="The text of `stop`, or the token of `stop_token_ids`, that ended it; absent "
        "unless one did.",
    )


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Unix time in seconds.")
    model: str
    system_fingerprint: str = Field(description="Changes when the server or its model does.")
    choices: list[Choice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | None = Field(
        default=None,
        description="For each token of the prompt, by token id: itself, then the likeliest ones; "
        "null for the first. Absent unless asked for.",
    )


class FunctionCallDelta(BaseModel):
    """What is new of a call; the first piece has the name."""

    name: str | None = None
    arguments: str = Field(description="The next piece of the arguments' JSON text.")


class ToolCallDelta(BaseModel):
    """The next piece of a call; the first one has id and type."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class ChunkDelta(BaseModel):
    """What is new; fields without news are absent."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    boxes: list[PictureBox] | None = Field(
        default=None, description="All, in the piece before the finish reason."
    )


class ChunkChoice(BaseModel):
    """The next piece of one answer."""

    index: int
    delta: ChunkDelta
    logprobs: Logprobs | None = None
    finish_reason: AnswerFinishReason | None
    stop_reason: str | int | None = Field(default=None, description="With the finish reason.")


class ChatCompletionChunk(BaseModel):
    """One event of a streamed answer.

    The first has the role, the last the finish reason; with `include_usage` one more follows that
    has no choices but the usage, and all others have a null there. Then comes `[DONE]`.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int = Field(description="Unix time in seconds.")
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
