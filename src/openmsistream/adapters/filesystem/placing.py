"""Giving finished files their final names below a root, never outside it.

Every folder on the way is opened without following symbolic links, one inside the other, so that neither a
name from a topic nor a link somebody put into the root leads elsewhere (POSIX). Where the system cannot open
folders like that (Windows), each part is looked at before. Both replace an existing file in one step, or leave it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from openmsistream.adapters.filesystem.durable import rename_to_new, sync_data, sync_folder
from openmsistream.errors import ProtocolError

Made = Callable[[int], None]
"""Called with the descriptor of a folder that was made just now."""

_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
# What a name can be that this file system never takes, however often it is tried.
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST})
MODE = 0o777  # less the umask
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_READ_FLAGS |= getattr(os, "O_NONBLOCK", 0)  # a named pipe in the way must not make it wait
_COMPARE_BYTES = 1024 * 1024
OPEN_FOLDERS = 64
"""However many folders a batch has, or a path goes through: macOS gives a program 256 descriptors for everything."""


class DescriptorPlacing:
    """
    Places files through descriptors of opened folders, for one batch; then ``sync`` and ``close``.

    Attributes:
        safe: The paths given to ``place``, ``place_new`` and ``placed`` whose names survive a power cut by now.
    """

    def __init__(self, root: Path, source_fd: int, made: Made | None = None) -> None:
        self._source, self._made = source_fd, made
        self.safe: set[str] = set()
        self._unsafe: list[str] = []
        self._folders: dict[tuple[str, ...], int] = {(): os.open(root, _FOLDER_FLAGS & ~getattr(os, "O_NOFOLLOW", 0))}
        self._changed: set[tuple[str, ...]] = set()

    def place(self, source: str, path: str) -> None:
        """
        Rename ``source`` (in the source folder) to ``path``, which was checked to be a relative path.

        Raises:
            ProtocolError: The path leads through a symbolic link or a file, or its name cannot be had here.
            OSError: The disk is full, read-only, or refuses; FileNotFoundError when ``source`` is gone.
        """
        *folders, name = path.split("/")
        parents = tuple(folders)
        target = self._enter(parents, path)
        try:
            os.rename(source, name, src_dir_fd=self._source, dst_dir_fd=target)
        except OSError as error:
            raise _refused(path, error) from error
        self._changed.add(parents)
        self._unsafe.append(path)

    def place_new(self, source: str, path: str) -> bool:
        """
        The same, unless something stands there; an existing file of the same content is as good as placed.

        Returns:
            False when something else stands there.
        """
        *folders, name = path.split("/")
        parents = tuple(folders)
        target = self._enter(parents, path)
        try:
            if not rename_to_new(source, name, self._source, target):
                if not self._same(source, name, target):
                    return False
                os.unlink(source, dir_fd=self._source)
        except OSError as error:
            raise _refused(path, error) from error
        self._changed.add(parents)
        self._unsafe.append(path)
        return True

    def placed(self, path: str) -> None:
        """A file was placed there before, and it is not certain that its name survives a power cut."""
        parents = tuple(path.split("/")[:-1])
        for depth in range(len(parents) + 1):
            self._enter(parents[:depth], path)
            self._changed.add(parents[:depth])
        self._unsafe.append(path)

    def _same(self, source: str, name: str, target: int) -> bool:
        one = os.open(source, _READ_FLAGS, dir_fd=self._source)
        try:
            other = os.open(name, _READ_FLAGS, dir_fd=target)
        except OSError:
            os.close(one)
            return False
        return _same_content(one, other)

    def sync(self) -> None:
        """Make the new names survive a power cut."""
        for parents in self._changed:
            sync_folder(self._folders[parents])
        self._changed.clear()
        self.safe.update(self._unsafe)
        self._unsafe.clear()

    def close(self) -> None:
        """Let go of the folders."""
        for fd in self._folders.values():
            os.close(fd)
        self._folders.clear()

    def _enter(self, parents: tuple[str, ...], path: str) -> int:
        """The descriptor of a folder; it is open until the next one is entered."""
        depth = len(parents)
        while parents[:depth] not in self._folders:
            depth -= 1
        fd = self._folders[parents[:depth]]
        for here in range(depth, len(parents)):
            if len(self._folders) >= OPEN_FOLDERS:
                self._close_all_but(parents[:here])
            fd = self._step(fd, parents[: here + 1], path)
        return fd

    def _step(self, above: int, parents: tuple[str, ...], path: str) -> int:
        """Open a folder in the one above it; it is made if need be."""
        name = parents[-1]
        try:
            try:
                fd = self._folders[parents] = os.open(name, _FOLDER_FLAGS, dir_fd=above)
            except FileNotFoundError:
                made = self._made
                try:
                    os.mkdir(name, MODE, dir_fd=above)
                except FileExistsError:
                    made = None  # somebody else was quicker
                self._changed.add(parents[:-1])
                fd = self._folders[parents] = os.open(name, _FOLDER_FLAGS, dir_fd=above)
                if made is not None:
                    made(fd)
        except OSError as error:
            raise _refused(path, error) from error
        return fd

    def _close_all_but(self, parents: tuple[str, ...]) -> None:
        """Make room for more; the root stays open, too. What changed is synced first: it may not be opened again."""
        self.sync()
        for each in self._folders.keys() - {(), parents}:
            os.close(self._folders.pop(each))


class PathPlacing:
    """The same by path names, for systems without descriptors of folders."""

    safe: frozenset[str] = frozenset()

    def __init__(self, root: Path, source: Path, made: Made | None = None) -> None:
        self._root, self._source, self._made = root, source, made

    def place(self, source: str, path: str) -> None:
        """Rename ``source`` to ``path``; see ``DescriptorPlacing.place``."""
        try:
            os.replace(self._source / source, self._enter(path))
        except OSError as error:
            raise _refused(path, error) from error

    def place_new(self, source: str, path: str) -> bool:
        """The same, unless something stands there; see ``DescriptorPlacing.place_new``."""
        try:
            target = self._enter(path)
            if not rename_to_new(self._source / source, target, None, None):
                if not self._same(self._source / source, target):
                    return False
                (self._source / source).unlink()
        except OSError as error:
            raise _refused(path, error) from error
        return True

    def placed(self, path: str) -> None:
        """Nothing is to be done; see ``sync``."""

    def _enter(self, path: str) -> Path:
        *folders, name = path.split("/")
        here = self._root
        for part in folders:
            here = here / part
            with suppress(FileExistsError):
                here.mkdir()
                self._dress(here)
            found = here.lstat()
            is_link = stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", False)
            if is_link or not stat.S_ISDIR(found.st_mode):
                raise _outside(path)
        return here / name

    def _dress(self, folder: Path) -> None:
        if self._made is not None and os.name != "nt":
            fd = os.open(folder, _FOLDER_FLAGS)
            try:
                self._made(fd)
            finally:
                os.close(fd)

    @staticmethod
    def _same(source: Path, target: Path) -> bool:
        one = os.open(source, _READ_FLAGS)
        try:
            if target.is_symlink():  # where they can be opened without being followed, this is seen then
                os.close(one)
                return False
            other = os.open(target, _READ_FLAGS)
        except OSError:
            os.close(one)
            return False
        return _same_content(one, other)

    def sync(self) -> None:
        """Windows keeps a journal of its names and has no call to flush a folder."""

    def close(self) -> None:
        """There is nothing to let go of."""


def _same_content(one: int, other: int) -> bool:
    """True when both are files of the same bytes, and those of the second are on the disk; closes both."""
    try:
        ours, theirs = os.fstat(one), os.fstat(other)
        if not stat.S_ISREG(theirs.st_mode) or ours.st_size != theirs.st_size:
            return False
        os.lseek(one, 0, os.SEEK_SET)
        while piece := os.read(one, _COMPARE_BYTES):
            # A read that is interrupted may bring less: sizes are equal, so that only makes files differ.
            with suppress(OSError):
                if os.read(other, len(piece)) == piece:
                    continue
            return False
        if os.name != "nt":
            sync_data(other)
        return True
    finally:
        os.close(one)
        os.close(other)


def _outside(path: str) -> ProtocolError:
    return ProtocolError(f"{path!r} leads outside the output folder: a part of it is a link or no folder")


def _refused(path: str, error: OSError) -> OSError | ProtocolError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR) or isinstance(error, FileExistsError):
        return _outside(path)
    if error.errno in _BAD_NAME:
        return ProtocolError(
            f"{path!r} is not a valid name in this folder: {error.strerror}",
            hint="a folder or file of that name may be in the way",
        )
    return error
