"""The examples of client/examples as their readers run them: they print what they promise."""

import ast
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from e2e.calls import PICTURES, metrics, settled
from glm_client import AsyncClient, GenerationRequest, OverloadedError
from tools.stack import ROOT, Stack
from waiting import until, wait_until

EXAMPLES = ROOT / "client" / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
ANSWERS = {
    "circle-and-square.png": "A red circle and a blue square.",
    "number.png": "The number 37.",
    "star.png": "An orange star.",
    "triangle.png": "A green triangle.",
}


def _environment(stack: Stack) -> dict[str, str]:
    return os.environ | {
        "GLM_URL": stack.base_url,
        "GLM_TRITON_URL": stack.grpc_url,
        "GLM_TRITON_HTTP_URL": stack.triton_http_url,
    }


def _run(stack: Stack, folder: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=folder, env=_environment(stack), capture_output=True, text=True, timeout=120
    )


def _promise(script: str) -> str:
    """The output that a script's docstring tells: its last indented block."""
    docstring = ast.get_docstring(ast.parse((EXAMPLES / script).read_text(encoding="utf-8")))
    blocks = re.findall(r"::\n\n((?: {4}.*\n?)+)", f"{docstring}\n")
    return textwrap.dedent(blocks[-1])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_prints_what_it_promises(stack: Stack, script: str, tmp_path: Path) -> None:
    run = _run(stack, tmp_path, sys.executable, str(EXAMPLES / script))
    assert run.returncode == 0, run.stderr
    assert run.stdout == _promise(script)


def test_the_direct_example_needs_tritonclient_alone() -> None:
    source = (EXAMPLES / "direct_tritonclient.py").read_text(encoding="utf-8")
    assert "import glm_client" not in source and "from glm_client" not in source


def test_curl_streams_from_triton(stack: Stack, tmp_path: Path) -> None:
    run = _run(stack, tmp_path, str(EXAMPLES / "generate_stream.sh"))
    assert run.returncode == 0, run.stderr
    events = [json.loads(line[6:]) for line in run.stdout.splitlines() if line]
    text = "".join(event["text_output"] for event in events)
    assert text == ANSWERS["circle-and-square.png"]
    # On a busy machine a short answer may come in one piece.
    assert [event["finish_reason"] for event in events if event["finish_reason"]] == ["stop"]
    bad = _run(
        stack, tmp_path, str(EXAMPLES / "generate_stream.sh"), stack.triton_http_url, __file__
    )
    assert bad.returncode == 22 and "image[0]: not a readable image" in bad.stdout


def _batch(*arguments: str) -> list[str]:
    return [sys.executable, str(EXAMPLES / "batch_folder.py"), *arguments]


def _lines(output: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.timing
def test_a_batch_goes_on_where_it_was_interrupted(stack: Stack, tmp_path: Path) -> None:
    """Ctrl-C in the middle, then a line that was cut; nothing is asked twice, nothing is lost."""
    folder, output = tmp_path / "folder", tmp_path / "answers.jsonl"
    folder.mkdir()
    for number in range(400):
        name = sorted(ANSWERS)[number % len(ANSWERS)]
        (folder / f"{number:03}-{name}").write_bytes((EXAMPLES / "pictures" / name).read_bytes())
    command = _batch("--folder", str(folder), "--output", str(output), "--concurrency", "2")
    # However the tests were started: a shell's background job ignores SIGINT.
    heeding = ["env", "--default-signal=INT", *command]
    with subprocess.Popen(heeding, env=_environment(stack), stderr=subprocess.PIPE) as process:
        wait_until(lambda: output.exists() and len(output.read_bytes().splitlines()) > 3)
        process.send_signal(signal.SIGINT)
        _, progress = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"/400" in progress and b"run it again" in progress
    first = len(_lines(output))
    assert 3 < first < 400
    with output.open("a") as file:
        file.write('{"file": "399-')
    run = _run(stack, tmp_path, *command)
    assert run.returncode == 0, run.stderr
    assert f"{400 - first} answered, 0 failed, {first} were there before" in run.stdout
    lines = _lines(output)
    assert len(lines) == 400
    assert {line["file"]: line["answer"] for line in lines} == {
        path.name: ANSWERS[path.name[4:]] for path in folder.iterdir()
    }


def test_a_batch_keeps_errors_and_asks_again_for_those_alone(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "good.png").write_bytes((PICTURES / "plot-42.png").read_bytes())
    command = _batch("--folder", str(tmp_path))
    run = _run(stack, tmp_path, *command)
    assert run.returncode == 1 and "1 answered, 1 failed, 0 were there before" in run.stdout
    lines = {line["file"]: line for line in _lines(tmp_path / "answers.jsonl")}
    assert lines["good.png"]["answer"] == "The number 42."
    assert lines["bad.png"]["error"].startswith("InvalidRequestError: image[0]: not a")
    (tmp_path / "bad.png").write_bytes((PICTURES / "plot-42.png").read_bytes())
    run = _run(stack, tmp_path, *command)
    assert run.returncode == 0 and "1 answered, 0 failed, 1 were there before" in run.stdout


@pytest.mark.timing
async def test_a_full_server_is_told_and_waited_for(stack: Stack, tmp_path: Path) -> None:
    """More long requests than may run and wait: the chat says so, the batch comes back later."""

    rejected = 'glm_requests_total{finish_reason="rejected"}'
    before = settled(stack)[rejected]

    def refused() -> float:
        return metrics(stack)[rejected] - before

    async def start(*command: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=_environment(stack), stdout=-1, stderr=-1
        )

    long = GenerationRequest(
        text_input="Who are you?", sampling_parameters={"ignore_eos": True, "max_tokens": 4000}
    )
    async with AsyncClient(stack.grpc_url) as client:
        crowd = [asyncio.create_task(client.generate(long)) for _ in range(330)]
        await until(lambda: any(one.done() for one in crowd))
        chat = await start(sys.executable, "-m", "client", "chat", "-p", "hi")
        said = await chat.communicate()
        assert (chat.returncode, said[0]) == (1, b"")
        assert said[1].startswith(b"error: the server is overloaded, try again later (queue full: ")
        # Those of the crowd, and the chat: when they are counted, the next is the batch.
        known = 1.0 + sum(one.done() for one in crowd)
        await asyncio.to_thread(wait_until, lambda: refused() >= known)
        known = refused()
        batch = await start(*_batch("--output", str(tmp_path / "answers.jsonl")))
        await asyncio.to_thread(wait_until, lambda: refused() > known)
        for one in crowd:
            one.cancel()
        ended = await asyncio.gather(*crowd, return_exceptions=True)
        assert {type(end) for end in ended} <= {asyncio.CancelledError, OverloadedError}
        said = await batch.communicate()
        assert b"4 answered, 0 failed" in said[0], said


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--concurrency", "0"], "--concurrency: must be at least 1"),
        (["--timeout", "nan"], "--timeout: must be more than 0"),
        (["--folder", "nowhere"], "--folder: nowhere is not a folder"),
        (["--output", __file__], "holds something else than answers"),
    ],
)
def test_a_batch_refuses_bad_arguments(
    stack: Stack, arguments: list[str], error: str, tmp_path: Path
) -> None:
    run = _run(stack, tmp_path, *_batch(*arguments))
    assert run.returncode == 2 and error in run.stderr, run.stderr
