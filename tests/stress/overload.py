"""``make overload``: what becomes of the answers when more is asked than can be answered?

First a closed loop of 64 clients measures the rate that the server sustains. Then requests come at
random moments (Poisson), whatever becomes of those before: at half that rate, at the rate itself,
at 2 and 5 times the rate, and twice at 10 times. Each is a streamed chat with a picture (a PNG of
88 KB), whose answer has half to one and a half times as many tokens as the average: answers of one
length would begin and end all together. Every request must end in one whole answer, or in a 429 or
503 with Retry-After: none may be lost, none be answered twice. Goodput is the whole answers per
second in the second half of the arrivals, when what waits is as much as ever will; "in time" are
those whose first token came within the limit. The goals: at ten times the rate nine tenths of the
best goodput in time are left, and the memory is flat.

With ``--picture jpeg`` the pictures have 9 KB, and what is refused weighs a tenth.

With ``--keys`` the server has two keys: the flood has one, and besides it a tenth of the sustained
rate comes with the other, at every level. That trickle should not feel the flood.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.exchange import Connections, Exchange
from tools.load import Server, picture
from tools.processes import MIB, Processes, Sample, peaks
from tools.report import ROOT, Panel, report
from tools.stack import Stack

CHAT = "/v1/chat/completions"
MODEL = "glm-4.6v-flash"
FLOOD, TRICKLE = "flood", "trickle"
TRICKLE_SHARE = 0.1
# The last rate twice: memory that grows with time, not with the rate, shows.
LEVELS = (0.5, 1.0, 2.0, 5.0, 10.0, 10.0)
LEAST_KEPT = 0.9
MEMORY_TOLERANCE = 32 * MIB
CONCURRENCY = 64
PICTURES = 100
SAMPLE_SECONDS = 1.0
# From the last arrival on; what has not ended by then is lost.
DRAIN_SECONDS = 120.0
_ANSWER_ID = re.compile(rb'"id":"([^"]+)"')


@dataclass
class Outcome:
    """What became of one request.

    Attributes:
        arrived, ended: seconds since the start of the level.
        end: "answered", "429", "503", "lost", or the error.
        ttft: seconds to the first token of an answer.
        answer_id: of the completion.
        is_double: whether the answer ended more than once.
    """

    key: str
    arrived: float
    end: str = "lost"
    ended: float = 0.0
    ttft: float = 0.0
    answer_id: str = ""
    is_double: bool = False


@dataclass
class Level:
    """What one rate of arrivals gave.

    Attributes:
        rate: requests offered per second.
        seconds: of arrivals.
        client_share: of one core, for making the load.
    """

    rate: float
    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    client_share: float = 0.0

    def count(self, *ends: str) -> int:
        """Requests that ended in one of these ways."""
        return sum(outcome.end in ends for outcome in self.outcomes)

    @property
    def others(self) -> list[str]:
        """Errors that are none of those that an overload may give."""
        known = ("answered", "429", "503", "lost")
        return [outcome.end for outcome in self.outcomes if outcome.end not in known]

    @property
    def doubles(self) -> int:
        """Answers that came twice, or for two requests."""
        ids = [outcome.answer_id for outcome in self.outcomes if outcome.answer_id]
        return len(ids) - len(set(ids)) + sum(outcome.is_double for outcome in self.outcomes)

    def goodput(self, ttft_limit: float = float("inf")) -> float:
        """Answers per second, those whose first token came in time."""
        begin = self.seconds / 2
        good = sum(
            outcome.end == "answered"
            and outcome.ttft <= ttft_limit
            and begin <= outcome.ended < self.seconds
            for outcome in self.outcomes
        )
        return good / (self.seconds - begin)

    def of(self, key: str) -> list[Outcome]:
        """The outcomes of one key's requests."""
        return [outcome for outcome in self.outcomes if outcome.key == key]


class Overload:
    """Loads for one server.

    Args:
        tokens: of an answer, on average.
        keys: whether the server knows the keys FLOOD and TRICKLE.
    """

    def __init__(
        self,
        stack: Stack,
        tokens: int,
        *,
        keys: bool = False,
        kind: Literal["png", "jpeg"] = "png",
        seed: int = 1,
    ) -> None:
        self._connections = Connections("127.0.0.1", stack.port)
        self._processes = Processes(stack)
        self._tokens = tokens
        self._keys = keys
        self._random = random.Random(seed)
        self._server = Server(stack.base_url, MODEL)
        self._pictures = [picture(number, kind=kind) for number in range(PICTURES)]
        self._count = 0

    async def sustained(self, seconds: float) -> float:
        """Answers per second of a closed loop.

        Raises:
            RuntimeError: a request was not answered.
        """
        level = Level(0, seconds)
        began = time.perf_counter()

        async def work() -> None:
            while time.perf_counter() - began < seconds:
                await self._ask(FLOOD, began, level)

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        if failed := [outcome.end for outcome in level.outcomes if outcome.end != "answered"]:
            raise RuntimeError(f"{len(failed)} requests of a closed loop failed: {failed[0]}")
        return level.goodput()

    async def level(self, flood: float, trickle: float, seconds: float) -> Level:
        """Requests at these rates per second; returns when all have ended."""
        level = Level(flood + trickle, seconds)
        began, cpu = time.perf_counter(), time.process_time()
        watching = asyncio.create_task(self._watch(began, level))
        asking: list[asyncio.Task[None]] = []
        await asyncio.gather(
            self._arrive(FLOOD, flood, began, level, asking),
            self._arrive(TRICKLE, trickle, began, level, asking),
        )
        level.client_share = (time.process_time() - cpu) / (time.perf_counter() - began)
        if asking:
            _, late = await asyncio.wait(asking, timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        watching.cancel()
        await self._connections.close()
        return level

    async def _arrive(
        self, key: str, rate: float, began: float, level: Level, asking: list[asyncio.Task[None]]
    ) -> None:
        moment = 0.0
        while rate:
            moment += self._random.expovariate(rate)
            if moment >= level.seconds:
                break
            await asyncio.sleep(began + moment - time.perf_counter())
            asking.append(asyncio.create_task(self._ask(key, began, level)))

    async def _ask(self, key: str, began: float, level: Level) -> None:
        self._count += 1
        name = f"overload-{self._count}"
        headers = {"x-request-id": name}
        if self._keys:
            headers["authorization"] = f"Bearer {key}"
        exchange = Exchange()
        outcome = Outcome(key, time.perf_counter() - began)
        level.outcomes.append(outcome)
        tokens = self._random.randint(self._tokens // 2, self._tokens * 3 // 2)
        body = self._server.body(self._pictures[self._count % PICTURES], tokens)
        try:
            await self._connections.post(CHAT, body, exchange, headers)
        except (OSError, asyncio.IncompleteReadError):
            return  # lost: there is no response, or not all of it
        outcome.ended = exchange.ended - began
        outcome.ttft = exchange.first - exchange.began
        outcome.end = self._end(name, exchange, tokens)
        if found := _ANSWER_ID.search(exchange.body):
            outcome.answer_id = found[1].decode()
        # Two is one too many: an answer has one finish reason, and one end.
        outcome.is_double = exchange.body.count(b'"finish_reason":"') > 1

    def _end(self, name: str, exchange: Exchange, wanted: int) -> str:
        if exchange.headers["x-request-id"] != name:
            return f"the response to {exchange.headers['x-request-id']}"
        if exchange.status in (429, 503) and "retry-after" in exchange.headers:
            return str(exchange.status)
        if exchange.status != 200:
            return f"{exchange.status}: {exchange.body[:200]!r}"
        tail = exchange.body[-2000:]
        if not tail.endswith(b"data: [DONE]\n\n") or b'"finish_reason":"length"' not in tail:
            return f"a stream that ends in {bytes(tail[-200:])!r}"
        usage = next(line for line in reversed(tail.split(b"\n\n")) if b'"usage":{' in line)
        tokens = json.loads(usage.removeprefix(b"data: "))["usage"]["completion_tokens"]
        return "answered" if tokens == wanted else f"an answer of {tokens} tokens"

    async def _watch(self, began: float, level: Level) -> None:
        while True:
            level.samples.append(self._processes.sample(time.perf_counter() - began))
            await asyncio.sleep(SAMPLE_SECONDS)


def _row(level: Level, sustained: float, ttft_limit: float) -> str:
    times = sorted(outcome.ttft for outcome in level.outcomes if outcome.end == "answered")
    middle, late = (_percentile(times, percent) for percent in (50, 95))
    return (
        f"| {level.rate / sustained:.2g} x | {len(level.outcomes) / level.seconds:.1f} "
        f"| {level.goodput(ttft_limit):.1f} | {level.goodput():.1f} | {level.count('answered')} "
        f"| {level.count('429')} | {level.count('503')} | {len(level.others)} "
        f"| {level.count('lost')} | {level.doubles} | {middle} | {late} "
        f"| {level.client_share:.0%} |"
    )


def _percentile(times: Sequence[float], percent: int) -> str:
    return f"{times[len(times) * percent // 100]:.2f}" if times else "-"


def write(
    page: Path, levels: Sequence[Level], sustained: float, arguments: argparse.Namespace
) -> None:
    """The report: a row for each level, the trickle, the memory, the goal."""
    limit: float = arguments.ttft_limit
    lines = [
        f"Sustained: {sustained:.1f} answers/s. In time: first token within {limit:g} s.",
        "",
        "| arrivals | offered/s | goodput/s in time | goodput/s | answered | 429 | 503 "
        "| other errors | lost | twice | TTFT p50 s | p95 s | clients' share of a core |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(level, sustained, limit) for level in levels),
    ]
    if arguments.keys:
        lines += [
            "",
            "| arrivals | trickle | answered in time | answered | TTFT p50 s | p95 s |",
            "|---|---|---|---|---|---|",
        ]
        for level in levels:
            outcomes = level.of(TRICKLE)
            times = sorted(outcome.ttft for outcome in outcomes if outcome.end == "answered")
            share = [len(times), sum(time <= limit for time in times)]
            done, in_time = (f"{part / max(1, len(outcomes)):.0%}" for part in share)
            lines.append(
                f"| {level.rate / sustained:.2g} x | {len(outcomes)} | {in_time} | {done} "
                f"| {_percentile(times, 50)} | {_percentile(times, 95)} |"
            )
    most = [peaks(level.samples) for level in levels]
    lines += [
        "",
        "| most resident MiB | " + " | ".join(f"{x.rate / sustained:.2g} x" for x in levels) + " |",
        "|---|" + "---|" * len(levels),
    ]
    for name in most[0]:
        lines.append(f"| {name} | " + " | ".join(f"{one[name] / MIB:.0f}" for one in most) + " |")
    for text, value in (("in time", limit), ("in all", float("inf"))):
        last = f"{levels[-1].rate / sustained:.2g} x"
        lines += ["", f"Goodput {text} at {last}: {kept(levels, value):.0%} of the best."]
    grown = growth(levels)
    lines += [
        "",
        "Memory from the first time at that rate to the second: "
        + ("flat." if not grown else f"**grows**: {', '.join(grown)}."),
    ]
    errors = [error for level in levels for error in level.others]
    lines += ["", *(f"- {error}" for error in errors[:10])]
    ratios = [level.rate / sustained for level in levels]
    goodput = Panel(
        "goodput",
        "answers/s",
        {
            "ours, in time": list(zip(ratios, (x.goodput(limit) for x in levels), strict=True)),
            "all": list(zip(ratios, (x.goodput() for x in levels), strict=True)),
        },
        over="arrivals / sustained rate",
    )
    ttft = Panel(
        "time to first token of the answered, p50",
        "s",
        {
            "ours": [
                (ratio, statistics.median(times))
                for ratio, level in zip(ratios, levels, strict=True)
                if (times := [x.ttft for x in level.outcomes if x.end == "answered"])
            ]
        },
        over="arrivals / sustained rate",
    )
    details = (
        f"{arguments.seconds:g} s a level, {arguments.picture}, "
        f"{arguments.tokens} tokens an answer on average, "
        f"GLM_MAX_QUEUE_SECONDS={arguments.queue_seconds}"
    )
    report(page, "Overload", details, __doc__, lines, [goodput, ttft])


def kept(levels: Sequence[Level], ttft_limit: float) -> float:
    """Goodput at the last level, as a share of the best."""
    goodputs = [level.goodput(ttft_limit) for level in levels]
    return goodputs[-1] / max(goodputs) if max(goodputs) else 0.0


def growth(levels: Sequence[Level]) -> list[str]:
    """Processes whose most memory grew between the last two levels, which have the same rate."""
    before, after = (peaks(level.samples) for level in levels[-2:])
    return [
        f"{name} by {(after[name] - before[name]) / MIB:.0f} MiB"
        for name in after
        if after[name] > before.get(name, 0) + MEMORY_TOLERANCE
    ]


async def _measure(stack: Stack, arguments: argparse.Namespace) -> tuple[float, list[Level]]:
    overload = Overload(stack, arguments.tokens, keys=arguments.keys, kind=arguments.picture)
    sustained = await overload.sustained(arguments.seconds / 2)
    trickle = TRICKLE_SHARE * sustained if arguments.keys else 0.0
    levels = []
    for times in LEVELS:
        levels.append(await overload.level(times * sustained - trickle, trickle, arguments.seconds))
        print(_row(levels[-1], sustained, arguments.ttft_limit), flush=True)
    return sustained, levels


def main() -> int:
    """Measure and report; 1 when something is lost, comes twice, or fails in another way, when too
    little goodput is left, or when the memory grows."""
    parser = argparse.ArgumentParser(prog="python -m stress.overload")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--keys", action="store_true", help="a flood and a trickle, by API key")
    parser.add_argument("--picture", choices=("png", "jpeg"), default="png", help="of each request")
    parser.add_argument("--queue-seconds", type=int, default=2, help="GLM_MAX_QUEUE_SECONDS")
    parser.add_argument("--ttft-limit", type=float, help="default: twice the queue's seconds")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/overload.md")
    arguments = parser.parse_args()
    arguments.ttft_limit = arguments.ttft_limit or 2 * arguments.queue_seconds
    settings = {"GLM_MAX_QUEUE_SECONDS": str(arguments.queue_seconds)}
    if arguments.keys:
        settings["GLM_API_KEYS"] = f"{FLOOD},{TRICKLE}"
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "launcher.log", **settings)
        try:
            stack.wait_ready()
            sustained, levels = asyncio.run(_measure(stack, arguments))
            stack.interrupt()
            stack.wait_stopped()
        finally:
            stack.kill()
    write(arguments.output, levels, sustained, arguments)
    is_wrong = any(level.count("lost") or level.doubles or level.others for level in levels)
    is_poor = kept(levels, arguments.ttft_limit) < LEAST_KEPT
    return int(is_wrong or is_poor or bool(growth(levels)))


if __name__ == "__main__":
    sys.exit(main())
