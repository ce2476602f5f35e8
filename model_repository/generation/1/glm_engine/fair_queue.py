"""A queue whose tenants are served in turn. Free of torch and Triton."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within a tenant; between tenants each is served once in a round.

    So one tenant's hundred requests do not come before another's first. Any thread may call.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._items: OrderedDict[str, deque[T]] = OrderedDict()  # the next tenant is the first
        self._closed = False

    def __len__(self) -> int:
        """Items that wait."""
        with self._changed:
            return sum(len(items) for items in self._items.values())

    def put(self, tenant: str, item: T) -> None:
        """Add an item."""
        with self._changed:
            self._items.setdefault(tenant, deque()).append(item)
            self._changed.notify()

    def get(self) -> T | None:
        """The next item, once there is one; None when the queue is closed and empty."""
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
        """Take no more; what is there is still given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
