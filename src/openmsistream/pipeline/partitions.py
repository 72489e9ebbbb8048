"""Where to read on when partitions come, and what stays of them when they go.

The ledger holds, for each partition, the exact position and the versions that are open there; the group holds the
committed watermark. This module decides between them. It knows ledger, sink and consumer by their ports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from openmsistream.core.assembly import OpenVersion
from openmsistream.core.events import Gap, Note
from openmsistream.core.versions import VersionKey
from openmsistream.core.watermark import start_position
from openmsistream.ports import Consumer, DownloadLedger, Events, Sink


class Partitions:
    """
    The partitions of one consumer.

    Attributes:
        positions: For each partition that is ours and was read: the offset of the next record.
        rewound: True when reading begins below what the ledger has, as bytes are missing: it must be told before any
            of them is written again, or a power cut could leave it believing in bytes that were never synced.
        doubtful: For each partition: below this offset a file may have been delivered just before a kill, without
            the ledger knowing.
    """

    def __init__(self, topic: str, consumer: Consumer, sink: Sink, ledger: DownloadLedger, events: Events) -> None:
        self._topic, self._consumer, self._sink, self._ledger, self._events = topic, consumer, sink, ledger, events
        self._unclaimed: dict[VersionKey, OpenVersion] | None = None
        self._without_bytes: set[VersionKey] = set()
        self._owned: dict[int, object] = {}
        self.rewound = False
        self.positions: dict[int, int] = {}
        self.doubtful: dict[int, int] = {}

    @property
    def unclaimed(self) -> Iterable[OpenVersion]:
        """Versions that the ledger holds as open, of partitions that are not ours now; it is to keep them."""
        return (self._unclaimed or {}).values()

    def assignment(self, partition: int) -> object | None:
        """What tells this assignment of a partition from an earlier one; None when it is not ours."""
        return self._owned.get(partition)

    def claim(
        self,
        partitions: Sequence[int],
        discard: Callable[[VersionKey], None],
        is_known: Callable[[VersionKey], bool],
    ) -> tuple[dict[int, int | None], list[OpenVersion]]:
        """
        These partitions are ours now.

        Args:
            partitions: Their numbers.
            discard: Called with versions that somebody else finished meanwhile.
            is_known: True for versions that are in hand, or were finished since the last barrier.

        Returns:
            Where to start each (None: ``auto.offset.reset`` decides), and the open versions to go on with.
        """
        if self._unclaimed is None:
            self._unclaimed = {version.key: version for version in self._ledger.open_versions()}
            self._without_bytes = self._unclaimed.keys() - self._sink.restore(self._unclaimed)
        self._owned.update({partition: object() for partition in partitions})
        starts = {partition: self._start(partition) for partition in partitions}
        restored = []
        for key, version in list(self._unclaimed.items()):
            ours = version.first_offsets.keys() & starts.keys()
            if not ours:
                continue
            del self._unclaimed[key]
            if is_known(key):
                continue
            if not all(self._holds_up_to(partition, starts[partition]) for partition in ours):
                discard(key)
            elif key in self._without_bytes and version.received.total:
                self.rewound = True
                # Its partial file is gone: read its records again, from the first one on.
                for partition in ours:
                    first = max(version.first_offsets[partition], self._consumer.bounds(partition)[0])
                    starts[partition] = min(starts[partition] or 0, first)
            else:
                restored.append(version)
        self.positions.update({partition: start for partition, start in starts.items() if start is not None})
        return starts, restored

    def release(self, partitions: Iterable[int]) -> None:
        """These partitions are no longer ours; the ledger keeps what it has of them."""
        gone = set(partitions)
        for partition in gone:
            self.positions.pop(partition, None)
            self._owned.pop(partition, None)
        if self._unclaimed is not None:
            # As the ledger has them: its position and the versions open below that belong together.
            self._unclaimed.update({v.key: v for v in self._ledger.open_versions() if v.first_offsets.keys() <= gone})

    def forget(self, keys: Iterable[VersionKey]) -> None:
        """These versions are finished after all."""
        for key in keys:
            (self._unclaimed or {}).pop(key, None)

    def _holds_up_to(self, partition: int, start: int | None) -> bool:
        """True when our open versions hold every chunk below ``start``; else somebody else went on, and ended them."""
        position = self._ledger.position(partition)
        return start is not None and position is not None and start <= position

    def _start(self, partition: int) -> int | None:
        low, high = self._consumer.bounds(partition)
        self.doubtful[partition] = high
        ledger = self._ledger.position(partition)
        start, why = start_position(
            ledger=ledger, committed=self._consumer.committed(partition), log_start=low, log_end=high
        )
        if start is None:
            return None
        if ledger is not None and start == low < ledger:
            self._events(Note(f"topic {self._topic}, partition {partition}: {why}"))
        if start < low:
            self._events(Gap(self._topic, partition, start, low - 1))
            return low
        return start
