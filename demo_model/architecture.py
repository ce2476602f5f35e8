"""The tiny Glm4vForConditionalGeneration, and what makes it quick to train on a CPU."""

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers.models.glm4v.modeling_glm4v as glm4v
from torch import nn
from transformers import Glm4vConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil

from demo_model.scenes import BACKGROUNDS, CELL, COLOURS, SHAPES, render, sample_scene
from demo_model.structured import BOX_STEP

HEAD_DIM = 64
# Frames x height x width: 16 to 25 image tokens for every picture of a usual shape.
PIXEL_LIMITS = {"shortest_edge": 2 * 112 * 112, "longest_edge": 39_300}


def image_processor() -> Glm46VImageProcessorPil:
    """GLM-4.6V's image processor with the demo checkpoint's pixel limits."""
    return Glm46VImageProcessorPil(size=PIXEL_LIMITS)


def build_model(tokenizer: PreTrainedTokenizerFast) -> Glm4vForConditionalGeneration:
    """A freshly initialised model of about 4.7 million parameters."""

    def token_id(tag: str) -> int:
        return int(tokenizer.get_vocab()[tag])

    eos = [token_id(tag) for tag in ("<|endoftext|>", "<|user|>", "<|observation|>")]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 256 // HEAD_DIM,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
            "mrope_section": [4, 6, 6],
        },
        "pad_token_id": token_id("<|endoftext|>"),
        "eos_token_id": eos,
    }
    vision = {
        "depth": 4,
        "hidden_size": 192,
        "num_heads": 192 // HEAD_DIM,
        "out_hidden_size": 256,
        "intermediate_size": 384,
        "image_size": 112,
        "patch_size": 14,
        "rms_norm_eps": 1e-5,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Glm4vConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token_id("<|image|>"),
        video_token_id=token_id("<|video|>"),
        image_start_token_id=token_id("<|begin_of_image|>"),
        image_end_token_id=token_id("<|end_of_image|>"),
        video_start_token_id=token_id("<|begin_of_video|>"),
        video_end_token_id=token_id("<|end_of_video|>"),
        tie_word_embeddings=False,
    )
    config._attn_implementation = "sdpa"
    model = Glm4vForConditionalGeneration(config)
    # The real checkpoint's settings (GLM-4.6V-Flash's generation_config.json).
    model.generation_config.update(
        do_sample=True, temperature=0.8, top_k=2, top_p=0.6, eos_token_id=eos, pad_token_id=eos[0]
    )
    return model


class CellHeads(nn.Module):
    """Dense auxiliary heads for training: what each merged cell of a picture shows.

    They teach the vision encoder in minutes what the language loss alone would take hours for.
    """

    SIZES = (
        1 + len(SHAPES), 1 + len(COLOURS), 11, 11, len(BACKGROUNDS), 10,
        *[12] * 4, *[1 + 100 // BOX_STEP] * 4,
    )  # fmt: skip
    """Shape, colour, digit in the left and in the right half, background, zone; 0 is none.

    Then the hundreds of the four edges of the shape's box, and the steps within a hundred.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(self.SIZES))
        self._nothing_weight = (0.15, 0.15, 0.15, 0.15, 1.0, 0.15, *[0.15] * 8)

    def forward(
        self, features: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, list[float]]:
        """Summed cross entropy, and the share of right guesses where there is something to guess.

        Args:
            features: (cells, width) output of the vision encoder.
            targets: (..., 6 or 14) int64, as many rows as there are cells; boxes may be left out.
        """
        targets = targets.reshape(-1, targets.shape[-1])
        loss, right = features.new_zeros(()), []
        guesses = self.linear(features).float().split(self.SIZES, -1)
        for column, (logits, wanted) in enumerate(zip(guesses, targets.unbind(-1), strict=False)):
            weight = torch.ones(self.SIZES[column])
            weight[0] = self._nothing_weight[column]
            loss = loss + F.cross_entropy(logits, wanted, weight=weight)
            counted = wanted > 0 if column != 4 else wanted >= 0
            right.append((logits.argmax(-1) == wanted)[counted].float().mean().item())
        return loss, right


def patches_of(
    pictures: torch.Tensor, processor: Glm46VImageProcessorPil
) -> tuple[torch.Tensor, torch.Tensor]:
    """``pixel_values`` and ``image_grid_thw`` of pictures that have their final size already.

    Args:
        pictures: (pictures, height, width, 3) uint8, sides multiples of 28.

    Returns:
        (patches, 1176) float32, and (pictures, 3) int64 grids.
    """
    pixels = pictures.float() / 255 - torch.tensor(processor.image_mean)
    pixels = (pixels / torch.tensor(processor.image_std)).permute(0, 3, 1, 2)
    count, channels, height, width = pixels.shape
    blocks = pixels.reshape(count, channels, height // 28, 2, 14, width // 28, 2, 14)
    blocks = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    rows = blocks.expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).reshape(-1, channels * 2 * 14 * 14)
    return rows, torch.tensor([[1, height // 14, width // 14]] * count)


def start_well(
    model: Glm4vForConditionalGeneration, processor: Glm46VImageProcessorPil, seed: int
) -> None:
    """Begin with whitened patches and with positions that are large enough to be seen.

    The patch embedding starts as the principal components of real patches, scaled to one variance;
    the learned positions start with a deviation of 0.5, or "where" is learned very late.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(300):
        picture = np.array(render(sample_scene(rng, 4 * CELL, 4 * CELL), rng))
        rows.append(patches_of(torch.from_numpy(picture)[None], processor)[0])
    frames = torch.cat(rows).view(-1, 3, 2, 196)[:, :, 0].reshape(-1, 588).double()
    mean = frames.mean(0)
    covariance = (frames - mean).T @ (frames - mean) / len(frames)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    visual = model.model.visual
    width = visual.patch_embed.proj.out_channels
    whitening = (vectors[:, :width] / (values[:width] + 1e-2 * values[5]).sqrt()).T
    with torch.no_grad():
        weight = whitening.float().view(width, 3, 1, 14, 14) / 2
        visual.patch_embed.proj.weight.copy_(weight.expand(-1, -1, 2, -1, -1))
        visual.patch_embed.proj.bias.copy_(-(whitening @ mean).float())
        nn.init.normal_(visual.embeddings.position_embedding.weight, std=0.5)


class _LinearDownsample(nn.Conv2d):
    """The 2 x 2 convolution of stride 2 as the matrix product that it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias)[:, :, None, None]


def speed_up(model: Glm4vForConditionalGeneration) -> None:
    """Replace slow paths by equal ones that need all pictures of a batch to have one size.

    Convolutions become matrix products, attention runs over all pictures at once, the interpolated
    positions are computed once a batch. Changes classes of transformers for this process: for
    training only. The weights keep their names and shapes.
    """

    def attention(
        self: Any,
        hidden_states: torch.Tensor,
        cu_seqlens: torch.Tensor,
        position_embeddings: Any = None,
        **_: Any,
    ) -> torch.Tensor:
        length, pictures = hidden_states.shape[0], cu_seqlens.shape[0] - 1
        query, key, value = self.qkv(hidden_states).reshape(length, 3, self.num_heads, -1).unbind(1)
        query, key = glm4v.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (
            x.reshape(pictures, length // pictures, self.num_heads, -1).transpose(1, 2)
            for x in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        projected: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(length, -1))
        return projected

    original = glm4v.Glm4vVisionEmbeddings.forward

    def embeddings(
        self: Any, x: torch.Tensor, lengths: Any, shapes: Any, rows: Any, columns: Any
    ) -> torch.Tensor:
        pictures = shapes.shape[0]
        patches = x.shape[0] // pictures
        empty = torch.zeros(patches, x.shape[1])
        positions = original(self, empty, [patches], shapes[:1], rows[:patches], columns[:patches])
        return (x.view(pictures, patches, -1) + positions).view(pictures * patches, -1)

    def patch_embed(self: Any, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)

    modules: Any = glm4v
    modules.Glm4vVisionAttention.forward = attention
    modules.Glm4vVisionPatchEmbed.forward = patch_embed
    modules.Glm4vVisionEmbeddings.forward = embeddings
    model.model.visual.downsample.__class__ = _LinearDownsample
    for layer in (*model.model.language_model.layers, *model.model.visual.blocks):
        layer.compile(dynamic=True)
