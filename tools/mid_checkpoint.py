"""A checkpoint of an honest size with random weights, for timings where the real one cannot be had.

0.5 billion parameters and the real vocabulary of 151,552 tokens, in bfloat16 (1 GB). It answers
nonsense, so a timing has to ask for a number of tokens and ignore the end.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Glm4vForConditionalGeneration

VOCABULARY = 151_552
# What differs from the demo checkpoint, which the rest is copied from.
TEXT = {
    "hidden_size": 1024, "num_hidden_layers": 12, "intermediate_size": 2816,
    "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "vocab_size": VOCABULARY,
}  # fmt: skip
# Pairs of features that time, height and width turn: half of a head is turned, as in GLM.
MROPE_SECTION = [8, 12, 12]
VISION = {
    "hidden_size": 768, "depth": 12, "num_heads": 12, "intermediate_size": 2048,
    "out_hidden_size": 1024,
}  # fmt: skip


def make(demo: Path, target: Path) -> Path:
    """Write the checkpoint to ``target``, unless it is there, and return the folder."""
    if (target / "model.safetensors").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    for file in demo.iterdir():
        if file.name not in ("model.safetensors", "config.json", "tokenizer.json"):
            shutil.copy(file, target)
    tokenizer = json.loads((demo / "tokenizer.json").read_text())
    words: dict[str, int] = tokenizer["model"]["vocab"]
    taken = {*words.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    words.update({f"<unused{id}>": id for id in range(VOCABULARY) if id not in taken})
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    config: Any = AutoConfig.from_pretrained(demo)
    for part, changes in ((config.text_config, TEXT), (config.vision_config, VISION)):
        for name, value in changes.items():
            setattr(part, name, value)
    config.text_config.rope_parameters["mrope_section"] = MROPE_SECTION
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        Glm4vForConditionalGeneration(config).save_pretrained(target)
    finally:
        torch.set_default_dtype(default)
    return target
