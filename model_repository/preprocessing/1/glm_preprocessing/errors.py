"""Errors of stage 1, and their form on the wire.

``glm_client/errors.py`` is the counterpart; ``tests/contract/test_errors.py`` compares them.
"""

import json
from typing import Any, ClassVar


class PreprocessingError(Exception):
    """An internal error. Its message is shown to clients and does not reveal the cause.

    Attributes:
        code: machine-readable; the frontend's ``ErrorCode`` has all of them.
        status: Triton's code, by its name in ``pb_utils.TritonError``.
    """

    default_code: ClassVar[str] = "internal_error"
    status: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str = "preprocessing failed", *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    def details(self) -> dict[str, Any]:
        """The JSON object for a client that asks for ``error_details``."""
        return {"status": self.status, "code": self.code, "message": self.message}


class InvalidInput(PreprocessingError):
    """The request is invalid; the client must change it.

    Attributes:
        param: path of the offending input on the wire, such as ``messages[0].role`` or
            ``image[2]``.
        message: what is wrong with it; ``str(error)`` is ``"<param>: <message>"``.
    """

    default_code = "invalid_value"
    status = "INVALID_ARG"

    def __init__(self, param: str, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param

    def __str__(self) -> str:
        return f"{self.param}: {self.message}"

    def details(self) -> dict[str, Any]:
        """Includes ``param``."""
        return super().details() | {"param": self.param}


def wire_text(error: PreprocessingError, *, details: bool) -> str:
    """The error as the text of a Triton error: as JSON, or as a sentence."""
    if details:
        return json.dumps(error.details())
    # The text may contain client input, and Triton truncates at a NUL.
    return str(error).encode(errors="replace").decode().replace("\0", "\\0")
