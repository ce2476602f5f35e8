"""An error as the response to a request, in the shape of the API that was asked."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError

CLIENT_CLOSED_REQUEST = 499
MESSAGES_PATH = "/v1/messages"


def error_response(error: APIError, scope: Scope) -> JSONResponse:
    """The response to the request of ``scope``; its record notes the error."""
    record = scope["state"]["record"]
    record.error_code, record.refusal = error.code, error.refusal
    asks_anthropic = f"{scope['path']}/".startswith(f"{MESSAGES_PATH}/")
    body = error.anthropic_body if asks_anthropic else error.openai_body
    return JSONResponse(body(scope["state"]["request_id"]), error.status, error.headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception that a route can end in."""
    app.add_exception_handler(APIError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error_response(error, request.scope)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """What the framework raises by itself: unknown paths, wrong methods, broken multipart forms."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            code, message = ErrorCode.NOT_FOUND, f"There is nothing at {where}."
        case HTTPStatus.METHOD_NOT_ALLOWED:
            code, message = ErrorCode.METHOD_NOT_ALLOWED, f"{where} is not allowed."
        case _:
            code, message = ErrorCode.BAD_REQUEST, str(error.detail)
    api_error = APIError(code, message, status=error.status_code, headers=error.headers)
    return error_response(api_error, request.scope)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads it; the status is for the access log."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)
