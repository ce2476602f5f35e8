"""Tracks owners and reusable contents of the paged KV cache's blocks. Independent of torch.

A block holds the keys and values of ``block_size`` consecutive tokens of one request, in all
layers. A full block is identified by a hash of its tokens and of everything before them, so a later
request with the same prefix reuses it instead of computing it (prefix caching). Unused blocks keep
their content until they are reallocated, least recently used first (``TenantLRU``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from glm_engine.tenant_cache import TenantLRU

HASH_BYTES = 16


def block_hash(
    parent: bytes, token_ids: npt.NDArray[np.int32], image_hashes: Iterable[bytes]
) -> bytes:
    """The hash of a full block.

    Args:
        parent: hash of the block before it; for the first, the key of the request's cache scope.
        token_ids: (block_size,) int32.
        image_hashes: content hashes of the images that have tokens in this block, in order. Needed
            because all images have the same placeholder tokens; the offset of the block within its
            image follows from ``parent``.
    """
    digest = blake2b(parent, digest_size=HASH_BYTES)
    digest.update(token_ids.tobytes())
    for image_hash in image_hashes:
        digest.update(image_hash)
    return digest.digest()


@dataclass(eq=False, slots=True)
class BlockTable:
    """The blocks of one request, in the order of its tokens.

    Attributes:
        block_ids: may extend beyond the computed tokens.
        num_sealed: number of leading blocks that are registered by hash.
        owner: the tenant whose cache holds the blocks when they are released.
    """

    block_ids: list[int] = field(default_factory=list)
    num_sealed: int = 0
    owner: str = ""


class BlockManager:
    """Allocates blocks by id; holds no tensors. For the engine thread only.

    Args:
        tenant_floor: share of the blocks that each tenant keeps cached; see ``TenantLRU``.

    Attributes:
        prefix_caching: whether blocks are registered by hash.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        prefix_caching: bool = True,
        tenant_floor: float = 0.0,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self._users = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        # Free blocks: those without reusable content, which are allocated first, and the others.
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._reusable: TenantLRU[int] = TenantLRU(num_blocks, tenant_floor)

    @property
    def num_free(self) -> int:
        """Number of free blocks, including those with reusable content."""
        return len(self._empty) + len(self._reusable)

    def num_free_for(self, owner: str, *, from_all: bool = True) -> int:
        """Number of blocks that ``grow`` could allocate for a table of ``owner``."""
        return len(self._empty) + self._reusable.num_for(owner, from_all=from_all)

    @property
    def num_cached(self) -> int:
        """Number of blocks registered by hash, in use or not."""
        return len(self._block_of)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Number of blocks needed for ``num_tokens``."""
        return -(-num_tokens // self.block_size)

    def count_cached(self, hashes: Sequence[bytes]) -> tuple[int, int]:
        """Number of leading hashes that are cached, and how many of their blocks are free."""
        found = free = 0
        for block in map(self._block_of.get, hashes):
            if block is None:
                break
            found += 1
            free += self._users[block] == 0
        return found, free

    def reuse(self, table: BlockTable, hashes: Sequence[bytes]) -> None:
        """Initialise an empty table with blocks found by ``count_cached``."""
        for block in map(self._block_of.__getitem__, hashes):
            if self._users[block] == 0:
                self._reusable.remove(block)
            self._users[block] += 1
            table.block_ids.append(block)
        table.num_sealed = len(table.block_ids)

    def fork(self, table: BlockTable, other: BlockTable, num_tokens: int) -> None:
        """Initialise an empty table with the full blocks of the first tokens of another one.

        They are shared, so neither request may write to them again.
        """
        table.block_ids = other.block_ids[: num_tokens // self.block_size]
        for block in table.block_ids:
            self._users[block] += 1
        table.num_sealed = min(other.num_sealed, len(table.block_ids))

    def grow(self, table: BlockTable, num_tokens: int, *, from_all: bool = True) -> bool:
        """Allocate blocks for ``num_tokens`` in total; False if too few are free.

        Args:
            from_all: whether also those may be taken that other tenants keep.
        """
        missing = self.num_blocks_for(num_tokens) - len(table.block_ids)
        if missing > 0 and missing > self.num_free_for(table.owner, from_all=from_all):
            return False
        for _ in range(missing):
            block = self._empty.pop() if self._empty else None
            if block is None:
                block = self._reusable.pop(table.owner, from_all=from_all)
                assert block is not None
                self._forget(block)
            self._users[block] = 1
            table.block_ids.append(block)
        return True

    def seal(self, table: BlockTable, hashes: Sequence[bytes]) -> None:
        """Register the first ``len(hashes)`` blocks, which must be computed, for reuse.

        A block whose content is already registered under another block stays private.
        """
        if not self.prefix_caching:
            return
        for index in range(table.num_sealed, len(hashes)):
            block = table.block_ids[index]
            if hashes[index] not in self._block_of:
                self._block_of[hashes[index]] = block
                self._hash_of[block] = hashes[index]
        table.num_sealed = max(table.num_sealed, len(hashes))

    def release(self, table: BlockTable) -> None:
        """Free all blocks of a table; the table is empty afterwards."""
        # In reverse, so that the last block of a prefix is reallocated first.
        for block in reversed(table.block_ids):
            self._users[block] -= 1
            if self._users[block]:
                continue
            if self._hash_of[block] is None:
                self._empty.append(block)
            else:
                self._reusable.add(block, table.owner)
        table.block_ids.clear()
        table.num_sealed = 0

    def _forget(self, block: int) -> None:
        known = self._hash_of[block]
        if known is not None:
            del self._block_of[known]
            self._hash_of[block] = None

    def check_integrity(self, tables: Iterable[BlockTable]) -> None:
        """Raise AssertionError unless every block is accounted for exactly once.

        Args:
            tables: of all live requests.
        """
        users = [0] * self.num_blocks
        for table in tables:
            assert len(set(table.block_ids)) == len(table.block_ids), "a table holds a block twice"
            for block in table.block_ids:
                users[block] += 1
        assert users == self._users, "reference counts do not match the tables"
        unused = {block for block, count in enumerate(users) if count == 0}
        empty = set(self._empty)
        assert self.num_free == len(unused), "a free block is missing"
        assert all((block in empty) != (block in self._reusable) for block in unused)
        for known, block in self._block_of.items():
            assert self._hash_of[block] == known, "a hash maps to a block with another hash"
        assert sum(known is not None for known in self._hash_of) == len(self._block_of)
