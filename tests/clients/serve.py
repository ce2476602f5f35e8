"""Starts the server with a long context, runs run.sh against it, stops it; `make test-clients`."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.stack import ROOT, Stack

CHECKPOINT = ROOT / "demo_model" / "checkpoint"
POSITIONS = 131_072  # coding agents begin with tens of thousands of tokens
# A CPU takes minutes for these tokens in one layer. What such a model says has no meaning.
AGENTS = ("claude-code", "codex")
RUN = ("bash", str(Path(__file__).with_name("run.sh")))


def long_checkpoint(folder: Path, layers: int) -> Path:
    """The demo checkpoint's first layers, with more positions than it was trained for."""
    folder.mkdir()
    for file in CHECKPOINT.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((CHECKPOINT / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = POSITIONS
    config["text_config"]["num_hidden_layers"] = layers
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def run(names: list[str], layers: int) -> int:
    """The exit status of run.sh with these clients."""
    with tempfile.TemporaryDirectory() as temporary:
        model = long_checkpoint(Path(temporary) / "checkpoint", layers)
        stack = Stack(
            Path(temporary) / "server.log",
            GLM_MODEL=str(model),
            GLM_KV_CACHE_MEMORY=str(1 << 30),
        )
        try:
            stack.wait_ready()
            environment = os.environ | {"BASE": stack.base_url}
            status = subprocess.run([*RUN, *names], env=environment, check=False).returncode
            stack.interrupt()
            stack.wait_stopped()
        finally:
            stack.kill()
    return status


def main() -> int:
    names = sys.argv[1:]
    if not names:
        listed = subprocess.run([*RUN, "--list"], capture_output=True, text=True, check=True)
        names = listed.stdout.split()
    agents = [name for name in names if name in AGENTS]
    others = [name for name in names if name not in AGENTS]
    statuses = [run(group, layers) for group, layers in ((others, 4), (agents, 1)) if group]
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
