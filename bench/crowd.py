"""Many files: sent one after the other, coming all at once, in one folder, or known long ago.

Makes the files, starts our uploader and takes times and resources from outside. Files are made with the fewest
system calls there are, so that making a million takes a minute.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from bench import targets
from bench.alone import END_SECONDS, SECONDS, Finding, Stage, judged, until_says, wait_until
from bench.material import check_topic, make
from openmsistream.adapters.filesystem.watching import FolderWatcher
from openmsistream.adapters.sqlite.beside import BACKUP_SUFFIX
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.errors import IntegrityError
from openmsistream.ports import Events

SMALL_MANY, BURST, FOLDER, SCALE = "small-many", "burst", "folder", "scale"
_AT_ONCE = ("--once", "--watchdog_lag_time", "0")
_DIGEST_BYTES, _ID_BYTES = 32, 16
_BURST_SECONDS = 1.0
_BURST_BATCH = 100


def small_many(stage: Stage, files: int, file_bytes: int) -> list[Finding]:
    """
    Send a folder of small files that are there, from the first byte read to the last file sent.

    Raises:
        IntegrityError: What is on the topic is not what was sent.
        StorageError: The file system does not keep access times.
        UnavailableError: The program failed.
    """
    material = make(stage.watched, files, file_bytes)
    material.freshen()
    os.sync()
    with stage.watch(*_AT_ONCE) as running:
        usage = running.finish(SECONDS)
        sent = running.times_of("file_sent")
    begun = material.first_read()
    if len(sent) != files:
        raise IntegrityError(f"{len(sent)} of {files} files were reported as sent:\n{running.last_words()}")
    check_topic(material, stage.bootstrap, stage.topic)
    tenth = max(1, files // 10)
    # The first tenth is counted from the first read, every other one from the end of the one before.
    ends = [begun, *sent[tenth - 1 :: tenth]]
    slowest = max(after - before for before, after in pairwise(ends))
    return [
        judged(SMALL_MANY, targets.SMALL_MANY, files / (sent[-1] - begun)),
        Finding(SMALL_MANY, "slowest tenth of them", tenth / slowest, "files/s"),
        Finding(SMALL_MANY, "CPU for 1,000 files", usage.cpu_seconds / files * 1e3, "s"),
        Finding(SMALL_MANY, "peak memory", usage.rss_bytes / 1e6, "MB"),
    ]


def burst(stage: Stage, files: int) -> list[Finding]:
    """
    Write files within one second beside an idle uploader with its default settings.

    Raises:
        IntegrityError: A file is not on the topic.
        UnavailableError: The program failed.
    """
    folders = [stage.watched / f"run {number}" for number in range(20)]
    for folder in folders:
        folder.mkdir()
    with stage.watch() as running:
        until_says(running, "scan_done")  # what is there at the first start is not sent
        begin = time.monotonic()
        for first in range(0, files, _BURST_BATCH):
            for number in range(first, min(first + _BURST_BATCH, files)):
                _write(folders[number % len(folders)] / f"{number}.dat", b"burst")
            wait_until(begin + _BURST_SECONDS * min(first + _BURST_BATCH, files) / files)
        took, ended = time.monotonic() - begin, time.time()
        running.wait_until(lambda: running.counted >= files, SECONDS)
        running.quit()
        usage = running.finish(END_SECONDS)
        last = running.times_of("file_sent")[-1]
    stage.require_sent(files)
    return [
        judged(BURST, targets.BURST, last - ended),
        Finding(BURST, "the burst took", took, "s"),
        Finding(BURST, "peak memory", usage.rss_bytes / 1e6, "MB"),
    ]


def folder(stage: Stage, files: int) -> list[Finding]:
    """
    Send one folder of very many files, and then one more file that comes while nothing runs.

    Raises:
        IntegrityError: A file is not on the topic.
        UnavailableError: The program failed.
    """
    for number in range(files):
        _write(stage.watched / f"{number}.dat", b"one of many")
    with stage.watch(*_AT_ONCE) as running:
        usage = running.finish(SECONDS)
        last = running.times_of("file_sent")[-1]
    stage.require_sent(files)
    first, again = _first_new_file(stage)
    return [
        Finding(FOLDER, f"{files:,} files in one folder: start to last sent", last - usage.began, "s"),
        Finding(FOLDER, "peak memory", usage.rss_bytes / 1e6, "MB"),
        Finding(FOLDER, "started again: start to new file sent", first, "s"),
        Finding(FOLDER, "started again: peak memory", again / 1e6, "MB"),
    ]


def scale(stage: Stage, folders: int, files_a_folder: int, idle_seconds: float) -> list[Finding]:
    """
    Start beside very many files that were sent long ago, with one new file among them, and then do nothing.

    Args:
        stage: Where.
        folders: How many folders.
        files_a_folder: How many known files are in each.
        idle_seconds: For how long to look at its idle CPU, with the default time between scans.

    Raises:
        IntegrityError: Another file than the new one was sent.
        UnavailableError: The program failed.
    """
    # The program itself makes its ledger, under the name and in the place it will look for it.
    with stage.watch("--once") as running:
        running.finish(END_SECONDS)
    names = [stage.watched / f"run {number:04}" for number in range(folders)]
    for name in names:
        name.mkdir()
        for number in range(files_a_folder):
            _write(name / f"scan {number:04}.dat", b"")
    known = _remember_as_sent(stage)
    _write(names[folders // 2] / "new.dat", b"new")
    with stage.watch() as running:
        running.wait_until(lambda: running.counted >= 1, SECONDS)
        until_says(running, "scan_done")
        before, since = running.cpu_seconds(), time.monotonic()
        wait_until(since + idle_seconds)
        idle = (running.cpu_seconds() - before) / (time.monotonic() - since)
        running.quit()
        usage = running.finish(END_SECONDS)
        sent, scanned = running.times_of("file_sent"), running.times_of("scan_done")
    if len(sent) != 1:
        raise IntegrityError(f"{len(sent)} files were sent of {known:,} known ones and a new one")
    return [
        judged(SCALE, targets.SCALE_FIRST, sent[0] - usage.began),
        judged(SCALE, targets.SCALE_RSS, usage.rss_bytes / 1e6),
        Finding(SCALE, f"{known:,} files known: start to first scan done", scanned[0] - usage.began, "s"),
        Finding(SCALE, f"idle CPU over {idle_seconds:g} s, of one core", idle * 100, "%"),
    ]


def _first_new_file(stage: Stage) -> tuple[float, int]:
    """Put one more file into the folder, start the uploader: s until it is sent, and the peak memory in bytes."""
    _write(stage.watched / "new.dat", b"new")
    with stage.watch() as running:
        running.wait_until(lambda: running.counted >= 1, SECONDS)
        running.quit()
        usage = running.finish(END_SECONDS)
        first = running.times_of("file_sent")[0]
    return first - usage.began, usage.rss_bytes


def _remember_as_sent(stage: Stage) -> int:
    """Write every file of the watched folder into the uploader's ledger as sent; how many there are."""
    (path,) = (file for file in stage.state.rglob("upload-*.sqlite") if not file.name.endswith(BACKUP_SUFFIX))
    count = 0
    nobody: Events = _ignore
    with closing(SqliteUploadLedger(path, os.urandom)) as ledger:
        for _, files in FolderWatcher(stage.watched, nobody).scan():
            for name, stat in files:
                now = time.time_ns()
                ledger.record_sent(
                    name, stat, os.urandom(_ID_BYTES), ledger.next_gen(now), os.urandom(_DIGEST_BYTES), now
                )
                count += 1
    return count


def _ignore(_: object) -> None:
    """Nobody is told of what the scan meets: there is nothing here but our own files."""


def _write(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    if content:
        os.write(file, content)
    os.close(file)
