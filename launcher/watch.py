"""Detects dead and stuck Python processes of Triton by their heartbeats.

Triton 24.10 neither restarts nor reports a dead process: its requests fail one by one, and its
streams hang forever. See ``heartbeat.py`` in each model for the file format.
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

POLL_SECONDS = 0.2
# Longest time counted between two polls.
MOST_SECONDS = 1.0
PROBE_SECONDS = 2.0
PROBES = 4


@dataclass(frozen=True)
class Fault:
    """A fault of a part of the server.

    Attributes:
        part: `triton`, `frontend`, or the name of a model.
        reason: human-readable.
    """

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"


class StageWatch:
    """Monitors the heartbeat files ``<model>-<pid>`` of a folder.

    Args:
        limits: for each model the seconds that a process may take for one piece of work; other
            models have no limit.
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
        # For each worker: its last heartbeat, and the observed time without a new one.
        self._seen: dict[tuple[Path, int], tuple[float, float]] = {}
        self._retired: set[Path] = set()

    async def fault(self) -> Fault:
        """Returns the first fault."""
        while True:
            if fault := self.look():
                return fault
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> Fault | None:
        """Poll once; returns the first fault found, and kills its process."""
        # If the whole machine stood still, including this process, no worker is to blame.
        passed = min(self._clock() - self._looked, MOST_SECONDS)
        self._looked = self._clock()
        paths = sorted(self._folder.iterdir())
        # An orderly exit removes the file; another process may get the same pid.
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
        """The processes of a model are about to exit, which is not a fault. Hanging ones are still
        killed."""
        self._retired.update(self._folder.glob(f"{model}-*"))

    def forget(self) -> None:
        """Forget all processes; they are gone."""
        for path in self._folder.iterdir():
            path.unlink(missing_ok=True)

    def _reason(self, path: Path, model: str, pid: int, passed: float) -> str | None:
        if not is_alive(pid):
            # An orderly exit removes the file.
            return "process exited" if path.exists() else None
        try:
            heartbeats = [beat for (beat,) in struct.iter_unpack("d", path.read_bytes())]
        except (OSError, struct.error):  # just created or removed
            return None
        for worker, beat in enumerate(heartbeats):
            if beat < 0:
                return "process reported a failure"
            last, stuck = self._seen.get((path, worker), (0.0, 0.0))
            stuck = stuck + passed if beat == last else 0.0
            self._seen[path, worker] = beat, stuck
            if beat and stuck > self._limits.get(model, float("inf")):
                return f"no progress for {stuck:.0f} s"
        return None


async def unresponsive(part: str, url: str, limit: float) -> Fault:
    """Returns when `url` of a part has not responded for `limit` seconds, with any status.

    Requires several failed attempts, as a single one may fail because this process stood still.
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
    return Fault(part, f"no response for {limit:g} s")


class Backoff:
    """Delay before a restart: none at first, then longer after each start that did not last."""

    STABLE_SECONDS = 5.0
    FIRST_SECONDS = 0.5
    MOST_SECONDS = 30.0

    def __init__(self) -> None:
        self._failures = 0
        self._started: float | None = None

    def next(self) -> float:
        """Seconds to wait before the next start."""
        if self._started and time.monotonic() - self._started > self.STABLE_SECONDS:
            self._failures = 0
        self._started = None
        delay = self.FIRST_SECONDS * 2 ** (self._failures - 1) if self._failures else 0.0
        self._failures += 1
        return min(delay, self.MOST_SECONDS)

    def started(self) -> None:
        """Record a successful start."""
        self._started = time.monotonic()
