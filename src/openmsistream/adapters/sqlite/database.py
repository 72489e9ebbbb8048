"""One SQLite file that one program owns: opened with a lock, in WAL mode, with our errors.

What stands in the tables is the ledgers' business. The lock is a file beside the database, so that a second
program on the same ledger is refused at once instead of both writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from openmsistream.errors import ConfigError, StorageError

MEMORY = ":memory:"


class Database:
    """
    A ledger's file.

    Args:
        path: Where it stands, or ``":memory:"``; its folder is made.
        schema: ``CREATE ... IF NOT EXISTS`` statements.
        durable: Commits survive a power cut (``synchronous=FULL``); otherwise only the end of the process.
        owner: What the user would call the program, for the error when it is in use.

    Raises:
        ConfigError: Another program uses it now.
        StorageError: It cannot be opened, or is damaged.
    """

    def __init__(self, path: Path | str, schema: str, *, durable: bool, owner: str) -> None:
        self.path = path
        self._lock: FileLock | None = None
        try:
            if path != MEMORY:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(Path(path), owner)
            self._connection = sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.executescript(schema)
        except (sqlite3.Error, OSError) as error:
            if self._lock is not None:
                self._lock.release()
            raise self._broken(error) from error

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """All rows of a query."""
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def row(self, query: str, values: Sequence[object] = ()) -> tuple[object, ...] | None:
        """The first row of a query, or None."""
        try:
            return self._connection.execute(query, values).fetchone()  # type: ignore[no-any-return]
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def write(self, statement: str, values: Sequence[object] = ()) -> None:
        """Change something; it is durable after ``commit``, and visible here at once."""
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def write_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """The same change for many rows."""
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes within, or none of them."""
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:
                self._connection.rollback()
            raise
        self.commit()

    def commit(self) -> None:
        """Make all changes durable."""
        try:
            if self._connection.in_transaction:
                self._connection.commit()
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Let go of the file and the lock; what was not committed is gone."""
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def meta(self, key: str) -> str | None:
        """A value of the ``meta`` table that every ledger has."""
        row = self.row("SELECT value FROM meta WHERE key = ?", (key,))
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the ``meta`` table."""
        self.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _broken(self, error: Exception) -> StorageError:
        full = "full" in str(error).lower()
        hint = (
            "make room on that disk"
            if full
            else "check the folder's rights; a damaged ledger can be moved away: files are then looked at anew"
        )
        return StorageError(f"{self.path}: the ledger cannot be used: {error}", hint=hint)


META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"


def _locked(path: Path, owner: str) -> FileLock:
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{owner} is running already (its ledger {path} is in use)",
            hint="stop the other one first, or give this one a folder or topic of its own",
        ) from error
    return lock
