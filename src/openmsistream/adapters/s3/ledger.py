"""What is kept on this computer of multipart uploads: their ids, their finished parts, and tags that are still owed.

One SQLite file, used from several threads; everything is durable when a method returns, but for finished parts. It
must not know what a store is: what follows from a row is others' business.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import cast

import msgpack

from openmsistream.adapters.s3.bucket import Part
from openmsistream.adapters.sqlite.database import META, Database
from openmsistream.core.paths import from_wire_bytes, to_wire_bytes
from openmsistream.core.versions import VersionKey

SCHEMA = (
    META
    + """
CREATE TABLE IF NOT EXISTS uploads (
    upload_id TEXT PRIMARY KEY, version BLOB NOT NULL, path BLOB NOT NULL, object_key TEXT NOT NULL,
    abandoned INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (
    upload_id TEXT NOT NULL, number INTEGER NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    crc INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (upload_id, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS plans (
    version BLOB NOT NULL, path BLOB NOT NULL, final BLOB, on_disk INTEGER NOT NULL,
    PRIMARY KEY (version, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owed (
    object_key TEXT PRIMARY KEY, version BLOB NOT NULL, tags BLOB NOT NULL) WITHOUT ROWID;
"""
)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An upload that was begun: where, and which of its parts the store has."""

    upload_id: str
    object_key: str
    parts: dict[int, Part]


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What was learnt of a version when it was too late, for when its bytes come again.

    Attributes:
        final_path: The path that it is delivered under; None: as it was announced.
        on_disk: Nothing of it is sent before it is complete.
    """

    final_path: str | None = None
    on_disk: bool = False


@dataclass(frozen=True, slots=True)
class Owed:
    """Tags that an object is to have, if it still holds that version."""

    object_key: str
    version: bytes
    tags: dict[str, str]


class Uploads:
    """
    The unfinished uploads of one program to one bucket.

    Args:
        path: The database file, or ``":memory:"``.

    Raises:
        ConfigError: Another program uses it now.
        StorageError: It cannot be used.
    """

    def __init__(self, path: Path | str) -> None:
        self._db = Database(
            path,
            SCHEMA,
            durable=True,
            owner="delivery of this topic to this bucket",
            way_out="a damaged one can be moved away: unfinished uploads are then begun anew",
        )
        self._lock = RLock()

    def begun(self, key: VersionKey, object_key: str, upload_id: str) -> None:
        """An upload was begun for a version."""
        with self._lock, self._db.transaction():
            self._db.write(
                "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, 0)",
                (upload_id, key.version, to_wire_bytes(key.path), object_key),
            )

    def part_done(self, upload_id: str, part: Part) -> None:
        """The store has a part. One that is forgotten in a power cut is sent once more: no part waits for the disk."""
        with self._lock, self._db.unsynced_transaction():
            self._db.write(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?)",
                (upload_id, part.number, part.size, part.etag, part.crc, part.digest),
            )

    def recorded(self, key: VersionKey) -> Recorded | None:
        """The upload that was begun for a version; None when there is none."""
        with self._lock:
            row = self._db.row(
                "SELECT upload_id, object_key FROM uploads WHERE version = ? AND path = ? AND NOT abandoned",
                (key.version, to_wire_bytes(key.path)),
            )
            if row is None:
                return None
            upload_id, object_key = cast("tuple[str, str]", row)
            rows = self._db.rows(
                "SELECT number, size, etag, crc, digest FROM parts WHERE upload_id = ? ORDER BY number", (upload_id,)
            )
        parts = [Part(*cast("tuple[int, int, str, int, bytes]", one)) for one in rows]
        return Recorded(upload_id, object_key, {part.number: part for part in parts})

    def versions(self) -> set[VersionKey]:
        """The versions whose uploads may be gone on with."""
        with self._lock:
            rows = self._db.rows("SELECT path, version FROM uploads WHERE NOT abandoned")
        return {VersionKey(from_wire_bytes(path), version) for path, version in cast("list[tuple[bytes, bytes]]", rows)}

    def plan(self, key: VersionKey) -> Plan:
        """What was learnt of a version."""
        with self._lock:
            row = self._db.row(
                "SELECT final, on_disk FROM plans WHERE version = ? AND path = ?",
                (key.version, to_wire_bytes(key.path)),
            )
        if row is None:
            return Plan()
        final, on_disk = cast("tuple[bytes | None, int]", row)
        return Plan(None if final is None else from_wire_bytes(final), bool(on_disk))

    def set_plan(self, key: VersionKey, plan: Plan | None) -> None:
        """Something was learnt of a version; None: it has ended."""
        with self._lock, self._db.transaction():
            self._db.write("DELETE FROM plans WHERE version = ? AND path = ?", (key.version, to_wire_bytes(key.path)))
            if plan is not None:
                final = None if plan.final_path is None else to_wire_bytes(plan.final_path)
                self._db.write(
                    "INSERT INTO plans VALUES (?, ?, ?, ?)",
                    (key.version, to_wire_bytes(key.path), final, int(plan.on_disk)),
                )

    def abandon(self, key: VersionKey) -> None:
        """The uploads of a version have no future: they are to be removed from the store."""
        with self._lock, self._db.transaction():
            self._db.write(
                "UPDATE uploads SET abandoned = 1 WHERE version = ? AND path = ?",
                (key.version, to_wire_bytes(key.path)),
            )

    def abandon_one(self, upload_id: str) -> None:
        """The same for one upload alone: its version may have another one by now."""
        with self._lock, self._db.transaction():
            self._db.write("UPDATE uploads SET abandoned = 1 WHERE upload_id = ?", (upload_id,))

    def abandoned(self) -> list[tuple[str, str]]:
        """Key and upload id of each that is to be removed from the store."""
        with self._lock:
            rows = self._db.rows("SELECT object_key, upload_id FROM uploads WHERE abandoned")
        return cast("list[tuple[str, str]]", rows)

    def ids(self) -> set[str]:
        """Every upload that is ours."""
        with self._lock:
            rows = self._db.rows("SELECT upload_id FROM uploads")
        return {str(upload_id) for (upload_id,) in rows}

    def ended(self, upload_id: str) -> None:
        """An upload is completed or removed."""
        with self._lock, self._db.transaction():
            self._db.write("DELETE FROM uploads WHERE upload_id = ?", (upload_id,))
            self._db.write("DELETE FROM parts WHERE upload_id = ?", (upload_id,))

    def owe(self, owed: Owed) -> None:
        """An object is to have tags once it stands."""
        with self._lock, self._db.transaction():
            self._db.write(
                "INSERT OR REPLACE INTO owed VALUES (?, ?, ?)",
                (owed.object_key, owed.version, msgpack.packb(owed.tags)),
            )

    def all_owed(self) -> list[Owed]:
        """The tags that are still to be put."""
        with self._lock:
            rows = self._db.rows("SELECT object_key, version, tags FROM owed")
        return [Owed(k, v, msgpack.unpackb(t)) for k, v, t in cast("list[tuple[str, bytes, bytes]]", rows)]

    def paid(self, owed: Owed) -> None:
        """These tags are put, or have no object any more."""
        with self._lock, self._db.transaction():
            self._db.write("DELETE FROM owed WHERE object_key = ? AND version = ?", (owed.object_key, owed.version))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()
