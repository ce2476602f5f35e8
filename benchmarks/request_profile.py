"""``make profile``: where the time of one request goes, from the first byte sent to its last token.

One request at a time against a running server, each with a new picture: over HTTP as an OpenAI
client sends it, and over gRPC as a direct Triton client does. What the engine itself says, in
Triton's metrics, is taken off, so what is left of each is the way there and back.
"""

import argparse
import asyncio
import base64
import statistics
import sys
import time
from pathlib import Path

import httpx2

from glm_client import Client, GenerationRequest
from tools.load import QUESTION, Server, ask, picture
from tools.metrics import sums_over_versions
from tools.report import ROOT, report

# What happens within stage 2, in order.
PARTS = ("preprocessing", "queue", "vision", "prefill")


def sums(metrics_url: str) -> dict[str, float]:
    """Sums and counts of the engine's histograms."""
    time.sleep(0.6)  # they are published a few times a second
    return sums_over_versions(httpx2.get(f"{metrics_url}/metrics", trust_env=False).text)


async def over_http(server: Server, bodies: list[bytes]) -> list[tuple[float, float]]:
    """(time to first token, time to the last) of each body, in seconds."""
    times = []
    async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
        for body in bodies:
            answer = await ask(client, f"{server.url}/v1/chat/completions", body)
            times.append((answer.ttft, answer.total))
    return times


def over_grpc(address: str, uris: list[str], tokens: int) -> list[tuple[float, float]]:
    """The same by the gRPC client."""
    times = []
    with Client(address) as client:
        for uri in uris:
            image = base64.b64decode(uri.partition(",")[2])
            sampling = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            request = GenerationRequest(
                text_input=QUESTION, images=[image], sampling_parameters=sampling
            )
            began = time.perf_counter()
            stamps = [time.perf_counter() for delta in client.stream(request) if delta.text]
            times.append((stamps[0] - began, stamps[-1] - began))
    return times


def main() -> int:
    """Measure, print the table, write it to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.request_profile")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--grpc", default="127.0.0.1:8001")
    parser.add_argument("--metrics", default="http://127.0.0.1:8002")
    parser.add_argument("--model", default="glm-4.6v-flash")
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/profile.md")
    arguments = parser.parse_args()
    count, first = arguments.requests, time.time_ns() % 10**9
    uris = [picture(first + index) for index in range(2 * count + 40)]
    server = Server(arguments.url, arguments.model)
    bodies = [server.body(uri, arguments.tokens) for uri in uris[: count + 20]]
    asyncio.run(over_http(server, bodies[:20]))  # warms up
    before = sums(arguments.metrics)
    http = asyncio.run(over_http(server, bodies[20:]))
    after = sums(arguments.metrics)
    over_grpc(arguments.grpc, uris[count + 20 : count + 40], arguments.tokens)
    grpc = over_grpc(arguments.grpc, uris[count + 40 :], arguments.tokens)

    def mean(name: str) -> float:
        key = f"glm_{name}_seconds"
        gained = after[f"{key}_count"] - before[f"{key}_count"]
        return 1e3 * (after[f"{key}_sum"] - before[f"{key}_sum"]) / max(1, gained)

    parts = {name: mean(name) for name in PARTS}
    parts["prefill"] -= parts["vision"]  # which the engine counts as a part of it
    http_first, grpc_first = (1e3 * statistics.mean(t for t, _ in times) for times in (http, grpc))
    http_last, grpc_last = (1e3 * statistics.mean(t for _, t in times) for times in (http, grpc))
    in_stage_2 = mean("time_to_first_token")
    token = mean("time_per_output_token")
    decode = (http_last - http_first) / (arguments.tokens - 1)
    rows = [
        ("HTTP, JSON, SSE: frontend and client", http_first - grpc_first),
        ("gRPC and Triton to stage 2 and back", grpc_first - in_stage_2),
        ("stage 1 and the way there (BLS)", parts["preprocessing"]),
        ("engine's queue", parts["queue"]),
        ("vision encoder", parts["vision"]),
        ("prefill to the first token", parts["prefill"]),
        ("**time to first token over HTTP**", http_first),
        ("a token, as the engine makes it", token),
        ("a token, as the HTTP client gets it", decode),
        (f"**all {arguments.tokens} tokens over HTTP**", http_last),
        (f"all {arguments.tokens} tokens over gRPC", grpc_last),
    ]
    lines = ["| part | mean ms |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in rows]
    report(arguments.output, "One request", f"{count} requests", __doc__, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
