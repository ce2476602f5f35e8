"""Whether one more request may wait. Free of Triton."""

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from glm_engine.config import EngineConfig
from glm_engine.engine import EngineStats
from glm_engine.errors import InvalidRequest, QueueFull
from glm_triton.jobs import Job, Waiting

# Of a queue's rate: long enough for what leaves in bursts, short enough to follow the load.
_PACE_SECONDS = 10.0
_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What the requests before their prefill may come to.

    Attributes:
        max_bytes: of their images and videos as they were sent.
        max_image_tokens: tokens that stand for their images; an image token is up to 2,352 bytes of
            pixels in memory (four patches).
    """

    max_bytes: int
    max_image_tokens: int


class Pace:
    """How fast requests leave a queue: over the last seconds, since nobody had to wait.

    While nobody has to wait the rate is that of the arrivals and tells nothing, so it begins anew
    with every queue. At first hardly any request has left; so those that run count as if they did,
    within the time that requests usually run. Of what ran lately that is the mean over time, not
    over requests: a thousand test requests of a moment each say nothing about the others.

    One thread calls ``begin`` and ``rate``, one ``note`` and ``note_run``.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._left: deque[float] = deque()
        self._runs: deque[float] = deque(maxlen=_REMEMBERED)
        self._usual_run: float | None = None

    def begin(self, now: float) -> None:
        """Nobody has to wait."""
        self._began = now
        self._left.clear()

    def note(self, now: float) -> None:
        """One request has left the queue: its first token is there."""
        self._left.append(now)

    def note_run(self, seconds: float) -> None:
        """A request was answered, so long after it had left the queue."""
        self._runs.append(seconds)
        if total := sum(self._runs):
            self._usual_run = sum(run * run for run in self._runs) / total

    def rate(self, now: float, running: int) -> float | None:
        """Requests per second; None where nothing tells it.

        Args:
            running: requests now.
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
    places: int = 0,
) -> None:
    """Let one more request wait, or not, by how long it would.

    A tenant's own requests decide: tenants are served in turn. Where the rate is known the wait is
    estimated. That the oldest has waited too long would be certain, but comes too late where far
    more arrive than leave: by then the queue is many times as long as it should be, and no one is
    let in until it is empty.

    Args:
        rate: requests per second that leave the queue; None where that is not known.
        places: for so many of those that wait the engine has room at once.

    Raises:
        QueueFull: with when to try again.
    """
    counts = Counter(other.tenant for other in waiting)
    own = counts.pop(newcomer.tenant, 0)
    if not own:
        return
    if rate is None:
        oldest = now - min(other.since for other in waiting if other.tenant == newcomer.tenant)
        if oldest > max_seconds:
            raise queue_full(f"requests have been waiting for {oldest:.0f} s", oldest)
        return
    before = own + sum(min(count, own + 1) for count in counts.values())
    wait = (before - places) / rate
    if wait > max_seconds:
        raise queue_full(f"the request would wait for {wait:.0f} s", wait)


def check_room(newcomer: Waiting, waiting: Sequence[Waiting], limits: QueueLimits) -> None:
    """Let one more request wait, or not, by what it takes. Alone it always may, however large.

    Raises:
        QueueFull: with when to try again.
    """
    if not waiting:
        return
    reason = None
    if newcomer.num_bytes + sum(other.num_bytes for other in waiting) > limits.max_bytes:
        reason = f"more than {limits.max_bytes} bytes of images would wait"
    elif (
        newcomer.image_tokens + sum(other.image_tokens for other in waiting)
        > limits.max_image_tokens
    ):
        reason = f"more than {limits.max_image_tokens} image tokens would wait"
    if reason is not None:
        raise queue_full(reason)


def queue_full(reason: str, wait: float = 0.0) -> QueueFull:
    """The error for a request that may not wait; half of the wait is a good time to come back."""
    return QueueFull(reason, min(60, max(1, math.ceil(wait / 2))))


class Admission:
    """The jobs of this process, from their arrival to their last response.

    ``admit`` is for one thread; the others may be called by any.

    Attributes:
        pace: of the jobs that leave the queue.
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
        """Let a job wait.

        Args:
            is_idle: whether no job waits for stage 1.

        Raises:
            InvalidRequest: its ``cancel_key`` is in use.
            QueueFull: with when to try again.
        """
        if job.cancel_key in self._by_cancel_key:
            raise InvalidRequest("cancel_key", "is that of another request")
        if len(self._jobs) >= self._max_jobs:
            raise queue_full(f"{self._max_jobs} requests run or wait already")
        newcomer = Waiting(job.tenant, job.received, job.num_bytes)
        waiting, now, stats = self._waiting_beside(job), time.monotonic(), self._stats
        places = 0 if stats.waiting else self._max_num_seqs - stats.running
        if not stats.waiting and is_idle:  # all are only on their way
            self.pace.begin(now)
        rate = self.pace.rate(now, self._max_num_seqs if places else stats.running)
        check_wait(newcomer, waiting, self._max_seconds, rate, now, places)
        check_room(newcomer, waiting, self._limits)
        self._jobs[job] = None
        if job.cancel_key is not None:
            self._by_cancel_key[job.cancel_key] = job

    def check_prompt(self, job: Job) -> None:
        """Let an admitted job go on, now that its image tokens are known.

        Raises:
            QueueFull: with when to try again.
        """
        newcomer = job.waiting
        if job.image_tokens and newcomer is not None:
            check_room(newcomer, self._waiting_beside(job), self._limits)

    def by_cancel_key(self, cancel_key: bytes) -> Job | None:
        """The job that its client can cancel by this key."""
        return self._by_cancel_key.get(cancel_key)

    def release(self, job: Job) -> None:
        """A job has got its last response."""
        if job.cancel_key is not None:
            self._by_cancel_key.pop(job.cancel_key, None)
        self._jobs.pop(job, None)

    def _waiting_beside(self, job: Job) -> list[Waiting]:
        others = [other.waiting for other in list(self._jobs) if other is not job]
        return [other for other in others if other is not None]
