"""Time for tests: a clock moved by hand (``ports.Clock``). It never looks at the system's."""

from __future__ import annotations

from collections.abc import Callable

START_NS = 1_700_000_000_000_000_000
"""What the wall clock of a fresh ``FakeClock`` shows: 14 November 2023."""


class FakeClock:
    """A clock that only moves when it is told to: by ``move``, or by a fake that is asked to wait."""

    def __init__(self) -> None:
        self._now = 0.0
        self._due: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        return self._now

    def now_ns(self) -> int:
        """Wall clock, ns since 1970."""
        return START_NS + round(self._now * 1e9)

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Call ``action`` when ``monotonic`` reaches ``seconds``."""
        self._due.append((seconds, action))
        self._due.sort(key=lambda entry: entry[0])

    def move(self, seconds: float) -> None:
        """Let time pass; what is to happen meanwhile happens at its own time."""
        end = self._now + seconds
        while self._due and self._due[0][0] <= end:
            at, action = self._due.pop(0)
            self._now = max(self._now, at)
            action()
        self._now = max(self._now, end)

    wait = move
