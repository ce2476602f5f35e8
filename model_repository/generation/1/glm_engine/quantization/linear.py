"""Chooses what multiplies by a weight, quantised or not."""

import torch

from glm_engine.linear import Linear, linear
from glm_engine.quantization.cpu_linear import Int4OnCPU, Int8OnCPU, WidenedQuantized
from glm_engine.quantization.gpu_linear import DequantizedPerCall, ScaledFloat8, WidenedOnGPU
from glm_engine.quantization.weight import QuantizedWeight


def linear_of(
    weight: torch.Tensor | QuantizedWeight,
    dtype: torch.dtype,
    bias: torch.Tensor | None = None,
    *,
    gpu_kernels: bool = True,
) -> Linear:
    """The fastest ``Linear`` for a weight and (outputs,), on the device that has them.

    Args:
        dtype: of the activations.
        gpu_kernels: whether this project's kernels may be used on a GPU.
    """
    if isinstance(weight, torch.Tensor):
        return linear(weight, bias)
    device = weight.values.device
    if device.type == "cpu":
        kinds = (Int8OnCPU, Int4OnCPU)
        return next((kind for kind in kinds if kind.supports(weight)), WidenedQuantized)(
            weight, bias
        )
    if ScaledFloat8.supports(weight, dtype, torch.cuda.get_device_capability(device)):
        return ScaledFloat8(weight, bias)
    if gpu_kernels and WidenedOnGPU.supports(weight):
        return WidenedOnGPU(weight, bias)
    return DequantizedPerCall(weight, bias)
