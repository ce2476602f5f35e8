"""Features of the processor, and the number of cores that the engine may use."""

import math
import platform
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
# Read before the engine changes it.
_TORCH_THREADS = torch.get_num_threads()


def instruction_set() -> str:
    """The vector instructions that torch uses: ``AVX2``, ``AVX512``, ``DEFAULT`` for less...

    ``ATEN_CPU_CAPABILITY`` lowers it; oneDNN has a limit of its own, ``ONEDNN_MAX_CPU_ISA``.
    """
    return torch.backends.cpu.get_cpu_capability()


def multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies matrices in bfloat16 here: from AVX-512BW or AVX-NE-CONVERT on."""
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def check_instruction_set() -> None:
    """Reject unsupported processors.

    Raises:
        ValueError: an x86-64 processor without AVX2.
    """
    if platform.machine() == "x86_64" and instruction_set() == "DEFAULT":
        raise ValueError(
            "a CPU needs AVX2 to run the model (x86-64-v3: Intel since Haswell of 2013, AMD since "
            "Excavator of 2015), and torch finds none; if /proc/cpuinfo lists avx2, unset "
            "ATEN_CPU_CAPABILITY, or give the virtual machine the host's processor type"
        )


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Number of cores that this process may use: torch's count, limited by the container's quota.

    torch counts the physical cores on which the process may run, or uses ``OMP_NUM_THREADS``; it
    ignores the CPU quota of a container started with ``--cpus 2``.
    """
    return max(1, math.ceil(min(_TORCH_THREADS, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """CPU quota of the control group in cores, from version 2 or 1 of the interface."""
    try:
        granted, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            granted = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    if granted in ("max", "-1"):
        return math.inf
    return int(granted) / int(period)
