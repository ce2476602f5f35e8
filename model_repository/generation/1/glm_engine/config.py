"""Settings of the engine, read from the environment that Triton was started with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from glm_engine.caches import cache_folder

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")
CACHE_SHARING = ("tenant", "all")
QUANTIZATIONS = ("none", "fp8", "int8", "int4")
LOG_LEVELS = ("info", "debug", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of the engine.

    Attributes:
        model: local folder of the checkpoint, or its id on the hub (``GLM_MODEL``).
        device: ``auto`` uses a GPU if there is one, and a CPU otherwise for small models only
            (``GLM_DEVICE``).
        dtype: of weights and activations; ``auto`` is bfloat16 on a GPU and float32 on a CPU
            (``GLM_DTYPE``).
        quantization: of the weights of the language model that the checkpoint does not have
            quantised already, while they are loaded (``GLM_QUANTIZATION``).
        max_model_len: tokens of prompt and answer together; 0 for the checkpoint's own limit
            (``GLM_MAX_MODEL_LEN``).
        min_model_len: a start with fewer is refused: what memory the KV cache has may shorten the
            context down to this, or to the checkpoint's own limit (``GLM_MIN_MODEL_LEN``).
        max_num_seqs: maximum number of running requests; 0 for 64 on a CPU, and on a GPU for 8 to
            256, by its memory (``GLM_MAX_NUM_SEQS``).
        max_queue: maximum number of waiting requests (``GLM_MAX_QUEUE``).
        max_queue_seconds: a request with a longer estimated wait is rejected; without an estimate,
            one whose tenant has a request that has waited longer (``GLM_MAX_QUEUE_SECONDS``).
        max_queue_bytes: of the images and videos of waiting requests (``GLM_MAX_QUEUE_BYTES``).
        max_queue_image_tokens: of waiting requests (``GLM_MAX_QUEUE_IMAGE_TOKENS``).
        max_num_batched_tokens: of all requests per step; 0 for 512 on a CPU, 4096 on a GPU
            (``GLM_MAX_NUM_BATCHED_TOKENS``).
        max_num_batched_patches: image patches encoded per step; larger images are encoded alone
            (``GLM_MAX_NUM_BATCHED_PATCHES``).
        max_image_side: stage 1's bound on the longer side of pictures in pixels, which bounds the
            memory of the largest one; 0 for the checkpoint's only (``GLM_MAX_IMAGE_SIDE``).
        block_size: tokens in a block of the KV cache (``GLM_BLOCK_SIZE``).
        kv_cache_memory: bytes; 0 for 512 MiB on a CPU, and for the free memory after a profiling
            run on a GPU (``GLM_KV_CACHE_MEMORY``).
        gpu_memory_utilization: share of the GPU's memory to use in total
            (``GLM_GPU_MEMORY_UTILIZATION``).
        image_cache_memory: bytes of cached image embeddings, including those that requests hold
            (``GLM_IMAGE_CACHE_MEMORY``).
        prefix_caching: whether cached prompt prefixes are reused
            (``GLM_PREFIX_CACHING``).
        cache_sharing: whether cached prefixes and pictures are reused within a tenant only, or
            for all, who can then tell by time what others sent (``GLM_CACHE_SHARING``).
        cache_tenant_floor: share of each cache that others do not take from a tenant, from 0 to 0.5
            (``GLM_CACHE_TENANT_FLOOR``).
        gpu_kernels: whether a GPU uses the project's own kernels and CUDA graphs, instead of
            PyTorch's slower operations (``GLM_GPU_KERNELS``).
        cpu_threads: threads per operation on a CPU; 0 for all cores that the process may use, or
            for one if the model is so small that a step is a single compiled call
            (``GLM_CPU_THREADS``).
        max_thinking_tokens: bound on the thought of a request that sets no ``max_tokens``
            (``GLM_MAX_THINKING_TOKENS``).
        forwarded_headers: patterns for the lower-case names of headers that Triton passes on as
            parameters of requests, and that are ignored; ``*`` is any text
            (``GLM_FORWARDED_HEADERS``, comma-separated).
        cache_dir: folder for compiled code; None if there is none (``GLM_CACHE_DIR``).
        log_level: minimum severity of logged records (``GLM_LOG_LEVEL``).
        log_format: whether log lines are text or JSON objects (``GLM_LOG_FORMAT``).
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    quantization: str = "none"
    max_model_len: int = 0
    min_model_len: int = 8192
    max_num_seqs: int = 0
    max_queue: int = 256
    max_queue_seconds: int = 30
    max_queue_bytes: int = 1024 * 2**20
    max_queue_image_tokens: int = 262_144
    max_num_batched_tokens: int = 0
    max_num_batched_patches: int = 16384
    max_image_side: int = 0
    block_size: int = 16
    kv_cache_memory: int = 0
    gpu_memory_utilization: float = 0.9
    image_cache_memory: int = 256 * 2**20
    prefix_caching: bool = True
    cache_sharing: str = "tenant"
    cache_tenant_floor: float = 0.05
    gpu_kernels: bool = True
    cpu_threads: int = 0
    max_thinking_tokens: int = 8192
    forwarded_headers: tuple[str, ...] = ()
    cache_dir: Path | None = None
    log_level: str = "info"
    log_format: str = "text"

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Self:
        """Read the settings; raises ValueError naming the key and the value."""
        model = env.get("GLM_MODEL", "").strip()
        if not model:
            raise ValueError(
                "GLM_MODEL is not set: give a checkpoint's folder or its id on the hub"
            )
        return cls(
            model=model,
            device=_choice(env, "GLM_DEVICE", DEVICES),
            dtype=_choice(env, "GLM_DTYPE", DTYPES),
            quantization=_choice(env, "GLM_QUANTIZATION", QUANTIZATIONS),
            max_model_len=_integer(env, "GLM_MAX_MODEL_LEN", default=0, minimum=0),
            min_model_len=_integer(env, "GLM_MIN_MODEL_LEN", default=8192, minimum=1),
            max_num_seqs=_integer(env, "GLM_MAX_NUM_SEQS", default=0, minimum=0),
            max_queue=_integer(env, "GLM_MAX_QUEUE", default=256, minimum=0),
            max_queue_seconds=_integer(env, "GLM_MAX_QUEUE_SECONDS", default=30, minimum=1),
            max_queue_bytes=_integer(env, "GLM_MAX_QUEUE_BYTES", default=1024 * 2**20, minimum=1),
            max_queue_image_tokens=_integer(
                env, "GLM_MAX_QUEUE_IMAGE_TOKENS", default=262_144, minimum=1
            ),
            max_num_batched_tokens=_integer(
                env, "GLM_MAX_NUM_BATCHED_TOKENS", default=0, minimum=0
            ),
            max_num_batched_patches=_integer(
                env, "GLM_MAX_NUM_BATCHED_PATCHES", default=16384, minimum=1
            ),
            max_image_side=_integer(env, "GLM_MAX_IMAGE_SIDE", default=0, minimum=0),
            block_size=_integer(env, "GLM_BLOCK_SIZE", default=16, minimum=1),
            kv_cache_memory=_integer(env, "GLM_KV_CACHE_MEMORY", default=0, minimum=0),
            gpu_memory_utilization=_number(
                env, "GLM_GPU_MEMORY_UTILIZATION", default=0.9, minimum=0.01, maximum=1.0
            ),
            image_cache_memory=_integer(
                env, "GLM_IMAGE_CACHE_MEMORY", default=256 * 2**20, minimum=0
            ),
            prefix_caching=_choice(env, "GLM_PREFIX_CACHING", ("true", "false")) == "true",
            cache_sharing=_choice(env, "GLM_CACHE_SHARING", CACHE_SHARING),
            cache_tenant_floor=_number(
                env, "GLM_CACHE_TENANT_FLOOR", default=0.05, minimum=0.0, maximum=0.5
            ),
            gpu_kernels=_choice(env, "GLM_GPU_KERNELS", ("true", "false")) == "true",
            cpu_threads=_integer(env, "GLM_CPU_THREADS", default=0, minimum=0),
            max_thinking_tokens=_integer(env, "GLM_MAX_THINKING_TOKENS", default=8192, minimum=1),
            forwarded_headers=_names(env, "GLM_FORWARDED_HEADERS"),
            cache_dir=cache_folder(env),
            log_level=_choice(env, "GLM_LOG_LEVEL", LOG_LEVELS),
            log_format=_choice(env, "GLM_LOG_FORMAT", LOG_FORMATS),
        )


def _choice(env: Mapping[str, str], key: str, choices: tuple[str, ...]) -> str:
    value = env.get(key, "").strip().lower() or choices[0]
    if value not in choices:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(choices)}")
    return value


def _names(env: Mapping[str, str], key: str) -> tuple[str, ...]:
    names = (name.strip().lower() for name in env.get(key, "").split(","))
    return tuple(name for name in names if name)


def _number(
    env: Mapping[str, str], key: str, *, default: float, minimum: float, maximum: float
) -> float:
    text = env.get(key, "").strip()
    try:
        value = float(text or default)
    except ValueError:
        raise ValueError(f"{key}={text!r} is not a number") from None
    if not minimum <= value <= maximum:
        raise ValueError(f"{key}={text!r} is not between {minimum:g} and {maximum:g}")
    return value


def _integer(env: Mapping[str, str], key: str, *, default: int, minimum: int) -> int:
    text = env.get(key, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{key}={text!r} is not an integer") from None
    if value < minimum:
        raise ValueError(f"{key}={text!r} is below {minimum}")
    return value
