"""What the caches give away, and what they save: ``python -m benchmarks.caches``.

1. Can a tenant tell by the time to the first token whether another tenant has sent a picture?
   In random order, tenant B asks about a picture that A has just asked about, and about one that
   nobody has. The area under the ROC curve of the two kinds of times is 0.5 where they cannot be
   told apart, and 1 where each can. Once with GLM_CACHE_SHARING=tenant, once with ``all``.
2. What does an answer take that is kept (GLM_RESPONSE_CACHE), beside one that is computed?
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from tools.load import Server, ask, picture
from tools.report import ROOT, report
from tools.stack import Stack

KEYS = "key-of-a name=a\nkey-of-b name=b\n"
PAGE = ROOT / "benchmarks" / "results" / "caches.md"
MAX_TOKENS = 8

T = TypeVar("T")


class _Client:
    """One tenant, who asks about a picture of its own for each seed."""

    def __init__(self, stack: Stack, key: str) -> None:
        self._server = Server(stack.base_url, "glm-4.6v-flash")
        self._url = f"{stack.base_url}/v1/chat/completions"
        self._client = httpx2.AsyncClient(
            timeout=120,
            trust_env=False,
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
        )

    async def first_token(self, seed: int) -> float:
        """Seconds to the first text; the answer is read to its end."""
        return (await ask(self._client, self._url, self._body(seed))).ttft

    async def whole(self, seed: int) -> tuple[float, str]:
        """Seconds to the whole answer, and where it came from."""
        body = json.dumps(json.loads(self._body(seed)) | {"stream": False, "stream_options": None})
        began = time.perf_counter()
        response = await self._client.post(self._url, content=body)
        seconds = time.perf_counter() - began
        response.raise_for_status()
        return seconds, response.headers.get("x-glm-cache", "")

    def _body(self, seed: int) -> bytes:
        return self._server.body(picture(seed), MAX_TOKENS)


def area_under_curve(lower: Sequence[float], higher: Sequence[float]) -> float:
    """The chance that a time of ``lower`` is below one of ``higher``; 0.5: no telling."""
    wins = sum((one < other) + 0.5 * (one == other) for one in lower for other in higher)
    return wins / (len(lower) * len(higher))


def _with_server(
    measure: Callable[[Stack], Coroutine[Any, Any, T]], folder: Path, **settings: str
) -> T:
    stack = Stack(folder / "launcher.log", GLM_API_KEYS_FILE=str(folder / "keys"), **settings)
    try:
        stack.wait_ready()
        return asyncio.run(measure(stack))
    finally:
        stack.kill()


async def _times(stack: Stack, pairs: int) -> tuple[list[float], list[float]]:
    a, b = _Client(stack, "key-of-a"), _Client(stack, "key-of-b")
    seen, new = list[float](), list[float]()
    order = random.Random(0)
    for _ in range(10):
        await b.first_token(order.randrange(2**62))
    for _ in range(pairs):
        known, unknown = order.randrange(2**62), order.randrange(2**62)
        await a.first_token(known)
        both = [(seen, known), (new, unknown)]
        order.shuffle(both)
        for times, seed in both:
            times.append(await b.first_token(seed))
    return seen, new


def _tell(sharing: str, pairs: int, folder: Path) -> str:
    async def measure(stack: Stack) -> tuple[list[float], list[float]]:
        return await _times(stack, pairs)

    seen, new = _with_server(measure, folder, GLM_CACHE_SHARING=sharing)
    medians = [f"{1000 * statistics.median(times):.1f}" for times in (seen, new)]
    return f"| `{sharing}` | {pairs} | {' | '.join(medians)} | {area_under_curve(seen, new):.3f} |"


def _hits(count: int, folder: Path) -> str:
    async def measure(stack: Stack) -> dict[str, list[float]]:
        client = _Client(stack, "key-of-a")
        found: dict[str, list[float]] = {"miss": [], "hit": []}
        for seed in range(count):
            for _ in range(2):
                seconds, source = await client.whole(seed)
                found[source].append(seconds)
        return found

    cells = []
    for times in _with_server(measure, folder, GLM_RESPONSE_CACHE="memory").values():
        ordered = sorted(times)
        cells += [f"{1000 * ordered[len(ordered) * share // 100]:.1f}" for share in (50, 95)]
    return f"| {count} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, and write ``benchmarks/results/caches.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--hits", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "keys").write_text(KEYS)
        rows = [_tell(sharing, options.pairs, folder) for sharing in ("tenant", "all")]
        hits = _hits(options.hits, folder)
    table = [
        "| `GLM_CACHE_SHARING` | pairs | TTFT p50 ms, known to another | to nobody | AUC |",
        "|---|---|---|---|---|",
        *rows,
        "",
        "| requests | computed p50 ms | p95 | kept p50 ms | p95 |",
        "|---|---|---|---|---|",
        hits,
    ]
    report(
        PAGE,
        "Caches: what they give away, what they save",
        "`python -m benchmarks.caches`, demo checkpoint, one client over HTTP",
        "With its own part of the caches for each tenant, the time to the first token does not "
        "tell whether another tenant has sent a picture (an AUC of 0.5 is a coin); with common "
        "ones it does. "
        "Below: a whole answer of 8 tokens about a PNG of 88 KiB, computed, and then kept.",
        table,
    )


if __name__ == "__main__":
    main()
