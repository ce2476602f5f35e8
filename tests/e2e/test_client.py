"""The client library and its command line against the real stack."""

import subprocess
import sys

import pytest
from PIL import Image

from e2e.calls import PICTURES
from glm_client import AsyncClient, Client, GenerationRequest, InvalidRequestError
from tools.stack import ROOT, Stack

REQUEST = GenerationRequest(
    text_input="What is in this image?",
    images=[(PICTURES / "photo-square.jpg").read_bytes()],
    sampling_parameters={"temperature": 0},
    chat_template_kwargs={"enable_thinking": False},
)


def _command(stack: Stack, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "client", "--url", stack.grpc_url, *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
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


def test_a_prompt_in_tokens(stack: Stack) -> None:
    picture = (PICTURES / "photo-star.jpg").read_bytes()
    with Client(stack.grpc_url) as client, Image.open(PICTURES / "photo-star.jpg") as image:
        request = GenerationRequest(text_input="What is it?", images=[picture])
        tokens = client.tokenize(request, token_texts=True)
        generation = client.generate(request)
        assert len(tokens.token_ids) == generation.num_input_tokens
        assert tokens.image_sizes == (image.size,)
        assert tokens.token_texts.count("<|image|>") == generation.num_image_tokens
        again = client.tokenize(GenerationRequest(prompt_token_ids=[5, 6]))
        assert again.token_ids == (5, 6) and again.token_texts == ()
        with pytest.raises(InvalidRequestError) as caught:
            client.tokenize(GenerationRequest(prompt_token_ids=[-1]))
        assert caught.value.param == "prompt_token_ids[0]"
