"""What the start says of the device, and which starts it refuses before it loads weights."""

import json
import logging
import shutil
import struct
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from glm_engine.config import EngineConfig
from glm_engine.device import Device, check_weights_fit, select_device, weight_bytes
from glm_engine.engine import Engine
from unit.paths import DEMO_CHECKPOINT

GIB = 2**30
# GLM-4.6V-Flash.
FLASH_WEIGHTS = 10_290_000_000


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What PyTorch reports of a GPU, for a machine that has none."""
    card = SimpleNamespace(name="NVIDIA H200", major=9, minor=0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (140 * GIB, 141 * GIB))
    return card


def test_a_gpu_is_used_in_bfloat16_where_there_is_one(gpu: SimpleNamespace) -> None:
    chosen = select_device(EngineConfig("x"))
    assert (chosen.device.type, chosen.dtype) == ("cuda", torch.bfloat16)
    assert chosen.description == "NVIDIA H200, compute capability 9.0"
    assert (chosen.free, chosen.total) == (140 * GIB, 141 * GIB)


def test_a_gpu_without_bfloat16_is_refused_by_its_name(gpu: SimpleNamespace) -> None:
    gpu.name, gpu.major, gpu.minor = "Tesla T4", 7, 5
    with pytest.raises(ValueError, match=r"^Tesla T4, compute capability 7.5: .* needs 8.0 or lat"):
        select_device(EngineConfig("x"))
    assert select_device(EngineConfig("x", device="cpu")).device.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_cuda_without_a_gpu_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = EngineConfig("x", device="cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        ValueError, match=r"^GLM_DEVICE='cuda', but there is no usable GPU: this Py"
    ):
        select_device(asked)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found 12040).\nUpdate it.")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(ValueError, match=r"is too old \(found 12040\)\.$"):
        select_device(asked)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="a container needs --gpus"):
        select_device(asked)
    by_itself = select_device(EngineConfig("x"))
    assert by_itself.device.type == "cpu" and "--gpus" in by_itself.description


def test_kernels_need_a_compiler_and_pythons_headers(
    gpu: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(ValueError, match=r"a C compiler .* and Python's headers .*python3-dev"):
        select_device(EngineConfig("x"))
    assert select_device(EngineConfig("x", gpu_kernels=False)).device.type == "cuda"
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CC", "/usr/bin/cc")
    assert select_device(EngineConfig("x")).device.type == "cuda"


def _place(kind: str, dtype: torch.dtype, free: float, total: float) -> Device:
    return Device(torch.device(kind), dtype, "a card", int(free * GIB), int(total * GIB))


@pytest.mark.parametrize(
    ("place", "config", "message"),
    [
        (_place("cuda", torch.bfloat16, 15, 16), {}, "19.2 GiB in bfloat16, but the GPU"),
        (_place("cuda", torch.bfloat16, 10, 80), {}, "has 10.0 GiB for them .10.0 GiB free of 80"),
        (_place("cuda", torch.bfloat16, 23.9, 24), {"gpu_memory_utilization": 0.75}, "18.0 GiB f"),
        (_place("cuda", torch.float32, 23.9, 24), {}, "38.3 GiB in float32"),
        (_place("cpu", torch.float32, 20, 24), {"device": "cpu"}, "main memory .*set GLM_DTYPE=bf"),
        (_place("cpu", torch.bfloat16, 8, 24), {"device": "cpu"}, "use a machine with more memory"),
        (_place("cuda", torch.bfloat16, 15, 16), {}, "GLM_GPU_MEMORY_UTILIZATION, or set GLM_QUA"),
        (_place("cuda", torch.bfloat16, 15, 16), {"quantization": "int8"}, "int8 and bf.*TION$"),
        (_place("cpu", torch.float32, 8, 24), {"device": "cpu", "quantization": "int8"}, "more m"),
        (_place("cpu", torch.float32, 60, 64), {}, "38.3 GiB in float32 and .*set GLM_DEVICE=cpu"),
        (_place("cpu", torch.bfloat16, 60, 64), {}, "and on a CPU this checkpoint takes 19.2 GiB"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(
    place: Device, config: dict[str, object], message: str
) -> None:
    settings = EngineConfig("x", **config)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        check_weights_fit(place, settings, FLASH_WEIGHTS * place.dtype.itemsize)


@pytest.mark.parametrize(
    ("place", "asked", "parameters"),
    [
        (_place("cuda", torch.bfloat16, 23.9, 24), "auto", FLASH_WEIGHTS),
        (_place("cpu", torch.float32, 60, 64), "cpu", FLASH_WEIGHTS),
        (_place("cpu", torch.float32, 20, 24), "auto", 500_000_000),
    ],
)
def test_weights_that_fit_are_loaded(place: Device, asked: str, parameters: int) -> None:
    check_weights_fit(place, EngineConfig("x", device=asked), parameters * place.dtype.itemsize)


def test_weights_are_counted_without_reading_them(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F16", "shape": [3, 5]},
              "b": {"dtype": "F16", "shape": []}}  # fmt: skip
    text = json.dumps(header).encode()
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    assert weight_bytes(tmp_path, torch.float32) == 2 * 16 * 4
    assert weight_bytes(DEMO_CHECKPOINT, torch.bfloat16) > 9e6


def test_the_log_says_what_is_loaded_before_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Engine(EngineConfig(str(DEMO_CHECKPOINT), kv_cache_memory=2**25), lambda outputs: None)
    first, *_, last = [text for text in caplog.messages if text.startswith("load")]
    assert first.startswith("loading: device='cpu")
    assert "dtype=float32 quantization=none weights=1" in first
    assert last.startswith("loaded: ")
