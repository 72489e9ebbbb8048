"""Hints where there is no inotify: watchdog's observer of the system, as a source of hints.

Knows watchdog's events and nothing of scanning. Used on macOS and Windows, whose systems do not tell of a close.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from openmsistream.adapters.filesystem.hints import HintBox
from openmsistream.core.events import Note


class WatchdogSource:
    """
    Fills a box of hints from watchdog, for a whole root at once.

    Args:
        root: Absolute path of the root.
        box: Where the hints go.
        tell: Told when the system gives no hints here.
    """

    def __init__(self, root: str, box: HintBox, tell: Callable[[Note], None]) -> None:
        self._root, self._box, self._tell = root, box, tell
        self._observer: BaseObserver | None = None
        self._told = False

    @property
    def complete(self) -> bool:
        """True while all of the root gives hints."""
        observer = self._observer
        return observer is not None and all(emitter.is_alive() for emitter in observer.emitters)

    def start(self) -> None:
        """Begin to collect hints."""
        observer = Observer()
        try:
            observer.schedule(_Handler(self._root, self._box), self._root, recursive=True)
            observer.start()
        except OSError as error:
            if not self._told:
                self._told = True
                self._tell(
                    Note(
                        f"{self._root}: no change notifications here ({error.strerror or error})",
                        "new files are found by scanning, a little later; see --poll_seconds",
                    )
                )
            return
        self._observer, self._told = observer, False

    def scan_begins(self) -> None:
        """The whole root is about to be scanned: an observer that ended with the root is replaced."""
        if not self.complete:
            self.stop()
            self.start()

    def watch(self, folder: str) -> None:
        """Nothing: the observer watches all folders by itself."""

    def scan_ended(self) -> None:
        """There is nothing to clear away."""

    def stop(self) -> None:
        """Collect no more hints."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(timeout=5)


class _Handler(FileSystemEventHandler):
    """Takes watchdog's events apart; opening and reading a file are not news."""

    def __init__(self, root: str, box: HintBox) -> None:
        self._root, self._box = root, box

    def dispatch(self, event: FileSystemEvent) -> None:
        kind = event.event_type
        if kind in ("opened", "closed_no_write") or (event.is_directory and kind == "modified"):
            return  # of a folder: an entry came or went, which has an event of its own
        old, new = self._relative(event.src_path), self._relative(event.dest_path)
        with self._box.lock:
            if event.is_directory:
                for folder in (old, new):
                    if folder and kind != "deleted":
                        self._box.appeared(folder)
            elif old and new:
                self._box.renamed(old, new)
            elif path := old or new:
                take = {"closed": self._box.closed, "deleted": self._box.gone, "moved": self._box.changed}
                take.get(kind, self._box.changed)(path)
        self._box.announce()

    def _relative(self, path: bytes | str) -> str:
        if not path:
            return ""
        relative = os.path.relpath(os.fsdecode(path), self._root).replace(os.sep, "/")
        return "" if relative == "." or relative.startswith("../") else relative
