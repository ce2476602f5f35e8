"""Streaming: the answer piece by piece, its thought apart, a second turn about the same picture.

    python client/examples/streaming.py

Prints, with the demo checkpoint, each piece as it comes::

    thought: A red circle and a blue square.
    answer: A red circle and a blue square.
    thought: A red circle and a blue square.
    answer: The square is blue.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from glm_client import Client, GenerationRequest

PICTURE = Path(__file__).parent / "pictures" / "circle-and-square.png"


def ask(client: Client, messages: list[dict[str, Any]]) -> str:
    """Print thought and answer while they come; returns the answer."""
    request = GenerationRequest(
        messages=messages,
        images=[PICTURE.read_bytes()],  # one for each part {"type": "image"}
        sampling_parameters={"temperature": 0},
        return_events=True,  # thought and answer apart, instead of one text with tags
    )
    part, answer = "", ""
    for delta in client.stream(request):
        for name, text in (("thought", delta.reasoning), ("answer", delta.content)):
            if text and name != part:
                print(f"{chr(10) if part else ''}{name}: ", end="")
                part = name
            print(text, end="", flush=True)
        answer += delta.content
    print()
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("GLM_TRITON_URL", "127.0.0.1:8001")
    parser.add_argument("--url", default=default, help="Triton's gRPC endpoint (%(default)s)")
    url = parser.parse_args().url

    question = {"type": "text", "text": "What is in this image?"}
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "image"}, question]}]
    with Client(url, timeout=60) as client:
        answer = ask(client, messages)
        messages += [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "What color is the square?"},
        ]
        ask(client, messages)


if __name__ == "__main__":
    main()
