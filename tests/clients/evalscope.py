# mypy: ignore-errors
"""EvalScope: its benchmark of streamed chats, and an evaluation by questions of its own."""

import json
import tempfile
from pathlib import Path

from evalscope.perf.main import run_perf_benchmark

from clients.common import BASE, KEY, MODEL, ok

CHECKPOINT = str(Path(__file__).resolve().parents[2] / "demo_model" / "checkpoint")
REQUESTS = 4

with tempfile.TemporaryDirectory() as folder:
    run_perf_benchmark(
        {
            "url": f"{BASE}/v1/chat/completions",
            "api": "openai",
            "api_key": KEY,
            "model": MODEL,
            "tokenizer_path": CHECKPOINT,
            "dataset": "random",
            "min_prompt_length": 16,
            "max_prompt_length": 32,
            "prefix_length": 0,
            "max_tokens": 16,
            "min_tokens": 16,
            "number": REQUESTS,
            "parallel": 2,
            "stream": True,
            "outputs_dir": folder,
        }
    )
    (file,) = Path(folder).rglob("benchmark_summary.json")
    told = json.loads(file.read_text())

succeeded = next(value for name, value in told.items() if "succe" in name.lower())
assert succeeded == REQUESTS, told

ok("evalscope")
