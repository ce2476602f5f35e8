"""The whole server with bfloat16 weights, on each kind of processor that this machine can be."""

from pathlib import Path

import pytest

from e2e.calls import DESCRIPTIONS, chat, content, post
from processors import processors
from tools.stack import Stack


@pytest.mark.parametrize(("instructions", "settings"), processors().items())
def test_bfloat16_sees_what_is_there(
    tmp_path: Path, instructions: str, settings: dict[str, str]
) -> None:
    stack = Stack(tmp_path / "launcher.log", GLM_DTYPE="bfloat16", GLM_WEB="false", **settings)
    try:
        stack.wait_ready()
        (line,) = (line for line in stack.log.splitlines() if "loaded: device=" in line)
        assert f"device=cpu instructions={instructions} " in line
        assert " dtype=bfloat16 " in line and " weights=9MiB " in line
        for name, answer in DESCRIPTIONS.items():
            assert content(post(stack, chat("What is in this image?", name))) == answer
    finally:
        stack.kill()
