"""Watching real folders on Linux: what is hinted, when, and that nothing is lost between watching and listing."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.inotify import InotifySource
from openmsistream.adapters.filesystem.watching import FolderWatcher
from openmsistream.errors import SourceError
from tests.conformance.suites_kafka import wait_until
from tests.integration.watched import as_nobody, linux_only, watching

pytestmark = linux_only


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root µ" / "run").mkdir(parents=True)
    return tmp_path / "root µ"


def test_a_file_is_hinted_as_closed_only_once_it_is_closed(root: Path):
    """An open file is hinted, and not as closed; the control is the same file after its close."""
    with watching(root) as watched:
        with (root / "run" / "a").open("wb") as file:
            file.write(b"1")
            file.flush()
            watched.until(lambda: "run/a" in watched.seen)
            assert not any(hints.closed for hints in watched.taken)
        watched.until_hints(lambda hints: "run/a" in hints.closed)


def test_a_file_that_is_written_again_after_a_close_is_not_hinted_as_closed(root: Path):
    """What was noticed last counts: a second writer is still at work."""
    with watching(root) as watched:
        (root / "a").write_bytes(b"1")
        with (root / "a").open("ab") as file:
            file.write(b"2")
            file.flush()
            (root / "b").write_bytes(b"")
            watched.until(lambda: "b" in watched.seen)
            assert "a" not in watched.taken[-1].closed


def test_a_closed_file_stays_closed_under_its_new_name_and_the_first_name_is_told(root: Path):
    """Written under a temporary name, closed, renamed twice: one look tells all that counts."""
    watcher = FolderWatcher(root, lambda _: None)
    watcher.start()
    try:
        list(watcher.scan())
        (root / "run" / "a.tmp").write_bytes(b"1")
        (root / "run" / "a.tmp").rename(root / "run" / "a.part")
        (root / "run" / "a.part").rename(root / "a")
        (root / "last").write_bytes(b"")
        deadline, closed, renamed = time.monotonic() + 30, set[str](), dict[str, str]()
        while "last" not in closed and time.monotonic() < deadline:
            watcher.wait(1)
            hints = watcher.hints()
            closed |= hints.closed
            renamed |= hints.renamed
    finally:
        watcher.stop()
    names = ["a"]  # and those that a look saw it under before
    while names[-1] in renamed:
        names.append(renamed[names[-1]])
    assert names[-1] == "run/a.tmp"
    assert closed & set(names)


def test_hints_come_at_once(root: Path):
    """From close() to the hint in the waiting thread: a few milliseconds at most, however it is measured here."""
    with watching(root) as watched:
        took = []
        for number in range(20):
            (root / "run" / f"{number}").write_bytes(b"1")
            closed = time.perf_counter()
            while f"run/{number}" not in watched.watcher.hints().closed:
                watched.watcher.wait(1)
                assert time.perf_counter() < closed + 30
            took.append(time.perf_counter() - closed)
        assert sorted(took)[len(took) // 2] < 0.01


def test_a_watcher_with_nothing_to_tell_does_nothing(root: Path):
    """The reading thread sleeps in the kernel: it is not put on a processor once while nothing happens."""
    with watching(root) as watched:
        (thread,) = (each for each in threading.enumerate() if each.name == "inotify" and each.is_alive())
        status = Path(f"/proc/self/task/{thread.native_id}/status")
        watched.settle()

        def slept() -> bool:
            before = [line for line in status.read_text().splitlines() if "ctxt" in line]
            watched.watcher.wait(1.0)
            return [line for line in status.read_text().splitlines() if "ctxt" in line] == before

        # One that looks by itself never sleeps for a second; a busy computer may be late with what came before.
        assert any(slept() for _ in range(5))


def test_a_tree_that_is_moved_in_is_found_and_watched(root: Path, tmp_path: Path):
    """Its files cause no event of their own; what comes into it later does."""
    (tmp_path / "made elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "made elsewhere" / "deep" / "a").write_bytes(b"1")
    with watching(root) as watched:
        (tmp_path / "made elsewhere").rename(root / "in")
        watched.until(lambda: "in/deep/a" in watched.seen)
        (root / "in" / "deep" / "b").write_bytes(b"1")
        watched.until_hints(lambda hints: "in/deep/b" in hints.closed)


def test_no_file_is_lost_however_fast_folders_are_made(root: Path):
    """200 times `mkdir -p` and a file at once, found by hints and scans of hinted folders alone."""
    with watching(root) as watched:
        wanted = {f"{number % 7}/x{number}/y/z/file" for number in range(200)}
        for path in sorted(wanted):
            (root / path).parent.mkdir(parents=True)
            (root / path).write_bytes(b"1")
        watched.until(lambda: wanted <= watched.seen)


def test_a_moved_folder_gives_hints_under_its_new_name_alone(root: Path):
    """Renamed, and the folder above renamed as well: the watches below follow."""
    (root / "run" / "deep").mkdir()
    with watching(root) as watched:
        (root / "run" / "deep").rename(root / "run" / "deeper")
        (root / "run").rename(root / "ran")
        watched.until(lambda: any("ran" in hints.folders for hints in watched.taken))
        watched.taken.clear()
        (root / "ran" / "deeper" / "a").write_bytes(b"1")
        hints = watched.until_hints(lambda hints: "ran/deeper/a" in hints.closed)
        assert hints.files == {"ran/deeper/a"}


def test_a_folder_that_was_moved_out_gives_no_hints_any_more(root: Path, tmp_path: Path):
    """What happens in it is not ours to tell; the control is a file in a folder that stayed."""
    (root / "stays").mkdir()
    with watching(root) as watched:
        (root / "run").rename(tmp_path / "out")

        def write_outside() -> None:
            watched.taken.clear()
            (tmp_path / "out" / "a").write_bytes(b"1")
            watched.settle()

        write_outside()
        wait_until(lambda: not any("run/a" in hints.files for hints in watched.taken), write_outside)
        watched.taken.clear()
        (tmp_path / "out" / "a").write_bytes(b"1")
        (root / "stays" / "b").write_bytes(b"1")
        assert watched.until_hints(lambda hints: "stays/b" in hints.closed).files == {"stays/b"}


@pytest.mark.parametrize("seed", range(4))
def test_no_file_is_lost_whatever_happens_to_the_folders(root: Path, seed: int):
    """Folders made, renamed, nested and swapped while files are made in them: each is noticed where it ends up."""
    rng = random.Random(seed)
    names = ["a", "b", "c", "d"]

    def churn() -> None:
        for number in range(400):
            folders = [Path(here) for here, _, _ in os.walk(root)]
            folder = rng.choice(folders)
            if rng.random() < 0.3 and folder != root:
                to = rng.choice(folders) / rng.choice(names)
                if not to.exists() and not to.is_relative_to(folder):
                    folder.rename(to)
            elif rng.random() < 0.4:
                (folder / rng.choice(names)).mkdir(exist_ok=True)
            else:
                (folder / f"file {number}").write_bytes(b"1")

    with watching(root) as watched:
        worker = threading.Thread(target=churn)
        worker.start()
        while worker.is_alive():
            watched.look()
        there = {file.relative_to(root).as_posix() for file in root.rglob("file *")}
        watched.until(lambda: there <= watched.seen)
        # The table is right again as well: each folder hints under its own name.
        folders = [Path(here) for here, _, _ in os.walk(root)]
        watched.scan()
        for folder in folders:
            (folder / "end").write_bytes(b"1")
        ends = {(folder / "end").relative_to(root).as_posix() for folder in folders}
        watched.until(lambda: ends <= set().union(*(hints.closed for hints in watched.taken)))
    assert len(there) > 50


def test_what_is_written_before_the_first_scan_comes_to_its_folder_is_hinted(root: Path):
    """A program's start takes time in a large tree; the control is a file from before the start."""
    (root / "run" / "old").write_bytes(b"1")
    os.utime(root / "run" / "old")
    time_of_change = (root / "run" / "old").stat().st_ctime_ns
    while time.time_ns() < time_of_change + 100_000_000:
        threading.Event().wait(0.01)  # the clock has to move on between the two
    with watching(root, scanned=False) as watched:
        (root / "run" / "new").write_bytes(b"1")
        assert watched.scan() == {"run/old", "run/new"}
        watched.look()
        assert watched.seen == {"run/new"}


def test_what_is_written_right_after_the_start_is_hinted_however_late_the_system_tells(
    root: Path, monkeypatch: pytest.MonkeyPatch
):
    """The thread that reads hints may not have come to it when the first scan of a small root is over."""
    go_on = threading.Event()
    read = InotifySource._read
    monkeypatch.setattr(InotifySource, "_read", lambda source: (go_on.wait(), read(source)))
    with watching(root, scanned=False) as watched:
        (root / "new").write_bytes(b"1")
        assert watched.scan() == {"new"}
        watched.look()
        go_on.set()
        assert watched.seen == {"new"}


def test_a_large_tree_delays_neither_start_nor_hints(root: Path):
    """1,000 folders: the start watches the root alone, and the scan each folder before it lists it."""
    for number in range(1000):
        (root / f"{number}").mkdir()
    watcher = FolderWatcher(root, lambda _: None)
    began = time.perf_counter()
    watcher.start()
    took = time.perf_counter() - began
    try:
        assert len(list(watcher.scan())) == 1002
        (root / "777" / "a").write_bytes(b"1")
        watcher.wait(30)
        assert "777/a" in watcher.hints().files
        assert took < 0.5
    finally:
        watcher.stop()


def test_a_root_that_is_away_is_an_error_and_is_watched_again_when_it_is_back(root: Path):
    """Renamed and renamed back, and then another folder in its place."""
    (root / "run" / "a").write_bytes(b"1")
    away = root.with_name("away")
    with watching(root) as watched:
        for number in range(2):
            root.rename(away)
            watched.until_hints(lambda hints: hints.everything)
            with pytest.raises(SourceError, match="cannot be listed: No such file"):
                watched.scan()
            assert watched.watcher.polls
            (away / "run" / f"unseen {number}").write_bytes(b"1")
            away.rename(root)
            assert watched.scan() >= {"run/a", f"run/unseen {number}"}
            assert not watched.watcher.polls
            (root / "run" / f"b{number}").write_bytes(b"1")
            watched.until_hints(lambda hints, path=f"run/b{number}": path in hints.closed)
            watched.taken.clear()
        assert not any(path.startswith("run/unseen") for path in watched.seen)


def test_a_root_that_is_removed_and_made_anew_is_watched_again(root: Path):
    """A new folder under the old name is another folder for the system."""
    with watching(root) as watched:
        (root / "run").rmdir()
        root.rmdir()
        watched.until_hints(lambda hints: hints.everything)
        root.mkdir()
        assert watched.scan() == set()
        (root / "a").write_bytes(b"1")
        watched.until_hints(lambda hints: "a" in hints.closed)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that is reachable for everybody; pytest's own ones are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_folder_that_may_not_be_listed_at_first_is_tried_again(open_to_all: Path):
    """It is told once, the rest is found, and once it may be listed it is watched as well."""
    shut = open_to_all / "shut"
    shut.mkdir(mode=0o700)
    (shut / "a").write_bytes(b"1")
    (open_to_all / "b").write_bytes(b"1")
    shut.chmod(0)
    with as_nobody(), watching(open_to_all) as watched:
        assert watched.scan() == {"b"}
        assert [note.text for note in watched.notes] == ["shut: this folder cannot be listed: Permission denied"]
    with watching(open_to_all, scanned=False) as watched:
        with as_nobody():
            assert watched.scan() == {"b"}
        shut.chmod(0o755)
        with as_nobody():
            assert watched.scan() == {"b", "shut/a"}
        (shut / "c").write_bytes(b"1")
        watched.until_hints(lambda hints: "shut/c" in hints.closed)


def test_a_burst_is_read_while_another_thread_works(root: Path):
    """20,000 files as fast as they can be made: each is hinted, with no overflow, beside a busy thread."""
    make = "import sys; [open(f'{sys.argv[1]}/{number}', 'wb').close() for number in range(20_000)]"
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            sum(range(1000))

    worker = threading.Thread(target=work)
    with watching(root) as watched:
        worker.start()
        maker = subprocess.Popen([sys.executable, "-c", make, str(root / "run")])
        try:
            watched.until(lambda: len(watched.seen) >= 20_000)
        finally:
            done.set()
            worker.join()
            maker.wait()
        assert not any(hints.everything for hints in watched.taken)
