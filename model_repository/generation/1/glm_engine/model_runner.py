"""The model's weights and caches, and its forward passes. Only the engine thread calls it."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText, DynamicCache

from glm_engine.checkpoint import Checkpoint
from glm_engine.config import EngineConfig
from glm_engine.request import Request
from glm_engine.vision import PatchNormalizer


class ModelRunner:
    """Runs prefill and decode, one request at a time, each with a KV cache of its own.

    Attributes:
        max_model_len: tokens of prompt and answer together.
    """

    def __init__(self, checkpoint: Checkpoint, config: EngineConfig, num_tokens: int) -> None:
        """Load the weights.

        Args:
            checkpoint: where they are.
            config: device and dtype.
            num_tokens: size of the tokenizer; rows of the vocabulary beyond it are padding and
                never chosen.

        Raises:
            ValueError: the checkpoint lacks weights of the model, or ``max_model_len`` is more
                than it takes.
        """
        self.device = torch.device(_device(config.device))
        dtype = _dtype(config.dtype, self.device)
        if self.device.type == "cpu" and config.cpu_threads:
            torch.set_num_threads(config.cpu_threads)
        load: Any = AutoModelForImageTextToText.from_pretrained
        model, loading = load(
            checkpoint.folder, dtype=dtype, attn_implementation="sdpa", output_loading_info=True
        )
        if loading["missing_keys"] or loading["mismatched_keys"]:
            # transformers would go on with random numbers in their place.
            missing = sorted(map(str, [*loading["missing_keys"], *loading["mismatched_keys"]]))
            raise ValueError(f"the checkpoint lacks weights: {', '.join(missing[:5])}")
        self._model: Any = model.to(self.device).eval()
        self._image_token_id: int = model.config.image_token_id
        self._num_tokens = num_tokens
        self._normalize = PatchNormalizer(checkpoint.image_processor, self.device)
        self._caches: dict[Request, DynamicCache] = {}
        limit = int(model.config.text_config.max_position_embeddings)
        if config.max_model_len > limit:
            raise ValueError(
                f"GLM_MAX_MODEL_LEN={config.max_model_len} is more than the model's {limit}"
            )
        self.max_model_len = config.max_model_len or limit

    @torch.inference_mode()
    def prefill(self, request: Request) -> torch.Tensor:
        """Run the prompt and start the request's cache.

        Returns:
            (vocabulary,) float32 logits on the CPU for the first token of the answer.
        """
        prompt = request.prompt
        input_ids = torch.from_numpy(prompt.input_ids).to(self.device).long()[None]
        position_ids = torch.from_numpy(prompt.position_ids).to(self.device).long()[:, None]
        embeddings = self._model.get_input_embeddings()(input_ids)
        if len(prompt.image_grid_thw):
            images = self._encode_images(request).to(embeddings.dtype)
            is_image = (input_ids == self._image_token_id)[..., None]
            embeddings = embeddings.masked_scatter(is_image, images)
        cache = DynamicCache(config=self._model.config.get_text_config())
        logits = self._forward(embeddings, position_ids, cache)
        self._caches[request] = cache
        return logits

    @torch.inference_mode()
    def decode(self, request: Request) -> torch.Tensor:
        """Run the request's newest token.

        Returns:
            (vocabulary,) float32 logits on the CPU for the token after it.
        """
        token = torch.tensor([[request.token_ids[-1]]], device=self.device)
        position = request.num_tokens - 1 + request.prompt.rope_delta
        position_ids = torch.full((3, 1, 1), position, device=self.device)
        embeddings = self._model.get_input_embeddings()(token)
        return self._forward(embeddings, position_ids, self._caches[request])

    def release(self, request: Request) -> None:
        """Free what the request holds; nothing if it holds nothing."""
        self._caches.pop(request, None)

    @property
    def num_cached_requests(self) -> int:
        """Requests that hold a KV cache."""
        return len(self._caches)

    def _encode_images(self, request: Request) -> torch.Tensor:
        patches = torch.from_numpy(request.prompt.patches).to(self.device)
        grids = torch.from_numpy(request.prompt.image_grid_thw).to(self.device).long()
        features = self._model.get_image_features(self._normalize(patches), grids, return_dict=True)
        return torch.cat(features.pooler_output)

    def _forward(
        self, embeddings: torch.Tensor, position_ids: torch.Tensor, cache: DynamicCache
    ) -> torch.Tensor:
        hidden = self._model.model.language_model(
            inputs_embeds=embeddings,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        logits: torch.Tensor = self._model.lm_head(hidden[0, -1])
        return logits[: self._num_tokens].float().cpu()


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("GLM_DEVICE='cuda', but torch sees no GPU")
    return name


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
