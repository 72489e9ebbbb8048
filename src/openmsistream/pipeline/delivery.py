"""From a complete version to a file under its final name: verify, compare, publish at the barrier.

The second half of the download flow. A barrier is: sync the bytes, give the names, sync the folders, write the
ledger, in this order; its caller then commits the watermark. Knows sink and ledger by their ports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.events import FileDelivered, FileFailed, FileSuperseded, Note, Quarantined
from openmsistream.core.versions import VersionKey, is_conflict, is_newer
from openmsistream.core.wire.v1 import delivered_name
from openmsistream.errors import BytesLostError, OpenMSIStreamError, StorageError
from openmsistream.pipeline.beside import Beside
from openmsistream.pipeline.expiry import Expiry
from openmsistream.pipeline.patience import TakenAwayError, UntilStored
from openmsistream.pipeline.runner import DownloadTotals
from openmsistream.pipeline.verifying import Verifier
from openmsistream.ports import Barrier, Clock, Delivered, DownloadLedger, Events, Failure, Publication, Record, Sink

LONG_BYTES = 64 * 1024 * 1024
"""Reading so many bytes back may take long on a slow disk; fewer are not worth a thread."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BarrierSettings:
    """
    When to make a barrier.

    Attributes:
        files, size_bytes, seconds: A barrier is due when so much is finished and not yet visible, or the first of
            it waits for so long, or nothing comes in.
        look_first: Ask the destination whether a version stands there already, where a kill or a lost ledger may be
            the reason that this is not known. False: it finds that out by itself when it is to publish one.
    """

    files: int = 4000
    size_bytes: int = 64 * 1024 * 1024
    seconds: float = 1.0
    look_first: bool = True


@dataclass(frozen=True, slots=True)
class _Whole:
    """A version that waits for the next barrier, and the record behind which it was whole."""

    version: OpenVersion
    publication: Publication
    record_at: tuple[int, int]  # partition and offset

    @property
    def delivered(self) -> Delivered:
        """What the ledger is to hold of it."""
        it = self.publication
        return Delivered(it.key, it.path, it.size, it.digest, self.version.order)


class Delivery:
    """The versions that are finished, and not yet in the ledger."""

    def __init__(
        self,
        topic: str,
        sink: Sink,
        ledger: DownloadLedger,
        clock: Clock,
        events: Events,
        until_stored: UntilStored,
        beside: Beside,
        settings: BarrierSettings,
        doubtful: Mapping[int, int],
        expiry: Expiry,
        totals: DownloadTotals,
        *,
        keep_others: bool = False,
        keep_option: str = "",
    ) -> None:
        self._topic, self._sink, self._ledger, self._clock = topic, sink, ledger, clock
        self._events, self._until_stored, self._beside = events, until_stored, beside
        self._settings, self._doubtful, self._expiry = settings, doubtful, expiry
        self._keep_others, self._keep_option = keep_others, keep_option
        self._verifier = Verifier(sink)
        self._pending: dict[VersionKey, _Whole] = {}
        self._pending_paths: dict[str, VersionKey] = {}
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._same: dict[str, Delivered] = {}
        self._finished: dict[VersionKey, None] = {}
        self._dirty: set[VersionKey] = set()
        self._started_at: dict[VersionKey, float] = {}
        self.totals = totals

    @property
    def pending(self) -> int:
        """How many whole files wait for the next barrier."""
        return len(self._pending)

    @property
    def clean(self) -> bool:
        """True when everything that was received and finished is durable and in the ledger."""
        return not (self._pending or self._dirty or self._finished or self._same)

    def waits(self, key: VersionKey) -> bool:
        """True when the version is whole and waits for the next barrier."""
        return key in self._pending

    @property
    def waiting(self) -> Collection[VersionKey]:
        """The versions that are whole and wait for the next barrier."""
        return self._pending.keys()

    @property
    def ended(self) -> Collection[VersionKey]:
        """The versions that were finished since the last barrier, in whatever way."""
        return {**self._pending, **self._finished}.keys()

    def due(self, now: float, *, idle: bool) -> bool:
        """True when finished files should wait no longer."""
        settings = self._settings
        return bool(self._pending) and (
            idle
            or len(self._pending) >= settings.files
            or self._pending_bytes >= settings.size_bytes
            or now - self._pending_since >= settings.seconds
        )

    def is_finished(self, key: VersionKey, chunk: Chunk, path: str) -> bool:
        """True when a chunk belongs to a version that was dealt with before."""
        if chunk.hash_name is HashName.BLAKE3:
            return key in self._pending or key in self._finished or self._ledger.is_finished(key)
        # v1 has no id: the same content may come again after another, and is a new version then.
        current = self.newest_known(path)
        if current is None:
            return False
        if current.key == key:
            return key in self._pending or self._sink.stands(path, current.size)
        newest = current.order.mtime_ns
        if current.order.src is not None or chunk.mtime_ns is None or newest is None:
            return False
        return chunk.mtime_ns < newest

    def write(self, version: OpenVersion, chunk: Chunk) -> None:
        """New bytes of an open version."""
        key = version.key
        self._started_at.setdefault(key, self._clock.monotonic())
        self._until_stored(lambda: self._sink.write(key, chunk.offset, chunk.payload))
        self._verifier.take(version, chunk.offset, chunk.payload)
        self._dirty.add(key)

    def complete(self, version: OpenVersion, record: Record) -> bool:
        """
        Every byte of a version is there: verify it, and queue it for the next barrier if it is the newest.

        Returns:
            True when open versions of its path that are not newer have no future any more.
        """
        key, path, size = version.key, final_path(version), version.size or 0
        self._dirty.discard(key)
        if not self._slowly(lambda: self._verifier.agrees(version), size):
            if self._verifier.read_back and key not in self.totals.read_again:
                self._read_again(key, path)
            self._refuse(version, path, record)
            return False
        delivered = Delivered(key, path, size, version.digest or b"", version.order)
        current = self.newest_known(path)
        conflict = current is not None and is_conflict(version.order, current.order)
        if current is not None and not is_newer(version.order, current.order) and not (conflict and self._keep_others):
            self.supersede(version, "a newer version is there already")
            return False
        if self._stands_already(version, delivered, known=current is not None):
            self._same[path] = delivered
            self.supersede(
                version, "it is there already, as delivered before the program was killed or the ledger lost"
            )
            return True
        if current is not None and self._is_same(current, delivered):
            self._same[path] = delivered
            self.supersede(version, "the same content is there already")
            return True
        if conflict:
            self._tell_conflict(path)
        if not self._pending:
            self._pending_since = self._clock.monotonic()
        digest, hash_name = version.digest or b"", version.hash_name
        publication = Publication(key, path, size, version.mtime_ns, digest, hash_name, version.order)
        self._pending[key] = _Whole(version, publication, (record.partition, record.offset))
        self._pending_paths[path] = key
        self._pending_bytes += size
        return True

    def _tell_conflict(self, path: str) -> None:
        kept = "what is there stays" if self._keep_others else "the later one takes the place of the other"
        choose = f", or choose {self._keep_option}" if self._keep_option and not self._keep_others else ""
        hint = f"put the files of each into a folder of its own below the one it watches, or send to two topics{choose}"
        self._events(Note(f"{path}: two uploaders send this path: {kept}", hint=hint))

    def supersede(self, version: OpenVersion, reason: str) -> None:
        """The version is not delivered; ``reason`` says why."""
        self.give_up(version.key)
        self._events(FileSuperseded(final_path(version), reason))

    def drop(self, key: VersionKey) -> None:
        """Somebody else finished the version; bytes that cannot be removed now are at the next start."""
        with suppress(StorageError):
            self._sink.discard(key)
        self._end(key)

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of a version that may still come again."""
        self._until_stored(lambda: self._sink.discard(key))

    def give_up(self, key: VersionKey) -> None:
        """Forget the version's bytes, and remember never to take it up again."""
        self._until_stored(lambda: self._sink.discard(key))
        self._end(key)

    def quarantine(self, record: Record, reason: str, path: str = "") -> None:
        """Keep a record that cannot be handled."""
        at_ns = self._clock.now_ns()
        self._until_stored(lambda: self._sink.quarantine(self._topic, record, reason, path=path, at_ns=at_ns))
        self.totals.quarantined += 1
        self._events(Quarantined(self._topic, record.partition, record.offset, reason, path))

    def lay_aside(self, key: VersionKey) -> None:
        """The version's partition went away: its bytes stay, as the ledger has them."""
        self._verifier.forget(key)
        self._dirty.discard(key)

    def let_go(self, partitions: AbstractSet[int]) -> None:
        """What is whole and has no name yet gets it where these partitions are now: their records are read there."""
        gone = [key for key, whole in self._pending.items() if whole.version.first_offsets.keys() <= partitions]
        for key in gone:
            publication = self._pending.pop(key).publication
            self._pending_bytes -= publication.size
            if self._pending_paths.get(publication.path) == key:
                del self._pending_paths[publication.path]
            self._started_at.pop(key, None)
            self.lay_aside(key)

    def expire(self, version: OpenVersion) -> None:
        """The version is not waited for any more: the next barrier makes sure of what is kept of it."""
        self._verifier.forget(version.key)
        self._started_at.pop(version.key, None)
        self._expiry.keep(version)

    def barrier(
        self,
        positions: Mapping[int, int],
        open_versions: Callable[[], Iterable[OpenVersion]],
        *,
        patient: bool = True,
    ) -> None:
        """
        Make everything finished visible, and everything received durable.

        Args:
            positions: For the ledger; looked at anew with each try, as partitions may go away meanwhile.
            open_versions: The same.
            patient: Wait while the destination refuses; otherwise StorageError.
        """

        def publish() -> list[Delivered]:
            return self._publish(positions, list(open_versions()))

        delivered = self._until_stored(lambda: self._beside(publish)) if patient else publish()
        now = self._clock.monotonic()
        for done in delivered:
            self.totals.files += 1
            self.totals.total_bytes += done.size
            seconds = now - self._started_at.pop(done.key, now)
            self._events(FileDelivered(done.path, done.size, seconds, done.digest.hex(), self._sink.where(done.key)))

    def _publish(self, positions: Mapping[int, int], open_versions: list[OpenVersion]) -> list[Delivered]:
        self._sink.sync([*self._pending, *self._dirty])
        failed = self._sink.publish([whole.publication for whole in self._pending.values()])
        for key, error in failed.items():
            whole = self._pending[key]
            failure = self._failure(
                whole.version, whole.publication.path, whole.record_at, found=whole.publication.digest
            )
            self._sink.set_aside(key, error.message, failure)
            self._never(key, error)
        delivered = [whole.delivered for whole in self._pending.values()]
        self._ledger.barrier(
            Barrier(
                positions=positions,
                delivered=[*self._same.values(), *delivered],
                finished=list(self._finished),
                open=open_versions,
                expired=list(self._expiry.added.values()),
                revived=list(self._expiry.removed),
            )
        )
        self._expiry.written()
        self._pending.clear()
        self._pending_paths.clear()
        self._pending_bytes = 0
        self._same.clear()
        self._finished.clear()
        self._dirty.clear()
        return delivered

    def _never(self, key: VersionKey, error: OpenMSIStreamError) -> None:
        """The destination can never take this version under its name."""
        publication = self._pending.pop(key).publication
        if self._pending_paths[publication.path] == key:
            del self._pending_paths[publication.path]
        self._end(key)
        self.totals.quarantined += 1
        self.totals.failed += 1
        self._events(FileFailed(publication.path, error.message, retry=False, hint=error.hint))

    def _stands_already(self, version: OpenVersion, delivered: Delivered, *, known: bool) -> bool:
        """True when a kill came between giving the file its name and writing the ledger, or the ledger was lost."""
        if not self._settings.look_first:
            return False
        if known and all(first >= self._doubtful.get(p, 0) for p, first in version.first_offsets.items()):
            return False
        if delivered.path in self._pending_paths:
            return False  # what is there now is replaced at the next barrier
        path, size, digest = delivered.path, delivered.size, delivered.digest
        return self._slowly(lambda: self._sink.holds(path, size, version.hash_name, digest), size)

    def _slowly(self, action: Callable[[], Result], size: int) -> Result:
        """Do what reads ``size`` bytes back; TakenAwayError when the partition of the record went meanwhile."""
        if size < LONG_BYTES:
            return self._until_stored(action)
        result = self._until_stored(lambda: self._beside(action))
        if self._until_stored.taken_away is not None and self._until_stored.taken_away():
            raise TakenAwayError
        return result

    def newest_known(self, path: str) -> Delivered | None:
        """The newest version of a path: delivered, or waiting for the barrier."""
        key = self._pending_paths.get(path)
        if key is None:
            return self._same.get(path) or self._ledger.current(path)
        return self._pending[key].delivered

    def _is_same(self, current: Delivered, delivered: Delivered) -> bool:
        same = current.digest == delivered.digest and current.size == delivered.size
        return same and current.key not in self._pending and self._sink.stands(current.path, current.size)

    def _read_again(self, key: VersionKey, path: str) -> NoReturn:
        """A disk may lose bytes without a word, as in a power cut: before a file is refused they come once more."""
        self.totals.read_again.add(key)
        self.discard(key)
        raise BytesLostError(
            f"{path}: what was read back of it from the destination does not have its hash",
            [key],
            hint="if that is told often, check the disk; if its sender is wrong, the file goes to quarantine now",
        )

    def _refuse(self, version: OpenVersion, path: str, record: Record) -> None:
        reason = "its bytes differ from the hash its sender gave"
        failure = self._failure(version, path, (record.partition, record.offset), found=self._verifier.found)
        self._until_stored(lambda: self._sink.set_aside(version.key, reason, failure))
        self._end(version.key)
        self.totals.quarantined += 1
        self.totals.failed += 1
        self._events(Quarantined(self._topic, record.partition, record.offset, reason, path))

    def _failure(self, version: OpenVersion, path: str, record_at: tuple[int, int], *, found: bytes) -> Failure:
        partition, offset = record_at
        return Failure(
            self._topic,
            partition,
            offset,
            path=path,
            at_ns=self._clock.now_ns(),
            mtime_ns=version.mtime_ns,
            hash_name=version.hash_name,
            expected=version.digest or b"",
            found=found,
        )

    def _end(self, key: VersionKey) -> None:
        self._verifier.forget(key)
        self._dirty.discard(key)
        self._started_at.pop(key, None)
        self._finished[key] = None


def final_path(version: OpenVersion) -> str:
    """The path a version is delivered under."""
    if version.name is not None:
        return version.name
    return delivered_name(version.key.path, version.append) if version.append else version.key.path
