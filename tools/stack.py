"""Starting and stopping the whole server as a user does: ``python -m launcher`` on free ports."""

import atexit
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START_TIMEOUT = 180.0
STOP_TIMEOUT = 90.0
# Below those that Linux takes for connections (32768 and more): what was free a moment ago would
# at times be a connection's own when a server comes to listen on it.
PORTS = range(20_000, 32_000)
PORTS_OF_A_PROCESS = 100
REGION = re.compile(r"/dev/shm/(triton_python_backend_shm_region_\S+)")


class Stack:
    """One launcher with its server. GLM_MODEL is taken over; all other settings are the defaults,
    free ports, or those given.

    Args:
        log: where the launcher's output goes; its temporary files go beside it.
        prefix: what runs the launcher's command line; by default nothing does.
        settings: the launcher's environment.
    """

    def __init__(self, log: Path, prefix: Sequence[str] = (), **settings: str) -> None:
        self.port, self.grpc_port, self.metrics_port, self.http_port, web_port = free_ports(5)
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.grpc_url = f"127.0.0.1:{self.grpc_port}"
        self.triton_http_url = f"http://127.0.0.1:{self.http_port}"
        self.web_url = f"http://127.0.0.1:{web_port}"
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}"
        environment = {
            name: value
            for name, value in os.environ.items()
            if name == "GLM_MODEL" or not name.startswith(("GLM_", "OTEL_", "TRITON_INTERPRET"))
        }
        environment |= {
            # Else a request that is the same as an earlier one would test and measure nothing.
            "GLM_RESPONSE_CACHE": "off",
            "TMPDIR": str(log.parent),  # a killed launcher leaves its folder there
            "GLM_HOST": "127.0.0.1",
            "GLM_PORT": str(self.port),
            "GLM_WEB_PORT": str(web_port),
            "GLM_TRITON_HOST": "127.0.0.1",
            "GLM_TRITON_GRPC_PORT": str(self.grpc_port),
            "GLM_TRITON_METRICS_PORT": str(self.metrics_port),
            "GLM_TRITON_HTTP_PORT": str(self.http_port),
        }
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "launcher"],
                cwd=ROOT,
                env=environment | settings,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_ready(self) -> None:
        """Returns when the launcher has shown the answer to its first picture."""
        wait_until(
            lambda: "ready after" in self.log or self.process.poll() is not None, START_TIMEOUT
        )
        assert self.process.poll() is None, self.log

    def pids(self, program: str = "") -> list[int]:
        """The live processes of this server, those of `program` only if that is given.

        Found by their environment, which holds the port that no other server has.
        """
        mark = f"GLM_TRITON_GRPC_PORT={self.grpc_port}\0".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = mark in (process / "environ").read_bytes() + b"\0"
                command = (process / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has just ended
                continue
            if ours and program in command:
                found.append(int(process.name))
        return found

    def regions(self) -> set[Path]:
        """The shared memory of Triton that processes of this server have mapped."""
        found = set()
        for pid in self.pids():
            try:
                maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
            except OSError:
                continue
            found |= {Path("/dev/shm") / name for name in REGION.findall(maps)}
        return found

    def interrupt(self) -> None:
        """Ctrl-C as a terminal sends it: to the launcher's whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_stopped(self) -> int:
        """The launcher's exit code."""
        return self.process.wait(STOP_TIMEOUT)

    def kill(self) -> None:
        """Ends whatever is still there; for clearing up after a failed test."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(STOP_TIMEOUT)


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on, and that no other process is given by this function
    as long as this one lives."""
    ours = _own_ports()
    ports: list[int] = []
    while len(ports) < count:
        port = next(ours)
        with suppress(OSError):  # taken by something that does not ask here
            socket.create_server(("127.0.0.1", port)).close()
            ports.append(port)
    return ports


@cache
def _own_ports() -> Iterator[int]:
    """The ports of this process, one after the other, again and again: one that has just been used
    comes last.

    A process owns a block of them by a Unix socket with an abstract name. Such names are as common
    to all processes as the ports are, in containers, too, and end with their process.
    """
    for first in PORTS[::PORTS_OF_A_PROCESS]:
        owner = socket.socket(socket.AF_UNIX)
        try:
            owner.bind(f"\0glm-ports-{first}")
        except OSError:  # another process has them
            owner.close()
            continue
        atexit.register(owner.close)
        return itertools.cycle(range(first, first + PORTS_OF_A_PROCESS))
    raise RuntimeError("all blocks of ports are taken")


def wait_until(condition: Callable[[], bool], timeout: float) -> None:
    """Raises TimeoutError when the condition does not come true in `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
