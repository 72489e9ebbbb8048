"""The line to the broker breaks behind its write and before its acknowledgement: nothing is lost, nothing doubled."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic
from tests.faults.proxy import Proxy, broker_behind_proxy
from tests.faults.records import by_path, on_topic
from tests.faults.support import SEEDS, Place, fill, tree

CHUNK_BYTES = 131_072
FILES = {"big.bin": 24_000_000, "empty.dat": 0} | {f"run {n % 4}/scan {n}.dat": n * 2000 for n in range(1, 120)}
CUTS = 6


@dataclass
class Line:
    """A place whose programs reach their broker through a proxy only."""

    place: Place
    proxy: Proxy
    broker: LocalBroker

    def duplicates(self, files: Mapping[str, int] = FILES) -> int:
        """How many records too many the log holds; every version has to be whole, and the only one of its path."""
        versions = on_topic(self.broker.bootstrap, self.place.topic)
        assert {path: len(found) for path, found in by_path(versions.values()).items()} == {
            name.encode(): 1 for name in files
        }
        assert all(version.lasts >= 1 and version.aborts == 0 for version in versions.values())
        needed = sum(max(1, -(-size // CHUNK_BYTES)) for size in files.values())
        return sum(version.chunks for version in versions.values()) - needed


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalBroker, Proxy]]:
    """One broker behind a proxy for these tests."""
    with broker_behind_proxy(tmp_path_factory.mktemp("proxied")) as both:
        yield both


@pytest.fixture
def line(tmp_path: Path, proxied: tuple[LocalBroker, Proxy]) -> Iterator[Line]:
    """Folders, and a topic with 2 partitions on the broker behind the proxy, which passes everything at first."""
    broker, proxy = proxied
    topic = f"fault-{uuid.uuid4().hex[:12]}"
    assert create_topic(broker.bootstrap, topic, partitions=2)
    yield Line(Place(tmp_path, proxy.address, topic), proxy, broker)
    proxy.delay(0)
    proxy.cut_answers(())
    proxy.thaw()
    proxy.reset()


def cut_points(seed: int) -> list[int]:
    """Which answers to produce requests do not come: the connection is cut in their place."""
    choose = random.Random(seed)
    points, at = [], 0
    for _ in range(CUTS):
        at += choose.randrange(1, 5)
        points.append(at)
    return points


@pytest.mark.parametrize("seed", SEEDS)
def test_a_connection_cut_before_the_acknowledgement_doubles_nothing(line: Line, seed: int) -> None:
    """What the broker had written and could not acknowledge is asked for again, and stands in the log once."""
    fill(line.place.watched, FILES, seed)
    line.proxy.cut_answers(cut_points(seed))
    before = line.proxy.cuts

    sender = line.place.send("--chunk-size", CHUNK_BYTES)

    assert line.proxy.cuts - before == CUTS
    assert sender.of("file_failed") == []
    assert sorted(sender.paths("file_sent")) == sorted(FILES)
    assert line.duplicates() == 0
    receiver = line.place.fetch()
    assert sorted(receiver.paths("file_delivered")) == sorted(FILES)
    assert tree(line.place.output) == tree(line.place.watched)


def test_control_without_idempotence_the_same_cuts_double_records(line: Line) -> None:
    """The log then holds records twice, so the cuts are where they should be; the files are still right, and once."""
    line.place.configure(producer="enable.idempotence = false")
    fill(line.place.watched, FILES)
    line.proxy.cut_answers(cut_points(0))

    line.place.send("--chunk-size", CHUNK_BYTES)

    assert line.duplicates() > 0
    receiver = line.place.fetch()
    assert sorted(receiver.paths("file_delivered")) == sorted(FILES)
    assert tree(line.place.output) == tree(line.place.watched)


def test_acknowledgements_that_never_come_back_are_asked_for_again(line: Line) -> None:
    """On a half-dead line, where requests arrive and answers do not, it connects anew by itself and doubles nothing."""
    line.place.configure(broker="socket.timeout.ms = 2000")
    files = {"first.dat": 10} | FILES
    with line.place.watch("--upload-existing", "--chunk-size", CHUNK_BYTES) as sender:
        sender.until_event("program_started")
        fill(line.place.watched, {"first.dat": files["first.dat"]})
        sender.until_event("file_sent", path="first.dat")
        answers, swallowed = line.proxy.answers, line.proxy.swallowed
        line.proxy.swallow_answers()
        fill(line.place.watched, FILES)
        sender.until(lambda: len(sender.of("file_sent")) >= len(files), "everything was sent")
        assert line.proxy.answers > answers
        assert line.proxy.swallowed > swallowed
        assert sender.quit() == 0
    assert line.duplicates(files) == 0
    line.place.fetch()
    assert tree(line.place.output) == tree(line.place.watched)


def test_a_slow_line_that_stands_still_for_a_while_costs_only_time(line: Line) -> None:
    """With a delay each way, and nothing moving at all for a while, everything arrives once and nobody is restarted."""
    line.proxy.delay(0.02)
    with line.place.watch("--upload-existing", "--chunk-size", CHUNK_BYTES) as sender:
        sender.until_event("program_started")
        fill(line.place.watched, FILES)
        sender.until_event("file_sent")
        line.proxy.freeze()
        sender.until_event("file_progress", path="big.bin", count=8)  # one each quarter of a second
        sent = len(sender.of("file_sent"))
        assert sent < len(FILES)
        line.proxy.thaw()
        sender.until(lambda: len(sender.of("file_sent")) >= len(FILES), "everything was sent")
        assert sender.quit() == 0
    assert line.duplicates() == 0
    line.proxy.delay(0)
    line.place.fetch()
    assert tree(line.place.output) == tree(line.place.watched)
