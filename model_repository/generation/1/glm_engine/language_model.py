"""The language model's forward pass over one flat batch of tokens of many requests.

transformers loads the weights; the passes are ours, because of what a step costs: projections that
read the same input are one matrix product, RoPE turns queries and keys in one multiplication, and
no module is called. Same arithmetic as ``Glm4vTextModel`` in transformers 5.23.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from glm_engine.linear import Linear

# (tokens, heads + 2 * KV heads, head dim), layer -> (tokens, heads * head dim)
Attend = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: torch.Tensor
    qkv: Linear
    output: Linear
    after_attention_norm: torch.Tensor
    before_mlp_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    after_mlp_norm: torch.Tensor


class LanguageModel:
    """Decoder layers, final norm and output head.

    Attributes:
        num_layers, num_heads, num_kv_heads, head_dim, hidden_size: the checkpoint's.
    """

    def __init__(self, model: Any, num_tokens: int) -> None:
        """Take over the weights.

        Args:
            model: ``Glm4vForConditionalGeneration``; the weights that are joined here are taken
                from it, so that they are not in memory twice.
            num_tokens: rows of the vocabulary that are tokens; the rest is padding.

        Raises:
            ValueError: the checkpoint has something that these passes do not know.
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
        self._eps: float = config.rms_norm_eps
        self._layers = [_take_layer(layer) for layer in text.layers]
        self._norm = text.norm.weight.detach()
        self._head = Linear(model.lm_head.weight.detach()[:num_tokens])
        self._embeddings = text.embed_tokens.weight.detach()
        rotary = text.rotary_emb
        self._frequencies = rotary.inv_freq.float()
        self._scaling: float = rotary.attention_scaling
        sections = list(rotary.mrope_section)
        axes = [axis % 3 for axis, size in enumerate(sections) for _ in range(size)]
        if len(axes) != len(self._frequencies):
            raise ValueError(f"mrope_section {sections} does not fit {len(self._frequencies)}")
        self._axes = torch.tensor(axes, device=self._frequencies.device)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(tokens,) int64 ids -> (tokens, hidden size)."""
        return F.embedding(input_ids, self._embeddings)

    def __call__(
        self,
        hidden: torch.Tensor,
        positions: torch.Tensor,
        sampled_rows: torch.Tensor | None,
        attend: Attend,
    ) -> torch.Tensor:
        """Run all layers.

        Args:
            hidden: (tokens, hidden size) embeddings.
            positions: (3, tokens) int64 M-RoPE positions.
            sampled_rows: (rows,) int64 whose logits are wanted; None for all.
            attend: stores keys and values, and attends.

        Returns:
            (rows, vocabulary) float32 logits.
        """
        size, eps = (self.hidden_size,), self._eps
        angles = positions.t()[:, self._axes] * self._frequencies
        rotation = torch.polar(torch.full_like(angles, self._scaling), angles)[:, None]
        for index, layer in enumerate(self._layers):
            normed = F.rms_norm(hidden, size, layer.input_norm, eps)
            qkv = layer.qkv(normed).view(len(hidden), -1, self.head_dim)
            self._rotate(qkv, rotation)
            attended = layer.output(attend(qkv, index))
            hidden = hidden + F.rms_norm(attended, size, layer.after_attention_norm, eps)
            normed = F.rms_norm(hidden, size, layer.before_mlp_norm, eps)
            gate, up = layer.gate_up(normed).chunk(2, -1)
            expanded = layer.down(F.silu(gate).mul_(up))
            hidden = hidden + F.rms_norm(expanded, size, layer.after_mlp_norm, eps)
        if sampled_rows is not None:
            hidden = hidden.index_select(0, sampled_rows)
        return self._head(F.rms_norm(hidden, size, self._norm, eps)).float()

    def _rotate(self, qkv: torch.Tensor, rotation: torch.Tensor) -> None:
        """Turn queries and keys in place; neighbouring features are a complex number's parts."""
        pairs = rotation.shape[-1]
        rotated = qkv[:, : self.num_heads + self.num_kv_heads, : 2 * pairs]
        numbers = torch.view_as_complex(rotated.float().unflatten(-1, (pairs, 2)))
        if rotated.dtype == torch.float32:
            numbers.mul_(rotation)  # a view of qkv
        else:
            rotated.copy_(torch.view_as_real(numbers * rotation).flatten(-2))


def _take_layer(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    weight = torch.cat([projection.weight.detach() for projection in projections])
    bias = None
    if attention.q_proj.bias is not None:
        bias = torch.cat([projection.bias.detach() for projection in projections])
    for name in ("q_proj", "k_proj", "v_proj"):
        delattr(attention, name)  # or layer after layer they would add up to a fifth of the model
    return _Layer(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=Linear(weight, bias),
        output=Linear(attention.o_proj.weight.detach()),
        after_attention_norm=layer.post_self_attn_layernorm.weight.detach(),
        before_mlp_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=Linear(mlp.gate_up_proj.weight.detach()),
        down=Linear(mlp.down_proj.weight.detach()),
        after_mlp_norm=layer.post_mlp_layernorm.weight.detach(),
    )
