"""How a test waits for what happens in another thread, process or task.

A test that sleeps bets that the machine is fast enough. These return as soon as the condition
holds, so the deadline costs nothing and may be generous: it is there to end a test that failed.
"""

import asyncio
import time
from collections.abc import Callable

TIMEOUT = 60.0


def wait_until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Returns when the condition comes true; fails when it does not."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {timeout:g} s"
        time.sleep(0.005)


async def until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """``wait_until`` for a test in an event loop: the other tasks go on meanwhile."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {timeout:g} s"
        await asyncio.sleep(0.001)


class Clock:
    """Time as the test has it: it stands still until the test moves ``now``."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
