"""Short forms of ``make chaos``: parts that die or hang, clients that leave, restarts in turn."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from stress.chaos import disconnects, rolling
from stress.chaos.breakage import SCENARIOS, Server, start, try_out, wait_ready

# As long as some faults take to be noticed; until they come, steps are slow.
TOKENS = 300
# Checked here: that the fault is reported, and how, and that the server recovers. All of it
# takes longer where other things run, and a server that tells or mends nothing is not done in a
# minute either; `make chaos`, with no slack, looks whether it is in time.
SLACK = 40.0
# One of each kind; `make chaos` has them all.
NAMES = (
    "one process of stage 1 killed",
    "stage 1 hangs, interpreter's lock held",
    "stage 2 killed",
    "a step hangs, interpreter's lock held",
    "out of memory in a step",
    "GPU gone",
    "frontend killed",
    "/dev/shm full",
)

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all faults, each of which it has to survive."""
    started = start(tmp_path_factory.mktemp("chaos"))
    try:
        wait_ready(started)
        yield started
    finally:
        started.stack.kill()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timing
def test_what_breaks_is_told_and_mended(server: Server, name: str) -> None:
    (scenario,) = (scenario for scenario in SCENARIOS if scenario.name == name)
    if scenario.needs_small_disks and not server.small_disks:
        pytest.skip("only root may give the server a small disk of its own")
    outcome = asyncio.run(try_out(server, scenario, 1, TOKENS, SLACK))
    assert outcome.faults == [], server.stack.log[-5000:]


@pytest.mark.timing
def test_whoever_leaves_leaves_nothing(tmp_path: Path) -> None:
    stack = disconnects.stack_for(tmp_path / "launcher.log")
    try:
        stack.wait_ready()
        lines, good = asyncio.run(disconnects.measure(stack, each=2))
        assert good, "\n".join(lines)
    finally:
        stack.kill()


@pytest.mark.timing
def test_servers_that_are_restarted_in_turn_lose_no_request(tmp_path: Path) -> None:
    lines, good = asyncio.run(rolling.measure(tmp_path, workers=2))
    assert good, "\n".join(lines)
