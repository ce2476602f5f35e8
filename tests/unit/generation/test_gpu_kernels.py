"""The GPU's kernels, interpreted on the CPU, beside PyTorch's operations."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import glm_engine
from glm_engine.batch import Batch
from glm_engine.block_manager import BlockTable
from glm_engine.operations import GPUOperations, Rotary, TorchOperations, to_cos_sin
from glm_engine.request import Prompt, Request, SamplingParams
from glm_engine.scheduler import Scheduled
from unit.generation.conftest import Harness
from unit.generation.reference import reference
from unit.generation.test_operations import DTYPES, EPS, assert_close, noise

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "shared_memory"), [(80, 163), (89, 99), (90, 227)])
def test_kernels_compile_for_the_full_size_model(
    capability: int, shared_memory: int, tmp_path: Path
) -> None:
    """What only the compiler finds, as types that differ between branches; it needs no GPU."""
    script = Path(__file__).with_name("compile_gpu_kernels.py")
    engine = str(Path(glm_engine.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": engine, "TRITON_CACHE_DIR": str(tmp_path)}
    del environment["TRITON_INTERPRET"]
    compiled = subprocess.run(
        [sys.executable, str(script), str(capability)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr[-3000:]
    taken = json.loads(compiled.stdout)
    assert len(taken) == 13
    assert max(taken.values()) <= shared_memory * 1024


def gpu(dtype: torch.dtype) -> GPUOperations:
    return GPUOperations(dtype, CPU, EPS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_gate_and_rotate(dtype: torch.dtype) -> None:
    ours, theirs = gpu(dtype), TorchOperations(dtype, CPU, EPS)
    x, weight, after = noise(3, 70, dtype=dtype), noise(70, dtype=dtype), noise(70, dtype=dtype)
    hidden = noise(3, 70, dtype=dtype)
    assert_close(ours.norm(x, weight), theirs.norm(x, weight))
    for got, expected in zip(
        [*ours.add_norm(hidden.clone(), x, weight), ours.gate(x)],
        [*theirs.add_norm(hidden, x, weight), theirs.gate(x)],
        strict=True,
    ):
        assert_close(got, expected)
    for got, expected in zip(
        ours.norm_add_norm(hidden.clone(), x, after, weight),
        theirs.norm_add_norm(hidden, x, after, weight),
        strict=True,
    ):
        torch.testing.assert_close(got.float(), expected.float(), rtol=0.05, atol=0.05)
    cos_sin = to_cos_sin(noise(4, 6, dtype=torch.float32), 1.5)
    got, expected = (noise(4, 5, 16, dtype=dtype) for _ in range(2))
    ours.rotate(got, 3, cos_sin)
    theirs.rotate(expected, 3, cos_sin)
    assert_close(got, expected)


def part(start: int, end: int, blocks: list[int]) -> Scheduled:
    ids = np.arange(end, dtype=np.int32)
    prompt = Prompt("", ids, np.stack([ids, ids // 2, ids // 3]), 0)
    request = Request("", prompt, SamplingParams(), table=BlockTable(blocks))
    return Scheduled(request, start, end, is_last=True)


STEPS = {
    "decode": [(69, 70), (3, 4), (0, 1), (150, 151)],
    "fresh": [(0, 70)],
    "mixed": [(69, 70), (0, 9), (20, 85), (40, 41)],
}


# The interpreter multiplies bfloat16 as if its bits were whole numbers; float16 stands in for it.
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_attention(step: str, kv_heads: int, dtype: torch.dtype) -> None:
    heads, head_dim, block_size, free = 4, 24, 16, iter(range(100))
    parts = [
        part(start, end, [next(free) * 7 % 100 for _ in range(-(-end // block_size))])
        for start, end in STEPS[step]
    ]
    batch = Batch.of(parts, block_size)
    cache = noise(1, 100, block_size, 2, kv_heads, head_dim, dtype=dtype, scale=1.0)
    rotary = Rotary(torch.tensor([1.0, 0.3, 0.1]), torch.tensor([0, 1, 2]), 1.0, 200)
    results = []
    for operations in (gpu(dtype), TorchOperations(dtype, CPU, EPS)):
        qkv = noise(len(batch.ids), heads + 2 * kv_heads, head_dim, dtype=dtype, scale=1.0)
        own = cache.clone()
        attended = operations.attention(batch, rotary, own, heads)(qkv, own[0])
        results.append((attended, own, qkv))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


@pytest.mark.slow
def test_an_engine_of_them_gives_the_tokens_of_generate(
    make_prompt: Callable[..., Prompt],
    make_harness: Callable[..., Harness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With what makes CUDA graphs, but for the graphs: each is run anew."""
    make = partial(GPUOperations, torch.float32, CPU)
    monkeypatch.setattr("glm_engine.model_runner.operations_for", lambda *_, **__: make)
    for module in ("operations", "cuda_graphs"):  # a program takes milliseconds here
        monkeypatch.setattr(f"glm_engine.{module}.splits_for", lambda programs: 3)
    monkeypatch.setattr("glm_engine.cuda_graphs._cuda_capture", lambda: lambda run: run)
    harness = make_harness(start=False, max_num_seqs=4, max_model_len=256)
    prompts = [make_prompt("What is it?", [3], False), make_prompt("hello"), make_prompt("Hi!")]
    requests = [harness.add(p, max_tokens=4 + i) for i, p in enumerate(prompts)]
    harness.engine.start()
    for request in requests:
        assert harness.wait(request)[-1].error is None
    for prompt, request in zip(prompts, requests, strict=True):
        expected = reference().generate(prompt, request.max_tokens)
        assert request.token_ids == expected
