"""Who asks, and under which id: what goes with a request all the way to the model server."""

from collections.abc import Callable
from dataclasses import dataclass, field

from glm_frontend.core.record import RequestRecord


@dataclass(frozen=True, slots=True)
class Caller:
    """Attributes:
    request_id: for the logs of all parts.
    tenant: that the API key belongs to; tenants get equal shares of the engine, and reuse only what
        they sent themselves. Empty where no key is asked for.
    takes_kept_answer: whether an answer that is kept will do.
    keeps_answer: whether its own may be kept.
    record: what happens to the request is noted here.
    hold: called with the number of bytes fetched for it; raises APIError if they are too many.
    """

    request_id: str
    tenant: str = ""
    takes_kept_answer: bool = True
    keeps_answer: bool = True
    record: RequestRecord = field(default_factory=RequestRecord)
    hold: Callable[[int], None] = lambda size: None
