"""Whether a checkpoint's files are in memory before they are loaded."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

from glm_engine.prefetch import prefetch
from waiting import wait_until

SIZE = 1024 * mmap.PAGESIZE


def resident(path: Path) -> float:
    """Share of a file's pages in the page cache."""
    mapped = np.memmap(path, np.uint8, mode="r")
    pages = -(-len(mapped) // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    address = ctypes.c_void_p(mapped.ctypes.data)
    assert libc.mincore(address, ctypes.c_size_t(len(mapped)), states) == 0
    return sum(state & 1 for state in states) / pages


def test_all_files_are_read_ahead(tmp_path: Path) -> None:
    paths = [tmp_path / f"model-{number}.safetensors" for number in range(3)]
    for path in paths:
        with path.open("wb") as file:
            file.write(os.urandom(SIZE))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before = [resident(path) for path in paths]
    assert prefetch(tmp_path, free=SIZE) == [] and max(before) < 1
    threads = prefetch(tmp_path, free=3 * SIZE)
    assert len(threads) == 3
    wait_until(lambda: all(resident(path) == 1 for path in paths))
