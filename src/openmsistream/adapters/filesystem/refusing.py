"""What it means that the system refuses to write to an output folder: one path alone, or everything.

Owns the words in which both are told. It must not know what is written, nor who waits for it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from openmsistream.adapters.filesystem.partials import NotKeptError
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.errors import BytesLostError, DeliveryError, StorageError

_NO_RIGHT = frozenset({errno.EACCES, errno.EPERM})
IN_USE = frozenset({errno.EBUSY, errno.ETXTBSY}) | (_NO_RIGHT if os.name == "nt" else frozenset())
"""What a system answers for a file that another program has open, or that is looked through for viruses."""


def refused_alone(path: str, error: OSError, root: Path, source: Path) -> DeliveryError:
    """
    What is to be told of a path that the system refuses, while others can be written.

    Args:
        path: The path below ``root``.
        error: What the system said.
        root: The output folder.
        source: The folder that files are renamed from.

    Raises:
        OSError: As given: it has nothing to do with the path, or other names are refused as well.
    """
    if error.errno not in _NO_RIGHT | IN_USE | {errno.EXDEV} or not (_takes_names(root) and _takes_names(source)):
        raise error
    folder = os.path.join(root, os.path.dirname(path))
    hint = (
        "give the account this program runs under the right to write there, or close that file in other programs; "
        "then: openmsistream quarantine retry"
    )
    if error.errno == errno.EXDEV:
        hint = "another disk is mounted there; openmsistream quarantine retry --as PATH puts it under another name"
    return DeliveryError(f"{path!r}: it may not be put into {folder.rstrip(os.sep)}: {error.strerror}", hint=hint)


def refused_all(root: Path, error: OSError) -> StorageError:
    """What is to be raised for what the system says of an output folder, when it is not about one path alone."""
    hints = {
        errno.ENOSPC: "make room on that disk; it goes on by itself",
        errno.EDQUOT: "make room in your quota; it goes on by itself",
        errno.EROFS: "the disk is mounted read-only; it goes on by itself once it can be written",
        errno.EACCES: "give the account this program runs under the right to write there",
        errno.ENOENT: "check that the folder is still there and mounted",
    }
    hint = hints.get(error.errno or 0, "check the disk; it goes on by itself once it can be written")
    if isinstance(error, NotKeptError):
        return BytesLostError(
            f"{root}: the disk did not take what was written: {error.strerror}", error.keys, hint=hint
        )
    return StorageError(f"{root}: the output folder cannot be written: {error.strerror or error}", hint=hint)


def _takes_names(folder: Path) -> bool:
    """True when a name can be given and removed in a folder: tried out, as what a share says of rights may be wrong."""
    trial = folder / f"{WORK_FOLDER}-{os.urandom(8).hex()}"  # nobody can have put something there
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError:
        return False
    return True
