"""What Ctrl-C and a request to end do to the demo: leave the work, but never the cleaning up.

Owns the signal handlers while the demo runs. Knows nothing about what is interrupted.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


class Interrupted(KeyboardInterrupt):
    """
    A signal asked the demo to end. A ``KeyboardInterrupt``, so that nothing on the way takes it for an error.

    Attributes:
        exit_code: 128 and the signal's number, as shells have it: 130 for Ctrl-C.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by signal {number}")
        self.exit_code = 128 + number


class Signals:
    """
    Turns signals into ``Interrupted`` in the main thread, except while that would leave something behind.

    A context manager; the handlers of before are back at its end. Does nothing outside the main thread, where
    Python does not allow handlers.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._held = 0
        self._cleaning = False
        self._pending: int | None = None
        self._impatient = False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                # A signal that is ignored stays ignored: `nohup` does that on purpose.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep a signal back until the end of the block: for steps that make something and write it down."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending is not None and not self._held:
            raise Interrupted(self._pending)

    def clean_up(self) -> None:
        """From now on a signal interrupts nothing; it only makes ``impatient`` true."""
        self._cleaning = True

    def impatient(self) -> bool:
        """True when a signal came during the cleaning up: end with force what does not end by itself."""
        return self._impatient

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._cleaning:
            self._impatient = True
        elif self._held:
            self._pending = number
        else:
            # One signal is enough: a second one must not fall into the handling of the first.
            self._cleaning = True
            raise Interrupted(number)
