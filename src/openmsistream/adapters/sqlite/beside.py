"""The files that stand beside a ledger, and who may write them.

Owns their names and rights. It must not know what is in any of them.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from dataclasses import dataclass
from pathlib import Path

from openmsistream.adapters.filesystem.durable import sync_data, sync_folder
from openmsistream.adapters.filesystem.shared_files import file_mode
from openmsistream.errors import StorageError

SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What ``sqlite3`` raises: the second one when it is to quote a damaged file that is no text any more (Python 3.11)."""

SUFFIX = ".sqlite"
BACKUP_SUFFIX = ".backup.sqlite"


@dataclass(frozen=True, slots=True)
class Names:
    """The files of the ledger at ``path``: all of them begin with its name."""

    path: Path

    @property
    def backup(self) -> Path:
        """The hourly copy."""
        return self.path.with_suffix(BACKUP_SUFFIX)

    @property
    def live(self) -> Path:
        """What only the running program knows, as JSON."""
        return self.path.with_suffix(".live.json")

    @property
    def lock(self) -> Path:
        """Held by the program that uses the ledger."""
        return Path(f"{self.path}.lock")

    @property
    def wal(self) -> Path:
        """SQLite's write-ahead log: there while a program runs, and after it was killed."""
        return Path(f"{self.path}-wal")

    @property
    def shm(self) -> Path:
        """The index of the write-ahead log."""
        return Path(f"{self.path}-shm")

    @property
    def journal(self) -> Path:
        """SQLite's classic journal, on network shares: there in the middle of a commit."""
        return Path(f"{self.path}-journal")

    def damaged(self, number: int) -> Path:
        """Where the damaged file of that number was moved."""
        return self.path.with_suffix(f".damaged-{number}")

    def traces(self) -> list[Path]:
        """What is left of a ledger that is gone; nothing when there never was one."""
        candidates = (self.backup, self.live, self.wal, self.journal, self.damaged(1))
        return [path for path in candidates if path.exists()]


def put(new: Path, path: Path, *, sync: bool) -> None:
    """
    Give a finished file its name, in place of the one that has it; with ``sync`` it survives a power cut.

    Raises:
        OSError: As the system says.
    """
    mode = file_mode(path.parent)
    if mode is not None:
        new.chmod(mode)
    if sync:
        with new.open("rb+") as file:
            sync_data(file.fileno())
    new.replace(path)
    if sync and sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            sync_folder(folder)
        finally:
            os.close(folder)


def no_rights(path: Path) -> StorageError | None:
    """The error that says which right is missing to use the ledger at ``path``; None when none is."""
    names = Names(path)
    if path.parent.is_dir() and not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        return _missing(path.parent, "the folder of the ledger", "write in")
    for each in (path, names.lock, names.wal, names.shm):
        if each.exists() and not os.access(each, os.R_OK | os.W_OK):
            return _missing(each, "a file of the ledger", "write")
    return None


def no_reading(path: Path) -> StorageError | None:
    """The error that says that this account may not read the ledger at ``path``; None when it may."""
    for each in (path.parent, path):
        if each.exists() and not os.access(each, os.R_OK):
            return _missing(each, "the ledger", "read")
    return None


def _missing(path: Path, what: str, verb: str) -> StorageError:
    account, owner = _account(), _owner(path)
    return StorageError(
        f"{path}: the account {account} has no right to {verb} {what}"
        + (f", which belongs to {owner}" if owner else ""),
        hint="run the program under the account that made it, or let a group of both accounts have the folder "
        "(chgrp -R GROUP FOLDER; chmod -R g+rwX FOLDER; chmod g+s FOLDER), or choose another one with --state-dir",
    )


def _account() -> str:
    if sys.platform == "win32":
        return os.environ.get("USERNAME", "of this program")
    import pwd  # noqa: PLC0415 - not on Windows

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _owner(path: Path) -> str:
    try:
        return f"{path.owner()}:{path.group()}"
    except (KeyError, OSError, NotImplementedError):
        return ""
