"""``POST /v1/completions``."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.completions.decode import decode
from glm_frontend.apis.completions.encode import CompletionEncoder
from glm_frontend.apis.completions.examples import COMPLETION_EXAMPLES
from glm_frontend.apis.completions.schema import Completion, CompletionRequest
from glm_frontend.apis.shared.encoder import respond
from glm_frontend.http.openapi import INFERENCE_ERRORS, event_stream, json_body
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.validation import read_json

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])


@router.post(
    "/completions",
    summary="Go on with a text",
    response_model=Completion,
    responses={200: event_stream(Completion), **INFERENCE_ERRORS},
    openapi_extra={"requestBody": json_body(CompletionRequest, COMPLETION_EXAMPLES)},
)
async def create_completion(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """OpenAI's older endpoint: no chat template, no pictures, and the text as the model writes it.

    For a model of conversations, `/v1/chat/completions` is the better one.
    """
    body = await read_json(request, CompletionRequest)
    services.check_model(body.model)
    return await respond(
        request, services, caller, decode(body), CompletionEncoder(body), stream=bool(body.stream)
    )
