"""``make bench-peers``: requests per second and latency of our whole stack beside other servers.

Same checkpoint, same machine, same client on it, one server at a time, in rounds: each round starts
every server anew, so that what the machine does meanwhile hits all of them alike.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.servers import ALL, running
from tools.load import distinct_pictures, load
from tools.report import ROOT, Panel, report

RESULTS = ROOT / "benchmarks" / "results"
COLUMNS = ("requests_per_second", "ttft_p50", "ttft_p95", "tpot_p50")


def main() -> int:
    """Measure, print the table, write it to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo_model" / "checkpoint")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--servers", nargs="+", help=", ".join(peer.name for peer in ALL))
    parser.add_argument("--output", type=Path, default=RESULTS / "peers")
    parser.add_argument("--again", action="store_true", help="only write the last results anew")
    arguments = parser.parse_args()
    measured = arguments.output.with_suffix(".jsonl")
    if arguments.again:
        _write(arguments.output, [json.loads(line) for line in measured.read_text().splitlines()])
        return 0
    chosen = [peer for peer in ALL if not arguments.servers or peer.name in arguments.servers]
    for peer in [peer for peer in chosen if not peer.needs.exists()]:
        print(f"{peer.name} is not set up: see benchmarks/peers/setup.sh", file=sys.stderr)
        chosen.remove(peer)

    # As many as a fast server could ask for, so that none sees a picture twice between its start
    # and its end: some remember pictures.
    uris = distinct_pictures(int(80 * (arguments.seconds + 2) * len(arguments.concurrency)), 0)
    rows: list[dict[str, Any]] = []
    logs = Path(tempfile.mkdtemp(prefix="bench-peers-"))
    for number in range(arguments.rounds):
        for peer in chosen:
            log = logs / f"{peer.name.replace(' ', '-')}-{number}.log"
            with running(peer, arguments.checkpoint.resolve(), log) as server:
                for concurrency in arguments.concurrency:
                    asyncio.run(load(server, concurrency, 2, uris))
                    result = asyncio.run(load(server, concurrency, arguments.seconds, uris))
                    rows.append({"server": peer.name, "round": number, **asdict(result)})
                    print(json.dumps(rows[-1]), flush=True)
    measured.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write(arguments.output, rows)
    return 0


def _write(output: Path, rows: list[dict[str, Any]]) -> None:
    found = _medians(rows)
    panels = [
        Panel(
            title,
            unit,
            {name: _points(values, column) for name, values in found.items()},
            logarithmic,
        )
        for title, unit, column, logarithmic in (
            ("Requests per second", "requests/s", 0, False),
            ("Time to first token, median", "ms", 1, True),
        )
    ]
    details = f"{sum(row['requests'] for row in rows)} requests"
    page = output.with_suffix(".md")
    report(page, "Our stack beside its peers", details, __doc__, _table(found), panels)


# By server and concurrency, COLUMNS.
_Found = dict[str, dict[int, list[float]]]


def _medians(rows: list[dict[str, Any]]) -> _Found:
    """Over the rounds."""
    found: _Found = {}
    for row in rows:
        found.setdefault(row["server"], {}).setdefault(row["concurrency"], [])
    for name, values in found.items():
        for concurrency in values:
            own = [r for r in rows if r["server"] == name and r["concurrency"] == concurrency]
            values[concurrency] = [statistics.median(r[column] for r in own) for column in COLUMNS]
    return found


def _points(values: dict[int, list[float]], column: int) -> list[tuple[float, float]]:
    return [(concurrency, numbers[column]) for concurrency, numbers in values.items()]


def _table(found: _Found) -> list[str]:
    """A line for each server, and our best against the best of the others."""
    lines = ["| concurrency | server | requests/s | TTFT p50 ms | TTFT p95 ms | TPOT p50 ms |"]
    lines += ["|---|---|---|---|---|---|"]
    for concurrency in next(iter(found.values())):
        for name, values in found.items():
            cells = " | ".join(f"{value:.1f}" for value in values[concurrency])
            lines.append(f"| {concurrency} | {name} | {cells} |")
        ours = [v[concurrency] for name, v in found.items() if name.startswith("ours")]
        others = [v[concurrency] for name, v in found.items() if not name.startswith("ours")]
        if ours and others:
            rate = max(values[0] for values in ours) / max(values[0] for values in others)
            ttft = min(values[1] for values in ours) / min(values[1] for values in others)
            lines.append(
                f"| {concurrency} | **our best / best of the others** | **{rate:.2f}** "
                f"| **{ttft:.2f}** | | |"
            )
    return lines


if __name__ == "__main__":
    sys.exit(main())
