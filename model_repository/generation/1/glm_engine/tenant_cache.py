"""Divides the caches by tenant: whose content a request may reuse, and whose is evicted first.

What a cache has tells of itself by time and by ``cached_tokens``: with a common one, a tenant
learns which pictures and prompts another has sent (as in CVE-2025-46570).
"""

import json
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, Self, TypeVar

_KEY_BYTES = 16
# Tenants whose newest entries are protected; their floors together are at most half of a cache.
_MAX_PROTECTED = 0.5

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class CacheScope:
    """The part of the caches that a request shares with others of the same scope.

    Attributes:
        owner: the tenant; empty where all share.
        key: begins the hashes of KV blocks and keys those of images. Empty for the common scope.
    """

    owner: str = ""
    key: bytes = b""

    @classmethod
    def of(cls, tenant: str, salt: str, *, divided: bool) -> Self:
        """The scope of a request.

        Args:
            salt: of the client; divides the tenant's part further.
            divided: whether tenants have their own parts.
        """
        owner = tenant if divided else ""
        if not owner and not salt:
            return cls()
        name = json.dumps([owner, salt]).encode()
        return cls(owner, blake2b(name, digest_size=_KEY_BYTES).digest())

    def image_key(self, content_hash: bytes) -> bytes:
        """The key of an image in this scope; of the same length."""
        if not self.key:
            return content_hash
        return blake2b(content_hash, digest_size=len(content_hash), key=self.key).digest()


class TenantLRU(Generic[K]):
    """The order in which entries of a cache are evicted: least recently used first, but the newest
    of each tenant, up to its floor, only for that tenant's own sake.

    Not thread-safe; each operation takes constant time.

    Args:
        capacity: of the cache, in the unit of the entries' sizes.
        floor: share of it that each tenant keeps, from 0. No more tenants are protected than half
            of the cache is enough for: those that used it last.
    """

    def __init__(self, capacity: float, floor: float) -> None:
        self._floor = floor * capacity
        self._max_owners = int(_MAX_PROTECTED / floor) if floor else 0
        self._shared: OrderedDict[K, int] = OrderedDict()
        # Protected entries: of the tenant that has added one least recently first.
        self._kept: OrderedDict[str, OrderedDict[K, int]] = OrderedDict()
        self._kept_size: dict[str, int] = {}
        self._owner_of: dict[K, str] = {}

    def __len__(self) -> int:
        return len(self._owner_of)

    def __contains__(self, key: K) -> bool:
        return key in self._owner_of

    @property
    def kept_owners(self) -> list[str]:
        """The tenants with protected entries."""
        return list(self._kept)

    def add(self, key: K, owner: str, size: int = 1) -> None:
        """Add an entry as the most recently used one, or make it that."""
        if key in self._owner_of:
            self.remove(key)
        self._owner_of[key] = owner
        self._kept.setdefault(owner, OrderedDict())[key] = size
        self._kept.move_to_end(owner)
        self._kept_size[owner] = self._kept_size.get(owner, 0) + size
        while self._kept_size.get(owner, 0) > self._floor:
            self._unprotect_oldest(owner)
        while len(self._kept) > self._max_owners:
            self._unprotect_oldest(next(iter(self._kept)))

    def remove(self, key: K) -> None:
        """Take an entry out, because it is in use or gone."""
        owner = self._owner_of.pop(key)
        if self._shared.pop(key, None) is None:
            self._drop_kept(owner, key)

    def pop(self, owner: str, *, from_all: bool) -> K | None:
        """Take out the entry to evict for the sake of ``owner``.

        Args:
            from_all: whether it may be a protected one of another tenant.

        Returns:
            None if there is none.
        """
        if self._shared:
            key = next(iter(self._shared))
        elif owner in self._kept:
            key = next(iter(self._kept[owner]))
        elif self._kept and from_all:
            key = next(iter(next(iter(self._kept.values()))))
        else:
            return None
        self.remove(key)
        return key

    def num_for(self, owner: str, *, from_all: bool) -> int:
        """Number of entries that ``pop`` would take out one after the other."""
        if from_all:
            return len(self._owner_of)
        return len(self._shared) + len(self._kept.get(owner, ()))

    def _unprotect_oldest(self, owner: str) -> None:
        key = next(iter(self._kept[owner]))
        self._shared[key] = self._drop_kept(owner, key)

    def _drop_kept(self, owner: str, key: K) -> int:
        size = self._kept[owner].pop(key)
        self._kept_size[owner] -= size
        if not self._kept[owner]:
            del self._kept[owner], self._kept_size[owner]
        return size
