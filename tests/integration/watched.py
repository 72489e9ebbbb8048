"""What the tests of watching share: a watcher whose hints are taken as the pipeline takes them, and mounts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.watching import FolderWatcher
from openmsistream.core.events import Event, Note
from openmsistream.errors import SourceError
from openmsistream.ports import Hints
from tests.conformance.suites_kafka import wait_until

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="inotify and /proc are Linux'")
root_only = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounting and system limits need Linux and root"
)


class Watched:
    """A running watcher; only hints, and scans of hinted folders, are looked at, never a scan of the root."""

    def __init__(self, root: Path, *, follow_symlinks: bool = False, scanned: bool = True) -> None:
        self.root = root
        self.events: list[Event] = []
        self.watcher = FolderWatcher(root, self.events.append, follow_symlinks=follow_symlinks)
        self.watcher.start()
        if scanned:
            self.scan()
        self.taken: list[Hints] = []
        self.seen: set[str] = set()

    @property
    def notes(self) -> list[Note]:
        return [event for event in self.events if isinstance(event, Note)]

    def scan(self) -> set[str]:
        return {path for _, files in self.watcher.scan() for path, _ in files}

    def look(self) -> None:
        self.watcher.wait(0.2)
        hints = self.watcher.hints()
        self.taken.append(hints)
        self.seen |= hints.files
        for folder in hints.folders:
            try:
                self.seen |= {path for _, files in self.watcher.scan(folder) for path, _ in files}
            except SourceError:
                continue  # moved on: its new name is hinted as well

    def until(self, done: Callable[[], bool]) -> None:
        wait_until(done, self.look)

    def until_hints(self, done: Callable[[Hints], bool]) -> Hints:
        """The first hints, of those taken in one go, that are what was waited for."""
        self.until(lambda: any(map(done, self.taken)))
        return next(filter(done, self.taken))

    def settle(self) -> None:
        """Take every hint of what happened so far: events come in order, so after that of a last file there is none."""
        last = f"last-{len(self.taken)}"
        (self.root / last).write_bytes(b"")
        self.until_hints(lambda hints: last in hints.closed)


@contextmanager
def watching(root: Path, *, follow_symlinks: bool = False, scanned: bool = True) -> Iterator[Watched]:
    watched = Watched(root, follow_symlinks=follow_symlinks, scanned=scanned)
    try:
        yield watched
    finally:
        watched.watcher.stop()


@contextmanager
def mounted(point: Path, fs_type: str = "tmpfs", options: str = "size=1m") -> Iterator[Path]:
    """A file system at ``point``, gone at the end, even if the test unmounted it by itself."""
    subprocess.run(["mount", "-t", fs_type, "-o", options, "test", str(point)], check=True)
    try:
        yield point
    finally:
        unmount(point)


def unmount(point: Path) -> None:
    """Unmount what is at ``point``, in use or not; nothing happens when there is nothing."""
    detach = 2  # Source: sys/mount.h, MNT_DETACH
    ctypes.CDLL(None).umount2(os.fsencode(point), detach)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Let this thread have nobody's rights on files (Linux: a thread has a file system uid of its own)."""
    libc = ctypes.CDLL(None)
    if os.geteuid() != 0:
        yield
        return
    libc.setfsuid(65534)
    try:
        yield
    finally:
        libc.setfsuid(0)
