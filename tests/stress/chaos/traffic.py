"""Requests under way while something breaks: how each of them ends, and when."""

import asyncio
import base64
import io
import json
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import numpy as np
from PIL import Image

from glm_client import AsyncClient, GenerationRequest, GLMError
from tools.metrics import sums_over_versions
from tools.stack import Stack

MODEL = "glm-4.6v-flash"
# As a load balancer would wait. The frontend asks a tiny question of its own, for 5 s at the most.
HEALTH_SECONDS = 10.0
STARTED_SECONDS = 60.0

Kind = Literal["answered", "told", "cut"]


@dataclass(frozen=True)
class End:
    """How a request ended.

    Attributes:
        kind: answered to its end; told by an error of the API, or of the client library; or cut:
            the connection ended without a word.
        how: the status or the kind of error.
        seconds: on the clock of ``time.monotonic()``.
    """

    kind: Kind
    how: str
    seconds: float

    def __str__(self) -> str:
        return self.kind if self.kind == "answered" else f"{self.kind} ({self.how})"


def chat(text: str, *, tokens: int, **fields: Any) -> dict[str, Any]:
    """A chat completion with an exact number of tokens."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
        **fields,
    }


def _noise(side: int) -> bytes:
    """A PNG that nothing compresses: about three bytes a pixel."""
    pixels = np.random.default_rng().integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def large_pictures() -> dict[str, Any]:
    """A question about more megabytes of pictures than a stage's shared memory has by itself."""
    parts = [
        {
            "type": "image_url",
            "image_url": {
                "url": "data:image/png;base64," + base64.b64encode(_noise(1200)).decode()
            },
        }
        for _ in range(5)
    ]
    body = chat("", tokens=4)
    body["messages"][0]["content"] = [*parts, {"type": "text", "text": "What is it?"}]
    return body


class Traffic:
    """Requests of all kinds to one server.

    Attributes:
        started: how many have their first piece, or are known to run.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        limits = httpx2.Limits(max_connections=None)
        self._http = httpx2.AsyncClient(
            base_url=stack.base_url, timeout=120, limits=limits, trust_env=False
        )
        self._grpc = AsyncClient(stack.grpc_url)
        self._tasks: list[asyncio.Task[End]] = []
        self.started = 0

    async def __aenter__(self) -> "Traffic":
        return self

    async def __aexit__(self, *exception: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()
        await self._grpc.aclose()

    async def begin(self, each: int, tokens: int) -> None:
        """Start ``each`` streams over HTTP, calls without streaming, and streams over gRPC.

        Returns when they are running.
        """
        for number in range(each):
            text = f"{number} " * 20
            body = chat(text, tokens=tokens)
            self._start(self.stream(body | {"stream": True}))
            self._start(self.whole(body))
            self._start(self.grpc(text, tokens))
        async with asyncio.timeout(STARTED_SECONDS):
            while self.started < 2 * each or await self._running() < 3 * each:
                await asyncio.sleep(0.1)

    async def ends(self) -> list[End]:
        """How all of them ended."""
        return await asyncio.gather(*self._tasks)

    def _start(self, request: Coroutine[Any, Any, End]) -> None:
        self._tasks.append(asyncio.create_task(request))

    async def stream(self, body: dict[str, Any]) -> End:
        """A chat completion as server-sent events."""
        finished = False
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    return _end("told", str(response.status_code))
                async for line in response.aiter_lines():
                    if line == "data: [DONE]":
                        return _end("answered" if finished else "cut", "[DONE]")
                    if not line.startswith("data: "):
                        continue
                    event = json.loads(line[6:])
                    if "error" in event:
                        return _end("told", f"error event {event['error']['code']}")
                    self.started += not finished and "role" in event["choices"][0]["delta"]
                    finished = finished or event["choices"][0]["finish_reason"] is not None
            return _end("cut", "end of stream")
        except httpx2.TransportError as error:
            return _end("cut", type(error).__name__)

    async def whole(self, body: dict[str, Any]) -> End:
        """A chat completion as one JSON."""
        return await self._post("/v1/chat/completions", json=body)

    async def upload(self) -> End:
        """A question about a file of some megabytes."""
        files = {"image": ("noise.png", _noise(1200), "image/png")}
        return await self._post(
            "/v1/multi-modal/inference", files=files, data={"prompt": "What is it?"}
        )

    async def _post(self, path: str, **body: Any) -> End:
        try:
            response = await self._http.post(path, **body)
        except httpx2.TransportError as error:
            return _end("cut", type(error).__name__)
        if response.status_code == 200:
            return _end("answered", path)
        code = response.json()["error"]["code"]
        return _end("told", f"{response.status_code} {code}")

    async def grpc(self, text: str, tokens: int, request_id: str = "") -> End:
        """A stream of a direct gRPC client."""
        request = GenerationRequest(
            text_input=text,
            sampling_parameters={"max_tokens": tokens, "ignore_eos": True},
            request_id=request_id,
        )
        first = True
        try:
            async for _ in self._grpc.stream(request):
                self.started += first
                first = False
        except GLMError as error:
            return _end("told", type(error).__name__)
        return _end("answered", "gRPC")

    async def health(self) -> tuple[int, str]:
        """Status and message of ``/v1/health``; 0 where nobody answers."""
        with suppress(httpx2.TransportError):
            response = await self._http.get("/v1/health", timeout=HEALTH_SECONDS)
            return response.status_code, response.json()["message"]
        return 0, "no answer"

    async def _running(self) -> float:
        with suppress(httpx2.TransportError):
            text = (await self._http.get(f"{self._stack.metrics_url}/metrics")).text
            return sums_over_versions(text).get("glm_requests_running", 0)
        return 0


def _end(kind: Kind, how: str) -> End:
    return End(kind, how, time.monotonic())
