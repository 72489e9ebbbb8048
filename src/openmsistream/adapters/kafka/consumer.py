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

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from openmsistream.adapters.kafka.client import REQUEST_SECONDS, Health, TopicInfo, make
from openmsistream.adapters.kafka.errors import is_transient, ours
from openmsistream.adapters.kafka.identity import Identity
from openmsistream.config.ini import Settings
from openmsistream.core.events import Note
from openmsistream.errors import DeliveryError, UnavailableError
from openmsistream.ports import Commit, Events, Headers, Rebalance, Record

# What a broker that restarts or moves a partition answers for a while; librdkafka goes on by itself.
_PASSING = frozenset({KafkaError._MAX_POLL_EXCEEDED, KafkaError.ILLEGAL_GENERATION})
_GONE = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_ID})
_LATEST = frozenset({"latest", "largest", "end"})  # librdkafka's names for one value of auto.offset.reset
_OFFSET_INVALID = -1001
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
        stopping: True once nothing is to be waited for any more.
    """

    def __init__(
        self, settings: Settings, topic: TopicInfo, events: Events, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        self._topic, self._events, self._stopping = topic, events, stopping
        self._health = Health(events)
        self._incremental = settings.get("group.protocol", "classic") == "consumer" or "cooperative" in settings.get(
            "partition.assignment.strategy", ""
        )
        self._from_end = settings.get("auto.offset.reset", "earliest") in _LATEST
        # The user's choice is where a new group begins. What was removed from the topic under a running consumer
        # must never make it jump to the end.
        own = {"auto.offset.reset": "earliest", "enable.partition.eof": True, "on_commit": self._on_commit}
        self._consumer = make(Consumer, settings, {**own, "error_cb": self._health.error})
        self._identity = Identity(settings, topic)
        self._rebalance: Rebalance | None = None
        self._problem: Exception | None = None
        self._assigned: set[int] = set()
        self._at_end: set[int] = set()
        self._paused = self._gone_told = self._bare = self._in_rebalance = self._commit_lost = False

    @property
    def partitions(self) -> int:
        """How many partitions the topic had when this consumer was made."""
        return self._topic.partitions

    @property
    def replaced(self) -> bool:
        """True once it was noticed that the topic was deleted and made again; it is looked at every 10 s."""
        return self._identity.changed

    def subscribe(self, rebalance: Rebalance) -> None:
        """Join the group; ``rebalance`` is called from ``poll``."""
        self._rebalance = rebalance
        self._consumer.subscribe(
            [self._topic.name], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, seconds: float) -> Record | None:
        """The next record, or None."""
        self._identity.look()
        while True:
            message = self._consumer.poll(seconds)
            if self._problem is not None:  # raised in a rebalance callback, which librdkafka does not pass on
                problem, self._problem = self._problem, None
                raise problem
            if message is None:
                return None
            error = message.error()
            if error is None:
                self._health.answered()
                if self._at_end:
                    self._at_end.discard(message.partition() or 0)
                return _record(message)
            if error.code() != KafkaError._PARTITION_EOF:
                self._failed(error)
                return None
            self._at_end.add(message.partition() or 0)

    def committed(self, partition: int) -> Commit | None:
        """What the group has committed, or None."""
        (found,) = self._ask(lambda: self._consumer.committed([self._at(partition)], timeout=REQUEST_SECONDS))
        return None if found.offset < 0 else Commit(int(found.offset), found.metadata or "")

    def bounds(self, partition: int) -> tuple[int, int]:
        """Offset of the oldest record, and the one that the next record will get."""
        at = self._at(partition)
        low, high = self._ask(lambda: self._consumer.get_watermark_offsets(at, timeout=REQUEST_SECONDS))
        return int(low), int(high)

    def at_end(self, partition: int) -> bool:
        """True when the broker had nothing behind what was handed out."""
        return partition in self._at_end

    def commit(self, commits: Mapping[int, Commit], *, wait: bool) -> None:
        """Commit for the partitions that are this consumer's."""
        mine = [
            self._at(partition, commit.offset, None if self._bare else commit.metadata)
            for partition, commit in commits.items()
            if partition in self._assigned
        ]
        if not mine:
            return
        lost, self._commit_lost = self._commit_lost, False
        try:
            if not wait:
                self._consumer.commit(offsets=mine, asynchronous=True)
            elif self._in_rebalance:
                # From a callback only the thread that polls gets an answer (checked with 2.16). The coordinator just
                # spoke, so it is there.
                self._consumer.commit(offsets=mine, asynchronous=False)
            else:
                self._bounded(lambda: self._consumer.commit(offsets=mine, asynchronous=False))
        except KafkaException as exception:
            if exception.args[0].code() == KafkaError.OFFSET_METADATA_TOO_LARGE and not self._bare:
                self._commit_bare()
                self.commit(commits, wait=wait)
                return
            # A commit that fails costs nothing but reading again: the ledger knows what was delivered.
            raise UnavailableError(f"topic {self._topic.name}: offsets were not committed ({exception})") from exception
        if lost and not wait:
            raise UnavailableError(f"topic {self._topic.name}: offsets were not committed the last time")

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

    def _failed(self, error: KafkaError) -> None:
        if error.code() in _GONE:
            # It was there when this consumer was made. It may be made again, which ``replaced`` tells.
            if not self._gone_told:
                self._gone_told = True
                self._events(Note(f"topic {self._topic.name} is not there any more: waiting for it to be made again"))
        elif error.fatal() or error.code() == KafkaError._FATAL:
            # The member is dead, and librdkafka says so only once.
            raise DeliveryError(
                f"topic {self._topic.name}: the broker takes this consumer no more: {error.str()}",
                hint="give each running program a group.instance.id of its own, or none, and start it again",
            )
        elif error.code() not in _PASSING and not is_transient(error):
            raise ours(error, f"topic {self._topic.name}")

    def _on_commit(self, error: KafkaError | None, _: Sequence[TopicPartition]) -> None:
        if error is not None and error.code() != KafkaError._NO_OFFSET:
            self._commit_lost = True
            if error.code() == KafkaError.OFFSET_METADATA_TOO_LARGE and not self._bare:
                self._commit_bare()

    def _commit_bare(self) -> None:
        self._bare = True
        self._events(
            Note(
                f"topic {self._topic.name}: the broker takes no more than its offset.metadata.max.bytes with a commit:"
                " when a partition moves to another computer, files may be written again there",
                hint="set offset.metadata.max.bytes=4096 on the broker, which is Kafka's default",
            )
        )

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
                if not is_transient(error) or time.monotonic() > give_up or self._stopping():
                    raise ours(error, f"topic {self._topic.name}") from exception
            time.sleep(ASK_AGAIN_SECONDS)

    def _at(self, partition: int, offset: int = _OFFSET_INVALID, metadata: str | None = None) -> TopicPartition:
        if metadata is None:
            return TopicPartition(self._topic.name, partition, offset)
        return TopicPartition(self._topic.name, partition, offset, metadata)

    def _on_assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        numbers = [p.partition for p in partitions]
        starts: Mapping[int, int | None] = {}
        self._assigned |= set(numbers)
        self._at_end -= set(numbers)
        placed = []
        if self._rebalance is not None:
            try:
                if not self._identity.look_now():
                    starts = self._rebalance.assigned(numbers)
                placed = [self._at(number, self._first(number, starts.get(number))) for number in numbers]
            except Exception as problem:
                self._problem = problem
        if self._problem is not None or self._rebalance is None:
            placed = [self._at(number, OFFSET_END) for number in numbers]  # it ends: nothing is to be handed out
        if self._incremental:
            consumer.incremental_assign(placed)
        else:
            consumer.assign(placed)
        # librdkafka remembers a pause of a partition that goes away and comes again (seen with 2.16).
        (consumer.pause if self._paused else consumer.resume)(placed)

    def _first(self, partition: int, start: int | None) -> int:
        if start is not None:
            return start
        commit = self.committed(partition)
        if commit is not None:
            return commit.offset
        return OFFSET_END if self._from_end else OFFSET_BEGINNING

    def _on_revoke(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._gone(consumer, partitions, lost=False)

    def _on_lost(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._gone(consumer, partitions, lost=True)

    def _gone(self, consumer: Consumer, partitions: Sequence[TopicPartition], *, lost: bool) -> None:
        numbers = [p.partition for p in partitions]
        if self._rebalance is not None:
            self._in_rebalance = True
            try:
                self._rebalance.revoked(numbers, lost=lost)
            except Exception as problem:
                self._problem = problem
            finally:
                self._in_rebalance = False
        self._assigned -= set(numbers)
        self._at_end -= set(numbers)
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
