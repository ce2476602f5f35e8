"""Matrix products with weights that do not change."""

import torch
import torch.nn.functional as F


class Linear:
    """``x @ weight.T + bias``.

    On a CPU, oneDNN multiplies by weights that it has put into an order of its own, which takes
    half the time of torch's default for float32 (measured with AVX-512, for 16 rows and more). A
    single row of float32 is quicker the usual way, so those weights are kept both ways.

    Attributes:
        weight: (outputs, inputs); for float32 on a CPU besides the reordered one.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.weight, self._bias = weight, bias
        self._packed: torch.Tensor | None = None
        supported = (torch.float32, torch.bfloat16)
        on_cpu = weight.device.type == "cpu" and weight.dtype in supported
        if on_cpu and torch.backends.mkldnn.is_available():
            # The number of rows is a hint for the order only.
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, inputs) -> (rows, outputs)."""
        if self._packed is None or (len(x) == 1 and x.dtype == torch.float32):
            return F.linear(x, self.weight, self._bias)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], ""
        )
        return product
