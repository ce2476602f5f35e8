"""Writes a quantised checkpoint: ``python -m glm_engine.quantize --checkpoint ... --output ...``.

The layout is that of compressed-tensors, which vLLM and LLM Compressor know. What
``GLM_QUANTIZATION`` quantises while loading is quantised, but for the output head, which other
servers expect in bfloat16; serve the result with the same ``GLM_QUANTIZATION`` and the head is
quantised while loading, too.
"""

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from glm_engine.checkpoint import resolve_checkpoint
from glm_engine.quantization.layouts import layout_for, pack
from glm_engine.quantization.schemes import SCHEMES, Scheme
from glm_engine.quantization.weight import QuantizedWeight
from glm_engine.weights import SafetensorsFiles, is_quantizable, model_without_weights

_FILE_BYTES = 4 * 10**9
_INDEX = "model.safetensors.index.json"

logger = logging.getLogger(__name__)


def quantize(
    source: Path, target: Path, scheme: Scheme, importance: Mapping[str, torch.Tensor]
) -> None:
    """Write a checkpoint with quantised weights.

    Args:
        source: checkpoint in bfloat16 or float32.
        target: folder, which must not have weights.
        importance: mean squares of the inputs of linear layers, by their names; may lack any.

    Raises:
        ValueError: the source is quantised already, or the target has weights.
    """
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    layout = layout_for(config)
    if layout is not None:
        raise ValueError(f"{source} is quantised already ({layout.name})")
    if target.exists() and any(target.glob("*.safetensors*")):
        raise ValueError(f"{target} has weights already")
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and ".safetensors" not in path.name and path.name != "config.json":
            shutil.copy(path, target)
    kinds: dict[str, QuantizedWeight] = {}
    _Files(target).write(_tensors(source, scheme, importance, kinds))
    config["quantization_config"] = _configuration(kinds, _ignored(source, kinds))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")


def _tensors(
    source: Path,
    scheme: Scheme,
    importance: Mapping[str, torch.Tensor],
    kinds: dict[str, QuantizedWeight],
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the new checkpoint, one by one; notes in ``kinds`` what was quantised."""
    tensors = SafetensorsFiles(source)
    for name in tensors:
        tensor = tensors[name]
        if not is_quantizable(name) or tensor.ndim != 2:
            yield name, tensor.clone()
            continue
        module = name.removesuffix(".weight")
        weight = scheme.quantize(tensor, importance.get(module))
        kinds[module] = weight
        logger.info("quantised %s (%s)", module, weight.kind)
        scales = weight.scales.to(torch.bfloat16)
        if weight.is_float:
            yield f"{module}.weight", weight.values
            yield f"{module}.weight_scale", weight.scales
        else:
            yield f"{module}.weight_packed", pack(weight.values, weight.bits)
            yield f"{module}.weight_scale", scales
            yield f"{module}.weight_shape", torch.tensor(weight.values.shape)


class _Files:
    """Writes tensors as safetensors files of a few GB, with an index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[list[str]] = []

    def write(self, tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        part: dict[str, torch.Tensor] = {}
        total = size = 0
        for name, tensor in tensors:
            if part and size + tensor.nbytes > _FILE_BYTES:
                self._save(part)
                part, size = {}, 0
            part[name] = tensor.contiguous()
            size += tensor.nbytes
            total += tensor.nbytes
        self._save(part)
        count = len(self._parts)
        names = [f"model-{index:05}-of-{count:05}.safetensors" for index in range(1, count + 1)]
        for index, name in enumerate(names):
            (self._folder / _part_name(index)).rename(self._folder / name)
        where = {own: name for name, part in zip(names, self._parts, strict=True) for own in part}
        content = {"metadata": {"total_size": total}, "weight_map": where}
        (self._folder / _INDEX).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _save(self, part: dict[str, torch.Tensor]) -> None:
        save_file(part, self._folder / _part_name(len(self._parts)), metadata={"format": "pt"})
        self._parts.append(list(part))


def _part_name(index: int) -> str:
    return f"part-{index}.safetensors.tmp"


def _ignored(source: Path, kinds: Mapping[str, Any]) -> list[str]:
    """Linear layers that are not quantised."""
    modules = model_without_weights(source).named_modules()
    return [
        name for name, module in modules
        if isinstance(module, torch.nn.Linear) and name not in kinds
    ]  # fmt: skip


def _configuration(
    weights: Mapping[str, QuantizedWeight], ignored: Sequence[str]
) -> dict[str, Any]:
    """``quantization_config`` in the form of compressed-tensors 0.20."""
    by_kind: dict[str, list[str]] = {}
    for module, weight in weights.items():
        by_kind.setdefault(weight.kind, []).append(module)
    groups = {}
    for index, modules in enumerate(by_kind.values()):
        weight = weights[modules[0]]
        per_group = weight.scales.shape[1] > 1
        groups[f"group_{index}"] = {
            "targets": ["Linear"] if len(by_kind) == 1 else modules,
            "weights": {
                "num_bits": weight.bits,
                "type": "float" if weight.is_float else "int",
                "symmetric": True,
                "strategy": "group" if per_group else "channel",
                "group_size": weight.group_size if per_group else None,
                "dynamic": False,
            },
            # FP8 is multiplied by FP8, with a scale for each row of activations.
            "input_activations": {
                "num_bits": 8, "type": "float", "symmetric": True, "strategy": "token",
                "dynamic": True,
            } if weight.is_float else None,
            "output_activations": None,
        }  # fmt: skip
    is_float = next(iter(weights.values())).is_float
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if is_float else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(ignored),
        "kv_cache_scheme": None,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Quantise a checkpoint; errors end with a message."""
    parser = argparse.ArgumentParser(prog="python -m glm_engine.quantize", description=__doc__)
    parser.add_argument(
        "--checkpoint", default=os.environ.get("GLM_MODEL"), help="folder, or id on the hub"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--scheme", choices=sorted(SCHEMES), required=True)
    parser.add_argument(
        "--calibrate", type=Path, metavar="FOLDER",
        help="of pictures and texts (*.txt, a question in each) that show which inputs matter",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if not given.checkpoint:
        parser.error("give --checkpoint")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        source = resolve_checkpoint(given.checkpoint)
        importance: Mapping[str, torch.Tensor] = {}
        if given.calibrate is not None:
            from glm_engine.quantization.calibration import importance_of_inputs

            importance = importance_of_inputs(source, given.calibrate)
        quantize(source, given.output, SCHEMES[given.scheme], importance)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
