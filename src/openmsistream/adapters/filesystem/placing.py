"""Giving finished files their final names below a root, never outside it.

Every folder on the way is opened without following symbolic links, one inside the other, so that neither a
name from a topic nor a link somebody put into the root leads elsewhere (POSIX). Where the system cannot open
folders like that (Windows), each part is looked at before. Both replace an existing file in one step.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from openmsistream.adapters.filesystem.durable import sync_folder
from openmsistream.errors import ProtocolError

_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
# What a name can be that this file system never takes, however often it is tried.
_BAD_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST})
MODE = 0o777  # less the umask


class DescriptorPlacing:
    """Places files through descriptors of opened folders, for one batch; then ``sync`` and ``close``."""

    def __init__(self, root: Path, source_fd: int) -> None:
        self._source = source_fd
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

    def sync(self) -> None:
        """Make the new names survive a power cut."""
        for parents in self._changed:
            sync_folder(self._folders[parents])
        self._changed.clear()

    def close(self) -> None:
        """Let go of the folders."""
        for fd in self._folders.values():
            os.close(fd)
        self._folders.clear()

    def _enter(self, parents: tuple[str, ...], path: str) -> int:
        known = self._folders.get(parents)
        if known is not None:
            return known
        above = self._enter(parents[:-1], path)
        name = parents[-1]
        try:
            try:
                fd = os.open(name, _FOLDER_FLAGS, dir_fd=above)
            except FileNotFoundError:
                os.mkdir(name, MODE, dir_fd=above)
                self._changed.add(parents[:-1])
                fd = os.open(name, _FOLDER_FLAGS, dir_fd=above)
        except OSError as error:
            raise _refused(path, error) from error
        self._folders[parents] = fd
        return fd


class PathPlacing:
    """The same by path names, for systems without descriptors of folders."""

    def __init__(self, root: Path, source: Path) -> None:
        self._root, self._source = root, source

    def place(self, source: str, path: str) -> None:
        """Rename ``source`` to ``path``; see ``DescriptorPlacing.place``."""
        *folders, name = path.split("/")
        here = self._root
        try:
            for part in folders:
                here = here / part
                here.mkdir(exist_ok=True)
                found = here.lstat()
                is_link = stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", False)
                if is_link or not stat.S_ISDIR(found.st_mode):
                    raise _outside(path)
            os.replace(self._source / source, here / name)
        except OSError as error:
            raise _refused(path, error) from error

    def sync(self) -> None:
        """Windows keeps a journal of its names and has no call to flush a folder."""

    def close(self) -> None:
        """There is nothing to let go of."""


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
