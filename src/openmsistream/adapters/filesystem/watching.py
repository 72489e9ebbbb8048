"""Noticing files in a root: the system's hints as they come, and scans with ``os.scandir`` as the truth.

Hints may be lost, doubled or late; nothing depends on them but how soon a file is noticed, and on what evidence
it is taken to be complete. Only reads. Relative paths are POSIX. Where hints come from is another module's
affair; this one knows when there can be none, and says so.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from openmsistream.adapters.filesystem.hints import MAX_HINTS, HintBox
from openmsistream.adapters.filesystem.mounts import Ground, ground_of
from openmsistream.adapters.filesystem.scanning import Listing, Tree
from openmsistream.core.events import Note
from openmsistream.core.settle import Stat
from openmsistream.errors import SourceError
from openmsistream.ports import Events, Hints

__all__ = ["MAX_HINTS", "FolderWatcher"]

_CLOCK_TICK_NS = 20_000_000
"""Linux stamps files with a clock that is up to one tick (10 ms at 100 Hz) behind; twice that."""
_POLL_HINT = "new files are found by scanning, a little later; see --poll_seconds"


class _Source(Protocol):
    """Where hints come from."""

    @property
    def complete(self) -> bool: ...
    def start(self) -> None: ...
    def scan_begins(self) -> None: ...
    def watch(self, folder: str) -> None: ...
    def scan_ended(self) -> None: ...
    def stop(self) -> None: ...


class FolderWatcher:
    """
    Watches a root (``ports.Watcher``).

    Folders on network file systems, FUSE and the like give no hints, whether the root lies on one or they lie
    below it; ``polls`` is true then, and also while part of a local root cannot be watched.

    Args:
        root: The watched folder; it must exist when the program starts, and may vanish and come back later.
        events: Told, from within ``start``, ``hints`` and ``scan``, of what a user should know.
        polling: Give no hints at all.
        follow_symlinks: Also take links to what lies within the root, under the link's path.
        by_watchdog: Take hints from watchdog even where there is inotify.
    """

    def __init__(
        self,
        root: Path,
        events: Events,
        *,
        polling: bool = False,
        follow_symlinks: bool = False,
        by_watchdog: bool = sys.platform != "linux",
    ) -> None:
        self._root = os.path.abspath(root)
        self._events = events
        self._polling, self._by_watchdog = polling, by_watchdog
        self._box = HintBox()
        self._notes: deque[Note] = deque()
        self._tree = Tree(self._root, follow_symlinks=follow_symlinks, tell=self._notes.append)
        self._ground = Ground()
        self._source: _Source | None = None
        self._running = False
        self._started_ns: int | None = None
        self._young: set[str] = set()
        self._unlistable: set[str] = set()
        self._told: set[str] = set()

    @property
    def polls(self) -> bool:
        """True when part of the root, or all of it, gives no hints."""
        return self._source is None or bool(self._ground.remote_below) or not self._source.complete

    def start(self) -> None:
        """
        Begin to collect hints.

        What was touched since (by the file system's own clock) is hinted by the first scan, too. Hints come from
        another thread, and may be late; on Linux a folder gives them once the first scan came to it; shares give none.
        """
        if self._running:
            return
        self._running = True
        self._started_ns = time.time_ns() - _CLOCK_TICK_NS
        self._stand_on(ground_of(self._root))
        self._say()

    def hints(self) -> Hints:
        """What happened since the last call."""
        self._say()
        found = self._box.take()
        if not self._young:
            return found
        young, self._young = self._young, set()
        return replace(found, files=found.files | young)

    def wait(self, seconds: float) -> None:
        """Return when there is a hint, or after ``seconds``."""
        self._box.wait(seconds)

    def scan(self, folder: str = "") -> Iterator[tuple[str, list[tuple[str, Stat]]]]:
        """
        Each folder from ``folder`` down with its regular files; parents come before their sub-folders.

        Raises:
            SourceError: The folder cannot be listed, or the root's file system is not mounted any more.
        """
        if not folder:
            self._begin()
        try:
            for path, listing in self._walk(folder, files=True):
                self._say()
                self._young.update(listing.young)
                yield path, listing.files
        finally:
            self._say()
        if not folder:
            self._started_ns = None
            if self._source is not None:
                self._source.scan_ended()
            self._say()

    def stop(self) -> None:
        """Collect no more hints."""
        self._running = False
        source, self._source = self._source, None
        if source is not None:
            source.stop()

    def _begin(self) -> None:
        if self._source is not None:
            self._source.scan_begins()
        elif self._running and not self._polling:
            ground = ground_of(self._root)  # a share that came back may be watched: before it is listed
            if len(ground.point) >= len(self._ground.point):
                self._stand_on(ground)

    def _walk(self, folder: str, *, files: bool) -> Iterator[tuple[str, Listing]]:
        try:
            pending = [self._tree.enter(folder)]
        except OSError as error:
            raise self._cannot_list(folder, error) from error
        while pending:
            here = pending.pop()
            self._watch(here.path)  # first watch, then list: nothing falls between
            try:
                listing = self._tree.list(here, files=files, young_ns=self._started_ns)
            except OSError as error:
                if here.path == folder:
                    raise self._cannot_list(folder, error) from error
                if here.path not in self._unlistable:
                    self._unlistable.add(here.path)
                    self._notes.append(
                        Note(
                            f"{here.path}: this folder cannot be listed: {error.strerror or error}",
                            "give the account this program runs under the right to read it; it is tried again",
                        )
                    )
                continue
            if not here.path and files:
                self._stand_on(self._still_mounted())
            self._unlistable.discard(here.path)
            pending.extend(reversed(listing.folders))
            yield here.path, listing

    def _cannot_list(self, folder: str, error: OSError) -> SourceError:
        where = f"{self._root}: the watched folder" if not folder else f"{folder}: this folder"
        return SourceError(
            f"{where} cannot be listed: {error.strerror or error}",
            hint="check that the folder is there, mounted and readable",
        )

    def _watch(self, folder: str) -> None:
        remote = any(f"{folder}/".startswith(f"{place}/") for place, _ in self._ground.remote_below)
        if self._source is not None and not remote:
            self._source.watch(folder)

    # -- what the root stands on ----------------------------------------------------------------------------

    def _still_mounted(self) -> Ground:
        """
        What the root stands on after it was listed.

        An unmounted share leaves an empty folder behind, which must not be taken for a share whose files are gone.
        """
        ground, before = ground_of(self._root), self._ground.point
        if before and len(ground.point) < len(before):
            if self._source is not None:
                self._source.stop()  # what it watches is not there; the scan that finds the share watches it again
                self._source = None
            raise SourceError(
                f"{self._root}: the watched folder cannot be listed: {before} is not mounted any more",
                hint=f"mount {before} again; if it is to stay as it is, start the program again",
            )
        return ground

    def _stand_on(self, ground: Ground) -> None:
        self._ground = ground
        if not self._running:
            return
        if ground.remote and not self._polling:
            self._tell_once(
                f"{self._root}: it lies on a file system that does not tell of changes ({ground.fs_type})", ground.point
            )
        for place, fs_type in ground.remote_below:
            if not self._polling and not ground.remote:
                self._tell_once(f"{place}: this folder does not tell of changes ({fs_type})", place)
        hints_come = not (self._polling or ground.remote)
        if hints_come and self._source is None:
            self._source = self._new_source()
            self._source.start()
            self._source.watch("")
        elif not hints_come and self._source is not None:
            self._source.stop()
            self._source = None

    def _new_source(self) -> _Source:
        if self._by_watchdog:
            from openmsistream.adapters.filesystem.observing import WatchdogSource  # noqa: PLC0415 - not on Linux

            return WatchdogSource(self._root, self._box, self._notes.append)
        from openmsistream.adapters.filesystem.inotify import InotifySource  # noqa: PLC0415 - Linux only

        return InotifySource(self._tree, self._box, self._watch_below, self._notes.append)

    def _watch_below(self, folder: str) -> None:
        """Watch a folder and all below it; what is in them is for a scan to find. Called from the source's thread."""
        try:
            for _ in self._walk(folder, files=False):
                if not self._running:
                    return
        except SourceError:
            return  # gone again, or not readable yet: the next scan of the root tells

    def _tell_once(self, text: str, about: str) -> None:
        if about not in self._told:
            self._told.add(about)
            self._notes.append(Note(text, _POLL_HINT))

    def _say(self) -> None:
        """Tell what was found out meanwhile, on the caller's own thread."""
        while self._notes:
            self._events(self._notes.popleft())
