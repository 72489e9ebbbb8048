"""What the pipeline needs from the outside, as Protocols: it is given objects of these shapes and knows no others.

Adapters implement them; ``adapters/memory.py`` has public fakes; ``tests/conformance`` holds what every
implementation of a port must do. This module imports the core only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.chunk import HashName
from openmsistream.core.events import Event
from openmsistream.core.settle import Stat
from openmsistream.core.versions import VersionKey, VersionOrder
from openmsistream.errors import OpenMSIStreamError

Buffer = bytes | bytearray | memoryview
Headers = Sequence[tuple[str, bytes | None]]
Acknowledge = Callable[[int, OpenMSIStreamError | None], None]
"""Called once per record from ``Producer.poll``: the record's offset, or -1 and what went wrong."""
Events = Callable[[Event], None]


class Clock(Protocol):
    """Time as an argument, so that tests can move it."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        ...

    def now_ns(self) -> int:
        """Wall clock, ns since 1970."""
        ...


class Producer(Protocol):
    """Sends records to one topic; memory is bounded by its queue."""

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        ...

    def produce(self, partition: int, key: bytes, value: Buffer, acknowledge: Acknowledge) -> bool:
        """
        Queue a record; ``value`` is copied before this returns.

        Returns:
            False when the queue is full: ``poll``, then try again.

        Raises:
            DeliveryError: The record can never be sent (too large, no rights).
        """
        ...

    def poll(self, seconds: float) -> int:
        """Serve acknowledgements for up to ``seconds``; how many were served."""
        ...

    def log_start(self, partition: int) -> int:
        """Offset of the oldest record still in a partition; UnavailableError when the broker does not say."""
        ...

    def pending(self) -> int:
        """How many records are queued or on their way."""
        ...

    def close(self) -> None:
        """Drop what is still queued and end the connection."""
        ...


@dataclass(frozen=True, slots=True)
class Record:
    """One record read from the topic; ``timestamp_ms`` is the broker's or the producer's, as the topic says."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """What a group has committed of a partition: an offset, and a string of up to 4,095 bytes beside it."""

    offset: int
    metadata: str = ""


class Rebalance(Protocol):
    """What a consumer tells its owner when partitions come and go; called from within ``poll``."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        """Where to start each partition: an offset, or None for ``auto.offset.reset``."""
        ...

    def revoked(self, partitions: Sequence[int], *, lost: bool) -> None:
        """These partitions go away. When not ``lost``, a commit made now still counts."""
        ...


class Consumer(Protocol):
    """Reads one topic as a member of a group. Never commits by itself."""

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        ...

    @property
    def replaced(self) -> bool:
        """True once it was noticed that the topic was deleted and made again: its offsets mean something else now."""
        ...

    def subscribe(self, rebalance: Rebalance) -> None:
        """Join the group; ``rebalance`` is called from ``poll``."""
        ...

    def poll(self, seconds: float) -> Record | None:
        """
        The next record, or None when there was none for ``seconds``.

        Raises:
            DeliveryError: The broker refuses for good (no such topic, no rights).
            UnavailableError: The broker does not answer now; polling on is right.
        """
        ...

    def committed(self, partition: int) -> Commit | None:
        """What the group has committed, or None."""
        ...

    def bounds(self, partition: int) -> tuple[int, int]:
        """Offset of the oldest record, and the one that the next record will get."""
        ...

    def at_end(self, partition: int) -> bool:
        """True when there was nothing behind what was handed out of a partition; asks nobody."""
        ...

    def commit(self, commits: Mapping[int, Commit], *, wait: bool) -> None:
        """
        Commit for the partitions among these that are this consumer's.

        With ``wait`` it only returns once the broker has them. UnavailableError when it does not take them: it does
        not answer, or this consumer is no member of the group any more. Without, that is raised by the next call.
        """
        ...

    def pause(self) -> None:
        """Hand out no records, but stay a member of the group as long as ``poll`` is called."""
        ...

    def resume(self) -> None:
        """Hand out records again."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class OpenFile(Protocol):
    """One file being read from beginning to end."""

    @property
    def stat(self) -> Stat:
        """What the file looked like when it was opened."""
        ...

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer`` from where the last read ended; how many bytes came, fewer only at the end of the file."""
        ...

    def seek(self, offset: int) -> None:
        """Go on reading at ``offset``."""
        ...

    def look(self) -> Stat:
        """What the open file looks like now, whatever it is called by now; SourceError when it cannot be told."""
        ...

    def unchanged(self) -> bool:
        """True when the path still names the same file with the same size and mtime as when it was opened."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class FileReader(Protocol):
    """Reads the files of a root, never disturbing who writes them."""

    def open(self, path: str) -> OpenFile:
        """Open a file for reading; SourceError when it cannot be read."""
        ...

    def stat(self, path: str) -> Stat | None:
        """What the file looks like now; None when it is gone or no regular file."""
        ...


class Writers(Protocol):
    """Knows who holds a root's files open for writing, without opening any of them."""

    def ready(self) -> bool:
        """True when it may be asked now; asking costs time, so there are pauses."""
        ...

    def holding(self, paths: Collection[str]) -> frozenset[str] | None:
        """Which of these relative paths some program holds open for writing; None: this system does not tell."""
        ...


@dataclass(frozen=True, slots=True)
class Hints:
    """
    What a watcher noticed since it was last asked; all paths are relative to the root.

    Attributes:
        files: Something happened to them: made, written, removed, renamed away or here, closed.
        closed: Of ``files``, those that a program closed after writing (Linux tells; others never do).
        renamed: The present path of a file, and the path inside the root that it had before.
        folders: They appeared, or were moved here: what is in them may have caused no hint of its own.
        everything: The watcher lost count, and a scan is needed.
    """

    files: frozenset[str] = frozenset()
    closed: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()
    everything: bool = False


class Watcher(Protocol):
    """Says what happens in a root: hints at once, and the truth by scans."""

    @property
    def polls(self) -> bool:
        """True when part of the root, or all of it, gives no hints: only scans tell what happens there."""
        ...

    def start(self) -> None:
        """Begin to collect hints; before the first scan, so that nothing falls between."""
        ...

    def hints(self) -> Hints:
        """What happened since the last call."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when there is a hint, or after ``seconds``."""
        ...

    def scan(self, folder: str = "") -> Iterator[tuple[str, list[tuple[str, Stat]]]]:
        """
        Each folder from ``folder`` down, with the paths and looks of its regular files.

        Paths are relative to the root. The first scan of the whole root after ``start`` also hints every file that it
        finds changed since then. A folder that cannot be listed is passed over and told as an event; SourceError
        when the root itself cannot be listed.
        """
        ...

    def stop(self) -> None:
        """Collect no more hints."""
        ...


@dataclass(frozen=True, slots=True)
class Known:
    """What the upload ledger knows of a path: the newest version that was dealt with."""

    stat: Stat
    digest: bytes
    sent: bool  # False: only recorded as being there at the first start


@dataclass(frozen=True, slots=True)
class Parked:
    """A version that was not sent to its end: what a restart needs to go on."""

    path: str
    version: bytes
    gen: int
    stat: Stat
    chunk_bytes: int
    partition: int
    first_offset: int
    acknowledged: int
    prefix_digest: bytes
    started_ns: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A file that could not be sent, until it is: why, after how many tries, and when the last was (ns since 1970)."""

    path: str
    reason: str
    tries: int
    at_ns: int


class UploadLedger(Protocol):
    """What one uploader has seen and sent; durable once ``commit`` returned."""

    @property
    def src(self) -> bytes:
        """The uploader's identity, 16 bytes, made when the ledger was."""
        ...

    @property
    def is_new(self) -> bool:
        """True until ``first_scan_done`` was committed."""
        ...

    def first_scan_done(self) -> None:
        """The files that were there before the first start are recorded."""
        ...

    def next_gen(self, now_ns: int) -> int:
        """The counter of the next version, never given before."""
        ...

    def partitions(self, now: int) -> int:
        """The partition count that new paths are placed by: ``now`` at first, then kept."""
        ...

    def known(self, path: str) -> Known | None:
        """What is known of a path."""
        ...

    def known_in(self, folder: str) -> dict[str, Known]:
        """What is known of the files directly in ``folder``, by path."""
        ...

    def record_existing(self, path: str, stat: Stat) -> None:
        """The file was there at the first start and is not to be sent."""
        ...

    def forget(self, path: str) -> None:
        """Nothing is known of the path any more."""
        ...

    def record_open(self, parked: Parked) -> None:
        """A version is under way: its start or its progress."""
        ...

    def record_sent(
        self, path: str, stat: Stat, version: bytes, gen: int, digest: bytes, now_ns: int, evidence: str = ""
    ) -> None:
        """The broker acknowledged a version's last chunk; ``evidence`` says why the file was taken to be complete."""
        ...

    def record_failed(self, failed: Failed) -> None:
        """A file could not be sent; ``record_sent``, ``record_same``, ``forget`` and ``drop_failed`` end that."""
        ...

    def drop_failed(self, path: str) -> None:
        """The file that could not be sent is gone."""
        ...

    def record_live(self, snapshot: str) -> None:
        """What only the running program knows (JSON text), for those who look at the ledger meanwhile."""
        ...

    def record_same(self, path: str, stat: Stat) -> None:
        """The file was touched, and its content is what was sent before."""
        ...

    def drop_open(self, path: str, version: bytes | None = None) -> None:
        """The version under way of a path ended; with ``version``: if it is still that one."""
        ...

    def open_versions(self) -> list[Parked]:
        """The versions that were under way, in the order they were started."""
        ...

    def commit(self) -> None:
        """Make everything recorded so far durable."""
        ...

    def close(self) -> None:
        """Commit, and let go of the file."""
        ...


@dataclass(frozen=True, slots=True)
class Delivered:
    """The version that stands under a path's final name."""

    key: VersionKey
    path: str
    size: int
    digest: bytes
    order: VersionOrder


@dataclass(frozen=True, slots=True)
class Expired:
    """A version that is not waited for any more; what came of it is kept for a while. ``at_ms``: since when (1970)."""

    version: OpenVersion
    at_ms: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """One ledger transaction of a downloader: all or nothing of it is remembered."""

    positions: Mapping[int, int]
    delivered: Sequence[Delivered]
    finished: Sequence[VersionKey]  # superseded, discarded or quarantined: never again
    open: Sequence[OpenVersion]
    expired: Sequence[Expired] = ()  # since the last barrier
    revived: Sequence[VersionKey] = ()  # expired before, and now open again, finished or discarded


class DownloadLedger(Protocol):
    """What one consumer received and delivered, of one topic to one destination."""

    def position(self, partition: int) -> int | None:
        """Offset of the next record to read, or None when the partition was never read."""
        ...

    def open_versions(self) -> list[OpenVersion]:
        """The versions that were open at the last barrier."""
        ...

    def current(self, path: str) -> Delivered | None:
        """The version that was delivered last under a path."""
        ...

    def is_finished(self, key: VersionKey) -> bool:
        """True when the version was delivered, or given up, before."""
        ...

    def has_ended(self, tag: str) -> bool:
        """True when a version with this tag was open at a barrier, and is neither open nor expired any more."""
        ...

    def expired(self) -> list[Expired]:
        """The versions that expired, the longest expired first."""
        ...

    def barrier(self, barrier: Barrier) -> None:
        """Remember all of it, durably, in one transaction; versions no longer listed as open are forgotten."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


@dataclass(frozen=True, slots=True)
class Publication:
    """
    A complete, verified version that is to appear under its final path; ``digest`` where it was handed on.

    ``order``, where it was handed on, is what decides whether it is newer than what stands there.
    """

    key: VersionKey
    path: str
    size: int
    mtime_ns: int | None
    digest: bytes = b""
    hash_name: HashName = HashName.BLAKE3
    order: VersionOrder | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """
    Where and how a version failed, for whoever looks at it in quarantine; empty and None where that is not known.

    Attributes:
        topic, partition, offset: The record behind which it was complete.
        path: What it was to be delivered under.
        at_ns: When it failed, ns since 1970 by the clock here.
        mtime_ns: As its sender gave it.
        hash_name: What the digests were made with.
        expected: The digest that its sender gave.
        found: The digest that its bytes have.
    """

    topic: str = ""
    partition: int | None = None
    offset: int | None = None
    path: str = ""
    at_ns: int | None = None
    mtime_ns: int | None = None
    hash_name: HashName = HashName.BLAKE3
    expected: bytes = b""
    found: bytes = b""


NOT_KNOWN = Failure()


class Sink(Protocol):
    """Where whole files go. Bytes of an open version are invisible until ``publish``."""

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        """Keep bytes of an open version; StorageError when there is no room or no right to."""
        ...

    def read(self, key: VersionKey, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes of an open version again, in pieces; StorageError when they are not there."""
        ...

    def sync(self, keys: Iterable[VersionKey]) -> None:
        """Make what was written of these versions survive a power cut."""
        ...

    def publish(self, publications: Sequence[Publication]) -> dict[VersionKey, OpenMSIStreamError]:
        """
        Make versions appear, each whole or not at all, and make their names survive a power cut.

        Returns:
            Why a version could not be published, for those that could not: a ProtocolError when its path
            can never be written here, a DeliveryError when it is refused and others are not. StorageError is raised,
            for all, when the destination is full or refuses everything.
        """
        ...

    def stands(self, path: str, size: int) -> bool:
        """True when a file of that size is there under its final path."""
        ...

    def holds(self, path: str, size: int, hash_name: HashName, digest: bytes) -> bool:
        """True when the file under its final path has that size and that digest; reads all of it."""
        ...

    def where(self, key: VersionKey) -> str:
        """Where a version of the last batch stands, in full, as a user would name it; empty when it is not known."""
        ...

    def discard(self, key: VersionKey) -> None:
        """Forget the bytes of an open version; nothing happens when there are none."""
        ...

    def set_aside(self, key: VersionKey, reason: str, failure: Failure = NOT_KNOWN) -> None:
        """Move the bytes of an open version to quarantine, with the reason and what else is known."""
        ...

    def quarantine(self, topic: str, record: Record, reason: str, *, path: str = "", at_ns: int | None = None) -> None:
        """Keep a record that cannot be handled, with its origin, the reason, its file's path and when that was."""
        ...

    def restore(self, known: Iterable[VersionKey]) -> set[VersionKey]:
        """Which of ``known`` still have bytes here; bytes of no known version are removed."""
        ...

    def close(self) -> None:
        """Let go of all files."""
        ...
