"""One big file, and its uploader is killed again and again: it arrives whole, and little of it is sent twice."""

from __future__ import annotations

import random
import time
from contextlib import closing

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.faults.records import by_path, on_topic
from tests.faults.support import LONG, PATIENCE_SECONDS, SEEDS, Place, Program, eventually, fill, tree

CHUNK_BYTES = 524_288
KILLS = 10
BIG_BYTES = 1_000_000_000 if LONG else 250_000_000
# 1 GB killed 10 times may cost 10 % more: 10 MB a kill. A smaller file has the same allowance for each kill.
WASTE_BYTES_A_KILL = 10_000_000
ANY_TIME_BYTES = 30_000_000


def fill_big(place: Place, size: int) -> None:
    """A file of random bytes, made piece by piece; whole at once under its name."""
    source = random.Random(size)
    beside = place.base / "beside"
    with beside.open("wb") as file:
        for start in range(0, size, 1_000_000):
            file.write(source.randbytes(min(1_000_000, size - start)))
    beside.replace(place.watched / "big.bin")


def send_and_kill(place: Place, records: int, changes: str = "") -> None:
    """Start the uploader and kill it when so many more records than before are on the topic of one partition."""
    where = TopicPartition(place.topic, 0)
    with closing(Consumer({"bootstrap.servers": place.bootstrap, "group.id": "test-count"})) as client:

        def written() -> int:
            return int(client.get_watermark_offsets(where, timeout=PATIENCE_SECONDS)[1])

        goal, deadline = written() + records, time.monotonic() + PATIENCE_SECONDS
        with place.watch("--once", "--chunk-size", CHUNK_BYTES, changes=changes) as sender:
            # Asked without a pause: at full speed a chunk takes 2 ms, and the kill is to hit the middle of the file.
            while written() < goal:
                assert time.monotonic() < deadline, f"{records} more records did not come: {sender.stderr}"
            assert sender.running, "it ended before it was killed"
            sender.kill()


def kill_points(kills: int) -> list[int]:
    """After how many records each run is killed: together less than the file has, which is to remain unfinished."""
    choose, share = random.Random(kills), BIG_BYTES // CHUNK_BYTES // (kills + 1)
    return [choose.randrange(share // 2, share * 4 // 5) for _ in range(kills)]


def bytes_on_topic(place: Place) -> int:
    """All payload bytes of the big file, versions that were given up included; exactly one has its end."""
    versions = by_path(on_topic(place.bootstrap, place.topic).values())[b"big.bin"]
    assert sum(version.lasts for version in versions) == 1
    return sum(version.bytes for version in versions)


def test_a_big_file_killed_ten_times_is_hardly_sent_twice(place: Place) -> None:
    """All its bytes on the topic, at full speed, stay within 10 MB a kill of its size: 1.1 x for 1 GB."""
    fill_big(place, BIG_BYTES)
    for records in kill_points(KILLS):
        send_and_kill(place, records)

    place.send("--chunk-size", CHUNK_BYTES)

    waste = bytes_on_topic(place) - BIG_BYTES
    print(
        f"{waste / KILLS / 1e6:.1f} MB sent twice for each kill; {1 + waste / BIG_BYTES:.3f} x of {BIG_BYTES:,} bytes"
    )
    assert 0 <= waste <= KILLS * WASTE_BYTES_A_KILL
    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_control_an_uploader_that_forgets_sends_far_more_twice(place: Place) -> None:
    """Without the ledger's memory every kill costs all that was sent before it: the bound above can fail."""
    fill_big(place, BIG_BYTES)
    points = [2 * WASTE_BYTES_A_KILL // CHUNK_BYTES] * 2
    for records in points:
        send_and_kill(place, records, changes="forget_uploads")

    place.send("--chunk-size", CHUNK_BYTES)

    assert bytes_on_topic(place) - BIG_BYTES > len(points) * WASTE_BYTES_A_KILL


def kill_at(sender: Program, when: float) -> None:
    """Kill it at this time of the monotonic clock, unless it has ended before."""
    eventually(lambda: time.monotonic() > when or not sender.running, "the time to kill")
    if sender.running:
        sender.kill()


def whole_on_topic(place: Place) -> set[str]:
    """The paths of which a version stands on the topic to its end."""
    return {v.path.decode() for v in on_topic(place.bootstrap, place.topic).values() if v.lasts}


def until_delivered(receiver: Program, paths: set[str]) -> None:
    """Return when the downloader has delivered these paths, with whatever else."""
    receiver.until(lambda: paths <= set(receiver.paths("file_delivered")), f"{len(paths)} files arrived")


@pytest.mark.parametrize("seed", SEEDS)
def test_kills_at_any_time_of_a_run_cost_nothing_but_time(place: Place, seed: int) -> None:
    """At seeded times, while it starts, opens its ledger, reads, hashes or sends: whole and once at the end."""
    small = {f"{n}.dat": n * 100 for n in range(60)}
    fill(place.watched, {"big.bin": ANY_TIME_BYTES} | small, seed)
    # Compressing random bytes slows the sender down to some 40 MB/s: a second in which it can be killed.
    place.configure(producer="compression.type = gzip")
    choose = random.Random(seed)
    with place.download() as receiver:
        receiver.until_event("program_started")
        for _ in range(len(SEEDS)):
            with place.watch("--once", "--chunk-size", CHUNK_BYTES) as sender:
                # The interpreter alone takes some 0.3 s; by 1.5 s everything would be sent.
                kill_at(sender, time.monotonic() + choose.uniform(0.1, 1.2))
            until_delivered(receiver, whole_on_topic(place))
        place.send("--chunk-size", CHUNK_BYTES)
        receiver.until(lambda: tree(place.output) == tree(place.watched), "everything arrived")
        assert receiver.quit() == 0
    # What the ledger did not know yet was sent again, and recognised as what is there already.
    assert sorted(receiver.paths("file_delivered")) == sorted({"big.bin", *small})
    assert receiver.of("quarantined") == []
