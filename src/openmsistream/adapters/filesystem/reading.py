"""Reading the files of a watched root without disturbing who writes them.

Files are opened for reading only, shared, without a lock, and never created, renamed or touched. On Windows
they are opened with all three share modes, so that the instrument may go on writing, rename and delete what we
read. Relative paths are POSIX; names that are not valid Unicode come as lone surrogates (``os.fsdecode``).
Symbolic links are left out, or followed to what lies within the root; never out of it.
"""

from __future__ import annotations

import os
import stat as stat_module
import sys
from pathlib import Path

from openmsistream.core.settle import Stat
from openmsistream.errors import SourceError

READ_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)


def stat_of(result: os.stat_result) -> Stat:
    """The looks of a file from what the system says."""
    return Stat(result.st_size, result.st_mtime_ns, result.st_ino)


def open_shared(path: str) -> int:
    """
    A file descriptor for reading that keeps nobody from writing, renaming or deleting the file.

    Raises:
        OSError: As ``os.open`` does; also when the file is a symbolic link (POSIX).
    """
    if sys.platform == "win32":
        return _open_shared_windows(path)
    return os.open(path, READ_FLAGS)


class OpenDiskFile:
    """
    One open file (``ports.OpenFile``).

    Args:
        path: What the file is called in errors.
        full: Its absolute path.
        within: Follow symbolic links, to files within this folder; None: follow none.

    Raises:
        SourceError: The file cannot be read, is no regular file, or lies outside ``within``.
    """

    __slots__ = ("_fd", "_follow", "_full", "_path", "stat")

    def __init__(self, path: str, full: str, within: str | None = None) -> None:
        self._path, self._full, self._follow = path, full, within is not None
        try:
            real = full if within is None else os.path.realpath(full, strict=True)
            if within is not None and not lies_within(real, within):
                raise _leads_outside(path)
            self._fd = open_shared(real)
            if within is not None and not is_open_within(self._fd, real, within):
                os.close(self._fd)
                raise _leads_outside(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        found = os.fstat(self._fd)
        if not stat_module.S_ISREG(found.st_mode):
            os.close(self._fd)
            self._fd = -1
            raise SourceError(f"{path}: it is not a regular file")
        self.stat = stat_of(found)

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes only at the end of the file."""
        done = 0
        try:
            while done < len(buffer):
                count = os.readv(self._fd, [buffer[done:]]) if hasattr(os, "readv") else self._read(buffer[done:])
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return done

    def _read(self, buffer: memoryview) -> int:
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int) -> None:
        """Go on reading at ``offset``."""
        os.lseek(self._fd, offset, os.SEEK_SET)

    def look(self) -> Stat:
        """What the open file looks like now, whatever it is called by now; SourceError when it cannot be told."""
        try:
            return stat_of(os.fstat(self._fd))
        except OSError as error:  # the share is gone, or the file was closed
            raise _unreadable(self._path, error) from error

    def unchanged(self) -> bool:
        """True when the path still names this file, with the size and mtime it was opened with."""
        try:
            return stat_of(os.stat(self._full, follow_symlinks=self._follow)) == self.stat
        except OSError:
            return False

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FolderReader:
    """
    The files below a root (``ports.FileReader``).

    Args:
        root: The watched folder.
        follow_symlinks: Also read links, as long as what they lead to lies within the root.
    """

    def __init__(self, root: Path, *, follow_symlinks: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._prefix = os.path.join(self._root, "")
        self._follow = follow_symlinks

    def open(self, path: str) -> OpenDiskFile:
        """Open the file at a relative path; SourceError when it cannot be read."""
        return OpenDiskFile(path, self._prefix + path, os.path.realpath(self._root) if self._follow else None)

    def stat(self, path: str) -> Stat | None:
        """What the file looks like now; None when it is gone, no regular file, or a link that is not followed."""
        full = self._prefix + path
        try:
            if self._follow:
                full = os.path.realpath(full, strict=True)
                if not lies_within(full, os.path.realpath(self._root)):
                    return None
            found = os.stat(full, follow_symlinks=False)
        except (OSError, ValueError):
            return None
        return stat_of(found) if stat_module.S_ISREG(found.st_mode) else None


def lies_within(path: str, folder: str) -> bool:
    """True when an absolute path is that of a folder, or below it; both without links."""
    return path == folder or path.startswith(os.path.join(folder, ""))


def is_open_within(fd: int, real: str, folder: str) -> bool:
    """
    True when the file that was opened lies in ``folder``, wherever the links on its path lead by now.

    Linux and macOS name the file behind a descriptor. Elsewhere the path is resolved again and must lead to the
    same file, which leaves a moment in which a folder could be swapped for a link.

    Args:
        fd: The open file.
        real: The path it was opened by, without links when it was looked up.
        folder: Absolute path without links.

    Raises:
        OSError: As the system does, e.g. when the file is gone.
    """
    if sys.platform == "linux":
        named = os.readlink(f"/proc/self/fd/{fd}")
    elif sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - not on Windows

        named = os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))
    else:
        named = os.path.realpath(real, strict=True)
        if not os.path.samestat(os.stat(named), os.fstat(fd)):
            return False
    return lies_within(named, folder)


def _leads_outside(path: str) -> SourceError:
    return SourceError(f"{path}: it leads outside the watched folder", hint="links are followed only within it")


def _unreadable(path: str, error: OSError) -> SourceError:
    hint = "it is tried again by itself"
    if isinstance(error, PermissionError):
        hint = "give the account this program runs under the right to read it; it is tried again by itself"
    return SourceError(f"{path}: it cannot be read: {error.strerror or error}", hint=hint)


def _open_shared_windows(path: str) -> int:
    """CreateFileW with FILE_SHARE_READ | WRITE | DELETE; Source: Windows API, ``fileapi.h``, ``winnt.h``."""
    import ctypes  # noqa: PLC0415 - Windows only
    import msvcrt  # noqa: PLC0415

    generic_read, share_all, open_existing, sequential = 0x80000000, 0x1 | 0x2 | 0x4, 3, 0x08000000
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.CreateFileW.restype = ctypes.c_void_p
    handle = kernel.CreateFileW(path, generic_read, share_all, None, open_existing, sequential, None)
    if handle in (None, ctypes.c_void_p(-1).value):
        raise ctypes.WinError(ctypes.get_last_error())  # type: ignore[attr-defined,unused-ignore]
    return int(msvcrt.open_osfhandle(handle, os.O_RDONLY))  # type: ignore[attr-defined,unused-ignore]
