"""``python -m client chat`` against the real stack: in a real terminal, in a pipe, and alone."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.calls import PICTURES, metrics, post, settled
from tools.stack import ROOT, Stack, free_ports
from waiting import wait_until

CANCELLED = 'glm_requests_total{finish_reason="cancelled"}'
# ^C becomes a signal, and that is not ignored, however the tests were started.
IN_A_TERMINAL = ("env", "--default-signal=INT", "setsid", "--ctty")
CHAT = (sys.executable, "-m", "client", "chat", "--temperature", "0")


class Terminal:
    """The chat in a pseudo-terminal of its own, as a user has it."""

    def __init__(self, url: str) -> None:
        self._keyboard, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [*IN_A_TERMINAL, *CHAT, "--url", url],
            cwd=ROOT, env=os.environ | {"TERM": "xterm"}, close_fds=True,
            stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)

    def type(self, keys: str) -> None:
        os.write(self._keyboard, keys.encode())

    def read_until(self, pattern: str) -> str:
        """What is shown up to a match of ``pattern``, which has to come."""
        shown = ""
        deadline = time.monotonic() + 120
        while not re.search(pattern, shown, re.DOTALL):
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._keyboard], [], [], left)
            assert ready, f"no {pattern!r} in {shown!r}"
            shown += os.read(self._keyboard, 4096).decode(errors="replace")
        return shown

    def wait_for_keys(self) -> None:
        """Returns when the chat sleeps until the next key.

        A signal that came while readline was on its way there would wait for that key as well.
        """
        stat = Path(f"/proc/{self.process.pid}/stat")

        def sleeps() -> bool:
            return stat.read_text().rpartition(")")[2].split()[0] == "S"

        wait_until(lambda: sleeps() and sleeps())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._keyboard)


@pytest.fixture
def terminal(stack: Stack) -> Iterator[Terminal]:
    terminal = Terminal(stack.grpc_url)
    terminal.read_until("> ")
    yield terminal
    terminal.close()


def _pipe(stack: Stack, lines: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*CHAT, "--url", stack.grpc_url, *arguments],
        cwd=ROOT, input=lines, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.timing
def test_a_conversation_in_a_terminal(terminal: Terminal, tmp_path: Path) -> None:
    """A picture by command, one dropped into the line, a second turn, a file, and Ctrl-D."""
    picture = PICTURES / "plot-circle-square.png"
    terminal.type(f"/image {picture}\n")
    assert str(picture) in terminal.read_until(r"\[1 picture\] > ")
    terminal.type("What is in this image?\n")
    shown = terminal.read_until(r"tokens/s\]")
    assert "\x1b[2mA" in shown, "the thought is dimmed"
    assert "\nA red circle and a blue square.\r\n" in shown
    assert re.search(r"\[\d+ tokens, TTFT \d+ ms, \d+ tokens/s\]", shown)
    terminal.type("What color is the square?\n")
    assert "\nThe square is blue.\r\n" in terminal.read_until(r"tokens/s\]")
    terminal.type(f"'{PICTURES / 'plot-42.png'}' What is in the second image?\n")
    assert "\nThe number 42.\r\n" in terminal.read_until(r"tokens/s\]")
    saved = tmp_path / "saved.json"
    terminal.type(f"/save {saved}\n")
    terminal.read_until("saved 6 messages.*\n.*> ")
    terminal.type("\x04")
    assert terminal.process.wait(60) == 0
    roles = [message["role"] for message in json.loads(saved.read_text())["messages"]]
    assert roles == ["user", "assistant"] * 3


@pytest.mark.timing
def test_ctrl_c_cancels_the_answer_and_the_chat_goes_on(stack: Stack, terminal: Terminal) -> None:
    before = settled(stack)[CANCELLED]
    terminal.type("/params ignore_eos=true max_tokens=4000\n")
    terminal.read_until("max_tokens=4000")
    terminal.type("Who are you?\n")
    wait_until(lambda: metrics(stack)["glm_requests_running"] == 1)
    terminal.read_until("demo model")
    terminal.type("\x03")
    terminal.read_until("stopped: [0-9]+ tokens")
    wait_until(lambda: metrics(stack)[CANCELLED] == before + 1)
    wait_until(lambda: metrics(stack)["glm_requests_running"] == 0)
    terminal.type("/params ignore_eos= max_tokens=\n")
    terminal.read_until("temperature=0")
    terminal.type("/clear\nWho are you?\n")
    # A signal on the way into readline would wait there for the next key.
    assert "demo model" in terminal.read_until(r"tokens/s\].*> ")
    terminal.type("half a line")
    terminal.read_until("half a line")
    terminal.wait_for_keys()
    terminal.type("\x03")
    terminal.read_until("Ctrl-D leaves")
    assert terminal.process.poll() is None


def test_lines_of_a_pipe_are_turns(stack: Stack, tmp_path: Path) -> None:
    lines = f"""/image {PICTURES / "plot-circle-square.png"}
What is in this image?
/think off
What color is the square?
/save {tmp_path / "saved.json"}
"""
    run = _pipe(stack, lines)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "A red circle and a blue square.\nThe square is blue.\n"
    saved = json.loads((tmp_path / "saved.json").read_text())
    # What is saved is what OpenAI's API takes.
    body = saved | {"model": "glm-4.6v-flash", "temperature": 0}
    body["messages"].append({"role": "user", "content": "What shape is red?"})
    by_http = post(stack, body).json()["choices"][0]["message"]["content"]
    again = _pipe(stack, "What shape is red?\n", "--load", str(tmp_path / "saved.json"), "-q")
    assert (again.stdout, again.stderr) == (f"{by_http}\n", f"{_loaded(tmp_path)}\n")


def _loaded(folder: Path) -> str:
    return f"[loaded 4 messages from {folder / 'saved.json'}]"


def test_one_question(stack: Stack) -> None:
    run = _pipe(stack, "", "-q", "-p", "What is in this image?", str(PICTURES / "photo-star.jpg"))
    assert (run.returncode, run.stdout, run.stderr) == (0, "An orange star.\n", "")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("/params beams=7\nhi\n", "sampling_parameters.beams: is not supported"),
        ("/image nowhere.png\n", "nowhere.png: No such file or directory"),
        ("/think perhaps\n", "/think: must be on or off"),
    ],
)
def test_what_is_wrong_is_named(stack: Stack, lines: str, error: str) -> None:
    run = _pipe(stack, lines)
    assert (run.returncode, run.stdout) == (2, "")
    assert f"error: {error}\n" in run.stderr


def test_a_server_that_is_not_there() -> None:
    (port,) = free_ports(1)
    terminal = Terminal(f"127.0.0.1:{port}")
    try:
        terminal.read_until(f"error: cannot reach Triton's gRPC endpoint at 127.0.0.1:{port}")
        assert terminal.process.wait(60) == 1
    finally:
        terminal.close()
