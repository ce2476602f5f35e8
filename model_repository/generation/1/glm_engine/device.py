"""Selects the device, and refuses a start that cannot succeed before any weight is loaded."""

import json
import os
import shutil
import struct
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from glm_engine import cpu
from glm_engine.config import EngineConfig
from glm_engine.free_memory import free_memory
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.weights import kept_bytes

# Without a GPU, a checkpoint with more bytes of weights runs only where GLM_DEVICE=cpu asks for it.
_MOST_BY_ITSELF = 4 * 2**30
# bfloat16 in hardware: since Ampere.
_LEAST_CAPABILITY = (8, 0)
_GIB = 2**30
# Of numbers in safetensors files that are not quantised.
_FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, slots=True)
class Device:
    """Where the model runs.

    Attributes:
        device, dtype: of weights and activations.
        description: for the log.
        free, total: bytes of its memory.
    """

    device: torch.device
    dtype: torch.dtype
    description: str
    free: int
    total: int


def select_device(config: EngineConfig) -> Device:
    """The device and dtype that the settings ask for.

    Raises:
        ValueError: there is no usable GPU, or it cannot run the model; or the processor cannot.
    """
    name, missing = config.device, ""
    if name != "cpu":
        missing = why_no_gpu()
        if name == "cuda" and missing:
            raise ValueError(f"GLM_DEVICE='cuda', but there is no usable GPU: {missing}")
        name = "cpu" if missing else "cuda"
    if name == "cpu":
        cpu.check_instruction_set()
        dtype = torch.float32 if config.dtype == "auto" else getattr(torch, config.dtype)
        description = f"cpu ({missing})" if missing else "cpu"
        return Device(torch.device("cpu"), dtype, description, *main_memory())
    dtype = torch.bfloat16 if config.dtype == "auto" else getattr(torch, config.dtype)
    properties = torch.cuda.get_device_properties(0)
    capability = (properties.major, properties.minor)
    description = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
    if capability < _LEAST_CAPABILITY:
        least = ".".join(map(str, _LEAST_CAPABILITY))
        raise ValueError(
            f"{description}: the model needs {least} or later (Ampere, 2020), which have bfloat16"
        )
    if config.gpu_kernels:
        check_compiler()
    free, total = torch.cuda.mem_get_info()
    return Device(torch.device("cuda"), dtype, description, free, total)


def why_no_gpu() -> str:
    """What prevents the use of a GPU; empty if nothing does."""
    if torch.version.cuda is None:
        return "this PyTorch is a build for CPUs only (torch.version.cuda is None)"
    try:
        torch.cuda.init()
    except RuntimeError as error:  # no driver, one that is too old, or no device
        return str(error).partition("\n")[0]
    if not torch.cuda.device_count():
        return "the driver shows none (does nvidia-smi? a container needs --gpus)"
    return ""


def check_compiler() -> None:
    """Check for what Triton builds the launchers of kernels with, when they first run.

    Raises:
        ValueError: the C compiler or Python's headers are missing.
    """
    missing = []
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        missing.append("a C compiler (gcc or clang in PATH, or CC)")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        missing.append(f"Python's headers ({header})")
    if missing:
        raise ValueError(
            f"the GPU kernels need {' and '.join(missing)}: install them (Debian: gcc libc6-dev "
            "python3-dev), or set GLM_GPU_KERNELS=false for PyTorch's slower operations"
        )


def check_weights_fit(chosen: Device, config: EngineConfig, weights: int) -> None:
    """Check that the weights fit, before minutes are spent on loading them.

    Args:
        weights: bytes of them in the chosen dtype, quantised if the settings say so.

    Raises:
        ValueError: they do not, or nobody asked for a CPU to run a model of this size.
    """
    kind = str(chosen.dtype).removeprefix("torch.")
    is_quantized = config.quantization != "none"
    if is_quantized:
        kind = f"{config.quantization} and {kind}"
    if chosen.device.type == "cuda":
        usable = int(chosen.total * config.gpu_memory_utilization)
        usable = min(chosen.free, usable)
        place = f"the GPU ({chosen.description})"
        cure = "use a GPU with more memory, stop what else uses it, or raise "
        cure += "GLM_GPU_MEMORY_UTILIZATION"
        if not is_quantized:
            cure += ", or set GLM_QUANTIZATION"
    else:
        usable, place = chosen.free, "main memory"
        cure = "set GLM_DTYPE=bfloat16, which takes half"
        if is_quantized or chosen.dtype == torch.bfloat16:
            cure = "use a machine with more memory"
    if weights > usable:
        raise ValueError(
            f"the weights take {weights / _GIB:.1f} GiB in {kind}, but {place} has "
            f"{usable / _GIB:.1f} GiB for them ({chosen.free / _GIB:.1f} GiB free of "
            f"{chosen.total / _GIB:.1f} GiB): {cure}"
        )
    if chosen.device.type == "cpu" and config.device == "auto" and weights > _MOST_BY_ITSELF:
        raise ValueError(
            f"there is no usable GPU ({why_no_gpu()}), and on a CPU this checkpoint takes "
            f"{weights / _GIB:.1f} GiB in {kind} and seconds for each token: set GLM_DEVICE=cpu "
            "to run it there all the same"
        )


def weight_bytes(folder: Path, dtype: torch.dtype, quantization: str = "none") -> int:
    """Bytes of a checkpoint's weights once loaded, from the headers of its safetensors files.

    Args:
        dtype: of those that are not quantised, neither in the checkpoint nor while loading.
        quantization: see ``EngineConfig``.
    """
    count, scheme = 0, SCHEMES.get(quantization)
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            itemsize = _FLOAT_BYTES.get(tensor["dtype"])
            if itemsize is None:
                first, last = tensor["data_offsets"]
                count += last - first
            else:
                count += kept_bytes(name, tensor["shape"], itemsize, dtype, scheme)
    return count


def main_memory() -> tuple[int, int]:
    """Free bytes of main memory, within the limit of the container, and all bytes of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(free_memory(), total)), total
