"""The ledger of one uploader in SQLite (``ports.UploadLedger``): what it saw, sent, and has under way.

One row per path and one per version under way. Paths are stored as their bytes, folder and name apart, so
that a folder can be compared with one query. What is asked and told once per file costs one statement or none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from openmsistream.adapters.clock import SystemClock
from openmsistream.adapters.sqlite.backup import LedgerBackup
from openmsistream.adapters.sqlite.beside import Names, no_rights, put
from openmsistream.adapters.sqlite.database import MEMORY, Database
from openmsistream.adapters.sqlite.recovery import Found, State, recover
from openmsistream.adapters.sqlite.tables import SCHEMA, SRC_BYTES, make, upgrade
from openmsistream.core.events import Event, Note
from openmsistream.core.ids import next_generation
from openmsistream.core.paths import from_wire_bytes, to_wire_bytes
from openmsistream.core.settle import Stat
from openmsistream.ports import Clock, Events, Failed, Known, Parked

REMEMBERED_PATHS = 4096
"""A path is asked for several times in a row; 1 MB of memory answers all but the first."""

_KNOWN = "SELECT size, mtime_ns, digest, sent FROM files WHERE folder = ? AND name = ?"
_KNOWN_IN = "SELECT size, mtime_ns, digest, sent, name FROM files WHERE folder = ?"
_PUT = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_OPEN = "INSERT OR REPLACE INTO open_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def _ignore(event: Event) -> None:
    """Nobody listens."""


GEN_RESERVE_NS = 60 * 10**9
"""How far ahead the counter of versions is reserved: one commit a minute."""


class SqliteUploadLedger:
    """
    An uploader's memory.

    A ledger that is damaged or gone is put back from its backup, which ``turn`` and ``close`` keep.

    Args:
        path: The database file, or ``":memory:"``.
        random: Gives random bytes, for the uploader's identity when the ledger is made.
        about: What the ledger is for, for those who look at it: kind, root, topic, cluster_id, options.
        events: Told when the ledger was put back, or a backup could not be made.
        clock: Tells when a backup is due.
        lost: What to do when the ledger is lost and has no usable backup: "resend" everything, or "ask".
        on_network: The folder lies on a network share, where SQLite must not use its write-ahead log.

    Raises:
        ConfigError: Another program uses the ledger now; or it is lost, and ``lost`` is "ask".
        StorageError: The file cannot be used.
    """

    def __init__(
        self,
        path: Path | str,
        random: Callable[[int], bytes],
        *,
        about: Mapping[str, str] | None = None,
        events: Events = _ignore,
        clock: Clock | None = None,
        lost: str = "resend",
        on_network: bool = False,
    ) -> None:
        self._events = events
        self._closed = False
        self._live = None if path == MEMORY else Names(Path(path)).live
        found = Found(State.SOUND)

        def first_start(new: Path) -> None:
            make(new, random(SRC_BYTES))

        def prepare(file: Path) -> None:
            nonlocal found
            if (missing := no_rights(file)) is not None:
                raise missing
            found = recover(file, lost=lost, first_start=first_start)

        # NORMAL: a power cut may cost the last second of "sent", and what is not known as sent is sent again.
        self._db = Database(
            path,
            SCHEMA,
            durable=False,
            owner="an uploader of this folder to this topic",
            prepare=prepare,
            on_network=on_network,
            way_out="the next start puts a damaged or missing ledger back from its backup",
        )
        try:
            for note in found.notes:
                events(note)
            self._take_up(random, about or {}, found.state)
        except BaseException:
            self._db.close()
            raise
        self._backup: LedgerBackup | None = None
        if path != MEMORY:
            self._backup = LedgerBackup(Path(path), clock or SystemClock(), on_network=on_network)
            if found.state in (State.FIRST, State.LOST):
                # Before anything is recorded: a ledger that is deleted at once is known to be lost.
                self._tell(self._backup.birth())

    def _take_up(self, random: Callable[[int], bytes], about: Mapping[str, str], state: State) -> None:
        upgrade(self._db, random)
        if state in (State.RESTORED, State.LOST) and self._db.meta("first_scan") is None:
            # What was there before the first start is not known any more, so nothing may be taken for sent.
            self._db.set_meta("first_scan", state.name.lower())
        described = json.dumps(dict(about), sort_keys=True)  # ASCII, so that a root that is not valid Unicode fits
        if about and self._db.meta("about") != described:
            self._db.set_meta("about", described)
        self._db.commit()
        self.src = bytes.fromhex(self._db.meta("src") or "")
        self._gen = self._reserved_gen = int(self._db.meta("gen") or 0)
        self._is_new = self._db.meta("first_scan") is None
        self._first_scan_ended = False
        self._cache: dict[str, Known | None] = {}
        # Which paths have a row besides the one in ``files``: nearly none, so nearly nothing has to be deleted.
        self._open = {
            from_wire_bytes(cast("bytes", path)): cast("bytes", version)
            for path, version in self._db.rows("SELECT path, version FROM open_versions")
        }
        self._failed = self._paths("SELECT path FROM failed")

    @property
    def is_new(self) -> bool:
        """True until ``first_scan_done`` was committed."""
        return self._is_new

    def first_scan_done(self) -> None:
        """The files that were there before the first start are recorded."""
        self._db.set_meta("first_scan", "done")
        self._is_new = False
        self._first_scan_ended = True

    def next_gen(self, now_ns: int) -> int:
        """The counter of the next version, never given before."""
        self._gen = next_generation(self._gen, now_ns)
        if self._gen > self._reserved_gen:
            # Durable before it is given: a kill and a clock that is set back must not make the next one smaller.
            self._reserved_gen = self._gen + GEN_RESERVE_NS
            self._db.set_meta("gen", str(self._reserved_gen))
            self._db.commit()
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
        try:
            return self._cache[path]
        except KeyError:
            row = self._db.row(_KNOWN, split(path))
        if len(self._cache) >= REMEMBERED_PATHS:
            self._cache.clear()
        found = self._cache[path] = None if row is None else _known(row)
        return found

    def known_in(self, folder: str) -> dict[str, Known]:
        """What is known of the files directly in ``folder``, by path."""
        prefix = f"{folder}/" if folder else ""
        rows = cast("list[tuple[int, int, bytes, int, bytes]]", self._db.rows(_KNOWN_IN, (to_wire_bytes(folder),)))
        return {
            prefix + name.decode("utf-8", "surrogateescape"): Known(Stat(size, mtime_ns), digest, sent != 0)
            for size, mtime_ns, digest, sent, name in rows
        }

    def record_existing(self, path: str, stat: Stat) -> None:
        """The file was there at the first start and is not to be sent."""
        self._db.write(_PUT, (*split(path), stat.size, stat.mtime_ns, b"", 0, b"", 0, 0, ""))
        self._cache.pop(path, None)

    def record_sent(
        self, path: str, stat: Stat, version: bytes, gen: int, digest: bytes, now_ns: int, evidence: str = ""
    ) -> None:
        """The broker acknowledged a version's last chunk; ``evidence`` says why the file was taken to be complete."""
        folder, name = split(path)
        self._db.write(_PUT, (folder, name, stat.size, stat.mtime_ns, digest, 1, version, gen, now_ns, evidence))
        self._cache.pop(path, None)
        self.drop_open(path)
        self.drop_failed(path)

    def record_same(self, path: str, stat: Stat) -> None:
        """The file was touched, and its content is what was sent before."""
        self._db.write(
            "UPDATE files SET size = ?, mtime_ns = ? WHERE folder = ? AND name = ?",
            (stat.size, stat.mtime_ns, *split(path)),
        )
        self._cache.pop(path, None)
        self.drop_failed(path)

    def record_failed(self, failed: Failed) -> None:
        """A file could not be sent; ``record_sent``, ``record_same``, ``forget`` and ``drop_failed`` end that."""
        self._db.write(
            "INSERT OR REPLACE INTO failed VALUES (?, ?, ?, ?)",
            # A reason names the path, which need not be valid Unicode.
            (
                to_wire_bytes(failed.path),
                failed.reason.encode("utf-8", "backslashreplace").decode("utf-8"),
                failed.tries,
                failed.at_ns,
            ),
        )
        self._failed.add(failed.path)

    def drop_failed(self, path: str) -> None:
        """The file that could not be sent is gone."""
        if path in self._failed:
            self._db.write("DELETE FROM failed WHERE path = ?", (to_wire_bytes(path),))
            self._failed.discard(path)

    def record_live(self, snapshot: str) -> None:
        """
        What only the running program knows (JSON text), for those who look at the ledger meanwhile.

        A file of its own: it is worth nothing tomorrow, and would be most of what is written into the ledger.
        """
        if self._live is None:
            return
        new = self._live.with_suffix(".new")
        # The next one comes in seconds; a disk that is full is told by what matters, the ledger itself.
        with contextlib.suppress(OSError):
            new.write_text(snapshot, encoding="utf-8", errors="backslashreplace")
            put(new, self._live, sync=False)

    def forget(self, path: str) -> None:
        """Nothing is known of the path any more."""
        self._db.write("DELETE FROM files WHERE folder = ? AND name = ?", split(path))
        self._cache.pop(path, None)
        self.drop_failed(path)

    def record_open(self, parked: Parked) -> None:
        """A version is under way: its start or its progress."""
        self._open[parked.path] = parked.version
        self._db.write(
            _PUT_OPEN,
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

    def drop_open(self, path: str, version: bytes | None = None) -> None:
        """The version under way of a path ended; with ``version``: if it is still that one."""
        known = self._open.get(path)
        if known is not None and version in {None, known}:
            self._db.write("DELETE FROM open_versions WHERE path = ?", (to_wire_bytes(path),))
            del self._open[path]

    def open_versions(self) -> list[Parked]:
        """The versions that were under way, in the order they were started."""
        rows = self._db.rows(
            "SELECT path, version, gen, size, mtime_ns, chunk_bytes, partition, first_offset, acknowledged,"
            " prefix_digest, started_ns FROM open_versions ORDER BY started_ns"
        )
        return [parked(row) for row in rows]

    def commit(self) -> None:
        """
        Make everything recorded so far durable.

        Raises:
            StorageError: The ledger cannot be written, or was removed while it was in use.
        """
        self._db.commit()
        self._db.check_in_place()

    def turn(self) -> None:
        """
        Keep the backup up to date: call it in every turn of the program's loop, on the loop's thread.

        Raises:
            StorageError: The ledger turned out to be damaged.
        """
        if self._backup is None:
            return
        if self._first_scan_ended:
            self._first_scan_ended = False
            self._backup.soon()
        self._tell(self._backup.turn(self._db.changes))

    def close(self) -> None:
        """Commit, make the last backup, and let go of the file; nothing happens when that was done."""
        if self._closed:
            return
        self._closed = True
        if self._backup is not None:
            self._backup.stop()
        try:
            self.commit()
            changes = self._db.changes
            self._db.shut()
            if self._backup is not None:
                self._tell(self._backup.finish(changes))
        finally:
            self._db.close()

    def _tell(self, note: Note | None) -> None:
        if note is not None:
            self._events(note)

    def _paths(self, query: str) -> set[str]:
        return {from_wire_bytes(cast("bytes", path)) for (path,) in self._db.rows(query)}


def parked(row: tuple[object, ...]) -> Parked:
    """A row of ``open_versions``, in the order of its columns."""
    path, version, gen, size, mtime_ns, chunk_bytes, partition, first_offset, acknowledged, prefix, started_ns = cast(
        "tuple[bytes, bytes, int, int, int, int, int, int, int, bytes, int]", row
    )
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


def split(path: str) -> tuple[bytes, bytes]:
    """Folder and name of a path, as they stand in the table ``files``."""
    folder, _, name = to_wire_bytes(path).rpartition(b"/")
    return folder, name


def _known(row: tuple[object, ...]) -> Known:
    size, mtime_ns, digest, sent = cast("tuple[int, int, bytes, int]", row)
    return Known(Stat(size, mtime_ns), digest, sent != 0)
