"""Divides the attention of a step on a GPU into items of about equal work. Independent of torch.

An item is a tile of tokens of one request and a part of the keys before them. Requests of any
lengths share one list: a context of 100,000 tokens becomes hundreds of items instead of keeping the
step waiting for one program. (Fixed-size parts as in Flash-Decoding; the work list is that of
FlashInfer's scheduler, Ye et al., 2025.) A tile with several items has partial results, which one
more pass merges.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Keys per item of a decoding request, which so do not depend on what else is in the batch; doubled
# until a step has no more items than the second number, which bounds the partial results.
DECODE_PART = 256
MOST_DECODE_ITEMS = 4096
# Least number of keys per item of a tile of several tokens: its partial results are larger.
_LEAST_PART = 1024
# Number of keys that a program of the GPU loads at a time.
TILE = 64

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Work:
    """The items of all tiles of one kind.

    Attributes:
        items: (items, 4) int32, the longest first: the request's index in the batch; the first
            token of the tile in the request's part of the batch; the first key; and the slot of its
            partial result, or -1 if the item has all keys of its tile.
        merges: (tiles with several items, 4) int32: request, first token, first slot, and number of
            slots.
        part_size: keys per item, except for the last one of a tile.
        num_slots: number of partial results.
    """

    items: Ints
    merges: Ints
    part_size: int
    num_slots: int


def decode_work(contexts: Ints) -> Work:
    """The work of requests with one token each, which come first in the batch.

    Args:
        contexts: (requests,) int32 number of keys of each, including its own.
    """
    most = most_decode_items(len(contexts))
    part_size = DECODE_PART
    while int((-(-contexts // part_size)).sum()) > most:
        part_size *= 2
    tokens = np.zeros_like(contexts)
    return _divide(np.arange(len(contexts), dtype=np.int32), tokens, contexts, part_size)


def most_decode_items(requests: int) -> int:
    """Upper bound of the number of items of this number of decoding requests."""
    return max(MOST_DECODE_ITEMS, 2 * requests)


def prefill_work(
    num_computed: Ints, query_start_loc: Ints, num_single: int, per_tile: int, programs: int
) -> Work:
    """The work of requests with several tokens each.

    Where tiles are many, each is one item; a few tokens after a long context are divided.

    Args:
        num_computed: (requests,) int32 number of keys before the batch.
        query_start_loc: (requests + 1,) int32 cumulative numbers of tokens.
        num_single: number of requests with one token, which come first.
        per_tile: tokens of a tile.
        programs: that the GPU runs at a time for one KV head.
    """
    counts = np.diff(query_start_loc)[num_single:]
    tiles = -(-counts // per_tile)
    requests = np.repeat(np.arange(len(counts), dtype=np.int32), tiles)
    tokens = _places(tiles) * per_tile
    contexts = num_computed[num_single:][requests] + np.minimum(tokens + per_tile, counts[requests])
    even = -(-int(contexts.sum()) // programs)
    part_size = max(_LEAST_PART, -(-even // TILE) * TILE)
    return _divide(requests + np.int32(num_single), tokens, contexts, part_size)


def _divide(requests: Ints, tokens: Ints, contexts: Ints, part_size: int) -> Work:
    """Divide tiles, given by their requests, first tokens and numbers of keys."""
    counts = -(-contexts // part_size)
    slots = np.where(counts > 1, counts, 0)
    first_slots = np.cumsum(slots) - slots
    tile = np.repeat(np.arange(len(counts)), counts)
    place = _places(counts)
    first_keys = place * part_size
    slot = np.where(counts[tile] > 1, first_slots[tile] + place, -1)
    items = np.stack([requests[tile], tokens[tile], first_keys, slot], 1).astype(np.int32)
    lengths = np.minimum(contexts[tile] - first_keys, part_size)
    several = np.flatnonzero(counts > 1)
    merges = np.stack([requests, tokens, first_slots, counts], 1).astype(np.int32)[several]
    return Work(items[np.argsort(-lengths, kind="stable")], merges, part_size, int(slots.sum()))


def _places(counts: Ints) -> Ints:
    """0, 1, 2... for each of these counts, concatenated."""
    total = int(counts.sum())
    before = np.repeat(np.cumsum(counts) - counts, counts)
    return (np.arange(total) - before).astype(np.int32)
