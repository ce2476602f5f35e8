"""Published layouts: what is read, beside the weights that they stand for."""

from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

from glm_engine.quantization.layouts import Layout, layout_for, pack
from glm_engine.quantization.weight import QuantizedWeight
from unit.generation.quantization.test_schemes import weights

OUTPUTS, INPUTS = 136, 256
SHAPE = torch.Size([OUTPUTS, INPUTS])


def config(**weights: Any) -> dict[str, Any]:
    """As LLM Compressor writes it."""
    form = weights.pop("format")
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    own = {
        "quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*visual.*"], "quantization_status": "compressed",
    }  # fmt: skip
    return {"quantization_config": own}


def read(layout: Layout | None, tensors: dict[str, torch.Tensor]) -> QuantizedWeight:
    assert layout is not None
    known = {*layout.markers, *layout.companions, *layout.ignored}
    assert set(tensors) <= known
    return layout.read(tensors.__getitem__, frozenset(tensors), SHAPE)


INT4 = {"format": "pack-quantized", "num_bits": 4, "type": "int"}
FP8 = {"format": "float-quantized", "num_bits": 8, "type": "float"}


@pytest.mark.parametrize(
    ("arguments", "scales", "kind"),
    [
        ({**FP8, "strategy": "tensor"}, (1,), "fp8"),
        ({**FP8, "strategy": "channel"}, (OUTPUTS, 1), "fp8"),
        (
            {**FP8, "strategy": "block", "block_structure": [128, 128]}, (2, 2),
            "fp8, groups of 128",
        ),
        ({"format": "int-quantized", "num_bits": 8, "type": "int", "strategy": "channel"},
         (OUTPUTS, 1), "int8"),
        ({**INT4, "num_bits": 8, "strategy": "channel"}, (OUTPUTS, 1), "int8"),
        ({**INT4, "num_bits": 8, "strategy": "group", "group_size": 128}, (OUTPUTS, 2),
         "int8, groups of 128"),
        ({**INT4, "strategy": "group", "group_size": 32}, (OUTPUTS, 8), "int4, groups of 32"),
        ({**INT4, "strategy": "group", "group_size": 64, "symmetric": False}, (OUTPUTS, 4),
         "int4, groups of 64"),
        ({**INT4, "strategy": "channel", "symmetric": False}, (OUTPUTS, 1), "int4"),
    ],
)  # fmt: skip
def test_compressed_tensors_is_read_as_its_library_does(
    arguments: dict[str, Any], scales: tuple[int, ...], kind: str
) -> None:
    weight = weights(OUTPUTS, INPUTS).float()
    most = 448 if arguments["type"] == "float" else 2 ** (arguments["num_bits"] - 1) - 1
    torch.manual_seed(0)
    own = dict(arguments)
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(**{key: own[key] for key in own if key != "format"}),
    )
    state = {
        "weight": weight,
        "weight_scale": weight.abs().max() / most * (0.8 + 0.2 * torch.rand(scales)),
    }
    if not own.get("symmetric", True):
        state["weight_zero_point"] = torch.randint(-5, 5, scales).to(torch.int8)
    compressor = BaseCompressor.get_value_from_registry(own["format"])
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(stored, scheme)["weight"]
    assert (expected - weight).norm() < 0.5 * weight.norm() or own["num_bits"] == 4
    found = read(layout_for(config(**arguments)), stored)
    assert found.kind == kind
    torch.testing.assert_close(found.dequantize(), expected, rtol=1e-6, atol=0)


def test_what_is_packed_is_packed_as_the_library_does() -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    for bits in (4, 8):
        half = 2 ** (bits - 1)
        values = torch.randint(-half, half, (5, 72)).to(torch.int8)
        assert torch.equal(pack(values, bits), pack_to_int32(values, bits))


def test_fp8_of_transformers_is_read() -> None:
    layout = layout_for(
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    )
    values = weights(OUTPUTS, INPUTS).float().mul(1000).to(torch.float8_e4m3fn)
    scales = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    found = read(layout, {"weight": values, "weight_scale_inv": scales}).dequantize()
    assert torch.equal(found[:128, :128], values[:128, :128].float())
    assert torch.equal(found[128:, 128:], 4 * values[128:, 128:].float())


def packed_along_columns(numbers: torch.Tensor, bits: int, order: tuple[int, ...]) -> torch.Tensor:
    """Numbers from 0 on, one by one, as the kernels of AutoAWQ and AutoGPTQ define it."""
    count = 32 // bits
    rows, columns = numbers.shape
    packed = torch.zeros(rows, columns // count, dtype=torch.int64)
    for column in range(columns // count):
        for place, source in enumerate(order):
            packed[:, column] |= numbers[:, column * count + source].long() << bits * place
    return torch.where(packed >= 2**31, packed - 2**32, packed).int()


def test_awq_is_read() -> None:
    layout = layout_for(
        {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}}
    )
    torch.manual_seed(1)
    numbers, zeros = torch.randint(0, 16, (INPUTS, OUTPUTS)), torch.randint(0, 16, (2, OUTPUTS))
    scales = torch.rand(2, OUTPUTS).half()
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    found = read(
        layout,
        {
            "qweight": packed_along_columns(numbers, 4, order),
            "qzeros": packed_along_columns(zeros, 4, order),
            "scales": scales,
        },
    )
    expected = (numbers - zeros.repeat_interleave(128, 0)) * scales.float().repeat_interleave(
        128, 0
    )
    assert found.kind == "int4, groups of 128"
    assert torch.equal(found.dequantize(), expected.t())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_is_read(bits: int, version: str) -> None:
    layout = layout_for(
        {
            "quantization_config": {
                "quant_method": "gptq",
                "bits": bits,
                "checkpoint_format": version,
            }
        }
    )
    torch.manual_seed(2)
    most = 2**bits
    numbers = torch.randint(0, most, (INPUTS, OUTPUTS))
    zeros = torch.randint(1, most, (4, OUTPUTS))
    scales = torch.rand(4, OUTPUTS).half()
    order = tuple(range(32 // bits))
    stored = {
        "qweight": packed_along_columns(numbers.t(), bits, order).t().contiguous(),
        "qzeros": packed_along_columns(zeros - int(version == "gptq"), bits, order),
        "scales": scales,
        "g_idx": (torch.arange(INPUTS) // 64).int(),
    }
    found = read(layout, stored)
    expected = (numbers - zeros.repeat_interleave(64, 0)) * scales.float().repeat_interleave(64, 0)
    torch.testing.assert_close(found.dequantize(), expected.t(), rtol=1e-6, atol=0)
    stored["g_idx"] = stored["g_idx"].flip(0)
    with pytest.raises(ValueError, match=r"g_idx .* \(desc_act\)"):
        read(layout, stored)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"quant_method": "exl3"}, "quant_method='exl3' is not supported, only compressed-tensors"),
        ({}, "quantization_config.quant_method=None"),
        ({"quant_method": "awq", "bits": 3}, "quantization_config.bits=3"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version='gemv'"),
        ({"quant_method": "gptq", "bits": 2}, "quantization_config.bits=2"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"weight_block_size=\[64, 64\]"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"},
         "format='nvfp4-pack-quantized' is not supported, only pack-quantized"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"},
         "config_groups is not an object"),
        ([], "quantization_config is not an object"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(own: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layout_for({"quantization_config": own})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_bits": 3}, "group_0.weights.num_bits=3 is not supported, only 4, 8"),
        ({"type": "float"}, "group_0.weights.num_bits=4 is not supported, only 8"),
        ({"strategy": "tensor_group"}, "group_0.weights.strategy='tensor_group'"),
        ({"actorder": "group"}, "group_0.weights.actorder='group'"),
        ({"dynamic": True}, "group_0.weights.dynamic=True"),
    ],
)
def test_weights_in_a_form_that_is_not_understood_are_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        layout_for(config(**{**INT4, "strategy": "group", "group_size": 128, **changes}))


@pytest.mark.parametrize("key", ["sparsity_config", "transform_config"])
def test_what_would_change_the_weights_is_refused_by_name(key: str) -> None:
    own = config(**INT4, strategy="channel")
    own["quantization_config"][key] = {"format": "sparse-24-bitmask"}
    with pytest.raises(ValueError, match=f"quantization_config.{key} is not supported"):
        layout_for(own)


def test_a_checkpoint_that_is_not_quantised_has_no_layout() -> None:
    assert layout_for({}) is None and layout_for({"quantization_config": None}) is None


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(OUTPUTS, INPUTS)}, "weight is float32"),
        ({"weight": torch.zeros(OUTPUTS, 200, dtype=torch.int8)}, r"int8 \(136, 200\)"),
        ({"weight_packed": torch.zeros(OUTPUTS, 24, dtype=torch.int32)}, "not 4 or 8 bits"),
        ({"weight": torch.zeros(OUTPUTS, INPUTS, dtype=torch.int8),
          "weight_scale": torch.ones(OUTPUTS, 7)}, r"float32 \(136, 7\) of scales"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(
    tensors: dict[str, torch.Tensor], message: str
) -> None:
    layout = layout_for(config(**INT4, strategy="channel"))
    with pytest.raises(ValueError, match=message):
        read(layout, {"weight_scale": torch.ones(OUTPUTS, 1), **tensors})
