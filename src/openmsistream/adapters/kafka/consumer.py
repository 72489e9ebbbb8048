"""Reading one topic as a member of a group (``ports.Consumer``).

Nothing is committed but what the pipeline says, and reading starts where the pipeline says. Both group
protocols are served: the classic one, and KIP-848 (``group.protocol=consumer``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from openmsistream.adapters.kafka.client import REQUEST_SECONDS, Health, TopicInfo, make
from openmsistream.adapters.kafka.errors import is_transient, ours
from openmsistream.config.ini import Settings
from openmsistream.errors import UnavailableError
from openmsistream.ports import Events, Headers, Rebalance, Record

# What a broker that restarts or moves a partition answers for a while; librdkafka goes on by itself.
_PASSING = frozenset({KafkaError._MAX_POLL_EXCEEDED, KafkaError._PARTITION_EOF, KafkaError.ILLEGAL_GENERATION})
_OFFSET_INVALID = -1001
_STORED = -1000
ASK_SECONDS = 120.0
GOODBYE_SECONDS = 5.0
ASK_AGAIN_SECONDS = 0.25


class KafkaConsumer:
    """
    A consumer of one topic.

    Args:
        settings: librdkafka's, from the config file over our defaults, with ``group.id``.
        topic: What ``describe_topic`` told.
        events: Told when the broker goes away and comes back.
    """

    def __init__(self, settings: Settings, topic: TopicInfo, events: Events) -> None:
        self._topic = topic
        self._health = Health(events)
        self._incremental = settings.get("group.protocol", "classic") == "consumer" or "cooperative" in settings.get(
            "partition.assignment.strategy", ""
        )
        self._consumer = make(Consumer, settings, {"error_cb": self._health.error})
        self._rebalance: Rebalance | None = None
        self._problem: Exception | None = None
        self._assigned: set[int] = set()
        self._paused = False

    def subscribe(self, rebalance: Rebalance) -> None:
        """Join the group; ``rebalance`` is called from ``poll``."""
        self._rebalance = rebalance
        self._consumer.subscribe(
            [self._topic.name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, seconds: float) -> Record | None:
        """The next record, or None."""
        message = self._consumer.poll(seconds)
        if self._problem is not None:  # raised in a rebalance callback, which librdkafka does not pass on
            problem, self._problem = self._problem, None
            raise problem
        if message is None:
            return None
        error = message.error()
        if error is not None:
            if error.code() in _PASSING or is_transient(error):
                return None
            raise ours(error, f"topic {self._topic.name}")
        self._health.answered()
        return _record(message)

    def committed(self, partition: int) -> int | None:
        """The group's committed offset, or None."""
        (found,) = self._ask(lambda: self._consumer.committed([self._at(partition)], timeout=REQUEST_SECONDS))
        return None if found.offset < 0 else int(found.offset)

    def bounds(self, partition: int) -> tuple[int, int]:
        """Offset of the oldest record, and the one that the next record will get."""
        at = self._at(partition)
        low, high = self._ask(lambda: self._consumer.get_watermark_offsets(at, timeout=REQUEST_SECONDS))
        return int(low), int(high)

    def commit(self, offsets: Mapping[int, int], *, wait: bool) -> None:
        """Commit offsets."""
        mine = [self._at(partition, offset) for partition, offset in offsets.items() if partition in self._assigned]
        if not mine:
            return
        try:
            if wait:
                self._bounded(lambda: self._consumer.commit(offsets=mine, asynchronous=False))
            else:
                self._consumer.commit(offsets=mine, asynchronous=True)
        except KafkaException as exception:
            # A commit that fails costs nothing but reading again: the ledger knows what was delivered.
            raise UnavailableError(f"topic {self._topic.name}: offsets were not committed ({exception})") from exception

    def pause(self) -> None:
        """Hand out no records, but stay a member of the group as long as ``poll`` is called."""
        self._paused = True
        self._consumer.pause([self._at(partition) for partition in self._assigned])

    def resume(self) -> None:
        """Hand out records again."""
        self._paused = False
        self._consumer.resume([self._at(partition) for partition in self._assigned])

    def close(self) -> None:
        """Leave the group, or give up saying so after some seconds without a broker."""
        self._rebalance = None  # what was open was dealt with before
        with suppress(UnavailableError):
            self._bounded(self._consumer.close)

    def _bounded(self, action: Callable[[], object]) -> None:
        """Do what waits for the broker, for a stated time at most: librdkafka itself waits for a minute."""
        problems: list[BaseException] = []

        def act() -> None:
            try:
                action()
            except KafkaException as problem:
                problems.append(problem)

        thread = threading.Thread(target=act, name="kafka-goodbye", daemon=True)
        thread.start()
        thread.join(GOODBYE_SECONDS)
        if thread.is_alive():
            raise UnavailableError(f"topic {self._topic.name}: the broker did not answer in {GOODBYE_SECONDS:.0f} s")
        for problem in problems:
            raise problem

    def _ask(self, question: Callable[[], Any]) -> Any:
        """Ask the broker; while it restarts, ask again."""
        give_up = time.monotonic() + ASK_SECONDS
        while True:
            try:
                return question()
            except KafkaException as exception:
                error: KafkaError = exception.args[0]
                if not is_transient(error) or time.monotonic() > give_up:
                    raise ours(error, f"topic {self._topic.name}") from exception
            time.sleep(ASK_AGAIN_SECONDS)

    def _at(self, partition: int, offset: int = _OFFSET_INVALID) -> TopicPartition:
        return TopicPartition(self._topic.name, partition, offset)

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        starts: Mapping[int, int | None] = {}
        self._assigned |= set(numbers)
        if self._rebalance is not None:
            try:
                starts = self._rebalance.assigned(numbers)
            except Exception as problem:
                self._problem = problem
        placed = [self._at(n, s) if (s := starts.get(n)) is not None else self._at(n, _STORED) for n in numbers]
        if self._incremental:
            consumer.incremental_assign(placed)
        else:
            consumer.assign(placed)
        if self._paused:
            consumer.pause(placed)

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._gone(consumer, partitions, lost=False)

    def _on_lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._gone(consumer, partitions, lost=True)

    def _gone(self, consumer: Consumer, partitions: Sequence[TopicPartition], *, lost: bool) -> None:
        numbers = [p.partition for p in partitions]
        if self._rebalance is not None:
            try:
                self._rebalance.revoked(numbers, lost=lost)
            except Exception as problem:
                self._problem = problem
        self._assigned -= set(numbers)
        if self._incremental:
            consumer.incremental_unassign(list(partitions))
        else:
            consumer.unassign()


def _record(message: Message) -> Record:
    _, timestamp_ms = message.timestamp()
    return Record(
        message.partition() or 0,
        message.offset() or 0,
        timestamp_ms,
        message.key(),
        message.value(),
        cast("Headers | None", message.headers()),
    )
