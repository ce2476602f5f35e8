"""``POST /v1/responses``, which stores nothing, and what says so."""

from functools import partial
from typing import NoReturn

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.responses.decode import decode, decode_compaction
from glm_frontend.apis.responses.encode import ResponseEncoder, compacted
from glm_frontend.apis.responses.events import RESPONSE_EVENTS
from glm_frontend.apis.responses.examples import COMPACT_EXAMPLES, RESPONSES_EXAMPLES
from glm_frontend.apis.responses.schema import (
    CompactedResponse,
    CompactRequest,
    InputTokens,
    ResponseObject,
    ResponsesRequest,
)
from glm_frontend.apis.shared.encoder import respond, tokenized
from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError
from glm_frontend.http.disconnect import until_disconnect
from glm_frontend.http.openapi import INFERENCE_ERRORS, event_stream, json_body, json_response
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.sse import ResponseStream
from glm_frontend.http.validation import read_json

router = APIRouter(prefix="/v1", tags=["Inference"], dependencies=[Depends(require_key)])


@router.post(
    "/responses",
    summary="The same in the form of OpenAI's Responses API",
    response_model=ResponseObject,
    responses={200: event_stream(*RESPONSE_EVENTS), **INFERENCE_ERRORS},
    openapi_extra={"requestBody": json_body(ResponsesRequest, RESPONSES_EXAMPLES)},
)
async def create_response(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """OpenAI's Responses API without its memory: the conversation is sent whole each time.

    The output is a list of items: `reasoning` with the model's thought, `message` with what it
    says, and a `function_call` for each call of a tool. Append them to the next request's `input`
    as they are.
    """
    body = await read_json(request, ResponsesRequest)
    services.check_model(body.model)
    encoder = ResponseEncoder(body, services.model_info.known)
    return await respond(
        request,
        services,
        caller,
        [decode(body)],
        encoder,
        stream=bool(body.stream),
        style=partial(ResponseStream, failed=encoder.failed),
    )


@router.post(
    "/responses/input_tokens",
    summary="Count the tokens of such a request",
    response_model=InputTokens,
    responses=INFERENCE_ERRORS,
    openapi_extra={"requestBody": json_body(ResponsesRequest, RESPONSES_EXAMPLES)},
)
async def count_input_tokens(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """How many tokens the model would read; nothing is written."""
    body = await read_json(request, ResponsesRequest)
    services.check_model(body.model)
    prompt = await tokenized(request, services, caller, decode(body))
    return json_response(
        InputTokens(object="response.input_tokens", input_tokens=len(prompt.token_ids))
    )


@router.post(
    "/responses/compact",
    summary="Make a conversation shorter",
    response_model=CompactedResponse,
    responses=INFERENCE_ERRORS,
    openapi_extra={"requestBody": json_body(CompactRequest, COMPACT_EXAMPLES)},
)
async def compact_response(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """The model sums the conversation up; the summary stands for it in the next request.

    Nothing is stored: the summary is in the item that comes back.
    """
    body = await read_json(request, CompactRequest)
    services.check_model(body.model)
    summary = services.generator.complete([decode_compaction(body)], caller)
    return json_response(compacted(await until_disconnect(request, summary)))


# Not of any other name: `/responses/input_tokens` is no response.
@router.api_route(
    "/responses/resp_{name}",
    methods=["GET", "DELETE"],
    include_in_schema=False,
    response_model=None,
)
async def stored_response(name: str) -> NoReturn:
    """For clients that look a response up, or tidy up: the error says that none is stored."""
    raise APIError(
        ErrorCode.NOT_FOUND,
        f"There is no response 'resp_{name}': this server stores none. Send the items of "
        "earlier answers in the input of the next request instead.",
        param="response_id",
    )
