"""The partial files of a folder sink: bytes of open versions, out of sight, until they get a name.

Owns the folder they stand in and how many are open at once. It must not know what a version is delivered as. Raises
``OSError`` as it comes, and ``BytesLostError`` when bytes that were written are gone.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from openmsistream.adapters.filesystem.durable import (
    begin_to_sync,
    drop_cached,
    has_sync_of_everything,
    reserve,
    sync_data,
    sync_everything_on_the_disk_of,
    sync_file,
)
from openmsistream.core.paths import to_wire_bytes
from openmsistream.core.versions import VersionKey
from openmsistream.errors import BytesLostError
from openmsistream.ports import Buffer

OPEN_FILES = 64
SYNC_TOGETHER = 8
"""From so many files on, one sync of the whole disk is cheaper than one for each."""
RESERVE_FROM = 8 * 1024 * 1024
RESERVE_BYTES = 64 * 1024 * 1024
"""Room is reserved for files beyond the first of these sizes, and never more than the second ahead of what came."""
HAND_OVER_BYTES = 8 * 1024 * 1024
"""So much of a file is handed to the disk at once, while more of it comes in."""
READ_BYTES = 1024 * 1024
_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


class NotKeptError(OSError):
    """
    The disk did not take bytes that were written before.

    The system tells that once, and then counts them as being there: to sync again finds nothing wrong.

    Attributes:
        keys: The versions whose bytes they may be.
    """

    def __init__(self, error: OSError, keys: Sequence[VersionKey]) -> None:
        super().__init__(error.errno, error.strerror)
        self.keys = keys


class PartialFiles:
    """
    The partial files in ``folder``, which is made if need be.

    Args:
        folder: Where they stand.
        by_descriptor: Open them through a descriptor of the folder.
        mode: The permissions they are made with, less the umask.
        fs_type: The type of the file system they stand on; empty when it is not known.
        whose: They stand in a folder of that name in ``folder``, apart from those of others; empty: in ``folder``.
        passing: They are gone before the disk need know of them: large ones are not handed to it as they come in.

    Attributes:
        folder: Where they stand.
        folder_fd: Its descriptor, or -1.
    """

    def __init__(
        self,
        folder: Path,
        *,
        by_descriptor: bool,
        mode: int,
        fs_type: str = "",
        whose: str = "",
        passing: bool = False,
    ) -> None:
        self.folder, self._shared = folder / whose, folder
        self._by_descriptor, self._mode, self._passing = by_descriptor, mode, passing
        self._together = by_descriptor and has_sync_of_everything(fs_type)
        self._files: OrderedDict[VersionKey, int] = OrderedDict()
        self._reserved: dict[VersionKey, int] = {}
        self._handed_over: dict[VersionKey, int] = {}
        self._begun: set[VersionKey] = set()
        self.folder_fd = -1
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open_folder()

    def path(self, key: VersionKey) -> Path:
        """Where the partial file of a version stands, if there is one."""
        return self.folder / partial_name(key)

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        """
        Keep bytes of an open version at their offset.

        Raises:
            NotKeptError: The disk does not take what was written before.
        """
        fd = self.file(key, create=True)
        view = memoryview(data)
        if offset >= RESERVE_FROM and offset + len(view) > self._reserved.get(key, 0):
            reserve(fd, offset, RESERVE_BYTES)
            self._reserved[key] = offset + RESERVE_BYTES
        done = 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done) if hasattr(os, "pwrite") else _put(fd, view, offset)
        begin, end = self._handed_over.get(key, 0), offset + len(view)
        if end - begin >= HAND_OVER_BYTES and not self._passing:
            with self._kept([key]):
                begin_to_sync(fd, begin, end - begin)
            self._handed_over[key] = end

    def read(self, key: VersionKey, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes of an open version again, in pieces of up to 1 MiB."""
        fd = self.file(key, create=False)
        os.lseek(fd, start, os.SEEK_SET)
        while start < stop:
            piece = os.read(fd, min(READ_BYTES, stop - start))
            if not piece:
                raise self.lost([key])
            start += len(piece)
            yield piece

    def sync(self, keys: Iterable[VersionKey], finished: Collection[str] = ()) -> None:
        """
        Make what was written of these versions, and the whole files of these paths, survive a power cut.

        Raises:
            NotKeptError: The disk does not take it.
        """
        wanted = list(keys)
        if self._together and len(wanted) + len(finished) >= SYNC_TOGETHER:
            with self._kept(wanted, finished):
                sync_everything_on_the_disk_of(self.folder_fd)
            return
        for key in wanted:
            # Not there: renamed in a barrier that failed behind that and is made again, or removed by somebody, which
            # publishing and reading tell. An empty one made here would be renamed over the file.
            with suppress(BytesLostError):
                fd = self.file(key, create=False)
                with self._kept([key]):
                    sync_data(fd)
        for path in finished:
            with suppress(FileNotFoundError), self._kept([], [path]):
                sync_file(path)

    def finish(self, key: VersionKey, size: int) -> None:
        """A file of this size is whole: what was reserved beyond its end is free again, and it is closed."""
        fd = self._files.get(key)
        if fd is not None and size >= RESERVE_FROM:
            os.ftruncate(fd, size)
        self._let_go(key)

    def gone(self, key: VersionKey) -> None:
        """A partial file has its name, or is put aside: the version begins anew should it come again."""
        self._let_go(key)
        self._begun.discard(key)
        self._handed_over.pop(key, None)

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of an open version."""
        self.gone(key)
        with suppress(FileNotFoundError):
            self.path(key).unlink()

    def restore(self, known: Iterable[VersionKey]) -> set[VersionKey]:
        """Which of ``known`` still have bytes here; partial files of no known version are removed."""
        names = {partial_name(key): key for key in known}
        for key in self._files.keys() - names.values():
            self._let_go(key)  # else what is written next would go to a file without a name
        found: set[VersionKey] = set()
        if not self.folder.exists():
            self._make_again()
        for entry in os.scandir(self.folder):
            if entry.name in names:
                found.add(names[entry.name])
            elif not entry.is_dir(follow_symlinks=False):  # a folder has those of others
                os.unlink(entry.path)
        self._begun = set(found)
        return found

    def file(self, key: VersionKey, *, create: bool) -> int:
        """
        The descriptor of a version's partial file, open for reading and writing.

        Raises:
            BytesLostError: It is not there, and was before, or is not to be made.
        """
        fd = self._files.get(key)
        if fd is not None:
            self._files.move_to_end(key)
            return fd
        while len(self._files) >= OPEN_FILES:
            oldest, fd = self._files.popitem(last=False)
            with self._kept([oldest]):  # a share may say only here that its disk is full
                os.close(fd)
        create = create and key not in self._begun
        try:
            fd = self._open(key, create=create)
        except FileNotFoundError as error:
            if not create:
                raise self.lost([key]) from error
            self._make_again()
            fd = self._open(key, create=True)
        self._files[key] = fd
        self._begun.add(key)
        return fd

    def lost(self, keys: Sequence[VersionKey]) -> BytesLostError:
        """What is to be raised when the partial files of these are gone."""
        more = f" and of {len(keys) - 1} more" if len(keys) > 1 else ""
        return BytesLostError(
            f"{self.folder}: the partial file of {keys[0].path!r}{more} was removed or cut by somebody else",
            keys,
            hint="leave that folder alone while the program runs",
        )

    def close(self) -> None:
        """Let go of all files."""
        for key in list(self._files):
            self._let_go(key)
        if self.folder_fd >= 0:
            os.close(self.folder_fd)
            self.folder_fd = -1

    @contextmanager
    def _kept(self, keys: Sequence[VersionKey], finished: Iterable[str] = ()) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            for path in finished:
                with suppress(OSError):
                    drop_cached(path)
            raise NotKeptError(error, keys) from error

    def _open(self, key: VersionKey, *, create: bool) -> int:
        flags = _FLAGS | (os.O_CREAT if create else 0)
        if self._by_descriptor:
            return os.open(partial_name(key), flags, self._mode, dir_fd=self.folder_fd)
        return os.open(self.path(key), flags, self._mode)

    def _make_again(self) -> None:
        """Somebody removed the folder. Where the one it stands in is gone, too, the disk may not be mounted."""
        self._shared.mkdir(exist_ok=True)
        self.folder.mkdir(exist_ok=True)
        self._open_folder()

    def _open_folder(self) -> None:
        if self._by_descriptor:
            if self.folder_fd >= 0:
                os.close(self.folder_fd)
            self.folder_fd = os.open(self.folder, os.O_RDONLY)

    def _let_go(self, key: VersionKey) -> None:
        fd = self._files.pop(key, None)
        self._reserved.pop(key, None)
        if fd is not None:
            os.close(fd)


def partial_name(key: VersionKey) -> str:
    """The name of a version's partial file."""
    return blake2b(key.version + b"/" + to_wire_bytes(key.path), digest_size=20).hexdigest() + ".part"


def _put(fd: int, view: memoryview, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, view)
