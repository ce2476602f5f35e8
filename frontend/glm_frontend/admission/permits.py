"""Concurrent requests: a bounded number of permits, and nobody waits for one."""

from types import TracebackType
from typing import Self

from glm_frontend.admission.fairness import exceeds_share
from glm_frontend.errors import overloaded


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

    Where there are several principals, each has its share (``fairness``), and the last permit is
    for one that has none.

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
        if self._is_fair and own and (exceeds_share(own + 1, left) or left == 1):
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
