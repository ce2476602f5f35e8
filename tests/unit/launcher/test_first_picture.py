import base64
import io
import json
import shlex
from collections.abc import Callable

import httpx2
import pytest
from PIL import Image

from launcher.errors import LaunchError
from launcher.first_picture import ask, chat_request, curl_command


def client(answer: Callable[[httpx2.Request], httpx2.Response]) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.MockTransport(answer), base_url="http://test")


def completion(**message: str | None) -> httpx2.Response:
    return httpx2.Response(200, json={"choices": [{"message": message}]})


def test_the_request_carries_a_picture_of_a_red_circle() -> None:
    url = chat_request("m")["messages"][0]["content"][1]["image_url"]["url"]
    header, data = url.split(",")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert header == "data:image/png;base64"
    assert picture.format == "PNG"
    assert picture.getpixel((64, 64)) == (220, 30, 30)
    assert picture.getpixel((2, 2)) == (255, 255, 255)


def test_the_shell_command_is_the_same_request() -> None:
    words = shlex.split(curl_command("http://127.0.0.1:8000", "m", with_key=True))
    assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
    assert "Authorization: Bearer YOUR_KEY" in words
    assert json.loads(words[words.index("-d") + 1]) == chat_request("m")
    assert "Authorization" not in curl_command("http://127.0.0.1:8000", "m", with_key=False)


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ({"content": "A red circle."}, "A red circle."),
        ({"content": "", "reasoning_content": "A picture"}, "A picture"),
        ({"content": None}, "(an empty answer)"),
    ],
)
async def test_answer(message: dict[str, str | None], answer: str) -> None:
    assert await ask(client(lambda request: completion(**message)), "m") == answer


async def test_an_error_is_told_with_status_and_body() -> None:
    failing = client(lambda request: httpx2.Response(503, text="generation is loading"))
    with pytest.raises(LaunchError, match="HTTP 503: generation is loading"):
        await ask(failing, "m")


async def test_a_broken_connection_is_told() -> None:
    def break_off(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("gone")

    with pytest.raises(LaunchError, match=r"not answered: .*gone"):
        await ask(client(break_off), "m")
