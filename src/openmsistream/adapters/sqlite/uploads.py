"""The ledger of one uploader in SQLite (``ports.UploadLedger``): what it saw, sent, and has under way.

One row per path and one per version under way. Paths are stored as their bytes, folder and name apart, so
that a folder can be compared with one query.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from openmsistream.adapters.sqlite.database import META, Database
from openmsistream.core.ids import next_generation
from openmsistream.core.paths import from_wire_bytes, to_wire_bytes
from openmsistream.core.settle import Stat
from openmsistream.ports import Known, Parked

SCHEMA = (
    META
    + """
CREATE TABLE IF NOT EXISTS files (
    folder BLOB NOT NULL, name BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, sent INTEGER NOT NULL, version BLOB NOT NULL, gen INTEGER NOT NULL,
    at_ns INTEGER NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open_versions (
    path BLOB PRIMARY KEY, version BLOB NOT NULL, gen INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, chunk_bytes INTEGER NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL, acknowledged INTEGER NOT NULL, prefix_digest BLOB NOT NULL,
    started_ns INTEGER NOT NULL) WITHOUT ROWID;
"""
)
SRC_BYTES = 16


class SqliteUploadLedger:
    """
    An uploader's memory.

    Args:
        path: The database file, or ``":memory:"``.
        random: Gives random bytes, for the uploader's identity when the ledger is made.

    Raises:
        ConfigError: Another program uses the ledger now.
        StorageError: The file cannot be used.
    """

    def __init__(self, path: Path | str, random: Callable[[int], bytes]) -> None:
        # NORMAL: a power cut may cost the last second of "sent", and what is not known as sent is sent again.
        self._db = Database(path, SCHEMA, durable=False, owner="an uploader of this folder to this topic")
        src = self._db.meta("src")
        if src is None:
            src = random(SRC_BYTES).hex()
            self._db.set_meta("src", src)
            self._db.commit()
        self.src = bytes.fromhex(src)
        self._gen = int(self._db.meta("gen") or 0)
        self._is_new = self._db.meta("first_scan") is None

    @property
    def is_new(self) -> bool:
        """True until ``first_scan_done`` was committed."""
        return self._is_new

    def first_scan_done(self) -> None:
        """The files that were there before the first start are recorded."""
        self._db.set_meta("first_scan", "done")
        self._is_new = False

    def next_gen(self, now_ns: int) -> int:
        """The counter of the next version, never given before."""
        self._gen = next_generation(self._gen, now_ns)
        return self._gen

    def partitions(self, now: int) -> int:
        """The partition count that paths are placed by: ``now`` at first, then kept."""
        kept = self._db.meta("partitions")
        # Fewer than before: the topic is another one under the same name, and the old placing is impossible.
        if kept is None or int(kept) > now:
            self._db.set_meta("partitions", str(now))
            self._db.commit()
            return now
        return int(kept)

    def known(self, path: str) -> Known | None:
        """What is known of a path."""
        row = self._db.row("SELECT size, mtime_ns, digest, sent FROM files WHERE folder = ? AND name = ?", _split(path))
        return None if row is None else _known(row)

    def known_in(self, folder: str) -> dict[str, Known]:
        """What is known of the files directly in ``folder``, by path."""
        prefix = f"{folder}/" if folder else ""
        rows = self._db.rows(
            "SELECT size, mtime_ns, digest, sent, name FROM files WHERE folder = ?", (to_wire_bytes(folder),)
        )
        return {prefix + from_wire_bytes(cast("bytes", row[4])): _known(row) for row in rows}

    def record_existing(self, path: str, stat: Stat) -> None:
        """The file was there at the first start and is not to be sent."""
        self._put(path, stat, b"", 0, b"", 0, 0)

    def record_sent(self, path: str, stat: Stat, version: bytes, gen: int, digest: bytes, now_ns: int) -> None:
        """The broker acknowledged a version's last chunk."""
        self._put(path, stat, digest, 1, version, gen, now_ns)
        self.drop_open(path)

    def record_same(self, path: str, stat: Stat) -> None:
        """The file was touched, and its content is what was sent before."""
        self._db.write(
            "UPDATE files SET size = ?, mtime_ns = ? WHERE folder = ? AND name = ?",
            (stat.size, stat.mtime_ns, *_split(path)),
        )

    def forget(self, path: str) -> None:
        """Nothing is known of the path any more."""
        self._db.write("DELETE FROM files WHERE folder = ? AND name = ?", _split(path))

    def record_open(self, parked: Parked) -> None:
        """A version is under way: its start or its progress."""
        self._db.write(
            "INSERT OR REPLACE INTO open_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                to_wire_bytes(parked.path),
                parked.version,
                parked.gen,
                parked.stat.size,
                parked.stat.mtime_ns,
                parked.chunk_bytes,
                parked.partition,
                parked.first_offset,
                parked.acknowledged,
                parked.prefix_digest,
                parked.started_ns,
            ),
        )

    def drop_open(self, path: str) -> None:
        """The version under way of a path ended."""
        self._db.write("DELETE FROM open_versions WHERE path = ?", (to_wire_bytes(path),))

    def open_versions(self) -> list[Parked]:
        """The versions that were under way, in the order they were started."""
        rows = self._db.rows(
            "SELECT path, version, gen, size, mtime_ns, chunk_bytes, partition, first_offset, acknowledged,"
            " prefix_digest, started_ns FROM open_versions ORDER BY started_ns"
        )
        return [
            _parked(cast("tuple[bytes, bytes, int, int, int, int, int, int, int, bytes, int]", row)) for row in rows
        ]

    def commit(self) -> None:
        """Make everything recorded so far durable."""
        if self._gen:
            self._db.set_meta("gen", str(self._gen))
        self._db.commit()

    def close(self) -> None:
        """Commit, and let go of the file."""
        self.commit()
        self._db.close()

    def _put(self, path: str, stat: Stat, digest: bytes, sent: int, version: bytes, gen: int, at_ns: int) -> None:
        self._db.write(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*_split(path), stat.size, stat.mtime_ns, digest, sent, version, gen, at_ns),
        )


def _split(path: str) -> tuple[bytes, bytes]:
    folder, _, name = to_wire_bytes(path).rpartition(b"/")
    return folder, name


def _known(row: tuple[object, ...]) -> Known:
    size, mtime_ns, digest, sent = cast("tuple[int, int, bytes, int]", row[:4])
    return Known(Stat(size, mtime_ns), digest, bool(sent))


def _parked(row: tuple[bytes, bytes, int, int, int, int, int, int, int, bytes, int]) -> Parked:
    path, version, gen, size, mtime_ns, chunk_bytes, partition, first_offset, acknowledged, prefix, started_ns = row
    return Parked(
        from_wire_bytes(path),
        version,
        gen,
        Stat(size, mtime_ns),
        chunk_bytes,
        partition,
        first_offset,
        acknowledged,
        prefix,
        started_ns,
    )
