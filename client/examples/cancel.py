"""Three ways to give an answer up. The server stops at once, and frees the request's memory.

    python client/examples/cancel.py

Prints::

    left the stream after 5 pieces
    cancelled from another thread: the request was cancelled
    too late: the answer took more than 0.2 s
"""

import argparse
import os
import threading

from glm_client import Client, DeadlineExceededError, GenerationRequest, RequestCancelledError

# An answer that would take thousands of tokens, so that there is something to cancel.
LONG = GenerationRequest(
    text_input="Who are you?", sampling_parameters={"ignore_eos": True, "max_tokens": 4000}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("GLM_TRITON_URL", "127.0.0.1:8001")
    parser.add_argument("--url", default=default, help="Triton's gRPC endpoint (%(default)s)")
    url = parser.parse_args().url

    with Client(url) as client:
        with client.stream(LONG) as deltas:
            for count, _ in enumerate(deltas, start=1):
                if count == 5:
                    break
        print("left the stream after 5 pieces")  # leaving `with` cancels

        deltas = client.stream(LONG)
        threading.Timer(0.2, deltas.cancel).start()
        try:
            for _ in deltas:
                pass
        except RequestCancelledError as error:
            print(f"cancelled from another thread: {error}")

        try:
            client.generate(LONG, timeout=0.2)
        except DeadlineExceededError as error:
            print(f"too late: {error}")


if __name__ == "__main__":
    main()
