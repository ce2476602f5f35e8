"""Triton adapter of stage 2: requests in, preprocessing by BLS, the engine, responses out.

Who does what, and on which thread:

* ``execute`` (Triton's) copies the tensors of a request into a ``Job`` and returns at once.
* some threads call ``preprocessing`` (synchronous BLS) and hand the prompt to the engine.
* the engine's thread runs the model; it only ever puts outputs into the outbox.
* the response thread empties the outbox. It alone sends responses, so no job is answered twice,
  and it polls every live job for cancellation, whatever the job is doing. It takes time from the
  engine's thread, so it wakes up for the first and the last text of an answer, and else every few
  milliseconds.
* the metrics thread publishes the engine's counts.
"""

import contextlib
import gc
import json
import logging
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

from glm_engine import otel
from glm_engine.admission import (
    Pace,
    QueueLimits,
    Waiting,
    check_room,
    check_wait,
    queue_full,
)
from glm_engine.config import EngineConfig
from glm_engine.engine import Engine, EngineStats
from glm_engine.errors import (
    EngineFailure,
    EngineUnavailable,
    GenerationError,
    InvalidRequest,
    OutOfMemory,
    RequestCancelled,
    wire_text,
)
from glm_engine.fair_queue import FairQueue
from glm_engine.heap import trim_heap
from glm_engine.heartbeat import Heartbeat
from glm_engine.json_log import JsonFormatter
from glm_engine.request import (
    Output,
    Prompt,
    Request,
    SamplingParams,
    TokenLogprobs,
    parse_sampling_parameters,
    place_images,
)
from glm_engine.structured_output import Guide
from glm_engine.variables import unknown_variables
from glm_engine.vision import KnownImage

if TYPE_CHECKING:
    from glm_engine.tracing import RequestTracer

# BLS calls wait for a preprocessing process; more threads than processes keep those busy.
_BLS_THREADS = 8
# Asking whether a client has gone is a call of the server: each request is asked for in every fifth
# of these turns where there are many.
_CANCELLATION_POLL_SECONDS = 0.02
_LEAST_POLLS, _POLL_TURNS = 16, 5
# A stream gets a response no more often than every few milliseconds, times the number of streams:
# a response costs about 0.2 ms on its way to the client, and an eye sees 50 ms as at once. Its last
# response is not held up, nor are its first ones: the very first often is no more than "<think>".
_FIRST_RESPONSES = 3
_RESPONSE_SECONDS = 0.005
_RESPONSE_SECONDS_A_STREAM = 0.001
_MAX_RESPONSE_SECONDS = 0.05
# Where requests wait for room in the engine streams get half as many, which gives it time for them.
_QUEUE_FACTOR = 2
_METRICS_SECONDS = 0.25
_TRIM_SECONDS = 30.0
_DRAIN_SECONDS = 20.0
# Of the heartbeat: the engine's thread, and the one that sends responses.
_WORKERS, _RESPONSES = 2, 1

# The first four are the prompt itself, in the forms that it may have.
_PROMPT_INPUTS = (
    "messages",
    "text_input",
    "prompt",
    "prompt_token_ids",
    "tools",
    "chat_template_kwargs",
    "image",
    "image_max_pixels",
    "video",
)
# What stage 1 is told about the entries of `image`, besides: see its config.pbtxt.
_KNOWN_IMAGE_INPUTS = ("image_hash", "image_grid")
_PROMPT_OUTPUTS = (
    "input_ids",
    "position_ids",
    "rope_delta",
    "patches",
    "image_grid_thw",
    "image_hash",
    "image_frames",
)
# Of an image's content hash, as preprocessing makes it too.
_HASH_BYTES = 16
# Triton's own sentences: while preprocessing is loaded again, of a process of it that has died,
_NOT_LOADED = re.compile(r"is not ready|unknown model|not found|no available versions")
_DEAD_PROCESS = re.compile(r"is not healthy|Stub process")
# and of a tensor for which /dev/shm has no room.
_NO_SHARED_MEMORY = re.compile(r"shared memory", re.IGNORECASE)
# A picture that killed one process may kill another, but no third.
_ATTEMPTS = 2
# As long as whoever watches Triton may need to load it again; then requests fail at once.
_PREPROCESSING_PATIENCE = 15.0
_PREPROCESSING_RETRY_SECONDS = 0.1
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
# The parameter of a request whose errors are to be JSON, to stage 1 as well.
_ERROR_DETAILS = "error_details"
_FLAGS = (
    "return_finish_reason",
    "return_cumulative_logprob",
    "return_logprobs",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "return_token_ids",
)

logger = logging.getLogger("generation")


@dataclass(eq=False)
class Job:
    """One request of a client, from ``execute`` to its last response.

    Attributes:
        prompt_inputs: tensors for ``preprocessing``, copied: Triton reuses the originals' memory.
            Empty once the prompt is ready.
        prompt_field: the wire field that the prompt comes from.
        prefix: text that comes before the answer (vllm_backend's ``exclude_input_in_output:
            false``).
        received: when, in seconds of ``time.monotonic()``.
        tenant: on whose behalf.
        num_bytes: of its images and videos as they were sent.
        cancel_key: the client's secret, by which it can give the job up.
        trace_context: W3C traceparent of the client's span; empty where it has none.
        taken: by the thread that calls preprocessing, when, as ``received``; 0 for not yet.
        choices: the answers (sampling parameter ``n``); none until the prompt is ready.
        image_tokens: of its prompt, once that is ready.
        num_open: choices that are not answered to their end.
        has_begun: whether its first token is there.
        error_details: whether the client takes errors as JSON.
    """

    request_id: str
    sender: Any
    prompt_inputs: dict[str, np.ndarray[Any, Any]]
    prompt_field: str
    params: SamplingParams
    stream: bool
    flags: frozenset[str]
    prefix: str
    received: float
    tenant: str = ""
    cancel_key: bytes | None = None
    trace_context: str = ""
    taken: float = 0.0
    cancelled: bool = False
    num_bytes: int = 0
    image_tokens: int = 0
    choices: list["Choice"] = field(default_factory=list)
    num_open: int = 0
    has_begun: bool = False
    error_details: bool = False

    @property
    def waiting(self) -> Waiting | None:
        """What it takes of the queue; None once the engine computes its prompt."""
        if any(choice.request.timeline.scheduled for choice in self.choices):
            return None
        return Waiting(self.tenant, self.received, self.num_bytes, self.image_tokens)


@dataclass(eq=False)
class Choice:
    """One answer to a job.

    Attributes:
        unsent: outputs not sent yet; all of them until the end when the client did not ask for a
            stream.
        num_sent: responses so far.
        num_sent_tokens: tokens in them.
        has_thought: whether its thought has been sent, or it has none.
        sent: when the last of them was, in seconds of ``time.monotonic()``.
    """

    job: Job
    index: int
    request: Request
    unsent: list[Output] = field(default_factory=list)
    num_sent: int = 0
    num_sent_tokens: int = 0
    has_thought: bool = False
    sent: float = 0.0

    @property
    def is_new(self) -> bool:
        """Whether the client waits for the beginning of the answer."""
        return self.job.stream and self.num_sent < _FIRST_RESPONSES

    @property
    def is_urgent(self) -> bool:
        """Whether what is unsent is the beginning or the end of the answer."""
        return self.is_new or self.unsent[-1].is_final


@dataclass(frozen=True)
class _Failed:
    """A job that ended before the engine had it."""

    job: Job
    error: GenerationError


# What the response thread gets: a new job, the outputs of a step, a job that failed, or the end.
_Item = Job | Sequence[Output] | _Failed | None


class _Outbox:
    """Items for the response thread, in order. It is woken only for those that cannot wait."""

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._wake = threading.Event()

    def put(self, item: _Item, *, urgent: bool = True) -> None:
        """Add an item; any thread may."""
        self._items.append(item)
        if urgent:
            self._wake.set()

    def take(self, timeout: float | None) -> list[_Item]:
        """All items, once there is an urgent one or so many seconds have passed."""
        self._wake.wait(timeout)
        self._wake.clear()
        return [self._items.popleft() for _ in range(len(self._items))]


class TritonPythonModel:
    """Decoupled: zero or more responses for each request, then one that is final."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model and start the threads; what fails here fails the load, in plain words."""
        config = EngineConfig.from_env()
        _configure_logging(config)
        for problem in unknown_variables():
            logger.warning("%s", problem)
        self._tracer = _create_tracer()
        self._outbox = _Outbox()
        self._heartbeat = Heartbeat(args["model_name"], workers=_WORKERS)
        self._engine = Engine(config, self._take_outputs, self._heartbeat)
        self._max_num_seqs = config.max_num_seqs
        self._limit = config.max_num_seqs + config.max_queue
        self._queue_limits = QueueLimits(config.max_queue_bytes, config.max_queue_image_tokens)
        self._max_queue_seconds = config.max_queue_seconds
        self._pace = Pace()
        self._to_prepare: FairQueue[Job] = FairQueue()
        # From the door to the last response. What else knows of a job comes later or forgets it
        # earlier: the response thread has only those that it has seen.
        self._admitted: dict[Job, None] = {}
        self._jobs: set[Job] = set()
        self._by_cancel_key: dict[bytes, Job] = {}
        self._to_poll: list[Job] = []
        self._preprocessing_lost: float | None = None
        self._preprocessing_seconds: deque[float] = deque(maxlen=10_000)
        self._metrics = _Metrics()
        self._stopped = threading.Event()
        self._bls_threads = [
            threading.Thread(target=self._prepare_all, name=f"bls-{number}", daemon=True)
            for number in range(_BLS_THREADS)
        ]
        self._threads = [
            threading.Thread(target=self._vital, args=(work,), name=name, daemon=True)
            for name, work in (
                ("responses", self._send_responses),
                ("metrics", self._publish_metrics),
            )
        ]
        # What is there now stays; the garbage collector need not look at it ever again.
        gc.collect()
        gc.freeze()
        self._engine.start()
        for thread in (*self._threads, *self._bls_threads):
            thread.start()

    def is_ready(self) -> bool:
        """Whether the engine takes requests (asked by Triton 26.03 and later)."""
        return self._engine.is_alive and all(thread.is_alive() for thread in self._threads)

    def execute(self, requests: list[Any]) -> None:
        """Take requests over. Nothing here waits."""
        for triton_request in requests:
            sender = triton_request.get_response_sender()
            cancel_key = _value(triton_request, "cancel")
            if cancel_key is not None:
                if job := self._by_cancel_key.get(cancel_key):
                    self._cancel(job)
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                continue
            error_details = False
            try:
                error_details = _wants_error_details(triton_request)
                job = self._open(triton_request, sender, error_details=error_details)
            except GenerationError as error:
                self._metrics.count_finished(error.finish_reason)
                logger.debug(
                    "refused request_id=%(request_id)s reason=%(reason)s",
                    {"request_id": triton_request.request_id(), "reason": type(error).__name__},
                )
                _send_error(sender, error, details=error_details)
                continue
            except Exception:
                logger.exception(
                    "request %(request_id)s could not be read",
                    {"request_id": triton_request.request_id()},
                )
                fault = EngineFailure("the request could not be read")
                _send_error(sender, fault, details=error_details)
                continue
            self._outbox.put(job)
            self._to_prepare.put(job.tenant, job)

    def finalize(self) -> None:
        """Let live requests finish for a while, fail the rest, and end every thread."""
        self._to_prepare.close()
        self._engine.stop(timeout=_DRAIN_SECONDS)
        for thread in self._bls_threads:
            thread.join()
        self._outbox.put(None)
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        if self._tracer is not None:
            self._tracer.shut_down()
        self._heartbeat.end()

    def _vital(self, work: Callable[[], None]) -> None:
        """What a thread does without which nothing gets answered."""
        try:
            work()
        except Exception:
            logger.exception("a thread failed")
            self._heartbeat.fail()

    # ---- execute's thread ----

    def _open(self, triton_request: Any, sender: Any, *, error_details: bool) -> Job:
        stream = _flag(triton_request, "stream", default=False)
        prompt_inputs = {
            name: tensor.as_numpy().copy()
            for name in _PROMPT_INPUTS
            if (tensor := pb_utils.get_input_tensor_by_name(triton_request, name)) is not None
        }
        flags = frozenset(name for name in _FLAGS if _flag(triton_request, name, default=False))
        params = parse_sampling_parameters(
            _text(triton_request, "sampling_parameters"), self._engine.defaults
        )
        if params.logprobs is None and flags & {"return_cumulative_logprob", "return_logprobs"}:
            params = replace(params, logprobs=0)
        job = Job(
            request_id=triton_request.request_id() or f"request-{id(sender):x}",
            sender=sender,
            prompt_inputs=prompt_inputs,
            prompt_field=next(iter(prompt_inputs), "messages"),
            params=params,
            stream=stream,
            flags=flags,
            prefix=_prefix(triton_request, stream),
            received=time.monotonic(),
            tenant=_text(triton_request, "tenant") or "",
            cancel_key=_value(triton_request, "cancel_key"),
            trace_context=_trace_context(triton_request),
            error_details=error_details,
            num_bytes=sum(
                len(file)
                for name in ("image", "video")
                if name in prompt_inputs
                for file in prompt_inputs[name].ravel()
            ),
        )
        if job.cancel_key in self._by_cancel_key:
            raise InvalidRequest("cancel_key", "is that of another request")
        if len(self._admitted) >= self._limit:
            raise queue_full(f"{self._limit} requests run or wait already")
        self._check_queue(job)
        self._admitted[job] = None
        if job.cancel_key is not None:
            self._by_cancel_key[job.cancel_key] = job
        return job

    def _check_queue(self, job: Job) -> None:
        """Raises EngineUnavailable where a new job may not wait."""
        newcomer = Waiting(job.tenant, job.received, job.num_bytes)
        waiting, now = self._waiting_beside(job), time.monotonic()
        stats = self._engine.stats
        places = 0 if stats.waiting else self._max_num_seqs - stats.running
        if not stats.waiting and not self._to_prepare:  # all are only on their way
            self._pace.begin(now)
        rate = self._pace.rate(now, self._max_num_seqs if places else stats.running)
        check_wait(newcomer, waiting, self._max_queue_seconds, rate, now, places)
        check_room(newcomer, waiting, self._queue_limits)

    def _waiting_beside(self, job: Job) -> list[Waiting]:
        others = [other.waiting for other in list(self._admitted) if other is not job]
        return [other for other in others if other is not None]

    # ---- BLS threads ----

    def _prepare_all(self) -> None:
        while (job := self._to_prepare.get()) is not None:
            self._preprocess(job)

    def _preprocess(self, job: Job) -> None:
        try:
            if job.cancelled:
                raise RequestCancelled()
            job.taken = time.monotonic()
            inputs, known = self._without_known_images(job.prompt_inputs)
            response = self._call_preprocessing(job, inputs)
            prompt = self._to_prompt(response, job, known)
            job.image_tokens = prompt.num_image_tokens
            newcomer = job.waiting
            if job.image_tokens and newcomer is not None:
                check_room(newcomer, self._waiting_beside(job), self._queue_limits)
            tools = _tools(job.prompt_inputs)
            guides = [
                self._engine.grammars.compile(job.params, tools, prompt)
                for _ in range(job.params.n)
            ]
            job.prompt_inputs = {}  # the image files; what the engine needs is in the prompt
            job.choices = choices = _choices(job, prompt, guides)
            job.num_open = len(choices)
            self._preprocessing_seconds.append(time.monotonic() - job.received)
            for choice in choices:
                self._engine.add(choice.request)
            if job.cancelled:  # set while this thread was between the two checks
                # Who is answered already has forgotten them.
                for choice in choices:
                    self._engine.abort(choice.request)
        except GenerationError as error:
            self._outbox.put(_Failed(job, error))
        except Exception as error:
            logger.exception(
                "request %(request_id)s failed before it reached the engine",
                {"request_id": job.request_id},
            )
            is_full = isinstance(error, MemoryError) or _NO_SHARED_MEMORY.search(str(error))
            fault = EngineFailure("the request could not be prepared")
            self._outbox.put(_Failed(job, OutOfMemory() if is_full else fault))

    def _call_preprocessing(self, job: Job, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Any:
        """Stage 1's response. A process of it that dies is loaded again while its requests wait."""
        attempts = 0
        while True:
            response = pb_utils.InferenceRequest(
                model_name="preprocessing",
                request_id=job.request_id,
                requested_output_names=list(_PROMPT_OUTPUTS),
                inputs=[pb_utils.Tensor(name, value) for name, value in inputs.items()],
                parameters={_ERROR_DETAILS: True},
            ).exec()
            if not response.has_error():
                self._preprocessing_lost = None
                return response
            text = response.error().message()
            error = _from_bls_error(text)
            if not isinstance(error, EngineUnavailable):
                raise error
            died = _DEAD_PROCESS.search(text) is not None
            attempts += died
            if not (died or _NOT_LOADED.search(text)) or attempts >= _ATTEMPTS:
                raise error
            now = time.monotonic()
            self._preprocessing_lost = self._preprocessing_lost or now
            if now - self._preprocessing_lost > _PREPROCESSING_PATIENCE or job.cancelled:
                raise error
            time.sleep(_PREPROCESSING_RETRY_SECONDS)

    def _without_known_images(
        self, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> tuple[dict[str, np.ndarray[Any, Any]], dict[bytes, KnownImage]]:
        """Inputs that say what is known of the images, instead of those images; and what it is."""
        if "image" not in inputs or not inputs["image"].size:
            return dict(inputs), {}
        entries = inputs["image"].ravel()
        budgets = inputs.get("image_max_pixels", np.zeros(len(entries), np.int32)).tolist()
        if len(budgets) != len(entries):
            return dict(inputs), {}  # stage 1 refuses it
        hashes = [_content_hash(*image) for image in zip(entries, budgets, strict=True)]
        known = {name: found for name in hashes if (found := self._engine.known_image(name))}
        grids = [known[name].grid if name in known else (0, 0, 0) for name in hashes]
        needed = [
            b"" if name in known else entry for name, entry in zip(hashes, entries, strict=True)
        ]
        described: tuple[np.ndarray[Any, Any], ...] = (
            np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, _HASH_BYTES),
            np.array(grids, np.int32),
        )
        about_images = dict(zip(_KNOWN_IMAGE_INPUTS, described, strict=True))
        return {**inputs, "image": np.array(needed, object), **about_images}, known

    def _to_prompt(self, response: Any, job: Job, known: Mapping[bytes, KnownImage]) -> Prompt:
        tensors = {
            name: pb_utils.get_output_tensor_by_name(response, name).as_numpy().copy()
            for name in _PROMPT_OUTPUTS
        }
        return Prompt(
            field=job.prompt_field,
            input_ids=tensors["input_ids"],
            position_ids=tensors["position_ids"],
            rope_delta=int(tensors["rope_delta"][0]),
            images=place_images(
                tensors["input_ids"],
                self._engine.image_token_id,
                self._engine.merge_size,
                tensors["image_grid_thw"],
                tensors["image_hash"],
                tensors["patches"],
                tensors["image_frames"],
                {name: image.embeddings for name, image in known.items()},
            ),
        )

    # ---- engine thread ----

    def _take_outputs(self, outputs: Sequence[Output]) -> None:
        urgent = any(
            output.is_final or ((choice := output.request.context) is not None and choice.is_new)
            for output in outputs
        )
        self._outbox.put(outputs, urgent=urgent)

    # ---- response thread ----

    def _send_responses(self) -> None:
        waiting: dict[Choice, None] = {}  # those that have something to send
        polled = time.monotonic()
        while True:
            self._heartbeat.rest(_RESPONSES)
            items = self._outbox.take(_RESPONSE_SECONDS if self._jobs else None)
            self._heartbeat.beat(_RESPONSES)
            waiting.update(dict.fromkeys(self._sort_in(items)))
            now = time.monotonic()
            pause = self._pause()
            for choice in [c for c in waiting if c.is_urgent or now - c.sent >= pause]:
                del waiting[choice]
                if choice.job not in self._jobs:
                    continue  # answered with an error meanwhile
                try:
                    self._send(choice)
                except Exception:  # of this job only: the thread answers all the others
                    logger.exception(
                        "request %(request_id)s could not be answered",
                        {"request_id": choice.job.request_id},
                    )
                    self._close(choice.job, EngineFailure("the answer could not be sent"))
            if now - polled >= _CANCELLATION_POLL_SECONDS:
                self._poll_cancellations()
                polled = now
            if None in items:
                return

    def _pause(self) -> float:
        """Seconds between two responses of a stream."""
        pause = _RESPONSE_SECONDS_A_STREAM * len(self._jobs)
        pause = min(max(_RESPONSE_SECONDS, pause), _MAX_RESPONSE_SECONDS)
        return pause * _QUEUE_FACTOR if self._engine.stats.waiting else pause

    def _sort_in(self, items: list[_Item]) -> list[Choice]:
        """File the items under their jobs; the choices that have something to send, in order."""
        ready: dict[Choice, None] = {}
        for item in items:
            match item:
                case None:
                    pass
                case Job():
                    self._jobs.add(item)
                case _Failed(job, error):
                    self._close(job, error)
                case outputs:
                    for output in outputs:
                        choice: Choice | None = output.request.context
                        if choice is None or choice.job not in self._jobs:
                            continue  # given up
                        if not choice.job.has_begun:
                            choice.job.has_begun = True
                            self._pace.note(time.monotonic())
                        if output.is_final and output.error is None:
                            times = output.request.timeline
                            self._pace.note_run(times.finished - times.scheduled)
                        choice.unsent.append(output)
                        if choice.job.stream or output.is_final:
                            ready[choice] = None
        return list(ready)

    def _send(self, choice: Choice) -> None:
        job = choice.job
        outputs, choice.unsent = choice.unsent, []
        last = outputs[-1]
        if last.error is not None:
            self._close(job, last.error)
            return
        text = "".join(output.text for output in outputs)
        if not text and not last.is_final:
            choice.unsent = outputs  # no text yet; its tokens and logprobs are still to be told
            return
        if not choice.num_sent:
            text = job.prefix + text
        job.num_open -= last.is_final
        response = pb_utils.InferenceResponse(self._tensors(choice, text, outputs))
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if not job.num_open else 0
        job.sender.send(response, flags=final)
        choice.sent = time.monotonic()
        choice.num_sent += 1
        if not job.num_open:
            self._retire(job, str(last.finish_reason))

    def _tensors(self, choice: Choice, text: str, outputs: list[Output]) -> list[Any]:
        last, flags = outputs[-1], choice.job.flags
        request = choice.request
        token_ids = [token_id for output in outputs for token_id in output.token_ids]
        tensors = [_string_tensor("text_output", text)]
        if len(choice.job.choices) > 1:
            tensors.append(_count_tensor("index", choice.index))
        if "return_finish_reason" in flags:
            tensors.append(_string_tensor("finish_reason", last.finish_reason or ""))
            if last.stop_reason is not None:
                tensors.append(_string_tensor("stop_reason", json.dumps(last.stop_reason)))
        if "return_cumulative_logprob" in flags:
            value = np.array([last.cumulative_logprob], np.float32)
            tensors.append(pb_utils.Tensor("cumulative_logprob", value))
        if "return_logprobs" in flags:
            logprobs = [self._readable(token) for output in outputs for token in output.logprobs]
            tensors.append(_string_tensor("logprobs", json.dumps(logprobs)))
        if "return_num_input_tokens" in flags:
            tensors.append(_count_tensor("num_cached_tokens", request.num_cached))
            tensors.append(_count_tensor("num_input_tokens", request.prompt.num_tokens))
            tensors.append(_count_tensor("num_image_tokens", request.prompt.num_image_tokens))
        if "return_num_output_tokens" in flags:
            tensors.append(_count_tensor("num_output_tokens", len(token_ids)))
            thought, thinking = 0, self._engine.thinking
            if thinking is not None and not choice.has_thought:
                # Of these tokens; the answer may be longer by now than what is sent here.
                before = choice.num_sent_tokens
                answer = request.token_ids[: before + len(token_ids)]
                thought = max(0, thinking.count(answer) - before)
                choice.has_thought = not thinking.is_open(answer)
            choice.num_sent_tokens += len(token_ids)
            tensors.append(_count_tensor("num_reasoning_tokens", thought))
        if "return_token_ids" in flags:
            tensors.append(pb_utils.Tensor("token_ids", np.array(token_ids, np.int32)))
        return tensors

    def _readable(self, token: TokenLogprobs) -> dict[int, dict[str, Any]]:
        table = self._engine.table
        return {
            token_id: {
                "logprob": value,
                "rank": rank,
                "decoded_token": table.text(token_id),
                "bytes": list(table.token_bytes(token_id, skip_special_tokens=False)),
            }
            for token_id, (value, rank) in token.entries.items()
        }

    def _poll_cancellations(self) -> None:
        if not self._to_poll:
            self._to_poll.extend(self._jobs)
        for _ in range(max(_LEAST_POLLS, len(self._jobs) // _POLL_TURNS)):
            if not self._to_poll:
                return
            job = self._to_poll.pop()
            if job in self._jobs and not job.cancelled and _is_cancelled(job.sender):
                self._cancel(job)

    def _cancel(self, job: Job) -> None:
        """Give a job up for its client; any thread may."""
        job.cancelled = True
        if job.choices:
            self._abort(job)  # the engine answers
        else:
            self._outbox.put(_Failed(job, RequestCancelled()))

    def _abort(self, job: Job) -> None:
        for choice in job.choices:
            self._engine.abort(choice.request)

    def _close(self, job: Job, error: GenerationError) -> None:
        """End a job by an error; what the engine says of it later is dropped."""
        if job in self._jobs:
            _send_error(job.sender, error, details=job.error_details)
            self._abort(job)
            self._retire(job, error.finish_reason, error)

    def _retire(self, job: Job, finish_reason: str, error: Exception | None = None) -> None:
        self._jobs.discard(job)
        job.prompt_inputs = {}  # one that was cancelled early may wait for a BLS thread yet
        if job.cancel_key is not None:
            self._by_cancel_key.pop(job.cancel_key, None)
        self._admitted.pop(job, None)
        self._metrics.count_finished(finish_reason)
        self._tell(job, finish_reason, error)
        # They and the job know each other: without this prompts lay in memory until the garbage
        # collector looks at everything, which it does seldom and for a tenth of a second.
        for choice in job.choices:
            choice.request.context = None
        job.choices = []

    def _tell(self, job: Job, finish_reason: str, error: Exception | None) -> None:
        """Log and trace a job that has ended."""
        ended = time.monotonic()
        fields = {
            "request_id": job.request_id,
            "finish_reason": finish_reason,
            "output_tokens": sum(len(choice.request.token_ids) for choice in job.choices),
            "duration_ms": round(1000 * (ended - job.received), 1),
        }
        if job.trace_context:
            fields["trace_id"] = job.trace_context.split("-")[1]
        logger.debug(" ".join(["ended", *(f"{name}=%({name})s" for name in fields)]), fields)
        if self._tracer is not None and job.trace_context:
            try:
                self._tracer.send(
                    job.trace_context,
                    job.request_id,
                    (job.received, job.taken, ended),
                    [choice.request for choice in job.choices],
                    finish_reason if error is None else error,
                )
            except Exception:  # a trace less is no reason to end the thread that answers
                logger.exception("request %(request_id)s could not be traced", fields)

    # ---- metrics thread ----

    def _publish_metrics(self) -> None:
        trimmed = time.monotonic()
        while not self._stopped.wait(_METRICS_SECONDS):
            if time.monotonic() - trimmed >= _TRIM_SECONDS:
                trim_heap()
                trimmed = time.monotonic()
            try:
                self._metrics.publish(
                    self._engine.stats, len(self._jobs), self._preprocessing_seconds
                )
            except Exception:  # numbers that come later are no reason to have none
                logger.exception("metrics could not be published")


def _configure_logging(config: EngineConfig) -> None:
    handler = logging.StreamHandler()
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("generation", "glm_engine"):  # libraries have too much to say when debugged
        logging.getLogger(name).setLevel(config.log_level.upper())


def _create_tracer() -> "RequestTracer | None":
    if not otel.is_on():
        return None
    from glm_engine.tracing import RequestTracer

    return RequestTracer()


# Upper bounds in seconds: of whole requests and their parts, and of what happens once a token.
_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_TOKEN_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5]

# Name of the metric without glm_, what it is, and where EngineStats has it.
_GAUGES = {
    "requests_running": ("Requests that the engine runs", "running"),
    "image_cache_bytes": ("Embeddings of pictures that are kept", "image_cache_bytes"),
    "kv_cache_blocks": ("Blocks of the KV cache", "kv_blocks"),
    "kv_cache_blocks_used": ("Blocks of the KV cache that requests hold", "kv_blocks_used"),
}
_COUNTERS = {
    "engine_steps": ("Passes over the running requests", "steps"),
    "prompt_tokens": ("Prompt tokens, image tokens included", "prompt_tokens"),
    "cached_prompt_tokens": ("Prompt tokens found in the KV cache", "cached_tokens"),
    "image_tokens": ("Prompt tokens that stand for pictures and videos", "image_tokens"),
    "generation_tokens": ("Tokens generated", "generation_tokens"),
    "preemptions": ("Times that a request lost its blocks to another", "preemptions"),
    "image_cache_hits": (
        "Pictures and pairs of video frames whose embeddings were known",
        "image_cache_hits",
    ),
    "images_encoded": ("Pictures and pairs of video frames that were encoded", "images_encoded"),
}
_HISTOGRAMS = {
    "preprocessing_seconds": ("From stage 2 to stage 1 and back", _SECONDS),
    "queue_seconds": ("From the engine's queue to the first part of the prompt", _SECONDS),
    "vision_seconds": ("Vision encoder, per step that had images", _SECONDS),
    "prefill_seconds": ("From the first part of the prompt to the first token", _SECONDS),
    "decode_seconds": ("From the first token to the last", _SECONDS),
    "time_to_first_token_seconds": ("From stage 2's door to the first token", _SECONDS),
    "time_per_output_token_seconds": ("Per request, after the first token", _TOKEN_SECONDS),
    "request_seconds": ("From stage 2's door to the last token", _SECONDS),
    "cancellation_steps": (
        "Engine steps begun between a cancellation and the release of the request's memory",
        [0, 1, 2, 4, 8, 16],
    ),
}


class _Metrics:
    """Triton's custom metrics. Each call is a round trip to the server: off the hot path only."""

    def __init__(self) -> None:
        self._finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._families: list[Any] = []
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._requests = self._family("requests_total", "Requests answered", counter)
        self._by_reason = {
            reason: self._requests.Metric(labels={"finish_reason": reason})
            for reason in ("stop", "length", "cancelled", "error", "rejected")
        }
        self._gauges = {
            attribute: self._family(name, description, gauge).Metric(labels={})
            for name, (description, attribute) in _GAUGES.items()
        }
        self._waiting = self._family(
            "requests_waiting", "Requests before their prefill", gauge
        ).Metric(labels={})
        # Counters that were 0 tell nothing of a new start.
        self._started = self._family(
            "start_time_seconds", "Unix time of stage 2's start", gauge
        ).Metric(labels={})
        self._started.set(time.time())
        self._counters = {
            attribute: self._family(f"{name}_total", description, counter).Metric(labels={})
            for name, (description, attribute) in _COUNTERS.items()
        }
        self._histograms = {
            name: self._family(name, description, pb_utils.MetricFamily.HISTOGRAM).Metric(
                labels={}, buckets=buckets
            )
            for name, (description, buckets) in _HISTOGRAMS.items()
        }

    def _family(self, name: str, description: str, kind: Any) -> Any:
        family = pb_utils.MetricFamily(name=f"glm_{name}", description=description, kind=kind)
        self._families.append(family)  # a family has to live as long as its metrics
        return family

    def count_finished(self, finish_reason: str) -> None:
        """Note one answered request; published later."""
        self._finished.put(finish_reason)

    def publish(self, stats: EngineStats, live: int, preprocessing: deque[float]) -> None:
        """Bring Triton's metrics up to the engine's counts."""
        # First, so that a request that counts as finished is not seen running any more.
        finished = [self._finished.get() for _ in range(self._finished.qsize())]
        for attribute, metric in self._counters.items():
            missing = getattr(stats, attribute) - metric.value()
            if missing:
                metric.increment(missing)
        for attribute, metric in self._gauges.items():
            metric.set(getattr(stats, attribute))
        self._waiting.set(max(0, live - stats.running))
        self._observe("preprocessing_seconds", preprocessing)
        self._observe("vision_seconds", stats.vision_seconds)
        self._observe("cancellation_steps", stats.cancellation_steps)
        for times in _taken(stats.times):
            self._histograms["queue_seconds"].observe(times.queue)
            self._histograms["prefill_seconds"].observe(times.prefill)
            self._histograms["decode_seconds"].observe(times.decode)
            self._histograms["time_to_first_token_seconds"].observe(times.ttft)
            self._histograms["request_seconds"].observe(times.end_to_end)
            if times.tpot is not None:
                self._histograms["time_per_output_token_seconds"].observe(times.tpot)
        for reason in finished:
            self._by_reason[reason].increment(1)

    def _observe(self, name: str, values: deque[Any]) -> None:
        for value in _taken(values):
            self._histograms[name].observe(value)


def _taken(values: deque[Any]) -> Iterator[Any]:
    """What is there now, taken out."""
    for _ in range(len(values)):
        yield values.popleft()


def _choices(job: Job, prompt: Prompt, guides: Sequence[Guide | None]) -> list[Choice]:
    """A request of the engine for each answer; the first computes the prompt for all."""
    choices: list[Choice] = []
    for index, guide in enumerate(guides):
        params, seed = job.params, job.params.seed
        if index and seed is not None:
            params = replace(params, seed=seed + index)  # or all answers would be the same
        request = Request(job.request_id, prompt, params, guide=guide, tenant=job.tenant)
        request.leader = choices[0].request if choices else None
        request.timeline.received = job.received
        request.context = Choice(job, index, request)
        choices.append(request.context)
    return choices


def _content_hash(image: bytes, max_pixels: int) -> bytes:
    """The name of an image, as preprocessing gives it."""
    name = blake2b(image, digest_size=_HASH_BYTES)
    if max_pixels:
        name.update(b"%d" % max_pixels)
    return name.digest()


def _tools(prompt_inputs: Mapping[str, np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """The tools that stage 1 has found to be in order."""
    given = prompt_inputs.get("tools")
    return json.loads(given.ravel()[0]) or [] if given is not None and given.size else []


def _prefix(triton_request: Any, stream: bool) -> str:
    """vllm_backend's rule: without a stream the input comes first, if the client says no other."""
    text = _text(triton_request, "text_input")
    exclude = _flag(triton_request, "exclude_input_in_output", default=stream or text is None)
    if exclude:
        return ""
    if stream or text is None:
        raise InvalidRequest(
            "exclude_input_in_output",
            "false needs text_input, and does not go together with stream",
        )
    return text


def _value(triton_request: Any, name: str) -> Any:
    tensor = pb_utils.get_input_tensor_by_name(triton_request, name)
    if tensor is None or not tensor.as_numpy().size:
        return None
    return tensor.as_numpy().ravel()[0]


def _flag(triton_request: Any, name: str, *, default: bool) -> bool:
    value = _value(triton_request, name)
    return default if value is None else bool(value)


def _trace_context(triton_request: Any) -> str:
    """W3C traceparent; empty where there is none."""
    given = _text(triton_request, "trace_context") or ""
    if given and not _TRACEPARENT.fullmatch(given):
        raise InvalidRequest(
            "trace_context", "is not a W3C traceparent such as 00-<32 hex>-<16 hex>-01"
        )
    return given


def _text(triton_request: Any, name: str) -> str | None:
    value = _value(triton_request, name)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(name, "is not valid UTF-8") from None


def _wants_error_details(triton_request: Any) -> bool:
    return bool(json.loads(triton_request.parameters() or "{}").get(_ERROR_DETAILS))


def _from_bls_error(text: str) -> GenerationError:
    """An error of ``preprocessing`` by its details, or of Triton by its sentence: BLS (Triton
    24.10) makes every code INTERNAL."""
    try:
        details = json.loads(text)
    except ValueError:
        if _NO_SHARED_MEMORY.search(text):
            return OutOfMemory()
        return EngineUnavailable(f"preprocessing is not available: {text}", stage="preprocessing")
    if details["status"] == InvalidRequest.status:
        return InvalidRequest(details["param"], details["message"], code=details["code"])
    return EngineFailure(details["message"])


def _send_error(sender: Any, error: GenerationError, *, details: bool) -> None:
    """The last response of a request, whatever it takes."""
    final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
    try:
        code = getattr(pb_utils.TritonError, error.status)
        told = pb_utils.TritonError(wire_text(error, details=details), code)
        sender.send(pb_utils.InferenceResponse(error=told), flags=final)
    except Exception:  # as when shared memory is full
        logger.exception("an error could not be sent")
        with contextlib.suppress(Exception):
            sender.send(flags=final)


def _is_cancelled(sender: Any) -> bool:
    try:
        return bool(sender.is_cancelled())
    except Exception:  # of this request only: the thread polls all the others
        logger.exception("a request could not be asked whether it is cancelled")
        return False


def _string_tensor(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode()], object))


def _count_tensor(name: str, count: int) -> Any:
    return pb_utils.Tensor(name, np.array([count], np.uint32))
