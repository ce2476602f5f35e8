"""The whole server with quantised weights."""

from pathlib import Path

import pytest
import requests

from e2e.calls import DESCRIPTIONS, chat, content, post
from tools.stack import Stack


@pytest.mark.parametrize(
    ("quantization", "kinds"), [("int8", "int8"), ("int4", "int4, groups of 128; int8")]
)
def test_it_sees_what_is_there(tmp_path: Path, quantization: str, kinds: str) -> None:
    stack = Stack(tmp_path / "launcher.log", GLM_QUANTIZATION=quantization, GLM_WEB="false")
    try:
        stack.wait_ready()
        (line,) = (line for line in stack.log.splitlines() if "loaded: device=" in line)
        assert f" quantization='{kinds}' " in line and "decode='layer by layer'" in line
        for name, answer in DESCRIPTIONS.items():
            assert content(post(stack, chat("What is in this image?", name))) == answer
        metrics = requests.get(f"{stack.metrics_url}/metrics", timeout=60).text
        labels = f'dtype="float32",model="generation",quantization="{kinds}",version="1"'
        assert f"glm_model_info{{{labels}}} 1" in metrics
        stack.interrupt()
        assert stack.wait_stopped() == 0, stack.log
    finally:
        stack.kill()


def test_an_unknown_quantisation_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "launcher.log", GLM_QUANTIZATION="q4_k_m", GLM_WEB="false")
    try:
        assert stack.wait_stopped() != 0
        assert "GLM_QUANTIZATION='q4_k_m' is not one of none, fp8, int8, int4" in stack.log
    finally:
        stack.kill()
