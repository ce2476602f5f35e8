"""Admission: so many requests at once, no waiting room; and, if wanted, so many a minute."""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import RETRY_AFTER_SECONDS, APIError, overloaded

# See InflightLimiter.
SHARE = 4
# Of Refusals.
REFUSAL_SHARE = 0.25
MAX_REFUSAL_SECONDS = 1.0
PASSES_PER_ANSWER = 1.5
# Clients times limits whose windows are remembered; then counting begins anew.
MAX_WINDOWS = 100_000


class Permit:
    """The right to have one request under way; leaving the ``with`` block gives it back."""

    def __init__(self, limiter: "InflightLimiter", principal: str) -> None:
        self._limiter = limiter
        self._principal = principal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._limiter.give_back(self._principal)


class InflightLimiter:
    """Gives out at most ``max_inflight`` permits at a time. For one event loop.

    Where there are several principals, each may hold fewer than ``SHARE`` times the permits that
    are left (a dynamic threshold, as switches share their buffers): one alone gets four fifths of
    all, two four ninths each; and the last one is for who has none. So whoever comes finds room,
    however much another sends, and no share has to be set aside for those who do not.

    Args:
        is_fair: whether there are several.
    """

    def __init__(self, max_inflight: int, *, is_fair: bool = False) -> None:
        self._max_inflight = max_inflight
        self._is_fair = is_fair
        self._held: dict[str, int] = {}
        self.inflight = 0

    def check(self, principal: str = "") -> None:
        """Whether there is a permit.

        Raises:
            APIError: 429.
        """
        left = self._max_inflight - self.inflight
        if left <= 0:
            raise overloaded(
                f"As many requests as are allowed ({self._max_inflight}) are under way; "
                "try again later.",
                "requests",
            )
        own = self._held.get(principal, 0)
        if self._is_fair and own and (own >= SHARE * left or left == 1):
            raise overloaded(
                f"{own} requests of this key are under way, its share of the "
                f"{self._max_inflight} that are allowed; try again later.",
                "share",
            )

    def acquire(self, principal: str = "") -> Permit:
        """A permit, at once.

        Raises:
            APIError: 429, as :meth:`check`.
        """
        self.check(principal)
        self.inflight += 1
        self._held[principal] = self._held.get(principal, 0) + 1
        return Permit(self, principal)

    def give_back(self, principal: str) -> None:
        """Take a permit back."""
        self.inflight -= 1
        self._held[principal] -= 1
        if not self._held[principal]:
            del self._held[principal]


class InflightBytes:
    """Bounds the bytes of all requests under way: their bodies, and what was fetched for them.

    A request alone always passes. Where there are several principals each may hold no more than
    ``SHARE`` times the bytes that are left, as with :class:`InflightLimiter`.

    Args:
        is_fair: whether there are several.
    """

    def __init__(self, max_bytes: int, *, is_fair: bool = False) -> None:
        self._max_bytes = max_bytes
        self._is_fair = is_fair
        self._held: Counter[str] = Counter()
        self._total = 0

    def of_request(self) -> "RequestBytes":
        """For one more request, which has none yet."""
        return RequestBytes(self)

    def hold(self, principal: str, size: int, request: int) -> None:
        """Count ``size`` more bytes of a request that then has ``request`` in all.

        Raises:
            APIError: 429; they are counted nevertheless.
        """
        self._held[principal] += size
        self._total += size
        if self._total == request:
            return
        left = self._max_bytes - self._total
        if left < 0:
            raise overloaded(
                "The requests under way are too large together; try again later.", "bytes"
            )
        if self._is_fair and self._held[principal] > SHARE * left:
            raise overloaded(
                "The requests of this key that are under way are too large together; "
                "try again later.",
                "share",
            )

    def give_back(self, principal: str, size: int) -> None:
        """Bytes of a request that has ended."""
        self._held[principal] -= size
        self._total -= size
        if not self._held[principal]:
            del self._held[principal]


class RequestBytes:
    """What one request holds of :class:`InflightBytes`."""

    def __init__(self, all_bytes: InflightBytes) -> None:
        self._all = all_bytes
        self._principal = ""
        self._held = 0

    def hold(self, size: int, principal: str | None = None) -> None:
        """Count so many bytes more; the first call says whose they are.

        Raises:
            APIError: 429.
        """
        if principal is not None and not self._held:
            self._principal = principal
        self._held += size
        self._all.hold(self._principal, size, self._held)

    def give_back(self) -> None:
        """The request has ended."""
        self._all.give_back(self._principal, self._held)
        self._held = 0


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


def parse_rates(text: str) -> tuple[RateLimitItem, ...]:
    """Rate limits such as ``60/minute;1000/hour``; none for an empty text.

    Raises:
        ValueError: it is none.
    """
    if not text.strip():
        return ()
    try:
        rates = tuple(parse_many(text))
    except ValueError:
        rates = ()
    if not rates or any(rate.amount < 1 or rate.get_expiry() < 1 for rate in rates):
        raise ValueError(f"{text!r} is not a rate such as 60/minute;1000/hour")
    return rates


class RateLimiter:
    """Counts requests in moving windows, in memory.

    Args:
        rates: for who has none of its own.
    """

    def __init__(self, rates: Sequence[RateLimitItem]) -> None:
        self._rates = rates
        self._storage = MemoryStorage()
        self._windows = MovingWindowRateLimiter(self._storage)

    def hit(self, who: str, own: Sequence[RateLimitItem] | None = None) -> dict[str, str]:
        """Count a request. Returns OpenAI's headers about the tightest limit; none without one.

        Raises:
            APIError: 429, with the same headers; then nothing is counted.
        """
        rates = self._rates if own is None else own
        if not rates:
            return {}
        if len(self._storage.events) >= MAX_WINDOWS:  # it keeps the name of all that ever came
            self._storage.reset()
        over = [rate for rate in rates if not self._windows.test(rate, who)]
        if not over:
            for rate in rates:
                self._windows.hit(rate, who)
        stats = {rate: self._windows.get_window_stats(rate, who) for rate in over or rates}
        if over:
            tightest = max(over, key=lambda rate: stats[rate].reset_time)
        else:
            tightest = min(rates, key=lambda rate: stats[rate].remaining)
        seconds = max(1, math.ceil(stats[tightest].reset_time - time.time()))
        headers = {
            "x-ratelimit-limit-requests": str(tightest.amount),
            "x-ratelimit-remaining-requests": str(stats[tightest].remaining),
            "x-ratelimit-reset-requests": f"{seconds}s",
        }
        if over:
            raise APIError(
                ErrorCode.RATE_LIMIT_EXCEEDED,
                f"The rate limit of {tightest} is reached; try again later.",
                headers=headers | {"retry-after": str(seconds)},
                refusal="rate_limit",
            )
        return headers
