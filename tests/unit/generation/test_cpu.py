"""What the processor offers, and how much of it the engine takes."""

import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glm_engine import cpu, language_model
from glm_engine.config import EngineConfig
from glm_engine.engine import Engine
from glm_engine.linear import PackedLinear, TorchLinear, WidenedLinear, linear_for
from unit.paths import DEMO_CHECKPOINT

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000"}, math.inf),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
    ],
)
def test_a_containers_share_bounds_the_cores(
    tmp_path: Path, files: dict[str, str], cores: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_TORCH_THREADS", 8)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert cpu.usable_cores(tmp_path) == max(1, math.ceil(min(8, cores)))


@pytest.fixture
def torchs_threads() -> Iterator[None]:
    """Whatever a test sets, torch has as many threads afterwards as before."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.usefixtures("torchs_threads")
@pytest.mark.slow
def test_a_small_model_gets_one_thread_and_others_all_cores(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_TORCH_THREADS", 2)
    cores = cpu.usable_cores()
    caplog.set_level(logging.INFO)

    def threads(**config: int) -> tuple[int, str]:
        caplog.clear()
        settings = EngineConfig(model=str(DEMO_CHECKPOINT), **config)  # type: ignore[arg-type]
        runner = Engine(settings, on_outputs=lambda outputs: None)._runner
        (line,) = (text for text in caplog.messages if text.startswith("loaded: "))
        return runner._cpu_threads, line

    number, line = threads()
    assert number == 1
    assert f"instructions={cpu.instruction_set()} threads='1 of {cores}' dtype=float32" in line
    assert "decode='one compiled call'" in line and "kv_cache=512MiB" in line
    assert threads(cpu_threads=3)[0] == 3

    monkeypatch.setattr(language_model, "_COMPILED_BYTES", 0)
    number, line = threads()
    assert number == cores
    assert f"threads='{cores} of {cores}'" in line and "decode='layer by layer'" in line


def test_the_way_to_multiply_follows_from_device_dtype_and_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert linear_for(torch.bfloat16, GPU) is TorchLinear
    assert linear_for(torch.float32, CPU) is PackedLinear
    for supported, way in ((True, PackedLinear), (False, WidenedLinear)):
        monkeypatch.setattr(cpu, "multiplies_bfloat16", lambda supported=supported: supported)
        assert linear_for(torch.bfloat16, CPU) is way
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert linear_for(torch.float32, CPU) is TorchLinear


@pytest.mark.slow
def test_less_than_avx2_is_refused_with_what_is_needed() -> None:
    """By a process of its own: torch asks the processor once."""
    check = "from glm_engine import cpu; cpu.check_instruction_set()"
    root = Path(cpu.__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", check],
        env={"PYTHONPATH": str(root), "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "ValueError: a CPU needs AVX2 to run the model (x86-64-v3" in ran.stderr
    cpu.check_instruction_set()
