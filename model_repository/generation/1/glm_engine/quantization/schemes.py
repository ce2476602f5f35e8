"""Quantises weights: one class for each value of ``GLM_QUANTIZATION``.

Scales are rounded to bfloat16 before the values are chosen, so that a checkpoint that stores them
so holds the same weights.
"""

from collections.abc import Callable
from typing import Protocol

import torch

from glm_engine.quantization.weight import QuantizedWeight, concatenate

# Inputs of int4 that share a scale: the first of these that divides the inputs. The kernels of
# torch and vLLM know these sizes.
GROUP_SIZES = (128, 64, 32)
# Elements that are quantised at a time: a few copies of them fit into a core's cache, or are enough
# for a GPU.
_SLICE, _GPU_SLICE = 2**17, 2**24
_LEAST_SCALE = 2.0**-40
_SCALE_BYTES = torch.bfloat16.itemsize


class Scheme(Protocol):
    """Makes few bits of a weight.

    Attributes:
        name: of the setting.
        head: the scheme for the output head, whose errors nothing averages out.
    """

    name: str

    @property
    def head(self) -> "Scheme": ...

    def quantize(
        self, weight: torch.Tensor, importance: torch.Tensor | None = None
    ) -> QuantizedWeight:
        """Quantise (outputs, inputs) of any floating dtype, on the device where they are.

        Args:
            importance: (inputs,) mean squares of the inputs, if they are known.
        """
        ...

    def nbytes(self, outputs: int, inputs: int) -> int:
        """Size of a weight, as ``QuantizedWeight.nbytes`` says it."""
        ...


class _PerOutput:
    """8 bits for each weight, with a scale for each output."""

    name: str
    # The largest value.
    _most: float

    @property
    def head(self) -> Scheme:
        """See ``Scheme``."""
        return self

    def quantize(
        self, weight: torch.Tensor, importance: torch.Tensor | None = None
    ) -> QuantizedWeight:
        """See ``Scheme``; all inputs are as important."""

        def by_output(part: torch.Tensor) -> QuantizedWeight:
            scales = _rounded_scales(part.abs().amax(1, keepdim=True) / self._most)
            values = self._values((part / scales).clamp(-self._most, self._most))
            return QuantizedWeight(values, scales, part.shape[1])

        return _by_slices(weight, by_output)

    def nbytes(self, outputs: int, inputs: int) -> int:
        """See ``Scheme``."""
        return outputs * (inputs + _SCALE_BYTES)

    def _values(self, scaled: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Float8(_PerOutput):
    """FP8 (e4m3), with a scale for each output."""

    name = "fp8"
    _most = torch.finfo(torch.float8_e4m3fn).max

    def _values(self, scaled: torch.Tensor) -> torch.Tensor:
        return scaled.to(torch.float8_e4m3fn)


class Int8(_PerOutput):
    """8-bit integers, with a scale for each output."""

    name = "int8"
    _most = 127

    def _values(self, scaled: torch.Tensor) -> torch.Tensor:
        return scaled.round().to(torch.int8)


class Int4:
    """4-bit integers, with a scale for each group of inputs of each output.

    A scale is not the one that the largest weight of its group would need: of several, it is the
    one with the least squared error, weighted by the inputs where they are known. (AWQ, Lin et
    al., 2023, searches by the inputs, too; here nothing is folded into other weights.)
    """

    name = "int4"
    # Shares of the range that the largest weight would need.
    _SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)

    @property
    def head(self) -> Scheme:
        """See ``Scheme``."""
        return Int8()

    def quantize(
        self, weight: torch.Tensor, importance: torch.Tensor | None = None
    ) -> QuantizedWeight:
        """See ``Scheme``; in 8 bits where no group size divides the inputs."""
        inputs = weight.shape[1]
        size = _group_size(inputs)
        if size is None:
            return Int8().quantize(weight)
        groups = torch.ones(inputs, device=weight.device) if importance is None else importance
        # A share of the mean for inputs that were 0 by chance.
        groups = (groups / groups.mean() + 1e-3).view(-1, size)

        def by_group(part: torch.Tensor) -> QuantizedWeight:
            return self._quantize(part.view(len(part), -1, size), groups)

        return _by_slices(weight, by_group)

    def nbytes(self, outputs: int, inputs: int) -> int:
        """See ``Scheme``."""
        size = _group_size(inputs)
        if size is None:
            return Int8().nbytes(outputs, inputs)
        return outputs * (inputs // 2 + inputs // size * _SCALE_BYTES)

    def _quantize(self, groups: torch.Tensor, importance: torch.Tensor) -> QuantizedWeight:
        most = groups.abs().amax(2)
        # The sign of the largest decides which side gets -8, the value without an opposite.
        largest = groups.gather(2, groups.abs().argmax(2, keepdim=True)).squeeze(2)
        best = torch.full_like(most, torch.inf)
        scales, values = torch.empty_like(most), torch.empty(groups.shape, dtype=torch.int8)
        values = values.to(groups.device)
        for share in self._SHARES:
            tried = _rounded_scales(-largest * share / 8)
            rounded = (groups / tried[..., None]).round().clamp_(-8, 7)
            error = ((rounded * tried[..., None] - groups).square_() * importance).sum(2)
            better = error < best
            best = torch.where(better, error, best)
            scales = torch.where(better, tried, scales)
            values = torch.where(better[..., None], rounded.to(torch.int8), values)
        return QuantizedWeight(values.flatten(1), scales, groups.shape[2], bits=4)


SCHEMES: dict[str, Scheme] = {scheme.name: scheme for scheme in (Float8(), Int8(), Int4())}


def _group_size(inputs: int) -> int | None:
    return next((size for size in GROUP_SIZES if inputs % size == 0), None)


def _by_slices(
    weight: torch.Tensor, quantize: Callable[[torch.Tensor], QuantizedWeight]
) -> QuantizedWeight:
    size = _GPU_SLICE if weight.device.type == "cuda" else _SLICE
    step = max(1, size // weight.shape[1])
    return concatenate(
        [quantize(weight[at : at + step].float()) for at in range(0, len(weight), step)]
    )


def _rounded_scales(scales: torch.Tensor) -> torch.Tensor:
    """As bfloat16 has them, and never 0: a row or group may be all zeros."""
    rounded = scales.to(torch.bfloat16).float()
    return torch.where(rounded.abs() < _LEAST_SCALE, _LEAST_SCALE, rounded)
