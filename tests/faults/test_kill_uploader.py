"""``kill -9`` of the uploader at any point: started again, it loses nothing, doubles nothing, goes on where it was."""

from __future__ import annotations

import random

import pytest

from tests.faults.records import by_path, on_topic
from tests.faults.support import SEEDS, Place, fill, killed, ledger, tree

BIG_BYTES = 60_000_000
CHUNK_BYTES = 131_072
RECORDS = BIG_BYTES // CHUNK_BYTES + 1 + 150
FILES = {"big.bin": BIG_BYTES, "empty.dat": 0} | {f"run {n % 5}/scan {n}.dat": n * 20 for n in range(1, 150)}
PLACES = (
    "openmsistream.adapters.kafka.producer:KafkaProducer.produce:after",
    "openmsistream.pipeline.sending:Sending._acknowledge:before",
    "openmsistream.pipeline.sending:Sending._acknowledge:after",
)
COMMIT = "openmsistream.adapters.sqlite.uploads:SqliteUploadLedger.commit"


def send_and_kill(place: Place, kill: str, changes: str = "") -> set[bytes]:
    """Run the uploader until it kills itself there; returns the paths that its ledger holds as sent."""
    with place.watch("--once", "--chunk-size", CHUNK_BYTES, kill=kill, changes=changes) as sender:
        assert killed(sender.wait()), f"not killed at {kill}: {sender.stderr}"
    with ledger(place.base / "state", "upload") as rows:
        return {
            folder + b"/" * bool(folder) + name
            for folder, name in rows.execute("SELECT folder, name FROM files WHERE sent = 1")
        }


def versions_by_path(place: Place) -> dict[bytes, list[int]]:
    """How many ends each version of each path has on the topic."""
    found = by_path(on_topic(place.bootstrap, place.topic).values())
    return {path: [version.lasts for version in versions] for path, versions in found.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_an_uploader_killed_twice_sends_the_rest_and_only_the_rest(place3: Place, seed: int) -> None:
    """Whatever was being done at the kill, every file arrives as it is, and what the ledger has is not sent again."""
    fill(place3.watched, FILES)
    choose = random.Random(seed)
    ends_when_recorded: dict[bytes, list[int]] = {}
    for share in (0.45, 0.8):
        number = choose.randrange(20, int(RECORDS * share / 2))
        sent = send_and_kill(place3, f"{choose.choice(PLACES)}:{number}")
        ends = versions_by_path(place3)
        ends_when_recorded |= {path: ends[path] for path in sent - ends_when_recorded.keys()}

    place3.send("--chunk-size", CHUNK_BYTES)

    receiver = place3.fetch()
    assert tree(place3.output) == tree(place3.watched)
    assert receiver.of("quarantined") == []
    ends = versions_by_path(place3)
    assert {path: ends[path] for path in ends_when_recorded} == ends_when_recorded


@pytest.mark.parametrize("seed", SEEDS)
def test_a_big_file_goes_on_where_it_was_when_its_uploader_was_killed(place: Place, seed: int) -> None:
    """The same version goes on behind what the broker had acknowledged: its first part is not sent twice."""
    fill(place.watched, {"big.bin": BIG_BYTES})
    # Compressing slows the sender down to a few seconds, and a short queue leaves little on its way.
    place.configure(producer="compression.type = gzip\nqueue.buffering.max.kbytes = 4096")
    number = random.Random(seed).randrange(250, 430)
    send_and_kill(place, f"openmsistream.pipeline.sending:Sending._acknowledge:after:{number}")

    last = place.send("--chunk-size", CHUNK_BYTES)

    (big,) = by_path(on_topic(place.bootstrap, place.topic).values())[b"big.bin"]
    assert big.lasts == 1
    assert BIG_BYTES <= big.bytes < 2 * BIG_BYTES
    assert last.of("file_started")[0]["resumed_at"] > 0
    place.fetch()
    assert tree(place.output) == tree(place.watched)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_the_ledgers_commit_costs_at_most_sending_again(place: Place, when: str) -> None:
    """Between the broker's word and the ledger's commit a file may be sent again, and is never lost or mixed."""
    fill(place.watched, {f"{n}.dat": n for n in range(40)})
    sent = send_and_kill(place, f"{COMMIT}:{when}:2")

    place.send("--chunk-size", CHUNK_BYTES)

    assert all(1 <= sum(ends) <= 2 for ends in versions_by_path(place).values())
    assert all(ends == [1] for path, ends in versions_by_path(place).items() if path in sent)
    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_control_an_uploader_that_forgets_sends_everything_again(place: Place) -> None:
    """Without the ledger's memory the big file begins anew and small ones come twice: the tests above would fail."""
    fill(place.watched, {"a.dat": 10, "b.dat": 20, "big.bin": BIG_BYTES})
    options = ("--chunk-size", CHUNK_BYTES)
    at = "openmsistream.pipeline.sending:Sending._acknowledge:after:300"
    assert send_and_kill(place, at, changes="forget_uploads") == set()

    last = place.send(*options)

    assert {"a.dat", "b.dat"} <= set(last.paths("file_sent"))
    assert max(sum(ends) for ends in versions_by_path(place).values()) > 1
    assert len(versions_by_path(place)[b"big.bin"]) == 2
