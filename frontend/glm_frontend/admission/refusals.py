"""Refusals that are certain: what the model server said a moment ago is not asked again."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import RETRY_AFTER_SECONDS, APIError, overloaded

REFUSAL_SHARE = 0.25
MAX_REFUSAL_SECONDS = 1.0
PASSES_PER_ANSWER = 1.5


@dataclass(slots=True)
class _Refusal:
    error: APIError
    until: float
    passes: float = 0.0


class Refusals:
    """Remembers for a moment to whom the model server said that its queue is too long, and says so
    without asking it again. At ten times the load that it sustains, refusing would else take it a
    quarter of its time.

    The moment is a part of the wait that it told, in which the queue does not run empty. Meanwhile
    one request passes for each that is answered, as that one leaves a place to it; and now and then
    one more, which is refused and begins a new moment, or finds that there is room again. The
    shortest wait that can be told is no such sign: what is there may be free at once.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, _Refusal] = {}

    def note(self, principal: str, error: APIError) -> None:
        """A request of this one has failed."""
        if (
            error.code == ErrorCode.OVERLOADED
            and (told := _retry_after(error)) > RETRY_AFTER_SECONDS
        ):
            seconds = min(MAX_REFUSAL_SECONDS, told * REFUSAL_SHARE)
            self._held[principal] = _Refusal(error, self._clock() + seconds)

    def note_answer(self, principal: str) -> None:
        """A request of this one was answered."""
        if (held := self._held.get(principal)) is not None:
            held.passes += PASSES_PER_ANSWER

    def refusal(self, principal: str) -> APIError | None:
        """The 429 that this one's next request gets, as the model server said it last; None where
        that may be asked.
        """
        held = self._held.get(principal)
        if held is None or self._clock() >= held.until or held.passes >= 1:
            return None
        return overloaded(held.error.message, "queue", _retry_after(held.error))

    def check(self, principal: str) -> None:
        """Let one request pass, or not.

        Raises:
            APIError: 429, as :meth:`refusal`.
        """
        if (error := self.refusal(principal)) is not None:
            raise error
        if (held := self._held.get(principal)) is not None:
            held.passes -= 1


def _retry_after(error: APIError) -> int:
    return int(error.headers["retry-after"])
