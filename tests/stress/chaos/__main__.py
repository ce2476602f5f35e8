"""The command line: breaks servers of its own, and prints what became of the requests."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from stress.chaos import disconnects, rolling
from stress.chaos.breakage import HEAD, break_all, row
from tools.report import ROOT, report

RESULTS = ROOT / "benchmarks" / "results" / "chaos.md"
EXPLANATION = """\
Under way are streams and whole answers over HTTP and streams over gRPC, and requests that meet the
fault. All is as it should be when each of them is answered or told within 2 s, `/v1/health` is 503
and says why, and the server is back within 5 s and what Triton takes to load: each counted from the
moment at which a hang is taken for one. That is here after 3 s without a step or without progress
on one request of stage 1, and after 5 s without an answer; the defaults (`GLM_STEP_TIMEOUT`,
`GLM_PREPROCESSING_TIMEOUT`, `GLM_PROBE_TIMEOUT`) are longer. Clients that leave are counted by
engine steps from the moment at which the server was told.
"""


def main() -> int:
    """Returns 1 when anything is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m stress.chaos", description=__doc__)
    parser.add_argument("--each", type=int, default=4, help="requests under way of each kind")
    parser.add_argument(
        "--only", default="", help="scenarios with this in their names, and nothing else"
    )
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="glm-chaos-") as name:
        folder = Path(name)
        (folder / "faults").mkdir()
        outcomes, seconds = break_all(folder / "faults", arguments.each, arguments.only)
        good = not any(outcome.faults for outcome in outcomes)
        if arguments.only:
            return not good
        stack = disconnects.stack_for(folder / "disconnects.log")
        try:
            stack.wait_ready()
            left, all_freed = asyncio.run(disconnects.measure(stack, 5 * arguments.each))
        finally:
            stack.kill()
        rolled, none_lost = asyncio.run(rolling.measure(folder, arguments.each))
    report(
        RESULTS,
        "What happens when a part of the server dies or hangs",
        f"Triton starts with its models in {seconds:.1f} s",
        EXPLANATION,
        [
            *(*HEAD, *map(row, outcomes)),
            *("", "## Clients that leave", "", *disconnects.HEAD, *left),
            *("", "## Two servers, restarted in turn under load", "", *rolling.HEAD, *rolled),
        ],
    )
    return not (good and all_freed and none_lost)


if __name__ == "__main__":
    sys.exit(main())
