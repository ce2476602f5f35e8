"""What bodies and events are made of, and which fields may be sent but ask for nothing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_FIELDS = 256
"""Of one object; no object of the API has as many."""

TAG = "~"
"""Begins the tags of our unions, which pydantic puts into the location of an error."""

CHOICE_ERROR = "choice_by_"
"""Begins the error of a union whose choosing field is missing or unknown; its name follows."""


def chosen_by(field: str, *values: str) -> Discriminator:
    """Chooses a model of a union by its ``field``: the one with the tag ``TAG`` and its value."""

    def tag(part: Any) -> str | None:
        value = part.get(field) if isinstance(part, dict) else getattr(part, field, None)
        return f"{TAG}{value}" if value in values else None

    quoted = [f"'{value}'" for value in values]
    return Discriminator(
        tag,
        custom_error_type=f"{CHOICE_ERROR}{field}",
        custom_error_message=f"must be {', '.join(quoted[:-1])} or {quoted[-1]}",
    )


def text_or_list(items: str) -> Discriminator:
    """Chooses between a string, with the tag ``~text``, and a list of ``items``, with ``~list``."""

    def tag(value: Any) -> str | None:
        if isinstance(value, str):
            return f"{TAG}text"
        return f"{TAG}list" if isinstance(value, list) else None

    return Discriminator(
        tag,
        custom_error_type="text_or_list",
        custom_error_message=f"must be a string or a list of {items}",
    )


def at_most(count: int) -> tuple[Any, ...]:
    """For ``Annotated``: a list or an object of at most so many entries.

    They are counted before any is looked at: pydantic would first describe what is wrong with each
    of a million.
    """

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > count:
            raise PydanticCustomError(
                "too_many",
                "has {given} entries, and {count} are allowed",
                {"given": len(value), "count": count},
            )
        return value

    return Field(max_length=count), BeforeValidator(check)


UNSUPPORTED_FIELDS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "access_programs": (),
        "allowed_callers": (["direct"],),
        "annotations": ([],),
        "async": (False,),
        "async_": (),
        "audio": (),
        "background": (False,),
        "background_options": (),
        "caller": ({"type": "direct"},),
        "citations": ([],),
        "container": (),
        "context": ("auto",),
        "context_management": ([],),
        "conversation": (),
        "defer_loading": (False,),
        "diagnostics": (),
        "eager_input_streaming": (True,),
        "encrypted_content": (),
        "file_id": (),
        "function_call": ("none",),
        "functions": ([],),
        "generate_summary": (),
        "include_obfuscation": (False,),
        "inference_geo": (),
        "input_examples": ([],),
        "logprobs": (False,),
        "max_tool_calls": (),
        "mcp_servers": ([],),
        "modalities": (["text"],),
        "mode": ("standard",),
        "moderation": (),
        "namespace": (),
        "output_schema": (),
        "phase": (),
        "prediction": (),
        "previous_response_id": (),
        "prompt": (),
        "prompt_cache_breakpoint": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "refusal": (),
        "response_format": ({"type": "text"},),
        "service_tier": ("auto", "default", "standard_only"),
        "speed": ("standard",),
        "store": (False,),
        "strict": (False,),
        "toolset_name": (),
        "top_logprobs": (0,),
        "transformations": ({}, {"oversized_image": "downsize"}),
        "truncation": ("disabled",),
        "user_profile_id": (),
        "verbosity": ("medium",),
        "web_search_options": (),
    }
)
"""Fields of OpenAI's and Anthropic's APIs that this server does not have.

Each has the values that ask for nothing. Those, and null, are let pass; others are refused by name,
never ignored.
"""


class RequestModel(BaseModel):
    """A part of a request's body: a field that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if len(data) > MAX_FIELDS:
            raise PydanticCustomError(
                "too_many", "has more than {count} fields", {"count": MAX_FIELDS}
            )
        return {key: value for key, value in data.items() if not _asks_for_nothing(key, value)}


def _asks_for_nothing(key: str, value: Any) -> bool:
    harmless = UNSUPPORTED_FIELDS.get(key)
    if harmless is None:
        return False
    # 0 is not False here.
    return value is None or any(type(value) is type(one) and value == one for one in harmless)


class NamedEvent(BaseModel):
    """An event of a stream whose events have names; see ``http.sse.NamedEventStream``."""

    type: str
