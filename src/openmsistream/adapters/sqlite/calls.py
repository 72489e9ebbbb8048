"""Calls of a command that are still to be made, in SQLite: noted before a file gets its name, removed when made.

A row is only *announced* until its file is known to be delivered, then it is *ready*, with a number that says in which
order. It must not know what is run, nor how.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from openmsistream.adapters.sqlite.database import META, Database
from openmsistream.core.chunk import HashName
from openmsistream.core.events import FileDelivered
from openmsistream.core.paths import from_wire_bytes, to_wire_bytes
from openmsistream.core.versions import VersionKey
from openmsistream.ports import Publication

SCHEMA = (
    META
    + """
CREATE TABLE IF NOT EXISTS calls (
    path BLOB NOT NULL, digest BLOB NOT NULL, size INTEGER NOT NULL, announced BLOB, version BLOB, mtime_ns BLOB,
    hash TEXT, ready INTEGER, file BLOB, PRIMARY KEY (path, digest)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_ready ON calls (ready);
"""
)

Standing = Callable[[Publication], str]
"""The full path under which exactly this version stands; empty when it does not."""


@dataclass(frozen=True, slots=True)
class Call:
    """One file that the command is to be run for; ``number`` says when it is its turn."""

    number: int
    path: str
    size: int
    digest: bytes
    file: str


class CallJournal:
    """
    The calls that are to be made.

    Args:
        path: The database file, or ``":memory:"``.

    Raises:
        ConfigError: Another program uses it now.
        StorageError: It cannot be used.
    """

    def __init__(self, path: Path | str) -> None:
        self._db = Database(path, SCHEMA, durable=True, owner="a downloader of this topic to this folder")
        row = self._db.row("SELECT COALESCE(MAX(ready), 0) FROM calls")
        self._last = 0 if row is None else cast("int", row[0])

    def announce(self, publications: Sequence[Publication]) -> None:
        """These versions are about to get their names; durable when it returns."""
        with self._db.transaction():
            self._db.write_many(
                "INSERT OR IGNORE INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)",
                [
                    (
                        to_wire_bytes(p.path),
                        p.digest,
                        p.size,
                        to_wire_bytes(p.key.path),
                        p.key.version,
                        None if p.mtime_ns is None else str(p.mtime_ns),  # a sender may claim more than 64 bits
                        p.hash_name.value,
                    )
                    for p in publications
                    if p.digest
                ],
            )

    def delivered(self, events: Iterable[FileDelivered]) -> None:
        """These files were delivered: their calls are ready."""
        with self._db.transaction():
            for event in events:
                self._last += 1
                path, file = to_wire_bytes(event.path), os.fsencode(event.file)
                # A version whose turn has not come, and which this one has replaced, is passed over.
                self._db.write("DELETE FROM calls WHERE path = ? AND file = ? AND ready IS NOT NULL", (path, file))
                self._db.write(
                    "INSERT INTO calls (path, digest, size, ready, file) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (path, digest) DO UPDATE SET ready = excluded.ready, file = excluded.file",
                    (path, bytes.fromhex(event.digest), event.size, self._last, file),
                )

    def recover(self, standing: Standing) -> int:
        """
        After a start: what was announced and stands is ready, what does not will be announced anew.

        Returns:
            How many calls of an earlier run are ready.
        """
        rows = self._db.rows("SELECT path, digest, size, announced, version, mtime_ns, hash, ready, file FROM calls")
        with self._db.transaction():
            for row in rows:
                path, digest = row[:2]
                file = os.fsdecode(cast("bytes", row[8])) if row[7] is not None else standing(_publication(row))
                if not file or not Path(file).is_file():
                    self._db.write("DELETE FROM calls WHERE path = ? AND digest = ?", (path, digest))
                elif row[7] is None:
                    self._last += 1
                    values = (self._last, os.fsencode(file), path, digest)
                    self._db.write("UPDATE calls SET ready = ?, file = ? WHERE path = ? AND digest = ?", values)
        row = self._db.row("SELECT COUNT(*) FROM calls") or (0,)
        return cast("int", row[0])

    def after(self, number: int, count: int) -> list[Call]:
        """The next calls that are ready, in order."""
        rows = self._db.rows(
            "SELECT ready, path, size, digest, file FROM calls WHERE ready > ? ORDER BY ready LIMIT ?", (number, count)
        )
        return [
            Call(ready, from_wire_bytes(path), size, digest, os.fsdecode(file))
            for ready, path, size, digest, file in cast("list[tuple[int, bytes, int, bytes, bytes]]", rows)
        ]

    def done(self, calls: Iterable[Call]) -> None:
        """Nothing more is to be done for these; one that became ready anew meanwhile stays."""
        with self._db.transaction():
            self._db.write_many(
                "DELETE FROM calls WHERE path = ? AND digest = ? AND ready = ?",
                [(to_wire_bytes(call.path), call.digest, call.number) for call in calls],
            )

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()


def _publication(row: tuple[object, ...]) -> Publication:
    path, digest, size, announced, version, mtime_ns, hash_name = row[:7]
    return Publication(
        VersionKey(from_wire_bytes(cast("bytes", announced)), cast("bytes", version)),
        from_wire_bytes(cast("bytes", path)),
        cast("int", size),
        None if mtime_ns is None else int(cast("str", mtime_ns)),
        cast("bytes", digest),
        HashName(hash_name),
    )
