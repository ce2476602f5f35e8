"""The client library and its command line against the real stack."""

import subprocess
import sys

import pytest

from e2e.calls import PICTURES
from e2e.launching import ROOT, Stack
from glm_client import AsyncClient, Client, GenerationRequest, InvalidRequestError

REQUEST = GenerationRequest(
    text_input="What is in this image?",
    images=[(PICTURES / "photo-square.jpg").read_bytes()],
    sampling_parameters={"temperature": 0},
    chat_template_kwargs={"enable_thinking": False},
)


def _command(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "client", "--url", stack.grpc_url, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_command_line_prints_the_answer(stack: Stack) -> None:
    run = _command(
        stack, "--temperature", "0", str(PICTURES / "plot-42.png"), "What is in this image?"
    )
    assert (run.returncode, run.stdout) == (0, "The number 42.\n"), run.stderr


def test_the_command_line_names_a_missing_file(stack: Stack) -> None:
    run = _command(stack, "nowhere.png", "What is in this image?")
    assert run.returncode == 2 and "nowhere.png" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_synchronous_client(stack: Stack) -> None:
    with Client(stack.grpc_url) as client:
        assert client.generate(REQUEST).text == "A red square."
        assert "".join(delta.text for delta in client.stream(REQUEST)) == "A red square."


async def test_the_asynchronous_client(stack: Stack) -> None:
    async with AsyncClient(stack.grpc_url) as client:
        assert (await client.generate(REQUEST)).text == "A red square."
        assert "".join([delta.text async for delta in client.stream(REQUEST)]) == "A red square."
        with pytest.raises(InvalidRequestError) as caught:
            await client.generate(
                GenerationRequest(text_input="x", sampling_parameters={"max_tokens": 0})
            )
        assert caught.value.param == "sampling_parameters.max_tokens"
