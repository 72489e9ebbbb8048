"""A place in a folder that one program at a time may have, seen by all that can see the folder, also on other hosts."""

from __future__ import annotations

import errno
from pathlib import Path

from filelock import FileLock, Timeout

from openmsistream.errors import ConfigError

_WAIT_SECONDS, _POLL_SECONDS = 0.3, 0.02
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL})
"""What shares answer that cannot keep programs apart."""


def hold(path: Path, taken: ConfigError) -> FileLock | None:
    """
    Hold the lock file at ``path``, whose folder is made if need be, until it is released or the process ends.

    Returns:
        The lock, to be released; None where the file system has no locks.

    Raises:
        ConfigError: ``taken``: another program holds it.
        OSError: The file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its other way, a file that is there or not, would stay behind after a kill and keep everybody out.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=_WAIT_SECONDS, poll_interval=_POLL_SECONDS)
    except Timeout:
        raise taken from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return lock
