"""Freed memory goes back to the system."""

import ctypes
from pathlib import Path

import pytest

from glm_engine.heap import trim_heap

LIBC = ctypes.CDLL(None)
MIB = 2**20


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


@pytest.mark.skipif(not hasattr(LIBC, "malloc_trim"), reason="the C library is not glibc")
def test_gaps_between_what_is_in_use_go_back() -> None:
    LIBC.malloc.restype = ctypes.c_void_p
    LIBC.free.argtypes = [ctypes.c_void_p]
    size = 60 * 1024  # below the limit from which glibc maps memory of its own
    before = _anonymous()
    places = [LIBC.malloc(size) for _ in range(64 * MIB // size)]
    for place in places:
        ctypes.memset(place, 1, size)
    for number, place in enumerate(places):
        if number % 16:
            LIBC.free(place)
    assert _anonymous() - before > 50 * MIB
    trim_heap()
    assert _anonymous() - before < 10 * MIB
    for place in places[::16]:
        LIBC.free(place)
