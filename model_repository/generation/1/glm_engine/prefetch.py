"""Reads the files of a checkpoint ahead of the loading."""

import os
import threading
from pathlib import Path


def prefetch(folder: Path, free: int) -> list[threading.Thread]:
    """Have the kernel read a checkpoint's weights into its page cache, all files at a time.

    Loading maps them, and would otherwise wait for one disk access after another.

    Args:
        free: bytes of main memory; larger weights would displace themselves, and are not read.

    Returns:
        The threads, for which nobody needs to wait.
    """
    files = sorted(folder.glob("*.safetensors"))
    if sum(path.stat().st_size for path in files) > free:
        return []
    threads = [
        threading.Thread(target=_read_ahead, args=(path,), name="prefetch", daemon=True)
        for path in files
    ]
    for thread in threads:
        thread.start()
    return threads


def _read_ahead(path: Path) -> None:
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
