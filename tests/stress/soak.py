"""``make soak``: half an hour of everything at once, and then: is all accounted for, is all flat?

A server of its own, with caches so small that they are soon full, gets requests of many kinds (see
soak_requests.py) in cycles: a mixed load, one request at a time, a burst of 100 at a time, of which
some must be refused, and a rest. Every request must end in its one right way: the known answer, the
right error, a 429 or 503 with Retry-After, or its own client's leaving. At the end Triton's counts
of requests must be those that the clients saw, and nothing may run, wait or hold a block.

At the end of each rest, when nothing runs and idle connections are closed, every process is looked
at. A leak grows from rest to rest. Growth is by Theil and Sen's slope, the median of the slopes
between all pairs of rests, which a few odd ones do not move; the first third of the run, while
caches fill and allocators find their size, is left out. "Flat" is growth of no more than 32 MiB of
anonymous memory, which is less than half a KiB a request, or of 2 threads or files, from the first
rest that counts to the last.
"""

import argparse
import asyncio
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

from benchmarks.request_profile import sums
from glm_client import (
    AsyncClient,
    GenerationRequest,
    InvalidRequestError,
    OverloadedError,
)
from stress.soak_requests import (
    CHAT,
    REQUEST_ID,
    Ask,
    Books,
    Mix,
    Wrong,
    read_deltas,
    read_http,
)
from tools.exchange import Connections, Exchange
from tools.processes import MIB, Processes, Sample, Usage
from tools.report import ROOT, Panel, report
from tools.stack import Stack

MODEL = "glm-4.6v-flash"
SETTINGS = {
    # Full, and in turnover, within a minute; requests are preempted now and then.
    "GLM_KV_CACHE_MEMORY": str(64 * MIB),
    "GLM_IMAGE_CACHE_MEMORY": str(4 * MIB),
    # Fewer than the burst sends at once.
    "GLM_MAX_INFLIGHT": "64",
}
HANG_SECONDS = 60.0
SAMPLE_SECONDS = 3.0
# Connections that idle for five seconds are closed by the frontend.
REST_SECONDS = 7.0
CYCLE_SECONDS = 40.0
LEAST_CYCLES = 7
MOST_FAULTS = 20

# Growth that is still flat: of anonymous memory (glibc's arenas and Python's pools go on moving by
# some MiB), of Triton's regions, of threads and of open files.
MEMORY_TOLERANCE = 32 * MIB
THREAD_TOLERANCE = FILE_TOLERANCE = 2.0
REASONS = ("stop", "length", "cancelled", "invalid", "rejected", "unavailable", "error")


class Soak:
    """One run against a server that has just started."""

    def __init__(self, stack: Stack, seed: int, memory_tolerance: float = MEMORY_TOLERANCE) -> None:
        self.books = Books()
        self.samples: list[Sample] = []
        self.rests: list[Sample] = []
        self.seconds = 0.0
        self._memory_tolerance = memory_tolerance
        self._stack = stack
        self._mix = Mix(seed, MODEL)
        self._connections = Connections("127.0.0.1", stack.port)
        self._processes = Processes(stack)
        self._began = time.perf_counter()
        self._over = asyncio.Event()
        self._may_refuse = False

    async def run(self, minutes: float, least_requests: int = 0) -> None:
        """The whole load. It ends early when a process of the server does, or faults are many.

        Args:
            least_requests: of the whole run; where they take longer than `minutes`, so does it.
        """
        async with AsyncClient(self._stack.grpc_url) as client:
            self._client = client
            await self._learn()
            before = sums(self._stack.metrics_url)
            self._began = time.perf_counter()
            sampling = asyncio.create_task(self._sample())
            cycles = max(LEAST_CYCLES, round(60 * minutes / CYCLE_SECONDS))
            for number in range(cycles):
                if not self._over.is_set():
                    least = math.ceil(least_requests / cycles)
                    seconds = max(0.0, 60 * minutes / cycles - REST_SECONDS)
                    await self._cycle(seconds, 2 + 5 * number % 15, least)
            self._over.set()
            await sampling
        self.seconds = time.perf_counter() - self._began
        if self.samples[-1].gone:
            return  # its metrics are gone, too, or begin again
        after = sums(self._stack.metrics_url)
        gained = {reason: _count(after, reason) - _count(before, reason) for reason in REASONS}
        self.books.faults += self.books.differences(gained)

    def verdicts(self) -> list[tuple[str, str, float, float, float, bool]]:
        """(process, what, at the first rest that counts, at the last, growth, whether flat)."""
        rests = self._judged_rests
        if len(rests) < 3:
            return []
        memory = self._memory_tolerance / MIB
        kinds: list[tuple[str, Callable[[Usage], float], float]] = [
            ("MiB anonymous", lambda usage: usage.anonymous / MIB, memory),
            ("threads", lambda usage: usage.threads, THREAD_TOLERANCE),
            ("files", lambda usage: usage.files, FILE_TOLERANCE),
        ]
        rows = []
        times = [rest.seconds for rest in rests]
        for name in rests[0].usages:
            for what, value, tolerance in kinds:
                values = [value(rest.usages[name]) for rest in rests if name in rest.usages]
                if len(values) == len(times):
                    rows.append((name, what, *_judged(times, values, tolerance)))
        regions = [rest.shared / MIB for rest in rests]
        rows.append(("regions in /dev/shm", "MiB", *_judged(times, regions, memory)))
        return rows

    @property
    def judged_hours(self) -> float:
        """From the first rest that counts to the last."""
        return (self._judged_rests[-1].seconds - self._judged_rests[0].seconds) / 3600

    @property
    def _judged_rests(self) -> list[Sample]:
        return self.rests[len(self.rests) // 3 :]

    # ---- the load ----

    async def _learn(self) -> None:
        """Ask all questions once, alone: these answers are the right ones from now on."""
        for question in (everything := list(self._mix.questions)):
            exchange = Exchange()
            await self._connections.post(CHAT, self._mix.lone(question), exchange)
            (self._mix.truths[question],) = read_http(exchange)
        alone = [self._mix.truths[one].text for one in everything if one.is_plain]
        assert len(set(alone)) == len(alone), "two pictures have the same answer"

    async def _cycle(self, seconds: float, concurrency: int, least: int) -> None:
        await self._load(concurrency, 0.6 * seconds, 0.4 * least)
        await self._load(1, 0.15 * seconds, 0.1 * least)
        await self._load(100, 0.25 * seconds, 0.5 * least)
        await self._connections.close()
        if not self._over.is_set():
            await asyncio.sleep(REST_SECONDS)
            self._check_rest()

    async def _load(self, concurrency: int, seconds: float, least: float) -> None:
        until = time.perf_counter() + seconds
        begun = 0

        async def work() -> None:
            nonlocal begun
            while (begun < least or time.perf_counter() < until) and not self._over.is_set():
                begun += 1
                await self._perform(self._mix.next())

        self._may_refuse = concurrency > int(SETTINGS["GLM_MAX_INFLIGHT"])
        await asyncio.gather(*(work() for _ in range(concurrency)))

    def _check_rest(self) -> None:
        """Everything is done: nothing may run, wait or hold memory."""
        self.rests.append(self._processes.sample(time.perf_counter() - self._began))
        if self.rests[-1].gone:
            return
        values = sums(self._stack.metrics_url)
        for name in ("requests_running", "requests_waiting", "kv_cache_blocks_used"):
            if values[f"glm_{name}"]:
                self._fault(f"at rest glm_{name} is {values[f'glm_{name}']:g}")

    async def _perform(self, ask: Ask) -> None:
        """Send one request and book how it ended."""
        exchange = Exchange()
        try:
            async with asyncio.timeout(HANG_SECONDS if ask.patience is None else ask.patience):
                if isinstance(ask.sent, bytes):
                    end = await self._over_http(ask, ask.sent, exchange)
                else:
                    end = await self._over_grpc(ask, ask.sent, exchange)
        except TimeoutError:
            if ask.patience is None:
                end = self._fault(f"{ask.kind} ({ask.id}): no end within {HANG_SECONDS:g} s")
            else:
                self.books.left += 1
                self.books.left_late += bool(exchange.first)
                end = "left in the answer" if exchange.first else "left before it"
        except Exception as error:  # whatever it is, it is not how this request should end
            end = self._fault(f"{ask.kind} ({ask.id}): {error!r}"[:600])
        self.books.ends[ask.kind, end] += 1
        if end == "refused for load":
            await asyncio.sleep(0.3)  # rather than Retry-After's second, to keep the pressure up

    async def _over_http(self, ask: Ask, body: bytes, exchange: Exchange) -> str:
        await self._connections.post(CHAT, body, exchange, {REQUEST_ID: ask.id})
        if exchange.headers[REQUEST_ID] != ask.id:
            raise Wrong(f"the response to {exchange.headers[REQUEST_ID]}")
        if exchange.status in (429, 503) and "retry-after" in exchange.headers:
            return self._refused()
        if exchange.status != ask.status:
            raise Wrong(f"{exchange.status} instead of {ask.status}: {exchange.body[:300]!r}")
        if ask.status == 200:
            ask.check(read_http(exchange))
        self.books.counted[ask.counted] += 1
        return "answered" if ask.status == 200 else str(ask.status)

    async def _over_grpc(self, ask: Ask, request: GenerationRequest, exchange: Exchange) -> str:
        deltas = []
        try:
            async with aclosing(self._client.stream(request)) as stream:
                async for delta in stream:
                    exchange.first = exchange.first or time.perf_counter()
                    deltas.append(delta)
        except OverloadedError:
            return self._refused()
        except InvalidRequestError:
            if ask.status:
                raise
            self.books.counted[ask.counted] += 1
            return "INVALID_ARG"
        ask.check(read_deltas(deltas))
        self.books.counted[ask.counted] += 1
        return "answered"

    def _refused(self) -> str:
        if not self._may_refuse:
            raise Wrong("refused for load, and there is little")
        self.books.counted["rejected"] += 1
        return "refused for load"

    # ---- looking at it ----

    async def _sample(self) -> None:
        while True:
            sample = self._processes.sample(time.perf_counter() - self._began)
            self.samples.append(sample)
            if sample.gone:
                # In front of all that it made go wrong.
                ended = f"ended after {sample.seconds:.0f} s: {', '.join(sample.gone)}"
                self.books.faults.insert(0, f"{ended}; the log: {self._stack.log[-3000:]}")
                self._over.set()
            if self._over.is_set():
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), SAMPLE_SECONDS)

    def _fault(self, text: str) -> str:
        self.books.faults.append(text)
        if len(self.books.faults) >= MOST_FAULTS:
            self._over.set()
        return "fault"


def _count(values: dict[str, float], reason: str) -> float:
    return values[f'glm_requests_total{{finish_reason="{reason}"}}']


def _judged(
    times: Sequence[float], values: Sequence[float], tolerance: float
) -> tuple[float, float, float, bool]:
    growth = slope(times, values) * (times[-1] - times[0])
    return values[0], values[-1], growth, growth <= tolerance


def slope(times: Sequence[float], values: Sequence[float]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs of points."""
    points = list(zip(times, values, strict=True))
    return statistics.median(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in itertools.combinations(points, 2)
    )


def write(page: Path, soak: Soak, minutes: float, client_share: float) -> None:
    """The report: verdicts, ends, faults and the plot."""
    books = soak.books
    verdicts = soak.verdicts()
    total = sum(books.ends.values())
    flat = "Flat" if all(row[-1] for row in verdicts) else "Not flat"
    found = f"faults: {len(books.faults)}" if books.faults else "all accounted for"
    lines = [
        f"**{flat if verdicts else 'Too short to say whether it is flat'}, {found}**: "
        f"{total} requests in {soak.seconds / 60:.1f} minutes.",
        "",
        "| process | | first | last | growth | per hour | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, what, first, last, growth, is_flat in verdicts:
        lines.append(
            f"| {name} | {what} | {first:.1f} | {last:.1f} | {growth:+.1f} | "
            f"{growth / soak.judged_hours:+.1f} | {'flat' if is_flat else '**grows**'} |"
        )
    lines += ["", "| request | end | |", "|---|---|---|"]
    lines += [f"| {kind} | {end} | {count} |" for (kind, end), count in sorted(books.ends.items())]
    if books.faults:
        lines += ["", "Faults:", "", *(f"- {fault}" for fault in books.faults[:MOST_FAULTS])]
    series = {
        name: [
            (sample.seconds / 60, sample.usages[name].rss / MIB)
            for sample in soak.samples
            if name in sample.usages
        ]
        for name in soak.samples[0].usages
    }
    panel = Panel("resident memory", "MiB", series, over="minutes")
    details = f"{minutes:g} minutes, the clients' share of a core {client_share:.0%}"
    report(page, "Soak", details, __doc__, lines, [panel])


async def _soak(
    stack: Stack, minutes: float, least_requests: int, seed: int, memory_tolerance: float
) -> Soak:
    soak = Soak(stack, seed, memory_tolerance)
    await soak.run(minutes, least_requests)
    return soak


def run(
    minutes: float,
    seed: int,
    folder: Path,
    memory_tolerance: float = MEMORY_TOLERANCE,
    least_requests: int = 0,
) -> Soak:
    """Start a server, soak it, stop it.

    Args:
        minutes, least_requests: for which the load goes on at least, both of them.
        folder: for the server's log.
        memory_tolerance: growth in bytes that is still flat.
    """
    stack = Stack(folder / "launcher.log", **SETTINGS)
    try:
        stack.wait_ready()
        soak = asyncio.run(_soak(stack, minutes, least_requests, seed, memory_tolerance))
        stack.interrupt()
        if code := stack.wait_stopped():
            soak.books.faults.append(f"the launcher ended with {code}: {stack.log[-2000:]}")
        return soak
    finally:
        stack.kill()


def main() -> int:
    """Run and report; 1 when something is not flat, or not accounted for."""
    parser = argparse.ArgumentParser(prog="python -m stress.soak")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/soak.md")
    arguments = parser.parse_args()
    before = os.times()
    with tempfile.TemporaryDirectory() as folder:
        soak = run(arguments.minutes, arguments.seed, Path(folder))
    spent = os.times()
    share = (spent.user + spent.system - before.user - before.system) / soak.seconds
    write(arguments.output, soak, arguments.minutes, share)
    verdicts = soak.verdicts()
    return int(bool(soak.books.faults) or not verdicts or not all(row[-1] for row in verdicts))


if __name__ == "__main__":
    sys.exit(main())
