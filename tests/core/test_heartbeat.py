"""Heartbeats and log messages: byte for byte those of 1.x, on time, and nothing lost when one is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from openmsistream.core.events import Note
from openmsistream.core.heartbeat import (
    MAX_LINE_CHARACTERS,
    Role,
    WaitingLines,
    heartbeat_key,
    heartbeat_value,
    log_key,
    log_value,
)
from openmsistream.errors import DeliveryError, OpenMSIStreamError
from openmsistream.pipeline.heartbeat import PATIENCE_SECONDS, Channel, Heartbeats
from openmsistream.programs.telemetry import LogLines

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "heartbeats_v1.8.8.jsonl"
# What DataFileDownloadDirectory 1.8.8 wrote after it had read the golden files (seen by running it).
GOLDEN_DOWNLOAD = (
    '{"timestamp": "2026-11-21T11:27:22.952586+00:00", "n_messages_read": 11, "n_messages_processed": 11, '
    '"n_bytes_read": 9922, "n_bytes_processed": 9922}'
)
MIDDAY_NS = 1_795_262_400_000_000_000  # 2026-11-21 12:00 UTC
WARNING, INFO = 30, 20


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def now_ns(self) -> int:
        return MIDDAY_NS + int(self.seconds * 1e9)


class Box:
    """An outlet that keeps what it is given; the test decides when and how the broker answers."""

    def __init__(self, max_bytes: int = 1_000_000) -> None:
        self.max_bytes, self.complaint = max_bytes, ""
        self.sent: list[tuple[bytes, dict[str, object]]] = []
        self.answers: list[OpenMSIStreamError | None] = []
        self._told: list[Callable[[OpenMSIStreamError | None], None]] = []

    def send(self, key: bytes, value: bytes, told: Callable[[OpenMSIStreamError | None], None]) -> None:
        self.sent.append((key, json.loads(value)))
        self._told.append(told)

    def poll(self) -> None:
        while self.answers and self._told:
            self._told.pop(0)(self.answers.pop(0))

    @property
    def values(self) -> list[dict[str, object]]:
        return [value for _, value in self.sent]


class Beating:
    """An upload's heartbeats every 10 s into a box."""

    def __init__(self) -> None:
        self.time, self.box, self.notes = Time(), Box(), list[Note]()
        self.totals = {"n_messages_produced": 0, "n_bytes_produced": 0}
        beats = Heartbeats("prog", Role.UPLOAD, lambda: self.totals)
        self.channel = Channel("heartbeats", "beats", beats, self.box, 10, self.time, self.notes.append)

    def turn(self, at: float, *answers: OpenMSIStreamError | None) -> None:
        self.time.seconds = at
        self.box.answers += answers
        self.channel.turn()

    def produced(self, messages: int, size: int) -> None:
        self.totals = {"n_messages_produced": messages, "n_bytes_produced": size}

    @property
    def counted(self) -> list[tuple[object, object]]:
        return [(value["n_messages_produced"], value["n_bytes_produced"]) for value in self.box.values]


def nanoseconds(timestamp: str) -> int:
    at = datetime.fromisoformat(timestamp)
    return int(at.replace(microsecond=0).timestamp()) * 1_000_000_000 + at.microsecond * 1000


@pytest.mark.parametrize("line", GOLDEN.read_text(encoding="utf-8").splitlines())
def test_an_uploads_heartbeat_is_the_one_of_1_x_byte_for_byte(line):
    """Key and value equal those that 1.8.8 wrote, given the same time and counts."""
    record = json.loads(line)
    key, value = base64.b64decode(record["key_b64"]), base64.b64decode(record["value_b64"])
    was = json.loads(value)
    counts = {name: was[name] for name in Role.UPLOAD.counters}

    assert heartbeat_key("prog") == key
    assert heartbeat_value(nanoseconds(was["timestamp"]), counts) == value


def test_a_downloads_heartbeat_is_the_one_of_1_x_byte_for_byte():
    """The value equals what 1.8.8 wrote, given the same time and counts."""
    was = json.loads(GOLDEN_DOWNLOAD)
    counts = {name: was[name] for name in Role.DOWNLOAD.counters}

    assert heartbeat_value(nanoseconds(was["timestamp"]), counts).decode() == GOLDEN_DOWNLOAD


def test_a_heartbeat_on_the_full_second_still_has_its_microseconds():
    """The timestamp has one form, whatever the time."""
    assert json.loads(heartbeat_value(MIDDAY_NS, {})) == {"timestamp": "2026-11-21T12:00:00.000000+00:00"}


def test_a_log_message_holds_unix_seconds_and_the_lines():
    """Key and fields are those of 1.x; letters outside ASCII are escaped, as there."""
    assert log_key("prog") == b"prog_log"
    assert log_value(MIDDAY_NS + 500_000_000, ["sent: a", "Å"]) == (
        b'{"timestamp": 1795262400.5, "messages": ["sent: a", "\\u00c5"]}'
    )


def test_heartbeats_come_at_once_then_at_the_interval_then_at_the_end():
    """The first does not wait for an interval, and the last does not either."""
    beating = Beating()

    beating.turn(0.0)
    beating.turn(9.9, None)
    beating.turn(10.0)
    beating.turn(12.0, None)
    beating.channel.end()
    beating.turn(12.5)
    assert not beating.channel.done
    beating.turn(12.6, None)

    assert [value["timestamp"] for value in beating.box.values] == [
        "2026-11-21T12:00:00.000000+00:00",
        "2026-11-21T12:00:10.000000+00:00",
        "2026-11-21T12:00:12.500000+00:00",
    ]
    assert beating.channel.done
    assert beating.notes == []


def test_a_heartbeat_that_is_late_does_not_shift_those_after_it():
    """Intervals are counted from when a heartbeat was due."""
    beating = Beating()

    for at in (0.0, 13.0, 19.9, 20.0):
        beating.turn(at, None)
        beating.turn(at, None)

    assert [str(value["timestamp"])[17:21] for value in beating.box.values] == ["00.0", "13.0", "20.0"]


def test_counts_are_those_since_the_heartbeat_before():
    """The counts of all heartbeats add up to what was done."""
    beating = Beating()

    beating.turn(0.0)
    beating.produced(3, 300)
    beating.turn(10.0, None)
    beating.produced(11, 11_849)
    beating.turn(20.0, None)

    assert beating.counted == [(0, 0), (3, 300), (8, 11_549)]


def test_what_a_lost_heartbeat_counted_is_in_the_next_one():
    """A heartbeat that did not arrive leaves no hole in the sums."""
    beating = Beating()

    beating.turn(0.0)
    beating.produced(3, 300)
    beating.turn(10.0, None)
    beating.produced(4, 400)
    beating.turn(20.0, DeliveryError("no such topic"))

    assert beating.counted == [(0, 0), (3, 300), (4, 400)]


def test_nothing_piles_up_while_the_broker_does_not_answer():
    """At most one heartbeat is on its way, and the user is told once."""
    beating = Beating()
    beating.box.complaint = "connection refused"

    beating.turn(0.0)
    beating.turn(PATIENCE_SECONDS - 0.1)
    assert beating.notes == []
    for at in (PATIENCE_SECONDS, 10.0, 20.0, 30.0):
        beating.turn(at)

    assert len(beating.box.sent) == 1
    assert [note.text for note in beating.notes] == [
        "heartbeats do not arrive at topic beats (connection refused); the work goes on without"
    ]


def test_the_user_is_told_once_per_outage():
    """An outage that goes on is told once; one that comes after is told again."""
    beating = Beating()
    missing = DeliveryError("the topic does not exist", hint="create it")

    beating.turn(0.0)
    beating.turn(10.0, missing)
    beating.turn(20.0, missing)
    assert beating.notes == [
        Note(
            "heartbeats do not arrive at topic beats (the topic does not exist); the work goes on without", "create it"
        )
    ]
    beating.turn(30.0, None)
    beating.turn(40.0, missing)

    assert len(beating.notes) == 2


def test_the_end_does_not_wait_for_a_broker_that_did_not_answer_before():
    """A program whose heartbeats do not arrive ends as fast as one without."""
    beating = Beating()
    beating.turn(0.0)
    beating.turn(PATIENCE_SECONDS)

    beating.channel.end()

    assert beating.channel.done


def test_a_last_message_that_gets_no_answer_is_told():
    """When the time at the end is over, the user learns that messages are lost."""
    beating = Beating()
    beating.turn(0.0)
    beating.channel.end()
    beating.turn(1.0)
    assert not beating.channel.done

    beating.channel.leave()

    assert [note.text for note in beating.notes] == [
        "heartbeats do not arrive at topic beats (the broker does not answer); the work goes on without"
    ]


def test_a_counter_that_is_not_given_yet_is_zero():
    """A program that waits for its broker has heartbeats already, with every field."""
    beats = Heartbeats("p", Role.DOWNLOAD, dict)

    assert json.loads(beats.next(MIDDAY_NS, 1000)) == {
        "timestamp": "2026-11-21T12:00:00.000000+00:00",
        "n_messages_read": 0,
        "n_messages_processed": 0,
        "n_bytes_read": 0,
        "n_bytes_processed": 0,
    }


def test_of_too_many_lines_the_newest_are_kept_and_the_rest_is_counted():
    """128 lines wait for the first message; what had to go is told in their place."""
    lines = WaitingLines()
    for number in range(130):
        lines.add(f"line {number}")

    taken = lines.take(1_000_000)

    assert len(lines) + len(taken) == 129
    assert taken[:2] == ["2 earlier lines are missing here: there were too many to keep", "line 2"]


def test_lines_that_did_not_arrive_come_before_newer_ones():
    """A lost message's lines keep their place."""
    lines = WaitingLines()
    lines.add("one")
    lines.add("two")
    taken = lines.take(1_000_000)
    lines.add("three")

    lines.put_back(taken)

    assert lines.take(1_000_000) == ["one", "two", "three"]


def test_a_message_holds_no_more_lines_than_fit_its_bytes():
    """However many lines wait, no message is too large for its topic, and none of them is lost."""
    lines = WaitingLines(1000)
    written = [f"{number} µ" * 10 for number in range(50)]
    for line in written:
        lines.add(line)

    messages = []
    while len(lines):
        messages.append(lines.take(500))

    assert [line for message in messages for line in message] == written
    assert max(len(json.dumps(message)) for message in messages) <= 500


def test_a_line_without_an_end_is_cut():
    """One line cannot be too large for a message."""
    lines = WaitingLines()
    lines.add("x" * 1_000_000)

    assert lines.take(1_000_000) == ["x" * MAX_LINE_CHARACTERS]


def test_log_lines_below_the_level_are_left_out():
    """``log.level`` says what goes to the topic."""
    lines = LogLines()
    lines.configure(b"k", WARNING, 10)
    lines(INFO, "sent: a")
    lines(WARNING, "the broker does not answer")

    assert json.loads(lines.next(MIDDAY_NS, 1000))["messages"] == ["the broker does not answer"]


def test_lines_that_one_message_cannot_hold_follow_at_once():
    """What is left over does not wait for the next interval."""
    lines, box, time = LogLines(), Box(max_bytes=456), Time()
    lines.configure(b"prog_log", 0, 100)
    for number in range(30):
        lines(INFO, f"line number {number}")
    channel = Channel("log lines", "logs", lines, box, 60, time, lambda _: None)

    while len(box.sent) < 4 and time.seconds < 60:
        box.answers.append(None)
        channel.turn()
        time.seconds += 1

    sent = [line for value in box.values for line in value["messages"]]
    assert sent == [f"line number {number}" for number in range(len(sent))]
    assert len(sent) > 25
