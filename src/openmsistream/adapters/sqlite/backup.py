"""Copying an upload ledger while it is used: at its birth, every hour, and at a clean stop.

Owns when a backup is due and how it is made so that the program does not feel it. It must not know what the
ledger is for; whether a copy is sound is asked of ``recovery``.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event as Flag
from threading import Thread

from openmsistream.adapters.sqlite.beside import Names, put
from openmsistream.adapters.sqlite.recovery import damage
from openmsistream.core.events import Note
from openmsistream.errors import StorageError
from openmsistream.ports import Clock

BACKUP_SECONDS = 3600.0
RETRY_SECONDS = 600.0
STEP_PAGES, PAUSE_SECONDS = 256, 0.01
"""1 MiB, then a rest: some 50 MB/s, so that the disk is left to the files that are sent."""


class LedgerBackup:
    """
    Keeps the copy of a ledger that is in use.

    Args:
        path: The ledger.
        clock: Tells when a copy is due.
        on_network: The ledger has no WAL: who reads it keeps its program waiting, so it is copied in one go.
    """

    def __init__(self, path: Path, clock: Clock, *, on_network: bool = False) -> None:
        self._names, self._clock, self._on_network = Names(path), clock, on_network
        self._halt = Flag()
        self._thread: Thread | None = None
        self._failure: Exception | None = None
        self._told = False
        self._copied_changes = -1 if self._is_behind() else 0
        self._changes_under_way = 0
        self._due = self._first_due()

    def birth(self) -> Note | None:
        """Copy a ledger that was just made, here and now; as ``turn``."""
        self._copy()
        return self._ended(self._clock.monotonic())

    def soon(self) -> None:
        """What was just recorded is worth a copy now."""
        self._due = self._clock.monotonic()

    def turn(self, changes: int) -> Note | None:
        """
        Begin a copy when one is due, on a thread of its own, and see how the last one went.

        Args:
            changes: How many rows were changed since the ledger was opened; without a new change no copy is made.

        Returns:
            What the user should be told: a copy could not be made.

        Raises:
            StorageError: The ledger turned out to be damaged.
        """
        now = self._clock.monotonic()
        if self._thread is not None:
            return None if self._thread.is_alive() else self._ended(now)
        if now >= self._due:
            self._due = now + BACKUP_SECONDS
            if changes != self._copied_changes:
                self._changes_under_way = changes
                self._thread = Thread(target=self._copy, name="ledger backup", daemon=True)
                self._thread.start()
        return None

    def stop(self) -> None:
        """End a copy that is being made; the one before it stays."""
        self._halt.set()
        if self._thread is not None:
            self._thread.join()

    def finish(self, changes: int) -> Note | None:
        """Copy a ledger that is no longer written, when something changed since the last copy; as ``turn``."""
        self.stop()
        if changes == self._copied_changes:
            return None
        self._halt.clear()
        self._changes_under_way = changes
        self._copy(at_rest=True)
        return self._ended(self._clock.monotonic())

    def _ended(self, now: float) -> Note | None:
        self._thread = None
        failure, self._failure = self._failure, None
        if failure is None:
            self._copied_changes, self._told = self._changes_under_way, False
            return None
        if isinstance(failure, StorageError):
            raise failure
        self._due = now + RETRY_SECONDS
        if self._told:
            return None
        self._told = True
        return Note(
            f"{self._names.backup}: the backup of the ledger could not be made: {failure}",
            hint="make room on that disk, or check the folder's rights; it is tried again every 10 minutes",
        )

    def _copy(self, *, at_rest: bool = False) -> None:
        new = self._names.backup.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            self._copy_pages(new, at_rest=at_rest)
            problem = damage(new, at_rest=True)
            if problem:
                # Never in place of a good copy.
                raise StorageError(  # noqa: TRY301 - it is told on the program's own thread
                    f"{self._names.path}: the ledger is damaged: {problem}",
                    hint="start the program again: the ledger is put back from its backup",
                )
            put(new, self._names.backup, sync=True)
        except _HaltedError:
            new.unlink(missing_ok=True)
        except Exception as error:
            self._failure = error

    def _copy_pages(self, new: Path, *, at_rest: bool) -> None:
        at_once = at_rest or self._on_network
        source = self._names.path.absolute().as_uri() + ("?mode=ro&immutable=1" if at_rest else "?mode=ro")
        with (
            closing(sqlite3.connect(source, uri=True, isolation_level=None)) as db,
            closing(sqlite3.connect(new)) as to,
        ):
            to.execute("PRAGMA journal_mode=OFF")
            to.execute("PRAGMA synchronous=OFF")
            if not at_once:
                # One state of the ledger from the first step to the last; else each commit would begin the copy anew.
                db.execute("BEGIN")
                db.execute("SELECT count(*) FROM meta").fetchone()
            db.backup(to, pages=-1 if at_once else STEP_PAGES, progress=self._pause)

    def _pause(self, _status: int, remaining: int, _total: int) -> None:
        if self._halt.wait(PAUSE_SECONDS if remaining else 0):
            raise _HaltedError

    def _first_due(self) -> float:
        now = self._clock.monotonic()
        try:
            age = self._clock.now_ns() / 1e9 - self._names.backup.stat().st_mtime
        except FileNotFoundError:
            return now
        return now + min(BACKUP_SECONDS, max(0.0, BACKUP_SECONDS - age))

    def _is_behind(self) -> bool:
        """Whether the copy that is there, if any, is older than the ledger: its program was killed."""
        try:
            copied = self._names.backup.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        looks = [path.stat() for path in (self._names.path, self._names.wal) if path.exists()]
        # Opening makes an empty log, which says nothing.
        return any(each.st_mtime_ns > copied for each in looks if each.st_size)


class _HaltedError(Exception):
    """The program ends: no more of this copy."""
