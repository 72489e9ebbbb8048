"""A disk that takes bytes and cannot keep them: what the system could not put there is never taken for delivered.

The system says so once, when it is asked to sync, and counts the bytes as being there from then on. Source: fsync(2),
"Errors"; LWN, "PostgreSQL's fsync() surprise" (2018). Made of real parts: an ext4 file system whose image stands on
a file system in memory with less room than it promises, as on a thinly provisioned store.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.disks import may_run, needs_ext4
from tests.faults.support import Place, fill, tree

pytestmark = needs_ext4

MANY = {f"{n // 50}/{n}.dat": 60_000 for n in range(600)}
LARGE = {"scan.raw": 36_000_000}
both = pytest.mark.parametrize("files", [MANY, LARGE], ids=["many", "large"])
PROMISED_BYTES, THERE_BYTES = 200 * 1024 * 1024, 17 * 1024 * 1024
REAL, ENOUGH = "18m", "300m"


class ThinDisk:
    """A file system at ``point`` that promises more room than there is below it."""

    def __init__(self, base: Path, point: Path) -> None:
        self.below, self.point = base / "below", point
        self.image = self.below / "image"

    def enlarge(self) -> None:
        """What it promises is there from now on."""
        subprocess.run(["mount", "-o", f"remount,size={ENOUGH}", str(self.below)], check=True)

    def forget_cached(self) -> None:
        """From now on what is read comes from the disk."""
        subprocess.run(["umount", str(self.point)], check=True)
        subprocess.run(["mount", "-o", "loop,errors=continue", str(self.image), str(self.point)], check=True)


@contextmanager
def thin_disk(base: Path, point: Path) -> Iterator[ThinDisk]:
    disk = ThinDisk(base, point)
    disk.below.mkdir()
    point.mkdir()
    may_run("mount", "-t", "tmpfs", "-o", f"size={REAL}", "tmpfs", disk.below)
    try:
        with disk.image.open("wb") as image:
            image.truncate(PROMISED_BYTES)
        may_run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=0", disk.image)
        with disk.image.open("r+b") as image:  # what the file system has of its own is at the beginning: that is kept
            os.posix_fallocate(image.fileno(), 0, THERE_BYTES)
        may_run("mount", "-o", "loop,errors=continue", disk.image, point)
        try:
            yield disk
        finally:
            subprocess.run(["umount", str(point)], check=False)
    finally:
        subprocess.run(["umount", str(disk.below)], check=True)


@both
def test_what_a_disk_could_not_keep_is_read_again_until_it_can(place: Place, files: dict[str, int]) -> None:
    """It is told, with the folder and the reason; and what stands in the end is what was sent, on the disk itself."""
    fill(place.watched, files)
    place.send()
    with thin_disk(place.base, place.output) as disk:
        with place.download() as receiver:
            (told, *_) = receiver.until(
                lambda: [note for note in receiver.of("note") if "did not take" in note["text"]], "it is told"
            )
            assert str(place.output) in told["text"]
            disk.enlarge()
            receiver.until(lambda: tree(place.output) == tree(place.watched), "everything arrived")
            assert receiver.quit() == 0
        disk.forget_cached()
        assert tree(place.output) == tree(place.watched)
        assert receiver.of("quarantined") == receiver.of("file_failed") == []


@both
def test_control_a_program_that_syncs_once_more_delivers_files_that_are_not_there(
    place: Place, files: dict[str, int]
) -> None:
    """Taking the second answer for the truth, as most programs do: the test above can fail."""
    fill(place.watched, files)
    place.send()
    with thin_disk(place.base, place.output) as disk:
        with place.download(changes="sync_once_more") as receiver:
            receiver.until_event("storage_paused")
            disk.enlarge()
            receiver.until_event("file_delivered", count=len(files))
            receiver.quit()
        disk.forget_cached()
        assert tree(place.output) != tree(place.watched)
