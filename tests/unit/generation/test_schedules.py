"""Random schedules on the demo checkpoint: every request gets the tokens of transformers' generate.

Whatever shares its steps, however its prompt is cut, whether its beginning is in the cache, and
however often it loses its blocks.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_engine.block_manager import BlockManager
from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.errors import RequestCancelled
from glm_engine.kv_cache import KVCache
from glm_engine.operations import TorchOperations
from glm_engine.request import Output, Prompt, Request, SamplingParams
from glm_engine.scheduler import Scheduler
from glm_engine.tenant_cache import CacheScope
from glm_engine.vision import ImageCache
from unit.generation.reference import reference
from unit.paths import DEMO_CHECKPOINT

pytestmark = pytest.mark.slow

MAX_TOKENS = 32
# `make stress` tries 1,000.
SCHEDULES = int(os.environ.get("STRESS_SCHEDULES", "200"))

QUESTIONS: list[tuple[str, list[int], bool]] = [
    ("hello", [], True),
    ("hello there", [], True),
    ("Who are you?", [], False),
    ("What is in this image?", [1], True),
    ("What is in this image?", [2], True),
    ("What is in this image?", [2], False),
    ("What color is the circle?", [1], True),
    ("请描述这张图片", [3], False),
    ("Which image has a red circle?", [1, 3], False),
    ("Which image has a red circle?", [1, 2], True),
    ("How many shapes are there? " * 3, [7], True),
    ("How many shapes are there? " * 3 + "Now!", [7], True),
    ("hello " * 12, [], False),
]


class Bench:
    """One loaded model, and for every schedule a new cache of any size."""

    def __init__(self, make_prompt: Callable[..., Prompt]) -> None:
        self.prompts = [make_prompt(*question) for question in QUESTIONS]
        self.expected = [
            reference().generate(prompt, MAX_TOKENS, eos=False) for prompt in self.prompts
        ]
        self.longest = max(prompt.num_tokens for prompt in self.prompts) + MAX_TOKENS
        self.preemptions = self.cached_tokens = self.cancelled = 0
        self.outputs: list[Output] = []
        self.engine = Engine(EngineConfig(model=str(DEMO_CHECKPOINT)), self.outputs.extend)

    def reset(
        self,
        *,
        block_size: int,
        spare_blocks: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_num_batched_patches: int,
        prefix_caching: bool,
        image_cache_memory: int,
        tenant_floor: float = 0.0,
    ) -> None:
        """An empty cache, and an idle scheduler over it."""
        runner = self.engine._runner
        language = runner._language
        num_blocks = -(-self.longest // block_size) + spare_blocks
        runner.cache = KVCache(
            num_layers=language.num_layers,
            num_blocks=num_blocks,
            block_size=block_size,
            num_kv_heads=language.num_kv_heads,
            head_dim=language.head_dim,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        runner.images = ImageCache(image_cache_memory, tenant_floor)
        self.engine._blocks = BlockManager(
            num_blocks, block_size, prefix_caching=prefix_caching, tenant_floor=tenant_floor
        )
        self.engine._scheduler = Scheduler(
            self.engine._blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max(max_num_seqs, max_num_batched_tokens),
            max_num_batched_patches=max_num_batched_patches,
        )
        self.outputs.clear()


@pytest.fixture(scope="module")
def bench(make_prompt: Callable[..., Prompt]) -> Bench:
    return Bench(make_prompt)


@pytest.fixture(scope="module")
def torch_bench(make_prompt: Callable[..., Prompt]) -> Iterator[Bench]:
    """With the operations that a GPU uses, on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        make = partial(TorchOperations, torch.float32, torch.device("cpu"))
        patch.setattr("glm_engine.model_runner.operations_for", lambda *_, **__: make)
        yield Bench(make_prompt)


@dataclass(frozen=True)
class Arrival:
    question: int
    step: int
    max_tokens: int
    cancel_at: int
    priority: int
    tenant: str


ARRIVALS = st.lists(
    st.builds(
        Arrival,
        question=st.integers(0, len(QUESTIONS) - 1),
        step=st.integers(0, 8),
        max_tokens=st.integers(1, MAX_TOKENS),
        cancel_at=st.sampled_from([0, 0, 0, 0, 0, 0, 3, 15]),  # 0: never
        priority=st.sampled_from([0, 0, 0, 1]),
        tenant=st.sampled_from(["", "", "", "", "", "", "", "a"]),
    ),
    min_size=1,
    max_size=7,
)
LIMITS = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 3, 16, 32]),
        "spare_blocks": st.sampled_from([0, 1, 4, 100]),
        "max_num_seqs": st.sampled_from([1, 2, 8]),
        "max_num_batched_tokens": st.sampled_from([5, 17, 64, 512]),
        "max_num_batched_patches": st.sampled_from([1, 100, 16384]),
        "prefix_caching": st.booleans(),
        "image_cache_memory": st.sampled_from([0, 20_000, 2**20]),
        "tenant_floor": st.sampled_from([0.0, 0.1, 0.5]),
    }
)


def hypothesis_settings(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@hypothesis_settings(SCHEDULES)
@given(arrivals=ARRIVALS, limits=LIMITS)
def test_every_request_gets_the_tokens_of_generate(
    bench: Bench, arrivals: Sequence[Arrival], limits: dict[str, Any]
) -> None:
    run_schedule(bench, arrivals, limits)


@hypothesis_settings(100)
@given(arrivals=ARRIVALS, limits=LIMITS)
def test_gpu_operations_give_the_tokens_of_generate(
    torch_bench: Bench, arrivals: Sequence[Arrival], limits: dict[str, Any]
) -> None:
    run_schedule(torch_bench, arrivals, limits)


def run_schedule(bench: Bench, arrivals: Sequence[Arrival], limits: dict[str, Any]) -> None:
    """Every request ends, with the tokens of ``generate``, and no block is lost."""
    bench.reset(**limits)
    engine = bench.engine
    requests = [
        Request(
            f"r{index}",
            bench.prompts[arrival.question],
            SamplingParams(
                temperature=0.0,
                max_tokens=arrival.max_tokens,
                ignore_eos=True,
                priority=arrival.priority,
            ),
            tenant=arrival.tenant,
            scope=CacheScope.of(arrival.tenant, "", divided=True),
        )
        for index, arrival in enumerate(arrivals)
    ]
    for step in range(2000):
        for arrival, request in zip(arrivals, requests, strict=True):
            if arrival.step == step:
                engine.add(request)
            if arrival.cancel_at and arrival.step + arrival.cancel_at == step:
                engine.abort(request)
        busy = engine.step()
        engine._scheduler.check_integrity()
        if not busy and step > 30:
            break
    else:
        pytest.fail("the engine did not come to an end")
    ends = [output for output in bench.outputs if output.is_final]
    assert sorted(end.request.request_id for end in ends) == [r.request_id for r in requests]
    for arrival, request in zip(arrivals, requests, strict=True):
        expected = bench.expected[arrival.question][: arrival.max_tokens]
        (end,) = [end for end in ends if end.request is request]
        if isinstance(end.error, RequestCancelled):
            assert request.token_ids == expected[: len(request.token_ids)]
        else:
            assert end.error is None
            assert request.token_ids == expected
    assert engine._blocks.num_free == engine._blocks.num_blocks
    bench.preemptions += engine._scheduler.num_preemptions
    bench.cached_tokens += sum(request.num_cached for request in requests)
    bench.cancelled += sum(isinstance(end.error, RequestCancelled) for end in ends)


def test_schedules_cover_preemption_caching_and_cancellation(bench: Bench) -> None:
    assert bench.preemptions > SCHEDULES / 10
    assert bench.cached_tokens > 10 * SCHEDULES
    assert bench.cancelled > SCHEDULES / 10


@pytest.mark.parametrize("chunk", [7, 64, 512])
def test_logits_are_those_of_the_model(
    bench: Bench, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1e-4 of their size, with the prompt in one piece and in many."""
    bench.reset(
        block_size=16, spare_blocks=50, max_num_seqs=1, max_num_batched_tokens=chunk,
        max_num_batched_patches=16384, prefix_caching=False, image_cache_memory=0,
    )  # fmt: skip
    sampler = bench.engine._runner._sampler
    seen: list[torch.Tensor] = []

    def watched(requests: Sequence[Request], logits: torch.Tensor) -> Any:
        seen.append(logits.clone())
        return sampler(requests, logits)

    monkeypatch.setattr(bench.engine._runner, "_sampler", watched)
    for prompt in bench.prompts:
        seen.clear()
        bench.engine.add(Request("r", prompt, SamplingParams(temperature=0.0, max_tokens=1)))
        while bench.engine.step():
            pass
        expected = reference().logits(prompt)[: seen[0].shape[1]]
        assert (seen[0][0] - expected).abs().max() <= 1e-4 * expected.abs().max()
