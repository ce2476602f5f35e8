"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.messages.decode import decode, decode_prompt
from glm_frontend.apis.messages.encode import MessageEncoder
from glm_frontend.apis.messages.examples import COUNT_TOKENS_EXAMPLES, MESSAGES_EXAMPLES
from glm_frontend.apis.messages.schema import (
    MESSAGE_EVENTS,
    AssistantAnswer,
    CountTokensRequest,
    MessagesRequest,
    TokenCount,
)
from glm_frontend.apis.shared.encoder import respond, tokenized
from glm_frontend.http.error_schema import MessagesErrorResponse
from glm_frontend.http.errors import MESSAGES_PATH
from glm_frontend.http.openapi import MESSAGES_ERRORS, event_stream, json_body, json_response
from glm_frontend.http.services import (
    CallerDep,
    PermitDep,
    ServicesDep,
    require_key_or_x_api_key,
)
from glm_frontend.http.sse import MessageStream
from glm_frontend.http.validation import read_json

router = APIRouter(tags=["Inference"], dependencies=[Depends(require_key_or_x_api_key)])


@router.post(
    MESSAGES_PATH,
    summary="The same in Anthropic's form",
    response_model=AssistantAnswer,
    responses={200: event_stream(*MESSAGE_EVENTS, MessagesErrorResponse), **MESSAGES_ERRORS},
    openapi_extra={"requestBody": json_body(MessagesRequest, MESSAGES_EXAMPLES)},
)
async def create_message(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """Anthropic's messages, with pictures anywhere in the conversation.

    Any Anthropic client works with `base_url` set to this server's root; the key may be in the
    header `x-api-key`, too. The model thinks only with
    `thinking: {"type": "enabled", "budget_tokens": ...}` or `{"type": "adaptive"}`.
    """
    body = await read_json(request, MessagesRequest)
    services.check_model(body.model)
    return await respond(
        request,
        services,
        caller,
        [decode(body)],
        MessageEncoder(body.model),
        stream=bool(body.stream),
        style=MessageStream,
    )


@router.post(
    f"{MESSAGES_PATH}/count_tokens",
    summary="Count the tokens of a conversation in Anthropic's form",
    response_model=TokenCount,
    responses=MESSAGES_ERRORS,
    openapi_extra={"requestBody": json_body(CountTokensRequest, COUNT_TOKENS_EXAMPLES)},
)
async def count_tokens(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """How many tokens the model would read; nothing is written."""
    body = await read_json(request, CountTokensRequest)
    services.check_model(body.model)
    prompt = await tokenized(request, services, caller, decode_prompt(body))
    return json_response(TokenCount(input_tokens=len(prompt.token_ids)))
