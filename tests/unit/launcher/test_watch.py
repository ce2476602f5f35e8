"""Dead and stuck processes by their heartbeats, and how long to wait before a new start."""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from glm_engine.heartbeat import Heartbeat
from launcher.watch import PROBES, Backoff, Fault, StageWatch, unresponsive
from waiting import TIMEOUT, Clock, until, wait_until

pytestmark = pytest.mark.timing

LIMITS = {"generation": 0.3}


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """One that does nothing, and is cleared away."""
    started = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    yield started
    started.kill()
    started.wait()


def signal_that_ended(process: "subprocess.Popen[bytes]") -> int:
    """Waits for the end, and leaves the process to be reaped: nobody gets its number before."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    wait_until(lambda: os.waitid(os.P_PID, process.pid, options))
    result = os.waitid(os.P_PID, process.pid, options)
    assert result is not None
    return result.si_status


def write(folder: Path, model: str, pid: int, beat: float) -> Path:
    path = folder / f"{model}-{pid}"
    path.write_bytes(struct.pack("d", beat))
    return path


@pytest.mark.parametrize("beat", [0.0, 1e18])
def test_a_process_that_rests_or_works_is_left_alone(
    tmp_path: Path, process: "subprocess.Popen[bytes]", beat: float
) -> None:
    write(tmp_path, "generation", process.pid, beat)
    assert StageWatch(tmp_path, LIMITS).look() is None
    assert process.poll() is None


def test_a_process_that_has_ended(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    path = write(tmp_path, "preprocessing", process.pid, time.monotonic())
    watch = StageWatch(tmp_path, LIMITS)
    assert watch.look() is None
    process.kill()
    assert signal_that_ended(process) == signal.SIGKILL
    assert watch.look() == Fault("preprocessing", "process exited")
    assert not path.exists()
    assert watch.look() is None  # told once


def test_stuck_process_is_killed(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    clock = Clock()
    watch = StageWatch(tmp_path, {"generation": 3.0}, clock)
    path = tmp_path / f"generation-{process.pid}"
    for seconds in range(8):
        # Of two workers one goes on, and the other does so until the third second.
        path.write_bytes(struct.pack("dd", 10.0 + seconds, 10.0 + min(seconds, 3)))
        fault = watch.look()
        assert (fault is None) == (seconds < 7)
        clock.now += 1.0
    assert fault == Fault("generation", "no progress for 4 s")
    assert signal_that_ended(process) == signal.SIGKILL


def test_pause_of_the_whole_machine_is_not_a_fault(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    clock = Clock()
    watch = StageWatch(tmp_path, {"generation": 3.0}, clock)
    write(tmp_path, "generation", process.pid, clock.now)
    assert watch.look() is None
    clock.now += 1000.0  # a container that was paused
    assert watch.look() is None
    assert process.poll() is None


def test_retired_process_is_killed_if_hanging_and_its_exit_is_not_a_fault(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    clock = Clock()
    watch = StageWatch(tmp_path, {"preprocessing": 3.0}, clock)
    path = write(tmp_path, "preprocessing", process.pid, clock.now)
    watch.retire("preprocessing")
    for _ in range(6):
        assert watch.look() is None
        clock.now += 1.0
    assert signal_that_ended(process) == signal.SIGKILL
    assert not path.exists()
    assert watch.look() is None
    write(tmp_path, "preprocessing", process.pid, clock.now)  # the next of that number
    assert watch.look() == Fault("preprocessing", "process exited")


def test_a_model_without_a_limit_may_take_its_time(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    write(tmp_path, "other", process.pid, time.monotonic() - 100)
    assert StageWatch(tmp_path, LIMITS).look() is None


def test_failed_heartbeat_is_a_fault(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    write(tmp_path, "generation", process.pid, -1.0)
    assert StageWatch(tmp_path, {}).look() == Fault("generation", "process reported a failure")


def test_all_processes_are_forgotten(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    write(tmp_path, "preprocessing", process.pid, -1.0)
    write(tmp_path, "generation", process.pid, 0.0)
    StageWatch(tmp_path, {}).forget()
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / f"generation-{os.getpid()}").write_bytes(b"")
    assert StageWatch(tmp_path, LIMITS).look() is None


def test_a_failure_outlasts_the_beats_of_others(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    heartbeat = Heartbeat("generation", {"GLM_HEARTBEATS": str(tmp_path)}, workers=2)
    heartbeat.beat()
    watch = StageWatch(tmp_path, {})
    assert watch.look() is None
    heartbeat.fail()
    heartbeat.beat()
    heartbeat.rest(1)
    path = tmp_path / f"generation-{os.getpid()}"
    path.rename(
        tmp_path / f"generation-{process.pid}"
    )  # its heartbeat file names the process to kill
    assert watch.look() == Fault("generation", "process reported a failure")


async def test_a_listener_that_does_not_answer_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        began = time.monotonic()
        fault = await asyncio.wait_for(unresponsive("frontend", url, 0.5), TIMEOUT)
    assert fault == Fault("frontend", "no response for 0.5 s")
    assert 0.5 <= time.monotonic() - began < TIMEOUT


class _Refusing(BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_error(503)

    def log_message(self, *arguments: object) -> None:
        pass


async def test_any_answer_is_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.watch.PROBE_SECONDS", 0.01)
    monkeypatch.setattr(_Refusing, "asked", 0)
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        watching = asyncio.create_task(unresponsive("frontend", url, PROBES * TIMEOUT))
        await until(lambda: _Refusing.asked > 2 * PROBES or watching.done())
        assert not watching.done()
        watching.cancel()
        await asyncio.wait([watching])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_each_start_that_does_not_last_is_waited_for_longer() -> None:
    backoff = Backoff()
    delays = [backoff.next() for _ in range(9)]
    assert delays[:4] == [0.0, 0.5, 1.0, 2.0]
    assert delays[-1] == Backoff.MOST_SECONDS
    backoff.started()
    assert backoff.next() > 0
    backoff.started()
    assert backoff._started is not None
    backoff._started -= Backoff.STABLE_SECONDS + 1
    assert backoff.next() == 0.0
