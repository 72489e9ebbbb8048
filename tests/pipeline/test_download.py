"""The download flow on fakes: one promise each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3

from openmsistream.adapters.memory import MemoryConsumer, MemoryTopic
from openmsistream.core.events import FileDelivered, FileSuperseded, Gap, Quarantined, StorageBack, StoragePaused
from openmsistream.core.selection import Selection
from openmsistream.errors import BytesLostError, StorageError, UnavailableError
from openmsistream.ports import Record
from tests.pipeline.hosts import SETTINGS, Host
from tests.pipeline.material import v1_records, v2_abort, v2_key, v2_records

DATA = b"0123456789"


def send(topic: MemoryTopic, *values: bytes | None, partition: int = 0) -> None:
    for value in values:
        topic.append(value, partition=partition)


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic()


def test_a_barrier_syncs_then_publishes_then_writes_the_ledger_then_commits(topic: MemoryTopic):
    """The order that makes every kill harmless."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))

    host.settle()

    assert [step for step in host.bomb.trace if step != "write"][:4] == ["sync", "publish", "ledger", "commit"]
    assert host.sink.files == {"a": DATA}


def test_a_file_is_invisible_until_it_is_whole(topic: MemoryTopic):
    """A version of which one chunk is missing shows nothing, and holds the commit at its first record."""
    host = Host(topic)
    send(topic, *v2_records("before", b"x", 1), *v2_records("a", DATA, 2)[:-1])

    host.settle()

    assert host.sink.files == {"before": b"x"}
    assert host.committed() == 1
    assert host.ledger.position(0) == 3


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_restart_goes_on_in_the_middle_of_a_file(topic: MemoryTopic, power_cut: bool):
    """What a barrier made safe is not read again."""
    host = Host(topic)
    first, second, last = v2_records("a", DATA, 1)
    send(topic, first, second)
    host.settle()

    host.kill(power_cut=power_cut)
    send(topic, last)
    host.settle()

    assert host.sink.files == {"a": DATA}
    assert host.bomb.trace.count("write") == 3


def test_hostile_records_are_quarantined_and_the_rest_goes_on(topic: MemoryTopic):
    """One bad record never blocks a partition."""
    host = Host(topic)
    good = v2_records("good", DATA, 1)
    bad = [None, b"", b"OMS2", b"\x9a junk", v2_records("../up", b"x", 2)[0], v2_records("/etc/x", b"x", 3)[0]]
    send(topic, good[0], *bad, *good[1:])

    host.settle()

    assert host.sink.files == {"good": DATA}
    assert [record.value for _, record, _ in host.sink.quarantined] == bad
    assert [event.offset for event in host.told.of(Quarantined)] == [1, 2, 3, 4, 5, 6]
    assert host.committed() == 9


def test_a_version_whose_bytes_do_not_have_its_digest_is_quarantined(topic: MemoryTopic):
    """What was falsified on the way never becomes visible."""
    host = Host(topic)
    good, bad = v2_records("a", b"AAAABBBB", 1), v2_records("a", b"AAAAXXXX", 1)
    send(topic, bad[0], bad[1].replace(b"XXXX", b"YYYY"), *v2_records("b", b"b", 2))
    assert good != bad

    host.settle()

    assert host.sink.files == {"b": b"b"}
    assert [content for content, _ in host.sink.aside.values()] == [b"AAAAYYYY"]
    (failure,) = host.sink.failures.values()
    assert (failure.topic, failure.partition, failure.offset, failure.path) == ("topic", 0, 1, "a")
    assert failure.expected == blake3(b"AAAAXXXX").digest()
    assert failure.found == blake3(b"AAAAYYYY").digest()
    assert host.committed() == 3


def test_a_file_that_the_disk_gave_back_wrong_is_read_from_the_topic_again(topic: MemoryTopic):
    """A disk that loses bytes without a word, as in a power cut, is not its sender's fault: nothing is quarantined."""
    host = Host(topic)
    first, second, last = v2_records("a", DATA, 1)
    send(topic, first, second)
    host.settle()
    host.sink._synced.clear()  # its disk said that they were safe
    host.kill(power_cut=True)
    send(topic, last, *v2_records("b", b"b", 2))

    with pytest.raises(BytesLostError, match="does not have its hash"):
        host.settle()
    host.start()
    host.settle()

    assert host.sink.files == {"a": DATA, "b": b"b"}
    assert host.told.of(Quarantined) == []
    assert host.committed() == 4


def test_a_full_disk_pauses_reading_and_goes_on_by_itself(topic: MemoryTopic):
    """Nothing is lost or quarantined because there was no room."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.sink.full = True
    host.clock.at(20.0, lambda: setattr(host.sink, "full", False))

    host.settle()

    assert host.sink.files == {"a": DATA}
    assert len(host.told.of(StoragePaused)) == len(host.told.of(StorageBack)) == 1
    assert not host.sink.quarantined


def test_a_program_asked_to_stop_while_the_disk_is_full_ends_with_an_error_and_commits_nothing(topic: MemoryTopic):
    """What was not delivered is read again at the next start."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.sink.full = True
    host.clock.at(20.0, lambda: host.control.stop("asked to"))

    with pytest.raises(StorageError):
        host.flow.run()
    host.kill()
    host.settle()

    assert host.sink.files == {"a": DATA}


def test_a_partition_that_goes_away_while_the_disk_is_full_is_read_again_when_it_is_back(topic: MemoryTopic):
    """Bytes that were announced to the assembly and never written are not taken for written."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.sink.full = True
    host.clock.at(5.0, lambda: host.consumer.revoke([0]))
    host.clock.at(9.0, lambda: host.consumer.assign([0]))
    host.clock.at(20.0, lambda: setattr(host.sink, "full", False))

    host.settle()
    host.clock.move(10.0)
    host.settle()

    assert host.sink.files == {"a": DATA}
    assert not host.told.of(Quarantined)


@pytest.mark.parametrize("lost", [False, True])
def test_an_open_version_survives_its_partition_going_and_coming_back_with_barriers_between(lost: bool):
    """A barrier of the partitions that stayed forgets nothing of the one that went."""
    topic = MemoryTopic(2)
    host = Host(topic)
    first, second, last = v2_records("a", DATA, 1)
    send(topic, first, second, partition=1)
    host.settle()
    host.consumer.revoke([1], lost=lost)
    host.turns(1)
    send(topic, *v2_records("other", b"x", 2), partition=0)
    host.settle()
    send(topic, last, partition=1)

    host.consumer.assign([1])
    host.settle()

    assert host.sink.files == {"a": DATA, "other": b"x"}


def test_bytes_that_are_lost_while_a_partition_goes_are_not_believed_in_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
):
    """Who syncs once more is told that all is well: nothing is delivered before it was read again."""
    topic = MemoryTopic(2)
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1)[:2], partition=0)
    send(topic, *v2_records("b", DATA, 2)[:2], partition=1)
    host.settle()
    send(topic, v2_records("a", DATA, 1)[2], partition=0)
    send(topic, v2_records("b", DATA, 2)[2], partition=1)

    def refuse(_: object) -> None:
        monkeypatch.undo()
        raise BytesLostError("the disk did not take it", [])

    host.turns(2)
    monkeypatch.setattr(host.sink, "sync", refuse)
    host.consumer.revoke([1])
    with pytest.raises(BytesLostError):
        host.settle()
    assert host.sink.files == {}

    host.kill()
    host.settle()
    assert host.sink.files == {"a": DATA, "b": DATA}


def test_a_newer_version_supersedes_an_older_one_that_is_still_open(topic: MemoryTopic):
    """What will never be wanted again holds neither bytes nor the commit."""
    host = Host(topic)
    send(topic, *v2_records("a", b"old and long", 1)[:2], *v2_records("a", b"new", 2))

    host.settle()

    assert host.sink.files == {"a": b"new"}
    assert host.flow.open_versions == 0
    assert host.committed() == 3
    assert len(host.told.of(FileSuperseded)) == 1


@pytest.mark.parametrize("keep_others", [False, True])
def test_an_older_file_of_another_uploader_that_is_whole_later_is_kept_where_nothing_is_overwritten(keep_others: bool):
    """Also one that was open when the newer one became whole; what is one uploader's own is superseded as ever."""
    topic = MemoryTopic()
    host = Host(topic, settings=replace(SETTINGS, keep_others=keep_others))
    other, mine = v2_records("a", DATA, 1, src=b"T" * 16), v2_records("a", b"old and long", 1)
    send(topic, *other[:2], *mine[:2], *v2_records("a", b"new", 2), *other[2:], *mine[2:])
    host.settle()

    assert host.delivered == [v2_key("a", 2), *([v2_key("a", 1, src=b"T" * 16)] if keep_others else [])]
    assert host.flow.open_versions == 0


def test_an_older_version_that_comes_late_does_not_replace_a_newer_one(topic: MemoryTopic):
    """Newer means the greater generation, whatever comes first."""
    host = Host(topic)
    send(topic, *v2_records("a", b"new", 2), *v2_records("a", b"old", 1))

    host.settle()

    assert host.sink.files == {"a": b"new"}
    assert host.delivered == [v2_key("a", 2)]


def test_the_same_content_is_not_written_again(topic: MemoryTopic):
    """A file sent twice, e.g. because a ledger was lost, costs no second write of the final file."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    send(topic, *v2_records("a", DATA, 2))
    host.settle()

    assert host.delivered == [v2_key("a", 1)]
    assert host.ledger.is_finished(v2_key("a", 2))


def test_content_that_was_removed_from_the_folder_is_written_when_it_is_sent_again(topic: MemoryTopic):
    """Equal content is only skipped while it stands there."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    del host.sink.files["a"]
    send(topic, *v2_records("a", DATA, 2))
    host.settle()

    assert host.sink.files == {"a": DATA}


def test_an_older_version_does_not_come_back_over_the_same_content_sent_again(topic: MemoryTopic):
    """A version that was not written because its content stood there is still the newest."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    send(topic, *v2_records("a", DATA, 3), *v2_records("a", b"between", 2))
    host.settle()

    assert host.sink.files == {"a": DATA}


def test_an_aborted_version_leaves_nothing_and_releases_the_commit(topic: MemoryTopic):
    """Its sender gave it up: no partial, no open version."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1)[:2], v2_abort("a", 1), *v2_records("b", b"b", 2))

    host.settle()

    assert host.sink.files == {"b": b"b"}
    assert host.flow.open_versions == 0
    assert host.committed() == 4


@pytest.mark.parametrize("together", [True, False])
def test_v1_content_that_comes_back_after_another_is_delivered_again(topic: MemoryTopic, together: bool):
    """A, B, and A again: the last one stands there in the end, in one barrier or in three."""
    host = Host(topic)
    for data, mtime_s in ((b"AAAAAA", 1), (b"BBBBBB", 2), (b"AAAAAA", 3)):
        send(topic, *v1_records("a", data, mtime_ns=mtime_s * 10**9))
        if not together:
            host.settle()

    host.settle()

    assert host.sink.files == {"a": b"AAAAAA"}
    assert len(host.told.of(FileDelivered)) == 3
    assert host.flow.open_versions == 0


def test_v1_chunks_of_an_older_version_that_come_late_are_left_alone(topic: MemoryTopic):
    """A 1.x uploader that is restarted may send old chunks again; they open nothing."""
    host = Host(topic)
    old = v1_records("a", b"AAAAAA", mtime_ns=10**9)
    send(topic, *old, *v1_records("a", b"BBBBBB", mtime_ns=2 * 10**9), old[0])

    host.settle()

    assert host.sink.files == {"a": b"BBBBBB"}
    assert host.flow.open_versions == 0


def test_both_formats_and_several_files_are_put_together_in_one_topic(topic: MemoryTopic):
    """Interleaved records of v1 and v2 need no setting."""
    host = Host(topic)
    ones, twos = v1_records("one", b"1" * 9, mtime_ns=10**9), v2_records("two", b"2" * 9, 1)
    for pair in zip(ones, twos, strict=True):
        send(topic, *pair)

    host.settle()

    assert host.sink.files == {"one": b"1" * 9, "two": b"2" * 9}


def test_only_selected_paths_are_delivered(topic: MemoryTopic):
    """The regular expression decides; what is left out holds no commit."""
    host = Host(topic, selection=Selection.for_download(r".*\.csv"))
    send(topic, *v2_records("a.csv", b"a", 1), *v2_records("b.txt", DATA, 2)[:2])

    host.settle()

    assert host.sink.files == {"a.csv": b"a"}
    assert host.committed() == 3


def test_an_empty_file_is_delivered(topic: MemoryTopic):
    """One empty chunk is a whole file."""
    host = Host(topic)
    send(topic, *v2_records("empty", b"", 1), *v1_records("old empty", b"", mtime_ns=None))

    host.settle()

    assert host.sink.files == {"empty": b"", "old empty": b""}


def test_a_path_that_cannot_be_had_fails_alone(topic: MemoryTopic):
    """A file where a folder should be: this version goes to quarantine, the others of its barrier are delivered."""
    host = Host(topic)
    send(topic, *v2_records("a", b"a", 1))
    host.settle()
    send(topic, *v2_records("a/b", b"b", 2), *v2_records("c", b"c", 3))
    host.settle()

    assert host.sink.files == {"a": b"a", "c": b"c"}
    assert [content for content, _ in host.sink.aside.values()] == [b"b"]
    (failure,) = host.sink.failures.values()
    assert (failure.partition, failure.offset, failure.path) == (0, 1, "a/b")
    assert failure.expected == failure.found == blake3(b"b").digest()
    assert host.committed() == 3


def test_a_kill_between_names_and_ledger_does_not_bring_an_older_version_back(topic: MemoryTopic):
    """Two versions of a path in one barrier: the newer one is what stands there after the restart, too."""
    host = Host(topic)
    send(topic, *v2_records("a", b"old", 1), *v2_records("a", b"new", 2))
    host.bomb.step, host.bomb.after = "publish", True

    host.settle()

    assert host.kills == 1
    assert host.sink.files == {"a": b"new"}


def test_a_power_cut_while_a_published_file_is_read_again_quarantines_nothing(topic: MemoryTopic):
    """The ledger never believes in bytes of a partial file that was begun anew and not synced."""
    host = Host(topic)
    first, *rest = v2_records("a", DATA, 1)
    send(topic, first)
    host.settle()  # the ledger has the first chunk
    send(topic, *rest)
    host.turns(2)
    host.bomb.step, host.bomb.after = "ledger", False
    host.turns(1)
    assert (host.kills, host.sink.files) == (1, {"a": DATA})
    host.turns(1)  # begins to read the file again

    host.kill(power_cut=True)
    host.settle()

    assert host.sink.files == {"a": DATA}
    assert not host.told.of(Quarantined)


def test_offsets_that_cannot_be_committed_are_committed_later(topic: MemoryTopic):
    """A broker that does not answer a commit stops nothing."""
    host = Host(topic)
    host.consumer.commit_failing = UnavailableError("no answer")
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    assert host.sink.files == {"a": DATA}

    host.consumer.commit_failing = None
    send(topic, *v2_records("b", DATA, 2))
    host.settle()

    assert host.committed() == 6


def test_records_that_were_removed_before_they_were_read_are_reported(topic: MemoryTopic):
    """Retention was faster: the user is told which offsets are missing."""
    host = Host(topic)
    send(topic, *v2_records("a", b"a", 1))
    host.settle()
    send(topic, *v2_records("b", b"b", 2), *v2_records("c", b"c", 3))
    topic.delete_before(0, 2)

    host.kill()
    host.settle()

    assert [(gap.first, gap.last) for gap in host.told.of(Gap)] == [(1, 1)]
    assert host.sink.files == {"a": b"a", "c": b"c"}


def test_a_new_group_does_not_read_everything_again(topic: MemoryTopic):
    """The ledger belongs to the destination, whatever the group is called."""
    host = Host(topic)
    send(topic, *v2_records("a", DATA, 1))
    host.settle()
    topic.committed.clear()

    host.kill()
    host.settle()

    assert host.flow.totals.records == 0


class SlowConsumer(MemoryConsumer):
    """A consumer whose broker sends nothing until a time."""

    sends_from_seconds = 0.0

    def poll(self, seconds: float) -> Record | None:
        assert self._clock is not None
        if self._clock.monotonic() >= self.sends_from_seconds or self._changes:
            return super().poll(seconds)
        self._clock.wait(seconds)
        return None


def test_a_slow_broker_is_no_reason_to_end_before_the_topic_was_read(topic: MemoryTopic):
    """A program that is to end when nothing arrives first reads what is there."""
    host = Host(topic, settings=replace(SETTINGS, until_idle_seconds=2.0))
    send(topic, *v2_records("a", DATA, 1))
    slow = SlowConsumer(topic, clock=host.clock)
    slow.sends_from_seconds = began = host.clock.monotonic() + 60.0
    host.flow._consumer = slow  # type: ignore[assignment]

    totals = host.flow.run()

    assert (totals.files, host.sink.files) == (1, {"a": DATA})
    assert 2.0 <= host.clock.monotonic() - began < 5.0
