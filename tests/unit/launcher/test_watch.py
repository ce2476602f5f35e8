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

from launcher.watch import Backoff, Fault, StageWatch, unresponsive

LIMITS = {"generation": 0.3}


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    """One that does nothing, and is cleared away."""
    started = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    yield started
    started.kill()
    started.wait()


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
    process.wait()
    assert watch.look() == Fault("preprocessing", "its process has ended")
    assert not path.exists()
    assert watch.look() is None  # told once


def test_one_that_is_stuck_is_killed(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    write(tmp_path, "generation", process.pid, time.monotonic() - 100)
    fault = StageWatch(tmp_path, LIMITS).look()
    assert fault == Fault("generation", "its process has not moved for 100 s")
    assert process.wait(5) == -signal.SIGKILL


def test_a_model_without_a_limit_may_take_its_time(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    write(tmp_path, "other", process.pid, time.monotonic() - 100)
    assert StageWatch(tmp_path, LIMITS).look() is None


def test_one_that_cannot_go_on(tmp_path: Path, process: "subprocess.Popen[bytes]") -> None:
    write(tmp_path, "generation", process.pid, -1.0)
    assert StageWatch(tmp_path, {}).look() == Fault("generation", "its process cannot go on")


def test_the_processes_of_a_model_are_forgotten(
    tmp_path: Path, process: "subprocess.Popen[bytes]"
) -> None:
    write(tmp_path, "preprocessing", process.pid, -1.0)
    write(tmp_path, "generation", process.pid, 0.0)
    StageWatch(tmp_path, {}).forget("preprocessing")
    assert [path.name for path in tmp_path.iterdir()] == [f"generation-{process.pid}"]


def test_a_half_written_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / f"generation-{os.getpid()}").write_bytes(b"")
    assert StageWatch(tmp_path, LIMITS).look() is None


async def test_a_listener_that_does_not_answer_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts, and says nothing
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        began = time.monotonic()
        fault = await asyncio.wait_for(unresponsive("frontend", url, 0.5), 5)
    assert fault == Fault("frontend", "it has not answered for 0.5 s")
    assert 0.5 <= time.monotonic() - began < 3


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(503)

    def log_message(self, *arguments: object) -> None:
        pass


async def test_any_answer_is_a_sign_of_life() -> None:
    server = HTTPServer(("127.0.0.1", 0), _Refusing)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(unresponsive("frontend", url, 0.4), 1.5)
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
