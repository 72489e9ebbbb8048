"""A disk that turns read-only while a download runs, as Linux makes of one on which it finds an error.

Made of real parts: an ext4 file system on an image, told by its own switch for tests that it has an error. Source:
Linux, ``fs/ext4/sysfs.c``, ``trigger_fs_error``.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.faults.disks import may_run, mounted, needs_ext4
from tests.faults.support import Place, fill, tree

pytestmark = needs_ext4

IMAGE_BYTES = 100 * 1024 * 1024
LOOP = ("-o", "loop,errors=remount-ro")


def turn_read_only(point: Path) -> None:
    """The system finds an error on the disk that is mounted there."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    (device,) = (Path(words[0]).name for words in mounts if words[1] == str(point))
    switch = Path("/sys/fs/ext4", device, "trigger_fs_error")
    if not switch.exists():
        pytest.skip("this kernel has no such switch")
    switch.write_text("an error", encoding="ascii")
    with pytest.raises(OSError, match="Read-only file system"):
        (point / "trial").write_bytes(b"")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty ext4 file system."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    may_run("mkfs.ext4", "-q", "-F", path)
    return path


@pytest.mark.parametrize("state", ["", "state of its own"], ids=["ledger there", "ledger elsewhere"])
def test_a_disk_that_turns_read_only_pauses_the_download_and_loses_nothing(
    place: Place, image: Path, state: str
) -> None:
    """It is told, with the reason, and no half file appears; once the disk is repaired the next start goes on."""
    words = ["--state-dir", place.base / state] if state else []
    fill(place.watched, {"first.dat": 5_000})
    place.send()
    with mounted(place.output, *LOOP, image), place.download(*words) as receiver:
        receiver.until_event("file_delivered")
        turn_read_only(place.output)
        fill(place.watched, {"second.dat": 5_000, "big.bin": 12_000_000})
        place.send()
        paused = receiver.until_event("storage_paused")
        assert str(place.output) in paused["reason"]
        assert "ead-only" in paused["reason"] + paused["hint"]
        assert tree(place.output).keys() == {b"first.dat"}
        assert receiver.quit() == 1
        assert receiver.stderr.count("Error:") == 1
        assert "Traceback" not in receiver.stderr
    subprocess.run(["e2fsck", "-fy", str(image)], check=False, capture_output=True)  # 1: it was repaired
    with mounted(place.output, *LOOP, image):
        assert tree(place.output) != tree(place.watched)  # so that it could be told if nothing went on
        place.fetch(*words)
        assert tree(place.output) == tree(place.watched)
