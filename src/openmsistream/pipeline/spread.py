"""Noticing files of OpenMSIStream 1.x whose chunks are spread over partitions that this process does not all have.

1.x chooses a chunk's partition by the chunk's key, so the parts of one file lie in all of them: only who reads them
all can put it together. Decides nothing, tells it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.events import Note
from openmsistream.core.paths import partition_for
from openmsistream.ports import Consumer, Events


class Spread:
    """What one process says of files that cannot become whole in it: once, and whenever somebody asks for its state."""

    def __init__(self, topic: str, consumer: Consumer, events: Events) -> None:
        self._topic, self._consumer, self._events = topic, consumer, events
        self._owned = 0

    def look(self, chunk: Chunk, partition: int, owned: Collection[int]) -> None:
        """A v1 chunk was read; where our own uploader would put it, all of its file lies in that partition."""
        partitions = self._consumer.partitions
        if self._owned or len(owned) >= partitions or (chunk.total or 1) == 1:
            return
        if partition_for(chunk.path, partitions) != partition:
            self._owned = len(owned)
            self._tell(
                f"files of OpenMSIStream 1.x, as {chunk.path}, are spread over all {partitions} partitions, and this"
                f" program has {len(owned)} of them: no such file becomes whole here"
            )

    def tell_waiting(self, versions: Iterable[OpenVersion]) -> None:
        """Say how many of them wait now."""
        if self._owned:
            waiting = sum(version.hash_name is HashName.SHA512 for version in versions)
            if waiting:
                self._tell(f"{waiting} files of OpenMSIStream 1.x wait for chunks in partitions that others read")

    def _tell(self, text: str) -> None:
        self._events(
            Note(
                f"topic {self._topic}: {text}",
                hint="run one downloader alone in its group, or give each one a group of its own"
                " (--consumer-group-id create_new)",
            )
        )
