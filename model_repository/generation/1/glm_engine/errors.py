"""What can go wrong with a request.

GenerationError
 +-- InvalidRequest     the client has to change the request
 +-- EngineUnavailable  the engine is full, draining or stopped; the same request may pass later
 +-- RequestCancelled   the client gave the request up
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


class EngineFailure(GenerationError):
    """The engine failed while it ran this request."""
