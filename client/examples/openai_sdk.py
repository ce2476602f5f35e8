"""OpenAI's SDK: a picture and a stream, a thought, an object of a class, an error.

    pip install openai
    python client/examples/openai_sdk.py

Prints, with the demo checkpoint::

    A red circle and a blue square.
    thought: A red circle and a blue square.
    shapes=[Shape(colour='red', shape='circle'), Shape(colour='blue', shape='square')]
    refused: messages[0].content[0].image_url.url
"""

import argparse
import base64
import os
from pathlib import Path
from typing import Any, Literal

from openai import BadRequestError, OpenAI
from pydantic import BaseModel

MODEL = "glm-4.6v-flash"
PICTURE = Path(__file__).parent / "pictures" / "circle-and-square.png"


class Shape(BaseModel):
    colour: str
    shape: Literal["circle", "square", "triangle", "star"]


class Scene(BaseModel):
    shapes: list[Shape]


def question(url: str) -> list[Any]:
    text = {"type": "text", "text": "What is in this image?"}
    return [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, text]},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("GLM_URL", "http://127.0.0.1:8000")
    parser.add_argument("--url", default=default, help="the server (%(default)s)")
    url = parser.parse_args().url
    messages = question("data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode())

    # The SDK retries by itself if the server is overloaded (429) or unavailable (503).
    key = os.environ.get("GLM_API_KEY", "none")
    with OpenAI(base_url=f"{url}/v1", api_key=key, timeout=60, max_retries=3) as client:
        with client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, reasoning_effort="none", stream=True
        ) as stream:  # leaving `with` before the end cancels the request
            for chunk in stream:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()

        answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
        print("thought:", getattr(answer.choices[0].message, "reasoning_content", None))

        parsed = client.chat.completions.parse(
            model=MODEL, messages=messages, temperature=0, response_format=Scene
        )
        print(parsed.choices[0].message.parsed)

        try:
            client.chat.completions.create(
                model=MODEL, messages=question("data:image/png;base64,AAAA")
            )
        except BadRequestError as error:
            print("refused:", error.param)


if __name__ == "__main__":
    main()
