"""How much memory is free; beside another version of the model it may be too little."""

import math
from pathlib import Path

import torch

_MEMINFO, _CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
_GIB = 2**30


def check_fits(what: str, needed: int, device: torch.device) -> None:
    """Refuse to allocate what does not fit, before the system ends a process for it.

    Args:
        what: names it in the message.
        needed: in bytes.

    Raises:
        ValueError: there is less memory than that.
    """
    is_gpu = device.type == "cuda"
    free: float = torch.cuda.mem_get_info(device)[0] if is_gpu else free_memory()
    if needed > free:
        place = "GPU memory" if is_gpu else "main memory"
        raise ValueError(
            f"not enough memory: {what} need {needed / _GIB:.1f} GiB, and {free / _GIB:.1f} GiB of "
            f"{place} are free; unload what else uses it, such as another version of this model"
        )


def free_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> float:
    """Bytes of main memory that can be had without swapping, within the container's limit.

    Infinite where the system does not say.
    """
    try:
        words = [line.split() for line in meminfo.read_text().splitlines()]
        available = next(float(word[1]) * 1024 for word in words if word[0] == "MemAvailable:")
    except (OSError, StopIteration):
        available = math.inf
    return min(available, _free_in_container(cgroup))


def _free_in_container(cgroup: Path) -> float:
    """What is left of a limit of the control group, version 2 or 1 of the interface."""
    files = (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    )
    for limit, usage, statistics, key in files:
        try:
            # "max": no limit.
            most = float((cgroup / limit).read_text().strip().replace("max", "inf"))
            used = int((cgroup / usage).read_text())
            lines = (line.split() for line in (cgroup / statistics).read_text().splitlines())
            cached = int(dict(lines)[key])
        except (OSError, ValueError, KeyError):
            continue
        return most - used + cached  # cached files give way
    return math.inf
