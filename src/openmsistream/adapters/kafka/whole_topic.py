"""Reading a topic from its beginning to where it ends now, as a member of no group that anybody else is in.

Nothing is committed, and no partition is taken from a program that reads the topic. Knows Kafka, and not what records
mean.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator
from typing import cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from openmsistream.adapters.kafka.client import REQUEST_SECONDS, TopicInfo, make
from openmsistream.adapters.kafka.errors import is_transient, ours
from openmsistream.config.ini import Settings
from openmsistream.errors import UnavailableError
from openmsistream.ports import Headers, Record

PATIENCE_SECONDS = 60.0
"""How long the broker may be silent in the middle before it counts as gone."""
POLL_SECONDS = 0.5


class WholeTopic:
    """
    One topic as it is now.

    Args:
        settings: librdkafka's, from the config file; the group is replaced by a random one.
        topic: What ``describe_topic`` told.
        partitions: Only these; None: all.
        patience_seconds: How long the broker may be silent.

    Raises:
        DeliveryError: The broker refuses to say what there is.
        UnavailableError: It does not answer.
    """

    def __init__(
        self,
        settings: Settings,
        topic: TopicInfo,
        partitions: Collection[int] | None = None,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._topic, self._patience = topic.name, patience_seconds
        # Kept beside what the user set: brokers may allow this account only groups of certain names.
        changes = {"group.id": f"{settings.get('group.id', 'openmsistream')}-verify-{uuid.uuid4()}"}
        changes |= {"enable.auto.commit": "false", "enable.auto.offset.store": "false", "enable.partition.eof": "true"}
        changes |= {"auto.offset.reset": "earliest", "group.protocol": "classic"}
        plain = settings.without("group.instance.id", "group.remote.assignor", "partition.assignment.strategy")
        self._consumer = make(Consumer, plain.replaced(changes), {})
        wanted = range(topic.partitions) if partitions is None else partitions
        try:
            self._bounds = {n: self._bounds_of(n) for n in wanted if n < topic.partitions}
        except BaseException:
            self._consumer.close()
            raise

    @property
    def total(self) -> int:
        """About how many records there are: offsets that transactions take are counted too."""
        return sum(high - low for low, high in self._bounds.values())

    def records(self) -> Iterator[Record]:
        """
        Every record that was there when this was made, oldest first within each partition.

        Raises:
            DeliveryError: The broker refuses.
            UnavailableError: It was silent for too long.
        """
        open_partitions = {n for n, (low, high) in self._bounds.items() if low < high}
        self._consumer.assign([TopicPartition(self._topic, n, self._bounds[n][0]) for n in open_partitions])
        give_up = time.monotonic() + self._patience
        while open_partitions:
            message = self._consumer.poll(POLL_SECONDS)
            if message is None:
                if time.monotonic() > give_up:
                    raise UnavailableError(
                        f"topic {self._topic}: the broker was silent for {self._patience:.0f} s, before its end",
                        hint="check that the broker runs, and try again",
                    )
                continue
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                if not is_transient(error):
                    raise ours(error, f"topic {self._topic}")
                continue
            give_up = time.monotonic() + self._patience
            partition, offset = message.partition() or 0, message.offset() or 0
            if partition not in open_partitions:
                continue
            high = self._bounds[partition][1]
            # Its end may come before the offset it had: transaction markers, or one that is still open.
            if error is not None or offset >= high - 1:
                open_partitions.discard(partition)
                self._consumer.pause([TopicPartition(self._topic, partition)])
            if error is None and offset < high:
                yield _record(message)

    def close(self) -> None:
        """End the connection."""
        self._consumer.close()

    def _bounds_of(self, partition: int) -> tuple[int, int]:
        try:
            found = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=REQUEST_SECONDS
            )
        except KafkaException as exception:
            raise ours(exception.args[0], f"topic {self._topic}") from exception
        if found is None:
            raise UnavailableError(f"topic {self._topic}: the broker did not say what partition {partition} holds")
        return int(found[0]), int(found[1])


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
