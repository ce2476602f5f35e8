"""What the engine's tokens are held against: transformers' own ``generate``."""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from glm_engine.operations import TorchOperations
from glm_engine.request import Prompt
from glm_engine.vision import pixel_table
from unit.paths import DEMO_CHECKPOINT


class Reference:
    """transformers' model of the demo checkpoint, float32."""

    def __init__(self) -> None:
        model_class: Any = AutoModelForImageTextToText
        processor_class: Any = AutoImageProcessor
        self.model = model_class.from_pretrained(DEMO_CHECKPOINT, dtype=torch.float32).eval()
        processor = processor_class.from_pretrained(DEMO_CHECKPOINT, backend="pil")
        self.image_processor: dict[str, Any] = processor.to_dict()
        self._pixel_table = pixel_table(self.image_processor)
        self._torch = TorchOperations(torch.float32, torch.device("cpu"), eps=0)

    def inputs(self, prompt: Prompt) -> dict[str, Any]:
        """What the model's forward pass takes."""
        input_ids = torch.from_numpy(prompt.input_ids).long()[None]
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
        }
        if prompt.images:
            pixels = [self.pixel_values(image.patches) for image in prompt.images]
            inputs |= {
                "pixel_values": torch.cat(pixels),
                "image_grid_thw": torch.tensor([image.grid for image in prompt.images]),
                "mm_token_type_ids": (input_ids == self.model.config.image_token_id).int(),
            }
        return inputs

    def pixel_values(self, patches: Any) -> torch.Tensor:
        """(patches, channels * 2 frames * patch pixels) float32, as the image processor gives."""
        pixels = torch.from_numpy(np.asarray(patches))
        frame = self._torch.normalize(pixels, self._pixel_table)
        return frame.view(len(frame), 3, 1, -1).expand(-1, -1, 2, -1).reshape(len(frame), -1)

    @torch.inference_mode()
    def generate(self, prompt: Prompt, max_tokens: int, *, eos: bool = True) -> list[int]:
        """Greedy tokens; without ``eos`` as many as there may be, whatever they are."""
        inputs = self.inputs(prompt)
        config = copy.deepcopy(self.model.generation_config)
        config.do_sample, config.max_new_tokens = False, max_tokens
        config.temperature = config.top_p = config.top_k = None
        if not eos:
            config.eos_token_id = -1  # None would mean the checkpoint's
        self.model.model.rope_deltas = None  # module state of the request before
        output = self.model.generate(**inputs, generation_config=config)
        tokens: list[int] = output[0, inputs["input_ids"].shape[1] :].tolist()
        return tokens

    @torch.inference_mode()
    def logits(self, prompt: Prompt) -> torch.Tensor:
        """(vocabulary,) logits after the prompt."""
        self.model.model.rope_deltas = None
        logits: torch.Tensor = self.model(**self.inputs(prompt)).logits[0, -1]
        return logits


@cache
def reference() -> Reference:
    """Loaded once."""
    return Reference()
