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
        if not prompt.images:
            return inputs
        pixels = torch.cat([self.pixel_values(image.patches) for image in prompt.images])
        grids = torch.tensor([image.grid for image in prompt.images])
        is_image = (input_ids == self.model.config.image_token_id).int()
        if self._is_video(prompt):
            grid = torch.tensor([[len(grids), *grids[0, 1:]]])
            return inputs | {
                "pixel_values_videos": pixels,
                "video_grid_thw": grid,
                "mm_token_type_ids": 2 * is_image,
            }
        # Also for pictures beside a video, which transformers' inputs do not know: there a temporal
        # patch of the video goes as a picture whose two frames differ.
        return inputs | {
            "pixel_values": pixels,
            "image_grid_thw": grids,
            "mm_token_type_ids": is_image,
        }

    def _is_video(self, prompt: Prompt) -> bool:
        """Whether all images are of one video."""
        begin = self.model.config.video_start_token_id
        lengths = {image.patches.shape[1] for image in prompt.images if image.patches is not None}
        return lengths == {2 * 588} and np.count_nonzero(prompt.input_ids == begin) == 1

    def pixel_values(self, patches: Any) -> torch.Tensor:
        """(patches, channels * 2 frames * patch pixels) float32, as the processors give."""
        pixels = torch.from_numpy(np.asarray(patches))
        frames = self._torch.normalize(pixels.view(-1, 588), self._pixel_table)
        frames = frames.view(len(pixels), -1, 3, 196).transpose(1, 2)
        return frames.expand(-1, -1, 2, -1).reshape(len(pixels), -1)

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

    @torch.inference_mode()
    def logprobs(self, prompt: Prompt, num_tokens: int) -> torch.Tensor:
        """(tokens, num_tokens) log probabilities after each token of the prompt."""
        self.model.model.rope_deltas = None
        logits: torch.Tensor = self.model(**self.inputs(prompt)).logits[0, :, :num_tokens]
        return logits.log_softmax(-1)


@cache
def reference() -> Reference:
    """Loaded once."""
    return Reference()
