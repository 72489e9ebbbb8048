"""Files that several programs and accounts share: who may write them, and a place that one program at a time may have.

A lock is seen by all that can see its file, also on other computers where the share tells of locks.
"""

from __future__ import annotations

import errno
import stat
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from openmsistream.errors import ConfigError

GROUP_FILE_MODE = 0o664
LOCK_SECONDS, LOCK_POLL_SECONDS = 0.3, 0.02
"""A glance of ``openmsistream status`` at a lock takes microseconds, and must not look like a second program."""
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What shares answer that cannot keep programs apart."""


def file_mode(folder: Path) -> int | None:
    """
    The mode of new files in a folder that a group shares (its setgid bit is set); None: as the account is used to.

    SQLite gives its own files beside the ledger the ledger's mode.
    """
    if sys.platform == "win32":
        return None
    return GROUP_FILE_MODE if folder.stat().st_mode & stat.S_ISGID else None


def hold(path: Path, taken: ConfigError) -> FileLock:
    """
    Hold the lock file at ``path`` until it is released or the process ends.

    Raises:
        ConfigError: ``taken``: another program holds it.
        OSError: The file cannot be made, or its file system has no locks.
    """
    mode = file_mode(path.parent)
    # filelock's other way, a file that is there or not, would stay behind after a kill and keep everybody out.
    lock = FileLock(path, mode=-1 if mode is None else mode, fallback_to_soft=False)
    try:
        lock.acquire(timeout=LOCK_SECONDS, poll_interval=LOCK_POLL_SECONDS)
    except Timeout:
        raise taken from None
    return lock


def hold_if_possible(path: Path, taken: ConfigError) -> FileLock | None:
    """The same; None where the file system has no locks."""
    try:
        return hold(path, taken)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
