"""The upload flow, top to bottom: notice files, let them settle, send them, remember them.

``upload_directory`` watches a folder until it is told to stop; ``upload_files`` sends given files once. Both
are one loop on one thread: everything that takes long is done in small steps, so that a request to stop or to
report is answered at once. Knows the core and the ports, and no library.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from openmsistream.core.events import Alive, FileSkipped, Note, ProgramStopped, ScanDone, Status
from openmsistream.core.selection import Selection
from openmsistream.core.settle import Settler, Stat
from openmsistream.errors import SourceError
from openmsistream.pipeline.runner import SHUTDOWN_SECONDS, Control, Every, Totals
from openmsistream.pipeline.sender import Sender
from openmsistream.ports import Clock, Events, FileReader, UploadLedger, Watcher

LOOK_SECONDS = 0.05
"""How often hints are taken and settled files are looked for while there is other work."""
IDLE_SECONDS = 0.5
"""The longest the loop waits for a hint when there is nothing to do."""
SCAN_SLICE_SECONDS = 0.02
QUEUE_FILES = 10_000
"""Settled files are queued up to this many; the rest stays with the settler."""


@dataclass(frozen=True, slots=True)
class UploadSettings:
    """How to watch: quiet time and time between scans in seconds, first-start rule, and whether to end when done."""

    quiet_seconds: float
    scan_seconds: float
    upload_existing: bool
    once: bool
    alive_seconds: float = -1
    shutdown_seconds: float = SHUTDOWN_SECONDS


def upload_directory(
    watcher: Watcher,
    reader: FileReader,
    sender: Sender,
    ledger: UploadLedger,
    selection: Selection,
    clock: Clock,
    events: Events,
    control: Control,
    settings: UploadSettings,
) -> Totals:
    """
    Send every file that is, or comes, below the watched root, until told to stop.

    Returns:
        What was sent. Files that were not sent to their end are parked in the ledger.
    """
    alive = Every(settings.alive_seconds, first=clock.monotonic())
    flow = _Watching(watcher, reader, sender, ledger, selection, clock, events, settings)
    watcher.start()
    try:
        while not control.stopping:
            control.turn()
            if control.take_check():
                events(flow.status())
            if settings.alive_seconds > 0 and alive.due(clock.monotonic()):
                events(Alive("upload"))
            flow.look()
            if flow.turn():
                continue
            if settings.once and flow.done:
                break
            flow.rest()
        finish(sender, clock, control, settings.shutdown_seconds)
    finally:
        watcher.stop()
    events(stopped("upload", control.reason or "everything was sent", flow.status(), sender.totals))
    return sender.totals


def upload_files(
    files: Sequence[tuple[str, Stat]], sender: Sender, clock: Clock, events: Events, control: Control
) -> Totals:
    """Send the given files now, once; returns when the broker took or refused everything."""
    started = clock.monotonic()
    for path, stat in files:
        sender.enqueue(path, stat)
    while not (sender.idle or control.stopping):
        if control.take_check():
            events(_status(sender, clock.monotonic() - started, 0))
        if not sender.turn(start_more=True):
            sender.await_acknowledgements(LOOK_SECONDS)
    finish(sender, clock, control, SHUTDOWN_SECONDS)
    status = _status(sender, clock.monotonic() - started, 0)
    events(stopped("upload", control.reason or "done", status, sender.totals))
    return sender.totals


def finish(sender: Sender, clock: Clock, control: Control, seconds: float) -> None:
    """Give files that are on their way some time to arrive, then park them."""
    deadline = clock.monotonic() + seconds
    while not sender.quiet and clock.monotonic() < deadline and not control.stop_now:
        if not sender.turn(start_more=False):
            sender.await_acknowledgements(LOOK_SECONDS)
    sender.finish()


def stopped(program: str, reason: str, status: Status, totals: Totals) -> ProgramStopped:
    """The last event of a program."""
    waiting = status.waiting + status.active
    return ProgramStopped(program, reason, totals.files, totals.total_bytes, waiting, totals.failed, status.seconds)


def _status(sender: Sender, seconds: float, unsettled: int) -> Status:
    totals = sender.totals
    return Status(totals.files, totals.total_bytes, sender.waiting + unsettled, sender.active, totals.failed, seconds)


class _Watching:
    """The first half of the flow: from hints and scans to settled files."""

    def __init__(
        self,
        watcher: Watcher,
        reader: FileReader,
        sender: Sender,
        ledger: UploadLedger,
        selection: Selection,
        clock: Clock,
        events: Events,
        settings: UploadSettings,
    ) -> None:
        self._watcher, self._reader, self._sender, self._ledger = watcher, reader, sender, ledger
        self._selection, self._clock, self._events, self._settings = selection, clock, events, settings
        self._settler = Settler(settings.quiet_seconds)
        self._scan: Iterator[tuple[str, list[tuple[str, Stat]]]] | None = None
        self._scan_timer = Every(settings.scan_seconds)
        self._look_timer = Every(LOOK_SECONDS)
        self._scanned = self._changed = self._recorded = self._scans = 0
        self._root_error = ""
        self._started = clock.monotonic()
        self._record_only = ledger.is_new and not settings.upload_existing
        self._hinted_early: set[str] = set()

    @property
    def done(self) -> bool:
        """True when the root was scanned and everything found there was dealt with."""
        return self._scans > 0 and self._scan is None and not self._settler and self._sender.idle

    def status(self) -> Status:
        """Where the program stands."""
        unsettled = sum(not self._was_sent(path, stat) for path, stat in self._settler.due(math.inf))
        return _status(self._sender, self._clock.monotonic() - self._started, unsettled)

    def look(self) -> None:
        """Take hints, go on with the scan, and queue what settled."""
        now = self._clock.monotonic()
        if not self._look_timer.due(now):
            return
        if self._scan is None and self._scan_timer.due(now):
            self._begin_scan()
        self._take_hints(now)
        self._go_on_scanning(now)
        for path in self._sender.due_retries(now):
            self._look_at(path, now)
        self._queue_settled(now)

    def turn(self) -> bool:
        """Let the sender work; True when it did something."""
        return self._sender.turn(start_more=True)

    def rest(self) -> None:
        """Nothing can be done now: wait for the broker, a hint, or the end of a quiet time."""
        if not self._sender.quiet:
            self._sender.await_acknowledgements(LOOK_SECONDS)
            return
        if self._scan is not None:
            return
        due = self._settler.next_due()
        wait = IDLE_SECONDS if due is None else min(IDLE_SECONDS, max(0.0, due - self._clock.monotonic()))
        before = self._clock.monotonic()
        self._watcher.wait(max(wait, LOOK_SECONDS))
        # A hint ends the wait at once, and hints are taken only every LOOK_SECONDS: without this rest, a file that
        # is being written all the time would keep a whole core busy.
        hinted = self._clock.monotonic() - before < LOOK_SECONDS
        self._sender.await_acknowledgements(LOOK_SECONDS if hinted else 0)

    # -- noticing -------------------------------------------------------------------------------------------

    def _take_hints(self, now: float) -> None:
        hints = self._watcher.hints()
        if hints.everything and self._scan is None:
            self._begin_scan()
        for path in hints.files:
            if self._record_only:
                self._hinted_early.add(path)
            else:
                self._look_at(path, now)
        for folder in hints.folders:
            self._look_into(folder, now)

    def _look_into(self, folder: str, now: float) -> None:
        """A folder appeared or was moved in: its files may have caused no hint of their own."""
        try:
            for _, files in self._watcher.scan(folder):
                for path, stat in files:
                    if self._record_only:
                        self._hinted_early.add(path)
                    elif not self._selection.why(path):
                        self._observe(path, stat, now)
        except SourceError:
            return  # gone again; the next scan of the root tells what is there

    def _look_at(self, path: str, now: float) -> None:
        if self._selection.why(path):
            return
        stat = self._reader.stat(path)
        if stat is None:
            self._settler.forget(path)
        else:
            self._observe(path, stat, now)

    def _observe(self, path: str, stat: Stat, now: float) -> None:
        known = self._ledger.known(path)
        if known is not None and known.stat.same_content(stat) and (known.sent or not self._settings.upload_existing):
            self._settler.forget(path)
        else:
            self._settler.observe(path, stat, now)

    # -- scanning -------------------------------------------------------------------------------------------

    def _begin_scan(self) -> None:
        self._scan = iter(self._watcher.scan())
        self._scanned = self._changed = self._recorded = 0

    def _go_on_scanning(self, now: float) -> None:
        if self._scan is None:
            return
        stop_at = self._clock.monotonic() + SCAN_SLICE_SECONDS
        try:
            for folder, files in self._scan:
                self._compare(folder, files, now)
                if self._clock.monotonic() >= stop_at:
                    return
        except SourceError as error:
            if self._root_error != error.message:
                self._root_error = error.message
                self._events(Note(f"{error.message}; nothing is taken as deleted, looking again", error.hint))
            self._scan = None
            return
        self._scan_done(now)

    def _compare(self, folder: str, files: list[tuple[str, Stat]], now: float) -> None:
        """Hold a folder's files against what the ledger knows of it; differences have to settle."""
        known_here = self._ledger.known_in(folder)
        for path, stat in files:
            self._scanned += 1
            known = known_here.get(path)
            if known is not None and known.stat.same_content(stat):
                if known.sent or not self._settings.upload_existing:
                    continue
            elif self._record_only:
                if not self._selection.why(path):
                    self._ledger.record_existing(path, stat)
                    self._recorded += 1
                continue
            reason = self._selection.why(path)
            if reason:
                if self._scans == 0:
                    self._events(FileSkipped(path, reason))
                continue
            self._changed += 1
            if not self._sender.blocked_until(path, now):
                self._settler.observe(path, stat, now)

    def _scan_done(self, now: float) -> None:
        self._scan = None
        self._root_error = ""
        self._scans += 1
        if self._scans == 1:
            self._events(ScanDone(self._scanned, self._changed, self._recorded))
            self._record_only = False
            for path in self._hinted_early:  # these changed while the first scan ran: not "existing"
                self._ledger.forget(path)
                self._look_at(path, now)
            self._hinted_early.clear()
            self._ledger.first_scan_done()
            self._ledger.commit()
            self._sender.abandon_parked()

    # -- settling -------------------------------------------------------------------------------------------

    def _queue_settled(self, now: float) -> None:
        for path, stat in self._settler.due(now):
            if self._sender.waiting >= QUEUE_FILES:
                return
            if self._sender.busy(path):
                continue
            current = self._reader.stat(path)
            if current is None:
                self._settler.forget(path)
            elif current != stat:
                self._settler.observe(path, current, now)
            else:
                self._settler.forget(path)
                if not self._was_sent(path, current):
                    self._sender.enqueue(path, current)

    def _was_sent(self, path: str, stat: Stat) -> bool:
        # A scan that ran while the path was on its way saw it as new once more.
        known = self._ledger.known(path)
        return known is not None and known.sent and known.stat.same_content(stat)
