"""One program that watches several folders: what it says, how it ends, and what the failure of one means."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from openmsistream.cli import exit_codes
from openmsistream.cli.reporting import Reporter, words
from openmsistream.config.models import ProgramConfig, load
from openmsistream.config.options import WatchOptions
from openmsistream.core.events import (
    Event,
    FileSent,
    FolderFailed,
    Note,
    ProgramStarted,
    ProgramStopped,
    Status,
)
from openmsistream.errors import ConfigError, StorageError
from openmsistream.local.broker import LocalBroker
from openmsistream.pipeline.runner import Control, Totals
from openmsistream.ports import Events
from openmsistream.programs.many import MAX_WAITING_EVENTS, watch_many
from openmsistream.programs.telemetry import LogLines
from tests.conftest import MakeTopic
from tests.faults.support import PATIENCE_SECONDS, Program, fill, program

Act = Callable[[WatchOptions, Events, Control], None]


class Folders:
    """Stands in for ``watch``: says that it started, does what a test wants, and runs until it is told to stop."""

    def __init__(self, **acts: Act) -> None:
        self.acts = acts
        self.seen: dict[str, WatchOptions] = {}
        self.threads: dict[str, str] = {}
        self.lines: list[LogLines | None] = []

    def __call__(
        self, options: WatchOptions, config: ProgramConfig, events: Events, control: Control, lines: LogLines | None
    ) -> Totals:
        name = options.upload_dir.name
        self.seen[name], self.threads[name] = options, threading.current_thread().name
        self.lines.append(lines)
        if name in self.acts:
            self.acts[name](options, events, control)
        else:
            events(ProgramStarted("upload", options.topic, name, "broker"))
        turn = threading.Event()
        while not control.stopping:
            control.turn()
            if control.take_check():
                events(Status(1, 10, 0, 0, 0, 1.0))
            turn.wait(0.01)
        events(ProgramStopped("upload", control.reason, 1, 10, 0, 0, 1.0))
        return Totals(files=1, total_bytes=10)


class Listener:
    """Keeps the events, and on which thread they came; acts when one comes."""

    def __init__(self, **reactions: Callable[[Event], None]) -> None:
        self.events: list[Event] = []
        self.threads: set[int] = set()
        self._reactions = reactions

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())
        if event.kind in self._reactions:
            self._reactions[event.kind](event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    return tmp_path


def options(lab: Path, *names: str, **values: Any) -> dict[str, WatchOptions]:
    return {name: WatchOptions(upload_dir=lab / name, **{"topic_name": name, **values}) for name in names}


def config_of(lab: Path, text: str = "") -> ProgramConfig:
    path = lab / "lab.config"
    path.write_text(f"[broker]\nbootstrap.servers = localhost:1\n{text}", encoding="utf-8")
    return load(path, env=dict(os.environ), search=[])


def stop_when_all_started(control: Control, count: int) -> Callable[[Event], None]:
    started: list[Event] = []

    def take(event: Event) -> None:
        started.append(event)
        if len(started) == count:
            control.stop("asked to quit")

    return take


def test_what_happens_in_a_folder_is_told_with_its_name_on_the_callers_thread(lab: Path):
    """Each folder has a thread; whoever listens has to think of none of them."""
    control, folders = Control(), Folders()
    heard = Listener(program_started=stop_when_all_started(control, 3))

    totals = watch_many(options(lab, "a", "b", "c"), config_of(lab), heard, control, program=folders)

    assert {event.folder_name: event.folder for event in heard.of(ProgramStarted)} == {"a": "a", "b": "b", "c": "c"}
    assert {event.folder_name: event.reason for event in heard.of(ProgramStopped)} == dict.fromkeys(
        "abc", "asked to quit"
    )
    assert heard.threads == {threading.get_ident()}
    assert folders.threads == {"a": "folder a", "b": "folder b", "c": "folder c"}
    assert (totals.files, totals.total_bytes, totals.failed) == (3, 30, 0)


def test_a_report_that_is_asked_for_comes_from_every_folder(lab: Path):
    """Once for each."""
    control = Control()
    heard: Listener = Listener(
        program_started=lambda _: len(heard.of(ProgramStarted)) == 2 and control.check(),
        status=lambda _: len(heard.of(Status)) == 2 and control.stop("done"),
    )

    watch_many(options(lab, "a", "b"), config_of(lab), heard, control, program=Folders())

    assert sorted(event.folder_name for event in heard.of(Status)) == ["a", "b"]


def test_a_second_request_to_stop_reaches_every_folder(lab: Path):
    """What is in flight is then left."""
    control = Control()
    at_once: list[bool] = []

    def slow(_: WatchOptions, events: Events, inner: Control) -> None:
        events(ProgramStarted("upload", "t", "f", "b"))
        turn = threading.Event()
        while not inner.stop_now:
            turn.wait(0.01)
        at_once.append(inner.stopping)

    def twice(_: Event) -> None:
        control.stop("once")
        control.stop("again")

    watch_many(
        options(lab, "a", "b"),
        config_of(lab),
        Listener(program_started=twice),
        control,
        program=Folders(a=slow, b=slow),
    )

    assert at_once == [True, True]


def test_a_folder_that_fails_later_does_not_stop_the_others(lab: Path):
    """It is told, with what to try, and counts as a failure in the end."""
    control = Control()

    def lose_ledger(_: WatchOptions, events: Events, __: Control) -> None:
        events(ProgramStarted("upload", "b", "b", "broker"))
        raise StorageError("/state/b.sqlite: disk full", hint="make room")

    def then_send(_: WatchOptions, events: Events, __: Control) -> None:
        events(ProgramStarted("upload", "a", "a", "broker"))
        assert failed.wait(PATIENCE_SECONDS)
        events(FileSent("late.dat", 1, 0.1))

    failed = threading.Event()
    heard = Listener(folder_failed=lambda _: failed.set(), file_sent=lambda _: control.stop("done"))
    folders = Folders(a=then_send, b=lose_ledger)

    totals = watch_many(options(lab, "a", "b"), config_of(lab), heard, control, program=folders)

    assert heard.of(FolderFailed) == [FolderFailed("/state/b.sqlite: disk full", "make room", folder_name="b")]
    assert heard.of(FileSent) == [FileSent("late.dat", 1, 0.1, folder_name="a")]
    assert (totals.failed, totals.files) == (1, 1)


def test_a_folder_that_cannot_be_watched_at_all_ends_the_program(lab: Path):
    """A mistake in a config file is seen at once; the error says which folder."""
    control = Control()

    def refuse(*_: object) -> None:
        raise ConfigError("topic b: there is no such topic", hint="create it")

    heard = Listener()
    with pytest.raises(ConfigError) as caught:
        watch_many(options(lab, "a", "b"), config_of(lab), heard, control, program=Folders(b=refuse))

    assert caught.value.message == "folder b: topic b: there is no such topic"
    assert caught.value.hint == "create it"
    assert [event.reason for event in heard.of(ProgramStopped)] == ["folder b cannot be watched"]
    assert not heard.of(FolderFailed)


def test_a_mistake_of_ours_in_one_folder_is_told_and_shown_at_the_end(lab: Path):
    """The other folders are sent until the program is told to stop."""
    control = Control()

    def break_down(_: WatchOptions, events: Events, __: Control) -> None:
        events(ProgramStarted("upload", "b", "b", "broker"))
        raise ZeroDivisionError("no files")

    heard = Listener(folder_failed=lambda _: control.stop("asked to quit"))
    with pytest.raises(ZeroDivisionError):
        watch_many(options(lab, "a", "b"), config_of(lab), heard, control, program=Folders(b=break_down))

    assert [event.reason for event in heard.of(FolderFailed)] == ["ZeroDivisionError: no files"]
    assert [event.folder_name for event in heard.of(ProgramStopped)] == ["a"]


def test_when_nobody_can_be_told_any_more_every_folder_ends(lab: Path):
    """As with ``| head -1``: no thread goes on without its program, however much it has to say."""
    ended: list[str] = []

    def talk(options: WatchOptions, events: Events, control: Control) -> None:
        events(ProgramStarted("upload", "t", "f", "b"))
        for _ in range(3 * MAX_WAITING_EVENTS):
            events(FileSent("x", 1, 0.1))
        ended.append(options.topic)

    def closed(_: Event) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        watch_many(
            options(lab, "a", "b"),
            config_of(lab),
            Listener(file_sent=closed),
            Control(),
            program=Folders(a=talk, b=talk),
        )

    assert sorted(ended) == ["a", "b"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("folder ")]


def test_heartbeats_say_which_folder_lives(lab: Path):
    """A name that several folders have gets the folder's behind it; one that is a folder's own is kept."""
    control, folders = Control(), Folders()
    common = options(lab, "a", "b", heartbeat_topic_name="hb", heartbeat_program_id="pc7", log_topic_name=None)
    own = options(lab, "c", heartbeat_topic_name="hb", heartbeat_program_id="mine")
    heard = Listener(program_started=stop_when_all_started(control, 3))

    watch_many({**common, **own}, config_of(lab), heard, control, program=folders)

    names = {name: each.heartbeat_program_id for name, each in folders.seen.items()}
    assert names == {"a": "pc7-a", "b": "pc7-b", "c": "mine"}
    assert folders.lines == [None, None, None]


def test_folders_that_share_a_topic_are_told_what_that_means(lab: Path):
    """A consumer cannot tell a/scan.dat from b/scan.dat when both are scan.dat."""
    control = Control()
    heard = Listener(program_started=stop_when_all_started(control, 3))
    both = options(lab, "a", "b", topic_name="lab") | options(lab, "c")

    watch_many(both, config_of(lab), heard, control, program=Folders())

    (note,) = heard.of(Note)
    assert "the folders a, b share the topic lab" in note.text


# -- words and JSON ------------------------------------------------------------------------------------------------


def test_a_line_begins_with_the_folders_name():
    """And JSON has it, only where there is one."""
    event = FileSent("run/x.dat", 10, 0.5, folder_name="xrd")

    assert words(event)[1] == "xrd: sent: run/x.dat (10 B, 0.50 s)"
    assert words(FileSent("run/x.dat", 10, 0.5))[1] == "sent: run/x.dat (10 B, 0.50 s)"
    assert event.as_dict() == {
        "event": "file_sent", "folder_name": "xrd", "path": "run/x.dat", "size": 10, "seconds": 0.5
    }  # fmt: skip
    assert "folder_name" not in FileSent("x", 1, 1.0).as_dict()
    assert words(FolderFailed("disk full", "make room", folder_name="xrd")) == (
        40,
        "xrd: no longer watched: disk full (try: make room)",
    )


def test_a_program_is_unfinished_when_one_of_its_folders_is():
    """Whichever of them stops last."""
    report = Reporter(lambda *_: None)
    for name, waiting in (("a", 2), ("b", 0)):
        report(ProgramStopped("upload", "asked to quit", 1, 1, waiting, 0, 1.0, folder_name=name))

    assert report.left_waiting


# -- as it is typed ------------------------------------------------------------------------------------------------


def lab_config(lab: Path, broker: LocalBroker, text: str) -> Path:
    path = lab / "lab.config"
    path.write_text(
        f"[broker]\nbootstrap.servers = {broker.bootstrap}\n"
        f"[upload]\nstate_dir = {lab / 'state'}\nwatchdog_lag_time = 0\nscan_seconds = 0.5\n{text}",
        encoding="utf-8",
    )
    return path


def watch_lab(config: Path, *more: object) -> Program:
    return program("watch", "--config", config, *more)


@pytest.mark.parametrize("end", ["q", signal.SIGTERM])
def test_one_program_sends_every_folder_to_its_topic(
    lab: Path, broker: LocalBroker, topic: MakeTopic, end: str | signal.Signals
):
    """From one config file, until it is told to stop; what comes later in each, too."""
    topics = {"a": topic(), "b": topic()}
    sections = "".join(f"[folder {name}]\npath = {name}\ntopic_name = {topics[name]}\n" for name in topics)
    with watch_lab(lab_config(lab, broker, sections)) as watcher:
        for name, its_topic in topics.items():
            started = watcher.until_event("program_started", folder_name=name)
            assert (started["topic"], started["folder"]) == (its_topic, str(lab / name))
            watcher.until_event("scan_done", folder_name=name)
            fill(lab / name, {f"{name}.dat": 100})
        for name in topics:
            assert watcher.until_event("file_sent", folder_name=name)["path"] == f"{name}.dat"
        if isinstance(end, signal.Signals):
            watcher.signal(end)
        else:
            watcher.type(end)
        assert watcher.wait() == exit_codes.OK
    reason = "got SIGTERM" if end is signal.SIGTERM else "asked to quit"
    assert {e["folder_name"]: e["reason"] for e in watcher.of("program_stopped")} == dict.fromkeys("ab", reason)


def test_a_folder_without_a_topic_ends_the_program_with_one_error(lab: Path, broker: LocalBroker, topic: MakeTopic):
    """It names the folder; the exit code is 1."""
    sections = f"[folder a]\npath = a\ntopic_name = {topic()}\n[folder b]\npath = b\ntopic_name = no-such-topic\n"
    with watch_lab(lab_config(lab, broker, sections)) as watcher:
        assert watcher.wait() == exit_codes.ERROR

    assert watcher.stderr.startswith("Error: folder b: ")
    assert "no-such-topic" in watcher.stderr


def test_a_folder_whose_ledger_cannot_be_used_leaves_the_others_alone(lab: Path, broker: LocalBroker, topic: MakeTopic):
    """It is told, the other one sends, and the exit code is 1 in the end."""
    (lab / "file").write_bytes(b"in the way of a folder")
    topics = [topic(), topic()]
    sections = (
        f"[folder a]\npath = a\ntopic_name = {topics[0]}\n"
        f"[folder b]\npath = b\ntopic_name = {topics[1]}\nstate_dir = {lab / 'file' / 'state'}\n"
    )
    with watch_lab(lab_config(lab, broker, sections)) as watcher:
        failed = watcher.until_event("folder_failed")
        watcher.until_event("scan_done", folder_name="a")
        fill(lab / "a", {"late.dat": 10})
        watcher.until_event("file_sent", folder_name="a", path="late.dat")
        assert watcher.quit() == exit_codes.ERROR

    assert failed["folder_name"] == "b"
    assert str(lab / "file") in failed["reason"]


def test_a_folder_that_is_typed_is_watched_alone_with_its_sections_options(
    lab: Path, broker: LocalBroker, topic: MakeTopic
):
    """The other sections are not started, and no name stands before what is told."""
    name = topic()
    fill(lab / "b", {"b.dat": 10})
    sections = f"[folder a]\npath = a\ntopic_name = no-such-topic\n[folder b]\npath = b\ntopic_name = {name}\n"
    config = lab_config(lab, broker, sections)
    with program("watch", lab / "b", "--config", config, "--once") as watcher:
        assert watcher.wait() == exit_codes.OK, watcher.stderr

    assert watcher.of("program_started")[0]["topic"] == name
    assert watcher.paths("file_sent") == ["b.dat"]
    assert not [event for event in watcher.events if "folder_name" in event]


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux only")
def test_low_priority_holds_for_the_whole_program(lab: Path, broker: LocalBroker, topic: MakeTopic):
    """Every thread of it, and it is said once, not by each folder."""
    common = f"low_priority = true\ntopic_name = {topic()}\n"
    with watch_lab(lab_config(lab, broker, common + "[folder a]\npath = a\n[folder b]\npath = b\n")) as watcher:
        watcher.until_event("program_started", folder_name="a")
        watcher.until_event("program_started", folder_name="b")
        threads = [psutil.Process(thread.id) for thread in psutil.Process(watcher.pid).threads()]
        nice = {thread.nice() for thread in threads}
        assert watcher.quit() == exit_codes.OK

    assert nice == {19}
    assert len([event for event in watcher.of("note") if "nice 19" in event["text"]]) == 1
