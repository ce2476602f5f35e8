"""The exceptions of the client, and their creation from errors on the wire.

GLMError
 +-- InvalidRequestError     the request is invalid; ``param`` names the field
 +-- OverloadedError         the server's queue is full; try again later
 +-- UnavailableError        the server, or one of its stages, is unavailable
 +-- RequestCancelledError   the request was cancelled
 +-- DeadlineExceededError   the answer was not complete in time
 +-- OutOfMemoryError        the server lacked memory for this request
 +-- InternalError           an internal error of the server

On the wire an error of our models is a JSON object, if the request has the parameter
``error_details`` (see :data:`ERROR_DETAILS`): ``status`` (Triton's code, by its name), ``code``,
``message`` and, if applicable, ``param``, ``retry_after`` (seconds) and ``stage``. Other errors
are those of Triton itself or of gRPC, with a status and a message.
"""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import grpc

ERROR_DETAILS = "error_details"
"""The request parameter that selects errors in JSON; without it they are one sentence."""


class GLMError(Exception):
    """Base class of all errors.

    Attributes:
        message: human-readable description.
        code: machine-readable, such as ``context_length_exceeded``.
    """

    default_code: ClassVar[str]

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class InvalidRequestError(GLMError):
    """The request is invalid.

    Attributes:
        param: path of the field on the wire, such as ``messages[0].role``, ``image[2]`` or
            ``sampling_parameters.temperature``; None if the server names none.
        message: the description without the path.
    """

    default_code = "invalid_value"

    def __init__(self, message: str, param: str | None = None, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param

    def __str__(self) -> str:
        return f"{self.param}: {self.message}" if self.param else self.message


class OverloadedError(GLMError):
    """The server is overloaded; the same request may succeed later.

    Attributes:
        retry_after: seconds after which to retry; None if the server does not say.
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
        stage: the missing model; None if unknown.
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
    """The server lacked memory for this request; ``message`` says how to reduce it."""

    default_code = "out_of_memory"


class InternalError(GLMError):
    """The server failed."""

    default_code = "internal_error"


ERROR_BY_STATUS: Mapping[grpc.StatusCode, type[GLMError]] = MappingProxyType(
    {
        grpc.StatusCode.OK: InternalError,  # an error with status OK is a bug, too
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
"""Triton's status codes used by our models, and their gRPC equivalents."""

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
"""Codes with a class of their own; all others get the class of their status."""

# The suffix of an error that is not JSON, which older servers send.
_STATUS = re.compile(rf" \[(?P<status>{'|'.join(STATUS_BY_NAME)})\]$")
# Triton's own messages, which lack a status in a stream and have a coarse one elsewhere: a model is
# not loaded, its process died, /dev/shm is full.
_NOT_LOADED = re.compile(r"unknown model|is not ready|no available versions")
_DEAD_STAGE = re.compile(r"Stub process '.*' is not healthy")
_NO_SHARED_MEMORY = re.compile(r"shared memory", re.IGNORECASE)
_STAGE = re.compile(r"'(?P<stage>[a-z]+)[_0-9]*'")


def error_from_text(text: str) -> GLMError:
    """The exception for an error in a stream, where errors of Triton itself have no status."""
    if match := _STATUS.search(text):
        return error_from_status(STATUS_BY_NAME[match["status"]], text[: match.start()])
    return error_from_status(grpc.StatusCode.UNKNOWN, text)


def error_from_status(status: grpc.StatusCode, text: str) -> GLMError:
    """The exception for an error of a model, of Triton or of gRPC."""
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
