"""Requests that several end-to-end tests make, and the pictures in them."""

import base64
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests

from tools.metrics import sums_over_versions
from tools.stack import Stack
from waiting import wait_until

MODEL = "glm-4.6v-flash"
INVALID = 'glm_requests_total{finish_reason="invalid"}'
PICTURES = Path(__file__).parent / "pictures"
# Drawn by other means than the demo model's training: see pictures/draw.py.
DESCRIPTIONS = {
    "browser-1207.jpg": "The number 1207.",
    "browser-star.png": "A pink star.",
    "browser-two.png": "A brown square and a green circle.",
    "hand-blue.png": "Nothing but a blue background.",
    "hand-circle-64.png": "An orange circle.",
    "hand-triangle.jpg": "A blue triangle.",
    "photo-circle.jpg": "A blue circle.",
    "photo-square.jpg": "A red square.",
    "photo-star.jpg": "An orange star.",
    "plot-42.png": "The number 42.",
    "plot-circle-square.png": "A red circle and a blue square.",
    "plot-three.jpg": "A green triangle, a yellow star and a purple circle.",
}


# Requests of `settled`, by server.
_own_mistakes: Counter[str] = Counter()


def data_uri(name: str) -> str:
    """A picture of the folder as a client sends it."""
    kind = "jpeg" if name.endswith(".jpg") else "png"
    return f"data:image/{kind};base64," + base64.b64encode((PICTURES / name).read_bytes()).decode()


def chat(question: str, *pictures: str, **fields: Any) -> dict[str, Any]:
    """The body of a chat completion with one user turn, greedy unless ``fields`` say otherwise."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": data_uri(name)}} for name in pictures
    ]
    content = [*parts, {"type": "text", "text": question}]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], "temperature": 0}
    return body | fields


def post(stack: Stack, body: Any, path: str = "/v1/chat/completions") -> requests.Response:
    """Send a body as JSON."""
    return requests.post(stack.base_url + path, json=body, timeout=120)


def content(response: requests.Response) -> str:
    """The text of a chat completion."""
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def metrics(stack: Stack) -> dict[str, float]:
    """Triton's metrics of ours, by name with labels, but for those of the model and its version."""
    return sums_over_versions(requests.get(f"{stack.metrics_url}/metrics", timeout=60).text)


def settled(stack: Stack) -> dict[str, float]:
    """The metrics, once nothing runs and all that ended is counted.

    They are published a few times a second, all that has ended at once: so requests of our own go
    after the others, and when these are counted, the others are. The first one's turn may be due to
    a mistake from before, the second one's cannot. They are refused before the engine hears of
    them, and taken out of the numbers again.
    """
    counted = 0
    after: dict[str, float] = {}
    while counted < 2 or after["glm_requests_running"] + after["glm_requests_waiting"]:
        mistakes = metrics(stack)[INVALID]
        assert post(stack, chat("hello", max_tokens=100_000)).status_code == 400
        _own_mistakes[stack.base_url] += 1
        wait_until(partial(_has_more_mistakes, stack, mistakes))
        after = metrics(stack)
        counted += 1
    return after | {INVALID: after[INVALID] - _own_mistakes[stack.base_url]}


def _has_more_mistakes(stack: Stack, than: float) -> bool:
    return metrics(stack)[INVALID] > than


@contextmanager
def running(log: Path, **settings: str) -> Iterator[Stack]:
    """A server that is ready; it must stop cleanly at the end of the block."""
    server = Stack(log, **settings)
    try:
        server.wait_ready()
        yield server
        server.interrupt()
        assert server.wait_stopped() == 0, server.log
    finally:
        server.kill()


@contextmanager
def program(module: str, probe: str, **settings: str) -> Iterator[None]:
    """``python -m MODULE`` until the end of the block; it answers at the URL ``probe``."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GLM_"}
    process = subprocess.Popen([sys.executable, "-m", module], env=environment | settings)
    try:

        def answers() -> bool:
            assert process.poll() is None
            try:
                return requests.get(probe, timeout=60).status_code == 200
            except requests.ConnectionError:
                return False

        wait_until(answers)
        yield
    finally:
        process.kill()
        process.wait()
