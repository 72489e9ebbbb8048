"""When the system's limits for watching are reached: said, counted as lost, and made up for by scans."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.hints import MAX_HINTS, HintBox
from tests.integration.watched import linux_only, root_only, watching

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")
NEW_USER_NAMESPACE = 0x10000000  # Source: sched.h, CLONE_NEWUSER

LIMITED = """
import ctypes, json, sys, time
from pathlib import Path
if ctypes.CDLL(None).unshare({namespace}) != 0:
    sys.exit(77)
limit = Path("/proc/sys/user/{limit}")
try:
    limit.write_text("{value}")
except OSError:
    sys.exit(77)
from openmsistream.adapters.filesystem.watching import FolderWatcher
root, notes, hints_come = Path(sys.argv[1]), [], {value} > 0
watcher = FolderWatcher(root, lambda event: notes.append([event.text, event.hint]))
def scanned():
    return sorted(path for _, files in watcher.scan() for path, _ in files)
def closed(seconds):
    found, deadline = set(), time.monotonic() + seconds
    while not found and time.monotonic() < deadline:
        watcher.wait(seconds)
        found |= watcher.hints().closed
    return sorted(found)
watcher.start()
seen = [scanned(), scanned()]
polled = watcher.polls
(root / "at the top").write_bytes(b"1")
hinted = closed(30 if hints_come else 0.2)
limit.write_text("10000")
seen.append(scanned())
(root / "7" / "b").write_bytes(b"1")
hinted_later = closed(30)
print(json.dumps([notes, seen, polled, hinted, watcher.polls, hinted_later]))
watcher.stop()
"""


def limited(root: Path, limit: str, value: int) -> list[object]:
    """What a watcher does whose account may have so little, and then more; in a user namespace of its own."""
    for number in range(10):
        (root / f"{number}").mkdir()
        (root / f"{number}" / "a").write_bytes(b"1")
    code = LIMITED.format(namespace=NEW_USER_NAMESPACE, limit=limit, value=value)
    ran = subprocess.run(
        [sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    if ran.returncode == 77:
        pytest.skip("this system lets nobody make a user namespace with limits of its own")
    assert ran.returncode == 0
    return json.loads(ran.stdout)  # type: ignore[no-any-return]


FILES = [f"{number}/a" for number in range(10)]


@linux_only
def test_without_enough_watches_the_rest_is_polled_and_the_way_out_is_said(tmp_path: Path):
    """5 watches for 11 folders: one note with the command, hints where there are watches; more of them end it."""
    notes, seen, polled, hinted, polled_later, hinted_later = limited(tmp_path, "max_inotify_watches", 5)
    assert isinstance(notes, list)
    ((text, hint),) = notes
    assert "all 5 inotify watches of this account are in use" in text
    assert hint.startswith("sudo sysctl user.max_inotify_watches=524288")
    assert seen == [FILES, FILES, sorted([*FILES, "at the top"])]
    assert (polled, hinted) == (True, ["at the top"])
    assert (polled_later, hinted_later) == (False, ["7/b"])


@linux_only
def test_without_an_inotify_instance_the_folder_is_polled_until_there_is_one(tmp_path: Path):
    """None is allowed: one note with the command, no hints; the next scan tries again."""
    notes, seen, polled, hinted, polled_later, hinted_later = limited(tmp_path, "max_inotify_instances", 0)
    assert isinstance(notes, list)
    ((text, hint),) = notes
    assert "no change notifications here" in text
    assert hint.startswith("sudo sysctl user.max_inotify_instances=1024")
    assert seen == [FILES, FILES, sorted([*FILES, "at the top"])]
    assert (polled, hinted) == (True, [])
    assert (polled_later, hinted_later) == (False, ["7/b"])


@contextmanager
def short_queue(events: int) -> Iterator[None]:
    """What is made within has a queue of so many events; the limit of the whole system is changed for a moment."""
    before = QUEUE.read_text()
    QUEUE.write_text(str(events))
    try:
        yield
    finally:
        QUEUE.write_text(before)


@root_only
@pytest.mark.parametrize(("events", "overflows"), [(16, True), (16_384, False)])
def test_an_overflow_of_the_event_queue_asks_for_a_scan(tmp_path: Path, events: int, overflows: bool):
    """A burst that the queue cannot hold: it is known that something was lost. The control has room for it."""
    root = tmp_path / "root"
    (root / "run").mkdir(parents=True)
    with short_queue(events):
        watching_it = watching(root)
        watched = watching_it.__enter__()
    try:
        with watched.watcher._box.lock:  # else a reader that is quick enough keeps the shortest queue from filling
            for number in range(1000):
                (root / "run" / f"{number}").touch()
            (root / "moves").mkdir()
        if overflows:
            watched.until_hints(lambda hints: hints.everything)
        else:
            watched.until(lambda: len(watched.seen) >= 1000)
            assert not any(hints.everything for hints in watched.taken)
        assert len(watched.scan()) == 1000
        (root / "moves" / "a").write_bytes(b"1")  # made during the overflow, watched since the scan
        watched.until_hints(lambda hints: "moves/a" in hints.closed)
    finally:
        watching_it.__exit__(None, None, None)


def test_hints_that_nobody_takes_are_bounded_and_end_in_a_scan():
    """Memory does not grow with what happens while the program is busy elsewhere."""
    box = HintBox()
    for start in range(0, 3 * MAX_HINTS, 1000):
        with box.lock:
            for number in range(start, start + 1000):
                box.closed(f"{number}")
        box.announce()
    hints = box.take()
    assert hints.everything
    assert len(hints.files) <= 1000
    assert box.take().everything is False
