"""Live progress on a terminal, with rich: one bar for each file under way, and a line of totals."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from openmsistream.cli.printable import printable
from openmsistream.core import events as ev

MAX_BARS = 8
REFRESH_PER_SECOND = 4


class Bars:
    """Bars on standard output while the context is open; lines are printed above them."""

    def __init__(self, program: str, console: Console | None = None) -> None:
        self._verb = "written" if program == "download" else "sent"
        self._console = console or Console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._files = self._bytes = 0
        # Asked for what to show at each refresh, so that the last file of many is counted without another event.
        self._live = Live(get_renderable=self._view, console=self._console, refresh_per_second=REFRESH_PER_SECOND)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, value, trace)

    def say(self, level: int, text: str) -> None:
        """Print a line above the bars."""
        style = {logging.WARNING: "yellow", logging.ERROR: "red"}.get(level, "")
        self._live.console.print(Text(text, style=style))

    def take(self, event: ev.Event) -> None:
        """Show what an event changes."""
        match event:
            case ev.FileStarted():
                self._show(event.path, event.resumed_at, event.size)
            case ev.FileProgress():
                self._show(event.path, event.done, event.size)
            case ev.FileSent() | ev.FileDelivered():
                self._files += 1
                self._bytes += event.size
                self._end(event.path)
            case ev.FileFailed() | ev.FileSuperseded() | ev.FileSkipped():
                self._end(event.path)

    def _show(self, path: str, done: int, size: int | None) -> None:
        task = self._tasks.get(path)
        if task is not None:
            self._progress.update(task, completed=done, total=size)
        elif len(self._tasks) < MAX_BARS:
            shown = escape(printable(path))
            self._tasks[path] = self._progress.add_task(shown, completed=done, total=size)

    def _end(self, path: str) -> None:
        task = self._tasks.pop(path, None)
        if task is not None:
            self._progress.remove_task(task)

    def _view(self) -> Group:
        files = "1 file" if self._files == 1 else f"{self._files} files"
        line = f"{files} {self._verb}, {self._bytes / 1e6:.1f} MB   (q + Enter: quit, c + Enter: check)"
        return Group(self._progress, Text(line, style="bold"))
