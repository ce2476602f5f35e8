"""Starts, awaits and stops the processes of the server, and removes their shared memory."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import httpx2

from glm_frontend.variables import LAUNCHED
from launcher.errors import Crashed, LaunchError
from launcher.processes import Child, ReadLine, information
from launcher.shm import RegionWatch
from launcher.watch import Fault, unresponsive

T = TypeVar("T")

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
REGION_SECONDS = 2.0
# Each part limits the time of its own stop; it is killed this long after that limit.
EXIT_GRACE = 10.0


class Service(Protocol):
    """One part of the server, which can be restarted."""

    @property
    def name(self) -> str:
        """Name of its process and of its logger."""
        ...

    async def start(self) -> None:
        """Returns when it responds.

        Raises:
            LaunchError: it has exited, or could not be started.
        """
        ...

    async def fault(self) -> Fault:
        """Returns when its process has exited or does not respond."""
        ...

    async def clear(self) -> None:
        """Kill its process, and clean up after it."""
        ...


class Supervisor:
    """Owns all child processes.

    Attributes:
        children: by name; a restarted child replaces its predecessor.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._starting: set[asyncio.Task[Child]] = set()
        self._regions = RegionWatch()
        self.children: dict[str, Child] = {}

    async def spawn(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        stop_timeout: float,
        read_line: ReadLine = information,
    ) -> Child:
        """Start a program.

        Args:
            stop_timeout: seconds that it has for its shutdown.
            read_line: returns the log level for a line of its output.

        Raises:
            LaunchError: the system is out of processes, memory or files.
        """
        # A separate task: cancellation midway would leave an untracked process.
        starting = asyncio.create_task(
            Child.start(name, command, environment, stop_timeout + EXIT_GRACE, read_line)
        )
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        starting.add_done_callback(lambda task: self._note(name, task))
        try:
            return await asyncio.shield(starting)
        except OSError as error:  # out of memory, processes or files
            raise LaunchError(f"{name} could not be started: {error}") from None

    def _note(self, name: str, starting: "asyncio.Task[Child]") -> None:
        if starting.exception() is None:
            self.children[name] = starting.result()

    async def wait_ready(
        self,
        child: Child,
        url: str,
        progress: Callable[[], str],
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """Returns when ``url`` responds with 200; logs the progress every few seconds.

        Args:
            report: called at each poll.

        Raises:
            LaunchError: the child has exited; Crashed: a signal has terminated it.
        """
        loop = asyncio.get_running_loop()
        start = logged = loop.time()
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            while not child.ended.done():
                with contextlib.suppress(httpx2.TransportError):  # not listening yet
                    if (await client.get(url)).status_code == 200:
                        return
                if loop.time() - logged >= PROGRESS_SECONDS:
                    logged = loop.time()
                    self._log.info("waiting for: %s (%.0f s)", progress(), logged - start)
                report()
                await asyncio.wait({child.ended}, timeout=POLL_SECONDS)
        tail = "".join(f"\n  {line}" for line in child.tail)
        kind = Crashed if child.was_killed else LaunchError
        raise kind(f"{child.name} exited ({child.exit_words}); last lines:{tail}")

    async def fault(self, name: str, alive_url: str, limit: float) -> Fault:
        """Returns when a child has exited, or its URL has not responded for ``limit`` seconds."""
        return await first(end_of(self.children[name]), unresponsive(name, alive_url, limit))

    async def kill(self, name: str) -> None:
        """Kill a child and its descendants."""
        await self.children[name].kill()

    async def watch_regions(self) -> None:
        """Record the shared memory of the children periodically, until cancelled."""
        while True:
            await asyncio.sleep(REGION_SECONDS)
            self.sample_regions()

    def sample_regions(self) -> None:
        """Record the shared memory that the children have now."""
        # A generator: /proc is only read when there is an unknown region.
        self._regions.sample(
            pid for child in self.children.values() for pid in child.session_pids()
        )

    def remove_regions(self) -> list[str]:
        """Remove the shared memory of dead children; returns its names."""
        return list(self._regions.remove_leftovers())

    async def shut_down(
        self, order: Sequence[Sequence[str]], force: asyncio.Event, number: signal.Signals
    ) -> None:
        """Stop all children, and clean up after them.

        Args:
            order: groups of names, which are stopped one after the other.
            force: once set, remaining processes are killed.
            number: the signal that the launcher received.
        """
        if self._starting:
            await asyncio.wait(self._starting)
        self.sample_regions()
        for names in order:
            children = [self.children[name] for name in names if name in self.children]
            await asyncio.gather(*(self._stop(child, force, number) for child in children))
        for name in self.remove_regions():
            self._log.info("removed leftover shared memory name=%s", name)

    async def _stop(self, child: Child, force: asyncio.Event, number: signal.Signals) -> None:
        if not child.ended.done():
            self._log.info("stopping %s", child.name)
        # After Ctrl-C the frontend need not wait for load balancers to notice.
        interrupted = child.name == "frontend" and number == signal.SIGINT
        await child.stop(force, signal.SIGINT if interrupted else signal.SIGTERM)


def environment() -> dict[str, str]:
    """The environment of every child process."""
    return {**os.environ, LAUNCHED: "true"}


def log_error(log: logging.Logger, text: str) -> None:
    """Log each line as a separate error, so that each has the prefix of the log."""
    for line in text.splitlines():
        log.error("%s", line)


async def end_of(child: Child) -> Fault:
    """Returns when the child has exited."""
    await asyncio.wait({child.ended})
    return Fault(child.name, f"process exited ({child.exit_words})")


async def first(*coroutines: Coroutine[Any, Any, T]) -> T:
    """The result of the coroutine that finishes first; the others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        await cancelled(*tasks)


async def cancelled(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks, and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
