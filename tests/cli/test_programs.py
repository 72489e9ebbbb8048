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
from tests.faults.support import Place, Program, environment, fill, produce, raw_records, tree

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


# -- which files, and how they arrive ---------------------------------------------------------------------------


def test_files_of_every_kind_of_name_and_size_arrive(place: Place) -> None:
    """Spaces, other scripts, a line break, a name that is not Unicode, empty files, folders in folders."""
    fill(
        place.watched,
        {
            "with space.dat": 10,
            "測定 µ ü ñ.dat": 20,
            "decomposed u\u0308.dat": 30,
            "empty.dat": 0,
            "no suffix": 40,
            "-dash.dat": 50,
            "quote'\"$;.dat": 60,
            "a/b/c/d/deep.dat": 70,
            "big.bin": 3_000_000,
            "exactly two chunks.bin": 1_048_576,
        },
    )
    if sys.platform != "win32":
        fill(place.watched, {"line\nbreak.dat": 80, "tab\t.dat": 90})
    if sys.platform == "linux":
        (place.watched / os.fsdecode(b"latin1 \xe9.dat")).write_bytes(b"not Unicode")

    sender = place.send()
    receiver = place.fetch()

    assert tree(place.output) == tree(place.watched)
    assert len(sender.of("file_sent")) == len(receiver.of("file_delivered")) == len(tree(place.watched))


def test_hidden_files_and_logs_stay_behind_and_catalog_csv_does_not(place: Place) -> None:
    """Names that only contain "log" are sent, which 1.x leaves behind by mistake."""
    behind = {".hidden": 1, "run.log": 1, "sub/RUN.LOG": 1, ".git/config": 1, "sub/.DS_Store": 1, "LOGS/table.csv": 1}
    sent = {"catalog.csv": 1, "logbook.txt": 1, "sub/blog.dat": 1, "analog/x.dat": 1, "log": 1}
    fill(place.watched, behind | sent)

    sender = place.send()
    place.fetch()

    assert tree(place.output).keys() == {name.encode() for name in sent}
    assert set(sender.paths("file_skipped")) == set(behind)
    assert all(event["reason"] for event in sender.of("file_skipped"))


def test_a_regular_expression_chooses_what_is_sent_and_what_is_written(place: Place) -> None:
    """Each side on its own, matched from the beginning of the relative path."""
    fill(place.watched, {"a/keep.csv": 1, "a/leave.txt": 1, "b/keep.csv": 1})
    place.send("--upload-regex", r".*\.csv$")
    place.fetch("--download-regex", "a/")

    assert tree(place.output).keys() == {b"a/keep.csv"}


def test_files_that_were_there_before_stay_behind_unless_asked_for(place: Place) -> None:
    """At the first start; files that come while the program is off are new at the next one."""
    fill(place.watched, {"before.dat": 10})
    with place.watch() as first:
        assert first.until_event("scan_done")["recorded_only"] == 1
        fill(place.watched, {"while.dat": 10})
        first.until_event("file_sent", path="while.dat")
        assert first.quit() == OK
    fill(place.watched, {"off.dat": 10})
    with place.watch() as second:
        second.until_event("file_sent", path="off.dat")
        assert second.quit() == OK
    assert second.paths("file_sent") == ["off.dat"]
    with place.watch("--upload-existing") as third:
        third.until_event("file_sent", path="before.dat")
        assert third.quit() == OK


def test_a_restart_sends_and_writes_nothing_again(place: Place) -> None:
    """Both programs remember; touching a file without changing it sends nothing either."""
    fill(place.watched, {"one.dat": 10, "sub/two.dat": 20})
    place.send()
    place.fetch()
    before = {path: (place.output / os.fsdecode(path)).stat().st_ino for path in tree(place.output)}
    (place.watched / "one.dat").touch()

    sender, receiver = place.send(), place.fetch()

    assert sender.of("file_sent") == receiver.of("file_delivered") == []
    assert {path: (place.output / os.fsdecode(path)).stat().st_ino for path in tree(place.output)} == before
    assert len(list(raw_records(place.bootstrap, place.topic))) == 2


def test_a_changed_file_is_sent_as_a_new_version_and_replaced_in_one_step(place: Place) -> None:
    """The reader of the old file keeps it to its end: the new one gets the name when it is whole."""
    fill(place.watched, {"scan.dat": 2_000_000})
    with place.watch("--upload-existing") as watcher, place.download() as receiver:
        receiver.until_event("file_delivered")
        with (place.output / "scan.dat").open("rb") as old:
            before = old.read(10)
            fill(place.watched, {"scan.dat": 1_000_000}, seed=7)
            receiver.until_event("file_delivered", count=2)
            old.seek(0)
            assert old.read(10) == before
            assert len(old.read()) == 2_000_000 - 10
        assert tree(place.output) == tree(place.watched)
        assert watcher.quit() == OK
        assert receiver.quit() == OK
    assert [event["size"] for event in receiver.of("file_delivered")] == [2_000_000, 1_000_000]


def test_a_version_changed_while_the_program_was_off_is_sent_at_the_next_start(place: Place) -> None:
    """1.x never sends it."""
    fill(place.watched, {"scan.dat": 1000})
    place.send()
    fill(place.watched, {"scan.dat": 1000}, seed=3)

    sender = place.send()
    place.fetch()

    assert sender.paths("file_sent") == ["scan.dat"]
    assert tree(place.output) == tree(place.watched)


def test_a_folder_that_is_moved_in_is_sent_with_everything_in_it(place: Place) -> None:
    """One rename brings many files, for which the system has no event."""
    beside = place.base / "beside"
    fill(beside, {f"run/sub {n}/{n}.dat": n for n in range(20)})
    with place.watch() as watcher:
        watcher.until_event("scan_done")
        (beside / "run").rename(place.watched / "run")
        watcher.until_event("file_sent", count=20)
        assert watcher.quit() == OK
    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_nothing_is_written_or_touched_in_the_watched_folder(place: Place) -> None:
    """Not a file, not a modification time."""
    fill(place.watched, {"one.dat": 10, "sub/two.dat": 20})

    def looks() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in [place.watched, *place.watched.rglob("*")]}

    before = looks()
    place.send()
    assert looks() == before


# -- the formats and names of 1.x -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serializer", "begins"),
    [("", b"OMS2"), ("DataFileChunkSerializer", b"\x9a")],
    ids=["none named", "as in 1.x"],
)
def test_the_config_file_chooses_the_format_and_a_consumer_reads_both(
    place: Place, serializer: str, begins: bytes
) -> None:
    """With no setting on the consumer's side; 1.x's own deserializer in its section does no harm."""
    place.configure(
        producer=f"value.serializer = {serializer}" if serializer else "",
        consumer="value.deserializer = DataFileChunkDeserializer\nkey.deserializer = StringDeserializer",
    )
    fill(place.watched, {"a.dat": 10, "sub/b.bin": 1_500_000, "empty.dat": 0})

    place.send()
    place.fetch()

    values = [message.value() for message in raw_records(place.bootstrap, place.topic)]
    assert all(value.startswith(begins) for value in values)
    assert tree(place.output) == tree(place.watched)


def test_files_of_both_formats_mixed_on_one_topic_arrive(place: Place) -> None:
    """An old and a new producer may share a topic."""
    fill(place.watched, {"new.dat": 2_000_000})
    place.send()
    place.configure(producer="value.serializer = DataFileChunkSerializer")
    fill(place.watched, {"old.dat": 2_000_000}, seed=5)
    place.send()

    place.fetch()

    assert tree(place.output) == tree(place.watched)


def test_a_restart_sends_nothing_again_in_the_old_format_either(place: Place) -> None:
    """The uploader's ledger knows v1 files; the downloader's ledger knows them by their digest."""
    place.configure(producer="value.serializer = DataFileChunkSerializer")
    fill(place.watched, {"a.dat": 10, "big.bin": 1_500_000})
    place.send()
    place.fetch()

    assert place.send().of("file_sent") == []
    assert place.fetch().of("file_delivered") == []


def test_the_scripts_of_1x_work_with_the_options_of_1x(place: Place) -> None:
    """Underscores in the names of options, the names of the classes as commands, ``q`` on standard input."""
    fill(place.watched, {"first.dat": 10, "sub/second.dat": 1_000_000})
    common = ["--config", str(place.config), "--topic_name", place.topic, "--json"]

    def script(name: str, *typed: object) -> Program:
        return Program([str(SCRIPTS / name), *map(str, typed), *common])

    with script("UploadDataFile", place.watched / "first.dat", "--chunk_size", 4096, "--n_threads", 3) as upload:
        assert upload.wait() == OK
    state = ("--state_dir", place.base / "state")
    with (
        script(
            "DataFileUploadDirectory", place.watched, "--upload_existing", "--watchdog_lag_time", 0, *state
        ) as watch,
        script("DataFileDownloadDirectory", place.output, "--consumer_group_id", "create_new") as receive,
    ):
        watch.until_event("file_sent", path="sub/second.dat")
        receive.until(lambda: tree(place.output) == tree(place.watched), "everything arrived")
        assert watch.quit() == OK
        assert receive.quit() == OK


def test_upload_sends_one_file_under_its_own_name_and_says_when_it_is_there(place: Place) -> None:
    """``openmsistream upload``: exit code 0 only when the broker has all of it."""
    fill(place.watched, {"sub/scan 1.dat": 700_000})
    with plain("upload", place.watched / "sub/scan 1.dat", *words(place)) as upload:
        assert upload.wait() == OK
    assert "sent: scan 1.dat (700.0 kB" in upload.stdout

    place.fetch()
    assert tree(place.output) == tree(place.watched / "sub")
