"""A simulated disk for the upload flow, with programs that write to it, wrong clocks and hints that go astray.

Owns what stands where, who has it open, and what every path held over time, which is what a test judges by. It is
``ports.FileReader``, ``ports.Watcher`` and ``ports.Writers`` to the flow; it must not know what the flow does with it.

What no program can see is left out: each change of a content gives it looks (size and mtime) that no other content
has ever had. Only the pair is kept apart, so an mtime may stand still, or lie in the past or the future.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace

from openmsistream.adapters.filesystem.hints import HintBox
from openmsistream.adapters.memory import FakeClock
from openmsistream.core.settle import Stat
from openmsistream.errors import SourceError
from openmsistream.ports import Hints

DAY_NS = 86_400_000_000_000
FAT_NS = 2_000_000_000
"""Modification times on FAT drives are rounded to 2 s."""

Moment = Callable[[str], None]
"""Called with the name of the operation before the flow does anything to the disk."""


@dataclass(eq=False, slots=True)
class File:
    """One file: its content, whatever it is called; ``writers`` and ``readers`` have it open."""

    number: int
    mtime_ns: int
    changed_at: float
    data: bytes = b""
    writers: int = 0
    readers: int = 0
    closed: bool = False  # nobody had it open at some moment since its content changed

    @property
    def stat(self) -> Stat:
        return Stat(len(self.data), self.mtime_ns, self.number)


@dataclass(slots=True)
class Stood:
    """How a content stood under a path: for how long without a change, and whether ever with no writer."""

    seconds: float = 0.0
    closed: bool = False


@dataclass(slots=True)
class History:
    """
    What a path held: each content, the moments at which it changed, and the last moment anything happened to it.

    ``returned``: It came to look as it had before, after it had looked otherwise.
    """

    stood: dict[bytes, Stood] = field(default_factory=dict)
    looks: list[tuple[int, int] | None] = field(default_factory=list)
    returned: bool = False
    changes: list[tuple[float, bytes | None]] = field(default_factory=list)
    disturbed_at: float = float("-inf")


class DiskFile:
    """A file that the flow has open (``ports.OpenFile``)."""

    def __init__(self, disk: Disk, path: str, file: File) -> None:
        self._disk, self.path, self._file, self._at = disk, path, file, 0
        self.stat = file.stat
        file.readers += 1
        disk.open_files.append(self)

    def read_into(self, buffer: memoryview) -> int:
        self._disk.moment("read")
        piece = self._file.data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int) -> None:
        self._at = offset

    def look(self) -> Stat:
        if self not in self._disk.open_files:
            raise SourceError(f"{self.path}: it cannot be read: it was closed")
        self._disk.moment("look")
        return self._file.stat

    def unchanged(self) -> bool:
        self._disk.moment("unchanged")
        return self._disk.looks(self.path) == self.stat

    def close(self) -> None:
        if self in self._disk.open_files:
            self._disk.open_files.remove(self)
            self._file.readers -= 1


class Disk:
    """
    A watched root.

    Args:
        clock: Gives files their mtime, and is moved by ``wait``.
        moment: See ``Moment``.

    Attributes:
        silent: It gives no hints, as a network share.
        tells_writers: It is known who has a file open for writing.
        late: Hints are held back; they come, in order, once it is set back.
        losing, doubling: Hints get lost; each comes twice.
        unreadable: Paths that may not be opened.
        times: What writers make of an mtime: now, still, back, future or coarse.
        came_along: Files that got here with their folder, and when: they look as they did, ctime included.
    """

    file_type = DiskFile

    def __init__(self, clock: FakeClock, moment: Moment) -> None:
        self._clock, self.moment = clock, moment
        self.files: dict[str, File] = {}
        self.folders = {""}
        self.history: dict[str, History] = {}
        self.open_files: list[DiskFile] = []
        self._handles: list[File] = []
        self._box = HintBox()
        self._held: deque[Callable[[], None]] = deque()
        self._watching = False
        self._started_at: float | None = None
        self._young: set[str] = set()
        self.came_along: dict[str, float] = {}
        self._looks: dict[tuple[int, int], bytes] = {}
        self._writes = 0
        self.silent, self.tells_writers = False, True
        self.late = self.losing = self.doubling = False
        self.unreadable: set[str] = set()
        self.times = "now"

    # -- what programs do to it ---------------------------------------------------------------------------------

    def create(self, path: str, size: int) -> None:
        """A program opens a file, new or cut to nothing, writes to it, and keeps it open."""
        file = self.files.get(path)
        if file is None:
            self._make_folders(path)
            taken = {each.number for each in (*self.files.values(), *self._handles)}
            taken |= {each._file.number for each in self.open_files}
            number = next(n for n in range(1, 1000) if n not in taken)  # as ext4 does: the lowest that is free
            file = self.files[path] = File(number, self._clock.now_ns(), self._clock.monotonic())
        self._open(file)
        self._write(path, file, self._new(size))

    def write_whole(self, path: str, size: int) -> None:
        """A program writes a file and closes it."""
        self.create(path, size)
        self.close(path)

    def append(self, path: str, size: int) -> None:
        """A program writes on at the end; it opens the file first if none has it open."""
        self._write_on(path, lambda data: data + self._new(size))

    def patch(self, path: str, at: int) -> None:
        """A program writes over bytes in the middle of a file, or at its beginning."""
        self._write_on(path, lambda data: (data[:at] + self._new(3) + data[at + 3 :])[: len(data)])

    def cut(self, path: str, size: int) -> None:
        """A program makes a file shorter."""
        self._write_on(path, lambda data: data[:size])

    def close(self, path: str) -> None:
        """A program that has the file open for writing closes it."""
        file = self.files.get(path)
        if file is not None and file.writers:
            self._close(file)
            self._note(path)
            self._tell(lambda: self._box.closed(path))

    def close_all(self) -> None:
        """Every program closes what it has open, also what was removed meanwhile."""
        for path, file in list(self.files.items()):
            while file.writers:
                self.close(path)
        while self._handles:
            self._close(self._handles[-1])

    def touch(self, path: str) -> None:
        """A file gets another mtime, of which there is no hint."""
        if path in self.files:
            self._stamp(self.files[path])
            self._note(path)

    def copy_over(self, path: str) -> None:
        """The same content is written again, in place."""
        file = self.files.get(path)
        if file is not None:
            self._open(file)
            self._stamp(file)
            self._tell(lambda: self._box.changed(path))
            self.close(path)

    def rename(self, path: str, to: str) -> None:
        """A file gets another name, replacing the file that may have it."""
        if path in self.files and path != to:
            self._make_folders(to)
            self._tell(lambda: self._box.left(path))
            self._keep(path)
            self._keep(to)
            self.files[to] = self.files.pop(path)
            self._note(path)
            self._note(to)
            self._tell(lambda: self._box.renamed(path, to))

    def remove(self, path: str) -> None:
        """A file is removed; who has it open keeps it."""
        if path in self.files:
            self._keep(path)
            del self.files[path]
            self._note(path)
            self._tell(lambda: self._box.gone(path))

    def move_folder_in(self, folder: str, names: Collection[str], size: int) -> None:
        """A folder with files is moved here from elsewhere; only the folder itself is hinted."""
        if folder in self.folders:
            return
        self.folders.add(folder)
        watching, self._watching = self._watching, False
        for name in names:
            self.write_whole(f"{folder}/{name}", size)
            self.came_along[f"{folder}/{name}"] = self._clock.monotonic()
        self._watching = watching
        self._tell(lambda: self._box.appeared(folder))

    def rename_folder(self, folder: str, to: str) -> None:
        """A folder gets another name."""
        if folder not in self.folders or to in self.folders:
            return
        self.folders.remove(folder)
        self.folders.add(to)
        for path in [path for path in self.files if path.startswith(f"{folder}/")]:
            new = to + path[len(folder) :]
            self._keep(path)
            self.files[new] = self.files.pop(path)
            self._note(path)
            self._note(new)
            self.came_along[new] = self._clock.monotonic()
        self._tell(lambda: self._box.appeared(to))

    def overflow(self) -> None:
        """The queue of hints overflows: what was in it is lost, and this is told."""
        self._held.clear()
        self._box.take()
        if self._watching and not self.silent:
            self._box.lost_count()

    # -- what the flow sees (ports.FileReader, ports.Writers, ports.Watcher) -----------------------------------

    def looks(self, path: str) -> Stat | None:
        """What a file looks like, without the flow having asked."""
        return self.files[path].stat if path in self.files else None

    def open(self, path: str) -> DiskFile:
        self.moment("open")
        file = self.files.get(path)
        if file is None or path in self.unreadable:
            raise SourceError(f"{path}: it cannot be read")
        return self.file_type(self, path, file)

    def stat(self, path: str) -> Stat | None:
        self.moment("stat")
        return self.looks(path)

    def ready(self) -> bool:
        return True

    def holding(self, paths: Collection[str]) -> frozenset[str] | None:
        self.moment("writers")
        if not self.tells_writers:
            return None
        return frozenset(path for path in paths if path in self.files and self.files[path].writers)

    @property
    def polls(self) -> bool:
        return self.silent

    def start(self) -> None:
        self._watching, self._started_at = True, self._clock.monotonic()

    def hints(self) -> Hints:
        self.moment("hints")
        while self._held and not self.late:
            self._held.popleft()()
        hints, young = self._box.take(), self._young
        self._young = set()
        return replace(hints, files=hints.files | young)

    def wait(self, seconds: float) -> None:
        if not (self._box._files or self._box._folders or self._box._everything):
            self._clock.wait(seconds)

    def scan(self, folder: str = "") -> Iterator[tuple[str, list[tuple[str, Stat]]]]:
        if folder not in self.folders:
            raise SourceError(f"{folder}: this folder cannot be listed: no such folder")
        for here in sorted(self.folders):
            if folder in ("", here) or here.startswith(f"{folder}/"):
                self.moment("scan")
                found = [(path, self.looks(path)) for path in self.files if path.rpartition("/")[0] == here]
                self._young.update(path for path, _ in found if self._is_young(path))
                yield here, [(path, looks) for path, looks in found if looks is not None]
        if not folder:
            self._started_at = None

    def stop(self) -> None:
        """Nothing: the program goes on after a look at it between two turns, or ``program_ended`` is called."""

    def program_ended(self) -> None:
        """What the program had open is closed, and its hints are gone."""
        for each in list(self.open_files):
            each.close()
        self._box.take()
        self._held.clear()
        self._young.clear()
        self._watching, self._started_at = False, None

    # -- what a test judges by ----------------------------------------------------------------------------------

    def contents(self) -> dict[str, bytes]:
        """What stands under each path."""
        return {path: file.data for path, file in self.files.items()}

    def judge(self) -> None:
        """Take the time that everything has stood until now into the history."""
        for path in set(self.files) | set(self.history):
            self._keep(path)

    # -- inside -------------------------------------------------------------------------------------------------

    def _is_young(self, path: str) -> bool:
        """Something happened to it since the start of a program whose first scan is under way."""
        at = self.history[path].disturbed_at
        return self._started_at is not None and at > self._started_at and at != self.came_along.get(path)

    def _keep(self, path: str) -> None:
        file, history = self.files.get(path), self.history.setdefault(path, History())
        content = None if file is None else file.data
        if not history.changes or history.changes[-1][1] != content:
            history.changes.append((self._clock.monotonic(), content))
        looks = None if file is None else (len(file.data), file.mtime_ns)
        if looks not in history.looks[-1:]:
            history.returned |= looks is not None and looks in history.looks
            history.looks.append(looks)
        if file is not None:
            stood = history.stood.setdefault(file.data, Stood())
            stood.seconds = max(stood.seconds, self._clock.monotonic() - file.changed_at)
            stood.closed = stood.closed or file.closed

    def _note(self, path: str) -> None:
        self._keep(path)
        self.history[path].disturbed_at = self._clock.monotonic()

    def _tell(self, hint: Callable[[], None]) -> None:
        if self._watching and not (self.silent or self.losing):
            self._held.extend([hint] * (2 if self.doubling else 1))
            while self._held and not self.late:
                self._held.popleft()()

    def _make_folders(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        if folder not in self.folders:
            self.folders.add(folder)
            self._tell(lambda: self._box.appeared(folder))

    def _new(self, size: int) -> bytes:
        self._writes += 1
        unlike_all_others = f"{self._writes:03d}"[::-1].encode()  # the digit that differs comes first
        return (unlike_all_others * (size // 3 + 1))[:size]

    def _write_on(self, path: str, change: Callable[[bytes], bytes]) -> None:
        file = self.files.get(path)
        if file is not None:
            if not file.writers:
                self._open(file)
            self._write(path, file, change(file.data))

    def _write(self, path: str, file: File, data: bytes) -> None:
        self._keep(path)  # how long the content before it stood
        before, looked = file.data, file.stat
        file.data, file.closed = data, False
        self._stamp(file)
        if (file.data, file.stat) != (before, looked):  # else nothing changed: an empty file was emptied again
            file.changed_at = self._clock.monotonic()
        self._note(path)
        self._tell(lambda: self._box.changed(path))

    def _open(self, file: File) -> None:
        file.writers += 1
        self._handles.append(file)

    def _close(self, file: File) -> None:
        file.writers -= 1
        self._handles.remove(file)
        file.closed = file.closed or not file.writers

    def _stamp(self, file: File) -> None:
        now = self._clock.now_ns()
        mtime_ns = {
            "now": now,
            "still": file.mtime_ns,
            "back": now - DAY_NS,
            "future": now + DAY_NS,
            "coarse": now - now % FAT_NS,
        }[self.times]
        while self._looks.setdefault((len(file.data), mtime_ns), file.data) != file.data:
            mtime_ns += 1
        file.mtime_ns = mtime_ns
