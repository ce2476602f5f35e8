"""Settings of the engine, read from the environment that Triton was started with."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What the operator chose.

    Attributes:
        model: local folder of the checkpoint, or its id on the hub (``GLM_MODEL``).
        device: ``auto`` takes a GPU where there is one (``GLM_DEVICE``).
        dtype: of weights and activations; ``auto`` is bfloat16 on a GPU and float32 on a CPU
            (``GLM_DTYPE``).
        max_model_len: tokens of prompt and answer together; 0 for the checkpoint's own limit
            (``GLM_MAX_MODEL_LEN``).
        max_num_seqs: requests that run at the same time (``GLM_MAX_NUM_SEQS``).
        max_queue: requests that may wait besides those that run (``GLM_MAX_QUEUE``).
        cpu_threads: threads of one operation on a CPU; 0 for torch's default (``GLM_CPU_THREADS``).
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    max_model_len: int = 0
    max_num_seqs: int = 64
    max_queue: int = 256
    cpu_threads: int = 1

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
            max_model_len=_integer(env, "GLM_MAX_MODEL_LEN", default=0, minimum=0),
            max_num_seqs=_integer(env, "GLM_MAX_NUM_SEQS", default=64, minimum=1),
            max_queue=_integer(env, "GLM_MAX_QUEUE", default=256, minimum=0),
            cpu_threads=_integer(env, "GLM_CPU_THREADS", default=1, minimum=0),
        )


def _choice(env: Mapping[str, str], key: str, choices: tuple[str, ...]) -> str:
    value = env.get(key, "").strip() or choices[0]
    if value not in choices:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(choices)}")
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
