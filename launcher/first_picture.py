"""A smoke test after every start: asks about a drawn picture over HTTP."""

import base64
import io
import json
from typing import Any

import httpx2
from PIL import Image, ImageDraw

from launcher.errors import LaunchError

QUESTION = "What is in this image?"


def draw_picture() -> bytes:
    """A red circle on white, as a PNG file."""
    picture = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(picture).ellipse((32, 32, 96, 96), fill=(220, 30, 30))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()


def chat_request(model: str) -> dict[str, Any]:
    """The body of a chat completion that asks about the drawn picture."""
    url = "data:image/png;base64," + base64.b64encode(draw_picture()).decode()
    content = [
        {"type": "text", "text": QUESTION},
        {"type": "image_url", "image_url": {"url": url}},
    ]
    return {"model": model, "messages": [{"role": "user", "content": content}]}


async def ask(client: httpx2.AsyncClient, model: str) -> str:
    """Return the answer about the drawn picture; raises LaunchError if the request fails."""
    try:
        response = await client.post("/v1/chat/completions", json=chat_request(model))
    except httpx2.TransportError as error:
        raise LaunchError(
            f"smoke test failed: the first picture was not answered: {error!r}"
        ) from error
    if response.status_code != 200:
        raise LaunchError(
            f"smoke test failed: the first picture was not answered: "
            f"HTTP {response.status_code}: {response.text}"
        )
    message = response.json()["choices"][0]["message"]
    # A thinking model may use up all its tokens for that.
    return str(message["content"] or message.get("reasoning_content") or "(an empty answer)")


def curl_command(base_url: str, model: str, with_key: bool) -> str:
    """The same request as a curl command, in one line."""
    words = [f"curl {base_url}/v1/chat/completions", "-H 'Content-Type: application/json'"]
    if with_key:
        words.append("-H 'Authorization: Bearer YOUR_KEY'")
    words.append(f"-d '{json.dumps(chat_request(model))}'")
    return " ".join(words)
