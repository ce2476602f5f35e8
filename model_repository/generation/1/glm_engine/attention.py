"""Attention over the paged KV cache, for one flat batch of tokens of many requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from glm_engine.scheduler import Scheduled

# Requests that decode are attended to together, padded to the longest of their group; no request is
# padded to more than this many times its own length.
_MAX_PADDING = 2


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of the batch that are attended to in one call.

    Attributes:
        rows: of the batch.
        blocks: (requests * blocks each,) int64 where their keys and values are.
        num_requests: all with a single row, or one with several.
        length: tokens to attend to, padding included.
        mask: broadcastable to (requests, 1, rows each, length), or None where all see all.
    """

    rows: slice
    blocks: torch.Tensor
    num_requests: int
    length: int
    mask: torch.Tensor | None


class PagedAttention:
    """What attention needs to know about one step; made once, used in every layer.

    The step's requests have to be in the order of ``batch_order``.
    """

    def __init__(
        self,
        step: Sequence[Scheduled],
        block_size: int,
        num_heads: int,
        num_kv_heads: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._num_heads, self._num_kv_heads = num_heads, num_kv_heads
        self._block_size, self._dtype, self._device = block_size, dtype, device
        tables = [np.array(part.request.table.block_ids, np.int64) for part in step]
        slots = [
            _slots(table, part.start, part.end, block_size)
            for part, table in zip(step, tables, strict=True)
        ]
        self._slots = torch.from_numpy(np.concatenate(slots)).to(device)
        self._fresh: list[slice] = []
        self._groups: list[_Rows] = []
        single = sum(part.end - part.start == 1 for part in step)
        self._group_single(step[:single], tables)
        row = single
        for part, table in zip(step[single:], tables[single:], strict=True):
            rows = slice(row, row + part.end - part.start)
            row = rows.stop
            if part.start == 0:
                self._fresh.append(rows)
            else:
                self._groups.append(self._chunk(rows, part, table))

    def _group_single(
        self, step: Sequence[Scheduled], tables: Sequence[npt.NDArray[np.int64]]
    ) -> None:
        first = 0
        while first < len(step):
            longest = step[first].end
            last = first + 1
            while last < len(step) and step[last].end * _MAX_PADDING >= longest:
                last += 1
            ends = np.array([part.end for part in step[first:last]])
            num_blocks = -(-longest // self._block_size)
            blocks = np.zeros((last - first, num_blocks), np.int64)
            for row, (table, end) in enumerate(zip(tables[first:last], ends, strict=True)):
                used = -(-end // self._block_size)
                blocks[row, :used] = table[:used]
            mask = None
            if last - first > 1:
                hidden = np.arange(longest) >= ends[:, None]
                mask = self._additive(hidden)[:, None, None] if hidden.any() else None
            self._groups.append(
                _Rows(
                    slice(first, last),
                    torch.from_numpy(blocks.ravel()).to(self._device),
                    last - first,
                    longest,
                    mask,
                )
            )
            first = last

    def _chunk(self, rows: slice, part: Scheduled, table: npt.NDArray[np.int64]) -> _Rows:
        blocks = torch.from_numpy(table[: -(-part.end // self._block_size)]).to(self._device)
        hidden = np.arange(part.end) > np.arange(part.start, part.end)[:, None]
        return _Rows(rows, blocks, 1, part.end, self._additive(hidden))

    def _additive(self, hidden: npt.NDArray[np.bool_]) -> torch.Tensor:
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        return mask.masked_fill_(torch.from_numpy(hidden).to(self._device), -torch.inf)

    def __call__(self, qkv: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        """Store the new keys and values of one layer, then attend.

        Args:
            qkv: (tokens, heads + 2 * KV heads, head dim), after RoPE.
            cache: (blocks, block size, 2, KV heads, head dim) of this layer; changed.

        Returns:
            (tokens, heads * head dim)
        """
        heads, kv_heads = self._num_heads, self._num_kv_heads
        head_dim = qkv.shape[-1]
        new = qkv[:, heads:].reshape(len(qkv), -1)
        cache.view(-1, new.shape[1]).index_copy_(0, self._slots, new)
        if len(self._groups) == 1 and not self._fresh:
            return self._attend(qkv, cache, self._groups[0]).view(len(qkv), -1)
        out = qkv.new_empty(len(qkv), heads, head_dim)
        for group in self._groups:
            out[group.rows] = self._attend(qkv, cache, group)
        for rows in self._fresh:
            query, key, value = qkv[rows].transpose(0, 1).split([heads, kv_heads, kv_heads])
            out[rows] = _grouped(query, key, value, None, is_causal=True).transpose(0, 1)
        return out.view(len(qkv), -1)

    def _attend(self, qkv: torch.Tensor, cache: torch.Tensor, group: _Rows) -> torch.Tensor:
        heads, kv_heads, head_dim = self._num_heads, self._num_kv_heads, qkv.shape[-1]
        known = cache.view(len(cache), -1).index_select(0, group.blocks)
        known = known.view(group.num_requests, -1, 2, kv_heads, head_dim)[:, : group.length]
        keys, values = known[:, :, 0].transpose(1, 2), known[:, :, 1].transpose(1, 2)
        query = qkv[group.rows, :heads]
        if len(query) == group.num_requests:
            # The query heads that share a KV head stand in for a sequence of queries.
            query = query.view(group.num_requests, kv_heads, heads // kv_heads, head_dim)
            out = F.scaled_dot_product_attention(query, keys, values, group.mask)
            return out.reshape(group.num_requests, heads, head_dim)
        return _grouped(query.transpose(0, 1), keys[0], values[0], group.mask).transpose(0, 1)


def _grouped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    is_causal: bool = False,
) -> torch.Tensor:
    """Attention of one request; (heads, tokens, head dim) each, fewer heads of keys and values."""
    shared = len(query) // len(key)
    key, value = (
        tensor[:, None].expand(-1, shared, -1, -1) for tensor in (key, value)
    )  # a view: nothing is repeated in memory
    out = F.scaled_dot_product_attention(
        query.unflatten(0, (-1, shared)), key, value, mask, is_causal=is_causal
    )
    return out.flatten(0, 1)


def batch_order(step: Sequence[Scheduled]) -> list[Scheduled]:
    """The parts of a step, single tokens first, those of long requests before short ones."""
    single = [part for part in step if part.end - part.start == 1]
    several = [part for part in step if part.end - part.start > 1]
    return [*sorted(single, key=lambda part: part.end, reverse=True), *several]


def _slots(
    table: npt.NDArray[np.int64], start: int, end: int, block_size: int
) -> npt.NDArray[np.int64]:
    """Where the tokens from ``start`` to ``end`` lie in the cache, counted in tokens."""
    tokens = np.arange(start, end)
    slots: npt.NDArray[np.int64] = table[tokens // block_size] * block_size + tokens % block_size
    return slots
