"""``make gpu-check``: is the GPU path right, and how far is it from what the GPU could do?

First the demo checkpoint in float32 and bfloat16 on the GPU against float32 on the CPU. Then the
architecture of GLM-4.6V-Flash at its full size with random bfloat16 weights: decode steps against
the time that reading weights and keys and values takes at the bandwidth measured here, prefill as a
share of the matrix product speed measured here, pictures, and a mixed load. Last the whole server
with the demo checkpoint, where all that it needs is installed. Nothing is fetched.
``--tiny`` runs all of it in small, also on a CPU, to test this script.
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from glm_engine.batch import Batch
from glm_engine.block_manager import BlockManager, BlockTable
from glm_engine.checkpoint import Checkpoint
from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.model_runner import ModelRunner
from glm_engine.operations import Operations, Rotary, TorchOperations, operations_for
from glm_engine.request import (
    GenerationDefaults,
    Output,
    Prompt,
    PromptImage,
    Request,
    SamplingParams,
    StructuredOutputs,
)
from glm_engine.scheduler import Scheduled, Scheduler
from glm_engine.structured_output import Grammars, allowed_tokens
from tools.report import ROOT, hardware

DEMO = ROOT / "demo_model" / "checkpoint"

# Sizes of zai-org/GLM-4.6V-Flash.
FLASH_TEXT: dict[str, Any] = {
    "vocab_size": 151552, "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32,
    "num_key_value_heads": 2, "intermediate_size": 13696, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "pad_token_id": 151329,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5,
        "mrope_section": [8, 12, 12],
    },
}  # fmt: skip
FLASH_VISION: dict[str, Any] = {
    "depth": 24, "hidden_size": 1536, "num_heads": 12, "patch_size": 14, "temporal_patch_size": 2,
    "spatial_merge_size": 2, "out_hidden_size": 4096, "intermediate_size": 13696,
    "attention_bias": False, "image_size": 336, "in_channels": 3, "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
}  # fmt: skip
IMAGE_TOKEN = 151363
TINY_TEXT: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 512,
}  # fmt: skip
TINY_VISION: dict[str, Any] = {
    "depth": 2, "hidden_size": 128, "num_heads": 1, "out_hidden_size": 256, "intermediate_size": 512
}  # fmt: skip


@dataclass(frozen=True)
class Peaks:
    """What this device does at its best: bytes and floating point operations per second."""

    bandwidth: float
    matmul: float


class Flash:
    """The full-size model with random weights, and its requests."""

    def __init__(self, device: str, tiny: bool, gpu_kernels: bool = True) -> None:
        text = {**FLASH_TEXT, **(TINY_TEXT if tiny else {})}
        vision = {**FLASH_VISION, **(TINY_VISION if tiny else {})}
        config = AutoConfig.for_model("glm4v", text_config=text, vision_config=vision)
        config.image_token_id = IMAGE_TOKEN
        dtype = torch.bfloat16
        make: Any = AutoModelForImageTextToText
        with torch.device("meta"):
            model = make.from_config(config, dtype=dtype)
        rotary = [type(model.model.language_model.rotary_emb)(config.text_config)]
        model = model.to_empty(device=device).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("norm.weight") or ".norm" in name:
                    weight.fill_(1)
                else:
                    weight.normal_(0, 0.02)
        # Buffers are not weights: meta had none of their values.
        model.model.language_model.rotary_emb.inv_freq = rotary[0].inv_freq.to(device)
        visual = model.model.visual.rotary_pos_emb
        visual.inv_freq = type(visual)(config.vision_config).inv_freq.to(device)
        self.text_parameters = sum(
            parameter.numel()
            for part in (model.model.language_model.layers, model.lm_head)
            for parameter in part.parameters()
        )
        self.vocab: int = FLASH_TEXT["vocab_size"]
        self.runner = ModelRunner(
            Checkpoint(
                folder=DEMO,
                config={},
                tokenizer={},
                image_processor={"image_mean": [0.5] * 3, "image_std": [0.25] * 3},
                defaults=GenerationDefaults(frozenset({151336})),
            ),
            EngineConfig(
                model="",
                device=device,
                dtype="bfloat16",
                gpu_kernels=gpu_kernels,
                max_num_seqs=256,
                max_model_len=1024 if tiny else 16384,
                image_cache_memory=0,
                max_num_batched_tokens=256 if tiny else 8192,
                max_num_batched_patches=16384,
                kv_cache_memory=256 * 2**20 if device == "cpu" else 0,
            ),
            num_tokens=self.vocab,
            model=model,
        )

    def scheduler(self) -> Scheduler:
        """An idle one over the whole cache."""
        cache = self.runner.cache
        blocks = BlockManager(cache.num_blocks, cache.block_size, prefix_caching=False)
        return Scheduler(
            blocks,
            max_num_seqs=256,
            max_num_batched_tokens=self.runner.max_num_batched_tokens,
            max_num_batched_patches=16384,
        )

    def request(self, tokens: int, answer: int, side: int = 0) -> Request:
        """A random prompt; with ``side``, a random picture with that many patches per side."""
        random = np.random.default_rng(tokens + side)
        ids = random.integers(0, 100_000, tokens).astype(np.int32)
        images: tuple[PromptImage, ...] = ()
        if side:
            patches = random.integers(0, 255, (side * side, 588), np.uint8)
            count = side * side // 4
            ids[4 : 4 + count] = IMAGE_TOKEN
            images = (PromptImage(4, count, (1, side, side), random.bytes(16), patches),)
        positions = np.tile(np.arange(tokens, dtype=np.int32), (3, 1))
        prompt = Prompt("text_input", ids, positions, 0, images)
        params = SamplingParams(temperature=0.0, max_tokens=answer, ignore_eos=True)
        return Request("r", prompt, params, max_tokens=answer)

    def step(self, scheduler: Scheduler) -> None:
        """One step, as the engine does it."""
        step = scheduler.schedule()
        self.runner.encode_images(step)
        for part, sampled in self.runner.run(step):
            part.request.token_ids.append(sampled.token_id)
        scheduler.computed(step)
        for request in [r for r in scheduler.running if len(r.token_ids) >= r.max_tokens]:
            scheduler.remove(request)


def seconds(work: Callable[[], Any], count: int, device: str) -> float:
    """Median time of ``work``, after it has been done three times."""
    times = []
    for number in range(count + 3):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        if number >= 3:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peaks(device: str, tiny: bool) -> Peaks:
    """Measured: reading a large tensor, and multiplying two large matrices."""
    size, side = (2**24, 512) if tiny else (2**31, 8192)
    numbers = torch.ones(size, dtype=torch.bfloat16, device=device)
    read = size * 2 / seconds(lambda: numbers.view(torch.int16).max(), 10, device)
    copied = torch.empty_like(numbers)
    copy = 2 * size * 2 / seconds(lambda: copied.copy_(numbers), 10, device)
    matrix = torch.randn(side, side, dtype=torch.bfloat16, device=device)
    product = 2 * side**3 / seconds(lambda: matrix @ matrix, 10, device)
    return Peaks(max(read, copy), product)


def check_kernels(device: str) -> dict[str, Any]:
    """The device's operations beside PyTorch's, on a mixed step of the full-size model's shapes.

    For each dtype the largest difference, as a share of the largest number.
    """
    heads, kv_heads, head_dim, block_size = 32, 2, 128, 16
    parts, free = [], iter(range(1000))
    for start, end in ((1023, 1024), (5, 6), (300, 301), (0, 130), (200, 333)):
        ids = np.arange(end, dtype=np.int32)
        prompt = Prompt("", ids, np.stack([ids] * 3), 0)
        table = BlockTable([next(free) for _ in range(-(-end // block_size))])
        request = Request("", prompt, SamplingParams(), table=table)
        parts.append(Scheduled(request, start, end, is_last=True))
    rotary = Rotary(torch.rand(32).to(device), torch.arange(32).remainder(3).to(device), 1.0, 2048)
    found: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        ours = operations_for(dtype, torch.device(device))(1e-5)
        theirs = TorchOperations(dtype, torch.device(device), 1e-5)

        def noise(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
            generator = torch.Generator().manual_seed(sum(shape))
            return torch.randn(shape, generator=generator).to(device, dtype)

        x, weight, hidden = noise(70, 4096), noise(4096), noise(70, 4096)

        def attended(
            operations: Operations, parts: list[Scheduled], dtype: torch.dtype = dtype
        ) -> torch.Tensor:
            batch = Batch.of(parts, block_size)
            cache = noise(1, 200, block_size, 2, kv_heads, head_dim, dtype=dtype)
            qkv = noise(len(batch.ids), heads + 2 * kv_heads, head_dim, dtype=dtype)
            return operations.attention(batch, rotary, cache, heads)(qkv, cache[0])

        as_weight = ours.weight(weight)
        pairs = {
            "norm": (ours.norm(x, as_weight), theirs.norm(x, weight)),
            "add_norm": (
                ours.norm_add_norm(
                    hidden.to(ours.hidden_dtype, copy=True), x, as_weight, as_weight
                )[1],
                theirs.norm_add_norm(hidden, x, weight, weight)[1],
            ),
            "gate": (ours.gate(x), theirs.gate(x)),
            "attention": (attended(ours, parts), attended(theirs, parts)),
            "attention, decode": (attended(ours, parts[:3]), attended(theirs, parts[:3])),
        }
        found[str(dtype)] = {
            name: float((one.float() - other.float()).abs().max() / other.float().abs().max())
            for name, (one, other) in pairs.items()
        }
    return found


def check_tokens(device: str) -> dict[str, Any]:
    """Answers of the demo checkpoint on the device against those on the CPU in float32."""

    def answers(device: str, dtype: str) -> list[list[int]]:
        outputs: list[Output] = []
        engine = Engine(EngineConfig(str(DEMO), device=device, dtype=dtype), outputs.extend)
        random = np.random.default_rng(0)
        requests = []
        for index in range(40):
            ids = random.integers(40, 700, 20 + 3 * index).astype(np.int32)
            patches = random.integers(0, 255, (64, 588), np.uint8)
            ids[4:20] = engine.image_token_id
            image = PromptImage(4, 16, (1, 8, 8), random.bytes(16), patches)
            positions = np.tile(np.arange(len(ids), dtype=np.int32), (3, 1))
            prompt = Prompt("text_input", ids, positions, 0, (image,))
            params = SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True)
            requests.append(Request("r", prompt, params))
            engine.add(requests[-1])
        while engine.step():
            pass
        return [request.token_ids for request in requests]

    exact = answers("cpu", "float32")
    found = {}
    for dtype in ("float32", "bfloat16"):
        other = answers(device, dtype)
        pairs = [
            (a, b) for x, y in zip(exact, other, strict=True) for a, b in zip(x, y, strict=True)
        ]
        found[dtype] = sum(a == b for a, b in pairs) / len(pairs)
    return {"equal tokens, float32": found["float32"], "equal tokens, bfloat16": found["bfloat16"]}


def check_decode(
    flash: Flash, peak: Peaks, device: str, context: int, batches: Sequence[int] = (1, 8, 32, 64)
) -> list[dict[str, Any]]:
    """Decode steps with ``context`` tokens before them."""
    rows = []
    cache = flash.runner.cache.layers
    per_token = cache.nbytes / (cache.shape[1] * cache.shape[2])
    for batch in batches:
        scheduler = flash.scheduler()
        for _ in range(batch):
            scheduler.add(flash.request(context, 10_000))
        while any(not r.token_ids for r in [*scheduler.waiting, *scheduler.running]):
            flash.step(scheduler)
        step = seconds(partial(flash.step, scheduler), 20, device)
        read = 2 * flash.text_parameters + batch * context * per_token
        least = max(read / peak.bandwidth, 2 * flash.text_parameters * batch / peak.matmul)
        rows.append({"batch": batch, "step_ms": 1e3 * step, "ratio_to_floor": step / least,
                     "tokens_per_second": batch / step})  # fmt: skip
    return rows


def check_prefill(flash: Flash, peak: Peaks, device: str, tokens: int) -> dict[str, Any]:
    """One long prompt."""

    def run() -> None:
        scheduler = flash.scheduler()
        scheduler.add(flash.request(tokens, 1))
        while scheduler.waiting or scheduler.running:
            flash.step(scheduler)

    took = seconds(run, 3, device)
    language = flash.runner._language
    attention = 2 * language.num_layers * language.num_heads * language.head_dim * tokens**2
    work = 2 * (flash.text_parameters - flash.vocab * language.hidden_size) * tokens + attention
    return {"tokens": tokens, "ms": 1e3 * took, "share_of_matmul_peak": work / took / peak.matmul}


def check_picture(flash: Flash, device: str, side: int) -> dict[str, Any]:
    """One picture and 30 tokens: vision alone, then all to the first token."""
    request = flash.request(30 + side * side // 4, 1, side)
    (image,) = request.prompt.images

    @torch.inference_mode()
    def encode() -> None:
        assert image.patches is not None
        flash.runner._encode([image.patches], [image.grid])

    def first_token() -> None:
        scheduler = flash.scheduler()
        scheduler.add(flash.request(30 + side * side // 4, 1, side))
        while scheduler.waiting or scheduler.running:
            flash.step(scheduler)

    vision = seconds(encode, 5, device)
    total = seconds(first_token, 5, device)
    return {"pixels": 14 * side, "vision_ms": 1e3 * vision, "first_token_ms": 1e3 * total}


def check_load(flash: Flash, count: int, tiny: bool) -> dict[str, Any]:
    """Many requests at once: text and pictures, short and long."""
    scheduler = flash.scheduler()
    scale = 8 if tiny else 1
    for index in range(count):
        side = (0, 16, 36)[index % 3] // (4 if tiny else 1) // 2 * 2
        prompt = (200 + 37 * index % 800) // scale + side * side // 4
        scheduler.add(flash.request(prompt, (32 + 11 * index % 200) // scale, side))
    requests = list(scheduler.waiting)
    began = time.perf_counter()
    while scheduler.waiting or scheduler.running:
        flash.step(scheduler)
    took = time.perf_counter() - began
    tokens = sum(len(request.token_ids) for request in requests)
    return {"requests": count, "seconds": took, "requests_per_second": count / took,
            "tokens_per_second": tokens / took}  # fmt: skip


def check_masks(device: str, vocab: int) -> dict[int, float]:
    """Seconds per step for the token masks of a number of constrained answers."""
    checkpoint = Checkpoint.load(str(DEMO))
    eos = checkpoint.defaults.eos_token_ids
    grammars = Grammars(checkpoint.tokenizer, vocab, eos, None)
    params = SamplingParams(structured_outputs=StructuredOutputs("json", {"type": "object"}))
    prompt = Prompt("messages", np.zeros(1, np.int32), np.zeros((3, 1), np.int32), 0)
    guides = [guide for _ in range(64) if (guide := grammars.compile(params, [], prompt))]
    return {
        rows: seconds(
            partial(allowed_tokens, guides[:rows], vocab, torch.device(device)), 9, device
        )
        for rows in (1, 64)
    }


def check_stack(seconds_each: float) -> Any:
    """The demo checkpoint through HTTP and Triton on this device, where all of it is installed."""
    needed = ("pytriton", "fastapi", "uvicorn", "httpx2", "tritonclient")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return f"skipped: {', '.join(missing)} not available"
    from benchmarks.peers.servers import OURS, running
    from tools.load import distinct_pictures, load

    rows = []
    log = Path(tempfile.mkdtemp(prefix="gpu-check-")) / "log"
    with running(OURS, DEMO, log) as server:
        for concurrency in (1, 16, 64):
            uris = distinct_pictures(100, concurrency * 1000)
            rows.append(asdict(asyncio.run(load(server, concurrency, seconds_each, uris))))
    return rows


def main() -> int:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    tiny, device = arguments.tiny, "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not tiny:
        print("no GPU: only --tiny can run", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    result: dict[str, Any] = {"hardware": hardware(), "tiny": tiny}

    def note(name: str, value: Any) -> None:
        result[name] = value
        print(json.dumps({name: value}), file=sys.stderr, flush=True)
        if arguments.output:  # after each part, so that a cut run is not lost
            arguments.output.write_text(json.dumps(result, indent=2))

    # Before all else, for where a kernel does not even compile nothing else will work.
    note("kernels", check_kernels(device))
    note("right", check_tokens(device))
    peak = peaks(device, tiny)
    note("peaks", {"bandwidth": peak.bandwidth, "matmul": peak.matmul})
    flash = Flash(device, tiny)
    note("kv_tokens", flash.runner.cache.num_blocks * flash.runner.cache.block_size)
    note("decode", check_decode(flash, peak, device, 64 if tiny else 1024))
    note("prefill", check_prefill(flash, peak, device, 512 if tiny else 8192))
    note("pictures", [check_picture(flash, device, side) for side in ((6,) if tiny else (36, 74))])
    note("load", check_load(flash, 12 if tiny else 256, tiny))
    note("masks", check_masks(device, flash.vocab))
    if device == "cuda":
        note("peak_memory_bytes", torch.cuda.max_memory_allocated())
        del flash
        torch.cuda.empty_cache()
        plain = Flash(device, tiny, gpu_kernels=False)
        note("decode by PyTorch's operations", check_decode(plain, peak, device, 1024, (1, 8)))
        del plain
        torch.cuda.empty_cache()
    note("stack", check_stack(1 if tiny else 10))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
