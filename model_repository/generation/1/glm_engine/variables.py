"""The names of all environment variables of this project, so that a misspelt one is noticed.

No part of the server knows the settings of all others, and each may run alone with the environment
of all. What needs this file has a copy of it; tests/contract compares the copies, and the names
with the settings that the parts declare.
"""

import os
from collections.abc import Mapping
from difflib import get_close_matches

PREFIX = "GLM_"
# Set by the launcher, which looks for unknown names, for the processes that it starts.
LAUNCHED = "GLM_LAUNCHED"

NAMES = frozenset(
    {
        "GLM_API_KEY",
        "GLM_API_KEYS",
        "GLM_API_KEYS_FILE",
        "GLM_BLOCK_SIZE",
        "GLM_BODY_TIMEOUT",
        "GLM_CACHE_DIR",
        "GLM_CACHE_SHARING",
        "GLM_CACHE_TENANT_FLOOR",
        "GLM_CORS_ORIGINS",
        "GLM_CPU_THREADS",
        "GLM_DATA",
        "GLM_DEVICE",
        "GLM_DRAIN_SECONDS",
        "GLM_DTYPE",
        "GLM_FORWARDED_HEADERS",
        "GLM_FRONTEND",
        "GLM_GPU_KERNELS",
        "GLM_GPU_MEMORY_UTILIZATION",
        "GLM_GRACEFUL_TIMEOUT",
        "GLM_HEADER_TIMEOUT",
        "GLM_HEARTBEATS",
        "GLM_HOST",
        "GLM_IMAGE_CACHE_MEMORY",
        "GLM_IMAGE_DECODE_TIMEOUT",
        "GLM_IMAGE_FETCH",
        "GLM_IMAGE_FETCH_ALLOWED_HOSTS",
        "GLM_IMAGE_FETCH_TIMEOUT",
        "GLM_KV_CACHE_MEMORY",
        "GLM_LAUNCHED",
        "GLM_LOG_FORMAT",
        "GLM_LOG_LEVEL",
        "GLM_MAX_BODY_BYTES",
        "GLM_MAX_CONNECTIONS",
        "GLM_MAX_IMAGES",
        "GLM_MAX_IMAGE_BYTES",
        "GLM_MAX_IMAGE_PIXELS",
        "GLM_MAX_IMAGE_SIDE",
        "GLM_MAX_INFLIGHT",
        "GLM_MAX_INFLIGHT_BYTES",
        "GLM_MAX_MODEL_LEN",
        "GLM_MAX_NUM_BATCHED_PATCHES",
        "GLM_MAX_NUM_BATCHED_TOKENS",
        "GLM_MAX_NUM_SEQS",
        "GLM_MAX_QUEUE",
        "GLM_MAX_QUEUE_BYTES",
        "GLM_MAX_QUEUE_IMAGE_TOKENS",
        "GLM_MAX_QUEUE_SECONDS",
        "GLM_MAX_THINKING_TOKENS",
        "GLM_MAX_VIDEOS",
        "GLM_MAX_VIDEO_BYTES",
        "GLM_MAX_VIDEO_FRAMES",
        "GLM_MEDIA_ALLOWED_HOSTS",
        "GLM_MEDIA_FOLDER",
        "GLM_MEDIA_MEMORY",
        "GLM_MEDIA_OVERFLOW",
        "GLM_MEDIA_PROXY",
        "GLM_METRICS_PUBLIC",
        "GLM_MIN_MODEL_LEN",
        "GLM_MODEL",
        "GLM_MODEL_REPOSITORY",
        "GLM_PORT",
        "GLM_PREFIX_CACHING",
        "GLM_PREPROCESSING_TIMEOUT",
        "GLM_PROBE_TIMEOUT",
        "GLM_QUANTIZATION",
        "GLM_RATE_LIMIT",
        "GLM_REQUEST_TIMEOUT",
        "GLM_RESPONSE_CACHE",
        "GLM_RESPONSE_CACHE_BYTES",
        "GLM_RESPONSE_CACHE_SECONDS",
        "GLM_SERVED_MODEL_NAME",
        "GLM_START_TIMEOUT",
        "GLM_STATUS_FILE",
        "GLM_STEP_TIMEOUT",
        "GLM_TRITON_CERTIFICATE",
        "GLM_TRITON_EXIT_TIMEOUT",
        "GLM_TRITON_GRPC_PORT",
        "GLM_TRITON_HOST",
        "GLM_TRITON_HTTP_PORT",
        "GLM_TRITON_KEY",
        "GLM_TRITON_METRICS_PORT",
        "GLM_TRITON_OPTIONS",
        "GLM_TRITON_ROOT_CERTIFICATE",
        "GLM_TRITON_URL",
        "GLM_UNKNOWN_FIELDS",
        "GLM_URL",
        "GLM_VIDEO_DECODE_TIMEOUT",
        "GLM_WEB",
        "GLM_WEB_API_URL",
        "GLM_WEB_PORT",
        "GLM_WRITE_TIMEOUT",
    }
)


def unknown_variables(env: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each variable with the prefix ``GLM_`` that nothing here reads.

    It names the variable and the nearest known one, never the value, which may be a secret. There
    are none in a process that the launcher started: the launcher has reported them.
    """
    if env.get(LAUNCHED):
        return []
    unknown = sorted(name for name in env if name.startswith(PREFIX) and name not in NAMES)
    return [f"{name} is ignored: there is no such setting{_nearest(name)}" for name in unknown]


def _nearest(name: str) -> str:
    # The prefix, which all have, would make any two names look alike.
    known = {own.removeprefix(PREFIX): own for own in NAMES}
    near = get_close_matches(name.removeprefix(PREFIX).upper(), known, n=1, cutoff=0.65)
    return f"; did you mean {known[near[0]]}?" if near else " (deploy/README.md lists all)"
