"""What stage 1 answers where it has no prompt, and how that crosses the wire.

``glm_client/errors.py`` is the other side; ``tests/contract/test_errors.py`` holds them together.
"""

import json
from typing import Any, ClassVar


class PreprocessingError(Exception):
    """A fault of ours. Its message is for clients and names none of its causes.

    Attributes:
        code: what went wrong, for programs; the frontend's ``ErrorCode`` has all of them.
        status: Triton's code, by its name in ``pb_utils.TritonError``.
    """

    default_code: ClassVar[str] = "internal_error"
    status: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str = "preprocessing failed", *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    def details(self) -> dict[str, Any]:
        """What a client that asks for ``error_details`` gets, as JSON."""
        return {"status": self.status, "code": self.code, "message": self.message}


class InvalidInput(PreprocessingError):
    """A request that the client has to change.

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
        """With ``param``."""
        return super().details() | {"param": self.param}


def wire_text(error: PreprocessingError, *, details: bool) -> str:
    """The error as the text of a Triton error: as JSON, or as a sentence."""
    if details:
        return json.dumps(error.details())
    # What a client sent may be part of it; Triton takes a NUL for the end of a text.
    return str(error).encode(errors="replace").decode().replace("\0", "\\0")
