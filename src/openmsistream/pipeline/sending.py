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
from openmsistream.pipeline.frames import Frame, Wire, abort_value
from openmsistream.ports import OpenFile, Parked, Producer

GROWING_SIZE = -1
"""The size of a parked version whose file was still being written: not known."""


class State(Enum):
    """Where a version stands."""

    HASHING = "hashing"  # before the first chunk: v1, a resume, or a touched file; before the end of a streamed one
    GROWING = "growing"  # streamed while it is being written; whole chunks only, the end comes when it settles
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
        growing: The file is still being written (v2 only): its chunks go as they become whole, until ``settle``.
        evidence: Why the file is taken to be complete.

    Attributes:
        path: What the version was announced under.
        final_path: What the file is called by now.
        streamed: It was begun while it was being written.
        settling: It was, and then its file was found complete.
        verified: What was sent of it before was found in it unchanged then.
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
        growing: bool = False,
        evidence: str = "",
    ) -> None:
        self.path = self.final_path = path
        self.stat, self.evidence = file.stat, evidence
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
        self.streamed = self._growing = growing
        self._settled: tuple[OpenFile, str] | None = None
        self._sent_prefix: tuple[int, bytes] | None = None
        self.settling = self.verified = False
        needs_hash = wire is not Wire.V2 or parked is not None or sent_digest is not None
        self.state = State.HASHING if needs_hash else self._sending_state

    @property
    def size(self) -> int | None:
        """Size of the version in bytes; None while it grows."""
        return None if self._growing else self.stat.size

    @property
    def _sending_state(self) -> State:
        return State.GROWING if self._growing else State.SENDING

    @property
    def next_bytes(self) -> int:
        """The most payload bytes that the next ``step`` produces."""
        if self.state is State.HASHING:
            return 0
        chunk_bytes = self.frame.chunk_bytes
        return chunk_bytes if self._growing else min(chunk_bytes, self.stat.size - self._position)

    @property
    def single(self) -> bool:
        """True when one chunk holds the whole file."""
        return not self.streamed and self.stat.size <= self.frame.chunk_bytes

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
        if self.state is State.FAILED:
            return True
        try:
            if self._settled is not None and self._record is None and self.state is State.GROWING:
                self._begin_verifying(*self._settled)
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
        if not self._growing and stop >= self.stat.size:
            self.state = State.AWAITING
            self._file.close()
        return True

    # -- while the file grows ------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """
        True when ``step`` can do something now; a growing file may have to be waited for.

        A whole chunk is sent once bytes behind it are there, so that it stays at most one chunk behind the writer.
        """
        if self.state is not State.GROWING or self._record is not None or self._settled is not None:
            return True
        try:
            size = self._file.look().size
            if size < self._position:
                raise SourceError(f"{self.final_path}: it became shorter while it was streamed")
        except OpenMSIStreamError as error:
            self.fail(error)
            return True
        return size > self._position + self.frame.chunk_bytes

    def settle(self, file: OpenFile, path: str, evidence: str) -> None:
        """
        The file that was streamed is complete: its end may be sent, once what was sent is found in it unchanged.

        Instruments patch headers at close, so everything that was sent is read again before.

        Args:
            file: The same file opened anew; closed by this object.
            path: What it is called by now.
            evidence: Why it is taken to be complete.
        """
        self._settled, self.final_path, self.evidence, self.settling = (file, path), path, evidence, True

    def _begin_verifying(self, file: OpenFile, path: str) -> None:
        self._file.close()
        same_file = file.stat.inode == self.stat.inode
        self._file, self.stat, self._settled = file, file.stat, None
        if not same_file or file.stat.size < self._position:
            raise SourceError(f"{path}: it was replaced or became shorter while it was streamed")
        self._growing = False
        self._sent_prefix = (self._position, self._hasher.digest())
        self._hasher, self._position, self.state = new_hasher(self._wire.hash_name), 0, State.HASHING

    def parked(self) -> Parked:
        """What a restart needs to go on with this version."""
        return Parked(
            self.path,
            self.version if self._wire is Wire.V2 else self.digest,
            self.gen,
            Stat(GROWING_SIZE, self.stat.mtime_ns, self.stat.inode) if self.streamed else self.stat,
            self.frame.chunk_bytes,
            self.partition,
            self.first_offset,
            self.acknowledged,
            self._prefix_digest,
            self.started_ns,
        )

    def fail(self, error: OpenMSIStreamError) -> None:
        """Give up; chunks that are on their way may still arrive."""
        if self.streamed and self.final_path != self.path and not isinstance(error, SourceError):
            # Nobody could go on with it: what is parked is looked for under the name that it was announced under.
            error = SourceError(f"{error.message}, and it has another name than it was announced under")
        self.error = self.error or error
        self.state = State.FAILED
        self._file.close()
        if self._settled is not None:
            self._settled[0].close()

    def abort_record(self, reason: str) -> tuple[bytes, bytes] | None:
        """Key and value of the record that tells consumers to discard this version; None when v1 has no such thing."""
        if self._wire is not Wire.V2 or (self._index == 0 and self.resumed_at == 0):
            return None
        return self._key, abort_value(self.path, self.version, self._src, self.gen, self._position, self.stat, reason)

    # -- hashing before the first chunk ------------------------------------------------------------------

    def _hash_step(self) -> None:
        """Read one span only to hash it: a v1 digest, a prefix sent before, or a file that was touched."""
        goal = self.stat.size
        if self._sent_prefix is not None:
            goal = self._sent_prefix[0]
        elif self._parked is not None and self._wire is Wire.V2:
            goal = self._parked.acknowledged
        if self._position < goal:
            size = min(self.frame.chunk_bytes, goal - self._position)
            self._hasher.update(self._read(size))
            self._position += size
            if self._position < goal:
                return
        digest = self._hasher.digest()
        if self._sent_prefix is not None:
            if digest != self._sent_prefix[1]:
                raise SourceError(f"{self.final_path}: bytes that were sent already were written again at its end")
            self._sent_prefix, self.state, self.verified = None, State.SENDING, True
            return
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
        self.state = self._sending_state

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
                f"{self.path}: it became shorter while it was read (expected {self.stat.size} bytes)",
                hint="it is sent anew once it stops changing",
            )
        return payload

    def _next_record(self) -> tuple[bytes, memoryview | bytes, int]:
        start, stop = self._position, self._position + self.frame.chunk_bytes
        if not self._growing:
            stop = min(stop, self.stat.size)
        payload = self._read(stop - start)
        last = not self._growing and stop >= self.stat.size
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
                name=self.final_path if last and self.final_path != self.path else None,
            )
        )
        return self._key, self.frame.with_header(header, stop - start), stop

    def _record_v1(self, start: int, stop: int, payload: memoryview) -> tuple[bytes, bytes, int]:
        total = max(1, -(-self.stat.size // self.frame.chunk_bytes))
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
