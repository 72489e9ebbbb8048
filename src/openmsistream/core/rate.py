"""A limit on bytes per second: how long a chunk has to wait so that a long run never exceeds it.

Pure arithmetic on sizes and times (a token bucket): this module never sees a clock, a file or Kafka, and it never
waits. One thread owns a limit.
"""

from __future__ import annotations

from openmsistream.errors import ConfigError

_CLOSE_ENOUGH_SECONDS = 1e-6
"""Waits below this are none: near 1e9 s a float has steps of 1e-7 s, so that a shorter wait might never be over.
What goes that much too early is owed and waited for next time."""


class Rate:
    """
    Lets at most ``bytes_per_second`` go in the long run, and ``burst_bytes`` at once after a pause.

    In any time of t seconds at most ``bytes_per_second * t + max(burst_bytes, largest chunk)`` bytes go, when every
    ``take`` comes after ``wait_for`` said 0. A chunk above the burst goes when a whole burst is saved up, and what
    follows waits until the rest of it is paid off.

    Args:
        bytes_per_second: The limit; > 0.
        burst_bytes: How much may be saved up while nothing is sent; > 0.

    Raises:
        ConfigError: One of them is not above 0.
    """

    def __init__(self, bytes_per_second: float, burst_bytes: float) -> None:
        # Not "<= 0": that would let NaN through.
        if not (bytes_per_second > 0 and burst_bytes > 0):
            raise ConfigError(
                f"a rate needs more than 0 bytes per second and in a burst, got {bytes_per_second} and {burst_bytes}",
                hint="set max_rate to, e.g., 20MB/s",
            )
        self.bytes_per_second, self.burst_bytes = bytes_per_second, burst_bytes
        self._saved = float(burst_bytes)
        self._now: float | None = None

    def wait_for(self, size: int, now: float) -> float:
        """
        Seconds until ``size`` bytes may go; 0: now.

        Args:
            size: Bytes of the chunk; >= 0.
            now: Monotonic seconds. Time that runs backwards counts as standing still.
        """
        self._save_up(now)
        missing = min(size, self.burst_bytes) - self._saved
        seconds = missing / self.bytes_per_second
        return seconds if seconds >= _CLOSE_ENOUGH_SECONDS else 0.0

    def take(self, size: int, now: float) -> None:
        """``size`` bytes go at ``now``; taken too early, the next chunk waits longer for it."""
        self._save_up(now)
        self._saved -= size

    def _save_up(self, now: float) -> None:
        if self._now is None:
            self._now = now
        elapsed = max(0.0, now - self._now)
        self._saved = min(self.burst_bytes, self._saved + elapsed * self.bytes_per_second)
        self._now += elapsed
