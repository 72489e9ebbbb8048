"""Noticing what is new or changed in a watched root: hints at once, scans for certain.

The first part of the upload flow: it holds what it sees against the ledger and hands differences to the settle
engine. It sends nothing and decides nothing about completeness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from openmsistream.core.events import FileSkipped, Note, ScanDone
from openmsistream.core.selection import Selection
from openmsistream.core.settle import Settler, SettleRule, Stat
from openmsistream.errors import SourceError
from openmsistream.pipeline.runner import SHUTDOWN_SECONDS, Every
from openmsistream.pipeline.sender import Sender
from openmsistream.ports import Clock, Events, FileReader, Known, UploadLedger, Watcher, Writers

SCAN_SLICE_SECONDS = 0.02
BUSY_SLICE_SECONDS = 0.002
"""A scan goes on in slices, shorter ones while files are being sent."""
SCAN_REST_FACTOR = 20
"""Scans take at most about 5 % of one core, however many files there are: longer ones are made less often."""


@dataclass(frozen=True, slots=True)
class Root:
    """
    One watched root, and what its files are read, sent and remembered with.

    Attributes:
        sent_before: What another program sent before the first start here: given a path, the time (ns since 1970) up
            to which every change of the file was sent, or None.
        unfinished_before: Paths that the other program began to send, and did not end.
    """

    watcher: Watcher
    reader: FileReader
    writers: Writers
    sender: Sender
    ledger: UploadLedger
    selection: Selection
    clock: Clock
    events: Events
    sent_before: Callable[[str], int | None] | None = None
    unfinished_before: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """
    How a root is watched; times in seconds.

    Attributes:
        rule_for: When the file at a path counts as complete.
        scan_seconds: Between two scans where the system also gives hints.
        poll_seconds: The same where it gives none.
        upload_existing: Also send what was there before the first start.
        once: End when everything that is there was sent.
        stream_growing: Send files while they are being written.
        stream_temporary: Also those with temporary names.
        alive_seconds: Between two signs of life; <= 0: none.
    """

    rule_for: Callable[[str], SettleRule]
    scan_seconds: float = 30.0
    poll_seconds: float = 5.0
    upload_existing: bool = False
    once: bool = False
    stream_growing: bool = False
    stream_temporary: bool = False
    alive_seconds: float = -1
    shutdown_seconds: float = SHUTDOWN_SECONDS


class Noticing:
    """What is new or changed below a root; differences go to ``settler``."""

    def __init__(self, root: Root, settler: Settler, settings: UploadSettings) -> None:
        self._root, self._settler, self._settings = root, settler, settings
        self._ledger, self._reader, self._selection = root.ledger, root.reader, root.selection
        self._scan: Iterator[tuple[str, list[tuple[str, Stat]]]] | None = None
        self._scan_timer = Every(settings.scan_seconds)
        self._scan_again = False
        self._scan_work = 0.0
        self._scanned = self._changed = self._recorded = self.scans = 0
        self._root_error = ""
        self._record_only = root.ledger.is_new and not settings.upload_existing
        self._sent_before = root.sent_before if root.ledger.is_new else None
        self._hinted_early: set[str] = set()

    @property
    def scanning(self) -> bool:
        """True while a scan is under way."""
        return self._scan is not None

    def look(self, now: float) -> None:
        """Take the hints, and begin a scan when its time has come."""
        if self._scan is None and (self._scan_timer.due(now) or self._scan_again):
            self._begin_scan()
        self._take_hints(now)

    def _take_hints(self, now: float) -> None:
        hints = self._root.watcher.hints()
        self._scan_again = self._scan_again or hints.everything
        for path, before in hints.renamed.items():
            self._renamed(path, before, now)
        for path in hints.files:
            if path not in hints.renamed or path in hints.closed:
                self.look_at(path, now, closed=path in hints.closed)
        for folder in hints.folders:
            self._look_into(folder, now)

    def look_at(self, path: str, now: float, *, closed: bool = False) -> None:
        """Something may have happened to a file; ``closed``: a program closed it after writing."""
        if self._left_out(path, now):
            return
        if self._record_only:
            self._hinted_early.add(path)
            return
        stat = self._reader.stat(path)
        self._root.sender.growing.noticed(path, stat, now)
        if stat is None:
            self._settler.forget(path)
            self._root.sender.parked.vanished(path)
        else:
            self._observe(path, stat, now, closed=closed)

    def held_open(self, path: str, stat: Stat) -> None:
        """A file does not change at the moment, and a program may still write to it."""
        self._stream(path, stat, self._ledger.known(path))

    def _renamed(self, path: str, before: str, now: float) -> None:
        self._root.sender.growing.renamed(before, path)
        self._root.sender.parked.vanished(before)
        if reason := self._left_out(path, now):
            self._settler.forget(before)
            self._root.sender.growing.give_up(path, reason)
        elif self._record_only:
            self._hinted_early.add(path)
        elif (stat := self._reader.stat(path)) is not None and not self._is_known(self._ledger.known(path), stat):
            self._settler.renamed(path, before, stat, now)
        else:
            self._settler.forget(before)
            self._settler.forget(path)

    def _look_into(self, folder: str, now: float) -> None:
        """A folder appeared or was moved in: its files may have caused no hint of their own."""
        try:
            for _, files in self._root.watcher.scan(folder):
                for path, stat in files:
                    if self._left_out(path, now):
                        continue
                    if self._record_only:
                        self._hinted_early.add(path)
                    else:
                        self._observe(path, stat, now)
        except SourceError:
            return  # gone again; the next scan of the root tells what is there

    def _left_out(self, path: str, now: float) -> str:
        """Why the file is not sent; "" when it is. A marker file is taken in as what it is."""
        if self._settler.is_marker(path):
            self._settler.marked(path, now)
            return "it is a marker file"
        return self._selection.why(path)

    def _observe(self, path: str, stat: Stat, now: float, *, closed: bool = False) -> None:
        known = self._ledger.known(path)
        if self._is_known(known, stat):
            self._settler.forget(path)
        elif closed:
            self._settler.closed(path, stat, now)
        elif self._settler.observe(path, stat, now):
            self._stream(path, stat, known)

    def _is_known(self, known: Known | None, stat: Stat) -> bool:
        """True when this content was dealt with before."""
        return (
            known is not None and known.stat.same_content(stat) and (known.sent or not self._settings.upload_existing)
        )

    def _stream(self, path: str, stat: Stat, known: Known | None) -> None:
        """A file is being written: it may be sent meanwhile. One that was there before is sent when it is complete."""
        if not self._settings.stream_growing or known is not None or stat.size <= self._root.sender.chunk_bytes:
            return
        if self._settings.stream_temporary or not self._settler.is_temporary(path):
            self._root.sender.stream(path)

    # -- scanning -------------------------------------------------------------------------------------------

    def _begin_scan(self) -> None:
        self._scan = iter(self._root.watcher.scan())
        self._scan_again, self._scan_work = False, 0.0
        self._scanned = self._changed = self._recorded = 0

    def go_on_scanning(self, now: float) -> None:
        """A slice of the scan that is under way, if one is."""
        if self._scan is None:
            return
        clock, root = self._root.clock, self._root
        stop_at = now + (SCAN_SLICE_SECONDS if root.sender.quiet else BUSY_SLICE_SECONDS)
        try:
            for folder, files in self._scan:
                self._compare(folder, files, now)
                if clock.monotonic() >= stop_at:
                    self._scan_work += clock.monotonic() - now
                    return
        except SourceError as error:
            if self._root_error != error.message:
                self._root_error = error.message
                root.events(Note(f"{error.message}; nothing is taken as deleted, looking again", error.hint))
            self._scan = None
            return
        self._scan_work += clock.monotonic() - now
        self._scan_done(now)

    def _compare(self, folder: str, files: list[tuple[str, Stat]], now: float) -> None:
        """Hold a folder's files against what the ledger knows of it; differences have to settle."""
        known_here = self._ledger.known_in(folder)
        self._scanned += len(files)
        for path, stat in files:
            known = known_here.get(path)
            if known is not None and known.stat.same_content(stat):
                if known.sent or not self._settings.upload_existing:
                    continue
            elif self._was_sent_before(path, stat):
                continue
            elif self._record_only and not self._began_before(path):
                if not self._selection.why(path):
                    self._ledger.record_existing(path, stat)
                    self._recorded += 1
                continue
            reason = self._left_out(path, now)
            if reason:
                if self.scans == 0:
                    self._root.events(FileSkipped(path, reason))
                continue
            self._changed += 1
            self._root.sender.growing.noticed(path, stat, now)
            if not self._root.sender.retries.holds_back(path, now) and self._settler.observe(path, stat, now):
                self._stream(path, stat, known)

    def _was_sent_before(self, path: str, stat: Stat) -> bool:
        as_of = None if self._sent_before is None else self._sent_before(path)
        if as_of is None or stat.mtime_ns > as_of:
            return False
        self._ledger.record_sent(path, stat, b"", 0, b"", as_of, "sent by OpenMSIStream 1.x")
        self._recorded += 1
        return True

    def _began_before(self, path: str) -> bool:
        """Another program sent it, and it changed since, or was not sent to its end: it is not just "existing"."""
        if path in self._root.unfinished_before:
            return True
        return self._sent_before is not None and self._sent_before(path) is not None

    def _scan_done(self, now: float) -> None:
        self._scan = None
        self._root_error = ""
        # A scan tells what is there, not what is gone, and there may have been no hint.
        growing = self._root.sender.growing
        for sending in growing:
            growing.noticed(sending.final_path, self._reader.stat(sending.final_path), now)
        self.scans += 1
        settings = self._settings
        usual = settings.poll_seconds if self._root.watcher.polls else settings.scan_seconds
        self._scan_timer.seconds = max(usual, SCAN_REST_FACTOR * self._scan_work)
        if self.scans == 1:
            self._take_hints(now)  # also what the scan itself found to be new since the start
            self._root.events(ScanDone(self._scanned, self._changed, self._recorded))
            self._record_only = False
            self._sent_before = None
            for path in self._hinted_early:  # these changed while the first scan ran: not "existing"
                known = self._ledger.known(path)
                if known is None or not known.sent:
                    self._ledger.forget(path)
                self.look_at(path, now)
            self._hinted_early.clear()
            self._ledger.first_scan_done()
            self._ledger.commit()
        self._root.sender.parked.abandon_vanished(self._reader)
