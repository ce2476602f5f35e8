"""How published checkpoints store quantised weights.

``layout_for`` finds the layout of a ``quantization_config``, which ``Layout.read`` then reads one
weight at a time. A module's tensors say how they are stored, whatever patterns of names the
configuration targets or ignores; what the configuration says is checked for what is not supported.
Everything that is not understood is refused by its name.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from glm_engine.quantization.weight import QuantizedWeight

# Reads a tensor of a module by its last name.
Read = Callable[[str], torch.Tensor]

_FP8_BLOCK = 128
# The order of eight 4-bit numbers in an int32 of AWQ's kernels.
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


class Layout(Protocol):
    """One way to store quantised weights.

    Attributes:
        name: as ``quantization_config`` has it, for messages.
        marker: last names of tensors one of which a module has if it is quantised.
        companions: last names of the other tensors of a quantised weight.
        ignored: last names of tensors that say how to quantise activations and the KV cache. These
            stay in more bits here.
    """

    name: str
    markers: tuple[str, ...]
    companions: tuple[str, ...]
    ignored: tuple[str, ...]

    def read(self, read: Read, names: frozenset[str], shape: torch.Size) -> QuantizedWeight:
        """Read a weight.

        Args:
            names: last names of the module's tensors.
            shape: (outputs, inputs) of the weight.

        Raises:
            ValueError: it is not stored as the layout has it.
        """
        ...


class CompressedTensors:
    """``compressed-tensors``, as LLM Compressor and ``glm_engine.quantize`` write it.

    FP8 (e4m3) by tensor, channel, group or block; int8 and int4 by tensor, channel or group,
    symmetric or not, packed into int32 or not.
    """

    name = "compressed-tensors"
    markers: tuple[str, ...] = ("weight_scale",)
    companions: tuple[str, ...] = ("weight", "weight_packed", "weight_zero_point", "weight_shape")
    ignored: tuple[str, ...] = (
        "input_scale", "input_zero_point", "output_scale", "output_zero_point", "k_scale",
        "v_scale", "q_scale",
    )  # fmt: skip
    _FORMATS = (
        "pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision",
    )  # fmt: skip
    _STRATEGIES = ("tensor", "channel", "group", "block")

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check what the configuration says of weights; raises ValueError."""
        _refuse_unless(config, "format", self._FORMATS)
        for key in ("sparsity_config", "transform_config", "moe_sparsity_config"):
            if config.get(key):
                raise ValueError(f"quantization_config.{key} is not supported")
        groups = config.get("config_groups")
        if not isinstance(groups, Mapping) or not groups:
            raise ValueError("quantization_config.config_groups is not an object with groups")
        for name, group in groups.items():
            self._check_group(f"quantization_config.config_groups.{name}", group)

    def _check_group(self, place: str, group: Any) -> None:
        if not isinstance(group, Mapping):
            raise ValueError(f"{place} is not an object")
        if group.get("format") is not None:
            _refuse_unless(group, "format", self._FORMATS, place)
        weights = group.get("weights")
        if weights is None:
            return
        place += ".weights"
        if weights.get("actorder") == "group":
            raise ValueError(f"{place}.actorder='group' is not supported")
        _refuse_unless(weights, "strategy", self._STRATEGIES, place)
        _refuse_unless(weights, "type", ("int", "float"), place)
        _refuse_unless(weights, "num_bits", (8,) if weights["type"] == "float" else (4, 8), place)
        if weights.get("dynamic"):
            raise ValueError(f"{place}.dynamic={weights['dynamic']!r} is not supported")

    def read(self, read: Read, names: frozenset[str], shape: torch.Size) -> QuantizedWeight:
        """See ``Layout``."""
        outputs, inputs = shape
        bits = 8
        if "weight_packed" in names:
            packed = read("weight_packed")
            bits = packed.shape[1] * 32 // inputs
            if packed.dtype != torch.int32 or bits not in (4, 8):
                raise ValueError(f"weight_packed is {_kind(packed)}, which is not 4 or 8 bits")
            values = _unpacked(packed, bits)[:, :inputs]
        else:
            values = read("weight")
            if values.dtype not in (torch.int8, torch.float8_e4m3fn):
                raise ValueError(f"weight is {_kind(values)}, not int8 or float8_e4m3fn")
        if values.shape != shape:
            raise ValueError(f"the weight is {_kind(values)}, and the model's {tuple(shape)}")
        scales, size = _of_groups(read("weight_scale").float(), shape)
        zeros = None
        if "weight_zero_point" in names:
            stored = read("weight_zero_point")
            if stored.dtype == torch.int32:  # packed along the outputs
                stored = _unpacked(stored.t(), bits)[:, :outputs].t()
            zeros, _ = _of_groups(stored.to(torch.int8), shape)
            zeros = zeros if zeros.any() else None
        return QuantizedWeight(values, scales, size, zeros, bits)


class BlockFloat8:
    """``fp8`` of transformers, DeepSeek and Qwen: FP8 (e4m3) in blocks of 128 x 128."""

    name = "fp8"
    markers: tuple[str, ...] = ("weight_scale_inv",)
    companions: tuple[str, ...] = ("weight",)
    ignored: tuple[str, ...] = ("input_scale", "activation_scale")

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check what the configuration says; raises ValueError."""
        block = config.get("weight_block_size")
        if block is not None and list(block) != [_FP8_BLOCK, _FP8_BLOCK]:
            raise ValueError(f"quantization_config.weight_block_size={block!r} is not supported")

    def read(self, read: Read, names: frozenset[str], shape: torch.Size) -> QuantizedWeight:
        """See ``Layout``."""
        values = read("weight")
        if values.dtype != torch.float8_e4m3fn or values.shape != shape:
            raise ValueError(f"weight is {_kind(values)}, not float8_e4m3fn {tuple(shape)}")
        return QuantizedWeight(values, *_of_groups(read("weight_scale_inv").float(), shape))


class AWQ:
    """``awq`` of AutoAWQ, version ``gemm``: 4 bits in groups, not symmetric."""

    name = "awq"
    markers: tuple[str, ...] = ("qweight",)
    companions: tuple[str, ...] = ("qzeros", "scales")
    ignored: tuple[str, ...] = ()

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check what the configuration says; raises ValueError."""
        _refuse_unless(config, "bits", (4,))
        _refuse_unless(config, "version", ("gemm", "GEMM", None))

    def read(self, read: Read, names: frozenset[str], shape: torch.Size) -> QuantizedWeight:
        """See ``Layout``."""
        scales = read("scales").float().t().contiguous()
        values = self._outputs_first(read("qweight"))
        zeros = self._outputs_first(read("qzeros")) if "qzeros" in names else None
        return QuantizedWeight(values, scales, _group_size(values, scales, shape), zeros, 4)

    @staticmethod
    def _outputs_first(packed: torch.Tensor) -> torch.Tensor:
        unpacked = _unpacked(packed, 4)
        order = torch.tensor(_AWQ_ORDER, device=packed.device)
        ordered = unpacked.view(len(unpacked), -1, 8)[:, :, order].flatten(1)
        return ordered.t().contiguous()


class GPTQ:
    """``gptq`` of AutoGPTQ and GPTQModel: 4 or 8 bits in groups, in the order of the inputs."""

    name = "gptq"
    markers: tuple[str, ...] = ("qweight",)
    companions: tuple[str, ...] = ("qzeros", "scales", "g_idx")
    ignored: tuple[str, ...] = ()

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check what the configuration says; raises ValueError."""
        _refuse_unless(config, "bits", (4, 8))
        _refuse_unless(config, "checkpoint_format", ("gptq", "gptq_v2", None))
        self._bits: int = config["bits"]
        # The first version stores one less than the zero point.
        self._zero_offset = 0 if config.get("checkpoint_format") == "gptq_v2" else 1

    def read(self, read: Read, names: frozenset[str], shape: torch.Size) -> QuantizedWeight:
        """See ``Layout``."""
        scales = read("scales").float().t().contiguous()
        values = _unpacked(read("qweight").t(), self._bits).contiguous()
        zeros = None
        if "qzeros" in names:
            stored = _unpacked(read("qzeros"), self._bits).t().to(torch.int16) + self._zero_offset
            if self._bits == 8 and stored.max() > 127:
                raise ValueError("qzeros has a zero point of 256")
            zeros = stored.to(torch.int8).contiguous() if stored.any() else None
        size = _group_size(values, scales, shape)
        if "g_idx" in names:
            order = read("g_idx").cpu()
            if not torch.equal(order.long(), torch.arange(shape[1]) // size):
                raise ValueError("g_idx is not in the order of the inputs (desc_act)")
        return QuantizedWeight(values, scales, size, zeros, self._bits)


_LAYOUTS: dict[str, Callable[[Mapping[str, Any]], Layout]] = {
    "compressed-tensors": CompressedTensors,
    "fp8": BlockFloat8,
    "awq": AWQ,
    "gptq": GPTQ,
}


def layout_for(config: Mapping[str, Any]) -> Layout | None:
    """The layout of a checkpoint's ``config.json``; None if its weights are not quantised.

    Raises:
        ValueError: it is not supported; the message has the key of ``quantization_config``.
    """
    # Some tools write it among what is the language model's.
    own = config.get(
        "quantization_config", config.get("text_config", {}).get("quantization_config")
    )
    if own is None:
        return None
    if not isinstance(own, Mapping):
        raise ValueError("quantization_config is not an object")
    _refuse_unless(own, "quant_method", tuple(_LAYOUTS))
    return _LAYOUTS[own["quant_method"]](own)


def pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """(rows, columns) int8 of 4 or 8 bits -> (rows, columns * bits / 32) int32.

    As compressed-tensors does: each value plus half of the range, the first in the lowest bits.
    """
    count = 32 // bits
    columns = -(-values.shape[1] // count) * count
    unsigned = torch.zeros(len(values), columns, dtype=torch.int32, device=values.device)
    unsigned[:, : values.shape[1]] = values.int() + (1 << bits - 1)
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=values.device)
    shifted = unsigned.view(len(values), -1, count) << shifts
    return shifted.sum(2, dtype=torch.int32)


def _unpacked(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The reverse of ``pack``, padding included."""
    numbers = packed.contiguous().view(torch.uint8)
    if bits == 4:
        numbers = torch.stack([numbers & 15, numbers >> 4], -1).flatten(1)
    half = 1 << bits - 1
    return (numbers ^ half).view(torch.int8) if bits == 8 else numbers.view(torch.int8) - half


def _of_groups(stored: torch.Tensor, shape: torch.Size) -> tuple[torch.Tensor, int]:
    """(outputs, groups) and their size, of what is stored by tensor, channel, group or block."""
    outputs, inputs = shape
    if stored.numel() == 1:
        return stored.reshape(1, 1).expand(outputs, 1).contiguous(), inputs
    if stored.ndim == 1 and len(stored) == outputs:
        return stored[:, None].contiguous(), inputs
    if stored.ndim == 2 and len(stored) == outputs and _divides(stored.shape[1], inputs):
        return stored.contiguous(), inputs // stored.shape[1]
    if tuple(stored.shape) == tuple(-(-size // _FP8_BLOCK) for size in shape):
        return stored.repeat_interleave(_FP8_BLOCK, 0)[:outputs].contiguous(), _FP8_BLOCK
    raise ValueError(
        f"{_kind(stored)} of scales or zero points does not fit a weight of {tuple(shape)}"
    )


def _group_size(values: torch.Tensor, scales: torch.Tensor, shape: torch.Size) -> int:
    if values.shape != shape:
        raise ValueError(f"the weight is {_kind(values)}, and the model's {tuple(shape)}")
    if len(scales) != shape[0] or not _divides(scales.shape[1], shape[1]):
        raise ValueError(f"{_kind(scales)} of scales does not fit a weight of {tuple(shape)}")
    return shape[1] // scales.shape[1]


def _divides(groups: int, inputs: int) -> bool:
    return groups > 0 and inputs % groups == 0


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _refuse_unless(
    config: Mapping[str, Any],
    key: str,
    choices: tuple[Any, ...],
    place: str = "quantization_config",
) -> None:
    value = config.get(key)
    if value not in choices:
        known = ", ".join(str(choice) for choice in choices if choice is not None)
        raise ValueError(f"{place}.{key}={value!r} is not supported, only {known}")
