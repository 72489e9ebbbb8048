"""Commands as a user types them, without ``--json``, and what an error has to look like."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.support import Program

linux = pytest.mark.skipif(sys.platform != "linux", reason="root gives up its rights in the way of Linux")
as_root = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="mounts something, which only root may do"
)

OK, ERROR, USAGE, UNFINISHED = 0, 1, 2, 3
# Source: Linux, linux/capability.h and linux/prctl.h.
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, PR_CAPBSET_DROP = 1, 2, 24
CAPABILITY_VERSION_3 = 0x20080522


def run(*words: object, seconds: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
    """Type ``openmsistream WORDS`` and wait for its end."""
    with start(*words, **more) as program:
        program.end_of_input()
        code = program.wait(seconds)
    return subprocess.CompletedProcess([*map(str, words)], code, program.stdout, program.stderr)


def start(*words: object, **more: Any) -> Program:
    """Type ``openmsistream WORDS`` and do not wait."""
    return Program([sys.executable, "-m", "openmsistream", *map(str, words)], **more)


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    """The error a program ended with: exactly one such line, at most one hint behind it, and nothing else."""
    lines = done.stderr.splitlines()
    assert done.returncode == ERROR, done.stderr
    assert len(lines) in {1, 2}, done.stderr
    assert lines[0].startswith("Error: ")
    assert all(line.startswith("Try:   ") for line in lines[1:])
    assert not lines[0].endswith(".")
    return lines[0]


def one_usage_error(done: subprocess.CompletedProcess[str]) -> str:
    """What a mistake in the command line itself is answered with: one line, exit code 2."""
    (line,) = done.stderr.splitlines()
    assert done.returncode == USAGE
    assert ": error: " in line
    assert done.stdout == ""
    return line


@contextlib.contextmanager
def nobody_answers() -> Iterator[str]:
    """An address where connections are refused."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, nobody answers
        yield f"127.0.0.1:{reserved.getsockname()[1]}"


def like_any_user() -> None:
    """In a new process: even root may then read and write only what the file's rights allow."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


@contextlib.contextmanager
def as_any_user() -> Iterator[None]:
    """The same within this process, on this thread, and only for a while."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None)
    header, sets = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    try:
        sets[0] = effective & ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
        assert libc.capset(header, sets) == 0
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0
