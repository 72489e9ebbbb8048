"""More happens in the watched folder than the system's event queue holds: every file is sent, long before a scan.

Linux drops what does not fit and says so once. The queue of the program under test is made short, and the program is
stopped during the burst, so that it overflows on any computer.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.support import Place, Program, eventually, fill, tree

if sys.platform != "linux" or os.geteuid() != 0:
    pytest.skip("shortens the event queue of inotify: needs Linux and root", allow_module_level=True)

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
SHORT_QUEUE = 64
BURST = {f"{folder}/{n}.dat": n for folder in ("there before", "new", "new/below") for n in range(300)}


@contextmanager
def with_a_short_queue(place: Place, changes: str = "") -> Iterator[Program]:
    """An uploader whose event queue is short, scans an hour apart; the system's limit is as before when it runs."""
    (place.watched / "there before").mkdir()
    before = QUEUE.read_text()
    QUEUE.write_text(str(SHORT_QUEUE))
    try:
        sender = place.watch("--scan-seconds", 3600, changes=changes)
        try:
            sender.until_event("scan_done")  # its queue was made before its first scan
        except BaseException:
            sender.kill()
            raise
    finally:
        QUEUE.write_text(before)
    with sender:
        yield sender


def burst(place: Place, sender: Program) -> None:
    """So many files at once that the queue holds a fraction of their events."""
    sender.signal(signal.SIGSTOP)
    stopped = psutil.Process(sender.pid)
    eventually(lambda: stopped.status() == psutil.STATUS_STOPPED, "it is stopped")
    fill(place.watched, BURST)
    sender.signal(signal.SIGCONT)


def until_all_before_was_taken(place: Place, sender: Program) -> None:
    """
    Return when a file written after the burst was sent.

    Events come in order, so what was told of the burst was taken then. While the queue is still full the event
    of a new file may be dropped as well: there is one new file after the other.
    """
    written: list[str] = []

    def one_was_sent() -> bool:
        written.append(f"after/{len(written)}.dat")
        fill(place.watched, {written[-1]: 10})
        return bool({f"after/{n}.dat" for n in range(len(written))} & set(sender.paths("file_sent")))

    sender.until(one_was_sent, "a file written after the burst is sent")


def test_every_file_of_a_burst_that_overflows_the_queue_is_sent_long_before_the_next_scan(place: Place) -> None:
    """Also those in folders that were made meanwhile; and what comes later is noticed there as before."""
    with with_a_short_queue(place) as sender:
        burst(place, sender)
        sender.until(lambda: set(sender.paths("file_sent")) >= BURST.keys(), "the whole burst is sent")
        fill(place.watched, {"new/below/later.dat": 10})
        sender.until_event("file_sent", path="new/below/later.dat")
        assert sender.quit() == 0
    assert len(sender.of("file_sent")) == len(BURST) + 1
    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_control_without_the_word_of_the_overflow_files_stay_behind(place: Place) -> None:
    """A program that does not hear of it sends what comes later and not what was dropped: the queue did overflow."""
    (place.watched / "after").mkdir()
    with with_a_short_queue(place, changes="never_lose_count") as sender:
        burst(place, sender)
        until_all_before_was_taken(place, sender)
        sent = set(sender.paths("file_sent"))
    assert len(sent & BURST.keys()) < len(BURST) / 2
