"""The files of a folder as one of the places that ``openmsistream verify`` compares.

Reads and changes nothing: files are opened as the uploader opens them, disturbing nobody. Must not know the other
places, nor which files are wanted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from openmsistream.adapters.filesystem.reading import FolderReader
from openmsistream.adapters.filesystem.scanning import Tree
from openmsistream.adapters.filesystem.spelling import folds, spelling_on_disk
from openmsistream.core.chunk import HashName
from openmsistream.core.comparing import Item, Kind
from openmsistream.core.events import Note
from openmsistream.core.hashing import new_hasher
from openmsistream.core.names import Naming, naming_for
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.core.settle import Stat
from openmsistream.errors import ProtocolError, SourceError

READ_BYTES = 1024 * 1024


class FolderListing:
    """
    The regular files below a folder, without the work folder of a downloader.

    Args:
        place: What it is called in findings: source or destination.
        root: The folder.
        follow_symlinks: Take symbolic links that stay within the folder, as the uploader does when told to.
        names: Of a destination, what becomes of names that Windows cannot have, as for the downloader: auto, keep,
            map, refuse. None: a name is what it is.
        tell: Told of links that lead outside.
    """

    def __init__(
        self,
        place: str,
        root: Path,
        *,
        follow_symlinks: bool = False,
        names: str | None = None,
        tell: Callable[[Note], None] = lambda _: None,
    ) -> None:
        self.place = place
        naming = Naming() if names is None else naming_for(names, windows=os.name == "nt", folds=folds(root))
        self._spelling = spelling_on_disk(root, naming)
        self._root = os.path.abspath(root)
        self._tree = Tree(self._root, follow_symlinks=follow_symlinks, tell=tell)
        self._reader = FolderReader(root, follow_symlinks=follow_symlinks)
        self._buffer = memoryview(bytearray(READ_BYTES))

    def items(self) -> Iterator[Item]:
        """
        Every file, in no order; what cannot be listed or looked at is an item with that problem.

        Memory grows with the largest single folder, not with the tree.

        Raises:
            SourceError: The folder itself cannot be listed.
        """
        try:
            pending = [self._tree.enter("")]
            while pending:
                here = pending.pop()
                try:
                    listing = self._tree.list(here)
                except OSError as error:
                    if not here.path:
                        raise
                    yield self._unreadable(here.path, f"this folder cannot be listed: {error.strerror or error}")
                    continue
                pending += (place for place in listing.folders if place.path != WORK_FOLDER)
                for path, reason in listing.unreadable:
                    yield self._unreadable(path, f"it cannot be looked at: {reason}")
                for path, stat in listing.files:
                    yield Item(self._spelling.naming.original(path), stat.size, _stamp(stat, path))
        except OSError as error:
            raise SourceError(
                f"{self._root}: the {self.place} folder cannot be listed: {error.strerror or error}",
                hint="check that the folder is there, mounted and readable",
            ) from error

    def _unreadable(self, path: str, reason: str) -> Item:
        return Item(self._spelling.naming.original(path), 0, problem=Kind.UNREADABLE, reason=reason)

    def digest(self, item: Item, hash_name: HashName, progress: Callable[[int], None]) -> bytes:
        """
        The digest of what the file holds now.

        Args:
            item: From ``items``.
            hash_name: Which function.
            progress: Told how many bytes were read, again and again.

        Raises:
            SourceError: It cannot be read, or is gone.
        """
        hasher = new_hasher(hash_name)
        file = self._reader.open(_stored(item))
        try:
            while count := file.read_into(self._buffer):
                hasher.update(self._buffer[:count])
                progress(count)
        finally:
            file.close()
        return hasher.digest()

    def unchanged(self, item: Item) -> bool:
        """True when the file still looks as it did when it was listed."""
        stored = _stored(item)
        stat = self._reader.stat(stored)
        return stat is not None and _stamp(stat, stored) == item.stamp

    def has(self, name: str) -> bool:
        """True when there is such a file now."""
        self._spelling.begin()
        try:
            return self._reader.stat(self._spelling.place(name)) is not None
        except (ProtocolError, OSError):
            return False

    def close(self) -> None:
        """There is nothing to let go of."""


def _stamp(stat: Stat, stored: str) -> str:
    return f"{stat.size}:{stat.mtime_ns}:{stat.inode}:{stored}"


def _stored(item: Item) -> str:
    """The name under which the file stands, which is not the one its sender gave where names are mapped."""
    return item.stamp.split(":", 3)[3]
