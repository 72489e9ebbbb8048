"""Partitions that move, ledgers that are lost and topics that change under the download flow: one promise each."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from openmsistream.adapters.memory import MemorySink, MemoryTopic
from openmsistream.core.events import FileDelivered, Gap, Note, Quarantined
from openmsistream.core.paths import partition_for
from openmsistream.core.versions import VersionKey, tag_of
from openmsistream.core.watermark import TAGS_MAX, Mark, Start, Why, decode_mark, encode_mark, topic_tag
from openmsistream.errors import StorageError
from openmsistream.pipeline import beside, delivery
from openmsistream.pipeline.download import Download
from openmsistream.ports import Barrier, Buffer, Commit
from tests.pipeline.hosts import Host
from tests.pipeline.material import v1_records, v2_key, v2_records

DATA = b"0123456789"


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic(2)


def send(topic: MemoryTopic, *values: bytes | None, partition: int = 0) -> None:
    for value in values:
        topic.append(value, partition=partition)


def move(partition: int, old: Host, new: Host) -> None:
    old.consumer.revoke([partition])
    old.turns(1)
    new.consumer.assign([partition])
    new.settle()


def notes(host: Host, text: str) -> list[Note]:
    return [note for note in host.told.of(Note) if text in note.text]


def test_a_partition_that_moves_in_the_middle_of_a_file_is_read_from_the_file_on(topic: MemoryTopic):
    """Who has it next reads the file's beginning again, and leaves out what was finished behind that."""
    one, two = Host(topic), Host(topic, partitions=())
    first, second, last = v2_records("big", DATA, 1)
    send(topic, first, *v2_records("small", b"x", 2), second)
    one.settle()

    move(0, one, two)
    send(topic, last)
    two.settle()

    assert (one.sink.files, two.sink.files) == ({"small": b"x"}, {"big": DATA})
    assert two.committed() == 4
    assert two.flow.totals.records == 4


def test_a_partition_that_comes_back_goes_on_with_what_was_kept(topic: MemoryTopic):
    """The bytes of files that are still open need not be written again, and those that others finished are dropped."""
    one, two = Host(topic), Host(topic, partitions=())
    first, second, last = v2_records("big", DATA, 1)
    other = v2_records("other", DATA, 2)
    send(topic, first, other[0])
    one.settle()
    move(0, one, two)
    send(topic, second, *other[1:])
    two.settle()
    written = one.bomb.trace.count("write")

    move(0, two, one)
    send(topic, last)
    one.settle()

    assert (one.sink.files, two.sink.files) == ({"big": DATA}, {"other": DATA})
    assert one.bomb.trace.count("write") == written + 2
    assert one.ledger.is_finished(v2_key("other", 2))
    assert one.sink.restore([v2_key("other", 2)]) == set()


def test_records_that_cannot_be_handled_are_quarantined_once_in_a_group(topic: MemoryTopic):
    """Below what the other one had read, it has dealt with them."""
    one, two = Host(topic), Host(topic, partitions=())
    send(topic, v2_records("open", DATA, 1)[0], b"junk")
    one.settle()

    move(0, one, two)

    assert len(one.told.of(Quarantined)) == 1
    assert two.told.of(Quarantined) == []


def test_a_destination_that_refuses_does_not_keep_the_group_waiting(topic: MemoryTopic):
    """What has no name yet when the partition goes gets it where the partition is then, and there alone."""
    one, two = Host(topic), Host(topic, partitions=())
    send(topic, *v2_records("a", DATA, 1))
    one.turns(3)
    one.sink.full = True

    move(0, one, two)
    one.sink.full = False
    one.settle()

    assert (one.sink.files, two.sink.files) == ({}, {"a": DATA})


class TrustsItsLedger(Download):
    """Weakened: goes on where its ledger stopped, whatever became of the topic."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        start = self._partitions._start

        def trusting(partition: int, tags: Any) -> Start:
            found, ledger = start(partition, tags), self._partitions._ledger.position(partition)
            return found if ledger is None else Start(ledger, Why.LEDGER, found.mark)

        self._partitions._start = trusting  # type: ignore[method-assign]


@pytest.mark.parametrize("flow", [Download, TrustsItsLedger])
def test_a_ledger_that_lacks_an_open_version_is_not_used(topic: MemoryTopic, flow: type[Download]):
    """Its beginning is read again, as the group says; with the rule taken away the file is lost."""
    host = Host(topic, download=flow)
    send(topic, *v2_records("a", DATA, 1)[:2])
    host.ledger.barrier(Barrier({0: 2}, [], [], []))
    mark = Mark(0, 2, 2, frozenset({tag_of(v2_key("a", 1))}))
    topic.committed["group"] = {0: Commit(0, encode_mark(mark, topic_tag("")))}
    send(topic, v2_records("a", DATA, 1)[2])

    host.settle()

    assert host.sink.files == ({"a": DATA} if flow is Download else {})


@pytest.mark.parametrize("flow", [Download, TrustsItsLedger])
def test_a_ledger_does_not_count_against_an_operator(topic: MemoryTopic, flow: type[Download]):
    """What was skipped on purpose is skipped; with the rule taken away it is read."""
    host = Host(topic, download=flow)
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    send(topic, *v2_records("unwanted", DATA, 2))
    topic.committed["group"][0] = Commit(6)
    host.kill()

    host.settle()

    assert ("unwanted" in host.sink.files) == (flow is TrustsItsLedger)


@pytest.mark.parametrize("new_group", [True, False])
def test_a_lost_ledger_costs_no_file_a_second_writing(topic: MemoryTopic, new_group: bool):
    """What stands there with the right size and hash is recognised, though the whole topic is read again."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1), *v1_records("b", DATA, mtime_ns=5), *v2_records("open", DATA, 2)[:2])
    host.settle()
    assert len(host.delivered) == 2
    host.ledger = host.new_ledger()
    host.group = "other" if new_group else host.group
    host.kill()
    host.settle()
    send(topic, v2_records("open", DATA, 2)[2], *v2_records("a", DATA, 1))

    host.settle()

    assert host.flow.totals.records == (12 if new_group else 6), "the group knows where the open file begins"
    assert host.sink.files == {"a": DATA, "b": DATA, "open": DATA}
    assert len(host.delivered) == 3, "only the file that was open is written"
    assert host.committed() == 12


def test_a_file_that_was_changed_on_the_disk_is_written_again_when_the_ledger_is_lost(topic: MemoryTopic):
    """The size alone proves nothing."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    host.sink.files["a"] = b"012345678X"
    topic.committed.clear()
    host.ledger = host.new_ledger()
    host.kill()

    host.settle()

    assert host.sink.files == {"a": DATA}


def test_offsets_that_an_operator_sets_back_are_read_again_and_recognised(topic: MemoryTopic):
    """It is told; no file is written twice."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1), *v2_records("b", DATA, 2))
    host.settle()
    topic.committed["group"][0] = Commit(1)
    host.kill()

    host.settle()

    assert host.flow.totals.records == 5
    assert len(host.delivered) == 2
    assert "set back, from 6 to 1" in notes(host, "offset was set back")[0].text
    assert host.committed() == 6


def test_offsets_that_an_operator_sets_forward_are_told_as_a_gap_with_numbers(topic: MemoryTopic):
    """What is left out is said, and how to read it all the same."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    send(topic, *v2_records("left out", DATA, 2), *v2_records("c", b"c", 3))
    topic.committed["group"][0] = Commit(6)
    host.kill()

    host.settle()

    assert set(host.sink.files) == {"a", "c"}
    (note,) = notes(host, "offset was set forward")
    assert "records 3 to 5 are not read here" in note.text
    assert "back to 3" in note.hint
    assert host.committed() == 7


def test_with_a_damaged_string_only_the_offset_counts(topic: MemoryTopic):
    """Nothing is lost: all from the watermark on is read again."""
    one, two = Host(topic), Host(topic, partitions=())
    send(topic, v2_records("open", DATA, 1)[0], *v2_records("a", DATA, 2))
    one.settle()
    one.consumer.revoke([0])
    one.turns(1)
    commit = topic.committed["group"][0]
    topic.committed["group"][0] = Commit(commit.offset, commit.metadata[:-1])

    two.consumer.assign([0])
    two.settle()

    assert two.sink.files == {"a": DATA}
    assert two.flow.open_versions == 1
    assert two.flow.totals.records == 4


def test_what_was_committed_of_an_earlier_topic_of_that_name_does_not_count():
    """Else the beginning of the new one would be left out."""
    again = MemoryTopic(2)
    again.committed = {"group": {0: Commit(2, encode_mark(Mark(2, 2, 2, frozenset()), topic_tag("another")))}}
    send(again, *v2_records("b", DATA, 2))

    host = Host(again)

    host.settle()

    assert host.sink.files == {"b": DATA}


def test_a_topic_that_is_made_again_ends_the_flow_and_no_file_is_forgotten(topic: MemoryTopic):
    """What was read of the old one gets its name, and its offsets are not committed to the new one."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.turns(3)
    host.control.each_turn.append(lambda: setattr(host.consumer, "replaced", True))

    host.flow.run()

    assert host.flow.replaced
    assert host.sink.files == {"a": DATA}
    assert host.committed() is None


@pytest.mark.parametrize("running", [True, False])
def test_records_that_were_removed_before_they_were_read_are_told_with_the_files_that_suffer(
    topic: MemoryTopic, running: bool
):
    """While the program is off, and while it is too slow."""
    host = Host(topic)
    send(topic, v2_records("big", DATA, 1)[0], *v2_records("small", b"x", 2))
    host.settle()
    send(topic, *v2_records("big", DATA, 1)[1:], *v2_records("c", b"c", 3))
    topic.delete_before(0, 3)
    if not running:
        host.kill()

    host.settle()

    (gap,) = host.told.of(Gap)
    assert (gap.partition, gap.first, gap.last, gap.files) == (0, 2, 2, ("big",))
    assert len(notes(host, "parts of these files may be among the records that were removed: big")) == 1
    assert host.sink.files == {"small": b"x", "c": b"c"}


def test_offsets_that_are_missing_as_a_transaction_ended_there_are_no_gap(topic: MemoryTopic):
    """The topic still begins where it did."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1)[:1])
    host.settle()
    real = topic.record
    topic.record = lambda p, o: real(p, o + 1) if o == 1 else real(p, o)  # type: ignore[method-assign]
    send(topic, b"end of a transaction", *v2_records("a", DATA, 1)[1:])

    host.settle()

    assert host.sink.files == {"a": DATA}
    assert host.told.of(Gap) == host.told.of(Quarantined) == []


def test_more_open_files_than_fit_into_a_commit_cost_reading_again_and_nothing_else(topic: MemoryTopic):
    """An earlier position is committed, at which they fit; it is told once."""
    one, two = Host(topic), Host(topic, partitions=())
    count = TAGS_MAX + 20
    files = {f"{number}": v2_records(f"{number}", DATA, number + 1) for number in range(count)}
    for records in files.values():
        send(topic, records[0])
    done = [name for name in files if int(name) % 100 == 7]
    for name in done:
        send(topic, *files[name][1:])
    one.settle()
    commit = topic.committed["group"][0]
    mark, _ = decode_mark(commit.offset, commit.metadata) or pytest.fail("no mark")
    assert (len(mark.open), mark.read) == (TAGS_MAX, count + 2 * len(done))
    assert mark.position < count
    assert len(commit.metadata) <= 4095
    assert len(notes(one, "files are open at once")) == 1

    move(0, one, two)
    for name in files.keys() - set(done):
        send(topic, *files[name][1:])
    two.settle()

    assert set(one.sink.files) == set(done)
    assert set(two.sink.files) >= files.keys() - set(done)
    assert two.flow.open_versions == 0


def test_chunks_of_1x_that_are_spread_over_partitions_of_others_are_told_once_and_when_asked(topic: MemoryTopic):
    """Such a file cannot become whole here; the user hears what to do."""
    host = Host(topic, partitions=(1,))
    records = v1_records("big", bytes(40), mtime_ns=5)
    for number, value in enumerate(records):
        send(topic, value, partition=number % 2)
    send(topic, *v1_records("big 2", bytes(40), mtime_ns=5), partition=1)

    host.settle()
    (note,) = notes(host, "1.x")
    assert "spread over all 2 partitions, and this program has 1 of them" in note.text
    assert "run one downloader alone" in note.hint

    host.control.check()
    host.control.each_turn.append(lambda: host.control.stop("asked to"))
    host.flow.run()
    assert "1 files of OpenMSIStream 1.x wait" in notes(host, "1.x")[1].text


@pytest.mark.parametrize("partitions", [(0, 1), (0,)])
def test_chunks_of_1x_in_the_partition_of_their_path_are_nothing_to_tell(
    topic: MemoryTopic, partitions: tuple[int, ...]
):
    """Our own uploader puts them there; and who has all partitions needs nothing else."""
    host = Host(topic, partitions=partitions)
    path = next(name for name in "abcdef" if partition_for(name, 2) == 0)
    send(topic, *v1_records(path, DATA, mtime_ns=5))
    if len(partitions) == 2:
        for number, value in enumerate(v1_records("spread", DATA, mtime_ns=5)):
            send(topic, value, partition=number % 2)

    host.settle()

    assert DATA in host.sink.files.values()
    assert notes(host, "1.x") == []


class SlowSink(MemorySink):
    """A sink whose syncing takes until the consumer was polled three times."""

    def __init__(self) -> None:
        super().__init__()
        self.polls = threading.Semaphore(0)

    def sync(self, keys: Iterable[VersionKey]) -> None:
        for _ in range(3):
            assert self.polls.acquire(timeout=60), "nobody polls meanwhile"
        super().sync(keys)


def test_a_consumer_stays_in_its_group_while_a_barrier_takes_long(topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch):
    """It is polled and hands out nothing meanwhile; then all goes on."""
    monkeypatch.setattr(beside, "ALONE_SECONDS", 0.01)
    host = Host(topic)
    slow = SlowSink()
    host.sink = slow  # type: ignore[assignment]
    host.start()
    send(topic, *v2_records("a", DATA, 1))
    poll = host.consumer.poll

    def counted(seconds: float) -> object:
        slow.polls.release()
        return poll(seconds)

    host.consumer.poll = counted  # type: ignore[method-assign, assignment]
    host.turns(1)
    while slow.polls.acquire(blocking=False):
        continue
    host.turns(20)

    assert slow.files == {"a": DATA}
    assert [event.path for event in host.told.of(FileDelivered)] == ["a"]


def test_what_goes_wrong_in_a_long_barrier_is_not_lost(topic: MemoryTopic):
    """An error on the other thread is the flow's."""

    class Refusing(MemorySink):
        def publish(self, publications: object) -> dict[VersionKey, Exception]:  # type: ignore[override]
            raise StorageError("no")

    host = Host(topic)
    host.sink = Refusing()  # type: ignore[assignment]
    host.start()
    send(topic, *v2_records("a", DATA, 1))
    host.clock.at(20.0, lambda: host.control.stop("asked to"))

    with pytest.raises(StorageError, match="no"):
        host.flow.run()


def test_a_program_that_ends_before_it_has_a_partition_forgets_nothing():
    """What it holds of files that are not whole yet is there when it starts again."""
    topic = MemoryTopic()
    host = Host(topic)
    first, second, last = v2_records("a", b"0123456789", 1)
    for value in (first, second):
        topic.append(value)
    host.settle()

    host.quit()
    host.quit()
    topic.append(last)
    host.settle()

    assert host.sink.files == {"a": b"0123456789"}
    assert host.bomb.trace.count("write") == 3


class AssignedWhileRead(MemorySink):
    """A sink that takes long to give bytes back: another partition comes meanwhile."""

    host: Host
    comes: tuple[int, ...] = ()

    def read(self, key: VersionKey, start: int, stop: int) -> Iterable[Buffer]:
        if self.comes:
            self.host.consumer.assign(self.comes)
            self.comes = ()
            assert self.host.claimed.wait(60), "nobody polls meanwhile"
        return super().read(key, start, stop)


class ClaimingHost(Host):
    """One that tells when it is given partitions."""

    def start(self) -> None:
        super().start()
        self.claimed = threading.Event()
        assigned = self.flow.assigned

        def told(partitions: Sequence[int]) -> Mapping[int, int | None]:
            self.claimed.set()
            return assigned(partitions)

        self.flow.assigned = told  # type: ignore[method-assign]


def test_a_partition_that_comes_while_a_whole_file_is_compared_leaves_it_alone(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch
):
    """The file is neither open nor finished in that moment, and its bytes are in use."""
    host = ClaimingHost(topic, partitions=(0,))
    *most, last = v2_records("a", DATA, 1)
    send(topic, *most)
    host.settle()
    host.flow._barrier(wait=True)
    sink = AssignedWhileRead()
    sink._partial, sink._synced = host.sink._partial, host.sink._synced
    sink.host, host.sink = host, sink  # type: ignore[assignment]
    host.start()
    host.turns(5)
    host.claimed.clear()
    monkeypatch.setattr(beside, "ALONE_SECONDS", 0.01)
    monkeypatch.setattr(delivery, "LONG_BYTES", 1)
    sink.comes = (1,)
    send(topic, last)

    host.turns(10)
    monkeypatch.setattr(beside, "ALONE_SECONDS", 600.0)
    host.settle()

    assert host.claimed.is_set()
    assert sink.files == {"a": DATA}
    assert host.told.of(FileDelivered)


class AwayAndSlow(MemorySink):
    """A sink that says each time that it is away, and only after the consumer was polled."""

    def __init__(self) -> None:
        super().__init__()
        self.polls, self.tries = threading.Semaphore(0), 0

    def publish(self, publications: object) -> dict[VersionKey, Exception]:  # type: ignore[override]
        self.tries += 1
        while self.polls.acquire(blocking=False):
            continue  # those before this try
        assert self.polls.acquire(timeout=60), "nobody polls meanwhile"
        raise StorageError("away")


def test_a_destination_that_takes_long_to_refuse_does_not_have_records_pile_up(
    topic: MemoryTopic, monkeypatch: pytest.MonkeyPatch
):
    """Each try is made beside the loop, which pauses and resumes: behind it reading stays paused."""
    monkeypatch.setattr(beside, "ALONE_SECONDS", 0.001)
    host = Host(topic)
    away = AwayAndSlow()
    host.sink = away  # type: ignore[assignment]
    host.start()
    send(topic, *v2_records("a", DATA, 1))
    poll = host.consumer.poll

    def counted(seconds: float) -> object:
        away.polls.release()
        host.consumer.polls = 0  # it is polled as fast as can be
        if away.tries:
            send(topic, b"{}")
        if away.tries >= 20:
            host.control.stop("asked to")
        return poll(seconds)

    host.consumer.poll = counted  # type: ignore[method-assign, assignment]
    with pytest.raises(StorageError, match="away"):
        host.flow.run()

    assert away.tries >= 20
    assert len(host.flow._until_stored.read_meanwhile) <= 1


def test_a_1x_file_of_which_more_comes_while_another_has_a_part_of_it_keeps_what_it_has(topic: MemoryTopic):
    """Its chunks lie in both partitions; one of them is elsewhere for a while, and comes back."""
    one = Host(topic)
    first, second, last = v1_records("big", DATA, mtime_ns=5)
    send(topic, first, partition=0)
    one.settle()
    one.flow._barrier(wait=True)
    one.consumer.revoke([0, 1])
    one.consumer.assign([1])
    one.turns(5)
    two = Host(topic, partitions=(0,))
    two.settle()
    two.flow._barrier(wait=True)
    send(topic, second, partition=1)
    one.settle()
    one.flow._barrier(wait=True)
    two.consumer.revoke([0])
    two.turns(3)
    one.consumer.revoke([1])
    one.consumer.assign([0, 1])
    one.settle()

    send(topic, last, partition=1)
    one.settle()

    assert one.sink.files == {"big": DATA}
    assert one.told.of(Quarantined) == []
