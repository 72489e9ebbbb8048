"""Noticing files in a root: watchdog's events as hints, and scans with ``os.scandir`` as the truth.

Events may be lost, doubled or late; nothing depends on them but how soon a file is noticed. Only reads.
Symbolic links are not followed. Relative paths are POSIX.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from openmsistream.adapters.filesystem.reading import stat_of
from openmsistream.core.events import Note
from openmsistream.core.settle import Stat
from openmsistream.errors import SourceError
from openmsistream.ports import Events, Hints

MAX_HINTS = 100_000
"""Beyond this many paths a scan is cheaper, and memory stays bounded."""


class FolderWatcher:
    """
    Watches a root (``ports.Watcher``).

    Args:
        root: The watched folder; it must exist when the program starts, and may vanish and come back later.
        events: Told of folders that cannot be listed.
        polling: Use watchdog's polling observer for hints, as 1.x's ``--use_polling_observer``.
    """

    def __init__(self, root: Path, events: Events, *, polling: bool = False) -> None:
        self._root = os.path.abspath(root)
        self._events = events
        self._make_observer = PollingObserver if polling else Observer
        self._observer: BaseObserver | None = None
        self._hinted = threading.Event()
        self._lock = threading.Lock()
        self._files: set[str] = set()
        self._folders: set[str] = set()
        self._everything = False
        self._unlistable: set[str] = set()

    def start(self) -> None:
        """Begin to collect hints. Where the system has none to give, says so; scans still find everything."""
        if self._observer is not None:
            return
        observer = self._make_observer()
        try:
            observer.schedule(_Handler(self), self._root, recursive=True)
            observer.start()
        except OSError as error:
            self._events(
                Note(
                    f"{self._root}: no change notifications here ({error.strerror or error})",
                    "new files are found by scanning, a little later; see --scan_seconds",
                )
            )
            return
        self._observer = observer

    def hints(self) -> Hints:
        """What happened since the last call."""
        self._hinted.clear()
        with self._lock:
            if not (self._files or self._folders or self._everything):
                return Hints()
            found = Hints(frozenset(self._files), frozenset(self._folders), self._everything)
            self._files, self._folders, self._everything = set(), set(), False
        return found

    def wait(self, seconds: float) -> None:
        """Return when there is a hint, or after ``seconds``."""
        self._hinted.wait(seconds)

    def scan(self, folder: str = "") -> Iterator[tuple[str, list[tuple[str, Stat]]]]:
        """Each folder from ``folder`` down with its regular files; parents come before their sub-folders."""
        pending = [folder]
        while pending:
            here = pending.pop()
            listed = self._list(here, is_start=here == folder)
            if listed is None:
                continue
            files, folders = listed
            pending.extend(reversed(folders))
            yield here, files

    def stop(self) -> None:
        """Collect no more hints."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(timeout=5)
            self._observer = None

    def _list(self, folder: str, *, is_start: bool) -> tuple[list[tuple[str, Stat]], list[str]] | None:
        prefix = f"{folder}/" if folder else ""
        files: list[tuple[str, Stat]] = []
        folders: list[str] = []
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(prefix + entry.name)
                        elif entry.is_file(follow_symlinks=False):
                            files.append((prefix + entry.name, stat_of(entry.stat(follow_symlinks=False))))
                    except OSError:
                        continue  # gone between listing and looking: the next scan tells
        except OSError as error:
            if is_start:
                raise SourceError(
                    f"{self._root}: the watched folder cannot be listed: {error.strerror or error}",
                    hint="check that the folder is there, mounted and readable",
                ) from error
            if folder not in self._unlistable:
                self._unlistable.add(folder)
                self._events(Note(f"{folder}: this folder cannot be listed: {error.strerror or error}"))
            return None
        self._unlistable.discard(folder)
        return files, folders

    def notice(self, path: str, *, is_folder: bool) -> None:
        """Something happened to an absolute path; called from watchdog's thread."""
        relative = os.path.relpath(path, self._root).replace(os.sep, "/")
        if relative == "." or relative.startswith("../"):
            return
        with self._lock:
            if len(self._files) + len(self._folders) >= MAX_HINTS:
                self._files, self._folders, self._everything = set(), set(), True
            elif not self._everything:
                (self._folders if is_folder else self._files).add(relative)
        self._hinted.set()


class _Handler(FileSystemEventHandler):
    """Takes watchdog's events apart; opening and reading a file are not news."""

    def __init__(self, watcher: FolderWatcher) -> None:
        self._watcher = watcher

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write"):
            return
        if event.is_directory and event.event_type == "modified":
            return  # an entry came or went, which has an event of its own
        for path in (event.src_path, event.dest_path):
            if path:
                self._watcher.notice(os.fsdecode(path), is_folder=event.is_directory)
