"""What a program tells about itself on topics of its own: heartbeats, and the lines of its log.

Gives a running program a thread that sends them at their times, however busy or idle its loop is, and that can
neither hold it up nor end it. Chooses adapters and reads ``[heartbeat]`` and ``[log]``; it must not decide what
a log line says: the command line does, and feeds ``LogLines``.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue

from openmsistream.adapters.kafka.side_producer import SideProducer, side_settings
from openmsistream.config.ini import Settings
from openmsistream.config.kinds import Level, Whole
from openmsistream.config.librdkafka import whole
from openmsistream.config.models import ProgramConfig
from openmsistream.config.options import StreamOptions
from openmsistream.core import events as ev
from openmsistream.core.heartbeat import Role, WaitingLines, log_key, log_value
from openmsistream.errors import ConfigError
from openmsistream.pipeline.heartbeat import SERVE_SECONDS, Channel, Counters, Heartbeats
from openmsistream.ports import Clock, Events
from openmsistream.programs.setup import random_bytes

CLOSE_SECONDS = 3.0
"""How long the end of a program waits for its last heartbeat and lines to arrive."""
MAX_LINES = 65_536
"""``max.logs.per.message`` unless ``[log]`` says otherwise. Source: 1.x."""
_HIGHEST_MAX_LINES = 10_000_000
_ENVELOPE_BYTES = 256
"""Room for what a log message holds besides its lines."""
_NAME_BYTES = 4

_WARNINGS = (
    ev.Note,
    ev.FileFailed,
    ev.FileExpired,
    ev.FolderFailed,
    ev.Quarantined,
    ev.BrokerUnavailable,
    ev.BrokerBack,
    ev.StoragePaused,
    ev.Gap,
)


class LogLines:
    """
    The lines of a program's log on their way to a topic: call it with level and text, from any thread.

    128 lines are kept until the first message, then as many as ``max.logs.per.message`` says; of more, the
    newest. Make one before the program starts, so that its first lines are there, too.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = WaitingLines()
        self._level, self._limit = logging.NOTSET, MAX_LINES
        self._taken: list[str] = []
        self._left = False
        self.key = b""

    def __call__(self, level: int, text: str) -> None:
        """Keep a line for the next message."""
        if level >= self._level and text:
            with self._lock:
                self._waiting.add(text)

    def configure(self, key: bytes, level: int, limit: int) -> None:
        """Set the messages' key, the lowest level that counts from now on, and ``max.logs.per.message``."""
        self.key, self._level, self._limit = key, level, limit

    @property
    def more(self) -> bool:
        """True when the last message arrived and could not hold everything."""
        return self._left

    def next(self, now_ns: int, max_bytes: int) -> bytes:
        """The lines since the last message; an empty list when there were none, as 1.x sends it."""
        with self._lock:
            self._waiting.limit = self._limit
            self._taken = self._waiting.take(max_bytes - _ENVELOPE_BYTES)
            self._left = len(self._waiting) > 0
        return log_value(now_ns, self._taken)

    def settle(self, *, arrived: bool) -> None:
        """Forget the lines of the last message, or keep them for the next one."""
        if not arrived:
            with self._lock:
                self._waiting.put_back(self._taken)
            self._left = False
        self._taken = []


class Telemetry:
    """
    A program's ``Events`` while it is watched: hands every event on, and reports by itself beside it.

    Made by ``telemetry``.
    """

    def __init__(self, events: Events, lines: LogLines | None) -> None:
        self._events, self._lines = events, lines
        self._counters: Counters = dict
        self._notes: SimpleQueue[ev.Note] = SimpleQueue()

    def __call__(self, event: ev.Event) -> None:
        """Hand an event on, after what the user should know of heartbeats and log messages."""
        self.deliver()
        self._hand_on(event)

    def count(self, counters: Counters) -> None:
        """
        Say where the numbers in the heartbeats come from; until then they are 0.

        Args:
            counters: Returns the totals since the program's start by the names in ``Role.counters``. It is
                called on another thread, so it should only read numbers.
        """
        self._counters = counters

    def deliver(self) -> None:
        """Report, on this thread, what went wrong with heartbeats and log messages since the last event."""
        while True:
            try:
                note = self._notes.get_nowait()
            except Empty:
                return
            self._hand_on(note)

    def note(self, note: ev.Note) -> None:
        """Keep a note until the program's own thread reports it."""
        self._notes.put(note)

    def counted(self) -> Mapping[str, int]:
        """The totals since the program's start."""
        return self._counters()

    def _hand_on(self, event: ev.Event) -> None:
        if self._lines is not None and not isinstance(event, ev.FileProgress):
            level = logging.WARNING if isinstance(event, _WARNINGS) else logging.INFO
            self._lines(level, json.dumps(event.as_dict(), ensure_ascii=False))
        self._events(event)


@contextmanager
def telemetry(
    options: StreamOptions,
    config: ProgramConfig,
    role: Role,
    events: Events,
    clock: Clock,
    lines: LogLines | None = None,
) -> Iterator[Telemetry]:
    """
    Send heartbeats and log lines as the options ask for, until the block ends.

    Args:
        options: Topics, names and intervals. Without a topic nothing is sent, and no thread is started.
        config: ``[heartbeat]``, ``[log]``, and what they leave to ``[producer]`` and ``[broker]``.
        role: Which counters a heartbeat holds.
        events: Where the program's events go.
        clock: The time.
        lines: Fed by the caller with the lines of the log. None: every event is a line, as JSON.

    Yields:
        What the program reports its events to, in place of ``events``.

    Raises:
        ConfigError: ``[heartbeat]`` or ``[log]`` holds something wrong. A topic that is not there and a broker
            that does not answer are no errors but one ``Note``.
    """
    source = lines or LogLines()
    observer = Telemetry(events, source if options.log_topic_name and lines is None else None)
    made_up = f"{role.name.lower()}-{random_bytes()(_NAME_BYTES).hex()}"
    outlets: list[SideProducer] = []
    channels: list[Channel] = []
    if options.heartbeat_topic_name:
        outlet = SideProducer(
            side_settings(config.heartbeat, config), options.heartbeat_topic_name, "heartbeat_topic_name"
        )
        beats = Heartbeats(options.heartbeat_program_id or made_up, role, observer.counted)
        outlets.append(outlet)
        channels.append(
            Channel(
                "heartbeats",
                options.heartbeat_topic_name,
                beats,
                outlet,
                options.heartbeat_interval_secs,
                clock,
                observer.note,
            )
        )
    if options.log_topic_name:
        outlet = SideProducer(side_settings(config.log, config), options.log_topic_name, "log_topic_name")
        source.configure(log_key(options.log_program_id or made_up), *_log_settings(config.log))
        outlets.append(outlet)
        channels.append(
            Channel(
                "log lines", options.log_topic_name, source, outlet, options.log_interval_secs, clock, observer.note
            )
        )
    if not channels:
        yield observer
        return
    stop = threading.Event()
    thread = threading.Thread(
        target=_run, args=(channels, outlets, stop, clock, observer), name="telemetry", daemon=True
    )
    thread.start()
    try:
        yield observer
    finally:
        stop.set()
        thread.join(2 * CLOSE_SECONDS)
        observer.deliver()


def _run(
    channels: Sequence[Channel],
    outlets: Sequence[SideProducer],
    stop: threading.Event,
    clock: Clock,
    observer: Telemetry,
) -> None:
    """The thread: serve the channels until the program ends, then send what is last."""
    try:
        while not stop.wait(min(channel.wait_seconds() for channel in channels)):
            for channel in channels:
                channel.turn()
        for channel in channels:
            channel.end()
        give_up = clock.monotonic() + CLOSE_SECONDS
        pause = threading.Event()
        while clock.monotonic() < give_up and not all(channel.done for channel in channels):
            for channel in channels:
                channel.turn()
            pause.wait(SERVE_SECONDS)
        for channel in channels:
            channel.leave()
    except Exception as problem:
        # The work must not end for the sake of reports about it, whatever went wrong with them.
        observer.note(ev.Note(f"no more heartbeats and log lines are sent: {type(problem).__name__}: {problem}"))
    finally:
        for outlet in outlets:
            outlet.close()


def _log_settings(section: Settings) -> tuple[int, int]:
    """``log.level`` and ``max.logs.per.message``."""
    level, limit = logging.NOTSET, MAX_LINES
    try:
        key = "log.level"
        if section.get(key):
            level = Level().accept(section[key])
        key = "max.logs.per.message"
        if section.get(key):
            # As a count of librdkafka's: 1.x took every number for a float, so 1e4 may stand there.
            limit = Whole(1, _HIGHEST_MAX_LINES).accept(whole("messages.max.messages", section[key]))
    except ValueError as error:
        raise ConfigError(f"{section.origin(key)}: {section.shown(key)} {error}") from None
    return level, limit
