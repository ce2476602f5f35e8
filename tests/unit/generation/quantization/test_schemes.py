"""What quantising does to weights."""

import pytest
import torch

from glm_engine.quantization.schemes import SCHEMES, Int4, Int8
from glm_engine.quantization.weight import QuantizedWeight, concatenate


def weights(
    outputs: int = 96, inputs: int = 256, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """Normal ones, and among a thousand an outlier that is ten times as large."""
    generator = torch.Generator().manual_seed(outputs + inputs)
    normal = torch.randn(outputs, inputs, generator=generator) * 0.02
    outliers = torch.rand(outputs, inputs, generator=generator) < 1e-3
    return torch.where(outliers, 10 * normal, normal).to(dtype)


def error(quantized: QuantizedWeight, weight: torch.Tensor) -> float:
    """Relative, of all weights together."""
    difference = quantized.dequantize() - weight.float()
    return float(difference.norm() / weight.float().norm())


@pytest.mark.parametrize(
    ("name", "most", "nbytes"),
    [
        ("int8", 0.02, 96 * 256 + 2 * 96),
        ("fp8", 0.03, 96 * 256 + 2 * 96),
        ("int4", 0.14, 96 * 128 + 2 * 96 * 2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_error_and_size(name: str, most: float, nbytes: int, dtype: torch.dtype) -> None:
    weight = weights(dtype=dtype)
    quantized = SCHEMES[name].quantize(weight)
    assert 0 < error(quantized, weight) < most
    assert quantized.nbytes == nbytes == SCHEMES[name].nbytes(96, 256)


@pytest.mark.parametrize("name", SCHEMES)
def test_scales_are_those_of_bfloat16_and_zeros_stay_zeros(name: str) -> None:
    weight = weights()
    weight[3] = 0
    quantized = SCHEMES[name].quantize(weight)
    assert torch.equal(quantized.scales.bfloat16().float(), quantized.scales)
    assert torch.equal(quantized.dequantize()[3], torch.zeros(256))
    assert quantized.dequantize().isfinite().all()


@pytest.mark.parametrize("name", SCHEMES)
def test_slices_do_not_change_the_result(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SCHEMES[name].quantize(weights())
    monkeypatch.setattr("glm_engine.quantization.schemes._SLICE", 7 * 256)
    monkeypatch.setattr("glm_engine.quantization.weight._SLICE", 5 * 256)
    parts = SCHEMES[name].quantize(weights())
    assert torch.equal(parts.dequantize(), whole.dequantize())


@pytest.mark.parametrize(("inputs", "kind"), [
    (256, "int4, groups of 128"), (192, "int4, groups of 64"), (96, "int4, groups of 32"),
    (104, "int8"),
])  # fmt: skip
def test_groups_divide_the_inputs_or_8_bits_are_taken(inputs: int, kind: str) -> None:
    quantized = Int4().quantize(weights(inputs=inputs))
    assert quantized.kind == kind
    assert quantized.nbytes == Int4().nbytes(96, inputs)


def test_searched_scales_are_better_than_those_of_the_largest_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = weights()
    searched = error(Int4().quantize(weight), weight)
    monkeypatch.setattr(Int4, "_SHARES", (1.0,))
    assert searched < 0.97 * error(Int4().quantize(weight), weight)


def test_important_inputs_get_the_smaller_error() -> None:
    weight = weights()
    importance = torch.ones(256)
    importance[10:20] = 1000

    def of_important(quantized: QuantizedWeight) -> float:
        return float((quantized.dequantize() - weight.float())[:, 10:20].norm())

    assert of_important(Int4().quantize(weight, importance)) < 0.9 * of_important(
        Int4().quantize(weight)
    )


def test_the_head_of_int4_has_8_bits() -> None:
    assert {name: scheme.head.name for name, scheme in SCHEMES.items()} == {
        "fp8": "fp8", "int8": "int8", "int4": "int8",
    }  # fmt: skip


def test_only_weights_of_one_kind_are_put_together() -> None:
    both = concatenate([Int8().quantize(weights(5)), Int8().quantize(weights(9))])
    assert torch.equal(both.rows(5, 14).dequantize(), Int8().quantize(weights(9)).dequantize())
    with pytest.raises(ValueError, match="int4, groups of 128, int8"):
        concatenate([Int8().quantize(weights()), Int4().quantize(weights())])


def test_zero_points_of_some_are_kept() -> None:
    plain = Int4().quantize(weights(3))
    shifted = QuantizedWeight(
        plain.values, plain.scales, 128, torch.full((3, 2), 2, dtype=torch.int8), 4
    )
    both = concatenate([plain, shifted]).dequantize()
    assert torch.equal(both[:3], plain.dequantize())
    assert torch.equal(both[3:], plain.dequantize() - 2 * plain.scales.repeat_interleave(128, 1))
