"""Heartbeats and log lines over a real broker: on time, complete, and never in the way of the work."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from openmsistream.adapters.clock import SystemClock
from openmsistream.adapters.kafka.side_producer import SideProducer, side_settings
from openmsistream.config.models import ProgramConfig, load
from openmsistream.config.options import StreamOptions
from openmsistream.core.events import Event, FileProgress, FileSent, Note
from openmsistream.core.heartbeat import Role
from openmsistream.errors import ConfigError
from openmsistream.local.topics import create_topic
from openmsistream.programs.telemetry import CLOSE_SECONDS, LogLines, Telemetry, telemetry

INTERVAL_SECONDS = 0.5
WAIT_SECONDS = 20.0
INFO, WARNING = 20, 30
PASSWORD = "hunter2-and-more"


class Listener:
    """What the user is told, and on which thread."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.threads: set[int] = set()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    @property
    def notes(self) -> list[Note]:
        return [event for event in self.events if isinstance(event, Note)]


class Reader:
    """Reads a topic's only partition from its beginning."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "log_level": 0})
        self._consumer.assign([TopicPartition(topic, 0, 0)])
        self.keys: set[bytes | None] = set()
        self.values: list[dict[str, object]] = []

    def until(self, enough: Callable[[list[dict[str, object]]], bool]) -> list[dict[str, object]]:
        """Read until ``enough`` says so; every message so far."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not enough(self.values):
            assert time.monotonic() < deadline, f"after {WAIT_SECONDS} s only {self.values} had come"
            message = self._consumer.poll(0.1)
            if message is not None:
                assert message.error() is None, message.error()
                self.keys.add(message.key())
                self.values.append(json.loads(message.value()))
        return self.values

    def close(self) -> None:
        self._consumer.close()


@contextmanager
def reading(bootstrap: str, topic: str) -> Iterator[Reader]:
    reader = Reader(bootstrap, topic)
    try:
        yield reader
    finally:
        reader.close()


def config_with(folder: Path, text: str) -> ProgramConfig:
    path = folder / "lab.config"
    path.write_text(text, encoding="utf-8")
    return load(path, env={}, search=[])


def broker_config(folder: Path, bootstrap: str, more: str = "") -> ProgramConfig:
    return config_with(folder, f"[broker]\nbootstrap.servers = {bootstrap}\n{more}")


def beats_to(topic: str) -> StreamOptions:
    return StreamOptions(
        heartbeat_topic_name=topic, heartbeat_program_id="prog", heartbeat_interval_secs=INTERVAL_SECONDS
    )


def lines_to(topic: str) -> StreamOptions:
    return StreamOptions(log_topic_name=topic, log_program_id="prog", log_interval_secs=INTERVAL_SECONDS)


def nobody_listens_at() -> str:
    """An address whose port was free a moment ago."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def wait_for_notes(observe: Telemetry, told: Listener) -> None:
    """Do what a program's loop does, until the user is told something."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not told.notes:
        assert time.monotonic() < deadline, "nothing was told"
        threading.Event().wait(0.05)
        observe.deliver()


def total(values: list[dict[str, object]], counter: str) -> int:
    return sum(int(str(value[counter])) for value in values)


def test_heartbeats_come_at_their_interval_and_their_counts_add_up(broker, topic, tmp_path):
    """The first comes at once, others at the interval while the loop is busy, one at the end; no count is missing."""
    beats, told = topic(), Listener()
    totals = {"n_messages_produced": 0, "n_bytes_produced": 0}

    config = broker_config(tmp_path, broker.bootstrap)
    with reading(broker.bootstrap, beats) as reader:
        with telemetry(beats_to(beats), config, Role.UPLOAD, told, SystemClock()) as observe:
            reader.until(lambda values: len(values) == 1)
            observe.count(lambda: totals)
            totals = {"n_messages_produced": 11, "n_bytes_produced": 11_849}
            reader.until(lambda values: len(values) == 4)
            totals = {"n_messages_produced": 12, "n_bytes_produced": 12_000}
        values = reader.until(lambda values: total(values, "n_messages_produced") == 12)

    assert reader.keys == {b"prog_heartbeat"}
    assert [list(value) for value in values] == [["timestamp", "n_messages_produced", "n_bytes_produced"]] * len(values)
    assert total(values, "n_bytes_produced") == 12_000
    at = [datetime.fromisoformat(str(value["timestamp"])).timestamp() for value in values]
    assert at[3] - at[0] == pytest.approx(3 * INTERVAL_SECONDS, abs=INTERVAL_SECONDS / 2)
    assert told.events == []


def test_a_program_that_ends_at_once_has_its_two_heartbeats(broker, topic, tmp_path):
    """The end of a program waits until its last heartbeat arrived."""
    beats, told = topic(), Listener()

    with (
        reading(broker.bootstrap, beats) as reader,
        telemetry(
            beats_to(beats), broker_config(tmp_path, broker.bootstrap), Role.DOWNLOAD, told, SystemClock()
        ) as observe,
    ):
        observe.count(lambda: {"n_messages_read": 7})
    with reading(broker.bootstrap, beats) as reader:
        values = reader.until(lambda values: len(values) == 2)

    assert total(values, "n_messages_read") == 7
    assert [list(value)[1:] for value in values] == [list(Role.DOWNLOAD.counters)] * 2
    assert told.events == []


def test_log_lines_arrive_also_those_from_before_the_start(broker, topic, tmp_path):
    """Every line that the caller feeds is on the topic, once and in order, below the program's key."""
    logs, told, lines = topic(), Listener(), LogLines()
    lines(WARNING, "a warning about the config file")

    config = broker_config(tmp_path, broker.bootstrap, "[log]\nlog.level = info\nmax.logs.per.message = 50\n")
    with reading(broker.bootstrap, logs) as reader:
        with telemetry(lines_to(logs), config, Role.UPLOAD, told, SystemClock(), lines):
            reader.until(lambda values: any(value["messages"] for value in values))
            lines(10, "begins: scan.csv")
            lines(INFO, "sent: scan µ.csv")
        values = reader.until(lambda values: sum(len(value["messages"]) for value in values) == 2)

    assert reader.keys == {b"prog_log"}
    assert [line for value in values for line in value["messages"]] == [
        "a warning about the config file",
        "sent: scan µ.csv",
    ]
    assert all(isinstance(value["timestamp"], float) for value in values)


def test_without_a_command_line_every_event_is_a_log_line(broker, topic, tmp_path):
    """A program run from Python sends its events as JSON; progress is left out."""
    logs, told = topic(), Listener()
    sent = FileSent("scan.csv", 4, 0.25)

    config = broker_config(tmp_path, broker.bootstrap)
    with reading(broker.bootstrap, logs) as reader:
        with telemetry(lines_to(logs), config, Role.UPLOAD, told, SystemClock()) as observe:
            observe(FileProgress("scan.csv", 2, 4))
            observe(sent)
        values = reader.until(lambda values: any(value["messages"] for value in values))

    (line,) = [line for value in values for line in value["messages"]]
    assert json.loads(line) == sent.as_dict()
    assert told.events == [FileProgress("scan.csv", 2, 4), sent]


def test_a_topic_that_does_not_exist_is_told_once_and_used_once_it_does(broker, topic, tmp_path):
    """The program goes on without, says once what to do, on its own thread, and needs no restart after it was done."""
    missing, told = topic() + "-missing", Listener()

    config = broker_config(tmp_path, broker.bootstrap, "[heartbeat]\ntopic.metadata.propagation.max.ms = 300\n")
    with telemetry(beats_to(missing), config, Role.UPLOAD, told, SystemClock()) as observe:
        observe.count(lambda: {"n_messages_produced": 3})
        wait_for_notes(observe, told)
        create_topic(broker.bootstrap, missing)
        with reading(broker.bootstrap, missing) as reader:
            values = reader.until(lambda values: len(values) >= 1)

    assert total(values, "n_messages_produced") == 3
    assert told.notes == [
        Note(
            f"heartbeats do not arrive at topic {missing} (the topic does not exist); the work goes on without",
            "create it, or check its name (--heartbeat_topic_name)",
        )
    ]
    assert told.threads == {threading.get_ident()}


def test_a_broker_that_does_not_answer_is_told_once_and_holds_nobody_up(tmp_path):
    """With an unreachable broker for both, the program still ends within the stated time, with one note for each."""
    told = Listener()
    options = StreamOptions(heartbeat_topic_name="beats", log_topic_name="logs")
    alone = f"bootstrap.servers = {nobody_listens_at()}\n"
    config = config_with(tmp_path, f"[heartbeat]\n{alone}[log]\n{alone}")

    began = time.monotonic()
    with telemetry(options, config, Role.UPLOAD, told, SystemClock()) as observe:
        observe(FileSent("a", 1, 0.1))
    seconds = time.monotonic() - began

    assert seconds < CLOSE_SECONDS + 3
    assert [note.text.split(" at topic ")[0] for note in told.notes] == [
        "heartbeats do not arrive",
        "log lines do not arrive",
    ]
    assert all("Connection refused" in note.text for note in told.notes)
    assert told.threads == {threading.get_ident()}


def test_without_a_topic_there_is_no_thread_and_events_pass(tmp_path):
    """Nobody pays for heartbeats that nobody asked for, and no setting of theirs is read."""
    told, before = Listener(), threading.active_count()
    config = config_with(tmp_path, "[heartbeat]\nbootstrap.servers = $NOT_SET\n")

    with telemetry(StreamOptions(), config, Role.UPLOAD, told, SystemClock()) as observe:
        observe(FileSent("a", 1, 0.1))
        assert threading.active_count() == before

    assert told.events == [FileSent("a", 1, 0.1)]


def test_what_goes_wrong_with_counting_ends_the_heartbeats_not_the_program(broker, topic, tmp_path):
    """An error in the thread is told, and raised nowhere."""
    told = Listener()

    def broken() -> dict[str, int]:
        raise RuntimeError("no number")

    config = broker_config(tmp_path, broker.bootstrap)
    with telemetry(beats_to(topic()), config, Role.UPLOAD, told, SystemClock()) as observe:
        observe.count(broken)
        wait_for_notes(observe, told)

    assert [note.text for note in told.notes] == ["no more heartbeats and log lines are sent: RuntimeError: no number"]


def test_the_section_wins_over_producer_over_broker(tmp_path):
    """Connection and passwords come from the sections that the files use; what is set for the files' sake does not."""
    config = config_with(
        tmp_path,
        f"[broker]\nbootstrap.servers = kafka:9093\nsasl.password = {PASSWORD}\nclient.id = lab\n"
        "[producer]\ncompression.type = lz4\ntransactional.id = t\nvalue.serializer = DataFileChunkSerializer\n"
        "message.timeout.ms = 0\nenable.idempotence = true\n"
        "[heartbeat]\nclient.id = beats\nprefer.separate.producer = True\nbatch.size = 2e6\n",
    )

    settings = side_settings(config.heartbeat, config)

    assert dict(settings) == {
        "bootstrap.servers": "kafka:9093",
        "sasl.password": PASSWORD,
        "client.id": "beats",
        "compression.type": "lz4",
        "batch.size": "2000000",
        "message.timeout.ms": "30000",
        "socket.keepalive.enable": "true",
        "topic.metadata.propagation.max.ms": "5000",
    }


def test_a_section_with_its_own_broker_stands_for_itself(tmp_path):
    """Passwords for one broker are never sent to another."""
    config = config_with(
        tmp_path,
        f"[broker]\nbootstrap.servers = kafka:9093\nsasl.password = {PASSWORD}\n"
        "[log]\nbootstrap.servers = other:9092\nmax.logs.per.message = 10\nlog.level = INFO\n",
    )

    settings = side_settings(config.log, config)

    assert settings["bootstrap.servers"] == "other:9092"
    assert "sasl.password" not in settings
    assert not {"max.logs.per.message", "log.level"} & set(settings)


def test_a_password_is_shown_nowhere(tmp_path):
    """Neither the error for a wrong setting, nor what is told of a broker that does not answer, holds a secret."""
    told = Listener()
    sasl = f"security.protocol = SASL_PLAINTEXT\nsasl.username = u\nsasl.password = {PASSWORD}\n"
    wrong = config_with(
        tmp_path, f"[heartbeat]\nbootstrap.servers = kafka:9093\nsocket.timeout.ms = {PASSWORD}\n{sasl}"
    )
    with pytest.raises(ConfigError) as refused:
        SideProducer(side_settings(wrong.heartbeat, wrong), "beats", "heartbeat_topic_name")
    right = config_with(
        tmp_path, f"[heartbeat]\nbootstrap.servers = {nobody_listens_at()}\nsasl.mechanism = PLAIN\n{sasl}"
    )
    with telemetry(beats_to("beats"), right, Role.UPLOAD, told, SystemClock()) as observe:
        shown = f"{observe!r} {side_settings(right.heartbeat, right)!r}"

    assert "lab.config [heartbeat] socket.timeout.ms (line 3)" in refused.value.message
    assert len(told.notes) == 1
    assert PASSWORD not in f"{shown} {refused.value} {refused.value.hint} {told.events}"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("log.level = loud", r"log\.level \(line 2\): 'loud' is not a level"),
        ("max.logs.per.message = 0", r"max\.logs\.per\.message \(line 2\): '0' is not a whole number from 1"),
        ("linger.mss = 5", r"linger\.mss \(line 2\): No such configuration property"),
    ],
)
def test_a_wrong_value_in_the_section_is_told_at_the_start(tmp_path, line, problem):
    """Somebody who asks for log lines learns at once that the section is wrong, and where."""
    config = config_with(tmp_path, f"[log]\n{line}\nbootstrap.servers = kafka:9092\n")

    with (
        pytest.raises(ConfigError, match=problem),
        telemetry(lines_to("logs"), config, Role.UPLOAD, Listener(), SystemClock()),
    ):
        raise AssertionError("the program ran")
