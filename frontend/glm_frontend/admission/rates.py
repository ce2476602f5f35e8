"""Rate limits: requests per interval, in moving windows."""

import math
import time
from collections.abc import Sequence

from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError

# Clients times limits whose windows are remembered; then counting begins anew.
MAX_WINDOWS = 100_000


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
