"""How soon a file is where it should be: after its close, and after the close of one that was sent while it grew.

Every time is taken from outside, by whoever closes the file and by whoever sees the result, on one computer; the
definitions stand in docs/bench.md.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from blake3 import blake3
from confluent_kafka import Consumer, TopicPartition

from bench import targets
from bench.alone import END_SECONDS, SECONDS, Finding, Stage, judged, until_says, wait_until
from bench.material import digest_of
from openmsistream.core.wire.recognise import decode_record
from openmsistream.errors import IntegrityError, UnavailableError

LATENCY, GROWING = "latency", "growing"
_FILES_A_SECOND = 50
_FILE_BYTES = 10_000
_FOLDERS = 20
_PIECES_A_SECOND = 20
_POLL_SECONDS = 0.05
_NS = 1e9
_MS = 1e3


class Arrivals:
    """
    When the last chunk of each file could be read from a topic of one partition, seen by a consumer in a thread.

    Kafka hands a record out once all in-sync replicas have it, which is also when it acknowledges the record
    (acks=all). As a context manager it reads from the topic's end on.

    Attributes:
        at: ``time.monotonic`` of the last chunk by path.
    """

    def __init__(self, stage: Stage) -> None:
        self.at: dict[str, float] = {}
        self._over = threading.Event()
        self._consumer = Consumer({"bootstrap.servers": stage.bootstrap, "group.id": "bench-arrivals"})
        self._consumer.assign([TopicPartition(stage.topic, 0, stage.records())])
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Arrivals:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._over.is_set():
            message = self._consumer.poll(_POLL_SECONDS)
            now = time.monotonic()
            if message is None or message.error() is not None:
                continue
            value: Any = message.value()
            chunk = decode_record(value)
            if chunk.last:
                self.at[chunk.path] = now


def latency(stage: Stage, files: int) -> list[Finding]:
    """
    Close small files one by one beside an idle uploader with ``--settle close``.

    Args:
        stage: Where.
        files: How many, at 50/s.

    Raises:
        IntegrityError: A file did not arrive.
        UnavailableError: The program failed.
    """
    for number in range(_FOLDERS):
        (stage.watched / f"run {number}").mkdir()
    closed: dict[str, float] = {}
    with stage.watch("--settle", "close") as running, Arrivals(stage) as arrivals:
        until_says(running, "scan_done")  # what is there at the first start is not sent
        _close_one(stage, "first.dat", closed)  # the connection stands, and everything is imported
        running.wait_until(lambda: running.counted >= 1 and "first.dat" in arrivals.at, END_SECONDS)
        begin = time.monotonic()
        wall = time.time() - time.monotonic()
        for number in range(files):
            wait_until(begin + number / _FILES_A_SECOND)
            _close_one(stage, f"run {number % _FOLDERS}/scan {number}.dat", closed)
        running.wait_until(lambda: running.counted > files and len(arrivals.at) > files, END_SECONDS)
        running.quit()
        running.finish(END_SECONDS)
        told = {values["path"]: when - wall for when, values in running.reports_of("file_sent")}
    if told.keys() != closed.keys() or arrivals.at.keys() != closed.keys():
        raise IntegrityError(f"{stage.topic}: {len(told)} of {len(closed)} files were reported as sent")
    measured = [(arrivals.at[path] - when) * _MS for path, when in closed.items() if path != "first.dat"]
    reported = [(told[path] - when) * _MS for path, when in closed.items() if path != "first.dat"]
    return [
        judged(LATENCY, targets.LATENCY_MEDIAN, statistics.median(measured)),
        judged(LATENCY, targets.LATENCY_HIGH, _high(measured)),
        Finding(LATENCY, "close() to acknowledged, longest", max(measured), "ms"),
        Finding(LATENCY, "close() to file_sent, median", statistics.median(reported), "ms"),
        Finding(LATENCY, "close() to file_sent, 99 of 100", _high(reported), "ms"),
    ]


def growing(stage: Stage, total_bytes: int, seconds: float) -> list[Finding]:
    """
    Write one file over some time, with an uploader that sends it meanwhile and a downloader that receives it.

    Args:
        stage: Where.
        total_bytes: The size of the file in the end.
        seconds: How long it is written.

    Raises:
        IntegrityError: What was delivered is not what was written.
        UnavailableError: A program failed.
    """
    source = stage.watched / "growing.dat"
    with stage.download() as receiver, stage.watch("--stream_growing") as sender:
        until_says(receiver, "program_started")
        until_says(sender, "scan_done")
        digest, closed, behind = _write_slowly(source, total_bytes, seconds)
        receiver.wait_until(lambda: receiver.counted >= 1, SECONDS)
        sender.wait_until(lambda: sender.counted >= 1, END_SECONDS)
        for program in (sender, receiver):
            program.quit()
        sent, received = sender.finish(END_SECONDS), receiver.finish(END_SECONDS)
        delivered = receiver.times_of("file_delivered")[-1]
        told = sender.times_of("file_sent")[-1]
    if digest_of(stage.output / source.name) != digest:
        raise IntegrityError(f"{source.name}: what was delivered is not what was written")
    if behind > 1:
        raise UnavailableError(f"{source}: this disk is too slow: the file was written {behind:.1f} s late")
    return [
        judged(GROWING, targets.GROWING, delivered - closed),
        Finding(GROWING, "close() to file_sent", told - closed, "s"),
        Finding(GROWING, "uploader, CPU", sent.cpu_seconds / (total_bytes / 1e9), "s/GB"),
        Finding(GROWING, "uploader, peak memory", sent.rss_bytes / 1e6, "MB"),
        Finding(GROWING, "downloader, peak memory", received.rss_bytes / 1e6, "MB"),
    ]


def _close_one(stage: Stage, name: str, closed: dict[str, float]) -> None:
    with (stage.watched / name).open("wb", buffering=0) as file:
        file.write(os.urandom(_FILE_BYTES))
        # Before the call, so that nothing of it is left out.
        closed[name] = time.monotonic()


def _write_slowly(path: Path, total_bytes: int, seconds: float) -> tuple[bytes, float, float]:
    """Write evenly; returns the digest, when it was closed (s since 1970), and by how many s that was late."""
    pieces = max(1, round(seconds * _PIECES_A_SECOND))
    digest = blake3()
    begin = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for number in range(pieces):
            piece = os.urandom(total_bytes * (number + 1) // pieces - total_bytes * number // pieces)
            digest.update(piece)
            file.write(piece)
            wait_until(begin + seconds * (number + 1) / pieces)
        closed = time.time()
    return digest.digest(), closed, time.monotonic() - begin - seconds


def _high(values: list[float]) -> float:
    """The value that 99 of 100 do not exceed."""
    return statistics.quantiles(values, n=100)[-1]
