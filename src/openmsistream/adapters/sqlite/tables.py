"""The tables of an upload ledger: how they are made, and brought up to date when an earlier version made them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from openmsistream.adapters.sqlite.database import META, Database
from openmsistream.errors import StorageError

SRC_BYTES = 16
VERSION = 2
"""2: why a file was taken to be complete, and files that could not be sent. 1 did not say that it was 1."""

SCHEMA = (
    META
    + """
CREATE TABLE IF NOT EXISTS files (
    folder BLOB NOT NULL, name BLOB NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    digest BLOB NOT NULL, sent INTEGER NOT NULL, version BLOB NOT NULL, gen INTEGER NOT NULL,
    at_ns INTEGER NOT NULL, evidence TEXT NOT NULL DEFAULT '', PRIMARY KEY (folder, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS open_versions (
    path BLOB PRIMARY KEY, version BLOB NOT NULL, gen INTEGER NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, chunk_bytes INTEGER NOT NULL, partition INTEGER NOT NULL,
    first_offset INTEGER NOT NULL, acknowledged INTEGER NOT NULL, prefix_digest BLOB NOT NULL,
    started_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failed (
    path BLOB PRIMARY KEY, reason TEXT NOT NULL, tries INTEGER NOT NULL, at_ns INTEGER NOT NULL) WITHOUT ROWID;
"""
)


def make(path: Path, src: bytes) -> None:
    """
    A new ledger at ``path``, whole and closed.

    Raises:
        sqlite3.Error: It cannot be written there.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(SCHEMA)
        db.execute("INSERT INTO meta VALUES ('src', ?), ('version', ?)", (src.hex(), str(VERSION)))


def upgrade(db: Database, random: Callable[[int], bytes]) -> None:
    """
    Bring the tables of an open ledger up to date, in place.

    Raises:
        StorageError: A later version of this package made the ledger.
    """
    if db.meta("src") is None:  # in memory, where nothing was made before
        db.set_meta("src", random(SRC_BYTES).hex())
    version = int(db.meta("version") or 1)
    if version > VERSION:
        db.commit()
        raise StorageError(
            f"{db.path}: the ledger was made by a later version of OpenMSIStream (its tables are version {version}, "
            f"here version {VERSION} is the latest)",
            hint="install that version again, or give --state-dir another folder",
        )
    if "evidence" not in {row[1] for row in db.rows("PRAGMA table_info(files)")}:
        db.write("ALTER TABLE files ADD COLUMN evidence TEXT NOT NULL DEFAULT ''")
    if version < VERSION or db.meta("version") is None:
        db.set_meta("version", str(VERSION))
    db.commit()
