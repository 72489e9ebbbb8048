"""Which files a topic holds, found by reading it once: whole or not, with the right bytes or not. Keeps no bytes.

Puts versions together as a downloader does, and hashes them as their chunks pass. Chunks out of order (those of 1.x lie
in all partitions) are held until their turn, within a bound. Must not know Kafka, nor what the files are compared with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from openmsistream.adapters.sqlite.scratch import StoredVersion, VersionTable
from openmsistream.core.assembly import Assembly, OpenVersion, Verb
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.comparing import Item, Kind
from openmsistream.core.hashing import Hasher, new_hasher
from openmsistream.core.paths import check_relative
from openmsistream.core.versions import VersionKey, is_newer, key_of
from openmsistream.core.wire.recognise import decode_record
from openmsistream.core.wire.v1 import delivered_name
from openmsistream.errors import ProtocolError
from openmsistream.pipeline.delivery import final_path
from openmsistream.ports import Record

HOLD_BYTES = 64 * 1024 * 1024
"""Chunks that came before their turn, of all versions together. Beyond it a version's hash is taken as it was sent."""
OPEN_MAX = 50_000
"""Versions that are begun and not whole: some 3 KB each, so that a hostile topic costs 150 MB and not everything."""
REASONS_KEPT = 5
_NO_LIMIT = 1 << 63  # nothing is written, so an offset far away costs nothing


@dataclass(slots=True)
class _Passing:
    """The hash of a version while its bytes pass; without a hasher it cannot be made any more."""

    hasher: Hasher | None
    upto: int = 0
    held: dict[int, bytes] = field(default_factory=dict)

    def take(self, offset: int, payload: bytes | memoryview) -> int:
        """Hash a chunk, or hold it; by how many bytes more is held than before."""
        if self.hasher is None:
            return 0
        if offset > self.upto:
            before = len(self.held.get(offset, b""))
            self.held[offset] = bytes(payload)
            return len(payload) - before
        if offset < self.upto:
            return self.give_up()  # it overlaps what was hashed
        self.hasher.update(payload)
        self.upto += len(payload)
        freed = 0
        while (following := self.held.pop(self.upto, None)) is not None:
            self.hasher.update(following)
            self.upto += len(following)
            freed += len(following)
        return -freed

    def give_up(self) -> int:
        """Hold nothing any more; by how many bytes more is held than before."""
        freed = sum(map(len, self.held.values()))
        self.held.clear()
        self.hasher = None
        return -freed


class TopicVersions:
    """
    The files on a topic, as far as its records were taken in.

    Args:
        hold_bytes: Limit for chunks that came before their turn.
        open_max: Limit for versions that are begun and not whole.

    Attributes:
        records: How many were taken in.
        refused: How many of them no downloader could handle; ``reasons`` has the first few.
        unchecked: Whole versions whose bytes could not be hashed: their hash is what the sender says.
        crowded_out: Versions that were given up because of ``open_max``; they count as incomplete.
    """

    def __init__(self, *, hold_bytes: int = HOLD_BYTES, open_max: int = OPEN_MAX) -> None:
        self._hold_bytes, self._open_max = hold_bytes, open_max
        self._assembly = Assembly(_NO_LIMIT)
        self._passing: OrderedDict[VersionKey, _Passing] = OrderedDict()
        self._held = 0
        self._table = VersionTable()
        self.records = self.refused = self.unchecked = self.crowded_out = 0
        self.reasons: list[str] = []

    def take(self, record: Record) -> None:
        """Take in one record; one that cannot be handled is counted."""
        self.records += 1
        try:
            chunk = decode_record(record.value, record.headers)
            path = final_path_of(chunk)
        except ProtocolError as error:
            self._refuse(record, error.message)
            return
        key = key_of(chunk)
        if key not in self._passing and self._is_known(chunk, path):
            return
        step = self._assembly.step(
            chunk, partition=record.partition, offset=record.offset, timestamp_ms=record.timestamp_ms
        )
        if step.verb is Verb.REFUSE:
            self._refuse(record, f"{path}: {step.reason}")
        elif step.verb is Verb.DISCARD:
            self._end(key)
            self._table.forget(key.path, key.version)
        elif step.version is not None:
            self._pass(key, chunk, step.version, is_new=step.verb is Verb.WRITE)
            if step.complete:
                self._whole(step.version)

    def items(self) -> Iterator[Item]:
        """Every file, each path once: its newest version; call it when all records were taken in."""
        for version in list(self._assembly.versions()):
            self._incomplete(version)
        for stored in self._table.by_path():
            newest = stored[-1]
            for other in stored[:-1]:  # the one that is not whole
                if is_newer(other.order, newest.order):
                    newest = other
            yield Item(
                newest.path,
                newest.size,
                newest.version.hex(),
                newest.hash_name,
                newest.digest,
                newest.problem,
                newest.reason,
            )

    def close(self) -> None:
        """Forget all of it."""
        self._table.close()

    def _is_known(self, chunk: Chunk, path: str) -> bool:
        """True when a chunk is of a version that was whole before, and came once more."""
        is_v2 = chunk.hash_name is HashName.BLAKE3
        for stored in (self._table.get(path, whole=True), self._table.get(path, whole=False) if is_v2 else None):
            if stored is not None and stored.version == chunk.version and stored.problem is not Kind.INCOMPLETE:
                return True
        return is_v2 and self._table.was_renamed(chunk.version)

    def _pass(self, key: VersionKey, chunk: Chunk, version: OpenVersion, *, is_new: bool) -> None:
        passing = self._passing.get(key)
        if passing is None:
            passing = self._passing[key] = _Passing(new_hasher(version.hash_name))
            self._make_room()
        self._passing.move_to_end(key)
        if is_new:
            self._held += passing.take(chunk.offset, chunk.payload)
            if self._held > self._hold_bytes:
                self._held += passing.give_up()

    def _make_room(self) -> None:
        if len(self._passing) <= self._open_max:
            return
        oldest = next(iter(self._passing))
        self.crowded_out += 1
        for version in self._assembly.of_path(oldest.path):
            if version.key == oldest:
                self._incomplete(version)

    def _whole(self, version: OpenVersion) -> None:
        passing = self._passing[version.key]
        size, digest = version.size or 0, version.digest or b""
        path = final_path(version)
        problem, reason = None, ""
        if passing.hasher is None or passing.upto != size:
            self.unchecked += 1
        elif passing.hasher.digest() != digest:
            problem = Kind.DAMAGED
            found = f"{version.hash_name.value} {passing.hasher.digest().hex()}"
            reason = f"its bytes have {found}, its sender gave {digest.hex()}"
        self._end(version.key)
        stored = StoredVersion(
            path, version.key.version, size, version.hash_name, digest, version.order, problem, reason
        )
        before = self._table.get(path, whole=problem is None)
        if before is None or is_newer(stored.order, before.order):
            self._table.put(stored)
        if problem is None:
            self._table.forget(version.key.path, version.key.version)
        if path != version.key.path and version.hash_name is HashName.BLAKE3:
            self._table.put_renamed(version.key.version)

    def _incomplete(self, version: OpenVersion) -> None:
        path = final_path(version)
        before = self._table.get(path, whole=False)
        if before is None or is_newer(version.order, before.order):
            came, size = version.received.total, version.size
            reason = f"{came:,} of {size:,} bytes are there" if size is not None else f"{came:,} bytes are there"
            if version.received.prefix == 0 and version.received.total:
                reason += ", and its beginning is not"
            self._table.put(
                StoredVersion(
                    path,
                    version.key.version,
                    size or version.received.end,
                    version.hash_name,
                    version.digest,
                    version.order,
                    Kind.INCOMPLETE,
                    reason,
                )
            )
        self._end(version.key)

    def _end(self, key: VersionKey) -> None:
        self._assembly.close(key)
        passing = self._passing.pop(key, None)
        if passing is not None:
            self._held += passing.give_up()

    def _refuse(self, record: Record, reason: str) -> None:
        self.refused += 1
        if len(self.reasons) < REASONS_KEPT:
            self.reasons.append(f"partition {record.partition}, offset {record.offset}: {reason}")


def final_path_of(chunk: Chunk) -> str:
    """The path a chunk's file is delivered under; ProtocolError when it may not be, whatever the destination."""
    check_relative(chunk.path)
    if chunk.name is not None:
        return check_relative(chunk.name)
    if chunk.append:
        return check_relative(delivered_name(chunk.path, chunk.append))
    return chunk.path
