"""From the bytes of a body to a checked model; every error names its field."""

import codecs
import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import pydantic_core
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, invalid
from glm_frontend.http.bodies import CHOICE_ERROR, IGNORED, REFUSED_FIELDS, TAG
from glm_frontend.observability.logs import LOGGER_NAME

Model = TypeVar("Model", bound=BaseModel)

# In JSON's own sense, roughly. Any text that fits the context has fewer commas and brackets, and as
# Python objects they take up to 100 MB for a moment.
MAX_VALUES = 1_000_000
MAX_SHOWN_ERRORS = 3
MAX_SHOWN_VALUE = 64

IGNORED_HEADER = "x-glm-ignored-fields"
MAX_IGNORED_HEADER = 1024
MAX_IGNORED = 1000
"""Unknown fields of one request; with more they are refused."""
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")

logger = logging.getLogger(LOGGER_NAME)


async def read_json(request: Request, model: type[Model]) -> Model:
    """The body of ``request``, which must be a JSON object.

    Raises:
        APIError: 400 or 415.
    """
    media_type = content_type(request)
    if media_type != "application/json":
        raise APIError(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"The content-type must be application/json, not {media_type or 'absent'}.",
        )
    body = (await request.body()).removeprefix(codecs.BOM_UTF8)
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise invalid(
            None, f"The body has more than {MAX_VALUES} values.", code=ErrorCode.TOO_MANY_VALUES
        )
    try:
        data = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid(
            None, f"The body is not valid JSON: {error}.", code=ErrorCode.INVALID_JSON
        ) from None
    return validate_body(request, model, data, strict=True)


def validate_body(request: Request, model: type[Model], data: Any, *, strict: bool) -> Model:
    """Check ``data``, the body of ``request``, against ``model``.

    Fields that nobody knows are left out, and named in a header of the response and in the log; or,
    with ``GLM_UNKNOWN_FIELDS=refuse``, refused.

    Args:
        strict: whether "1" is refused where a number is due.

    Raises:
        APIError: 400, about the first errors; ``param`` is the first one's field.
    """
    refuses = request.app.state.services.settings.unknown_fields == "refuse"
    checked, ignored = validate(model, data, strict=strict, refuse_unknown=refuses)
    if ignored:
        names = ", ".join(dict.fromkeys(ignored))[:MAX_IGNORED_HEADER]
        shown = _UNPRINTABLE.sub("?", names)
        request.state.headers = {**getattr(request.state, "headers", {}), IGNORED_HEADER: shown}
        logger.info(
            "ignored fields=%(fields)s request_id=%(request_id)s",
            {"fields": shown, "request_id": request.state.request_id},
        )
    return checked


def content_type(request: Request) -> str:
    """The media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def validate(
    model: type[Model], data: Any, *, strict: bool, refuse_unknown: bool = False
) -> tuple[Model, list[str]]:
    """Check ``data``, parsed JSON, against ``model``.

    Returns:
        What was checked, and the paths of the unknown fields that were left out.

    Raises:
        APIError: 400, about the first errors; ``param`` is the first one's field.
    """
    if not isinstance(data, dict):
        raise invalid(None, "The body must be a JSON object.", code=ErrorCode.INVALID_JSON)
    ignored: list[str] = []
    try:
        return model.model_validate(data, strict=strict, context={IGNORED: ignored}), ignored
    except ValidationError as error:
        errors = error.errors(include_url=False)
    unknown = [] if refuse_unknown else [e for e in errors if _is_unknown(e)]
    # Where something is wrong besides, that is the error.
    few = len(unknown) <= MAX_IGNORED
    if few and len(unknown) == len(errors) and all([_remove(data, e["loc"]) for e in unknown]):
        checked, more = validate(model, data, strict=strict)
        return checked, [_path(details["loc"]) for details in unknown] + more
    if few and not refuse_unknown:
        errors = [details for details in errors if not _is_unknown(details)] or errors
    described = [_describe(details) for details in errors[:MAX_SHOWN_ERRORS]]
    message = "; ".join(f"{param}: {reason}" if param else reason for param, reason in described)
    if len(errors) > len(described):
        message += f"; and {len(errors) - len(described)} more"
    raise APIError(_code(errors[0]), message, param=described[0][0] or None) from None


def _is_unknown(details: Mapping[str, Any]) -> bool:
    return details["type"] == "extra_forbidden" and details["loc"][-1] not in REFUSED_FIELDS


def _remove(data: Any, location: Sequence[int | str]) -> bool:
    """Remove the field at this location of an error, in which the tags of unions stand as well.

    Returns:
        Whether it was there.
    """
    *steps, name = location
    for step in steps:
        if isinstance(step, str) and step.startswith(TAG):
            continue
        if (isinstance(data, list) and isinstance(step, int)) or (
            isinstance(data, dict) and step in data
        ):
            data = data[step]  # type: ignore[index]
    if not isinstance(data, dict) or name not in data:
        return False
    del data[name]
    return True


def _describe(details: Mapping[str, Any]) -> tuple[str, str]:
    location = [*details["loc"]]
    kind, reason = details["type"], details["msg"]
    if kind != "extra_forbidden" and location and str(location[-1]).startswith(TAG):
        location.pop()
    if kind == "missing":
        reason = "is required"
    elif kind == "extra_forbidden" and location[-1] in REFUSED_FIELDS:
        reason = "is not supported by this server"
    elif kind == "extra_forbidden":
        reason = "is not a known field"
    elif kind.startswith(CHOICE_ERROR):
        field = kind.removeprefix(CHOICE_ERROR)
        location.append(field)
        if isinstance(details["input"], dict) and field in details["input"]:
            reason += _shown(details["input"][field])
    elif reason.startswith("Input should be "):
        reason = "must be " + reason.removeprefix("Input should be ") + _shown(details["input"])
    else:
        reason = reason[0].lower() + reason[1:]
    return _path(location), reason


def _path(location: Sequence[int | str]) -> str:
    if location and location[-1] == "[key]":  # pydantic's mark for a bad key, after the key itself
        location = location[:-1]
    path = ""
    for i, step in enumerate(location):
        is_tag = isinstance(step, str) and step.startswith(TAG) and i < len(location) - 1
        if isinstance(step, int):
            path += f"[{step}]"
        elif not is_tag:
            path += f".{step[:MAX_SHOWN_VALUE]}"
    return path.removeprefix(".")


def _shown(value: Any) -> str:
    if not isinstance(value, str | int | float | bool | None):
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return f", not {text}" if len(text) <= MAX_SHOWN_VALUE else ""


def _code(details: Mapping[str, Any]) -> ErrorCode:
    kind = details["type"]
    if kind == "extra_forbidden":
        known = details["loc"][-1] in REFUSED_FIELDS
        return ErrorCode.UNSUPPORTED_FIELD if known else ErrorCode.UNKNOWN_FIELD
    return ErrorCode.MISSING_FIELD if kind == "missing" else ErrorCode.INVALID_VALUE
