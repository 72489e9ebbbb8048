"""A topic in memory with a producer and a consumer for it (``ports.Producer``, ``ports.Consumer``).

Records, offsets, groups and rebalances as Kafka has them; it knows nothing of what is in a record.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from openmsistream.adapters.memory.clock import START_NS, FakeClock
from openmsistream.errors import OpenMSIStreamError, UnavailableError
from openmsistream.ports import Acknowledge, Buffer, Commit, Headers, Rebalance, Record


class MemoryTopic:
    """
    A topic: partitions with records and offsets, and the offsets that groups committed.

    Args:
        partitions: How many; more can be added later with ``add_partitions``.
        clock: Gives records their time; without one they are a millisecond apart.

    Attributes:
        committed: What groups committed: by group, then by partition.
        owners: Which member of a group has a partition, by both; what any other one commits is refused.
    """

    def __init__(self, partitions: int = 1, *, clock: FakeClock | None = None) -> None:
        self._clock = clock
        self._logs: list[list[Record]] = [[] for _ in range(partitions)]
        self._starts = [0] * partitions
        self._count = 0
        self.committed: dict[str, dict[int, Commit]] = {}
        self.owners: dict[tuple[str, int], MemoryConsumer] = {}

    @property
    def partitions(self) -> int:
        """How many partitions there are."""
        return len(self._logs)

    def add_partitions(self, count: int) -> None:
        """Make ``count`` more."""
        self._logs += [[] for _ in range(count)]
        self._starts += [0] * count

    def append(
        self,
        value: bytes | None,
        *,
        partition: int = 0,
        key: bytes | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> int:
        """Put a record at the end of a partition; returns its offset."""
        self._count += 1
        if timestamp_ms is None:
            timestamp_ms = (self._clock.now_ns() if self._clock else START_NS) // 1_000_000 + self._count
        offset = self.bounds(partition)[1]
        self._logs[partition].append(Record(partition, offset, timestamp_ms, key, value, headers))
        return offset

    def records(self, partition: int | None = None) -> list[Record]:
        """The records still there, of one partition or of all."""
        logs = self._logs if partition is None else [self._logs[partition]]
        return [record for log in logs for record in log]

    def record(self, partition: int, offset: int) -> Record | None:
        """The record at ``offset``; None when there is none."""
        at = offset - self._starts[partition]
        log = self._logs[partition]
        return log[at] if 0 <= at < len(log) else None

    def bounds(self, partition: int) -> tuple[int, int]:
        """Offset of the oldest record, and the one that the next record will get."""
        start = self._starts[partition]
        return start, start + len(self._logs[partition])

    def delete_before(self, partition: int, offset: int) -> None:
        """Remove the records below ``offset``, as retention does."""
        start, end = self.bounds(partition)
        keep = min(max(offset, start), end)
        del self._logs[partition][: keep - start]
        self._starts[partition] = keep


class MemoryProducer:
    """
    Sends to a ``MemoryTopic``; records arrive, and are acknowledged, when ``poll`` is called.

    Args:
        topic: Where to.
        queue_bytes: ``produce`` returns False rather than queue more than this (one record always fits).
        clock: Moved by a ``poll`` that has nothing to serve.

    Attributes:
        stalled: Set it to keep everything in the queue, as when the broker does not answer.
        refusing: An error for ``produce`` to raise, or None.
        answers_per_poll: How many records one ``poll`` serves; None: all.
    """

    def __init__(
        self, topic: MemoryTopic, *, queue_bytes: int = 32 * 1024 * 1024, clock: FakeClock | None = None
    ) -> None:
        self.topic, self._queue_bytes, self._clock = topic, queue_bytes, clock
        self._queue: deque[tuple[int, bytes, bytes, Acknowledge]] = deque()
        self._failures: deque[tuple[OpenMSIStreamError, bool]] = deque()
        self.stalled = False
        self.refusing: OpenMSIStreamError | None = None
        self.answers_per_poll: int | None = None

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return self.topic.partitions

    def fail_next(self, error: OpenMSIStreamError, *, records: int = 1, arrives: bool = False) -> None:
        """Answer the next records with ``error``; with ``arrives`` they are on the topic all the same (a lost ack)."""
        self._failures.extend([(error, arrives)] * records)

    def produce(self, partition: int, key: bytes, value: Buffer, acknowledge: Acknowledge) -> bool:
        """Queue a copy of a record; False when the queue is full."""
        if self.refusing is not None:
            raise self.refusing
        queued = sum(len(entry[2]) for entry in self._queue)
        if self._queue and queued + len(value) > self._queue_bytes:
            return False
        self._queue.append((partition, key, bytes(value), acknowledge))
        return True

    def poll(self, seconds: float) -> int:
        """Put queued records on the topic and acknowledge them; how many."""
        count = 0 if self.stalled else len(self._queue)
        if self.answers_per_poll is not None:
            count = min(count, self.answers_per_poll)
        for _ in range(count):
            partition, key, value, acknowledge = self._queue.popleft()
            error, arrives = self._failures.popleft() if self._failures else (None, True)
            offset = self.topic.append(value, partition=partition, key=key) if arrives else -1
            acknowledge(offset if error is None else -1, error)
        if count == 0 and self._clock is not None:
            self._clock.wait(seconds)
        return count

    def log_start(self, partition: int) -> int:
        """Offset of the oldest record still in a partition; UnavailableError while stalled."""
        if self.stalled:
            raise UnavailableError("the topic in memory is told not to answer")
        return self.topic.bounds(partition)[0]

    def pending(self) -> int:
        """How many records are queued."""
        return len(self._queue)

    def close(self) -> None:
        """Drop what is queued."""
        self._queue.clear()


class MemoryConsumer:
    """
    Reads a ``MemoryTopic``.

    Args:
        topic: Where from; it keeps what ``group`` commits.
        group: The group's name.
        partitions: The ones assigned at the first ``poll``; None: all. ``assign`` and ``revoke`` change them.
        reset: Where to start with neither offset nor commit: "earliest" or "latest".
        clock: Moved by a ``poll`` that has nothing to hand out.

    Attributes:
        failing: An error for ``poll`` to raise once, or None.
        commit_failing: An error for ``commit`` to raise, or None.
        replaced: Set it to say that the topic was deleted and made again.
    """

    def __init__(
        self,
        topic: MemoryTopic,
        group: str = "group",
        *,
        partitions: Sequence[int] | None = None,
        reset: str = "earliest",
        clock: FakeClock | None = None,
    ) -> None:
        self._topic, self._group, self._reset, self._clock = topic, group, reset, clock
        self._wanted = tuple(range(topic.partitions)) if partitions is None else tuple(partitions)
        self._rebalance: Rebalance | None = None
        self._changes: deque[Callable[[Rebalance], None]] = deque()
        self._positions: dict[int, int] = {}
        self._paused = False
        self.failing: OpenMSIStreamError | None = None
        self.commit_failing: OpenMSIStreamError | None = None
        self.replaced = False

    @property
    def partitions(self) -> int:
        """How many partitions the topic has."""
        return self._topic.partitions

    def subscribe(self, rebalance: Rebalance) -> None:
        """Join the group: the partitions come with the next ``poll``."""
        self._rebalance = rebalance
        self.assign(self._wanted)

    def assign(self, partitions: Sequence[int]) -> None:
        """Give this consumer more partitions, within the next ``poll``."""
        self._changes.append(lambda rebalance: self._assign(rebalance, partitions))

    def revoke(self, partitions: Sequence[int], *, lost: bool = False) -> None:
        """Take partitions away, within the next ``poll``; ``lost``: another member has them already."""
        self._changes.append(lambda rebalance: self._revoke(rebalance, partitions, lost=lost))

    def poll(self, seconds: float) -> Record | None:
        """The next record, from the partitions in turn, or None."""
        while self._changes and self._rebalance is not None:
            self._changes.popleft()(self._rebalance)
        if self.failing is not None:
            error, self.failing = self.failing, None
            raise error
        record = None if self._paused else self._next()
        if record is None and self._clock is not None:
            self._clock.wait(seconds)
        return record

    def committed(self, partition: int) -> Commit | None:
        """What the group has committed, or None."""
        return self._topic.committed.get(self._group, {}).get(partition)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Offset of the oldest record, and the one that the next record will get."""
        return self._topic.bounds(partition)

    def at_end(self, partition: int) -> bool:
        """True when there is nothing behind what was handed out."""
        return self._positions.get(partition) == self.bounds(partition)[1]

    def commit(self, commits: Mapping[int, Commit], *, wait: bool) -> None:
        """Commit for the partitions that are this consumer's; one that lost them without knowing is refused."""
        if self.commit_failing is not None:
            raise self.commit_failing
        mine = {partition: commit for partition, commit in commits.items() if partition in self._positions}
        if any(self._topic.owners.get((self._group, partition)) is not self for partition in mine):
            if wait:
                raise UnavailableError("another member of the group has these partitions")
            return
        self._topic.committed.setdefault(self._group, {}).update(mine)

    def pause(self) -> None:
        """Hand out no records."""
        self._paused = True

    def resume(self) -> None:
        """Hand out records again."""
        self._paused = False

    def close(self) -> None:
        """Leave the group; as with Kafka, the owner is not told."""
        self._rebalance = None
        self._positions.clear()

    def _assign(self, rebalance: Rebalance, partitions: Sequence[int]) -> None:
        self._topic.owners.update({(self._group, partition): self for partition in partitions})
        starts = rebalance.assigned(partitions)
        for partition in partitions:
            start = starts.get(partition)
            if start is None and (commit := self.committed(partition)) is not None:
                start = commit.offset
            low, high = self.bounds(partition)
            if start is None or not low <= start <= high:
                start = low if self._reset == "earliest" else high
            self._positions[partition] = start

    def _revoke(self, rebalance: Rebalance, partitions: Sequence[int], *, lost: bool) -> None:
        rebalance.revoked(partitions, lost=lost)
        for partition in partitions:
            self._positions.pop(partition, None)

    def _next(self) -> Record | None:
        for partition, position in list(self._positions.items()):
            # What was removed meanwhile is passed over, as Kafka's consumers do.
            record = self._topic.record(partition, max(position, self.bounds(partition)[0]))
            if record is not None:
                del self._positions[partition]  # and to the end of the line, so that partitions take turns
                self._positions[partition] = record.offset + 1
                return record
        return None
