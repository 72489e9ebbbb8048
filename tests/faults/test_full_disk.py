"""The output folder's disk is full: the downloader says so once, waits, goes on when there is room, loses nothing."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.disks import disk_in_memory
from tests.faults.support import Place, Program, fill, tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits disk space by means that only Linux has")

FILES = {f"{n}.dat": 400_000 for n in range(30)} | {"big.bin": 9_000_000}
LIMIT_BYTES = 1_000_000


def enlarge(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def check_it_waited_and_went_on(place: Place, receiver: Program) -> None:
    receiver.until_event("storage_back")
    receiver.until(lambda: tree(place.output) == tree(place.watched), "everything arrived once there was room")
    assert receiver.quit() == 0
    assert len(receiver.of("storage_paused")) == len(receiver.of("storage_back"))
    told = receiver.paths("file_delivered")
    assert len(told) == len(set(told)) == len(tree(place.watched))
    assert receiver.of("quarantined") == receiver.of("file_failed") == []
    assert receiver.stderr == ""


def test_a_full_disk_pauses_the_download_until_there_is_room(place: Place) -> None:
    """One clear line while the disk is full, no half file, and everything arrives once there is room."""
    fill(place.watched, FILES)
    place.send("--chunk-size", 131_072)
    with disk_in_memory(place.output, "size=6m"), place.download() as receiver:
        paused = receiver.until_event("storage_paused")
        assert str(place.output) in paused["reason"]
        assert "No space left on device" in paused["reason"]
        assert "make room" in paused["hint"]
        assert tree(place.output).items() <= tree(place.watched).items()
        enlarge(place.output, "size=64m")
        check_it_waited_and_went_on(place, receiver)
        assert len(receiver.of("storage_paused")) == 1


def test_a_disk_that_gets_full_in_the_middle_of_a_batch_of_renames_loses_nothing(place: Place) -> None:
    """What was renamed before the disk refused stays as it is when the batch is tried again."""
    fill(place.watched, {"a.dat": 1000, "folder/b.dat": 2000, "folder/deeper/c.dat": 3000})
    place.send()
    # Inodes: the root, our work folder with its two folders, the lock and three files of the ledger, three partial
    # files; the two folders that the files stand in do not fit any more.
    with disk_in_memory(place.output, "size=6m,nr_inodes=12"), place.download() as receiver:
        receiver.until_event("storage_paused")
        enlarge(place.output, "size=6m,nr_inodes=1000")
        check_it_waited_and_went_on(place, receiver)


@pytest.mark.parametrize("number", [3, 9], ids=["synced one by one", "synced together"])
def test_a_ledger_that_cannot_be_written_for_a_while_loses_nothing(place: Place, number: int) -> None:
    """Files that were renamed when the ledger refused are not replaced by anything when the barrier is tried again."""
    fill(place.watched, {f"{n}.dat": 5_000 * n for n in range(number)})
    place.send()
    with place.download(changes="ledger_refuses_twice") as receiver:
        check_it_waited_and_went_on(place, receiver)


def test_a_limit_on_file_size_pauses_the_download_until_it_is_raised(place: Place) -> None:
    """The same where nobody may mount: the system refuses to let files grow, then allows it."""
    fill(place.watched, {"small.dat": 1000, "big.bin": 4_000_000})
    place.send("--chunk-size", 131_072)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))

    with place.download(preexec_fn=limited) as receiver:
        paused = receiver.until_event("storage_paused")
        assert os.strerror(27) in paused["reason"]
        resource.prlimit(receiver.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        check_it_waited_and_went_on(place, receiver)


def test_a_download_that_is_ended_while_the_disk_is_full_says_so_and_goes_on_later(place: Place) -> None:
    """``q`` ends it with a reason and a non-zero code; what was not written then comes with the next start."""
    fill(place.watched, {"small.dat": 1000, "big.bin": 4_000_000})
    place.send("--chunk-size", 131_072)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

    with place.download(preexec_fn=limited) as receiver:
        receiver.until_event("storage_paused")
        assert receiver.quit() == 1
        assert receiver.stderr.count("Error:") == 1
        assert "output folder cannot be written" in receiver.stderr

    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_control_a_downloader_that_reads_on_loses_files(place: Place) -> None:
    """Leaving out what cannot be written, as a naive program does, loses it: the tests above can fail."""
    fill(place.watched, {"big.bin": 4_000_000})
    place.send("--chunk-size", 131_072)

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, LIMIT_BYTES))

    with place.download("--until-idle", 1, changes="go_on_when_full", preexec_fn=limited) as receiver:
        receiver.wait()
    place.fetch()

    assert tree(place.output) != tree(place.watched)
