"""Turns outputs of the engine into responses to clients. Independent of Triton.

A single thread sends all responses, so no job is answered twice, and polls every live job for
cancellation, whatever its state. It competes with the engine's thread for the GIL, so it wakes up
at once only for the first and the last text of an answer, and otherwise every few milliseconds.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from glm_engine.engine import Engine
from glm_engine.errors import EngineFailure, GenerationError, RequestCancelled
from glm_engine.heartbeat import Heartbeat
from glm_engine.request import Output, Request, TokenLogprobs
from glm_format.events import CallDelta, CallStart, Event, TextDelta, ThoughtDelta, merged
from glm_triton.admission import Pace
from glm_triton.jobs import Choice, Job, Response

# Checking whether a client is gone is a call to the server; with many requests, each is checked in
# every fifth poll only.
_CANCELLATION_POLL_SECONDS = 0.02
_LEAST_POLLS, _POLL_TURNS = 16, 5
# The minimum interval between responses of a stream grows with the number of streams: a response
# costs about 0.2 ms, and 50 ms appear instantaneous. The first and the last responses are sent at
# once.
_RESPONSE_SECONDS = 0.005
_RESPONSE_SECONDS_A_STREAM = 0.001
_MAX_RESPONSE_SECONDS = 0.05
# While requests are waiting for free blocks, streams get half as many responses, which leaves more
# time for the engine.
_QUEUE_FACTOR = 2

OnEnd = Callable[[Job, str, GenerationError | None], None]

logger = logging.getLogger("generation")


@dataclass(frozen=True)
class _Failed:
    """A job that failed before it reached the engine."""

    job: Job
    error: GenerationError


# An item for the thread: a new job, the outputs of a step, a failed job, or None to stop.
_Item = Job | Sequence[Output] | _Failed | None


class _Outbox:
    """A queue of items for the thread, which is woken for urgent ones only."""

    def __init__(self) -> None:
        self._items: deque[_Item] = deque()
        self._wake = threading.Event()

    def put(self, item: _Item, *, urgent: bool = True) -> None:
        """Add an item; thread-safe."""
        self._items.append(item)
        if urgent:
            self._wake.set()

    def take(self, timeout: float | None) -> list[_Item]:
        """Return all items, as soon as there is an urgent one or after ``timeout`` seconds."""
        self._wake.wait(timeout)
        self._wake.clear()
        return [self._items.popleft() for _ in range(len(self._items))]


class Responder:
    """Answers every job exactly once.

    Args:
        pace: notified when a job leaves the queue, and of its run time.
        on_end: called for each answered job with its finish reason and its error, if any.
        heartbeat: updated while there is something to send.
        worker: number of this thread in ``heartbeat``.
    """

    def __init__(
        self, engine: Engine, pace: Pace, on_end: OnEnd, heartbeat: Heartbeat, worker: int
    ) -> None:
        self._engine = engine
        self._pace = pace
        self._on_end = on_end
        self._heartbeat, self._worker = heartbeat, worker
        self._outbox = _Outbox()
        self._jobs: set[Job] = set()
        self._to_poll: list[Job] = []

    @property
    def num_jobs(self) -> int:
        """Number of jobs that are not answered yet."""
        return len(self._jobs)

    # ---- any thread ----

    def open(self, job: Job) -> None:
        """Register a job, before its first output."""
        self._outbox.put(job)

    def take_outputs(self, outputs: Sequence[Output]) -> None:
        """Accept the outputs of one step; called on the engine's thread."""
        urgent = any(
            output.is_final or ((choice := output.request.context) is not None and choice.is_new)
            for output in outputs
        )
        self._outbox.put(outputs, urgent=urgent)

    def fail(self, job: Job, error: GenerationError) -> None:
        """Fail a job that did not reach the engine."""
        self._outbox.put(_Failed(job, error))

    def cancel(self, job: Job) -> None:
        """Cancel a job on behalf of its client."""
        job.cancelled = True
        if job.choices:
            self._abort(job)  # the engine answers
        else:
            self.fail(job, RequestCancelled())

    def stop(self) -> None:
        """Make ``run`` return once all pending items have been sent."""
        self._outbox.put(None)

    # ---- its thread ----

    def run(self) -> None:
        """Send responses until ``stop``."""
        waiting: dict[Choice, None] = {}  # choices with unsent outputs
        polled = time.monotonic()
        while True:
            self._heartbeat.rest(self._worker)
            items = self._outbox.take(_RESPONSE_SECONDS if self._jobs else None)
            self._heartbeat.beat(self._worker)
            waiting.update(dict.fromkeys(self._sort_in(items)))
            now = time.monotonic()
            pause = self._pause()
            for choice in [c for c in waiting if c.is_urgent or now - c.sent >= pause]:
                del waiting[choice]
                self._send_guarded(choice)
            if now - polled >= _CANCELLATION_POLL_SECONDS:
                self._poll_cancellations()
                polled = now
            if None in items:
                return

    def _pause(self) -> float:
        """Minimum interval between two responses of a stream, in seconds."""
        pause = _RESPONSE_SECONDS_A_STREAM * len(self._jobs)
        pause = min(max(_RESPONSE_SECONDS, pause), _MAX_RESPONSE_SECONDS)
        return pause * _QUEUE_FACTOR if self._engine.stats.waiting else pause

    def _sort_in(self, items: list[_Item]) -> list[Choice]:
        """Assign the items to their jobs; returns the choices that can be sent, in order."""
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
                        if choice is None:
                            continue
                        if choice.job not in self._jobs:  # it ended before its prompt was ready
                            if output.is_final:
                                choice.job.forget()
                            continue
                        self._note_pace(choice.job, output)
                        choice.unsent.append(output)
                        # Tokens without text are sent with the next text.
                        has_text = bool(output.text or output.events)
                        if output.is_final or (choice.job.stream and has_text):
                            ready[choice] = None
        return list(ready)

    def _note_pace(self, job: Job, output: Output) -> None:
        if not job.has_begun:
            job.has_begun = True
            self._pace.note(time.monotonic())
        if output.is_final and output.error is None:
            times = output.request.timeline
            self._pace.note_run(times.finished - times.scheduled)

    def _send_guarded(self, choice: Choice) -> None:
        if choice.job not in self._jobs:
            return  # has been answered with an error meanwhile
        try:
            self._send(choice)
        except Exception:  # affects this job only; the thread serves all others
            logger.exception(
                "sending the answer failed request_id=%(request_id)s",
                {"request_id": choice.job.request_id},
            )
            self._close(choice.job, EngineFailure("the answer could not be sent"))

    def _send(self, choice: Choice) -> None:
        job = choice.job
        outputs, choice.unsent = choice.unsent, []
        last = outputs[-1]
        if last.error is not None:
            self._close(job, last.error)
            return
        if choice.request.scoring is not None:
            self._send_scores(job)
            return
        response = self._response(choice, outputs)
        if not (response.text or response.events) and not last.is_final:
            choice.unsent = (
                outputs  # no text yet; keep its tokens and logprobs for the next response
            )
            return
        is_last = job.num_open == 1 and last.is_final
        job.client.send(response, is_last=is_last)
        choice.num_thought_tokens = last.num_thought_tokens
        job.num_open -= last.is_final
        choice.sent = time.monotonic()
        choice.num_sent += 1
        if is_last:
            self._retire(job, str(last.finish_reason))

    def _send_scores(self, job: Job) -> None:
        """Note that a question is answered; after the last one, send all answers at once."""
        job.num_open -= 1
        if job.num_open:
            return
        requests = [choice.request for choice in job.choices]
        scorings = [request.scoring for request in requests if request.scoring is not None]
        values: dict[str, Any] = {}
        if "return_finish_reason" in job.flags:
            values["finish_reason"] = "stop"
        if "return_num_input_tokens" in job.flags:
            values["num_cached_tokens"] = sum(request.num_cached for request in requests)
            values["num_input_tokens"] = sum(
                scoring.num_prompt_tokens + scoring.num_tokens for scoring in scorings
            )
            values["num_image_tokens"] = sum(r.prompt.num_image_tokens for r in requests)
        if "return_num_output_tokens" in job.flags:
            values["num_output_tokens"] = values["num_reasoning_tokens"] = 0
        logprobs = list(chain.from_iterable(scoring.sums() for scoring in scorings))
        job.client.send(Response("", option_logprobs=logprobs, **values), is_last=True)
        self._retire(job, "stop")

    def _response(self, choice: Choice, outputs: list[Output]) -> Response:
        last, flags, request = outputs[-1], choice.job.flags, choice.request
        token_ids = [token_id for output in outputs for token_id in output.token_ids]
        values: dict[str, Any] = {}
        text: str | None = None
        with_logprobs = "return_logprobs" in flags
        if request.wants_events:
            found = chain.from_iterable(output.events for output in outputs)
            events = merged(found, is_whole=not choice.job.stream)
            values["events"] = [self._encoded(event, with_logprobs) for event in events]
        else:
            text = "".join(output.text for output in outputs)
            if text or last.is_final:
                text = text if choice.num_sent else choice.job.prefix + text
            if with_logprobs:
                values["logprobs"] = [
                    self._readable(token) for output in outputs for token in output.logprobs
                ]
        if len(choice.job.choices) > 1 or "index" in flags:
            values["index"] = choice.index
        if "return_finish_reason" in flags:
            values["finish_reason"] = last.finish_reason or ""
            values["stop_reason"] = last.stop_reason
        if "return_cumulative_logprob" in flags:
            values["cumulative_logprob"] = last.cumulative_logprob
        if "return_num_input_tokens" in flags:
            values["num_cached_tokens"] = request.num_cached
            values["num_input_tokens"] = request.prompt.num_tokens
            values["num_image_tokens"] = request.prompt.num_image_tokens
        if "return_num_output_tokens" in flags:
            values["num_output_tokens"] = len(token_ids)
            values["num_reasoning_tokens"] = last.num_thought_tokens - choice.num_thought_tokens
        if "return_image_sizes" in flags and not choice.num_sent:
            values["image_sizes"] = choice.job.image_sizes
        if "return_limits" in flags and not choice.num_sent:
            values["limits"] = self._engine.limits
        is_sent = bool(text or values.get("events") or last.is_final)
        if request.scores_prompt and not choice.num_sent and is_sent:
            values["prompt_logprobs"] = self._prompt_logprobs(request)
        if "return_token_ids" in flags:
            values["token_ids"] = token_ids
        return Response(text, **values)

    def _encoded(self, event: Event, with_logprobs: bool) -> dict[str, Any]:
        """The JSON form of an event."""
        match event:
            case CallStart(index, name):
                return {"call": index, "name": name}
            case CallDelta(index, arguments):
                return {"call": index, "arguments": arguments}
            case ThoughtDelta(text, notes) | TextDelta(text, notes):
                key = "thought" if isinstance(event, ThoughtDelta) else "text"
                if not with_logprobs:
                    return {key: text}
                return {key: text, "logprobs": [self._readable(note) for note in notes]}
        raise AssertionError(event)

    def _prompt_logprobs(self, request: Request) -> list[dict[int, dict[str, Any]]]:
        first = int(request.prompt.input_ids[0])
        unknown = TokenLogprobs(first, {first: (math.nan, 0)})  # nothing comes before it
        found = [unknown, *(note for _, note in sorted(request.prompt_logprobs.items()))]
        readable = [self._readable(note) for note in found]
        readable[0][first]["logprob"] = None
        return readable

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
            if job in self._jobs and not job.cancelled and job.client.is_cancelled():
                self.cancel(job)

    def _abort(self, job: Job) -> None:
        for choice in job.choices:
            self._engine.abort(choice.request)

    def _close(self, job: Job, error: GenerationError) -> None:
        """End a job with an error; later outputs of the engine are dropped."""
        if job not in self._jobs:  # it ended before its prompt was ready
            job.forget()
            return
        job.client.fail(error)
        self._abort(job)
        self._retire(job, error.finish_reason, error)

    def _retire(self, job: Job, finish_reason: str, error: GenerationError | None = None) -> None:
        self._jobs.discard(job)
        self._on_end(job, finish_reason, error)
        job.forget()
