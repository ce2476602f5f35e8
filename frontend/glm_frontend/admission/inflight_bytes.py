"""Bytes of the requests under way, which are memory."""

from collections import Counter

from glm_frontend.admission.fairness import exceeds_share
from glm_frontend.errors import overloaded


class InflightBytes:
    """Bounds the bytes of all requests under way: their bodies, and what was fetched for them.

    A request alone always passes. Where there are several principals each has its share
    (``fairness``).

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
        if self._is_fair and exceeds_share(self._held[principal], left):
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
        """Count ``size`` more bytes; the first call determines whose they are.

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
