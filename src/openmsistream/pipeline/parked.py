"""Versions that were under way when the program ended, or whose sending failed: which may go on, which are given up.

A version goes on with its id when its file still begins with what was acknowledged; otherwise consumers are told to
discard it, so that nothing stays open there for ever. Knows the ledger and the wire; sends nothing itself.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from openmsistream.core.events import Note
from openmsistream.core.paths import to_wire_bytes
from openmsistream.core.settle import Stat
from openmsistream.errors import OpenMSIStreamError
from openmsistream.pipeline.frames import Wire, abort_value
from openmsistream.pipeline.sending import GROWING_SIZE
from openmsistream.ports import Events, FileReader, Parked, Producer, UploadLedger


@dataclass(frozen=True, slots=True)
class Abort:
    """The record that tells consumers to discard a version, and which one that is."""

    partition: int
    key: bytes
    value: bytes
    path: str
    version: bytes


class ParkedVersions:
    """
    What a restart, or another try, may go on with.

    Args:
        producer, ledger, events: The uploader's.
        wire, chunk_bytes: What is written now; a version begun otherwise may not go on.
        resume_within_seconds: A version begun longer ago is sent anew: consumers may have given it up.

    Attributes:
        outbox: What consumers are still to be told; the sender sends it.
        unanswered: How many of these records the broker has not answered for yet.
    """

    def __init__(
        self,
        producer: Producer,
        ledger: UploadLedger,
        events: Events,
        *,
        wire: Wire,
        chunk_bytes: int,
        resume_within_seconds: float,
    ) -> None:
        self._producer, self._ledger, self._events = producer, ledger, events
        self._wire, self._chunk_bytes, self._resume_within = wire, chunk_bytes, resume_within_seconds
        self._parked = {parked.path: parked for parked in ledger.open_versions()}
        self.outbox: deque[Abort] = deque()
        self.unanswered = 0

    def keep(self, parked: Parked) -> None:
        """This version may go on at the next try."""
        self._parked[parked.path] = parked
        self._ledger.record_open(parked)

    def take(self, path: str, stat: Stat, now_ns: int) -> Parked | None:
        """The parked version of a path if it may go on; if not, consumers are told to discard it."""
        parked = self._parked.get(path)
        if parked is None:
            return None
        reason = self._cannot_go_on(parked, stat, now_ns)
        del self._parked[path]
        if not reason:
            return parked
        self.abort(parked, reason)
        return None

    def vanished(self, path: str) -> None:
        """A path names no file any more: a version of it that was to go on is given up."""
        parked = self._parked.pop(path, None)
        if parked is not None:
            self.abort(parked, "the file was removed or renamed before it was sent whole")

    def abandon_vanished(self, reader: FileReader) -> None:
        """Give up the versions whose files are gone."""
        for path in list(self._parked):
            if reader.stat(path) is None:
                self.vanished(path)

    def abort(self, parked: Parked, reason: str) -> None:
        """Tell consumers to discard a version."""
        if len(parked.version) != 16:
            self._ledger.drop_open(parked.path)
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
        self.tell(parked, to_wire_bytes(parked.path), value)
        if parked.acknowledged:
            self._events(Note(f"{parked.path}: begins anew ({reason})"))

    def tell(self, parked: Parked, key: bytes, value: bytes) -> None:
        """
        Have consumers discard a version.

        Who heard that takes nothing of it any more. So it must never be gone on with, also not after a kill: the
        ledger has it as one of which nothing was acknowledged, until the broker has the word.
        """
        self._ledger.record_open(replace(parked, acknowledged=0))
        self.unanswered += 1
        self.outbox.append(Abort(parked.partition, key, value, parked.path, parked.version))

    def told(self, abort: Abort, _offset: int, error: OpenMSIStreamError | None) -> None:
        """The broker answered; what it refused is tried again at the next start."""
        self.unanswered -= 1
        if error is None:
            self._ledger.drop_open(abort.path, abort.version)

    def _cannot_go_on(self, parked: Parked, stat: Stat, now_ns: int) -> str:
        grew = parked.stat.size == GROWING_SIZE and stat.size > parked.acknowledged
        if not (grew or parked.stat.same_content(stat)):
            return "the file changed before it was sent whole"
        if (self._wire is Wire.V2) != (len(parked.version) == 16):
            return "the wire format was changed"
        if parked.chunk_bytes != self._chunk_bytes and self._wire is not Wire.V2:
            return "the chunk size was changed"
        if now_ns - parked.started_ns > self._resume_within * 1e9:
            return "it was interrupted too long ago"
        if parked.acknowledged == 0:
            return "nothing of it was acknowledged"
        if self._producer.log_start(parked.partition) > parked.first_offset:
            return "its first chunk is no longer on the topic"
        return ""
