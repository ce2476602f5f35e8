"""Which inputs of linear layers matter, seen from pictures and questions.

Runs the checkpoint as it is, by transformers, so all of its weights have to fit into memory.
"""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from glm_engine.weights import is_quantizable

_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
_QUESTION = "Describe this picture."
# Of each answer: what the model says is part of what its layers see.
_ANSWER_TOKENS = 48

logger = logging.getLogger(__name__)


def importance_of_inputs(checkpoint: Path, folder: Path) -> dict[str, torch.Tensor]:
    """Mean squares of the inputs of the language model's linear layers, by their names.

    Args:
        folder: has pictures, and texts with a question each, which is asked about every picture;
            or questions only.

    Raises:
        ValueError: the folder has neither.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    pictures = [path for path in files if path.suffix.lower() in _PICTURES]
    questions = [path.read_text(encoding="utf-8") for path in files if path.suffix == ".txt"]
    if not pictures and not questions:
        raise ValueError(f"{folder} has neither pictures nor texts")
    load: Any = AutoModelForImageTextToText.from_pretrained
    model = load(checkpoint, dtype="auto").eval()
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str) -> Callable[[Any, tuple[torch.Tensor]], None]:
        def add(module: Any, inputs: tuple[torch.Tensor]) -> None:
            rows = inputs[0].flatten(0, -2).float()
            sums[name] = sums.get(name, torch.zeros(rows.shape[1])) + rows.square().sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        return add

    for name, module in model.named_modules():
        if is_quantizable(f"{name}.weight"):
            module.register_forward_pre_hook(watch(name))
    for number, inputs in enumerate(_inputs(checkpoint, model, pictures, questions), 1):
        model.model.rope_deltas = None  # module state of the request before
        with torch.inference_mode():
            model.generate(
                **inputs, max_new_tokens=_ANSWER_TOKENS, do_sample=False,
                temperature=None, top_p=None, top_k=None,
            )  # fmt: skip
        logger.info("calibrated with %d", number)
    return {name: total / counts[name] for name, total in sums.items()}


def _inputs(
    checkpoint: Path, model: Any, pictures: list[Path], questions: list[str]
) -> Iterator[dict[str, Any]]:
    """What ``generate`` takes, for each question about each picture."""
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    processor: Any = AutoImageProcessor
    processor = processor.from_pretrained(checkpoint, backend="pil")
    sources: list[Path | None] = [*pictures] or [None]
    for path in sources:
        images: dict[str, Any] = {}
        if path is not None:
            with Image.open(path) as picture:
                images = dict(processor([picture.convert("RGB")], return_tensors="pt"))
        for question in questions or [_QUESTION]:
            content: list[dict[str, str]] = [{"type": "text", "text": question.strip()}]
            ids = tokenizer.apply_chat_template(
                [{"role": "user", "content": [{"type": "image"}] * bool(images) + content}],
                add_generation_prompt=True, return_dict=False,
            )  # fmt: skip
            image_id = model.config.image_token_id
            merged = model.config.vision_config.spatial_merge_size**2
            count = int(images["image_grid_thw"].prod()) // merged if images else 0
            ids = [own for id in ids for own in [id] * (count if id == image_id else 1)]
            input_ids = torch.tensor([ids])
            inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
            if images:
                inputs |= images | {"mm_token_type_ids": (input_ids == image_id).int()}
            yield inputs
