"""Freed memory goes back to the system."""

import ctypes

import pytest

from glm_frontend import heap
from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import FakeBackend
from waiting import until

libc = ctypes.CDLL(None)
SIZE = 60 * 1024  # below the size from which glibc maps memory for each
COUNT = 1000


def _resident() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


@pytest.mark.timing
@pytest.mark.skipif(not hasattr(libc, "malloc_trim"), reason="the C library is not glibc")
async def test_gaps_between_what_is_in_use_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "TRIM_SECONDS", 0.05)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.mallopt(-3, 128 * 1024)  # what other tests freed may have raised it
    places = [libc.malloc(SIZE) for _ in range(COUNT)]
    for place in places:
        ctypes.memset(place, 1, SIZE)
    full = _resident()
    for number, place in enumerate(places):
        if number % 16:
            libc.free(place)
    app = create_app(Settings(), FakeBackend())
    async with app.router.lifespan_context(app):
        await until(lambda: _resident() <= full - COUNT * SIZE // 1024 * 3 // 4)
    for place in places[::16]:
        libc.free(place)
