"""The blocking client: ask about a picture, wait for the whole answer.

    python client/examples/sync_client.py

Prints, with the demo checkpoint::

    A red circle and a blue square.
    9 tokens for a prompt of 38, of which 20 are the picture's; finish reason: stop
"""

import argparse
import os
from pathlib import Path

from glm_client import Client, GenerationRequest

PICTURE = Path(__file__).parent / "pictures" / "circle-and-square.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("GLM_TRITON_URL", "127.0.0.1:8001")
    parser.add_argument("--url", default=default, help="Triton's gRPC endpoint (%(default)s)")
    url = parser.parse_args().url

    request = GenerationRequest(
        text_input="What is in this image?",
        images=[PICTURE.read_bytes()],
        chat_template_kwargs={"enable_thinking": False},
        sampling_parameters={"temperature": 0, "max_tokens": 64},
    )
    with Client(url, timeout=60) as client:
        answer = client.generate(request)
    print(answer.text)
    print(
        f"{answer.num_output_tokens} tokens for a prompt of {answer.num_input_tokens}, of which"
        f" {answer.num_image_tokens} are the picture's; finish reason: {answer.finish_reason}"
    )


if __name__ == "__main__":
    main()
