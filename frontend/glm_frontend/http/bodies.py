"""What bodies and events are made of, and which fields ask for nothing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, model_validator
from pydantic_core import PydanticCustomError

IGNORED = "ignored"
"""In the context of a validation: list of the paths of what was left out."""

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
    """For ``Annotated``: a list or an object of at most ``count`` entries.

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


REFUSED_FIELDS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "allowed_token_ids": ([],),
        "audio": (),
        "background": (False,),
        "bad_words": ([],),
        "best_of": (1,),
        "chat_template": ("",),
        "container": (),
        "conversation": (),
        "documents": ([],),
        "file_id": (),
        "function_call": ("none", "auto"),
        "functions": ([],),
        "logprobs": (False, 0),
        "mcp_servers": ([],),
        "media_io_kwargs": ({},),
        "mm_processor_kwargs": ({},),
        "modalities": (["text"],),
        "n": (1,),
        "num_beams": (1,),
        "previous_response_id": ("",),
        "prompt": (),
        "prompt_logprobs": (),
        "response_format": ({"type": "text"},),
        "return_tokens_as_token_ids": (False,),
        "structural_tag": (),
        "suffix": ("",),
        "top_logprobs": (0,),
        "truncate_prompt_tokens": (-1,),
        "use_beam_search": (False,),
        "web_search_options": (),
    }
)
"""Fields of other servers that would change the answer, and that this one cannot honour.

Each has the values that ask for nothing. Those, and null, are accepted; others are refused by name.
"""

HINTS = frozenset(
    {
        "access_programs",
        "allowed_callers",
        "annotations",
        "async",
        "async_",
        "background_options",
        "boxes",
        "cache_control",
        "caller",
        "client_metadata",
        "context_management",
        "created_by",
        "defer_loading",
        "diagnostics",
        "eager_input_streaming",
        "encrypted_content",
        "generate_summary",
        "guided_decoding_backend",
        "include_obfuscation",
        "inference_geo",
        "internal_chat_message_metadata_passthrough",
        "max_tool_calls",
        "metadata",
        "moderation",
        "namespace",
        "output_schema",
        "parsed",
        "parsed_arguments",
        "phase",
        "prediction",
        "priority",
        "prompt_cache_breakpoint",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "speed",
        "store",
        "stream_options",
        "toolset_name",
        "transformations",
        "truncation",
        "user",
        "user_id",
        "user_profile_id",
        "verbosity",
    }
)
"""Fields that ask for nothing that this server could do, or that its own answers have: accepted
without a word, whatever their value. Other unknown fields are accepted, too, and named."""


class RequestModel(BaseModel):
    """A part of a request's body. What to do with a field that it does not know is for
    ``http.validation`` to say; what asks for nothing is dropped here."""

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
        known = cls.known_fields()
        return {
            # 64.0 is a whole number, too.
            key: int(value) if known.get(key) and _is_whole(value) else value
            for key, value in data.items()
            if key in known or not _asks_for_nothing(key, value)
        }

    @classmethod
    def known_fields(cls) -> Mapping[str, bool]:
        """Names of the fields as a request has them, and which are for whole numbers."""
        known = _KNOWN.get(cls)
        if known is None:
            known = _KNOWN[cls] = {
                field.alias or name: int in get_args(field.annotation)
                for name, field in cls.model_fields.items()
            }
        return known


_KNOWN: dict[type[RequestModel], Mapping[str, bool]] = {}


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def _asks_for_nothing(key: str, value: Any) -> bool:
    if value is None or key in HINTS:
        return True
    # 0 is not False here.
    harmless = REFUSED_FIELDS.get(key, ())
    return any(type(value) is type(one) and value == one for one in harmless)


class NamedEvent(BaseModel):
    """An event of a stream whose events have names; see ``http.sse.NamedEventStream``."""

    type: str
