"""Which watch belongs to which folder: a table that follows folders as they move. Pure bookkeeping, no system call.

A watch is a number that the system gives to a folder, however the folder is called; one folder may have several
names (links, bind mounts), and a name belongs to one watch. Folders are relative POSIX paths, "" is the root.
"""

from __future__ import annotations


class WatchTable:
    """
    The watched folders.

    Attributes:
        prefixes: By watch: what stands before the names of its files, once per name of the folder ("" or "a/b/").
    """

    def __init__(self) -> None:
        self.prefixes: dict[int, tuple[str, ...]] = {}
        self._watches: dict[str, int] = {}
        self._below: dict[str, set[str]] = {}  # by folder: its sub-folders that are watched, or lead to such

    def __contains__(self, folder: str) -> bool:
        return folder in self._watches

    def __len__(self) -> int:
        return len(self._watches)

    def folders(self) -> set[str]:
        """All watched folders."""
        return set(self._watches)

    def is_at(self, folder: str, watch: int) -> bool:
        """True when the watch is known to be the one of this folder."""
        return self._watches.get(folder) == watch

    def put(self, folder: str, watch: int) -> list[int]:
        """A folder has this watch from now on; the watches that have no folder any more thereby."""
        useless = self._unname(folder)
        self._watches[folder] = watch
        self.prefixes[watch] = (*self.prefixes.get(watch, ()), _prefix(folder))
        below = folder
        while below:
            above = below.rpartition("/")[0]
            siblings = self._below.setdefault(above, set())
            if below in siblings:
                break
            siblings.add(below)
            below = above
        return [other for other in useless if other != watch]

    def drop(self, folder: str) -> list[int]:
        """A folder and all below it are gone; the watches that have no folder any more thereby."""
        useless = [watch for each in self._take_out(folder) for watch in self._unname(each)]
        self._unlink(folder)
        return useless

    def move(self, old: str, new: str) -> list[int]:
        """A folder has another name, and so all below it; the watches that have no folder any more thereby."""
        moved = [(each, self._watches.get(each)) for each in self._take_out(old)]
        for each, _ in moved:
            self._unname(each)
        self._unlink(old)
        useless = self.drop(new)
        for each, watch in moved:
            if watch is not None:
                useless += self.put(new + each[len(old) :], watch)
        return [watch for watch in useless if watch not in self.prefixes]

    def forget(self, watch: int) -> None:
        """The system ended a watch."""
        for prefix in self.prefixes.pop(watch, ()):
            folder = prefix[:-1]
            if self._watches.get(folder) == watch:
                del self._watches[folder]
                if folder not in self._below:
                    self._unlink(folder)

    def _take_out(self, folder: str) -> list[str]:
        """The folder and all below it, whose kinship is forgotten."""
        found, pending = [], [folder]
        while pending:
            each = pending.pop()
            found.append(each)
            pending.extend(self._below.pop(each, ()))
        return found

    def _unlink(self, folder: str) -> None:
        while folder:
            above = folder.rpartition("/")[0]
            siblings = self._below.get(above)
            if siblings is None:
                return
            siblings.discard(folder)
            if siblings:
                return
            del self._below[above]
            if above in self._watches:
                return
            folder = above

    def _unname(self, folder: str) -> list[int]:
        watch = self._watches.pop(folder, None)
        if watch is None:
            return []
        rest = tuple(prefix for prefix in self.prefixes.get(watch, ()) if prefix != _prefix(folder))
        if rest:
            self.prefixes[watch] = rest
            return []
        self.prefixes.pop(watch, None)
        return [watch]


def _prefix(folder: str) -> str:
    return f"{folder}/" if folder else ""
