"""``POST /v1/chat/completions``."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.chat.decode import decode
from glm_frontend.apis.chat.encode import ChatEncoder
from glm_frontend.apis.chat.examples import CHAT_EXAMPLES
from glm_frontend.apis.chat.schema import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from glm_frontend.apis.shared.encoder import respond
from glm_frontend.http.openapi import INFERENCE_ERRORS, event_stream, json_body
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.validation import read_json

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])


@router.post(
    "/chat/completions",
    summary="Go on with a conversation about pictures and text",
    response_model=ChatCompletion,
    responses={200: event_stream(ChatCompletionChunk), **INFERENCE_ERRORS},
    openapi_extra={"requestBody": json_body(ChatCompletionRequest, CHAT_EXAMPLES)},
)
async def create_chat_completion(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """OpenAI's chat completions, with pictures anywhere in the conversation.

    The model thinks before it answers; the thought is in `reasoning_content`, and again in
    `reasoning`, apart from the answer in `content`. `reasoning_effort: "none"` or
    `chat_template_kwargs: {"enable_thinking": false}` turns it off.
    """
    body = await read_json(request, ChatCompletionRequest)
    services.check_model(body.model)
    return await respond(
        request, services, caller, [decode(body)], ChatEncoder(body), stream=bool(body.stream)
    )
