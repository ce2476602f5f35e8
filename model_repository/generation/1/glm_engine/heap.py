"""The C library's heap. Independent of torch and Triton."""

import ctypes


def trim_heap() -> None:
    """Return freed memory to the system.

    glibc keeps it for later allocations, in one arena for a few threads each. Tensors and texts of
    all sizes fragment it: the engine grew by 100 MiB in its first 14,000 requests with constant
    memory in use. Takes 10 to 20 ms, without holding the GIL. Does nothing with C libraries that
    lack this function.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
