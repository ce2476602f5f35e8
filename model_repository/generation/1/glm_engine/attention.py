"""Attention over the paged KV cache with PyTorch operations, for one flat batch of tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from glm_engine.batch import Batch

# Decoding requests are processed in groups, padded to the longest of the group, but at most to this
# multiple of their own length.
_MAX_PADDING = 2


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of the batch that are processed in one attention call.

    Attributes:
        rows: of the batch; for requests with a single row (requests,) int64.
        blocks: (requests * blocks each,) int64 blocks of their keys and values.
        num_requests: several with a single row each, or one with several rows.
        length: tokens to attend to, including padding.
        mask: broadcastable to (requests, 1, rows each, length); None for no mask.
    """

    rows: slice | torch.Tensor
    blocks: torch.Tensor
    num_requests: int
    length: int
    mask: torch.Tensor | None


class PagedAttention:
    """The attention metadata of one step; created once, and used in every layer."""

    def __init__(
        self, batch: Batch, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._block_size, self._dtype, self._device = block_size, dtype, device
        self._slot_mapping = torch.from_numpy(batch.slot_mapping).to(device)
        self._fresh: list[slice] = []
        self._groups: list[_Rows] = []
        self._group_single(batch)
        for index in range(batch.num_single, len(batch.parts)):
            rows = slice(int(batch.query_start_loc[index]), int(batch.query_start_loc[index + 1]))
            start = int(batch.num_computed[index])
            if start == 0:
                self._fresh.append(rows)
            else:
                self._groups.append(self._chunk(rows, start, batch.block_tables[index]))

    def _group_single(self, batch: Batch) -> None:
        ends = batch.num_computed[: batch.num_single] + 1
        order = np.argsort(-ends, kind="stable")
        ends = ends[order]
        first = 0
        while first < len(ends):
            longest = int(ends[first])
            last = first + int(np.searchsorted(-ends[first:] * _MAX_PADDING, -longest, "right"))
            some = order[first:last]
            num_blocks = -(-longest // self._block_size)
            blocks = batch.block_tables[some, :num_blocks].astype(np.int64)
            mask = None
            hidden = np.arange(longest) >= ends[first:last, None]
            if hidden.any():
                mask = self._additive(hidden)[:, None, None]
            self._groups.append(
                _Rows(
                    torch.from_numpy(some).to(self._device),
                    torch.from_numpy(blocks.ravel()).to(self._device),
                    last - first,
                    longest,
                    mask,
                )
            )
            first = last

    def _chunk(self, rows: slice, start: int, table: npt.NDArray[np.int32]) -> _Rows:
        end = start + rows.stop - rows.start
        blocks = table[: -(-end // self._block_size)].astype(np.int64)
        hidden = np.arange(end) > np.arange(start, end)[:, None]
        return _Rows(
            rows, torch.from_numpy(blocks).to(self._device), 1, end, self._additive(hidden)
        )

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
        kv_heads = cache.shape[3]
        heads = qkv.shape[1] - 2 * kv_heads
        new = qkv[:, heads:].reshape(len(qkv), -1)
        cache.view(-1, new.shape[1]).index_copy_(0, self._slot_mapping, new)
        out = qkv.new_empty(len(qkv), heads, qkv.shape[2])
        for group in self._groups:
            out[group.rows] = self._attend(qkv[group.rows, :heads], cache, group)
        for rows in self._fresh:
            query, key, value = qkv[rows].transpose(0, 1).split([heads, kv_heads, kv_heads])
            out[rows] = _grouped(query, key, value, None, is_causal=True).transpose(0, 1)
        return out.view(len(qkv), -1)

    def _attend(self, query: torch.Tensor, cache: torch.Tensor, group: _Rows) -> torch.Tensor:
        heads, kv_heads, head_dim = query.shape[1], cache.shape[3], query.shape[2]
        known = cache.view(len(cache), -1).index_select(0, group.blocks)
        known = known.view(group.num_requests, -1, 2, kv_heads, head_dim)[:, : group.length]
        keys, values = known[:, :, 0].transpose(1, 2), known[:, :, 1].transpose(1, 2)
        if len(query) == group.num_requests:
            # Treat the query heads that share a KV head as a sequence of queries.
            query = query.reshape(group.num_requests, kv_heads, heads // kv_heads, head_dim)
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
    """Attention of one request; (heads, tokens, head dim) each, with fewer KV heads."""
    shared = len(query) // len(key)
    key, value = (
        tensor[:, None].expand(-1, shared, -1, -1) for tensor in (key, value)
    )  # a view, without copies
    out = F.scaled_dot_product_attention(
        query.unflatten(0, (-1, shared)), key, value, mask, is_causal=is_causal
    )
    return out.flatten(0, 1)
