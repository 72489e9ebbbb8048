"""The upload flow, top to bottom: notice files, let them settle, send them, remember them.

``DirectoryUpload`` watches a folder until it is told to stop; ``upload_files`` sends given files once. Both are one
loop on one thread: everything that takes long is done in small steps, so that a request to stop or to report is
answered at once. Knows the core and the ports, and no library.
"""

from __future__ import annotations

from collections.abc import Sequence

from openmsistream.core.events import Alive, FileSkipped, ProgramStopped, Status
from openmsistream.core.settle import Settler, Stat
from openmsistream.pipeline.live import LiveSnapshot
from openmsistream.pipeline.noticing import Noticing, Root, UploadSettings
from openmsistream.pipeline.runner import SHUTDOWN_SECONDS, Control, Every, Totals
from openmsistream.pipeline.sender import Sender
from openmsistream.pipeline.settling import Settling
from openmsistream.ports import Clock, Events

LOOK_SECONDS = 0.05
"""How often hints are taken and settled files are looked for while there is other work."""
HINT_SECONDS = 0.005
"""The same while there is none: a file that is being written all the time must not keep a whole core busy."""
FIRST_REST_SECONDS = 0.002
IDLE_SECONDS = 0.5
"""The longest the loop waits for a hint when there is nothing to do."""
GROWING_REST_SECONDS = 0.1
LIVE_SECONDS = 2.0


class DirectoryUpload:
    """
    Sends every file that is, or comes, below a root.

    Args:
        root: The root and its parts.
        settings: How to watch.
        pid: The process id, for those who look at the ledger.
        rules: In words, when files count as complete, for them too.
    """

    def __init__(self, root: Root, settings: UploadSettings, *, pid: int = 0, rules: str = "") -> None:
        self._root, self._settings, self._sender, self._clock = root, settings, root.sender, root.clock
        self._settler = Settler(settings.rule_for)
        self._noticing = Noticing(root, self._settler, settings)
        self._settling = Settling(root, self._settler, self._noticing.held_open)
        self._live = LiveSnapshot(root.sender, self._settler, pid=pid, started_ns=root.clock.now_ns(), rules=rules)
        self._started = root.clock.monotonic()
        self._look_timer, self._live_timer = Every(LOOK_SECONDS), Every(LIVE_SECONDS)
        self._hinted = False
        self._looked_at = float("-inf")
        self._rest_seconds = FIRST_REST_SECONDS

    def run(self, control: Control) -> Totals:
        """
        Watch and send until told to stop.

        Returns:
            What was sent. Files that were not sent to their end are parked in the ledger.
        """
        events, settings = self._root.events, self._settings
        alive = Every(settings.alive_seconds, first=self._started)
        self._root.watcher.start()
        try:
            while not control.stopping:
                control.turn()
                if control.take_check():
                    events(self.status())
                if settings.alive_seconds > 0 and alive.due(self._clock.monotonic()):
                    events(Alive("upload"))
                self._look()
                if self._sender.turn(start_more=True):
                    self._rest_seconds = FIRST_REST_SECONDS
                    continue
                if settings.once and self._done():
                    break
                self._rest()
            finish(self._sender, self._clock, control, settings.shutdown_seconds)
            self._tell_live(stopped=True)
            self._root.ledger.commit()
        finally:
            self._root.watcher.stop()
        events(stopped("upload", control.reason or "everything was sent", self.status(), self._sender.totals))
        return self._sender.totals

    def status(self) -> Status:
        """Where the program stands."""
        return _status(self._sender, self._clock.monotonic() - self._started, self._settling.unsettled())

    def _look(self) -> None:
        """Take hints, go on with the scan, and queue what settled."""
        now = self._clock.monotonic()
        self._noticing.go_on_scanning(now)
        hinted, self._hinted = self._hinted, False
        if not (self._look_timer.due(now) or hinted):
            return
        self._looked_at = now
        self._noticing.look(now)
        for path in self._sender.due_retries(now):
            self._noticing.look_at(path, now)
        self._settling.queue_settled(now)
        if self._live_timer.due(now):
            self._tell_live(stopped=False)

    def _rest(self) -> None:
        """Nothing can be done now: wait for the broker, a hint, or the end of a quiet time."""
        if self._noticing.scanning:
            return
        if not self._sender.quiet:
            self._sender.await_acknowledgements(self._rest_seconds)
            self._rest_seconds = min(2 * self._rest_seconds, LOOK_SECONDS)
            return
        now, due = self._clock.monotonic(), self._settler.next_due()
        wait = IDLE_SECONDS if due is None else min(IDLE_SECONDS, due - now)
        if self._sender.growing:
            wait = min(wait, GROWING_REST_SECONDS)
        soonest = self._looked_at + HINT_SECONDS - now
        if soonest > 0:
            self._sender.await_acknowledgements(soonest)
        self._root.watcher.wait(max(wait, HINT_SECONDS))
        self._hinted = True

    def _done(self) -> bool:
        """True when the root was scanned and everything found there was dealt with, as far as it can be."""
        if self._noticing.scans == 0 or self._noticing.scanning or not self._sender.idle:
            return False
        if len(self._settler) and not self._settling.only_lacking:
            return False
        for path in self._settling.lacking():
            known = self._settler.explain(path)
            if known is not None:
                self._root.events(FileSkipped(path, f"it may not be complete: waits for {known.waiting_for}"))
        return True

    def _tell_live(self, *, stopped: bool) -> None:
        snapshot = self._live.changed(self._clock.monotonic(), self._clock.now_ns(), stopped=stopped)
        if snapshot is not None:
            self._root.ledger.record_live(snapshot)


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
