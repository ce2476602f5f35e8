"""``make gpu-check``: is the GPU path right, and how far is it from what the GPU could do?

One run of a few minutes. The checks are sorted by what they are worth, and each result is written
when it is known, so that a run that is cut short still counts; a check that fails is noted, and the
next one runs. The demo checkpoint shows whether answers are right; the architecture of
GLM-4.6V-Flash at its full size, with random bfloat16 weights, how fast it is, relative to the
bandwidth and the matrix product speed measured on the same card. Nothing is fetched.
``--dry`` runs all of it in small, also on a CPU, to test this script. ``--page`` makes
benchmarks/results/gpu.md of a result.
"""

import argparse
import asyncio
import gc
import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
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
SEQS = 256
PAGE = ROOT / "benchmarks" / "results" / "gpu.md"
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
        self.device, self.tiny = device, tiny
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
                max_num_seqs=SEQS,
                max_model_len=2048 if tiny else 131072,
                image_cache_memory=0,
                max_num_batched_tokens=256 if tiny else 8192,
                max_num_batched_patches=16384,
                kv_cache_memory=256 * 2**20 if device == "cpu" else 0,
            ),
            num_tokens=self.vocab,
            model=model,
        )
        self.config, self.model = config, model

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return self.runner.cache.num_blocks * self.runner.cache.block_size

    def scheduler(self) -> Scheduler:
        """An idle one over the whole cache."""
        cache = self.runner.cache
        blocks = BlockManager(cache.num_blocks, cache.block_size, prefix_caching=False)
        return Scheduler(
            blocks,
            max_num_seqs=SEQS,
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
    for start, end in ((2047, 2048), (5, 6), (300, 301), (0, 130), (200, 333)):
        ids = np.arange(end, dtype=np.int32)
        prompt = Prompt("", ids, np.stack([ids] * 3), 0)
        table = BlockTable([next(free) for _ in range(-(-end // block_size))])
        request = Request("", prompt, SamplingParams(), table=table)
        parts.append(Scheduled(request, start, end, is_last=True))
    rotary = Rotary(torch.rand(32).to(device), torch.arange(32).remainder(3).to(device), 1.0, 4096)
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
            cache = noise(1, 256, block_size, 2, kv_heads, head_dim, dtype=dtype)
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


class Decoding:
    """Requests that decode, each with a context of its own, which holds zeros."""

    def __init__(self, flash: Flash, contexts: Sequence[int], **params: Any) -> None:
        self._runner = flash.runner
        cache, first = flash.runner.cache, 0
        self.requests: list[Request] = []
        for index, context in enumerate(contexts):
            request = flash.request(context, 10_000)
            settings = {"temperature": 0.0, "ignore_eos": True, "seed": index, **params}
            request.params = SamplingParams(**settings)
            count = -(-(context + 200) // cache.block_size)
            request.table = BlockTable(
                [block % cache.num_blocks for block in range(first, first + count)]
            )
            first += count
            request.token_ids.append(1)
            self.requests.append(request)

    def step(self) -> None:
        """One step of all."""
        parts = [Scheduled(r, r.num_tokens - 1, r.num_tokens, is_last=True) for r in self.requests]
        for part, sampled in self._runner.run(parts):
            part.request.token_ids.append(sampled.token_id)


def check_decode(
    flash: Flash, peak: Peaks, contexts: Sequence[int], **params: Any
) -> dict[str, Any]:
    """A decode step: milliseconds, and how many times what reading all of it takes at least."""
    decoding = Decoding(flash, contexts, **params)
    step = seconds(decoding.step, 5 if flash.tiny else 20, flash.device)
    cache = flash.runner.cache.layers
    per_token = cache.nbytes / (cache.shape[1] * cache.shape[2])
    read = 2 * flash.text_parameters + sum(contexts) * per_token
    work = 2 * flash.text_parameters * len(contexts)
    floor = max(read / peak.bandwidth, work / peak.matmul)
    return {"batch": len(contexts), "ms": 1e3 * step, "floor_ms": 1e3 * floor,
            "ratio": step / floor, "tokens_per_second": len(contexts) / step}  # fmt: skip


# What the checkpoint's own defaults are, and every penalty beside.
SAMPLED = {"temperature": 0.8, "top_p": 0.6, "top_k": 2, "repetition_penalty": 1.1}
EVERYTHING = SAMPLED | {"top_k": 50, "presence_penalty": 0.1, "frequency_penalty": 0.1,
                        "min_p": 0.01, "logprobs": 5, "logit_bias": {7: 1.0}}  # fmt: skip


def check_decodes(flash: Flash, peak: Peaks) -> dict[str, Any]:
    """Batches at 1,000 tokens of context, and the mixtures that are hard."""
    short, long = (64, 1500) if flash.tiny else (1024, 128_000)
    found = {f"batch {n}": check_decode(flash, peak, [short] * n) for n in (1, 8, 32, 64, SEQS)}
    found["63 short, one long"] = check_decode(flash, peak, [short] * 63 + [long])
    found["batch 64, defaults"] = check_decode(flash, peak, [short] * 64, **SAMPLED)
    found["batch 64, everything"] = check_decode(flash, peak, [short] * 64, **EVERYTHING)
    return found


def check_graphs(flash: Flash) -> dict[str, Any]:
    """Whether CUDA graphs give the tokens of the same steps without them."""
    graphs = flash.runner._graphs
    if graphs is None:
        return {"graphs": False}
    answers = []
    for own in (graphs, None):
        flash.runner._graphs = own
        flash.runner.cache.layers.normal_(0, 0.1, generator=_generator(flash.device))
        decoding = Decoding(flash, [900, 5, 333, 64, 257, 1, 2000][: 7 if not flash.tiny else 6])
        for _ in range(8):
            decoding.step()
        answers.append([request.token_ids for request in decoding.requests])
    flash.runner._graphs = graphs
    flash.runner.cache.layers.zero_()
    pairs = [(x, y) for a, b in zip(*answers, strict=True) for x, y in zip(a, b, strict=True)]
    return {"graphs": True, "equal tokens": sum(x == y for x, y in pairs) / len(pairs)}


def _generator(device: str) -> torch.Generator:
    return torch.Generator(device).manual_seed(0)


def check_prefill(flash: Flash, peak: Peaks, tokens: int) -> dict[str, Any]:
    """One long prompt."""

    def run() -> None:
        scheduler = flash.scheduler()
        scheduler.add(flash.request(tokens, 1))
        while scheduler.waiting or scheduler.running:
            flash.step(scheduler)

    took = seconds(run, 3, flash.device)
    language = flash.runner._language
    attention = 2 * language.num_layers * language.num_heads * language.head_dim * tokens**2
    work = 2 * (flash.text_parameters - flash.vocab * language.hidden_size) * tokens + attention
    return {"tokens": tokens, "ms": 1e3 * took, "share_of_matmul_peak": work / took / peak.matmul}


def check_follow_up(flash: Flash, context: int) -> dict[str, Any]:
    """The 20 tokens of a further question after a long context that is in the cache."""
    request = flash.request(context + 20, 1)
    blocks = -(-(context + 20) // flash.runner.cache.block_size)
    request.table = BlockTable([n % flash.runner.cache.num_blocks for n in range(blocks)])
    part = Scheduled(request, context, context + 20, is_last=True)
    took = seconds(lambda: flash.runner.run([part]), 5, flash.device)
    return {"context": context, "ms": 1e3 * took}


def check_picture(flash: Flash, peak: Peaks, side: int) -> dict[str, Any]:
    """One picture and 30 tokens: vision alone, then all to the first token."""
    request = flash.request(30 + side * side // 4, 1, side)
    (image,) = request.prompt.images
    config = flash.config.vision_config

    @torch.inference_mode()
    def encode() -> None:
        assert image.patches is not None
        flash.runner._encode([image.patches], [image.grid])

    def first_token() -> None:
        scheduler = flash.scheduler()
        scheduler.add(flash.request(30 + side * side // 4, 1, side))
        while scheduler.waiting or scheduler.running:
            flash.step(scheduler)

    vision = seconds(encode, 5, flash.device)
    total = seconds(first_token, 5, flash.device)
    # In each layer: four products of the attention, three of the MLP, and the attention itself.
    hidden, expanded, patches = config.hidden_size, config.intermediate_size, side * side
    mlp = config.out_hidden_size
    layer = 2 * (4 * hidden**2 + 3 * hidden * mlp) * patches + 4 * patches**2 * hidden
    merger = 2 * patches // 4 * (4 * hidden * mlp + mlp**2 + 3 * mlp * expanded)
    floor = (config.depth * layer + merger) / peak.matmul
    return {"pixels": 14 * side, "vision_ms": 1e3 * vision, "floor_ms": 1e3 * floor,
            "ratio": vision / floor, "first_token_ms": 1e3 * total}  # fmt: skip


class Streams:
    """The real engine over the full-size model, and when each token came out of it."""

    def __init__(self, flash: Flash, folder: Path) -> None:
        self._flash = flash
        self.times: dict[Request, list[float]] = {}
        self.ended = threading.Condition()
        self.running = 0
        config = EngineConfig(str(folder), device=flash.device, max_num_seqs=SEQS)
        self.engine = Engine(config, self._take, runner=flash.runner)
        self.engine.start()

    def _take(self, outputs: Sequence[Output]) -> None:
        now = time.perf_counter()
        with self.ended:
            for output in outputs:
                if output.error is not None and not output.request.cancelled:
                    raise output.error
                self.times[output.request] += [now] * len(output.token_ids)
                self.running -= output.is_final
            self.ended.notify_all()

    def add(self, prompt: int, answer: int, side: int = 0) -> Request:
        request = self._flash.request(prompt, answer, side)
        with self.ended:
            self.times[request], self.running = [], self.running + 1
        self.engine.add(request)
        return request

    def wait(self, timeout: float) -> bool:
        """Wait for all answers; whether they came in time. What is left is cancelled."""
        with self.ended:
            done = self.ended.wait_for(lambda: not self.running, timeout)
        for request in list(self.times):
            self.engine.abort(request)
        with self.ended:
            self.ended.wait_for(lambda: not self.running, 30)
        return done


def synthetic_checkpoint(folder: Path, config: Any, vocab: int) -> Path:
    """The small files of a checkpoint of these sizes; the tokenizer is the demo's, and words."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("generation_config.json", "preprocessor_config.json"):
        shutil.copy(DEMO / name, folder)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    added = {token["id"] for token in tokenizer["added_tokens"]}
    words.update(
        {f"word{n}": n for n in range(vocab) if n not in added and n not in words.values()}
    )
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    values = config.to_dict()
    values["text_config"]["eos_token_id"] = [151336]
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def check_throughput(streams: Streams, count: int, tokens: int, limit: float) -> dict[str, Any]:
    """The real engine: ``count`` prompts of ``tokens``, as many tokens of answer, at once."""
    streams.times.clear()
    began = time.perf_counter()
    for _ in range(count):
        streams.add(tokens, tokens)
    done = streams.wait(limit)
    times = sorted(moment for own in streams.times.values() for moment in own)
    took = (times[-1] if times else time.perf_counter()) - began
    # Without the prompts, and without the end, when only a few are left.
    middle = [moment for moment in times if began + took / 3 < moment < began + 2 * took / 3]
    return {"requests": count, "tokens_each": tokens, "all_done": done, "seconds": took,
            "output_tokens_per_second": len(times) / took,
            "output_tokens_per_second_in_the_middle": 3 * len(middle) / took}  # fmt: skip


def check_mixed(streams: Streams, count: int, prompt: int, tiny: bool) -> dict[str, Any]:
    """Time between the tokens of running streams while long prompts and pictures come in."""
    streams.times.clear()
    decoding = [streams.add(20 if tiny else 300, 40 if tiny else 300) for _ in range(count)]
    with streams.ended:
        streams.ended.wait_for(lambda: all(len(streams.times[r]) > 3 for r in decoding), 60)
    for side in (0, 4 if tiny else 74, 0):
        streams.add(prompt, 2, side)
    done = streams.wait(60)
    gaps = sorted(
        1e3 * (after - before)
        for request in decoding
        for before, after in pairwise(streams.times[request])
    )
    return {"streams": count, "prompt": prompt, "all_done": done,
            "inter_token_ms": {"p50": gaps[len(gaps) // 2], "p99": gaps[len(gaps) * 99 // 100],
                               "most": gaps[-1]}}  # fmt: skip


def check_memory(flash: Flash) -> dict[str, Any]:
    """What is allocated after pictures of many sizes, beside what was promised at the start."""
    sides = range(4, 12, 2) if flash.tiny else [*range(8, 128, 4), 156]
    for side in sides:
        scheduler = flash.scheduler()
        scheduler.add(flash.request(30 + side * side // 4, 1, side))
        while scheduler.waiting or scheduler.running:
            flash.step(scheduler)
    found: dict[str, Any] = {"pictures": len(sides), "kv_tokens": flash.kv_tokens}
    if flash.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        found |= {"used_gib": (total - free) / 2**30, "promised_gib": 0.9 * total / 2**30,
                  "within": total - free <= 0.9 * total,
                  "allocator": torch.cuda.max_memory_reserved() / 2**30}  # fmt: skip
    return found


def check_bandwidth(flash: Flash, peak: Peaks) -> dict[str, float]:
    """Share of the measured bandwidth that each kernel of a decode step of 64 reaches."""
    device, tiny = torch.device(flash.device), flash.tiny
    rows, hidden = (64, 256) if tiny else (4096, 4096)
    operations = operations_for(torch.bfloat16, device)(1e-5)
    x = torch.randn(rows, hidden, dtype=torch.bfloat16, device=device)
    residual = x.to(operations.hidden_dtype, copy=True)
    weight = operations.weight(torch.ones(hidden, dtype=torch.bfloat16, device=device))
    layer = flash.runner.cache.layers[:1]
    contexts = [64 if tiny else 8192] * (4 if tiny else 64)
    parts = [
        Scheduled(r, r.num_tokens - 1, r.num_tokens, is_last=True)
        for r in Decoding(flash, contexts).requests
    ]
    batch = Batch.of(parts, flash.runner.cache.block_size)
    language = flash.runner._language
    attend = operations.attention(batch, language.rotary, layer, language.num_heads)
    qkv = torch.randn(
        len(parts), language.num_heads + 2 * language.num_kv_heads, language.head_dim,
        dtype=torch.bfloat16, device=device,
    )  # fmt: skip
    kv = sum(contexts) * 2 * language.num_kv_heads * language.head_dim * 2
    works: dict[str, tuple[Callable[[], Any], int]] = {
        "norm": (lambda: operations.norm(x, weight), 2 * x.nbytes),
        "norm_add_norm": (
            lambda: operations.norm_add_norm(residual, x, weight, weight),
            2 * x.nbytes + 2 * residual.nbytes,
        ),
        "gate": (lambda: operations.gate(x), x.nbytes * 3 // 2),
        "attention, decode": (lambda: attend(qkv, layer[0]), kv),
    }
    return {
        name: moved / seconds(work, 20, flash.device) / peak.bandwidth
        for name, (work, moved) in works.items()
    }


def check_profile(flash: Flash) -> list[str]:
    """The kernels that take most of a decode step of 64, outside of graphs."""
    decoding = Decoding(flash, [64 if flash.tiny else 1024] * 64, **SAMPLED)
    graphs, flash.runner._graphs = flash.runner._graphs, None
    decoding.step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if flash.device == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        decoding.step()
        _wait(flash.device)
    flash.runner._graphs = graphs
    by = "self_cuda_time_total" if flash.device == "cuda" else "self_cpu_time_total"
    return str(profile.key_averages().table(sort_by=by, row_limit=15)).splitlines()


def check_loading(flash: Flash, folder: Path) -> dict[str, Any]:
    """The weights from a disk: a start of the engine's runner, in GB/s; then read again."""
    from safetensors.torch import save_file

    make: Any = AutoModelForImageTextToText
    with torch.device("meta"):
        shapes = make.from_config(flash.config, dtype=torch.bfloat16).state_dict()
    names, size = list(shapes), 0
    part: dict[str, torch.Tensor] = {}
    files: dict[str, str] = {}
    for name in names:
        part[name] = torch.full(shapes[name].shape, 0.01, dtype=torch.bfloat16)
        size += part[name].nbytes
        if sum(tensor.nbytes for tensor in part.values()) > 2**31 or name == names[-1]:
            file = f"model-{len(set(files.values())):05}.safetensors"
            save_file(part, folder / file, {"format": "pt"})
            files |= dict.fromkeys(part, file)
            part = {}
    index = {"metadata": {"total_size": size}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    began = time.perf_counter()
    ModelRunner(
        Checkpoint.load(str(folder)),
        EngineConfig(str(folder), device=flash.device, dtype="bfloat16", max_num_seqs=8,
                     max_model_len=1024, kv_cache_memory=2**29, image_cache_memory=0),
        num_tokens=flash.vocab,
    )  # fmt: skip
    took = time.perf_counter() - began
    return {"gb": size / 1e9, "seconds": took, "gb_per_second": size / took / 1e9}


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


class Run:
    """The results, written as they come."""

    def __init__(self, output: Path, dry: bool) -> None:
        self._output, self._began = output, time.perf_counter()
        self.result: dict[str, Any] = {"hardware": hardware(), "dry": dry, "failed": []}
        output.parent.mkdir(parents=True, exist_ok=True)

    def note(self, name: str, work: Callable[[], Any]) -> Any:
        """Do one check; gives None if it fails, and the next one runs."""
        # Not while a clock runs.
        gc.collect()
        gc.disable()
        value = None
        try:
            value = work()
        except Exception as error:
            traceback.print_exc()
            self.result["failed"].append(f"{name}: {type(error).__name__}: {error}")
        finally:
            gc.enable()
        at = round(time.perf_counter() - self._began, 1)
        self.result[name] = value
        self.result.setdefault("seconds_at", {})[name] = at
        print(json.dumps({"at": at, name: value}), file=sys.stderr, flush=True)
        self._output.write_text(json.dumps(self.result, indent=2))
        return value


def run_checks(device: str, dry: bool, output: Path) -> dict[str, Any]:
    """All checks, the most valuable first."""
    run, tiny = Run(output, dry), dry
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    # Before all else, for where a kernel does not even compile nothing else will work.
    run.note("kernels", lambda: check_kernels(device))
    run.note("right", lambda: check_tokens(device))
    peak = run.note("peaks", lambda: asdict(peaks(device, tiny)))
    flash = Flash(device, tiny)
    run.note("graphs", lambda: check_graphs(flash))
    if peak:
        best = Peaks(**peak)
        run.note("decode", lambda: check_decodes(flash, best))
        run.note("prefill", lambda: check_prefill(flash, best, 512 if tiny else 8192))
        run.note("follow-up", lambda: check_follow_up(flash, 1200 if tiny else 100_000))
        sides = (6,) if tiny else (40, 74, 156)
        run.note("pictures", lambda: [check_picture(flash, best, side) for side in sides])
    streams = Streams(flash, synthetic_checkpoint(folder, flash.config, flash.vocab))
    run.note(
        "throughput",
        lambda: check_throughput(streams, 12 if tiny else SEQS, 16 if tiny else 1000, 60),
    )
    run.note("mixed", lambda: check_mixed(streams, 4 if tiny else 32, 300 if tiny else 8000, tiny))
    streams.engine.stop(timeout=10)
    run.note("memory", lambda: check_memory(flash))
    run.note("compilations", lambda: flash.runner.num_compilations)
    if peak:
        run.note("bandwidth", lambda: check_bandwidth(flash, Peaks(**peak)))
    run.note("profile", lambda: check_profile(flash))
    run.note("masks", lambda: check_masks(device, flash.vocab))
    del streams.engine, flash.runner, flash.model  # for a second model
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    run.note("loading", lambda: check_loading(flash, folder))
    shutil.rmtree(folder, ignore_errors=True)
    if not dry:
        run.note("stack", lambda: check_stack(10))
    return run.result


def page(result: dict[str, Any]) -> str:
    """benchmarks/results/gpu.md of a result."""
    peak = result["peaks"] or {"bandwidth": 0.0, "matmul": 0.0}
    lines = [
        "# On a GPU", "", result["hardware"] + ".", "",
        f"`make gpu-check`: the architecture of GLM-4.6V-Flash with random bfloat16 weights. Floors"
        f" are for what was measured on this card: {peak['bandwidth'] / 1e12:.2f} TB/s and"
        f" {peak['matmul'] / 1e12:.0f} TFLOP/s.", "",
        f"Equal tokens, demo checkpoint: {result['right']}. Graphs beside steps without:"
        f" {result['graphs']}. Kernels compiled after the warm-up: {result['compilations']}.", "",
        "| decode | ms | floor | ratio | tokens/s |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in (result["decode"] or {}).items():
        lines.append(
            f"| {name} | {row['ms']:.2f} | {row['floor_ms']:.2f} | {row['ratio']:.2f} | "
            f"{row['tokens_per_second']:.0f} |"
        )
    lines += ["", "| picture | vision ms | floor | ratio | to the first token, ms |",
              "|---|---|---|---|---|"]  # fmt: skip
    for row in result["pictures"] or []:
        lines.append(
            f"| {row['pixels']} px | {row['vision_ms']:.1f} | {row['floor_ms']:.1f} | "
            f"{row['ratio']:.2f} | {row['first_token_ms']:.1f} |"
        )
    lines += ["", "| what | result |", "|---|---|"]
    names = ("prefill", "follow-up", "throughput", "mixed", "memory", "bandwidth", "loading",
             "failed")  # fmt: skip
    lines += [f"| {name} | {json.dumps(result.get(name))} |" for name in names]
    lines += ["", "Others have published, for comparison and on other cards or models: 6.6 "
              "requests/s and 844 output tokens/s (vLLM, GLM-4.1V-9B, vllm#24733), 16 requests/s "
              "(SGLang, Qwen2.5-VL, sglang#14422).", "", "```"]  # fmt: skip
    lines += [*(result["profile"] or []), "```", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 0 if every check ran."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="in small, also on a CPU")
    parser.add_argument("--page", type=Path, help="only make the page of this result")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "gpu-check.json", help="of the results"
    )
    given = parser.parse_args(arguments)
    if given.page:
        result = json.loads(given.page.read_text())
        if result["dry"] or "no GPU" in result["hardware"]:
            print("this result is not of a GPU: no page is made of it", file=sys.stderr)
            return 2
        PAGE.write_text(page(result))
        return 0
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not given.dry:
        print("no GPU: only --dry can run", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    result = run_checks(device, given.dry, given.output)
    print(json.dumps(result))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
