"""What can go wrong with a request, and how that crosses the wire.

GenerationError
 +-- InvalidRequest     the client has to change the request
 +-- EngineUnavailable  the engine is draining or stopped, or stage 1 is gone; later it may pass
 |    +-- QueueFull     the same request may pass in some seconds
 +-- RequestCancelled   the client gave the request up
 +-- OutOfMemory        there was not the memory for this request; a smaller one may pass
 +-- EngineFailure      a fault of ours while this request ran

``glm_client/errors.py`` is the other side; ``tests/contract/test_errors.py`` holds them together.
"""

import json
from typing import Any, ClassVar


class GenerationError(Exception):
    """Base of all errors that end a request.

    Attributes:
        code: what went wrong, for programs; the frontend's ``ErrorCode`` has all of them.
        status: Triton's code, by its name in ``pb_utils.TritonError``.
        finish_reason: what a request that ends in it is counted as.
    """

    default_code: ClassVar[str] = "internal_error"
    status: ClassVar[str] = "INTERNAL"
    finish_reason: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    def details(self) -> dict[str, Any]:
        """What a client that asks for ``error_details`` gets, as JSON."""
        return {"status": self.status, "code": self.code, "message": self.message}


class InvalidRequest(GenerationError):
    """The request is refused as it is.

    Attributes:
        param: path of the field on the wire, such as ``sampling_parameters.temperature``.
        message: what is wrong with it; ``str(error)`` is ``"<param>: <message>"``.
    """

    default_code = "invalid_value"
    status = "INVALID_ARG"

    def __init__(self, param: str | None, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param

    def __str__(self) -> str:
        return f"{self.param}: {self.message}" if self.param else self.message

    def details(self) -> dict[str, Any]:
        """With ``param``."""
        return super().details() | {"param": self.param}


class EngineUnavailable(GenerationError):
    """The request cannot be run now.

    Attributes:
        stage: the Triton model that is missing, if it is another than the engine's.
    """

    default_code = "unavailable"
    status = "UNAVAILABLE"
    finish_reason = "rejected"

    def __init__(self, message: str, *, stage: str | None = None) -> None:
        super().__init__(message)
        self.stage = stage

    def details(self) -> dict[str, Any]:
        """With ``stage``."""
        return super().details() | {"stage": self.stage}


class QueueFull(EngineUnavailable):
    """Too many requests wait already.

    Attributes:
        retry_after: seconds after which it is worth another try.
    """

    default_code = "overloaded"

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(f"queue full: {reason}; retry in {retry_after} s")
        self.retry_after = retry_after

    def details(self) -> dict[str, Any]:
        """With ``retry_after``."""
        return super().details() | {"retry_after": self.retry_after}


class RequestCancelled(GenerationError):
    """The client cancelled."""

    default_code = "cancelled"
    status = "CANCELLED"
    finish_reason = "cancelled"

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class OutOfMemory(GenerationError):
    """There was not the memory to run this request."""

    default_code = "out_of_memory"
    status = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("out of memory: use smaller images, or shorter prompts and answers")


class EngineFailure(GenerationError):
    """A fault of ours; ``message`` is for clients and names none of its causes."""


def wire_text(error: GenerationError, *, details: bool) -> str:
    """The error as the text of a Triton error.

    Args:
        details: as JSON; otherwise as a sentence that ends in Triton's code, which a gRPC stream
            carries only for clients that send ``triton_grpc_error``, and that crashes Triton 24.10
            now and then.
    """
    if details:
        return json.dumps(error.details())
    # What a client sent may be part of it; Triton takes a NUL for the end of a text.
    text = f"{error} [{error.status}]"
    return text.encode(errors="replace").decode().replace("\0", "\\0")
