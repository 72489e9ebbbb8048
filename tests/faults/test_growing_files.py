"""Files that are sent while they are still being written: complete soon after their end, right, and never a mixture.

A writer of its own goes on or ends only when it is told to, so that what is asserted depends on order alone: how soon
everything happens is for the benchmarks to say.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest
from confluent_kafka import Consumer, TopicPartition

from openmsistream.core.chunk import DEFAULT_CHUNK_BYTES as CHUNK
from openmsistream.core.paths import WORK_FOLDER
from tests.faults.records import OnTopic, by_path, on_topic
from tests.faults.support import LONG, PATIENCE_SECONDS, Place, Program, eventually, fill, tree

SIZE_BYTES, WRITE_SECONDS = (2_000_000_000, 60) if LONG else (60_000_000, 4)
STREAM = ("--stream-growing",)
WRITER = """
import random, sys, time
path, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
source, begun, pieces = random.Random(size), time.monotonic(), 100
with open(path, "wb", buffering=0) as file:
    for piece in range(pieces):
        left = size * (piece + 1) // pieces - file.tell()
        while left:
            left -= file.write(source.randbytes(min(left, 1_000_000)))
        time.sleep(max(0, begun + seconds * (piece + 1) / pieces - time.monotonic()))
    print("written", flush=True)
    if input() == "patch":
        file.seek(4)
        file.write(b"PATCHED!")
"""


class Log:
    """How many records a topic of one partition has, asked of the broker."""

    def __init__(self, place: Place) -> None:
        self._where = TopicPartition(place.topic, 0)
        self._client = Consumer({"bootstrap.servers": place.bootstrap, "group.id": "test-count", "log_level": 0})

    def records(self) -> int:
        return int(self._client.get_watermark_offsets(self._where, timeout=PATIENCE_SECONDS)[1])

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def log(place: Place) -> Iterator[Log]:
    """The topic of the place."""
    counted = Log(place)
    yield counted
    counted.close()


class Growing:
    """A file that this test appends to, and keeps open until the end of the ``with`` block."""

    def __init__(self, path: Path, log: Log) -> None:
        self.path = path
        self._log, self._source = log, random.Random(str(path.name))
        self._file: IO[bytes] = path.open("wb", buffering=0)

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, chunks: int) -> None:
        """Write so many chunks' bytes more."""
        self._file.write(self._source.randbytes(chunks * CHUNK))

    def append_and_await(self, chunks: int) -> None:
        """The same and a little more; returns when all but one of these chunks are on the topic."""
        before = self._log.records()
        self.append(chunks)

        def streamed() -> bool:
            records = self._log.records()
            if records == before:
                self._file.write(b"more")  # it has to be seen growing: what was written at once may not be
            return records >= before + chunks - 1

        eventually(streamed, "what was written is on the topic")

    def truncate(self, size: int) -> None:
        """Cut it, and go on behind the cut."""
        self._file.truncate(size)
        self._file.seek(size)

    def patch(self) -> None:
        """Write over bytes near the beginning, as instruments do with headers, and go on at the end."""
        self._file.seek(4)
        self._file.write(b"PATCHED!")
        self._file.seek(0, os.SEEK_END)


def writing(path: Path) -> Program:
    """A process that writes a big file for some seconds, says so, and closes it when a line is typed."""
    return Program([sys.executable, "-c", WRITER, str(path), str(SIZE_BYTES), str(WRITE_SECONDS)])


@contextmanager
def running(place: Place, *options: object, changes: str = "") -> Iterator[tuple[Program, Program]]:
    """An uploader that has scanned its folder, and a downloader; both end well at the end of a test that went well."""
    with ExitStack() as stack:
        receiver = stack.enter_context(place.download())
        sender = stack.enter_context(place.watch(*options, changes=changes))
        receiver.until_event("program_started")
        sender.until_event("scan_done")
        yield sender, receiver
        assert sender.quit() == 0
        assert receiver.quit() == 0


def versions(place: Place, name: str) -> list[OnTopic]:
    """What the topic holds of a file, oldest version first."""
    return by_path(on_topic(place.bootstrap, place.topic).values()).get(name.encode(), [])


def partials(place: Place) -> list[str]:
    """The partial files in the downloader's work folder."""
    return [entry.name for entry in (place.output / WORK_FOLDER / "partial").rglob("*.part")]


def arrived(place: Place) -> bool:
    """True when the output is what the watched folder is now."""
    return tree(place.output) == tree(place.watched)


# -- from the first byte to the close -----------------------------------------------------------------------------


def test_a_growing_file_stays_at_most_two_chunks_behind_its_writer_and_is_complete_when_it_is_closed(
    place: Place, log: Log, record_property: Callable[[str, object], None]
) -> None:
    """Before the close all but two chunks are on the topic and nothing is shown; behind it the file is there, right."""
    with running(place, *STREAM) as (sender, receiver), writing(place.watched / "big.bin") as instrument:
        instrument.until(lambda: "written\n" in instrument.lines, "the instrument has written everything")
        sender.until(lambda: log.records() * CHUNK >= SIZE_BYTES - 2 * CHUNK, "all but two chunks are on the topic")
        assert sender.of("file_sent") == []
        assert tree(place.output) == {}
        closed = time.monotonic()
        instrument.type("close")
        receiver.until_event("file_delivered", path="big.bin")
        record_property("seconds from close to delivery", round(time.monotonic() - closed, 2))
        assert arrived(place)
    (version,) = versions(place, "big.bin")
    assert (version.bytes, version.lasts, version.aborts) == (SIZE_BYTES, 1, 0)


def test_a_header_patched_before_the_close_gives_the_patched_file(place: Place, log: Log) -> None:
    """The version that was streamed is given up, with its bytes at the consumer; only the patched file is delivered."""
    with running(place, *STREAM) as (_, receiver), Growing(place.watched / "scan.raw", log) as file:
        file.append_and_await(20)
        file.patch()
        file.__exit__()
        receiver.until_event("file_superseded", path="scan.raw")
        receiver.until_event("file_delivered", path="scan.raw")
        assert arrived(place)
        assert partials(place) == []
    assert len(receiver.of("file_delivered")) == 1
    assert receiver.of("quarantined") == []
    first, second = versions(place, "scan.raw")
    assert (first.lasts, first.aborts) == (0, 1)
    assert (second.bytes, second.lasts, second.aborts) == (file.path.stat().st_size, 1, 0)


def test_control_without_the_second_reading_a_wrong_file_is_certified(place: Place, log: Log) -> None:
    """An uploader that does not read again what it sent delivers the file with its old header, and nobody objects."""
    changes = "never_read_again"
    with running(place, *STREAM, changes=changes) as (_, receiver), Growing(place.watched / "scan.raw", log) as file:
        file.append_and_await(20)
        file.patch()
        file.__exit__()
        receiver.until_event("file_delivered", path="scan.raw")
        assert not arrived(place)
        assert tree(place.output).keys() == {b"scan.raw"}
    assert receiver.of("quarantined") == []


# -- files that do not just grow ------------------------------------------------------------------------------------


def truncated(file: Growing, place: Place, log: Log) -> None:
    """Cut short in place; its writer goes on there."""
    file.truncate(CHUNK)


def deleted(file: Growing, place: Place, log: Log) -> None:
    """Gone, while its writer still has it open."""
    file.path.unlink()


def replaced_from_outside(file: Growing, place: Place, log: Log) -> None:
    """Another file is moved over it."""
    beside = place.base / "beside"
    beside.write_bytes(b"n" * 12 * CHUNK)
    beside.replace(file.path)


def replaced_from_within(file: Growing, place: Place, log: Log) -> None:
    """Another file that was written in the watched folder is renamed to its name."""
    beside = file.path.with_name("scan.raw.part")
    beside.write_bytes(b"n" * 12 * CHUNK)
    beside.replace(file.path)


def replaced_by_a_streamed_one(file: Growing, place: Place, log: Log) -> None:
    """Another file that was streamed, too, is renamed to its name."""
    with Growing(file.path.with_name("scan.raw.part"), log) as other:
        other.append_and_await(12)
    other.path.replace(file.path)


CHANGES = (truncated, deleted, replaced_from_outside, replaced_from_within, replaced_by_a_streamed_one)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_does_not_just_grow_is_given_up_and_what_is_there_in_the_end_arrives(
    place: Place, log: Log, change: Callable[[Growing, Place, Log], None]
) -> None:
    """Consumers discard what they have of it at once, while its writer goes on; nothing else is ever delivered."""
    with running(place, *STREAM, "--stream-temporary") as (sender, receiver):
        with Growing(place.watched / "scan.raw", log) as file:
            file.append_and_await(10)
            change(file, place, log)
            receiver.until_event("file_superseded", path="scan.raw")
            file.append(3)
        fill(place.watched, {"after.dat": 10})
        receiver.until_event("file_delivered", path="after.dat")
        eventually(lambda: arrived(place), "the output is what the folder is now")
        eventually(lambda: partials(place) == [], "no bytes are left of what was given up")
        assert sender.of("file_failed") == []
    first = versions(place, "scan.raw")[0]
    assert (first.lasts, first.aborts) == (0, 1)
    assert len(receiver.of("file_delivered", path="scan.raw")) == (change is not deleted)
    assert receiver.of("quarantined") == []


# -- temporary names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ((), {b"scan.raw"}),
        (("--download-regex", r".*\.raw$"), {b"scan.raw"}),
        (("--download-regex", r".*\.part$"), set()),
    ],
    ids=["all", "by its final name", "by its temporary name"],
)
def test_a_file_streamed_under_a_temporary_name_arrives_under_its_final_one(
    place: Place, log: Log, options: tuple[str, ...], names: set[bytes]
) -> None:
    """One version, every byte once; consumers choose by the final name, whatever the first chunks were called."""
    with place.watch(*STREAM, "--stream-temporary") as sender:
        sender.until_event("scan_done")
        with Growing(place.watched / "scan.raw.part", log) as file:
            file.append_and_await(20)
        assert sender.of("file_sent") == []
        file.path.rename(place.watched / "scan.raw")
        sender.until_event("file_sent", path="scan.raw")
        assert sender.quit() == 0
    place.fetch(*options)

    assert tree(place.output) == {path: digest for path, digest in tree(place.watched).items() if path in names}
    assert partials(place) == []
    (version,) = versions(place, "scan.raw.part")
    assert (version.bytes, version.lasts, version.aborts) == ((place.watched / "scan.raw").stat().st_size, 1, 0)


def test_a_temporary_name_is_not_streamed_unless_asked(place: Place, log: Log) -> None:
    """Other files go meanwhile; this one goes when it has its final name."""
    with running(place, *STREAM) as (_, receiver):
        with Growing(place.watched / "scan.raw.part", log) as file:
            with Growing(place.watched / "other.raw", log) as other:
                for _ in range(5):
                    file.append(2)
                    other.append_and_await(3)
            receiver.until_event("file_delivered", path="other.raw")
        assert versions(place, "scan.raw.part") == []
        file.path.rename(place.watched / "scan.raw")
        receiver.until_event("file_delivered", path="scan.raw")
        assert arrived(place)


# -- without the option -----------------------------------------------------------------------------------------------


def test_without_the_option_a_file_with_pauses_is_sent_once(place: Place) -> None:
    """Closed after every piece, pauses far below the quiet time: bytes on the topic stay within 5 % of its size."""
    path, pauses = place.watched / "scan.raw", [0.0]
    with running(place, "--watchdog-lag-time", 5, "--closed-lag-time", 5) as (_, receiver):
        last = time.monotonic()
        for piece in range(12):
            with path.open("ab") as file:
                file.write(random.Random(piece).randbytes(CHUNK))
            pauses.append(time.monotonic() - last)
            last = time.monotonic()
            time.sleep(0.15)  # the pause of the instrument: it is what this test is about
        assert max(pauses) < 2.5, "this computer was too busy for the pauses to be short ones"
        receiver.until_event("file_delivered", path="scan.raw")
        assert arrived(place)
    assert sum(version.bytes for version in versions(place, "scan.raw")) <= 1.05 * path.stat().st_size


def test_without_the_option_a_file_that_is_held_open_is_sent_once_however_long_its_pauses(
    place: Place, log: Log
) -> None:
    """Its writer pauses until other files, written later, were sent: nothing of it goes before its close."""
    with running(place, "--watchdog-lag-time", 0.1) as (sender, receiver):
        with Growing(place.watched / "scan.raw", log) as file:
            for pause in range(3):
                file.append(10)
                fill(place.watched, {f"{pause}.dat": 10})
                sender.until_event("file_sent", path=f"{pause}.dat")
            assert versions(place, "scan.raw") == []
        receiver.until_event("file_delivered", path="scan.raw")
        assert arrived(place)
    (version,) = versions(place, "scan.raw")
    assert (version.bytes, version.lasts) == (30 * CHUNK, 1)


# -- kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("while_off", ["nothing", "grows", "closed"])
def test_an_uploader_killed_while_a_file_grows_goes_on_with_the_same_version(
    place: Place, log: Log, while_off: str
) -> None:
    """What was acknowledged is not sent again, whatever the writer did meanwhile; the file is right in the end."""
    with ExitStack() as stack:
        receiver = stack.enter_context(place.download())
        file = stack.enter_context(_until_killed(place, log))
        if while_off != "nothing":
            file.append(10)
        if while_off == "closed":
            file.__exit__()
        with place.watch(*STREAM) as sender:
            sender.until_event("scan_done")
            if while_off != "closed":
                file.append_and_await(20)
                file.__exit__()
            receiver.until_event("file_delivered", path="scan.raw")
            assert arrived(place)
            assert sender.quit() == 0
            assert any(event["resumed_at"] >= 10 * CHUNK for event in sender.of("file_started"))
    (version,) = versions(place, "scan.raw")
    size = (place.watched / "scan.raw").stat().st_size
    assert (version.lasts, version.aborts) == (1, 0)
    assert size <= version.bytes <= size + 10 * CHUNK


@pytest.mark.parametrize("while_off", ["patched", "truncated", "deleted", "renamed"])
def test_a_file_that_was_changed_while_its_uploader_was_dead_is_begun_anew(
    place: Place, log: Log, while_off: str
) -> None:
    """The version under way is given up at the next start, so that no consumer keeps it for ever."""
    with ExitStack() as stack:
        receiver = stack.enter_context(place.download())
        with _until_killed(place, log) as file:
            file.append(10)
            if while_off == "patched":
                file.patch()
            if while_off == "truncated":
                file.truncate(CHUNK)
        if while_off == "deleted":
            file.path.unlink()
        if while_off == "renamed":
            file.path.rename(file.path.with_name("final.raw"))
        with place.watch(*STREAM) as sender:
            receiver.until_event("file_superseded", path="scan.raw")
            eventually(lambda: arrived(place), "the output is what the folder is now")
            assert partials(place) == []
            assert sender.quit() == 0
    first = versions(place, "scan.raw")[0]
    assert (first.lasts, first.aborts) == (0, 1)
    assert receiver.of("quarantined") == []


@contextmanager
def _until_killed(place: Place, log: Log) -> Iterator[Growing]:
    """A file of which more than ten chunks were streamed and acknowledged when its uploader was killed."""
    with place.watch(*STREAM) as sender:
        sender.until_event("scan_done")
        with Growing(place.watched / "scan.raw", log) as file:
            file.append_and_await(20)
            sender.until(
                lambda: any(event["done"] >= 15 * CHUNK for event in sender.of("file_progress", path="scan.raw")),
                "it knows that most of it was acknowledged",
            )
            fill(place.watched, {"other.dat": 10})
            sender.until_event("file_sent", path="other.dat")
            _await_commit(place, log, file)
            sender.kill()
            yield file


def _await_commit(place: Place, log: Log, file: Growing) -> None:
    """A commit is made after every 4 MiB that were acknowledged: after this, the ledger has the first ten chunks."""
    file.append_and_await(10)


def test_a_downloader_killed_in_the_middle_of_a_growing_file_goes_on(place: Place, log: Log) -> None:
    """Nothing is shown of it before; the next start needs what came meanwhile, and the file is right."""
    with place.watch(*STREAM) as sender:
        sender.until_event("scan_done")
        with Growing(place.watched / "scan.raw", log) as file:
            with place.download() as first:
                first.until_event("program_started")
                file.append_and_await(20)
                first.until(
                    lambda: any(event["done"] >= 10 * CHUNK for event in first.of("file_progress", path="scan.raw")),
                    "it has half of what was written",
                )
                first.kill()
            assert tree(place.output) == {}
            file.append_and_await(10)
            with place.download() as second:
                second.until_event("program_started")
                file.append_and_await(10)
                file.__exit__()
                second.until_event("file_delivered", path="scan.raw")
                assert arrived(place)
                assert second.quit() == 0
        assert sender.quit() == 0
    (version,) = versions(place, "scan.raw")
    assert (version.bytes, version.lasts) == (file.path.stat().st_size, 1)
