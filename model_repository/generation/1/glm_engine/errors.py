"""What can go wrong with a request.

GenerationError
 +-- InvalidRequest     the client has to change the request
 +-- EngineUnavailable  the engine is full, draining or stopped; the same request may pass later
 +-- RequestCancelled   the client gave the request up
 +-- OutOfMemory        there was not the memory for this request; a smaller one may pass
 +-- EngineFailure      a fault of ours while this request ran
"""


class GenerationError(Exception):
    """Base of all errors that end a request."""


class InvalidRequest(GenerationError):
    """``str(error)`` is ``"<field>: <reason>"`` with the path of the field on the wire."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class EngineUnavailable(GenerationError):
    """The engine cannot take the request now."""


class RequestCancelled(GenerationError):
    """The client cancelled."""


class OutOfMemory(GenerationError):
    """There was not the memory to run this request."""

    def __init__(self) -> None:
        super().__init__("out of memory: use smaller images, or shorter prompts and answers")


class EngineFailure(GenerationError):
    """The engine failed while it ran this request."""
