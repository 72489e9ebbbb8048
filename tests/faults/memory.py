"""How much memory a running program takes, looked at while a test goes on.

Knows a process by its id and nothing of what it does.
"""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

MB = 1_000_000
_LOOK_SECONDS = 0.05


class Memory:
    """
    Resident memory of a process, sampled 20 times a second in a thread for the length of the ``with`` block.

    Attributes:
        samples: In bytes, in order.
    """

    def __init__(self, pid: int) -> None:
        self.samples: list[int] = []
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Memory:
        self.samples.append(self._process.memory_info().rss)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    @property
    def before(self) -> int:
        """What it took at first, in bytes."""
        return self.samples[0]

    @property
    def peak(self) -> int:
        """The most it took so far, in bytes."""
        return max(self.samples)

    @property
    def growth(self) -> int:
        """By how much the peak of the second half exceeds the peak of the first, in bytes; below 0 when it shrank."""
        seen = list(self.samples)
        middle = len(seen) // 2
        return max(seen[middle:]) - max(seen[: middle or 1])

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            try:
                self.samples.append(self._process.memory_info().rss)
            except psutil.NoSuchProcess:
                return
