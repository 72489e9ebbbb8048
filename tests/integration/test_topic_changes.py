"""Topics that are made again, offsets that are reset and records that are removed under a real downloader."""

from __future__ import annotations

import shutil
import signal
import sys
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from openmsistream.core.paths import WORK_FOLDER
from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic
from tests.faults.records import committed, produce, raw_records
from tests.faults.support import PATIENCE_SECONDS, Place, Program, eventually, fill, tree

GROUP = "archive"

pytestmark = pytest.mark.broker


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker) -> Place:
    made = Place(tmp_path, broker.bootstrap, f"changes-{uuid.uuid4().hex[:12]}")
    made.configure(consumer=f"group.id = {GROUP}-{made.topic}")
    create_topic(broker.bootstrap, made.topic)
    return made


def send(place: Place, *names: str) -> None:
    """Send files of these names, each with content of its own, by an uploader that knows nothing yet."""
    shutil.rmtree(place.base / "state", ignore_errors=True)
    fill(place.watched, {name: 1000 + len(name) for name in names}, seed=hash(names) & 0xFFFF)
    place.send("--upload-existing")


def delete_topic(place: Place) -> None:
    admin = AdminClient({"bootstrap.servers": place.bootstrap})
    admin.delete_topics([place.topic])[place.topic].result(PATIENCE_SECONDS)
    eventually(lambda: place.topic not in admin.list_topics(timeout=PATIENCE_SECONDS).topics, "the topic is gone")


def make_again(place: Place) -> None:
    eventually(lambda: create_topic(place.bootstrap, place.topic), "the topic is made again")


def notes(program: Program, text: str) -> list[str]:
    return [event["text"] for event in program.of("note") if text in event["text"]]


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_file()}


def set_offset(place: Place, offset: int) -> None:
    """What kafka-consumer-groups --reset-offsets does."""
    group = f"{GROUP}-{place.topic}"
    client = Consumer({"bootstrap.servers": place.bootstrap, "group.id": group, "log_level": 0})
    try:
        client.commit(offsets=[TopicPartition(place.topic, 0, offset)], asynchronous=False)
    finally:
        client.close()


def test_a_topic_that_is_made_again_while_it_is_read_is_read_from_its_beginning(place: Place) -> None:
    """Kafka's client goes on at the old offset and leaves out what stands before it; the downloader notices."""
    send(place, "a", "b", "c")
    with place.download() as receiver:
        receiver.until_event("file_delivered", count=3)
        before = tree(place.watched)
        for name in ("a", "b", "c"):
            (place.watched / name).unlink()
        receiver.signal(signal.SIGSTOP)  # else it sees the empty topic, and begins anew by itself
        delete_topic(place)
        make_again(place)
        send(place, "d", "e", "f", "g", "h")
        receiver.signal(signal.SIGCONT)
        receiver.until(lambda: tree(place.output) == {**before, **tree(place.watched)}, "all files are there")
        assert len(notes(receiver, "deleted and made again")) == 1
        assert receiver.quit() == 0
    delivered = receiver.paths("file_delivered")

    assert sorted(delivered) == ["a", "b", "c", "d", "e", "f", "g", "h"], "each once"
    assert receiver.of("program_stopped", files=8) != []


def test_a_topic_that_is_made_again_while_nobody_reads_is_read_from_its_beginning(place: Place) -> None:
    """Its id is another one; what stands there already is recognised."""
    send(place, "a", "b", "c")
    place.fetch()
    before = inodes(place.output)
    delete_topic(place)
    make_again(place)
    send(place, "d")  # and the three others again

    again = place.fetch()

    assert tree(place.watched) == tree(place.output)
    assert again.paths("file_delivered") == ["d"]
    assert before.items() <= inodes(place.output).items()
    assert len(notes(again, "deleted and made again")) == 1


def test_offsets_that_are_set_back_are_read_again_and_no_file_is_written_again(place: Place) -> None:
    """It is told from where to where."""
    send(place, "a", "b", "c")
    place.fetch()
    before = inodes(place.output)
    set_offset(place, 0)

    again = place.fetch()

    assert again.paths("file_delivered") == []
    assert inodes(place.output) == before
    assert "from 3 to 0" in notes(again, "offset was set back")[0]
    assert committed(place.bootstrap, place.topic, f"{GROUP}-{place.topic}") == {0: 3}


def test_offsets_that_are_set_forward_are_told_with_numbers(place: Place) -> None:
    """Nobody is left to find out later that files are missing."""
    send(place, "a")
    place.fetch()
    send(place, "b", "c")  # and a again: offsets 1 to 3
    set_offset(place, 3)

    again = place.fetch()

    assert "records 1 to 2 are not read here" in notes(again, "offset was set forward")[0]


@pytest.mark.parametrize("running", [True, False])
def test_records_that_were_removed_before_they_were_read_are_told_with_the_files_that_suffer(
    place: Place, running: bool
) -> None:
    """Retention was faster: the gap has its numbers, and the open file its name."""
    other = Place(place.base / "other", place.bootstrap, place.topic + "-other")
    create_topic(place.bootstrap, other.topic)
    fill(other.watched, {"big.bin": 400_000})
    other.send("--chunk-size", 65_536)
    records = [(message.key(), message.value()) for message in raw_records(other.bootstrap, other.topic)]
    produce(place.bootstrap, place.topic, records[:2])
    with place.download() as receiver:
        receiver.until_event("file_started")
        group = f"{GROUP}-{place.topic}"
        receiver.until(lambda: committed(place.bootstrap, place.topic, group) == {0: 0}, "it committed")
        if not running:
            assert receiver.quit() == 3
        else:
            receiver.signal(signal.SIGSTOP)  # too slow for retention
        produce(place.bootstrap, place.topic, records[2:3])  # this one the broker may send at once
        produce(place.bootstrap, place.topic, records[3:])
        admin = AdminClient({"bootstrap.servers": place.bootstrap})
        where = TopicPartition(place.topic, 0, 5)
        admin.delete_records([where])[TopicPartition(place.topic, 0)].result(PATIENCE_SECONDS)
        if running:
            receiver.signal(signal.SIGCONT)
            gaps = [receiver.until_event("gap")]
        else:
            gaps = place.fetch().of("gap")

    (gap,) = gaps
    assert (gap["last"], gap["files"]) == (4, ["big.bin"])
    assert gap["first"] in ({2, 3} if running else {2})
    assert tree(place.output) == {}


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_lost_ledger_costs_no_file_a_second_writing(place: Place, protocol: str) -> None:
    """Files that stand there with the right hash are recognised; a new group reads the whole topic for that."""
    place.configure(consumer=f"group.protocol = {protocol}")
    send(place, "a", "b", "c")
    place.fetch("--consumer-group-id", "create_new")
    before = inodes(place.output)
    for ledger in (place.output / WORK_FOLDER).glob("download-*"):
        ledger.unlink()

    again = place.fetch("--consumer-group-id", "create_new")

    assert again.paths("file_delivered") == []
    assert len(again.of("file_superseded")) == 3
    assert inodes(place.output) == before


SLOW = (
    "import sys, time; from openmsistream.adapters.filesystem.sink import FolderSink as it; sync = it.sync\n"
    "def slow(self, keys):\n"
    "    time.sleep(9)\n"  # a disk that takes longer than max.poll.interval.ms
    "    sync(self, keys)\n"
    "it.sync = slow\n"
    "from openmsistream.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def test_a_disk_that_takes_longer_than_the_group_waits_does_not_cost_the_membership(place: Place) -> None:
    """The partitions stay, nothing is read twice, and the watermark is committed by the member that had them."""
    place.configure(
        consumer=f"group.id = {GROUP}-{place.topic}\nmax.poll.interval.ms = 6000\nsession.timeout.ms = 6000"
    )
    send(place, "a", "b", "c")
    words = ("download", place.output, "--config", place.config, "--topic-name", place.topic, "--json")
    with Program([sys.executable, "-c", SLOW, *map(str, words)]) as receiver:
        receiver.until_event("file_delivered", count=3)
        group = f"{GROUP}-{place.topic}"
        receiver.until(lambda: committed(place.bootstrap, place.topic, group) == {0: 3}, "it committed")
        assert receiver.quit() == 0
    (stopped,) = receiver.of("program_stopped")

    assert stopped["files"] == 3
    assert receiver.of("file_superseded") == [], "nothing was read a second time"


def test_a_broker_that_takes_no_notes_with_a_commit_gets_the_offset_alone(tmp_path: Path) -> None:
    """It is told once what that means; nothing is lost, and the same host doubles nothing."""
    broker = LocalBroker.start(tmp_path / "broker", settings={"offset.metadata.max.bytes": "20"})
    try:
        place = Place(tmp_path, broker.bootstrap, "no-notes")
        place.configure(consumer="group.id = archive")
        create_topic(broker.bootstrap, place.topic)
        send(place, "a", "b", "c")
        first = place.fetch()
        assert committed(place.bootstrap, place.topic, "archive") == {0: 3}
        second = place.fetch()
    finally:
        broker.stop()

    assert len(notes(first, "offset.metadata.max.bytes")) == 1
    assert (len(first.paths("file_delivered")), second.paths("file_delivered")) == (3, [])
