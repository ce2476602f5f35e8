"""The processes of the server: started, waited for, ended in order, their shared memory removed."""

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
from launcher.watch import Fault

T = TypeVar("T")

POLL_SECONDS = 0.2
PROGRESS_SECONDS = 5.0
REGION_SECONDS = 2.0
# Each part bounds its own stop; this long after that bound it is killed.
EXIT_GRACE = 10.0


class Service(Protocol):
    """One part of the server, which can be started again."""

    @property
    def name(self) -> str:
        """Of its process, in the log as well."""
        ...

    async def start(self) -> None:
        """Returns when it answers.

        Raises:
            LaunchError: it has ended, or could not be started.
        """
        ...

    async def fault(self) -> Fault:
        """Returns when its process has ended or does not answer."""
        ...

    async def clear(self) -> None:
        """Kill its process, and remove what that leaves."""
        ...


class Supervisor:
    """Owns all child processes.

    Attributes:
        children: by name; one that was started again takes the place of the one before.
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
            stop_timeout: seconds that it gets to end.
            read_line: gives the level at which a line of its output is logged.

        Raises:
            LaunchError: the system has no process, memory or file for it.
        """
        # A task of its own, for one that is cut off in the middle would leave an unknown process.
        starting = asyncio.create_task(
            Child.start(name, command, environment, stop_timeout + EXIT_GRACE, read_line)
        )
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        starting.add_done_callback(lambda task: self._note(name, task))
        try:
            return await asyncio.shield(starting)
        except OSError as error:  # no memory, no process, no file left
            raise LaunchError(f"{name} could not be started: {error}") from None

    def _note(self, name: str, starting: "asyncio.Task[Child]") -> None:
        if starting.exception() is None:
            self.children[name] = starting.result()

    async def wait_ready(
        self,
        child: Child,
        url: str,
        progress: Callable[[], str],
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        """Returns when ``url`` answers 200; logs every few seconds what it waits for.

        Args:
            tell: called at each look.

        Raises:
            LaunchError: the child has ended; Crashed: a signal has ended it.
        """
        loop = asyncio.get_running_loop()
        start = told = loop.time()
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            while not child.ended.done():
                with contextlib.suppress(httpx2.TransportError):  # it does not listen yet
                    if (await client.get(url)).status_code == 200:
                        return
                if loop.time() - told >= PROGRESS_SECONDS:
                    told = loop.time()
                    self._log.info("waiting for: %s (%.0f s)", progress(), told - start)
                tell()
                await asyncio.wait({child.ended}, timeout=POLL_SECONDS)
        tail = "".join(f"\n  {line}" for line in child.tail)
        kind = Crashed if child.was_killed else LaunchError
        raise kind(f"{child.name} has ended ({child.exit_words}); its last lines:{tail}")

    async def kill(self, name: str) -> None:
        """Kill a child and all that it has started."""
        await self.children[name].kill()

    async def watch_regions(self) -> None:
        """Note which shared memory the children have; until cancelled."""
        while True:
            await asyncio.sleep(REGION_SECONDS)
            self.sample_regions()

    def sample_regions(self) -> None:
        """Note which shared memory the children have now."""
        # A generator: /proc is only read when there is an unknown region.
        self._regions.sample(
            pid for child in self.children.values() for pid in child.session_pids()
        )

    def remove_regions(self) -> list[str]:
        """Remove shared memory that dead children have left; its names."""
        return list(self._regions.remove_leftovers())

    async def shut_down(
        self, order: Sequence[Sequence[str]], force: asyncio.Event, number: signal.Signals
    ) -> None:
        """End all children, and clear what they have left.

        Args:
            order: names of those that end together, one group after the other.
            force: once it is set, what has not ended is killed.
            number: the signal that the launcher got.
        """
        if self._starting:
            await asyncio.wait(self._starting)
        self.sample_regions()
        for names in order:
            children = [self.children[name] for name in names if name in self.children]
            await asyncio.gather(*(self._stop(child, force, number) for child in children))
        for name in self.remove_regions():
            self._log.info("removed shared memory that Triton left: %s", name)

    async def _stop(self, child: Child, force: asyncio.Event, number: signal.Signals) -> None:
        if not child.ended.done():
            self._log.info("stopping %s", child.name)
        # At a Ctrl-C the frontend need not wait for load balancers to notice.
        interrupted = child.name == "frontend" and number == signal.SIGINT
        await child.stop(force, signal.SIGINT if interrupted else signal.SIGTERM)


def environment() -> dict[str, str]:
    """What every process that the launcher starts gets."""
    return {**os.environ, LAUNCHED: "true"}


def log_error(log: logging.Logger, text: str) -> None:
    """Log each line as an error of its own, so that each carries the prefix of the log."""
    for line in text.splitlines():
        log.error("%s", line)


async def end_of(child: Child) -> Fault:
    """Returns when the child has ended."""
    await asyncio.wait({child.ended})
    return Fault(child.name, f"its process has ended ({child.exit_words})")


async def first(*coroutines: Coroutine[Any, Any, T]) -> T:
    """The result of the one that ends first; the others are cancelled."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        await cancelled(*tasks)


async def cancelled(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks; returns when they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
