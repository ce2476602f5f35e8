"""A sign of life for who watches this process, in memory that it shares with nobody else's lock.

A process that hangs with the interpreter's lock held can say nothing over a socket, but the time of
its last beat stands in a file that another process reads.
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
    """Writes to ``<folder>/<model>-<pid>``: a float64 for each worker, as the machine has them.

    A value is a moment of ``time.monotonic()``, which all processes of a machine share: since then
    the worker has been at the same piece of work. 0: it has nothing to do; negative: the process
    cannot go on. The file is gone when the process has ended in order.

    Args:
        model: name of the Triton model.
        env: without ``GLM_HEARTBEATS`` (the folder) nobody watches, and nothing is written.
        workers: threads without any of which nothing gets answered.
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
        except OSError as error:  # a full disk is no reason not to serve
            logger.warning("nobody watches this process: %s", error)

    def beat(self, worker: int = 0) -> None:
        """A piece of work begins."""
        self._write(worker, time.monotonic())

    def rest(self, worker: int = 0) -> None:
        """There is nothing to do."""
        self._write(worker, 0.0)

    def fail(self) -> None:
        """This process cannot go on, whatever its other workers do."""
        self._has_failed = True
        self._write(0, _FAILED)

    def end(self) -> None:
        """This process ends as it should."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, worker: int, value: float) -> None:
        if self._has_failed:
            value = _FAILED
        struct.pack_into("d", self._memory, _BYTES * worker, value)
