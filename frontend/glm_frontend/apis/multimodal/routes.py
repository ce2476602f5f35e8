"""``POST /v1/multi-modal/inference``, as JSON and as multipart form."""

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterable
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic_core import from_json
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response

from glm_frontend.apis.multimodal.schema import (
    MultimodalInference,
    MultimodalInferenceChunk,
    MultimodalRequest,
)
from glm_frontend.core.generation import AnswerDelta
from glm_frontend.core.request import translate_multimodal
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, invalid
from glm_frontend.http.disconnect import started, until_disconnect
from glm_frontend.http.openapi import (
    INFERENCE_ERRORS,
    event_stream,
    form_body,
    json_body,
    json_response,
)
from glm_frontend.http.openapi_examples import MULTIMODAL_EXAMPLES
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.sse import EventStream
from glm_frontend.http.validation import content_type, read_json, validate
from glm_frontend.media.fetch import Picture

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])

FORM_IMAGE_FIELDS = frozenset({"image", "images"})
FORM_LIST_FIELDS = frozenset({"stop", "stop_token_ids"})
FORM_JSON_FIELDS = frozenset({"chat_template_kwargs", "logit_bias"})


@router.post(
    "/multi-modal/inference",
    summary="Ask about pictures",
    response_model=MultimodalInference,
    responses={200: event_stream(MultimodalInferenceChunk), **INFERENCE_ERRORS},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": json_body(MultimodalRequest, MULTIMODAL_EXAMPLES)["content"]
            | form_body(MultimodalRequest, files=("image", "images"))["content"],
        }
    },
)
async def create_multimodal_inference(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """One prompt and its pictures in, one text out.

    As JSON, or as a multipart form with files:
    `curl -F prompt="What is in this image?" -F image=@picture.png http://.../v1/multi-modal/inference`.
    In a form, `image` (or `images`) may be given several times, as file or as text;
    `chat_template_kwargs` and `logit_bias` are JSON.
    """
    match content_type(request):
        case "application/json":
            body = await read_json(request, MultimodalRequest)
            pictures = [
                Picture(image, f"images[{i}]", plain_base64=True)
                for i, image in enumerate(body.images)
            ]
        case "multipart/form-data":
            body, pictures = await _read_form(request, services.settings.max_body_bytes)
        case other:
            raise APIError(
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                "The content-type has to be application/json or multipart/form-data, "
                f"not {other or 'absent'}.",
            )
    services.check_model(body.model)
    translation = translate_multimodal(body, pictures)
    head: dict[str, Any] = {
        "id": f"mminf-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": services.settings.served_model_name,
    }
    if body.stream:
        deltas = services.answerer.stream(translation, caller)
        events = _chunks(head, await started(request, deltas))
        return EventStream(events, deltas, caller)
    answer = await until_disconnect(request, services.answerer.complete(translation, caller))
    (choice,) = answer.choices
    return json_response(
        MultimodalInference(
            **head,
            object="multimodal.inference",
            text=choice.content,
            reasoning=choice.reasoning or None,
            finish_reason=choice.finish_reason,
            usage=answer.usage,
        )
    )


async def _chunks(
    head: dict[str, Any], deltas: AsyncIterable[AnswerDelta]
) -> AsyncGenerator[MultimodalInferenceChunk]:
    async for delta in deltas:
        yield MultimodalInferenceChunk(
            **head,
            object="multimodal.inference.chunk",
            text=delta.content,
            reasoning=delta.reasoning or None,
            finish_reason=delta.finish_reason,
            usage=delta.usage if delta.finish_reason else None,
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
                pictures.append(Picture(source, f"{name}[{len(pictures)}]", plain_base64=True))
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
    return validate(MultimodalRequest, fields, strict=False), pictures


def _parse_json(name: str, text: str) -> Any:
    try:
        return from_json(text)
    except ValueError:
        raise invalid(name, "has to be JSON", code=ErrorCode.INVALID_JSON) from None
