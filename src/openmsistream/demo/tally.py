"""Where the demo stands: which files were written, and how far each program is with each of them.

Owns the arithmetic on events, and nothing else: no process, no file, no screen. Sizes are in bytes, times in
seconds since 1970 as the caller gives them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from openmsistream.demo.children import Heard

UPLOADER = "uploader"
DOWNLOADER = "downloader"

# The programs report progress several times a second.
_PAUSE_SECONDS = 0.5
_ENOUGH_SECONDS = 0.2


@dataclass(slots=True)
class Progress:
    """
    How far one program is with one file, in the version that was written last.

    Attributes:
        done: Bytes sent or received so far.
        finished_at: When the program said that it is sent or delivered; None before.
    """

    done: int = 0
    finished_at: float | None = None


@dataclass(slots=True)
class Row:
    """
    One file of the demo.

    Attributes:
        path: Relative POSIX path below the watched folder.
        size: Its size in bytes.
        written_at: When it stood there whole.
        sides: Progress of each program, by role.
        saved: How often it was written.
    """

    path: str
    size: int
    written_at: float
    sides: dict[str, Progress] = field(default_factory=lambda: {UPLOADER: Progress(), DOWNLOADER: Progress()})
    saved: int = 1


@dataclass(frozen=True, slots=True)
class Totals:
    """
    What one program has done: files and bytes, of how many.

    Attributes:
        busy_with: The path it is at, if any.
        speed: Bytes per second over the time in which bytes moved; None before there is enough of it.
    """

    files: int
    of_files: int
    done: int
    of_bytes: int
    busy_with: str | None
    speed: float | None


class Tally:
    """
    The state of all files of the demo.

    Attributes:
        rows: By relative path, in the order they were written.
        started: When each program said that it is ready, by role.
        problems: One line for each thing a program reported that should not happen here.

    Args:
        below: The folder that all our paths begin with; empty when nobody else uses the topic. What is
            reported about other people's files and records is then no problem of ours.
    """

    def __init__(self, below: str = "") -> None:
        self._below = below
        self.rows: dict[str, Row] = {}
        self.started: dict[str, float] = {}
        self.problems: list[str] = []
        self._busy: dict[str, str | None] = {}
        self._furthest: dict[str, int] = {}
        self._speeds = {UPLOADER: _Speed(), DOWNLOADER: _Speed()}

    def wrote(self, path: str, size: int, at: float) -> None:
        """A file was written, or written again with another size; both programs have it to do (again)."""
        earlier = self.rows.get(path)
        self.rows[path] = Row(path, size, at, saved=earlier.saved + 1 if earlier else 1)

    def hear(self, heard: Heard) -> Row | None:
        """
        Take in one event; return the file that its program has finished by it, if it is one of ours.

        An event of an earlier version of a file that was saved again is told by its size, and passed over.
        """
        event, role = heard.event, heard.role
        kind = event["event"]
        if kind == "program_started":
            self.started.setdefault(role, heard.at)
        elif kind in ("quarantined", "file_failed", "gap"):
            # A failure that is tried again by itself shows in the deadline if it does not pass.
            ours = str(event.get("path", "")).startswith(self._below)
            if ours and not event.get("retry"):
                self.problems.append(_problem(role, event))
        elif kind in ("file_started", "file_progress", "file_sent", "file_delivered"):
            return self._file(role, str(kind), event, heard.at)
        return None

    def got_further(self) -> bool:
        """True when a program is further than at any earlier call: the same work again is no progress."""
        further = False
        for role in (UPLOADER, DOWNLOADER):
            totals = self.totals(role)
            # Without bytes, e.g. an empty file, being finished counts; being ready counts, too.
            reached = totals.done + totals.files + (role in self.started)
            if reached > self._furthest.get(role, -1):
                self._furthest[role], further = reached, True
        return further

    def finished(self, role: str) -> bool:
        """True when this program is done with every file."""
        return all(row.sides[role].finished_at is not None for row in self.rows.values())

    def totals(self, role: str) -> Totals:
        """Say what this program has done so far."""
        sides = [(row, row.sides[role]) for row in self.rows.values()]
        return Totals(
            files=sum(side.finished_at is not None for _, side in sides),
            of_files=len(sides),
            done=sum(min(side.done, row.size) for row, side in sides),
            of_bytes=sum(row.size for row, _ in sides),
            busy_with=self._busy.get(role),
            speed=self._speeds[role].value(),
        )

    def seconds(self, path: str) -> float | None:
        """
        From "stands there whole" to "delivered", in seconds; None when it was not delivered.

        For a file that was there before the uploader: from the uploader's start.
        """
        row = self.rows[path]
        delivered = row.sides[DOWNLOADER].finished_at
        if delivered is None:
            return None
        return max(0.0, delivered - max(row.written_at, self.started.get(UPLOADER, 0.0)))

    def missing(self) -> list[str]:
        """Return one line for each file that was not delivered, saying how far it came."""
        lines = []
        for row in self.rows.values():
            if row.sides[DOWNLOADER].finished_at is not None:
                continue
            sent = row.sides[UPLOADER].finished_at is not None
            got = row.sides[DOWNLOADER].done
            where = "sent" if sent else f"{row.sides[UPLOADER].done} of {row.size} bytes sent"
            lines.append(f"{row.path}: not delivered ({where}; {got} of {row.size} bytes received)")
        return lines

    def _file(self, role: str, kind: str, event: Mapping[str, object], at: float) -> Row | None:
        row = self.rows.get(str(event.get("path")))
        if row is None:
            return None
        side = row.sides[role]
        size, done = event.get("size"), event.get("done")
        if isinstance(size, int) and size != row.size:
            return None
        before = side.done
        if kind in ("file_sent", "file_delivered"):
            self._speeds[role].moved(row.size - before, at)
            side.done, side.finished_at = row.size, at
            if self._busy.get(role) == row.path:
                self._busy[role] = None
            return row
        if side.finished_at is None:
            self._busy[role] = row.path
            if isinstance(done, int):
                side.done = done
            self._speeds[role].moved(max(0, side.done - before), at)
        return None


class _Speed:
    """The bytes per second of one program, without the times in which it had nothing to do."""

    def __init__(self) -> None:
        self._at: float | None = None
        self._bytes = 0
        self._seconds = 0.0

    def moved(self, size: int, at: float) -> None:
        """So many bytes moved since the event before; after a long pause they are not counted."""
        if self._at is not None and at - self._at <= _PAUSE_SECONDS:
            self._bytes += size
            self._seconds += at - self._at
        self._at = at

    def value(self) -> float | None:
        return self._bytes / self._seconds if self._seconds >= _ENOUGH_SECONDS else None


def _problem(role: str, event: Mapping[str, object]) -> str:
    kind = str(event["event"]).replace("_", " ")
    where = event.get("path") or event.get("topic") or "?"
    return f"{role}: {kind}: {where}: {event.get('reason', 'records are missing')}"
