"""Parts that are not full yet, in memory as long as there is room for all of them, else in files out of sight.

Owns the bytes of unfinished parts and the one budget that they share. It must not know what becomes of a part. What
stands in its files is worth nothing after a restart: they are removed then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from openmsistream.adapters.filesystem.partials import READ_BYTES, PartialFiles
from openmsistream.core.versions import VersionKey
from openmsistream.errors import StorageError

BUDGET_BYTES = 16 * 1024 * 1024
"""So many bytes of unfinished parts stay in memory; more files than that makes parts of are kept on disk."""
IN_MEMORY_BYTES = 16 * 1024 * 1024
"""Larger parts, which files beyond 23 GB have, are kept on disk from their first byte on."""
_ROOM_MADE = BUDGET_BYTES // 4


@dataclass(eq=False, slots=True)
class Collected:
    """
    Bytes of one part, as they come.

    Attributes:
        size: How many there are.
        memory: The bytes, or None when they are in a file.
    """

    key: VersionKey
    size: int = 0
    memory: bytearray | None = field(default_factory=bytearray)


class Collecting:
    """
    The unfinished parts of all open versions. ``read`` and ``whole`` may be called from any thread,
    the rest from one at a time.

    Args:
        folder: For the files; it is made, and emptied.
        budget_bytes: How many bytes may be in memory together.

    Raises:
        StorageError: The folder cannot be made or written; also of every method that writes.
    """

    def __init__(self, folder: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self._folder, self._budget = folder, budget_bytes
        self._in_memory = 0
        self._count = 0
        self._lock = Lock()  # descriptors of files come and go
        self._parts: dict[Collected, None] = {}
        try:
            self._files = PartialFiles(folder, by_descriptor=False, mode=0o600)
            self._files.restore(())
        except OSError as error:
            raise _refused(folder, error) from error

    @property
    def in_memory(self) -> int:
        """How many bytes are in memory now."""
        return self._in_memory

    def begin(self, key: VersionKey, full_size: int) -> Collected:
        """A new part of a version, which has ``full_size`` bytes when it is full."""
        self._count += 1
        part = Collected(VersionKey(key.path, key.version + self._count.to_bytes(8, "big")))
        if full_size > IN_MEMORY_BYTES:
            part.memory = None
        self._parts[part] = None
        return part

    def add(self, part: Collected, data: memoryview) -> None:
        """Bytes behind those that are there."""
        if part.memory is None:
            self._write(part, part.size, data)
        else:
            part.memory += data
            self._in_memory += len(data)
        part.size += len(data)
        if self._in_memory > self._budget:
            self._make_room()

    def read(self, part: Collected, start: int, stop: int) -> Iterator[bytes]:
        """Bytes of a part again, in pieces."""
        for begin in range(start, stop, READ_BYTES):
            yield self._piece(part, begin, min(begin + READ_BYTES, stop))

    def _piece(self, part: Collected, start: int, stop: int) -> bytes:
        memory = part.memory
        if memory is not None:
            return bytes(memoryview(memory)[start:stop])
        try:
            with self._lock:
                return b"".join(self._files.read(part.key, start, stop))
        except OSError as error:
            raise _refused(self._folder, error) from error

    def whole(self, part: Collected) -> bytes | bytearray:
        """All bytes of a part; of one in memory the very ones, which are not to be changed."""
        return part.memory if part.memory is not None else b"".join(self.read(part, 0, part.size))

    def take(self, part: Collected) -> bytearray | Path:
        """The part's bytes, or the file that holds them, which is the caller's to remove; it is none of ours now."""
        self._parts.pop(part, None)
        if part.memory is not None:
            self._in_memory -= part.size
            return part.memory
        path = self._files.path(part.key)
        with self._lock:
            self._files.finish(part.key, part.size)
            self._files.gone(part.key)
        return path

    def drop(self, part: Collected) -> None:
        """Forget a part's bytes."""
        taken = self.take(part)
        if isinstance(taken, Path):
            taken.unlink(missing_ok=True)

    def close(self) -> None:
        """Forget everything."""
        for part in list(self._parts):
            self.drop(part)
        self._files.close()

    def _make_room(self) -> None:
        """Put the largest parts into files, so many that it is not needed again at once."""
        largest = sorted((p for p in self._parts if p.memory is not None), key=lambda p: p.size, reverse=True)
        for part in largest:
            if self._in_memory <= self._budget - min(_ROOM_MADE, self._budget):
                return
            memory = part.memory or bytearray()
            self._write(part, 0, memoryview(memory))
            part.memory = None
            self._in_memory -= len(memory)

    def _write(self, part: Collected, offset: int, data: memoryview) -> None:
        try:
            with self._lock:
                self._files.write(part.key, offset, data)
        except OSError as error:
            raise _refused(self._folder, error) from error


def pieces_of(body: bytearray | Path) -> Iterator[bytes | bytearray]:
    """The bytes of a part that was taken, in pieces; FileNotFoundError when somebody removed its file."""
    if not isinstance(body, Path):
        yield body
        return
    with _reading(body), body.open("rb", buffering=0) as file:
        while piece := file.read(READ_BYTES):
            yield piece


def whole_of(path: Path) -> bytes:
    """All bytes of a part that was taken as a file, in memory once; raises as ``pieces_of``."""
    with _reading(path):
        return path.read_bytes()


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path.parent, error) from error


def _refused(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: the work folder cannot be written: {error.strerror or error}",
        hint="check that disk, and make room on it; it goes on by itself",
    )
