"""How the C library keeps memory that is free again: for programs that move much data through few buffers."""

from __future__ import annotations

import ctypes
import os
import sys

KEPT_BYTES = 64 * 1024 * 1024
"""More than a consumer's queue and one fetch: so much stays with the program while it is not used."""
# Source: malloc.h and mallopt(3) of glibc.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MMAP_MOST_BYTES = 32 * 1024 * 1024


def keep_for_reuse() -> bool:
    """
    Let this process use the memory of its buffers again, instead of giving it back and asking anew for each.

    With its defaults glibc gives what a fetch of several MiB held back to the system when it was handled, and the
    system clears every page of it for the next one (measured, 1 GiB: 100,000 pages instead of 18,000). Changes the
    whole process, so it is for programs to call, before their threads start, and not for libraries.

    Returns:
        True when that was done; False where there is no glibc, or the environment sets it otherwise (``MALLOC_*``).
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    wanted = ((_TRIM_THRESHOLD, KEPT_BYTES), (_MMAP_THRESHOLD, _MMAP_MOST_BYTES), (_ARENA_MAX, 1))
    return all(libc.mallopt(name, value) == 1 for name, value in wanted)
