"""Two servers, restarted one after the other under load, behind clients that take them in turn."""

import asyncio
import itertools
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from glm_client import AsyncClient, GenerationRequest, GLMError
from stress.chaos.traffic import chat
from tools.stack import Stack

TOKENS = 300
ATTEMPTS = 20
RETRY_SECONDS = 0.25

HEAD = (
    "| clients | requests | answered | sent again to the other | lost | longest pause s |",
    "|---|---|---|---|---|---|",
)


@dataclass
class Tally:
    """What became of the requests of one kind of client.

    Attributes:
        retried: attempts that a server refused, or did not answer at all.
        lost: requests that were not answered, or ended in the midst of the answer; why.
        ends: when requests were answered, in seconds of ``time.monotonic()``.
    """

    sent: int = 0
    answered: int = 0
    retried: int = 0
    lost: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def line(self, name: str) -> str:
        """Of the table."""
        ends = sorted(self.ends)
        pause = max((after - before for before, after in itertools.pairwise(ends)), default=0.0)
        return (
            f"| {name} | {self.sent} | {self.answered} | {self.retried} | {len(self.lost)} "
            f"| {pause:.1f} |"
        )


class Refused(Exception):
    """The server did not take the request; another may."""


async def _stream(client: httpx2.AsyncClient, base_url: str, number: int) -> None:
    """One chat completion as server-sent events. Raises Refused, or RuntimeError when lost."""
    begun = False
    body = chat(f"{number}", tokens=TOKENS, stream=True)
    try:
        async with client.stream("POST", f"{base_url}/v1/chat/completions", json=body) as response:
            if response.status_code in (429, 503):
                raise Refused
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}")
            finished = False
            async for line in response.aiter_lines():
                begun = True
                if line == "data: [DONE]" and finished:
                    return
                if line.startswith("data: {"):
                    event = json.loads(line[6:])
                    if "error" in event:
                        raise RuntimeError(event["error"]["code"])
                    finished = finished or event["choices"][0]["finish_reason"] is not None
    except httpx2.TransportError as error:
        if not begun:
            raise Refused from error
        raise RuntimeError(type(error).__name__) from error
    raise RuntimeError("the stream ended in the midst")


async def _grpc(url: str, number: int) -> None:
    """One answer by gRPC. Raises Refused, or RuntimeError when lost."""
    begun = False
    request = GenerationRequest(
        text_input=f"{number}", sampling_parameters={"max_tokens": TOKENS, "ignore_eos": True}
    )
    async with AsyncClient(url) as client:
        try:
            async for _ in client.stream(request):
                begun = True
        except GLMError as error:
            if begun:
                raise RuntimeError(type(error).__name__) from error
            raise Refused from error


async def measure(folder: Path, workers: int) -> tuple[list[str], bool]:
    """Lines of the table, and whether no request was lost."""
    starts = itertools.count()

    def start() -> Stack:
        return Stack(folder / f"launcher-{next(starts)}.log")

    stacks = [start(), start()]
    tallies = {"HTTP, streaming": Tally(), "gRPC": Tally()}
    numbers = itertools.count()
    done = asyncio.Event()

    async def work(name: str, client: httpx2.AsyncClient) -> None:
        tally = tallies[name]
        while not done.is_set():
            tally.sent += 1
            number = next(numbers)
            for attempt in range(ATTEMPTS):
                stack = stacks[(number + attempt) % 2]
                try:
                    if name == "gRPC":
                        await _grpc(stack.grpc_url, number)
                    else:
                        await _stream(client, stack.base_url, number)
                    tally.answered += 1
                    tally.ends.append(time.monotonic())
                    break
                except Refused:
                    tally.retried += 1
                    await asyncio.sleep(RETRY_SECONDS)
                except RuntimeError as error:
                    tally.lost.append(str(error))
                    break
            else:
                tally.lost.append("refused by all")

    try:
        for stack in stacks:
            await asyncio.to_thread(stack.wait_ready)
        async with httpx2.AsyncClient(timeout=60, trust_env=False) as client:
            working = [
                asyncio.create_task(work(name, client)) for name in tallies for _ in range(workers)
            ]
            for index in range(2):
                await asyncio.sleep(2)
                old = stacks[index]
                old.process.terminate()
                await asyncio.to_thread(old.wait_stopped)
                stacks[index] = start()
                await asyncio.to_thread(stacks[index].wait_ready)
            await asyncio.sleep(2)
            done.set()
            await asyncio.gather(*working)
    finally:
        for stack in stacks:
            stack.process.terminate()  # all at once
        for stack in stacks:
            stack.kill()
    for name, tally in tallies.items():
        for reason in tally.lost:
            print(f"lost ({name}): {reason}")
    lines = [tally.line(name) for name, tally in tallies.items()]
    return lines, not any(tally.lost for tally in tallies.values())
