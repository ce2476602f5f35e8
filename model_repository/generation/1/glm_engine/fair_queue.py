"""A queue that serves tenants in turn. Independent of torch and Triton."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within a tenant; round robin between tenants.

    One tenant's hundred requests do not delay another's first. Thread-safe.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: OrderedDict[str, deque[T]] = OrderedDict()  # in the order of service
        self._closed = False

    def __len__(self) -> int:
        """Number of waiting items."""
        with self._changed:
            return sum(len(items) for items in self._items.values())

    def put(self, tenant: str, item: T) -> None:
        """Add an item."""
        with self._changed:
            self._items.setdefault(tenant, deque()).append(item)
            self._changed.notify()

    def get(self) -> T | None:
        """Wait for the next item; None if the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            if not self._items:
                return None
            tenant, items = self._items.popitem(last=False)
            item = items.popleft()
            if items:
                self._items[tenant] = items  # behind the others
            return item

    def close(self) -> None:
        """Accept no more items; those in the queue can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
