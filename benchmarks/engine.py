"""``make bench-engine``: the engine by itself beside transformers' batched ``generate``.

Each request has a picture of its own and a question; all of a batch arrive at once, and their
answers have the same length. The floor is what reading the weights and multiplying by them takes:
bytes of the language model over the memory bandwidth measured here, or its multiplications over the
speed of a large matrix product, whichever takes longer.
"""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.request import Output, Prompt, Request, SamplingParams, place_images
from glm_preprocessing.preprocessor import Preprocessor, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings
from launcher.triton import MEMORY
from tools.load import QUESTION, picture
from tools.report import ROOT, Panel, report


@dataclass(frozen=True)
class Timing:
    """One batch from its arrival to its end, in seconds.

    Attributes:
        first: until every request had its first token.
        step: median time of a decode step.
    """

    first: float
    total: float
    step: float


def prompts(engine: Engine, preprocessor: Preprocessor, count: int, first: int) -> list[Prompt]:
    """``count`` prompts of stage 1, with a new picture each."""
    made = []
    for seed in range(first, first + count):
        stage_1 = preprocessor(PromptRequest(text_input=QUESTION, image=[picture(seed).encode()]))
        images = place_images(
            stage_1.input_ids,
            engine.image_token_id,
            engine.merge_size,
            stage_1.image_grid_thw,
            stage_1.image_hash,
            stage_1.patches,
            stage_1.image_frames,
        )
        made.append(
            Prompt(
                "text_input",
                stage_1.input_ids,
                stage_1.position_ids,
                int(stage_1.rope_delta[0]),
                images,
            )
        )
    return made


def run_engine(engine: Engine, outputs: list[Output], batch: list[Prompt], tokens: int) -> Timing:
    """The engine, stepped on this thread."""
    outputs.clear()
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    began = time.perf_counter()
    requests = [Request(f"r{i}", prompt, params) for i, prompt in enumerate(batch)]
    for request in requests:
        engine.add(request)
    while any(not request.token_ids for request in requests):
        engine.step()
    first, steps = time.perf_counter() - began, []
    while not all(len(request.token_ids) == tokens for request in requests):
        before = time.perf_counter()
        engine.step()
        steps.append(time.perf_counter() - before)
    total = time.perf_counter() - began
    while engine.step():
        pass
    return Timing(first, total, statistics.median(steps))


@torch.inference_mode()
def run_transformers(model: Any, normalize: Any, batch: list[Prompt], tokens: int) -> Timing:
    """transformers' ``generate``, all requests in one call, padded on the left."""
    began = time.perf_counter()
    longest = max(prompt.num_tokens for prompt in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(batch):
        ids[row, longest - prompt.num_tokens :] = torch.from_numpy(prompt.input_ids)
        mask[row, longest - prompt.num_tokens :] = 1
    images = [image for prompt in batch for image in prompt.images]
    frames = normalize(torch.cat([torch.from_numpy(image.patches) for image in images]))
    pixels = frames.view(len(frames), 3, 1, -1).expand(-1, -1, 2, -1).reshape(len(frames), -1)
    stamps: list[float] = []

    class Clock:
        def put(self, value: Any) -> None:
            stamps.append(time.perf_counter())

        def end(self) -> None:
            pass

    model.model.rope_deltas = None
    arguments = {
        "input_ids": ids.to(model.device),
        "attention_mask": mask.to(model.device),
        "pixel_values": pixels.to(model.device, model.dtype),
        "image_grid_thw": torch.tensor([image.grid for image in images], device=model.device),
        "mm_token_type_ids": (ids == model.config.image_token_id).int().to(model.device),
    }
    # A streamer, for the time of each step, is allowed for one request only.
    streamer = {"streamer": Clock()} if len(batch) == 1 else {}
    model.generate(
        **arguments, **streamer, max_new_tokens=tokens, do_sample=False, temperature=None,
        top_p=None, top_k=None, eos_token_id=-1, pad_token_id=0,
    )  # fmt: skip
    total = time.perf_counter() - began
    return Timing(stamps[1] - began if streamer else 0.0, total, total / tokens)


def floor(model: Any, rows: int) -> float:
    """Lower bound in seconds for a decode step with this number of requests."""
    weights = [
        weight
        for module in (model.model.language_model.layers, model.lm_head)
        for weight in module.parameters()
    ]
    size = sum(weight.numel() for weight in weights)
    item = weights[0].element_size()
    block = torch.ones(64 * 2**20 // item, dtype=weights[0].dtype, device=weights[0].device)
    small = block[: size * 1]  # what fits a cache is read from the cache here too
    bandwidth = small.nbytes / _best(lambda: small.sum())
    matrix = torch.ones(1024, 1024, dtype=weights[0].dtype, device=weights[0].device)
    flops = 2 * 1024**3 / _best(lambda: matrix @ matrix)
    return float(max(size * item / bandwidth, 2 * size * rows / flops))


def _best(work: Any) -> float:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(min(times))


def main() -> int:
    """Measure, print the table, write it to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--checkpoint", default=str(ROOT / "demo_model" / "checkpoint"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/engine.md")
    arguments = parser.parse_args()
    if not MEMORY.items() <= os.environ.items():  # as the server has it, from a process's start
        command = [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **MEMORY})
    os.environ["GLM_MODEL"] = arguments.checkpoint
    outputs: list[Output] = []
    engine = Engine(EngineConfig.from_env(), outputs.extend)
    preprocessor = Preprocessor.from_settings(PreprocessingSettings.from_env())
    runner = engine._runner
    load: Any = AutoModelForImageTextToText.from_pretrained
    model = load(arguments.checkpoint, dtype=runner.dtype).to(runner.device).eval()
    operations, table = runner._encode._operations, runner._encode._pixel_table
    lines = [
        "| batch | engine tok/s | step ms | floor ms | step / floor | transformers tok/s | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    series: dict[str, list[tuple[float, float]]] = {"ours": [], "transformers": []}
    seed = 0
    for count in arguments.batch:
        ours, theirs = [], []
        for number in range(arguments.rounds + 1):
            batch = prompts(engine, preprocessor, count, seed)
            seed += count
            timings = (
                run_engine(engine, outputs, batch, arguments.tokens),
                run_transformers(
                    model, lambda p: operations.normalize(p, table), batch, arguments.tokens
                ),
            )
            if number:  # the first warms up
                ours.append(timings[0])
                theirs.append(timings[1])
        least, tokens = floor(model, count), count * arguments.tokens
        step = statistics.median(timing.step for timing in ours)
        own = tokens / statistics.median(timing.total for timing in ours)
        other = tokens / statistics.median(timing.total for timing in theirs)
        lines.append(
            f"| {count} | {own:.0f} | {1e3 * step:.2f} | {1e3 * least:.2f} | {step / least:.1f} "
            f"| {other:.0f} | **{own / other:.1f}** |"
        )
        series["ours"].append((count, own))
        series["transformers"].append((count, other))
        print(json.dumps({"batch": count, "ours": own, "transformers": other, "step": step}))
    details = f"{torch.get_num_threads()} thread(s)"
    panel = Panel("Tokens per second, prefill and vision included", "tokens/s", series)
    report(arguments.output, "The engine by itself", details, __doc__, lines, [panel])
    return 0


if __name__ == "__main__":
    sys.exit(main())
