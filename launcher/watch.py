"""Which of Triton's Python processes is dead or stuck, by the heartbeats that they write.

Triton 24.10 neither starts a dead process again nor says that it is gone: requests to it fail one
by one, and streams of it hang for ever. See ``heartbeat.py`` in each model for what is written.
"""

import asyncio
import contextlib
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from launcher.processes import is_alive

LOOK_SECONDS = 0.2
# Between two looks, as far as it counts.
MOST_SECONDS = 1.0
PROBE_SECONDS = 2.0
PROBES = 4


@dataclass(frozen=True)
class Fault:
    """What is wrong.

    Attributes:
        part: `triton`, `frontend`, or the name of a model.
        reason: in words that go after the part's name.
    """

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"


class StageWatch:
    """Looks at the files ``<model>-<pid>`` of a folder.

    Args:
        limits: seconds that a model's process may be at the same piece of work; models that are
            not in it have no limit.
    """

    def __init__(
        self,
        folder: Path,
        limits: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._looked = clock()
        # Of each worker: its beat, and how long it has been looked at without another.
        self._seen: dict[tuple[Path, int], tuple[float, float]] = {}
        self._retired: set[Path] = set()

    async def fault(self) -> Fault:
        """Returns when there is one."""
        while True:
            if fault := self.look():
                return fault
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> Fault | None:
        """The first fault found. Its process is dead afterwards, and is not looked at again."""
        # Where everything stood still, this process too, nobody is to blame for it.
        passed = min(self._clock() - self._looked, MOST_SECONDS)
        self._looked = self._clock()
        paths = sorted(self._folder.iterdir())
        # One that ended in order took its file with it; another process may get its number.
        self._retired.intersection_update(paths)
        self._seen = {worker: seen for worker, seen in self._seen.items() if worker[0] in paths}
        for path in paths:
            model, _, pid = path.name.rpartition("-")
            reason = self._reason(path, model, int(pid), passed)
            if reason is None:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
            path.unlink(missing_ok=True)
            if path not in self._retired:
                return Fault(model, reason)
        return None

    def retire(self, model: str) -> None:
        """The processes of a model are about to go: their end is no fault. One that hangs does
        not go by itself, and is killed as ever."""
        self._retired.update(self._folder.glob(f"{model}-*"))

    def forget(self) -> None:
        """Forget all processes; they are gone."""
        for path in self._folder.iterdir():
            path.unlink(missing_ok=True)

    def _reason(self, path: Path, model: str, pid: int, passed: float) -> str | None:
        if not is_alive(pid):
            # One that ends in order takes its file with it.
            return "its process has ended" if path.exists() else None
        try:
            beats = [beat for (beat,) in struct.iter_unpack("d", path.read_bytes())]
        except (OSError, struct.error):  # just made, or just removed
            return None
        for worker, beat in enumerate(beats):
            if beat < 0:
                return "its process cannot go on"
            last, stuck = self._seen.get((path, worker), (0.0, 0.0))
            stuck = stuck + passed if beat == last else 0.0
            self._seen[path, worker] = beat, stuck
            if beat and stuck > self._limits.get(model, float("inf")):
                return f"its process has not moved for {stuck:.0f} s"
        return None


async def unresponsive(part: str, url: str, limit: float) -> Fault:
    """Returns when `url` of a part has not answered for `limit` seconds, whatever it answers.

    It is asked several times: one attempt may fail because this process stood still.
    """
    seconds = limit / PROBES
    missed = 0
    async with httpx2.AsyncClient(trust_env=False) as client:
        while missed < PROBES:
            began = time.monotonic()
            try:
                await client.get(url, timeout=seconds)
                missed, pause = 0, min(PROBE_SECONDS, seconds)
            except httpx2.TransportError:
                missed += 1
                pause = max(0.0, seconds - (time.monotonic() - began))
            await asyncio.sleep(pause)
    return Fault(part, f"it has not answered for {limit:g} s")


class Backoff:
    """How long to wait before something is started again: not at all at first, then longer each
    time that it did not last."""

    STABLE_SECONDS = 5.0
    FIRST_SECONDS = 0.5
    MOST_SECONDS = 30.0

    def __init__(self) -> None:
        self._failures = 0
        self._started: float | None = None

    def next(self) -> float:
        """Seconds to wait now."""
        if self._started and time.monotonic() - self._started > self.STABLE_SECONDS:
            self._failures = 0
        self._started = None
        delay = self.FIRST_SECONDS * 2 ** (self._failures - 1) if self._failures else 0.0
        self._failures += 1
        return min(delay, self.MOST_SECONDS)

    def started(self) -> None:
        """It runs."""
        self._started = time.monotonic()
