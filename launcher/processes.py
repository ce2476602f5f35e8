"""A child process in its own session: starts it, relays its log, stops it and its descendants."""

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
# Time for descendants to exit after the program itself.
SESSION_GRACE = 2.0
# Time for a process to go after SIGKILL.
KILL_SECONDS = 30.0
# Time to read the remaining output of an exited program: a descendant may hold its output open.
LAST_OUTPUT_SECONDS = 0.5

ReadLine = Callable[[str], int]


def information(line: str) -> int:
    """Log every line as INFO."""
    return logging.INFO


class Child:
    """One started program. Each line of its output is passed to `read_line`, which returns the
    level for the logger of the program's name; `tail` keeps the last lines above DEBUG. States of
    a progress bar are also passed to `read_line`, but not logged.

    `ended` is done when the program has exited and its output has been logged.
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
        """Start `command` in its own session, so that Ctrl-C in the terminal reaches the launcher
        only. `stop_timeout`: seconds until it is killed after SIGTERM.

        Call from the main thread (see child.py).

        Raises:
            OSError: the system is out of processes, memory or files.
        """
        # Our own pipe: asyncio's wait() would also wait for all descendants that have inherited the
        # output.
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
        """How the program exited, for the log; only valid after its exit."""
        code = self._process.returncode
        assert code is not None
        return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"

    @property
    def was_killed(self) -> bool:
        """Whether a signal terminated it; only valid after its exit."""
        return (self._process.returncode or 0) < 0

    @property
    def pid(self) -> int:
        """Process id of the program itself."""
        return self._process.pid

    def session_pids(self) -> list[int]:
        """Processes of the session: the program and its descendants, which may outlive it."""
        pids = (int(entry) for entry in os.listdir("/proc") if entry.isdigit())
        return [pid for pid in pids if _live_session(pid) == self._process.pid]

    async def stop(self, force: asyncio.Event, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal; then SIGKILL to the session after `stop_timeout` or once `force` is set.

        Returns when no process of the session is left.
        """
        forced = asyncio.create_task(force.wait())
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):  # it has just exited
                self._process.send_signal(number)
            await asyncio.wait(
                {self.ended, forced},
                timeout=self._stop_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not self.ended.done():
                reason = (
                    ""
                    if force.is_set()
                    else f": still running {self._stop_timeout:g} s after the signal"
                )
                logging.getLogger(self.name).warning("killed%s", reason)
                self._kill_session()
        if self.session_pids():
            await asyncio.wait({forced}, timeout=SESSION_GRACE)
        forced.cancel()
        await self.kill()

    async def kill(self) -> None:
        """Send SIGKILL to the session. Returns when no process of it is left, or after a timeout if
        the kernel does not end one, e.g. because a GPU is lost."""
        deadline = time.monotonic() + KILL_SECONDS
        while pids := self.session_pids():
            self._kill_session()
            if time.monotonic() > deadline:
                logging.getLogger(self.name).error("processes survived SIGKILL pids=%s", pids)
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
            if b"\r" in rest:  # a progress bar, whose line does not end until it is complete
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
    """The line; or the last state of a progress bar, which overwrites itself."""
    return line.decode(errors="replace").rstrip().rpartition("\r")[2]


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    return _live_session(pid) is not None


def _live_session(pid: int) -> int | None:
    """The session of a process; None if it has exited, reaped or not."""
    try:
        # The name of another program may be truncated within a character.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # pid (name) state ppid pgrp session ...; the name may contain spaces and parentheses.
    state, _, _, session = stat.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else int(session)
