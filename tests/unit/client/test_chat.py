"""The commands of the chat: what they send, what they say. A real terminal has it in tests/e2e."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import InferenceServerException

from glm_client import chat
from glm_client.cli import main
from unit.client.fake_triton import FakeTriton, result
from unit.client.test_wire import inputs

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, triton: FakeTriton) -> Run:
    """Runs the chat on lines of a pipe; returns its exit code."""

    def run(*lines: str, arguments: tuple[str, ...] = ()) -> int:
        data = io.BytesIO("".join(f"{line}\n" for line in lines).encode())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(data))
        return main(["chat", *arguments])

    return run


def _sent(triton: FakeTriton, name: str, call: int = -1) -> Any:
    return json.loads(inputs(triton.calls[call])[name][0])


def test_answers_to_stdout_and_all_else_to_stderr(
    run: Run, triton: FakeTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("Why?", "", "Where?") == 0
    shown = capsys.readouterr()
    assert shown.out == "A red circle.\n" * 2
    assert shown.err.startswith("hm\n[7 tokens, TTFT ") and shown.err.endswith(" tokens/s]\n")
    assert [message["role"] for message in _sent(triton, "messages")] == [
        "user", "assistant", "user",
    ]  # fmt: skip


def test_quiet(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments=("-q", "-p", "Why?")) == 0
    assert capsys.readouterr() == ("A red circle.\n", "")


def test_system_think_params_and_clear(run: Run, triton: FakeTriton) -> None:
    options = ("--system", "One.", "--temperature", "0", "--no-thinking")
    assert run("a", "/system Two.", "/think on", '/params stop=["b c", "d"] seed=7 top_p=', "b",
               "/clear", "/system", "/params seed=", "c", arguments=options) == 0  # fmt: skip
    assert _sent(triton, "messages", 0)[0] == {"role": "system", "content": "One."}
    assert _sent(triton, "chat_template_kwargs", 0) == {"enable_thinking": False}
    assert _sent(triton, "messages", 1)[0] == {"role": "system", "content": "Two."}
    assert len(_sent(triton, "messages", 1)) == 4
    assert "chat_template_kwargs" not in inputs(triton.calls[1])
    stop = ["b c", "d"]
    assert _sent(triton, "sampling_parameters", 1) == {"temperature": 0, "stop": stop, "seed": 7}
    assert [message["role"] for message in _sent(triton, "messages", 2)] == ["user"]
    assert _sent(triton, "sampling_parameters", 2) == {"temperature": 0, "stop": stop}


def test_retry_asks_the_same_again(run: Run, triton: FakeTriton) -> None:
    assert run("a", "b", "/retry") == 0
    assert _sent(triton, "messages", 2) == _sent(triton, "messages", 1)


def test_a_question_without_an_answer_is_not_in_the_history(
    run: Run, triton: FakeTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    triton.script = [InferenceServerException("a fault [INTERNAL]")]
    assert run("a", "b", "/retry") == 1
    assert "error: a fault\n" in capsys.readouterr().err
    texts = [_sent(triton, "messages", call)[0]["content"][0]["text"] for call in range(3)]
    assert texts == ["a", "b", "b"] and len(_sent(triton, "messages")) == 1


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("/imgae a.png", "/imgae: unknown command; /help lists all commands"),
        ("/think maybe", "/think: must be on or off"),
        ("/params n=2", "/params: n is always 1 in a conversation"),
        ("/params 7", "/params: must be NAME=VALUE, not 7"),
        ("/retry now", "/retry: takes no argument"),
        ("/retry", "/retry: there is no question yet"),
        ("/image 'a", "No closing quotation: 'a"),
        ("/image nowhere.png", "nowhere.png: No such file or directory"),
        ("/save", "/save: requires one file name, in quotes if it contains spaces"),
        ("/save /nowhere/a.json", "/save: /nowhere/a.json: No such file or directory"),
        ("/load nowhere.json", "/load: nowhere.json: No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_done(
    run: Run, line: str, error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    assert capsys.readouterr() == ("", f"error: {error}\n")


@pytest.mark.parametrize(
    "arguments", [("nowhere.png",), ("--load", "nowhere.json"), ("-p", "a", "nowhere.png")]
)
def test_files_that_are_not_there(
    run: Run, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("Why?", arguments=arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "No such file or directory" in shown.err


def test_one_question_with_a_file_that_is_no_picture(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    assert run(arguments=("-p", f"{tmp_path / 'a.png'} What is it?")) == 2
    assert "a.png: not a picture" in capsys.readouterr().err


def test_a_path_is_no_command(run: Run, triton: FakeTriton, tmp_path: Path) -> None:
    picture, other = tmp_path / "a.png", tmp_path / "my pic.png"
    for path in (picture, other):
        path.write_bytes(b"\x89PNG")
    assert run(f"/image {other}", str(picture), f"{picture} Why?", "/quit", "never asked") == 0
    [call] = triton.calls
    assert inputs(call)["image"].tolist() == [b"data:image/png;base64,iVBORw=="] * 3


def test_help_lists_every_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("/help") == 0
    by_command = capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(arguments=("--help",))
    by_option = capsys.readouterr().out
    for name in chat._COMMANDS:
        assert f"\n  {name}" in f"\n{by_command}" and f"\n  {name}" in by_option


def test_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    monkeypatch.chdir(tmp_path)
    assert chat._completion("/im", "/im", 0) == "/image "
    assert chat._completion("/im", "/im", 1) is None
    assert chat._completion("/image pic", "pic", 0) == "pictures/"
    assert chat._completion("/image pictures/", "pictures/", 0) == "pictures/a.png"


def test_thought_without_an_answer_is_reported(
    run: Run, triton: FakeTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    triton.script = [result(text_output="<think>hm", finish_reason="length")]
    assert run("a", "b") == 0
    assert "cut off by max_tokens]\n[no answer was generated" in capsys.readouterr().err
    assert len(_sent(triton, "messages")) == 1
