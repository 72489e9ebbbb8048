"""When the download flow stops waiting for the rest of a file, on fakes: one promise each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from openmsistream.adapters.memory import START_NS, FakeClock, MemoryTopic
from openmsistream.core.events import FileExpired, FileStarted, Note
from openmsistream.core.wire import v2
from openmsistream.pipeline.expiry import DAY_SECONDS, ExpirySettings
from tests.pipeline.hosts import SETTINGS, Host
from tests.pipeline.material import v2_chunks, v2_key, v2_records

DATA = b"0123456789"
DAY_MS = round(DAY_SECONDS * 1000)
START_MS = START_NS // 1_000_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def topic(clock: FakeClock) -> MemoryTopic:
    return MemoryTopic(2, clock=clock)


def host_of(topic: MemoryTopic, clock: FakeClock, partitions: Sequence[int] = (0, 1), **bounds: float) -> Host:
    settings = dataclasses.replace(SETTINGS, expiry=ExpirySettings(**bounds))  # type: ignore[arg-type]
    return Host(topic, clock=clock, partitions=partitions, settings=settings)


def send(topic: MemoryTopic, *values: bytes, partition: int = 0, at_ms: int | None = None) -> None:
    for value in values:
        topic.append(value, partition=partition, timestamp_ms=at_ms)


def after_days(host: Host, days: float) -> None:
    host.clock.move(days * DAY_SECONDS)
    host.settle()


def test_a_file_of_which_nothing_comes_for_a_week_is_not_waited_for(topic: MemoryTopic, clock: FakeClock):
    """It is told, what came of it is kept, and the watermark is free."""
    host = host_of(topic, clock)
    send(topic, *v2_records("a", DATA, 1)[:2], *v2_records("b", DATA, 2))
    host.settle()
    after_days(host, 6.9)
    assert host.told.of(FileExpired) == []
    assert host.committed() == 0

    after_days(host, 0.2)

    (expired,) = host.told.of(FileExpired)
    assert (expired.path, expired.received, expired.size, expired.kept) == ("a", 8, 10, True)
    assert expired.age_seconds == pytest.approx(7.1 * DAY_SECONDS, rel=0.01)
    assert expired.reason == "no record of it came for 7.1 days, and 2 of its 10 bytes are missing"
    assert host.committed() == 5
    assert host.flow.open_versions == 0
    assert [each.version.key for each in host.ledger.expired()] == [v2_key("a", 1)]


def test_in_a_backlog_the_time_of_the_topic_counts(topic: MemoryTopic, clock: FakeClock):
    """A file that was left unfinished weeks before the newest record expires, also far from the topic's end."""
    host = host_of(topic, clock)
    send(topic, v2_records("old", DATA, 1)[0], at_ms=START_MS - 20 * DAY_MS)
    send(topic, v2_records("new", DATA, 2)[0], at_ms=START_MS - 6 * DAY_MS)
    send(topic, *v2_records("more", bytes(4000), 3), at_ms=START_MS - 6 * DAY_MS)
    host.turns(10)
    clock.move(60)

    host.turns(100)

    assert [expired.path for expired in host.told.of(FileExpired)] == ["old"]
    assert not host.consumer.at_end(0)


def test_the_wall_clock_does_not_count_before_the_end_of_the_topic(topic: MemoryTopic, clock: FakeClock):
    """A downloader that was off for a month finds the rest of the file when it reads on."""
    host = host_of(topic, clock)
    send(topic, v2_records("a", DATA, 1)[0], at_ms=START_MS)
    host.settle()
    send(topic, *v2_records("b", bytes(400), 2), *v2_records("a", DATA, 1)[1:], at_ms=START_MS + DAY_MS)
    clock.move(30 * DAY_SECONDS)
    host.kill()

    host.settle()

    assert set(host.sink.files) == {"a", "b"}
    assert host.told.of(FileExpired) == []


@pytest.mark.parametrize("restart", [False, True])
def test_what_comes_late_goes_on_with_what_was_kept(topic: MemoryTopic, clock: FakeClock, restart: bool):
    """No byte of the beginning is sent again."""
    host = host_of(topic, clock)
    *first, last = v2_records("a", DATA, 1)
    send(topic, *first)
    host.settle()
    after_days(host, 8)
    if restart:
        host.kill(power_cut=True)
        host.settle()
    assert host.committed() == 2

    send(topic, last)
    host.settle()

    assert host.sink.files == {"a": DATA}
    assert [started.resumed_at for started in host.told.of(FileStarted)] in ([0], [0, 8])
    assert host.ledger.expired() == []
    assert host.committed() == 3


def test_what_comes_late_where_the_beginning_was_not_read_is_told_and_expires_again(
    topic: MemoryTopic, clock: FakeClock
):
    """The group moved on meanwhile: the file has to be sent again, and nothing waits for ever."""
    first, second = host_of(topic, clock), host_of(topic, clock, ())
    records = v2_records("a", DATA, 1)
    send(topic, records[0])
    first.settle()
    after_days(first, 8)
    first.consumer.revoke([0])
    first.turns(1)
    second.consumer.assign([0])
    send(topic, *records[1:])
    second.settle()
    assert second.committed() == 1

    after_days(second, 8)

    (expired,) = second.told.of(FileExpired)
    assert expired.reason == "no record of it came for 8 days, and its first 4 bytes were never read here"
    assert second.committed() == 3
    assert first.sink.files == second.sink.files == {}


def test_a_hole_before_what_comes_late_is_told_at_once(topic: MemoryTopic, clock: FakeClock):
    """Records were removed between."""
    host = host_of(topic, clock)
    records = v2_records("a", DATA, 1)
    send(topic, records[0])
    host.settle()
    after_days(host, 8)

    send(topic, records[2])
    host.settle()

    assert "goes on, but 4 bytes before that are missing" in host.told.of(Note)[-1].text
    after_days(host, 8)
    assert host.told.of(FileExpired)[1].reason.endswith("4 of its 10 bytes are missing")


def test_a_sender_that_says_it_is_alive_keeps_its_file_open(topic: MemoryTopic, clock: FakeClock):
    """However long it takes."""
    host = host_of(topic, clock)
    chunks = v2_chunks("a", DATA, 1)
    send(topic, v2.encode(chunks[0]))
    for _ in range(5):
        host.settle()
        clock.move(5 * DAY_SECONDS)
        send(topic, v2.encode(dataclasses.replace(chunks[1], payload=b"", alive=True)))
    send(topic, *map(v2.encode, chunks[1:]))

    host.settle()

    assert host.sink.files == {"a": DATA}
    assert host.told.of(FileExpired) == []


def test_a_sender_whose_clock_is_years_behind_is_waited_for(topic: MemoryTopic, clock: FakeClock):
    """Its records came just now, whatever they say: the partition had been read to its end before."""
    host = host_of(topic, clock)
    host.settle()
    after_days(host, 0.1)
    send(topic, v2_records("a", DATA, 1)[0], at_ms=1_000)
    host.settle()

    after_days(host, 6)
    assert host.told.of(FileExpired) == []
    after_days(host, 2)
    assert len(host.told.of(FileExpired)) == 1


def test_a_sender_whose_clock_is_years_ahead_ends_nothing(topic: MemoryTopic, clock: FakeClock):
    """The topic's time never runs ahead of the clock here."""
    host = host_of(topic, clock)
    send(topic, v2_records("a", DATA, 1)[0])
    send(topic, *v2_records("b", DATA, 2), at_ms=START_MS + 5000 * DAY_MS)
    host.settle()

    after_days(host, 1)

    assert host.told.of(FileExpired) == []


def test_a_newer_version_ends_one_that_had_expired(topic: MemoryTopic, clock: FakeClock):
    """Nobody wants the rest any more, and its bytes take room."""
    host = host_of(topic, clock)
    send(topic, v2_records("a", DATA, 1)[0])
    host.settle()
    after_days(host, 8)
    send(topic, *v2_records("a", b"new", 2))

    host.settle()

    assert host.ledger.expired() == []
    assert host.ledger.is_finished(v2_key("a", 1))
    assert host.sink.restore([v2_key("a", 1)]) == set()


@pytest.mark.parametrize("bound", [{"keep_bytes": 9}, {"keep_versions": 1}, {"keep_seconds": 7 * DAY_SECONDS}])
def test_what_is_kept_of_expired_files_is_bounded_and_the_longest_expired_goes_first(
    topic: MemoryTopic, clock: FakeClock, bound: dict[str, float]
):
    """By size, number and time; it is told."""
    host = host_of(topic, clock, **bound)
    send(topic, *v2_records("old", DATA, 1)[:2])
    host.settle()
    after_days(host, 5)
    send(topic, *v2_records("new", DATA, 2)[:2])
    host.settle()
    after_days(host, 3)

    after_days(host, 8)

    gone = [expired.path for expired in host.told.of(FileExpired) if not expired.kept]
    assert gone == ["old"]
    assert [each.version.key for each in host.ledger.expired()] == [v2_key("new", 2)]
    assert host.sink.restore([v2_key("old", 1), v2_key("new", 2)]) == {v2_key("new", 2)}


def test_expiry_can_be_switched_off(topic: MemoryTopic, clock: FakeClock):
    """Then the file is waited for, and holds the watermark, as long as it takes."""
    host = host_of(topic, clock, seconds=0)
    send(topic, v2_records("a", DATA, 1)[0])
    host.settle()

    after_days(host, 1000)

    assert host.told.of(FileExpired) == []
    assert host.committed() == 0


def test_what_is_open_in_a_partition_that_others_have_does_not_stay_for_ever(topic: MemoryTopic, clock: FakeClock):
    """Its bytes count as expired after the same time, and go on when the partition comes back unfinished."""
    here, there = host_of(topic, clock), host_of(topic, clock, ())
    *first, last = v2_records("a", DATA, 1)
    send(topic, *first)
    here.settle()
    here.consumer.revoke([0])
    here.turns(1)
    there.consumer.assign([0])
    there.settle()
    for _ in range(2):
        clock.move(5 * DAY_SECONDS)
        send(topic, v2.encode(dataclasses.replace(v2_chunks("a", DATA, 1)[1], payload=b"", alive=True)))
        there.settle()
        here.settle()
    assert [each.version.key for each in here.ledger.expired()] == [v2_key("a", 1)]
    assert here.told.of(FileExpired) == [], "it is not this one's business any more"

    there.consumer.revoke([0])
    there.turns(1)
    here.consumer.assign([0])
    here.settle()
    assert here.committed() == 0, "the file is open, and its first record counts"
    send(topic, last)
    here.settle()

    assert here.sink.files == {"a": DATA}
    assert here.ledger.expired() == []
