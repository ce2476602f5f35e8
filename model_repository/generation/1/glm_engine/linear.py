"""Matrix products with constant weights.

``linear`` selects an implementation by device, dtype and processor. The choice on a CPU is based on
measurements: AVX-512 for oneDNN's packed weights, and AVX2 for weights in bfloat16
(benchmarks/results/cpu_paths.md).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from glm_engine import cpu


class Linear(Protocol):
    """``x @ weight.T + bias``, from (rows, inputs) to (rows, outputs) in the dtype of ``x``.

    Attributes:
        description: of what multiplies, for the startup log.
    """

    description: str

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class TorchLinear:
    """PyTorch's own operation; on a GPU that is cuBLAS."""

    description = "torch"

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,) of one dtype."""
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        return F.linear(x, self._weight, self._bias)


class PackedLinear:
    """oneDNN with prepacked weights.

    It takes half the time of torch's default for float32. For bfloat16 it requires
    ``cpu.multiplies_bfloat16``.
    """

    description = "oneDNN"

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,) of one dtype."""
        # The number of rows is only a hint for packing.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return product


class WidenedLinear:
    """Weights in bfloat16, multiplied in float32.

    For processors without bfloat16 multiplication. For a few rows, weights are converted as they
    are read, which is bound by memory bandwidth; for more, one slice of the weights at a time is
    copied to float32.
    """

    description = "float32 by bfloat16 weights"
    # Beyond this number of rows, copying a slice costs less than it saves.
    MOST_ROWS_AS_READ = 16
    # Elements in a slice: 4 MiB of float32.
    _SLICE = 2**20
    # Below this number of elements, using another thread costs more than it saves.
    _LEAST_FOR_A_THREAD = 2**20

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,) in bfloat16."""
        from glm_engine import cpu_kernels  # numba is needed on a CPU only

        self._weight = weight.contiguous()
        bits = self._weight.view(torch.uint16).numpy()
        self._set_up(weight.shape, bias, partial(cpu_kernels.multiply, bits))

    def _set_up(
        self, shape: torch.Size, bias: torch.Tensor | None, multiply: Callable[..., None]
    ) -> None:
        self._outputs, self._inputs = shape
        self._multiply = multiply
        self._bias = None if bias is None else bias.float()

    def _widen(self, first: int, last: int, out: torch.Tensor) -> None:
        """Write the weights of some outputs in float32."""
        out.copy_(self._weight[first:last])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        out = torch.empty(len(x), self._outputs, dtype=torch.float32)
        if len(x) <= self.MOST_ROWS_AS_READ:
            self._as_read(x.float().contiguous(), out)
        else:
            self._by_slices(x.float(), out)
        if self._bias is not None:
            out += self._bias
        return out.to(x.dtype)

    def _as_read(self, x: torch.Tensor, out: torch.Tensor) -> None:
        rows, result = x.numpy(), out.numpy()
        threads = torch.get_num_threads()
        size = self._outputs * self._inputs
        parts = min(threads, max(1, size // self._LEAST_FOR_A_THREAD))
        edges = np.linspace(0, self._outputs, parts + 1).astype(int).tolist()
        jobs = [
            _pool(threads).submit(self._multiply, rows, first, last, result)
            for first, last in pairwise(edges[1:])
        ]
        self._multiply(rows, 0, edges[1], result)
        for job in jobs:
            job.result()

    def _by_slices(self, x: torch.Tensor, out: torch.Tensor) -> None:
        step = max(1, self._SLICE // self._inputs)
        wide = torch.empty(min(step, self._outputs), self._inputs, dtype=torch.float32)
        for first in range(0, self._outputs, step):
            last = min(first + step, self._outputs)
            part = wide[: last - first]
            self._widen(first, last, part)
            out[:, first:last] = F.linear(x, part)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="linear")


def linear_for(
    dtype: torch.dtype, device: torch.device
) -> type[TorchLinear | PackedLinear | WidenedLinear]:
    """The implementation for weights of this dtype on this device."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return TorchLinear
    if dtype == torch.float32:
        return PackedLinear
    if dtype == torch.bfloat16:
        return PackedLinear if cpu.multiplies_bfloat16() else WidenedLinear
    return TorchLinear


def linear(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    """The fastest ``Linear`` for (outputs, inputs) and (outputs,), on the device that has them."""
    return linear_for(weight.dtype, weight.device)(weight, bias)
