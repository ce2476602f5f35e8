"""Processes: started, waited for, ended in order."""

import asyncio
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from launcher.errors import Crashed, LaunchError
from launcher.processes import Child, is_alive
from launcher.supervisor import Supervisor, end_of
from tools.stack import free_ports

pytestmark = pytest.mark.timing

LOG = logging.getLogger("test_supervisor")
SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port={port}, bind='127.0.0.1')"
WAIT = "import time; time.sleep(600)"


def _note(ended: list[str], name: str, task: object) -> None:
    ended.append(name)


async def _spawn(supervisor: Supervisor, name: str, code: str) -> Child:
    command = [sys.executable, "-c", code]
    return await supervisor.spawn(name, command, dict(os.environ), stop_timeout=5)


async def test_wait_ready_returns_when_the_url_responds() -> None:
    supervisor = Supervisor(LOG)
    (port,) = free_ports(1)
    child = await _spawn(supervisor, "server", SERVE.format(port=port))
    looks = []
    url = f"http://127.0.0.1:{port}/"
    await supervisor.wait_ready(child, url, lambda: "it", lambda: looks.append(1))
    assert supervisor.children == {"server": child} and is_alive(child.pid)
    await supervisor.kill("server")
    assert not is_alive(child.pid)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import sys; print('no model'); sys.exit(3)", LaunchError),
        ("import os; print('no model', flush=True); os.abort()", Crashed),
    ],
)
async def test_exit_before_ready_reports_the_last_lines(code: str, kind: type[Exception]) -> None:
    supervisor = Supervisor(LOG)
    child = await _spawn(supervisor, "server", code)
    with pytest.raises(kind, match=r"server exited .*\n  no model"):
        await supervisor.wait_ready(child, "http://127.0.0.1:9/", lambda: "it")


async def test_missing_program_is_a_launch_error(tmp_path: Path) -> None:
    child = await Supervisor(LOG).spawn("x", [str(tmp_path / "none")], dict(os.environ), 1)
    assert "exit code" in (await end_of(child)).reason


async def test_shut_down_stops_groups_in_order() -> None:
    supervisor = Supervisor(LOG)
    ended: list[str] = []
    for name in ("triton", "frontend", "web"):
        child = await _spawn(supervisor, name, WAIT)
        child.ended.add_done_callback(partial(_note, ended, name))
    order = (("web", "frontend"), ("triton",))
    await supervisor.shut_down(order, asyncio.Event(), signal.SIGTERM)
    assert sorted(ended[:2]) == ["frontend", "web"] and ended[2:] == ["triton"]
    assert not any(is_alive(child.pid) for child in supervisor.children.values())


async def test_force_kills_remaining_processes() -> None:
    supervisor = Supervisor(LOG)
    (port,) = free_ports(1)
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code = ignore + SERVE.format(port=port)
    child = await _spawn(supervisor, "frontend", code)
    await supervisor.wait_ready(child, f"http://127.0.0.1:{port}/", lambda: "it")
    force = asyncio.Event()
    force.set()
    await supervisor.shut_down((("frontend",),), force, signal.SIGTERM)
    assert child.was_killed
