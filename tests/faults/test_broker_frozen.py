"""The broker stands still or is away while files keep coming: the backlog stays on disk, and goes on by itself."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from openmsistream.local.broker import LocalBroker
from tests.faults.memory import MB, Memory
from tests.faults.records import by_path, on_topic
from tests.faults.support import LONG, Place, Program, eventually, fill, tree

CHUNK_BYTES = 131_072
FREEZE_SECONDS = 20.0 if LONG else 4.0
BACKLOG_FILE_BYTES = 20_000_000
BACKLOG_FILES = 20 if LONG else 7
SMALL_FILES = 50
# The producer's queue holds 32 MiB, and that is what it grows by (measured: 36 MB, however much waits).
GROWTH_BYTES = 60 * MB
MESSAGE_TIMEOUT_SECONDS = 2.0


def backlog(place: Place, until: float) -> int:
    """Put big and small files into the watched folder, spread over the time that is left; returns their bytes."""
    total = 0
    for number in range(BACKLOG_FILES):
        files = {f"run {number}/big.bin": BACKLOG_FILE_BYTES} | {
            f"run {number}/{n}.dat": n * 50 for n in range(SMALL_FILES)
        }
        fill(place.watched, files, seed=number)
        total += sum(files.values())
        wait_until(time.monotonic() + (until - time.monotonic()) / (BACKLOG_FILES - number))
    return total


def wait_until(when: float) -> None:
    """Return at this time of the monotonic clock."""
    eventually(lambda: time.monotonic() >= when, "time passes")


def ready(sender: Program, place: Place) -> None:
    """The uploader watches, and has sent something: it has everything in memory that it needs in good times."""
    sender.until_event("program_started")
    fill(place.watched, {"first.bin": BACKLOG_FILE_BYTES})
    sender.until_event("file_sent", path="first.bin")


def test_a_backlog_behind_a_frozen_broker_waits_on_disk_and_not_in_memory(risky: Place, victim: LocalBroker) -> None:
    """Memory stays flat however much waits; nothing is lost, nothing stands on the topic twice, nobody is restarted."""
    with risky.watch("--upload-existing", "--chunk-size", CHUNK_BYTES) as sender:
        ready(sender, risky)
        with Memory(sender.pid) as memory:
            victim.freeze()
            waiting = backlog(risky, time.monotonic() + FREEZE_SECONDS)
            sent_while_frozen = len(sender.of("file_sent"))
            victim.thaw()
            files = 1 + BACKLOG_FILES * (1 + SMALL_FILES)
            sender.until(lambda: len(sender.of("file_sent")) >= files, "the backlog was sent")
        assert sender.quit() == 0
    assert sent_while_frozen == 1
    assert waiting > 2 * GROWTH_BYTES
    assert memory.peak - memory.before < GROWTH_BYTES
    versions = by_path(on_topic(risky.bootstrap, risky.topic).values())
    assert all(len(found) == 1 and found[0].lasts == 1 for found in versions.values())
    receiver = risky.fetch(idle=2)
    assert tree(risky.output) == tree(risky.watched)
    assert sorted(receiver.paths("file_delivered")) == sorted(sender.paths("file_sent"))


def test_control_a_queue_without_a_bound_takes_the_backlog_into_memory(risky: Place, victim: LocalBroker) -> None:
    """With room for a GB in librdkafka's queue the same backlog is read into memory: the bound above can fail."""
    risky.configure(producer="queue.buffering.max.kbytes = 1000000")
    with risky.watch("--upload-existing", "--chunk-size", CHUNK_BYTES) as sender:
        ready(sender, risky)
        with Memory(sender.pid) as memory:
            victim.freeze()
            backlog(risky, time.monotonic())
            eventually(lambda: memory.peak - memory.before > GROWTH_BYTES, "memory grows with the backlog")
            victim.thaw()
        sender.kill()


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_broker_away_for_longer_than_message_timeout_loses_no_file(
    risky: Place, victim: LocalBroker, how: str
) -> None:
    """Records that librdkafka gave up are sent again from the files, by themselves, and a reader gets all of them."""
    risky.configure(producer=f"message.timeout.ms = {MESSAGE_TIMEOUT_SECONDS * 1000:.0f}")
    with ExitStack() as stack:
        receiver = stack.enter_context(risky.download())
        sender = stack.enter_context(risky.watch("--upload-existing", "--chunk-size", CHUNK_BYTES))
        ready(sender, risky)
        with Memory(sender.pid) as memory:
            if how == "killed":
                victim.kill()
            else:
                victim.freeze()
            backlog(risky, time.monotonic() + max(FREEZE_SECONDS, 2.5 * MESSAGE_TIMEOUT_SECONDS))
            # The time-out did strike: without another try these files would be lost.
            sender.until_event("file_failed", retry=True)
            if how == "killed":
                victim.restart()
            else:
                victim.thaw()
            paths = {name.decode() for name in tree(risky.watched)}
            sender.until(lambda: set(sender.paths("file_sent")) == paths, "the backlog was sent")
        receiver.until(lambda: tree(risky.output) == tree(risky.watched), "everything arrived")
        assert sender.quit() == 0
        assert receiver.quit() == 0
    assert all(event["retry"] for event in sender.of("file_failed"))
    assert memory.peak - memory.before < GROWTH_BYTES
    # What the broker took though librdkafka had given it up comes again: that may be told twice, and is the same.
    told = {(event["path"], event["digest"]) for event in receiver.of("file_delivered")}
    assert sorted(path for path, _ in told) == sorted(paths)
    assert receiver.of("quarantined") == []
