"""Who holds files open for writing, on Linux, from the process table."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openmsistream.adapters.filesystem.writers import PASS_SHARE, OpenWriters
from tests.integration.watched import linux_only

pytestmark = linux_only

HOLD = "import sys; file = open(sys.argv[1], sys.argv[2]); print(file.fileno(), flush=True); sys.stdin.read()"


@contextmanager
def held(path: Path, mode: str) -> Iterator[None]:
    """Another program has the file open."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip().isdigit()
        yield
    finally:
        holder.communicate(timeout=10)


@pytest.mark.parametrize(("mode", "counts"), [("rb", False), ("ab", True), ("wb", True), ("r+b", True)])
def test_only_who_opened_for_writing_counts(tmp_path: Path, mode: str, counts: bool):
    """A reader, such as a viewer or a backup, keeps nothing from being sent."""
    (tmp_path / "a").write_bytes(b"1")
    with held(tmp_path / "a", mode):
        assert OpenWriters(tmp_path).holding(["a"]) == ({"a"} if counts else set())


def test_a_writer_is_found_whatever_the_file_is_called_by_now(tmp_path: Path):
    """Renamed, and reached by another name of the same file."""
    (tmp_path / "a.tmp").write_bytes(b"1")
    with held(tmp_path / "a.tmp", "ab"):
        (tmp_path / "a.tmp").rename(tmp_path / "a")
        os.link(tmp_path / "a", tmp_path / "b")
        assert OpenWriters(tmp_path).holding(["a", "b", "a.tmp"]) == {"a", "b"}


def test_what_this_program_holds_open_itself_does_not_count(tmp_path: Path):
    """It would wait for itself."""
    with (tmp_path / "a").open("wb"):
        assert OpenWriters(tmp_path).holding(["a"]) == frozenset()


def test_without_a_process_table_nobody_can_tell(tmp_path: Path):
    """None, so that other evidence decides."""
    (tmp_path / "a").write_bytes(b"1")
    assert OpenWriters(tmp_path, proc=str(tmp_path / "no proc")).holding(["a"]) is None


class SlowTime:
    """Seconds that move by one at each look: every pass takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture
def clock() -> Callable[[], float]:
    return SlowTime()


def test_in_the_pause_after_a_pass_unknown_files_count_as_held(tmp_path: Path, clock: SlowTime):
    """Nothing is said to be free that was not looked at just now; and the pause ends."""
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"1")
    writers = OpenWriters(tmp_path, monotonic=clock)
    assert writers.holding(["a"]) == frozenset()
    assert writers.holding(["a", "b", "gone"]) == {"a", "b"}
    clock.now += PASS_SHARE
    assert writers.holding(["a", "b", "gone"]) == frozenset()


def test_a_writer_that_is_known_costs_no_pass(tmp_path: Path, clock: SlowTime):
    """A file may be held open for days; it is asked for all the time."""
    (tmp_path / "a").write_bytes(b"1")
    writers = OpenWriters(tmp_path, monotonic=clock)
    with held(tmp_path / "a", "ab"):
        assert writers.holding(["a"]) == {"a"}
        looked = clock.now
        for _ in range(100):
            assert writers.holding(["a"]) == {"a"}
        assert clock.now == looked
    clock.now += PASS_SHARE
    assert writers.holding(["a"]) == frozenset()
