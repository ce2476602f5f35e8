"""Who asks, and under which id: what goes with a request all the way to the model server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """Attributes:
    request_id: for the logs of all parts.
    tenant: name of the API key; tenants get equal shares of the engine. Empty where no key is
        asked for.
    """

    request_id: str
    tenant: str = ""
