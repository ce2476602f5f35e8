"""From a multi-modal request, as JSON or as a multipart form, to the one request of all APIs."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser

from glm_frontend.apis.multimodal.schema import MultimodalRequest
from glm_frontend.core.request import AnswerRequest, of_prompt
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, invalid
from glm_frontend.http.validation import content_type, read_json, validate_body
from glm_frontend.media.fetch import Picture

FORM_IMAGE_FIELDS = frozenset({"image", "images"})
FORM_LIST_FIELDS = frozenset({"stop", "stop_token_ids"})
FORM_JSON_FIELDS = frozenset({"chat_template_kwargs", "logit_bias"})


def decode(body: MultimodalRequest, pictures: Sequence[Picture]) -> AnswerRequest:
    """The request about ``pictures``, wherever they came from."""
    return of_prompt(
        {"text_input": body.prompt},
        # A conversation is what stage 1 makes of the prompt; its faults are the prompt's.
        {"text_input": "prompt", "messages": "prompt"} | body.renamed(),
        pictures,
        sampling_parameters=body.sampling_parameters(),
        cache_salt=body.cache_salt or "",
        template_kwargs=body.template_kwargs(),
    )


async def read_body(request: Request, max_bytes: int) -> tuple[MultimodalRequest, list[Picture]]:
    """The fields of the body, and its pictures in the order in which they were given.

    Raises:
        APIError: 400, naming the field; 415.
        HTTPException: 400, it is no form.
    """
    match content_type(request):
        case "application/json":
            body = await read_json(request, MultimodalRequest)
            return body, [Picture(image, f"images[{i}]") for i, image in enumerate(body.images)]
        case "multipart/form-data":
            return await _read_form(request, max_bytes)
        case other:
            raise APIError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                "The content-type must be application/json or multipart/form-data, "
                f"not {other or 'absent'}.",
            )


async def _read_form(request: Request, max_bytes: int) -> tuple[MultimodalRequest, list[Picture]]:
    """The form's fields, and its pictures in the order in which they were given.

    Raises:
        APIError: 400, naming the field.
        HTTPException: 400, it is no form.
    """
    fields: dict[str, Any] = {}
    pictures: list[Picture] = []
    parser = MultiPartParser(request.headers, request.stream(), max_part_size=max_bytes)
    # Files stay in memory, which the body's limit bounds: the temporary folder may be full.
    parser.spool_max_size = max_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(HTTPStatus.BAD_REQUEST, error.message) from None
    try:
        for name, value in form.multi_items():
            if not (value.filename or value.size if isinstance(value, UploadFile) else value):
                continue  # browsers send what was left empty
            if name in FORM_IMAGE_FIELDS:
                source = await value.read() if isinstance(value, UploadFile) else value
                pictures.append(Picture(source, f"{name}[{len(pictures)}]"))
            elif isinstance(value, UploadFile):
                raise invalid(name, "is not a field for files; those are image and images")
            elif name in FORM_LIST_FIELDS:
                fields.setdefault(name, []).append(value)
            elif name in fields:
                raise invalid(name, "is given more than once")
            else:
                fields[name] = _parse_json(name, value) if name in FORM_JSON_FIELDS else value
    finally:
        await form.close()
    return validate_body(request, MultimodalRequest, fields, strict=False), pictures


def _parse_json(name: str, text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        raise invalid(name, "must be JSON", code=ErrorCode.INVALID_JSON) from None
