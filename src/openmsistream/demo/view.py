"""What the demo shows while it runs: bars in a terminal, plain lines anywhere else.

Owns the words and the picture of the progress, from the values of ``tally``. It decides nothing, and knows no
process and no folder.
"""

from __future__ import annotations

import time
from pathlib import PurePosixPath
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
)

from openmsistream.demo.tally import DOWNLOADER, UPLOADER, Row, Tally

_WORDS = {UPLOADER: "sent", DOWNLOADER: "delivered"}
# Smaller files come and go faster than a reader can see.
_BIG_BYTES = 5_000_000
_LINE_SECONDS = 2.0


class View(Protocol):
    """Shows the progress. A context manager: the bars are on the screen inside it only."""

    def __enter__(self) -> View:
        """Begin to show."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End to show; what was said stays."""

    def say(self, text: str) -> None:
        """Show one line for the reader."""

    def finished(self, role: str, row: Row) -> None:
        """Show that a program is done with a file."""

    def update(self, tally: Tally) -> None:
        """Show where both programs stand; called many times a second."""


def view_for(console: Console) -> View:
    """Return bars when the console is a terminal, else plain lines."""
    return LiveView(console) if console.is_terminal else PlainView(console)


def say(console: Console, text: str) -> None:
    """Print one line as it is: nothing in it is taken for a style, and no path is broken into two lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def size_text(size: float) -> str:
    """Return a size for readers, in units of 1000: ``32.8 kB``, ``300.0 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


class PlainView:
    """One line for each file sent and delivered, and every two seconds one for a large file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_line = 0.0
        self._last: dict[str, str] = {}

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._next_line = 0.0

    def say(self, text: str) -> None:
        """Print it."""
        say(self._console, text)

    def finished(self, role: str, row: Row) -> None:
        """Print what was done with the file."""
        self.say(f"      {_WORDS[role]:<10} {row.path} ({size_text(row.size)})")

    def update(self, tally: Tally) -> None:
        """Print where the large files are, when the last such line is long enough ago."""
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + _LINE_SECONDS
        for role, word in _WORDS.items():
            path = tally.totals(role).busy_with
            row = tally.rows.get(path) if path else None
            if row is not None and row.size >= _BIG_BYTES:
                done = row.sides[role].done
                text = f"      {word:<10} {row.path}: {size_text(done)} of {size_text(row.size)} so far"
                if text != self._last.get(role):
                    self._last[role] = text
                    self.say(text)


class LiveView:
    """Two bars for each program: everything, and below it the large file it is busy with."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("    {task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[files]}", markup=False),
            DownloadColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            console=console,
            auto_refresh=False,
        )
        self._all: dict[str, TaskID] = {}
        self._big: dict[str, TaskID] = {}

    def __enter__(self) -> LiveView:
        for role, word in _WORDS.items():
            self._all[role] = self._progress.add_task(f"{word:<12}", total=None, files="", speed="")
            self._big[role] = self._progress.add_task("", total=None, files="", speed="", visible=False)
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._big.values():
            self._progress.update(task, visible=False)
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print it above the bars."""
        say(self._progress.console, text)

    def finished(self, role: str, row: Row) -> None:
        """Print a delivered file above the bars; the bars count the sent ones."""
        if role == DOWNLOADER:
            self.say(f"      {_WORDS[role]:<10} {row.path} ({size_text(row.size)})")

    def update(self, tally: Tally) -> None:
        """Move the bars."""
        for role in _WORDS:
            totals = tally.totals(role)
            self._progress.update(
                self._all[role],
                completed=totals.done,
                total=totals.of_bytes,
                files=f"{totals.files}/{totals.of_files} files",
                speed="" if totals.speed is None else f"{size_text(totals.speed)}/s",
            )
            row = tally.rows.get(totals.busy_with) if totals.busy_with else None
            big = row is not None and row.size >= _BIG_BYTES
            self._progress.update(self._big[role], visible=big)
            if row is not None and big:
                name = PurePosixPath(row.path).name
                self._progress.update(
                    self._big[role],
                    description=f"  {name[:24]}",
                    completed=row.sides[role].done,
                    total=row.size,
                )
        self._progress.refresh()
