"""Where a path stands on a destination that takes names for the same which differ in upper and lower case only.

There two paths of a topic could be one file. Whose file it is, the spelling on the disk tells, which such systems
keep; the other path gets a name with escaped letters (``core.names``). The file system itself is asked what it takes
for the same, so that no rule of ours has to agree with its own. On other systems nothing is asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from openmsistream.core.names import Naming, letters_in
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.errors import ProtocolError


def folds(root: Path) -> bool:
    """True when the folder takes names for the same that differ in upper and lower case; our work folder is there."""
    try:
        other = os.lstat(root / WORK_FOLDER.upper())
        return os.path.samestat(os.lstat(root / WORK_FOLDER), other)
    except OSError:
        return False


class Spelling:
    """
    The names below one destination.

    Args:
        naming: How its names are mapped.
        exists: Whether the destination has something under a relative path, in whatever spelling.
        names: What a folder of it holds, as it is spelled there.
    """

    def __init__(self, naming: Naming, exists: Callable[[str], bool], names: Callable[[str], Collection[str]]) -> None:
        self.naming, self._exists, self._names = naming, exists, names
        self._listed: dict[str, set[str]] = {}

    def begin(self) -> None:
        """Look anew at what is there: somebody else may have changed it."""
        self._listed.clear()

    def place(self, path: str) -> str:
        """
        The relative path that a file stands under, or is to stand under, at this destination.

        Raises:
            ProtocolError: There is none; ``Naming.stored``.
            OSError: A folder cannot be listed.
        """
        stored = self.naming.stored(path)
        if not self.naming.folds:
            return stored
        here = ""
        for part, mapped in zip(path.split("/"), stored.split("/"), strict=True):
            here += self._name(here, part, mapped, path) + "/"
        return here[:-1]

    def placed(self, stored: str) -> None:
        """A file was put under the path that ``place`` gave."""
        while stored and self._listed:
            folder, _, name = stored.rpartition("/")
            if folder in self._listed:
                self._listed[folder].add(name)
            stored = folder

    def _name(self, folder: str, part: str, name: str, path: str) -> str:
        for letters in range(1, letters_in(part) + 2):
            if not self._exists(folder + name) or name in self._spelled(folder[:-1]):
                return name
            name = self.naming.part(part, letters)
        raise ProtocolError(
            f"{path!r} is not a valid name here: files whose names differ in upper and lower case only are in the way",
            hint="rename the file on the sending side",
        )

    def _spelled(self, folder: str) -> set[str]:
        if folder not in self._listed:
            self._listed[folder] = set(self._names(folder))
        return self._listed[folder]


def spelling_on_disk(root: Path, naming: Naming) -> Spelling:
    """The names below a folder of this computer."""

    def exists(path: str) -> bool:
        return os.path.lexists(root / path)

    def names(folder: str) -> list[str]:
        return os.listdir(root / folder)

    return Spelling(naming, exists, names)
