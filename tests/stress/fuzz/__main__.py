"""The command line: random input to every entry point of its own server, and a table."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from stress.fuzz.targets import TARGETS, Outcome, assert_unharmed, processes
from tools.report import ROOT, report
from tools.stack import Stack

RESULTS = ROOT / "benchmarks" / "results" / "fuzz.md"
HEAD = ("| what comes in | cases | how they ended | failures | s |", "|---|---|---|---|---|")


def row(outcome: Outcome) -> str:
    """A line of the table."""
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in outcome.kinds.most_common())
    return (
        f"| {outcome.name} | {outcome.cases:,} | {kinds} | {len(outcome.failures)} "
        f"| {outcome.seconds:.0f} |"
    )


def main() -> int:
    """Returns 1 when anything failed."""
    parser = argparse.ArgumentParser(prog="python -m stress.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=80, help="for each target")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--only", choices=sorted(TARGETS), help="one target")
    arguments = parser.parse_args()

    outcomes = []
    with tempfile.TemporaryDirectory(prefix="glm-fuzz-") as folder:
        stack = Stack(Path(folder) / "launcher.log")
        try:
            stack.wait_ready()
            pids = processes(stack)
            for name, target in TARGETS.items():
                if arguments.only in (None, name):
                    outcomes.append(target(stack, arguments.seconds, arguments.seed))
                    print(row(outcomes[-1]), *outcomes[-1].failures, sep="\n", flush=True)
            assert_unharmed(stack, pids)
        finally:
            (Path(tempfile.gettempdir()) / "glm-fuzz.log").write_text(stack.log)
            stack.kill()
    if arguments.only is None:
        report(
            RESULTS,
            "Random input to every entry point",
            f"{arguments.seconds:g} s each, seed {arguments.seed}; afterwards nothing runs or "
            "waits, no block of the KV cache is held, and the same processes answer",
            None,
            [*HEAD, *map(row, outcomes)],
        )
    return 1 if any(outcome.failures for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
