"""The asyncio client: several questions at once over one connection.

    python client/examples/async_client.py

Prints, with the demo checkpoint::

    circle-and-square.png: A red circle and a blue square.
    number.png: The number 37.
    star.png: An orange star.
    triangle.png: A green triangle.
"""

import argparse
import asyncio
import os
from pathlib import Path

from glm_client import AsyncClient, GenerationRequest

PICTURES = sorted((Path(__file__).parent / "pictures").glob("*.png"))


async def describe(client: AsyncClient, picture: Path) -> str:
    request = GenerationRequest(
        text_input="What is in this image?",
        images=[picture.read_bytes()],
        chat_template_kwargs={"enable_thinking": False},
        sampling_parameters={"temperature": 0},
    )
    return (await client.generate(request, timeout=60)).text


async def ask_all(url: str) -> None:
    async with AsyncClient(url) as client:
        answers = await asyncio.gather(*(describe(client, picture) for picture in PICTURES))
    for picture, answer in zip(PICTURES, answers, strict=True):
        print(f"{picture.name}: {answer}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("GLM_TRITON_URL", "127.0.0.1:8001")
    parser.add_argument("--url", default=default, help="Triton's gRPC endpoint (%(default)s)")
    asyncio.run(ask_all(parser.parse_args().url))


if __name__ == "__main__":
    main()
