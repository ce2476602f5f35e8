"""``POST /v1/multi-modal/inference``, as JSON and as multipart form."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.multimodal.decode import decode, read_body
from glm_frontend.apis.multimodal.encode import MultimodalEncoder
from glm_frontend.apis.multimodal.examples import MULTIMODAL_EXAMPLES
from glm_frontend.apis.multimodal.schema import (
    MultimodalInference,
    MultimodalInferenceChunk,
    MultimodalRequest,
)
from glm_frontend.apis.shared.encoder import respond
from glm_frontend.http.openapi import INFERENCE_ERRORS, event_stream, form_body, json_body
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])


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
    body, pictures = await read_body(request, services.settings.max_body_bytes)
    services.check_model(body.model)
    encoder = MultimodalEncoder(services.settings.served_model_name)
    wanted = [decode(body, pictures)]
    return await respond(request, services, caller, wanted, encoder, stream=bool(body.stream))
