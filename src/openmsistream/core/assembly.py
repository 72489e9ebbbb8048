"""Putting file versions together from chunks that come in any order, repeated and interleaved.

The state of one consumer: which versions are open and which of their bytes were received. ``step`` says
what a chunk means; the pipeline then does it (write, finish, discard). Pure: no file, no hash, no clock.
What is on the disk and in the ledger is the pipeline's business; it tells assembly through ``restore``
and ``close``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.ranges import Ranges
from openmsistream.core.versions import VersionKey, VersionOrder, key_of

MAX_AHEAD_BYTES = 64 * 1024 * 1024
"""How far beyond the bytes received a v2 chunk may lie: a hostile offset must not make a huge sparse file."""

MAX_AHEAD_BYTES_V1 = 64 * 1024 * 1024 * 1024
"""The same for v1, whose chunks a 1.x producer spreads over all partitions: one may be read long before another."""


@dataclass(slots=True)
class OpenVersion:
    """
    What is known of a version whose bytes are still coming.

    Attributes:
        key: The path it was announced under, and its id.
        received: The bytes that were received.
        size: Whole size in bytes once known.
        digest: Whole-file digest once known.
        first_offsets: For each partition: the offset of its first record there. They hold the watermark.
        timestamp_ms: The latest broker timestamp of its records.
        name: The path to deliver it under, when that differs from the one it was announced under.
        seen_ms: When its latest record came, in the topic's time: it does not go back when a sender's clock does.
    """

    key: VersionKey
    hash_name: HashName
    received: Ranges = field(default_factory=Ranges)
    size: int | None = None
    digest: bytes | None = None
    first_offsets: dict[int, int] = field(default_factory=dict)
    timestamp_ms: int = 0
    mtime_ns: int | None = None
    src: bytes | None = None
    gen: int | None = None
    name: str | None = None
    append: str = ""
    total: int | None = None
    seen_ms: int = 0

    @property
    def complete(self) -> bool:
        """True when every byte is there and the digest is known; whether they agree is not known yet."""
        return self.size is not None and self.digest is not None and self.received.covers(0, self.size)

    @property
    def order(self) -> VersionOrder:
        """What decides whether it is newer than another version of its path."""
        return VersionOrder(self.src, self.gen, self.mtime_ns, self.timestamp_ms)


class Verb(Enum):
    """What the pipeline is to do with a chunk."""

    WRITE = "write"  # new bytes: write them at their offset
    NOTHING = "nothing"  # received before, or only news about the version
    DISCARD = "discard"  # the producer gave the version up
    REFUSE = "refuse"  # the chunk contradicts what is known of its version: quarantine it


@dataclass(frozen=True, slots=True)
class Step:
    """What one chunk means: ``verb``, the version it belongs to, and whether that version is now complete."""

    verb: Verb
    version: OpenVersion | None
    complete: bool = False
    reason: str = ""


class Assembly:
    """The open versions of one consumer. ``max_ahead_bytes`` bounds how far ahead of the rest a chunk may lie."""

    def __init__(self, max_ahead_bytes: int = MAX_AHEAD_BYTES) -> None:
        self._max_ahead = max_ahead_bytes
        self._open: dict[VersionKey, OpenVersion] = {}
        self._of_path: dict[str, set[VersionKey]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, key: VersionKey) -> bool:
        return key in self._open

    def versions(self) -> Iterable[OpenVersion]:
        """The open versions, oldest first."""
        return self._open.values()

    def of_path(self, path: str) -> list[OpenVersion]:
        """The open versions that were announced under ``path``."""
        return [self._open[key] for key in self._of_path.get(path, ())]

    def first_offsets(self, partition: int) -> Iterable[int]:
        """For each version open in a partition: the offset of its first record there."""
        return (v.first_offsets[partition] for v in self._open.values() if partition in v.first_offsets)

    def open_in(self, partition: int) -> Iterable[OpenVersion]:
        """The versions open in a partition."""
        return (version for version in self._open.values() if partition in version.first_offsets)

    def restore(self, version: OpenVersion) -> None:
        """Go on with a version that the ledger remembers."""
        self._open[version.key] = version
        self._of_path.setdefault(version.key.path, set()).add(version.key)

    def close(self, key: VersionKey) -> None:
        """The version is finished: delivered, superseded, discarded or quarantined."""
        if self._open.pop(key, None) is not None:
            keys = self._of_path[key.path]
            keys.discard(key)
            if not keys:
                del self._of_path[key.path]

    def step(self, chunk: Chunk, *, partition: int, offset: int, timestamp_ms: int, seen_ms: int = 0) -> Step:
        """
        Take in one chunk, which was read at ``offset`` of ``partition``.

        Args:
            chunk: The chunk.
            partition: Its record's.
            offset: Its record's.
            timestamp_ms: Its record's.
            seen_ms: The topic's time when it came, where that is known to be later.

        Returns:
            What to do. A chunk that is refused leaves the state as it was.
        """
        key = key_of(chunk)
        version = self._open.get(key)
        if chunk.abort is not None:
            self.close(key)
            return Step(Verb.DISCARD, version, reason=chunk.abort)
        is_new = version is None
        if version is None:
            version = OpenVersion(key, chunk.hash_name)
        stop = chunk.offset + len(chunk.payload)
        reason = self._contradiction(version, chunk, stop)
        if reason:
            return Step(Verb.REFUSE, None if is_new else version, reason=reason)
        if is_new:
            self.restore(version)
        self._learn(version, chunk, partition, offset, timestamp_ms)
        version.seen_ms = max(version.seen_ms, timestamp_ms, seen_ms)
        if chunk.alive:
            return Step(Verb.NOTHING, version)
        if chunk.payload and version.received.covers(chunk.offset, stop):
            return Step(Verb.NOTHING, version, version.complete, "received before")
        version.received.add(chunk.offset, stop)
        return Step(Verb.WRITE, version, version.complete)

    def _contradiction(self, version: OpenVersion, chunk: Chunk, stop: int) -> str:
        max_ahead = self._max_ahead if version.hash_name is HashName.BLAKE3 else MAX_AHEAD_BYTES_V1
        if chunk.offset > version.received.end + max_ahead:
            return (
                f"its offset {chunk.offset} lies more than {max_ahead} bytes beyond what was received"
                f" ({version.received.end})"
            )
        size = chunk.size if chunk.size is not None else version.size
        if size is not None and stop > size:
            return f"its bytes end at {stop}, beyond the file's size of {size}"
        if size is not None and version.received.end > size:
            return f"it says the file has {size} bytes, but {version.received.end} were received"
        if chunk.size is not None and version.size is not None and chunk.size != version.size:
            return f"it says the file has {chunk.size} bytes, an earlier chunk said {version.size}"
        if chunk.digest is not None and version.digest is not None and chunk.digest != version.digest:
            return "its whole-file digest differs from an earlier chunk's"
        if chunk.total is not None and version.total is not None and chunk.total != version.total:
            return f"it says the file has {chunk.total} chunks, an earlier chunk said {version.total}"
        if chunk.total is not None and chunk.index == chunk.total - 1 and stop < version.received.end:
            return f"it is the last chunk and ends at {stop}, but bytes up to {version.received.end} were received"
        return ""

    @staticmethod
    def _learn(version: OpenVersion, chunk: Chunk, partition: int, offset: int, timestamp_ms: int) -> None:
        version.first_offsets.setdefault(partition, offset)
        version.timestamp_ms = max(version.timestamp_ms, timestamp_ms)
        if chunk.size is not None:
            version.size = chunk.size
        elif chunk.total is not None and chunk.index == chunk.total - 1:
            version.size = chunk.offset + len(chunk.payload)  # v1 never says the size; its last chunk shows it
        version.digest = chunk.digest or version.digest
        version.total = chunk.total if chunk.total is not None else version.total
        version.name = chunk.name or version.name
        version.append = chunk.append or version.append
        version.src, version.gen = chunk.src or version.src, version.gen if chunk.gen is None else chunk.gen
        if chunk.mtime_ns is not None:
            version.mtime_ns = max(chunk.mtime_ns, version.mtime_ns or chunk.mtime_ns)
