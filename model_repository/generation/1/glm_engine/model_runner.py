"""Owns the weights and the KV cache, and runs steps. For the engine thread only."""

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from glm_engine import cpu
from glm_engine.batch import Batch
from glm_engine.block_manager import BlockTable
from glm_engine.checkpoint import Checkpoint
from glm_engine.config import EngineConfig
from glm_engine.cuda_graphs import DecodeGraphs
from glm_engine.kv_cache import KVCache, bytes_per_token
from glm_engine.language_model import COMPILED_ROWS, LanguageModel
from glm_engine.operations import GPUOperations, operations_for
from glm_engine.quantization.layouts import layout_for
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.request import Prompt, PromptImage, Request, SamplingParams, ThinkingTokens
from glm_engine.sampler import Sampled, Sampler, token_logprobs
from glm_engine.scheduler import Scheduled
from glm_engine.vision import ImageCache, KnownImage, VisionEncoder
from glm_engine.weights import SafetensorsFiles, Weights, model_without_weights

_CPU_KV_CACHE_MEMORY = 512 * 2**20
# At a vocabulary of 150,000 some 150 MB of logits and as much again of their logarithms.
_SCORED_ROWS = 256
_CPU_BATCHED_TOKENS, _GPU_BATCHED_TOKENS = 512, 4096

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedImages:
    """Result of encoding the images of a step.

    Attributes:
        num_encoded: number of images encoded.
        num_found: number of images found in the cache.
        requests: those with newly encoded images.
    """

    num_encoded: int = 0
    num_found: int = 0
    requests: Set[Request] = frozenset()


class ModelRunner:
    """Runs a step: encodes images, runs one flat batch of tokens, and samples the next ones.

    Attributes:
        device, dtype: of activations, and of weights that are not quantised.
        quantization: types of the quantised weights, or ``none``.
        num_weight_bytes: size of all weights.
        max_model_len: tokens of prompt and answer together.
        max_num_batched_tokens: per step.
        cache: the KV cache.
        images: the cache of image embeddings.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig,
        num_tokens: int,
        model: Any = None,
        thinking: ThinkingTokens | None = None,
    ) -> None:
        """Load the weights and allocate the cache.

        Args:
            checkpoint: location of the weights.
            config: device, dtype and sizes.
            num_tokens: size of the tokenizer; further rows of the vocabulary are padding and
                never sampled.
            model: used instead of the checkpoint's weights, for benchmarks; must be on its
                device already, and is taken apart.
            thinking: the tokens around a thought.

        Raises:
            ValueError: the checkpoint lacks weights of the model or has others, is quantised in a
                way that is not supported, ``max_model_len`` exceeds the checkpoint's limit or the
                KV cache, or the CPU has no AVX2.
        """
        self.device = torch.device(_device(config.device))
        self.dtype = _dtype(config.dtype, self.device)
        self._cpu_threads = 0
        if self.device.type == "cpu":
            cpu.check_instruction_set()
            self._cpu_threads = config.cpu_threads or cpu.usable_cores()
        self.enter_thread()
        weights, model = self._weights(checkpoint, config, model)
        self.max_model_len = _max_model_len(model.config, config)
        eps = model.config.get_text_config().rms_norm_eps
        make = operations_for(self.dtype, self.device, gpu_kernels=config.gpu_kernels)
        operations = make(eps)
        with torch.inference_mode():
            self._language = LanguageModel(
                model, weights, num_tokens, operations, self.max_model_len
            )
            self._encode = VisionEncoder(model.model.visual, checkpoint.image_processor, make)
        self.quantization = "; ".join(weights.kinds) or "none"
        self.num_weight_bytes = weights.num_bytes
        if self._language.decodes_in_one_call and not config.cpu_threads:
            # Its operations are shorter than the start of a second thread.
            self._cpu_threads = 1
            self.enter_thread()
        self._sampler = Sampler(
            num_tokens, checkpoint.defaults.eos_token_ids, self.device, thinking
        )
        usual = _CPU_BATCHED_TOKENS if self.device.type == "cpu" else _GPU_BATCHED_TOKENS
        self.max_num_batched_tokens = max(
            config.max_num_batched_tokens or usual, config.max_num_seqs
        )
        self.images = ImageCache(config.image_cache_memory)
        self.cache = self._make_cache(config)
        logger.info("loaded: %s", self._summary(config))
        self._graphs: DecodeGraphs | None = None
        with torch.inference_mode():
            self._warm_up()
            if isinstance(operations, GPUOperations):
                self._graphs = DecodeGraphs(
                    self._language,
                    operations,
                    self.cache,
                    max_num_seqs=config.max_num_seqs,
                    max_len=self.max_model_len,
                    device=self.device,
                )

    def _weights(
        self, checkpoint: Checkpoint, config: EngineConfig, model: Any
    ) -> tuple[Weights, Any]:
        """The weights, and the model with those of the vision encoder only."""
        tensors: Mapping[str, torch.Tensor]
        if model is None:
            model = model_without_weights(checkpoint.folder)
            tensors = SafetensorsFiles(checkpoint.folder)
        else:
            tensors = model.state_dict()
        weights = Weights(
            tensors,
            model,
            dtype=self.dtype,
            device=self.device,
            layout=layout_for(checkpoint.config),
            scheme=SCHEMES.get(config.quantization),
        )
        if isinstance(tensors, SafetensorsFiles):
            weights.fill(model.model.visual, "model.visual.")
        return weights, model

    def check_device(self) -> None:
        """Check that the device still works.

        Raises:
            RuntimeError: it does not; after some faults a GPU fails until the process exits.
        """
        if torch.ones(2, device=self.device).sum().item() != 2:
            raise RuntimeError(f"{self.device} miscalculates")

    def enter_thread(self) -> None:
        """Set the number of threads per operation, which OpenMP keeps for each calling thread."""
        if self._cpu_threads:
            torch.set_num_threads(self._cpu_threads)

    def _summary(self, config: EngineConfig) -> str:
        """The summary for the startup log: the code path and the memory in use."""
        if self.device.type == "cpu":
            threads = f"{self._cpu_threads} of {cpu.usable_cores()}"
            place = f"device=cpu instructions={cpu.instruction_set()} threads={threads!r}"
        else:
            place = f"device={torch.cuda.get_device_name(self.device)!r}"
        language, cache = self._language, self.cache
        decode = "one compiled call" if language.decodes_in_one_call else "layer by layer"
        mib = {
            "weights": self.num_weight_bytes,
            "kv_cache": cache.layers.nbytes,
            "image_cache": config.image_cache_memory,
        }
        return " ".join(
            [
                place,
                f"dtype={str(self.dtype).removeprefix('torch.')}",
                f"quantization={self.quantization!r} matmul={language.matmul!r}",
                f"decode={decode!r}",
                *(f"{name}={size / 2**20:.0f}MiB" for name, size in mib.items()),
                f"kv_tokens={cache.num_blocks * cache.block_size}",
            ]
        )

    def _make_cache(self, config: EngineConfig) -> KVCache:
        per_block = config.block_size * bytes_per_token(**self._kv_shape(), dtype=self.dtype)
        memory = config.kv_cache_memory or self._default_memory(config)
        # No more than all requests at their maximum length can use.
        most = -(-self.max_model_len // config.block_size) * config.max_num_seqs
        num_blocks = min(memory // per_block, most)
        tokens = num_blocks * config.block_size
        if tokens < self.max_model_len:
            if config.max_model_len or not tokens:
                raise ValueError(
                    f"the KV cache of {memory / 2**20:.0f} MiB holds {tokens} tokens, but one "
                    f"request may have {self.max_model_len}: raise GLM_KV_CACHE_MEMORY or lower "
                    "GLM_MAX_MODEL_LEN"
                )
            logger.warning(
                "KV cache smaller than the context length, longer requests are rejected "
                "(GLM_KV_CACHE_MEMORY) kv_tokens=%d max_model_len=%d",
                tokens,
                self.max_model_len,
            )
            self.max_model_len = tokens
        return self._cache_of(num_blocks, config.block_size)

    def _kv_shape(self) -> dict[str, int]:
        language = self._language
        return {
            "num_layers": language.num_layers,
            "num_kv_heads": language.num_kv_heads,
            "head_dim": language.head_dim,
        }

    def _cache_of(self, num_blocks: int, block_size: int) -> KVCache:
        return KVCache(
            **self._kv_shape(),
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=self.dtype,
            device=self.device,
        )

    def _default_memory(self, config: EngineConfig) -> int:
        """Size of the KV cache in bytes: on a GPU, the memory that the largest step leaves free."""
        if self.device.type != "cuda":
            return _CPU_KV_CACHE_MEMORY
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            self._profile(config)
        peak = torch.cuda.max_memory_reserved()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
        usable = int(total * config.gpu_memory_utilization)
        memory = usable - others - peak - config.image_cache_memory
        if memory <= 0:
            raise ValueError(
                f"the GPU's {total / 2**30:.1f} GiB leave no memory for the KV cache after "
                f"weights, activations and image cache ({(others + peak) / 2**30:.1f} GiB and "
                f"{config.image_cache_memory / 2**30:.1f} GiB)"
            )
        return memory

    def _profile(self, config: EngineConfig) -> None:
        """Run the largest possible step, except for attention to earlier tokens."""
        side = 2 * int((config.max_num_batched_patches / 4) ** 0.5)
        self._try_image(side)
        each = self.max_num_batched_tokens // config.max_num_seqs
        cache = self._cache_of(self.max_num_batched_tokens // config.block_size, config.block_size)
        self._try_step(config.max_num_seqs, each, cache)
        hidden = torch.zeros(
            _SCORED_ROWS, self._language.hidden_size, dtype=self.dtype, device=self.device
        )
        tokens = torch.zeros(_SCORED_ROWS, dtype=torch.int64, device=self.device)
        token_logprobs(self._language.logits(hidden), tokens, [1] * _SCORED_ROWS)

    def _warm_up(self) -> None:
        """Trigger all compilation and autotuning that depends on the kind of step."""
        self._try_image(2 * self._encode.merge_size)
        for requests, tokens in ((1, 1), (1, 2), (2 * COMPILED_ROWS, 1)):
            self._try_step(requests, tokens, self.cache)

    def _try_image(self, side: int) -> None:
        patches = np.zeros((side * side, self._encode.patch_length), np.uint8)
        self._encode([patches], [(1, side, side)])

    def _try_step(self, requests: int, tokens: int, cache: KVCache) -> None:
        """Run a step of dummy prompts, all in the same blocks, which must be unused."""
        ones = np.ones(tokens, np.int32)
        prompt = Prompt(
            "", ones, np.broadcast_to(np.arange(tokens, dtype=np.int32), (3, tokens)), 0
        )
        blocks = list(range(-(-tokens // cache.block_size)))
        step = []
        for _ in range(requests):
            request = Request("", prompt, SamplingParams(), table=BlockTable(blocks))
            step.append(Scheduled(request, 0, tokens, is_last=True))
        self._forward(Batch.of(step, cache.block_size), cache)

    @torch.inference_mode()
    def encode_images(self, step: Sequence[Scheduled]) -> EncodedImages:
        """Encode the images that this step needs, all in one pass."""
        wanted: dict[bytes, PromptImage] = {}
        takers: list[tuple[Scheduled, PromptImage]] = []
        for part in step:
            for image in part.request.images_between(part.start, part.end):
                if image.embeddings is None and image not in part.request.encoded:
                    takers.append((part, image))
                    wanted.setdefault(image.content_hash, image)
        if not takers:
            return EncodedImages()
        found = {key: known for key in wanted if (known := self.images.get(key))}
        new = {key: image for key, image in wanted.items() if key not in found}
        if new:
            images = list(new.values())
            encoded = self._encode([_patches(i) for i in images], [i.grid for i in images])
            for image, embeddings in zip(images, encoded, strict=True):
                found[image.content_hash] = KnownImage(image.grid, embeddings)
                self.images.add(image.content_hash, found[image.content_hash])
        for part, image in takers:
            part.request.encoded[image] = found[image.content_hash].embeddings
        return EncodedImages(
            num_encoded=len(new),
            num_found=len(takers) - len(new),
            requests={part.request for part, image in takers if image.content_hash in new},
        )

    @torch.inference_mode()
    def run(self, step: Sequence[Scheduled]) -> list[tuple[Scheduled, Sampled]]:
        """Compute a step, and sample the next token of each request whose last token is in it.

        The images of the step must have been encoded.
        """
        batch = Batch.of(step, self.cache.block_size)
        if self._graphs and not batch.scored and self._graphs.takes(batch):
            logits = self._graphs(batch)
        else:
            logits = self._forward(batch, self.cache)
        if not batch.sampled:
            return []
        chosen = self._sampler([part.request for part in batch.sampled], logits)
        return list(zip(batch.sampled, chosen, strict=True))

    def _forward(self, batch: Batch, cache: KVCache) -> torch.Tensor:
        hidden = self._language.embed(self._to_device(batch.ids))
        self._place_images(batch, hidden)
        on_hidden = partial(self._score, batch) if batch.scored else None
        return self._language(hidden, batch, cache.layers, on_hidden)

    def _score(self, batch: Batch, hidden: torch.Tensor) -> None:
        """Note the log probabilities of prompt tokens, a slice at a time: logits are large."""
        for scored in batch.scored:
            request, top = scored.request, scored.request.params.prompt_logprobs or 0
            for first in range(0, scored.count, _SCORED_ROWS):
                count = min(_SCORED_ROWS, scored.count - first)
                row, position = scored.row + first, scored.start + first + 1
                logits = self._language.logits(hidden[row : row + count])
                following = request.prompt.input_ids[position : position + count].astype(np.int64)
                found = token_logprobs(logits, self._to_device(following), [top] * count)
                request.prompt_logprobs.update(enumerate(found, position))

    def _place_images(self, batch: Batch, hidden: torch.Tensor) -> None:
        row = 0
        for part in batch.parts:
            for image in part.request.images_between(part.start, part.end):
                embeddings = image.embeddings
                if embeddings is None:
                    embeddings = part.request.encoded[image]
                first, last = max(part.start, image.start), min(part.end, image.end)
                needed = embeddings[first - image.start : last - image.start]
                at = row + first - part.start
                hidden[at : at + len(needed)] = needed
                if last == image.end:
                    part.request.encoded.pop(image, None)
            row += part.end - part.start

    def _to_device(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device, non_blocking=True)


def _patches(image: PromptImage) -> np.ndarray[Any, Any]:
    assert image.patches is not None, "an image with neither patches nor embeddings"
    return image.patches


def _max_model_len(model_config: Any, config: EngineConfig) -> int:
    limit = int(model_config.text_config.max_position_embeddings)
    if config.max_model_len > limit:
        raise ValueError(
            f"GLM_MAX_MODEL_LEN={config.max_model_len} exceeds the model's limit of {limit}"
        )
    return config.max_model_len or limit


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("GLM_DEVICE='cuda', but torch finds no GPU")
    return name


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype
