"""The C library's heap."""

import asyncio
import ctypes

TRIM_SECONDS = 30.0


async def keep_heap_trimmed() -> None:
    """Give memory that has been freed back to the system, every now and then; until cancelled.

    glibc keeps it for later. Bodies and pictures of all sizes leave gaps that it fills less and
    less well. Takes some milliseconds, in another thread. Other C libraries have no such function;
    then nothing happens.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)
