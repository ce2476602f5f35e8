"""What the processes of a server take, from /proc: memory, threads, files, shared memory."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tools.stack import Stack

MIB = 2**20
_STUB_OF = re.compile(r"/(\w+)/1/model\.py")


@dataclass(frozen=True)
class Usage:
    """What one process takes; memory in bytes.

    Attributes:
        rss: all that is resident, mapped files and shared memory included.
        anonymous: its heap, stacks and tensors: what a leak makes grow.
    """

    rss: int
    anonymous: int
    threads: int
    files: int


@dataclass(frozen=True)
class Sample:
    """What all processes take at one moment.

    Attributes:
        seconds: since the start of the measurement.
        usages: by the name of the process.
        shared: bytes that Triton's regions take in /dev/shm.
        gone: names of processes that have ended.
    """

    seconds: float
    usages: dict[str, Usage]
    shared: int
    gone: tuple[str, ...]


class Processes:
    """The processes that a server has now, by name; those started later are not looked at."""

    def __init__(self, stack: Stack) -> None:
        self._regions = stack.regions()
        self._pids: dict[str, int] = {}
        for pid in sorted(stack.pids()):
            name = _name(Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0"))
            number = sum(known.partition(" ")[0] == name for known in self._pids)
            self._pids[f"{name} {number + 1}" if number else name] = pid

    def sample(self, seconds: float) -> Sample:
        """What they take now."""
        usages: dict[str, Usage] = {}
        gone = []
        for name, pid in self._pids.items():
            try:
                usages[name] = _usage(Path(f"/proc/{pid}"))
            except (OSError, KeyError):  # it has ended, or is about to
                gone.append(name)
        shared = 0
        for region in self._regions:
            with suppress(FileNotFoundError):
                shared += 512 * region.stat().st_blocks
        return Sample(seconds, usages, shared, tuple(gone))


def peaks(samples: Sequence[Sample]) -> dict[str, int]:
    """The most that each process had resident, in bytes."""
    most: dict[str, int] = {}
    for sample in samples:
        for name, usage in sample.usages.items():
            most[name] = max(most.get(name, 0), usage.rss)
    return most


def _name(command: Sequence[str]) -> str:
    line = " ".join(command)
    if stub := _STUB_OF.search(line):
        return stub[1]
    known = ("tritonserver", "glm_frontend", "glm_web", "launcher")
    return next((name for name in known if f"/{name} " in line or f"-m {name}" in line), command[0])


def _usage(process: Path) -> Usage:
    fields = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )

    def memory(name: str) -> int:
        return 1024 * int(fields[name].split()[0])  # a process that ends has no such lines

    return Usage(
        rss=memory("VmRSS"),
        anonymous=memory("RssAnon"),
        threads=int(fields["Threads"]),
        files=sum(1 for _ in (process / "fd").iterdir()),
    )
