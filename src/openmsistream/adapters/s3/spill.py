"""Parts that are not full yet, in memory as long as there is room for all of them, else in files out of sight.

Owns the bytes of unfinished parts and the one budget that they share. It must not know what becomes of a part. What
stands in its files is worth nothing after a restart: they are removed then.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from openmsistream.adapters.filesystem.partials import READ_BYTES, PartialFiles
from openmsistream.core.versions import VersionKey
from openmsistream.errors import BytesLostError, StorageError

BUDGET_BYTES = 16 * 1024 * 1024
"""So many bytes of unfinished parts stay in memory; more files than that makes parts of are kept on disk."""
IN_MEMORY_BYTES = 16 * 1024 * 1024
"""Larger parts, which files beyond 32 GB have, are kept on disk from their first byte on."""
_ROOM_MADE = BUDGET_BYTES // 4
_LOOK = "check the disk of the work folder"


@dataclass(eq=False, slots=True)
class Collected:
    """
    Bytes of one part, as they come.

    Attributes:
        size: How many there are.
        memory: The bytes, or None when they are in a file.
        crc: The CRC-32 of those in a file, as they came: the disk may not give back what it was given.
    """

    key: VersionKey
    size: int = 0
    memory: bytearray | None = field(default_factory=bytearray)
    crc: int = 0


@dataclass(frozen=True, slots=True)
class PartFile:
    """
    The file of a part that was taken, which is the taker's to remove.

    ``crc`` is that of the ``size`` bytes as they came. Methods that read raise BytesLostError when these are not the
    bytes of the file any more, and StorageError when it cannot be read now.
    """

    path: Path
    size: int
    crc: int

    def pieces(self) -> Iterator[bytes]:
        """Its bytes in pieces; that they are wrong is told behind the last one."""
        crc = 0
        with self.open() as file:
            while piece := _read_from(file, READ_BYTES):
                crc = zlib.crc32(piece, crc)
                yield piece
        compare(self.path, crc, self.crc)

    def whole(self) -> bytes:
        """All its bytes, in memory once."""
        with self.open() as file:
            data = _read_from(file, -1)
        compare(self.path, zlib.crc32(data), self.crc)
        return data

    def open(self) -> BinaryIO:
        """The file, for reading."""
        try:
            return self.path.open("rb", buffering=0)
        except FileNotFoundError as error:
            raise BytesLostError(f"{self.path}: it was removed by somebody else", ()) from error
        except OSError as error:
            raise _refused(self.path.parent, error) from error

    def remove(self) -> None:
        """It is not needed any more."""
        with suppress(OSError):  # a disk that fails; at the next start it is removed
            self.path.unlink()


class Collecting:
    """
    The unfinished parts of all open versions. ``read`` and ``whole`` may be called from any thread,
    the rest from one at a time. A part in a file is compared with what came whenever it is read.

    Args:
        folder: For the files; it is made, and emptied.
        budget_bytes: How many bytes may be in memory together.

    Raises:
        StorageError: The folder cannot be made or written; also of every method that writes, which may be repeated.
    """

    def __init__(self, folder: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self._folder, self._budget = folder, budget_bytes
        self._in_memory = 0
        self._count = 0
        self._lock = Lock()  # descriptors of files come and go
        self._parts: dict[Collected, None] = {}
        try:
            self._files = PartialFiles(folder, by_descriptor=False, mode=0o600, passing=True)
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
        if part.memory is not None and self._in_memory + len(data) > self._budget:
            self._make_room(len(data))  # first: bytes that were taken must not come again since there was no room
        if part.memory is None:
            self._write(part, part.size, data)
            part.crc = zlib.crc32(data, part.crc)
        else:
            part.memory += data
            self._in_memory += len(data)
        part.size += len(data)

    def read(self, part: Collected, start: int, stop: int) -> Iterator[bytes]:
        """Bytes of a part again, in pieces; BytesLostError behind the last one when the disk lost some of the part."""
        memory = part.memory
        if memory is not None:
            for begin in range(start, stop, READ_BYTES):
                yield bytes(memoryview(memory)[begin : min(begin + READ_BYTES, stop)])
            return
        crc = 0
        for begin in range(0, part.size, READ_BYTES):
            piece = self._piece(part, begin, min(begin + READ_BYTES, part.size))
            crc = zlib.crc32(piece, crc)
            if wanted := piece[max(0, start - begin) : max(0, stop - begin)]:
                yield wanted
        compare(self._files.path(part.key), crc, part.crc)

    def _piece(self, part: Collected, start: int, stop: int) -> bytes:
        try:
            with self._lock:
                return b"".join(self._files.read(part.key, start, stop))
        except OSError as error:
            raise _unread(self._files.path(part.key), error) from error

    def whole(self, part: Collected) -> bytes | bytearray:
        """All bytes of a part; of one in memory the very ones, which are not to be changed. Raises as ``read``."""
        return part.memory if part.memory is not None else b"".join(self.read(part, 0, part.size))

    def take(self, part: Collected) -> bytearray | PartFile:
        """The part's bytes, or the file that holds them; it is none of ours now."""
        self._parts.pop(part, None)
        if part.memory is not None:
            self._in_memory -= part.size
            return part.memory
        taken = PartFile(self._files.path(part.key), part.size, part.crc)
        with self._lock:
            with suppress(OSError):  # a disk that lost bytes may say so here; the CRC says it for sure
                self._files.finish(part.key, part.size)
            with suppress(OSError):
                self._files.gone(part.key)
        return taken

    def drop(self, part: Collected) -> None:
        """Forget a part's bytes."""
        taken = self.take(part)
        if isinstance(taken, PartFile):
            taken.remove()

    def close(self) -> None:
        """Forget everything."""
        for part in list(self._parts):
            self.drop(part)
        self._files.close()

    def _make_room(self, size: int) -> None:
        """Put the largest parts into files until ``size`` bytes have room, and some more: it takes time each time."""
        largest = sorted((p for p in self._parts if p.memory is not None), key=lambda p: p.size, reverse=True)
        for part in largest:
            if self._in_memory + size <= self._budget - min(_ROOM_MADE, self._budget):
                return
            memory = part.memory or bytearray()
            self._write(part, 0, memoryview(memory))
            part.memory, part.crc = None, zlib.crc32(memory)
            self._in_memory -= len(memory)

    def _write(self, part: Collected, offset: int, data: memoryview) -> None:
        try:
            with self._lock:
                self._files.write(part.key, offset, data)
        except OSError as error:
            raise _refused(self._folder, error) from error


def compare(path: Path, found: int, crc: int) -> None:
    """BytesLostError when the CRC-32 of what a file holds is not that of what was put there."""
    if found != crc:
        raise BytesLostError(f"{path}: its disk did not keep what was written to it", (), hint=_LOOK)


def _read_from(file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _unread(Path(file.name), error) from error


def _unread(path: Path, error: OSError) -> BytesLostError:
    """A disk that does not give bytes back now may never do; the topic does."""
    return BytesLostError(f"{path}: cannot be read: {error.strerror or error}", (), hint=_LOOK)


def _refused(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: the work folder cannot be written: {error.strerror or error}",
        hint="check that disk, and make room on it; it goes on by itself",
    )
