"""The upload flow on fakes: one promise each. Time moves only when the flow waits."""

from __future__ import annotations

from typing import Any

import pytest

from openmsistream.adapters.memory import START_NS, MemoryProducer
from openmsistream.core.events import FileFailed, FileSent, FileSkipped, Note, ScanDone
from openmsistream.core.settle import Stat
from openmsistream.core.wire.recognise import decode_record
from openmsistream.errors import UnavailableError
from openmsistream.pipeline.frames import Wire
from openmsistream.pipeline.upload import upload_files
from tests.pipeline.laboratory import SENTENCE, KilledError, Lab, in_use, kill


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_a_file_is_sent_once_it_was_quiet_for_the_quiet_time(lab: Lab):
    """Not before, and soon after."""
    lab.clock.at(5.0, lambda: lab.folder.write("a", SENTENCE))

    lab.run(20.0)

    assert lab.versions == {"a": [SENTENCE]}
    sent_at_s = (lab.topic.records()[0].timestamp_ms - START_NS // 10**6) / 1000
    assert 8.0 <= sent_at_s < 9.0
    assert [event.path for event in lab.told.of(FileSent)] == ["a"]


def test_a_file_that_keeps_changing_waits_until_it_is_quiet(lab: Lab):
    """Each change starts the quiet time anew; one version is sent, the last."""
    for at, length in ((5.0, 5), (7.0, 12), (9.5, 25)):
        lab.clock.at(at, lambda length=length: lab.folder.write("a", SENTENCE[:length]))  # type: ignore[misc]

    lab.run(20.0)

    assert lab.versions == {"a": [SENTENCE]}
    assert (lab.topic.records()[0].timestamp_ms - START_NS // 10**6) / 1000 >= 12.5


def test_a_folder_without_hints_is_found_by_scans(lab: Lab):
    """A network share tells nothing; scans find new and changed files all the same."""
    lab.folder.silent = True
    lab.clock.at(2.0, lambda: lab.folder.write("run 1/a", b"one"))
    lab.clock.at(21.0, lambda: lab.folder.write("run 1/a", b"two"))

    lab.run(45.0)

    assert lab.versions == {"run 1/a": [b"one", b"two"]}


def test_a_file_that_vanishes_while_it_waits_is_forgotten(lab: Lab):
    """No error: it was not ours to keep."""
    lab.clock.at(5.0, lambda: lab.folder.write("a", SENTENCE))
    lab.clock.at(6.0, lambda: lab.folder.remove("a"))

    lab.run(20.0)

    assert lab.topic.records() == []
    assert not lab.told.of(FileFailed)


def test_the_first_start_records_what_is_there_and_sends_only_what_comes(lab: Lab):
    """Without --upload_existing, old files stay where they are, until they change."""
    lab.folder.write("old", b"old")
    lab.folder.write("older", b"older")
    lab.clock.at(8.0, lambda: lab.folder.write("new", b"new"))
    lab.clock.at(9.0, lambda: lab.folder.write("old", b"changed"))

    lab.run(30.0, existing=False)

    assert lab.versions == {"new": [b"new"], "old": [b"changed"]}
    assert [event.recorded_only for event in lab.told.of(ScanDone)] == [2]


def test_a_file_written_while_the_first_scan_runs_is_sent(lab: Lab):
    """It is news, although the scan already finds it there."""
    lab.folder.write("old", b"old")
    start = lab.folder.start

    def start_and_write() -> None:
        start()
        lab.folder.write("new", b"new")

    lab.folder.start = start_and_write  # type: ignore[method-assign]
    lab.run(10.0, existing=False)

    assert lab.versions == {"new": [b"new"]}


def test_what_another_program_sent_is_not_sent_again_for_a_hint_while_the_first_scan_runs(lab: Lab):
    """As when its rights are changed, or a share's clock is ahead; what changed since it was sent is sent."""
    start = lab.folder.start

    def start_and_write() -> None:
        start()
        lab.folder.write("same", b"same", mtime_ns=1)
        lab.folder.write("changed", b"changed", mtime_ns=3)

    lab.folder.start = start_and_write  # type: ignore[method-assign]
    lab.run(10.0, existing=False, sent_before={"same": 2, "changed": 2}.get)

    assert lab.versions == {"changed": [b"changed"]}


def test_a_file_that_the_first_scan_itself_finds_to_be_new_is_sent(lab: Lab):
    """Its hint comes with the listing that has it, in the scan's last slice: the first start is not over before."""
    lab.folder.write("old", b"old")
    scan = lab.folder.scan

    def write_and_scan(folder: str = "") -> Any:
        lab.folder.write("new", b"new")
        lab.folder.scan = scan  # type: ignore[method-assign]
        yield from scan(folder)

    lab.folder.scan = write_and_scan  # type: ignore[method-assign]
    lab.run(10.0, existing=False)

    assert lab.versions == {"new": [b"new"]}


def test_a_kill_during_the_first_start_does_not_turn_old_files_into_new_ones(lab: Lab):
    """The first start is over when its scan is durable."""
    lab.folder.write("old", b"old")
    lab.folder.unreadable.add("")
    lab.run(2.0, existing=False)
    lab.kill()
    lab.folder.unreadable.clear()

    lab.run(20.0, existing=False)

    assert lab.topic.records() == []


def test_a_touched_file_is_not_sent_again(lab: Lab):
    """A new mtime with the same content costs a read, no record."""
    lab.folder.write("a", SENTENCE)
    lab.clock.at(10.0, lambda: lab.folder.touch("a"))

    lab.run(30.0)

    assert lab.versions == {"a": [SENTENCE]}
    assert [event.path for event in lab.told.of(FileSkipped)] == ["a"]


def test_nothing_is_sent_again_after_a_restart(lab: Lab):
    """The ledger knows every version that was acknowledged."""
    for number in range(20):
        lab.folder.write(f"run/{number}", SENTENCE)
    lab.run(20.0)
    before = len(lab.topic.records())

    lab.kill()
    lab.folder.write("run/3", b"changed while it was off")
    lab.run(20.0)

    assert len(lab.topic.records()) == before + 6
    assert lab.versions["run/3"] == [SENTENCE, b"changed while it was off"]


def test_a_kill_in_the_middle_goes_on_at_the_acknowledged_chunk_with_the_same_id(lab: Lab):
    """No chunk below the last progress in the ledger is sent twice."""
    in_use(lab).folder.write("a", SENTENCE)
    lab.producer.answers_per_poll = 1
    take = lab.producer.poll

    def poll(seconds: float) -> int:
        """Three records arrive; then the broker is silent."""
        lab.producer.stalled = len(lab.topic.records()) == 3
        return take(seconds)

    lab.producer.poll = poll  # type: ignore[method-assign]
    lab.clock.at(10.0, kill)
    with pytest.raises(KilledError):
        lab.run(30.0)
    assert len(lab.chunks) == 3
    lab.kill()
    lab.run(20.0)

    assert lab.versions == {"a": [SENTENCE]}
    assert len({chunk.version for chunk in lab.chunks}) == 1
    assert [chunk.index for chunk in lab.chunks] == [0, 1, 2, 3, 4, 5, 6]


def interrupted(lab: Lab) -> Lab:
    """A laboratory whose program was stopped after 3 of the 7 chunks of ``a``."""
    in_use(lab).folder.write("a", SENTENCE)
    lab.producer.fail_next(UnavailableError("no answer"), records=99)
    lab.producer._failures.extendleft([(None, True)] * 3)  # type: ignore[list-item]
    lab.run(4.0)
    lab.kill()
    assert len(lab.chunks) == 3
    return lab


def test_a_file_whose_beginning_changed_while_off_is_aborted_and_sent_as_a_new_version(lab: Lab):
    """The same size and mtime do not make it the same: the prefix is hashed again."""
    interrupted(lab)
    stat = lab.folder.stat("a")
    assert stat is not None
    lab.folder.write("a", SENTENCE.swapcase(), mtime_ns=stat.mtime_ns)

    lab.run(60.0)

    old, new = dict.fromkeys(chunk.version for chunk in lab.chunks)
    assert [chunk.version for chunk in lab.chunks if chunk.abort] == [old]
    assert lab.versions == {"a": [SENTENCE.swapcase()]}
    assert new != old


def test_a_file_that_was_removed_while_off_is_aborted(lab: Lab):
    """Consumers are told to discard what they have of it."""
    interrupted(lab).folder.remove("a")

    lab.run(20.0)

    assert [chunk.abort is not None for chunk in lab.chunks] == [False, False, False, True]
    assert lab.versions == {}


@pytest.mark.parametrize("arrives", [True, False])
def test_a_version_that_was_given_up_is_never_gone_on_with_and_consumers_hear_of_it(lab: Lab, arrives: bool):
    """Also when the program is killed before it knows that they did, and the same file is put back."""
    interrupted(lab)
    stat = lab.folder.stat("a")
    assert stat is not None
    lab.folder.remove("a")
    lab.producer.fail_next(UnavailableError("no answer"), arrives=arrives)
    lab.run(20.0)
    lab.kill()
    lab.folder.write("a", SENTENCE, mtime_ns=stat.mtime_ns)

    lab.run(60.0)

    old = lab.chunks[0].version
    assert [chunk.abort is None for chunk in lab.chunks if chunk.version == old][:4] == [True, True, True, False]
    assert lab.versions == {"a": [SENTENCE]}
    assert lab.ledger.open_versions() == []


def test_a_version_whose_first_chunk_left_the_topic_is_sent_anew(lab: Lab):
    """Going on would be useless: nobody who comes later could put it together."""
    interrupted(lab).topic.delete_before(0, 1)

    lab.run(20.0)

    assert lab.versions == {"a": [SENTENCE]}
    assert lab.told.of(Note)


def test_a_delivery_failure_is_reported_and_goes_on_where_it_was_acknowledged(lab: Lab):
    """The file is whole in the end, with one id, and the ledger says so."""
    in_use(lab).folder.write("a", SENTENCE)
    lab.producer.fail_next(UnavailableError("no answer"), arrives=True)

    lab.run(40.0)

    assert [event.retry for event in lab.told.of(FileFailed)] == [True]
    assert SENTENCE in lab.versions["a"]
    known = lab.ledger.known("a")
    assert known is not None
    assert known.sent


def test_a_lost_acknowledgement_in_the_middle_costs_repeated_chunks_only(lab: Lab):
    """Chunks behind the lost one are sent again under the same id."""
    in_use(lab).folder.write("a", SENTENCE)
    lab.producer._failures.extend([(None, True)] * 2)  # type: ignore[list-item]
    lab.producer.fail_next(UnavailableError("no answer"), arrives=True)

    lab.run(40.0)

    assert len({chunk.version for chunk in lab.chunks}) == 1
    assert SENTENCE in lab.versions["a"]
    assert sorted({chunk.index for chunk in lab.chunks}) == list(range(7))


def test_a_file_that_cannot_be_read_is_reported_and_tried_again(lab: Lab):
    """Other files are not held up by it."""
    in_use(lab).folder.write("locked", SENTENCE)
    lab.folder.write("free", b"free")
    lab.folder.unreadable.add("locked")
    lab.clock.at(lab.clock.monotonic() + 12.0, lab.folder.unreadable.clear)

    lab.run(60.0)

    assert lab.versions == {"locked": [SENTENCE], "free": [b"free"]}
    assert lab.told.of(FileFailed)[0].path == "locked"


def test_a_file_that_changes_while_it_is_sent_is_aborted_and_sent_anew(lab: Lab):
    """A version never mixes two contents."""
    in_use(lab).folder.write("a", SENTENCE)
    produce = lab.producer.produce

    def produce_and_write(partition: int, key: bytes, value: Any, acknowledge: Any) -> bool:
        lab.producer.produce = produce  # type: ignore[method-assign]
        lab.folder.write("a", SENTENCE.upper())
        return produce(partition, key, value, acknowledge)

    lab.producer.produce = produce_and_write  # type: ignore[method-assign]
    lab.run(60.0)

    assert lab.versions == {"a": [SENTENCE.upper()]}
    assert any(chunk.abort for chunk in lab.chunks)


def test_the_ledger_says_sent_only_after_the_last_acknowledgement(lab: Lab):
    """While the broker is silent, nothing counts as sent."""
    in_use(lab).folder.write("a", SENTENCE)
    lab.producer.stalled = True

    lab.run(20.0)

    assert lab.ledger.known("a") is None
    assert not lab.told.of(FileSent)
    assert [parked.path for parked in lab.ledger.open_versions()] == ["a"]


def test_a_full_queue_holds_sending_up_and_loses_nothing(lab: Lab):
    """Memory is bounded by the producer's queue."""
    lab.producer = MemoryProducer(lab.topic, queue_bytes=600, clock=lab.clock)
    lab.sender._producer = lab.producer
    for number in range(10):
        lab.folder.write(f"{number}", SENTENCE)

    lab.run(20.0)

    assert lab.versions == {f"{number}": [SENTENCE] for number in range(10)}


def test_chunks_of_a_file_are_in_order_in_one_partition():
    """Consumers need no more than one open file of a path."""
    lab = Lab(partitions=4)
    for number in range(12):
        lab.folder.write(f"{number}", SENTENCE)

    lab.run(20.0)

    for number in range(12):
        mine = [r for r in lab.topic.records() if r.key == f"{number}".encode()]
        assert len({record.partition for record in mine}) == 1
        assert [decode_record(record.value).index for record in mine] == list(range(7))
    assert len({record.partition for record in lab.topic.records()}) > 1


@pytest.mark.parametrize("wire", [Wire.V1_9, Wire.V1_10])
def test_v1_is_written_in_the_form_of_1x(wire: Wire):
    """Every chunk has the digest of the whole file, and a key of 1.x."""
    lab = Lab(wire=wire)
    lab.folder.write("run/a", SENTENCE)
    lab.folder.write("empty", b"")

    lab.run(20.0)

    assert lab.versions == {"run/a": [SENTENCE], "empty": [b""]}
    assert b"run_a_chunk_1_of_7" in [record.key for record in lab.topic.records()]


def test_files_that_are_not_selected_stay_behind_with_the_reason(lab: Lab):
    """A skipped file is an event."""
    lab.folder.write("a.csv", b"a")
    lab.folder.write(".hidden", b"h")

    lab.run(20.0)

    assert lab.versions == {"a.csv": [b"a"]}
    assert [event.path for event in lab.told.of(FileSkipped)] == [".hidden"]


def test_given_files_are_sent_once_and_the_program_ends(lab: Lab):
    """``upload_files`` returns when everything was acknowledged."""
    lab.folder.write("a", SENTENCE)
    stat = lab.folder.stat("a")
    assert stat is not None

    totals = upload_files([("a", stat)], lab.sender, lab.clock, lab.told, lab.control)

    assert (totals.files, totals.total_bytes, totals.failed) == (1, len(SENTENCE), 0)
    assert lab.versions == {"a": [SENTENCE]}


def test_a_given_file_that_changed_before_it_was_opened_is_an_error_and_ends_the_program(lab: Lab):
    """What was looked at is not what is there: neither sent nor silently left out, nor waited for."""
    lab.folder.write("a", SENTENCE)
    lab.sender.retries._tries = 1

    totals = upload_files([("a", Stat(1, 1))], lab.sender, lab.clock, lab.told, lab.control)

    assert totals.files == 0
    assert totals.failed == len(lab.sender.retries.errors) == len(lab.told.of(FileFailed)) == 1
