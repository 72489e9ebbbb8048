"""A watched folder in memory (``ports.FileReader``, ``ports.Watcher`` and ``ports.Writers``). It touches no disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from openmsistream.adapters.memory.clock import START_NS, FakeClock
from openmsistream.core.settle import Stat
from openmsistream.errors import SourceError
from openmsistream.ports import Hints


@dataclass(slots=True)
class _Content:
    data: bytearray
    mtime_ns: int
    inode: int

    @property
    def stat(self) -> Stat:
        return Stat(len(self.data), self.mtime_ns, self.inode)


class MemoryFile:
    """One open file of a ``MemoryFolder`` (``ports.OpenFile``); it sees what is written to the file meanwhile."""

    def __init__(self, folder: MemoryFolder, path: str, content: _Content) -> None:
        self._folder, self._path, self._content, self._at = folder, path, content, 0
        self.stat = content.stat
        self.closed = False

    def read_into(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes only at the end of the file."""
        if self._path in self._folder.unreadable:
            raise SourceError(f"{self._path}: it cannot be read: told so")
        piece = self._content.data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def seek(self, offset: int) -> None:
        """Go on reading at ``offset``."""
        self._at = offset

    def look(self) -> Stat:
        """What the open file looks like now, whatever it is called by now."""
        if self.closed:
            raise SourceError(f"{self._path}: it cannot be read: it was closed")
        return self._content.stat

    def unchanged(self) -> bool:
        """True when the path still names this file, as it was when it was opened."""
        return self._folder.stat(self._path) == self.stat

    def close(self) -> None:
        """Let go of the file."""
        self.closed = True


class MemoryFolder:
    """
    A watched root: ``ports.FileReader``, ``ports.Watcher`` and ``ports.Writers`` at once.

    Args:
        clock: Gives files their mtime, and is moved by ``wait``; without one mtimes are a second apart.

    Attributes:
        unreadable: Paths whose reading fails, and folders that cannot be listed ("" for the root).
        silent: Set it to give no hints, as a network share does.
        writers: Paths that some program holds open for writing.
    """

    def __init__(self, clock: FakeClock | None = None) -> None:
        self._clock = clock
        self._contents: dict[str, _Content] = {}
        self._folders: set[str] = {""}
        self._hints: set[str] = set()
        self._closed: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._watching = False
        self._young: set[str] | None = None  # touched since the start, until the first scan has hinted it
        self._count = 0
        self.unreadable: set[str] = set()
        self.silent = False
        self.writers: set[str] = set()

    @property
    def polls(self) -> bool:
        """True when there are no hints."""
        return self.silent

    def write(self, path: str, data: bytes, *, mtime_ns: int | None = None, close: bool = False) -> None:
        """Make a file, or replace the bytes of the one that is there, in place; ``close``: and close it."""
        self._count += 1
        if mtime_ns is None:
            mtime_ns = (self._clock.now_ns() if self._clock else START_NS + self._count * 1_000_000_000) + self._count
        content = self._contents.get(path)
        if content is None:
            self._contents[path] = _Content(bytearray(data), mtime_ns, self._count)
            self._make_folders(path)
        else:
            content.data[:], content.mtime_ns = data, mtime_ns
        self._hint(path)
        if close and path in self._hints:
            self._closed.add(path)

    def touch(self, path: str) -> None:
        """Give a file a new mtime."""
        self.write(path, bytes(self._contents[path].data))

    def remove(self, path: str) -> None:
        """Remove a file."""
        del self._contents[path]
        self._hint(path)

    def rename(self, path: str, to: str) -> None:
        """Rename a file, replacing the one that may be there; its mtime stays."""
        self._contents[to] = self._contents.pop(path)
        self._make_folders(to)
        was_closed, before = path in self._closed, self._renamed.pop(path, path)
        self._hint(path)
        self._hint(to)
        if to in self._hints:
            self._renamed |= {to: before} if before != to else {}
            self._closed |= {to} if was_closed else set()

    def ready(self) -> bool:
        """It may always be asked."""
        return True

    def holding(self, paths: Collection[str]) -> frozenset[str]:
        """Which of these paths are among ``writers``."""
        return frozenset(paths) & self.writers

    def open(self, path: str) -> MemoryFile:
        """Open a file for reading; SourceError when it cannot be read."""
        content = self._contents.get(path)
        if content is None or path in self.unreadable:
            why = "no such file" if content is None else "told so"
            raise SourceError(f"{path}: it cannot be read: {why}")
        return MemoryFile(self, path, content)

    def stat(self, path: str) -> Stat | None:
        """What a file looks like now; None when it is gone."""
        content = self._contents.get(path)
        return None if content is None else content.stat

    def start(self) -> None:
        """Begin to collect hints."""
        self._watching, self._young = True, set()

    def hints(self) -> Hints:
        """What happened since the last call."""
        found = Hints(frozenset(self._hints), closed=frozenset(self._closed), renamed=self._renamed)
        self._hints, self._closed, self._renamed = set(), set(), {}
        return found

    def wait(self, seconds: float) -> None:
        """Move the clock by ``seconds``, unless there is a hint."""
        if not self._hints and self._clock is not None:
            self._clock.wait(seconds)

    def scan(self, folder: str = "") -> Iterator[tuple[str, list[tuple[str, Stat]]]]:
        """Each folder from ``folder`` down, with its files."""
        if folder in self.unreadable or folder not in self._folders:
            raise SourceError(f"{folder or 'the watched folder'} cannot be listed")
        for here in sorted(self._folders):
            below = here == folder or not folder or here.startswith(f"{folder}/")
            if below and here not in self.unreadable:
                paths = [path for path in self._contents if path.rpartition("/")[0] == here]
                self._hints |= (self._young or set()).intersection(paths)
                yield here, [(path, looks) for path in paths if (looks := self.stat(path)) is not None]

        if not folder:
            self._young = None

    def stop(self) -> None:
        """Collect no more hints."""
        self._watching = False

    def _make_folders(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        while folder not in self._folders:
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]

    def _hint(self, path: str) -> None:
        if self._young is not None:
            self._young.add(path)
        if self._watching and not self.silent:
            self._hints.add(path)
            self._closed.discard(path)
            self._renamed.pop(path, None)
