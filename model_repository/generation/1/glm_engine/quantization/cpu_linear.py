"""Multiplication by quantised weights on a CPU.

Which of these is the fastest, at which number of rows, is measured in
benchmarks/results/quantised.md.
"""

import warnings
from functools import cache, partial

import numpy as np
import torch

from glm_engine.linear import WidenedLinear
from glm_engine.operations import as_array
from glm_engine.quantization.weight import QuantizedWeight


class Int8OnCPU:
    """int8 by activations of two 8-bit numbers (fbgemm).

    Each row of activations is quantised as it comes, to a scale times two whole numbers, which are
    two rows for fbgemm: 15 bits, so that the weights alone cause an error, at the price of 8 bits
    for a few rows, where reading the weights takes the time. fbgemm knows one scale for all rows;
    here each has its own, so that its result does not depend on the others.

    On processors without instructions for sums of 8-bit products (VNNI), fbgemm adds pairs of them
    in 16 bits, which saturates. There the numbers have 7 bits.
    """

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> None:
        """For a weight that ``supports``, and (outputs,)."""
        from glm_engine import cpu_kernels  # numba is needed on a CPU only

        self._kernels, self._levels = cpu_kernels, activation_levels()
        self.description = f"int8 by two numbers of {8 if self._levels == 127 else 7} bits (fbgemm)"
        self._weight, self._outputs = _pack(weight.values, weight.scales[:, 0]), len(weight)
        self._bias = None if bias is None else bias.float().numpy()

    @staticmethod
    def supports(weight: QuantizedWeight) -> bool:
        """Whether it is int8 with one scale for each output, on a processor that fbgemm knows."""
        return (
            "fbgemm" in torch.backends.quantized.supported_engines
            and weight.bits == 8
            and not weight.is_float
            and weight.scales.shape[1] == 1
            and weight.zeros is None
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        rows = torch.empty(2 * len(x), x.shape[1], dtype=torch.float32)
        scales = np.empty(len(x), np.float32)
        self._kernels.split_rows(as_array(x), self._levels, rows.numpy(), scales)
        products = _multiply(rows, self._weight, self._levels)
        out = torch.empty(len(x), self._outputs, dtype=x.dtype)
        self._kernels.join_rows(products.numpy(), self._levels, scales, self._bias, as_array(out))
        return out


class Int4OnCPU:
    """int4 in groups by activations in bfloat16 (``_weight_int4pack_mm_for_cpu`` of torch)."""

    _GROUP_SIZES = (32, 64, 128, 256)
    # The kernel takes outputs in such blocks.
    _BLOCK = 64

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> None:
        """For a weight that ``supports``, and (outputs,)."""
        self.description = f"{weight.kind} by bfloat16 (torch)"
        self._outputs, self._group_size = len(weight), weight.group_size
        spare = -len(weight) % self._BLOCK
        values = torch.nn.functional.pad(weight.values.int() + 8, (0, 0, 0, spare))
        self._weight = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1)
        scales = torch.nn.functional.pad(weight.scales, (0, 0, 0, spare))
        zeros = torch.zeros_like(scales)
        if weight.zeros is not None:
            zeros[: len(weight)] = -weight.zeros * weight.scales
        # (groups, outputs, 2)
        self._scales = torch.stack([scales.t(), zeros.t()], -1).to(torch.bfloat16).contiguous()
        self._bias = None if bias is None else bias.float()

    @classmethod
    def supports(cls, weight: QuantizedWeight) -> bool:
        """Whether the kernel knows groups of that size."""
        size = weight.group_size
        return weight.bits == 4 and size in cls._GROUP_SIZES and weight.inputs % size == 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(torch.bfloat16), self._weight, self._group_size, self._scales
        )
        product = product[:, : self._outputs].to(x.dtype)
        return product if self._bias is None else product + self._bias.to(x.dtype)


class WidenedQuantized(WidenedLinear):
    """Any quantised weight, multiplied in float32; see ``WidenedLinear``.

    For FP8 it takes several times as long as float32 weights: a CPU has no instructions for it.
    """

    # Widening takes longer than for bfloat16, so it pays earlier to do it once for all rows.
    MOST_ROWS_AS_READ = 8

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,)."""
        from glm_engine import cpu_kernels  # numba is needed on a CPU only

        self.description = f"float32 by {weight.kind}"
        self._quantized = weight
        values = weight.values.contiguous()
        numbers = (values.view(torch.uint8) if weight.is_float else values).numpy()
        multiply = partial(
            cpu_kernels.multiply_quantized,
            numbers,
            weight.scales.contiguous().numpy(),
            None if weight.zeros is None else weight.zeros.contiguous().numpy(),
            weight.group_size,
        )
        self._set_up(values.shape, bias, multiply)

    def _widen(self, first: int, last: int, out: torch.Tensor) -> None:
        self._quantized.rows(first, last).write(out)


@cache
def activation_levels() -> int:
    """127 where fbgemm adds 8-bit products without saturation, else 63."""
    ones = torch.ones(16, 64)
    weight = _pack((ones * 127).to(torch.int8), ones[:, 0])
    products = _multiply(127 * ones[:1], weight, 127)
    return 127 if torch.equal(products, ones[:1, :16] * 64 * 127 * 127) else 63


def _pack(values: torch.Tensor, scales: torch.Tensor) -> torch.ScriptObject:
    torch.backends.quantized.engine = "fbgemm"
    zeros = torch.zeros(len(values), dtype=torch.int64)
    with warnings.catch_warnings():
        # Tensors of quantised numbers, deprecated, are the only way into fbgemm's packed weights.
        warnings.simplefilter("ignore", UserWarning)
        weight = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
        packed: torch.ScriptObject = torch.ops.quantized.linear_prepack(weight, None)
    return packed


def _multiply(x: torch.Tensor, weight: torch.ScriptObject, levels: int) -> torch.Tensor:
    """float32 product of the whole numbers next to ``x``, from -levels to levels."""
    product: torch.Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x, 1.0, levels + 1, weight
    )
    return product
