import asyncio
import logging
import os
import sys
from pathlib import Path

import pytest

from launcher.processes import CHILD_SCRIPT, MAX_LINE, Child
from waiting import TIMEOUT, until

pytestmark = pytest.mark.timing

# Starts a process of its own, tells its id, and leaves.
PARENT = """
import subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
print(grandchild.pid, flush=True)
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True)"


async def start(script: str, stop_timeout: float = TIMEOUT) -> Child:
    return await Child.start(
        "test-child", [sys.executable, "-S", "-c", script], os.environ, stop_timeout
    )


async def first_line(child: Child) -> str:
    await until(lambda: child.tail)
    return child.tail[0]


async def test_output_goes_to_the_log_and_the_tail(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="test-child")
    child = await start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")
    await child.ended
    assert sorted(child.tail) == ["err", "out"]
    assert sorted(record.getMessage() for record in caplog.records) == ["err", "out"]
    assert child.exit_words == "exit code 3"


async def test_lines_read_at_debug_level_stay_out_of_the_tail() -> None:
    child = await Child.start(
        "test-child",
        [sys.executable, "-S", "-c", "print('noise'); print('signal')"],
        os.environ,
        stop_timeout=TIMEOUT,
        read_line=lambda line: logging.DEBUG if line == "noise" else logging.INFO,
    )
    await child.ended
    assert list(child.tail) == ["signal"]


async def test_of_a_progress_bar_the_last_state_is_shown() -> None:
    child = await start("print('0%\\r50%\\r100%')")
    await child.ended
    assert list(child.tail) == ["100%"]


async def test_a_progress_bar_is_read_while_it_grows(tmp_path: Path) -> None:
    seen: list[str] = []
    go_on = tmp_path / "go on"

    def read(line: str) -> int:
        seen.append(line)
        return logging.INFO

    bar = (
        "import os, time\n"
        r"print('0%\r50%', end='', flush=True)"
        f"\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.01)"
    )
    command = [sys.executable, "-S", "-c", bar]
    child = await Child.start(
        "test-child", command, os.environ, stop_timeout=TIMEOUT, read_line=read
    )
    await until(lambda: seen == ["50%"])  # as it stands
    go_on.touch()
    await child.ended
    assert seen == ["50%", "50%"]  # and as it was left


async def test_an_endless_line_does_not_block_the_child() -> None:
    child = await start(f"print('x' * {3 * MAX_LINE}, end='')")
    await child.ended
    assert sum(map(len, child.tail)) == 3 * MAX_LINE


async def test_stop_asks_first() -> None:
    child = await start(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('bye'))\n"
        "print('on', flush=True); time.sleep(600)"
    )
    await first_line(child)
    await child.stop(asyncio.Event())
    assert list(child.tail) == ["on", "bye"]


async def test_stop_kills_what_does_not_end_in_time() -> None:
    child = await start(STUBBORN + "; import time; time.sleep(600)", stop_timeout=0.2)
    await first_line(child)
    await child.stop(asyncio.Event())
    assert child.exit_words == "signal SIGKILL"


async def test_a_forced_stop_does_not_wait() -> None:
    child = await start(STUBBORN + "; import time; time.sleep(600)", stop_timeout=10 * TIMEOUT)
    await first_line(child)
    force = asyncio.Event()
    force.set()
    async with asyncio.timeout(TIMEOUT):
        await child.stop(force)
    assert child.exit_words == "signal SIGKILL"


async def test_stop_ends_what_a_dead_program_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.processes.SESSION_GRACE", 0.1)
    child = await start(PARENT)
    grandchild = int(await first_line(child))
    await child.ended
    assert child.session_pids() == [grandchild]
    await child.stop(asyncio.Event())
    assert child.session_pids() == []


async def test_a_program_that_cannot_be_started_ends_at_once() -> None:
    child = await Child.start("test-child", ["/no/such/program"], os.environ, stop_timeout=TIMEOUT)
    await child.ended
    assert child.exit_words == "exit code 1"
    assert "/no/such/program" in child.tail[-1]


async def test_a_child_ends_with_the_launcher_even_when_that_is_killed() -> None:
    launcher = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c"),
        f"""
import os, subprocess, sys, time
sleep = [sys.executable, "-S", "-c", "import time; print('on', flush=True); time.sleep(600)"]
command = [sys.executable, "-I", "-S", {str(CHILD_SCRIPT)!r}, str(os.getpid()), *sleep]
child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
""",
        stdout=asyncio.subprocess.PIPE,
    )
    assert launcher.stdout is not None
    child_pid = int(await launcher.stdout.readline())
    handle = os.pidfd_open(child_pid)
    try:
        launcher.kill()
        await launcher.wait()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(handle, ended.set)
        async with asyncio.timeout(TIMEOUT):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)


async def test_a_child_of_a_launcher_already_dead_does_not_start() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", str(CHILD_SCRIPT), str(2**22 + 1), "/bin/echo", "started"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert (process.returncode, output) == (1, b"")
