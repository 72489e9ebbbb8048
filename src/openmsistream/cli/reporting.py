"""Turning events into words: JSON lines for machines, plain lines for logs, progress bars for people.

The only place that decides what a user reads while a program runs. Standard output carries what happens,
standard error what is wrong.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from openmsistream.cli.printable import printable
from openmsistream.core import events as ev
from openmsistream.programs.telemetry import LogLines

if TYPE_CHECKING:
    from openmsistream.cli.bars import Bars
    from openmsistream.config.options import CommonOptions

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Reporter:
    """
    Takes events and shows them.

    Args:
        show: Called with level and text of what is worth a line.
        as_json: Write every event as one JSON line instead.
        bars: Live bars, fed with every event.
        log: A log file's logger.
        lines: Where lines for a log topic go.
    """

    def __init__(
        self,
        show: Callable[[int, str], None],
        *,
        as_json: bool = False,
        bars: Bars | None = None,
        log: logging.Logger | None = None,
        lines: LogLines | None = None,
    ) -> None:
        self._show, self._as_json, self._bars, self._log, self.lines = show, as_json, bars, log, lines
        self.left_waiting = False

    def __call__(self, event: ev.Event) -> None:
        """Show one event."""
        if isinstance(event, ev.ProgramStopped):
            self.left_waiting |= event.waiting > 0  # of several folders, each stops by itself
        if self._as_json:
            stamp = datetime.now(UTC).isoformat(timespec="microseconds")
            sys.stdout.write(json.dumps({**event.as_dict(), "time": stamp}) + "\n")
            sys.stdout.flush()
        if self._as_json and self._log is None and self.lines is None:
            return
        level, text = words(event)
        if self.lines is not None:
            self.lines(level, text)
        if self._log is not None and text:
            self._log.log(level, "%s", text)
        if self._bars is not None:
            self._bars.take(_with_folder(event))
        if text and not self._as_json:
            self._show(level, text)


def words(event: ev.Event) -> tuple[int, str]:
    """The level of an event, and what to say of it in one line; nothing for what only bars and JSON show."""
    level, text = _words(event)
    return level, printable(f"{event.folder_name}: {text}" if text and event.folder_name else text)


def _with_folder(event: ev.Event) -> ev.Event:
    """The event as bars show it, where two folders may have files of the same path."""
    match event:
        case (
            ev.FileStarted()
            | ev.FileProgress()
            | ev.FileSent()
            | ev.FileDelivered()
            | ev.FileFailed()
            | ev.FileSuperseded()
            | ev.FileSkipped()
        ) if event.folder_name:
            return replace(event, path=f"{event.folder_name}: {event.path}")
    return event


def _words(event: ev.Event) -> tuple[int, str]:
    match event:
        case ev.ProgramStarted(program="download"):
            return INFO, f"writing files of topic {event.topic} ({event.broker}) to {event.folder}"
        case ev.ProgramStarted():
            return INFO, f"sending {event.folder} to topic {event.topic} ({event.broker})"
        case ev.ProgramStopped():
            done = "written" if event.program == "download" else "sent"
            text = f"{event.reason}: {_files(event.files)} {done}, {size(event.total_bytes)} in {event.seconds:.1f} s"
            if event.waiting:
                text += f"; {_files(event.waiting)} not finished, the next start goes on with them"
            if event.failed:
                text += f"; {event.failed} failed"
            return (WARNING if event.waiting or event.failed else INFO), text
        case ev.Note():
            return WARNING, event.text + (f" (try: {event.hint})" if event.hint else "")
        case ev.ScanDone():
            text = f"found {_files(event.files)}: {event.changed} to send"
            if event.recorded_only:
                text += f", {event.recorded_only} were there before and are not sent (--upload_existing sends them)"
            return INFO, text
        case ev.FileExpired():
            return WARNING, f"no longer waited for: {event.path} ({event.reason})"
        case ev.FolderFailed():
            return ERROR, f"no longer watched: {event.reason}" + (f" (try: {event.hint})" if event.hint else "")
        case ev.Alive():
            return DEBUG, "."
        case ev.FileStarted():
            return DEBUG, f"begins: {event.path}"
        case ev.FileSent():
            return INFO, f"sent: {event.path} ({size(event.size)}, {event.seconds:.2f} s)"
        case ev.FileDelivered():
            return INFO, f"written: {event.path} ({size(event.size)}, {event.seconds:.2f} s)"
        case ev.FileSkipped():
            return DEBUG, f"not sent: {event.path} ({event.reason})"
        case ev.FileSuperseded():
            return DEBUG, f"not written: {event.path} ({event.reason})"
        case ev.FileFailed():
            text = event.reason + (f" (try: {event.hint})" if event.hint else "")
            return (WARNING, f"{text}; will be tried again") if event.retry else (ERROR, text)
        case ev.Quarantined():
            where = f"topic {event.topic}, partition {event.partition}, offset {event.offset}"
            return WARNING, f"put into quarantine: {where}: {event.reason}"
        case ev.BrokerUnavailable():
            return WARNING, f"the Kafka broker does not answer, waiting for it ({event.reason})"
        case ev.BrokerBack():
            return WARNING, "the Kafka broker answers again"
        case ev.StoragePaused():
            return WARNING, event.reason + (f" (try: {event.hint})" if event.hint else "") + "; waiting"
        case ev.StorageBack():
            return WARNING, "the destination can be written again"
        case ev.Gap():
            return ERROR, (
                f"topic {event.topic}, partition {event.partition}: records {event.first} to {event.last} were "
                "removed by Kafka before they were read here (see retention.ms of the topic)"
            )
        case ev.Status():
            return INFO, (
                f"{_files(event.files)} done ({size(event.total_bytes)}), {event.active} under way, "
                f"{event.waiting} waiting, {event.failed} failures, running for {event.seconds:.0f} s"
            )
    return DEBUG, ""


def size(count: float) -> str:
    """A number of bytes as people read it."""
    for unit in _UNITS[:-1]:
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


@contextmanager
def reporter_for(options: CommonOptions, program: str) -> Iterator[Reporter]:
    """The reporter that the options ask for."""
    stream_level = options.logger_stream_level
    log = _log_file(options, program)
    lines = LogLines() if getattr(options, "log_topic_name", None) else None
    wants_bars = options.progress == "bar" or (options.progress == "auto" and sys.stdout.isatty())
    if options.json or not wants_bars:
        quiet = options.progress == "none"

        def show(level: int, text: str) -> None:
            if level >= max(stream_level, WARNING if quiet else 0):
                print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}", flush=True)

        yield Reporter(show, as_json=options.json, log=log, lines=lines)
        return
    from openmsistream.cli.bars import Bars  # noqa: PLC0415 - rich takes 0.1 s to import

    with Bars(program) as bars:

        def show_above(level: int, text: str) -> None:
            if level >= stream_level:
                bars.say(level, text)

        yield Reporter(show_above, bars=bars, log=log, lines=lines)


def _log_file(options: CommonOptions, program: str) -> logging.Logger | None:
    """A log file in 1.x's form; a folder gets a file named after the program."""
    path = options.logger_file_path
    if path is None:
        return None
    name = {"upload": "openmsistream-upload", "download": "openmsistream-download"}[program]
    if path.is_dir() or "." not in path.name:
        path = path / f"{name}.log"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(name)s %(asctime)s] %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger(f"openmsistream.{program}")
    logger.setLevel(options.logger_file_level)
    logger.propagate = False
    logger.addHandler(handler)
    return logger
