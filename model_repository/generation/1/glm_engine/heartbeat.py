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

logger = logging.getLogger(__name__)


class Heartbeat:
    """Writes to ``<folder>/<model>-<pid>``: one float64 in the byte order of the machine.

    The value is a moment of ``time.monotonic()``, which all processes of a machine share: since
    then the process has been at the same piece of work. 0: it has nothing to do; negative: it
    cannot go on. The file is gone when the process has ended in order.

    Args:
        model: name of the Triton model.
        env: without ``GLM_HEARTBEATS`` (the folder) nobody watches, and nothing is written.
    """

    def __init__(self, model: str, env: Mapping[str, str] = os.environ) -> None:
        folder = env.get("GLM_HEARTBEATS")
        self._path = Path(folder) / f"{model}-{os.getpid()}" if folder else None
        self._memory: mmap.mmap | bytearray = bytearray(8)
        if self._path is None:
            return
        try:
            self._path.write_bytes(bytes(8))
            with self._path.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), 8)
        except OSError as error:  # a full disk is no reason not to serve
            logger.warning("nobody watches this process: %s", error)

    def beat(self) -> None:
        """A piece of work begins."""
        self._write(time.monotonic())

    def rest(self) -> None:
        """There is nothing to do."""
        self._write(0.0)

    def fail(self) -> None:
        """This process cannot go on."""
        self._write(_FAILED)

    def end(self) -> None:
        """This process ends as it should."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _write(self, value: float) -> None:
        struct.pack_into("d", self._memory, 0, value)
