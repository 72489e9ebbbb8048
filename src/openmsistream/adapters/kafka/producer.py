"""Sending records to one topic with librdkafka's idempotent producer (``ports.Producer``).

librdkafka queues, batches, retries and keeps the order; this module hands over buffers without copying them
twice and turns delivery reports into acknowledgements.
"""

from __future__ import annotations

import ctypes
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from openmsistream.adapters.kafka.client import REQUEST_SECONDS, Health, TopicInfo, make
from openmsistream.adapters.kafka.errors import ours
from openmsistream.config.ini import Settings
from openmsistream.core.events import Event
from openmsistream.errors import DeliveryError
from openmsistream.ports import Acknowledge, Buffer, Events


class KafkaProducer:
    """
    A producer for one topic.

    Args:
        settings: librdkafka's, from the config file over our defaults.
        topic_name: The topic; what it is comes with ``attach``, before the first record.
        events: Told when the broker goes away and comes back, from ``attach`` on.

    Made some 100 ms before its first record, it sends that at once; a record produced before the connection stands
    makes librdkafka wait 500 ms for its producer id (measured, librdkafka 2.16).

    Attributes:
        partitions: How many partitions the topic has.
        records, value_bytes: What the broker acknowledged so far.
    """

    def __init__(self, settings: Settings, topic_name: str, events: Events) -> None:
        self._settings, self._topic = settings, topic_name
        self._events = events
        self._health = Health(_nobody)
        self.partitions = 0
        self._fatal = False
        self.records = self.value_bytes = self._served = 0
        self._producer = self._new()
        self._consumer: Consumer | None = None

    def attach(self, topic: TopicInfo) -> None:
        """The topic is known now; what went wrong before is no news any more."""
        self._producer.poll(0)
        self._health = Health(self._events)
        self.partitions = topic.partitions

    def produce(self, partition: int, key: bytes, value: Buffer, acknowledge: Acknowledge) -> bool:
        """Queue a record; False when the queue is full."""
        if self._fatal:
            self._renew()
        if isinstance(value, memoryview) and not value.readonly:
            # librdkafka copies the value; a ctypes array is a view that the client takes without copying it before.
            value = (ctypes.c_char * len(value)).from_buffer(value)  # type: ignore[assignment]
        try:
            self._producer.produce(
                self._topic,
                value=value,  # type: ignore[arg-type]  # any buffer, though its stubs say bytes
                key=key,
                partition=partition,
                on_delivery=partial(self._delivered, acknowledge),
            )
        except BufferError:
            return False
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            if error.code() == KafkaError._QUEUE_FULL:
                return False
            self._fatal = self._fatal or error.fatal()
            raise ours(error, f"topic {self._topic}") from exception
        return True

    def poll(self, seconds: float) -> int:
        """Serve acknowledgements for up to ``seconds``; how many were served."""
        before = self._served
        self._producer.poll(seconds)  # what it returns counts batches of delivery reports
        return self._served - before

    def log_start(self, partition: int) -> int:
        """Offset of the oldest record still in a partition."""
        if self._consumer is None:
            keep = (
                "bootstrap.",
                "metadata.broker",
                "security.",
                "ssl.",
                "sasl.",
                "socket.",
                "broker.address",
            )
            self._consumer = make(
                Consumer,
                self._settings.without(*(key for key in self._settings if not key.startswith(keep))),
                {"group.id": "openmsistream-offsets", "enable.auto.commit": False},
            )
        try:
            low, _ = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=REQUEST_SECONDS
            )
        except KafkaException as exception:
            raise ours(exception.args[0], f"topic {self._topic}") from exception
        return int(low)

    def pending(self) -> int:
        """How many records are queued or on their way."""
        return len(self._producer)

    def close(self) -> None:
        """Drop what is still queued and end the connections."""
        self._producer.purge()
        self._producer.flush(1.0)
        if self._consumer is not None:
            self._consumer.close()

    def _new(self) -> Producer:
        return make(Producer, self._settings, {"error_cb": self._on_error})

    def _on_error(self, error: KafkaError) -> None:
        self._health.error(error)  # another one before the topic is known than after

    def _renew(self) -> None:
        """After a fatal error librdkafka refuses everything: begin anew. What was unacknowledged is sent again."""
        self._producer.purge()
        self._producer.flush(1.0)
        self._producer = self._new()
        self._fatal = False

    def _delivered(self, acknowledge: Acknowledge, error: KafkaError | None, message: Message) -> None:
        self._served += 1
        if error is None:
            self._health.answered()
            self.records += 1
            self.value_bytes += len(message)
            acknowledge(message.offset() or 0, None)
            return
        self._fatal = self._fatal or error.fatal()
        problem = ours(error, f"topic {self._topic}")
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            problem = DeliveryError(
                f"topic {self._topic}: the broker refuses a record of this size ({error.name()})",
                hint="use a smaller --chunk_size, or raise max.message.bytes of the topic",
            )
        acknowledge(-1, problem)


def _nobody(event: Event) -> None:
    """Before the topic is known, whoever looks for it tells what is wrong."""
