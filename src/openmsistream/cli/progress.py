"""How far a command is that ends by itself: one line on standard error, shown the same by all of them."""

from __future__ import annotations

import argparse
import sys
import time

from openmsistream.cli.printable import printable
from openmsistream.cli.sizes import size

_TERMINAL_SECONDS, _PLAIN_SECONDS = 0.2, 10.0


def add_progress(parser: argparse._ActionsContainer) -> None:
    """Add ``--progress``."""
    parser.add_argument(
        "--progress", choices=("auto", "plain", "none"), default="auto", help="how progress is shown on standard error"
    )


class ProgressLine:
    """One line on a terminal that is written over, or a line now and then; always on standard error."""

    def __init__(self, form: str) -> None:
        self._terminal = form == "auto" and sys.stderr.isatty()
        self._silent = form == "none" or (form == "auto" and not self._terminal)
        self._seconds = _TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS
        self._next = 0.0
        self._shown = False

    def __call__(self, stage: str, done: int, of: int | None, count: int) -> None:
        """Show how much of a stage is done, of how much if that is known, and so many bytes; not each time."""
        if self._silent or (now := time.monotonic()) < self._next:
            return
        self._next = now + self._seconds
        text = f"{printable(stage)}: {done:,}" + (f" of {of:,}" if of else "") + (f", {size(count)}" if count else "")
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()
        self._shown = self._terminal

    def clear(self) -> None:
        """Make room for a line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
