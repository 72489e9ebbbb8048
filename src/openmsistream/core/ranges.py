"""Which bytes of a file have been received: a set of disjoint half-open ranges.

Chunks come in order nearly always, so the set is one range that grows; any other order costs a
bisection. Pure arithmetic on offsets.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Ranges:
    """Disjoint, sorted, half-open byte ranges; touching ranges are merged."""

    __slots__ = ("_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        """Take in the bytes ``[start, stop)``; what was there already stays."""
        if stop <= start:
            return
        if self._stops and self._stops[-1] == start:  # the usual case: the next chunk in order
            self._stops[-1] = stop
            return
        left = bisect_left(self._stops, start)
        right = bisect_right(self._starts, stop)
        if left < right:
            start = min(start, self._starts[left])
            stop = max(stop, self._stops[right - 1])
        self._starts[left:right] = [start]
        self._stops[left:right] = [stop]

    def covers(self, start: int, stop: int) -> bool:
        """True when every byte of ``[start, stop)`` is there; an empty range always is."""
        if stop <= start:
            return True
        at = bisect_right(self._starts, start) - 1
        return at >= 0 and self._stops[at] >= stop

    @property
    def prefix(self) -> int:
        """How many bytes from the beginning of the file are there without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    @property
    def end(self) -> int:
        """One past the last byte received; 0 when there is none."""
        return self._stops[-1] if self._stops else 0

    @property
    def total(self) -> int:
        """How many bytes are there."""
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ranges):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Ranges({list(zip(self._starts, self._stops, strict=True))})"
