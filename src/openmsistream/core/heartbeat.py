"""Heartbeats and log messages as records: their keys, their JSON, and the log lines that wait to be sent.

Pure values in the form of OpenMSIStream 1.x, so that whatever watches its programs can watch ours. This module
must not know when they are sent, over which producer, or what a line says.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum

LINES_BEFORE_FIRST = 128
"""How many lines are kept until the first log message. Source: 1.x."""
MAX_LINE_CHARACTERS = 8_192
MAX_WAITING_CHARACTERS = 16 * 1024 * 1024
"""Bounds the memory, whatever ``max.logs.per.message`` allows."""


class Role(Enum):
    """
    What a program does; the value names the counters in its heartbeats, in their order.

    Source: seen by running 1.8.8. The bytes produced are those of the records' values, the bytes read those of
    the chunks' payloads.
    """

    UPLOAD = ("n_messages_produced", "n_bytes_produced")
    DOWNLOAD = ("n_messages_read", "n_messages_processed", "n_bytes_read", "n_bytes_processed")

    @property
    def counters(self) -> tuple[str, ...]:
        """The names of the counters."""
        names: tuple[str, ...] = self.value
        return names


def heartbeat_key(program_id: str) -> bytes:
    """The key of a program's heartbeats."""
    return f"{program_id}_heartbeat".encode()


def heartbeat_value(now_ns: int, counts: Mapping[str, int]) -> bytes:
    """
    One heartbeat: ``{"timestamp": "2026-11-21T09:00:49.147186+00:00", "n_messages_produced": 11, ...}``.

    Args:
        now_ns: Wall clock, ns since 1970; written in UTC, to the microsecond.
        counts: What was counted since the heartbeat before, in the order it is to be written.
    """
    seconds, rest_ns = divmod(now_ns, 1_000_000_000)
    now = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest_ns // 1000)
    return json.dumps({"timestamp": now.isoformat(timespec="microseconds"), **counts}).encode()


def log_key(program_id: str) -> bytes:
    """The key of a program's log messages."""
    return f"{program_id}_log".encode()


def log_value(now_ns: int, lines: Sequence[str]) -> bytes:
    """One log message: ``{"timestamp": 1795251644.03, "messages": ["...", ...]}``, in seconds since 1970."""
    return json.dumps({"timestamp": now_ns / 1e9, "messages": list(lines)}).encode()


class WaitingLines:
    """
    Log lines that wait to be sent, the oldest first; when there are too many, the oldest go.

    Attributes:
        limit: How many are kept, and the most that one message gets; >= 1.
    """

    def __init__(self, limit: int = LINES_BEFORE_FIRST) -> None:
        self.limit = limit
        self._lines: deque[str] = deque()
        self._characters = 0
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, line: str) -> None:
        """Append a line; it is cut when it is very long."""
        line = line[:MAX_LINE_CHARACTERS]
        self._lines.append(line)
        self._characters += len(line)
        self._bound()

    def take(self, max_bytes: int) -> list[str]:
        """
        Remove the oldest lines and return them, as many as fit into ``max_bytes`` of JSON, but at least one.

        When older ones had to go before, the first line says how many.
        """
        taken: list[str] = []
        if self._dropped:
            taken.append(f"{self._dropped} earlier lines are missing here: there were too many to keep")
            self._dropped = 0
        room = max_bytes - sum(map(_json_bytes, taken))
        while self._lines and len(taken) < self.limit:
            room -= _json_bytes(self._lines[0])
            if room < 0 and taken:
                break
            line = self._lines.popleft()
            self._characters -= len(line)
            taken.append(line)
        return taken

    def put_back(self, lines: Sequence[str]) -> None:
        """Lines that were taken did not arrive: they are the oldest again."""
        self._lines.extendleft(reversed(lines))
        self._characters += sum(map(len, lines))
        self._bound()

    def _bound(self) -> None:
        while len(self._lines) > self.limit or self._characters > MAX_WAITING_CHARACTERS:
            self._characters -= len(self._lines.popleft())
            self._dropped += 1


def _json_bytes(line: str) -> int:
    return len(json.dumps(line)) + len(", ")
