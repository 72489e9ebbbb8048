"""One open version: its bytes as they come in order, cut into parts, and what comes out of order.

As long as the bytes come in order, they go through parts to the store; from the first one on that does not, they stand
in the spool file until the version is complete. Knows neither requests nor when a version is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.s3.parts import PartSpan, part_at
from openmsistream.adapters.s3.sending import ROOM_SECONDS, PartSender, Upload
from openmsistream.adapters.s3.spill import Collected, Collecting
from openmsistream.core.versions import VersionKey
from openmsistream.errors import BytesLostError, DeliveryError
from openmsistream.ports import Buffer

_POUR_SECONDS = 60.0
_TAIL = b"+"  # behind a version's id: a spool file that holds only its end, worth nothing after a restart


@dataclass(frozen=True, slots=True)
class Places:
    """Where the bytes of all open versions go."""

    collecting: Collecting
    sender: PartSender
    spool: FolderSink


class Incoming:
    """
    A version.

    Args:
        upload: Its multipart upload, which begins with the first full part.
        places: Where its bytes go.
        on_disk: Nothing of it is sent before it is complete.

    Attributes:
        position: So many bytes came in order.
        turned: From this offset on its bytes stand in the spool file; None: none do.
    """

    def __init__(self, upload: Upload, places: Places, *, on_disk: bool = False) -> None:
        self.key, self.upload, self._places = upload.key, upload, places
        self.position = 0
        self.turned: int | None = 0 if on_disk else None
        self._span = part_at(0)
        self._part: Collected | None = None
        self._taking: int | None = None

    @property
    def is_local(self) -> bool:
        """True when all its bytes can be read here again."""
        return self._span.start == 0 and not self.upload.done and not self.upload.waiting

    @property
    def spool_key(self) -> VersionKey | None:
        """What its spool file is called; None when it has none."""
        if self.turned is None:
            return None
        return self.key if self.turned == 0 else VersionKey(self.key.path, self.key.version + _TAIL)

    def write(self, offset: int, data: Buffer) -> None:
        """
        Keep bytes; harmless to repeat when it failed.

        Raises:
            BytesLostError: Its upload is gone.
            StorageError: The store or the work folder does not take them now.
        """
        view = memoryview(data)
        if self.turned is None:
            if offset == self._taking:
                view = view[self.position - offset :]  # the rest of what failed half-way
            elif offset == 0 and self.position:
                self._begin_anew()
            elif offset != self.position:
                self._turn()
        if self.turned is None:
            self._taking = offset
            self.take(view)
            self._taking = None
            return
        skipped = max(0, self.turned - offset)  # the store has these already
        if self.spool_key is not None and (skipped < len(view) or not len(view)):
            self._places.spool.write(self.spool_key, offset + skipped, view[skipped:])

    def take(self, view: memoryview, patience_seconds: float = ROOM_SECONDS) -> None:
        """
        Keep bytes behind those that came in order; wait so long for room.

        Those of an upload that is refused for good are let go: that is told when the version is complete.
        """
        while view or self._part is None:
            if self.upload.refused is not None:
                self._let_go()
                self.position += len(view)
                return
            if self._part is not None and self.position == self._span.stop:
                self._places.sender.wait_for_room(self.upload, patience_seconds)
                self.send()
                self._go_on()
                continue
            if self._part is None:
                self._part = self._places.collecting.begin(self.key, self._span.size)
            piece = view[: self._span.stop - self.position]
            self._places.collecting.add(self._part, piece)
            self.position += len(piece)
            view = view[len(piece) :]

    def pour(self, size: int) -> None:
        """The version is complete: what stands in the spool file goes the way of all bytes."""
        if self.spool_key is None:
            return
        if size == 0:
            self.take(memoryview(b""))
        for piece in self._places.spool.read(self.spool_key, self.position, size):
            self.take(memoryview(piece), _POUR_SECONDS)
            if self.upload.refused is not None:
                return

    def send(self) -> None:
        """Give the part that was collected to the store, whatever its size."""
        if self._part is not None:
            part, self._part = self._part, None
            self._places.sender.send(self.upload, self._span.number, self._places.collecting.take(part), part.size)

    def small_body(self) -> bytes | bytearray | None:
        """All bytes of a version that has one part, none of which was sent; None for every other."""
        if not self.is_local or self._part is None:
            return None
        return self._places.collecting.whole(self._part)

    def read(self, start: int, stop: int) -> Iterator[Buffer]:
        """
        Bytes again, in pieces.

        Raises:
            BytesLostError: The store has them, in parts that cannot be read.
        """
        if start >= stop:
            return
        if self.spool_key is not None and start >= (self.turned or 0):
            yield from self._places.spool.read(self.spool_key, start, stop)
            return
        if start < self._span.start or self._part is None or self.position < min(stop, self.turned or stop):
            raise BytesLostError(
                f"{self.upload.object_key}: its first bytes are in the store already, and cannot be compared with its"
                " hash there",
                [self.key],
            )
        middle = min(stop, self.position)
        yield from self._places.collecting.read(self._part, start - self._span.start, middle - self._span.start)
        if middle < stop and self.spool_key is not None:
            yield from self._places.spool.read(self.spool_key, middle, stop)

    def forget(self) -> None:
        """Its bytes here are not needed any more."""
        self._let_go()
        if self.spool_key is not None:
            self._places.spool.discard(self.spool_key)

    def to_spool(self) -> bool:
        """Put all its bytes into its spool file; False when some are not here."""
        if self.turned is None and self.is_local:
            self._turn()
        return self.turned == 0

    def _go_on(self) -> None:
        """The next part begins."""
        try:
            self._span = part_at(self.position)
        except DeliveryError as error:
            self._span = PartSpan(self._span.number + 1, self.position, self.position)
            self._places.sender.refuse(self.upload, error)

    def _let_go(self) -> None:
        """The part that was collected is not wanted any more."""
        if self._part is not None:
            self._places.collecting.drop(self._part)
            self._part = None

    def _turn(self) -> None:
        """From here on the bytes go to the spool file."""
        if not self.is_local:
            self.turned = self.position
            return
        part, self._part = self._part, None
        if part is not None:
            offset = 0
            for piece in self._places.collecting.read(part, 0, part.size):
                self._places.spool.write(self.key, offset, piece)
                offset += len(piece)
            self._places.collecting.drop(part)
        self.turned = self.position = 0

    def _begin_anew(self) -> None:
        """It is read again from its first byte on; the parts that the store has are not sent again."""
        self.forget()
        self.upload = self.upload.again()
        self.position, self._span, self._taking = 0, part_at(0), None
