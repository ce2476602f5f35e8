"""Operations between the matrix products of a step on a CPU, compiled by numba.

With a small model PyTorch spends most of a step on call overhead. Here one call replaces five to
ten operations, in one pass over the data and without the GIL. ``decode`` is a whole step of a few
requests in a single call.

Arrays are float32, or uint16 for the bits of bfloat16; arithmetic is float32 in both cases.
Quantised weights are int8, or uint8 for the bits of FP8 (e4m3).
Compiled code is kept for the next start in the folder of ``glm_engine/caches.py``.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba.core.caching import UserProvidedCacheLocator
from numba.extending import overload

from glm_engine.caches import usable_cache_folder

Array = npt.NDArray[Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])

# Sums may be reordered, as in any matrix product; infinities and NaN are preserved.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
_F = np.float32
_LOG2_E, _LN_2_HIGH, _LN_2_LOW = _F(1.44269504), _F(0.693359375), _F(-2.12194440e-4)
# The value of each bit pattern of FP8 (e4m3): sign, 4 bits of exponent and 3 of mantissa.
_E4M3 = np.array(
    [
        sign * (mantissa + 8 * (exponent > 0)) * 2.0 ** (max(exponent, 1) - 10)
        for sign in (1, -1)
        for exponent in range(16)
        for mantissa in range(8)
    ],
    np.float32,
)
_LEAST_EXPONENT, _MOST_EXPONENT = _F(-87), _F(88)


class ByContent(UserProvidedCacheLocator):
    """Keeps compiled code under the hash of its source: each version of the model, and each copy of
    the repository, finds what another one has compiled. Numba itself goes by the path."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        """The folder for a source, in ``numba.config.CACHE_DIR``."""
        return sha256(Path(py_file).read_bytes()).hexdigest()[:16]


# Without a folder nothing is cached.
_numba_config: Any = numba.config
_numba_config.CACHE_DIR = str(usable_cache_folder("numba") or "")
_numba_config.CACHE_LOCATOR_CLASSES = f"{__name__}.{ByContent.__name__}"


def _compiled(function: _Function) -> _Function:
    try:
        kernel: _Function = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no cache folder, or its disk is full
        kernel = numba.njit(**_OPTIONS)(function)
    return kernel


def _load(value: Any) -> Any:
    """An array element as float32."""
    raise NotImplementedError


@overload(_load, inline="always")
def _load_of(value):  # type: ignore[no-untyped-def]  # numba requires identical signatures
    if not isinstance(value, numba.types.Integer):
        return lambda value: value
    if value == numba.types.uint16:
        return lambda value: np.uint32(np.uint32(value) << 16).view(np.float32)
    if value == numba.types.int8:
        return lambda value: np.float32(value)
    return lambda value: _E4M3[value]


def _rounded(value: Any, array: Any) -> Any:
    """A float32 rounded to the type of that array."""
    raise NotImplementedError


@overload(_rounded, inline="always")
def _rounded_for(value, array):  # type: ignore[no-untyped-def]
    if not isinstance(array.dtype, numba.types.Integer):
        return lambda value, array: value

    def to_nearest_even(value, array):  # type: ignore[no-untyped-def]
        bits = np.float32(value).view(np.uint32)
        return np.uint16((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)

    return to_nearest_even


@_compiled
def _exp(x: Any) -> Any:
    """e ** x from 1e-38 to 1e38, with an error of at most 3e-7; unlike libm's it is vectorised.

    The polynomial is that of Cephes' expf.
    """
    x = min(max(x, _LEAST_EXPONENT), _MOST_EXPONENT)
    n = np.floor(x * _LOG2_E + _F(0.5))
    r = x - n * _LN_2_HIGH - n * _LN_2_LOW
    p = _F(1.9875691500e-4)
    p = p * r + _F(1.3981999507e-3)
    p = p * r + _F(8.3334519073e-3)
    p = p * r + _F(4.1665795894e-2)
    p = p * r + _F(1.6666665459e-1)
    p = p * r + _F(5.0000001201e-1)
    return (p * r * r + r + _F(1)) * np.int32((np.int32(n) + 127) << 23).view(np.float32)


@_compiled
def normalize(patches: Array, table: Array, out: Array) -> None:
    """Normalise pixels by table lookup.

    Args:
        patches: (patches, channels * patch pixels) uint8, channels first.
        table: (channels, 256) float32.
        out: like ``patches``, in the model's dtype.
    """
    pixels = patches.shape[1] // len(table)
    for row in range(len(patches)):
        for channel in range(len(table)):
            values = table[channel]
            for i in range(channel * pixels, (channel + 1) * pixels):
                out[row, i] = _rounded(values[patches[row, i]], out)


@_compiled
def norm(x: Array, weight: Array, eps: np.float32, out: Array) -> None:
    """RMSNorm of each row; (rows, size), (size,), (rows, size)."""
    size = x.shape[1]
    for row in range(len(x)):
        total = _F(0)
        for i in range(size):
            value = _load(x[row, i])
            total += value * value
        scale = _F(1) / np.sqrt(total / _F(size) + eps)
        for i in range(size):
            out[row, i] = _rounded(_load(x[row, i]) * scale * _load(weight[i]), out)


@_compiled
def add_norm(
    hidden: Array, x: Array, x_weight: Array | None, weight: Array, eps: np.float32, out: Array
) -> None:
    """``hidden += x``, float32, or its norm where ``x_weight`` is given, and the norm of that."""
    size = x.shape[1]
    for row in range(len(x)):
        x_scale = _F(1)
        if x_weight is not None:
            total = _F(0)
            for i in range(size):
                value = _load(x[row, i])
                total += value * value
            x_scale = _F(1) / np.sqrt(total / _F(size) + eps)
        total = _F(0)
        for i in range(size):
            value = _load(x[row, i])
            if x_weight is not None:
                value = value * x_scale * _load(x_weight[i])
            value += hidden[row, i]
            hidden[row, i] = value
            total += value * value
        scale = _F(1) / np.sqrt(total / _F(size) + eps)
        for i in range(size):
            out[row, i] = _rounded(hidden[row, i] * scale * _load(weight[i]), out)


@_compiled
def gate(gate_up: Array, out: Array) -> None:
    """``silu(gate) * up``; (rows, 2 * size), (rows, size)."""
    size = out.shape[1]
    for row in range(len(out)):
        for i in range(size):
            value = _load(gate_up[row, i])
            product = value / (_F(1) + _exp(-value)) * _load(gate_up[row, size + i])
            out[row, i] = _rounded(product, out)


@_compiled
def gather_cos_sin(positions: Array, axes: Array, table: Array, out: Array) -> None:
    """Look up the cosines and sines of a batch.

    Args:
        positions: (3, tokens) int64.
        axes: (pairs,) int64, which of the three positions rotates a pair of features.
        table: (positions, 2, pairs) float32.
        out: (tokens, 2, pairs) float32.
    """
    for row in range(positions.shape[1]):
        for pair in range(len(axes)):
            at = positions[axes[pair], row]
            out[row, 0, pair] = table[at, 0, pair]
            out[row, 1, pair] = table[at, 1, pair]


@_compiled
def rotate(x: Array, heads: int, cos_sin: Array) -> None:
    """Apply RoPE in place to pairs of adjacent features.

    Args:
        x: (tokens, heads or more, head dim).
        heads: number of heads to rotate.
        cos_sin: (tokens, 2, pairs) float32 cosines and sines; other features are unchanged.
    """
    for row in range(len(x)):
        for head in range(heads):
            for pair in range(cos_sin.shape[2]):
                cosine, sine = cos_sin[row, 0, pair], cos_sin[row, 1, pair]
                even, odd = _load(x[row, head, 2 * pair]), _load(x[row, head, 2 * pair + 1])
                x[row, head, 2 * pair] = _rounded(even * cosine - odd * sine, x)
                x[row, head, 2 * pair + 1] = _rounded(odd * cosine + even * sine, x)


@_compiled
def attend(
    qkv: Array,
    cos_sin: Array,
    cache: Array,
    slot_mapping: Array,
    block_tables: Array,
    num_computed: Array,
    query_start_loc: Array,
    scores: Array,
    query: Array,
    out: Array,
) -> None:
    """Rotate queries and keys, store keys and values in the cache, and attend to all of them.

    Args:
        qkv: (tokens, heads + 2 * KV heads, head dim); modified.
        cos_sin: (tokens, 2, pairs) float32.
        cache: (blocks, block size, 2, KV heads, head dim) of one layer; modified.
        slot_mapping: (tokens,) int64 index of each token in the cache.
        block_tables: (requests, blocks of the longest) int32.
        num_computed: (requests,) int32 number of tokens of each request that were cached before.
        query_start_loc: (requests + 1,) int32 cumulative numbers of tokens.
        scores: (heads per KV head, context) float32 scratch space; likewise query,
            (heads per KV head, head dim).
        out: (tokens, heads * head dim).
    """
    block_size, kv_heads, head_dim = cache.shape[1], cache.shape[3], cache.shape[4]
    heads = qkv.shape[1] - 2 * kv_heads
    shared = heads // kv_heads
    scale = _F(1) / np.sqrt(_F(head_dim))
    rotate(qkv, heads + kv_heads, cos_sin)
    for row in range(len(qkv)):
        block, place = slot_mapping[row] // block_size, slot_mapping[row] % block_size
        for part in range(2):
            for head in range(kv_heads):
                new = heads + part * kv_heads + head
                for i in range(head_dim):
                    cache[block, place, part, head, i] = _rounded(_load(qkv[row, new, i]), cache)
    for request in range(len(num_computed)):
        for row in range(query_start_loc[request], query_start_loc[request + 1]):
            context = num_computed[request] + row - query_start_loc[request] + 1
            for kv_head in range(kv_heads):
                first = kv_head * shared
                for head in range(shared):
                    for i in range(head_dim):
                        query[head, i] = _load(qkv[row, first + head, i]) * scale
                _attend_to(cache, block_tables, request, context, kv_head, query, scores)
                for head in range(shared):
                    for i in range(head_dim):
                        at = (first + head) * head_dim + i
                        out[row, at] = _rounded(query[head, i], out)


@_compiled
def _attend_to(
    cache: Array,
    block_tables: Array,
    request: int,
    context: int,
    kv_head: int,
    query: Array,
    scores: Array,
) -> None:
    """Replace one token's queries of a KV head by their attention output.

    Arrays are indexed down to elements, not sliced: slicing costs reference counting in numba.
    """
    block_size, head_dim = cache.shape[1], cache.shape[4]
    for first in range(0, context, block_size):
        block = block_tables[request, first // block_size]
        for token in range(min(block_size, context - first)):
            for head in range(len(query)):
                product = _F(0)
                for i in range(head_dim):
                    product += query[head, i] * _load(cache[block, token, 0, kv_head, i])
                scores[head, first + token] = product
    for head in range(len(query)):
        _softmax(scores[head, :context])
    query[:] = _F(0)
    for first in range(0, context, block_size):
        block = block_tables[request, first // block_size]
        count = min(block_size, context - first)
        fours = count // 4 * 4
        for head in range(len(query)):
            for token in range(0, fours, 4):  # fewer passes over the sum
                at = first + token
                w0, w1 = scores[head, at], scores[head, at + 1]
                w2, w3 = scores[head, at + 2], scores[head, at + 3]
                for i in range(head_dim):
                    query[head, i] += (
                        w0 * _load(cache[block, token, 1, kv_head, i])
                        + w1 * _load(cache[block, token + 1, 1, kv_head, i])
                        + w2 * _load(cache[block, token + 2, 1, kv_head, i])
                        + w3 * _load(cache[block, token + 3, 1, kv_head, i])
                    )
            for token in range(fours, count):
                w0 = scores[head, first + token]
                for i in range(head_dim):
                    query[head, i] += w0 * _load(cache[block, token, 1, kv_head, i])


@_compiled
def _softmax(scores: Array) -> None:
    most = scores[0]
    for i in range(len(scores)):
        most = max(most, scores[i])
    total = _F(0)
    for i in range(len(scores)):
        value = _exp(scores[i] - most)
        scores[i] = value
        total += value
    for i in range(len(scores)):
        scores[i] /= total


@_compiled
def multiply(weight: Array, x: Array, first: int, last: int, out: Array) -> None:
    """``x @ weight.T`` for a few rows: each row of the weights is read once for four rows of ``x``.

    Args:
        weight: (outputs, inputs).
        x: (rows, inputs) float32.
        first, last: range of outputs to compute.
        out: (rows, outputs) float32.
    """
    fours, size = len(x) // 4 * 4, x.shape[1]
    for output in range(first, last):
        numbers = weight[output]
        for row in range(0, fours, 4):
            x0, x1, x2, x3 = x[row], x[row + 1], x[row + 2], x[row + 3]
            t0, t1, t2, t3 = _F(0), _F(0), _F(0), _F(0)
            for i in range(size):
                value = _load(numbers[i])
                t0 += value * x0[i]
                t1 += value * x1[i]
                t2 += value * x2[i]
                t3 += value * x3[i]
            out[row, output], out[row + 1, output] = t0, t1
            out[row + 2, output], out[row + 3, output] = t2, t3
        for row in range(fours, len(x)):
            x0, t0 = x[row], _F(0)
            for i in range(size):
                t0 += _load(numbers[i]) * x0[i]
            out[row, output] = t0


@_compiled
def multiply_quantized(
    weight: Array,
    scales: Array,
    zeros: Array | None,
    group_size: int,
    x: Array,
    first: int,
    last: int,
    out: Array,
) -> None:
    """Like ``multiply``, for ``(weight - zeros) * scales``.

    Args:
        scales: (outputs, groups) float32, for each ``group_size`` inputs.
        zeros: (outputs, groups) int8.
    """
    fours, size = len(x) // 4 * 4, x.shape[1]
    for output in range(first, last):
        numbers = weight[output]
        for row in range(len(x)):
            out[row, output] = _F(0)
        for group in range(scales.shape[1]):
            begin = group * group_size
            end = min(begin + group_size, size)
            scale, zero = scales[output, group], _F(0)
            if zeros is not None:
                zero = _F(zeros[output, group])
            for row in range(0, fours, 4):
                x0, x1, x2, x3 = x[row], x[row + 1], x[row + 2], x[row + 3]
                t0, t1, t2, t3 = _F(0), _F(0), _F(0), _F(0)
                for i in range(begin, end):
                    value = _load(numbers[i]) - zero
                    t0 += value * x0[i]
                    t1 += value * x1[i]
                    t2 += value * x2[i]
                    t3 += value * x3[i]
                out[row, output] += t0 * scale
                out[row + 1, output] += t1 * scale
                out[row + 2, output] += t2 * scale
                out[row + 3, output] += t3 * scale
            for row in range(fours, len(x)):
                x0, t0 = x[row], _F(0)
                for i in range(begin, end):
                    t0 += (_load(numbers[i]) - zero) * x0[i]
                out[row, output] += t0 * scale


@_compiled
def split_rows(x: Array, levels: int, out: Array, scales: Array) -> None:
    """Write each row as a scale times two rows of whole numbers.

    Args:
        x: (rows, inputs).
        levels: the largest number; ``x`` is ``(first + second / (2 * levels)) * scale``.
        out: (2 * rows, inputs) float32: all first numbers, then all second ones.
        scales: (rows,) float32.
    """
    rows, size = x.shape
    for row in range(rows):
        most = _F(1e-30)
        for i in range(size):
            most = max(most, abs(_load(x[row, i])))
        scale = most / _F(levels)
        inverse = _F(1) / scale
        scales[row] = scale
        for i in range(size):
            value = _load(x[row, i]) * inverse
            first = np.rint(value)
            out[row, i] = first
            out[rows + row, i] = np.rint((value - first) * _F(2 * levels))


@_compiled
def join_rows(products: Array, levels: int, scales: Array, bias: Array | None, out: Array) -> None:
    """The reverse of ``split_rows`` for (2 * rows, outputs) products, plus (outputs,) float32."""
    rows, size = out.shape
    share = _F(1) / _F(2 * levels)
    for row in range(rows):
        scale = scales[row]
        for i in range(size):
            value = (products[row, i] + products[rows + row, i] * share) * scale
            if bias is not None:
                value += bias[i]
            out[row, i] = _rounded(value, out)


@_compiled
def decode(
    hidden: Array,
    cos_sin: Array,
    cache: Array,
    slot_mapping: Array,
    block_tables: Array,
    num_computed: Array,
    query_start_loc: Array,
    eps: np.float32,
    input_norm: Array,
    qkv_weight: Array,
    qkv_bias: Array,
    output_weight: Array,
    after_attention_norm: Array,
    before_mlp_norm: Array,
    gate_up_weight: Array,
    down_weight: Array,
    after_mlp_norm: Array,
    head_weight: Array,
    logits: Array,
) -> None:
    """All layers of the language model for a few tokens.

    Args:
        hidden: (tokens, hidden size) float32; modified.
        cache: (layers, blocks, block size, 2, KV heads, head dim); modified.
        input_norm: (layers + 1, hidden size); the last one is the final norm.
        qkv_weight: (layers, outputs, inputs), like all following weights except ``head_weight``.
        logits: (tokens, vocabulary) float32, the result.

    ``cos_sin`` and the arguments after ``cache`` are those of ``attend``.
    """
    rows, layers, head_dim = len(hidden), len(qkv_weight), cache.shape[5]
    heads = output_weight.shape[2] // head_dim
    shared = heads // cache.shape[4]
    longest = 0
    for request in range(len(num_computed)):
        longest = max(
            longest, num_computed[request] + query_start_loc[request + 1] - query_start_loc[request]
        )
    scores = np.empty((shared, longest), np.float32)
    query = np.empty((shared, head_dim), np.float32)
    normed, x = np.empty_like(hidden), np.empty_like(hidden)
    qkv = np.empty((rows, qkv_weight.shape[1]), np.float32)
    attended = np.empty((rows, heads * head_dim), np.float32)
    gate_up = np.empty((rows, gate_up_weight.shape[1]), np.float32)
    expanded = np.empty((rows, down_weight.shape[2]), np.float32)
    norm(hidden, input_norm[0], eps, normed)
    for layer in range(layers):
        multiply(qkv_weight[layer], normed, 0, qkv_weight.shape[1], qkv)
        for row in range(rows):
            for i in range(qkv.shape[1]):
                qkv[row, i] += _load(qkv_bias[layer, i])
        attend(
            qkv.reshape((rows, -1, head_dim)), cos_sin, cache[layer], slot_mapping, block_tables,
            num_computed, query_start_loc, scores, query, attended,
        )  # fmt: skip
        multiply(output_weight[layer], attended, 0, output_weight.shape[1], x)
        add_norm(hidden, x, after_attention_norm[layer], before_mlp_norm[layer], eps, normed)
        multiply(gate_up_weight[layer], normed, 0, gate_up_weight.shape[1], gate_up)
        gate(gate_up, expanded)
        multiply(down_weight[layer], expanded, 0, down_weight.shape[1], x)
        add_norm(hidden, x, after_mlp_norm[layer], input_norm[layer + 1], eps, normed)
    multiply(head_weight, normed, 0, len(head_weight), logits)
