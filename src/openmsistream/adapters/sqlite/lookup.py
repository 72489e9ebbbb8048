"""Looking into upload ledgers that other programs own: while they run, and when they are stopped.

Owns how a ledger is read without a lock, without a right to write, and without keeping its program waiting. It must
not know how what it finds is shown.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from openmsistream.adapters.sqlite.beside import BACKUP_SUFFIX, SQLITE_ERRORS, SUFFIX, Names, no_reading
from openmsistream.adapters.sqlite.database import is_locked
from openmsistream.adapters.sqlite.uploads import parked, split
from openmsistream.core.paths import from_wire_bytes, to_wire_bytes
from openmsistream.core.settle import Stat
from openmsistream.errors import StorageError
from openmsistream.ports import Failed, Parked

PAGE_ROWS = 5000
"""Rows read at once: who reads a million slowly must not keep the ledger's log from being cut back."""
BUSY_SECONDS = 30.0

_NAME = re.compile(r"(?P<kind>[a-z]+)-(?P<topic>.+)-[0-9a-f]{16}(?:-\d+of\d+)?\Z")
_HEADER_BYTES, _FORMAT_AT, _WAL_FORMAT = 20, 19, 2
"""Source: SQLite, "Database File Format": the byte at offset 19 is 2 when the file is read with a write-ahead log."""


@dataclass(frozen=True, slots=True)
class LedgerInfo:
    """
    A ledger that was found.

    Attributes:
        path: Its file.
        kind: "upload" or "download".
        root: The folder it knows; "" when it does not say so.
        topic: The topic; from the file's name when it does not say so.
        cluster_id: The Kafka cluster.
        problem: Why it cannot be looked at; "" when it can.
    """

    path: Path
    kind: str
    root: str
    topic: str
    cluster_id: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FileRow:
    """
    What a ledger knows of one file.

    Attributes:
        path: Relative to the root.
        stat: Size and mtime of the newest version that was dealt with.
        sent: False: only recorded as being there at the first start.
        at_ns: When its last chunk was acknowledged, ns since 1970; 0 when it was not sent.
        digest: BLAKE3 of what was sent (SHA-512 in format 1); empty when it was not sent.
        evidence: Why it was taken to be complete.
    """

    path: str
    stat: Stat
    sent: bool
    at_ns: int
    digest: bytes
    evidence: str


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """Files sent and their bytes, files recorded at the first start only, and when the newest was sent (ns)."""

    sent: int
    sent_bytes: int
    recorded_only: int
    newest_ns: int


def ledgers(state: Path) -> list[LedgerInfo]:
    """
    The ledgers in a state folder, by name; one that is gone and has a backup is listed with its problem.

    Raises:
        StorageError: The folder cannot be listed.
    """
    try:
        names = sorted(state.iterdir()) if state.is_dir() else []
    except OSError as error:
        raise StorageError(
            f"{state}: the folder cannot be read: {error.strerror}", hint="run it under the account of the program"
        ) from error
    found: dict[Path, LedgerInfo] = {}
    for path in names:
        if path.name.endswith(BACKUP_SUFFIX):
            ledger = path.with_name(path.name.removesuffix(BACKUP_SUFFIX) + SUFFIX)
            if not ledger.exists():
                found[ledger] = _info(
                    ledger, of=path, problem="it is gone; the next start puts it back from its backup"
                )
        elif path.name.endswith(SUFFIX):
            found[path] = _info(path, of=path)
    return [found[path] for path in sorted(found) if found[path].kind]


def _info(ledger: Path, *, of: Path, problem: str = "") -> LedgerInfo:
    match = _NAME.match(ledger.stem)
    kind, topic = (match["kind"], match["topic"]) if match else ("", "")
    root = cluster_id = ""
    try:
        with open_read_only(of) as view:
            about = view.about()
    except StorageError as error:
        problem = problem or error.message.removeprefix(f"{of}: ")
    else:
        kind, topic = about.get("kind", kind), about.get("topic", topic)
        root, cluster_id = about.get("root", ""), about.get("cluster_id", "")
    return LedgerInfo(ledger, kind, root, topic, cluster_id, problem)


def open_read_only(path: Path) -> UploadLedgerView:
    """
    Look into the ledger at ``path``.

    Raises:
        StorageError: It cannot be read: not there, damaged, or no rights.
    """
    view = UploadLedgerView(path)
    try:
        view.about()
    except StorageError:
        view.close()
        raise
    return view


class UploadLedgerView:
    """What an upload ledger says, read anew by every call. Raises StorageError when it cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = Names(path)
        self._db: sqlite3.Connection | None = None
        self._at_rest = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def about(self) -> dict[str, str]:
        """What the ledger is for: kind, root, topic, cluster_id, options; empty when it does not say so."""
        rows = self._rows("SELECT value FROM meta WHERE key = 'about'")
        try:
            found = json.loads(str(rows[0][0])) if rows else {}
        except ValueError:
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def running(self) -> bool | None:
        """Whether a program uses it now; None when this account may not find out."""
        return is_locked(self.path)

    def known(self, path: str) -> FileRow | None:
        """What is known of a path."""
        rows = self._rows(f"{self._select()} WHERE folder = ? AND name = ?", split(path))
        return _row(rows[0]) if rows else None

    def known_in(self, folder: str) -> Iterator[FileRow]:
        """What is known of the files directly in ``folder``, by name."""
        here, after = to_wire_bytes(folder), b""
        query = f"{self._select()} WHERE folder = ? AND name > ? ORDER BY name LIMIT {PAGE_ROWS}"
        while rows := self._rows(query, (here, after)):
            yield from map(_row, rows)
            after = cast("bytes", rows[-1][1])

    def files(self) -> Iterator[FileRow]:
        """Every file that was sent or recorded, folder by folder."""
        folder, name = b"", b""
        query = f"{self._select()} WHERE (folder, name) > (?, ?) ORDER BY folder, name LIMIT {PAGE_ROWS}"
        while rows := self._rows(query, (folder, name)):
            yield from map(_row, rows)
            folder, name = cast("tuple[bytes, bytes]", rows[-1][:2])

    def open_versions(self) -> list[Parked]:
        """The versions under way, in the order they were started, as of the last commit."""
        return [parked(row) for row in self._rows("SELECT * FROM open_versions ORDER BY started_ns")]

    def failed(self, path: str | None = None) -> list[Failed]:
        """The files that could not be sent, by path; or of one path alone."""
        if not self._rows("SELECT 1 FROM sqlite_master WHERE name = 'failed'"):
            return []
        query = "SELECT path, reason, tries, at_ns FROM failed"
        if path is None:
            rows = self._rows(f"{query} ORDER BY path")
        else:
            rows = self._rows(f"{query} WHERE path = ?", (to_wire_bytes(path),))
        found = cast("list[tuple[bytes, str, int, int]]", rows)
        return [Failed(from_wire_bytes(raw), reason, tries, at_ns) for raw, reason, tries, at_ns in found]

    def totals(self) -> LedgerTotals:
        """How much is in it; 0.2 s for 1,000,000 files."""
        query = "SELECT count(*), coalesce(sum(size), 0), coalesce(max(at_ns), 0) FROM files WHERE sent "
        sent, sent_bytes, newest_ns = cast("tuple[int, int, int]", self._rows(f"{query} <> 0")[0])
        recorded, *_ = cast("tuple[int, int, int]", self._rows(f"{query} = 0")[0])
        return LedgerTotals(sent, sent_bytes, recorded, newest_ns)

    def live(self) -> dict[str, Any] | None:
        """The last snapshot of the program that runs, or ran; None when there is none that can be read."""
        try:
            snapshot = json.loads(self._names.live.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return snapshot if isinstance(snapshot, dict) else None

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _select(self) -> str:
        columns = {row[1] for row in self._rows("PRAGMA table_info(files)")}
        evidence = "evidence" if "evidence" in columns else "''"  # not upgraded yet by a program that may write it
        return f"SELECT folder, name, size, mtime_ns, sent, at_ns, digest, {evidence} FROM files"  # noqa: S608

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        if self._at_rest and self._names.wal.exists():
            self.close()  # a program began to write it
        try:
            if self._db is None:
                self._db = self._opened()
            return self._db.execute(query, values).fetchall()
        except (*SQLITE_ERRORS, OSError) as error:
            if (missing := no_reading(self.path)) is not None:
                raise missing from error
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise StorageError(
                f"{self.path}: the ledger cannot be read: {text}",
                hint="the next start of its program puts a damaged or missing ledger back from its backup",
            ) from error

    def _opened(self) -> sqlite3.Connection:
        with self.path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        uses_wal = len(header) == _HEADER_BYTES and header[_FORMAT_AT] == _WAL_FORMAT
        # Without a log nobody writes it. Only then can it be read without making one, which needs rights to the
        # folder, and would leave files of this account behind that its program may not write.
        self._at_rest = uses_wal and not self._names.wal.exists()
        mode = "mode=ro&immutable=1" if self._at_rest else "mode=ro"
        address = f"{self.path.absolute().as_uri()}?{mode}"
        db = sqlite3.connect(address, uri=True, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
        db.text_factory = _text
        return db


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _row(row: tuple[object, ...]) -> FileRow:
    folder, name, size, mtime_ns, sent, at_ns, digest, evidence = cast(
        "tuple[bytes, bytes, int, int, int, int, bytes, str]", row
    )
    path = from_wire_bytes(folder + b"/" + name if folder else name)
    return FileRow(path, Stat(size, mtime_ns), sent != 0, at_ns, digest, evidence)
