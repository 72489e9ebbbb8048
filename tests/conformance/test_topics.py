"""Producers, consumers and clocks: the fakes and the real ones keep the same promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import pytest

from openmsistream.adapters.clock import SystemClock
from openmsistream.adapters.kafka.client import describe_topic
from openmsistream.adapters.kafka.consumer import KafkaConsumer
from openmsistream.adapters.kafka.producer import KafkaProducer
from openmsistream.adapters.memory import FakeClock, MemoryConsumer, MemoryProducer, MemoryTopic
from openmsistream.config.ini import Settings
from openmsistream.config.librdkafka import consumer_defaults, producer_defaults
from openmsistream.local.broker import LocalBroker
from openmsistream.ports import Clock, Consumer, Producer, Record
from tests.conformance.suites_kafka import ClockSuite, ConsumerSuite, ProducerSuite, Starts, wait_until
from tests.conftest import MakeTopic


class TestFakeClock(ClockSuite):
    def make(self) -> Clock:
        return FakeClock()

    def test_it_moves_only_when_told_and_does_what_is_due_at_its_time(self):
        clock, seen = FakeClock(), []
        clock.at(2.0, lambda: seen.append(clock.monotonic()))
        before = clock.now_ns()
        clock.wait(1.5)
        assert (clock.monotonic(), seen) == (1.5, [])
        clock.move(10.0)
        assert (clock.monotonic(), seen, clock.now_ns() - before) == (11.5, [2.0], 11_500_000_000)


class TestSystemClock(ClockSuite):
    def make(self) -> Clock:
        return SystemClock()


class TestMemoryProducer(ProducerSuite):
    @pytest.fixture(autouse=True)
    def _topic(self):
        self.topic = MemoryTopic(2)

    def make(self, *, small_queue: bool = False) -> Producer:
        return MemoryProducer(self.topic, queue_bytes=60_000 if small_queue else 1 << 20)

    def read_all(self, count: int) -> list[Record]:
        assert len(self.topic.records()) == count
        return self.topic.records()


class TestMemoryConsumer(ConsumerSuite):
    @pytest.fixture(autouse=True)
    def _topic(self):
        self.topic = MemoryTopic(2)

    def make(self, group: str = "group") -> MemoryConsumer:
        return MemoryConsumer(self.topic, group)

    def send(self, *values: bytes, partition: int = 0) -> None:
        for value in values:
            self.topic.append(value, partition=partition)

    @contextmanager
    def elsewhere(self, consumer: Consumer, owner: Starts) -> Iterator[None]:
        assert isinstance(consumer, MemoryConsumer)
        consumer.revoke([1])
        consumer.poll(0.1)
        yield
        consumer.assign([1])


def settings_for(broker: LocalBroker, defaults: dict[str, str], **extra: str) -> Settings:
    return Settings({**defaults, "bootstrap.servers": broker.bootstrap, **extra})


class OnBroker:
    """A topic of its own on the real broker."""

    @pytest.fixture(autouse=True)
    def _topic(self, broker: LocalBroker, topic: MakeTopic):
        self.broker = broker
        self.info = describe_topic(settings_for(broker, {}), topic(partitions=2))

    def make_producer(self, **extra: str) -> KafkaProducer:
        settings = settings_for(self.broker, producer_defaults(), **extra)
        producer = KafkaProducer(settings, self.info.name, lambda _: None)
        producer.attach(self.info)
        return producer

    def make_consumer(self, group: str, **extra: str) -> KafkaConsumer:
        settings = settings_for(
            self.broker,
            consumer_defaults(),
            **{"group.id": f"{self.info.name}-{group}", "auto.offset.reset": "earliest", **extra},
        )
        return KafkaConsumer(settings, self.info, lambda _: None)


class TestKafkaProducer(OnBroker, ProducerSuite):
    def make(self, *, small_queue: bool = False) -> Producer:
        return self.make_producer(**({"queue.buffering.max.kbytes": "60", "linger.ms": "50"} if small_queue else {}))

    def read_all(self, count: int) -> list[Record]:
        consumer, records = self.make_consumer("check"), list[Record]()
        consumer.subscribe(Starts())

        def take() -> None:
            record = consumer.poll(0.1)
            if record is not None:
                records.append(record)

        wait_until(lambda: len(records) == count, take)
        consumer.close()
        return records


class TestKafkaConsumer(OnBroker, ConsumerSuite):
    protocol: ClassVar[dict[str, str]] = {"group.protocol": "classic"}

    def make(self, group: str = "group") -> Consumer:
        return self.make_consumer(group, **self.protocol)

    @contextmanager
    def elsewhere(self, consumer: Consumer, owner: Starts) -> Iterator[None]:
        other, others = self.make(), Starts()
        other.subscribe(others)

        def both() -> None:
            consumer.poll(0.05)
            other.poll(0.05)

        wait_until(lambda: bool(others.owned) and len(owner.owned) == 1, both)
        yield
        other.close()

    def send(self, *values: bytes, partition: int = 0) -> None:
        producer, done = self.make_producer(), list[int]()
        for value in values:
            producer.produce(partition, b"k", value, lambda offset, _: done.append(offset))
        wait_until(lambda: len(done) == len(values), lambda: producer.poll(0.1))
        producer.close()


class TestKafkaConsumerOfTheNewProtocol(TestKafkaConsumer):
    protocol: ClassVar[dict[str, str]] = {"group.protocol": "consumer"}
