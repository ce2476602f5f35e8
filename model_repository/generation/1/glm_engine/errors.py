"""Errors that end a request, and their form on the wire.

GenerationError
 +-- InvalidRequest     the client must change the request
 +-- EngineUnavailable  the engine is draining or stopped, or stage 1 is gone; may succeed later
 |    +-- QueueFull     the same request may succeed in a few seconds
 +-- RequestCancelled   the client cancelled the request
 +-- OutOfMemory        not enough memory for this request; a smaller one may succeed
 +-- EngineFailure      an internal error while this request ran

``glm_client/errors.py`` is the counterpart; ``tests/contract/test_errors.py`` compares them.
"""

import json
from typing import Any, ClassVar


class GenerationError(Exception):
    """Base of all errors that end a request.

    Attributes:
        code: machine-readable; the frontend's ``ErrorCode`` has all of them.
        status: Triton's code, by its name in ``pb_utils.TritonError``.
        finish_reason: under which the request is counted: a mistake of the client, an overload, and
            a fault of the server are different ones.
    """

    default_code: ClassVar[str] = "internal_error"
    status: ClassVar[str] = "INTERNAL"
    finish_reason: ClassVar[str] = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    def details(self) -> dict[str, Any]:
        """The JSON object for a client that asks for ``error_details``."""
        return {"status": self.status, "code": self.code, "message": self.message}


class InvalidRequest(GenerationError):
    """The request is invalid; the client must change it.

    Attributes:
        param: path of the field on the wire, such as ``sampling_parameters.temperature``.
        message: what is wrong with it; ``str(error)`` is ``"<param>: <message>"``.
    """

    default_code = "invalid_value"
    status = "INVALID_ARG"
    finish_reason = "invalid"

    def __init__(self, param: str | None, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param

    def __str__(self) -> str:
        return f"{self.param}: {self.message}" if self.param else self.message

    def details(self) -> dict[str, Any]:
        """Includes ``param``."""
        return super().details() | {"param": self.param}


class EngineUnavailable(GenerationError):
    """The request cannot be run now.

    Attributes:
        stage: the Triton model that is missing; None for the engine's own.
    """

    default_code = "unavailable"
    status = "UNAVAILABLE"
    finish_reason = "unavailable"

    def __init__(self, message: str, *, stage: str | None = None) -> None:
        super().__init__(message)
        self.stage = stage

    def details(self) -> dict[str, Any]:
        """Includes ``stage``."""
        return super().details() | {"stage": self.stage}


class QueueFull(EngineUnavailable):
    """Too many requests are waiting already.

    Attributes:
        retry_after: seconds after which the client should retry.
    """

    default_code = "overloaded"
    finish_reason = "rejected"

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(f"queue full: {reason}; retry in {retry_after} s")
        self.retry_after = retry_after

    def details(self) -> dict[str, Any]:
        """Includes ``retry_after``."""
        return super().details() | {"retry_after": self.retry_after}


class RequestCancelled(GenerationError):
    """The client cancelled."""

    default_code = "cancelled"
    status = "CANCELLED"
    finish_reason = "cancelled"

    def __init__(self) -> None:
        super().__init__("the request was cancelled")


class OutOfMemory(GenerationError):
    """Not enough memory to run this request."""

    default_code = "out_of_memory"
    status = "UNAVAILABLE"

    def __init__(self) -> None:
        super().__init__("out of memory: use smaller images, or shorter prompts and answers")


class EngineFailure(GenerationError):
    """An internal error; ``message`` is shown to clients and does not reveal the cause."""


FINISH_REASONS = ("stop", "length", "cancelled", "invalid", "rejected", "unavailable", "error")
"""All under which requests are counted: the first two are those of complete answers."""


def wire_text(error: GenerationError, *, details: bool) -> str:
    """The error as the text of a Triton error.

    Args:
        details: as JSON; otherwise as a sentence that ends in Triton's code. A gRPC stream carries
            the code only for clients that send ``triton_grpc_error``, which occasionally crashes
            Triton 24.10.
    """
    if details:
        return json.dumps(error.details())
    # The text may contain client input, and Triton truncates at a NUL.
    text = f"{error} [{error.status}]"
    return text.encode(errors="replace").decode().replace("\0", "\\0")
