"""The instrument never notices the uploader: whatever it does with its files works, and nothing changes by itself.

On Windows an open file can keep its writer from renaming or deleting it; that a handle of ours does not is nothing
Linux can show, where no handle ever does. What is shown here is what holds on every system: files are opened for
reading only, without a lock, and nothing is made, changed or removed in the tree.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.memory import MB, Memory
from tests.faults.support import LONG, Place, eventually, fill, tree

if sys.platform != "linux":
    pytest.skip("watches the watched folder with inotify, which only Linux has", allow_module_level=True)

from inotify_simple import INotify, flags

OPERATIONS = 20_000 if LONG else 3000
ROUNDS = 100 if LONG else 15
FOLDERS = ("", "run 1/", "run 2/", "run 2/deep/")
KEPT = {f"kept/{n}.dat": n * 3000 for n in range(60)}
CHANGES = (
    flags.CREATE | flags.DELETE | flags.MODIFY | flags.ATTRIB | flags.MOVED_FROM | flags.MOVED_TO | flags.CLOSE_WRITE
)
PEAK_BYTES, GROWTH_BYTES = 200 * MB, 25 * MB


class Instrument:
    """Software that writes, appends, renames, replaces and deletes files, as fast as it can; any error ends it."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.names, self.operations = root, set[str](), 0
        self._choose = random.Random(seed)
        self._there: list[str] = []
        self._content = self._choose.randbytes(1_000_000)
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)

    def work(self, operations: int) -> None:
        """Do so many things with its files; raises what the system refuses."""
        for _ in range(operations):
            todo = self._choose.choice(
                (self._write, self._append, self._append, self._rename, self._replace, self._delete)
            )
            (todo if len(self._there) > 10 else self._write)()
            self.operations += 1

    def _fresh(self) -> str:
        name = f"{self._choose.choice(FOLDERS)}scan {len(self.names)}.dat"
        self.names.add(name)
        return name

    def _bytes(self) -> bytes:
        return self._content[: self._choose.randrange(1, len(self._content))]

    def _take(self) -> str:
        return self._there.pop(self._choose.randrange(len(self._there)))

    def _write(self) -> None:
        name = self._fresh()
        (self.root / name).write_bytes(self._bytes())
        self._there.append(name)

    def _append(self) -> None:
        with (self.root / self._choose.choice(self._there)).open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(self._bytes()[:2000])

    def _rename(self) -> None:
        name = self._fresh()
        (self.root / self._take()).rename(self.root / name)
        self._there.append(name)

    def _replace(self) -> None:
        (self.root / self._take()).replace(self.root / self._choose.choice(self._there))

    def _delete(self) -> None:
        (self.root / self._take()).unlink()


class Witness:
    """Notes what happens in a tree, and how a process has its files open, for the length of the ``with`` block."""

    def __init__(self, root: Path, pid: int) -> None:
        self.changed: set[str] = set()
        self.modes: set[str] = set()
        self.locks: set[str] = set()
        self.overflowed = False
        self._root, self._process = root, psutil.Process(pid)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._listen, self._look)]
        self._inotify = INotify()
        self._folders = {
            self._inotify.add_watch(folder, CHANGES): os.path.relpath(folder, root) for folder, _, _ in os.walk(root)
        }

    def __enter__(self) -> Witness:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._inotify.close()

    def _listen(self) -> None:
        while events := self._inotify.read(timeout=200) or not self._over.is_set():
            for event in events if isinstance(events, list) else ():
                self.overflowed = self.overflowed or bool(event.mask & flags.Q_OVERFLOW)
                if event.wd in self._folders:
                    self.changed.add(str(Path(self._folders[event.wd]) / event.name))

    def _look(self) -> None:
        while not self._over.wait(0.01):
            ours = [file for file in self._process.open_files() if Path(file.path).is_relative_to(self._root)]
            self.modes |= {file.mode for file in ours}
            inodes = {inode for file in ours if (inode := inode_of(Path(file.path)))}
            # Source: proc(5), /proc/locks: number, kind, mode, access, process id, device:inode, ...
            for line in Path("/proc/locks").read_text("ascii").splitlines():
                fields = line.split()
                if str(self._process.pid) in fields[4:5] and fields[5].rpartition(":")[2] in inodes:
                    self.locks.add(line)


def inode_of(path: Path) -> str:
    """The number of a file's inode; empty when the file is gone."""
    try:
        return str(path.stat().st_ino)
    except FileNotFoundError:
        return ""


def looks(root: Path, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Everything about files and folders but their access time."""
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        s = (root / name).lstat()
        found[name] = (s.st_mode, s.st_ino, s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
    return found


def test_an_instrument_never_sees_an_error_and_nothing_of_ours_is_in_its_tree(place: Place) -> None:
    """Thousands of renames, appends and deletes while files are sent: none fails, we change nothing, memory is flat."""
    instrument = Instrument(place.watched, seed=1)
    fill(place.watched, KEPT)
    kept = [*KEPT, "kept"]
    before = looks(place.watched, kept)
    with place.watch("--upload-existing", "--watchdog-lag-time", 0.02, "--chunk-size", 65_536) as sender:
        sender.until(lambda: set(sender.paths("file_sent")) >= KEPT.keys(), "what was there is sent")
        with Memory(sender.pid) as memory, Witness(place.watched, sender.pid) as witness:
            for _ in range(ROUNDS):
                count = 1 + len(sender.of("file_sent"))
                instrument.work(OPERATIONS // ROUNDS)
                sender.until_event("file_sent", count=count)  # the next round begins while this one's files are sent
            fill(place.watched, {"last.dat": 10})
            sender.until_event("file_sent", path="last.dat")
        assert instrument.operations == OPERATIONS
        assert sender.running
        # What changed last may still be on its way: the reader below is to have the folder as it is now.
        with place.download() as receiver:
            eventually(lambda: tree(place.watched).items() <= tree(place.output).items(), "all of it arrived")
            assert receiver.quit() == 0
        # 3: a file whose content arrived already may still be in its quiet time.
        assert sender.quit() in {0, 3}
    assert not witness.overflowed
    assert witness.changed <= instrument.names | {"last.dat"}
    assert instrument.names & witness.changed, "the witness sees what happens"
    assert witness.modes == {"r"}
    assert witness.locks == set()
    assert looks(place.watched, kept) == before
    assert {name.decode() for name in tree(place.watched)} <= instrument.names | KEPT.keys() | {"last.dat"}
    assert sender.stderr == ""
    assert memory.peak < PEAK_BYTES
    assert memory.growth < GROWTH_BYTES, memory.samples


def test_control_a_witness_sees_a_file_that_somebody_else_makes_changes_or_locks(place: Place) -> None:
    """A program that marks what it has read, as some uploaders do, is found out by the same witness."""
    fill(place.watched, {"a.dat": 10})
    rude = (
        "import fcntl, pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "file = path.open('r+b')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "path.with_suffix('.uploaded').touch()\n"
        "path.chmod(0o600)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", rude, str(place.watched / "a.dat")]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as other, Witness(place.watched, other.pid) as witness:
        eventually(lambda: witness.locks and witness.modes, "its lock is seen")
        eventually(lambda: witness.changed == {"a.dat", "a.uploaded"}, "its changes are seen")
        other.communicate(b"\n")
    assert "r+" in witness.modes


@contextmanager
def mounted_read_only(folder: Path, where: Path) -> Iterator[None]:
    """The folder once more at another place, where nothing can be written; needs the right to mount."""
    where.mkdir()
    done = subprocess.run(["mount", "--bind", str(folder), str(where)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(where)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_tree_mounted_read_only_is_sent_like_any_other(place: Place) -> None:
    """What is there and what comes later arrives, without a word of complaint."""
    instrument, place.watched = place.watched, place.base / "read only"
    fill(instrument, {"old.dat": 10, "run/old.dat": 200_000})
    with mounted_read_only(instrument, place.watched):
        with pytest.raises(OSError, match="Read-only file system"):
            (place.watched / "ours").touch()
        with place.watch("--upload-existing") as sender:
            sender.until_event("file_sent", path="run/old.dat")
            fill(instrument, {"new.dat": 10, "run/new.dat": 200_000, "later/new.dat": 10})
            sender.until_event("file_sent", path="later/new.dat")
            sender.until(lambda: len(sender.of("file_sent")) == 5, "all five were sent")
            assert sender.quit() == 0
        assert sender.stderr == ""
        place.fetch()
        assert tree(place.output) == tree(place.watched)
