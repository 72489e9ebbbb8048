"""Files that are sent while they are still being written: which are, which wait for their writer, which ended.

A streamed file is a ``Sending`` that has not settled. It sleeps while its writer has not written another whole chunk,
and is given up when its file is removed, replaced or cut; it is then sent like any other, once it is complete. Knows
nothing of producers and ledgers: the sender drives what is awake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from openmsistream.core.settle import Stat
from openmsistream.errors import OpenMSIStreamError, SourceError
from openmsistream.pipeline.sending import Sending, State
from openmsistream.ports import FileReader

AT_ONCE = 4
"""Files that are streamed at the same time; others are sent when they are complete."""
MISSING_SECONDS = 1.0
"""A streamed file may be without a name for so long: of a rename its old name is often looked at before it is told."""
SPOILED_PATHS = 10_000
"""Paths remembered as rewritten while they were streamed."""


class GrowingFiles:
    """The files being streamed, by what they are called now."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._growing: dict[str, Sending] = {}
        self._asleep: dict[str, Sending] = {}
        self._replaced: list[Sending] = []
        self._renamed: dict[str, Sending] = {}  # by what they were called when they were announced
        self._missing: dict[str, float] = {}
        self._spoiled: dict[str, None] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._growing

    def __len__(self) -> int:
        return len(self._growing)

    def __iter__(self) -> Iterator[Sending]:
        return iter(list(self._growing.values()))

    def welcomes(self, path: str) -> bool:
        """True when the file may be streamed: there is room, and it was not found rewritten before."""
        taken = path in self._growing or path in self._spoiled or self._announced(path) is not None
        return not taken and len(self._growing) < AT_ONCE

    def gives_way(self, path: str) -> bool:
        """
        True when a version may be sent under this path.

        One that was announced under it, and whose file has another name by now, would be taken for an older version
        of the same file: it is given up, or waited for when its end is being sent already.
        """
        sending = self._announced(path)
        if sending is not None and self._growing.get(sending.final_path) is sending:
            sending.fail(SourceError(f"{sending.final_path}: another file has the name {path} now"))
        return sending is None

    def _announced(self, path: str) -> Sending | None:
        """The version under way that was announced under a path which its file has no more."""
        sending = self._renamed.get(path)
        if sending is not None and sending.state is State.SENT:
            del self._renamed[path]
            return None
        return sending

    def add(self, sending: Sending) -> None:
        """Begin with a file; it sleeps until it is asked for."""
        self._growing[sending.final_path] = self._asleep[sending.final_path] = sending

    def sleeps(self, sending: Sending) -> None:
        """Nothing can be sent of it until its writer goes on."""
        self._asleep[sending.final_path] = sending

    def awake(self, now: float) -> list[Sending]:
        """The files that can be worked on again; each once, until it sleeps again. ``now``: monotonic seconds."""
        for path in [path for path, since in self._missing.items() if now - since >= MISSING_SECONDS]:
            del self._missing[path]
            if (missing := self._growing.get(path)) is not None:
                missing.fail(SourceError(f"{path}: it was removed while it was streamed"))
        replaced, self._replaced = self._replaced, []
        found = [path for path, sending in self._asleep.items() if sending.has_work()]
        return replaced + [self._asleep.pop(path) for path in found]

    def renamed(self, before: str, path: str) -> None:
        """A file has another name now; the end of its version will say so."""
        self._missing.pop(before, None)
        sending = self._growing.pop(before, None)
        if sending is None:
            return
        replaced, asleep = self._growing.get(path), self._asleep.pop(path, None)
        if replaced is not None:
            replaced.fail(SourceError(f"{path}: it was replaced while it was streamed"))
        if asleep is not None:
            self._replaced.append(asleep)  # nobody else knows of it, and its end has to be told
        sending.final_path = path
        self._growing[path] = sending
        self._renamed.pop(sending.path, None)
        if path != sending.path:
            self._renamed[sending.path] = sending
        if self._asleep.pop(before, None) is not None:
            self._asleep[path] = sending

    def noticed(self, path: str, stat: Stat | None, now: float) -> None:
        """What a path looks like now; a file that was removed or replaced is given up."""
        sending = self._growing.get(path)
        if sending is None:
            return
        if stat is None:
            self._missing.setdefault(path, now)
            return
        self._missing.pop(path, None)
        if stat.inode != sending.stat.inode:
            sending.fail(SourceError(f"{path}: it was replaced while it was streamed"))

    def give_up(self, path: str, reason: str) -> None:
        """A file is not to be sent any more under the name that it has now."""
        sending = self._growing.get(path)
        if sending is not None:
            sending.fail(SourceError(f"{path}: {reason}"))

    def settle(self, path: str, stat: Stat, evidence: str, next_gen: Callable[[], int]) -> bool:
        """
        A file is complete.

        Args:
            path: What it is called.
            stat: What it looked like when it was found complete.
            evidence: Why it is taken to be complete.
            next_gen: Gives its place among the versions of the path; asked if it was announced under another, among
                whose versions its place was.

        Returns:
            False when it is not being streamed, or not well, and is to be sent as any other.
        """
        sending = self._growing.pop(path, None)
        if sending is None:
            return False
        try:
            file = self._reader.open(path)
        except OpenMSIStreamError as error:
            sending.fail(error)
            return False
        if file.stat != stat:
            sending.fail(SourceError(f"{path}: it changed after it was found complete"))
        if sending.state is State.FAILED:
            file.close()
            return False
        if sending.path != path:
            sending.gen = next_gen()
        sending.settle(file, path, evidence)
        return True

    def ended(self, sending: Sending, *, spoiled: bool) -> None:
        """It was given up; ``spoiled``: beginning it anew while it is written would only be given up again."""
        path = sending.final_path
        if self._growing.get(path) is sending:
            del self._growing[path]
        if self._renamed.get(sending.path) is sending:
            del self._renamed[sending.path]
        if spoiled:
            self._spoiled[path] = None
            if len(self._spoiled) > SPOILED_PATHS:
                del self._spoiled[next(iter(self._spoiled))]
