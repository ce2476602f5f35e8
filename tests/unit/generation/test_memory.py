"""How large the KV cache becomes, and what a bad size says."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from glm_engine.config import QUANTIZATIONS, EngineConfig
from glm_engine.cuda_graphs import batch_sizes
from glm_engine.device import weight_bytes
from glm_engine.engine import Engine
from glm_engine.errors import InvalidRequest
from glm_engine.free_memory import free_memory
from glm_engine.memory import MemoryBudget, graph_bytes, usual_max_num_seqs
from glm_engine.model_runner import ModelRunner
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.quantize import quantize
from glm_engine.request import MAX_LOGPROBS, Request
from unit.generation.conftest import Harness
from unit.generation.test_engine import MakeHarness, MakePrompt
from unit.paths import DEMO_CHECKPOINT

# 4 layers, keys and values of 2 heads of 64 numbers of 4 bytes.
BYTES_PER_TOKEN = 4 * 2 * 2 * 64 * 4


def _engine(**config: Any) -> Engine:
    settings = EngineConfig(**{"model": str(DEMO_CHECKPOINT)} | config)
    return Engine(settings, on_outputs=lambda outputs: None)


def test_the_memory_given_is_used_in_whole_blocks() -> None:
    engine = _engine(kv_cache_memory=5000 * BYTES_PER_TOKEN + 1, block_size=16)
    assert engine.stats.kv_blocks == 5000 // 16


def test_no_more_is_taken_than_all_requests_can_use() -> None:
    engine = _engine(max_num_seqs=2, max_model_len=100, block_size=16)
    assert engine.stats.kv_blocks == 2 * 7


def test_a_cache_smaller_than_the_context_shortens_it(
    caplog: pytest.LogCaptureFixture, make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    with caplog.at_level(logging.WARNING):
        harness: Harness = make_harness(kv_cache_memory=64 * BYTES_PER_TOKEN, min_model_len=64)
    assert "(GLM_KV_CACHE_MEMORY) kv_tokens=64" in caplog.text
    assert harness.engine.max_model_len == 64
    with pytest.raises(InvalidRequest, match="context length of 64"):
        harness.add(make_prompt("word " * 60))
    assert harness.wait(harness.add(make_prompt("hello"), max_tokens=50))[-1].error is None


def test_a_context_of_less_than_the_minimum_stops_the_start() -> None:
    with pytest.raises(
        ValueError, match=r"holds 64 tokens, less than the 4096 .*GLM_MIN_MODEL_LEN"
    ):
        _engine(kv_cache_memory=64 * BYTES_PER_TOKEN)
    with pytest.raises(ValueError, match="holds 64 tokens, less than the 65 "):
        _engine(kv_cache_memory=64 * BYTES_PER_TOKEN, min_model_len=65)


def test_a_cache_smaller_than_the_context_that_was_asked_for_stops_the_start() -> None:
    with pytest.raises(ValueError, match="raise GLM_KV_CACHE_MEMORY or lower GLM_MAX_MODEL_LEN"):
        _engine(kv_cache_memory=64 * BYTES_PER_TOKEN, max_model_len=100)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"GLM_BLOCK_SIZE": "0"}, "GLM_BLOCK_SIZE='0' is below 1"),
        ({"GLM_KV_CACHE_MEMORY": "2GB"}, "GLM_KV_CACHE_MEMORY='2GB' is not an integer"),
        ({"GLM_GPU_MEMORY_UTILIZATION": "1.5"}, "GLM_GPU_MEMORY_UTILIZATION='1.5' is not between"),
        ({"GLM_GPU_MEMORY_UTILIZATION": "all"}, "GLM_GPU_MEMORY_UTILIZATION='all' is not a"),
        ({"GLM_PREFIX_CACHING": "yes"}, "GLM_PREFIX_CACHING='yes' is not one of true, false"),
    ],
)
def test_a_bad_setting_is_named(env: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EngineConfig.from_env({"GLM_MODEL": "x", **env})


GIB = 2**30
FLASH_BYTES_PER_TOKEN = 40 * 1024


@pytest.mark.parametrize(
    ("card", "weights", "seqs"),
    [
        (24, 19.2, 8),
        (40, 19.2, 64),
        (48, 19.2, 128),
        (80, 19.2, 256),
        (141, 19.2, 256),
        (16, 12.4, 8),
    ],
)
def test_the_number_of_requests_at_a_time_follows_from_the_memory(
    card: int, weights: float, seqs: int
) -> None:
    left = int((0.9 * card - weights) * GIB)
    assert usual_max_num_seqs(left, FLASH_BYTES_PER_TOKEN) == seqs


def test_every_part_of_the_memory_is_subtracted_from_that_of_the_cache() -> None:
    parts = {"others": 1, "peak": 20, "image_cache": 3, "grids": 4, "graphs": 5}
    budget = MemoryBudget(total=100, utilization=0.9, **parts)
    assert budget.kv_cache == 90 - sum(parts.values())
    assert all(f"{name}=" in str(budget) for name in [*parts, "total", "kv_cache", "utilization"])
    assert graph_bytes(35, 1000) > 35 * 2**20


class SimulatedGPU:
    """Has PyTorch report the numbers of a GPU, and watches what is encoded.

    Attributes:
        images: numbers of patches of the images that were encoded.
    """

    total, others = 8 * GIB, 300 * 2**20

    def __init__(self, runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = list[int]()
        encode = runner._encode

        class Watched:
            merge_size, patch_length = encode.merge_size, encode.patch_length
            max_position_bytes = encode.max_position_bytes

            def __call__(own, patches: Any, grids: Any) -> Any:
                self.images += [len(one) for one in patches]
                return encode(patches, grids)

            forget_positions = encode.forget_positions

        monkeypatch.setattr(runner, "_encode", Watched())
        values: dict[str, Callable[[], Any]] = {
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda: None,
            "memory_allocated": lambda: 2**20,
            "max_memory_allocated": lambda: 51 * 2**20,
            "memory_reserved": lambda: 2 * GIB,
            "max_memory_reserved": lambda: 3 * GIB,
            "mem_get_info": lambda: (self.total - 2 * GIB - self.others, self.total),
        }
        for name, value in values.items():
            monkeypatch.setattr(torch.cuda, name, value)


@pytest.mark.slow
def test_the_profile_meets_the_largest_picture_and_everything_that_is_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of this code only a GPU has a use; here it runs with the numbers of one."""
    config = EngineConfig(
        str(DEMO_CHECKPOINT), kv_cache_memory=2**25, max_num_batched_patches=64, max_num_seqs=4,
        max_num_batched_tokens=64,
    )  # fmt: skip
    runner = Engine(config, on_outputs=lambda outputs: None)._runner
    gpu = SimulatedGPU(runner, monkeypatch)
    sampled: list[int] = []
    sampler = runner._sampler

    def watched(requests: Sequence[Request], logits: torch.Tensor) -> Any:
        sampled.extend(request.params.logprobs or 0 for request in requests)
        return sampler(requests, logits)

    monkeypatch.setattr(runner, "_sampler", watched)
    budget = runner._budget(config)
    assert gpu.images == [100]  # more than the 64 of a step: the largest goes alone
    assert sampled == [MAX_LOGPROBS] * 4
    assert (budget.others, budget.peak) == (gpu.others, 3 * GIB)
    # Activations of 50 MiB, logits and tables that the graphs keep, and the graphs themselves.
    kept = 4 * 4 * (785 + 4096 // 16)
    assert budget.graphs == graph_bytes(len(batch_sizes(4)), 50 * 2**20 + kept)
    assert budget.kv_cache == int(0.9 * gpu.total) - gpu.others - 3 * GIB - (
        config.image_cache_memory + budget.grids + budget.graphs
    )


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same_answers(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    """What fails in half precision only, as in RoPE's float32 detour, fails here."""
    exact, half = make_harness(), make_harness(dtype="bfloat16")
    prompts = [make_prompt("Describe the image.", [seed], False) for seed in range(1, 9)]
    answers = [
        [harness.text(harness.add(prompt, max_tokens=30)) for prompt in prompts]
        for harness in (exact, half)
    ]
    same = sum(one == other for one, other in zip(*answers, strict=True))
    assert same >= 6


def test_a_cache_that_does_not_fit_into_memory_stops_the_start() -> None:
    """Two versions side by side may need more than there is: better than to be killed later."""
    with pytest.raises(ValueError, match=r"the keys and values of the KV cache need \d{6}"):
        _engine(kv_cache_memory=2**60, max_num_seqs=2**24)


def test_weights_that_do_not_fit_into_memory_stop_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("glm_engine.device.free_memory", lambda: 2.0**20)
    with pytest.raises(ValueError, match=r"the weights take 0.0 GiB in float32, but main memory"):
        _engine()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_size_of_the_weights_is_that_of_the_loaded_model(quantization: str, dtype: str) -> None:
    runner = _engine(quantization=quantization, dtype=dtype, kv_cache_memory=2**25)._runner
    size = weight_bytes(DEMO_CHECKPOINT, runner.dtype, quantization)
    assert size == runner.num_weight_bytes


def test_the_size_of_weights_that_are_quantised_already_is_that_of_the_loaded_model(
    tmp_path: Path,
) -> None:
    quantize(DEMO_CHECKPOINT, tmp_path, SCHEMES["int4"], {})
    for quantization in ("none", "int4"):  # of the output head
        runner = _engine(
            model=str(tmp_path), quantization=quantization, kv_cache_memory=2**25
        )._runner
        size = weight_bytes(tmp_path, runner.dtype, quantization)
        assert size == pytest.approx(runner.num_weight_bytes, rel=0.005)


def test_free_memory_is_the_machines_within_the_containers_limit(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert free_memory(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000\n")
    assert free_memory(meminfo, tmp_path) == 4000 - 1000 + 300
    older = tmp_path / "older"
    (older / "memory").mkdir(parents=True)
    (older / "memory" / "memory.limit_in_bytes").write_text("8000\n")
    (older / "memory" / "memory.usage_in_bytes").write_text("6000\n")
    (older / "memory" / "memory.stat").write_text("total_inactive_file 500\n")
    assert free_memory(meminfo, older) == 8000 - 6000 + 500
    assert free_memory(tmp_path / "none", tmp_path / "none") == float("inf")
