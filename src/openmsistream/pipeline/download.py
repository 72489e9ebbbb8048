"""The download flow, top to bottom: read a record, decode it, check its path, put the file together, deliver it.

One loop on one thread. Whole files become visible, and offsets are committed, only at a *barrier*: bytes synced,
names given, folders synced, ledger written (``delivery.py``), watermark committed, in this order, so that a kill at
any point loses nothing and shows nothing half. Knows the core and the ports, and no library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from openmsistream.core.assembly import Assembly, OpenVersion, Verb
from openmsistream.core.chunk import Chunk
from openmsistream.core.events import Alive, FileProgress, FileStarted, FileSuperseded, ProgramStopped, Status
from openmsistream.core.paths import check_relative
from openmsistream.core.selection import Selection
from openmsistream.core.versions import VersionKey, is_newer, key_of
from openmsistream.core.watermark import watermark
from openmsistream.core.wire.recognise import decode_record
from openmsistream.core.wire.v1 import delivered_name
from openmsistream.errors import OpenMSIStreamError, ProtocolError, UnavailableError
from openmsistream.pipeline.delivery import BarrierSettings, Delivery
from openmsistream.pipeline.partitions import Partitions
from openmsistream.pipeline.patience import TakenAwayError, UntilStored
from openmsistream.pipeline.runner import Control, Every, Totals
from openmsistream.ports import Clock, Consumer, DownloadLedger, Events, Record, Sink

POLL_SECONDS = 0.05
PROGRESS_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """
    How to run, and when to end.

    Attributes:
        barrier: When finished files are made visible.
        checkpoint_seconds: With nothing finished: how often positions and partial files are made durable.
        until_idle_seconds: End when no record came for so long; None: run until stopped.
        windows_names: Refuse names that Windows cannot have.
        alive_seconds: Time between signs of life; below 0: none.
    """

    barrier: BarrierSettings = field(default_factory=BarrierSettings)
    checkpoint_seconds: float = 5.0
    until_idle_seconds: float | None = None
    windows_names: bool = False
    alive_seconds: float = -1


class Download:
    """One downloader: from a topic to a sink (``ports.Rebalance`` for its consumer)."""

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
    ) -> None:
        self._consumer, self._selection, self._clock = consumer, selection, clock
        self._events, self._control, self._settings = events, control, settings
        self._assembly = Assembly()
        self._until_stored = UntilStored(consumer, control, events)
        self._partitions = Partitions(topic, consumer, sink, ledger, events)
        self._delivery = Delivery(
            topic, sink, ledger, clock, events, self._until_stored, settings.barrier, self._partitions.doubtful
        )
        self._moved = False
        self._in_barrier = False
        self._assigned_once = False
        self._checkpoint = Every(settings.checkpoint_seconds, first=clock.monotonic())
        self._progress = Every(PROGRESS_SECONDS, first=clock.monotonic())
        self._alive = Every(settings.alive_seconds, first=clock.monotonic())
        self._began = self._last_record = clock.monotonic()

    @property
    def totals(self) -> Totals:
        """What was done since the start."""
        return self._delivery.totals

    @property
    def open_versions(self) -> int:
        """How many versions are not whole yet."""
        return len(self._assembly)

    def status(self) -> Status:
        """Where the program stands; ``active`` counts versions that are not whole yet."""
        done, seconds = self.totals, self._clock.monotonic() - self._began
        waiting = self._delivery.pending
        return Status(done.files, done.total_bytes, waiting, len(self._assembly), done.failed, seconds)

    # -- the loop -------------------------------------------------------------------------------------------

    def run(self) -> Totals:
        """
        Deliver files until told to stop, or idle for as long as the settings say.

        Raises:
            DeliveryError: The broker refuses for good.
            StorageError: Asked to stop while the destination could not be written. Nothing is lost: what was
                not delivered is not committed.
        """
        self._consumer.subscribe(self)
        try:
            while not self._control.stopping:
                self._control.turn()
                if self._control.take_check():
                    self._events(self.status())
                self.turn()
                if self._idle_long_enough():
                    break
            self._barrier(wait=True)
        finally:
            self._consumer.close()
        done, status = self.totals, self.status()
        reason = self._control.reason or "nothing more arrived"
        self._events(
            ProgramStopped("download", reason, done.files, done.total_bytes, status.active, done.failed, status.seconds)
        )
        return done

    def turn(self) -> None:
        """Read and handle one record, or make a barrier when it is time to."""
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
        if self._progress.due(now):
            for version in self._assembly.versions():
                self._events(FileProgress(version.key.path, version.received.total, version.size))
        if self._settings.alive_seconds > 0 and self._alive.due(now):
            self._events(Alive("download"))

    def _idle_long_enough(self) -> bool:
        limit = self._settings.until_idle_seconds
        if limit is None or not self._assigned_once or self._delivery.pending:
            return False
        return self._clock.monotonic() - self._last_record >= limit

    # -- one record -----------------------------------------------------------------------------------------

    def _take(self, record: Record) -> None:
        """Handle a record; it counts as handled only when its partition was ours all the time."""
        assignment = self._partitions.assignment(record.partition)
        if assignment is None:
            return
        self._until_stored.taken_away = lambda: self._partitions.assignment(record.partition) is not assignment
        with suppress(TakenAwayError):
            self._handle(record)
            self._partitions.positions[record.partition] = record.offset + 1
            self._moved = True
        self._until_stored.taken_away = None

    def _handle(self, record: Record) -> None:
        try:
            chunk = decode_record(record.value, record.headers)
            path = self._final_path(chunk)
        except ProtocolError as error:
            self._count(len(record.value or b""), handled=False)
            self._delivery.quarantine(record, error.message)
            return
        self._count(len(chunk.payload), handled=True)
        key = key_of(chunk)
        if not self._selection.accepts(path):
            return
        if key not in self._assembly and self._delivery.is_finished(key, chunk, path):
            return
        if self._delivery.waits(key):
            self._barrier(wait=False)  # its bytes get their name before the same version is written anew
        self._assemble(record, chunk, key, path)

    def _count(self, size: int, *, handled: bool) -> None:
        totals = self.totals
        totals.records += 1
        totals.record_bytes += size
        if handled:
            totals.handled += 1
            totals.handled_bytes += size

    def _final_path(self, chunk: Chunk) -> str:
        """The path a chunk's file is delivered under; ProtocolError when it may not be."""
        windows = self._settings.windows_names
        check_relative(chunk.path, windows=windows)
        if chunk.name is not None:
            return check_relative(chunk.name, windows=windows)
        if chunk.append:
            return check_relative(delivered_name(chunk.path, chunk.append), windows=windows)
        return chunk.path

    def _assemble(self, record: Record, chunk: Chunk, key: VersionKey, path: str) -> None:
        is_new = key not in self._assembly
        step = self._assembly.step(
            chunk, partition=record.partition, offset=record.offset, timestamp_ms=record.timestamp_ms
        )
        version = step.version
        if step.verb is Verb.REFUSE:
            self._delivery.quarantine(record, f"{path}: {step.reason}", path)
        elif step.verb is Verb.DISCARD:
            self._delivery.give_up(key)
            self._events(FileSuperseded(path, f"its sender gave this version up: {step.reason}"))
        elif version is not None:
            if is_new and not step.complete:
                self._events(FileStarted(path, version.size or 0))
            if step.verb is Verb.WRITE:
                self._delivery.write(version, chunk)
            if step.complete:
                self._assembly.close(key)
                if self._delivery.complete(version, record):
                    self._end_older(key, path)

    def _end_older(self, key: VersionKey, path: str) -> None:
        """A version of a path is whole: the open ones that are not newer need not become whole any more."""
        current = self._delivery.newest_known(path)
        for other in self._assembly.of_path(key.path):
            if current is not None and not is_newer(other.order, current.order):
                self._assembly.close(other.key)
                self._delivery.supersede(other, "a newer version came before it was whole")

    # -- the barrier ----------------------------------------------------------------------------------------

    def _barrier(self, *, wait: bool) -> None:
        """Make everything finished visible and everything received durable, then commit the watermarks."""
        if self._in_barrier:
            return  # a partition went away while the barrier waits for room
        self._in_barrier = True
        positions = self._partitions.positions
        try:
            self._delivery.barrier(positions, self._kept_open)
        finally:
            self._in_barrier = False
        self._moved = False
        with suppress(UnavailableError):  # the ledger knows; the offsets are committed at the next barrier
            self._consumer.commit(
                {p: watermark(at, self._assembly.first_offsets(p)) for p, at in positions.items()}, wait=wait
            )

    def _kept_open(self) -> list[OpenVersion]:
        self._partitions.forget(self._delivery.ended)
        return [*self._assembly.versions(), *(v for v in self._partitions.unclaimed if v.key not in self._assembly)]

    # -- partitions come and go -------------------------------------------------------------------------------

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Where to start each partition: where the ledger stopped, else where the group did."""
        starts, restored = self._partitions.claim(
            partitions, self._delivery.drop, lambda key: key in self._assembly or self._delivery.ends(key)
        )
        for version in restored:
            self._assembly.restore(version)
        self._assigned_once = True
        self._last_record = self._clock.monotonic()
        return starts

    def revoked(self, partitions: Sequence[int], *, lost: bool) -> None:
        """Finish what can be finished, commit it, and lay aside what is open in these partitions."""
        # Within a record, bytes count as received that are not written yet.
        if not lost and self._until_stored.taken_away is None:
            with suppress(OpenMSIStreamError):
                self._barrier(wait=True)
        gone = set(partitions)
        meanwhile = self._until_stored.read_meanwhile
        meanwhile[:] = [record for record in meanwhile if record.partition not in gone]
        for key in [v.key for v in self._assembly.versions() if v.first_offsets.keys() <= gone]:
            self._assembly.close(key)
            self._delivery.lay_aside(key)
        self._partitions.release(gone)
