"""A folder as a sink (``ports.Sink``): partial files out of sight, then whole files under their final names.

Everything that is not finished stands in the work folder ``.openmsistream`` at the root: partial files, and
what was put into quarantine. Nothing else in the root is touched but the files that are delivered.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from openmsistream.adapters.filesystem.durable import (
    reserve,
    sync_data,
    sync_everything_on_the_disk_of,
    sync_folder,
)
from openmsistream.adapters.filesystem.placing import DescriptorPlacing, PathPlacing
from openmsistream.core.chunk import HashName
from openmsistream.core.hashing import new_hasher
from openmsistream.core.paths import WORK_FOLDER, check_relative, to_wire_bytes
from openmsistream.core.versions import VersionKey
from openmsistream.errors import OpenMSIStreamError, ProtocolError, StorageError
from openmsistream.ports import Buffer, Publication, Record

OPEN_FILES = 64
SYNC_TOGETHER = 8
"""From so many files on, one sync of the whole disk is cheaper than one for each."""
RESERVE_FROM = 8 * 1024 * 1024
RESERVE_BYTES = 64 * 1024 * 1024
"""Room is reserved for files beyond the first of these sizes, and never more than the second ahead of what came."""
READ_BYTES = 1024 * 1024
_BY_DESCRIPTOR = os.rename in os.supports_dir_fd and os.open in os.supports_dir_fd
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class FolderSink:
    """
    Delivers files below ``root``, which is made if need be.

    Args:
        root: The output folder.
        by_descriptor: Place files through descriptors of folders (POSIX) or by names (Windows).

    Raises:
        StorageError: The folder cannot be made or written.
    """

    def __init__(self, root: Path, *, by_descriptor: bool = _BY_DESCRIPTOR) -> None:
        self.root = root
        self._by_descriptor = by_descriptor
        self._partial = root / WORK_FOLDER / "partial"
        self._quarantine = root / WORK_FOLDER / "quarantine"
        self._files: OrderedDict[VersionKey, int] = OrderedDict()
        self._reserved: dict[VersionKey, int] = {}
        self._folder_fd = -1
        with self._told():
            self._partial.mkdir(parents=True, exist_ok=True)
            self._quarantine.mkdir(parents=True, exist_ok=True)
            if by_descriptor:
                self._folder_fd = os.open(self._partial, os.O_RDONLY)

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        """Keep bytes of an open version at their offset."""
        with self._told():
            fd = self._file(key, create=True)
            view = memoryview(data)
            if offset >= RESERVE_FROM and offset + len(view) > self._reserved.get(key, 0):
                reserve(fd, offset, RESERVE_BYTES)
                self._reserved[key] = offset + RESERVE_BYTES
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], offset + done) if hasattr(os, "pwrite") else _put(fd, view, offset)

    def read(self, key: VersionKey, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes of an open version again, in pieces of up to 1 MiB."""
        with self._told():
            fd = self._file(key, create=False)
            os.lseek(fd, start, os.SEEK_SET)
            while start < stop:
                piece = os.read(fd, min(READ_BYTES, stop - start))
                if not piece:
                    raise StorageError(f"{self._partial}: the partial file of {key.path!r} is shorter than it was")
                start += len(piece)
                yield piece

    def sync(self, keys: Iterable[VersionKey]) -> None:
        """Make what was written of these versions survive a power cut."""
        wanted = list(keys)
        with self._told():
            together = self._by_descriptor and len(wanted) >= SYNC_TOGETHER
            if together and sync_everything_on_the_disk_of(self._folder_fd):
                return
            for key in wanted:
                # Not there: renamed in a barrier that failed behind that and is made again. An empty one made here
                # would be renamed over the file.
                with suppress(FileNotFoundError):
                    sync_data(self._file(key, create=False))

    def publish(self, publications: Sequence[Publication]) -> dict[VersionKey, OpenMSIStreamError]:
        """Make versions appear under their final names, each whole or not at all."""
        failed: dict[VersionKey, OpenMSIStreamError] = {}
        with self._told():
            placing = (
                DescriptorPlacing(self.root, self._folder_fd)
                if self._by_descriptor
                else PathPlacing(self.root, self._partial)
            )
            try:
                for publication in publications:
                    self._give_back(publication)
                    self._let_go(publication.key)
                    try:
                        placing.place(_name(publication.key), check_relative(publication.path, windows=os.name == "nt"))
                    except ProtocolError as error:
                        failed[publication.key] = error
                    except FileNotFoundError:
                        # A batch that failed half-way is published again: what stands already is done.
                        if not self.stands(publication.path, publication.size):
                            raise
                placing.sync()
            finally:
                placing.close()
        return failed

    def stands(self, path: str, size: int) -> bool:
        """True when a file of that size is there under its final path."""
        try:
            found = os.lstat(self.root / path)
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == size

    def holds(self, path: str, size: int, hash_name: HashName, digest: bytes) -> bool:
        """True when the file under its final path has that size and that digest."""
        if not self.stands(path, size):
            return False
        hasher = new_hasher(hash_name)
        with self._told(), (self.root / path).open("rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                hasher.update(piece)
        return hasher.digest() == digest

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of an open version."""
        self._let_go(key)
        with self._told(), suppress(FileNotFoundError):
            (self._partial / _name(key)).unlink()

    def set_aside(self, key: VersionKey, reason: str) -> None:
        """Move the bytes of an open version to quarantine, with the reason."""
        self._let_go(key)
        name = _name(key)
        with self._told():
            with suppress(FileNotFoundError):
                os.replace(self._partial / name, self._quarantine / name)
            self._note(name, {"path": _printable(key.path), "version": key.version.hex(), "reason": reason})

    def quarantine(self, topic: str, record: Record, reason: str) -> None:
        """Keep a record that cannot be handled, with its origin and the reason."""
        name = f"{topic}-{record.partition}-{record.offset}"
        with self._told():
            (self._quarantine / f"{name}.value").write_bytes(record.value or b"")
            headers = [(k, None if v is None else base64.b64encode(v).decode()) for k, v in record.headers or ()]
            self._note(
                name,
                {
                    "topic": topic,
                    "partition": record.partition,
                    "offset": record.offset,
                    "timestamp_ms": record.timestamp_ms,
                    "key": None if record.key is None else base64.b64encode(record.key).decode(),
                    "headers": headers,
                    "reason": reason,
                },
            )

    def restore(self, known: Iterable[VersionKey]) -> set[VersionKey]:
        """Which of ``known`` still have bytes here; partial files of no known version are removed."""
        names = {_name(key): key for key in known}
        found: set[VersionKey] = set()
        for key in self._files.keys() - names.values():
            self._let_go(key)  # else what is written next would go to a file without a name
        with self._told():
            for entry in os.scandir(self._partial):
                if entry.name in names:
                    found.add(names[entry.name])
                else:
                    os.unlink(entry.path)
        return found

    def close(self) -> None:
        """Let go of all files."""
        for key in list(self._files):
            self._let_go(key)
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
            self._folder_fd = -1

    def _file(self, key: VersionKey, *, create: bool) -> int:
        fd = self._files.get(key)
        if fd is not None:
            self._files.move_to_end(key)
            return fd
        while len(self._files) >= OPEN_FILES:
            _, oldest = self._files.popitem(last=False)
            os.close(oldest)
        flags = _FLAGS | (os.O_CREAT if create else 0)
        if self._by_descriptor:
            fd = os.open(_name(key), flags, 0o666, dir_fd=self._folder_fd)
        else:
            fd = os.open(self._partial / _name(key), flags, 0o666)
        self._files[key] = fd
        return fd

    def _give_back(self, publication: Publication) -> None:
        """What was reserved beyond the end of a file is free again."""
        fd = self._files.get(publication.key)
        if fd is not None and publication.size >= RESERVE_FROM:
            os.ftruncate(fd, publication.size)

    def _let_go(self, key: VersionKey) -> None:
        fd = self._files.pop(key, None)
        self._reserved.pop(key, None)
        if fd is not None:
            os.close(fd)

    def _note(self, name: str, values: dict[str, object]) -> None:
        """The reason beside what was put into quarantine, both on the disk before the record counts as handled."""
        note = self._quarantine / f"{name}.json"
        with note.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1)
            file.flush()
            sync_data(file.fileno())
        if self._by_descriptor:
            folder = os.open(self._quarantine, os.O_RDONLY)
            try:
                sync_folder(folder)
            finally:
                os.close(folder)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _storage_error(self.root, error) from error


def _name(key: VersionKey) -> str:
    return blake2b(key.version + b"/" + to_wire_bytes(key.path), digest_size=20).hexdigest() + ".part"


def _printable(path: str) -> str:
    return to_wire_bytes(path).decode("utf-8", "backslashreplace")


def _put(fd: int, view: memoryview, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, view)


def _storage_error(root: Path, error: OSError) -> StorageError:
    hints = {
        errno.ENOSPC: "make room on that disk; it goes on by itself",
        errno.EDQUOT: "make room in your quota; it goes on by itself",
        errno.EROFS: "the disk is mounted read-only; it goes on by itself once it can be written",
        errno.EACCES: "give the account this program runs under the right to write there",
        errno.ENOENT: "check that the folder is still there and mounted",
    }
    return StorageError(
        f"{root}: the output folder cannot be written: {error.strerror or error}",
        hint=hints.get(error.errno or 0, "check the disk; it goes on by itself once it can be written"),
    )
