"""``make bench-cpu``: what the engine chooses on a CPU, beside what it could have chosen.

First one linear layer by each way to multiply that the processor has (``glm_engine/linear.py``),
then the engine on a checkpoint with random weights of an honest size, in each dtype, with one
thread and with all cores. A request has a picture of its own, a question and a fixed number of
tokens; all of a batch arrive at once. Each line of the second table is a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.engine import prompts, run_engine
from glm_engine.config import EngineConfig
from glm_engine.cpu import instruction_set, multiplies_bfloat16, usable_cores
from glm_engine.engine import Engine
from glm_engine.linear import PackedLinear, TorchLinear, WidenedLinear
from glm_engine.request import Output
from glm_preprocessing.preprocessor import Preprocessor
from glm_preprocessing.settings import PreprocessingSettings
from launcher.triton import MEMORY
from tools.mid_checkpoint import make
from tools.report import ROOT, report

DEMO = ROOT / "demo_model" / "checkpoint"
# Outputs by inputs: the MLP of GLM-4.6V-Flash, and the output head of the checkpoint below.
LAYERS = ((13_696, 4_096), (151_552, 1_024))
ROWS = (1, 4, 16, 64)
WAYS: dict[str, tuple[type[TorchLinear | PackedLinear | WidenedLinear], torch.dtype]] = {
    "float32, torch": (TorchLinear, torch.float32),
    "float32, oneDNN": (PackedLinear, torch.float32),
    "bfloat16, torch": (TorchLinear, torch.bfloat16),
    "bfloat16, oneDNN": (PackedLinear, torch.bfloat16),
    "bfloat16 widened": (WidenedLinear, torch.bfloat16),
}


def best(work: Callable[[], object], seconds: float = 1.0) -> float:
    """Milliseconds of the fastest of a few runs."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1e3 * min(times)


def layer_table() -> list[str]:
    """Milliseconds of one layer by each way, with all cores."""
    ways = {
        name: way
        for name, way in WAYS.items()
        if way != (PackedLinear, torch.bfloat16) or multiplies_bfloat16()
    }
    lines = [f"| layer | rows | {' | '.join(ways)} |", "|---" * (2 + len(ways)) + "|"]
    for outputs, inputs in LAYERS:
        layers = {
            name: way(torch.randn(outputs, inputs).to(dtype)) for name, (way, dtype) in ways.items()
        }
        for rows in ROWS:
            cells = []
            for name, layer in layers.items():
                x = torch.randn(rows, inputs).to(ways[name][1])
                cells.append(f"{best(partial(layer, x)):.1f}")
            lines.append(f"| {outputs:,} x {inputs:,} | {rows} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def measure(checkpoint: str, batches: list[int], tokens: int, rounds: int) -> None:
    """Print requests per second and the decode step's milliseconds, by batch, as JSON."""
    os.environ["GLM_MODEL"] = checkpoint
    outputs: list[Output] = []
    engine = Engine(EngineConfig.from_env(), outputs.extend)
    preprocessor = Preprocessor.from_settings(PreprocessingSettings.from_env())
    seed, measured = 0, {}
    for count in batches:
        timings = []
        for number in range(rounds + 1):
            batch = prompts(engine, preprocessor, count, seed)
            seed += count
            timing = run_engine(engine, outputs, batch, tokens)
            if number:  # the first warms up
                timings.append(timing)
        measured[count] = (
            count / statistics.median(timing.total for timing in timings),
            1e3 * statistics.median(timing.step for timing in timings),
        )
    print(json.dumps(measured))


def engine_table(checkpoint: Path, arguments: argparse.Namespace) -> list[str]:
    """The engine in each dtype and number of threads."""
    batches = [str(count) for count in arguments.batch]
    heads = [f"req/s at {count}, step ms" for count in batches]
    lines = [f"| dtype | threads | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for dtype in ("float32", "bfloat16"):
        for threads in sorted({1, usable_cores()}):
            command = [
                *(sys.executable, "-m", "benchmarks.cpu_paths", "--measure", str(checkpoint)),
                *("--tokens", str(arguments.tokens), "--rounds", str(arguments.rounds)),
                *("--batch", *batches),
            ]
            environment = os.environ | MEMORY
            environment |= {"GLM_DTYPE": dtype, "GLM_CPU_THREADS": str(threads)}
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
            )
            measured = json.loads(done.stdout.splitlines()[-1])
            cells = [f"{measured[count][0]:.3f}, {measured[count][1]:.0f}" for count in batches]
            lines.append(f"| {dtype} | {threads} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> int:
    """Measure, print the tables, write them to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu_paths", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: build/mid, made if need be")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/cpu_paths.md")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.batch, arguments.tokens, arguments.rounds)
        return 0
    checkpoint = arguments.checkpoint or make(DEMO, ROOT / "build" / "mid")
    table = ["Milliseconds of one layer:", "", *layer_table(), ""]
    table += [f"The engine, {arguments.tokens} tokens an answer:", ""]
    table += engine_table(checkpoint, arguments)
    details = f"{instruction_set()}, {usable_cores()} threads at the most"
    report(arguments.output, "What a CPU does best", details, __doc__, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
