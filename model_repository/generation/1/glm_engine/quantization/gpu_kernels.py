"""Multiplication by quantised weights on a GPU, in OpenAI's Triton language.

Weights are read in the bits in which they are stored and widened in registers, where a matrix
product in the dtype of the activations needs them: a decode step reads a half or a quarter of the
bytes of bfloat16. Sums are float32. As for ``glm_engine.gpu_kernels``, ``TRITON_INTERPRET=1`` runs
this on a CPU, for tests.
"""

import torch
import triton
import triton.language as tl

# Minimum number of rows of a matrix product.
_LEAST_ROWS = 16
# Programs of a product of a few rows, which are split along the inputs to be that many.
_PROGRAMS = 256
# Outputs per tile: with more, registers are spilled.
_COLUMNS = 64
# Inputs per tile: the most, and the fewest that a matrix product of bfloat16 takes.
_TILE, LEAST_TILE = 64, 16


@triton.jit
def _widen_fp8(bits):
    """e4m3 -> float32: exponent and mantissa move, and the exponent's bias changes by 120."""
    wide = bits.to(tl.int32)
    size = wide & 0x7F
    normal = ((size << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    # Below 8 the exponent is 0, without an implicit 1.
    number = tl.where(size >= 8, normal, size.to(tl.float32) * 0.001953125)
    return tl.where(wide >= 0x80, -number, number)


@triton.jit
def _add_tile(
    total, x, weight, scales, zeros, row, column, at, first, rows, outputs, inputs, stride, groups,
    SHIFT: tl.constexpr, BITS: tl.constexpr, FP8: tl.constexpr, ZEROS: tl.constexpr,
    GROUP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Add the product of ``TILE`` inputs from ``first`` on; ``weight`` has them at ``at``."""
    inner = tl.arange(0, TILE)
    there = column < outputs
    known = first + inner < inputs
    values = tl.load(
        x + row.to(tl.int64)[:, None] * inputs + (first + inner)[None, :],
        mask=(row < rows)[:, None] & known[None, :], other=0.0,
    )  # fmt: skip
    numbers = tl.load(
        weight + column.to(tl.int64)[None, :] * stride + (at + inner)[:, None],
        mask=there[None, :] & known[:, None], other=0,
    )  # fmt: skip
    group = column.to(tl.int64) * groups
    if GROUP > 0:
        group += tl.minimum(first // GROUP, groups - 1)  # the last tile may be padding
    if FP8:
        wide = _widen_fp8(numbers)
    elif BITS == 4:
        wide = ((numbers >> SHIFT) & 15).to(tl.float32) - 8
    else:
        wide = numbers.to(tl.float32)
    if ZEROS:
        wide -= tl.load(zeros + group, mask=there, other=0).to(tl.float32)[None, :]
    scale = tl.load(scales + group, mask=there, other=0.0).to(tl.float32)
    product = tl.dot(values, wide.to(values.dtype), input_precision="ieee")
    return total + product * scale[None, :]


@triton.jit(do_not_specialize=["rows"])
def _multiply_kernel(
    x, weight, scales, zeros, bias, out, rows, outputs, inputs, stride, groups, each,
    BITS: tl.constexpr, FP8: tl.constexpr, ZEROS: tl.constexpr, BIAS: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One tile of the result, or its part of a split of the inputs.

    ``GROUP`` is 0 where a scale is for all inputs. Bytes of 4 bits hold an input and the one that
    is ``stride`` further on, so that both halves of a tile are adjacent in ``x``.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(2)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    begin = split * each
    for at in range(begin, tl.minimum(begin + each, stride), TILE):
        total = _add_tile(
            total, x, weight, scales, zeros, row, column, at, at, rows, outputs, inputs, stride,
            groups, 0, BITS, FP8, ZEROS, GROUP, TILE,
        )  # fmt: skip
        if BITS == 4:
            total = _add_tile(
                total, x, weight, scales, zeros, row, column, at, at + stride, rows, outputs,
                inputs, stride, groups, 4, BITS, FP8, ZEROS, GROUP, TILE,
            )  # fmt: skip
    if BIAS and split == 0:
        added = tl.load(bias + column, mask=column < outputs, other=0.0).to(tl.float32)
        total += added[None, :]
    place = (split.to(tl.int64) * rows + row)[:, None] * outputs + column[None, :]
    tl.store(
        out + place, total.to(out.dtype.element_ty),
        mask=(row < rows)[:, None] & (column < outputs)[None, :],
    )  # fmt: skip


def tile_for(group_size: int, inputs: int) -> int:
    """Inputs per tile: tiles do not cross groups. Less than ``LEAST_TILE`` is not supported."""
    tile = _TILE
    while group_size < inputs and group_size % tile:
        tile //= 2
    return tile


def pack_4_bits(values: torch.Tensor, tile: int) -> torch.Tensor:
    """(outputs, inputs) int8 from -8 to 7 -> (outputs, half of the inputs or a bit more) uint8.

    Value ``i`` is in the low half of byte ``i``; of the number of bytes n, value ``n + i`` is in
    the high half.
    """
    outputs, inputs = values.shape
    half = -(-inputs // (2 * tile)) * tile
    unsigned = torch.zeros(outputs, 2 * half, dtype=torch.uint8, device=values.device)
    unsigned[:, :inputs] = (values + 8).view(torch.uint8)
    return unsigned[:, :half] | unsigned[:, half:] << 4


def multiply(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    zeros: torch.Tensor | None,
    bias: torch.Tensor | None,
    *,
    bits: int,
    group_size: int,
) -> torch.Tensor:
    """``x @ ((weight - zeros) * scales).T + bias``.

    Args:
        x: (rows, inputs).
        weight: (outputs, inputs) int8, or uint8 for the bits of FP8 (e4m3); or of ``pack_4_bits``.
        scales: (outputs, groups) of any floating dtype.
        zeros: (outputs, groups) int8.
        bias: (outputs,).
        bits: 8, or 4.
        group_size: inputs that share a scale.

    Returns:
        (rows, outputs) in the dtype of ``x``.
    """
    rows, inputs = x.shape
    outputs, stride = weight.shape
    tile = tile_for(group_size, inputs)
    few = rows <= _LEAST_ROWS
    tall = _LEAST_ROWS if few else 64 if rows <= 64 else 128
    grid = (triton.cdiv(rows, tall), triton.cdiv(outputs, _COLUMNS))
    tiles = triton.cdiv(stride, tile)
    splits = max(1, min(tiles // 4, _PROGRAMS // (grid[0] * grid[1]))) if few else 1
    each = triton.cdiv(tiles, splits) * tile
    splits = triton.cdiv(stride, each)
    shape, dtype = (rows, outputs), x.dtype
    if splits > 1:
        shape, dtype = (splits * rows, outputs), torch.float32
    out = torch.empty(shape, dtype=dtype, device=x.device)
    _multiply_kernel[(*grid, splits)](
        x, weight, scales, scales if zeros is None else zeros, scales if bias is None else bias,
        out, rows, outputs, inputs, stride, scales.shape[1], each,
        BITS=bits, FP8=weight.dtype == torch.uint8 and bits == 8, ZEROS=zeros is not None,
        BIAS=bias is not None, GROUP=group_size if scales.shape[1] > 1 else 0,
        ROWS=tall, COLUMNS=_COLUMNS, TILE=tile, num_warps=4 if few else 8, num_stages=3,
    )  # fmt: skip
    return out.view(splits, rows, outputs).sum(0).to(x.dtype) if splits > 1 else out
