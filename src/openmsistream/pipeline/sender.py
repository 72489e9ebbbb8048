"""Sending settled files: which are on their way, what the broker said of them, and what the ledger is told.

The middle of the upload flow. It is given paths that have settled and works on them bit by bit, from the
program's loop; it does not know how they were found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from openmsistream.core.events import FileProgress, FileSent, FileSkipped, FileStarted, Note
from openmsistream.core.ids import RANDOM_BYTES, uuid7
from openmsistream.core.settle import Stat
from openmsistream.errors import OpenMSIStreamError, SourceError, UnavailableError
from openmsistream.pipeline.frames import Frame
from openmsistream.pipeline.growing import GrowingFiles
from openmsistream.pipeline.parked import ParkedVersions
from openmsistream.pipeline.retries import Retries
from openmsistream.pipeline.runner import Every, Totals
from openmsistream.pipeline.sender_settings import SenderSettings
from openmsistream.pipeline.sending import Sending, State
from openmsistream.ports import Clock, Events, FileReader, Producer, UploadLedger

COMMIT_BYTES = 4 * 1024 * 1024
"""Acknowledged bytes between two commits of the ledger: what a kill may cost, besides what is on its way."""
COMMIT_SECONDS = 0.25
COMMIT_FILES = 1000
"""One SQLite transaction per 1000 rows is 300 times faster than one per row (measured)."""
PROGRESS_SECONDS = 0.25
STEPS_PER_TURN = 64
"""Files or chunks between two looks at the watcher and the user, unless TURN_BYTES come first."""
TURN_BYTES = COMMIT_BYTES


@dataclass(frozen=True, slots=True)
class Queued:
    """A file that settled and is to be sent: what it looked like, and why it is taken to be complete."""

    path: str
    stat: Stat
    evidence: str = ""


class Sender:
    """Everything between a settled path and a row in the ledger."""

    def __init__(
        self,
        producer: Producer,
        reader: FileReader,
        ledger: UploadLedger,
        clock: Clock,
        random: Callable[[int], bytes],
        events: Events,
        settings: SenderSettings,
    ) -> None:
        self._producer, self._reader, self._ledger = producer, reader, ledger
        self._clock, self._random, self._events, self._settings = clock, random, events, settings
        self._partitions = ledger.partitions(producer.partitions)
        self._queue: deque[Queued] = deque()
        self._active: deque[Sending] = deque()
        self._awaiting: deque[Sending] = deque()
        self.growing = GrowingFiles(reader)
        self._several: list[Sending] = []  # everything under way that is more than one chunk
        self.parked = ParkedVersions(
            producer,
            ledger,
            events,
            wire=settings.wire,
            chunk_bytes=settings.chunk_bytes,
            resume_within_seconds=settings.resume_within_seconds,
        )
        self._busy: set[str] = set()
        self._frames = [Frame(settings.chunk_bytes) for _ in range(settings.at_once)]
        self._unsaved = self._saved_bytes = self._turn_bytes = 0
        self._commit_timer = Every(COMMIT_SECONDS, first=clock.monotonic())
        self._progress_timer = Every(PROGRESS_SECONDS, first=clock.monotonic())
        self.totals = Totals()
        self.retries = Retries(reader, ledger, clock, events, self.totals, settings.tries)

    # -- what the loop asks and tells ---------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing is queued, on its way, or waiting for another try."""
        return not (self._queue or self.retries) and self.quiet

    @property
    def quiet(self) -> bool:
        """True when nothing is being read or awaits the broker."""
        return not (self._active or self._awaiting or self.parked.unanswered)

    @property
    def waiting(self) -> int:
        """How many files are queued or will be tried again."""
        return len(self._queue) + len(self.retries)

    @property
    def queued(self) -> int:
        """How many files are queued."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """How many files are on their way."""
        return len(self._active) + len(self._awaiting)

    @property
    def chunk_bytes(self) -> int:
        """Payload of every chunk but the last."""
        return self._settings.chunk_bytes

    def under_way(self) -> list[tuple[str, int, int | None]]:
        """Path, acknowledged bytes and size of every larger file on its way; the size is None while it grows."""
        return [(s.final_path, s.acknowledged, s.size) for s in self._several]

    def busy(self, path: str) -> bool:
        """True when a version of the path is queued or on its way: the next one has to wait."""
        return path in self._busy

    def due_retries(self, now: float) -> list[str]:
        """The paths that failed and whose time for another try has come."""
        return self.retries.due(now, self._busy) if self.retries else []

    def enqueue(self, path: str, stat: Stat, evidence: str = "") -> None:
        """A file settled: send it in its turn."""
        self._busy.add(path)
        self.retries.begins(path)
        if not self.growing.settle(path, stat, evidence, lambda: self._ledger.next_gen(self._clock.now_ns())):
            self._queue.append(Queued(path, stat, evidence))

    def turn(self, *, start_more: bool) -> bool:
        """
        Do a bounded amount of work.

        Returns:
            True when something was done; False when the queue is full or there is nothing to do.
        """
        worked = self._producer.poll(0) > 0
        if start_more:
            self._active.extend(self.growing.awake(self._clock.monotonic()))
        else:
            self._let_growing_sleep()
        self._turn_bytes = 0
        for _ in range(STEPS_PER_TURN):
            if start_more and self._queue:
                self._start_next()
            if not self._step():
                break
            worked = True
            if self._turn_bytes >= TURN_BYTES:
                break
        self._producer.poll(0)
        self._reap()
        self._remember()
        return worked

    def stream(self, path: str) -> None:
        """A file is being written: send its bytes as they come, if not too many are streamed already."""
        if path in self._busy or path in self.retries or not self.growing.welcomes(path):
            return
        try:
            sending = self._open(path, growing=True)
        except OpenMSIStreamError:
            return  # when it settles it is sent as any other file, and what is wrong with it is told
        if sending is not None:
            self.growing.add(sending)
            if sending.state is State.GROWING:
                self._begins(sending)

    def await_acknowledgements(self, seconds: float) -> None:
        """Give the broker up to ``seconds`` to answer."""
        self._producer.poll(seconds)
        self._reap()

    def finish(self) -> None:
        """Park what is not sent to its end, and make the ledger durable."""
        self._save()
        for sending in (*self._active, *self._awaiting, *self.growing):
            if sending.state is not State.FAILED:
                sending.fail(UnavailableError("stopped"))

    # -- one turn -------------------------------------------------------------------------------------------

    def _start_next(self) -> None:
        while self._queue and self._frames:
            queued = self._queue.popleft()
            path = queued.path
            try:
                sending = self._open(path, evidence=queued.evidence)
            except OpenMSIStreamError as error:
                self._failed(path, error)
                continue
            if sending is None:
                self._busy.discard(path)
                continue
            if not sending.stat.same_content(queued.stat):
                sending.fail(SourceError(f"{path}: it changed before it was sent"))
                self._failed(path, SourceError(f"{path}: it changed before it was sent"), quietly=True)
                self._frames.append(sending.frame)
                continue
            self._active.append(sending)
            if sending.state is State.SENDING:
                self._begins(sending)

    def _let_growing_sleep(self) -> None:
        """The program is about to end, and their writers may not."""
        for sending in [sending for sending in self._active if sending.state is State.GROWING]:
            self._active.remove(sending)
            self.growing.sleeps(sending)

    def _begins(self, sending: Sending) -> None:
        """Its first chunk is next: now it is known whether a version under way before goes on."""
        if not sending.single:
            self._several.append(sending)
            self._ledger.record_open(sending.parked())
            self._events(FileStarted(sending.path, sending.stat.size, sending.resumed_at))

    def _open(self, path: str, *, evidence: str = "", growing: bool = False) -> Sending | None:
        """The next version of a file, ready to be sent; None when the file as it is was sent already."""
        file = self._reader.open(path)
        now_ns = self._clock.now_ns()
        try:
            parked = self.parked.take(path, file.stat, now_ns)
        except OpenMSIStreamError:
            file.close()
            raise
        known = None if parked or growing else self._ledger.known(path)
        if known is not None and known.sent and known.stat.same_content(file.stat):
            file.close()  # a scan that ran while the path was on its way saw it as new once more
            return None
        same_size = known is not None and known.sent and known.stat.size == file.stat.size
        return Sending(
            path,
            file,
            wire=self._settings.wire,
            version=parked.version if parked else uuid7(now_ns, self._random(RANDOM_BYTES)),
            gen=parked.gen if parked else self._ledger.next_gen(now_ns),
            src=self._ledger.src,
            frame=Frame(self._settings.chunk_bytes) if growing else self._frames.pop(),
            partition_count=self._partitions,
            now=self._clock.monotonic(),
            started_ns=parked.started_ns if parked else now_ns,
            sent_digest=known.digest if known and same_size else None,
            parked=parked,
            on_parked_changed=lambda old: self.parked.abort(old, "its beginning changed"),
            growing=growing,
            evidence=evidence,
        )

    def _step(self) -> bool:
        """One chunk of one file, or one record of the outbox; False when nothing can be done now."""
        outbox = self.parked.outbox
        if outbox:
            self._ledger.commit()
        while outbox:
            abort = outbox[0]
            if not self._producer.produce(abort.partition, abort.key, abort.value, partial(self.parked.told, abort)):
                return False
            outbox.popleft()
        if not self._active:
            return False
        sending = self._active[0]
        size, rate = sending.next_bytes, self._settings.rate
        if rate is not None and rate.wait_for(size, self._clock.monotonic()) > 0:
            return False
        self._active.popleft()
        before = sending.state
        accepted = sending.step(self._producer)
        if before is State.HASHING and sending.state in (State.SENDING, State.GROWING) and not sending.verified:
            self._begins(sending)
        if accepted:
            self._turn_bytes += size
            if rate is not None:
                rate.take(size, self._clock.monotonic())
        if sending.state in (State.HASHING, State.SENDING) or (sending.state is State.GROWING and sending.has_work()):
            self._active.append(sending)
        elif sending.state is State.GROWING:
            self.growing.sleeps(sending)
        else:
            if not sending.streamed:  # those have a buffer of their own
                self._frames.append(sending.frame)
            self._awaiting.append(sending)
        return accepted

    def _reap(self) -> None:
        """Take what the broker has decided out of the flow, oldest first."""
        for sending in self._finished():
            if sending.state is State.SENT:
                self._sent(sending)
            elif sending.state is State.SAME:
                self._ledger.record_same(sending.path, sending.stat)
                self._unsaved += 1
                self._busy.discard(sending.path)
                self.retries.done(sending.path)
                self._events(FileSkipped(sending.path, "touched only: the same content was sent before"))
            else:
                self._give_up(sending)

    def _finished(self) -> Iterator[Sending]:
        # Acknowledgements of different partitions come in any order: look at each once, keep the rest in order.
        for _ in range(len(self._awaiting)):
            sending = self._awaiting.popleft()
            if sending.state is State.AWAITING or (sending.state is State.FAILED and sending.in_flight):
                self._awaiting.append(sending)
            else:
                yield sending

    def _sent(self, sending: Sending) -> None:
        path = sending.final_path
        self._ledger.record_sent(
            path,
            sending.stat,
            sending.version,
            sending.gen,
            sending.digest,
            self._clock.now_ns(),
            sending.evidence,
        )
        if not sending.single:
            self._ledger.drop_open(sending.path)
            self._several.remove(sending)
        self._unsaved += 1
        self._busy.discard(path)
        self.retries.done(path)
        self.totals.files += 1
        self.totals.total_bytes += sending.stat.size
        self._events(FileSent(path, sending.stat.size, self._clock.monotonic() - sending.started))

    def _give_up(self, sending: Sending) -> None:
        """A version failed: the broker refused it, or its file changed. Retry goes on where it was acknowledged."""
        error = sending.error or SourceError(f"{sending.path}: gave up")
        path = sending.final_path
        if sending in self._several:
            self._several.remove(sending)
        if isinstance(error, SourceError):
            record = sending.abort_record(error.message)
            if record is None:
                self._ledger.drop_open(sending.path)
            else:
                self.parked.tell(sending.parked(), *record)
        elif not sending.single and sending.acknowledged > 0:
            self.parked.keep(sending.parked())
        if sending.streamed:
            self.growing.ended(sending, spoiled=isinstance(error, SourceError))
            if isinstance(error, SourceError):
                self._events(Note(f"{error.message}; it begins anew, and is sent when it is complete"))
            if not sending.settling:
                return  # it has not settled yet, and will be sent as any other file when it does
        self._failed(path, error, quietly=sending.streamed)

    def _failed(self, path: str, error: OpenMSIStreamError, *, quietly: bool = False) -> None:
        self._busy.discard(path)
        self.retries.failed(path, error, quietly=quietly)

    # -- the ledger -----------------------------------------------------------------------------------------

    def _remember(self) -> None:
        now = self._clock.monotonic()
        if self._progress_timer.due(now):
            for sending in self._several:
                self._events(FileProgress(sending.final_path, sending.acknowledged, sending.size))
        acknowledged = self.totals.total_bytes + sum(sending.acknowledged for sending in self._several)
        if (
            self._unsaved >= COMMIT_FILES
            or abs(acknowledged - self._saved_bytes) >= COMMIT_BYTES
            or self._commit_timer.due(now)
        ):
            self._saved_bytes = acknowledged
            self._save()

    def _save(self) -> None:
        for sending in self._several:
            if sending.state is not State.FAILED:
                self._ledger.record_open(sending.parked())
        self._ledger.commit()
        self._unsaved = 0
