"""Finding out whether an upload ledger is sound before it is used, and putting back one that is not.

Owns the decision between the ledger, its backup and a new one. It must not know what the rows mean: only which
tables there are and which kind of value each column holds.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from openmsistream.adapters.sqlite.beside import SQLITE_ERRORS, Names, put
from openmsistream.core.events import Note
from openmsistream.errors import ConfigError

SRC_HEX = 32
_GEN_LIMIT = 1 << 62  # what SQLite stores ends at 2**63, and generations only grow
_SAYS_NOTHING = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_AUTH,
}
_COLUMNS = {
    "files": {
        "folder": "blob",
        "name": "blob",
        "size": "integer",
        "mtime_ns": "integer",
        "digest": "blob",
        "sent": "integer",
        "version": "blob",
        "gen": "integer",
        "at_ns": "integer",
    },
    "open_versions": {
        "path": "blob",
        "version": "blob",
        "gen": "integer",
        "size": "integer",
        "mtime_ns": "integer",
        "chunk_bytes": "integer",
        "partition": "integer",
        "first_offset": "integer",
        "acknowledged": "integer",
        "prefix_digest": "blob",
        "started_ns": "integer",
    },
}
_SIZED = ("src", "gen", "partitions")


class State(Enum):
    """What was found under a ledger's path."""

    SOUND = "sound"
    FIRST = "there never was one"
    RESTORED = "put back from its backup"
    LOST = "gone or damaged, without a usable backup"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, and what a user should be told of it."""

    state: State
    notes: tuple[Note, ...] = ()


def damage(path: Path, *, at_rest: bool = False) -> str:
    """
    What is wrong with the upload ledger at ``path``; "" when nothing is.

    Every page is looked at, and every value's type: 0.4 s for 1,000,000 files. A byte that was changed within a
    digest or a name is not found; it makes a file look changed or unknown, so that it is looked at anew.

    Args:
        path: The file.
        at_rest: Nobody writes it and it has no log beside it, as a backup.

    Raises:
        sqlite3.Error: It cannot be looked at now, which says nothing about it: no rights, no memory, no room.
    """
    mode = "mode=ro&immutable=1" if at_rest else "mode=rw"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)) as db:
            return next(_problems(db), "")
    except SQLITE_ERRORS as error:
        # Codes of SQLite are in the low byte; an error of Python's own module (text that is not UTF-8) has none.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _SAYS_NOTHING:
            raise
        return str(error)


def recover(path: Path, *, lost: str, first_start: Callable[[Path], None]) -> Found:
    """
    Make sure that a sound ledger stands at ``path``: as it is, or from its backup, or a new one.

    Args:
        path: Where the ledger stands; the caller holds its lock.
        lost: "resend": a ledger that is lost is made anew; "ask": it is an error.
        first_start: Makes an empty ledger at the path it is given.

    Raises:
        ConfigError: The ledger is lost, and ``lost`` is "ask".
        OSError, sqlite3.Error: It cannot be looked at or written now: no rights, no room.
    """
    names = Names(path)
    if path.exists():
        problem = damage(path)
        if not problem:
            return Found(State.SOUND)
        problem = f"is damaged ({problem})"
    elif names.traces():
        problem = "is gone"
    else:
        _make(path, first_start)
        return Found(State.FIRST)
    backup_problem = damage(names.backup, at_rest=True) if names.backup.exists() else "there is none"
    if backup_problem and lost == "ask":
        raise ConfigError(
            f"the ledger {path} {problem}, and it cannot be put back from its backup {names.backup.name} "
            f"({backup_problem}): which files were sent is not known any more",
            hint="put a copy of the ledger or of its backup back there, or run again with --ledger-lost resend "
            "(every file is sent again; downloaders drop those they have)",
        )
    aside = _set_aside(names)
    where = f"; the damaged file is kept as {aside.name}" if aside is not None else ""
    if backup_problem:
        _make(path, first_start)
        text = (
            f"the ledger {path} {problem}, and its backup cannot be used ({backup_problem}): all files are sent again, "
            f"also those that were there before the first start; downloaders drop what they have{where}"
        )
        return Found(State.LOST, (Note(text),))
    taken = datetime.fromtimestamp(names.backup.stat().st_mtime).astimezone().isoformat(" ", "seconds")
    copy = path.with_suffix(".restored")
    shutil.copyfile(names.backup, copy)
    put(copy, path, sync=True)
    text = (
        f"the ledger {path} {problem}: it was put back from its backup of {taken}; files sent since then are looked "
        f"at anew and sent again, downloaders drop what they have{where}"
    )
    return Found(State.RESTORED, (Note(text),))


def _make(path: Path, first_start: Callable[[Path], None]) -> None:
    """Under its name a ledger stands whole or not at all, so that an empty file is known to be damaged."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    first_start(new)
    put(new, path, sync=True)


def _set_aside(names: Names) -> Path | None:
    """Move what is left of a ledger out of the way; SQLite must not apply an old log to another file."""
    number = 1
    while names.damaged(number).exists() or Names(names.damaged(number)).wal.exists():
        number += 1
    aside = Names(names.damaged(number))
    for old, new in ((names.path, aside.path), (names.wal, aside.wal), (names.journal, aside.journal)):
        if old.exists():
            old.replace(new)
    names.shm.unlink(missing_ok=True)
    return aside.path if aside.path.exists() else None


def _problems(db: sqlite3.Connection) -> Iterator[str]:
    (said,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if said != "ok":
        yield " ".join(str(said).split())
    meta = dict(db.execute("SELECT key, value FROM meta"))
    src, gen, partitions = (str(meta.get(key, "")) for key in _SIZED)
    if len(src) != SRC_HEX or not set(src) <= set("0123456789abcdef"):
        yield "it does not name its uploader"
    if not _is_count(gen) or not _is_count(partitions):
        yield "its counters are not numbers"
    for table, columns in _COLUMNS.items():
        wrong = " OR ".join(f"typeof({name}) <> '{kind}'" for name, kind in columns.items())
        if db.execute(f"SELECT 1 FROM {table} WHERE {wrong} LIMIT 1").fetchone():  # noqa: S608 - our own names
            yield f"the table {table} holds values of a wrong kind"


def _is_count(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and int(text) < _GEN_LIMIT)
