"""One SQLite file that one program owns: opened with a lock, in WAL mode, with our errors.

What stands in the tables is the ledgers' business. The lock is a file beside the database, so that a second
program on the same ledger is refused at once instead of both writing. On a network share, where WAL needs memory
that two computers cannot share, the classic journal is used.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from openmsistream.adapters.filesystem.shared_files import hold
from openmsistream.adapters.sqlite.beside import SQLITE_ERRORS, Names, no_rights
from openmsistream.errors import ConfigError, StorageError

MEMORY = ":memory:"
BUSY_SECONDS = 300.0
"""Without WAL, who reads the ledger keeps who writes it waiting; copying a large one over a network takes long."""

Prepare = Callable[[Path], None]
"""Called with the path once it is locked, before it is opened: to put back what is damaged or gone."""


class Database:
    """
    A ledger's file.

    Args:
        path: Where it stands, or ``":memory:"``; its folder is made.
        schema: ``CREATE ... IF NOT EXISTS`` statements.
        durable: Commits survive a power cut (``synchronous=FULL``); otherwise only the end of the process.
        owner: What the user would call the program, for the error when it is in use.
        prepare: See ``Prepare``.
        on_network: The folder lies on a network share: no WAL, and every commit is synced.
        way_out: What to try when the file is damaged.

    Raises:
        ConfigError: Another program uses it now.
        StorageError: It cannot be opened, or is damaged.
    """

    def __init__(
        self,
        path: Path | str,
        schema: str,
        *,
        durable: bool,
        owner: str,
        prepare: Prepare | None = None,
        on_network: bool = False,
        way_out: str = "a damaged ledger can be moved away: files are then looked at anew",
    ) -> None:
        self.path = path
        self._way_out = way_out
        self._lock: FileLock | None = None
        self._identity: tuple[int, int] | None = None
        self._wal_identity: tuple[int, int] | None = None
        try:
            if path != MEMORY:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._lock = _locked(Path(path), owner)
                if prepare is not None:
                    prepare(Path(path))
            self._connection = sqlite3.connect(
                str(path), timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        except (*SQLITE_ERRORS, OSError) as error:
            self._let_go()
            raise self._broken(error) from error
        except BaseException:
            self._let_go()
            raise
        try:
            wanted = "DELETE" if on_network else "WAL"
            (journal,) = self._connection.execute(f"PRAGMA journal_mode={wanted}").fetchone()
            full = durable or journal not in {"wal", "memory"}
            self._connection.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")
            self._may_wait = full and journal == "wal"
            self._connection.executescript(schema)
            if path != MEMORY:
                self._identity = _identity(path)
        except (*SQLITE_ERRORS, OSError) as error:
            self._connection.close()
            self._let_go()
            raise self._broken(error) from error

    @property
    def changes(self) -> int:
        """How many rows were changed since it was opened."""
        return self._connection.total_changes

    def rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        """All rows of a query."""
        try:
            return self._connection.execute(query, values).fetchall()
        except SQLITE_ERRORS as error:
            raise self._broken(error) from error

    def row(self, query: str, values: Sequence[object] = ()) -> tuple[object, ...] | None:
        """The first row of a query, or None."""
        try:
            return self._connection.execute(query, values).fetchone()  # type: ignore[no-any-return]
        except SQLITE_ERRORS as error:
            raise self._broken(error) from error

    def write(self, statement: str, values: Sequence[object] = ()) -> None:
        """Change something; it is durable after ``commit``, and visible here at once."""
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(statement, values)
        except SQLITE_ERRORS as error:
            raise self._broken(error) from error

    def write_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """The same change for many rows."""
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(statement, rows)
        except SQLITE_ERRORS as error:
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

    @contextmanager
    def unsynced_transaction(self) -> Iterator[None]:
        """The same, which no kill takes back, but a power cut may until the next synced one. Not within another."""
        if self._may_wait:
            self._connection.execute("PRAGMA synchronous=NORMAL")
        try:
            with self.transaction():
                yield
        finally:
            if self._may_wait:
                self._connection.execute("PRAGMA synchronous=FULL")

    def commit(self) -> None:
        """Make all changes durable."""
        try:
            if self._connection.in_transaction:
                self._connection.commit()
        except SQLITE_ERRORS as error:
            raise self._broken(error) from error

    def check_in_place(self) -> None:
        """
        Find out whether the file under the path is still the one that is open: two calls of ``stat``.

        Raises:
            StorageError: It was removed or replaced: what is written from now on would be gone with the program.
        """
        if self._identity is None:
            return
        wal = _identity(f"{self.path}-wal")
        lost_wal = self._wal_identity is not None and wal != self._wal_identity
        if _identity(self.path) != self._identity or lost_wal:
            raise StorageError(
                f"{self.path}: the ledger was removed or replaced while the program was running",
                hint=f"start the program again; {self._way_out}",
            )
        self._wal_identity = wal

    def shut(self) -> None:
        """Let go of the file, not of the lock; what was not committed is gone."""
        self._connection.close()

    def close(self) -> None:
        """Let go of the file and the lock; what was not committed is gone."""
        try:
            self.shut()
        finally:
            self._let_go()

    def meta(self, key: str) -> str | None:
        """A value of the ``meta`` table that every ledger has."""
        row = self.row("SELECT value FROM meta WHERE key = ?", (key,))
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the ``meta`` table."""
        self.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _broken(self, error: Exception) -> StorageError:
        if self.path != MEMORY and (missing := no_rights(Path(self.path))) is not None:
            return missing
        text = str(error)
        if "full" in text.lower():
            hint = "make room on that disk"
        elif "i/o" in text.lower():
            hint = "check that disk, and that there is room on it"
        elif isinstance(error, OSError):
            hint = "check the folder and its rights"
        else:
            hint = f"check the disk; {self._way_out}"
        return StorageError(f"{self.path}: the ledger cannot be used: {text}", hint=hint)


META = "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"


def _identity(path: Path | str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - at every commit
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _locked(path: Path, owner: str) -> FileLock:
    taken = ConfigError(
        f"{owner} is running already (its ledger {path} is in use)",
        hint="stop the other one first, or give this one a folder or topic of its own",
    )
    return hold(Names(path).lock, taken)


def is_locked(path: Path) -> bool | None:
    """
    Whether a program uses the ledger at ``path`` now; None when this account may not find out.

    The lock is only looked at: a program that starts in this moment waits for the look to be over.
    """
    lock = Names(path).lock
    try:
        descriptor = os.open(lock, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        return _is_held(descriptor)
    finally:
        os.close(descriptor)


def _is_held(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - Windows only

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return True
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        return False
    import fcntl  # noqa: PLC0415 - not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
