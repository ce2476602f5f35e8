"""The GPU's kernels, interpreted on the CPU, beside PyTorch's operations."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import triton

import glm_engine
from glm_engine.batch import Batch
from glm_engine.block_manager import BlockTable
from glm_engine.operations import (
    _PROGRAMS_PER_PROCESSOR,
    GPUOperations,
    Rotary,
    TorchOperations,
    to_cos_sin,
)
from glm_engine.request import Prompt, Request, SamplingParams
from glm_engine.scheduler import Scheduled
from unit.generation.conftest import Harness
from unit.generation.reference import reference
from unit.generation.test_operations import DTYPES, EPS, assert_close, noise

CPU = torch.device("cpu")


# KiB of shared memory of a block, and of a multiprocessor.
CARDS = {"80": (163, 164), "89": (99, 100), "90": (227, 228), "100": (227, 228), "120": (99, 100)}
REGISTERS = 65536


@pytest.mark.slow
@pytest.mark.parametrize("capability", CARDS)
def test_kernels_compile_for_the_full_size_model(capability: str, tmp_path: Path) -> None:
    """What only the compiler finds, as types that differ between branches; it needs no GPU."""
    script = Path(__file__).with_name("compile_gpu_kernels.py")
    engine = str(Path(glm_engine.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": engine, "TRITON_CACHE_DIR": str(tmp_path)}
    del environment["TRITON_INTERPRET"]
    compiled = subprocess.run(
        [sys.executable, str(script), capability],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert compiled.returncode == 0, compiled.stderr[-3000:]
    taken = json.loads(compiled.stdout)
    assert len(taken) == 20
    of_block, of_processor = (1024 * size for size in CARDS[capability])
    for name, kernel in taken.items():
        assert kernel["shared"] <= of_block, name
        assert kernel["registers"] * kernel["threads"] <= REGISTERS, name
        # In float32, which is there to compare with, registers are few for the dot products.
        allowed = {"attend, float32": 1024, "sample": 16, "multiply by int4, prefill": 40}
        assert kernel["spilled"] <= allowed.get(name, 0), name
    # All programs of the decode attention run at the same time; a block takes 1 KiB more.
    decode, programs = taken["attend, decode"], _PROGRAMS_PER_PROCESSOR
    assert programs * (decode["shared"] + 1024) <= of_processor
    assert programs * decode["registers"] * decode["threads"] <= REGISTERS


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


# Parts of requests: first token, and the one after the last.
STEPS = {
    "decode": [(69, 70), (3, 4), (0, 1), (150, 151)],
    "part's edges": [(63, 64), (64, 65), (127, 128), (128, 129), (191, 192)],
    "one long": [(2, 3), (0, 1), (1499, 1500), (7, 8)],
    "fresh": [(0, 70)],
    "a few after many": [(700, 703)],
    "mixed": [(69, 70), (0, 9), (20, 85), (40, 41), (500, 520)],
}


# The interpreter multiplies bfloat16 as if its bits were whole numbers; float16 stands in for it.
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_attention(
    step: str, kv_heads: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glm_engine.attention_work.DECODE_PART", 64)
    monkeypatch.setattr("glm_engine.attention_work._LEAST_PART", 64)
    heads, head_dim, block_size, free = 4, 24, 16, iter(range(150))
    parts = [
        part(start, end, [next(free) * 7 % 150 for _ in range(-(-end // block_size))])
        for start, end in STEPS[step]
    ]
    batch = Batch.of(parts, block_size)
    cache = noise(1, 150, block_size, 2, kv_heads, head_dim, dtype=dtype, scale=1.0)
    rotary = Rotary(torch.tensor([1.0, 0.3, 0.1]), torch.tensor([0, 1, 2]), 1.0, 2000)
    results = []
    for operations in (gpu(dtype), TorchOperations(dtype, CPU, EPS)):
        qkv = noise(len(batch.ids), heads + 2 * kv_heads, head_dim, dtype=dtype, scale=1.0)
        own = cache.clone()
        attended = operations.attention(batch, rotary, own, heads)(qkv, own[0])
        results.append((attended, own, qkv))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected)


@pytest.mark.slow
def test_shapes_of_the_full_size_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer's operations of GLM-4.6V-Flash, in float32 and in few tokens."""
    ours, theirs = gpu(torch.float32), TorchOperations(torch.float32, CPU, EPS)
    x, weight, after = (
        noise(*shape, dtype=torch.float32) for shape in [(3, 4096), (4096,), (4096,)]
    )
    for got, expected in zip(
        [
            *ours.norm_add_norm(x.clone(), x, after, weight),
            ours.gate(noise(2, 27392, dtype=x.dtype)),
        ],
        [*theirs.norm_add_norm(x, x, after, weight), theirs.gate(noise(2, 27392, dtype=x.dtype))],
        strict=True,
    ):
        assert_close(got, expected)
    heads, kv_heads, head_dim = 32, 2, 128
    parts = [part(299, 300, list(range(19))), part(8, 13, [30])]
    batch = Batch.of(parts, 16)
    cache = noise(1, 40, 16, 2, kv_heads, head_dim, dtype=torch.float32, scale=1.0)
    axes = torch.arange(32) % 3
    rotary = Rotary(torch.linspace(1, 0.001, 32), axes, 1.0, 400)
    qkv = noise(len(batch.ids), heads + 2 * kv_heads, head_dim, dtype=torch.float32, scale=1.0)
    got, expected = (
        own.attention(batch, rotary, stored, heads)(qkv.clone(), stored[0])
        for own, stored in ((ours, cache.clone()), (theirs, cache.clone()))
    )
    assert_close(got, expected)


@pytest.fixture
def make_gpu_harness(
    make_harness: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Harness]:
    """With what makes CUDA graphs, but for the graphs: each is run anew."""
    make = partial(GPUOperations, torch.float32, CPU)
    monkeypatch.setattr("glm_engine.model_runner.operations_for", lambda *_, **__: make)
    monkeypatch.setattr("glm_engine.attention_work.DECODE_PART", 64)
    monkeypatch.setattr("glm_engine.attention_work._LEAST_PART", 64)
    monkeypatch.setattr("glm_engine.gpu_sampler._BLOCK", 1024)
    monkeypatch.setattr("glm_engine.cuda_graphs._cuda_capture", lambda: lambda run: run)
    monkeypatch.setattr(triton.knobs.runtime, "jit_post_compile_hook", None)
    return make_harness


def test_a_compilation_after_the_warm_up_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, noted = triton.knobs.runtime, list[str]()
    monkeypatch.setattr(runtime, "jit_post_compile_hook", None)
    gpu(torch.float32).on_compilation(noted.append)
    hook = runtime.jit_post_compile_hook
    # What triton.runtime.jit passes.
    hook(key="", repr="_attend_kernel[...]", fn=None, compile={}, is_manual_warmup=False,
         already_compiled=False)  # fmt: skip
    assert noted == ["_attend_kernel[...]"]


@pytest.mark.slow
def test_an_engine_of_them_gives_the_tokens_of_generate(
    make_prompt: Callable[..., Prompt], make_gpu_harness: Callable[..., Harness]
) -> None:
    harness = make_gpu_harness(start=False, max_num_seqs=4, max_model_len=256)
    prompts = [make_prompt("What is it?", [3], False), make_prompt("hello"), make_prompt("Hi!")]
    requests = [harness.add(p, max_tokens=4 + i) for i, p in enumerate(prompts)]
    harness.engine.start()
    for request in requests:
        assert harness.wait(request)[-1].error is None
    for prompt, request in zip(prompts, requests, strict=True):
        expected = reference().generate(prompt, request.max_tokens)
        assert request.token_ids == expected


@pytest.mark.slow
def test_a_cached_prompt_that_ends_in_an_image_is_not_a_decode_step(
    make_prompt: Callable[..., Prompt], make_gpu_harness: Callable[..., Harness]
) -> None:
    """Its only new token has an image's embedding, which no graph reads."""
    harness = make_gpu_harness(max_num_seqs=2, max_model_len=256, block_size=1)
    whole = make_prompt("What is it?", [3], False)
    end = whole.images[-1].end
    prompt = replace(
        whole,
        field="prompt_token_ids",
        input_ids=whole.input_ids[:end],
        position_ids=whole.position_ids[:, :end],
        rope_delta=int(whole.position_ids[:, :end].max()) + 1 - end,
    )
    first = harness.add(prompt, max_tokens=3, ignore_eos=True)
    harness.wait(first)
    again = harness.add(prompt, max_tokens=3, ignore_eos=True)
    harness.wait(again)
    assert again.num_cached == end - 1
    assert again.token_ids == first.token_ids
    assert first.token_ids[:1] == reference().generate(prompt, 1)
