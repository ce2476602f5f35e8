"""Owns the weights and the KV cache, and runs steps. For the engine thread only."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from glm_engine import cpu
from glm_engine.batch import Batch, ScoredOption
from glm_engine.block_manager import BlockTable
from glm_engine.checkpoint import Checkpoint
from glm_engine.config import EngineConfig
from glm_engine.cuda_graphs import DecodeGraphs, batch_sizes
from glm_engine.device import (
    Device,
    check_weights_fit,
    main_memory,
    select_device,
    weight_bytes,
)
from glm_engine.free_memory import check_fits
from glm_engine.kv_cache import KVCache, bytes_per_token
from glm_engine.language_model import COMPILED_ROWS, LanguageModel
from glm_engine.memory import MemoryBudget, graph_bytes, usual_max_num_seqs
from glm_engine.operations import GPUOperations, Operations, operations_for
from glm_engine.prefetch import prefetch
from glm_engine.quantization.layouts import layout_for
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.request import (
    MAX_LOGPROBS,
    Prompt,
    PromptImage,
    Request,
    SamplingParams,
    ThinkingTokens,
)
from glm_engine.sampler import Sampled, Sampler, token_logprobs
from glm_engine.scheduler import Scheduled
from glm_engine.scoring import END
from glm_engine.vision import ImageCache, KnownImage, VisionEncoder, most_patches
from glm_engine.weights import SafetensorsFiles, Weights, model_without_weights

_CPU_KV_CACHE_MEMORY = 512 * 2**20
# At a vocabulary of 150,000 some 150 MB of logits and as much again of their logarithms.
_SCORED_ROWS = 256
_CPU_BATCHED_TOKENS, _GPU_BATCHED_TOKENS = 512, 4096
_CPU_SEQS = 64
_CURE = (
    "raise GLM_GPU_MEMORY_UTILIZATION, or lower GLM_MAX_NUM_SEQS, GLM_IMAGE_CACHE_MEMORY, "
    "GLM_MAX_NUM_BATCHED_TOKENS, GLM_MAX_NUM_BATCHED_PATCHES or GLM_MAX_IMAGE_SIDE"
)

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
        max_num_seqs: maximum number of requests in a step.
        max_num_batched_tokens: per step.
        cache: the KV cache.
        images: the cache of image embeddings.
        num_compilations: number of GPU kernels compiled after the warm-up; each of them has stopped
            all requests for a second, so there should be none.
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
                KV cache, the device cannot run the model, or memory is short.
        """
        chosen = select_device(config)
        self.device, self.dtype = chosen.device, chosen.dtype
        if model is None:
            size = weight_bytes(checkpoint.folder, self.dtype, config.quantization)
            self._announce(chosen, config, size)
            prefetch(checkpoint.folder, main_memory()[0])
        self._cpu_threads = 0
        if self.device.type == "cpu":
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
        self._largest_picture = most_patches(checkpoint.image_processor, config.max_image_side)
        self.quantization = "; ".join(weights.kinds) or "none"
        self.num_weight_bytes = weights.num_bytes
        if self._language.decodes_in_one_call and not config.cpu_threads:
            # Its operations are shorter than the start of a second thread.
            self._cpu_threads = 1
            self.enter_thread()
        eos = sorted(token for token in checkpoint.defaults.eos_token_ids if token < num_tokens)
        self._eos_token_ids = torch.tensor(eos, device=self.device)
        usual = _CPU_BATCHED_TOKENS if self.device.type == "cpu" else _GPU_BATCHED_TOKENS
        self.max_num_seqs = config.max_num_seqs or self._usual_seqs(config)
        self.max_num_batched_tokens = max(config.max_num_batched_tokens or usual, self.max_num_seqs)
        self._sampler = self._make_sampler(
            num_tokens, checkpoint.defaults.eos_token_ids, thinking, operations
        )
        self.images = ImageCache(config.image_cache_memory, config.cache_tenant_floor)
        self.cache = self._make_cache(config)
        logger.info("loaded: %s", self._summary(config))
        self.num_compilations = 0
        self._graphs: DecodeGraphs | None = None
        with torch.inference_mode():
            self._warm_up(operations)
            if isinstance(operations, GPUOperations):
                self._graphs = DecodeGraphs(
                    self._language,
                    operations,
                    self.cache,
                    max_num_seqs=self.max_num_seqs,
                    max_len=self.max_model_len,
                    device=self.device,
                )
        if isinstance(operations, GPUOperations):
            operations.on_compilation(self._note_compilation)

    @staticmethod
    def _announce(chosen: Device, config: EngineConfig, weights: int) -> None:
        """Log what is about to be loaded, and raise ValueError if it does not fit."""
        logger.info(
            "loading: device=%r dtype=%s quantization=%s weights=%.0fMiB free=%.0fMiB "
            "total=%.0fMiB",
            chosen.description,
            str(chosen.dtype).removeprefix("torch."),
            config.quantization,
            *(size / 2**20 for size in (weights, chosen.free, chosen.total)),
        )
        check_weights_fit(chosen, config, weights)

    def _note_compilation(self, kernel: str) -> None:
        self.num_compilations += 1
        logger.warning("a kernel was compiled after the warm-up: kernel=%s", kernel)

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

    def _make_sampler(
        self,
        num_tokens: int,
        eos_token_ids: frozenset[int],
        thinking: ThinkingTokens | None,
        operations: Operations,
    ) -> Callable[[Sequence[Request], torch.Tensor], list[Sampled]]:
        if not isinstance(operations, GPUOperations):
            return Sampler(num_tokens, eos_token_ids, self.device, thinking)
        from glm_engine.gpu_sampler import GPUSampler  # needs the compiler of GPU kernels

        return GPUSampler(
            num_tokens, eos_token_ids, self.device, thinking, max_num_seqs=self.max_num_seqs
        )

    def _make_cache(self, config: EngineConfig) -> KVCache:
        per_block = config.block_size * self._bytes_per_token
        memory = config.kv_cache_memory or self._default_memory(config)
        # No more than all requests at their maximum length can use.
        most = -(-self.max_model_len // config.block_size) * self.max_num_seqs
        num_blocks = min(memory // per_block, most)
        tokens = num_blocks * config.block_size
        if tokens < self.max_model_len:
            if config.max_model_len:
                raise ValueError(
                    f"the KV cache of {memory / 2**20:.0f} MiB holds {tokens} tokens, but one "
                    f"request may have {self.max_model_len}: raise GLM_KV_CACHE_MEMORY or lower "
                    "GLM_MAX_MODEL_LEN"
                )
            least = min(self.max_model_len, config.min_model_len)
            if tokens < least:
                raise ValueError(
                    f"the KV cache of {memory / 2**20:.0f} MiB holds {tokens} tokens, less than "
                    f"the {least} of the shortest useful context: raise GLM_KV_CACHE_MEMORY, "
                    f"accept it with GLM_MIN_MODEL_LEN, or on a GPU {_CURE}"
                )
            logger.warning(
                "KV cache smaller than the context length, longer requests are rejected "
                "(GLM_KV_CACHE_MEMORY) kv_tokens=%d max_model_len=%d",
                tokens,
                self.max_model_len,
            )
            self.max_model_len = tokens
        check_fits("the keys and values of the KV cache", num_blocks * per_block, self.device)
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

    @property
    def _bytes_per_token(self) -> int:
        return bytes_per_token(**self._kv_shape(), dtype=self.dtype)

    def _usual_seqs(self, config: EngineConfig) -> int:
        """The default maximum number of running requests."""
        if self.device.type != "cuda":
            return _CPU_SEQS
        free, total = torch.cuda.mem_get_info()
        left = free - int(total * (1 - config.gpu_memory_utilization)) - config.image_cache_memory
        return usual_max_num_seqs(left, self._bytes_per_token)

    def _default_memory(self, config: EngineConfig) -> int:
        """Size of the KV cache in bytes: on a GPU, the memory that the largest step leaves free."""
        if self.device.type != "cuda":
            least = min(self.max_model_len, config.min_model_len)
            return max(_CPU_KV_CACHE_MEMORY, (least + config.block_size) * self._bytes_per_token)
        budget = self._budget(config)
        logger.info("memory: %s", budget)
        if budget.kv_cache <= 0:
            raise ValueError(f"the GPU's memory leaves none for the KV cache: {budget}; {_CURE}")
        return budget.kv_cache

    def _budget(self, config: EngineConfig) -> MemoryBudget:
        """Measure what the largest step takes."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            decode = self._profile(config)
        peak = torch.cuda.max_memory_reserved()
        self._encode.forget_positions()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        graphs = 0
        if config.gpu_kernels:
            graphs = graph_bytes(len(batch_sizes(self.max_num_seqs)), decode)
        return MemoryBudget(
            total=total,
            utilization=config.gpu_memory_utilization,
            others=total - free - torch.cuda.memory_reserved(),
            peak=peak,
            image_cache=config.image_cache_memory,
            grids=self._encode.max_position_bytes,
            graphs=graphs,
        )

    def _profile(self, config: EngineConfig) -> int:
        """Run the largest possible step, except for attention to earlier tokens.

        Returns:
            Bytes that the largest decode step takes in a CUDA graph, besides the weights.
        """
        largest = max(config.max_num_batched_patches, self._largest_picture)
        self._try_image(2 * math.ceil((largest / 4) ** 0.5))
        cache = self._cache_of(
            -(-self.max_num_batched_tokens // config.block_size), config.block_size
        )
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        logits = self._try_step([(0, 1)] * self.max_num_seqs, cache)
        decode = torch.cuda.max_memory_allocated() - before
        # The graphs keep logits, and tables of the longest requests.
        widest = -(-self.max_model_len // config.block_size)
        decode += 4 * len(logits) * (logits.stride(0) + widest)
        del logits
        each = self.max_num_batched_tokens // self.max_num_seqs
        self._try_step([(0, each)] * self.max_num_seqs, cache)
        self._try_sampler(self.max_num_seqs)
        hidden = torch.zeros(
            _SCORED_ROWS, self._language.hidden_size, dtype=self.dtype, device=self.device
        )
        tokens = torch.zeros(_SCORED_ROWS, dtype=torch.int64, device=self.device)
        token_logprobs(self._language.logits(hidden), tokens, [1] * _SCORED_ROWS)
        return decode

    def _try_sampler(self, count: int) -> None:
        """Sample for a number of requests, with everything that takes memory or kernels."""
        params = SamplingParams(
            temperature=1.0, top_p=0.9, min_p=0.1, repetition_penalty=1.1, presence_penalty=0.1,
            frequency_penalty=0.1, logit_bias={0: 1.0}, min_tokens=1, logprobs=MAX_LOGPROBS,
        )  # fmt: skip
        nothing = np.zeros(1, np.int32)
        prompt = Prompt("", nothing, np.zeros((3, 1), np.int32), 0)
        hidden = torch.zeros(
            count, self._language.hidden_size, dtype=self.dtype, device=self.device
        )
        requests = [Request("", prompt, params) for _ in range(count)]
        self._sampler(requests, self._language.logits(hidden))

    def _warm_up(self, operations: Operations) -> None:
        """Trigger all compilation and autotuning that depends on the kind of step."""
        self._try_image(2 * self._encode.merge_size)
        steps = [[(0, 1)], [(0, 2)], [(0, 1)] * (2 * COMPILED_ROWS)]
        if isinstance(operations, GPUOperations):
            # Decoding requests beside a prompt; a few tokens after so many that these are divided.
            end = min(self.max_model_len, 2048)
            steps += [[(0, 1), (0, 2)], [(end - 2, end)]]
            self._try_sampler(1)
            if self.quantization != "none":  # the product's tiles depend on the number of rows
                steps += [[(0, 1)] * rows for rows in (64, 65)]
        for step in steps:
            self._try_step(step, self.cache)

    def _try_image(self, side: int) -> None:
        patches = np.zeros((side * side, self._encode.patch_length), np.uint8)
        self._encode([patches], [(1, side, side)])

    def _try_step(self, parts: Sequence[tuple[int, int]], cache: KVCache) -> torch.Tensor:
        """Run a step of dummy prompts, all in the same blocks, which must be unused.

        Args:
            parts: for each prompt the first token, and the one after the last.

        Returns:
            (prompts, vocabulary) float32 logits.
        """
        step = []
        for start, end in parts:
            ids = np.ones(end, np.int32)
            positions = np.broadcast_to(np.arange(end, dtype=np.int32), (3, end))
            blocks = [block % cache.num_blocks for block in range(-(-end // cache.block_size))]
            request = Request(
                "", Prompt("", ids, positions, 0), SamplingParams(), table=BlockTable(blocks)
            )
            step.append(Scheduled(request, start, end, is_last=True))
        return self._forward(Batch.of(step, cache.block_size), cache)

    @torch.inference_mode()
    def encode_images(self, step: Sequence[Scheduled]) -> EncodedImages:
        """Encode the images that this step needs, all in one pass."""
        wanted: dict[bytes, PromptImage] = {}
        owners: dict[bytes, str] = {}
        takers: list[tuple[Scheduled, PromptImage]] = []
        for part in step:
            for image in part.request.images_between(part.start, part.end):
                if image.embeddings is None and image not in part.request.encoded:
                    takers.append((part, image))
                    wanted.setdefault(image.content_hash, image)
                    owners.setdefault(image.content_hash, part.request.scope.owner)
        if not takers:
            return EncodedImages()
        found = {key: known for key in wanted if (known := self.images.get(key))}
        new = {key: image for key, image in wanted.items() if key not in found}
        if new:
            images = list(new.values())
            encoded = self._encode([_patches(i) for i in images], [i.grid for i in images])
            for image, embeddings in zip(images, encoded, strict=True):
                key = image.content_hash
                found[key] = KnownImage(image.grid, embeddings)
                self.images.add(key, found[key], owners[key])
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
        self.cache.copy([one for part in step if (one := part.request.tail_copy) is not None])
        if self._graphs and self._graphs.takes(batch):
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
        is_scored = batch.scored or batch.options
        on_hidden = partial(self._score, batch) if is_scored else None
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
        self._score_options(batch.options, hidden)

    def _score_options(self, options: Sequence[ScoredOption], hidden: torch.Tensor) -> None:
        """Note what the final hidden states say about the options of questions."""
        for first in range(0, len(options), _SCORED_ROWS):
            some = options[first : first + _SCORED_ROWS]
            # Several options may be predicted by one row.
            rows, at = np.unique([one.row for one in some], return_inverse=True)
            picked = self._to_device(rows)
            logprobs = self._language.logits(hidden.index_select(0, picked)).log_softmax(-1)
            of_row = self._to_device(at)
            token_ids = self._to_device(np.array([one.token_id for one in some]))
            found = logprobs[of_row, token_ids.clamp(min=0)]
            if any(one.token_id == END for one in some):
                ends = logprobs[:, self._eos_token_ids].logsumexp(-1)
                found = torch.where(token_ids == END, ends[of_row], found)
            for one, value in zip(some, found.tolist(), strict=True):
                one.scoring.logprobs[one.option, one.depth] = value

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
