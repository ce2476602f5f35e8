"""How a result is written down: what was measured, on what, and the table."""

import os
import platform
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]


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


def report(
    page: Path, title: str, details: str, explanation: str | None, table: Sequence[str]
) -> None:
    """Print a result and write it to ``page``, with the day and the machine."""
    head = f"{datetime.now():%Y-%m-%d}, {hardware()}, {details}"
    text = "\n".join([f"# {title}", "", head, "", explanation or "", *table, ""])
    print(text)
    page.write_text(text)
