"""``make bench-quantised``: what quantised weights cost in answers, and take in memory.

The demo checkpoint answers questions of its evaluation in each width, through the engine, and so do
checkpoints that were written quantised. Then the shapes of GLM-4.6V-Flash, two layers deep, with
random weights in which one of a thousand is ten times as large, and a prompt of random tokens:
relative error of each kind of layer's output, and the divergence of the next token's distribution
(Kullback-Leibler, in nats, mean over the prompt). Last, loading a checkpoint of half a billion
parameters: what stays, and the peak of the process beyond what it had before.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from benchmarks.gpu_check import FLASH_TEXT, FLASH_VISION
from demo_model.evaluate import Case, Judge, evaluate, make_cases, make_structured_cases
from glm_engine.batch import Batch
from glm_engine.block_manager import BlockTable
from glm_engine.config import QUANTIZATIONS, EngineConfig
from glm_engine.cpu import instruction_set
from glm_engine.engine import Engine
from glm_engine.kv_cache import KVCache
from glm_engine.language_model import LanguageModel
from glm_engine.operations import operations_for
from glm_engine.quantization.cpu_linear import activation_levels
from glm_engine.quantization.linear import linear_of
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.request import Output, Prompt, Request, SamplingParams, place_images
from glm_engine.scheduler import Scheduled
from glm_engine.weights import Weights, model_without_weights
from glm_preprocessing.preprocessor import Preprocessor, PromptRequest
from glm_preprocessing.settings import PreprocessingSettings
from launcher.triton import MEMORY
from tools.mid_checkpoint import make
from tools.report import ROOT, report

DEMO = ROOT / "demo_model" / "checkpoint"
PAGE = ROOT / "benchmarks" / "results" / "quantised.md"
CPU = torch.device("cpu")
LAYERS = {"qkv": (4608, 4096), "o": (4096, 4096), "gate_up": (27_392, 4096), "down": (4096, 13_696)}
ROWS = (1, 4, 16, 64)


class EngineJudge(Judge):
    """The engine in place of transformers: greedy answers, at most 64 at a time."""

    def __init__(self, checkpoint: Path, quantization: str = "none") -> None:
        self._outputs: list[Output] = []
        config = EngineConfig(str(checkpoint), quantization=quantization)
        self._engine = Engine(config, self._outputs.extend)
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        settings = {"GLM_MODEL": str(checkpoint)}
        self._stage_1 = Preprocessor.from_settings(PreprocessingSettings.from_env(settings))

    def answers(self, cases: list[Case], thinking: bool) -> list[str]:
        requests = [Request(f"r{i}", self._prompt(case, thinking), SamplingParams(
            temperature=0.0, max_tokens=220)) for i, case in enumerate(cases)]  # fmt: skip
        for request in requests:
            self._engine.add(request)
        while self._engine.step():
            pass
        self._outputs.clear()
        tokens = [request.token_ids for request in requests]
        texts: list[str] = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _prompt(self, case: Case, thinking: bool) -> Prompt:
        files = []
        for picture in case.pictures:
            file = BytesIO()
            picture.save(file, "PNG")
            files.append(file.getvalue())
        stage_1 = self._stage_1(
            PromptRequest(
                messages=json.dumps(case.messages),
                image=files,
                chat_template_kwargs=json.dumps({"enable_thinking": thinking}),
            )
        )
        images = place_images(
            stage_1.input_ids, self._engine.image_token_id, self._engine.merge_size,
            stage_1.image_grid_thw, stage_1.image_hash, stage_1.patches, stage_1.image_frames,
        )  # fmt: skip
        return Prompt(
            "messages", stage_1.input_ids, stage_1.position_ids, int(stage_1.rope_delta[0]), images
        )


def true_answers(quantization: str, count: int, checkpoint: Path = DEMO) -> dict[str, float]:
    """Shares of true answers of the demo checkpoint, by kind of question, and of all together."""
    judge = EngineJudge(checkpoint, quantization)
    right = cases = 0.0
    shares = {}
    for kind, own in (
        ("questions", make_cases(count, 987_654)),
        ("JSON and boxes", make_structured_cases(count // 2, 987_654)),
    ):
        table, _ = evaluate(judge, own, thinking=False, batch_size=64)
        shares[kind] = table["all"][0] / table["all"][1]
        right, cases = right + table["all"][0], cases + table["all"][1]
    return shares | {"all": right / cases}


def answers_table(count: int) -> list[str]:
    """The demo checkpoint in each width."""
    lines = [
        "| weights | questions | JSON and boxes | all | beside bfloat16 |",
        "|---|---|---|---|---|",
    ]
    plain = 0.0
    for name in QUANTIZATIONS:
        shares = true_answers(name, count)
        plain = plain or shares["all"]
        cells = " | ".join(f"{100 * share:.1f} %" for share in shares.values())
        change = 100 * (shares["all"] - plain)
        lines.append(f"| {'bfloat16' if name == 'none' else name} | {cells} | {change:+.1f} % |")
        print(lines[-1], flush=True)
    return lines


class RandomTensors(Mapping[str, torch.Tensor]):
    """Weights with outliers, the same for the same name."""

    def __init__(self, model: Any) -> None:
        self._shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._made(name, self._shapes[name])

    @staticmethod
    @cache
    def _made(name: str, shape: torch.Size) -> torch.Tensor:
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=torch.bfloat16)
        return with_outliers(shape, seed=sum(name.encode())).bfloat16()

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def with_outliers(shape: torch.Size, seed: int, scale: float = 0.02) -> torch.Tensor:
    """Normal numbers, of which one in a thousand is ten times as large."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator).mul_(scale)
    count = max(1, numbers.numel() // 1000)
    places = torch.randint(numbers.numel(), (count,), generator=generator)
    numbers.view(-1)[places] *= 10
    return numbers


def layer_table() -> list[str]:
    """Relative errors of outputs, and milliseconds of one thread."""
    torch.set_num_threads(1)
    lines = ["| layer | width | error | " + " | ".join(f"{rows} rows, ms" for rows in ROWS) + " |"]
    lines.append("|---" * (3 + len(ROWS)) + "|")
    for layer, (outputs, inputs) in LAYERS.items():
        weight = with_outliers(torch.Size([outputs, inputs]), seed=outputs)
        x = torch.randn(ROWS[-1], inputs)
        x[:, :: inputs // 8] *= 30  # channels with outliers, as real activations have them
        expected = x @ weight.t()
        for name in ("float32", *SCHEMES):
            own = weight if name == "float32" else SCHEMES[name].quantize(weight)
            multiply = linear_of(own, torch.float32)
            error = float((multiply(x) - expected).norm() / expected.norm())
            cells = []
            for rows in ROWS:
                times = []
                for _ in range(3):
                    began = time.thread_time()
                    multiply(x[:rows])
                    times.append(1e3 * (time.thread_time() - began))
                cells.append(f"{min(times):.2f}")
            shown = f"{100 * error:.2f} %" if name != "float32" else "-"
            lines.append(
                f"| {layer}, {outputs:,} x {inputs:,} | {name} | {shown} | {' | '.join(cells)} |"
            )
            print(lines[-1], flush=True)
    return lines


@torch.inference_mode()
def next_tokens(quantization: str, tokens: int = 64) -> torch.Tensor:
    """(tokens, vocabulary) log probabilities after each token of a prompt."""
    vision = {**FLASH_VISION, "depth": 1}
    text = {**FLASH_TEXT, "num_hidden_layers": 2}
    config = AutoConfig.for_model("glm4v", text_config=text, vision_config=vision)
    model = model_without_weights(config)
    weights = Weights(
        RandomTensors(model), model, dtype=torch.float32, device=CPU,
        scheme=SCHEMES.get(quantization),
    )  # fmt: skip
    operations = operations_for(torch.float32, CPU)(text["rms_norm_eps"])
    language = LanguageModel(model, weights, text["vocab_size"], operations, tokens)
    cache = KVCache(
        num_layers=2, num_blocks=tokens // 16, block_size=16, num_kv_heads=language.num_kv_heads,
        head_dim=language.head_dim, dtype=torch.float32, device=CPU,
    )  # fmt: skip
    ids = torch.randint(150_000, (tokens,), generator=torch.Generator().manual_seed(0)).int()
    positions = torch.arange(tokens).int().expand(3, tokens).numpy()
    prompt = Prompt("", ids.numpy(), positions, 0)
    table = BlockTable(list(range(tokens // 16)))
    request = Request("", prompt, SamplingParams(), table=table)
    batch = Batch.of([Scheduled(request, 0, tokens, is_last=True)], 16)
    hidden: list[torch.Tensor] = []
    language(language.embed(ids.long()), batch, cache.layers, hidden.append)
    return language.logits(hidden[0]).log_softmax(-1)


def divergence_table() -> list[str]:
    """The next token's distribution in each width."""
    plain = next_tokens("none")
    lines = ["| width | divergence | same most likely token |", "|---|---|---|"]
    for name in SCHEMES:
        own = next_tokens(name)
        divergence = float((plain.exp() * (plain - own)).sum(-1).mean())
        same = float((plain.argmax(-1) == own.argmax(-1)).float().mean())
        lines.append(f"| {name} | {divergence:.5f} | {100 * same:.0f} % |")
        print(lines[-1], flush=True)
    return lines


PEAK = """
import sys
from pathlib import Path
from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
import transformers.models.glm4v.modeling_glm4v, glm_engine.cpu_kernels

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

before = memory("VmRSS")
engine = Engine(EngineConfig(sys.argv[1], dtype=sys.argv[2], quantization=sys.argv[3],
                             kv_cache_memory=2**26), print)
print(engine._runner.num_weight_bytes, memory("VmRSS") - before, memory("VmHWM") - before)
"""


def loading(checkpoint: Path, dtype: str, quantization: str) -> tuple[int, int, int]:
    """Bytes of the weights, of the process once it is ready, and at its peak."""
    folders = [ROOT / "model_repository" / "generation" / "1"]
    environment = os.environ | MEMORY | {"PYTHONPATH": os.pathsep.join(map(str, folders))}
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, str(checkpoint), dtype, quantization],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    weights, ready, peak = map(int, ran.stdout.split())
    return weights, ready, peak


def loading_table(checkpoint: Path) -> list[str]:
    """Memory of loading in each width."""
    lines = ["| dtype | weights | MB | ready, MB | peak, MB |", "|---|---|---|---|---|"]
    for dtype in ("bfloat16", "float32"):
        for name in QUANTIZATIONS:
            cells = " | ".join(f"{size / 1e6:,.0f}" for size in loading(checkpoint, dtype, name))
            lines.append(f"| {dtype} | {'as stored' if name == 'none' else name} | {cells} |")
            print(lines[-1], flush=True)
    return lines


def main() -> int:
    """Measure, print the tables, write them to ``benchmarks/results``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantised", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, help="default: build/mid, made if need be")
    parser.add_argument("--count", type=int, default=300, help="questions with a picture")
    parser.add_argument("--output", type=Path, default=PAGE)
    arguments = parser.parse_args()
    sections: dict[str, Callable[[], list[str]]] = {
        f"True answers of the demo checkpoint, {arguments.count} pictures:": partial(
            answers_table, arguments.count
        ),
        "The next token, at the shapes of GLM-4.6V-Flash:": divergence_table,
        "Loading half a billion parameters, beyond 300 to 400 MB of libraries:": partial(
            loading_table, arguments.checkpoint or make(DEMO, ROOT / "build" / "mid")
        ),
        "Its layers, by one thread (milliseconds of processor time, best of three):": layer_table,
    }
    bits = 8 if activation_levels() == 127 else 7
    details = f"{instruction_set()}, fbgemm with numbers of {bits} bits"
    table: list[str] = []
    for title, section in sections.items():
        print(title, flush=True)
        table += [title, "", *section(), ""]
        report(arguments.output, "Quantised weights", details, __doc__, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
