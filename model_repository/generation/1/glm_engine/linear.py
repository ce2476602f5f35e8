"""Matrix products with weights that do not change.

``linear`` chooses by device, dtype and processor. What is fastest on a CPU was measured with
AVX-512 for oneDNN's order of weights, and with AVX2 for weights in bfloat16
(benchmarks/results/cpu_paths.md).
"""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from glm_engine import cpu


class Linear(Protocol):
    """``x @ weight.T + bias``, from (rows, inputs) to (rows, outputs) in the dtype of ``x``."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


class TorchLinear:
    """By PyTorch's own operation; on a GPU that is cuBLAS."""

    description = "torch"

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,) of one dtype."""
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        return F.linear(x, self._weight, self._bias)


class PackedLinear:
    """By oneDNN, which has put the weights into an order of its own.

    It takes half the time of torch's default for float32. For bfloat16 the processor has to have
    what ``cpu.multiplies_bfloat16`` asks for.
    """

    description = "oneDNN"

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,) of one dtype."""
        # The number of rows is a hint for the order only.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "none", [], ""
        )
        return product


class WidenedLinear:
    """Weights that stay in bfloat16 in memory and are multiplied in float32.

    For processors that do not multiply bfloat16. A few rows are multiplied as the weights are read,
    which takes as long as the memory does; for more, a slice of the weights at a time is copied to
    float32.
    """

    description = "float32 by bfloat16 weights"
    # From so many rows on, copying a slice costs less than it saves.
    MOST_ROWS_AS_READ = 16
    # Numbers in a slice: 4 MiB of float32.
    _SLICE = 2**20
    # Below so many numbers, handing work to another thread costs more than it saves.
    _LEAST_FOR_A_THREAD = 2**20

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """For (outputs, inputs) and (outputs,) in bfloat16."""
        from glm_engine import cpu_kernels  # numba is needed on a CPU only

        self._multiply = cpu_kernels.multiply
        self._weight = weight.contiguous()
        self._bits = self._weight.view(torch.uint16).numpy()
        self._bias = None if bias is None else bias.float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See ``Linear``."""
        out = torch.empty(len(x), len(self._weight), dtype=torch.float32)
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
        parts = min(threads, max(1, self._bits.size // self._LEAST_FOR_A_THREAD))
        if parts == 1:
            self._multiply(rows, self._bits, 0, len(self._bits), result)
            return
        edges = np.linspace(0, len(self._bits), parts + 1).astype(int).tolist()
        jobs = [
            _pool(threads).submit(self._multiply, rows, self._bits, first, last, result)
            for first, last in pairwise(edges[1:])
        ]
        self._multiply(rows, self._bits, 0, edges[1], result)
        for job in jobs:
            job.result()

    def _by_slices(self, x: torch.Tensor, out: torch.Tensor) -> None:
        outputs, inputs = self._weight.shape
        step = max(1, self._SLICE // inputs)
        wide = torch.empty(min(step, outputs), inputs, dtype=torch.float32)
        for first in range(0, outputs, step):
            last = min(first + step, outputs)
            part = wide[: last - first].copy_(self._weight[first:last])
            out[:, first:last] = F.linear(x, part)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="linear")


def linear_for(
    dtype: torch.dtype, device: torch.device
) -> type[TorchLinear | PackedLinear | WidenedLinear]:
    """What multiplies by weights of this dtype there."""
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
