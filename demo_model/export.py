"""Write trained weights as a checkpoint like GLM-4.6V-Flash's: ``python -m demo_model.export``."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from demo_model.architecture import build_model, image_processor
from demo_model.vocabulary import build_tokenizer

# A thousand tokens for all frames of a video together, as fits the demo model's short context.
VIDEO_PROCESSOR = {
    "size": {"shortest_edge": 12_544, "longest_edge": 28 * 28 * 2 * 1024},
    "processor_class": "Glm46VProcessor",
    "video_processor_type": "Glm46VVideoProcessor",
}


def export(
    weights: Mapping[str, torch.Tensor], tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write config, bfloat16 weights, tokenizer, chat template and processors to ``folder``."""
    model: Any = build_model(tokenizer)
    model.load_state_dict(weights)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    # The names under which transformers finds the processor of either backend.
    _update(
        folder / "preprocessor_config.json",
        processor_class="Glm46VProcessor",
        image_processor_type="Glm46VImageProcessor",
    )
    _update(folder / "tokenizer_config.json", processor_class="Glm46VProcessor")
    _write(folder / "video_preprocessor_config.json", VIDEO_PROCESSOR)


def _update(file: Path, **values: str) -> None:
    _write(file, json.loads(file.read_text(encoding="utf-8")) | values)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Export the state that training saved on its way."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m demo_model.export")
    parser.add_argument("state", type=Path, help="what training saved, e.g. build/demo-model.pt")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "checkpoint")
    arguments = parser.parse_args()
    state = torch.load(arguments.state, weights_only=True)
    export(state["model"], build_tokenizer(), arguments.output)


if __name__ == "__main__":
    main()
