"""A job's way through stage 2: on whatever path it ends, its client is answered exactly once.

The engine and stage 1 are the real ones, on the demo checkpoint; Triton is not there.
"""

import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import glm_triton.pipeline
import glm_triton.preprocessing
from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.errors import (
    EngineFailure,
    EngineUnavailable,
    GenerationError,
    InvalidRequest,
    OutOfMemory,
    QueueFull,
    RequestCancelled,
)
from glm_engine.heartbeat import Heartbeat
from glm_engine.request import SamplingParams, parse_sampling_parameters
from glm_preprocessing.errors import InvalidInput, PreprocessingError, wire_text
from glm_preprocessing.preprocessor import Preprocessor, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings
from glm_triton.jobs import Job, Response
from glm_triton.pipeline import NUM_WORKERS, Pipeline
from glm_triton.preprocessing import PROMPT_OUTPUTS, StageOneError, Tensors
from unit.generation.conftest import picture
from unit.paths import DEMO_CHECKPOINT
from waiting import TIMEOUT, wait_until

LONG = SamplingParams(temperature=0.0, max_tokens=1000, ignore_eos=True)
ALL_FLAGS = frozenset(
    {
        "return_finish_reason",
        "return_cumulative_logprob",
        "return_logprobs",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "return_token_ids",
    }
)


class RecordingClient:
    """Notes what it gets.

    Attributes:
        left: whether it has closed its stream.
        fails_at: the response that cannot be sent, from 0.
    """

    def __init__(self, fails_at: int | None = None) -> None:
        self.responses: list[Response] = []
        self.error: GenerationError | None = None
        self.ends = 0
        self.left = False
        self.fails_at = fails_at

    def send(self, response: Response, *, is_last: bool) -> None:
        assert not self.ends, "a response after the last"
        if len(self.responses) == self.fails_at:
            raise RuntimeError("no shared memory")
        self.responses.append(response)
        self.ends += is_last

    def fail(self, error: GenerationError) -> None:
        self.ends += 1
        self.error = error

    def is_cancelled(self) -> bool:
        return self.left

    def wait(self) -> None:
        wait_until(lambda: self.ends > 0)

    @property
    def text(self) -> str:
        return "".join(response.text or "" for response in self.responses)


class StageOne:
    """Stage 1 by direct calls. ``script`` comes first: an exception is raised, an event waited for.

    Attributes:
        calls: how many there were.
    """

    def __init__(self) -> None:
        settings = PreprocessingSettings.from_env({"GLM_MODEL": str(DEMO_CHECKPOINT)})
        self._preprocessor = Preprocessor.from_settings(settings)
        self._lock = threading.Lock()
        self.script: list[Exception | threading.Event] = []
        self.calls = 0

    def __call__(self, request_id: str, inputs: Tensors) -> Tensors:
        with self._lock:
            self.calls += 1
            step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        if step is not None:
            assert step.wait(TIMEOUT)
        hashes = [row.tobytes() for row in inputs.get("image_hash", ())]
        grids = [tuple(row.tolist()) for row in inputs.get("image_grid", ())]
        request = PromptRequest(
            text_input=inputs["text_input"][0].decode(),
            image=list(inputs.get("image", ())),
            image_hashes=hashes,
            known_grids={name: grid for name, grid in zip(hashes, grids, strict=True) if any(grid)},
        )
        try:
            prompt = self._preprocessor(request)
        except PreprocessingError as error:
            raise StageOneError(wire_text(error, details=True)) from None
        return {name: getattr(prompt, name) for name in PROMPT_OUTPUTS}


class Stage:
    """A pipeline, and what became of its jobs."""

    def __init__(self, stage_one: StageOne, **config: Any) -> None:
        config.setdefault("kv_cache_memory", 64 * 2**20)
        self.config = EngineConfig(model=str(DEMO_CHECKPOINT), **config)
        self.heartbeat = Heartbeat("generation", env={}, workers=NUM_WORKERS)
        self.stage_one = stage_one
        self.ended: list[tuple[Job, str, GenerationError | None]] = []
        self.jobs: list[Job] = []
        self.pipeline = Pipeline(
            self.config,
            lambda on_outputs: Engine(self.config, on_outputs, self.heartbeat),
            stage_one,
            lambda *end: self.ended.append(end),
            self.heartbeat,
        )

    def job(self, text: str = "What is in this image?", **values: Any) -> Job:
        """A job that is not accepted yet."""
        images = values.pop("images", ())
        inputs: dict[str, np.ndarray[Any, Any]] = {"text_input": np.array([text.encode()], object)}
        if images:
            inputs["image"] = np.array(images, object)
        client = values.pop("client", None) or RecordingClient()
        defaults: dict[str, Any] = {
            "params": SamplingParams(temperature=0.0, max_tokens=20),
            "stream": True,
            "flags": ALL_FLAGS,
            "prefix": "",
            "received": time.monotonic(),
            "num_bytes": sum(map(len, images)),
        }
        return Job(
            request_id=f"r{len(self.jobs)}",
            client=client,
            prompt_inputs=inputs,
            prompt_field="text_input",
            **defaults | values,
        )

    def accept(self, *arguments: Any, **values: Any) -> tuple[Job, RecordingClient]:
        job = self.job(*arguments, **values)
        self.pipeline.accept(job)
        self.jobs.append(job)
        client = job.client
        assert isinstance(client, RecordingClient)
        return job, client


def check_nothing_is_left(stage: Stage) -> None:
    """Every job was answered exactly once, and neither it nor what it held is anywhere."""
    wait_until(lambda: len(stage.ended) == len(stage.jobs))
    clients = [job.client for job in stage.jobs]
    assert [client.ends for client in clients] == [1] * len(clients)  # type: ignore[attr-defined]
    assert {id(job) for job, *_ in stage.ended} == {id(job) for job in stage.jobs}
    wait_until(lambda: stage.pipeline.engine.stats.running == 0)
    wait_until(lambda: all(not job.prompt_inputs and not job.choices for job in stage.jobs))
    assert stage.pipeline.num_jobs == 0
    assert not stage.pipeline._admission._jobs
    assert not stage.pipeline._admission._by_cancel_key
    blocks = stage.pipeline.engine._blocks
    wait_until(lambda: blocks.num_free == blocks.num_blocks)
    stage.jobs.clear()
    stage.ended.clear()


@pytest.fixture(scope="module")
def stage_one() -> StageOne:
    return StageOne()


@pytest.fixture(scope="module")
def shared_stage(stage_one: StageOne) -> Iterator[Stage]:
    stage = Stage(stage_one)
    stage.pipeline.start()
    yield stage
    stage.pipeline.stop()


@pytest.fixture
def stage(shared_stage: Stage, stage_one: StageOne) -> Iterator[Stage]:
    """One with the default settings, idle."""
    stage_one.script.clear()
    yield shared_stage
    check_nothing_is_left(shared_stage)


@pytest.fixture
def make_stage(stage_one: StageOne) -> Iterator[Callable[..., Stage]]:
    """``make_stage(**config)`` -> Stage of its own, started."""
    made: list[Stage] = []
    stage_one.script.clear()

    def make(**config: Any) -> Stage:
        stage = Stage(stage_one, **config)
        stage.pipeline.start()
        made.append(stage)
        return stage

    yield make
    for stage in made:
        stage.pipeline.stop()
        check_nothing_is_left(stage)


# ---- answers ----


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer(stage: Stage, stream: bool) -> None:
    _, client = stage.accept(stream=stream, images=[picture(1)])
    client.wait()
    assert client.error is None
    assert len(client.responses) > 1 if stream else len(client.responses) == 1
    *before, last = client.responses
    assert last.finish_reason in ("stop", "length")
    assert {response.finish_reason for response in before} <= {""}
    token_ids = [t for response in client.responses for t in response.token_ids or ()]
    assert sum(response.num_output_tokens or 0 for response in client.responses) == len(token_ids)
    assert sum(len(response.logprobs or ()) for response in client.responses) in (0, len(token_ids))
    assert last.num_image_tokens and last.num_input_tokens
    assert last.num_input_tokens > last.num_image_tokens
    assert stage.ended[0][1:] == (last.finish_reason, None)


def test_what_is_not_asked_for_is_not_sent(stage: Stage) -> None:
    _, client = stage.accept(flags=frozenset())
    client.wait()
    assert client.responses == [Response(response.text) for response in client.responses]


def test_the_same_answer_with_and_without_a_stream(stage: Stage) -> None:
    _, streamed = stage.accept(stream=True)
    _, whole = stage.accept(stream=False, prefix="Q: ")
    streamed.wait()
    whole.wait()
    assert whole.text == f"Q: {streamed.text}"


def test_events_instead_of_text(stage: Stage) -> None:
    flags = ALL_FLAGS | {"return_events"}
    params = SamplingParams(temperature=0.0, logprobs=0)
    _, plain = stage.accept(stream=False, params=params)
    _, whole = stage.accept(stream=False, params=params, flags=flags)
    _, streamed = stage.accept(params=params, flags=flags)
    for client in (plain, whole, streamed):
        client.wait()
    (response,) = whole.responses
    assert response.text is None and response.logprobs is None
    thought, text = response.events or ()
    assert plain.text == f"<think>{thought['thought']}</think>\n{text['text']}"
    for key, event in (("thought", thought), ("text", text)):
        pieces = [one for each in streamed.responses for one in each.events or () if key in one]
        assert "".join(piece[key] for piece in pieces) == event[key]
        tokens = [next(iter(entry.values())) for entry in event["logprobs"]]
        assert "".join(token["decoded_token"] for token in tokens).strip() == event[key]
    assert (response.num_output_tokens, response.num_reasoning_tokens) == (
        plain.responses[0].num_output_tokens,
        plain.responses[0].num_reasoning_tokens,
    )
    total = sum(one.num_reasoning_tokens or 0 for one in streamed.responses)
    assert total == response.num_reasoning_tokens


def test_several_answers_end_once(stage: Stage) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=20, n=3, seed=7)
    _, client = stage.accept(params=params)
    client.wait()
    ends = [response.index for response in client.responses if response.finish_reason]
    assert sorted(index for index in ends if index is not None) == [0, 1, 2]
    assert client.responses[-1].finish_reason


def test_a_picture_that_is_known_is_not_prepared_again(stage: Stage) -> None:
    _, first = stage.accept(images=[picture(2)])
    first.wait()
    encoded = stage.pipeline.engine.stats.images_encoded
    _, second = stage.accept(images=[picture(2)])
    second.wait()
    assert second.text == first.text
    assert stage.pipeline.engine.stats.images_encoded == encoded


@pytest.mark.parametrize(
    ("other", "is_shared"),
    [
        ({"tenant": "a"}, True),
        ({"tenant": "b"}, False),
        ({"tenant": "a", "cache_salt": "salt"}, False),
        ({}, False),
    ],
)
def test_only_a_tenant_itself_reuses_what_it_sent(
    stage: Stage, other: dict[str, str], is_shared: bool
) -> None:
    """No tenant can tell by time or ``cached_tokens`` what another has sent."""
    number = 20 + 7 * len(str(other)) + is_shared  # a picture that no test has sent before
    stats, answers = stage.pipeline.engine.stats, []
    for fields in ({"tenant": "a"}, other):
        before = stats.images_encoded, stats.cached_tokens, stats.prompt_tokens
        _, client = stage.accept(images=[picture(number)], **fields)
        client.wait()
        answers.append(client)
        after = stats.images_encoded, stats.cached_tokens, stats.prompt_tokens
    encoded, cached, _ = (new - old for old, new in zip(before, after, strict=True))
    assert answers[0].text == answers[1].text
    assert (encoded == 0, cached > 0) == (is_shared, is_shared)
    assert answers[1].responses[-1].num_cached_tokens == cached


def test_all_share_the_caches_where_that_is_set(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage(cache_sharing="all")
    for tenant in ("a", "b"):
        _, client = stage.accept(images=[picture(3)], tenant=tenant)
        client.wait()
    assert client.responses[-1].num_cached_tokens
    _, salted = stage.accept(images=[picture(3)], tenant="b", cache_salt="salt")
    salted.wait()
    assert salted.responses[-1].num_cached_tokens == 0


def test_the_sizes_of_pictures_as_they_were_sent(stage: Stage) -> None:
    images = [picture(4), picture(5)]
    expected = [list(Image.open(BytesIO(image)).size) for image in images]
    for _ in range(2):  # the second time they are known
        _, client = stage.accept(images=images, flags=ALL_FLAGS | {"return_image_sizes"})
        client.wait()
        first, *others = client.responses
        assert first.image_sizes is not None and first.image_sizes.tolist() == expected
        assert all(other.image_sizes is None for other in others)


# ---- refusals ----


def test_a_full_queue_refuses_and_sends_nothing(
    make_stage: Callable[..., Stage], stage_one: StageOne
) -> None:
    stage = make_stage(max_num_seqs=1, max_queue=1)
    gate = threading.Event()
    stage_one.script = [gate, gate]
    stage.accept()
    stage.accept()
    refused = stage.job()
    with pytest.raises(QueueFull, match="2 requests are already running or waiting") as caught:
        stage.pipeline.accept(refused)
    assert caught.value.retry_after >= 1
    assert isinstance(refused.client, RecordingClient) and not refused.client.ends
    gate.set()
    for job in stage.jobs:
        assert isinstance(job.client, RecordingClient)
        job.client.wait()
        assert job.client.error is None
    _, later = stage.accept()
    later.wait()


def test_too_many_bytes_refuse(make_stage: Callable[..., Stage], stage_one: StageOne) -> None:
    stage = make_stage(max_queue_bytes=1000)
    gate = threading.Event()
    stage_one.script = [gate]
    stage.accept(num_bytes=600)
    with pytest.raises(QueueFull, match="more than 1000 bytes"):
        stage.accept(num_bytes=600)
    gate.set()


def test_too_many_image_tokens_refuse_once_they_are_known(
    make_stage: Callable[..., Stage], stage_one: StageOne
) -> None:
    stage = make_stage(max_queue_image_tokens=1)
    gate = threading.Event()
    stage_one.script = [gate]
    stage.accept()
    wait_until(lambda: not stage_one.script)
    _, client = stage.accept(images=[picture(3)])
    client.wait()
    gate.set()
    assert isinstance(client.error, QueueFull) and "image tokens" in str(client.error)


def test_a_cancel_key_in_use_is_refused(stage: Stage) -> None:
    stage.accept(cancel_key=b"key", params=LONG)
    with pytest.raises(InvalidRequest, match="cancel_key: is already in use"):
        stage.accept(cancel_key=b"key")
    stage.pipeline.cancel(b"key")


# ---- stage 1 ----


def test_rejection_by_stage_one_reaches_the_client(stage: Stage) -> None:
    _, client = stage.accept(images=[b"no image"])
    client.wait()
    assert isinstance(client.error, InvalidRequest) and client.error.param == "image[0]"
    _, client = stage.accept(images=[b""])
    client.wait()
    assert client.error is not None and client.error.code == "empty_image"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (StageOneError(wire_text(PreprocessingError(), details=True)), EngineFailure),
        (StageOneError(wire_text(InvalidInput("tools", "no"), details=True)), InvalidRequest),
        (StageOneError("Failed to increase the shared memory pool size"), OutOfMemory),
        (StageOneError("something that Triton has not said before"), EngineUnavailable),
        (MemoryError(), OutOfMemory),
        (RuntimeError("cannot allocate shared memory"), OutOfMemory),
        (RuntimeError("a fault of ours"), EngineFailure),
    ],
)
def test_errors_of_stage_one_are_converted(
    stage: Stage, stage_one: StageOne, answer: Exception, kind: type[GenerationError]
) -> None:
    stage_one.script = [answer]
    _, client = stage.accept()
    client.wait()
    assert type(client.error) is kind
    _, client = stage.accept()
    client.wait()
    assert client.error is None


DEAD = "Stub process 'preprocessing_0_0' is not healthy."
LOADING = "Request for unknown model: 'preprocessing' is not found"


def test_dead_stage_one_process_is_retried(stage: Stage, stage_one: StageOne) -> None:
    stage_one.script = [StageOneError(DEAD), StageOneError(LOADING), StageOneError(LOADING)]
    _, client = stage.accept()
    client.wait()
    assert client.error is None


def test_request_that_kills_two_processes_is_not_retried(stage: Stage, stage_one: StageOne) -> None:
    stage_one.script, calls = [StageOneError(DEAD)] * 3, stage_one.calls
    _, client = stage.accept()
    client.wait()
    assert isinstance(client.error, EngineUnavailable) and client.error.stage == "preprocessing"
    assert stage_one.calls == calls + 2


def test_requests_fail_at_once_after_the_wait_for_stage_one(
    stage: Stage, stage_one: StageOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glm_triton.preprocessing, "_PATIENCE_SECONDS", 0.3)
    _, client = stage.accept()
    client.wait()
    assert client.error is None
    stage_one.script = [StageOneError(LOADING)] * 100
    _, client = stage.accept()
    client.wait()
    assert isinstance(client.error, EngineUnavailable)
    # Who comes after that is not made to wait as well.
    calls = stage_one.calls
    _, client = stage.accept()
    client.wait()
    assert isinstance(client.error, EngineUnavailable) and stage_one.calls == calls + 1


def test_requests_do_not_wait_for_a_stage_one_that_was_never_there(
    make_stage: Callable[..., Stage], stage_one: StageOne
) -> None:
    stage = make_stage()
    stage_one.script, calls = [StageOneError(LOADING)], stage_one.calls
    _, client = stage.accept()
    client.wait()
    assert isinstance(client.error, EngineUnavailable) and client.error.stage == "preprocessing"
    assert stage_one.calls == calls + 1


def test_without_stage_one_it_is_not_alive_until_a_probe_finds_it(
    make_stage: Callable[..., Stage], stage_one: StageOne
) -> None:
    pipeline = (stage := make_stage()).pipeline
    calls = stage_one.calls
    pipeline.preprocessing.probe()
    assert pipeline.is_alive and stage_one.calls == calls  # nothing to look for
    stage_one.script = [StageOneError(LOADING), StageOneError(LOADING)]
    stage.accept()[1].wait()
    assert not pipeline.is_alive
    pipeline.preprocessing.probe()
    assert not pipeline.is_alive
    pipeline.preprocessing.probe()
    assert pipeline.is_alive


# ---- the engine ----


def test_a_grammar_that_cannot_be_is_refused(stage: Stage) -> None:
    given = {"structured_outputs": {"json": {"type": "string", "pattern": "("}}}
    params = parse_sampling_parameters(json.dumps(given), stage.pipeline.engine.defaults)
    _, client = stage.accept(params=params)
    client.wait()
    assert isinstance(client.error, InvalidRequest)
    assert (client.error.param or "").startswith("sampling_parameters.structured_outputs")


@pytest.mark.parametrize("n", [1, 2])
def test_a_prompt_that_is_too_long_is_refused_once(stage: Stage, n: int) -> None:
    _, client = stage.accept(params=SamplingParams(max_tokens=100_000, n=n))
    client.wait()
    assert client.error is not None and client.error.code == "context_length_exceeded"
    assert isinstance(client.error, InvalidRequest)
    assert client.error.param == "sampling_parameters.max_tokens"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(RuntimeError("a kernel failed"), EngineFailure), (torch.OutOfMemoryError(), OutOfMemory)],
)
def test_failed_step_ends_with_an_error(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
    kind: type[GenerationError],
) -> None:
    def fail(step: Any) -> None:
        raise fault

    monkeypatch.setattr(stage.pipeline.engine._runner, "run", fail)
    _, client = stage.accept(params=SamplingParams(max_tokens=9, n=2))
    client.wait()
    assert type(client.error) is kind
    monkeypatch.undo()
    _, client = stage.accept()
    client.wait()
    assert client.error is None


# ---- cancellation ----


def test_cancelled_before_stage_one(make_stage: Callable[..., Stage], stage_one: StageOne) -> None:
    stage = make_stage()
    gate = threading.Event()
    stage_one.script = [gate] * 8
    others = [stage.accept() for _ in range(8)]  # all of its threads
    wait_until(lambda: not stage_one.script)
    calls = stage_one.calls
    _, client = stage.accept(cancel_key=b"key")
    stage.pipeline.cancel(b"key")
    client.wait()
    assert isinstance(client.error, RequestCancelled)
    gate.set()
    for _, other in others:
        other.wait()
    _, last = stage.accept()
    last.wait()
    assert stage_one.calls == calls + 1  # of the last one


def test_cancelled_in_stage_one(stage: Stage, stage_one: StageOne) -> None:
    gate = threading.Event()
    stage_one.script = [gate]
    _, client = stage.accept(cancel_key=b"key", params=LONG)
    wait_until(lambda: not stage_one.script)
    stage.pipeline.cancel(b"key")
    client.wait()
    assert isinstance(client.error, RequestCancelled)
    prepared = stage.pipeline.preprocessing.seconds
    prepared.clear()
    gate.set()
    wait_until(lambda: len(prepared) == 1)  # and its request goes on to the engine


def test_cancelled_between_stage_one_and_the_engine(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = stage.pipeline.engine.add

    def add_late(request: Any) -> None:
        stage.pipeline.cancel(b"key")
        add(request)

    monkeypatch.setattr(stage.pipeline.engine, "add", add_late)
    _, client = stage.accept(cancel_key=b"key", params=LONG)
    client.wait()
    assert isinstance(client.error, RequestCancelled)


@pytest.mark.parametrize("by_key", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_cancelled_in_the_engine(stage: Stage, by_key: bool, n: int) -> None:
    params = SamplingParams(temperature=1.0, max_tokens=2000, ignore_eos=True, n=n)
    _, client = stage.accept(cancel_key=b"key", params=params)
    wait_until(lambda: len(client.responses) > 2)
    if by_key:
        stage.pipeline.cancel(b"key")
    else:
        client.left = True
    client.wait()
    assert isinstance(client.error, RequestCancelled)
    assert stage.ended[0][1] == "cancelled"


def test_cancelling_unknown_or_ended_job_is_ignored(stage: Stage) -> None:
    _, client = stage.accept(cancel_key=b"key")
    client.wait()
    wait_until(lambda: bool(stage.ended))
    stage.pipeline.cancel(b"key")
    stage.pipeline.cancel(b"unknown")
    assert client.error is None


# ---- sending ----


@pytest.mark.parametrize("fails_at", [0, 3])
@pytest.mark.parametrize("n", [1, 2])
def test_failed_send_fails_that_job_only(
    stage: Stage, caplog: pytest.LogCaptureFixture, fails_at: int, n: int
) -> None:
    client = RecordingClient(fails_at)
    params = SamplingParams(temperature=0.0, max_tokens=1000, ignore_eos=True, n=n)
    _, other = stage.accept()
    with caplog.at_level(logging.ERROR, "generation"):
        stage.accept(client=client, params=params)
        client.wait()
    assert isinstance(client.error, EngineFailure) and len(client.responses) == fails_at
    assert "sending the answer failed" in caplog.text
    other.wait()
    assert other.error is None


# ---- the end ----


def test_stop_lets_live_jobs_finish(make_stage: Callable[..., Stage]) -> None:
    stage = make_stage()
    clients = [stage.accept()[1] for _ in range(5)]
    wait_until(lambda: all(client.responses for client in clients))
    stage.pipeline.stop()
    assert [client.error for client in clients] == [None] * 5
    assert not stage.pipeline.is_alive


def test_stop_fails_jobs_that_do_not_finish(
    make_stage: Callable[..., Stage], stage_one: StageOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glm_triton.pipeline, "_DRAIN_SECONDS", 0.2)
    stage = make_stage()
    _, running = stage.accept(
        params=SamplingParams(temperature=0.0, max_tokens=4000, ignore_eos=True)
    )
    wait_until(lambda: len(running.responses) > 2)
    gate = threading.Event()
    stage_one.script = [gate]
    _, preparing = stage.accept()
    wait_until(lambda: not stage_one.script)
    threading.Timer(0.5, gate.set).start()
    stage.pipeline.stop()
    assert isinstance(running.error, EngineUnavailable)
    assert isinstance(preparing.error, EngineUnavailable)
    assert stage.ended[-1][1] == "unavailable"


def test_without_its_thread_the_process_is_not_alive(
    make_stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(StageOne())
    failed = threading.Event()
    monkeypatch.setattr(stage.heartbeat, "fail", failed.set)
    monkeypatch.setattr(stage.pipeline._responder, "_sort_in", None)
    stage.pipeline.start()
    _, client = stage.accept()
    assert failed.wait(TIMEOUT)
    stage.pipeline._thread.join()
    assert not stage.pipeline.is_alive
    assert not client.ends
    stage.pipeline.stop()


def test_each_concurrent_job_is_answered_exactly_once(stage: Stage, stage_one: StageOne) -> None:
    """Whatever happens to whichever job at whatever moment: the fixture looks at each."""
    chance = random.Random(5)
    stage_one.script = [
        chance.choice((StageOneError(DEAD), StageOneError("no"), RuntimeError("a fault")))
        for _ in range(12)
    ]
    clients = []
    for number in range(120):
        key = b"%d" % number
        client = RecordingClient(chance.choice((None, None, None, 0, 1, 2)))
        params = SamplingParams(
            temperature=0.0,
            max_tokens=chance.choice((1, 5, 200)),
            n=chance.choice((1, 1, 2)),
            ignore_eos=True,
        )
        try:
            stage.accept(
                client=client,
                cancel_key=key,
                params=params,
                stream=chance.random() < 0.7,
                images=[picture(number % 5)] if chance.random() < 0.3 else [],
            )
        except QueueFull:
            continue
        clients.append(client)
        match chance.randrange(4):
            case 0:
                stage.pipeline.cancel(key)
            case 1:
                client.left = True
            case 2:
                threading.Timer(chance.random(), stage.pipeline.cancel, (key,)).start()
    for client in clients:
        client.wait()
    assert len(clients) > 60
