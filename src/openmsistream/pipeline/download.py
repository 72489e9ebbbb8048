"""The download flow, top to bottom: read a record, decode it, check its path, put the file together, deliver it.

One loop on one thread. Whole files become visible, and offsets are committed, only at a *barrier*: sync the
bytes, give the names, sync the folders, write the ledger, commit the watermark, in this order, so that a kill at
any point loses nothing and shows nothing half. Knows the core and the ports, and no library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from openmsistream.core.assembly import Assembly, OpenVersion, Step, Verb
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.events import (
    Alive,
    FileDelivered,
    FileFailed,
    FileProgress,
    FileStarted,
    FileSuperseded,
    Gap,
    Note,
    ProgramStopped,
    Quarantined,
    Status,
    StorageBack,
    StoragePaused,
)
from openmsistream.core.paths import check_relative
from openmsistream.core.selection import Selection
from openmsistream.core.versions import VersionKey, is_conflict, is_newer, key_of
from openmsistream.core.watermark import start_position, watermark
from openmsistream.core.wire.recognise import decode_record
from openmsistream.core.wire.v1 import delivered_name
from openmsistream.errors import OpenMSIStreamError, ProtocolError, StorageError, UnavailableError
from openmsistream.pipeline.runner import Control, Every, Totals
from openmsistream.pipeline.verifying import Verifier
from openmsistream.ports import (
    Barrier,
    Clock,
    Consumer,
    Delivered,
    DownloadLedger,
    Events,
    Publication,
    Record,
    Sink,
)

Result = TypeVar("Result")

POLL_SECONDS = 0.05
STORAGE_RETRY_SECONDS = 1.0
PROGRESS_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """
    When to make a barrier, and when to end.

    Attributes:
        barrier_files, barrier_bytes, barrier_seconds: A barrier is made when so much is finished and not yet
            visible, or the first of it waits for so long, or nothing comes in.
        checkpoint_seconds: With nothing finished: how often positions and partial files are made durable.
        until_idle_seconds: End when no record came for so long; None: run until stopped.
        windows_names: Refuse names that Windows cannot have.
        alive_seconds: Time between signs of life; below 0: none.
    """

    barrier_files: int = 1000
    barrier_bytes: int = 64 * 1024 * 1024
    barrier_seconds: float = 0.5
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
        self._topic, self._consumer, self._sink, self._ledger = topic, consumer, sink, ledger
        self._selection, self._clock, self._events, self._control = selection, clock, events, control
        self._settings = settings
        self._assembly = Assembly()
        self._verifier = Verifier(sink)
        self._positions: dict[int, int] = {}
        self._pending: dict[VersionKey, tuple[OpenVersion, Publication]] = {}
        self._pending_paths: dict[str, VersionKey] = {}
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._same: list[Delivered] = []
        self._finished: dict[VersionKey, None] = {}
        self._dirty: set[VersionKey] = set()
        self._moved = False
        self._in_barrier = False
        self._started_at: dict[VersionKey, float] = {}
        self._skipped_versions: VersionKey | None = None
        self._stash: list[Record] = []
        # Versions that the ledger knows as open, of partitions that are not ours now.
        self._unclaimed: dict[VersionKey, OpenVersion] | None = None
        self._without_bytes: set[VersionKey] = set()
        # Below these offsets a file may have been published just before a kill, unknown to the ledger.
        self._doubtful: dict[int, int] = {}
        self._checkpoint = Every(settings.checkpoint_seconds, first=clock.monotonic())
        self._progress = Every(PROGRESS_SECONDS, first=clock.monotonic())
        self._alive = Every(settings.alive_seconds, first=clock.monotonic())
        self._began = self._last_record = clock.monotonic()
        self._assigned_once = False
        self.totals = Totals()

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
                if self._control.take_check():
                    self._events(self.status())
                self.turn()
                if self._idle_long_enough():
                    break
            self._barrier(wait=True)
        finally:
            self._consumer.close()
        status = self.status()
        reason = self._control.reason or "nothing more arrived"
        self._events(
            ProgramStopped(
                "download",
                reason,
                self.totals.files,
                self.totals.total_bytes,
                status.active,
                self.totals.failed,
                status.seconds,
            )
        )
        return self.totals

    def turn(self) -> None:
        """Read and handle one record, or make a barrier when it is time to."""
        record = self._stash.pop(0) if self._stash else self._consumer.poll(POLL_SECONDS)
        now = self._clock.monotonic()
        if record is not None:
            self._last_record = now
            self._handle(record)
            self._positions[record.partition] = record.offset + 1
            self._moved = True
        if self._barrier_due(now, idle=record is None):
            self._barrier(wait=False)
        if self._progress.due(now):
            self._tell_progress()
        if self._settings.alive_seconds > 0 and self._alive.due(now):
            self._events(Alive("download"))

    def status(self) -> Status:
        """Where the program stands; ``active`` counts versions that are not whole yet."""
        totals = self.totals
        return Status(
            totals.files,
            totals.total_bytes,
            len(self._pending),
            len(self._assembly),
            totals.failed,
            self._clock.monotonic() - self._began,
        )

    @property
    def open_versions(self) -> int:
        """How many versions are not whole yet."""
        return len(self._assembly)

    def _idle_long_enough(self) -> bool:
        limit = self._settings.until_idle_seconds
        if limit is None or not self._assigned_once or self._pending:
            return False
        return self._clock.monotonic() - self._last_record >= limit

    # -- one record -----------------------------------------------------------------------------------------

    def _handle(self, record: Record) -> None:
        self.totals.records += 1
        try:
            chunk = decode_record(record.value, record.headers)
            path = self._final_path(chunk)
        except ProtocolError as error:
            self._quarantine(record, error.message)
            return
        key = key_of(chunk)
        if not self._selection.accepts(path) or self._is_finished(key, chunk, path):
            return
        step = self._assembly.step(
            chunk, partition=record.partition, offset=record.offset, timestamp_ms=record.timestamp_ms
        )
        if step.verb is Verb.REFUSE:
            self._quarantine(record, f"{path}: {step.reason}", path)
        elif step.verb is Verb.DISCARD:
            self._discard(key, path, step)
        elif step.version is not None:
            self._write(step.version, chunk, step.verb)
            if step.complete:
                self._complete(step.version, record)

    def _final_path(self, chunk: Chunk) -> str:
        """The path a chunk's file is delivered under; ProtocolError when it may not be."""
        windows = self._settings.windows_names
        check_relative(chunk.path, windows=windows)
        if chunk.name is not None:
            return check_relative(chunk.name, windows=windows)
        if chunk.append:
            return check_relative(delivered_name(chunk.path, chunk.append), windows=windows)
        return chunk.path

    def _is_finished(self, key: VersionKey, chunk: Chunk, path: str) -> bool:
        if key in self._assembly:
            return False
        if key in self._pending or key in self._finished:
            return True
        if chunk.hash_name is HashName.BLAKE3:
            return self._ledger.is_finished(key)
        # v1 has no id: the same content may come again after another, and is a new version then.
        current = self._ledger.current(path)
        if current is None:
            return False
        if current.key == key:
            return self._sink.stands(path, current.size)
        newest = current.order.mtime_ns
        return current.order.src is None and None not in (chunk.mtime_ns, newest) and chunk.mtime_ns < newest  # type: ignore[operator]

    def _write(self, version: OpenVersion, chunk: Chunk, verb: Verb) -> None:
        key = version.key
        if key not in self._started_at:
            self._started_at[key] = self._clock.monotonic()
            if not chunk.last:
                self._events(FileStarted(key.path, version.size or 0))
        if verb is not Verb.WRITE:
            return
        self._until_stored(lambda: self._sink.write(key, chunk.offset, chunk.payload))
        self._verifier.take(version, chunk.offset, chunk.payload)
        self._dirty.add(key)

    def _complete(self, version: OpenVersion, record: Record) -> None:
        """Every byte is there: verify, decide whether it is the newest, and queue it for the next barrier."""
        key, path = version.key, self._delivered_path(version)
        size = version.size or 0
        self._assembly.close(key)
        self._dirty.discard(key)
        if not self._until_stored(lambda: self._verifier.agrees(version)):
            reason = "its bytes differ from the hash its sender gave"
            self._until_stored(lambda: self._sink.set_aside(key, reason))
            self._end(key)
            self.totals.quarantined += 1
            self.totals.failed += 1
            self._events(Quarantined(self._topic, record.partition, record.offset, reason, path))
            return
        if self._was_published(version, path, size):
            self._same.append(Delivered(key, path, size, version.digest or b"", version.order))
            self._supersede(version, path, "it was delivered just before the program was killed")
            return
        current = self._newest_known(path)
        if current is not None and not is_newer(version.order, current.order):
            self._supersede(version, path, "a newer version is there already")
            return
        if current is not None and is_conflict(version.order, current.order):
            self._events(Note(f"{path}: two uploaders send this path; the later one is kept"))
        delivered = Delivered(key, path, size, version.digest or b"", version.order)
        if current is not None and self._is_same(current, delivered):
            self._same.append(delivered)
            self._supersede(version, path, "the same content is there already")
        else:
            if not self._pending:
                self._pending_since = self._clock.monotonic()
            self._pending[key] = (version, Publication(key, path, size, version.mtime_ns))
            self._pending_paths[path] = key
            self._pending_bytes += size
        for other in self._assembly.of_path(key.path):
            if not is_newer(other.order, version.order):
                self._supersede(other, path, "a newer version came before it was whole")

    def _was_published(self, version: OpenVersion, path: str, size: int) -> bool:
        """True when a kill came between giving the file its name and writing the ledger."""
        if all(first >= self._doubtful.get(p, 0) for p, first in version.first_offsets.items()):
            return False
        digest = version.digest or b""
        return self._until_stored(lambda: self._sink.holds(path, size, version.hash_name, digest))

    def _delivered_path(self, version: OpenVersion) -> str:
        if version.name is not None:
            return version.name
        return delivered_name(version.key.path, version.append) if version.append else version.key.path

    def _newest_known(self, path: str) -> Delivered | None:
        key = self._pending_paths.get(path)
        if key is None:
            return self._ledger.current(path)
        version, publication = self._pending[key]
        return Delivered(key, path, publication.size, version.digest or b"", version.order)

    def _is_same(self, current: Delivered, delivered: Delivered) -> bool:
        same = current.digest == delivered.digest and current.size == delivered.size
        return same and current.key not in self._pending and self._sink.stands(current.path, current.size)

    def _supersede(self, version: OpenVersion, path: str, reason: str) -> None:
        self._until_stored(lambda: self._sink.discard(version.key))
        self._end(version.key)
        self._events(FileSuperseded(path, reason))

    def _discard(self, key: VersionKey, path: str, step: Step) -> None:
        self._until_stored(lambda: self._sink.discard(key))
        self._end(key)
        self._events(FileSuperseded(path, f"its sender gave this version up: {step.reason}"))

    def _end(self, key: VersionKey) -> None:
        self._assembly.close(key)
        self._verifier.forget(key)
        self._dirty.discard(key)
        self._started_at.pop(key, None)
        self._finished[key] = None

    def _quarantine(self, record: Record, reason: str, path: str = "") -> None:
        self._until_stored(lambda: self._sink.quarantine(self._topic, record, reason))
        self.totals.quarantined += 1
        self._events(Quarantined(self._topic, record.partition, record.offset, reason, path))

    # -- the barrier ----------------------------------------------------------------------------------------

    def _barrier_due(self, now: float, *, idle: bool) -> bool:
        settings = self._settings
        if self._pending:
            return (
                idle
                or len(self._pending) >= settings.barrier_files
                or self._pending_bytes >= settings.barrier_bytes
                or now - self._pending_since >= settings.barrier_seconds
            )
        return self._moved and self._checkpoint.due(now)

    def _barrier(self, *, wait: bool) -> None:
        """Make everything finished visible, and everything received durable; see the module's docstring."""
        if self._in_barrier:
            return
        self._in_barrier = True
        try:
            published = self._until_stored(self._publish)
        finally:
            self._in_barrier = False
        with suppress(UnavailableError):  # the ledger knows; the offsets are committed at the next barrier
            self._consumer.commit(
                {p: watermark(at, self._assembly.first_offsets(p)) for p, at in self._positions.items()},
                wait=wait,
            )
        now = self._clock.monotonic()
        for delivered in published:
            self.totals.files += 1
            self.totals.total_bytes += delivered.size
            seconds = now - self._started_at.pop(delivered.key, now)
            self._events(FileDelivered(delivered.path, delivered.size, seconds, delivered.digest.hex()))

    def _publish(self) -> list[Delivered]:
        pending = list(self._pending.values())
        self._sink.sync([*self._pending, *self._dirty])
        failed = self._sink.publish([publication for _, publication in pending])
        for key, error in failed.items():
            self._sink.set_aside(key, error.message)
        delivered = [
            Delivered(version.key, p.path, p.size, version.digest or b"", version.order)
            for version, p in pending
            if version.key not in failed
        ]
        self._ledger.barrier(
            Barrier(
                positions=self._positions,
                delivered=[*self._same, *delivered],
                finished=[*self._finished, *failed],
                open=[*self._assembly.versions(), *(self._unclaimed or {}).values()],
            )
        )
        for key, error in failed.items():
            path = self._pending[key][1].path
            self.totals.quarantined += 1
            self.totals.failed += 1
            self._events(FileFailed(path, error.message, retry=False, hint=error.hint))
        self._pending.clear()
        self._pending_paths.clear()
        self._pending_bytes = 0
        self._same.clear()
        self._finished.clear()
        self._dirty.clear()
        self._moved = False
        return delivered

    def _until_stored(self, action: Callable[[], Result]) -> Result:
        """Do it; while the destination refuses, pause reading, stay in the group, and try again."""
        paused = False
        while True:
            try:
                result = action()
            except StorageError as error:
                if self._control.stopping:
                    raise
                if not paused:
                    paused = True
                    self._consumer.pause()
                    self._events(StoragePaused(error.message, error.hint))
                record = self._consumer.poll(STORAGE_RETRY_SECONDS)
                if record is not None:
                    self._stash.append(record)
            else:
                if paused:
                    self._consumer.resume()
                    self._events(StorageBack())
                    self._last_record = self._clock.monotonic()
                return result

    def _tell_progress(self) -> None:
        for version in self._assembly.versions():
            self._events(FileProgress(version.key.path, version.received.total, version.size))

    # -- partitions come and go -------------------------------------------------------------------------------

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Where to start each partition: where the ledger stopped, else where the group did."""
        if self._unclaimed is None:
            self._unclaimed = {version.key: version for version in self._ledger.open_versions()}
            self._without_bytes = self._unclaimed.keys() - self._sink.restore(self._unclaimed)
        starts = {partition: self._start(partition) for partition in partitions}
        for key, version in list(self._unclaimed.items()):
            if not version.first_offsets.keys() & starts.keys():
                continue
            del self._unclaimed[key]
            if not all(self._holds_up_to(p, starts[p]) for p in version.first_offsets.keys() & starts.keys()):
                self._until_stored(lambda key=key: self._sink.discard(key))  # type: ignore[misc]
            elif key in self._without_bytes and version.received.total:
                # Its partial file is gone: read its records again, from the first one on.
                for partition in version.first_offsets.keys() & starts.keys():
                    starts[partition] = min(starts[partition] or 0, version.first_offsets[partition])
            else:
                self._assembly.restore(version)
        self._positions.update({partition: start for partition, start in starts.items() if start is not None})
        self._assigned_once = True
        self._last_record = self._clock.monotonic()
        return starts

    def _holds_up_to(self, partition: int, start: int | None) -> bool:
        """True when our open versions hold every chunk below ``start``; else somebody else went on, and ended them."""
        position = self._ledger.position(partition)
        return start is not None and position is not None and start <= position

    def _start(self, partition: int) -> int | None:
        low, high = self._consumer.bounds(partition)
        self._doubtful[partition] = high
        ledger = self._ledger.position(partition)
        start, why = start_position(
            ledger=ledger, committed=self._consumer.committed(partition), log_start=low, log_end=high
        )
        if start is None:
            return None
        if ledger is not None and start == low < ledger:
            self._events(Note(f"topic {self._topic}, partition {partition}: {why}"))
        if start < low:
            self._events(Gap(self._topic, partition, start, low - 1))
            return low
        return start

    def revoked(self, partitions: Sequence[int], *, lost: bool) -> None:
        """Finish what can be finished, commit it, and lay aside what is open in these partitions."""
        if not lost:
            with suppress(OpenMSIStreamError):
                self._barrier(wait=True)
        gone = set(partitions)
        for version in list(self._assembly.versions()):
            if version.first_offsets.keys() <= gone:
                self._assembly.close(version.key)
                self._verifier.forget(version.key)
                self._dirty.discard(version.key)
                if not lost and self._unclaimed is not None:
                    self._unclaimed[version.key] = version  # as the ledger has it, up to the position it has
        for partition in gone:
            self._positions.pop(partition, None)
