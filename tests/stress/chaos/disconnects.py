"""Clients that leave: how many steps of the engine later nothing of their requests is left."""

import asyncio
import base64
import io
import itertools
import secrets
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image
from tritonclient.grpc.aio import InferenceServerClient

from glm_client import AsyncClient, GenerationRequest, wire
from stress.chaos.traffic import chat
from tools.metrics import sums_over_versions
from tools.stack import Stack

# Few, so that further requests wait.
MAX_NUM_SEQS = 4
# Number of tokens requested in each state.
TOKENS = {"decodes": 3000, "waits": 3000, "is prefilled": 100, "is in stage 1": 10}

# Seconds after which it is left, from when it was sent; or from when the server is known to be at
# it, where that takes longer than to tell it.
AFTER = {"decodes": 0.02, "waits": 0.02, "is prefilled": 0.02, "is in stage 1": 0.1}
IS_THERE = {"decodes": "glm_requests_running", "waits": "glm_requests_waiting"}

PATIENCE = 60.0

HEAD = (
    "| the request | closed by | closed | cancelled | in the engine | 0 or 1 steps later | 2 "
    "| more |",
    "|---|---|---|---|---|---|---|---|",
)

_STEPS = "glm_cancellation_steps"
_CANCELLED = 'glm_requests_total{finish_reason="cancelled"}'
_INVALID = 'glm_requests_total{finish_reason="invalid"}'


def _large_picture() -> bytes:
    """A JPEG that takes a while to decode: 36 megapixels."""
    grey = np.add.outer(np.arange(6000), np.arange(6000)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "JPEG")
    return file.getvalue()


class Clients:
    """Requests to a server, each with its way to leave."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._picture = _large_picture()
        self._numbers = itertools.count()

    async def http(self, state: str, left: asyncio.Event, *, stream: bool) -> None:
        """Over HTTP; the connection is closed at ``left``."""
        body = self._body(state) | {"stream": stream}
        async with httpx2.AsyncClient(base_url=self._stack.base_url, trust_env=False) as client:
            asking = asyncio.create_task(client.post("/v1/chat/completions", json=body, timeout=60))
            await left.wait()
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking

    async def message(self, state: str, left: asyncio.Event) -> None:
        """By the client library, which gives a request up by a message."""
        async with (
            AsyncClient(self._stack.grpc_url) as client,
            aclosing(client.stream(self._request(state))) as deltas,
        ):
            first = asyncio.ensure_future(anext(deltas))
            await left.wait()
            first.cancel()
            with suppress(asyncio.CancelledError):
                await first

    async def cut(self, state: str, left: asyncio.Event) -> None:
        """A gRPC stream that is cancelled, as by a client whose process dies."""
        async with InferenceServerClient(self._stack.grpc_url) as client:

            async def calls() -> Any:
                yield wire.build_call(
                    self._request(state), stream=True, cancel_key=secrets.token_bytes(8)
                )
                await asyncio.Event().wait()

            stream = client.stream_infer(calls())

            async def read() -> None:
                async for _ in stream:
                    pass

            reading = asyncio.create_task(read())
            await left.wait()
            stream.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    def _next_picture(self) -> bytes:
        return self._picture + b"%d" % next(self._numbers)  # another file, the same picture

    def _body(self, state: str) -> dict[str, Any]:
        """What is asked so that the request is in this state for a while; no two alike."""
        body = chat(self._text(state), tokens=TOKENS[state])
        if state == "is in stage 1":
            url = "data:image/jpeg;base64," + base64.b64encode(self._next_picture()).decode()
            body["messages"][0]["content"] = [
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "text", "text": "What is it?"},
            ]
        return body

    def _request(self, state: str) -> GenerationRequest:
        """The same for a gRPC client."""
        return GenerationRequest(
            text_input=self._text(state),
            images=[self._next_picture()] if state == "is in stage 1" else (),
            sampling_parameters={"max_tokens": TOKENS[state], "ignore_eos": True},
        )

    def _text(self, state: str) -> str:
        return f"{next(self._numbers)} hello " * (400 if state == "is prefilled" else 1)


async def _metrics(stack: Stack) -> dict[str, float]:
    async with httpx2.AsyncClient(timeout=PATIENCE, trust_env=False) as client:
        text = (await client.get(f"{stack.metrics_url}/metrics")).text
    return sums_over_versions(text)


Condition = Callable[[dict[str, float]], bool]


def _is_above(name: str, value: float) -> Condition:
    return lambda values: values[name] > value


def _is_not_above(name: str, value: float) -> Condition:
    return lambda values: values[name] <= value


async def _until(stack: Stack, condition: Condition) -> dict[str, float]:
    async with asyncio.timeout(PATIENCE):
        while not condition(values := await _metrics(stack)):
            await asyncio.sleep(0.05)
    return values


async def _idle(stack: Stack) -> dict[str, float]:
    """The server's numbers when nothing is left to do and all that has ended is counted.

    Stage 1 decodes the picture of a request that was left to its end. The numbers are published a
    few times a second, all that has ended at once: so two requests that are refused go after the
    others, and when they are counted, the others are.
    """
    async with asyncio.timeout(PATIENCE):
        # A second look, because between two pieces of work nothing runs for a moment.
        looks = 0
        while looks < 2:
            looks = 0 if _is_at_work(stack.pids("preprocessing/1/model.py")) else looks + 1
            await asyncio.sleep(0.05)
    async with httpx2.AsyncClient(base_url=stack.base_url, trust_env=False) as client:
        for _ in range(2):
            mistakes = (await _metrics(stack))[_INVALID]
            refused = await client.post(
                "/v1/chat/completions", json=chat("", tokens=100_000), timeout=PATIENCE
            )
            assert refused.status_code == 400, refused.text
            await _until(stack, _is_above(_INVALID, mistakes))
    return await _until(
        stack, lambda values: not values["glm_requests_running"] + values["glm_requests_waiting"]
    )


def _is_at_work(pids: Iterable[int]) -> bool:
    """Whether a thread of these processes runs, or would if it had a core."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
            with suppress(OSError):
                if thread.read_text().rpartition(")")[2].split()[0] in "RD":
                    return True
    return False


async def measure(stack: Stack, each: int) -> tuple[list[str], bool]:
    """Lines of the table, and whether all is as it should be."""
    clients = Clients(stack)
    ways: dict[str, Callable[[str, asyncio.Event], Awaitable[None]]] = {
        "HTTP, streaming": lambda state, left: clients.http(state, left, stream=True),
        "HTTP": lambda state, left: clients.http(state, left, stream=False),
        "gRPC, by message": clients.message,
        "gRPC, stream cut": clients.cut,
    }
    lines, good = [], True
    for state in TOKENS:
        for way, ask in ways.items():
            before = await _idle(stack)
            blockers_left, blockers = asyncio.Event(), []
            if state == "waits":
                blockers = [
                    asyncio.create_task(clients.message("decodes", blockers_left))
                    for _ in range(MAX_NUM_SEQS)
                ]
                await _until(stack, lambda v: v["glm_requests_running"] == MAX_NUM_SEQS)
            for number in range(each):
                left = asyncio.Event()
                gauge = IS_THERE.get(state)
                if gauge:  # the one before is gone
                    await _until(stack, _is_not_above(gauge, 0))
                asking = asyncio.ensure_future(ask(state, left))
                if gauge:
                    await _until(stack, _is_above(gauge, 0))
                # Into the midst of it, at another place each time.
                await asyncio.sleep(AFTER[state] + 0.01 * number)
                left.set()
                await asking
            blockers_left.set()
            await asyncio.gather(*blockers)
            after = await _idle(stack)
            line, fits = _line(state, way, each, len(blockers), before, after)
            lines.append(line)
            good = good and fits
    return lines, good


def _line(
    state: str,
    way: str,
    closed: int,
    blockers: int,
    before: dict[str, float],
    after: dict[str, float],
) -> tuple[str, bool]:
    def more(name: str) -> int:
        return round(after.get(name, 0) - before.get(name, 0))

    # Those that held the others up were cancelled as well, while they decoded.
    cancelled, counted = more(_CANCELLED) - blockers, more(f"{_STEPS}_count") - blockers
    one = more(_STEPS + '_bucket{le="1"}') - blockers
    two = more(_STEPS + '_bucket{le="2"}') - blockers - one
    late = counted - one - two
    numbers = [closed, cancelled, counted, one, two, late]
    freed = after["glm_kv_cache_blocks_used"] == 0
    # In the other states the answer may be there, or the request not yet, when its client leaves.
    least = closed if state in IS_THERE else 0
    good = late <= 0 and freed and least <= counted <= cancelled <= closed
    return f"| {state} | {way} | {' | '.join(map(str, numbers))} |", good


def stack_for(log: Path) -> Stack:
    """The server that this needs."""
    return Stack(log, GLM_MAX_NUM_SEQS=str(MAX_NUM_SEQS))
