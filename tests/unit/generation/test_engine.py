"""The engine on the demo checkpoint: right tokens, right ends, nothing left behind."""

import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.errors import (
    EngineFailure,
    EngineUnavailable,
    InvalidRequest,
    OutOfMemory,
    RequestCancelled,
)
from glm_engine.heartbeat import Heartbeat
from glm_engine.request import Prompt, Request, SamplingParams
from glm_engine.sampler import Sampled
from glm_engine.scheduler import Scheduled
from unit.generation.conftest import Harness
from unit.generation.reference import reference
from unit.paths import DEMO_CHECKPOINT
from waiting import TIMEOUT, wait_until

MakePrompt = Callable[..., Prompt]
MakeHarness = Callable[..., Harness]

QUESTIONS: list[tuple[str, list[int], bool]] = [
    ("What is in this image?", [1], True),
    ("What is in this image?", [2], False),
    ("请描述这张图片", [3], False),
    ("What color is the circle?", [4], True),
    ("hello", [], True),
    ("Who are you?", [], False),
    ("Which image has a red circle?", [5, 6], False),
    ("How many shapes are there? " * 30, [7], True),
]


def test_greedy_tokens_are_those_of_generate_whatever_shares_the_engine(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    prompts = [make_prompt(*question) for question in QUESTIONS]
    limits = [40, 3, 40, 40, 40, 1, 40, 40]
    requests = [
        harness.add(prompt, max_tokens=limit) for prompt, limit in zip(prompts, limits, strict=True)
    ]
    for prompt, limit, request in zip(prompts, limits, requests, strict=True):
        outputs = harness.wait(request)
        tokens = [token_id for output in outputs for token_id in output.token_ids]
        expected = reference().generate(prompt, limit)
        assert tokens == expected
        ended = expected[-1] in harness.engine.defaults.eos_token_ids
        assert outputs[-1].finish_reason == ("stop" if ended else "length")
    assert harness.engine.stats.generation_tokens == sum(len(r.token_ids) for r in requests)


@pytest.mark.timing
def test_a_seeded_request_does_not_depend_on_what_runs_beside_it(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    prompt = make_prompt("What is in this image?", [1])
    params: dict[str, Any] = {"temperature": 2.0, "seed": 11, "max_tokens": 20, "ignore_eos": True}
    alone = harness.text(harness.add(prompt, **params))
    others = [harness.add(make_prompt("hello"), temperature=1.0, max_tokens=30) for _ in range(3)]
    together = harness.text(harness.add(prompt, **params))
    for other in others:
        harness.wait(other)
    assert together == alone


def test_the_text_ends_before_a_stop_string(harness: Harness, make_prompt: MakePrompt) -> None:
    prompt = make_prompt("What is in this image?", [1], thinking=False)
    whole = harness.text(harness.add(prompt))
    stop = whole[3:6]
    request = harness.add(prompt, stop=(stop,))
    assert harness.text(request) == whole[: whole.index(stop)]
    last = harness.wait(request)[-1]
    assert (last.finish_reason, last.stop_reason) == ("stop", stop)


def test_a_stop_string_is_looked_for_in_the_text_and_in_all_of_a_raw_answer(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    prompt = make_prompt("What is this?", [3])
    thought, _, text = harness.text(harness.add(prompt)).partition("</think>\n")
    word = thought.split()[1]
    assert word in text  # the thought of the demo model says what its answer does
    request = harness.add(prompt, stop=(word,))
    assert harness.text(request) == f"{thought}</think>\n{text[: text.index(word)]}"
    assert harness.wait(request)[-1].stop_reason == word
    raw = replace(prompt, field="prompt")
    for stop in (word, "</think>"):
        request = harness.add(raw, stop=(stop,))
        assert harness.text(request) == thought.partition(stop)[0]
        assert harness.wait(request)[-1].stop_reason == stop


def test_stop_token_ids_end_the_answer(harness: Harness, make_prompt: MakePrompt) -> None:
    prompt = make_prompt("What is in this image?", [1], thinking=False)
    first = harness.add(prompt)
    assert harness.wait(first)[-1].stop_reason is None  # by the model itself
    request = harness.add(prompt, stop_token_ids=frozenset({first.token_ids[2]}))
    assert harness.wait(request)[-1].stop_reason == first.token_ids[2]
    assert request.token_ids == first.token_ids[:3]


def test_ignore_eos_goes_on_to_max_tokens(harness: Harness, make_prompt: MakePrompt) -> None:
    request = harness.add(make_prompt("hello"), ignore_eos=True, max_tokens=60)
    assert harness.wait(request)[-1].finish_reason == "length"
    assert len(request.token_ids) == 60


@pytest.mark.timing
def test_a_running_request_is_gone_within_two_steps_of_its_cancellation(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    request = harness.add(make_prompt("hello"), ignore_eos=True, max_tokens=3000)
    other = harness.add(make_prompt("hello"), ignore_eos=True, max_tokens=60)
    harness.wait(request, outputs=3)
    harness.engine.abort(request)
    assert isinstance(harness.wait(request)[-1].error, RequestCancelled)
    assert harness.wait(other)[-1].finish_reason == "length"
    assert list(harness.engine.stats.cancellation_steps) in ([0], [1], [2])


@pytest.mark.timing
def test_a_waiting_request_can_be_cancelled(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    harness = make_harness(max_num_seqs=1)
    running = harness.add(make_prompt("hello"), ignore_eos=True, max_tokens=3000)
    harness.wait(running, outputs=1)
    waiting = harness.add(make_prompt("hello"))
    harness.engine.abort(waiting)
    assert [type(o.error) for o in harness.wait(waiting)] == [RequestCancelled]
    assert not harness.outputs[running][-1].is_final
    harness.engine.abort(running)
    harness.wait(running)


def test_a_request_cancelled_before_it_is_added_never_runs(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    request = Request("r", make_prompt("hello"), SamplingParams())
    harness.engine.abort(request)
    harness.engine.add(request)
    assert isinstance(harness.wait(request)[-1].error, RequestCancelled)
    assert request.token_ids == [] and harness.engine.stats.prompt_tokens == 0


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        (("word " * 5000,), {}, "text_input: the prompt has"),
        (("hello",), {"max_tokens": 5000}, "sampling_parameters.max_tokens: 5000 plus the prompt"),
    ],
)
def test_request_beyond_the_context_is_rejected_on_add(
    prompt: Any, params: Any, message: str, harness: Harness, make_prompt: MakePrompt
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        harness.add(make_prompt(*prompt), **params)
    assert str(caught.value).startswith(message)
    assert harness.text(harness.add(make_prompt("hello")))


def test_an_answer_without_max_tokens_stays_inside_the_context(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    harness = make_harness(max_model_len=40)
    prompt = make_prompt("hello")
    request = harness.add(prompt, ignore_eos=True)
    assert harness.wait(request)[-1].finish_reason == "length"
    assert request.num_tokens == 40


def test_by_default_512_tokens_follow_the_thought(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    last = harness.wait(harness.add(make_prompt("hello"), ignore_eos=True))[-1]
    thinking = last.request
    assert last.finish_reason == "length" and last.num_thought_tokens > 2
    assert len(thinking.token_ids) == last.num_thought_tokens + 512
    plain = harness.add(make_prompt("hello", [], False), ignore_eos=True)
    last = harness.wait(plain)[-1]
    assert len(plain.token_ids) == last.num_thought_tokens + 512


@pytest.mark.parametrize("context", [0, 60])
def test_a_thought_has_a_bound_of_its_own(
    make_harness: MakeHarness, make_prompt: MakePrompt, context: int
) -> None:
    harness = make_harness(max_thinking_tokens=9, max_model_len=context)
    thinking = harness.engine.thinking
    assert thinking is not None
    # The model would think without end.
    bias = {thinking.end: -100.0}
    request = harness.add(make_prompt("hello"), logit_bias=bias, ignore_eos=True)
    last = harness.wait(request)[-1]
    assert request.token_ids.index(thinking.end) == last.num_thought_tokens - 1 <= 10
    assert len(request.token_ids) > last.num_thought_tokens
    # Whoever sets max_tokens gets no other bound.
    request = harness.add(make_prompt("hello"), logit_bias=bias, max_tokens=30)
    assert thinking.end not in request.token_ids and len(harness.wait(request)) >= 1


def test_too_large_a_limit_may_mean_what_the_context_leaves(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    prompt = make_prompt("hello", [], False)
    request = harness.add(prompt, max_tokens=2**31 - 1, truncate_max_tokens=True, ignore_eos=True)
    harness.wait(request)
    assert request.num_tokens == harness.engine.max_model_len


@pytest.mark.parametrize(
    "params", [{"logit_bias": {785: 1.0}}, {"stop_token_ids": frozenset({9999})}]
)
def test_tokens_outside_the_vocabulary_are_refused(
    params: dict[str, Any], harness: Harness, make_prompt: MakePrompt
) -> None:
    with pytest.raises(InvalidRequest, match="is not a token id") as caught:
        harness.add(make_prompt("hello"), **params)
    assert str(caught.value).startswith(f"sampling_parameters.{next(iter(params))}")


def test_its_limits_are_those_of_the_checkpoint(harness: Harness) -> None:
    limits = harness.engine.limits
    assert limits["max_model_len"] == harness.engine.max_model_len == 4096
    assert limits["vocab_size"] == len(harness.engine.table)
    assert {"temperature", "top_p", "top_k"} <= limits.keys()


@pytest.mark.parametrize("method", ["encode_images", "run"])
def test_a_fault_in_one_request_ends_that_request_only(
    method: str, harness: Harness, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = harness.engine._runner
    original = getattr(runner, method)
    bad_prompt = make_prompt("bad", [1])

    def failing(step: Sequence[Scheduled]) -> Any:
        if any(part.request.prompt is bad_prompt for part in step):
            raise RuntimeError("injected")
        return original(step)

    monkeypatch.setattr(runner, method, failing)
    requests = [harness.add(make_prompt(*question), max_tokens=40) for question in QUESTIONS]
    bad = harness.add(bad_prompt)
    requests += [harness.add(make_prompt("hello"), max_tokens=40)]
    assert isinstance(harness.wait(bad)[-1].error, EngineFailure)
    for request in requests:
        harness.wait(request)
        assert request.token_ids == reference().generate(request.prompt, 40)


def test_a_step_that_runs_out_of_memory_is_run_in_parts(
    harness: Harness, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = harness.engine._runner.run

    def limited(step: Sequence[Scheduled]) -> list[tuple[Scheduled, Sampled]]:
        if len(step) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(step)

    monkeypatch.setattr(harness.engine._runner, "run", limited)
    requests = [harness.add(make_prompt(*question), max_tokens=30) for question in QUESTIONS]
    for request in requests:
        harness.wait(request)
        assert request.token_ids == reference().generate(request.prompt, 30)


def test_out_of_memory_says_what_to_do(
    harness: Harness, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(step: Sequence[Scheduled]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(harness.engine._runner, "run", out_of_memory)
    error = harness.wait(harness.add(make_prompt("hello")))[-1].error
    assert isinstance(error, OutOfMemory) and "smaller images" in str(error)


@pytest.mark.timing
def test_stopping_lets_live_requests_finish_and_takes_no_more(
    harness: Harness, make_prompt: MakePrompt
) -> None:
    request = harness.add(make_prompt("hello"))
    harness.engine.stop(timeout=TIMEOUT)
    assert harness.outputs[request][-1].finish_reason == "stop"
    assert not harness.engine.is_alive
    with pytest.raises(EngineUnavailable):
        harness.add(make_prompt("hello"))


def test_request_added_just_before_stop_is_answered(
    make_harness: MakeHarness, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes, and so does the stop, when the engine has just found that there is nothing."""
    harness = make_harness(start=False)
    prompt = make_prompt("hello")
    original, requests = harness.engine.step, list[Request]()

    def step() -> bool:
        found = original()
        if not requests:
            requests.append(harness.add(prompt))
            harness.engine._close()
        return found

    monkeypatch.setattr(harness.engine, "step", step)
    harness.engine.start()
    harness.engine._thread.join(TIMEOUT)
    assert harness.outputs[requests[0]][-1].finish_reason == "stop"


@pytest.mark.timing
def test_stopping_fails_what_is_not_done_in_time(
    make_harness: MakeHarness, make_prompt: MakePrompt
) -> None:
    harness = make_harness(max_num_seqs=1)
    running = harness.add(make_prompt("hello"), ignore_eos=True, max_tokens=4000)
    waiting = harness.add(make_prompt("hello"))
    harness.wait(running, outputs=1)
    began = time.monotonic()
    harness.engine.stop(timeout=0.2)
    assert time.monotonic() - began < TIMEOUT  # the answer would take longer
    for request in (running, waiting):
        assert isinstance(harness.outputs[request][-1].error, EngineUnavailable)


@pytest.mark.timing
def test_failed_engine_thread_fails_all_requests(
    make_harness: MakeHarness, make_prompt: MakePrompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = make_harness(start=False)

    def broken() -> bool:
        raise RuntimeError("injected")

    monkeypatch.setattr(harness.engine, "step", broken)
    request = harness.add(make_prompt("hello"))
    harness.engine.start()
    assert isinstance(harness.wait(request)[-1].error, EngineUnavailable)
    assert not harness.engine.is_alive


def _beats(folder: Path) -> float:
    (file,) = folder.iterdir()
    value: float = struct.unpack("d", file.read_bytes())[0]
    return value


@pytest.mark.timing
def test_heartbeat_advances_while_idle_and_not_within_a_step(
    make_harness: MakeHarness,
    make_prompt: MakePrompt,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("glm_engine.engine._IDLE_HEARTBEAT_SECONDS", 0.01)
    heartbeat = Heartbeat("generation", {"GLM_HEARTBEATS": str(tmp_path)})
    harness = make_harness(heartbeat=heartbeat)
    before = time.monotonic()
    wait_until(lambda: before < _beats(tmp_path))
    assert _beats(tmp_path) < time.monotonic()
    stuck, go_on = threading.Event(), threading.Event()
    original = harness.engine._runner.run

    def hanging(step: Sequence[Scheduled]) -> Any:
        stuck.set()
        go_on.wait(TIMEOUT)
        return original(step)

    monkeypatch.setattr(harness.engine._runner, "run", hanging)
    request = harness.add(make_prompt("hello"), max_tokens=1)
    assert stuck.wait(TIMEOUT)
    began = _beats(tmp_path)
    time.sleep(0.1)
    assert _beats(tmp_path) == began
    go_on.set()
    harness.wait(request)
    heartbeat.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timing
def test_a_device_that_is_gone_ends_the_engine(
    make_harness: MakeHarness,
    make_prompt: MakePrompt,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    harness = make_harness(heartbeat=Heartbeat("generation", {"GLM_HEARTBEATS": str(tmp_path)}))
    all_asked = threading.Event()

    def gone(*arguments: Any) -> Any:
        assert all_asked.wait(TIMEOUT)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(harness.engine._runner, "run", gone)
    monkeypatch.setattr(harness.engine._runner, "check_device", gone)
    prompts = [make_prompt(*question) for question in QUESTIONS]
    requests = [harness.add(prompt, max_tokens=30) for prompt in prompts]
    all_asked.set()
    for request in requests:
        assert isinstance(harness.wait(request)[-1].error, EngineUnavailable)
    harness.engine._thread.join(TIMEOUT)
    assert not harness.engine.is_alive
    assert _beats(tmp_path) < 0


def test_a_checkpoint_without_some_weights_does_not_load(tmp_path: Path) -> None:
    for file in DEMO_CHECKPOINT.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(DEMO_CHECKPOINT / "model.safetensors")
    lost = next(name for name in weights if "visual.blocks.0" in name)
    save_file(
        {name: tensor for name, tensor in weights.items() if name != lost},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match=r"lacks weights: .*visual\.blocks\.0"):
        Engine(EngineConfig(model=str(tmp_path)), on_outputs=lambda outputs: None)


def test_max_model_len_beyond_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"GLM_MAX_MODEL_LEN=999999 exceeds"):
        Harness(max_model_len=999_999)


@pytest.mark.parametrize("limit", [4096, 64])
def test_log_probabilities_of_the_prompt_are_those_of_transformers(
    make_harness: MakeHarness, make_prompt: MakePrompt, limit: int
) -> None:
    """Also where the prompt is computed in parts, beside others, and has been computed before."""
    harness = make_harness(max_num_batched_tokens=limit)
    prompt = make_prompt("How many shapes are there? " * 6, [3])
    harness.wait(harness.add(prompt, max_tokens=2))
    other = harness.add(make_prompt("hello"), max_tokens=40, ignore_eos=True)
    request = harness.add(prompt, max_tokens=2, prompt_logprobs=2)
    harness.wait(request)
    harness.wait(other)
    assert sorted(request.prompt_logprobs) == list(range(1, prompt.num_tokens))
    expected = reference().logprobs(prompt, len(harness.engine.table))
    image = harness.engine.image_token_id
    for position, note in request.prompt_logprobs.items():
        token_id = int(prompt.input_ids[position])
        if token_id == image:
            continue  # nobody predicts an image
        value, rank = note.entries[token_id]
        row = expected[position - 1]
        assert value == pytest.approx(float(row[token_id]), abs=1e-4)
        assert rank == int((row > row[token_id]).sum()) + 1
        best = sorted(entry for key, entry in note.entries.items() if key != token_id)
        assert len(best) in (1, 2)
