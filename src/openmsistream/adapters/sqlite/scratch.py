"""Tables for work that ends with the program: more names than fit into memory, in order.

SQLite keeps them in memory up to a few MB and the rest in a file of its own in the system's temporary folder, which is
gone when the connection is closed, or the program killed. Knows the values it keeps, and not what they are for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from openmsistream.core.chunk import HashName
from openmsistream.core.comparing import Item, Kind
from openmsistream.core.paths import from_wire_bytes, to_wire_bytes
from openmsistream.core.versions import VersionOrder
from openmsistream.errors import StorageError

CACHE_KIB = 16 * 1024
"""Memory for the pages of one table; what is beyond goes to the temporary file."""
_HINT = "make room in the temporary folder, or name another one in the environment variable SQLITE_TMPDIR"


@contextmanager
def told() -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"the temporary table cannot be written: {error}", hint=_HINT) from error


def open_scratch(*statements: str) -> sqlite3.Connection:
    """A temporary database with these tables; whoever opened it closes it."""
    with told():
        # The name "" makes SQLite choose a temporary file, which it only writes when the cache is full.
        connection = sqlite3.connect("", isolation_level=None)
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KIB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            *statements,
        ):
            connection.execute(statement)
        connection.execute("BEGIN")
    return connection


class NameTable:
    """The files of several places, to be read name by name."""

    def __init__(self) -> None:
        self._db = open_scratch(
            "CREATE TABLE items (name BLOB, place INTEGER, size INTEGER, stamp BLOB, hash TEXT, digest BLOB,"
            " problem TEXT, reason TEXT, PRIMARY KEY (name, place)) WITHOUT ROWID"
        )

    def add(self, place: int, item: Item) -> None:
        """
        Take in what one place, counted from 0, has of one name.

        Raises:
            SourceError: No bytes stand for its name.
            StorageError: The temporary folder is full.
        """
        row = (
            to_wire_bytes(item.name),
            place,
            item.size,
            to_wire_bytes(item.stamp),
            item.hash_name.value if item.hash_name else None,
            item.digest,
            item.problem.value if item.problem else None,
            item.reason.encode("utf-8", "backslashreplace").decode(),
        )
        with told():
            self._db.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def by_name(self) -> Iterator[tuple[str, dict[int, Item]]]:
        """Each name, in the order of its bytes, with what the places have of it."""
        name, found = None, dict[int, Item]()
        with told():
            for row in self._db.execute("SELECT * FROM items ORDER BY name, place"):
                if row[0] != name:
                    if name is not None:
                        yield from_wire_bytes(name), found
                    name, found = row[0], {}
                found[row[1]] = _item(row)
            if name is not None:
                yield from_wire_bytes(name), found

    def close(self) -> None:
        """Forget all of it."""
        self._db.close()


def _item(row: tuple[Any, ...]) -> Item:
    name, _, size, stamp, hash_name, digest, problem, reason = row
    return Item(
        from_wire_bytes(name),
        size,
        from_wire_bytes(stamp),
        HashName(hash_name) if hash_name else None,
        digest,
        Kind(problem) if problem else None,
        reason,
    )


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """A version on a topic; ``problem`` is None when it is whole and has the hash that its sender gave."""

    path: str
    version: bytes
    size: int
    hash_name: HashName
    digest: bytes | None
    order: VersionOrder
    problem: Kind | None = None
    reason: str = ""


class VersionTable:
    """For each path the newest whole version, and the newest of those that are not."""

    def __init__(self) -> None:
        self._db = open_scratch(
            "CREATE TABLE versions (path BLOB, whole INTEGER, version BLOB, size INTEGER, hash TEXT, digest BLOB,"
            " src BLOB, gen INTEGER, mtime_ns INTEGER, timestamp_ms INTEGER, problem TEXT, reason TEXT,"
            " PRIMARY KEY (path, whole)) WITHOUT ROWID",
            "CREATE TABLE renamed (version BLOB PRIMARY KEY) WITHOUT ROWID",
        )

    def get(self, path: str, *, whole: bool) -> StoredVersion | None:
        """What is kept of a path."""
        with told():
            row = self._db.execute(
                "SELECT * FROM versions WHERE path = ? AND whole = ?", (to_wire_bytes(path), whole)
            ).fetchone()
        return None if row is None else _version(row)

    def put(self, stored: StoredVersion) -> None:
        """Keep this one for its path."""
        order = stored.order
        row = (
            to_wire_bytes(stored.path),
            stored.problem is None,
            stored.version,
            stored.size,
            stored.hash_name.value,
            stored.digest,
            order.src,
            order.gen,
            order.mtime_ns,
            order.timestamp_ms,
            stored.problem.value if stored.problem else None,
            stored.reason,
        )
        with told():
            self._db.execute("INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def forget(self, path: str, version: bytes) -> None:
        """The version that is not whole has become so, or was given up by its sender."""
        with told():
            self._db.execute(
                "DELETE FROM versions WHERE path = ? AND whole = 0 AND version = ?", (to_wire_bytes(path), version)
            )

    def put_renamed(self, version: bytes) -> None:
        """A version that is whole, and whose chunks name another path than its own."""
        with told():
            self._db.execute("INSERT OR IGNORE INTO renamed VALUES (?)", (version,))

    def was_renamed(self, version: bytes) -> bool:
        """True after ``put_renamed``."""
        with told():
            return self._db.execute("SELECT 1 FROM renamed WHERE version = ?", (version,)).fetchone() is not None

    def by_path(self) -> Iterator[list[StoredVersion]]:
        """What is kept of each path, one or two versions, in the order of the paths' bytes."""
        here: list[StoredVersion] = []
        with told():
            for row in self._db.execute("SELECT * FROM versions ORDER BY path, whole"):
                stored = _version(row)
                if here and here[0].path != stored.path:
                    yield here
                    here = []
                here.append(stored)
            if here:
                yield here

    def close(self) -> None:
        """Forget all of it."""
        self._db.close()


def _version(row: tuple[Any, ...]) -> StoredVersion:
    path, _, version, size, hash_name, digest, src, gen, mtime_ns, timestamp_ms, problem, reason = row
    order = VersionOrder(src, gen, mtime_ns, timestamp_ms)
    kind = Kind(problem) if problem else None
    return StoredVersion(from_wire_bytes(path), version, size, HashName(hash_name), digest, order, kind, reason)


class OffsetTable:
    """Names of records, to be read in the order in which they stood on their topics."""

    def __init__(self) -> None:
        self._db = open_scratch(
            "CREATE TABLE records (topic TEXT, part INTEGER, off INTEGER, id TEXT, PRIMARY KEY (topic, part, off, id))"
            " WITHOUT ROWID"
        )

    def add(self, topic: str, partition: int, offset: int, name: str) -> None:
        """Take in one record's name."""
        with told():
            self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", (topic, partition, offset, name))

    def in_order(self) -> Iterator[str]:
        """The names, by topic, partition and offset."""
        with told():
            for (name,) in self._db.execute("SELECT id FROM records ORDER BY topic, part, off"):
                yield name

    def close(self) -> None:
        """Forget all of it."""
        self._db.close()
