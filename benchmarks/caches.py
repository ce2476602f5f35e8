"""What the caches give away, and what they save: ``python -m benchmarks.caches``.

1. Can a tenant tell by the time to the first token whether another tenant has sent a picture?
   In random order, tenant B asks about a picture that A has just asked about, and about one that
   nobody has. The area under the ROC curve of the two kinds of times is 0.5 where they cannot be
   told apart, and 1 where each can. Once with GLM_CACHE_SHARING=tenant, once with ``all``.
2. What does an answer take that is kept (GLM_RESPONSE_CACHE), beside one that is computed?
"""

import argparse
import base64
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from tools.report import ROOT, report
from tools.stack import Stack

CHAT = "/v1/chat/completions"
KEYS = "key-of-a name=a\nkey-of-b name=b\n"
PAGE = ROOT / "benchmarks" / "results" / "caches.md"


def _body(seed: int) -> dict[str, object]:
    """A question about a picture of its own: a disc on noise, PNG of 70 KB."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (150, 170, 3), np.uint8)
    pixels[40:110, 50:120] = rng.integers(100, 255, 3, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": "Describe the image."},
    ]
    return {
        "model": "glm-4.6v-flash",
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "max_tokens": 8,
        "stream": True,
    }


class _Client:
    def __init__(self, stack: Stack, key: str) -> None:
        self._session = requests.Session()
        self._session.headers.update(
            {"authorization": f"Bearer {key}", "content-type": "application/json"}
        )
        self._url = stack.base_url + CHAT

    def first_token(self, body: dict[str, object]) -> float:
        """Seconds to the first piece; the answer is read to its end."""
        data = json.dumps(body)
        began = time.perf_counter()
        with self._session.post(self._url, data, stream=True, timeout=120) as response:
            response.raise_for_status()
            lines = response.iter_lines()
            next(line for line in lines if line.startswith(b"data: "))
            seconds = time.perf_counter() - began
            for _ in lines:
                pass
        return seconds

    def whole(self, body: dict[str, object]) -> tuple[float, str]:
        """Seconds to the whole answer, and where it came from."""
        data = json.dumps(body | {"stream": False})
        began = time.perf_counter()
        response = self._session.post(self._url, data, timeout=120)
        seconds = time.perf_counter() - began
        response.raise_for_status()
        return seconds, response.headers.get("x-glm-cache", "")


def area_under_curve(lower: Sequence[float], higher: Sequence[float]) -> float:
    """The chance that a time of ``lower`` is below one of ``higher``; 0.5: no telling."""
    wins = sum((one < other) + 0.5 * (one == other) for one in lower for other in higher)
    return wins / (len(lower) * len(higher))


def _times(stack: Stack, pairs: int) -> tuple[list[float], list[float]]:
    a, b = _Client(stack, "key-of-a"), _Client(stack, "key-of-b")
    seen, new = list[float](), list[float]()
    order = random.Random(0)
    for _ in range(10):
        b.first_token(_body(order.randrange(2**62)))
    for _ in range(pairs):
        known, unknown = _body(order.randrange(2**62)), _body(order.randrange(2**62))
        a.first_token(known)
        both = [(seen, known), (new, unknown)]
        order.shuffle(both)
        for times, body in both:
            times.append(b.first_token(body))
    return seen, new


def _tell(sharing: str, pairs: int, keys: Path, folder: Path) -> str:
    settings = {"GLM_API_KEYS_FILE": str(keys), "GLM_CACHE_SHARING": sharing}
    stack = Stack(folder / f"{sharing}.log", **settings)
    try:
        stack.wait_ready()
        seen, new = _times(stack, pairs)
    finally:
        stack.kill()
    medians = [f"{1000 * statistics.median(times):.1f}" for times in (seen, new)]
    return f"| `{sharing}` | {pairs} | {' | '.join(medians)} | {area_under_curve(seen, new):.3f} |"


def _hits(count: int, keys: Path, folder: Path) -> str:
    settings = {"GLM_API_KEYS_FILE": str(keys), "GLM_RESPONSE_CACHE": "memory"}
    stack = Stack(folder / "hits.log", **settings)
    try:
        stack.wait_ready()
        client = _Client(stack, "key-of-a")
        found: dict[str, list[float]] = {"miss": [], "hit": []}
        for seed in range(count):
            for _ in range(2):
                seconds, source = client.whole(_body(seed))
                found[source].append(seconds)
    finally:
        stack.kill()
    cells = []
    for times in found.values():
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
        keys = folder / "keys"
        keys.write_text(KEYS)
        rows = [_tell(sharing, options.pairs, keys, folder) for sharing in ("tenant", "all")]
        hits = _hits(options.hits, keys, folder)
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
        "Below: a whole answer of 8 tokens about a PNG of 70 KB, computed, and then kept.",
        table,
    )


if __name__ == "__main__":
    main()
