"""One file version on its way: read a span, hash it, put a header before it, produce it, await the broker's word.

It is advanced one chunk at a time, so that several files share one loop and one producer. It knows the two
wire formats and the ports, nothing of folders or ledgers: who drives it decides when to start, park or retry.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import partial

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.hashing import new_hasher
from openmsistream.core.paths import partition_for, to_wire_bytes
from openmsistream.core.settle import Stat
from openmsistream.core.wire import v1, v2
from openmsistream.errors import OpenMSIStreamError, SourceError
from openmsistream.ports import OpenFile, Parked, Producer

HEADER_ROOM = 17 * 1024
"""Room before the payload for the longest v2 header: 4 + 2 + 16,384 bytes."""


class Frame:
    """A buffer for one record: room for a header, then the payload, so that neither is ever moved."""

    __slots__ = ("_view", "chunk_bytes")

    def __init__(self, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self._view = memoryview(bytearray(HEADER_ROOM + chunk_bytes))

    def payload(self, size: int) -> memoryview:
        """Where ``size`` payload bytes are to be read to."""
        return self._view[HEADER_ROOM : HEADER_ROOM + size]

    def with_header(self, header: bytes, size: int) -> memoryview:
        """The record: ``header`` placed right before the ``size`` payload bytes."""
        start = HEADER_ROOM - len(header)
        self._view[start:HEADER_ROOM] = header
        return self._view[start : HEADER_ROOM + size]


class Wire(Enum):
    """The format a producer writes."""

    V2 = "v2"
    V1_10 = "v1 with 10 fields"
    V1_9 = "v1 with 9 fields"

    @property
    def hash_name(self) -> HashName:
        """The function this format's whole-file digest is made with."""
        return HashName.BLAKE3 if self is Wire.V2 else HashName.SHA512


class State(Enum):
    """Where a version stands."""

    HASHING = "hashing"  # before the first chunk: v1, a resume, or a touched file
    SENDING = "sending"
    AWAITING = "awaiting"  # everything is produced, the broker has not acknowledged everything
    SENT = "sent"
    SAME = "same"  # touched only: its content was sent before
    FAILED = "failed"


class Sending:
    """
    One version being sent.

    Args:
        path: Relative path, the identity of the file for users.
        file: The open file; closed by this object.
        stat: What the file looked like when it was taken.
        wire: The format to write.
        version, gen, src: Identity of the version and of its uploader.
        partition_count: What the partition is computed from.
        sent_digest: Digest of the version sent before, when this file may be the same again.
        parked: What a version under way before was at, to go on with it.
    """

    def __init__(
        self,
        path: str,
        file: OpenFile,
        *,
        wire: Wire,
        version: bytes,
        gen: int,
        src: bytes,
        frame: Frame,
        partition_count: int,
        now: float,
        started_ns: int,
        sent_digest: bytes | None = None,
        parked: Parked | None = None,
        on_parked_changed: Callable[[Parked], None] | None = None,
    ) -> None:
        self.path, self.stat = path, file.stat
        self.version, self.gen = version, gen
        self.partition = parked.partition if parked else partition_for(path, partition_count)
        self.started, self.started_ns = now, started_ns
        self.error: OpenMSIStreamError | None = None
        self.digest = b""
        self.acknowledged = 0
        self.first_offset = parked.first_offset if parked else -1
        self.resumed_at = 0
        self._prefix_digest = b""
        self._key = to_wire_bytes(path)
        self._file, self._wire, self._src, self.frame = file, wire, src, frame
        self._sent_digest, self._parked, self._on_parked_changed = sent_digest, parked, on_parked_changed
        self._hasher = new_hasher(wire.hash_name)
        self._position = self._index = self._in_flight = 0
        self._record: tuple[bytes, memoryview | bytes, int] | None = None
        needs_hash = wire is not Wire.V2 or parked is not None or sent_digest is not None
        self.state = State.HASHING if needs_hash else State.SENDING

    @property
    def size(self) -> int:
        """Size of the version in bytes."""
        return self.stat.size

    @property
    def single(self) -> bool:
        """True when one chunk holds the whole file."""
        return self.size <= self.frame.chunk_bytes

    @property
    def in_flight(self) -> int:
        """Records that the broker has not acknowledged or refused yet."""
        return self._in_flight

    def step(self, producer: Producer) -> bool:
        """
        Do the next piece of work: hash a span, or produce a chunk.

        Returns:
            False when the producer's queue is full: serve it, then call again.
        """
        try:
            if self.state is State.HASHING:
                self._hash_step()
                return True
            if self._record is None:
                self._record = self._next_record()
            key, value, stop = self._record
            acknowledge = partial(self._acknowledge, stop, self._hasher.digest() if not self.single else b"")
            if not producer.produce(self.partition, key, value, acknowledge):
                return False
        except OpenMSIStreamError as error:
            self.fail(error)
            return True
        self._record = None
        self._in_flight += 1
        self._position, self._index = stop, self._index + 1
        if stop >= self.size:
            self.state = State.AWAITING
            self._file.close()
        return True

    def parked(self) -> Parked:
        """What a restart needs to go on with this version."""
        return Parked(
            self.path,
            self.version if self._wire is Wire.V2 else self.digest,
            self.gen,
            self.stat,
            self.frame.chunk_bytes,
            self.partition,
            self.first_offset,
            self.acknowledged,
            self._prefix_digest,
            self.started_ns,
        )

    def fail(self, error: OpenMSIStreamError) -> None:
        """Give up; chunks that are on their way may still arrive."""
        self.error = self.error or error
        self.state = State.FAILED
        self._file.close()

    def abort_record(self, reason: str) -> tuple[bytes, bytes] | None:
        """Key and value of the record that tells consumers to discard this version; None when v1 has no such thing."""
        if self._wire is not Wire.V2 or (self._index == 0 and self.resumed_at == 0):
            return None
        return self._key, abort_value(self.path, self.version, self._src, self.gen, self._position, self.stat, reason)

    # -- hashing before the first chunk ------------------------------------------------------------------

    def _hash_step(self) -> None:
        """Read one span only to hash it: a v1 digest, a prefix sent before, or a file that was touched."""
        goal = self._parked.acknowledged if self._parked and self._wire is Wire.V2 else self.size
        if self._position < goal:
            size = min(self.frame.chunk_bytes, goal - self._position)
            self._hasher.update(self._read(size))
            self._position += size
            if self._position < goal:
                return
        digest = self._hasher.digest()
        if self._parked is None and digest == self._sent_digest:
            self.digest, self.state = digest, State.SAME
            self._file.close()
            return
        if self._wire is Wire.V2 and self._parked is not None:
            self._resume_v2(self._parked, digest)
            return
        self._rewind(digest)

    def _resume_v2(self, parked: Parked, digest: bytes) -> None:
        self._parked = None
        if digest != parked.prefix_digest and parked.acknowledged > 0:
            if self._on_parked_changed is not None:
                self._on_parked_changed(parked)
            raise SourceError(f"{self.path}: its beginning changed since it was sent; it is sent anew")
        self.acknowledged = self.resumed_at = self._position
        self._prefix_digest = digest
        self._index = self._position // self.frame.chunk_bytes
        self.state = State.SENDING

    def _rewind(self, digest: bytes) -> None:
        """Everything is hashed: begin to send, from the start or (v1, same content) where it was left."""
        if self._wire is not Wire.V2:
            self.digest = digest
        start = 0
        if self._parked is not None and self._wire is not Wire.V2 and self._parked.version == digest:
            start = self._parked.acknowledged
        self._file.seek(start)
        self._position = self.acknowledged = self.resumed_at = start
        self._index = start // self.frame.chunk_bytes
        self._hasher = new_hasher(self._wire.hash_name)
        self.state = State.SENDING

    # -- sending -------------------------------------------------------------------------------------------

    def _read(self, size: int) -> memoryview:
        payload = self.frame.payload(size)
        if size and self._file.read_into(payload) < size:
            raise SourceError(
                f"{self.path}: it became shorter while it was read (expected {self.size} bytes)",
                hint="it is sent anew once it stops changing",
            )
        return payload

    def _next_record(self) -> tuple[bytes, memoryview | bytes, int]:
        start, stop = self._position, min(self._position + self.frame.chunk_bytes, self.size)
        payload = self._read(stop - start)
        last = stop >= self.size
        if last and not self._file.unchanged():
            raise SourceError(
                f"{self.path}: it changed while it was read", hint="it is sent anew once it stops changing"
            )
        if self._wire is not Wire.V2:
            return self._record_v1(start, stop, payload)
        self._hasher.update(payload)
        if last:
            self.digest = self._hasher.digest()
        header = v2.encode_header(
            Chunk(
                version=self.version,
                path=self.path,
                offset=start,
                index=self._index,
                payload=payload,
                mtime_ns=self.stat.mtime_ns,
                size=self.size,
                last=last,
                digest=self.digest if last else None,
                src=self._src,
                gen=self.gen,
            )
        )
        return self._key, self.frame.with_header(header, stop - start), stop

    def _record_v1(self, start: int, stop: int, payload: memoryview) -> tuple[bytes, bytes, int]:
        total = max(1, -(-self.size // self.frame.chunk_bytes))
        chunk = Chunk(
            version=self.digest,
            path=self.path,
            offset=start,
            index=self._index,
            payload=payload,
            mtime_ns=self.stat.mtime_ns,
            digest=self.digest,
            hash_name=HashName.SHA512,
            total=total,
        )
        value = v1.encode(chunk, fields=9 if self._wire is Wire.V1_9 else 10)
        return v1.record_key(self.path, self._index, total).encode("utf-8"), value, stop

    def _acknowledge(self, stop: int, prefix_digest: bytes, offset: int, error: OpenMSIStreamError | None) -> None:
        """The broker's word on the chunk that ends at ``stop``; the words come in the order of the chunks."""
        self._in_flight -= 1
        if error is not None:
            self.fail(error)
            return
        if self.error is not None:
            return  # a gap may lie before this chunk
        if self.first_offset < 0:
            self.first_offset = offset
        self.acknowledged, self._prefix_digest = stop, prefix_digest
        if self.state is State.AWAITING and self._in_flight == 0:
            self.state = State.SENT


def abort_value(path: str, version: bytes, src: bytes, gen: int, offset: int, stat: Stat, reason: str) -> bytes:
    """The value of a v2 record that says a version was given up."""
    return v2.encode_header(
        Chunk(
            version=version,
            path=path,
            offset=offset,
            index=0,
            payload=b"",
            mtime_ns=stat.mtime_ns,
            src=src,
            gen=gen,
            abort=reason[:500],
        )
    )
