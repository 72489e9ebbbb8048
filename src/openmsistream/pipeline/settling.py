"""From files that may be complete to files that are sent: brings the settle engine the evidence it asks for.

The second part of the upload flow. The engine says which files are due and what it needs to know of them; this looks
at the disk once more, asks who writes, and queues what is complete.
"""

from __future__ import annotations

from collections.abc import Callable

from openmsistream.core.events import Note
from openmsistream.core.settle import Due, Settler, Stat
from openmsistream.pipeline.noticing import Root
from openmsistream.pipeline.runner import Every

QUEUE_FILES = 1_000
"""The sender is given more when fewer are queued; the rest stays with the settler."""
BATCH_FILES = 2_000
OVERDUE_SECONDS = 1.0


class Settling:
    """
    Decides about what is due; complete files go to the sender.

    Args:
        on_held: Told of files that do not change, and that a program still holds open for writing.
    """

    def __init__(self, root: Root, settler: Settler, on_held: Callable[[str, Stat], None]) -> None:
        self._root, self._settler, self._on_held = root, settler, on_held
        self._overdue_timer = Every(OVERDUE_SECONDS, first=root.clock.monotonic())
        self._lacking: set[str] = set()

    def queue_settled(self, now: float) -> None:
        """Queue what is complete, and tell of files that wait for long."""
        self._tell_overdue(now)
        next_due = self._settler.next_due()
        sender = self._root.sender
        if next_due is None or next_due > now or sender.queued >= QUEUE_FILES:
            return
        due = [
            each
            for each in self._settler.due(now, BATCH_FILES)
            if not sender.busy(each.path) and sender.growing.gives_way(each.path)
        ]
        to_ask = [each.path for each in due if each.writers]
        may_ask = bool(to_ask) and self._root.writers.ready()
        held = self._root.writers.holding(to_ask) if may_ask else None
        for each in due:
            if each.writers and not may_ask:
                continue  # it stays due until the writers can be asked again
            self._decide(each, None if held is None or not each.writers else each.path in held, now)

    def unsettled(self) -> int:
        """How many files wait to be complete."""
        everything = self._settler.due(float("inf"))
        return sum(not self._was_sent(each.path, each.stat) for each in everything)

    @property
    def only_lacking(self) -> bool:
        """True when every file that waits is unchanged and only lacks other evidence, as one with a temporary name."""
        return len(self._lacking) >= len(self._settler)

    def lacking(self) -> list[str]:
        """The files that are unchanged and wait for other evidence."""
        return sorted(path for path in self._lacking if path in self._settler)

    def _decide(self, due: Due, held: bool | None, now: float) -> None:
        path, reader = due.path, self._root.reader
        marker = reader.stat(due.marker) if due.marker is not None else None
        current = reader.stat(path)  # last: what was asked before is older than this
        settled = self._settler.decide(due, current, now, marker=marker, held=held)
        if settled is None:
            if current is not None and current == due.stat and path in self._settler:
                self._lacking.add(path)
                if held:
                    self._on_held(path, current)
            else:
                self._lacking.discard(path)
            return
        self._lacking.discard(path)
        if settled.doubt:
            self._root.events(Note(f"{path}: {settled.doubt}", "it is sent again if it changes"))
        self._root.sender.enqueue(path, settled.stat, settled.evidence)

    def _was_sent(self, path: str, stat: Stat) -> bool:
        known = self._root.ledger.known(path)
        return known is not None and known.sent and known.stat.same_content(stat)

    def _tell_overdue(self, now: float) -> None:
        if not self._overdue_timer.due(now):
            return
        for each in self._settler.overdue(now):
            minutes = (now - each.since) / 60
            self._root.events(Note(f"{each.path}: not sent for {minutes:.0f} min: waits for {each.waiting_for}"))
