# mypy: ignore-errors
"""NVIDIA's AIPerf: a small profile of streamed chats, of chats with pictures, and of responses."""

import json
import subprocess
import tempfile
from pathlib import Path

from clients.common import BASE, MODEL, ok

CHECKPOINT = str(Path(__file__).resolve().parents[2] / "demo_model" / "checkpoint")
REQUESTS = 6
PICTURES = ("--image-width-mean", "64", "--image-height-mean", "64", "--image-format", "png")
RUNS = {
    "chat": ("--endpoint-type", "chat", "--streaming"),
    "whole": ("--endpoint-type", "chat"),
    "pictures": ("--endpoint-type", "chat", "--streaming", *PICTURES),
    "completions": ("--endpoint-type", "completions", "--streaming"),
    "responses": ("--endpoint-type", "responses", "--streaming"),
}

for name, options in RUNS.items():
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *("venv/bin/aiperf", "profile", "--model", MODEL, "--url", BASE, *options),
            *("--tokenizer", CHECKPOINT, "--request-count", str(REQUESTS), "--concurrency", "2"),
            *("--synthetic-input-tokens-mean", "32", "--output-tokens-mean", "16"),
            *("--artifact-dir", folder, "--ui-type", "none", "--random-seed", "1"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{name}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        (file,) = Path(folder).rglob("profile_export_aiperf.json")
        told = json.loads(file.read_text())
        assert told["request_count"]["avg"] == REQUESTS, (name, told["request_count"])
        assert not told.get("error_summary"), (name, told["error_summary"])

ok("aiperf")
