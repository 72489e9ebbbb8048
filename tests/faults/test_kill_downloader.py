"""``kill -9`` of the downloader at any point of its barrier: nothing half, nothing lost, nothing done twice."""

from __future__ import annotations

import os
import random
import uuid
from pathlib import Path

import pytest

from openmsistream.core.paths import WORK_FOLDER
from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic
from tests.faults.records import committed, produce, raw_records
from tests.faults.support import SEEDS, Place, Program, fill, killed, ledger, tree

SINK = "openmsistream.adapters.filesystem.sink:FolderSink"
LEDGER = "openmsistream.adapters.sqlite.downloads:SqliteDownloadLedger"
CONSUMER = "openmsistream.adapters.kafka.consumer:KafkaConsumer"
PLACING = "openmsistream.adapters.filesystem.placing:DescriptorPlacing"
GROUP = "archive"
BARRIER = [
    f"{method}:{when}:{number}"
    for method in (f"{SINK}.sync", f"{SINK}.publish", f"{LEDGER}.barrier", f"{CONSUMER}.commit")
    for when, number in (("before", 2), ("after", 1))
]
RANDOM = (f"{PLACING}.place:after", f"{CONSUMER}.poll:after", f"{SINK}.write:after")


class Stage:
    """A topic with files, the folder they came from, and one version that never becomes whole."""

    def __init__(self, base: Path, broker: LocalBroker) -> None:
        self.place = Place(base, broker.bootstrap, f"fault-{uuid.uuid4().hex[:12]}")
        self.sent: dict[bytes, str] = {}
        create_topic(broker.bootstrap, self.place.topic)
        fill(self.place.watched, {f"early/{n}.dat": n * 100 for n in range(30)} | {"early/big.bin": 9_000_000})
        self._send()
        self.first_open = sum(1 for _ in raw_records(broker.bootstrap, self.place.topic))
        self._leave_one_open(base / "other", broker)
        fill(self.place.watched, {f"late/{n}.dat": n * 100 for n in range(30)} | {"late/big.bin": 9_000_000}, seed=1)
        self._send()

    def _send(self) -> None:
        self.place.send("--chunk-size", 131_072)
        self.sent = tree(self.place.watched)

    def _leave_one_open(self, base: Path, broker: LocalBroker) -> None:
        """Put all chunks but the last of a file on the topic."""
        other = Place(base, broker.bootstrap, f"fault-{uuid.uuid4().hex[:12]}")
        create_topic(broker.bootstrap, other.topic)
        fill(other.watched, {"never whole.bin": 500_000})
        other.send("--chunk-size", 131_072)
        records = [(m.key(), m.value()) for m in raw_records(broker.bootstrap, other.topic)]
        produce(broker.bootstrap, self.place.topic, records[:-1])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, broker: LocalBroker) -> Stage:
    """The same topic for all tests here: each reads it to a folder of its own."""
    return Stage(tmp_path_factory.mktemp("stage"), broker)


class Reading:
    """One output folder of a stage, with a group that the killed member leaves at once (static membership)."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.group = f"{GROUP}-{uuid.uuid4().hex[:8]}"
        self.place = Place(folder, stage.place.bootstrap, stage.place.topic)
        self.place.configure(consumer=f"group.id = {self.group}\ngroup.instance.id = one")

    def until_killed(self, kill: str, changes: str = "barriers_often") -> Program:
        with self.place.download("--until-idle", 5, kill=kill, changes=changes) as receiver:
            assert killed(receiver.wait()), f"not killed at {kill}: {receiver.stderr}"
        return receiver

    def to_the_end(self, changes: str = "") -> Program:
        return self.place.fetch(idle=1, changes=changes)

    @property
    def output(self) -> Path:
        return self.place.output

    def half_files(self) -> dict[bytes, str]:
        """Files under a final name that are not what was sent."""
        return {path: digest for path, digest in tree(self.output).items() if self.stage.sent.get(path) != digest}

    def delivered(self) -> dict[bytes, int]:
        """The files that the ledger has as delivered, and where they stand on the disk (inode)."""
        with ledger(self.output / WORK_FOLDER, "download") as rows:
            paths = [path for (path,) in rows.execute("SELECT path FROM current")]
        return {path: (self.output / os.fsdecode(path)).stat().st_ino for path in paths}

    def watermark(self) -> int:
        return committed(self.place.bootstrap, self.place.topic, self.group).get(0, 0)


@pytest.fixture
def reading(stage: Stage, tmp_path: Path) -> Reading:
    return Reading(stage, tmp_path)


def check_kill(reading: Reading, kill: str) -> None:
    """Kill there, look, go on to the end, look again."""
    first = reading.until_killed(kill)
    assert reading.half_files() == {}, "a file under its final name was not whole after the kill"
    assert reading.watermark() <= reading.stage.first_open
    before = reading.delivered()

    second = reading.to_the_end()

    assert tree(reading.output) == reading.stage.sent
    assert reading.watermark() == reading.stage.first_open, "the watermark stands at the version that is still open"
    assert before.items() <= reading.delivered().items(), "a file that had been delivered was written again"
    assert reading.delivered().keys() == reading.stage.sent.keys()
    told = first.paths("file_delivered") + second.paths("file_delivered")
    assert len(told) == len(set(told)), "a file was reported as delivered twice"
    assert second.of("quarantined") == []


@pytest.mark.parametrize("kill", BARRIER, ids=[kill.partition(":")[2] for kill in BARRIER])
def test_a_downloader_killed_between_the_steps_of_a_barrier_goes_on(reading: Reading, kill: str) -> None:
    """Between sync, rename, ledger and commit: whole files stay, the rest comes, nothing delivered is written again."""
    check_kill(reading, kill)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_downloader_killed_anywhere_goes_on(reading: Reading, seed: int) -> None:
    """In the middle of a batch of renames, while reading, while writing: the same promise."""
    choose = random.Random(seed)
    check_kill(reading, f"{RANDOM[seed % 3]}:{choose.randrange(2, 50)}")


def test_control_a_downloader_that_writes_in_place_leaves_half_files(reading: Reading) -> None:
    """Writing under the final name shows half files at a kill: the check for them can fail."""
    reading.until_killed(f"{SINK}.write:after:60", changes="write_in_place")

    assert reading.half_files()


def test_control_a_downloader_that_commits_what_it_read_loses_files(reading: Reading) -> None:
    """With offsets committed as they are read, a kill loses what was open: the checks for the rest can fail."""
    reading.until_killed(f"{CONSUMER}.commit:after:1", changes="commit_what_was_read,barriers_often")
    reading.until_killed(f"{SINK}.write:after:3", changes="commit_what_was_read")

    reading.to_the_end(changes="commit_what_was_read")

    assert reading.watermark() > reading.stage.first_open
