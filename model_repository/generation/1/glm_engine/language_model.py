"""The language model's forward pass over one flat batch of tokens of many requests.

It is our own, for speed: projections of the same input are one matrix product, and no modules are
called. Same arithmetic as ``Glm4vTextModel`` in transformers 5.23.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from glm_engine.batch import Batch
from glm_engine.linear import Linear
from glm_engine.operations import (
    Attend,
    CPUOperations,
    GPUOperations,
    Operations,
    Rotary,
    as_array,
)
from glm_engine.quantization.linear import linear_of
from glm_engine.weights import EMBEDDINGS, HEAD, Weights

# Up to this number of tokens and bytes of weights, a decode step on a CPU is one compiled call: it
# saves overhead, but oneDNN multiplies faster.
COMPILED_ROWS, _COMPILED_BYTES = 8, 256 * 2**20


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer, with norms in the form of the operations.

    Attributes:
        next_norm: the first norm of the next layer, or the final norm.
    """

    qkv: Linear
    output: Linear
    after_attention_norm: Any
    before_mlp_norm: Any
    gate_up: Linear
    down: Linear
    after_mlp_norm: Any
    next_norm: Any


class LanguageModel:
    """Decoder layers, final norm and output head.

    Attributes:
        decodes_in_one_call: whether a step of a few tokens is one compiled call, as it is for small
            models on a CPU whose weights are not quantised.
        matmul: what multiplies by the weights of the layers.
        num_layers, num_heads, num_kv_heads, head_dim, hidden_size: the checkpoint's.
        rotary: its M-RoPE.
    """

    def __init__(
        self,
        model: Any,
        weights: Weights,
        num_tokens: int,
        operations: Operations,
        max_len: int,
    ) -> None:
        """Read the weights, layer by layer.

        Args:
            model: ``Glm4vForConditionalGeneration``, which may be without weights; for its
                configuration and rotary embedding.
            weights: its weights.
            num_tokens: rows of the vocabulary that are tokens; the rest is padding.
            operations: of the device.
            max_len: upper bound of all positions.

        Raises:
            ValueError: the checkpoint has an unsupported feature.
        """
        text: Any = model.model.language_model
        config = model.config.get_text_config()
        if config.hidden_act != "silu":
            raise ValueError(f"hidden_act {config.hidden_act!r} is not supported, only 'silu'")
        self.num_layers: int = config.num_hidden_layers
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.hidden_size: int = config.hidden_size
        self.head_dim: int = text.layers[0].self_attn.head_dim
        self._operations = operations
        self._embeddings = weights.tensor(f"{EMBEDDINGS}.weight", or_smaller=True)
        norms = [
            weights.tensor(f"{_layer_name(index)}.input_layernorm.weight")
            for index in range(self.num_layers)
        ]
        norms.append(weights.tensor("model.language_model.norm.weight"))
        self._first_norm = operations.weight(norms[0])
        size = weights.dtype.itemsize * sum(own.numel() for own in text.layers.parameters())
        linear = partial(
            linear_of, dtype=weights.dtype, gpu_kernels=isinstance(operations, GPUOperations)
        )
        taken: list[dict[str, Any]] = []
        self._layers: list[_Layer] = []
        for index, next_norm in enumerate(norms[1:]):
            layer = _read_layer(weights, _layer_name(index))
            self._layers.append(
                _Layer(
                    qkv=linear(layer["qkv"], bias=layer["qkv_bias"]),
                    output=linear(layer["output"]),
                    after_attention_norm=operations.weight(layer["after_attention_norm"]),
                    before_mlp_norm=operations.weight(layer["before_mlp_norm"]),
                    gate_up=linear(layer["gate_up"]),
                    down=linear(layer["down"]),
                    after_mlp_norm=operations.weight(layer["after_mlp_norm"]),
                    next_norm=operations.weight(next_norm),
                )
            )
            if size <= _COMPILED_BYTES:
                taken.append(layer)
        self._num_tokens = num_tokens
        on_cpu = isinstance(operations, CPUOperations)
        head = weights.matrix(HEAD, rows=num_tokens if on_cpu else None)
        self._head = linear(head)
        self._compiled = None
        if isinstance(operations, CPUOperations) and taken and not weights.kinds:
            assert isinstance(head, torch.Tensor)
            self._compiled = _CompiledDecode(operations, taken, norms, head)
        self.decodes_in_one_call = self._compiled is not None
        self.matmul = self._layers[0].qkv.description
        sections = list(text.rotary_emb.mrope_section)
        axes = [axis % 3 for axis, size in enumerate(sections) for _ in range(size)]
        frequencies = text.rotary_emb.inv_freq.float().to(weights.device)
        if len(axes) != len(frequencies):
            raise ValueError(f"mrope_section {sections} does not fit {len(frequencies)}")
        self.rotary = Rotary(
            frequencies,
            torch.tensor(axes, device=frequencies.device),
            text.rotary_emb.attention_scaling,
            max_len,
        )

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(tokens,) int64 ids -> (tokens, hidden size)."""
        return F.embedding(input_ids, self._embeddings).to(self._operations.hidden_dtype)

    def __call__(
        self,
        hidden: torch.Tensor,
        batch: Batch,
        cache: torch.Tensor,
        on_hidden: Callable[[torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Run all layers.

        Args:
            hidden: (tokens, hidden size) embeddings; may be modified.
            batch: the tokens.
            cache: the KV cache's layers; modified.
            on_hidden: called with the final hidden states of all tokens, for ``logits``.

        Returns:
            (sampled rows, vocabulary) float32 logits.
        """
        few = len(hidden) <= COMPILED_ROWS and batch.sampled_rows is None
        if self._compiled and few and on_hidden is None:
            return self._compiled(hidden, batch, self.rotary, cache)
        attend = self._operations.attention(batch, self.rotary, cache, self.num_heads)
        rows = None
        if batch.sampled_rows is not None:
            rows = torch.from_numpy(batch.sampled_rows).to(hidden.device, non_blocking=True)
        return self.layers(hidden, attend, cache, rows, on_hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden size) final hidden states -> (tokens, vocabulary) float32.

        On a GPU it is a view of all rows of the checkpoint, whose number cuBLAS multiplies faster
        than that of the tokens.
        """
        return self._head(hidden).float()[:, : self._num_tokens]

    def layers(
        self,
        hidden: torch.Tensor,
        attend: Attend,
        cache: torch.Tensor,
        rows: torch.Tensor | None,
        on_hidden: Callable[[torch.Tensor], None] | None = None,
    ) -> torch.Tensor:
        """Run all layers with inputs on the device; see ``__call__``."""
        operations = self._operations
        normed = operations.norm(hidden, self._first_norm)
        for layer, own_cache in zip(self._layers, cache, strict=True):
            attended = attend(layer.qkv(normed).view(len(normed), -1, self.head_dim), own_cache)
            hidden, normed = operations.norm_add_norm(
                hidden, layer.output(attended), layer.after_attention_norm, layer.before_mlp_norm
            )
            expanded = layer.down(operations.gate(layer.gate_up(normed)))
            hidden, normed = operations.norm_add_norm(
                hidden, expanded, layer.after_mlp_norm, layer.next_norm
            )
        if on_hidden is not None:
            on_hidden(normed)
        if rows is not None:
            normed = normed.index_select(0, rows)
        return self.logits(normed)


class _CompiledDecode:
    """Runs a step of a few tokens in one compiled call, with its own copy of the weights."""

    def __init__(
        self,
        operations: CPUOperations,
        layers: list[dict[str, torch.Tensor]],
        norms: list[torch.Tensor],
        head: torch.Tensor,
    ) -> None:
        self._operations = operations
        self._norms = as_array(torch.stack(norms))
        names = (
            "qkv", "qkv_bias", "output", "after_attention_norm", "before_mlp_norm", "gate_up",
            "down", "after_mlp_norm",
        )  # fmt: skip
        self._weights = [as_array(torch.stack([layer[name] for layer in layers])) for name in names]
        self._head = as_array(head.contiguous())

    def __call__(
        self, hidden: torch.Tensor, batch: Batch, rotary: Rotary, cache: torch.Tensor
    ) -> torch.Tensor:
        logits = np.empty((len(hidden), len(self._head)), np.float32)
        self._operations.kernels.decode(
            hidden.numpy(), self._operations.cos_sin(batch, rotary), as_array(cache),
            batch.slot_mapping, batch.block_tables, batch.num_computed, batch.query_start_loc,
            self._operations.eps, self._norms, *self._weights, self._head, logits,
        )  # fmt: skip
        return torch.from_numpy(logits)


def _layer_name(index: int) -> str:
    return f"model.language_model.layers.{index}"


def _read_layer(weights: Weights, layer: str) -> dict[str, Any]:
    """The weights of a layer without its first norm; those of the same input are one."""
    projections = [f"{layer}.self_attn.{name}_proj" for name in "qkv"]
    qkv = weights.matrix(*projections)
    biases = [f"{projection}.bias" for projection in projections]
    if weights.has(biases[0]):
        bias = torch.cat([weights.tensor(name) for name in biases])
    else:
        bias = torch.zeros(len(qkv), dtype=weights.dtype, device=weights.device)
    return {
        "qkv": qkv,
        "qkv_bias": bias,
        "output": weights.matrix(f"{layer}.self_attn.o_proj"),
        "after_attention_norm": weights.tensor(f"{layer}.post_self_attn_layernorm.weight"),
        "before_mlp_norm": weights.tensor(f"{layer}.post_attention_layernorm.weight"),
        "gate_up": weights.matrix(f"{layer}.mlp.gate_up_proj"),
        "down": weights.matrix(f"{layer}.mlp.down_proj"),
        "after_mlp_norm": weights.tensor(f"{layer}.post_mlp_layernorm.weight"),
    }
