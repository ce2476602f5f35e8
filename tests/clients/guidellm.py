# mypy: ignore-errors
"""GuideLLM: a small benchmark of chats, of completions and of responses."""

import json
import subprocess
import tempfile
from pathlib import Path

from clients.common import BASE, MODEL, ok

CHECKPOINT = str(Path(__file__).resolve().parents[2] / "demo_model" / "checkpoint")
REQUESTS = 4

WORDS = "kind=synthetic_text,prompt_tokens=32,output_tokens=16"
RUNS = {
    "/v1/chat/completions": WORDS,
    "/v1/completions": WORDS,
    "/v1/responses": WORDS,
}

for kind, data in RUNS.items():
    with tempfile.TemporaryDirectory() as folder:
        backend = f"kind=openai_http,target={BASE},model={MODEL},request_format={kind}"
        command = [
            *("venv/bin/guidellm", "run", "--disable-console", "--backend", backend),
            *("--profile", "kind=synchronous", "--data", data),
            *("--constraint", f"kind=max_requests,count={REQUESTS}"),
            *("--tokenizer", f"kind=huggingface_auto,model={CHECKPOINT}"),
            *("--output", f"kind=json,path={folder}/told.json"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{kind}: {done.stdout[-3000:]} {done.stderr[-3000:]}"
        told = json.loads((Path(folder) / "told.json").read_text())
        requests = told["benchmarks"][0]["requests"]
        assert len(requests["successful"]) == REQUESTS and not requests["errored"], requests

ok("guidellm")
