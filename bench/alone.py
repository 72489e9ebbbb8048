"""What the scenarios share in which our programs run with nobody to compare them with: folders, topics, findings.

Knows our command lines and the broker; not what is measured. A finding is a number with its unit, and with the
target it is judged by when there is one.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from bench.running import Running
from bench.targets import Target
from openmsistream.errors import IntegrityError
from openmsistream.local.topics import create_topic

SECONDS = 900.0
END_SECONDS = 60.0
_OUR_PROGRAM = (sys.executable, "-m", "openmsistream")
_PAUSE_SECONDS = 0.0005


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One measured number.

    Attributes:
        scenario: What was done, e.g. ``latency``.
        name: What was measured.
        value: The number.
        unit: What it is counted in.
        target: What it is judged by; None: it is only told.
        load: Load average of the machine over the last minute, when it was measured.
    """

    scenario: str
    name: str
    value: float
    unit: str
    target: Target | None = None
    load: float = field(default_factory=lambda: os.getloadavg()[0])


def judged(scenario: str, target: Target, value: float) -> Finding:
    """A finding that has a target."""
    return Finding(scenario, target.name, value, target.unit, target)


class Stage:
    """
    One scenario's folders and topic; a context manager that leaves nothing behind.

    Args:
        bootstrap: The broker's address.
        work: Where to work; on the disk that is written to.
        name: The scenario.

    Attributes:
        watched: The folder to watch, empty at first.
        output: The folder to download to.
    """

    def __init__(self, bootstrap: str, work: Path, name: str) -> None:
        self.bootstrap, self.name = bootstrap, name
        self.base = work / name
        self.watched, self.output, self.state = (self.base / part for part in ("watched", "output", "state"))
        self.topic = f"{name}-{time.time_ns()}"

    def __enter__(self) -> Stage:
        shutil.rmtree(self.base, ignore_errors=True)
        self.watched.mkdir(parents=True)
        self._config = self.base / "ours.config"
        self._config.write_text(f"[broker]\nbootstrap.servers = {self.bootstrap}\n", encoding="utf-8")
        create_topic(self.bootstrap, self.topic, config={"file.delete.delay.ms": "1000"})
        return self

    def __exit__(self, *_: object) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for future in admin.delete_topics([self.topic]).values():
            future.result()
        shutil.rmtree(self.base, ignore_errors=True)

    def watch(self, *options: str) -> Running:
        """Start the uploader on the watched folder; lines that tell of a file sent are counted."""
        words = ("watch", str(self.watched), "--state_dir", str(self.state), *options)
        return self._program(words, "file_sent")

    def download(self) -> Running:
        """Start the downloader; lines that tell of a file delivered are counted."""
        return self._program(("download", str(self.output)), "file_delivered")

    def records(self) -> int:
        """How many records the topic holds."""
        with closing(Consumer({"bootstrap.servers": self.bootstrap, "group.id": "bench-count"})) as consumer:
            _, high = consumer.get_watermark_offsets(TopicPartition(self.topic, 0), timeout=END_SECONDS)
        return int(high)

    def require_sent(self, files: int) -> None:
        """
        Check that the topic holds at least a record for each file.

        Raises:
            IntegrityError: It does not.
        """
        if self.records() < files:
            raise IntegrityError(f"topic {self.topic}: {self.records()} records of {files} files are there")

    def _program(self, words: Sequence[str], mark: str) -> Running:
        notes = self.base / words[0]
        notes.mkdir(exist_ok=True)
        common = ("--config", str(self._config), "--topic_name", self.topic, "--json", "--progress", "none")
        return Running([*_OUR_PROGRAM, *words, *common], notes, count=f'"{mark}"')


def until_says(running: Running, event: str) -> None:
    """Return when the program has reported this event."""
    running.wait_until(lambda: bool(running.reports_of(event)), SECONDS)


def wait_until(when: float) -> None:
    """Return at this time of the monotonic clock, to about a millisecond."""
    while (left := when - time.monotonic()) > 0:
        time.sleep(max(left - _PAUSE_SECONDS, _PAUSE_SECONDS))


Play = Callable[[Stage], list[Finding]]


def played(
    plays: Mapping[str, Play],
    bootstrap: str,
    work: Path,
    wanted: Collection[str],
    say: Callable[[str], None],
) -> list[Finding]:
    """
    Run the wanted scenarios once, each in a folder and with a topic of its own, which are removed after it.

    Args:
        plays: What each scenario does.
        bootstrap: The broker's address.
        work: A folder on the disk that is to be used.
        wanted: Names of scenarios; others are passed over.
        say: Called with a line for each finding.

    Raises:
        IntegrityError: Something did not arrive as it was.
        UnavailableError: A program failed.
    """
    found: list[Finding] = []
    for name, play in plays.items():
        if name not in wanted:
            continue
        with Stage(bootstrap, work, name) as stage:
            for finding in play(stage):
                found.append(finding)
                say(f"{finding.scenario:10}  {finding.name}: {finding.value:.4g} {finding.unit}")
    return found
