"""The GPU's sampler, interpreted, beside the CPU's; and what a step of it costs."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime.interpreter import GridExecutor

from glm_engine import gpu_sampler, operations, sampling_kernels
from glm_engine.gpu_sampler import GPUSampler
from glm_engine.request import Prompt, Request, SamplingParams, ThinkingTokens
from glm_engine.sampler import Sampled, Sampler
from glm_format.answer import AnswerReader
from glm_format.tags import Tag
from unit.generation.test_sampler import (
    EOS,
    LOGITS,
    check_that_batches_change_nothing,
)

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
THINKING = ThinkingTokens(begin=3, end=5)
VOCABULARY = 40


def make_request(token_ids: Sequence[int] = (), **params: Any) -> Request:
    empty = np.empty(0, np.int32)
    prompt = Prompt("text_input", np.array([4, 99], np.int32), empty, 0)
    return Request("r", prompt, SamplingParams(**params), token_ids=list(token_ids))


def make_sampler(vocabulary: int = len(LOGITS), max_num_seqs: int = 16) -> GPUSampler:
    return GPUSampler(vocabulary, EOS, CPU, THINKING, max_num_seqs=max_num_seqs)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, also of a small vocabulary; and faster to interpret."""
    monkeypatch.setattr(gpu_sampler, "_BLOCK", 16)


@pytest.fixture
def logits() -> torch.Tensor:
    """(rows, vocabulary and padding, which is never to be chosen)"""
    rows = torch.randn(8, VOCABULARY + 8, generator=torch.Generator().manual_seed(0)) * 3
    rows[:, VOCABULARY:] = 1000
    return rows


class Grammar:
    """Allows some tokens."""

    def __init__(self, *allowed: int) -> None:
        self._allowed = allowed

    def fill(self, mask: np.ndarray[Any, Any], row: int) -> None:
        mask[row] = 0
        for token in self._allowed:
            mask.view(np.uint32)[row, token // 32] |= np.uint32(1 << token % 32)


EDITS: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.5, "presence_penalty": 1.5},
    {"frequency_penalty": 1.2, "presence_penalty": -1.0},
    {"logit_bias": {3: 4.0, 7: -100.0, 1000: 100.0}},
    {"min_tokens": 9, "stop_token_ids": frozenset({1, 2, 77})},
    {"min_tokens": 2, "logit_bias": {0: 50.0}},
    {"thinking_token_budget": 2, "logit_bias": {0: 50.0}},
]


def test_edited_scores_are_those_of_the_cpu_with_other_requests_beside(
    logits: torch.Tensor,
) -> None:
    """Greedy tokens and log probabilities over a whole answer, of which tokens are counted."""
    ours = make_sampler(VOCABULARY)
    theirs = Sampler(VOCABULARY, EOS, CPU, THINKING)
    pairs = [[make_request((3,), temperature=0, logprobs=4, **p) for p in EDITS] for _ in range(2)]
    for request in [*pairs[0], *pairs[1]]:
        request.reader = AnswerReader({3: Tag.THINK, 5: Tag.END_THINK}, lambda token_id: b"a")
        request.reader.push(3)
    noise = torch.Generator().manual_seed(1)
    for _ in range(12):
        step = logits.clone()
        step[:, :VOCABULARY] += torch.randn(len(step), VOCABULARY, generator=noise)
        got = ours(pairs[0], step)
        expected = theirs(pairs[1], step[:, :VOCABULARY])
        for requests, results in zip(pairs, (got, expected), strict=True):
            for request, sampled in zip(requests, results, strict=True):
                request.token_ids.append(sampled.token_id)
                assert request.reader is not None
                request.reader.push(sampled.token_id)
        for one, other in zip(got, expected, strict=True):
            assert one.token_id == other.token_id
            assert one.logprobs is not None and other.logprobs is not None
            assert list(one.logprobs.entries) == list(other.logprobs.entries)
            for token, (value, rank) in other.logprobs.entries.items():
                assert one.logprobs.entries[token][1] == rank
                assert one.logprobs.entries[token][0] == pytest.approx(value, abs=1e-5)
    assert len({tuple(request.token_ids) for request in pairs[0]}) > 5


def test_a_grammar_restricts_and_wins_over_min_tokens(logits: torch.Tensor) -> None:
    requests = [
        make_request(temperature=0),
        make_request(temperature=1.5, seed=1),
        make_request(temperature=0, min_tokens=5),  # 0 ends the answer
        make_request(temperature=0, logit_bias={33: 90.0, 2: 99.0}),
        make_request(temperature=0),
    ]
    for row, allowed in enumerate([(9,), (7, 31, 32, 39), (0,), (33, 34)]):
        requests[row].guide = Grammar(*allowed)
    for _ in range(3):
        tokens = [s.token_id for s in make_sampler(VOCABULARY)(requests, logits[:5])]
        assert tokens[0] == 9 and tokens[1] in (7, 31, 32, 39)
        assert tokens[2:] == [0, 33, int(logits[4, :VOCABULARY].argmax())]


@triton.jit  # type: ignore[untyped-decorator]
def thresholds_kernel(  # type: ignore[no-untyped-def]
    rows, masks, scales, needed, out, num_tokens, COUNT: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    source = rows + row * num_tokens
    none = tl.full([], -1, tl.int32)
    best, _ = sampling_kernels._best(source, masks, none, num_tokens, 1, BLOCK)
    farthest = tl.full([], 64.0, tl.float32)
    found = sampling_kernels._threshold(
        source, masks, none, best, tl.load(scales + row), farthest, tl.load(needed + row), COUNT,
        num_tokens, 1, BLOCK,
    )  # fmt: skip
    tl.store(out + row, found)


def kept(
    rows: torch.Tensor, scales: torch.Tensor, needed: torch.Tensor, count: bool
) -> torch.Tensor:
    """(rows, tokens) bool: which tokens are within the threshold."""
    out, no_masks = torch.empty(len(rows)), torch.zeros(1, dtype=torch.int32)
    thresholds_kernel[(len(rows),)](
        rows, no_masks, scales, needed, out, rows.shape[1], COUNT=count, BLOCK=256
    )
    return (rows.amax(-1, keepdim=True) - rows) * scales[:, None] <= out[:, None]


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    """Of several blocks; peaked, flat, with many equal scores, and with -inf."""
    random = torch.randn(5, 600, generator=torch.Generator().manual_seed(3))
    random *= torch.tensor([3.0, 0.01, 1.0, 12.0, 1.0])[:, None]
    random[2] = (random[2] * 4).round() / 4
    random[4, ::3] = -torch.inf
    return random


@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.0])
@pytest.mark.parametrize("top_k", [1, 2, 50, 599, 5000])
def test_top_k_keeps_what_is_not_below_the_kth(
    rows: torch.Tensor, top_k: int, temperature: float
) -> None:
    scales = torch.full((len(rows),), 1 / temperature)
    got = kept(rows, scales, torch.full((len(rows),), float(top_k)), True)
    least = rows.topk(min(top_k, rows.shape[1])).values[:, -1:]
    distance = (rows.amax(-1, keepdim=True) - rows) * scales[:, None]
    assert torch.equal(got, (rows >= least) & (distance <= 64))


@pytest.mark.parametrize("temperature", [0.2, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [0.001, 0.6, 0.95, 0.999])
def test_top_p_keeps_the_fewest_that_reach_it(
    rows: torch.Tensor, top_p: float, temperature: float
) -> None:
    scaled = rows.double() / temperature
    weights = (scaled - scaled.amax(-1, keepdim=True)).exp()
    needed = (top_p * weights.sum(-1)).float()
    got = kept(rows, torch.full((len(rows),), 1 / temperature), needed, False)
    # A token stays if those above it have not reached top_p; equal ones stay or go together.
    above = (weights[:, None, :] * (rows[:, None, :] > rows[:, :, None])).sum(-1)
    margin = (above - needed[:, None]).abs() < 1e-5 * weights.sum(-1, keepdim=True)  # rounding
    assert torch.equal(got & ~margin, (above < needed[:, None]) & (weights > 0) & ~margin)


@pytest.mark.parametrize(
    ("params", "keep", "temperature"),
    [
        ({}, [0, 1, 2, 3, 4, 5], 1.0),
        ({"temperature": 2.0, "min_p": 0.2}, [0, 1, 2, 3, 4], 2.0),
        ({"top_k": 3, "top_p": 0.75}, [0, 1], 1.0),
    ],
)
def test_draws_follow_the_exact_distribution(
    params: dict[str, Any], keep: list[int], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_sampler, "_BLOCK", 8)
    count = 250
    sampler = make_sampler(max_num_seqs=count)
    requests = [make_request(seed=seed, **params) for seed in range(count)]
    drawn = [s.token_id for s in sampler(requests, LOGITS.expand(count, -1).contiguous())]
    observed = torch.bincount(torch.tensor(drawn), minlength=len(LOGITS)).double()
    mask = torch.full_like(LOGITS, -torch.inf)
    mask[keep] = 0
    expected = ((LOGITS + mask) / temperature).softmax(-1).double() * count
    assert observed[expected == 0].sum() == 0
    possible = expected > 0
    chi_square = ((observed[possible] - expected[possible]) ** 2 / expected[possible]).sum().item()
    assert chi_square < 25  # 5 degrees of freedom: p = 0.0001; the seeds are fixed


def test_a_seeded_request_gets_the_same_whatever_shares_its_batch() -> None:
    sampler = make_sampler()
    check_that_batches_change_nothing(sampler, make_request, 10)
    one, other = (make_request(seed=seed) for seed in (1, 2))
    draws = [[sampler([r], LOGITS[None])[0].token_id for _ in range(2)] for r in (one, other)]
    assert draws[0][0] == draws[0][1]  # the same place in the answer


def test_counts_survive_a_change_of_slots() -> None:
    """A request that waits while others take its slot is counted anew."""
    sampler = make_sampler(max_num_seqs=1)
    one = make_request((0, 0), temperature=0, frequency_penalty=0.4)
    other = make_request((0, 0, 0), temperature=0, frequency_penalty=0.4)
    tokens = [sampler([r], LOGITS[None])[0].token_id for r in (one, other, one, other, other)]
    assert tokens == [0, 1, 0, 1, 1]
    one.token_ids.append(0)
    assert sampler([one], LOGITS[None])[0].token_id == 1


def test_a_failed_step_is_counted_once_when_it_is_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = make_sampler()
    request = make_request((0, 0), temperature=0, frequency_penalty=0.4)
    with monkeypatch.context() as patch:
        patch.setattr(gpu_sampler, "Pending", None)
        with pytest.raises(TypeError):
            sampler([request], LOGITS[None])
    assert sampler([request], LOGITS[None])[0].token_id == 0


# ---- what a step costs ----

# Operations that make no launch: they only give memory, or another view of it.
FREE = {
    "empty", "empty_strided", "new_empty", "view", "slice", "select", "as_strided", "detach",
    "alias", "expand", "unsqueeze", "_unsafe_view", "split", "unbind", "t", "transpose",
}  # fmt: skip
# Operations that make the host wait for a GPU, or whose results have sizes that it would wait for.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "lift_fresh"}


class Operations(TorchDispatchMode):
    """Counts the operations that PyTorch would launch on a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.launched: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in FREE:
            self.launched[name] += 1
        return func(*args, **(kwargs or {}))


class Launches:
    """Counts the launches of a kernel."""

    def __init__(self, kernel: Any, counts: Counter[str], name: str) -> None:
        self._kernel, self._counts, self._name = kernel, counts, name

    def __getitem__(self, grid: Any) -> Any:
        self._counts[self._name] += 1
        return self._kernel[grid]


@pytest.fixture
def count_step(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., tuple[Counter[str], Counter[str]]]]:
    """Launch a step; gives its launches, and what the host read of the device before the end."""

    def step(
        sampler: GPUSampler, requests: Sequence[Request], logits: torch.Tensor
    ) -> tuple[Counter[str], Counter[str]]:
        kernels: Counter[str] = Counter()
        reads: Counter[str] = Counter()
        own = [name for name in vars(sampling_kernels) if name.endswith("_kernel")]
        with monkeypatch.context() as patch:
            for name in own:
                kernel = getattr(sampling_kernels, name)
                patch.setattr(sampling_kernels, name, Launches(kernel, kernels, name))
            for name in ("item", "tolist", "cpu", "__bool__", "__int__", "__float__"):

                def counted(tensor: torch.Tensor, name: str = name) -> Any:
                    reads[name] += 1
                    raise AssertionError(f"the host waits: {name}")

                patch.setattr(torch.Tensor, name, counted)
            # One transfer to the device, for which the host packs on its own side.
            upload = operations.upload

            def uploaded(arrays: Any, device: Any) -> Any:
                kernels["upload"] += 1
                with _disable_current_modes():
                    return upload(arrays, device)

            patch.setattr(gpu_sampler, "upload", uploaded)
            interpret_apart(patch)
            with Operations() as counted_operations:
                sampler.launch(requests, logits)
        launched = kernels + counted_operations.launched
        waits = reads + Counter(
            {n: c for n, c in counted_operations.launched.items() if n in WAITING}
        )
        return launched, waits

    yield step


def interpret_apart(patch: pytest.MonkeyPatch) -> None:
    """What the interpreter of kernels does with PyTorch is no operation of the step."""
    run = GridExecutor.__call__

    def alone(executor: Any, *arguments: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return run(executor, *arguments, **options)

    patch.setattr(GridExecutor, "__call__", alone)


def everything(seed: int) -> Request:
    request = make_request(
        (1, 2), seed=seed, temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, logprobs=5,
        repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1, min_tokens=9,
        logit_bias={3: 1.0}, thinking_token_budget=100,
    )  # fmt: skip
    request.guide = Grammar(7, 8, 9, 30)
    return request


def test_a_step_with_every_feature_takes_a_dozen_launches_and_never_waits(
    logits: torch.Tensor, count_step: Callable[..., tuple[Counter[str], Counter[str]]]
) -> None:
    sampler = make_sampler(VOCABULARY)
    requests = [everything(seed) for seed in range(8)]
    first, waits = count_step(sampler, requests, logits)
    assert first["clear_kernel"] == 1 and not waits
    assert first.total() <= 12, first
    for request in requests:
        request.token_ids.append(9)
    steady, waits = count_step(sampler, requests, logits)
    assert not waits and steady.total() <= 12, steady
    assert steady["clear_kernel"] == 0 and steady["count_kernel"] == 1
    # The number does not grow with the requests.
    requests[0].token_ids.append(9)
    one, _ = count_step(sampler, requests[:1], logits[:1])
    assert one.total() == steady.total()
    mixed = [*requests[:4], *(make_request(temperature=0) for _ in range(4))]
    launched, waits = count_step(sampler, mixed, logits)
    assert not waits and launched.total() <= 12, launched


def test_plain_greedy_steps_take_three_launches(
    logits: torch.Tensor, count_step: Callable[..., tuple[Counter[str], Counter[str]]]
) -> None:
    requests = [make_request(temperature=0) for _ in range(8)]
    launched, waits = count_step(make_sampler(VOCABULARY), requests, logits)
    assert not waits and launched == {"upload": 1, "sample_kernel": 1, "copy_": 1}


def test_the_results_are_those_of_the_step(logits: torch.Tensor) -> None:
    pending = make_sampler(VOCABULARY).launch([make_request(temperature=0)], logits[:1])
    (sampled,) = pending.result()
    assert sampled == Sampled(int(logits[0, :VOCABULARY].argmax()), None)


def test_the_vocabulary_of_the_full_size_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """151,365 tokens of 151,552 rows, with the checkpoint's own defaults."""
    monkeypatch.setattr(gpu_sampler, "_BLOCK", 2048)
    tokens = 151_365
    logits = torch.randn(3, 151_552, generator=torch.Generator().manual_seed(5)) * 4
    logits[:, tokens:] = 1000
    defaults = {"temperature": 0.8, "top_p": 0.6, "top_k": 2, "repetition_penalty": 1.1}
    requests = [
        make_request(temperature=0, logprobs=3),
        make_request((7, 8), seed=1, **defaults),
        make_request(seed=2, top_p=0.9),
    ]
    sampled = make_sampler(tokens)(requests, logits)
    real = logits[:, :tokens]
    best = real.log_softmax(-1)[0].topk(3)
    assert sampled[0].token_id == int(best.indices[0]) and sampled[0].logprobs is not None
    assert list(sampled[0].logprobs.entries) == best.indices.tolist()
    assert sampled[1].token_id in real[1].topk(2).indices
    ordered, order = real[2].softmax(-1).sort(descending=True)
    kept = order[ordered.cumsum(-1) - ordered < 0.9]
    assert sampled[2].token_id in kept
