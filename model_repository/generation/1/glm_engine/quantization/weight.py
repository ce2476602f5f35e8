"""A matrix of weights in few bits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

# Elements that are converted at a time: 4 MiB of float32.
_SLICE = 2**20


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """``(values - zeros) * scales``, with scales for groups of adjacent inputs of each output.

    Attributes:
        values: (outputs, inputs) int8, from -8 to 7 where there are 4 bits, or float8_e4m3fn.
        scales: (outputs, groups) float32.
        group_size: inputs that share a scale; the last group may have fewer.
        zeros: (outputs, groups) int8; None where all are 0.
        bits: 8 or 4 for each value.
    """

    values: torch.Tensor
    scales: torch.Tensor
    group_size: int
    zeros: torch.Tensor | None = None
    bits: int = 8

    def __len__(self) -> int:
        """Number of outputs."""
        return len(self.values)

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return self.values.shape[1]

    @property
    def is_float(self) -> bool:
        """Whether values are in FP8."""
        return self.values.is_floating_point()

    @property
    def kind(self) -> str:
        """Type and granularity, as in ``int4, groups of 128``."""
        name = "fp8" if self.is_float else f"int{self.bits}"
        return name if self.scales.shape[1] == 1 else f"{name}, groups of {self.group_size}"

    @property
    def nbytes(self) -> int:
        """Bytes of values, scales in bfloat16, and zeros."""
        zeros = 0 if self.zeros is None else self.zeros.numel() * self.bits // 8
        return self.values.numel() * self.bits // 8 + 2 * self.scales.numel() + zeros

    def rows(self, first: int, last: int) -> Self:
        """Some of the outputs."""
        zeros = self.zeros
        return replace(
            self,
            values=self.values[first:last],
            scales=self.scales[first:last],
            zeros=None if zeros is None else zeros[first:last],
        )

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """(outputs, inputs) weights."""
        out = torch.empty(self.values.shape, dtype=dtype, device=self.values.device)
        step = max(1, _SLICE // self.inputs)
        for first in range(0, len(self), step):
            self.rows(first, first + step).write(out[first : first + step])
        return out

    def write(self, out: torch.Tensor) -> None:
        """Write the weights to (outputs, inputs) of any dtype."""
        groups, size = self.scales.shape[1], self.group_size
        values = self.values.float()
        if groups * size != self.inputs:
            values = torch.nn.functional.pad(values, (0, groups * size - self.inputs))
        values = values.view(len(self), groups, size)
        if self.zeros is not None:
            values.sub_(self.zeros[..., None])
        out.copy_(values.mul_(self.scales[..., None]).view(len(self), -1)[:, : self.inputs])


def concatenate(weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """All outputs of weights with the same inputs.

    Raises:
        ValueError: they differ in type or groups.
    """
    first = weights[0]
    if len(weights) == 1:
        return first
    kinds = {weight.kind for weight in weights}
    if len(kinds) > 1:
        raise ValueError(f"weights that are multiplied together differ: {', '.join(sorted(kinds))}")
    zeros = None
    if any(weight.zeros is not None for weight in weights):
        zeros = torch.cat(
            [
                torch.zeros_like(weight.scales, dtype=torch.int8)
                if weight.zeros is None
                else weight.zeros
                for weight in weights
            ]
        )
    return replace(
        first,
        values=torch.cat([weight.values for weight in weights]),
        scales=torch.cat([weight.scales for weight in weights]),
        zeros=zeros,
    )
