"""Hints on Linux: inotify watches on the folders of a root, and the thread that reads what they tell.

Owns the watches, the table of which watch belongs to which folder, and the pairing of moves. Which folders there
are it is told by who lists them; what a hint means for a file is for others to decide. One lock, the box's,
guards box and table alike, since each event changes both.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from inotify_simple import INotify, flags

from openmsistream.adapters.filesystem.hints import HintBox
from openmsistream.adapters.filesystem.scanning import Tree
from openmsistream.adapters.filesystem.watches import WatchTable
from openmsistream.core.events import Note

READ_BYTES = 64 * 1024
"""Up to 1,400 events at once; larger blocks would be mapped and unmapped at each read."""
MOVE_SECONDS = 0.02
"""The two events of a move come together; a move whose second half is not there by then led out of the root."""
# Plain numbers: operations on enum members cost more than all else that is done for an event.
_CREATE, _MODIFY, _CLOSE_WRITE, _DELETE = map(int, (flags.CREATE, flags.MODIFY, flags.CLOSE_WRITE, flags.DELETE))
_MOVED_FROM, _MOVED_TO, _ISDIR = map(int, (flags.MOVED_FROM, flags.MOVED_TO, flags.ISDIR))
_DELETE_SELF, _MOVE_SELF = map(int, (flags.DELETE_SELF, flags.MOVE_SELF))
_OVERFLOW, _IGNORED, _UNMOUNT = map(int, (flags.Q_OVERFLOW, flags.IGNORED, flags.UNMOUNT))
# EXCL_UNLINK: who writes on into a removed file must not be taken for a writer of the file that has its name now.
_MASK = (
    _CREATE | _MODIFY | _CLOSE_WRITE | _DELETE | _MOVED_FROM | _MOVED_TO | _DELETE_SELF | _MOVE_SELF
    | int(flags.ONLYDIR) | int(flags.EXCL_UNLINK)
)  # fmt: skip
_NO_LINK = int(flags.DONT_FOLLOW)
_EVENT = struct.Struct("iIII")  # Source: inotify(7): wd, mask, cookie, length of the name with its NULs
_ENCODING = sys.getfilesystemencoding()
_LEAST_WATCHES, _LEAST_INSTANCES = 524_288, 1_024


class InotifySource:
    """
    Fills a box of hints from inotify.

    Args:
        tree: The root's folders.
        box: Where the hints go.
        watch_below: Calls ``watch`` for a folder and all below it; called from the reading thread, without the lock.
        tell: Told, once each time, that a limit of the system is reached; called from any thread.
    """

    def __init__(
        self, tree: Tree, box: HintBox, watch_below: Callable[[str], None], tell: Callable[[Note], None]
    ) -> None:
        self._tree, self._box, self._watch_below, self._tell = tree, box, watch_below, tell
        self._inotify: INotify | None = None
        self._thread: threading.Thread | None = None
        self._bell = -1
        self._stopping = False
        self._table = WatchTable()
        self._moves: dict[int, tuple[list[str], bool, float]] = {}
        self._appeared: list[str] = []
        self._missed = self._incomplete = False
        self._overflowed = False
        self._visited: set[str] | None = None

    @property
    def complete(self) -> bool:
        """True while every folder that may be listed is watched, as far as the last scan knows."""
        thread = self._thread
        return thread is not None and thread.is_alive() and "" in self._table and not self._incomplete

    def start(self) -> None:
        """Begin to collect hints of the folders that ``watch`` is called for; where that cannot be, say so."""
        bell = -1
        try:
            bell = os.eventfd(0, os.EFD_CLOEXEC)
            self._inotify = INotify()
        except OSError as error:
            if bell >= 0:
                os.close(bell)
            self._limit_reached(_instances_note(self._tree.full(""), error))
            return
        self._bell = bell
        self._stopping = False
        self._thread = threading.Thread(target=self._read, name="inotify", daemon=True)
        self._thread.start()

    def scan_begins(self) -> None:
        """The whole root is about to be scanned, and every folder watched before it is listed."""
        if self._inotify is None:
            self.start()
        self._missed = self._inotify is None
        with self._box.lock:
            again = self._visited is not None  # the last scan did not come to its end
            self._visited = set() if self._overflowed or again else None
            self._overflowed = False

    def watch(self, folder: str) -> None:
        """Watch a folder, whatever was watched under its name before."""
        mask = _MASK if self._tree.follows or not folder else _MASK | _NO_LINK
        with self._box.lock:
            if self._inotify is None:
                return
            if self._visited is not None:
                self._visited.add(folder)
            try:
                watch = self._inotify.add_watch(self._tree.full(folder), mask)
            except OSError as error:
                self._drop(folder)
                if error.errno in (errno.ENOSPC, errno.ENOMEM):
                    self._limit_reached(_watches_note(self._tree.full(folder)))
                return  # otherwise: gone, or not readable yet; the scan tells
            if not self._table.is_at(folder, watch):
                self._let_go(self._table.put(folder, watch))

    def scan_ended(self) -> None:
        """Every folder of the root was watched, or could not be."""
        with self._box.lock:
            visited, self._visited = self._visited, None
            for folder in () if visited is None else self._table.folders() - visited:
                if not os.path.isdir(self._tree.full(folder)):  # it moved away while nobody could tell us
                    self._drop(folder)
            self._incomplete = self._missed

    def stop(self) -> None:
        """Collect no more hints."""
        self._stopping = True
        thread, self._thread = self._thread, None
        if thread is not None:
            os.eventfd_write(self._bell, 1)
            thread.join(timeout=5)
            os.close(self._bell)
        with self._box.lock:
            inotify, self._inotify = self._inotify, None
            self._table = WatchTable()
        if inotify is not None:
            inotify.close()

    def _limit_reached(self, note: Note) -> None:
        if not self._incomplete:
            self._tell(note)
        self._missed = self._incomplete = True

    # -- the reading thread ---------------------------------------------------------------------------------

    def _read(self) -> None:
        inotify, bell = self._inotify, self._bell
        if inotify is None:
            return
        poller = select.poll()
        poller.register(inotify.fileno(), select.POLLIN)
        poller.register(bell, select.POLLIN)
        while True:
            # Without moves to wait for the thread sleeps in the kernel until something happens.
            ready = poller.poll(MOVE_SECONDS * 1000 if self._moves else None)
            if self._stopping:
                return
            if ready:
                data = os.read(inotify.fileno(), READ_BYTES)
                with self._box.lock:
                    self._take_in(data)
                self._box.announce()
            with self._box.lock:
                self._end_moves()
            if self._appeared:
                self._look_into_new_folders()

    def _look_into_new_folders(self) -> None:
        appeared, self._appeared = dict.fromkeys(self._appeared), []
        for path in appeared:
            if self._tree.follows and not os.path.isdir(self._tree.full(path)):
                continue  # among the new files are links; those to folders are looked for here
            self._watch_below(path)
            with self._box.lock:
                self._box.appeared(path)
            self._box.announce()

    def _take_in(self, data: bytes) -> None:
        # 20,000 files a second are 60,000 events: this loop costs about a microsecond for each.
        at, end, unpack, prefixes, box = 0, len(data), _EVENT.unpack_from, self._table.prefixes, self._box
        follows = self._tree.follows
        while at < end:
            watch, mask, cookie, length = unpack(data, at)
            at += 16
            name = data[at : at + length].rstrip(b"\0").decode(_ENCODING, "surrogateescape")
            at += length
            for prefix in prefixes.get(watch, ()):
                if mask == _MODIFY:
                    box.changed(prefix + name)
                elif mask == _CLOSE_WRITE:
                    box.closed(prefix + name)
                elif mask == _CREATE:
                    box.changed(prefix + name)
                    if follows:
                        self._appeared.append(prefix + name)
                elif mask == _DELETE:
                    box.gone(prefix + name)
                    if follows:
                        self._drop(prefix + name)
            if mask not in (_MODIFY, _CLOSE_WRITE, _CREATE, _DELETE):
                self._take_in_rare(watch, mask, cookie, name)

    def _take_in_rare(self, watch: int, mask: int, cookie: int, name: str) -> None:
        prefixes = self._table.prefixes.get(watch, ())
        if mask & _OVERFLOW:
            self._box.lost_count()
            self._moves.clear()
            self._overflowed = True
        elif mask & (_IGNORED | _UNMOUNT | _DELETE_SELF | _MOVE_SELF):
            if "" in prefixes or mask & _UNMOUNT:
                self._box.lost_count()  # a scan tells what is there now
            if "" in prefixes and mask & _MOVE_SELF:
                self._drop("")  # its folders are watched under names that are no longer theirs
            if mask & _IGNORED:
                self._table.forget(watch)
        elif mask & (_MOVED_FROM | _MOVED_TO):
            self._take_in_move(mask, cookie, [prefix + name for prefix in prefixes])
        elif mask & _CREATE:  # of a folder; its removal ends its watch by itself
            self._appeared.extend(prefix + name for prefix in prefixes)

    def _take_in_move(self, mask: int, cookie: int, paths: list[str]) -> None:
        is_folder = bool(mask & _ISDIR)
        if mask & _MOVED_FROM:
            self._moves[cookie] = (paths, is_folder, time.monotonic())
            if not is_folder:
                for path in paths:
                    self._box.left(path)
            return
        before = self._moves.pop(cookie, ([], False, 0.0))[0]
        for number, path in enumerate(paths):
            old = before[min(number, len(before) - 1)] if before else None
            if is_folder or self._tree.follows:
                self._appeared.append(path)
            if not is_folder:
                self._box.renamed(old, path) if old else self._box.changed(path)
            if old:
                self._let_go(self._table.move(old, path))
        for old in before[len(paths) :]:  # it had more names than it has now
            self._drop(old)

    def _end_moves(self) -> None:
        """Moves whose second half did not come led out of the root: what is below is no longer ours to watch."""
        limit = time.monotonic() - MOVE_SECONDS
        for cookie in [cookie for cookie, (_, _, since) in self._moves.items() if since <= limit]:
            paths, is_folder, _ = self._moves.pop(cookie)
            for path in paths:
                if not is_folder:
                    self._box.gone(path)
                if not os.path.isdir(self._tree.full(path)):
                    self._drop(path)

    def _drop(self, folder: str) -> None:
        self._let_go(self._table.drop(folder))

    def _let_go(self, watches: list[int]) -> None:
        for watch in watches:
            with suppress(OSError):  # the kernel removed it before we did
                if self._inotify is not None:
                    self._inotify.rm_watch(watch)


def _watches_note(folder: str) -> Note:
    setting, now = _limit("max_user_watches", "max_inotify_watches")
    return Note(
        f"{folder}: it cannot be watched: all {now} inotify watches of this account are in use; "
        "the folders without one are scanned",
        f"sudo sysctl {setting}={max(_LEAST_WATCHES, 2 * now)}   (to keep it, write it into /etc/sysctl.d/)",
    )


def _instances_note(root: str, error: OSError) -> Note:
    setting, now = _limit("max_user_instances", "max_inotify_instances")
    return Note(
        f"{root}: no change notifications here: {error.strerror} (at most {now} inotify instances are allowed for "
        "this account); the folder is scanned",
        f"sudo sysctl {setting}={max(_LEAST_INSTANCES, 2 * now)}   (or, if this program has too many open files: "
        "ulimit -n)",
    )


def _limit(everywhere: str, here: str) -> tuple[str, int]:
    """
    The name and value of the setting that limits this account: the system's, or the container's if that is lower.

    Source: inotify(7) and namespaces(7), ``/proc/sys/fs/inotify`` and ``/proc/sys/user``.
    """
    found = []
    for name in (f"fs.inotify.{everywhere}", f"user.{here}"):
        with suppress(OSError, ValueError):
            found.append((name, int(Path("/proc/sys", *name.split(".")).read_text(encoding="ascii"))))
    return min(found, key=lambda limit: limit[1], default=(f"fs.inotify.{everywhere}", 0))
