"""What every program's loop shares: being asked to stop, to report, and what it says at the end.

Knows nothing of files or Kafka. Requests come from signal handlers and other threads; they only set
plain attributes, which the loop reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from openmsistream.core.versions import VersionKey

SHUTDOWN_SECONDS = 10.0
"""How long a program that was asked to stop goes on finishing what is in flight; the rest is parked."""


class Control:
    """Requests to a running loop, safe to make from a signal handler or another thread."""

    def __init__(self) -> None:
        self.reason = ""
        self.stop_now = False
        self.each_turn: list[Callable[[], None]] = []
        self._check = False

    @property
    def stopping(self) -> bool:
        """True once somebody asked the program to stop."""
        return bool(self.reason)

    def stop(self, reason: str) -> None:
        """Finish or park what is in flight, then end; a second request ends at once."""
        if self.reason:
            self.stop_now = True
        else:
            self.reason = reason

    def check(self) -> None:
        """Report where the program stands."""
        self._check = True

    def turn(self) -> None:
        """The loop begins another turn: what other threads have to tell is told on the loop's thread."""
        for tell in self.each_turn:
            tell()

    def take_check(self) -> bool:
        """True once for each time a report was asked for."""
        wanted, self._check = self._check, False
        return wanted


@dataclass(slots=True)
class Totals:
    """What a program did since its start."""

    files: int = 0
    total_bytes: int = 0
    failed: int = 0
    records: int = 0
    record_bytes: int = 0
    handled: int = 0
    handled_bytes: int = 0
    quarantined: int = 0


@dataclass(slots=True)
class DownloadTotals(Totals):
    """What a program that reads a topic did since its start, over all its flows."""

    read_again: set[VersionKey] = field(default_factory=set)
    """Versions whose bytes came back wrong from the destination: the second time their sender has to answer for it."""


class Every:
    """True at most once in so many seconds; the clock's time is an argument."""

    def __init__(self, seconds: float, *, first: float = float("-inf")) -> None:
        self.seconds = seconds
        self._last = first

    def due(self, now: float) -> bool:
        """True when the time is over, which starts it anew."""
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True
