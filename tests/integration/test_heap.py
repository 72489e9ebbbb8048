"""Memory that is free again is used again, where the C library can be told so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from openmsistream.adapters.heap import KEPT_BYTES

# Gets and lets go of buffers as a consumer does, and prints how many pages the system had to give for them.
BUFFERS = """
import ctypes, resource, sys
if sys.argv[1] == "kept":
    from openmsistream.adapters.heap import keep_for_reuse
    if not keep_for_reuse():
        sys.exit(77)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    held = [libc.malloc(size << 20) for size in (16, 16, 8, 8)]
    for at, size in zip(held, (16, 16, 8, 8)):
        libc.memset(at, 1, size << 20)
    for at in held:
        libc.free(at)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
ROUND_PAGES = 48 * 1024 * 1024 // 4096


def pages(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", BUFFERS, how], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("there is no glibc here, or MALLOC_* is set")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux'")
def test_buffers_are_made_of_the_same_memory_again():
    """The system gives it once; control: without being told, the C library asks for it every time."""
    assert pages("kept") < 2 * ROUND_PAGES < 10 * ROUND_PAGES < pages("left alone")
    assert KEPT_BYTES > 48 * 1024 * 1024
