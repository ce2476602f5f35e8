# mypy: ignore-errors
"""GenAI-Perf over HTTP: a small profile of streamed chats; Triton's perf_analyzer asks."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from clients.common import BASE, MODEL, ok

CHECKPOINT = str(Path(__file__).resolve().parents[2] / "demo_model" / "checkpoint")
REQUESTS = 4
# perf_analyzer comes with Triton's client; the newest that runs on glibc 2.36 is linked with CUDA's
# runtime, and with Debian's libb64-0d.
BIN = Path(sys.executable).parent
(LIBRARIES,) = map(str, BIN.parent.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib"))

with tempfile.TemporaryDirectory() as folder:
    command = [
        *("genai-perf", "profile", "--model", MODEL, "--url", BASE),
        *("--endpoint-type", "chat", "--streaming", "--tokenizer", CHECKPOINT),
        *("--synthetic-input-tokens-mean", "32", "--output-tokens-mean", "16"),
        *("--request-count", str(REQUESTS), "--num-dataset-entries", str(REQUESTS)),
        *("--concurrency", "1", "--artifact-dir", folder),
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "LD_LIBRARY_PATH": LIBRARIES},
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
