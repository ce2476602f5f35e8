"""What a request can end in, and the one place where gRPC's errors become ours.

GLMError
 +-- InvalidRequestError     the request has to be changed; ``param`` names the field
 +-- OverloadedError         the server's queue is full; try again later
 +-- UnavailableError        the server, or a stage of it, is not there now
 +-- RequestCancelledError   the request was cancelled
 +-- DeadlineExceededError   the answer did not come in time
 +-- OutOfMemoryError        the server had not the memory for this request
 +-- InternalError           a fault of the server
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

import grpc

from glm_client.wire import INPUT_DATATYPES


class GLMError(Exception):
    """Base of all errors that a request can end in."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequestError(GLMError):
    """The server refuses the request as it is.

    Attributes:
        param: path of the field on the wire, such as ``messages[0].role``, ``image[2]`` or
            ``sampling_parameters.temperature``; None where the server names none.
        message: what is wrong with it, without the path.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    def __str__(self) -> str:
        return f"{self.param}: {self.message}" if self.param else self.message


class OverloadedError(GLMError):
    """The server has more requests than it takes; the same request may pass later.

    Attributes:
        retry_after: seconds after which it may; None where the server does not say.
    """

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(GLMError):
    """The server cannot be reached, is starting or stopping, or lost one of its stages."""


class RequestCancelledError(GLMError):
    """The request was cancelled before its end."""


class DeadlineExceededError(GLMError):
    """The answer was not complete within the request's time limit."""


class OutOfMemoryError(GLMError):
    """The server had not the memory for this request; ``message`` says what would need less."""


class InternalError(GLMError):
    """The server failed."""


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

STATUS_BY_CODE: Mapping[str, grpc.StatusCode] = MappingProxyType(
    {
        "INVALID_ARG": grpc.StatusCode.INVALID_ARGUMENT,
        "UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
        "CANCELLED": grpc.StatusCode.CANCELLED,
        "INTERNAL": grpc.StatusCode.INTERNAL,
    }
)
"""The code at the end of an error in a stream, which has no status of its own."""

_CODE = re.compile(rf" \[(?P<code>{'|'.join(STATUS_BY_CODE)})\]$")
_NOT_LOADED = re.compile(r"unknown model|is not ready|no available versions")
_NO_SHARED_MEMORY = re.compile(r"shared memory", re.IGNORECASE)
_FIELD = re.compile(
    rf"(?<![\w.])(?P<field>(?:{'|'.join(INPUT_DATATYPES)})(?:\.[^\s.:\[\]]+|\[\d+\])*)"
    r": (?P<reason>.+)",
    re.DOTALL,
)
_RETRY = re.compile(r"; retry in (?P<seconds>\d+) s$")
_DEAD_STAGE = re.compile(r"Stub process '.*' is not healthy")


def error_from_text(text: str) -> GLMError:
    """The error for what came in a stream: ours end in a code, Triton's own do not."""
    if match := _CODE.search(text):
        return error_from_status(STATUS_BY_CODE[match["code"]], text[: match.start()])
    if _NO_SHARED_MEMORY.search(text):
        return OutOfMemoryError("out of shared memory: use smaller images")
    not_loaded = _NOT_LOADED.search(text)
    status = grpc.StatusCode.NOT_FOUND if not_loaded else grpc.StatusCode.UNKNOWN
    return error_from_status(status, text)


def error_from_status(status: grpc.StatusCode, message: str) -> GLMError:
    """The error for what Triton or gRPC said."""
    kind = ERROR_BY_STATUS[status]
    if kind is UnavailableError and message.startswith("queue full"):
        retry = _RETRY.search(message)
        return OverloadedError(message, int(retry["seconds"]) if retry else None)
    if kind is UnavailableError and message.startswith("out of memory"):
        return OutOfMemoryError(message)
    if kind is InternalError and _DEAD_STAGE.search(message):
        return UnavailableError(message)
    if kind is InvalidRequestError and (match := _FIELD.search(message)):
        return InvalidRequestError(match["reason"], match["field"])
    return kind(message)
