"""The OpenAPI document: bodies that routes read by themselves, event streams, errors."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.responses import Response

from glm_frontend.error_codes import as_markdown
from glm_frontend.http.error_schema import ErrorResponse, MessagesErrorResponse

REF = "#/components/schemas/{model}"

# What bodies and streams of routes refer to, which FastAPI does not know; routes add to it.
_REFERRED: set[tuple[type[BaseModel], JsonSchemaMode]] = set()

DESCRIPTION = f"""\
Pictures and text in, text out: the vision-language model GLM-4.6V-Flash behind OpenAI's API, and
Anthropic's. Any OpenAI client works with `base_url` set to this server's `/v1`, any Anthropic
client with `base_url` set to its root. Each endpoint below has examples that can be tried from this
page; nothing is loaded from elsewhere, and nothing is stored.

## Which endpoint?

| for | use |
|---|---|
| conversations, with pictures anywhere in them | `/v1/chat/completions` |
| the same in the form of OpenAI's newer API | `/v1/responses` |
| clients made for Anthropic's API | `/v1/messages` |
| one question about some files, from a shell or a form | `/v1/multi-modal/inference` |
| text without a chat template | `/v1/completions` |
| the probability of each of some answers, without writing one | `/v1/decisions` |
| counting before asking | `/tokenize`, `/v1/messages/count_tokens` |

## Pictures

PNG, JPEG, WebP, GIF (first frame) and BMP, best as `data:image/png;base64,...`; http(s) URLs of
public hosts are fetched, unless the operator forbids it. A picture that comes again is neither
decoded nor encoded again. `detail: "low"` takes fewer tokens. The usage tells image tokens.

## Thoughts

The model thinks before it answers. The thought comes apart from the answer, as
`reasoning_content` and `reasoning`; `reasoning_effort: "none"` switches it off, and
`thinking_token_budget` makes it end in time. (`/v1/messages` thinks only when `thinking` says so.)

## Tools and structure

With `tools` the model may call functions of yours; `tool_choice` makes it. `response_format` holds
the answer to a JSON schema; `structured_outputs` to a regular expression, a choice or a grammar.
Both are enforced while the answer is written, so that it cannot be otherwise, but for being cut at
`max_tokens`. A thought stays free.

## Streams

`stream: true` sends server-sent events as the text is written. An error after the first of them is
an event as well. Closing the connection cancels the request.

## Fields

null, defaults, hints and metadata are accepted. A field that nobody knows is left out and named in
the response header `x-glm-ignored-fields` (or refused, if the operator sets
`GLM_UNKNOWN_FIELDS=refuse`). A field that would change the answer and is not supported is refused
by name. History is data: an old call that is cut or malformed never blocks a conversation.
What is left open comes from the model's `generation_config.json`.

## Errors

Every error has OpenAI's shape, those of `/v1/messages` have Anthropic's. `param` is the path of the
field in the request, `code` one of these. Every response has the header `x-request-id` (and
`request-id`), which the server's log has too; a request may bring its own.

{as_markdown()}
"""

TAGS = [
    {"name": "Inference", "description": "Ask the model."},
    {"name": "Tokens", "description": "What the model reads, in tokens."},
    {"name": "Models", "description": "What is served."},
    {"name": "Health", "description": "Whether a request could be answered now."},
]

_ERROR_DESCRIPTIONS: Mapping[int, str] = {
    400: "The request is wrong; the error names the field.",
    401: "The API key is missing or unknown.",
    404: "The model is not served here.",
    408: "The body did not arrive in time.",
    413: "The body is larger than the server takes.",
    415: "The body has another content type than those below.",
    429: "As many requests are under way as the server takes, or the rate limit is reached; see "
    "`retry-after`.",
    500: "The server failed.",
    503: "The model is not available now.",
    504: "The answer took too long.",
}


def errors(
    *statuses: int, model: type[BaseModel] = ErrorResponse
) -> dict[int | str, dict[str, Any]]:
    """The documentation of these error responses."""
    return {
        status: {"model": model, "description": _ERROR_DESCRIPTIONS[status]} for status in statuses
    }


INFERENCE_ERRORS = errors(*_ERROR_DESCRIPTIONS)
MESSAGES_ERRORS = errors(*_ERROR_DESCRIPTIONS, model=MessagesErrorResponse)


def json_response(model: BaseModel) -> Response:
    """``model`` as JSON, without the fields that were never set."""
    return Response(model.model_dump_json(exclude_unset=True), media_type="application/json")


def json_body(model: type[BaseModel], examples: Mapping[str, Any]) -> dict[str, Any]:
    """The documentation of a JSON body."""
    return {
        "required": True,
        "content": {
            "application/json": {"schema": _ref(model, "validation"), "examples": dict(examples)}
        },
    }


def form_body(model: type[BaseModel], files: tuple[str, ...]) -> dict[str, Any]:
    """The documentation of the same body as a multipart form; ``files`` may be files."""
    schema = model.model_json_schema(ref_template=REF)
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    schema["properties"] = schema["properties"] | {
        name: {"type": "array", "items": file, "description": "A picture's file; repeatable."}
        for name in files
    }
    schema.pop("$defs", None)
    schema["title"] = f"{model.__name__}Form"
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


def event_stream(*models: type[BaseModel]) -> dict[str, Any]:
    """The documentation of an answer that may also be a stream: of one model, or of named ones.

    ``itemSchema`` describes one event, as FastAPI's own documents and OpenAPI 3.2 have it.
    """
    named = len(models) > 1
    end = "each with its `type` as its name" if named else "ended by `[DONE]`"
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": [_ref(model, "serialization") for model in models]},
    }
    event: dict[str, Any] = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    if named:
        event["properties"]["event"] = {"type": "string"}
        event["required"].append("event")
    else:
        data["contentSchema"]["anyOf"].append(_ref(ErrorResponse, "serialization"))
        event["properties"]["data"] = {"anyOf": [{"const": "[DONE]"}, data]}
    return {
        "description": f"The answer; with `stream: true` server-sent events, {end}.",
        "content": {"text/event-stream": {"itemSchema": event}},
    }


def _ref(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, str]:
    _REFERRED.add((model, mode))
    return {"$ref": REF.format(model=model.__name__)}


class DocumentedAPI(FastAPI):
    """FastAPI, with the models in its document that only ``openapi_extra`` refers to."""

    def openapi(self) -> dict[str, Any]:
        """The document; made once."""
        if self.openapi_schema is None:
            document = get_openapi(
                title=self.title,
                version=self.version,
                description=DESCRIPTION,
                tags=TAGS,
                routes=self.routes,
            )
            _, definitions = models_json_schema(sorted(_REFERRED, key=str), ref_template=REF)
            schemas = document["components"]["schemas"]
            schemas.update(definitions["$defs"])
            # FastAPI's own error for bad parameters, which this server never gives.
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            self.openapi_schema = document
        return self.openapi_schema
