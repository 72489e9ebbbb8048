"""Files and folders that may not be read or written, or that vanish: one clear line, and what can be done is done."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import MakeTopic
from tests.faults.support import fill, tree
from tests.faults.typed import OK, as_root, like_any_user, linux, one_error, run, start


@linux
def test_a_file_without_the_right_to_read_it_is_named(folder: Path, lab: Path, topic: MakeTopic) -> None:
    """With the right that is missing, as the hint."""
    (folder / "scan.dat").chmod(0)

    done = run("upload", folder / "scan.dat", "--config", lab, "--topic-name", topic(), preexec_fn=like_any_user)

    assert "scan.dat: it cannot be read: Permission denied" in one_error(done)
    assert "the right to read" in done.stderr


@linux
def test_an_output_folder_without_the_right_to_write_is_named(tmp_path: Path, lab: Path, topic: MakeTopic) -> None:
    """With the right that is missing, as the hint."""
    out = tmp_path / "out"
    out.mkdir(mode=0o555)

    done = run("download", out, "--config", lab, "--topic-name", topic(), preexec_fn=like_any_user)

    assert f"{out}: the output folder cannot be written: Permission denied" in one_error(done)
    assert "the right to write" in done.stderr


@linux
def test_a_folder_below_the_watched_one_that_cannot_be_read_is_told_once(
    folder: Path, lab: Path, topic: MakeTopic
) -> None:
    """The rest is sent; the folder is looked at again once it can be read."""
    fill(folder, {"closed/inner.dat": 10})
    (folder / "closed").chmod(0)
    words = ("--watchdog-lag-time", 0, "--scan-seconds", 0.2, "--state-dir", folder.parent / "state", "--json")
    with start(
        "watch",
        folder,
        "--upload-existing",
        *("--config", lab, "--topic-name", topic()),
        *words,
        preexec_fn=like_any_user,
    ) as program:
        program.until_event("file_sent", path="scan.dat")
        program.until(lambda: [e for e in program.of("note") if "closed" in e["text"]], "it says so")
        (folder / "closed").chmod(0o755)
        program.until_event("file_sent", path="closed/inner.dat")
        assert program.quit() == OK
    assert len([e for e in program.of("note") if "closed" in e["text"]]) == 1


@as_root
def test_an_output_folder_on_a_read_only_disk_is_named(tmp_path: Path, lab: Path, topic: MakeTopic) -> None:
    """The error says read-only, not something about a database."""
    out = tmp_path / "out"
    out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(out)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        done = run("download", out, "--config", lab, "--topic-name", topic())
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)

    assert f"{out}: the output folder cannot be written: Read-only file system" in one_error(done)


def test_the_ledger_may_not_stand_in_the_watched_folder(folder: Path, lab: Path, topic: MakeTopic) -> None:
    """Nothing of ours stands in a folder that is watched."""
    done = run("watch", folder, "--config", lab, "--topic-name", topic(), "--state-dir", folder / "state")

    assert "lies in the watched folder" in one_error(done)
    assert tree(folder).keys() == {b"scan.dat"}


def test_a_watched_folder_that_vanishes_is_told_once_and_taken_up_again(
    folder: Path, lab: Path, topic: MakeTopic
) -> None:
    """A share that is unmounted for a while: one line, nothing taken as deleted, and it goes on."""
    away = folder.with_name("away")
    words = ("--watchdog-lag-time", 0, "--scan-seconds", 0.2, "--state-dir", folder.parent / "state", "--json")
    with start("watch", folder, "--upload-existing", "--config", lab, "--topic-name", topic(), *words) as program:
        program.until_event("file_sent", path="scan.dat")
        folder.rename(away)
        program.until(lambda: [e for e in program.of("note") if "cannot be listed" in e["text"]], "it says so")
        fill(away, {"meanwhile.dat": 10})
        away.rename(folder)
        program.until_event("file_sent", path="meanwhile.dat")
        assert program.quit() == OK

    assert program.paths("file_sent") == ["scan.dat", "meanwhile.dat"]
    assert len([e for e in program.of("note") if "cannot be listed" in e["text"]]) == 1
