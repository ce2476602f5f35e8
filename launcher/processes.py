"""A child process in a session of its own: start it, relay its log, stop it with all it started."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

CHILD_SCRIPT = Path(__file__).with_name("child.py")
TAIL_LINES = 10
MAX_LINE = 64 * 1024
# What a program has started gets this long to end after it.
SESSION_GRACE = 2.0
# And so long after a SIGKILL.
KILL_SECONDS = 30.0
# What a program that has ended wrote is read for so long. The end of it does not come where a
# process that it left behind holds its output open.
LAST_OUTPUT_SECONDS = 0.5

ReadLine = Callable[[str], int]


def information(line: str) -> int:
    """Every line is for the operator."""
    return logging.INFO


class Child:
    """One started program. Each line it writes is given to `read_line`, which returns the level at
    which it goes to the logger of the program's name; the last ones above DEBUG stay in `tail`.
    So is each state of a progress bar, which does not go to the log.

    `ended` is done when the program has ended and what it wrote until then is in the log.
    """

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        stop_timeout: float,
        read_line: ReadLine,
    ) -> None:
        self.name = name
        self._stop_timeout = stop_timeout
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = process
        self._output = output
        self._read_line = read_line
        self._relay = asyncio.create_task(self._relay_output())
        self.ended = asyncio.create_task(self._wait())

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        stop_timeout: float,
        read_line: ReadLine = information,
    ) -> Self:
        """Starts `command` in a session of its own, so that a Ctrl-C in the terminal reaches only
        the launcher. `stop_timeout`: seconds that it gets to end after a SIGTERM.

        Call from the main thread (see child.py).

        Raises:
            OSError: the system has no process, memory or file for it.
        """
        # A pipe of our own: asyncio's wait() would last until every process that the program has
        # started, and that has inherited its output, has ended too.
        read_end, write_end = os.pipe()
        output = asyncio.StreamReader()
        try:
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_end, "rb")
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(CHILD_SCRIPT), str(os.getpid()), *command),
                    env=environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=write_end,
                    stderr=write_end,
                    start_new_session=True,
                )
            except OSError:
                transport.close()
                raise
        finally:
            os.close(write_end)
        return cls(name, process, output, stop_timeout, read_line)

    @property
    def exit_words(self) -> str:
        """How the program ended, for the log. Only once it has."""
        code = self._process.returncode
        assert code is not None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    @property
    def was_killed(self) -> bool:
        """Whether a signal ended it. Only once it has ended."""
        return (self._process.returncode or 0) < 0

    @property
    def pid(self) -> int:
        """Of the program itself."""
        return self._process.pid

    def session_pids(self) -> list[int]:
        """The program and all that it has started, also after it ended itself."""
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return [pid for pid in pids if _live_session(pid) == self._process.pid]

    async def stop(self, force: asyncio.Event, number: signal.Signals = signal.SIGTERM) -> None:
        """A signal; SIGKILL to the whole session after `stop_timeout` or once `force` is set.

        Returns when no process of the session is left.
        """
        forced = asyncio.create_task(force.wait())
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                self._process.send_signal(number)
            await asyncio.wait(
                {self.ended, forced},
                timeout=self._stop_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not self.ended.done():
                reason = "" if force.is_set() else f": it did not end in {self._stop_timeout:g} s"
                logging.getLogger(self.name).warning("killed%s", reason)
                self._kill_session()
        if self.session_pids():
            await asyncio.wait({forced}, timeout=SESSION_GRACE)
        forced.cancel()
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to the whole session. Returns when no process of it is left, or when one does not
        go: the kernel may hold it, as where a GPU is lost."""
        deadline = time.monotonic() + KILL_SECONDS
        while pids := self.session_pids():
            self._kill_session()
            if time.monotonic() > deadline:
                logging.getLogger(self.name).error("cannot be killed: %s", pids)
                return
            await asyncio.sleep(0.05)
        await self.ended

    def _kill_session(self) -> None:
        for pid in self.session_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _wait(self) -> None:
        await self._process.wait()
        await asyncio.wait([self._relay], timeout=LAST_OUTPUT_SECONDS)

    async def _relay_output(self) -> None:
        rest = b""
        while chunk := await self._output.read(MAX_LINE):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > MAX_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._relay_line(line)
            if b"\r" in rest:  # a progress bar, which has no line end before it is full
                self._read_line(_last_state(rest))
        if rest:
            self._relay_line(rest)

    def _relay_line(self, line: bytes) -> None:
        text = _last_state(line)
        level = self._read_line(text)
        if level > logging.DEBUG:
            self.tail.append(text)
        logging.getLogger(self.name).log(level, "%s", text)


def _last_state(line: bytes) -> str:
    """Of a progress bar, which draws over itself, what it shows in the end; else the line."""
    return line.decode(errors="replace").rstrip().rpartition("\r")[2]


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not reaped does not."""
    return _live_session(pid) is not None


def _live_session(pid: int) -> int | None:
    """The session of a process; None when it has ended, reaped or not."""
    try:
        # A name of another program may be cut in the middle of a character.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # pid (name) state ppid pgrp session ...; the name may hold blanks and brackets.
    state, _, _, session = stat.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else int(session)
