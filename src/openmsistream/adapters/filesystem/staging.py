"""A place out of sight in which files are put together once more, and from which they get a name that is still free.

It never replaces a file: a downloader may run on the same folder at the same time, and what it wrote is newer. Must not
know where the bytes come from.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from openmsistream.adapters.filesystem.durable import sync_data
from openmsistream.adapters.filesystem.placing import DescriptorPlacing, PathPlacing
from openmsistream.adapters.filesystem.refusing import refused_alone
from openmsistream.adapters.filesystem.shared_files import hold
from openmsistream.adapters.filesystem.spelling import folds, spelling_on_disk
from openmsistream.core.chunk import HashName
from openmsistream.core.hashing import new_hasher
from openmsistream.core.names import naming_for
from openmsistream.errors import ConfigError, StorageError
from openmsistream.ports import Buffer, Publication

READ_BYTES = 1024 * 1024
_FILE_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_BY_DESCRIPTOR = os.rename in os.supports_dir_fd and os.open in os.supports_dir_fd


class Staging:
    """
    A folder ``retry`` in a work folder; one program at a time may have it.

    Args:
        work: The work folder, on the disk that files are to get their names on.

    Raises:
        ConfigError: Another program has it.
        StorageError: It cannot be made, or its disk is full or refuses; also of every method.
    """

    def __init__(self, work: Path) -> None:
        self._work, self._base = work, work / "retry"
        self._let_go = ExitStack()
        self._folder = self._base

    def __enter__(self) -> Self:
        taken = ConfigError(f"{self._work}: another retry is under way there", hint="wait for its end, then try again")
        with ExitStack() as unless_it_fails, _told(self._work):
            unless_it_fails.callback(hold(self._work / "retry.lock", taken).release)
            shutil.rmtree(self._base, ignore_errors=True)  # of one that was killed
            self._base.mkdir()
            self._folder = Path(tempfile.mkdtemp(dir=self._base))
            self._let_go = unless_it_fails.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._let_go:
            shutil.rmtree(self._base, ignore_errors=True)

    def write(self, name: str, offset: int, data: Buffer) -> None:
        """Keep bytes of a file at their offset; ``name`` is ours, and no path."""
        with _told(self._work):
            fd = os.open(self._folder / name, _FILE_FLAGS, 0o666)
            with os.fdopen(fd, "r+b", buffering=0) as file:
                file.seek(offset)
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]

    def take(self, source: Path, name: str) -> None:
        """Take the bytes of another file on the same disk, which stays where it is."""
        with _told(self._work):
            try:
                os.link(source, self._folder / name, follow_symlinks=False)
            except OSError:
                shutil.copyfile(source, self._folder / name)

    def digest(self, name: str, hash_name: HashName) -> bytes:
        """The digest of a file that was put together here."""
        return digest_of(self._folder / name, hash_name)

    def discard(self, name: str) -> None:
        """Forget a file."""
        with _told(self._work):
            (self._folder / name).unlink(missing_ok=True)

    def finish(self, name: str) -> Path:
        """Where a file stands that nothing more is written to; its bytes are on the disk."""
        path = self._folder / name
        with _told(self._work):
            fd = os.open(path, _FILE_FLAGS, 0o666)  # made here when it is empty: nothing was written
            try:
                sync_data(fd)
            finally:
                os.close(fd)
        return path


class FreeNames:
    """
    An output folder as the destination of ``retry``: files get names that are free.

    Args:
        root: The output folder.
        names: What becomes of names that Windows cannot have, as for the downloader: auto, keep, map, refuse.
    """

    where = "in the output folder"

    def __init__(self, root: Path, names: str = "auto") -> None:
        self._root = root
        self._spelling = spelling_on_disk(root, naming_for(names, windows=os.name == "nt", folds=folds(root)))

    def check(self, path: str) -> str:
        """The path, when a file of that path can be delivered here; else ProtocolError."""
        return self._spelling.naming.check(path)

    def add(self, file: Path, publication: Publication) -> bool:
        """
        Give a file its final name, if that is free.

        Args:
            file: Where it stands, on the disk of the output folder.
            publication: Its relative path; it stands there as a downloader would call it.

        Returns:
            True when it got the name now, or a file with the same content has it; False when something else has.

        Raises:
            ProtocolError: The path leads outside or through a link, or its name cannot be had here.
            DeliveryError: This path is refused, and others are not.
            StorageError: The disk is full, read-only, or refuses.
        """
        with _told(self._root):
            folder = os.open(file.parent, os.O_RDONLY) if _BY_DESCRIPTOR else -1
            try:
                placing = (
                    DescriptorPlacing(self._root, folder) if _BY_DESCRIPTOR else PathPlacing(self._root, file.parent)
                )
                try:
                    try:
                        placed = placing.place_new(file.name, self._spelling.place(publication.path))
                    except OSError as error:
                        raise refused_alone(publication.path, error, self._root, file.parent) from error
                    placing.sync()
                finally:
                    placing.close()
            finally:
                if _BY_DESCRIPTOR:
                    os.close(folder)
        return placed


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _refused(folder, error) from error


def _refused(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{folder}: the folder cannot be written: {error.strerror or error}",
        hint="make room, or run this under the account that the downloader runs under",
    )


def digest_of(path: Path, hash_name: HashName) -> bytes:
    """The digest of a file; StorageError when it cannot be read."""
    hasher = new_hasher(hash_name)
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                hasher.update(piece)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read: {error.strerror or error}",
            hint="run this under the account that the downloader runs under",
        ) from error
    return hasher.digest()
