"""The weights of a checkpoint, read one at a time and quantised as they are read.

So no more is in memory than what the model keeps, and the weight that is being read.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForImageTextToText

from glm_engine.quantization.layouts import Layout
from glm_engine.quantization.schemes import Scheme
from glm_engine.quantization.weight import QuantizedWeight, concatenate

# What a linear layer multiplies by.
Matrix = torch.Tensor | QuantizedWeight
_M = TypeVar("_M", torch.Tensor, QuantizedWeight)

HEAD, EMBEDDINGS = "lm_head", "model.language_model.embed_tokens"
_MOST_NAMES = 5


class SafetensorsFiles(Mapping[str, torch.Tensor]):
    """The tensors in a folder's safetensors files by their names, read when they are asked for.

    A file is mapped no longer than its tensors are in use: the pages that have been read do not
    add up to the whole checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        """List them.

        Raises:
            FileNotFoundError: there are no such files.
        """
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._files.update(dict.fromkeys(file.keys(), path))
        if not self._files:
            raise FileNotFoundError(f"the checkpoint has no *.safetensors (looked in {folder})")

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read one; the caller must not modify it."""
        with safe_open(self._files[name], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        """Their names."""
        return iter(self._files)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._files)


def is_quantizable(name: str) -> bool:
    """Whether a weight is one of the language model's linear layers, without the output head."""
    return name.startswith("model.language_model.layers.") and name.endswith("_proj.weight")


def kept_bytes(
    name: str, shape: Sequence[int], itemsize: int, dtype: torch.dtype, scheme: Scheme | None
) -> int:
    """Bytes that ``Weights`` keeps of a tensor that the checkpoint does not have quantised.

    Args:
        itemsize: bytes of a number in the checkpoint.
        dtype: of weights that are not quantised.
        scheme: of those that are.
    """
    if scheme is not None and (name == f"{HEAD}.weight" or is_quantizable(name)):
        return (scheme if is_quantizable(name) else scheme.head).nbytes(*shape)
    if name == f"{EMBEDDINGS}.weight":
        return math.prod(shape) * min(itemsize, dtype.itemsize)
    return math.prod(shape) * dtype.itemsize


def model_without_weights(config: Any) -> Any:
    """``Glm4vForConditionalGeneration`` without memory for its weights.

    Args:
        config: of transformers, or the folder that has ``config.json``.
    """
    if isinstance(config, Path):
        config = AutoConfig.from_pretrained(config)
    make: Any = AutoModelForImageTextToText
    with torch.device("meta"):
        model = make.from_config(config, dtype=torch.bfloat16).eval()
    # What is computed from the configuration is not among the weights.
    text, visual = model.model.language_model, model.model.visual
    text.rotary_emb = type(text.rotary_emb)(config.text_config)
    visual.rotary_pos_emb = type(visual.rotary_pos_emb)(config.vision_config)
    return model


class Weights:
    """Reads weights in the form in which the model keeps them.

    Attributes:
        dtype, device: of weights that are not quantised.
        num_bytes: of all that were read.
        kinds: types of the quantised weights that were read, as in ``int4, groups of 128``.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        model: Any,
        *,
        dtype: torch.dtype,
        device: torch.device,
        layout: Layout | None = None,
        scheme: Scheme | None = None,
    ) -> None:
        """Check that they are the model's.

        Args:
            tensors: by their names in the checkpoint.
            model: of which they are; it may be without weights.
            dtype: of weights that are not quantised.
            layout: how the checkpoint stores quantised weights.
            scheme: for matrices that are not quantised in the checkpoint.

        Raises:
            ValueError: weights are missing, or there are others; the message has their names.
        """
        self._tensors = tensors
        self.dtype, self.device = dtype, device
        self._layout, self._scheme = layout, scheme
        self._shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        self._tied = bool(model.config.tie_word_embeddings)
        self._parts: dict[str, set[str]] = {}  # last names of each module's tensors
        for name in tensors:
            module, _, last = name.rpartition(".")
            self._parts.setdefault(module, set()).add(last)
        self._check_names()
        self.num_bytes = 0
        self.kinds: dict[str, None] = {}

    def _check_names(self) -> None:
        missing = [name for name in self._shapes if not self._is_stored(name)]
        if missing:
            raise ValueError(f"the checkpoint lacks weights: {_some(missing)}")
        unexpected = [name for name in self._tensors if not self._knows(name)]
        if unexpected:
            raise ValueError(f"the model has no such weights: {_some(unexpected)}")

    def _is_stored(self, name: str) -> bool:
        module, _, last = name.rpartition(".")
        is_tied = self._tied and module == HEAD
        return name in self._tensors or is_tied or (last == "weight" and self._is_quantized(module))

    def _knows(self, name: str) -> bool:
        module, _, last = name.rpartition(".")
        if name in self._shapes or self._layout is None:
            return name in self._shapes
        if last in self._layout.ignored:
            return True
        is_part = last in (*self._layout.markers, *self._layout.companions)
        return is_part and self._is_quantized(module) and f"{module}.weight" in self._shapes

    def _is_quantized(self, module: str) -> bool:
        layout = self._layout
        return layout is not None and not self._parts.get(module, set()).isdisjoint(layout.markers)

    def has(self, name: str) -> bool:
        """Whether the model has a weight of this name."""
        return name in self._shapes

    def fill(self, module: Any, prefix: str) -> None:
        """Give a module without weights those whose names begin with ``prefix``."""
        names = list(module.state_dict())
        module.load_state_dict({name: self.tensor(prefix + name) for name in names}, assign=True)

    def tensor(self, name: str, *, or_smaller: bool = False) -> torch.Tensor:
        """A weight that is not quantised, or not any more.

        Args:
            or_smaller: whether the dtype of the checkpoint is kept where it is smaller.
        """
        module = name.rpartition(".")[0]
        if self._is_quantized(module) and name.endswith(".weight"):
            stored = self._read_quantized(module).dequantize(self.dtype)
        else:
            stored = self._read(name)
        dtype = self.dtype
        if or_smaller and stored.is_floating_point() and stored.itemsize < dtype.itemsize:
            dtype = stored.dtype
        # What stayed in a mapped file would be read again whenever memory is short.
        copy = isinstance(self._tensors, SafetensorsFiles)
        return self._count(stored.to(self.device, dtype, copy=copy))

    def matrix(self, *modules: str, rows: int | None = None) -> Matrix:
        """The weights of linear layers with the same input: all their outputs.

        Args:
            rows: number of outputs to keep, from the first on; None for all.
        """
        quantized = [self._is_quantized(module) for module in modules]
        if any(quantized) and not all(quantized) and self._scheme is None:
            raise ValueError(f"only some of {', '.join(modules)} are quantised")
        if not any(quantized) and self._scheme is None:
            tensors = [self._read(f"{module}.weight") for module in modules]
            parts = [tensor[:rows].to(self.device, self.dtype) for tensor in tensors]
            return self._count(torch.cat(parts) if len(parts) > 1 else parts[0])
        weights = [
            self._read_quantized(module) if known else self._quantize(module)
            for module, known in zip(modules, quantized, strict=True)
        ]
        try:
            weight = concatenate(weights)
        except ValueError as error:
            raise ValueError(f"{', '.join(modules)}: {error}") from None
        self.kinds[weight.kind] = None
        return self._count(weight if rows is None else weight.rows(0, rows))

    def _quantize(self, module: str) -> QuantizedWeight:
        scheme = self._scheme
        assert scheme is not None
        weight = self._read(f"{module}.weight").to(self.device)
        return (scheme.head if module == HEAD else scheme).quantize(weight)

    def _read(self, name: str) -> torch.Tensor:
        if name == f"{HEAD}.weight" and self._tied and name not in self._tensors:
            name = f"{EMBEDDINGS}.weight"
        tensor = self._tensors[name].detach()
        if tensor.shape != self._shapes[name]:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)} in the checkpoint, and "
                f"{tuple(self._shapes[name])} in the model of its config.json"
            )
        return tensor

    def _read_quantized(self, module: str) -> QuantizedWeight:
        assert self._layout is not None
        try:
            return self._layout.read(
                lambda last: self._tensors[f"{module}.{last}"].to(self.device),
                frozenset(self._parts[module]),
                self._shapes[f"{module}.weight"],
            )
        except ValueError as error:
            raise ValueError(f"{module} ({self._layout.name}): {error}") from None

    def _count(self, weight: _M) -> _M:
        self.num_bytes += weight.nbytes
        return weight


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMES
    shown = ", ".join(sorted(names)[:_MOST_NAMES])
    return f"{shown} and {rest} more" if rest > 0 else shown
