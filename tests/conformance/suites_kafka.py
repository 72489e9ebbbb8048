"""What every ``Producer``, ``Consumer`` and ``Clock`` must do. An adapter's tests subclass these and give the parts."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from openmsistream.errors import OpenMSIStreamError
from openmsistream.ports import Clock, Commit, Consumer, Producer, Record

DEADLINE_SECONDS = 30.0


def wait_until(condition: Callable[[], bool], work: Callable[[], object]) -> None:
    """Do the work until the condition holds; fail when it never does."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        work()


class ClockSuite(ABC):
    """Promises of ``ports.Clock``."""

    @abstractmethod
    def make(self) -> Clock: ...

    def test_the_monotonic_clock_never_runs_backwards(self):
        clock = self.make()
        seen = [clock.monotonic() for _ in range(1000)]
        assert seen == sorted(seen)

    def test_the_wall_clock_counts_nanoseconds_since_1970(self):
        assert 2020 < 1970 + self.make().now_ns() / 1e9 / 31_556_952 < 2200


@dataclass
class Answers:
    """What the producer said of each record, in the order it said it."""

    said: list[tuple[str, int, OpenMSIStreamError | None]] = field(default_factory=list)

    def to(self, name: str) -> Callable[[int, OpenMSIStreamError | None], None]:
        return lambda offset, error: self.said.append((name, offset, error))


class ProducerSuite(ABC):
    """Promises of ``ports.Producer``, on a fresh topic with 2 partitions."""

    @abstractmethod
    def make(self, *, small_queue: bool = False) -> Producer:
        """A producer; with ``small_queue`` it holds less than 64 KiB."""

    @abstractmethod
    def read_all(self, count: int) -> list[Record]:
        """The first ``count`` records of the topic."""

    @pytest.fixture
    def producer(self):
        made = self.make()
        yield made
        made.close()

    def test_it_knows_how_many_partitions_there_are(self, producer: Producer):
        assert producer.partitions == 2

    def test_records_arrive_in_order_in_their_partition_with_key_and_value(self, producer: Producer):
        answers = Answers()
        for number in range(20):
            assert producer.produce(number % 2, b"key", b"value %d" % number, answers.to(str(number)))
        wait_until(lambda: len(answers.said) == 20, lambda: producer.poll(0.1))

        records = self.read_all(20)
        for partition in (0, 1):
            mine = [r.value for r in records if r.partition == partition]
            assert mine == [b"value %d" % number for number in range(partition, 20, 2)]
        assert {r.key for r in records} == {b"key"}

    def test_each_record_is_acknowledged_once_with_its_offset_in_order(self, producer: Producer):
        answers = Answers()
        for number in range(10):
            producer.produce(1, b"k", b"v", answers.to(str(number)))
        wait_until(lambda: len(answers.said) >= 10, lambda: producer.poll(0.1))
        producer.poll(0)

        assert answers.said == [(str(number), number, None) for number in range(10)]

    def test_nothing_is_acknowledged_outside_poll(self, producer: Producer):
        answers = Answers()
        producer.produce(0, b"k", b"v", answers.to("a"))
        assert answers.said == []
        assert producer.pending() == 1
        wait_until(lambda: bool(answers.said), lambda: producer.poll(0.1))
        assert producer.pending() == 0

    def test_poll_says_how_many_it_served(self, producer: Producer):
        answers, served = Answers(), 0

        def serve() -> None:
            nonlocal served
            served += producer.poll(0.1)

        for number in range(5):
            producer.produce(0, b"k", b"v", answers.to(str(number)))
        wait_until(lambda: len(answers.said) == 5, serve)
        assert served == 5
        assert producer.poll(0) == 0

    def test_the_value_is_copied_before_produce_returns(self, producer: Producer):
        answers, buffer = Answers(), bytearray(b"first")
        producer.produce(0, b"k", memoryview(buffer), answers.to("a"))
        buffer[:] = b"XXXXX"
        producer.produce(0, b"k", memoryview(buffer)[1:3], answers.to("b"))
        wait_until(lambda: len(answers.said) == 2, lambda: producer.poll(0.1))

        assert [record.value for record in self.read_all(2)] == [b"first", b"XX"]

    def test_an_empty_value_is_a_value(self, producer: Producer):
        answers = Answers()
        producer.produce(0, b"k", b"", answers.to("a"))
        wait_until(lambda: bool(answers.said), lambda: producer.poll(0.1))
        assert [record.value for record in self.read_all(1)] == [b""]

    def test_a_full_queue_takes_nothing_until_it_is_polled(self):
        producer, answers, taken = self.make(small_queue=True), Answers(), 0
        try:
            while producer.produce(0, b"k", bytes(8192), answers.to(str(taken))):
                taken += 1
                assert taken < 1000, "the queue has no end"
            wait_until(lambda: producer.produce(0, b"k", b"again", answers.to("again")), lambda: producer.poll(0.1))
            wait_until(lambda: len(answers.said) == taken + 1, lambda: producer.poll(0.1))
            assert all(error is None for _, _, error in answers.said)
        finally:
            producer.close()

    def test_the_log_of_a_fresh_topic_starts_at_0(self, producer: Producer):
        assert producer.log_start(0) == producer.log_start(1) == 0

    def test_close_drops_what_is_queued(self):
        producer = self.make()
        producer.produce(0, b"k", b"v", Answers().to("a"))
        producer.close()
        assert producer.pending() == 0


class Starts:
    """An owner of partitions that starts where it is told to."""

    def __init__(self, starts: Mapping[int, int | None] | None = None) -> None:
        self._starts = starts or {}
        self.owned: set[int] = set()
        self.on_revoke: Callable[[], object] = lambda: None

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int | None]:
        self.owned |= set(partitions)
        return {partition: self._starts.get(partition) for partition in partitions}

    def revoked(self, partitions: Sequence[int], *, lost: bool) -> None:
        if not lost:
            self.on_revoke()
        self.owned -= set(partitions)


class ConsumerSuite(ABC):
    """Promises of ``ports.Consumer``, on a fresh topic with 2 partitions; ``auto.offset.reset`` is earliest."""

    @abstractmethod
    def make(self, group: str = "group") -> Consumer: ...

    @abstractmethod
    def send(self, *values: bytes, partition: int = 0) -> None: ...

    @abstractmethod
    def elsewhere(self, consumer: Consumer, owner: Starts) -> AbstractContextManager[None]:
        """Within it, another member of the group has one or more of the two partitions."""

    def read(self, consumer: Consumer, count: int) -> list[Record]:
        records: list[Record] = []

        def take() -> None:
            record = consumer.poll(0.1)
            if record is not None:
                records.append(record)

        wait_until(lambda: len(records) >= count, take)
        return records

    def test_records_come_in_order_with_offset_key_value_and_time(self):
        self.send(b"a", b"b", b"")
        consumer, owner = self.make(), Starts()
        consumer.subscribe(owner)
        records = self.read(consumer, 3)
        consumer.close()

        assert [(r.partition, r.offset, r.value) for r in records] == [(0, 0, b"a"), (0, 1, b"b"), (0, 2, b"")]
        assert all(r.timestamp_ms > 1_600_000_000_000 for r in records)

    def test_all_partitions_are_assigned_within_poll(self):
        consumer, owner = self.make(), Starts()
        consumer.subscribe(owner)
        assert owner.owned == set()
        wait_until(lambda: owner.owned == {0, 1}, lambda: consumer.poll(0.1))
        consumer.close()

    def test_reading_starts_where_the_owner_says(self):
        self.send(b"0", b"1", b"2")
        self.send(b"other", partition=1)
        consumer = self.make()
        consumer.subscribe(Starts({0: 2, 1: None}))
        records = self.read(consumer, 2)
        consumer.close()

        assert sorted((r.partition, r.offset) for r in records) == [(0, 2), (1, 0)]

    def test_nothing_is_committed_but_what_it_is_told_to(self):
        self.send(b"0", b"1", b"2")
        first = self.make()
        first.subscribe(Starts())
        self.read(first, 3)
        assert first.committed(0) is None
        first.commit({0: Commit(1)}, wait=True)
        assert first.committed(0) == Commit(1)
        first.close()

        second = self.make()
        second.subscribe(Starts())
        assert [r.offset for r in self.read(second, 2)] == [1, 2]
        assert second.committed(1) is None
        second.close()

    def test_the_bounds_are_the_oldest_and_the_next_offset(self):
        self.send(b"0", b"1")
        consumer, owner = self.make(), Starts()
        consumer.subscribe(owner)
        wait_until(lambda: owner.owned == {0, 1}, lambda: consumer.poll(0.1))
        assert consumer.bounds(0) == (0, 2)
        assert consumer.bounds(1) == (0, 0)
        consumer.close()

    def test_a_paused_consumer_keeps_its_partitions_and_goes_on_without_a_gap(self):
        consumer, owner = self.make(), Starts()
        self.send(b"0")
        consumer.subscribe(owner)
        self.read(consumer, 1)
        consumer.pause()
        self.send(b"1", b"2")
        assert [consumer.poll(0.1) for _ in range(10)] == [None] * 10
        assert owner.owned == {0, 1}
        consumer.resume()
        assert [r.offset for r in self.read(consumer, 2)] == [1, 2]
        consumer.close()

    def test_a_partition_that_goes_while_it_is_paused_is_read_when_it_comes_again(self):
        consumer, owner = self.make(), Starts()
        consumer.subscribe(owner)
        wait_until(lambda: owner.owned == {0, 1}, lambda: consumer.poll(0.1))
        consumer.pause()
        with self.elsewhere(consumer, owner):
            consumer.resume()
        wait_until(lambda: owner.owned == {0, 1}, lambda: consumer.poll(0.1))
        self.send(b"0")
        self.send(b"1", partition=1)
        assert {record.value for record in self.read(consumer, 2)} == {b"0", b"1"}
        consumer.close()

    def test_a_commit_that_nobody_waits_for_arrives_all_the_same(self):
        self.send(b"0", b"1")
        consumer = self.make()
        consumer.subscribe(Starts())
        self.read(consumer, 2)
        consumer.commit({0: Commit(2, "a note")}, wait=False)
        wait_until(lambda: consumer.committed(0) == Commit(2, "a note"), lambda: consumer.poll(0.1))
        consumer.close()

    def test_a_partition_that_is_not_its_own_is_not_committed(self):
        consumer = self.make()
        consumer.subscribe(Starts())
        consumer.commit({0: Commit(1)}, wait=True)
        assert consumer.committed(0) is None
        consumer.close()

    def test_a_commit_carries_a_string_of_up_to_4095_bytes(self):
        """The next commit puts another in its place, or none."""
        self.send(b"0", b"1")
        consumer = self.make()
        consumer.subscribe(Starts())
        self.read(consumer, 2)
        for note in ("oms1:" + "x" * 4090, "", "short"):
            consumer.commit({0: Commit(1, note)}, wait=True)
            assert consumer.committed(0) == Commit(1, note)
        consumer.close()

    def test_it_knows_how_many_partitions_there_are_and_that_the_topic_is_the_same(self):
        consumer = self.make()
        assert consumer.partitions == 2
        assert not consumer.replaced
        consumer.close()

    def test_it_knows_when_a_partition_was_read_to_its_end(self):
        consumer, owner = self.make(), Starts()
        self.send(b"0", b"1")
        consumer.subscribe(owner)
        assert not consumer.at_end(0)
        self.read(consumer, 1)
        assert not consumer.at_end(0)
        self.read(consumer, 1)
        wait_until(lambda: consumer.at_end(0) and consumer.at_end(1), lambda: consumer.poll(0.1))
        self.send(b"2", b"3")
        self.read(consumer, 1)
        assert not consumer.at_end(0)
        assert consumer.at_end(1)
        consumer.close()

    def test_groups_know_nothing_of_each_other(self):
        self.send(b"0")
        one = self.make("one")
        one.subscribe(Starts())
        self.read(one, 1)
        one.commit({0: Commit(1)}, wait=True)
        one.close()

        two = self.make("two")
        two.subscribe(Starts())
        assert len(self.read(two, 1)) == 1
        two.close()
