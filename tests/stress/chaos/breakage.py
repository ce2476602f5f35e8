"""Breaks a server under way in every way that it knows, and looks on until it is back."""

import asyncio
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from launcher.watch import Backoff
from stress.chaos.faults import SLOW_STEPS, TOO_LARGE, copy_repository
from stress.chaos.traffic import End, Traffic, chat, large_pictures
from tools.report import ROOT
from tools.stack import Stack, wait_until

# Short ones, so that a hang is noticed while one watches.
TIMEOUTS = {
    "GLM_STEP_TIMEOUT": "3",
    "GLM_PREPROCESSING_TIMEOUT": "3",
    "GLM_IMAGE_DECODE_TIMEOUT": "1",
    "GLM_VIDEO_DECODE_TIMEOUT": "1",
    "GLM_PROBE_TIMEOUT": "5",
}
STEP_SECONDS = 0.004
TOKENS = 2000
BACK_TIMEOUT = 60.0
TOLD_SECONDS = 2.0
# Besides what loading takes.
BACK_SECONDS = 5.0


@dataclass
class Server:
    """A server with faults on demand, in a mount namespace of its own where that is allowed.

    Attributes:
        faults: the folder in which a file's name is a fault.
        small_disks: whether its /dev/shm and its temporary folder are small ones of its own.
        load_seconds: until Triton had its models, when it was started.
    """

    stack: Stack
    faults: Path
    folder: Path
    small_disks: bool
    load_seconds: float = 0.0

    def fault(self, name: str) -> None:
        """Ask for one."""
        (self.faults / name).touch()

    def kill(self, program: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to all processes of the server with this in their command line."""
        for pid in self.stack.pids(program):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def seen_from_inside(self, path: Path) -> Path:
        """A path as the server sees it."""
        return Path(f"/proc/{self.stack.process.pid}/root{path}")


@dataclass(frozen=True)
class Scenario:
    """One way to break the server.

    Attributes:
        name: for the table.
        expected: what has to become of the requests under way.
        detection: seconds until a hang is taken for one; for what ends at once, 0.
        is_seen: whether it is to be seen in ``/v1/health``.
        says_why: whether there is somebody to say in ``/v1/health`` what is wrong.
        meets: a request that meets the fault on its way.
    """

    name: str
    inject: Callable[[Server], None]
    expected: frozenset[str]
    detection: float = 0.0
    is_seen: bool = True
    says_why: bool = True
    meets: Callable[[Traffic], Coroutine[Any, Any, End]] = lambda traffic: traffic.whole(
        chat("late", tokens=20)
    )
    needs_small_disks: bool = False


@dataclass
class Outcome:
    """What was seen. Times in seconds from the fault, or, of the limits, from its detection.

    Attributes:
        back_within: in which the server has to be back.
        told_within: in which requests that are not answered have to be told.
        unhealthy: when ``/v1/health`` was not 200 for the first time.
        message: of its first 503.
    """

    scenario: Scenario
    back_within: float
    told_within: float
    ends: list[End] = field(default_factory=list)
    last_end: float = 0.0
    unhealthy: float | None = None
    message: str = ""
    back: float = 0.0

    @property
    def faults(self) -> list[str]:
        """What is not as it has to be."""
        found = []
        unexpected = {
            end.kind for end in self.ends if not {end.kind, str(end)} & self.scenario.expected
        }
        if unexpected:
            found.append(f"requests were {', '.join(sorted(unexpected))}")
        told = [end for end in self.ends if end.kind != "answered"]
        if told and self.last_end > self.scenario.detection + self.told_within:
            found.append(f"the last was told after {self.last_end:.1f} s")
        if self.scenario.is_seen and self.unhealthy is None:
            found.append("/v1/health stayed 200")
        if self.scenario.is_seen and self.scenario.says_why and not self.message:
            found.append("/v1/health did not say why")
        if self.scenario.is_seen and self.back > self.scenario.detection + self.back_within:
            found.append(f"back after {self.back:.1f} s")
        return found


def _preprocessing(number: int) -> Callable[[Server], None]:
    def kill(server: Server) -> None:
        for pid in server.stack.pids("preprocessing/1/model.py")[:number]:
            os.kill(pid, signal.SIGKILL)

    return kill


def _fill(path: Path) -> None:
    with suppress(OSError), (path / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))


ANSWERED, TOLD, CUT = "answered", "told", "cut"
# Who comes later may find the server back.
LOST = frozenset({TOLD, ANSWERED})
STEP, PREPROCESSING, PROBE = (
    float(TIMEOUTS[f"GLM_{name}_TIMEOUT"]) for name in ("STEP", "PREPROCESSING", "PROBE")
)
SCENARIOS = [
    Scenario("one process of stage 1 killed", _preprocessing(1), frozenset({ANSWERED})),
    Scenario("all processes of stage 1 killed", _preprocessing(9), frozenset({ANSWERED})),
    Scenario(
        "stage 1 hangs, interpreter's lock held",
        lambda server: server.fault("stuck-preprocessing"),
        frozenset({ANSWERED}),
        PREPROCESSING,
    ),
    Scenario(
        "stage 2 killed",
        lambda server: server.kill("generation/1/model.py"),
        LOST,
    ),
    Scenario(
        "a step hangs, interpreter's lock held",
        lambda server: server.fault("stuck-step"),
        LOST,
        STEP,
    ),
    Scenario(
        "stage 2 stopped (SIGSTOP)",
        lambda server: server.kill("generation/1/model.py", signal.SIGSTOP),
        LOST,
        STEP,
    ),
    Scenario(
        "out of memory in a step",
        lambda server: server.fault("out-of-memory"),
        frozenset({ANSWERED, "told (OutOfMemoryError)"}),
        is_seen=False,
        meets=lambda traffic: traffic.grpc("hello", 20, request_id=TOO_LARGE),
    ),
    Scenario("GPU gone", lambda server: server.fault("device-gone"), LOST),
    Scenario("tritonserver killed", lambda server: server.kill("bin/tritonserver"), LOST),
    Scenario(
        "tritonserver stopped (SIGSTOP)",
        lambda server: server.kill("bin/tritonserver", signal.SIGSTOP),
        LOST,
        PROBE,
    ),
    Scenario(
        "frontend killed",
        lambda server: server.kill("glm_frontend"),
        frozenset({CUT, ANSWERED}),  # who else could tell them
        says_why=False,
    ),
    Scenario(
        "frontend stopped (SIGSTOP)",
        lambda server: server.kill("glm_frontend", signal.SIGSTOP),
        frozenset({CUT, ANSWERED}),
        PROBE,
        says_why=False,
    ),
    Scenario(
        "/dev/shm full",
        lambda server: _fill(server.seen_from_inside(Path("/dev/shm"))),
        frozenset({ANSWERED, "told (503 out_of_memory)"}),
        # While this number of megabytes is being sent.
        detection=5.0,
        is_seen=False,
        meets=lambda traffic: traffic.whole(large_pictures()),
        needs_small_disks=True,
    ),
    Scenario(
        "temporary folder full",
        lambda server: _fill(server.seen_from_inside(server.folder / "tmp")),
        frozenset({ANSWERED}),
        is_seen=False,
        meets=lambda traffic: traffic.upload(),
        needs_small_disks=True,
    ),
]


async def try_out(
    server: Server, scenario: Scenario, each: int, tokens: int, slack: float = 0.0
) -> Outcome:
    """Break the server under way, and look on until it is back.

    Args:
        slack: seconds that a busy machine may take longer to tell and to be back.
    """
    back_within, told_within = BACK_SECONDS + server.load_seconds + slack, TOLD_SECONDS + slack
    outcome = Outcome(scenario, back_within, told_within)
    async with Traffic(server.stack) as traffic:
        while (await traffic.health())[0] != 200:
            await asyncio.sleep(0.1)
        # So that no request has ended when the last one runs, and all are under way now.
        server.fault(SLOW_STEPS)
        await traffic.begin(each, tokens)
        meeting = [scenario.meets(traffic) for _ in range(each)]
        began = time.monotonic()
        scenario.inject(server)
        (server.faults / SLOW_STEPS).unlink()
        late = asyncio.gather(*meeting)
        watching = asyncio.create_task(_watch(traffic, outcome, began))
        outcome.ends = [*await traffic.ends(), *await late]
        outcome.last_end = (
            max(end.seconds for end in outcome.ends if end.kind != "answered") - (began)
            if any(end.kind != "answered" for end in outcome.ends)
            else 0.0
        )
        _mend(server)
        await asyncio.wait_for(watching, BACK_TIMEOUT + slack)
    return outcome


def _mend(server: Server) -> None:
    for name in ("out-of-memory", "device-gone"):
        (server.faults / name).unlink(missing_ok=True)
    if server.small_disks:
        for folder in (Path("/dev/shm"), server.folder / "tmp"):
            (server.seen_from_inside(folder) / "filler").unlink(missing_ok=True)


async def _watch(traffic: Traffic, outcome: Outcome, began: float) -> None:
    """Until the server is well again after whatever trouble there was, and answers."""
    settled = began + outcome.scenario.detection + 2
    while True:
        status, message = await traffic.health()
        now = time.monotonic()
        if status != 200:
            if outcome.unhealthy is None:
                outcome.unhealthy = now - began
            if status == 503:
                outcome.message = outcome.message or message
            outcome.back = 0.0
        elif not outcome.back:
            outcome.back = now - began
        elif now > settled:
            break
        await asyncio.sleep(0.05)
    end = await traffic.whole(chat("hello", tokens=4))
    assert end.kind == "answered", end


def row(outcome: Outcome) -> str:
    """A line of the table."""
    counts = Counter(map(str, outcome.ends))
    ends = ", ".join(f"{number} {what}" for what, number in counts.most_common())
    unhealthy = "-" if outcome.unhealthy is None else f"{outcome.unhealthy:.1f}"
    back = f"{outcome.back:.1f}" if outcome.unhealthy is not None else "-"
    last = f"{outcome.last_end:.1f}" if outcome.last_end else "-"
    wrong = "; ".join(outcome.faults)
    return (
        f"| {outcome.scenario.name} | {unhealthy} | {outcome.message} | {ends} | {last} | {back} "
        f"| {wrong or 'as it should be'} |"
    )


HEAD = (
    "| what breaks | 503 after s | `/v1/health` says | requests under way | last told after s "
    "| back after s | |",
    "|---|---|---|---|---|---|---|",
)


def start(folder: Path) -> Server:
    """A server in ``folder``, ready."""
    faults = folder / "faults"
    faults.mkdir()
    (folder / "tmp").mkdir()
    repository = copy_repository(ROOT / "model_repository", folder / "models")
    # Small disks of its own, so that it takes no memory to fill them.
    small_disks = os.geteuid() == 0
    mounts = (
        'mount -t tmpfs -o size=160m tmpfs /dev/shm && mount -t tmpfs -o size=16m tmpfs "$0" '
        '&& exec "$@"'
    )
    temporary = str(folder / "tmp")
    stack = Stack(
        folder / "launcher.log",
        ("unshare", "--mount", "bash", "-c", mounts, temporary) if small_disks else (),
        GLM_MODEL_REPOSITORY=str(repository),
        GLM_CHAOS=str(faults),
        GLM_CHAOS_STEP_SECONDS=str(STEP_SECONDS),
        TMPDIR=temporary,
        **TIMEOUTS,
    )
    return Server(stack, faults, folder, small_disks)


def wait_ready(server: Server) -> None:
    """Returns when it answers, and notes how long Triton took for its models, from now."""
    began = time.monotonic()

    def ready() -> bool:
        with suppress(httpx2.TransportError):
            url = f"{server.stack.triton_http_url}/v2/health/ready"
            return httpx2.get(url, trust_env=False).status_code == 200
        return False

    wait_until(ready, 180)
    server.load_seconds = time.monotonic() - began
    server.stack.wait_ready()


def break_all(folder: Path, each: int, only: str) -> tuple[list[Outcome], float]:
    """Every scenario, one after the other on one server; and how long its models take to load."""
    server = start(folder)
    outcomes = []
    try:
        wait_ready(server)
        for scenario in SCENARIOS:
            if only not in scenario.name:
                continue
            if scenario.needs_small_disks and not server.small_disks:
                print(f"left out, for it needs root: {scenario.name}")
                continue
            time.sleep(Backoff.STABLE_SECONDS)  # each fault is one of its own, not one in a row
            outcomes.append(asyncio.run(try_out(server, scenario, each, TOKENS)))
            print(row(outcomes[-1]), flush=True)
    finally:
        (Path(tempfile.gettempdir()) / "glm-chaos.log").write_text(server.stack.log)
        server.stack.kill()
    return outcomes, server.load_seconds
