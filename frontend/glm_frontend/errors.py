"""Everything that goes wrong leaves through this file, in the shape of the API that was asked.

OpenAI's: {"error": {"message", "type", "param", "code", "request_id"}}
Anthropic's: {"type": "error", "error": {"type", "message"}, "request_id"}
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from glm_client import GLMError, InternalError, InvalidRequestError, OverloadedError
from glm_frontend.error_codes import ErrorCode
from glm_frontend.observability.logs import LOGGER_NAME

CLIENT_CLOSED_REQUEST = 499
RETRY_AFTER_SECONDS = 1

REFUSALS = ("requests", "share", "bytes", "queue", "rate_limit", "connections", "draining")
"""What there was no room for: as many requests, or bytes of them, are under way as may be; or, the
`share`, as one key may have; the model server's queue is full; a key's rate is reached; there are
too many connections; the server is shutting down."""

MESSAGES_PATH = "/v1/messages"

logger = logging.getLogger(LOGGER_NAME)


class APIError(Exception):
    """An error for the client.

    Attributes:
        code: for programs; status and type come with it.
        status: of the response; only HTTP's own refusals have another than their code's.
        param: path of the field in the client's JSON, such as ``messages[0].role``.
        refusal: of ``REFUSALS``, where the request was not even begun; for the metrics.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        param: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        refusal: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.status = code.status if status is None else status
        self.headers = dict(headers or {})
        if code.is_temporary:
            self.headers.setdefault("retry-after", str(RETRY_AFTER_SECONDS))
        self.refusal = refusal

    def openai_body(self, request_id: str) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        return {
            "error": {
                "message": self.message,
                "type": self.code.type,
                "param": self.param,
                "code": self.code,
                "request_id": request_id,
            }
        }

    def anthropic_body(self, request_id: str) -> dict[str, Any]:
        """The error as Anthropic writes it; the field's path is in the message only."""
        error = {"type": self.code.anthropic_type, "message": self.message}
        return {"type": "error", "error": error, "request_id": request_id}

    def response(self, scope: Scope) -> JSONResponse:
        """The error as the answer to a request."""
        record = scope["state"]["record"]
        record.error_code, record.refusal = self.code, self.refusal
        asks_anthropic = f"{scope['path']}/".startswith(f"{MESSAGES_PATH}/")
        body = self.anthropic_body if asks_anthropic else self.openai_body
        return JSONResponse(body(scope["state"]["request_id"]), self.status, self.headers)


def invalid(
    param: str | None, reason: str, *, code: ErrorCode = ErrorCode.INVALID_VALUE
) -> APIError:
    """A 400 about one field; the message begins with its path."""
    return APIError(code, f"{param}: {reason}" if param else reason, param=param)


def overloaded(message: str, refusal: str, retry_after: int = RETRY_AFTER_SECONDS) -> APIError:
    """A 429: as many requests are under way as fit. ``retry_after``: in seconds."""
    headers = {"retry-after": str(retry_after)}
    return APIError(ErrorCode.OVERLOADED, message, headers=headers, refusal=refusal)


def internal() -> APIError:
    """A 500; what happened is for the log only."""
    return APIError(
        ErrorCode.INTERNAL_ERROR,
        "The server failed on this request. The log has more under the request id.",
    )


_SENTENCES: Mapping[ErrorCode, str] = MappingProxyType(
    {
        ErrorCode.OVERLOADED: "The model server's queue is full; try again later.",
        ErrorCode.UNAVAILABLE: (
            "The model is not available now; GET /v1/health tells which part is missing."
        ),
        ErrorCode.CANCELLED: "The model server cancelled this request.",
        ErrorCode.TIMEOUT: "The answer took longer than the server's time limit.",
        ErrorCode.OUT_OF_MEMORY: (
            "The server ran out of memory on this request; use smaller or fewer images, or shorter "
            "prompts and answers."
        ),
    }
)
"""What a client is told of the model server's state; its own words may name what is inside."""


def from_client_error(error: GLMError) -> APIError:
    """The error for what the model server said. ``param`` is still the path on the wire."""
    code = ErrorCode.named(error.code) or ErrorCode[error.default_code.upper()]
    sentence = _SENTENCES.get(code, code.meaning)
    if isinstance(error, InvalidRequestError):
        return invalid(error.param, error.message, code=code)
    if isinstance(error, InternalError):
        return internal()
    if isinstance(error, OverloadedError):
        return overloaded(sentence, "queue", error.retry_after or RETRY_AFTER_SECONDS)
    return APIError(code, sentence)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception that a route can end in."""
    app.add_exception_handler(APIError, _on_api_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return error.response(request.scope)


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
    return api_error.response(request.scope)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads it; the status is for the access log."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)
