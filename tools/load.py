"""A closed-loop load of streamed chat completions, each with a picture of its own and a question.

Against any OpenAI server: ``python -m tools.load http://127.0.0.1:8000 --model NAME``.
"""

import argparse
import asyncio
import base64
import io
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx2
import numpy as np
from PIL import Image

QUESTION = "What is in the picture? Answer in one short sentence."
SIDE = 224


def picture(seed: int, side: int = SIDE, kind: Literal["png", "jpeg"] = "png") -> str:
    """:func:`picture_file` in a data URI."""
    return f"data:image/{kind};base64," + base64.b64encode(picture_file(seed, side, kind)).decode()


def picture_file(seed: int, side: int, kind: Literal["png", "jpeg"] = "png") -> bytes:
    """Waves, ``side`` pixels square, no two seeds alike; 88 KiB as PNG and 9 as JPEG with 224."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    waves = [
        np.sin(random.uniform(6, 38) * x + random.uniform(6, 38) * y + random.uniform(0, 6.28))
        for _ in range(3)
    ]
    pixels = (127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, compress_level=1)
    return buffer.getvalue()


@dataclass
class Server:
    """Where the load goes.

    Attributes:
        fields: what this server needs in every body besides, or instead (None: left out).
        keep_alive: whether connections are used again.
    """

    url: str
    model: str
    fields: dict[str, Any] = field(default_factory=dict)
    keep_alive: bool = True

    def body(self, uri: str, max_tokens: int) -> bytes:
        """One request with one picture."""
        parts = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": QUESTION},
        ]
        return self.chat([{"role": "user", "content": parts}], max_tokens)

    def chat(self, messages: list[dict[str, Any]], max_tokens: int) -> bytes:
        """One streamed request for an exact number of tokens."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }
        return json.dumps({key: value for key, value in body.items() if value is not None}).encode()


@dataclass(frozen=True)
class Answer:
    """One answered request; times in seconds."""

    ttft: float
    tpot: float
    total: float
    tokens: int


@dataclass(frozen=True)
class Result:
    """What a load gave; times in milliseconds."""

    concurrency: int
    requests: int
    errors: int
    requests_per_second: float
    tokens_per_second: float
    ttft_p50: float
    ttft_p95: float
    tpot_p50: float
    total_p50: float
    first_error: str = ""


async def ask(client: httpx2.AsyncClient, url: str, body: bytes) -> Answer:
    """Send one request and take the answer as it comes.

    Raises:
        RuntimeError: the server answered with an error, or without text or usage.
    """
    began = time.perf_counter()
    first = last = 0.0
    usage: dict[str, Any] | None = None
    headers = {"content-type": "application/json"}
    async with client.stream("POST", url, content=body, headers=headers) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code} {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(line[:200])
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", []):
                delta = choice.get("delta", {})
                if delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
                    last = time.perf_counter()
                    first = first or last
    if not first or usage is None:
        raise RuntimeError("an answer without text or usage")
    tokens = int(usage["completion_tokens"])
    return Answer(first - began, (last - first) / max(1, tokens - 1), last - began, tokens)


async def load(
    server: Server, concurrency: int, seconds: float, uris: Iterator[str], max_tokens: int = 64
) -> Result:
    """Keep a constant number of requests running for some time."""
    answers: list[Answer] = []
    errors: list[str] = []
    url = f"{server.url}/v1/chat/completions"
    limits = httpx2.Limits(
        max_connections=concurrency,
        max_keepalive_connections=concurrency if server.keep_alive else 0,
    )
    began = time.perf_counter()
    async with httpx2.AsyncClient(timeout=300, limits=limits, trust_env=False) as client:

        async def work() -> None:
            while time.perf_counter() - began < seconds:
                try:
                    answers.append(await ask(client, url, server.body(next(uris), max_tokens)))
                except (RuntimeError, httpx2.HTTPError) as error:
                    errors.append(repr(error))

        await asyncio.gather(*(work() for _ in range(concurrency)))
    elapsed = time.perf_counter() - began
    if not answers:
        raise RuntimeError(f"no answer at all: {errors[:1]}")
    return Result(
        concurrency=concurrency,
        requests=len(answers),
        errors=len(errors),
        requests_per_second=len(answers) / elapsed,
        tokens_per_second=sum(answer.tokens for answer in answers) / elapsed,
        ttft_p50=1e3 * statistics.median(answer.ttft for answer in answers),
        ttft_p95=1e3 * _percentile([answer.ttft for answer in answers], 95),
        tpot_p50=1e3 * statistics.median(answer.tpot for answer in answers),
        total_p50=1e3 * statistics.median(answer.total for answer in answers),
        first_error=errors[0] if errors else "",
    )


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def distinct_pictures(count: int, first: int) -> Iterator[str]:
    """``count`` pictures drawn beforehand, then over again."""
    return itertools.cycle([picture(first + index) for index in range(count)])


def main() -> None:
    """Print a line for each concurrency."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="without /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--pictures", type=int, default=1000)
    arguments = parser.parse_args()
    server = Server(arguments.url, arguments.model)
    uris = distinct_pictures(arguments.pictures, first=time.time_ns() % 10**9)
    for concurrency in arguments.concurrency:
        asyncio.run(load(server, concurrency, 2, uris, arguments.max_tokens))
        print(asyncio.run(load(server, concurrency, arguments.seconds, uris, arguments.max_tokens)))


if __name__ == "__main__":
    main()
