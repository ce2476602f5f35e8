# mypy: ignore-errors
"""Codex, not interactive, with this server as its model provider."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from clients.common import BASE, MODEL, ok

CONFIG = f"""
model = "{MODEL}"
model_provider = "glm"
model_context_window = 131072

[model_providers.glm]
name = "GLM"
base_url = "{BASE}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
stream_idle_timeout_ms = 600000
"""


def codex(home: str, *arguments: str) -> str:
    done = subprocess.run(
        ["codex", *arguments],
        env={"PATH": os.environ["PATH"], "HOME": home, "CODEX_HOME": home},
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"exit status {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


with tempfile.TemporaryDirectory() as home:
    (Path(home) / "config.toml").write_text(CONFIG)
    number = codex(home, "--version").split()[-1]
    options = ("--json", "--skip-git-repo-check", "--sandbox", "read-only")
    lines = codex(home, "exec", *options, "Who are you?")
    events = [json.loads(line) for line in lines.splitlines()]
    kinds = [event["type"] for event in events]
    assert "error" not in kinds and "turn.failed" not in kinds, events
    assert kinds[-1] == "turn.completed", events
    assert events[-1]["usage"]["output_tokens"] > 0, events[-1]

ok("codex", number=number)
