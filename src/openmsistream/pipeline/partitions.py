"""Where to read on when partitions come, what to commit of them, and what stays of them when they go.

The ledger holds, for each partition, the exact position and the versions that are open there; the group holds the
committed watermark and, beside it, the exact position and the versions open there of whoever committed it. This
module brings them together. It knows ledger, sink and consumer by their ports.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.events import Gap, Note
from openmsistream.core.versions import VersionKey, tag_of
from openmsistream.core.watermark import (
    TAGS_MAX,
    Mark,
    Start,
    Why,
    decode_mark,
    encode_mark,
    mark_of,
    start_position,
    topic_tag,
)
from openmsistream.pipeline.expiry import Expiry
from openmsistream.ports import Commit, Consumer, DownloadLedger, Events, Record, Sink

FILES_TOLD = 100


class Partitions:
    """
    The partitions of one consumer.

    Args:
        topic, topic_id: The topic's name, and the identity of cluster and topic.
        consumer, sink, ledger, events: As in ``Download``.
        expiry: The versions that are not waited for any more.

    Attributes:
        positions: For each partition that is ours and was read: the offset of the next record.
        marks: For each partition of which somebody else has read more than we: what that one committed.
        rewound: True when reading begins below what the ledger has, as bytes are missing: it must be told before any
            of them is written again, or a power cut could leave it believing in bytes that were never synced.
        doubtful: For each partition: below this offset a file may have been delivered without the ledger knowing,
            just before a kill or before the ledger was lost.
    """

    def __init__(
        self,
        topic: str,
        topic_id: str,
        consumer: Consumer,
        sink: Sink,
        ledger: DownloadLedger,
        events: Events,
        expiry: Expiry,
    ) -> None:
        self._topic, self._tag, self._consumer = topic, topic_tag(topic_id), consumer
        self._sink, self._ledger, self._events, self._expiry = sink, ledger, events, expiry
        # Also what is written before any partition came is to keep them.
        self._unclaimed = {version.key: version for version in ledger.open_versions()}
        self._with_bytes: set[VersionKey] = set()
        self._owned: dict[int, object] = {}
        self._committed: dict[int, Mark] = {}
        self._arrived: dict[int, Mark] = {}
        self._crowded_told = False
        self.rewound = False
        self.positions: dict[int, int] = {}
        self.marks: dict[int, Mark] = {}
        self.doubtful: dict[int, int] = {}

    @property
    def unclaimed(self) -> Iterable[OpenVersion]:
        """Versions that the ledger holds as open, of partitions that are not ours now; it is to keep them."""
        return self._unclaimed.values()

    @property
    def owned(self) -> Collection[int]:
        """The partitions that are ours."""
        return self._owned.keys()

    def assignment(self, partition: int) -> object | None:
        """What tells this assignment of a partition from an earlier one; None when it is not ours."""
        return self._owned.get(partition)

    # -- they come ------------------------------------------------------------------------------------------

    def claim(
        self,
        partitions: Sequence[int],
        discard: Callable[[VersionKey], None],
        in_hand: Collection[VersionKey],
        ended: Collection[VersionKey],
    ) -> tuple[dict[int, int | None], list[OpenVersion]]:
        """
        These partitions are ours now.

        Args:
            partitions: Their numbers.
            discard: Called with versions that somebody else finished meanwhile.
            in_hand: Versions whose bytes are in use: open, or waiting for their names.
            ended: Versions that were finished since the last barrier.

        Returns:
            Where to start each (None: ``auto.offset.reset`` decides), and the open versions to go on with.
        """
        waiting = self._unclaimed
        with_bytes = self._sink.restore({*waiting, *self._expiry.kept, *in_hand})
        self._with_bytes = with_bytes & waiting.keys()
        self._expiry.without_bytes(key for key in list(self._expiry.kept) if key not in with_bytes)
        self._owned.update({partition: object() for partition in partitions})
        tags = {tag_of(key) for key in (*waiting, *self._expiry.kept)}
        found = {partition: self._start(partition, tags) for partition in partitions}
        for version in self._expiry.listed(found):
            waiting.setdefault(version.key, version)  # whoever had the partition still waits for it
        starts = {partition: start.offset for partition, start in found.items()}
        restored = []
        for key, version in list(waiting.items()):
            ours = version.first_offsets.keys() & starts.keys()
            if not ours:
                continue
            del waiting[key]
            if key in in_hand or key in ended:
                continue
            if any(self.ended_elsewhere(version, partition, found[partition].mark) for partition in ours):
                discard(key)
            elif key not in with_bytes and version.received.total:
                self.rewound = True
                # Its partial file is gone: read its records again, from the first one on.
                for partition in ours:
                    starts[partition] = min(starts[partition] or 0, version.first_offsets[partition])
            else:
                restored.append(version)
        for partition in partitions:
            starts[partition] = self._begin(partition, starts[partition], found[partition], restored)
        return starts, restored

    def take_up(self, key: VersionKey) -> OpenVersion | None:
        """
        A version that the ledger holds as open, of which a record came in another partition; None when there is none.

        Only files of 1.x lie in several partitions. What came of it in those that are elsewhere now stays here.
        """
        return self._unclaimed.pop(key) if key in self._with_bytes and key in self._unclaimed else None

    @staticmethod
    def ended_elsewhere(version: OpenVersion, partition: int, mark: Mark | None) -> bool:
        """True when whoever read further than our ledger did not have the version open any more."""
        if mark is None or version.first_offsets[partition] >= mark.position:
            return False
        return tag_of(version.key) not in mark.open

    def _start(self, partition: int, tags: Collection[str]) -> Start:
        low, high = self._consumer.bounds(partition)
        self.doubtful[partition] = high
        commit = self._consumer.committed(partition)
        decoded = None if commit is None else decode_mark(commit.offset, commit.metadata)
        if decoded is not None and decoded[1] != self._tag:
            return Start(low, Why.SHORTER)  # a commit of an earlier topic of this name
        ledger = self._ledger.position(partition)
        start = start_position(
            ledger=ledger,
            holds=lambda tag: tag in tags or self._ledger.has_ended(tag),
            committed=None if commit is None else commit.offset,
            mark=None if decoded is None else decoded[0],
            log_start=low,
            log_end=high,
        )
        where = f"topic {self._topic}, partition {partition}"
        if start.why is Why.SHORTER:
            self._events(Note(f"{where}: {start.why.value}: it is read from offset {start.offset}"))
        elif start.why is Why.SET_BACK:
            self._events(
                Note(
                    f"{where}: {start.why.value}, from {ledger} to {start.offset}: these records are read again,"
                    " files that are here already are recognised"
                )
            )
        elif start.why is Why.SET_FORWARD and start.offset is not None and ledger is not None:
            self._events(
                Note(
                    f"{where}: {start.why.value}, from {ledger} to {start.offset}: records {ledger} to"
                    f" {start.offset - 1} are not read here",
                    hint=f"to read them, stop the program and set the group's offset back to {ledger}",
                )
            )
        return start

    def _begin(self, partition: int, start: int | None, found: Start, restored: Sequence[OpenVersion]) -> int | None:
        """Note where a partition is read from; what was removed there before it was read is told."""
        low, _ = self._consumer.bounds(partition)
        if start is not None and start < low:
            self.tell_gap(partition, start, low - 1, restored)
            start = low
        if found.mark is not None:
            self._committed[partition] = found.mark
            if start is not None and start < found.mark.read:
                self.marks[partition] = found.mark
        elif found.offset is not None and found.why in {Why.GROUP, Why.SET_BACK, Why.SET_FORWARD}:
            self._committed[partition] = Mark(found.offset, found.offset, found.offset, frozenset())
        if start is not None:
            self.positions[partition] = start
        return start

    def tell_jump(self, record: Record, expected: int, versions: Iterable[OpenVersion]) -> None:
        """A record came that is not the one that was to follow."""
        if record.offset < expected:
            where = f"topic {self._topic}, partition {record.partition}"
            self._events(Note(f"{where}: its end was cut off: it is read again from offset {record.offset}"))
            return
        # Offsets are also left out where a transaction ends: then nothing was removed.
        low, _ = self._consumer.bounds(record.partition)
        if low > expected:
            self.tell_gap(record.partition, expected, min(low, record.offset) - 1, versions)

    def tell_gap(self, partition: int, first: int, last: int, versions: Iterable[OpenVersion]) -> None:
        """Records were removed before they were read; of these versions, those open in the partition may lack them."""
        files = sorted(version.key.path for version in versions if partition in version.first_offsets)
        self._events(Gap(self._topic, partition, first, last, tuple(files[:FILES_TOLD])))
        if files:
            shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
            self._events(
                Note(
                    f"topic {self._topic}, partition {partition}: parts of these files may be among the records that"
                    f" were removed: {shown}",
                    hint="send those again that do not become whole",
                )
            )

    # -- what is committed ------------------------------------------------------------------------------------

    def leaves_out(self, partition: int, offset: int, key: VersionKey | None, *, begins: bool) -> bool:
        """
        True for a record that whoever had the partition before has dealt with.

        Args:
            partition: The record's.
            offset: The record's.
            key: Its version; None when it cannot be decoded.
            begins: See ``Mark.takes``.
        """
        mark = self.marks.get(partition)
        if mark is None:
            return False
        if offset >= mark.read:
            del self.marks[partition]
            return False
        if key is None:
            return offset < mark.position
        return not mark.takes(offset, tag_of(key), begins=begins)

    def commits(
        self, low: Callable[[int, int], int], open_in: Callable[[int], Iterable[OpenVersion]], *, everything: bool
    ) -> dict[int, Commit]:
        """
        What to commit of each partition: nothing where that would go back.

        Args:
            low: The watermark, by partition and position.
            open_in: The versions open in a partition.
            everything: Also what was committed before: one that nobody waited for may not have arrived.
        """
        found = {}
        for partition, position in self.positions.items():
            before = self._committed.get(partition)
            if before is not None and position < before.read:
                continue  # who had the partition before has read more
            mark = mark_of(
                low(partition, position),
                position,
                [(version.first_offsets[partition], tag_of(version.key)) for version in open_in(partition)],
            )
            if before is not None and mark.watermark < before.watermark:
                mark = Mark(before.watermark, mark.position, mark.read, mark.open)
            if mark.position < mark.read:
                self._tell_crowded(partition)
            if everything or mark != self._arrived.get(partition):
                self._committed[partition] = self._arrived[partition] = mark
                found[partition] = Commit(mark.watermark, encode_mark(mark, self._tag))
        return found

    def commit_failed(self) -> None:
        """What was committed last did not arrive: it is committed anew next time."""
        self._arrived.clear()

    def _tell_crowded(self, partition: int) -> None:
        if not self._crowded_told:
            self._crowded_told = True
            self._events(
                Note(
                    f"topic {self._topic}, partition {partition}: more than {TAGS_MAX} files are open at once: should"
                    " the partition move to another computer now, files may be read and written again there"
                )
            )

    # -- they go ----------------------------------------------------------------------------------------------

    def release(self, partitions: Iterable[int]) -> None:
        """These partitions are no longer ours; the ledger keeps what it has of them."""
        gone = set(partitions)
        for partition in gone:
            for marks in (self.marks, self._committed, self._arrived):
                marks.pop(partition, None)
            self.positions.pop(partition, None)
            self._owned.pop(partition, None)
        # As the ledger has them: its position and the versions open below that belong together.
        released = {v.key: v for v in self._ledger.open_versions() if v.first_offsets.keys() <= gone}
        self._unclaimed.update(released)
        self._with_bytes |= released.keys()

    def forget(self, keys: Iterable[VersionKey]) -> None:
        """These versions are finished after all."""
        for key in keys:
            self._unclaimed.pop(key, None)
