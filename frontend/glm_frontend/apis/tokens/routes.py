"""``POST /tokenize`` and ``POST /detokenize``."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from glm_frontend.apis.shared.encoder import tokenized
from glm_frontend.apis.tokens.decode import decode_text, decode_tokens
from glm_frontend.apis.tokens.examples import DETOKENIZE_EXAMPLES, TOKENIZE_EXAMPLES
from glm_frontend.apis.tokens.schema import (
    Detokenized,
    DetokenizeRequest,
    TokenizeRequest,
    TokenizerInfo,
    Tokens,
)
from glm_frontend.http.disconnect import until_disconnect
from glm_frontend.http.openapi import INFERENCE_ERRORS, errors, json_body, json_response
from glm_frontend.http.services import CallerDep, PermitDep, ServicesDep, require_key
from glm_frontend.http.validation import read_json

router = APIRouter(tags=["Tokens"], dependencies=[Depends(require_key)])


@router.post(
    "/tokenize",
    summary="The tokens of a text or a conversation",
    response_model=Tokens,
    responses=INFERENCE_ERRORS,
    openapi_extra={"requestBody": json_body(TokenizeRequest, TOKENIZE_EXAMPLES)},
)
async def tokenize(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """What the model would read, in tokens, those of the pictures included."""
    body = await read_json(request, TokenizeRequest)
    services.check_model(body.model)
    wanted, token_texts = decode_text(body), bool(body.return_token_strs)
    tokens = await tokenized(request, services, caller, wanted, token_texts=token_texts)
    return json_response(
        Tokens(
            count=len(tokens.token_ids),
            tokens=list(tokens.token_ids),
            token_strs=list(tokens.token_texts) if body.return_token_strs else None,
        )
    )


@router.post(
    "/detokenize",
    summary="The text of some tokens",
    response_model=Detokenized,
    responses=INFERENCE_ERRORS,
    openapi_extra={"requestBody": json_body(DetokenizeRequest, DETOKENIZE_EXAMPLES)},
)
async def detokenize(
    request: Request, services: ServicesDep, permit: PermitDep, caller: CallerDep
) -> Response:
    """All tokens together as text, special ones included."""
    body = await read_json(request, DetokenizeRequest)
    services.check_model(body.model)
    tokens = await tokenized(request, services, caller, decode_tokens(body))
    return json_response(Detokenized(prompt=tokens.text))


@router.get(
    "/tokenizer_info",
    summary="What the checkpoint says of its tokenizer",
    response_model=TokenizerInfo,
    responses=errors(401, 429, 500, 503, 504),
)
async def tokenizer_info(request: Request, services: ServicesDep, permit: PermitDep) -> Response:
    """`tokenizer_config.json` with the chat template, for clients that render prompts themselves,
    such as lm-eval."""
    config = await until_disconnect(request, services.generator.tokenizer_config())
    return json_response(TokenizerInfo(**config))
