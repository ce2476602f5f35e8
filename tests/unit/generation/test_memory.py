"""How large the KV cache becomes, and what a bad size says."""

import logging
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from glm_engine import memory
from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.errors import InvalidRequest
from unit.generation.conftest import Harness
from unit.generation.test_engine import MakeHarness, MakePrompt
from unit.paths import DEMO_CHECKPOINT

# 4 layers, keys and values of 2 heads of 64 numbers of 4 bytes.
BYTES_PER_TOKEN = 4 * 2 * 2 * 64 * 4


def _engine(**config: int) -> Engine:
    return Engine(
        EngineConfig(model=str(DEMO_CHECKPOINT), **config),  # type: ignore[arg-type]
        on_outputs=lambda outputs: None,
    )


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
        harness: Harness = make_harness(kv_cache_memory=64 * BYTES_PER_TOKEN)
    assert "(GLM_KV_CACHE_MEMORY) kv_tokens=64" in caplog.text
    assert harness.engine.max_model_len == 64
    with pytest.raises(InvalidRequest, match="context length of 64"):
        harness.add(make_prompt("word " * 60))
    assert harness.wait(harness.add(make_prompt("hello"), max_tokens=50))[-1].error is None


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
    monkeypatch.setattr(memory, "free_memory", lambda: 2.0**20)
    with pytest.raises(ValueError, match=r"the weights need 0.0 GiB, and 0.0 GiB of main memory"):
        _engine()


def test_the_size_of_the_weights_is_that_of_the_loaded_model() -> None:
    model = AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT)
    for dtype in (torch.float32, torch.bfloat16):
        size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
        assert memory.weights_size(DEMO_CHECKPOINT, dtype) == size


def test_free_memory_is_the_machines_within_the_containers_limit(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert memory.free_memory(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 700\ninactive_file 300\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("4000\n")
    assert memory.free_memory(meminfo, tmp_path) == 4000 - 1000 + 300
    older = tmp_path / "older"
    (older / "memory").mkdir(parents=True)
    (older / "memory" / "memory.limit_in_bytes").write_text("8000\n")
    (older / "memory" / "memory.usage_in_bytes").write_text("6000\n")
    (older / "memory" / "memory.stat").write_text("total_inactive_file 500\n")
    assert memory.free_memory(meminfo, older) == 8000 - 6000 + 500
    assert memory.free_memory(tmp_path / "none", tmp_path / "none") == float("inf")
