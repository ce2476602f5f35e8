"""The line about the machine that every result carries."""

import os
import platform
from pathlib import Path

import torch


def hardware() -> str:
    """Cores, processor, memory, GPU, and the versions that matter."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if "model name" in line), "unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GiB, {gpu}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
