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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from launcher.processes import is_alive

LOOK_SECONDS = 0.2
PROBE_SECONDS = 2.0


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

    def __init__(self, folder: Path, limits: Mapping[str, float]) -> None:
        self._folder = folder
        self._limits = limits

    async def fault(self) -> Fault:
        """Returns when there is one."""
        while True:
            if fault := self.look():
                return fault
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> Fault | None:
        """The first fault found. Its process is dead afterwards, and is not looked at again."""
        for path in sorted(self._folder.iterdir()):
            model, _, pid = path.name.rpartition("-")
            reason = self._reason(path, model, int(pid))
            if reason is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
                path.unlink(missing_ok=True)
                return Fault(model, reason)
        return None

    def forget(self, model: str = "*") -> None:
        """Forget the processes of a model, or all; they are gone, or about to go."""
        for path in self._folder.glob(f"{model}-*"):
            path.unlink(missing_ok=True)

    def _reason(self, path: Path, model: str, pid: int) -> str | None:
        if not is_alive(pid):
            # One that ends in order takes its file with it.
            return "its process has ended" if path.exists() else None
        try:
            (beat,) = struct.unpack("d", path.read_bytes())
        except (OSError, struct.error):  # just made, or just removed
            return None
        if beat < 0:
            return "its process cannot go on"
        stuck = time.monotonic() - beat
        if beat and stuck > self._limits.get(model, float("inf")):
            return f"its process has not moved for {stuck:.0f} s"
        return None


async def unresponsive(part: str, url: str, limit: float) -> Fault:
    """Returns when `url` of a part has not answered for `limit` seconds, whatever it answers."""
    answered = time.monotonic()
    async with httpx2.AsyncClient(trust_env=False) as client:
        while (left := answered + limit - time.monotonic()) > 0:
            with contextlib.suppress(httpx2.TransportError):
                await client.get(url, timeout=left)
                answered = time.monotonic()
            await asyncio.sleep(min(PROBE_SECONDS, limit / 4))
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
