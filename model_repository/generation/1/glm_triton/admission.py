"""Admission control: whether one more request may be queued. Independent of Triton."""

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from glm_engine.config import EngineConfig
from glm_engine.engine import EngineStats
from glm_engine.errors import InvalidRequest, QueueFull
from glm_triton.jobs import Job, Waiting

# Window of the rate: long enough to smooth bursts, short enough to follow the load.
_PACE_SECONDS = 10.0
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """Limits for all requests that are waiting for their prefill.

    Attributes:
        max_bytes: total size of their images and videos as sent.
        max_image_tokens: tokens that stand for their images; an image token is up to 2,352 bytes of
            pixels in memory (four patches).
    """

    max_bytes: int
    max_image_tokens: int


class Pace:
    """Measures the rate at which requests leave the queue, over the last few seconds.

    While the queue is empty the rate is that of the arrivals and means nothing, so measurement
    restarts whenever a queue builds up. At that point hardly any request has left, so running
    requests are counted as if they left within the usual run time. The usual run time is weighted
    by time, not by request: a thousand very short test requests say nothing about the others.

    One thread calls ``begin`` and ``rate``, one ``note`` and ``note_run``.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._left: deque[float] = deque()
        self._runs: deque[float] = deque(maxlen=_REMEMBERED)
        self._usual_run: float | None = None

    def begin(self, now: float) -> None:
        """Restart: the queue is empty."""
        self._began = now
        self._left.clear()

    def note(self, now: float) -> None:
        """Record that a request left the queue, i.e. that its first token was generated."""
        self._left.append(now)

    def note_run(self, seconds: float) -> None:
        """Record the time from leaving the queue to the end of a request."""
        self._runs.append(seconds)
        if total := sum(self._runs):
            self._usual_run = sum(run * run for run in self._runs) / total

    def rate(self, now: float, running: int) -> float | None:
        """Requests per second; None if unknown.

        Args:
            running: number of requests that are running now.
        """
        while self._left and self._left[0] < now - _PACE_SECONDS:
            self._left.popleft()
        left, seconds = len(self._left), now - self._began
        if seconds >= _PACE_SECONDS:
            seconds = _PACE_SECONDS
        elif self._usual_run is not None:
            left, seconds = left + running, seconds + self._usual_run
        return left / seconds if left and seconds > 0 else None


def check_wait(
    newcomer: Waiting,
    waiting: Sequence[Waiting],
    max_seconds: float,
    rate: float | None,
    now: float,
    free_slots: int = 0,
) -> None:
    """Reject a request that would wait too long.

    Tenants are served in turn, so the wait depends mainly on the tenant's own requests. It is
    estimated if the rate is known. Checking only how long the oldest request has waited reacts too
    late under heavy overload: by then the queue is many times too long, and nothing is admitted
    until it has drained.

    Args:
        rate: requests per second that leave the queue; None if unknown.
        free_slots: number of waiting requests that the engine can start at once.

    Raises:
        QueueFull: includes when to retry.
    """
    counts = Counter(other.tenant for other in waiting)
    own = counts.pop(newcomer.tenant, 0)
    if not own:
        return
    if rate is None:
        oldest = now - min(other.since for other in waiting if other.tenant == newcomer.tenant)
        if oldest > max_seconds:
            raise queue_full(f"the oldest request has been waiting for {oldest:.0f} s", oldest)
        return
    before = own + sum(min(count, own + 1) for count in counts.values())
    wait = (before - free_slots) / rate
    if wait > max_seconds:
        raise queue_full(f"the estimated wait is {wait:.0f} s", wait)


def check_capacity(newcomer: Waiting, waiting: Sequence[Waiting], limits: QueueLimits) -> None:
    """Reject a request that exceeds the limits of the queue; an empty queue accepts any size.

    Raises:
        QueueFull: includes when to retry.
    """
    if not waiting:
        return
    reason = None
    if newcomer.num_bytes + sum(other.num_bytes for other in waiting) > limits.max_bytes:
        reason = f"more than {limits.max_bytes} bytes of images and videos would be queued"
    elif (
        newcomer.image_tokens + sum(other.image_tokens for other in waiting)
        > limits.max_image_tokens
    ):
        reason = f"more than {limits.max_image_tokens} image tokens would be queued"
    if reason is not None:
        raise queue_full(reason)


def queue_full(reason: str, wait: float = 0.0) -> QueueFull:
    """The error for a rejected request; suggests a retry after half of the wait."""
    return QueueFull(reason, min(60, max(1, math.ceil(wait / 2))))


class Admission:
    """Tracks the jobs of this process from their arrival to their last response.

    ``admit`` must be called from one thread only; the other methods are thread-safe.

    Attributes:
        pace: the rate at which jobs leave the queue.
    """

    def __init__(self, config: EngineConfig, stats: EngineStats) -> None:
        self.pace = Pace()
        self._stats = stats
        self._max_num_seqs = config.max_num_seqs
        self._max_jobs = config.max_num_seqs + config.max_queue
        self._limits = QueueLimits(config.max_queue_bytes, config.max_queue_image_tokens)
        self._max_seconds = config.max_queue_seconds
        self._jobs: dict[Job, None] = {}
        self._by_cancel_key: dict[bytes, Job] = {}

    def admit(self, job: Job, *, is_idle: bool) -> None:
        """Admit a job to the queue.

        Args:
            is_idle: whether no job is waiting for stage 1.

        Raises:
            InvalidRequest: its ``cancel_key`` is in use.
            QueueFull: includes when to retry.
        """
        if job.cancel_key in self._by_cancel_key:
            raise InvalidRequest("cancel_key", "is already in use by another request")
        if len(self._jobs) >= self._max_jobs:
            raise queue_full(f"{self._max_jobs} requests are already running or waiting")
        newcomer = Waiting(job.tenant, job.received, job.num_bytes)
        waiting, now, stats = self._waiting_beside(job), time.monotonic(), self._stats
        free_slots = 0 if stats.waiting else self._max_num_seqs - stats.running
        if not stats.waiting and is_idle:  # none is blocked; all are being prepared
            self.pace.begin(now)
        rate = self.pace.rate(now, self._max_num_seqs if free_slots else stats.running)
        check_wait(newcomer, waiting, self._max_seconds, rate, now, free_slots)
        check_capacity(newcomer, waiting, self._limits)
        self._jobs[job] = None
        if job.cancel_key is not None:
            self._by_cancel_key[job.cancel_key] = job

    def check_prompt(self, job: Job) -> None:
        """Check an admitted job again, once its number of image tokens is known.

        Raises:
            QueueFull: includes when to retry.
        """
        newcomer = job.waiting
        if job.image_tokens and newcomer is not None:
            check_capacity(newcomer, self._waiting_beside(job), self._limits)

    def by_cancel_key(self, cancel_key: bytes) -> Job | None:
        """The job with this cancel key."""
        return self._by_cancel_key.get(cancel_key)

    def release(self, job: Job) -> None:
        """Forget a job after its last response."""
        if job.cancel_key is not None:
            self._by_cancel_key.pop(job.cancel_key, None)
        self._jobs.pop(job, None)

    def _waiting_beside(self, job: Job) -> list[Waiting]:
        others = [other.waiting for other in list(self._jobs) if other is not job]
        return [other for other in others if other is not None]
