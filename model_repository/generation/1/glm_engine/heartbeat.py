"""Heartbeats of this process, in a memory-mapped file that the launcher reads.

A process that hangs while holding the GIL cannot answer over a socket, but another process can
still read the time of its last heartbeat from the file.
"""

import logging
import mmap
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_FAILED = -1.0
_BYTES = 8

logger = logging.getLogger(__name__)


class Heartbeat:
    """Writes ``<folder>/<model>-<pid>``: one float64 in native byte order for each worker.

    A value is the ``time.monotonic()`` timestamp at which the worker began its current piece of
    work; that clock is shared by all processes of a machine. 0: the worker is idle; negative: the
    process has failed. The file is removed when the process exits in an orderly way.

    Args:
        model: name of the Triton model.
        env: without ``GLM_HEARTBEATS`` (the folder) nothing is written.
        workers: number of threads; the process cannot serve without each of them.
    """

    def __init__(
        self, model: str, env: Mapping[str, str] = os.environ, *, workers: int = 1
    ) -> None:
        self._has_failed = False
        folder = env.get("GLM_HEARTBEATS")
        self._path = Path(folder) / f"{model}-{os.getpid()}" if folder else None
        size = _BYTES * workers
        self._memory: mmap.mmap | bytearray = bytearray(size)
        if self._path is None:
            return
        try:
            self._path.write_bytes(bytes(size))
            with self._path.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), size)
        except OSError as error:  # a full disk must not prevent serving
            logger.warning("heartbeat disabled error=%s", error)

    def beat(self, worker: int = 0) -> None:
        """Mark a worker as busy with a new piece of work."""
        self._write(worker, time.monotonic())

    def rest(self, worker: int = 0) -> None:
        """Mark a worker as idle."""
        self._write(worker, 0.0)

    def fail(self) -> None:
        """Mark the process as failed, regardless of its other workers."""
        self._has_failed = True
        self._write(0, _FAILED)

    def end(self) -> None:
        """Remove the file: the process exits in an orderly way."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, worker: int, value: float) -> None:
        if self._has_failed:
            value = _FAILED
        struct.pack_into("d", self._memory, _BYTES * worker, value)
