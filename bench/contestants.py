"""The programs that are compared, and one trial of each: started, watched from outside, checked, accounted.

Knows every contestant's command line and how its work is seen to begin and to be done; the rules are in
docs/bench.md and are the same for all. It does not compare: that is ``report``'s.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from bench.material import Material, check_folder, check_topic, has_bytes
from bench.running import Running, Usage
from openmsistream.errors import IntegrityError
from tests.compat import peer

BARE, FLOOR_1, FLOOR_2 = "bare client", "floor 1: poll", "floor 2: poll, write"
OURS, PEER = "ours", f"OpenMSIStream {peer.VERSION}"
CONTESTANTS = (BARE, FLOOR_1, FLOOR_2, OURS, PEER)
SCENARIOS = ("large-up", "large-down", "small-up", "small-down")
_SECONDS = 900.0
_END_SECONDS = 60.0
_ASK_SECONDS = 0.05
_OUR_PROGRAM = (sys.executable, "-m", "openmsistream")
_FLOOR_COMMANDS = {FLOOR_1: "poll", FLOOR_2: "write"}


@dataclass(frozen=True, slots=True)
class Trial:
    """
    What one run of one program took. Times in s, sizes in bytes.

    Attributes:
        scenario: What was to be done, e.g. ``large-up``.
        contestant: Who did it.
        round: In which round, from 1.
        files: How many files were moved.
        total_bytes: Their sizes together.
        start_seconds: From starting the process to the first byte of work.
        work_seconds: From the first byte of work to the last one done.
        cpu_seconds: User and system time of the process over its whole life.
        rss_bytes: Peak resident memory of the process.
        load: Load average of the machine over the last minute, when it ended.
    """

    scenario: str
    contestant: str
    round: int
    files: int
    total_bytes: int
    start_seconds: float
    work_seconds: float
    cpu_seconds: float
    rss_bytes: int
    load: float = field(default_factory=lambda: os.getloadavg()[0])


@dataclass(frozen=True, slots=True)
class Task:
    """
    What a contestant is to do.

    Attributes:
        scenario: What it is called, e.g. ``large-up``.
        contestant: Who does it.
        round: In which round, from 1.
        material: What is sent, or was.
        topic: Where to, or from where; it has one partition.
        records: How many records are there, for a download; the floors end after so many.
    """

    scenario: str
    contestant: str
    round: int
    material: Material
    topic: str
    records: int = 0

    def trial(self, span: tuple[float, float], usage: Usage) -> Trial:
        """The result, from when work began and was done, and what the process used."""
        begun, done = span
        return Trial(
            scenario=self.scenario,
            contestant=self.contestant,
            round=self.round,
            files=len(self.material.digests),
            total_bytes=self.material.total_bytes,
            start_seconds=begun - usage.began,
            work_seconds=done - begun,
            cpu_seconds=usage.cpu_seconds,
            rss_bytes=usage.rss_bytes,
        )


@dataclass(frozen=True)
class Bench:
    """
    Where trials are run.

    Attributes:
        bootstrap: The broker's address.
        work: A folder for what programs need and print; it is on the disk that is written to.
        them: The installed peer, as its users have it.
    """

    bootstrap: str
    work: Path
    them: peer.Peer

    def up(self, task: Task) -> tuple[Trial, int]:
        """
        Let a contestant send files to an empty topic, and check every byte that arrived there.

        Returns:
            What it took, and how many records it made.

        Raises:
            IntegrityError: What is on the topic is not what was sent.
            UnavailableError: The program failed or did not end.
        """
        material, topic, contestant = task.material, task.topic, task.contestant
        material.freshen()
        single = len(material.digests) == 1
        if contestant == OURS:
            done, usage = self._our_upload(material, topic, single=single)
        elif contestant == PEER and single:
            command = self._theirs("UploadDataFile", material.paths[0], topic)
            with Running(command, self.work, peer.environment()) as running:
                usage = running.finish(_SECONDS)
            # Its last word comes when all is acknowledged, and then it ends.
            done = usage.ended
        elif contestant == PEER:
            done, usage = self._their_folder_upload(material, topic)
        else:
            names = self.work / "files.txt"
            names.write_text("\n".join(map(str, material.paths)), encoding="utf-8")
            with Running(self._bare("up", topic, names), self.work) as running:
                usage = running.finish(_SECONDS)
                done = running.times_of("done")[-1]
        span = material.first_read(), done
        records = check_topic(material, self.bootstrap, topic, raw=contestant == BARE)
        return task.trial(span, usage), records

    def down(self, task: Task) -> Trial:
        """
        Let a contestant receive what is on a topic, and check every byte it wrote.

        Raises:
            IntegrityError: A file that arrived is not what was sent.
            UnavailableError: The program failed or did not end.
        """
        material, topic, contestant = task.material, task.topic, task.contestant
        folder = self.work / "out"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if contestant == OURS:
            span, usage = self._our_download(material, topic, folder)
        elif contestant == PEER:
            span, usage = self._their_download(material, topic, folder)
        else:
            command = self._bare(
                _FLOOR_COMMANDS[contestant], topic, folder, str(task.records), str(material.total_bytes)
            )
            with Running(command, self.work) as running:
                usage = running.finish(_SECONDS)
                span = running.times_of("begun")[0], running.times_of("done")[-1]
        if contestant != FLOOR_1:
            check_folder(material, folder, names=contestant != FLOOR_2)
        shutil.rmtree(folder)
        return task.trial(span, usage)

    def _our_upload(self, material: Material, topic: str, *, single: bool) -> tuple[float, Usage]:
        what = (
            ["upload", str(material.paths[0])]
            if single
            else ["watch", str(material.root), "--once", "--watchdog_lag_time", "0"]
        )
        with Running(self._ours(what, topic), self.work) as running:
            usage = running.finish(_SECONDS)
            sent = running.times_of("file_sent")
        _all_reported(running, sent, material, "file_sent")
        return sent[-1], usage

    def _our_download(self, material: Material, topic: str, folder: Path) -> tuple[tuple[float, float], Usage]:
        command = self._ours(["download", str(folder)], topic)
        with Running(command, self.work, count='"file_delivered"') as running:
            begun = running.wait_until(lambda: has_bytes(folder), _SECONDS)
            running.wait_until(lambda: running.counted >= len(material.digests), _SECONDS)
            running.quit()
            usage = running.finish(_END_SECONDS)
            delivered = running.times_of("file_delivered")
        _all_reported(running, delivered, material, "file_delivered")
        return (begun, delivered[-1]), usage

    def _their_folder_upload(self, material: Material, topic: str) -> tuple[float, Usage]:
        # It names no file it has sent, so the topic is asked; each of these files is one record.
        records = _Records(self.bootstrap, topic)
        command = self._theirs(
            "DataFileUploadDirectory", material.root, topic, "--upload_existing", "--watchdog_lag_time", "0"
        )
        with Running(command, self.work, peer.environment()) as running:
            done = running.wait_until(lambda: records.count() >= len(material.digests), _SECONDS)
            running.quit()
            usage = running.finish(_END_SECONDS)
        records.close()
        # Its registry goes into the folder it watches; the next trial shall not know of this one.
        shutil.rmtree(material.root / "LOGS")
        return done, usage

    def _their_download(self, material: Material, topic: str, folder: Path) -> tuple[tuple[float, float], Usage]:
        # It names no file it has received and writes under the final name, so the last block tells; that it
        # then hashes the whole once more is not counted, in its favour.
        missing = {folder / name for name in material.digests}

        def all_there() -> bool:
            while missing:
                path = missing.pop()
                if not (path.exists() and path.stat().st_blocks * 512 >= material.file_bytes):
                    missing.add(path)
                    return False
            return True

        command = self._theirs("DataFileDownloadDirectory", folder, topic)
        with Running(command, self.work, peer.environment()) as running:
            begun = running.wait_until(lambda: has_bytes(folder), _SECONDS)
            done = running.wait_until(all_there, _SECONDS)
            running.quit()
            usage = running.finish(_END_SECONDS)
        return (begun, done), usage

    def _ours(self, what: Sequence[str], topic: str) -> list[str]:
        config = self.work / "ours.config"
        config.write_text(f"[broker]\nbootstrap.servers = {self.bootstrap}\n", encoding="utf-8")
        state = self.work / "state"
        shutil.rmtree(state, ignore_errors=True)
        options = ("--config", str(config), "--topic_name", topic, "--state_dir", str(state))
        return [*_OUR_PROGRAM, *what, *options, "--json", "--progress", "none"]

    def _theirs(self, program: str, path: Path, topic: str, *options: str) -> list[str]:
        config = peer.write_config(self.work / "peer.config", self.bootstrap)
        return [
            *(self.them.command(program), str(path), "--config", str(config)),
            *("--topic_name", topic, *options),
        ]

    def _bare(self, what: str, topic: str, *rest: str | Path) -> list[str]:
        return [sys.executable, "-m", "bench.bare", what, self.bootstrap, topic, *map(str, rest)]


class _Records:
    """How many records a topic of one partition holds, asked at most 20 times a second."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._place = TopicPartition(topic, 0)
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-count"})
        self._last = (0.0, 0)

    def count(self) -> int:
        if time.time() - self._last[0] > _ASK_SECONDS:
            _, high = self._consumer.get_watermark_offsets(self._place, timeout=_END_SECONDS)
            self._last = time.time(), high
        return self._last[1]

    def close(self) -> None:
        self._consumer.close()


def _all_reported(running: Running, times: Sequence[float], material: Material, event: str) -> None:
    if len(times) != len(material.digests):
        raise IntegrityError(
            f"{len(times)} of {len(material.digests)} files were reported as {event}:\n{running.last_words()}"
        )


def timed(command: Sequence[str], work: Path, runs: int) -> list[float]:
    """How long a command takes from start to end, in s, each time."""
    seconds = []
    for _ in range(runs):
        with Running(command, work) as running:
            usage = running.finish(_END_SECONDS)
        seconds.append(usage.ended - usage.began)
    return seconds
