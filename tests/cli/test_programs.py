"""The programs as users type them: what they say, how they are ended, which files they take, and their exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic
from tests.conftest import MakeTopic
from tests.faults.records import produce, raw_records
from tests.faults.support import Place, Program, environment, fill, tree

OK, ERROR, UNFINISHED = 0, 1, 3
SCRIPTS = Path(sys.executable).parent
PLAIN = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] .+\n")

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names, signals and terminals")


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> Place:
    """Folders and a topic with 3 partitions."""
    return Place(tmp_path, broker.bootstrap, topic(partitions=3))


def words(place: Place) -> list[str]:
    return ["--config", str(place.config), "--topic-name", place.topic]


def watch_words(place: Place) -> list[str]:
    state = str(place.base / "state")
    return ["watch", str(place.watched), *words(place), "--watchdog-lag-time", "0.2", "--state-dir", state]


def plain(*typed: object, **more: Any) -> Program:
    """Type ``openmsistream ...`` as it is, without ``--json``."""
    return Program([sys.executable, "-m", "openmsistream", *map(str, typed)], **more)


# -- ending and asking ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["q", "QUIT"])
def test_a_program_ends_well_when_q_is_typed(place: Place, typed: str) -> None:
    """It says what was done, why it ended, and its exit code is 0."""
    with place.watch() as watcher:
        watcher.until_event("program_started")
        watcher.type(typed)
        assert watcher.wait() == OK
    assert watcher.of("program_stopped")[0]["reason"] == "asked to quit"


@pytest.mark.parametrize("typed", ["c", "check"])
def test_a_program_reports_when_c_is_typed(place: Place, typed: str) -> None:
    """Once for each time, with what was done so far; it runs on."""
    fill(place.watched, {"one.dat": 10})
    with place.watch("--upload-existing") as watcher, place.download() as receiver:
        watcher.until_event("file_sent")
        receiver.until_event("file_delivered")
        for program in (watcher, receiver):
            program.type(typed)
            status = program.until_event("status")
            assert (status["files"], status["total_bytes"], status["waiting"], status["active"]) == (1, 10, 0, 0)
            assert program.quit() == OK
            assert len(program.of("status")) == 1


def test_other_words_and_the_end_of_standard_input_mean_nothing(place: Place) -> None:
    """A program whose standard input ends, as in a service, runs on."""
    with place.watch() as watcher:
        watcher.until_event("program_started")
        watcher.type("hello")
        watcher.type("")
        watcher.end_of_input()
        fill(place.watched, {"later.dat": 10})
        watcher.until_event("file_sent")
        watcher.signal(signal.SIGTERM)
        assert watcher.wait() == OK
    assert watcher.of("program_stopped")[0]["reason"] == "got SIGTERM"


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_programs_well(place: Place, number: signal.Signals) -> None:
    """Exit code 0 when nothing is left to do, and the next start does nothing again."""
    fill(place.watched, {"one.dat": 10})
    with place.watch("--upload-existing") as watcher, place.download() as receiver:
        watcher.until_event("file_sent")
        receiver.until_event("file_delivered")
        for program in (watcher, receiver):
            program.signal(number)
            assert program.wait() == OK
            assert program.of("program_stopped")[0]["reason"] == f"got {number.name}"
            assert program.stderr == ""


@posix
def test_a_second_signal_ends_a_program_at_once(own_broker: LocalBroker, tmp_path: Path, topic: MakeTopic) -> None:
    """The first one waits for the broker to take what is on its way; the second one does not."""
    create_topic(own_broker.bootstrap, "xrd")
    place = Place(tmp_path, own_broker.bootstrap, "xrd")
    with place.watch() as watcher:
        watcher.until_event("program_started")
        own_broker.freeze()
        fill(place.watched, {"big.bin": 50_000_000})
        watcher.until_event("file_started")
        watcher.signal(signal.SIGINT)
        watcher.signal(signal.SIGTERM)
        begun = time.monotonic()
        assert watcher.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - begun < 3
        own_broker.thaw()
    place.send()
    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_a_downloader_that_is_ended_in_the_middle_of_a_file_says_so(place: Place) -> None:
    """Exit code 3: something is not whole yet, and the next start goes on with it."""
    fill(place.watched, {"big.bin": 3_000_000})
    place.send("--chunk-size", 100_000)
    records = [(m.key(), m.value(), m.partition()) for m in raw_records(place.bootstrap, place.topic)]
    other = Place(place.base / "other", place.bootstrap, place.topic + "-half")
    create_topic(other.bootstrap, other.topic)
    produce(other.bootstrap, other.topic, [(key, value) for key, value, _ in records[:10]])

    with other.download() as receiver:
        receiver.until_event("file_progress", done=1_000_000)
        assert receiver.quit() == UNFINISHED
    assert receiver.of("program_stopped")[0]["waiting"] == 1
    produce(other.bootstrap, other.topic, [(key, value) for key, value, _ in records[10:]])
    again = other.fetch()

    assert tree(other.output) == tree(place.watched)
    assert again.of("program_stopped")[0]["waiting"] == 0


# -- what is shown ----------------------------------------------------------------------------------------------


def test_every_line_of_json_output_is_one_event_with_a_time(place: Place) -> None:
    """Each line of standard output parses by itself, names its event and carries an ISO time."""
    fill(place.watched, {"one.dat": 10, "two\nlines.dat": 10})
    for typed in (
        [*watch_words(place), "--once"],
        ["download", str(place.output), *words(place), "--until-idle", "1"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "openmsistream", *typed, "--json"],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment(),
            check=True,
        )
        lines = done.stdout.decode().splitlines()
        events = [json.loads(line) for line in lines]
        assert [event["event"] for event in events][:1] == ["program_started"]
        assert events[-1]["event"] == "program_stopped"
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", event["time"]) for event in events)


def test_plain_output_is_one_line_for_each_thing_that_happens(place: Place) -> None:
    """Without a terminal: a time and a sentence a line, whatever a file is called, and nothing on standard error."""
    fill(place.watched, {"one.dat": 1500, "two\nlines \x1b[31mred.dat": 10, "naïve µ.dat": 10})
    with plain(*watch_words(place), "--once") as sender:
        assert sender.wait() == OK
    with plain("download", place.output, *words(place), "--until-idle", 1) as receiver:
        assert receiver.wait() == OK

    for program, verb in ((sender, "sent"), (receiver, "written")):
        assert program.stderr == ""
        assert all(PLAIN.fullmatch(line) for line in program.lines), program.lines
        assert f"{verb}: one.dat (1.5 kB, " in program.stdout
        assert f"{verb}: naïve µ.dat" in program.stdout
        assert f"{verb}: two\\nlines \\x1b[31mred.dat" in program.stdout
        assert "\x1b" not in program.stdout
        assert f"3 files {verb}" in program.lines[-1]


def test_progress_none_says_only_what_is_wrong(place: Place) -> None:
    """For scheduled jobs that send a mail when there is output."""
    fill(place.watched, {"one.dat": 10})
    with plain(*watch_words(place), "--once", "--progress", "none") as sender:
        assert sender.wait() == OK
    assert (sender.stdout, sender.stderr) == ("", "")


def test_a_log_file_gets_what_its_level_asks_for(place: Place) -> None:
    """In a folder that is made, with the lines that went to the screen."""
    fill(place.watched, {"one.dat": 10})
    log = place.base / "logs" / "today.log"
    place.send("--logger-file-path", log, "--logger-file-level", "info")

    assert "sent: one.dat" in log.read_text("utf-8")


@posix
def test_bars_are_shown_on_a_terminal_and_q_is_heard_there(place: Place) -> None:
    """On a pseudo-terminal: a line of totals that counts, and ``q`` ends it."""
    fill(place.watched, {"one.dat": 10, "big.bin": 5_000_000})
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "openmsistream", *watch_words(place), "--upload-existing"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="120", LINES="40"),
        start_new_session=True,
    )
    os.close(theirs)
    shown = ""
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    shown += os.read(ours, 65_536).decode()
                except OSError:  # Linux: the other end is closed
                    break
            if "2 files sent, 5.0 MB" in shown and not shown.endswith("!"):
                os.write(ours, b"q\n")
                shown += "!"
        assert process.wait(30) == OK
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "2 files sent, 5.0 MB" in shown
    assert "sent: big.bin" in shown
    assert "asked to quit: 2 files sent" in shown


def test_the_command_line_in_the_list_of_processes_is_what_was_typed(place: Place) -> None:
    """No option is added or expanded where every user of the computer can read it."""
    with place.watch() as watcher:
        watcher.until_event("program_started")
        typed = psutil.Process(watcher.pid).cmdline()
        assert typed[1:4] == ["-m", "openmsistream", "watch"]
        assert watcher.quit() == OK
