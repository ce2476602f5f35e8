"""The same answers on each kind of processor that this machine can stand in for."""

import os
import subprocess
import sys

import pytest

from processors import processors
from unit.paths import ROOT

# All that computes; test_engine.py and test_vision.py compare with transformers.
COMPUTING = [
    f"tests/unit/generation/test_{name}.py"
    for name in ("engine", "linear", "memory", "operations", "sampler", "vision")
]


@pytest.mark.slow
@pytest.mark.parametrize(("instructions", "settings"), processors().items())
def test_unit_tests_pass_with_less(instructions: str, settings: dict[str, str]) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"),
            *COMPUTING,
        ],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout[-5000:]
    probe = "from glm_engine import cpu; print(cpu.instruction_set(), cpu.multiplies_bfloat16())"
    seen = subprocess.run(
        [sys.executable, "-c", probe],
        env=os.environ | settings | {"PYTHONPATH": "model_repository/generation/1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.split() == [instructions, str(instructions != "AVX2")]
