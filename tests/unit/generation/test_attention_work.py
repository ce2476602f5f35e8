"""How the attention of a step is divided: all of it, once, and evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_engine.attention_work import (
    DECODE_PART,
    MOST_DECODE_ITEMS,
    TILE,
    Ints,
    Work,
    decode_work,
    most_decode_items,
    prefill_work,
)

# An H200 has 132 multiprocessors with two programs each, for two KV heads.
PROGRAMS = 132


def keys_per_item(work: Work, contexts: dict[tuple[int, int], int]) -> Ints:
    """``contexts``: number of keys of each tile, by request and first token."""
    lengths = [
        min(work.part_size, contexts[request, token] - first)
        for request, token, first, _ in work.items.tolist()
    ]
    return np.array(lengths, np.int32)


def check(work: Work, contexts: dict[tuple[int, int], int]) -> Ints:
    """Each key of each tile is in one item, and the slots of a tile are merged."""
    lengths = keys_per_item(work, contexts)
    assert (lengths > 0).all() and (np.diff(lengths) <= 0).all()
    covered = dict.fromkeys(contexts, 0)
    slots: dict[tuple[int, int], list[tuple[int, int]]] = {tile: [] for tile in contexts}
    for (request, token, first, slot), length in zip(work.items.tolist(), lengths, strict=True):
        assert first % work.part_size == 0
        covered[request, token] += int(length)
        slots[request, token].append((first, slot))
    assert covered == contexts
    merges = {(r, t): range(first, first + count) for r, t, first, count in work.merges.tolist()}
    used: list[int] = []
    for tile, own in slots.items():
        numbers = [slot for _, slot in sorted(own)]
        if len(own) == 1:
            assert numbers == [-1] and tile not in merges
        else:
            assert numbers == list(merges[tile])
            used += numbers
    assert sorted(used) == list(range(work.num_slots))
    return lengths


def decode(contexts: list[int]) -> tuple[Work, Ints]:
    work = decode_work(np.array(contexts, np.int32))
    return work, check(work, {(index, 0): keys for index, keys in enumerate(contexts)})


def share_of_busiest(lengths: Ints, programs: int) -> float:
    """Keys of the program that has the most, relative to the mean."""
    loads = np.zeros(programs)
    np.add.at(loads, np.arange(len(lengths)) % programs, lengths)
    return float(loads.max() / loads.mean())


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=40))
def test_decode_items_cover_all_keys_once(contexts: list[int]) -> None:
    decode(contexts)


@pytest.mark.parametrize(
    "contexts",
    [
        [1000] * 63 + [131072],
        [1025] * 63 + [128_001],
        [131072],
        [1024] * 64,
        [100_000, 50_000, 25_000, *range(1000, 5000, 67)],
        [int(x) for x in np.random.default_rng(0).lognormal(7.5, 1.5, 256).clip(1, 131072)],
    ],
    ids=["63 x 1k + 128k", "uneven", "one 128k", "64 x 1k", "three long", "log-normal"],
)
def test_no_decode_program_has_more_than_a_fifth_above_the_mean(contexts: list[int]) -> None:
    _, lengths = decode(contexts)
    busiest = share_of_busiest(lengths, PROGRAMS)
    if len(lengths) < 5 * PROGRAMS:  # few items for each: one more or less is what can be had
        assert lengths.max() <= DECODE_PART
        assert busiest <= -(-len(lengths) // PROGRAMS) * DECODE_PART / lengths.sum() * PROGRAMS
    else:
        assert busiest <= 1.2


def test_the_parts_of_a_request_do_not_depend_on_the_others() -> None:
    alone, _ = decode([5000])
    together, _ = decode([9, 5000, 70_000])
    own = together.items[together.items[:, 0] == 1]
    assert sorted(own[:, 2]) == sorted(alone.items[:, 2])
    assert alone.part_size == together.part_size == DECODE_PART


def test_the_number_of_partial_results_is_bounded() -> None:
    work, _ = decode([131072] * 64)
    assert work.part_size > DECODE_PART
    assert work.num_slots <= len(work.items) <= MOST_DECODE_ITEMS
    many = [300] * 5000
    work, _ = decode(many)
    assert len(work.items) <= most_decode_items(len(many))


REQUESTS = st.lists(st.tuples(st.integers(0, 20_000), st.integers(2, 700)), min_size=1, max_size=12)


def prefill(requests: list[tuple[int, int]], single: int = 0) -> tuple[Work, Ints]:
    """``requests``: tokens before, and in the step."""
    requests = [(7, 1)] * single + requests
    starts = np.cumsum([0] + [count for _, count in requests]).astype(np.int32)
    before = np.array([start for start, _ in requests], np.int32)
    work = prefill_work(before, starts, single, 8, PROGRAMS)
    contexts = {
        (index, token): start + min(token + 8, count)
        for index, (start, count) in enumerate(requests)
        if index >= single
        for token in range(0, count, 8)
    }
    return work, check(work, contexts)


@given(REQUESTS, st.integers(0, 3))
def test_prefill_items_cover_all_keys_once(requests: list[tuple[int, int]], single: int) -> None:
    work, lengths = prefill(requests, single)
    assert work.part_size % TILE == 0
    assert work.num_slots <= 2 * PROGRAMS + len(work.merges)
    assert lengths.max() <= work.part_size


def test_a_few_tokens_after_a_long_context_occupy_the_whole_gpu() -> None:
    work, lengths = prefill([(128_000, 20)])
    assert len(work.items) >= 0.9 * PROGRAMS
    assert share_of_busiest(lengths, PROGRAMS) <= 1.2 * max(1, len(lengths) / PROGRAMS)


def test_a_long_chunk_is_not_divided() -> None:
    work, _ = prefill([(0, 4096)])
    assert work.num_slots == 0 and len(work.items) == 512
