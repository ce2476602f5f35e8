"""tritonclient alone, without our library: raw tensors, a decoupled stream, a request given up.

    python client/examples/direct_tritonclient.py

Prints, with the demo checkpoint::

    A red circle and a blue square.
    finish reason: stop, tokens: 9
    given up after 5 pieces: the request was cancelled [CANCELLED]

The tensors are described in model_repository/generation/config.pbtxt and client/README.md.
"""

import argparse
import json
import os
import queue
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

PICTURE = Path(__file__).parent / "pictures" / "circle-and-square.png"
TIMEOUT = 60.0


def text(name: str, *values: bytes) -> InferInput:
    tensor = InferInput(name, [len(values)], "BYTES")
    return tensor.set_data_from_numpy(np.array(values, dtype=np.object_))


def flag(name: str, value: bool) -> InferInput:
    return InferInput(name, [1], "BOOL").set_data_from_numpy(np.array([value]))


def responses(arrived: "queue.Queue[tuple[Any, Any]]") -> Iterator[dict[str, Any]]:
    """All responses to one request, each as {output name: value}.

    A decoupled model answers one request by any number of responses; the last is marked.

    Raises:
        InferenceServerException: what the request ended in.
    """
    while True:
        result, error = arrived.get(timeout=TIMEOUT)
        if error is not None:
            raise error
        response = result.get_response()
        outputs = {output.name: result.as_numpy(output.name)[0] for output in response.outputs}
        if outputs:
            yield outputs
        if response.parameters["triton_final_response"].bool_param:
            return


def ask(client: InferenceServerClient, arrived: "queue.Queue[tuple[Any, Any]]") -> None:
    """An answer, streamed."""
    client.async_stream_infer(
        "generation",
        [
            text("text_input", b"What is in this image?"),
            text("image", PICTURE.read_bytes()),  # the file as it is; or base64, or a data URI
            text("chat_template_kwargs", json.dumps({"enable_thinking": False}).encode()),
            text("sampling_parameters", json.dumps({"temperature": 0}).encode()),
            flag("stream", True),
            flag("return_finish_reason", True),
            flag("return_num_output_tokens", True),
        ],
        enable_empty_final_response=True,
    )
    tokens, finish_reason = 0, b""
    for piece in responses(arrived):
        print(piece["text_output"].decode(), end="", flush=True)  # never half a character
        tokens += int(piece["num_output_tokens"])  # of this piece
        finish_reason = piece["finish_reason"]  # empty until the last piece
    print(f"\nfinish reason: {finish_reason.decode()}, tokens: {tokens}")


def give_up(client: InferenceServerClient, arrived: "queue.Queue[tuple[Any, Any]]") -> None:
    """A long answer, given up after five pieces.

    Not by ``stop_stream(cancel_requests=True)``: Triton 24.10 crashes over that once in some
    thousand times. A request names a secret ``cancel_key``; another one, whose only input is
    ``cancel`` with that key, ends it. That one has no response itself.
    """
    key = secrets.token_bytes(16)
    client.async_stream_infer(
        "generation",
        [
            text("text_input", b"Who are you?"),
            text("sampling_parameters", b'{"ignore_eos": true, "max_tokens": 4000}'),
            text("cancel_key", key),
            flag("stream", True),
        ],
        enable_empty_final_response=True,
    )
    try:
        for count, _ in enumerate(responses(arrived), start=1):
            if count == 5:
                client.async_stream_infer("generation", [text("cancel", key)])
    except InferenceServerException as error:
        print(f"given up after 5 pieces: {error.message()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("GLM_TRITON_URL", "127.0.0.1:8001")
    parser.add_argument("--url", default=default, help="Triton's gRPC endpoint (%(default)s)")
    arrived: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with InferenceServerClient(parser.parse_args().url) as client:
        client.start_stream(lambda result, error: arrived.put((result, error)))
        ask(client, arrived)
        give_up(client, arrived)
        client.stop_stream()


if __name__ == "__main__":
    main()
