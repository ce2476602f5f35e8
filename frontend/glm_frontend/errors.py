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

from glm_client import (
    DeadlineExceededError,
    GLMError,
    InternalError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)
from glm_frontend.logs import LOGGER_NAME

CLIENT_CLOSED_REQUEST = 499
RETRY_AFTER_SECONDS = 1

REFUSALS = ("requests", "share", "bytes", "queue", "rate_limit", "connections", "draining")
"""What there was no room for: as many requests, or bytes of them, are under way as may be; or, the
`share`, as one key may have; the model server's queue is full; a key's rate is reached; there are
too many connections; the server is about to stop."""

MESSAGES_PATH = "/v1/messages"
_ANTHROPIC_TYPES: Mapping[int, str] = MappingProxyType(
    {
        HTTPStatus.UNAUTHORIZED: "authentication_error",
        HTTPStatus.NOT_FOUND: "not_found_error",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
        HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
        HTTPStatus.INTERNAL_SERVER_ERROR: "api_error",
        HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",  # the one that says: later
        HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
    }
)

logger = logging.getLogger(LOGGER_NAME)


class APIError(Exception):
    """An error to be told to the client.

    Attributes:
        param: path of the field in the client's JSON, such as ``messages[0].role``.
        code: for programs, of ``error_catalogue.CATALOGUE``; OpenAI's where OpenAI has one.
        refusal: of ``REFUSALS``, where the request was not even begun; for the metrics.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
        refusal: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.kind = kind
        self.headers = dict(headers or {})
        self.refusal = refusal

    def openai_body(self, request_id: str) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
                "request_id": request_id,
            }
        }

    def anthropic_body(self, request_id: str) -> dict[str, Any]:
        """The error as Anthropic writes it; the field's path is in the message only."""
        kind = _ANTHROPIC_TYPES.get(self.status, "invalid_request_error")
        error = {"type": kind, "message": self.message}
        return {"type": "error", "error": error, "request_id": request_id}

    def response(self, scope: Scope) -> JSONResponse:
        """The error as the answer to a request."""
        record = scope["state"]["record"]
        record.error_code, record.refusal = self.code, self.refusal
        asks_anthropic = f"{scope['path']}/".startswith(f"{MESSAGES_PATH}/")
        body = self.anthropic_body if asks_anthropic else self.openai_body
        return JSONResponse(body(scope["state"]["request_id"]), self.status, self.headers)


def invalid(param: str | None, reason: str, *, code: str = "invalid_value") -> APIError:
    """A 400 about one field; the message begins with its path."""
    message = f"{param}: {reason}" if param else reason
    return APIError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)


def overloaded(message: str, refusal: str, retry_after: int = RETRY_AFTER_SECONDS) -> APIError:
    """A 429: as many requests are under way as fit. ``retry_after``: in seconds."""
    return APIError(
        HTTPStatus.TOO_MANY_REQUESTS,
        message,
        code="overloaded",
        kind="rate_limit_error",
        headers={"retry-after": str(retry_after)},
        refusal=refusal,
    )


def unavailable(message: str, *, code: str = "unavailable", refusal: str | None = None) -> APIError:
    """A 503: not now."""
    return APIError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        message,
        code=code,
        kind="server_error",
        headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        refusal=refusal,
    )


def internal() -> APIError:
    """A 500; what happened is for the log only."""
    return APIError(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "The server failed on this request. The log has more under the request id.",
        code="internal_error",
        kind="server_error",
    )


_SERVER_ERRORS: Mapping[type[GLMError], tuple[HTTPStatus, str, str]] = MappingProxyType(
    {
        UnavailableError: (
            HTTPStatus.SERVICE_UNAVAILABLE,
            "unavailable",
            "The model is not available now; GET /v1/health tells which part is missing.",
        ),
        RequestCancelledError: (
            HTTPStatus.SERVICE_UNAVAILABLE,
            "cancelled",
            "The model server gave this request up.",
        ),
        DeadlineExceededError: (
            HTTPStatus.GATEWAY_TIMEOUT,
            "timeout",
            "The answer took longer than the server's time limit.",
        ),
    }
)


def from_client_error(error: GLMError) -> APIError:
    """The error for what the model server said. ``param`` is still the path on the wire."""
    if isinstance(error, InvalidRequestError):
        too_long = "the context of" in error.message
        return invalid(
            error.param,
            error.message,
            code="context_length_exceeded" if too_long else "invalid_value",
        )
    if isinstance(error, OverloadedError):
        retry_after = error.retry_after or RETRY_AFTER_SECONDS
        message = "The model server's queue is full; try again later."
        return overloaded(message, "queue", retry_after)
    if isinstance(error, InternalError):
        return internal()
    if isinstance(error, OutOfMemoryError):
        return unavailable(f"The server is {error.message}.", code="out_of_memory")
    status, code, message = _SERVER_ERRORS[type(error)]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return unavailable(message, code=code)
    return APIError(status, message, code=code, kind="server_error")


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
            message, code = f"There is nothing at {where}.", "not_found"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            message, code = f"{where} is not allowed.", "method_not_allowed"
        case _:
            message, code = str(error.detail), "bad_request"
    api_error = APIError(error.status_code, message, code=code, headers=error.headers)
    return api_error.response(request.scope)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads it; the status is for the access log."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)
