"""What a request can end in, and the one place where the wire's errors become exceptions.

GLMError
 +-- InvalidRequestError     the request has to be changed; ``param`` names the field
 +-- OverloadedError         the server's queue is full; try again later
 +-- UnavailableError        the server, or a stage of it, is not there now
 +-- RequestCancelledError   the request was cancelled
 +-- DeadlineExceededError   the answer did not come in time
 +-- OutOfMemoryError        the server had not the memory for this request
 +-- InternalError           a fault of the server

On the wire an error of our models is a JSON object, where the request has the parameter
``error_details`` (see :data:`ERROR_DETAILS`): ``status`` (Triton's code, by its name), ``code``,
``message`` and, where there is one, ``param``, ``retry_after`` (seconds) and ``stage``. Whatever
else comes is of Triton itself, or of gRPC: a status and a sentence of theirs.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import grpc

ERROR_DETAILS = "error_details"
"""The parameter of a request whose errors are to be JSON; without it they are one sentence."""


class GLMError(Exception):
    """Base of all errors that a request can end in.

    Attributes:
        message: what went wrong, for people.
        code: the same for programs, such as ``context_length_exceeded``.
    """

    default_code: ClassVar[str]

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class InvalidRequestError(GLMError):
    """The server refuses the request as it is.

    Attributes:
        param: path of the field on the wire, such as ``messages[0].role``, ``image[2]`` or
            ``sampling_parameters.temperature``; None where the server names none.
        message: what is wrong with it, without the path.
    """

    default_code = "invalid_value"

    def __init__(self, message: str, param: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param

    def __str__(self) -> str:
        return f"{self.param}: {self.message}" if self.param else self.message


class OverloadedError(GLMError):
    """The server has more requests than it takes; the same request may pass later.

    Attributes:
        retry_after: seconds after which it may; None where the server does not say.
    """

    default_code = "overloaded"

    def __init__(
        self, message: str, retry_after: int | None = None, *, code: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class UnavailableError(GLMError):
    """The server cannot be reached, is starting or stopping, or lost one of its stages.

    Attributes:
        stage: the model that is missing; None where that is not known.
    """

    default_code = "unavailable"

    def __init__(self, message: str, stage: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.stage = stage


class RequestCancelledError(GLMError):
    """The request was cancelled before its end."""

    default_code = "cancelled"


class DeadlineExceededError(GLMError):
    """The answer was not complete within the request's time limit."""

    default_code = "timeout"


class OutOfMemoryError(GLMError):
    """The server had not the memory for this request; ``message`` says what would need less."""

    default_code = "out_of_memory"


class InternalError(GLMError):
    """The server failed."""

    default_code = "internal_error"


ERROR_BY_STATUS: Mapping[grpc.StatusCode, type[GLMError]] = MappingProxyType(
    {
        grpc.StatusCode.OK: InternalError,  # an "error" that says all is well is a fault, too
        grpc.StatusCode.CANCELLED: RequestCancelledError,
        grpc.StatusCode.UNKNOWN: InternalError,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
        grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
        grpc.StatusCode.NOT_FOUND: UnavailableError,  # the model is not loaded
        grpc.StatusCode.ALREADY_EXISTS: InternalError,
        grpc.StatusCode.PERMISSION_DENIED: InternalError,
        grpc.StatusCode.UNAUTHENTICATED: InternalError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
        grpc.StatusCode.FAILED_PRECONDITION: InternalError,
        grpc.StatusCode.ABORTED: UnavailableError,
        grpc.StatusCode.UNIMPLEMENTED: InternalError,
        grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
        grpc.StatusCode.INTERNAL: InternalError,
        grpc.StatusCode.UNAVAILABLE: UnavailableError,
        grpc.StatusCode.DATA_LOSS: InternalError,
    }
)

STATUS_BY_NAME: Mapping[str, grpc.StatusCode] = MappingProxyType(
    {
        "INVALID_ARG": grpc.StatusCode.INVALID_ARGUMENT,
        "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
        "CANCELLED": grpc.StatusCode.CANCELLED,
        "INTERNAL": grpc.StatusCode.INTERNAL,
    }
)
"""Triton's codes that our models use, and how gRPC calls them."""

ERROR_BY_CODE: Mapping[str, type[GLMError]] = MappingProxyType(
    {
        kind.default_code: kind
        for kind in (
            OverloadedError,
            UnavailableError,
            RequestCancelledError,
            DeadlineExceededError,
            OutOfMemoryError,
            InternalError,
        )
    }
)
"""Codes that have a class of their own; every other one is of its status's class."""

# What ends an error that was not asked for as JSON, or comes from a server of before.
_STATUS = re.compile(rf" \[(?P<status>{'|'.join(STATUS_BY_NAME)})\]$")
# Triton's own sentences, which come without a status in a stream and with a coarse one elsewhere:
# that a model is not loaded, that its process died, that /dev/shm is full.
_NOT_LOADED = re.compile(r"unknown model|is not ready|no available versions")
_DEAD_STAGE = re.compile(r"Stub process '.*' is not healthy")
_NO_SHARED_MEMORY = re.compile(r"shared memory", re.IGNORECASE)
_STAGE = re.compile(r"'(?P<stage>[a-z]+)[_0-9]*'")


def error_from_text(text: str) -> GLMError:
    """The error for what came in a stream, where errors of Triton itself have no status."""
    if match := _STATUS.search(text):
        return error_from_status(STATUS_BY_NAME[match["status"]], text[: match.start()])
    return error_from_status(grpc.StatusCode.UNKNOWN, text)


def error_from_status(status: grpc.StatusCode, text: str) -> GLMError:
    """The error for what a model, Triton or gRPC said."""
    if (details := _details(text)) is not None:
        return _from_details(details)
    kind = ERROR_BY_STATUS[status]
    if kind is InternalError and _NO_SHARED_MEMORY.search(text):
        return OutOfMemoryError("out of shared memory: use smaller images")
    is_lost = _DEAD_STAGE.search(text) or _NOT_LOADED.search(text)
    if kind is UnavailableError or (kind is InternalError and is_lost):
        stage = _STAGE.search(text)
        return UnavailableError(text, stage["stage"] if stage else None)
    return kind(text)


def _details(text: str) -> Mapping[str, Any] | None:
    try:
        details = json.loads(text)
    except ValueError:
        return None
    is_ours = isinstance(details, dict) and {"status", "code", "message"} <= details.keys()
    return details if is_ours else None


def _from_details(details: Mapping[str, Any]) -> GLMError:
    code, message = details["code"], details["message"]
    status = STATUS_BY_NAME.get(details["status"], grpc.StatusCode.UNKNOWN)
    kind = ERROR_BY_CODE.get(code) or ERROR_BY_STATUS[status]
    if issubclass(kind, InvalidRequestError):
        return kind(message, details.get("param"), code=code)
    if issubclass(kind, OverloadedError):
        return kind(message, details.get("retry_after"), code=code)
    if issubclass(kind, UnavailableError):
        return kind(message, details.get("stage"), code=code)
    return kind(message, code=code)
