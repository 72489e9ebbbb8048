"""Messages about a program, sent at an interval beside its work: when the next is due, and what becomes of a lost one.

At most one message of a channel is on its way, so an outage piles up nothing; what did not arrive is in the next
one. Nothing here blocks or raises for a broker's sake. Knows the core, no Kafka library and no thread: whoever
owns a channel calls ``turn`` from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from openmsistream.core.events import Note
from openmsistream.core.heartbeat import Role, heartbeat_key, heartbeat_value
from openmsistream.errors import OpenMSIStreamError
from openmsistream.ports import Clock

PATIENCE_SECONDS = 5.0
"""After so long without the broker's word on a message the user is told, once per outage."""
SERVE_SECONDS = 0.02
"""How often the broker's word is asked for while a message is on its way."""
LOOK_SECONDS = 1.0

Counters = Callable[[], Mapping[str, int]]
"""What a program counted since its start, by the names in ``Role.counters``; called on another thread."""
Told = Callable[[OpenMSIStreamError | None], None]
"""Called once per record: None when it arrived, else why it did not."""


class Outlet(Protocol):
    """Where the messages go: a producer for one topic that promises nothing."""

    @property
    def max_bytes(self) -> int:
        """The longest value that it takes."""
        ...

    @property
    def complaint(self) -> str:
        """What it last said about its connection; empty when nothing."""
        ...

    def send(self, key: bytes, value: bytes, told: Told) -> None:
        """Queue a record without waiting; ``told`` is called at once or from ``poll``."""
        ...

    def poll(self) -> None:
        """Hand out the broker's words that are there, without waiting."""
        ...


class Source(Protocol):
    """What the messages of a channel say."""

    @property
    def key(self) -> bytes:
        """The key of every message."""
        ...

    @property
    def more(self) -> bool:
        """True when the last message arrived and did not hold everything."""
        ...

    def next(self, now_ns: int, max_bytes: int) -> bytes:
        """The value of the next message."""
        ...

    def settle(self, *, arrived: bool) -> None:
        """The last message arrived, or it is lost."""
        ...


class Heartbeats:
    """
    Says that a program lives, and what it counted since the last heartbeat that arrived (``Source``).

    Args:
        program_id: The name in the messages' key.
        role: Which counters they hold.
        counters: The totals since the program's start; a name that is missing counts 0.
    """

    more = False

    def __init__(self, program_id: str, role: Role, counters: Counters) -> None:
        self.key = heartbeat_key(program_id)
        self._names, self._counters = role.counters, counters
        self._arrived = dict.fromkeys(role.counters, 0)
        self._now = self._arrived

    def next(self, now_ns: int, max_bytes: int) -> bytes:  # noqa: ARG002 - a heartbeat is always short
        """What was counted since the last one that arrived."""
        totals = self._counters()
        self._now = {name: totals.get(name, 0) for name in self._names}
        return heartbeat_value(now_ns, {name: self._now[name] - self._arrived[name] for name in self._names})

    def settle(self, *, arrived: bool) -> None:
        """Count from here, or, when it is lost, from the one before."""
        if arrived:
            self._arrived = self._now


class Channel:
    """
    One kind of message, sent at once, then at an interval, and once more at the end.

    Args:
        what: The messages' name in notes, e.g. ``heartbeats``.
        topic: Where they go, for notes.
        source: What they say.
        outlet: Where they go.
        every_seconds: The interval; > 0.
        clock: The time.
        note: Called with what the user should know, once per outage.
    """

    def __init__(
        self,
        what: str,
        topic: str,
        source: Source,
        outlet: Outlet,
        every_seconds: float,
        clock: Clock,
        note: Callable[[Note], None],
    ) -> None:
        self._what, self._topic = what, topic
        self._source, self._outlet, self._clock, self._note = source, outlet, clock, note
        self._every = every_seconds
        self._due = clock.monotonic()
        self._sent_at: float | None = None
        self._in_trouble = self._ending = self._last_sent = False

    @property
    def done(self) -> bool:
        """True when the last message arrived, or nothing arrives anyway; asked after ``end``."""
        return self._in_trouble or (self._last_sent and self._sent_at is None and not self._source.more)

    def wait_seconds(self) -> float:
        """How long ``turn`` has nothing to do."""
        if self._sent_at is not None or self._ending or self._source.more:
            return SERVE_SECONDS
        return min(LOOK_SECONDS, max(0.0, self._due - self._clock.monotonic()))

    def end(self) -> None:
        """Send one more message as soon as none is on its way: call ``turn`` until ``done``, then ``leave``."""
        self._ending = True

    def leave(self) -> None:
        """No more time: what is on its way is lost."""
        if not self.done:
            self._tell_no_answer()

    def turn(self) -> None:
        """Take the broker's word on the message that is on its way, or send the next one when it is due."""
        self._outlet.poll()
        now = self._clock.monotonic()
        if self._sent_at is not None:
            if now - self._sent_at >= PATIENCE_SECONDS:
                self._tell_no_answer()
            return
        if self._ending:
            if not self._last_sent or self._source.more:
                self._last_sent = True
                self._send(now)
        elif now >= self._due or self._source.more:
            if now >= self._due:
                # From when it was due, not from now: being late once does not shift all that follow.
                following = self._due + self._every
                self._due = following if following > now else now + self._every
            self._send(now)

    def _send(self, now: float) -> None:
        self._sent_at = now
        self._outlet.send(
            self._source.key, self._source.next(self._clock.now_ns(), self._outlet.max_bytes), self._settled
        )

    def _settled(self, error: OpenMSIStreamError | None) -> None:
        self._sent_at = None
        self._source.settle(arrived=error is None)
        if error is None:
            self._in_trouble = False
        else:
            self._tell(error.message, error.hint)

    def _tell_no_answer(self) -> None:
        reason = self._outlet.complaint or "the broker does not answer"
        self._tell(reason, "check that the broker runs, and bootstrap.servers in the config file")

    def _tell(self, reason: str, hint: str) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._note(
                Note(f"{self._what} do not arrive at topic {self._topic} ({reason}); the work goes on without", hint)
            )
