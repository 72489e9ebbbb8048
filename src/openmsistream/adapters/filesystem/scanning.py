"""Listing the folders of a root: what is a file, what is a folder, and what becomes of symbolic links.

The only place that decides which links are taken. It lists one folder at a time and keeps no state but which
links it told of; it knows nothing of watching.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections.abc import Callable
from dataclasses import dataclass, field

from openmsistream.adapters.filesystem.reading import lies_within, stat_of
from openmsistream.core.events import Note
from openmsistream.core.settle import Stat

LINKS_TOLD = 100
"""Links that lead outside the root are told of one by one up to this many."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What is said of an entry that went between listing and looking, or of a link to nothing or to itself."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder of the root: its relative path, and the real folders (device, inode) on the way to it with itself."""

    path: str
    chain: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class Listing:
    """
    What a folder holds.

    Attributes:
        files, folders: The files, with how they look, and the folders.
        young: Those of the files that were touched since the time asked for.
        unreadable: What is there and cannot be looked at, with the reason.
    """

    files: list[tuple[str, Stat]] = field(default_factory=list)
    folders: list[Place] = field(default_factory=list)
    young: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


class Tree:
    """
    The folders below a root.

    Args:
        root: Absolute path of the root; it may itself be a link.
        follow_symlinks: Take links to files and folders that lie within the root, under the link's own path. A
            folder is never listed below itself, so chains of links end.
        tell: Told once of each link that leads outside; called from whatever thread lists.
    """

    def __init__(self, root: str, *, follow_symlinks: bool, tell: Callable[[Note], None]) -> None:
        self._root, self._tell = root, tell
        self.follows = follow_symlinks
        self._told: set[str] = set()

    def full(self, path: str) -> str:
        """The absolute path of a relative one."""
        return os.path.join(self._root, path) if path else self._root

    def enter(self, folder: str) -> Place:
        """
        The folder at a relative path, to start listing at.

        Raises:
            OSError: It is not there, or a part of its path is a link that is not followed.
        """
        found = os.stat(self._root)
        chain, path = [(found.st_dev, found.st_ino)], ""
        for part in folder.split("/") if folder else ():
            path = f"{path}/{part}" if path else part
            full = self.full(path)
            if not self.follows:
                if stat_module.S_ISLNK(os.lstat(full).st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, "a part of its path is a symbolic link", full)
                continue
            if not lies_within(os.path.realpath(full, strict=True), os.path.realpath(self._root)):
                raise PermissionError(errno.EPERM, "it lies outside the watched folder", full)
            found = os.stat(full)
            chain.append((found.st_dev, found.st_ino))
        if len(set(chain)) < len(chain):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.full(folder))
        return Place(folder, tuple(chain) if self.follows else ())

    def list(self, place: Place, *, files: bool = True, young_ns: int | None = None) -> Listing:
        """
        What is in a folder; an entry that vanishes meanwhile is left out.

        Args:
            place: The folder, from ``enter`` or from the listing of the folder above.
            files: False: only folders, which saves looking at each file.
            young_ns: Also say which files were made, written or renamed since (ns since 1970, as the system's ctime).

        Raises:
            OSError: The folder cannot be listed.
        """
        prefix = f"{place.path}/" if place.path else ""
        found = Listing()
        with os.scandir(self.full(place.path)) as entries:
            for entry in entries:
                path = prefix + entry.name
                try:
                    if self.follows:
                        self._take_following(entry, path, place, found, files=files, young_ns=young_ns)
                    elif entry.is_dir(follow_symlinks=False):
                        found.folders.append(Place(path))
                    elif files and entry.is_file(follow_symlinks=False):
                        _take_file(path, entry.stat(follow_symlinks=False), found, young_ns)
                except OSError as error:
                    if error.errno not in _GONE:
                        found.unreadable.append((path, error.strerror or str(error)))
        return found

    def _take_following(
        self, entry: os.DirEntry[str], path: str, place: Place, found: Listing, *, files: bool, young_ns: int | None
    ) -> None:
        if entry.is_symlink():
            real = os.path.realpath(entry.path, strict=True)
            looks = os.stat(real, follow_symlinks=False)
            if not lies_within(real, os.path.realpath(self._root)):
                self._leads_outside(path)
                return
        elif not files and not entry.is_dir(follow_symlinks=False):
            return
        else:
            looks = entry.stat(follow_symlinks=False)
        if stat_module.S_ISDIR(looks.st_mode):
            who = (looks.st_dev, looks.st_ino)
            if who not in place.chain:
                found.folders.append(Place(path, (*place.chain, who)))
        elif files and stat_module.S_ISREG(looks.st_mode):
            _take_file(path, looks, found, young_ns)

    def _leads_outside(self, path: str) -> None:
        if path in self._told or len(self._told) > LINKS_TOLD:
            return
        self._told.add(path)
        if len(self._told) > LINKS_TOLD:
            self._tell(Note(f"more than {LINKS_TOLD} links lead outside the watched folder; the others are not named"))
            return
        self._tell(
            Note(
                f"{path}: this link leads outside the watched folder and is left out",
                "watch the folder it leads to as well, or put the files themselves here",
            )
        )


def _take_file(path: str, looks: os.stat_result, found: Listing, young_ns: int | None) -> None:
    found.files.append((path, stat_of(looks)))
    if young_ns is not None and looks.st_ctime_ns >= young_ns:
        found.young.append(path)
