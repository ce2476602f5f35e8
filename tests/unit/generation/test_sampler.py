"""The sampler against the exact distributions."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from glm_engine.request import Prompt, Request, SamplingParams, ThinkingTokens
from glm_engine.sampler import Sampled, Sampler
from glm_format.answer import AnswerReader
from glm_format.tags import Tag

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
EOS = frozenset({0})


def _request(token_ids: list[int] | None = None, **params: Any) -> Request:
    empty = np.empty(0, np.int32)
    prompt = Prompt("text_input", np.array([4], np.int32), empty, 0)
    return Request("r", prompt, SamplingParams(**params), token_ids=token_ids or [])


def _sampler() -> Sampler:
    return Sampler(len(LOGITS), EOS, torch.device("cpu"), ThinkingTokens(begin=3, end=5))


def _sample(request: Request, logits: torch.Tensor = LOGITS) -> int:
    return _sampler()([request], logits[None])[0].token_id


def _draws(count: int, seed: int = 1, **params: Any) -> torch.Tensor:
    sampler, request = _sampler(), _request(seed=seed, **params)
    return torch.tensor([sampler([request], LOGITS[None])[0].token_id for _ in range(count)])


def _expected(keep: list[int], temperature: float = 1.0) -> torch.Tensor:
    mask = torch.full_like(LOGITS, -torch.inf)
    mask[keep] = 0
    return ((LOGITS + mask) / temperature).softmax(-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "keep", "temperature"),
    [
        ({}, [0, 1, 2, 3, 4, 5], 1.0),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4, 5], 0.5),
        ({"temperature": 2.0}, [0, 1, 2, 3, 4, 5], 2.0),
        ({"top_k": 3}, [0, 1, 2], 1.0),
        ({"top_p": 0.7}, [0, 1], 1.0),  # probabilities 0.56 0.21 0.13 ...: two reach 0.7
        ({"top_p": 0.01}, [0], 1.0),
        (
            {"min_p": 0.2},
            [0, 1, 2],
            1.0,
        ),  # exp(1.0 - 2.0) = 0.37, exp(0.5 - 2) = 0.22, exp(-2) = 0.14
        ({"top_k": 2, "top_p": 0.99}, [0, 1], 1.0),
        ({"top_k": 3, "top_p": 0.75}, [0, 1], 1.0),  # of what top_k leaves: 0.63 0.23 0.14
        ({"top_k": 4, "min_p": 0.2, "temperature": 2.0}, [0, 1, 2, 3], 2.0),
        ({"top_p": 0.9, "min_p": 0.2, "temperature": 1.0}, [0, 1, 2], 1.0),
    ],
)
def test_draws_follow_the_exact_distribution(
    params: dict[str, Any], keep: list[int], temperature: float
) -> None:
    count = 4000
    observed = torch.bincount(_draws(count, **params), minlength=len(LOGITS)).double()
    expected = _expected(keep, temperature).double() * count
    assert observed[expected == 0].sum() == 0
    kept = expected > 0
    chi_square = ((observed[kept] - expected[kept]) ** 2 / expected[kept]).sum().item()
    assert chi_square < 25  # 5 degrees of freedom: p = 0.0001; the seed is fixed


def test_temperature_zero_takes_the_most_likely() -> None:
    assert set(_draws(50, temperature=0).tolist()) == {0}


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-300])
def test_a_temperature_next_to_zero_takes_the_most_likely(temperature: float) -> None:
    logits = LOGITS.flip(0)  # so that it is not token 0, which a NaN would give
    request = _request(temperature=temperature)
    assert _sample(request, logits) == len(logits) - 1


def test_a_seed_repeats_and_two_seeds_differ() -> None:
    assert _draws(50).tolist() == _draws(50).tolist()
    assert _draws(50, seed=2).tolist() != _draws(50).tolist()
    assert _draws(50, top_k=4).tolist() == _draws(50, top_k=4).tolist()
    assert _draws(50, top_k=4, seed=2).tolist() != _draws(50, top_k=4).tolist()


def test_penalties_and_bias_change_the_scores_as_documented() -> None:
    def greedy(token_ids: list[int], **params: Any) -> int:
        return _sample(_request(token_ids, temperature=0, **params))

    assert greedy([0], presence_penalty=0.9) == 0
    assert greedy([0], presence_penalty=1.1) == 1
    assert greedy([0, 0, 0], frequency_penalty=0.4) == 1
    assert greedy([0, 0], frequency_penalty=0.4) == 0
    assert greedy([0], repetition_penalty=2.1) == 1
    assert greedy([0], repetition_penalty=1.9) == 0
    assert greedy([], logit_bias={3: 5.0}) == 3
    assert greedy([], logit_bias={0: -100.0, 99: 100.0}) == 1


def test_min_tokens_keeps_the_answer_open() -> None:
    def greedy(token_ids: list[int]) -> int:
        request = _request(
            token_ids, temperature=0, min_tokens=2, stop_token_ids=frozenset({1, 99})
        )
        return _sample(request)

    assert [greedy([]), greedy([2]), greedy([2, 2])] == [2, 2, 0]


def test_logprobs_are_those_of_the_untouched_logits_with_true_ranks() -> None:
    request = _request(temperature=0, logit_bias={3: 50.0}, logprobs=2)
    (sampled,) = _sampler()([request], LOGITS[None])
    token_id, logprobs = sampled.token_id, sampled.logprobs
    assert logprobs is not None
    exact = LOGITS.log_softmax(-1)
    assert token_id == logprobs.token_id == 3
    assert {token: rank for token, (_, rank) in logprobs.entries.items()} == {3: 4, 0: 1, 1: 2}
    for token, (value, _) in logprobs.entries.items():
        assert value == pytest.approx(exact[token].item())


def test_no_logprobs_without_a_wish_for_them() -> None:
    assert _sampler()([_request()], LOGITS[None])[0].logprobs is None


def test_the_logits_are_left_as_they_were() -> None:
    before = LOGITS.clone()
    _sample(_request([0], presence_penalty=1, logit_bias={1: 1.0}, min_tokens=9))
    assert torch.equal(LOGITS, before)


MIXED: list[dict[str, Any]] = [
    {"temperature": 0},
    {"seed": 1},
    {"seed": 1, "top_k": 3},
    {"seed": 2, "top_k": 5, "top_p": 0.8},
    {"seed": 3, "top_p": 0.6, "min_p": 0.1},
    {"seed": 4, "temperature": 1.7, "repetition_penalty": 1.4},
    {"seed": 5, "presence_penalty": 1.0, "frequency_penalty": 0.5, "logprobs": 3},
    {"seed": 6, "logit_bias": {4: 3.0}, "logprobs": 1},
    {"seed": 7, "min_tokens": 30},
    {"top_k": 2, "temperature": 0.8, "top_p": 0.6},
    {},
]


def check_that_batches_change_nothing(
    sampler: Callable[[Sequence[Request], torch.Tensor], list[Sampled]],
    make_request: Callable[..., Request],
    num_steps: int,
) -> None:
    """Greedy and seeded requests get the same tokens alone as with all of ``MIXED``."""
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(len(MIXED), len(LOGITS), generator=generator) for _ in range(num_steps)]
    together = [make_request(**params) for params in MIXED]
    for logits in steps:
        for request, sampled in zip(together, sampler(together, logits), strict=True):
            request.token_ids.append(sampled.token_id)
    for row, params in enumerate(MIXED):
        if "seed" not in params and params.get("temperature") != 0:
            continue
        alone = make_request(**params)
        for logits in steps:
            alone.token_ids.append(sampler([alone], logits[row : row + 1])[0].token_id)
        assert alone.token_ids == together[row].token_ids, params


def test_a_request_gets_the_same_whatever_shares_its_batch() -> None:
    check_that_batches_change_nothing(_sampler(), _request, 40)


@pytest.mark.parametrize(
    ("answer", "budget", "ends"),
    [
        ([], 0, False),  # it has not begun to think
        ([3], 0, True),
        ([3, 1], 2, False),
        ([3, 1, 1], 2, True),
        ([3, 1, 5, 1, 1], 2, False),  # it has ended by itself
        ([1, 1, 1, 1], 2, False),  # it does not think
        ([3, 1, 1], None, False),
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_thought_ends_with_its_budget(
    answer: list[int], budget: int | None, ends: bool, temperature: float
) -> None:
    request = _request(answer, thinking_token_budget=budget, temperature=temperature, seed=1)
    request.reader = AnswerReader({3: Tag.THINK, 5: Tag.END_THINK}, lambda token_id: b"a")
    for token_id in answer:
        request.reader.push(token_id)
    # Token 5 is the least likely by far.
    assert (_sample(request) == 5) == ends
