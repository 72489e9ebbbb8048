"""Files that are sent while they are still being written: which are, which wait for their writer, which ended.

A streamed file is a ``Sending`` that has not settled. It sleeps while its writer has not written another whole chunk,
and is given up when its file is removed, replaced or cut; it is then sent like any other, once it is complete. Knows
nothing of producers and ledgers: the sender drives what is awake.
"""

from __future__ import annotations

from collections.abc import Iterator

from openmsistream.core.settle import Stat
from openmsistream.errors import OpenMSIStreamError, SourceError
from openmsistream.pipeline.sending import Sending, State
from openmsistream.ports import FileReader

AT_ONCE = 4
"""Files that are streamed at the same time; others are sent when they are complete."""
SPOILED_PATHS = 10_000
"""Paths remembered as rewritten while they were streamed."""


class GrowingFiles:
    """The files being streamed, by what they are called now."""

    def __init__(self, reader: FileReader) -> None:
        self._reader = reader
        self._growing: dict[str, Sending] = {}
        self._asleep: dict[str, Sending] = {}
        self._spoiled: dict[str, None] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._growing

    def __len__(self) -> int:
        return len(self._growing)

    def __iter__(self) -> Iterator[Sending]:
        return iter(list(self._growing.values()))

    def welcomes(self, path: str) -> bool:
        """True when the file may be streamed: there is room, and it was not found rewritten before."""
        return path not in self._growing and path not in self._spoiled and len(self._growing) < AT_ONCE

    def add(self, sending: Sending) -> None:
        """Begin with a file; it sleeps until it is asked for."""
        self._growing[sending.final_path] = self._asleep[sending.final_path] = sending

    def sleeps(self, sending: Sending) -> None:
        """Nothing can be sent of it until its writer goes on."""
        self._asleep[sending.final_path] = sending

    def awake(self) -> list[Sending]:
        """The files that can be worked on again; each once, until it sleeps again."""
        found = [path for path, sending in self._asleep.items() if sending.has_work()]
        return [self._asleep.pop(path) for path in found]

    def renamed(self, before: str, path: str) -> None:
        """A file has another name now; the end of its version will say so."""
        sending = self._growing.pop(before, None)
        if sending is None:
            return
        sending.final_path = path
        self._growing[path] = sending
        if self._asleep.pop(before, None) is not None:
            self._asleep[path] = sending

    def noticed(self, path: str, stat: Stat | None) -> None:
        """What a path looks like now; a file that was removed or replaced is given up."""
        sending = self._growing.get(path)
        if sending is None:
            return
        if stat is None:
            sending.fail(SourceError(f"{path}: it was removed while it was streamed"))
        elif stat.inode != sending.stat.inode:
            sending.fail(SourceError(f"{path}: it was replaced while it was streamed"))

    def settle(self, path: str, evidence: str) -> bool:
        """A file is complete; False when it is not being streamed, or not well, and is to be sent as any other."""
        sending = self._growing.pop(path, None)
        if sending is None:
            return False
        try:
            file = self._reader.open(path)
        except OpenMSIStreamError as error:
            sending.fail(error)
            return False
        if sending.state is State.FAILED:
            file.close()
            return False
        sending.settle(file, path, evidence)
        return True

    def ended(self, sending: Sending, *, spoiled: bool) -> None:
        """It was given up; ``spoiled``: beginning it anew while it is written would only be given up again."""
        path = sending.final_path
        if self._growing.get(path) is sending:
            del self._growing[path]
        if spoiled:
            self._spoiled[path] = None
            if len(self._spoiled) > SPOILED_PATHS:
                del self._spoiled[next(iter(self._spoiled))]
