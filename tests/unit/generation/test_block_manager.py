"""Block accounting, as hypothesis tries to break it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from glm_engine.block_manager import BlockManager, BlockTable, block_hash

SIZE = 4


def _hashes(tokens: list[int]) -> list[bytes]:
    hashes: list[bytes] = []
    for start in range(0, len(tokens) - SIZE + 1, SIZE):
        block = np.array(tokens[start : start + SIZE], np.int32)
        hashes.append(block_hash(hashes[-1] if hashes else b"", block, []))
    return hashes


class BlockMachine(RuleBasedStateMachine):
    """Requests begin, grow, are sealed and end, over a pool that is too small for them.

    ``content`` is what the blocks hold: each request writes its tokens where its table says, and
    whatever it reuses has to hold exactly its own tokens, and still does as long as it lives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager(9, SIZE)
        self.content: dict[int, list[int]] = {}
        self.live: list[tuple[BlockTable, list[int]]] = []

    @rule(start=st.integers(0, 1), length=st.integers(1, 14), odd=st.integers(0, 12))
    def begin(self, start: int, length: int, odd: int) -> None:
        """A request of few possible beginnings, so that prefixes are often the same."""
        tokens = [start * 100 + (50 if index >= odd else 0) + index for index in range(length)]
        table, hashes = BlockTable(), _hashes(tokens)
        found, free = self.blocks.count_cached(hashes)
        assert 0 <= free <= found
        self.blocks.reuse(table, hashes[:found])
        for index, block in enumerate(table.block_ids):
            assert self.content[block] == tokens[index * SIZE : (index + 1) * SIZE]
        before = (self.blocks.num_free, list(table.block_ids))
        if not self.blocks.grow(table, len(tokens)):
            assert (self.blocks.num_free, table.block_ids) == before
            self.blocks.release(table)
            return
        self.live.append((table, tokens))
        self._write(table, tokens, found * SIZE)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), count=st.integers(1, 6))
    def extend(self, data: Any, count: int) -> None:
        table, tokens = data.draw(st.sampled_from(self.live))
        if self.blocks.grow(table, len(tokens) + count):
            tokens.extend(range(900, 900 + count))
            self._write(table, tokens, len(tokens) - count)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def end(self, data: Any) -> None:
        entry = data.draw(st.sampled_from(self.live))
        self.live.remove(entry)
        self.blocks.release(entry[0])
        assert not entry[0].block_ids

    def _write(self, table: BlockTable, tokens: list[int], computed: int) -> None:
        for index in range(computed // SIZE, self.blocks.num_blocks_for(len(tokens))):
            self.content[table.block_ids[index]] = tokens[index * SIZE : (index + 1) * SIZE]
        self.blocks.seal(table, _hashes(tokens))

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        self.blocks.check_integrity(table for table, _ in self.live)

    @invariant()
    def nobody_overwrote_what_a_live_request_holds(self) -> None:
        for table, tokens in self.live:
            for index in range(self.blocks.num_blocks_for(len(tokens))):
                own = tokens[index * SIZE : (index + 1) * SIZE]
                assert self.content[table.block_ids[index]] == own

    def teardown(self) -> None:
        for table, _ in self.live:
            self.blocks.release(table)
        self.blocks.check_integrity([])
        assert self.blocks.num_free == self.blocks.num_blocks


TestBlockMachine = pytest.mark.slow(BlockMachine.TestCase)
TestBlockMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_the_least_recently_used_prefix_is_given_away_first_and_its_end_before_its_beginning() -> (
    None
):
    blocks = BlockManager(6, SIZE)
    first, second = list(range(8)), list(range(100, 108))
    for tokens in (first, second):
        table = BlockTable()
        blocks.grow(table, len(tokens))
        blocks.seal(table, _hashes(tokens))
        blocks.release(table)
    other = BlockTable()
    blocks.grow(other, 3 * SIZE)  # two blocks are unused; one has to go
    assert blocks.count_cached(_hashes(first))[0] == 1
    assert blocks.count_cached(_hashes(second))[0] == 2
    blocks.grow(other, 4 * SIZE)
    assert blocks.count_cached(_hashes(first))[0] == 0


def test_without_prefix_caching_nothing_is_found() -> None:
    blocks = BlockManager(4, SIZE, prefix_caching=False)
    table, tokens = BlockTable(), list(range(8))
    blocks.grow(table, 8)
    blocks.seal(table, _hashes(tokens))
    assert blocks.count_cached(_hashes(tokens)) == (0, 0) and blocks.num_cached == 0


def test_the_hash_depends_on_tokens_parent_and_images() -> None:
    tokens = np.arange(SIZE, dtype=np.int32)
    base = block_hash(b"", tokens, [])
    others = [
        block_hash(base, tokens, []),
        block_hash(b"", tokens + 1, []),
        block_hash(b"", tokens, [b"a" * 16]),
        block_hash(b"", tokens, [b"b" * 16]),
    ]
    assert len({base, *others}) == 5
    assert base == block_hash(b"", tokens.copy(), [])


def test_check_integrity_detects_wrong_reference_counts() -> None:
    blocks, table = BlockManager(4, SIZE), BlockTable()
    blocks.grow(table, 8)
    with pytest.raises(AssertionError, match="reference counts"):
        blocks.check_integrity([])
    table.block_ids.append(table.block_ids[0])
    with pytest.raises(AssertionError, match="twice"):
        blocks.check_integrity([table])
