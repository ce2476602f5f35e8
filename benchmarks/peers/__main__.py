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

from benchmarks.load import distinct_pictures, load
from benchmarks.peers.servers import ALL, running
from benchmarks.report import ROOT, report

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
    arguments = parser.parse_args()
    chosen = [peer for peer in ALL if not arguments.servers or peer.name in arguments.servers]
    for peer in [peer for peer in chosen if not peer.needs.exists()]:
        print(f"{peer.name} is not set up: see benchmarks/peers/setup.sh", file=sys.stderr)
        chosen.remove(peer)

    # As many as a fast server could ask for, so that none sees a picture twice between its start
    # and its end: some remember pictures.
    seen = 0
    uris = distinct_pictures(int(60 * (arguments.seconds + 2) * len(arguments.concurrency)), 0)
    rows: list[dict[str, object]] = []
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
                    seen += result.requests
    table = _table(rows, [peer.name for peer in chosen], arguments.concurrency)
    page = arguments.output.with_suffix(".md")
    report(page, "Our stack beside its peers", f"{seen} requests", __doc__, table)
    arguments.output.with_suffix(".jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    return 0


def _table(rows: list[dict[str, object]], names: list[str], concurrencies: list[int]) -> list[str]:
    """Medians over the rounds, and our best against the best of the others."""
    lines = ["| concurrency | server | requests/s | TTFT p50 ms | TTFT p95 ms | TPOT p50 ms |"]
    lines += ["|---|---|---|---|---|---|"]
    for concurrency in concurrencies:
        found: dict[str, list[float]] = {}
        for name in names:
            own = [r for r in rows if r["server"] == name and r["concurrency"] == concurrency]
            found[name] = [statistics.median(float(str(r[c])) for r in own) for c in COLUMNS]
            cells = " | ".join(f"{value:.1f}" for value in found[name])
            lines.append(f"| {concurrency} | {name} | {cells} |")
        ours = [values for name, values in found.items() if name.startswith("ours")]
        others = [values for name, values in found.items() if not name.startswith("ours")]
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
