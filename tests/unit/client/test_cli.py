"""The command line: what it sends, what it prints, how it exits."""

import json
import signal
import threading
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import InferenceServerException

from glm_client.cli import main
from unit.client.fake_triton import FULL, FakeTriton, details, rpc_error
from unit.client.test_wire import inputs
from waiting import wait_until


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG")
    return str(path)


def test_the_answer_alone_goes_to_stdout(
    triton: FakeTriton, picture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([picture, picture, "What is this?"]) == 0
    assert capsys.readouterr() == ("A red circle.\n", "")
    values = inputs(triton.calls[0])
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is this?"}]
    assert json.loads(values["messages"][0]) == [{"role": "user", "content": content}]
    assert values["image"].tolist() == [b"\x89PNG", b"\x89PNG"]
    assert json.loads(values["sampling_parameters"][0]) == {}


def test_options(triton: FakeTriton, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--system", "Be brief.", "--max-tokens", "5", "--temperature", "0", "--top-p", "0.5"]
    assert main([*options, "--no-thinking", "--timeout", "9", "Why?"]) == 0
    values = inputs(triton.calls[0])
    assert json.loads(values["messages"][0])[0] == {"role": "system", "content": "Be brief."}
    sampling = {"max_tokens": 5, "temperature": 0, "top_p": 0.5}
    assert json.loads(values["sampling_parameters"][0]) == sampling
    assert json.loads(values["chat_template_kwargs"][0]) == {"enable_thinking": False}
    assert triton.options[0]["stream_timeout"] > 9


def test_the_thought_goes_to_stderr_on_demand(
    triton: FakeTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--show-thinking", "Why?"]) == 0
    assert capsys.readouterr() == ("A red circle.\n", "hm\n")


def test_a_refusal_is_one_line_and_wrong_usage(
    triton: FakeTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    triton.script = [
        InferenceServerException(
            details("INVALID_ARG", "invalid_value", "not\nan image", param="image[0]")
        )
    ]
    assert main(["Why?"]) == 2
    assert capsys.readouterr() == ("", "error: image[0]: not an image\n")


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        ("UNAVAILABLE", FULL, "the server is overloaded, try again later ("),
        ("UNAVAILABLE", "no connection", "the server at 127.0.0.1:8001 is still loading (preproc"),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNKNOWN: x: Tls handshake failed (y)",
            "no TLS connection to 127.0.0.1:8001 with these certificates (failed",
        ),
        (
            "UNAVAILABLE",
            "failed to connect to all addresses; last error: UNAVAILABLE: x: Socket closed",
            "127.0.0.1:8001 closed the connection: it may use TLS, or ask for another certificate",
        ),
        ("INTERNAL", "a fault", "a fault\n"),
    ],
)
def test_a_failure_says_what_to_do(
    triton: FakeTriton, capsys: pytest.CaptureFixture[str], status: str, message: str, told: str
) -> None:
    triton.script = [rpc_error(grpc.StatusCode[status], message)]
    assert main(["Why?"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_a_server_that_is_not_there(triton: FakeTriton, capsys: pytest.CaptureFixture[str]) -> None:
    triton.reachable = False
    triton.script = [rpc_error(grpc.StatusCode.UNAVAILABLE, "connection refused")]
    assert main(["Why?"]) == 1
    assert "cannot reach Triton's gRPC endpoint at 127.0.0.1:8001" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--root-certificate", "missing.pem"], "missing.pem: No such file"),
        (["--certificate", "a", "--key", "b"], "certificate and key: need --root-certificate"),
        (["--root-certificate", "a", "--key", "b"], "certificate and key: give both or none"),
    ],
)
def test_wrong_options_for_tls(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["Why?", *options])
    assert stop.value.code == 2 and told in capsys.readouterr().err


def test_a_missing_picture_is_wrong_usage(
    triton: FakeTriton, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["nowhere.png", "Why?"]) == 2
    assert capsys.readouterr().err == "error: nowhere.png: No such file or directory\n"
    assert not triton.streams


BAD = [
    (["--max-tokens", "x"], "--max-tokens: invalid int value: 'x'"),
    (["--temperature", "nan"], "--temperature: 'nan' must be a finite number"),
    (["--timeout", "0"], "--timeout: '0' must be more than 0"),
    (["--url", "http://127.0.0.1:8001"], "--url: 'http://127.0.0.1:8001' must be host:port"),
    (["--url", "127.0.0.1"], "--url: '127.0.0.1' must be host:port"),
    (["--url", "127.0.0.1:99999"], "--url: '127.0.0.1:99999' must be host:port"),
    (["--system", "\udcff"], "--system: is not valid UTF-8"),
]


@pytest.mark.parametrize(("arguments", "told"), [*BAD, (["--bogus"], "arguments: --bogus")])
@pytest.mark.parametrize("command", [["Why?"], ["chat", "-p", "Why?"]])
def test_wrong_usage(
    command: list[str], arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, *arguments])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err


def test_no_question_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "QUESTION" in capsys.readouterr().err


def test_a_picture_without_a_question(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([picture])
    assert stop.value.code == 2
    assert "the question about" in capsys.readouterr().err


@pytest.mark.timing
def test_ctrl_c_cancels_the_request(triton: FakeTriton) -> None:
    triton.script = [None]

    def press() -> None:
        wait_until(lambda: triton.calls)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    assert main(["Why?"]) == 130
    pressing.join()
    assert triton.streams[0].given_up.is_set()
