"""``POST /v1/decisions``."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.decisions.decode import decode
from glm_frontend.apis.decisions.encode import encode
from glm_frontend.apis.decisions.examples import DECISION_EXAMPLES
from glm_frontend.apis.decisions.schema import Decision, DecisionRequest
from glm_frontend.http.disconnect import until_disconnect
from glm_frontend.http.openapi import INFERENCE_ERRORS, json_body, json_response
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.validation import read_json

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])


@router.post(
    "/decisions",
    summary="Decide typed questions about a text and pictures",
    response_model=Decision,
    responses=INFERENCE_ERRORS,
    openapi_extra={"requestBody": json_body(DecisionRequest, DECISION_EXAMPLES)},
)
async def create_decision(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """OpenAI's Decisions API: each question is answered by the probability of each option.

    Nothing is written: the probabilities are read from the model while it reads the questions,
    without a thought. An option of several tokens counts with all of them. Many questions about one
    picture cost little more than one, since what they have in common is computed once.
    """
    body = await read_json(request, DecisionRequest)
    services.check_model(body.model)
    deciding = services.generator.decide(decode(body), caller)
    logprobs, usage = await until_disconnect(request, deciding)
    return json_response(encode(body, logprobs, usage))
