"""How a card's memory would be used: ``python -m glm_engine.plan --memory 16GiB --checkpoint ...``.

Needs no GPU, and of the checkpoint its ``config.json`` only, or its files if they are quantised
already. The sizes of weights and KV cache are exact; those of activations follow from the shapes of
the largest tensors, and are not measurements. The settings are those of the environment.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glm_engine.config import QUANTIZATIONS, EngineConfig
from glm_engine.kv_cache import bytes_per_token
from glm_engine.memory import usual_max_num_seqs
from glm_engine.quantization.layouts import layout_for
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.weights import (
    EMBEDDINGS,
    HEAD,
    SafetensorsFiles,
    kept_bytes,
    model_without_weights,
)

CONTEXTS = (1024, 8192, 32_768, 131_072)
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base ** (power + 1)
    for power, prefix in enumerate("KMGT")
    for suffix, base in (("", 1024), ("iB", 1024), ("B", 1000))
}
# Of the driver and the libraries, in each process that uses a GPU.
_CONTEXT_BYTES = 512 * 2**20
_GPU_BATCHED_TOKENS = 4096
# Patches of the largest picture, which is encoded alone if need be: larger ones are scaled down.
_LARGEST_PICTURE = 24_336
# Logits in float32, and what the sampler sorts and sums of them.
_COPIES_OF_LOGITS = 4


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes by what they are for.

    Attributes:
        memory: of the card.
        usable: the share of it that the settings allow.
        language: layers of the language model, with their norms.
        head: output head.
        embeddings: of tokens.
        vision: the vision encoder.
        step, images: activations of the largest step, and of the pictures that are encoded with
            it.
        image_cache: embeddings of pictures that are kept.
        kv_token: keys and values of a token.
    """

    memory: int
    usable: int
    language: int
    head: int
    embeddings: int
    vision: int
    step: int
    images: int
    image_cache: int
    kv_token: int

    @classmethod
    def of(
        cls,
        model: Any,
        memory: int,
        config: EngineConfig,
        stored: Mapping[str, torch.Tensor] | None = None,
    ) -> "MemoryPlan":
        """Plan for a GPU, where weights that are not quantised are in bfloat16.

        Args:
            model: may be without weights.
            stored: the tensors of a checkpoint that is quantised already.
        """
        scheme = SCHEMES.get(config.quantization)
        sizes = dict.fromkeys(("language", "head", "embeddings", "vision"), 0)
        for name, tensor in (stored or model.state_dict()).items():
            size = tensor.nbytes
            if tensor.is_floating_point() and tensor.itemsize > 1:
                size = kept_bytes(name, tensor.shape, tensor.itemsize, torch.bfloat16, scheme)
            sizes[_part(name)] += size
        text, vision = model.config.text_config, model.config.vision_config
        head_dim = model.model.language_model.layers[0].self_attn.head_dim
        heads = text.num_attention_heads + 2 * text.num_key_value_heads
        kv_token = bytes_per_token(
            text.num_hidden_layers, text.num_key_value_heads, head_dim, torch.bfloat16
        )
        usable = int(memory * config.gpu_memory_utilization)
        left = usable - sum(sizes.values()) - config.image_cache_memory
        seqs = config.max_num_seqs or usual_max_num_seqs(left, kv_token)
        tokens = max(config.max_num_batched_tokens or _GPU_BATCHED_TOKENS, seqs)
        # Residual stream, norm and branch; queries, keys and values; gate, up and their product.
        of_token = 3 * text.hidden_size + heads * head_dim + 3 * text.intermediate_size
        of_patch = 6 * vision.hidden_size + 3 * vision.out_hidden_size
        logits = seqs * text.vocab_size * torch.float32.itemsize
        return cls(
            memory=memory,
            usable=usable,
            **sizes,
            step=tokens * of_token * torch.bfloat16.itemsize + _COPIES_OF_LOGITS * logits,
            images=max(config.max_num_batched_patches, _LARGEST_PICTURE)
            * of_patch
            * torch.bfloat16.itemsize,
            image_cache=config.image_cache_memory,
            kv_token=kv_token,
        )

    @property
    def weights(self) -> int:
        """All of them."""
        return self.language + self.head + self.embeddings + self.vision

    @property
    def free(self) -> int:
        """What is left for the KV cache; negative where even the rest does not fit."""
        others = self.step + self.images + self.image_cache + _CONTEXT_BYTES
        return self.usable - self.weights - others

    def lines(self) -> list[str]:
        """The plan as text."""
        rows = {
            "memory": self.memory,
            "usable (GLM_GPU_MEMORY_UTILIZATION)": self.usable,
            "weights": self.weights,
            "  language model": self.language,
            "  output head": self.head,
            "  embeddings": self.embeddings,
            "  vision encoder": self.vision,
            "activations of a step, at most": self.step,
            "activations of pictures, at most": self.images,
            "image cache": self.image_cache,
            "driver and libraries": _CONTEXT_BYTES,
            "left for the KV cache": self.free,
        }
        lines = [f"{name:36}{_gb(size):>10}" for name, size in rows.items()]
        lines.append(f"{'tokens in it':36}{max(0, self.free) // self.kv_token:>10,}")
        for context in CONTEXTS:
            size = context * self.kv_token
            requests = max(0, self.free) // size
            lines.append(
                f"{f'  requests of {context:,} tokens':36}{requests:>10,}, {_gb(size).strip()} each"
            )
        return lines


def _part(name: str) -> str:
    if name.startswith(HEAD):
        return "head"
    if name.startswith(EMBEDDINGS):
        return "embeddings"
    return "vision" if name.startswith("model.visual.") else "language"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def parse_memory(text: str) -> int:
    """Bytes of ``16GiB``, ``12 GB``, ``24G``...; raises ValueError."""
    found = re.fullmatch(r"([\d.]+)\s*([KMGT]?(?:iB|B)?)", text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a size, as 16GiB")
    return int(float(found[1]) * _UNITS[found[2]])


def main(arguments: Sequence[str] | None = None, env: Mapping[str, str] = os.environ) -> int:
    """Print a plan; 1 if no KV cache fits."""
    parser = argparse.ArgumentParser(prog="python -m glm_engine.plan", description=__doc__)
    parser.add_argument("--memory", type=parse_memory, required=True, help="of the card, as 16GiB")
    parser.add_argument(
        "--checkpoint", default=env.get("GLM_MODEL"), help="folder with config.json (or GLM_MODEL)"
    )
    parser.add_argument(
        "--quantization", choices=QUANTIZATIONS, help="by default GLM_QUANTIZATION, or none"
    )
    given = parser.parse_args(arguments)
    if not given.checkpoint:
        parser.error("give --checkpoint")
    folder = Path(given.checkpoint)
    settings = dict(env) | {"GLM_MODEL": str(folder)}
    if given.quantization:
        settings["GLM_QUANTIZATION"] = given.quantization
    try:
        config = EngineConfig.from_env(settings)
        if not (folder / "config.json").is_file():
            raise ValueError(f"no config.json in {folder}")
        layout = layout_for(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        plan = MemoryPlan.of(
            model_without_weights(folder),
            given.memory,
            config,
            SafetensorsFiles(folder) if layout else None,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write("\n".join([*plan.lines(), ""]))
    return 0 if plan.free >= plan.kv_token else 1


if __name__ == "__main__":
    sys.exit(main())
