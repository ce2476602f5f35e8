"""Operations between the matrix products of a step on a GPU, in OpenAI's Triton language.

(That is a compiler for GPU kernels, unrelated to NVIDIA's inference server.)

Attention reads keys and values in place, block by block: otherwise a decode step would spend more
time on copying them than on reading the weights. Each of the other kernels replaces five to ten
launches, each of which would read and write all activations. Arithmetic is float32.

With ``TRITON_INTERPRET=1`` in the environment everything runs on a CPU, slowly, for tests.
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from glm_engine.attention_work import TILE
from glm_engine.caches import usable_cache_folder

if TYPE_CHECKING:
    from glm_engine.operations import DeviceWork

if _FOLDER := usable_cache_folder("triton"):
    os.environ.setdefault("TRITON_CACHE_DIR", str(_FOLDER))
# By the bytes of a number: rows of queries of a tile (several tokens, and the heads that share a
# KV head), and keys that are loaded at a time. More would exceed the registers, or the 99 KiB of
# shared memory of compute capabilities 8.6, 8.9 and 12.0.
_QUERY_ROWS = {2: 128, 4: 32}
_KEYS = {2: TILE, 4: TILE // 2}
# Minimum number of rows of a matrix product.
_LEAST_ROWS = 16
# Partial results that are merged at a time.
_SLOTS = 32
_LOG2_E = 1.4426950408889634


@triton.jit
def _norm_kernel(
    x, weight, out, hidden, x_weight, eps, size,
    ADD: tl.constexpr, NORM_FIRST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * size
    column = tl.arange(0, BLOCK)
    inside = column < size
    value = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    if NORM_FIRST:
        scale = tl.rsqrt(tl.sum(value * value) / size + eps)
        value = value * scale * tl.load(x_weight + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(hidden + row + column, mask=inside, other=0.0).to(tl.float32)
        rounded = value.to(hidden.dtype.element_ty)
        tl.store(hidden + row + column, rounded, mask=inside)
        value = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value) / size + eps)
    value = value * scale * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + column, value.to(out.dtype.element_ty), mask=inside)


def norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm of (rows, size)."""
    out = torch.empty_like(x)
    size = x.shape[1]
    _norm_kernel[(len(x),)](
        x, weight, out, x, weight, eps, size,
        ADD=False, NORM_FIRST=False, **_whole_row(size),
    )  # fmt: skip
    return out


def add_norm(
    hidden: torch.Tensor,
    x: torch.Tensor,
    x_weight: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """``hidden += x``, or its norm where ``x_weight`` is given; the norm of that. (rows, size)"""
    out = torch.empty_like(x)
    size = x.shape[1]
    _norm_kernel[(len(x),)](
        x, weight, out, hidden, weight if x_weight is None else x_weight, eps, size,
        ADD=True, NORM_FIRST=x_weight is not None, **_whole_row(size),
    )  # fmt: skip
    return out


def _whole_row(size: int) -> dict[str, int]:
    block = triton.next_power_of_2(size)
    return {"BLOCK": block, "num_warps": max(1, min(16, block // 512))}


@triton.jit
def _gate_kernel(gate_up, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < size
    gate = tl.load(gate_up + row * 2 * size + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * size + size + column, mask=inside, other=0.0).to(tl.float32)
    value = gate * tl.sigmoid(gate) * up
    tl.store(out + row * size + column, value.to(out.dtype.element_ty), mask=inside)


def gate(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up``; (rows, 2 * size) -> (rows, size)."""
    rows, size = len(gate_up), gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, size)
    _gate_kernel[(rows, triton.cdiv(size, 1024))](gate_up, out, size, BLOCK=1024)
    return out


@triton.jit
def _rotate_kernel(
    x, cos_sin, cache, slot_mapping, heads, kv_heads,
    HEAD_DIM: tl.constexpr, HALF: tl.constexpr, PAIRS: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    all_heads = tl.num_programs(1)
    pair = tl.arange(0, HALF)
    inside = pair < HEAD_DIM // 2
    at = x + (token * all_heads + head) * HEAD_DIM + 2 * pair
    even = tl.load(at, mask=inside, other=0.0)
    odd = tl.load(at + 1, mask=inside, other=0.0)
    if head < heads + kv_heads:
        rotated = pair < PAIRS
        cosine = tl.load(cos_sin + token * 2 * PAIRS + pair, mask=rotated, other=1.0)
        sine = tl.load(cos_sin + token * 2 * PAIRS + PAIRS + pair, mask=rotated, other=0.0)
        first, second = even.to(tl.float32), odd.to(tl.float32)
        even = (first * cosine - second * sine).to(x.dtype.element_ty)
        odd = (second * cosine + first * sine).to(x.dtype.element_ty)
        tl.store(at, even, mask=inside)
        tl.store(at + 1, odd, mask=inside)
    if STORE and head >= heads:
        # The keys and values of a token are adjacent in the cache, as they are here.
        place = tl.load(slot_mapping + token) * 2 * kv_heads + head - heads
        tl.store(cache + place * HEAD_DIM + 2 * pair, even, mask=inside)
        tl.store(cache + place * HEAD_DIM + 2 * pair + 1, odd, mask=inside)


def rotate(x: torch.Tensor, heads: int, cos_sin: torch.Tensor) -> None:
    """Apply RoPE in place to pairs of adjacent features of the first heads.

    Args:
        x: (tokens, heads or more, head dim).
        cos_sin: (tokens, 2, pairs) float32 cosines and sines; other features are unchanged.
    """
    tokens, all_heads, head_dim = x.shape
    _rotate_kernel[(tokens, all_heads)](
        x, cos_sin, x, x, heads, 0,
        HEAD_DIM=head_dim, HALF=triton.next_power_of_2(head_dim // 2), PAIRS=cos_sin.shape[2],
        STORE=False, num_warps=1,
    )  # fmt: skip


def rotate_and_store(
    qkv: torch.Tensor, cos_sin: torch.Tensor, cache: torch.Tensor, slot_mapping: torch.Tensor
) -> None:
    """Apply RoPE in place to queries and keys, and store keys and values in the cache.

    Args:
        qkv: (tokens, heads + 2 * KV heads, head dim); modified.
        cos_sin: (tokens, 2, pairs) float32.
        cache: (blocks, block size, 2, KV heads, head dim) of one layer; modified.
        slot_mapping: (tokens,) int64 index of each token in the cache.
    """
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = cache.shape[3]
    _rotate_kernel[(tokens, all_heads)](
        qkv, cos_sin, cache, slot_mapping, all_heads - 2 * kv_heads, kv_heads,
        HEAD_DIM=head_dim, HALF=triton.next_power_of_2(head_dim // 2), PAIRS=cos_sin.shape[2],
        STORE=True, num_warps=1,
    )  # fmt: skip


# The width of a table and alignments differ from step to step: to specialise on them would compile
# again in the middle of the traffic.
@triton.jit(do_not_specialize=["table_width"])
def _attend_kernel(
    qkv, cache, block_tables, num_computed, query_start_loc, items, header, out, partial, stats,
    table_width, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SHARED: tl.constexpr, HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr, BLOCK_SIZE: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Items of ``attention_work``, for the query heads of one KV head.

    Online softmax, as in FlashAttention-2 (Dao, 2023); split keys, as in Flash-Decoding. ``scale``
    includes log2(e), so that exp2 can be used.
    """
    kv_head = tl.program_id(1)
    num_items = tl.load(header)
    part_size = tl.load(header + 1)
    row = tl.arange(0, ROWS)
    head = kv_head * SHARED + row % SHARED
    dim = tl.arange(0, DIMS)
    in_head = dim < HEAD_DIM
    for item in range(tl.program_id(0), num_items, tl.num_programs(0)):
        request = tl.load(items + 4 * item)
        first_token = tl.load(items + 4 * item + 1)  # of the tile, in the request's part
        lowest = tl.load(items + 4 * item + 2)
        slot = tl.load(items + 4 * item + 3).to(tl.int64)
        begin = tl.load(query_start_loc + request)
        count = tl.load(query_start_loc + request + 1) - begin
        start = tl.load(num_computed + request)

        token = first_token + row // SHARED
        used = (row < TOKENS * SHARED) & (token < count)
        query_at = ((begin + token).to(tl.int64) * (HEADS + 2 * KV_HEADS) + head) * HEAD_DIM
        query = tl.load(
            qkv + query_at[:, None] + dim[None, :], mask=used[:, None] & in_head[None, :], other=0.0
        )
        position = start + token
        context = start + tl.minimum(first_token + TOKENS, count)
        highest = tl.minimum(lowest + part_size, context)

        most = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        sums = tl.zeros([ROWS, DIMS], tl.float32)
        for at in range(lowest, highest, TILE):
            key_token = at + tl.arange(0, TILE)
            known = key_token < highest
            block = tl.load(
                block_tables + request.to(tl.int64) * table_width + key_token // BLOCK_SIZE,
                mask=known,
                other=0,
            )
            cache_slot = block.to(tl.int64) * BLOCK_SIZE + key_token % BLOCK_SIZE
            key_at = (cache_slot * 2 * KV_HEADS + kv_head) * HEAD_DIM
            loaded = known[:, None] & in_head[None, :]
            key = tl.load(cache + key_at[:, None] + dim[None, :], mask=loaded, other=0.0)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
            seen = known[None, :] & (key_token[None, :] <= position[:, None])
            scores = tl.where(seen, scores, float("-inf"))
            new_most = tl.maximum(most, tl.max(scores, 1))
            # No visible key yet: use any finite number, as all weights are zero.
            shift = tl.where(new_most == float("-inf"), 0.0, new_most)
            weights = tl.exp2(scores - shift[:, None])
            kept = tl.exp2(most - shift)
            value = tl.load(
                cache + key_at[:, None] + KV_HEADS * HEAD_DIM + dim[None, :],
                mask=loaded,
                other=0.0,
            )
            sums = sums * kept[:, None]
            sums += tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            total = total * kept + tl.sum(weights, 1)
            most = new_most

        if slot < 0:  # all keys of the tile
            out_row = (begin + token).to(tl.int64) * HEADS + head
            result = sums / total[:, None]
            tl.store(
                out + out_row[:, None] * HEAD_DIM + dim[None, :],
                result.to(out.dtype.element_ty),
                mask=used[:, None] & in_head[None, :],
            )
        else:
            partial_row = (slot * KV_HEADS + kv_head) * ROWS + row
            tl.store(
                partial + partial_row[:, None] * HEAD_DIM + dim[None, :],
                sums,
                mask=used[:, None] & in_head[None, :],
            )
            tl.store(stats + partial_row * 2, most, mask=used)
            tl.store(stats + partial_row * 2 + 1, total, mask=used)


@triton.jit
def _merge_kernel(
    partial, stats, query_start_loc, merges, out,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SHARED: tl.constexpr, HEAD_DIM: tl.constexpr,
    DIMS: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
):  # fmt: skip
    """Merge the partial results of one query head of a token."""
    merge = merges + 4 * tl.program_id(0)
    row = tl.program_id(1)
    kv_head = tl.program_id(2)
    request = tl.load(merge)
    token = tl.load(merge + 1) + row // SHARED
    first_slot = tl.load(merge + 2).to(tl.int64)
    num_slots = tl.load(merge + 3)
    begin = tl.load(query_start_loc + request)
    count = tl.load(query_start_loc + request + 1) - begin
    if (num_slots > 0) & (token < count):  # a graph has a merge for each request, used or not
        dim = tl.arange(0, DIMS)
        in_head = dim < HEAD_DIM
        most = tl.full([], float("-inf"), tl.float32)
        total = tl.full([], 0.0, tl.float32)
        sums = tl.zeros([DIMS], tl.float32)
        for at in range(0, num_slots, SLOTS):
            slot = at + tl.arange(0, SLOTS)
            there = slot < num_slots
            partial_row = ((first_slot + slot) * KV_HEADS + kv_head) * ROWS + row
            own_most = tl.load(stats + partial_row * 2, mask=there, other=float("-inf"))
            own_total = tl.load(stats + partial_row * 2 + 1, mask=there, other=0.0)
            new_most = tl.maximum(most, tl.max(own_most, 0))
            share = tl.exp2(own_most - new_most)
            kept = tl.exp2(most - new_most)
            own_sums = tl.load(
                partial + partial_row[:, None] * HEAD_DIM + dim[None, :],
                mask=there[:, None] & in_head[None, :],
                other=0.0,
            )
            sums = sums * kept + tl.sum(own_sums * share[:, None], 0)
            total = total * kept + tl.sum(own_total * share, 0)
            most = new_most
        out_row = (begin + token).to(tl.int64) * HEADS + kv_head * SHARED + row % SHARED
        tl.store(
            out + out_row * HEAD_DIM + dim, (sums / total).to(out.dtype.element_ty), mask=in_head
        )


def on_compilation(note: Callable[[str], None]) -> None:
    """Call ``note`` with the name and the types of each kernel that is compiled from now on."""

    def compiled(*, repr: str, **details: object) -> None:
        note(repr)

    triton.knobs.runtime.jit_post_compile_hook = compiled


def tokens_per_tile(heads: int, kv_heads: int, dtype: torch.dtype) -> int:
    """Number of tokens of a request per tile, if it has several."""
    return max(1, _QUERY_ROWS[dtype.itemsize] // (heads // kv_heads))


def attend(
    qkv: torch.Tensor,
    cache: torch.Tensor,
    block_tables: torch.Tensor,
    num_computed: torch.Tensor,
    query_start_loc: torch.Tensor,
    work: "DeviceWork",
    workspace: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Causal attention over the paged KV cache, which already contains the new keys and values.

    Args:
        qkv: (tokens, heads + 2 * KV heads, head dim), after RoPE.
        cache: (blocks, block size, 2, KV heads, head dim) of one layer.
        block_tables: (requests, blocks of the longest) int32 block ids.
        num_computed: (requests,) int32 number of tokens of each that were cached before.
        query_start_loc: (requests + 1,) int32 cumulative numbers of tokens.
        workspace: float32, of at least ``workspace_size``.
        out: (tokens, heads * head dim), the result; rows without an item are not written.
    """
    all_heads, head_dim = qkv.shape[1:]
    block_size, kv_heads = cache.shape[1], cache.shape[3]
    heads = all_heads - 2 * kv_heads
    shared = heads // kv_heads
    rows = _rows(work, shared)
    partial_rows = work.num_slots * kv_heads * rows
    partial, stats = workspace, workspace[partial_rows * head_dim :]
    shape = {
        "HEADS": heads, "KV_HEADS": kv_heads, "SHARED": shared, "HEAD_DIM": head_dim,
        "DIMS": max(16, triton.next_power_of_2(head_dim)), "ROWS": rows,
    }  # fmt: skip
    _attend_kernel[(work.programs, kv_heads)](
        qkv, cache, block_tables, num_computed, query_start_loc, work.items, work.header, out,
        partial, stats, block_tables.stride(0), _LOG2_E * head_dim**-0.5,
        BLOCK_SIZE=block_size, TOKENS=work.per_tile,
        TILE=_KEYS[qkv.dtype.itemsize],
        num_warps=8 if rows > 64 else 4, num_stages=2, **shape,
    )  # fmt: skip
    if work.num_slots:
        _merge_kernel[(len(work.merges), work.per_tile * shared, kv_heads)](
            partial, stats, query_start_loc, work.merges, out, SLOTS=_SLOTS, num_warps=4, **shape,
        )  # fmt: skip


def workspace_size(work: "DeviceWork", heads: int, kv_heads: int, head_dim: int) -> int:
    """Number of float32 that ``attend`` needs for partial results."""
    return work.num_slots * kv_heads * _rows(work, heads // kv_heads) * (head_dim + 2)


def _rows(work: "DeviceWork", shared: int) -> int:
    rows: int = triton.next_power_of_2(work.per_tile * shared)
    return max(_LEAST_ROWS, rows)
