"""Options of questions: their log probabilities are those of transformers, however they are run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glm_engine.engine import Engine
from glm_engine.errors import EngineFailure, InvalidRequest, RequestCancelled
from glm_engine.request import Output, Prompt, Request, SamplingParams
from glm_engine.scoring import branches, question
from glm_engine.tenant_cache import CacheScope
from unit.generation.conftest import Harness
from unit.generation.reference import reference
from unit.generation.test_schedules import Bench

MakePrompt = Callable[..., Prompt]
MakeHarness = Callable[..., Harness]
Options = Sequence[Sequence[int]]

QUESTIONS: list[tuple[str, list[int]]] = [
    ("What color is the circle?", [1]),
    ("What color is the star?", [1]),
    ("What color is the star? And what else is there in this picture, please?", [1]),
    ("What is in this image?", [2]),
    ("Which image has a red circle?", [1, 3]),
    ("Which image has a red circle?", [1, 2]),
    ("Who are you?", []),
    ("How many shapes are there? " * 4, [7]),
]
TEXTS = (
    ("The circle is red.", "The circle is blue.", "The circle is green.", "No."),
    ("red", "red and blue", "re", "blue"),
    ("Yes.", "No."),
    ("A", "A red circle and a very long answer with a lot of words that nobody would expect."),
    ("only one",),
)

SCOPES = [CacheScope.of(tenant, "", divided=True) for tenant in "ab"]


def encoded(engine: Engine, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of texts, byte by byte: any tokens do."""
    table = engine.table
    of_byte = {table.token_bytes(i, skip_special_tokens=False): i for i in range(len(table))}
    return [[of_byte[bytes([byte])] for byte in text.encode()] for text in texts]


def expected(prompt: Prompt, options: Options, num_tokens: int) -> list[float]:
    """The log probabilities of whole answers, from transformers' logits."""
    ends = sorted(reference().model.generation_config.eos_token_id)
    found = []
    for option in options:
        length = prompt.num_tokens
        ids = np.concatenate([prompt.input_ids, np.array(option, np.int32)])
        after = np.arange(length, len(ids), dtype=np.int32) + prompt.rope_delta
        positions = np.concatenate([prompt.position_ids, np.tile(after, (3, 1))], axis=1)
        whole = replace(prompt, input_ids=ids, position_ids=positions)
        rows = reference().logprobs(whole, num_tokens)[length - 1 :]
        own = sum(rows[i, token].item() for i, token in enumerate(option))
        end = torch.logsumexp(rows[-1, ends], 0).item()
        continued = any(
            len(one) < len(other) and one == other[: len(one)]
            for one in options
            for other in options
        )
        found.append(own + end if continued else own)
    return found


def ask(harness: Harness, prompts: Sequence[Prompt], options: Sequence[Options]) -> list[Request]:
    asked: list[Request] = []
    for prompt, own in zip(prompts, options, strict=True):
        asked.append(question("q", prompt, own, leader=asked[0] if asked else None))
    for request in asked:
        harness.engine.add(request)
    return asked


def logprobs(harness: Harness, request: Request) -> tuple[float, ...]:
    *before, last = harness.wait(request)
    assert not before
    assert last.error is None
    return last.option_logprobs


def test_they_are_those_of_transformers_whatever_shares_the_step(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    prompts = [make_prompt(text, pictures, False) for text, pictures in QUESTIONS]
    options = [encoded(harness.engine, TEXTS[i % len(TEXTS)]) for i in range(len(prompts))]
    answers = [harness.add(prompt, max_tokens=12) for prompt in prompts]
    for _ in range(2):  # the second time the beginnings are in the cache
        for prompt, own, request in zip(
            prompts, options, ask(harness, prompts, options), strict=True
        ):
            found = logprobs(harness, request)
            wanted = expected(prompt, own, len(harness.engine.table))
            # 1e-4 of a log probability; these are sums of as many as an option has tokens.
            for value, true, option in zip(found, wanted, own, strict=True):
                assert value == pytest.approx(true, abs=1e-4 * (1 + len(option) / 10))
    for prompt, request in zip(prompts, answers, strict=True):
        tokens = [token for output in harness.wait(request) for token in output.token_ids]
        assert tokens == reference().generate(prompt, 12)


def test_what_prompts_and_options_have_in_common_is_computed_once(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    harness = make_harness(start=False)
    computed: list[int] = []
    run = harness.engine._runner.run

    def counted(step: Any) -> Any:
        computed.append(sum(part.end - part.start for part in step))
        return run(step)

    harness.engine._runner.run = counted  # type: ignore[method-assign]
    texts = ("Where?", "What is it?", "How many are they?")
    prompts = [make_prompt(text, [1], False) for text in texts]
    own = encoded(harness.engine, ("the circle is red", "the circle is blue", "the circle"))
    asked = ask(harness, prompts, [own] * len(prompts))
    harness.engine.start()
    for request in asked:
        logprobs(harness, request)
    first = prompts[0].input_ids
    shared = [
        int(np.flatnonzero(first != prompt.input_ids[: len(first)])[0]) for prompt in prompts[1:]
    ]
    assert [request.num_cached for request in asked] == [0, *shared]
    of_options = len("the circle") + len(" is red") + len(" is blue")  # and the end of each
    own_tokens = sum(prompt.num_tokens for prompt in prompts) - sum(shared)
    assert sum(computed) == own_tokens + len(prompts) * of_options


def test_a_tenant_reuses_its_own_blocks_only(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    harness = make_harness(start=False)
    harness.engine.start()
    options = encoded(
        harness.engine, ("a red circle, or so it seems", "a red star, or so it seems")
    )
    prompt = make_prompt("What is it? " * 8, [], False)
    found, cached = [], []
    for scope in (*SCOPES, *SCOPES):
        request = question("q", prompt, options, scope=scope)
        assert {branch.scope for branch in branches(request)} == {scope}
        harness.engine.add(request)
        found.append(logprobs(harness, request))
        cached.append(request.num_cached)
    assert cached[:2] == [0, 0] and cached[2] == cached[3] > 0
    assert all(one == pytest.approx(found[0], abs=1e-4) for one in found)


@pytest.fixture(scope="module")
def bench(make_prompt: MakePrompt) -> Bench:
    return Bench(make_prompt)


@pytest.fixture(scope="module")
def cases(bench: Bench, make_prompt: MakePrompt) -> list[tuple[Prompt, Options, list[float]]]:
    """Each question with each kind of options, and what transformers says."""
    made: list[tuple[Prompt, Options, list[float]]] = []
    for i, (text, pictures) in enumerate(QUESTIONS):
        prompt = make_prompt(text, pictures, False)
        for texts in (TEXTS[i % len(TEXTS)], TEXTS[(i + 1) % len(TEXTS)]):
            own = encoded(bench.engine, texts)
            made.append((prompt, own, expected(prompt, own, len(bench.engine.table))))
    return made


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    chosen=st.lists(st.integers(0, 2 * len(QUESTIONS) - 1), min_size=1, max_size=6),
    answers=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), max_size=3),
    cancel_at=st.sampled_from([0, 0, 0, 2, 4]),
    limits=st.fixed_dictionaries(
        {
            "block_size": st.sampled_from([1, 3, 16, 32]),
            "spare_blocks": st.sampled_from([0, 1, 4, 100]),
            "max_num_seqs": st.sampled_from([1, 2, 8]),
            "max_num_batched_tokens": st.sampled_from([8, 40, 512]),
            "max_num_batched_patches": st.sampled_from([64, 4096]),
            "prefix_caching": st.booleans(),
            "image_cache_memory": st.sampled_from([0, 2**20]),
            "tenant_floor": st.sampled_from([0.0, 0.1, 0.5]),
        }
    ),
)
def test_no_schedule_changes_them(
    bench: Bench,
    cases: list[tuple[Prompt, Options, list[float]]],
    chosen: list[int],
    answers: list[tuple[int, int]],
    cancel_at: int,
    limits: dict[str, Any],
) -> None:
    """Small caches, chunks, preemption, requests of another tenant, cancellation."""
    longest = max(p.num_tokens + max(map(len, own)) for p, own, _ in cases)
    bench.longest = max(bench.longest, longest)
    bench.reset(**limits)
    engine = bench.engine
    asked: list[Request] = []
    for number in chosen:
        prompt, own, _ = cases[number]
        leader = asked[0] if asked else None
        asked.append(
            question(f"q{number}", prompt, own, tenant="a", scope=SCOPES[0], leader=leader)
        )
    others = []
    for number, step in answers:
        params = SamplingParams(max_tokens=8, temperature=0.0)
        request = Request(f"a{number}", bench.prompts[number], params, tenant="b", scope=SCOPES[1])
        others.append((number, step, request))
    for request in asked:
        engine.add(request)
    for step in range(4000):
        for _, arrival, request in others:
            if arrival == step:
                engine.add(request)
        if cancel_at and step == cancel_at:
            engine.abort(asked[-1])
        if not engine.step() and step > 8 and not engine._live_requests():
            break
        engine._scheduler.check_integrity()
    else:
        raise AssertionError("the engine does not come to an end")
    assert engine._blocks.num_free == engine._blocks.num_blocks
    ends: dict[Request, Output] = {}
    for output in bench.outputs:
        if output.is_final:
            assert output.request not in ends
            ends[output.request] = output
    assert ends.keys() == {*asked, *(request for *_, request in others)}
    for number, request in zip(chosen, asked, strict=True):
        if isinstance(ends[request].error, RequestCancelled):
            assert cancel_at
            continue
        assert ends[request].error is None
        assert ends[request].option_logprobs == pytest.approx(cases[number][2], abs=1e-3)
    for number, _, request in others:
        assert request.token_ids[:8] == bench.expected[number][: len(request.token_ids)]


def test_an_option_beyond_the_context_is_refused(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    harness = make_harness(max_model_len=64)
    prompt = replace(make_prompt("hello", [], False), field="questions[3]")
    with pytest.raises(InvalidRequest) as refused:
        harness.engine.add(question("q", prompt, [[5], [5] * 64]))
    assert refused.value.param == "questions[3]"
    assert refused.value.code == "context_length_exceeded"


def test_a_fault_in_a_branch_ends_its_question_only(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    harness = make_harness(start=False)
    prompts = [make_prompt(text, [1], False) for text in ("What is it?", "Where is it?")]
    own = encoded(harness.engine, ("red", "blue", "green"))
    asked = ask(harness, prompts, [own, own])
    run = harness.engine._runner.run

    def fail_on_first(step: Any) -> Any:
        if any(part.request.leader is asked[0] and part.request.option == 1 for part in step):
            raise RuntimeError("broken")
        return run(step)

    harness.engine._runner.run = fail_on_first  # type: ignore[method-assign]
    harness.engine.start()
    assert isinstance(harness.wait(asked[0])[-1].error, EngineFailure)
    found = logprobs(harness, asked[1])
    assert found == pytest.approx(expected(prompts[1], own, len(harness.engine.table)), abs=1e-3)


def test_options_that_are_the_same_but_for_their_ends_are_told_apart(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    """The probabilities are of different answers: together they are at most 1."""
    prompt = make_prompt("What is in this image?", [1], False)
    answer = reference().generate(prompt, 60)[:-1]
    (request,) = ask(harness, [prompt], [[answer, answer[:-1], answer[:1]]])
    found = np.exp(logprobs(harness, request))
    assert found.sum() <= 1
    assert found[0] > 0.5


def test_branches_are_of_what_options_do_not_have_in_common(make_prompt: MakePrompt) -> None:
    prompt = make_prompt("hello", [], False)
    request = question("q", prompt, [[1, 2, 3], [1, 2, 4, 5], [1, 2]])
    assert request.token_ids == [1, 2]
    assert [branch.token_ids for branch in branches(request)] == [[1, 2, 3], [1, 2, 4, 5]]
    assert request.scoring is not None
    assert request.scoring.num_tokens == 2 + 1 + 2


def test_the_last_tokens_of_different_answers_are_predicted_only(make_prompt: MakePrompt) -> None:
    prompt = make_prompt("hello", [], False)
    request = question("q", prompt, [[1, 2, 3], [1, 2, 4, 5], [1, 6]])
    assert request.token_ids == [1]
    assert [branch.token_ids for branch in branches(request)] == [[1, 2], [1, 2, 4]]


@pytest.mark.parametrize(("other", "shared"), [([1, 3], "second picture"), ([2, 3], "first")])
def test_prompts_share_no_picture_that_differs(
    make_prompt: MakePrompt, other: list[int], shared: str
) -> None:
    first, second = make_prompt("Which?", [1, 2], False), make_prompt("Which?", other, False)
    leader = question("q", first, [[1]])
    found = question("q", second, [[1]], leader=leader).num_shared
    image = second.images[1 if shared == "second picture" else 0]
    assert found == image.start
