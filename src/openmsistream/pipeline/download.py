"""The download flow, top to bottom: read a record, decode it, check its path, put the file together, deliver it.

One loop on one thread. Whole files become visible, and offsets are committed, only at a *barrier*: bytes synced,
names given, folders synced, ledger written (``delivery.py``), the watermark committed with what is open there
(``partitions.py``), in this order, so that a kill at any point loses nothing and shows nothing half. Knows the core
and the ports, and no library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from openmsistream.core.assembly import Assembly, OpenVersion, Verb
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.events import Alive, FileProgress, FileStarted, FileSuperseded, Note, ProgramStopped, Status
from openmsistream.core.selection import Selection
from openmsistream.core.versions import VersionKey, is_conflict, is_newer, key_of
from openmsistream.core.watermark import watermark
from openmsistream.core.wire.recognise import decode_record
from openmsistream.core.wire.v1 import delivered_name
from openmsistream.errors import BytesLostError, OpenMSIStreamError, ProtocolError, UnavailableError
from openmsistream.pipeline.beside import Beside
from openmsistream.pipeline.delivery import Delivery, final_path
from openmsistream.pipeline.download_settings import DownloadSettings
from openmsistream.pipeline.expiry import Expiry
from openmsistream.pipeline.partitions import Partitions
from openmsistream.pipeline.patience import TakenAwayError, UntilStored
from openmsistream.pipeline.runner import Control, DownloadTotals, Every
from openmsistream.pipeline.spread import Spread
from openmsistream.ports import Clock, Consumer, DownloadLedger, Events, Record, Sink

POLL_SECONDS = 0.05
PROGRESS_SECONDS = 0.25


class Download:
    """
    One downloader: from a topic to a sink (``ports.Rebalance`` for its consumer).

    Attributes:
        replaced: True when it ended because the topic was deleted and made again.
        unfit: True when it ended because bytes that it had received are gone, and are to be read again.
    """

    def __init__(
        self,
        topic: str,
        consumer: Consumer,
        sink: Sink,
        ledger: DownloadLedger,
        selection: Selection,
        clock: Clock,
        events: Events,
        control: Control,
        settings: DownloadSettings,
        totals: DownloadTotals | None = None,
    ) -> None:
        self._topic, self._consumer, self._selection, self._clock = topic, consumer, selection, clock
        self._events, self._control, self._settings = events, control, settings
        self._assembly = Assembly()
        self._until_stored = UntilStored(consumer, control, events)
        self._beside = Beside(consumer, self._until_stored.read_meanwhile.append)
        self._expiry = Expiry(ledger, clock, events, settings.expiry)
        self._partitions = Partitions(topic, settings.topic_id, consumer, sink, ledger, events, self._expiry)
        self._delivery = Delivery(
            topic,
            sink,
            ledger,
            clock,
            events,
            self._until_stored,
            self._beside,
            settings.barrier,
            self._partitions.doubtful,
            self._expiry,
            totals or DownloadTotals(),
            keep_others=settings.keep_others,
            keep_option=settings.keep_option,
        )
        self._spread = Spread(topic, consumer, events)
        self._moved = self._unsure = False
        self._in_barrier = False
        self._assigned_once = False
        self._checkpoint = Every(settings.checkpoint_seconds, first=clock.monotonic())
        self._progress = Every(PROGRESS_SECONDS, first=clock.monotonic())
        self._alive = Every(settings.alive_seconds, first=clock.monotonic())
        self._began = self._last_record = clock.monotonic()
        self.replaced = self.unfit = False
        self._bytes_lost: BytesLostError | None = None

    @property
    def totals(self) -> DownloadTotals:
        """What was done since the start."""
        return self._delivery.totals

    @property
    def anew(self) -> bool:
        """True when it ended so that another one can begin from what the ledger has: see the attributes."""
        return self.replaced or self.unfit

    @property
    def open_versions(self) -> int:
        """How many versions are not whole yet."""
        return len(self._assembly)

    def open_version(self, key: VersionKey) -> OpenVersion | None:
        """What is known of a version that is not whole yet; None when it is not open."""
        return next((version for version in self._assembly.of_path(key.path) if version.key == key), None)

    def status(self) -> Status:
        """Where the program stands; ``active`` counts versions that are not whole yet."""
        done, seconds = self.totals, self._clock.monotonic() - self._began
        waiting = self._delivery.pending
        return Status(done.files, done.total_bytes, waiting, len(self._assembly), done.failed, seconds)

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> DownloadTotals:
        """
        Deliver files until told to stop, idle for as long as the settings say, or the topic is another one.

        Raises:
            DeliveryError: The broker refuses for good.
            StorageError: Asked to stop while the destination could not be written. Nothing is lost: what was
                not delivered is not committed.
        """
        self._consumer.subscribe(self)
        try:
            while not self._control.stopping and not self.replaced:
                self._control.turn()
                if self._control.take_check():
                    self._events(self.status())
                    self._spread.tell_waiting(self._assembly.versions())
                self.turn()
                if self._idle_long_enough():
                    break
            self._barrier(wait=True)
        except BytesLostError as error:
            if self._control.stopping:
                raise
            self.unfit = True
            self._events(
                Note(f"{error.message}; what came since files were last delivered is read again", hint=error.hint)
            )
        finally:
            self._consumer.close()
        if not self.anew:
            self._tell_end()
        return self.totals

    def turn(self) -> None:
        """Read and handle one record, or make a barrier when it is time to."""
        if self._consumer.replaced:
            self.replaced = True
            return
        meanwhile = self._until_stored.read_meanwhile
        record = meanwhile.pop(0) if meanwhile else self._consumer.poll(POLL_SECONDS)
        now = self._clock.monotonic()
        if self._partitions.rewound:
            self._barrier(wait=False)
            self._partitions.rewound = False
        if record is not None:
            self._take(record)
            now = self._last_record = self._clock.monotonic()
        if self._delivery.due(now, idle=record is None) or (self._moved and self._checkpoint.due(now)):
            self._barrier(wait=False)
            self._last_record = self._clock.monotonic()  # a destination that takes long is no lack of records
        elif self._unsure and record is None and self._checkpoint.due(now):
            self._commit(wait=False, everything=True)
        if self._expiry.due(now):
            self._expire()
        if self._progress.due(now):
            for version in self._assembly.versions():
                self._events(FileProgress(version.key.path, version.received.total, version.size))
        if self._settings.alive_seconds > 0 and self._alive.due(now):
            self._events(Alive("download"))

    def _idle_long_enough(self) -> bool:
        limit = self._settings.until_idle_seconds
        if limit is None or not self._assigned_once or self._delivery.pending:
            return False
        if not all(map(self._consumer.at_end, self._partitions.owned)):
            return False  # a slow broker is no lack of records
        return self._clock.monotonic() - self._last_record >= limit

    def _tell_end(self) -> None:
        done, status = self.totals, self.status()
        reason = self._control.reason or "nothing more arrived"
        self._events(
            ProgramStopped("download", reason, done.files, done.total_bytes, status.active, done.failed, status.seconds)
        )

    # -- one record -----------------------------------------------------------------------------------------

    def _take(self, record: Record) -> None:
        """Handle a record; it counts as handled only when its partition was ours all the time."""
        partition = record.partition
        assignment = self._partitions.assignment(partition)
        if assignment is None:
            return
        expected = self._partitions.positions.get(partition, record.offset)
        if record.offset != expected:
            self._partitions.tell_jump(record, expected, self._assembly.versions())
        self._until_stored.taken_away = lambda: self._partitions.assignment(partition) is not assignment
        with suppress(TakenAwayError):
            self._handle(record)
            self._partitions.positions[partition] = record.offset + 1
            self._moved = True
        self._until_stored.taken_away = None

    def _handle(self, record: Record) -> None:
        seen_ms = self._expiry.seen(record)
        try:
            chunk = decode_record(record.value, record.headers)
            path = self._final_path(chunk)
        except ProtocolError as error:
            self._count(len(record.value or b""), handled=False)
            if not self._partitions.leaves_out(record.partition, record.offset, None, begins=False):
                self._delivery.quarantine(record, error.message)
            return
        self._count(len(chunk.payload), handled=True)
        key = key_of(chunk)
        known = key in self._assembly
        if not self._wanted(chunk, key, path, known=known):
            return
        if self._partitions.marks and self._partitions.leaves_out(
            record.partition, record.offset, key, begins=known or chunk.index == 0 or chunk.hash_name is HashName.SHA512
        ):
            return
        if not known and self._delivery.is_finished(key, chunk, path):
            return
        if self._delivery.waits(key):
            self._barrier(wait=False)  # its bytes get their name before the same version is written anew
            if self._until_stored.taken_away is not None and self._until_stored.taken_away():
                raise TakenAwayError
        if chunk.hash_name is HashName.SHA512:
            self._spread.look(chunk, record.partition, self._partitions.owned)
        self._assemble(record, chunk, key, path, seen_ms)

    def _wanted(self, chunk: Chunk, key: VersionKey, path: str, *, known: bool) -> bool:
        """
        True when the file is one to be written.

        One that is streamed while it grows says only at its end what it is called: until then it is taken.
        """
        if known and not chunk.last:
            return True
        grows = chunk.hash_name is HashName.BLAKE3 and chunk.size is None
        if (grows and chunk.abort is None and not chunk.alive) or self._selection.accepts(path):
            return True
        if known:
            self._assembly.close(key)
            self._delivery.give_up(key)
            self._events(FileSuperseded(path, self._selection.why(path)))
        return False

    def _count(self, size: int, *, handled: bool) -> None:
        totals = self.totals
        totals.records += 1
        totals.record_bytes += size
        if handled:
            totals.handled += 1
            totals.handled_bytes += size

    def _final_path(self, chunk: Chunk) -> str:
        """The path a chunk's file is delivered under; ProtocolError when it may not be."""
        naming = self._settings.naming
        naming.check(chunk.path)
        if chunk.name is not None:
            return naming.check(chunk.name)
        if chunk.append:
            return naming.check(delivered_name(chunk.path, chunk.append))
        return chunk.path

    def _assemble(self, record: Record, chunk: Chunk, key: VersionKey, path: str, seen_ms: int) -> None:
        is_new = key not in self._assembly
        late = self._expiry.revive(record, chunk, path) if is_new else None
        if is_new and late is None:
            late = self._partitions.take_up(key)
        if late is not None:
            self._assembly.restore(late)
        step = self._assembly.step(
            chunk,
            partition=record.partition,
            offset=record.offset,
            timestamp_ms=record.timestamp_ms,
            seen_ms=seen_ms,
        )
        version = step.version
        if step.verb is Verb.REFUSE:
            self._delivery.quarantine(record, f"{path}: {step.reason}", path)
        elif step.verb is Verb.DISCARD:
            self._delivery.give_up(key)
            self._events(FileSuperseded(path, f"its sender gave this version up: {step.reason}"))
        elif version is not None:
            if is_new and not step.complete:
                self._events(FileStarted(path, version.size or 0, version.received.prefix if late else 0))
            if step.verb is Verb.WRITE:
                self._delivery.write(version, chunk)
            if step.complete:
                newest = self._delivery.complete(version, record)
                self._assembly.close(key)  # until here its bytes are in use, whatever partitions come meanwhile
                if newest:
                    self._end_older(key, path)

    def _end_older(self, key: VersionKey, path: str) -> None:
        """A version of a path is whole: the open ones that are not newer need not become whole any more."""
        others = [*self._assembly.of_path(key.path), *self._expiry.of_path(key.path)]
        current = self._delivery.newest_known(path) if others else None
        for other in others:
            if current is None or (self._settings.keep_others and is_conflict(other.order, current.order)):
                continue
            if not is_newer(other.order, current.order):
                self._assembly.close(other.key)
                if other.key in self._expiry.kept:
                    self._expiry.forget(other.key)
                self._delivery.supersede(other, "a newer version came before it was whole")

    # -- the barrier ----------------------------------------------------------------------------------------

    def _barrier(self, *, wait: bool, patient: bool = True) -> None:
        """Make everything finished visible and everything received durable, then commit the watermarks."""
        if self._in_barrier:
            return  # a partition went away while the barrier waits for room
        if self._bytes_lost is not None:
            raise self._bytes_lost  # another try would find nothing wrong
        self._in_barrier = True
        try:
            self._delivery.barrier(self._partitions.positions, self._kept_open, patient=patient)
        except BytesLostError as error:
            self._bytes_lost = error
            raise
        finally:
            self._in_barrier = False
        self._moved = False
        self._commit(wait=wait, everything=wait)

    def _commit(self, *, wait: bool, everything: bool) -> None:
        if self.replaced:
            return  # the offsets are those of a topic that is no more
        commits = self._partitions.commits(
            lambda partition, at: watermark(at, self._assembly.first_offsets(partition)),
            self._assembly.open_in,
            everything=everything,
        )
        try:
            self._consumer.commit(commits, wait=wait)
        except UnavailableError:  # the ledger knows
            self._partitions.commit_failed()
            self._unsure = True
        else:
            # One that was not waited for may not arrive: it is made again once it is quiet.
            self._unsure = not everything and (self._unsure or bool(commits))

    def _kept_open(self) -> list[OpenVersion]:
        self._partitions.forget(self._delivery.ended)
        return [*self._assembly.versions(), *(v for v in self._partitions.unclaimed if v.key not in self._assembly)]

    # -- what is not waited for any more ------------------------------------------------------------------------

    def _expire(self) -> None:
        """Versions of which nothing came for long release the watermark; what is kept of them stays within bounds."""
        over = self._expiry.over(self._assembly.versions(), self._partitions.owned, self._consumer.at_end)
        for version, _ in over:
            self._assembly.close(version.key)
            self._delivery.expire(version)
        stale = self._expiry.stale(self._partitions.unclaimed)
        self._partitions.forget([version.key for version in stale])
        for version in stale:
            self._delivery.expire(version)
        gone = [self._expiry.forget(key) for key in self._expiry.too_much()]
        for version in gone:
            self._delivery.discard(version.key)
        if over or stale or gone:
            self._barrier(wait=False)
        for version, age_seconds in over:
            self._expiry.tell(version, final_path(version), age_seconds)
        for version in gone:
            self._expiry.tell_discarded(version, final_path(version))

    # -- partitions come and go -------------------------------------------------------------------------------

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Where to start each partition: where the ledger stopped, else where the group did."""
        self._beside.wait()
        in_hand = {*(version.key for version in self._assembly.versions()), *self._delivery.waiting}
        starts, restored = self._partitions.claim(partitions, self._delivery.drop, in_hand, self._delivery.ended)
        for version in restored:
            self._assembly.restore(version)
        self._assigned_once = self._unsure = True  # the group may not know all that the ledger does
        self._last_record = self._clock.monotonic()
        self._expiry.moved()
        return starts

    def revoked(self, partitions: Sequence[int], *, lost: bool) -> None:
        """Finish what can be finished, commit it, and lay aside what is open in these partitions."""
        self._beside.wait()
        # Within a record, bytes count as received that are not written yet.
        if not lost and self._in_barrier:
            if self._delivery.clean:
                self._commit(wait=True, everything=True)  # the barrier was done, all but this
        elif not lost and self._until_stored.taken_away is None:
            with suppress(OpenMSIStreamError):  # the others wait: a destination that refuses now is not waited for
                self._barrier(wait=True, patient=False)
        gone = set(partitions)
        self._delivery.let_go(gone)
        meanwhile = self._until_stored.read_meanwhile
        meanwhile[:] = [record for record in meanwhile if record.partition not in gone]
        for key in [v.key for v in self._assembly.versions() if v.first_offsets.keys() <= gone]:
            self._assembly.close(key)
            self._delivery.lay_aside(key)
        self._partitions.release(gone)
        self._expiry.moved()
