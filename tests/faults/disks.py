"""File systems that a test makes and mounts for itself, which needs Linux, root and the right to mount."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_ext4 = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("mkfs.ext4") is None, reason="makes an ext4 file system, needs mkfs.ext4"
)


def may_run(*words: object) -> None:
    """Run what makes or mounts a file system; the test is skipped, with the system's reason, where it may not be."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{words[0]} needs root and more here: {done.stderr.strip()}")


@contextmanager
def mounted(point: Path, *words: object) -> Iterator[None]:
    """Within, ``mount WORDS POINT`` is done; the folder is made if need be, and nobody may be using it at the end."""
    point.mkdir(exist_ok=True)
    may_run("mount", *words, point)
    try:
        yield
    finally:
        subprocess.run(["umount", str(point)], check=True)


@contextmanager
def disk_in_memory(point: Path, options: str = "size=64m") -> Iterator[None]:
    """A file system in memory at ``point``; whoever still uses it at the end does no harm."""
    point.mkdir(exist_ok=True)
    may_run("mount", "-t", "tmpfs", "-o", options, "tmpfs", point)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)
