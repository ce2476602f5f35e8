"""Everything that goes wrong, and how OpenAI and Anthropic write it.

OpenAI's: {"error": {"message", "type", "param", "code", "request_id"}}
Anthropic's: {"type": "error", "error": {"type", "message"}, "request_id"}
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from glm_client import GLMError, InternalError, InvalidRequestError, OverloadedError
from glm_frontend.error_codes import ErrorCode

RETRY_AFTER_SECONDS = 1

REFUSALS = ("requests", "share", "bytes", "queue", "rate_limit", "connections", "draining")
"""Reasons for rejecting a request: too many requests, or bytes of them, are under way; or, the
`share`, as one key may have; the model server's queue is full; a key's rate is reached; there are
too many connections; the server is shutting down."""


class APIError(Exception):
    """An error for the client.

    Attributes:
        code: for programs; status and type come with it.
        status: of the response; only HTTP's own refusals have another than their code's.
        param: path of the field in the client's JSON, such as ``messages[0].role``.
        details: for Anthropic's clients, which read some of their errors by these.
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
        details: Mapping[str, Any] | None = None,
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
        self.details = details

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
        error: dict[str, Any] = {"type": self.code.anthropic_type, "message": self.message}
        if self.details is not None:
            error["details"] = self.details
        return {"type": "error", "error": error, "request_id": request_id}


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
"""What clients receive about the model server's state; its own sentences may name internals."""


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
