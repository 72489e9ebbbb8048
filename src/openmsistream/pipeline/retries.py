"""Files that could not be sent: how often they were tried, when they are tried again, and who is told.

Knows nothing of how files are sent; what is due again is looked at anew like any other file.
"""

from __future__ import annotations

from collections.abc import Container

from openmsistream.core.events import FileFailed, FileSkipped
from openmsistream.errors import OpenMSIStreamError, SourceError
from openmsistream.pipeline.runner import Totals
from openmsistream.ports import Clock, Events, Failed, FileReader, UploadLedger

ERRORS_KEPT = 20
RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)


class Retries:
    """
    The files that failed.

    Args:
        tries: How often a file is tried before it is given up; 0: for ever.

    Attributes:
        errors: Why files were given up, the last few.
    """

    def __init__(
        self, reader: FileReader, ledger: UploadLedger, clock: Clock, events: Events, totals: Totals, tries: int
    ) -> None:
        self._reader, self._ledger, self._clock, self._events = reader, ledger, clock, events
        self._totals, self._tries = totals, tries
        self._at: dict[str, float] = {}
        self._count: dict[str, int] = {}
        self.errors: list[OpenMSIStreamError] = []

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, path: str) -> bool:
        return path in self._at

    def holds_back(self, path: str, now: float) -> bool:
        """True when the path failed lately and is not to be tried again yet."""
        at = self._at.get(path)
        return at is not None and at > now

    def begins(self, path: str) -> None:
        """The file is tried again."""
        self._at.pop(path, None)

    def done(self, path: str) -> None:
        """The file was sent, or need not be."""
        if self._count:
            self._count.pop(path, None)

    def due(self, now: float, busy: Container[str]) -> list[str]:
        """The paths whose time for another try has come, each once; those on their way have to wait."""
        due = [path for path, at in self._at.items() if at <= now and path not in busy]
        for path in due:
            del self._at[path]
        return due

    def failed(self, path: str, error: OpenMSIStreamError, *, quietly: bool) -> None:
        """
        A file could not be sent.

        Args:
            path: Its path.
            error: Why.
            quietly: Nothing is wrong with it, it just changed: it is looked at again at once, and nobody is told.
        """
        if self._tries != 1 and isinstance(error, SourceError) and self._reader.stat(path) is None:
            self._count.pop(path, None)  # when it comes back, it is noticed as any other file
            self._ledger.drop_failed(path)
            self._events(FileSkipped(path, "it was removed before it was sent"))
            return
        tries = self._count[path] = self._count.get(path, 0) + 1
        again = not self._tries or tries < self._tries
        if again:
            delay = 0.0 if quietly else RETRY_SECONDS[min(tries, len(RETRY_SECONDS)) - 1]
            self._at[path] = self._clock.monotonic() + delay
        if quietly and again:
            return
        self._ledger.record_failed(Failed(path, error.message, tries, self._clock.now_ns()))
        if not again:
            self._totals.failed += 1
            self._count.pop(path, None)
            self.errors.append(error)
            del self.errors[:-ERRORS_KEPT]
        if not again or tries & (tries - 1) == 0:  # the 1st, 2nd, 4th, 8th ... try: a line each minute helps nobody
            self._events(FileFailed(path, error.message, again, error.hint))
