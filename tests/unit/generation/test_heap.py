"""Freed memory goes back to the system."""

import ctypes
import subprocess
import sys

import pytest

from unit.paths import ROOT

# In a process of its own, whose heap has no gaps yet. The pieces are below the size from which
# glibc maps memory for each.
SCRIPT = """
import ctypes
from glm_engine.heap import trim_heap

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
size = 60 * 1024

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            print(int(line.split()[1]) // 1024)

resident()
places = [libc.malloc(size) for _ in range(64 * 1024 * 1024 // size)]
for place in places:
    ctypes.memset(place, 1, size)
for number, place in enumerate(places):
    if number % 16:
        libc.free(place)
resident()
trim_heap()
resident()
"""


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc"
)
def test_trim_heap_returns_fragmented_memory() -> None:
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={"PYTHONPATH": str(ROOT / "model_repository/generation/1")},
        capture_output=True,
        text=True,
        check=True,
    )
    before, freed, trimmed = map(int, process.stdout.split())
    assert freed - before > 50
    assert trimmed - before < 10
