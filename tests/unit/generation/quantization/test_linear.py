"""Every way to multiply by quantised weights, beside the weights that they stand for."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import glm_engine
from glm_engine.quantization import gpu_linear
from glm_engine.quantization.cpu_linear import (
    Int4OnCPU,
    Int8OnCPU,
    WidenedQuantized,
    activation_levels,
)
from glm_engine.quantization.gpu_linear import DequantizedPerCall, ScaledFloat8, WidenedOnGPU
from glm_engine.quantization.linear import linear_of
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.quantization.weight import QuantizedWeight
from unit.generation.quantization.test_schemes import weights

OUTPUTS, INPUTS = 101, 256


def quantized(kind: str, outputs: int = OUTPUTS, inputs: int = INPUTS) -> QuantizedWeight:
    """A weight, as in ``int4 128`` or ``int8 64 zeros``."""
    name, group, *more = [*kind.split(), "0"][: 2 + ("zeros" in kind)]
    weight, size = weights(outputs, inputs).float(), int(group)
    if not size:
        return SCHEMES[name].quantize(weight)
    groups = -(-inputs // size)
    padded = torch.nn.functional.pad(weight, (0, groups * size - inputs))
    scales = padded.view(outputs, groups, size).abs().amax(2)
    most = {"int4": 7, "int8": 127, "fp8": 448}[name]
    scales /= most
    wide = scales.repeat_interleave(size, 1)[:, :inputs]
    zeros = None
    if more:
        zeros = (torch.arange(outputs * groups).view(outputs, groups) % 7 - 3).to(torch.int8)
        wide_zeros = zeros.repeat_interleave(size, 1)[:, :inputs]
        values = (weight / wide + wide_zeros).round().clamp(-most - 1, most)
    else:
        values = weight / wide
    values = values.to(torch.float8_e4m3fn) if name == "fp8" else values.round().to(torch.int8)
    return QuantizedWeight(values, scales, size, zeros, 4 if name == "int4" else 8)


def inputs_of(rows: int, size: int = INPUTS, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of different sizes, with outliers in a few inputs, as activations have them."""
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, size, generator=generator) * torch.logspace(-2, 2, rows)[:, None]
    x[:, 3] *= 50
    return x.to(dtype)


ON_CPU = [
    (Int8OnCPU, "int8", 2e-4),
    (Int4OnCPU, "int4", 6e-3),
    (Int4OnCPU, "int4 32", 6e-3),
    (Int4OnCPU, "int4 64 zeros", 6e-3),
    *[
        (WidenedQuantized, kind, 1e-5)
        for kind in ("fp8", "int8", "fp8 128", "int8 64 zeros", "int4 16", "fp8 100")
    ],
]
ON_GPU = [
    (WidenedOnGPU, kind, 1e-5)
    for kind in (
        *("int8", "fp8", "int4", "int4 32", "int4 64 zeros", "int8 128 zeros", "fp8 128"),
        "int8 16",
    )
] + [(DequantizedPerCall, "int4 64 zeros", 1e-5), (DequantizedPerCall, "fp8 100", 1e-5)]
Kind = type[Int8OnCPU | Int4OnCPU | WidenedQuantized | WidenedOnGPU | DequantizedPerCall]


@pytest.mark.parametrize("rows", [1, 3, 16, 17, 70])
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("way", "kind", "limit", "dtype"),
    [
        *[(*way, dtype) for way in ON_CPU for dtype in (torch.float32, torch.bfloat16)],
        # Triton's interpreter multiplies matrices of float16, and none of bfloat16.
        *[(*way, dtype) for way in ON_GPU for dtype in (torch.float32, torch.float16)],
    ],
)
def test_a_product_is_that_of_the_weights(
    way: Kind, kind: str, limit: float, dtype: torch.dtype, has_bias: bool, rows: int
) -> None:
    weight, x = quantized(kind), inputs_of(rows, dtype=dtype)
    bias = torch.randn(OUTPUTS).to(dtype) if has_bias else None
    expected = x.double() @ weight.dequantize().double().t()
    if bias is not None:
        expected += bias.double()
    product = way(weight, bias)(x)
    assert product.dtype == dtype and product.shape == (rows, OUTPUTS)
    limit = limit if dtype == torch.float32 else max(limit, 5e-3)
    for own, row in zip(product.double(), expected, strict=True):
        assert (own - row).norm() <= limit * row.norm()


@pytest.mark.parametrize("inputs", [96, 352, 1000])
def test_the_gpus_kernel_takes_inputs_that_are_no_multiple_of_its_tile(inputs: int) -> None:
    for kind in ("int8", "fp8", "int4 32", "int4 1000", "fp8 128"):
        if kind == "int4 32" and inputs % 32:
            continue
        weight, x = quantized(kind, inputs=inputs), inputs_of(5, inputs)
        assert WidenedOnGPU.supports(weight)
        product, expected = WidenedOnGPU(weight)(x), x @ weight.dequantize().t()
        torch.testing.assert_close(
            product, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


def test_the_gpus_kernel_splits_long_inputs_of_a_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    grids = []
    kernel = WidenedOnGPU(quantized("int4", 64, 4096))
    from glm_engine.quantization import gpu_kernels

    run = gpu_kernels._multiply_kernel.run

    def note(*args: object, grid: tuple[int, ...], **options: object) -> object:
        grids.append(grid)
        return run(*args, grid=grid, **options)

    x, weight = inputs_of(2, 4096), quantized("int4", 64, 4096)
    monkeypatch.setattr(gpu_kernels._multiply_kernel, "run", note)
    torch.testing.assert_close(kernel(x), x @ weight.dequantize().t(), rtol=1e-4, atol=1e-2)
    assert grids == [(1, 1, 8)]


def test_a_row_does_not_depend_on_the_others() -> None:
    """So that an answer does not depend on what else is in the batch."""
    way, x = Int8OnCPU(quantized("int8")), inputs_of(40)
    together = way(x)
    for row in (0, 7, 39):
        assert torch.equal(way(x[row : row + 1])[0], together[row])


def test_a_row_of_zeros_stays_zeros() -> None:
    x = torch.zeros(2, INPUTS)
    assert torch.equal(Int8OnCPU(quantized("int8"))(x), torch.zeros(2, OUTPUTS))
    assert torch.equal(ScaledFloat8(quantized("fp8", 96))(x.bfloat16()).float(), torch.zeros(2, 96))


@pytest.mark.parametrize("rows", [1, 33])
def test_fp8_by_fp8_differs_by_the_rounding_of_activations(rows: int) -> None:
    weight = quantized("fp8", 96)
    bias = torch.randn(96).bfloat16()
    x = inputs_of(rows, dtype=torch.bfloat16)
    expected = x.float() @ weight.dequantize().t() + bias.float()
    product = ScaledFloat8(weight, bias)(x)
    assert product.dtype == torch.bfloat16
    for own, row in zip(product.float(), expected, strict=True):
        assert (own - row).norm() <= 0.04 * row.norm()


@pytest.mark.parametrize(
    ("kind", "dtype", "capability", "does"),
    [
        ("fp8", torch.bfloat16, (9, 0), True),
        ("fp8", torch.bfloat16, (8, 9), True),
        ("fp8", torch.bfloat16, (8, 6), False),
        ("fp8", torch.float32, (9, 0), False),
        ("fp8 128", torch.bfloat16, (9, 0), False),
        ("int8", torch.bfloat16, (9, 0), False),
    ],
)
def test_which_gpus_multiply_fp8_by_fp8(
    kind: str, dtype: torch.dtype, capability: tuple[int, int], does: bool
) -> None:
    assert ScaledFloat8.supports(quantized(kind, 96), dtype, capability) is does
    assert not ScaledFloat8.supports(quantized(kind, 101), dtype, capability)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("int8", Int8OnCPU), ("int8 64", WidenedQuantized), ("int8 64 zeros", WidenedQuantized),
        ("int4", Int4OnCPU), ("int4 32 zeros", Int4OnCPU), ("int4 16", WidenedQuantized),
        ("fp8", WidenedQuantized),
    ],
)  # fmt: skip
def test_a_cpu_takes_what_suits_the_weight(kind: str, way: Kind) -> None:
    assert type(linear_of(quantized(kind), torch.float32)) is way


def test_scales_in_16_bits_are_kept_in_16_bits_on_a_gpu() -> None:
    weight = quantized("int4")
    assert gpu_linear._smallest(weight.scales).dtype == torch.bfloat16
    assert gpu_linear._smallest(weight.scales.half().float()).dtype in (
        torch.bfloat16,
        torch.float16,
    )
    exact = replace(weight, scales=weight.scales * 1.0001)
    assert gpu_linear._smallest(exact.scales).dtype == torch.float32


SATURATION = """
import torch
from glm_engine.quantization.cpu_linear import Int8OnCPU, activation_levels
from glm_engine.quantization.weight import QuantizedWeight
weight = QuantizedWeight(torch.full((32, 512), 127, dtype=torch.int8), torch.ones(32, 1), 512)
x = torch.rand(3, 512) + 1
product, expected = Int8OnCPU(weight)(x), x.double() @ weight.dequantize().double().t()
print(activation_levels(), float(((product - expected) / expected).abs().max()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512", "AVX512_E1"])
def test_sums_of_the_largest_weights_do_not_saturate(instructions: str) -> None:
    """On processors without VNNI fbgemm's 16-bit sums would, with activations of 8 bits."""
    root = str(Path(glm_engine.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "FBGEMM_ENABLE_INSTRUCTIONS": instructions}
    ran = subprocess.run(
        [sys.executable, "-c", SATURATION], env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    levels, largest = ran.stdout.split()
    assert float(largest) < 1e-3
    if instructions != "AVX512_E1":
        assert int(levels) == 63
    elif activation_levels() == 127:  # this processor has VNNI
        assert int(levels) == 127
