"""Admission: so many requests at once, and no waiting room."""

from types import TracebackType
from typing import Self

from glm_frontend.errors import overloaded


class Permit:
    """The right to have one request under way; leaving the ``with`` block gives it back."""

    def __init__(self, limiter: "InflightLimiter") -> None:
        self._limiter = limiter

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._limiter.inflight -= 1


class InflightLimiter:
    """Gives out at most ``max_inflight`` permits at a time. For one event loop."""

    def __init__(self, max_inflight: int) -> None:
        self._max_inflight = max_inflight
        self.inflight = 0

    def acquire(self) -> Permit:
        """A permit, at once.

        Raises:
            APIError: 429, all permits are out.
        """
        if self.inflight >= self._max_inflight:
            raise overloaded(
                f"{self._max_inflight} requests are under way, as many as allowed; try again later."
            )
        self.inflight += 1
        return Permit(self)
