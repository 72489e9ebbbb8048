"""Files that change while they are sent: a consumer never shows a mixture, and the last content arrives."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import blake3
import pytest

from openmsistream.local.broker import LocalBroker
from tests.faults.support import Place, Program, eventually, fill, program, tree

BIG_BYTES = 50_000_000
"""More than the producer's queue of 32 MiB holds, so that a broker that stands still stops it in the middle."""
OLD, NEW = (random.Random(seed).randbytes(BIG_BYTES) for seed in (1, 2))


def rewritten(path: Path) -> bytes | None:
    """The same length in the same file, other bytes."""
    with path.open("r+b") as file:
        file.write(NEW)
    return NEW


def truncated(path: Path) -> bytes | None:
    """Cut short in place."""
    os.truncate(path, 1_000_000)
    return OLD[:1_000_000]


def appended(path: Path) -> bytes | None:
    """Bytes are added."""
    with path.open("ab") as file:
        file.write(b"more")
    return OLD + b"more"


def replaced(path: Path) -> bytes | None:
    """Another file is renamed over it, with the size and the modification time of the first."""
    beside = path.parent.with_name("beside")
    before = path.stat()
    beside.write_bytes(NEW)
    os.utime(beside, ns=(before.st_atime_ns, before.st_mtime_ns))
    beside.replace(path)
    return NEW


def deleted(path: Path) -> bytes | None:
    """It is gone."""
    path.unlink()
    return None


CHANGES = (rewritten, truncated, appended, replaced, deleted)


def caught_in_the_middle(place: Place, broker: LocalBroker, stack: ExitStack, changes: str = "") -> Program:
    """An uploader that has read a part of the big file and waits for its broker, which stands still."""
    fill(place.watched, {"first.dat": 10})
    sender = stack.enter_context(place.watch("--upload-existing", "--watchdog-lag-time", 0.3, changes=changes))
    sender.until_event("file_sent", path="first.dat")
    broker.freeze()
    stack.callback(broker.thaw)
    beside = place.base / "beside"
    beside.write_bytes(OLD)
    beside.replace(place.watched / "big.bin")
    sender.until_event("file_started", path="big.bin")
    sender.until_event("file_progress", path="big.bin", count=3)
    return sender


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_file_that_changes_while_it_is_sent_never_arrives_mixed(
    risky: Place, victim: LocalBroker, change: Callable[[Path], bytes | None]
) -> None:
    """What is delivered is the first content or the last one, each whole; in the end it is the last one."""
    with ExitStack() as stack:
        receiver = stack.enter_context(risky.download())
        receiver.until_event("program_started")
        sender = caught_in_the_middle(risky, victim, stack)
        last = change(risky.watched / "big.bin")
        victim.thaw()
        if last is None:
            fill(risky.watched, {"after.dat": 10})
            sender.until_event("file_sent", path="after.dat")
        eventually(lambda: tree(risky.output) == tree(risky.watched), "the output is what the folder is now")
        whole = {blake3.blake3(content).hexdigest() for content in (OLD, last) if content is not None}
        delivered = {event["digest"] for event in receiver.of("file_delivered", path="big.bin")}
        assert delivered <= whole
        assert sender.quit() == 0
        assert receiver.quit() == 0
    assert receiver.of("quarantined") == []


def test_control_an_uploader_that_does_not_look_sends_a_mixture(risky: Place, victim: LocalBroker) -> None:
    """Without the look at the file before its last chunk, a mixture of both contents arrives."""
    with ExitStack() as stack:
        receiver = stack.enter_context(risky.download())
        receiver.until_event("program_started")
        caught_in_the_middle(risky, victim, stack, changes="trust_files")
        rewritten(risky.watched / "big.bin")
        victim.thaw()
        digest = receiver.until_event("file_delivered", path="big.bin")["digest"]
    assert digest not in {blake3.blake3(content).hexdigest() for content in (OLD, NEW)}


def test_a_second_uploader_of_the_same_folder_and_topic_is_refused(place: Place) -> None:
    """It says so in one line and ends with code 1; the first goes on."""
    with place.watch() as first:
        first.until_event("program_started")
        with place.watch() as second:
            assert second.wait() == 1
        assert second.of("program_started") == []
        assert second.stderr.count("Error:") == 1
        assert "an uploader of this folder to this topic is running already" in second.stderr
        assert "Traceback" not in second.stderr
        fill(place.watched, {"still.dat": 10})
        first.until_event("file_sent", path="still.dat")


@pytest.mark.parametrize("state", [[], ["one", "two"], ["one", ""]], ids=["its ledger", "two ledgers", "one elsewhere"])
def test_a_second_downloader_to_the_same_folder_is_refused(place: Place, state: list[str]) -> None:
    """Wherever its ledger is: it says so in one line and ends with code 1. Another one may follow the first."""
    one, two = (["--state-dir", place.base / name] if name else [] for name in state or ["", ""])
    with place.download(*one) as first:
        first.until_event("program_started")
        with place.download(*two) as second:
            assert second.wait() == 1
        assert second.stderr.count("Error:") == 1
        assert "a downloader of this topic to this folder is running already" in second.stderr
        assert first.quit() == 0
    with place.download(*two) as second:
        second.until_event("program_started")
        assert second.quit() == 0


def test_the_same_folder_may_be_sent_to_two_topics(place: Place, place3: Place) -> None:
    """The refusal is about folder and topic together: another topic has a ledger of its own."""
    with place.watch() as first:
        first.until_event("program_started")
        words = ("--config", place3.config, "--topic-name", place3.topic, "--state-dir", place.base / "state")
        with program("watch", place.watched, *words) as second:
            second.until_event("program_started")
            assert second.quit() == 0
