"""One waiting file: what was seen of it, how quiet it has to be by that, and what can be said of it.

Knows the rule of its file and nothing of other files: who is due when, and the decision, is ``core.settle``.
"""

from __future__ import annotations

from dataclasses import dataclass

from openmsistream.core.settle_rules import SettleMode, SettleRule

RESTLESS_SECONDS = 60.0
"""A file that is closed again and again, but looks the same each time, waits so long for peace, not longer."""
INODE_CHANGES = 3
"""After so many changes of the inode number alone it is left out: some network mounts make it up
(mount.cifs(8), noserverino), and a file there would never look the same twice."""
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 10.0

HeapItem = tuple[float, int, str]
"""When, a number that keeps their order, and the path."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What identifies a file's present content from outside: size in bytes, mtime in ns, and the inode."""

    size: int
    mtime_ns: int
    inode: int = 0

    def same_content(self, other: Stat) -> bool:
        """True when size and mtime agree, so that the content is taken to be the same (inodes change on remount)."""
        return self.size == other.size and self.mtime_ns == other.mtime_ns


@dataclass(frozen=True, slots=True)
class Due:
    """
    A file whose quiet time is over, and what the caller must find out for the decision.

    Attributes:
        path: Relative path of the file.
        stat: What it looked like when it was last observed.
        marker: Relative path of the marker whose looks are needed; None: no marker is needed.
        writers: It is needed whether a program holds the file open for writing.
    """

    path: str
    stat: Stat
    marker: str | None
    writers: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """
    A file that is complete.

    Attributes:
        path: Relative path of the file.
        stat: What it looks like.
        evidence: Why it is taken to be complete, in short words.
        doubt: Evidence that is missing all the same, for the user to know; "" when there is none.
    """

    path: str
    stat: Stat
    evidence: str
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    What is known of a waiting file.

    Attributes:
        path: Relative path of the file.
        seen: What was seen of it, each in short words.
        waiting_for: What it waits for.
        since: When it began to wait under this name, in monotonic seconds.
        due_at: When it is looked at next.
    """

    path: str
    seen: tuple[str, ...]
    waiting_for: str
    since: float
    due_at: float | None


class Waiting:
    """What was seen of one file that waits, and what follows; there may be hundreds of thousands of them."""

    __slots__ = (
        "active",
        "again",
        "asks",
        "begun",
        "changes",
        "due_at",
        "evidence",
        "inode_changes",
        "item",
        "missing",
        "path",
        "rule",
        "since",
        "stat",
        "tell_from",
        "temporary",
    )

    def __init__(self, path: str, stat: Stat, rule: SettleRule, now: float, *, again: bool) -> None:
        self.path = path
        self.stat = stat
        self.rule = rule
        self.temporary = rule.is_temporary(path)
        self.begun = self.tell_from = now
        self.since = now  # of the last change of its looks
        self.active = now  # of the last sign of life: a change, a close, a rename
        self.evidence = ""  # that the last change was the last one: "closed", "renamed from ..."
        self.again = again  # there was such evidence before, and it changed or was closed again all the same
        self.missing = ""  # the evidence that was missing when it was last asked for
        self.asks = self.changes = self.inode_changes = 0
        self.due_at = now
        self.item: HeapItem | None = None  # its valid entry in the heap; None: it waits no more

    def looks_like(self, stat: Stat) -> bool:
        """Whether nothing about the file changed."""
        return self.stat == stat or (self.inode_changes >= INODE_CHANGES and self.stat.same_content(stat))

    @property
    def quiet_seconds(self) -> float:
        """How long it must show no sign of life, by the evidence there is."""
        mode = self.rule.mode
        if mode is SettleMode.MARKER:
            return self.rule.short_seconds
        if self.evidence:
            if mode is SettleMode.CLOSE:
                return 0.0
            if mode is SettleMode.AUTO and not self.again:
                return self.rule.short_seconds
        return self.rule.quiet_seconds

    @property
    def asks_writers(self) -> bool:
        """Whether the decision depends on who holds the file open for writing."""
        rule = self.rule
        return (rule.check_writers and not self.temporary) and (
            rule.mode is SettleMode.AUTO or (rule.mode is SettleMode.CLOSE and not self.evidence)
        )

    def calm_at(self, quiet_seconds: float) -> float:
        """When it will have been quiet for so long."""
        at = self.active + quiet_seconds
        if self.active > self.since:
            restless = min(RESTLESS_SECONDS, self.rule.max_wait_seconds or RESTLESS_SECONDS)
            at = min(at, self.since + max(quiet_seconds, restless))
        return at

    def retry_at(self, now: float) -> float:
        """When to ask again for evidence that is missing."""
        at = now + min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(self.asks, 9))
        self.asks += 1
        limit = self.rule.max_wait_seconds
        return at if limit is None else min(at, self.since + limit)


def evidence(entry: Waiting, quiet_seconds: float, marker: Stat | None, *, held: bool | None) -> str:
    """Why a file is taken to be complete, in the short words of ``Settled.evidence``."""
    parts = []
    if entry.rule.mode is SettleMode.MARKER:
        age = " (older than the file)" if marker is not None and marker.mtime_ns < entry.stat.mtime_ns else ""
        parts.append(f"marker file {entry.rule.marker_of(entry.path)}{age}")
    elif entry.evidence and entry.rule.mode is not SettleMode.QUIET:
        parts.append(entry.evidence + (" again" if entry.again and entry.evidence == "closed" else ""))
    if quiet_seconds or not parts:
        parts.append(f"unchanged for {quiet_seconds:g} s")
    if held is False and entry.asks_writers:
        parts.append("no program writes to it")
    return ", ".join(parts)


def explanation(entry: Waiting) -> Explanation:
    """The answer to "why is it not sent yet"."""
    rule = entry.rule
    seen = [f"{entry.stat.size} bytes" + (f", changed {entry.changes} times while it waited" if entry.changes else "")]
    if entry.evidence:
        seen.append("a program closed it after writing" if entry.evidence == "closed" else entry.evidence)
    if entry.again:
        seen.append("it changed or was closed again after it had been closed before")
    if entry.inode_changes >= INODE_CHANGES:
        seen.append("its inode number changes by itself and is left out")
    if entry.missing:
        seen.append(entry.missing)
    most = "" if rule.max_wait_seconds is None else f" (at most {rule.max_wait_seconds:g} s without a change)"
    if entry.temporary:
        waits = f"its final name: this is a temporary one{most}"
    elif rule.mode is SettleMode.MARKER:
        waits = f"its marker file {rule.marker_of(entry.path)}{most}"
    elif entry.missing:
        waits = f"the program that writes to it to close it{most}"
    else:
        writers = " and no program writing to it" if entry.asks_writers else ""
        waits = f"{entry.quiet_seconds:g} s without a change{writers}"
    return Explanation(entry.path, tuple(seen), waits, entry.begun, entry.due_at)
