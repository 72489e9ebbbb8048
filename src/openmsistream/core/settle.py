"""Deciding, with stated evidence, that a file is complete.

Owns which files wait, what was seen of each, when each is to be looked at again, and the decision. Every time is
handed in, in monotonic seconds; what files look like is only ever compared for being equal, never with a clock,
so wrong clocks and odd modification times neither delay nor hurry anything. Pure: it never sees a file. Which
rules there are to choose from is ``core.settle_rules``.

The laws: nothing goes early (a file that changes waits for as long as it changes), and nothing waits for ever (a
file that does not change goes within the time its rule names, if need be with a doubt that the user is told).
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice

from openmsistream.core.settle_rules import DEFAULT_TEMPORARY, SettleMode, SettleRule
from openmsistream.core.settle_waiting import Due, Explanation, HeapItem, Settled, Stat, Waiting, explanation
from openmsistream.core.settle_waiting import evidence as evidence_of

__all__ = [
    "DEFAULT_TEMPORARY",
    "Due",
    "Explanation",
    "SettleMode",
    "SettleRule",
    "Settled",
    "Settler",
    "Stat",
]

REMEMBERED_PATHS = 100_000
"""So many settled paths are remembered as having been closed before: 10 MB or so."""
OVERDUE_AT_ONCE = 1000
"""``overdue`` names so many at a time, so that one call stays short when everything is overdue."""
_COMPACT_ABOVE = 1000


class Settler:
    """
    The files that were seen changed and are not complete yet.

    Times are monotonic seconds and never decrease from call to call. Nothing here walks over all waiting files:
    each costs a few dictionary and heap operations from its first observation to its decision.

    Args:
        rule_for: The rule of a relative path; asked once each time a file begins to wait. To be made beforehand:
            it is kept with each file.
    """

    def __init__(self, rule_for: Callable[[str], SettleRule]) -> None:
        self._rule_for = rule_for
        self._waiting: dict[str, Waiting] = {}  # in the order in which they began to wait
        # Items whose time has changed are left in the heap. One that comes up too early is put back at its right
        # time; one that is not the valid one of its path any more is dropped. Those that came up and were told to
        # the caller are kept apart: they come before all in the heap, or are put back.
        self._heap: list[HeapItem] = []
        self._ready: deque[HeapItem] = deque()
        self._pushes = 0
        self._awaited: dict[str, dict[str, None]] = {}  # by marker: the paths that wait for it
        self._untold: dict[float, deque[Waiting]] = {}  # by the time they may wait: in the order of ``tell_from``
        self._closed_before: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, path: str) -> bool:
        return path in self._waiting

    def is_temporary(self, path: str) -> bool:
        """True when the file has a name, by its rule, that files have only while they are written."""
        return self._rule_for(path).is_temporary(path)

    def is_marker(self, path: str) -> bool:
        """True when the file is a marker by its own rule, or by that of the file that it is named after."""
        rule = self._rule_for(path)
        if rule.mode is SettleMode.MARKER and rule.is_marker(path):
            return True
        # A rule for *.h5 is not asked for scan.h5.done, but for scan.h5, and that is whose marker it is.
        owner = path.rpartition(".")[0]
        if not owner or owner.endswith("/"):
            return False
        rule = self._rule_for(owner)
        return rule.mode is SettleMode.MARKER and rule.marker_of(owner) == path

    # -- what was seen ----------------------------------------------------------------------------------------

    def observe(self, path: str, stat: Stat, now: float) -> bool:
        """
        Take in what a file looks like; a change starts its quiet time anew.

        Returns:
            True when it was waiting and looks different than before: it is growing or being rewritten.
        """
        entry = self._waiting.get(path)
        if entry is None:
            entry = self._begin(path, stat, now)
            entry.due_at = now + entry.quiet_seconds
            self._push(entry)
            return False
        if entry.looks_like(stat):
            return False
        self._change(entry, stat, now)
        self._reschedule(entry)
        return True

    def closed(self, path: str, stat: Stat, now: float) -> None:
        """A program that had the file open for writing closed it; ``stat``: what it looks like now."""
        entry = self._waiting.get(path)
        if entry is None:
            entry = self._begin(path, stat, now)
        elif not entry.looks_like(stat):
            self._change(entry, stat, now)
        entry.again = entry.again or entry.evidence == "closed"
        entry.evidence = entry.evidence or "closed"
        entry.active, entry.asks, entry.missing = now, 0, ""
        self._reschedule(entry)

    def renamed(self, path: str, before: str, stat: Stat, now: float) -> None:
        """The file at ``path`` was at ``before`` until now (both relative); what was known of it goes with it."""
        known = self._waiting.get(before)
        self.forget(before)
        entry = self._waiting.get(path)
        if entry is None:
            entry = self._begin(path, stat, now)
        elif not entry.looks_like(stat):
            self._change(entry, stat, now)
        if self._was_temporary(before, path) and not entry.temporary:
            entry.evidence = "renamed from " + before.rpartition("/")[2]
            entry.active = now
        else:
            entry.again = entry.again or before in self._closed_before
            if known is not None:
                self._inherit(entry, known)
        entry.asks, entry.missing = 0, ""
        self._reschedule(entry)

    def marked(self, marker_path: str, now: float) -> None:
        """A marker appeared or changed: the files that wait for it are due as soon as they are quiet."""
        for path in self._awaited.get(marker_path, ()):
            entry = self._waiting[path]
            entry.asks = 0
            self._schedule(entry, max(now, entry.calm_at(entry.quiet_seconds)))

    def forget(self, path: str) -> None:
        """The file is gone, or is no longer ours to send."""
        entry = self._waiting.pop(path, None)
        if entry is None:
            return
        entry.item = None
        if entry.rule.mode is SettleMode.MARKER:
            marker = entry.rule.marker_of(path)
            paths = self._awaited[marker]
            del paths[path]
            if not paths:
                del self._awaited[marker]

    # -- what is due ------------------------------------------------------------------------------------------

    def due(self, now: float, limit: int | None = None) -> list[Due]:
        """
        The files whose quiet time is over, oldest due first; they stay until decided or forgotten.

        Args:
            now: Monotonic seconds.
            limit: At most so many. Who can take only so many should say so: each one given costs time.
        """
        most = math.inf if limit is None else limit
        heap, ready = self._heap, self._ready
        if ready and heap and heap[0] < ready[-1]:
            for item in ready:
                heapq.heappush(heap, item)
            ready.clear()
        found: list[Due] = []
        items: list[HeapItem] = []
        while len(found) < most:
            if ready:
                item = ready.popleft()
            elif heap and heap[0][0] <= now:
                item = heapq.heappop(heap)
            else:
                break
            entry = self._waiting.get(item[2])
            if entry is None or entry.item is not item:
                continue
            if entry.due_at > item[0]:
                self._push(entry)
            elif entry.due_at > now:  # a later time was asked about before
                heapq.heappush(heap, item)
            else:
                items.append(item)
                marker = entry.rule.marker_of(entry.path) if entry.rule.mode is SettleMode.MARKER else None
                found.append(Due(entry.path, entry.stat, marker, entry.asks_writers))
        ready.extendleft(reversed(items))
        return found

    def next_due(self) -> float | None:
        """When the next file is due, in monotonic seconds; None when nothing waits."""
        ready, heap = self._ready, self._heap
        while ready and not self._is_right(ready[0]):
            self._put_right(ready.popleft())
        while heap and not self._is_right(heap[0]):
            self._put_right(heapq.heappop(heap))
        firsts = [each[0][0] for each in (ready, heap) if each]
        return min(firsts, default=None)

    def decide(
        self, due: Due, current: Stat | None, now: float, *, marker: Stat | None = None, held: bool | None = None
    ) -> Settled | None:
        """
        Decide on a file that is due.

        Args:
            due: What ``due`` gave. One that is out of date, because more was seen of the file since, decides nothing.
            current: What the file looks like now; None: it is gone, and forgotten.
            now: Monotonic seconds.
            marker: What the marker looks like now; None: it is not there.
            held: Whether a program holds the file open for writing; None: that cannot be told.

        Returns:
            The file, when it is complete: it waits no more. None: it was put off, or forgotten.
        """
        entry = self._waiting.get(due.path)
        if entry is None:
            return None
        if current is None:
            self.forget(due.path)
            return None
        if not entry.looks_like(current):
            self._change(entry, current, now)
            self._reschedule(entry)
            return None
        if entry.due_at > now or due.stat != entry.stat:
            return None
        missing, quiet = "", entry.quiet_seconds
        if entry.temporary:
            missing = "its name is still a temporary one"
        elif entry.rule.mode is SettleMode.MARKER:
            if marker is None:
                missing = f"its marker file {entry.rule.marker_of(entry.path)} is not there"
            elif marker.mtime_ns < entry.stat.mtime_ns:  # it may be left from an earlier version
                quiet = entry.rule.quiet_seconds
        elif held and entry.asks_writers:
            missing = "a program still holds it open for writing"
        calm_at = entry.calm_at(quiet)
        if calm_at > now:
            self._schedule(entry, calm_at)
            return None
        entry.missing = missing
        if missing:
            limit = entry.rule.max_wait_seconds
            if limit is None or now < entry.since + limit:
                self._schedule(entry, entry.retry_at(now))
                return None
            evidence = f"unchanged for {max(limit, quiet):g} s"
        else:
            evidence = evidence_of(entry, quiet, marker, held=held)
        self._remember(entry)
        self.forget(due.path)
        return Settled(due.path, current, evidence, missing)

    # -- what can be asked ------------------------------------------------------------------------------------

    def explain(self, path: str) -> Explanation | None:
        """What was seen of a waiting file and what it waits for; None when it does not wait."""
        entry = self._waiting.get(path)
        return None if entry is None else explanation(entry)

    def waiting(self, limit: int) -> list[Explanation]:
        """The files that wait, longest first, at most ``limit``."""
        return [explanation(entry) for entry in islice(self._waiting.values(), limit)]

    def overdue(self, now: float) -> list[Explanation]:
        """
        The files that have waited for longer than the maximum wait of their rule or 10 minutes, whichever is less.

        Each is named once, at most 1000 by one call. One whose quiet time alone is that long is named after twice
        its quiet time; one that is merely waiting to be decided on, because the caller has no room for it, is not.
        """
        told: list[Explanation] = []
        for limit, queue in self._untold.items():
            while queue and len(told) < OVERDUE_AT_ONCE and queue[0].tell_from + limit <= now:
                entry = queue.popleft()
                if entry.item is None:
                    continue
                if entry.due_at <= now and not entry.missing:
                    entry.tell_from = now
                    queue.append(entry)
                else:
                    told.append(explanation(entry))
        return told

    # -- inside -----------------------------------------------------------------------------------------------

    def _begin(self, path: str, stat: Stat, now: float) -> Waiting:
        rule = self._rule_for(path)
        entry = Waiting(path, stat, rule, now, again=path in self._closed_before)
        self._waiting[path] = entry
        if rule.mode is SettleMode.MARKER:
            self._awaited.setdefault(rule.marker_of(path), {})[path] = None
        limit = rule.overdue_seconds
        queue = self._untold.get(limit)
        if queue is None:
            queue = self._untold[limit] = deque()
        elif len(queue) > 2 * len(self._waiting) + _COMPACT_ABOVE:
            queue = self._untold[limit] = deque(each for each in queue if each.item is not None)
        queue.append(entry)
        return entry

    def _change(self, entry: Waiting, stat: Stat, now: float) -> None:
        entry.inode_changes = entry.inode_changes + 1 if entry.stat.same_content(stat) else 0
        entry.stat = stat
        entry.since = entry.active = now
        entry.again = entry.again or bool(entry.evidence)
        entry.evidence = entry.missing = ""
        entry.asks = 0
        entry.changes += 1

    def _inherit(self, entry: Waiting, known: Waiting) -> None:
        """The file had another name, under which it was ``known``."""
        same = known.looks_like(entry.stat)
        entry.again = entry.again or known.again or (bool(known.evidence) and not same)
        if same:
            entry.since = known.since
            if not entry.evidence:  # a close may have been told under the new name before
                entry.evidence, entry.active = known.evidence, known.active

    def _was_temporary(self, before: str, path: str) -> bool:
        # Either rule may know the name: those of a pattern such as *.dat do not match scan.dat.tmp.
        return self._waiting[path].rule.is_temporary(before) or self.is_temporary(before)

    def _reschedule(self, entry: Waiting) -> None:
        self._schedule(entry, entry.calm_at(entry.quiet_seconds))

    def _schedule(self, entry: Waiting, at: float) -> None:
        entry.due_at = at
        if entry.item is None or at < entry.item[0]:
            self._push(entry)

    def _push(self, entry: Waiting) -> None:
        self._pushes += 1
        entry.item = (entry.due_at, self._pushes, entry.path)
        if len(self._heap) > 2 * len(self._waiting) + _COMPACT_ABOVE:
            self._heap[:] = [item for item in self._heap if self._is_valid(item)]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, entry.item)

    def _is_valid(self, item: HeapItem) -> bool:
        entry = self._waiting.get(item[2])
        return entry is not None and entry.item is item

    def _is_right(self, item: HeapItem) -> bool:
        entry = self._waiting.get(item[2])
        return entry is not None and entry.item is item and entry.due_at == item[0]

    def _put_right(self, item: HeapItem) -> None:
        if self._is_valid(item):
            self._push(self._waiting[item[2]])

    def _remember(self, entry: Waiting) -> None:
        """A path that was closed, or renamed to, once: if it changes again it waits the long quiet time."""
        if entry.evidence or entry.again:
            self._closed_before[entry.path] = None
            self._closed_before.move_to_end(entry.path)
            if len(self._closed_before) > REMEMBERED_PATHS:
                self._closed_before.popitem(last=False)
