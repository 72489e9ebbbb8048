"""The system's clock (``ports.Clock``)."""

from __future__ import annotations

import time


class SystemClock:
    """Real time."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def now_ns(self) -> int:
        """Wall clock, ns since 1970."""
        return time.time_ns()
