"""The ledger of one downloader in SQLite (``ports.DownloadLedger``): positions, open and delivered versions.

It belongs to one destination and one topic id of one cluster, whatever the consumer group is called. A
barrier is one transaction, durable when it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgpack

from openmsistream.adapters.sqlite.database import META, Database
from openmsistream.core.assembly import OpenVersion
from openmsistream.core.chunk import HashName
from openmsistream.core.paths import from_wire_bytes, to_wire_bytes
from openmsistream.core.ranges import Ranges
from openmsistream.core.versions import VersionKey, VersionOrder, tag_of
from openmsistream.ports import Barrier, Delivered, Expired

SCHEMA = (
    META
    + """
CREATE TABLE IF NOT EXISTS positions (partition INTEGER PRIMARY KEY, position INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS finished (
    version BLOB NOT NULL, path BLOB NOT NULL, PRIMARY KEY (version, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS current (
    path BLOB PRIMARY KEY, announced BLOB NOT NULL, version BLOB NOT NULL, size INTEGER NOT NULL,
    digest BLOB NOT NULL, src BLOB, gen INTEGER, mtime_ns INTEGER, timestamp_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open_versions (
    version BLOB NOT NULL, path BLOB NOT NULL, state BLOB NOT NULL, PRIMARY KEY (version, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS expired_versions (
    version BLOB NOT NULL, path BLOB NOT NULL, state BLOB NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (version, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended (tag TEXT PRIMARY KEY) WITHOUT ROWID;
"""
)
_FORGET_THE_TOPIC = (
    "DELETE FROM positions",
    "DELETE FROM open_versions",
    "DELETE FROM expired_versions",
    "DELETE FROM ended",
)


class SqliteDownloadLedger:
    """
    A downloader's memory.

    Args:
        path: The database file, or ``":memory:"``.
        topic_id: Identity of cluster and topic. When it differs from what the ledger was made for, positions
            and open versions are of another topic's records and are forgotten; what was delivered stays known.

    Raises:
        ConfigError: Another program uses the ledger now.
        StorageError: The file cannot be used.
    """

    def __init__(self, path: Path | str, topic_id: str) -> None:
        self._db = Database(path, SCHEMA, durable=True, owner="a downloader of this topic to this folder")
        before = self._db.meta("topic_id")
        self.topic_changed = before is not None and before != topic_id
        if before != topic_id:
            with self._db.transaction():
                for statement in _FORGET_THE_TOPIC:
                    self._db.write(statement)
                self._db.set_meta("topic_id", topic_id)
        self._open = {version.key for version in self.open_versions()}

    def position(self, partition: int) -> int | None:
        """Offset of the next record to read, or None when the partition was never read."""
        row = self._db.row("SELECT position FROM positions WHERE partition = ?", (partition,))
        return None if row is None else cast("int", row[0])

    def open_versions(self) -> list[OpenVersion]:
        """The versions that were open at the last barrier."""
        rows = self._db.rows("SELECT version, path, state FROM open_versions")
        return [_restored(*cast("tuple[bytes, bytes, bytes]", row)) for row in rows]

    def current(self, path: str) -> Delivered | None:
        """The version that was delivered last under a path."""
        row = self._db.row(
            "SELECT announced, version, size, digest, src, gen, mtime_ns, timestamp_ms FROM current WHERE path = ?",
            (to_wire_bytes(path),),
        )
        if row is None:
            return None
        announced, version, size, digest, *order = cast("tuple[bytes, bytes, int, bytes, Any, Any, Any, int]", row)
        return Delivered(VersionKey(from_wire_bytes(announced), version), path, size, digest, VersionOrder(*order))

    def is_finished(self, key: VersionKey) -> bool:
        """True when the version was delivered, or given up, before."""
        return (
            self._db.row(
                "SELECT 1 FROM finished WHERE version = ? AND path = ?",
                (key.version, to_wire_bytes(key.path)),
            )
            is not None
        )

    def has_ended(self, tag: str) -> bool:
        """True when a version with this tag was open at a barrier, and is neither open nor expired any more."""
        return self._db.row("SELECT 1 FROM ended WHERE tag = ?", (tag,)) is not None

    def expired(self) -> list[Expired]:
        """The versions that expired, the longest expired first."""
        rows = self._db.rows("SELECT version, path, state, at_ms FROM expired_versions ORDER BY at_ms")
        return [Expired(_restored(*row[:3]), row[3]) for row in cast("list[tuple[bytes, bytes, bytes, int]]", rows)]

    def barrier(self, barrier: Barrier) -> None:
        """Remember all of it, durably, in one transaction."""
        still = {version.key for version in barrier.open}
        expired = {each.version.key for each in barrier.expired}
        ended = (self._open | set(barrier.revived)) - still - expired
        with self._db.transaction():
            self._db.write_many("INSERT OR REPLACE INTO positions VALUES (?, ?)", barrier.positions.items())
            self._db.write_many(
                "INSERT OR REPLACE INTO current VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                map(_row, barrier.delivered),
            )
            self._db.write_many(
                "INSERT OR IGNORE INTO finished VALUES (?, ?)", map(_key, [d.key for d in barrier.delivered])
            )
            self._db.write_many("INSERT OR IGNORE INTO finished VALUES (?, ?)", map(_key, barrier.finished))
            self._db.write("DELETE FROM open_versions")
            self._db.write_many(
                "INSERT INTO open_versions VALUES (?, ?, ?)",
                [(*_key(v.key), _state(v)) for v in barrier.open],
            )
            self._db.write_many(
                "DELETE FROM expired_versions WHERE version = ? AND path = ?", map(_key, barrier.revived)
            )
            self._db.write_many(
                "INSERT OR REPLACE INTO expired_versions VALUES (?, ?, ?, ?)",
                [(*_key(e.version.key), _state(e.version), e.at_ms) for e in barrier.expired],
            )
            self._db.write_many("INSERT OR IGNORE INTO ended VALUES (?)", [(tag_of(key),) for key in ended])
            self._db.write_many("DELETE FROM ended WHERE tag = ?", [(tag_of(key),) for key in still - self._open])
        self._open = still

    def close(self) -> None:
        """Let go of the file; the last barrier stands."""
        self._db.close()


def _key(key: VersionKey) -> tuple[bytes, bytes]:
    return key.version, to_wire_bytes(key.path)


def _row(delivered: Delivered) -> Sequence[object]:
    order = delivered.order
    return (
        to_wire_bytes(delivered.path),
        to_wire_bytes(delivered.key.path),
        delivered.key.version,
        delivered.size,
        delivered.digest,
        order.src,
        order.gen,
        order.mtime_ns,
        order.timestamp_ms,
    )


def _state(version: OpenVersion) -> bytes:
    return cast(
        "bytes",
        msgpack.packb(
            (
                version.hash_name.value,
                list(version.received),
                version.size,
                version.digest,
                list(version.first_offsets.items()),
                version.timestamp_ms,
                version.mtime_ns,
                version.src,
                version.gen,
                None if version.name is None else to_wire_bytes(version.name),
                version.append,
                version.total,
                version.seen_ms,
            )
        ),
    )


def _restored(version: bytes, path: bytes, state: bytes) -> OpenVersion:
    fields = msgpack.unpackb(state)
    hash_name, received, size, digest, firsts, timestamp_ms, mtime_ns, src, gen, name, append, total = fields[:12]
    seen_ms = fields[12] if len(fields) > 12 else timestamp_ms  # 2.0 wrote 12 fields at first
    return OpenVersion(
        VersionKey(from_wire_bytes(path), version),
        HashName(hash_name),
        Ranges(received),
        size,
        digest,
        dict(firsts),
        timestamp_ms,
        mtime_ns,
        src,
        gen,
        None if name is None else from_wire_bytes(name),
        append,
        total,
        seen_ms,
    )
