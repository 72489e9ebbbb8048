"""Deciding, with stated evidence, that a file is complete: first rule, the quiet time.

A file settles when its size and modification time have stayed the same for the quiet time, seen on our
own monotonic clock, so that a wrong or jumping wall clock neither delays nor hurries it. Pure: it sees
observations and times, never a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class Stat:
    """What identifies a file's present content from outside: size in bytes, mtime in ns, and the inode."""

    size: int
    mtime_ns: int
    inode: int = 0

    def same_content(self, other: Stat) -> bool:
        """True when size and mtime agree, so that the content is taken to be the same (inodes change on remount)."""
        return self.size == other.size and self.mtime_ns == other.mtime_ns


@dataclass(slots=True)
class _Waiting:
    stat: Stat
    since: float


class Settler:
    """
    The files that were seen changed and are not complete yet.

    Args:
        quiet_seconds: How long size and mtime must stay the same; >= 0.
    """

    def __init__(self, quiet_seconds: float) -> None:
        self.quiet_seconds = quiet_seconds
        self._waiting: dict[str, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, path: str) -> bool:
        return path in self._waiting

    def observe(self, path: str, stat: Stat, now: float) -> None:
        """Take in what a file looks like at ``now`` (monotonic seconds); a change starts its quiet time anew."""
        waiting = self._waiting.get(path)
        if waiting is None or waiting.stat != stat:
            self._waiting.pop(path, None)  # so that the dict stays in the order of ``since``
            self._waiting[path] = _Waiting(stat, now)

    def forget(self, path: str) -> None:
        """The file settled and is sent now, or is gone, or is no longer ours to send."""
        self._waiting.pop(path, None)

    def due(self, now: float) -> list[tuple[str, Stat]]:
        """
        The files whose quiet time is over, longest waiting first; they stay until forgotten.

        The caller looks at each once more: ``forget`` when it still looks the same and is sent, ``observe`` when not.
        """
        limit = now - self.quiet_seconds
        return [(path, w.stat) for path, w in takewhile(lambda item: item[1].since <= limit, self._waiting.items())]

    def next_due(self) -> float | None:
        """When the next quiet time ends, in monotonic seconds; None when nothing waits."""
        oldest = next(iter(self._waiting.values()), None)
        return None if oldest is None else oldest.since + self.quiet_seconds
