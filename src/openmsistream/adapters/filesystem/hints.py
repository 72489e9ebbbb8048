"""What was noticed in a root since it was last asked: filled by one thread, emptied by another, bounded.

It knows relative paths and what may happen to a file, and neither inotify nor watchdog nor a disk.
"""

from __future__ import annotations

import threading

from openmsistream.ports import Hints

MAX_HINTS = 100_000
"""Beyond this many paths a scan is cheaper, and memory stays bounded."""


class HintBox:
    """
    Collects hints.

    Attributes:
        lock: To be held by who calls the methods that take something in; ``announce`` is called without it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._ready = threading.Event()
        self._empty()

    def _empty(self) -> None:
        self._files: set[str] = set()
        self._closed: set[str] = set()
        self._renamed: dict[str, str] = {}
        self._folders: set[str] = set()
        self._everything = False
        self._full = False

    def changed(self, path: str) -> None:
        """A file was made or written; a close that was seen before says nothing any more."""
        self._files.add(path)
        self._closed.discard(path)

    def closed(self, path: str) -> None:
        """A program closed a file after writing."""
        self._files.add(path)
        self._closed.add(path)

    def gone(self, path: str) -> None:
        """A file was removed, or moved out of the root."""
        self.changed(path)
        self._renamed.pop(path, None)

    def left(self, path: str) -> None:
        """A file is about to get another name; where to is told next, if it stays in the root."""
        self._files.add(path)

    def renamed(self, old: str, new: str) -> None:
        """A file got another name; what was noticed of it under the old one holds for the new one."""
        before = self._renamed.pop(old, old)  # renamed twice: its first name is the one that the caller knows
        was_closed = old in self._closed
        self.changed(old)
        self.gone(new)
        if before != new:
            self._renamed[new] = before
        if was_closed:
            self._closed.add(new)

    def appeared(self, folder: str) -> None:
        """A folder was made, or moved here."""
        self._folders.add(folder)

    def lost_count(self) -> None:
        """Something happened that nobody told us of."""
        self._everything = True

    def announce(self) -> None:
        """Let ``wait`` return; also keeps the bound, so it is to be called after every few thousand hints."""
        with self.lock:
            if self._full or len(self._files) + len(self._folders) > MAX_HINTS:
                self._empty()
                self._everything = self._full = True
            something = bool(self._files or self._folders or self._everything)
        if something:
            self._ready.set()

    def wait(self, seconds: float) -> None:
        """Return when there is a hint, or after ``seconds``."""
        self._ready.wait(seconds)

    def take(self) -> Hints:
        """Everything since the last call."""
        self._ready.clear()
        with self.lock:
            if not (self._files or self._folders or self._everything):
                return Hints()
            found = Hints(
                files=frozenset(self._files),
                closed=frozenset(self._closed),
                renamed=self._renamed,
                folders=frozenset(self._folders),
                everything=self._everything,
            )
            self._empty()
        return found
