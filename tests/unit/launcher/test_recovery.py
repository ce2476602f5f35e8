"""What has a fault is started again, and given up when that fails too often."""

import asyncio
import contextlib
import logging

import pytest

from launcher.errors import LaunchError
from launcher.recovery import MAX_FAILED_STARTS, keep, start_again
from launcher.watch import Backoff, Fault

LOG = logging.getLogger("test_recovery")


class Flaky:
    """A service whose first ``fails`` starts fail, and that has ``faults`` faults."""

    name = "flaky"

    def __init__(self, fails: int = 0, faults: int = 0, hangs: bool = False) -> None:
        self.fails, self.faults, self.hangs = fails, faults, hangs
        self.starts = self.clears = 0

    async def start(self) -> None:
        self.starts += 1
        if self.starts <= self.fails:
            if self.hangs:
                await asyncio.Event().wait()
            raise LaunchError("no memory")

    async def fault(self) -> Fault:
        if not self.faults:
            await asyncio.Event().wait()
        self.faults -= 1
        return Fault(self.name, "process exited")

    async def clear(self) -> None:
        self.clears += 1


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "FIRST_SECONDS", 0.0)


async def test_each_fault_is_followed_by_a_start() -> None:
    service = Flaky(faults=3)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await keep(service, 60, LOG)
    assert (service.starts, service.clears) == (3, 3)


@pytest.mark.parametrize("hangs", [False, True])
async def test_a_start_that_fails_is_tried_again(hangs: bool) -> None:
    service = Flaky(fails=2, hangs=hangs)
    await start_again(service, Backoff(), 0.05, LOG)
    assert (service.starts, service.clears) == (3, 2)


async def test_after_some_failures_it_is_given_up() -> None:
    service = Flaky(fails=100)
    with pytest.raises(LaunchError, match=f"gave up after {MAX_FAILED_STARTS} attempts"):
        await start_again(service, Backoff(), 60, LOG)
    assert service.starts == MAX_FAILED_STARTS
