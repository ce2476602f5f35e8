"""Multiplication by quantised weights on a GPU."""

import torch
import torch.nn.functional as F

from glm_engine.quantization.weight import QuantizedWeight

_MOST_FP8 = torch.finfo(torch.float8_e4m3fn).max


class WidenedOnGPU:
    """Any quantised weight; activations keep their dtype (``gpu_kernels.multiply``)."""

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> None:
        """For a weight whose groups ``supports``, and (outputs,)."""
        from glm_engine.quantization import gpu_kernels  # the compiler comes with CUDA builds only

        self.description = f"{weight.kind}, widened by a kernel"
        self._multiply = gpu_kernels.multiply
        self._bits, self._group_size = weight.bits, weight.group_size
        if weight.bits == 4:
            tile = gpu_kernels.tile_for(weight.group_size, weight.inputs)
            self._values = gpu_kernels.pack_4_bits(weight.values, tile)
        else:
            values = weight.values.contiguous()
            self._values = values.view(torch.uint8) if weight.is_float else values
        self._scales, self._zeros = _smallest(weight.scales.contiguous()), weight.zeros
        self._bias = bias

    @staticmethod
    def supports(weight: QuantizedWeight) -> bool:
        """Whether the kernel knows groups of that size."""
        from glm_engine.quantization import gpu_kernels

        tile = gpu_kernels.tile_for(weight.group_size, weight.inputs)
        return tile >= gpu_kernels.LEAST_TILE

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        return self._multiply(
            x.contiguous(),
            self._values,
            self._scales,
            self._zeros,
            self._bias,
            bits=self._bits,
            group_size=self._group_size,
        )


class DequantizedPerCall:
    """Any quantised weight, by PyTorch's operations only; slow."""

    # Elements that are dequantised at a time.
    _SLICE = 2**24

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,)."""
        self.description = f"{weight.kind}, dequantised for each step"
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        step = max(1, self._SLICE // self._weight.inputs)
        products = [
            F.linear(x, self._weight.rows(first, first + step).dequantize(x.dtype))
            for first in range(0, len(self._weight), step)
        ]
        product = torch.cat(products, 1)
        return product if self._bias is None else product + self._bias


class ScaledFloat8:
    """FP8 by FP8 in the GPU's own instructions: activations are quantised, too, row by row.

    For weights with one scale for each output, and activations in bfloat16.
    """

    description = "fp8 by fp8"

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> None:
        """For a weight that ``supports``, and (outputs,)."""
        self._values = weight.values.contiguous().t()
        self._scales = weight.scales.t().contiguous()
        self._bias = bias

    @staticmethod
    def supports(weight: QuantizedWeight, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
        """Whether a GPU of this compute capability can."""
        return (
            capability >= (8, 9)
            and dtype == torch.bfloat16
            and weight.is_float
            and weight.scales.shape[1] == 1
            and weight.inputs % 16 == len(weight) % 16 == 0
        )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        largest = x.abs().amax(1, keepdim=True).float().clamp_(min=1e-12)
        scales = largest / _MOST_FP8
        rows = (x / scales).clamp_(-_MOST_FP8, _MOST_FP8).to(torch.float8_e4m3fn)
        product: torch.Tensor = torch._scaled_mm(
            rows, self._values, scales, self._scales, self._bias, out_dtype=x.dtype
        )
        return product


def _smallest(scales: torch.Tensor) -> torch.Tensor:
    """The same numbers in 16 bits where that is exact, as it is for those of most checkpoints."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(scales.to(dtype).float(), scales):
            return scales.to(dtype)
    return scales
