"""HTTP by requests alone: health, an answer, a stream of server-sent events, a form with a file.

    pip install requests
    python client/examples/plain_requests.py

Prints, with the demo checkpoint::

    health: ok
    A red circle and a blue square. (9 tokens)
    A red circle and a blue square.
    An orange star.
"""

import argparse
import base64
import json
import os
import time
from pathlib import Path
from typing import Any

import requests

MODEL = "glm-4.6v-flash"
PICTURES = Path(__file__).parent / "pictures"
TRIES = 4


def post(url: str, **arguments: Any) -> requests.Response:
    """POST, and again where the server says that it is full (429) or away (503)."""
    key = os.environ.get("GLM_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    for attempt in range(TRIES):
        response = requests.post(url, headers=headers, timeout=60, **arguments)
        if response.status_code not in (429, 503) or attempt == TRIES - 1:
            break
        time.sleep(float(response.headers.get("Retry-After", 2**attempt)))
    if not response.ok:  # errors have OpenAI's form, and name the field
        error = response.json()["error"]
        raise SystemExit(f"{response.status_code}: {error['param']}: {error['message']}")
    return response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("GLM_URL", "http://127.0.0.1:8000")
    parser.add_argument("--url", default=default, help="the server (%(default)s)")
    url = parser.parse_args().url

    print("health:", requests.get(f"{url}/v1/health", timeout=10).json()["status"])

    picture = base64.b64encode((PICTURES / "circle-and-square.png").read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": "What is in this image?"},
    ]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    answer = post(f"{url}/v1/chat/completions", json=body).json()
    tokens = answer["usage"]["completion_tokens"]
    print(f"{answer['choices'][0]['message']['content']} ({tokens} tokens)")

    with post(f"{url}/v1/chat/completions", json=body | {"stream": True}, stream=True) as response:
        for line in response.iter_lines():
            data = line.removeprefix(b"data: ")
            if data == line or data == b"[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:  # it broke off after the stream had begun
                raise SystemExit(event["error"]["message"])
            print(event["choices"][0]["delta"].get("content") or "", end="", flush=True)
    print()

    with (PICTURES / "star.png").open("rb") as file:
        form = {"prompt": "What is in this image?", "temperature": "0"}
        url += "/v1/multi-modal/inference"
        print(post(url, data=form, files={"image": file}).json()["text"])


if __name__ == "__main__":
    main()
