"""Sending settled files: which are on their way, what the broker said of them, and what the ledger is told.

The middle of the upload flow. It is given paths that have settled and works on them bit by bit, from the
program's loop; it does not know how they were found.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from openmsistream.core.events import FileFailed, FileProgress, FileSent, FileSkipped, FileStarted, Note
from openmsistream.core.ids import RANDOM_BYTES, uuid7
from openmsistream.core.paths import to_wire_bytes
from openmsistream.core.settle import Stat
from openmsistream.errors import OpenMSIStreamError, SourceError, UnavailableError
from openmsistream.pipeline.runner import Every, Totals
from openmsistream.pipeline.sending import Frame, Sending, State, Wire, abort_value
from openmsistream.ports import Clock, Events, FileReader, Parked, Producer, UploadLedger

COMMIT_SECONDS = 0.25
COMMIT_FILES = 1000
"""One SQLite transaction per 1000 rows is 300 times faster than one per row (measured)."""
PROGRESS_SECONDS = 0.25
STEPS_PER_TURN = 64
"""Chunks between two looks at the watcher and the user: 32 MiB at the default chunk size."""
ERRORS_KEPT = 20
RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)


@dataclass(frozen=True, slots=True)
class SenderSettings:
    """
    How to send.

    Attributes:
        wire: The format to write.
        chunk_bytes: Payload of every chunk but the last.
        at_once: Files sent at the same time.
        resume_within_seconds: A version parked longer ago is sent anew.
        tries: How often a file is tried before it is given up; 0: for ever.
    """

    wire: Wire
    chunk_bytes: int
    at_once: int = 2
    resume_within_seconds: float = 24 * 3600
    tries: int = 0


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
        self._queue: deque[tuple[str, Stat]] = deque()
        self._active: deque[Sending] = deque()
        self._awaiting: deque[Sending] = deque()
        self._outbox: deque[tuple[int, bytes, bytes]] = deque()
        self._parked = {parked.path: parked for parked in ledger.open_versions()}
        self._busy: set[str] = set()
        self._retry_at: dict[str, float] = {}
        self._retries: dict[str, int] = {}
        self._frames = [Frame(settings.chunk_bytes) for _ in range(settings.at_once)]
        self._unsaved = 0
        self._commit_timer = Every(COMMIT_SECONDS, first=clock.monotonic())
        self._progress_timer = Every(PROGRESS_SECONDS, first=clock.monotonic())
        self.totals = Totals()
        self.errors: list[OpenMSIStreamError] = []

    # -- what the loop asks and tells ---------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """True when nothing is queued, on its way, or waiting for another try."""
        return not (self._queue or self._retry_at) and self.quiet

    @property
    def quiet(self) -> bool:
        """True when nothing is being read or awaits the broker."""
        return not (self._active or self._awaiting or self._outbox)

    @property
    def waiting(self) -> int:
        """How many files are queued or will be tried again."""
        return len(self._queue) + len(self._retry_at)

    @property
    def active(self) -> int:
        """How many files are on their way."""
        return len(self._active) + len(self._awaiting)

    def busy(self, path: str) -> bool:
        """True when a version of the path is queued or on its way: the next one has to wait."""
        return path in self._busy

    def blocked_until(self, path: str, now: float) -> bool:
        """True when the path failed lately and is not to be tried again yet."""
        at = self._retry_at.get(path)
        return at is not None and at > now

    def enqueue(self, path: str, stat: Stat) -> None:
        """A file settled: send it in its turn."""
        self._busy.add(path)
        self._retry_at.pop(path, None)
        self._queue.append((path, stat))

    def abandon_parked(self) -> None:
        """Tell consumers to discard versions under way before whose files are gone from the root."""
        for parked in list(self._parked.values()):
            if self._reader.stat(parked.path) is None:
                self._abort_parked(self._parked.pop(parked.path), "the file was removed before it was sent whole")

    def turn(self, *, start_more: bool) -> bool:
        """
        Do a bounded amount of work.

        Returns:
            True when something was done; False when the queue is full or there is nothing to do.
        """
        worked = self._producer.poll(0) > 0
        for _ in range(STEPS_PER_TURN):
            if start_more:
                self._start_next()
            if not self._step():
                break
            worked = True
        self._producer.poll(0)
        self._reap()
        self._remember()
        return worked

    def await_acknowledgements(self, seconds: float) -> None:
        """Give the broker up to ``seconds`` to answer."""
        self._producer.poll(seconds)
        self._reap()

    def finish(self) -> None:
        """Park what is not sent to its end, and make the ledger durable."""
        for sending in (*self._active, *self._awaiting):
            if not sending.single and sending.state in (State.SENDING, State.AWAITING):
                self._ledger.record_open(sending.parked())
            if sending.state is not State.FAILED:
                sending.fail(UnavailableError("stopped"))
        self._ledger.commit()

    # -- one turn -------------------------------------------------------------------------------------------

    def _start_next(self) -> None:
        while self._queue and len(self._active) < self._settings.at_once:
            path, stat = self._queue.popleft()
            try:
                sending = self._open(path)
            except OpenMSIStreamError as error:
                self._failed(path, error)
                continue
            if not sending.stat.same_content(stat):
                sending.fail(SourceError(f"{path}: it changed before it was sent"))
                self._failed(path, SourceError(f"{path}: it changed before it was sent"), quietly=True)
                self._frames.append(sending.frame)
                continue
            self._active.append(sending)
            if sending.state is State.SENDING:
                self._begins(sending)

    def _begins(self, sending: Sending) -> None:
        """Its first chunk is next: now it is known whether a version under way before goes on."""
        if not sending.single:
            self._ledger.record_open(sending.parked())
            self._events(FileStarted(sending.path, sending.size, sending.resumed_at))

    def _open(self, path: str) -> Sending:
        file = self._reader.open(path)
        now_ns = self._clock.now_ns()
        try:
            parked = self._take_parked(path, file.stat, now_ns)
        except OpenMSIStreamError:
            file.close()
            raise
        known = None if parked else self._ledger.known(path)
        same_size = known is not None and known.sent and known.stat.size == file.stat.size
        return Sending(
            path,
            file,
            wire=self._settings.wire,
            version=parked.version if parked else uuid7(now_ns, self._random(RANDOM_BYTES)),
            gen=parked.gen if parked else self._ledger.next_gen(now_ns),
            src=self._ledger.src,
            frame=self._frames.pop(),
            partition_count=self._partitions,
            now=self._clock.monotonic(),
            started_ns=parked.started_ns if parked else now_ns,
            sent_digest=known.digest if known and same_size else None,
            parked=parked,
            on_parked_changed=lambda old: self._abort_parked(old, "its beginning changed"),
        )

    def _step(self) -> bool:
        """One chunk of one file, or one record of the outbox; False when nothing can be done now."""
        while self._outbox:
            partition, key, value = self._outbox[0]
            if not self._producer.produce(partition, key, value, _ignore):
                return False
            self._outbox.popleft()
        if not self._active:
            return False
        sending = self._active.popleft()
        before = sending.state
        accepted = sending.step(self._producer)
        if before is State.HASHING and sending.state is State.SENDING:
            self._begins(sending)
        if sending.state in (State.HASHING, State.SENDING):
            self._active.append(sending)
        else:
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
        self._ledger.record_sent(
            sending.path, sending.stat, sending.version, sending.gen, sending.digest, self._clock.now_ns()
        )
        self._unsaved += 1
        self._busy.discard(sending.path)
        self._retries.pop(sending.path, None)
        self.totals.files += 1
        self.totals.total_bytes += sending.size
        self._events(FileSent(sending.path, sending.size, self._clock.monotonic() - sending.started))

    def _give_up(self, sending: Sending) -> None:
        """A version failed: the broker refused it, or its file changed. Retry goes on where it was acknowledged."""
        error = sending.error or SourceError(f"{sending.path}: gave up")
        if isinstance(error, SourceError):
            record = sending.abort_record(error.message)
            if record is not None:
                self._outbox.append((sending.partition, *record))
            self._ledger.drop_open(sending.path)
        elif not sending.single and sending.acknowledged > 0:
            self._parked[sending.path] = sending.parked()
            self._ledger.record_open(sending.parked())
        self._failed(sending.path, error)

    def _failed(self, path: str, error: OpenMSIStreamError, *, quietly: bool = False) -> None:
        self._busy.discard(path)
        if self._settings.tries != 1 and isinstance(error, SourceError) and self._reader.stat(path) is None:
            self._retries.pop(path, None)  # when it comes back, it is noticed as any other file
            self._events(FileSkipped(path, "it was removed before it was sent"))
            return
        tries = self._retries[path] = self._retries.get(path, 0) + 1
        again = not self._settings.tries or tries < self._settings.tries
        if again:
            delay = 0.0 if quietly else RETRY_SECONDS[min(tries, len(RETRY_SECONDS)) - 1]
            self._retry_at[path] = self._clock.monotonic() + delay
        if quietly and again:
            return
        if not again:
            self.totals.failed += 1
            self._retries.pop(path, None)
            self.errors.append(error)
            del self.errors[:-ERRORS_KEPT]
        if not again or tries & (tries - 1) == 0:  # the 1st, 2nd, 4th, 8th ... try: a line each minute helps nobody
            self._events(FileFailed(path, error.message, again, error.hint))

    def due_retries(self, now: float) -> list[str]:
        """The paths whose time for another try has come."""
        due = [path for path, at in self._retry_at.items() if at <= now and path not in self._busy]
        for path in due:
            del self._retry_at[path]
        return due

    # -- the ledger -----------------------------------------------------------------------------------------

    def _remember(self) -> None:
        now = self._clock.monotonic()
        if self._progress_timer.due(now):
            for sending in (*self._active, *self._awaiting):
                if not sending.single:
                    self._events(FileProgress(sending.path, sending.acknowledged, sending.size))
        if self._unsaved >= COMMIT_FILES or self._commit_timer.due(now):
            for sending in (*self._active, *self._awaiting):
                if not sending.single and sending.state in (State.SENDING, State.AWAITING):
                    self._ledger.record_open(sending.parked())
            self._ledger.commit()
            self._unsaved = 0

    # -- versions under way when the program ended ----------------------------------------------------------

    def _take_parked(self, path: str, stat: Stat, now_ns: int) -> Parked | None:
        """The parked version of a path if it may go on; if not, consumers are told to discard it."""
        parked = self._parked.get(path)
        if parked is None:
            return None
        reason = self._cannot_resume(parked, stat, now_ns)
        del self._parked[path]
        if not reason:
            return parked
        self._abort_parked(parked, reason)
        return None

    def _cannot_resume(self, parked: Parked, stat: Stat, now_ns: int) -> str:
        if not parked.stat.same_content(stat):
            return "the file changed before it was sent whole"
        if (self._settings.wire is Wire.V2) != (len(parked.version) == 16):
            return "the wire format was changed"
        if parked.chunk_bytes != self._settings.chunk_bytes and self._settings.wire is not Wire.V2:
            return "the chunk size was changed"
        if now_ns - parked.started_ns > self._settings.resume_within_seconds * 1e9:
            return "it was interrupted too long ago"
        if parked.acknowledged == 0:
            return "nothing of it was acknowledged"
        if self._producer.log_start(parked.partition) > parked.first_offset:
            return "its first chunk is no longer on the topic"
        return ""

    def _abort_parked(self, parked: Parked, reason: str) -> None:
        self._ledger.drop_open(parked.path)
        if len(parked.version) != 16:
            return  # v1 has no such record
        value = abort_value(
            parked.path,
            parked.version,
            self._ledger.src,
            parked.gen,
            parked.acknowledged,
            parked.stat,
            reason,
        )
        self._outbox.append((parked.partition, to_wire_bytes(parked.path), value))
        if parked.acknowledged:
            self._events(Note(f"{parked.path}: begins anew ({reason})"))

    def parked_paths(self) -> list[str]:
        """Paths of the versions that were under way when the program ended."""
        return list(self._parked)


def _ignore(offset: int, error: OpenMSIStreamError | None) -> None:
    """Nobody waits for the broker's word on an abort record: a version without its end never completes anyway."""
