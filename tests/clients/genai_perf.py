# mypy: ignore-errors
"""GenAI-Perf over HTTP: a small profile of streamed chats; perf_analyzer asks."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from clients.common import BASE, MODEL, ok

CHECKPOINT = str(Path(__file__).resolve().parents[2] / "demo_model" / "checkpoint")
REQUESTS = 4

with tempfile.TemporaryDirectory() as folder:
    command = [
        *("genai-perf", "profile", "--model", MODEL, "--url", BASE),
        *("--endpoint-type", "chat", "--streaming", "--tokenizer", CHECKPOINT),
        *("--synthetic-input-tokens-mean", "32", "--output-tokens-mean", "16"),
        *("--request-count", str(REQUESTS), "--num-dataset-entries", str(REQUESTS)),
        *("--concurrency", "1", "--artifact-dir", folder, "--warmup-request-count", "1"),
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"PATH": f"{Path('venv/bin').resolve()}:{os.environ['PATH']}"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]} {done.stderr[-3000:]}"
    (file,) = Path(folder).rglob("profile_export_genai_perf.json")
    told = json.loads(file.read_text())
    assert told["request_count"]["avg"] >= REQUESTS, told

ok("genai-perf")
