"""What a user gets who types something wrong: one clear line, what to try, the right exit code, never a traceback."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.topics import create_topic
from tests.conftest import MakeTopic
from tests.faults.records import produce
from tests.faults.support import Program, config, fill
from tests.faults.typed import (
    ERROR,
    OK,
    like_any_user,
    linux,
    nobody_answers,
    one_error,
    one_usage_error,
    run,
    start,
)

PASSWORD = "Sup3r-s3cret-pa55word"

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX names, rights and signals")


@dataclass(frozen=True)
class Slow:
    """Programs that take their time: started with the first test here, so that they do not keep later ones waiting."""

    address: str
    config: Path
    giving_up: list[Program]
    waiting: list[Program]
    signalled: Program
    with_password: tuple[Program, Path]
    closed_file: Program | None

    def until_it_waits(self, program: Program) -> None:
        """A program that runs for ever has said that its broker does not answer."""
        program.until(lambda: "does not answer, waiting" in program.stdout, "it says that it waits")


@pytest.fixture(scope="module", autouse=True)
def slow(tmp_path_factory: pytest.TempPathFactory, broker: LocalBroker) -> Iterator[Slow]:
    base = tmp_path_factory.mktemp("slow")
    data, log = base / "data", base / "all.log"
    fill(data, {"a.dat": 10, "closed.dat": 10, "z.dat": 10})
    (data / "closed.dat").chmod(0)
    assert create_topic(broker.bootstrap, "slow")
    with nobody_answers() as address, contextlib.ExitStack() as stack:
        away = config(base / "away", address)
        sasl = "security.protocol = SASL_PLAINTEXT\nsasl.mechanism = PLAIN\nsasl.username = lab\nsasl.password = "
        secret = config(base / "secret", address, broker=sasl + PASSWORD)
        levels = ("--logger-stream-level", "debug", "--logger-file-level", "debug", "--logger-file-path", log)

        def begin(*words: object, file: Path = away, **more: Any) -> Program:
            return stack.enter_context(start(*words, "--config", file, "--state-dir", base / "state", **more))

        closed = ("--once", "--watchdog-lag-time", 0, "--topic-name", "slow")
        yield Slow(
            address,
            away,
            giving_up=[
                begin("upload", data / "a.dat"),
                begin("watch", data, "--once"),
                begin("download", base / "out", "--until-idle", 1),
            ],
            waiting=[begin("watch", data), begin("download", base / "out")],
            signalled=begin("watch", data),
            with_password=(begin("watch", data, *levels, file=secret), log),
            closed_file=begin(
                "watch", data, *closed, file=config(base / "here", broker.bootstrap), preexec_fn=like_any_user
            )
            if sys.platform == "linux"
            else None,
        )


# -- the command line itself ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["watch", "missing folder"], "'missing folder' is not an existing folder"),
        (["watch", "data/scan.dat"], "'data/scan.dat' is a file, not a folder"),
        (["upload", "missing.dat"], "'missing.dat' is not an existing file"),
        (["upload", "data"], "'data' is a folder, not a file"),
        (["upload", "dangling"], "'dangling' is not an existing file"),
        (["download", "data/scan.dat"], "'data/scan.dat' is a file, not a folder"),
        (["watch", "data", "--chunk-size", "many"], "'many' is not a whole number"),
        (["watch", "data", "--upload-regex", "(("], "is not a regular expression"),
        (["watch", "data", "--topic-name", "a topic"], "'a topic'"),
        (["watch", "data", "--chunk-sise", "5"], "did you mean --chunk-size?"),
        (["watch"], "FOLDER"),
        (["wach", "data"], "wach"),
        ([], "COMMAND"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_the_command_line_is_answered_in_one_line(folder: Path, words: list[str], said: str) -> None:
    """It names the value and what is wrong with it, and the exit code is 2."""
    (folder.parent / "dangling").symlink_to("nowhere")

    assert said in one_usage_error(run(*words, cwd=folder.parent))


@pytest.mark.parametrize("script", ["DataFileUploadDirectory", "UploadDataFile", "DataFileDownloadDirectory"])
def test_the_scripts_of_1x_answer_a_mistake_under_their_own_name(script: str) -> None:
    """The line begins with the name that was typed."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(script)), "--chunk_sise", "5"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert one_usage_error(done).startswith(f"{script}: error: ")


# -- the config file --------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_config_file_that_is_not_there_is_named(folder: Path) -> None:
    """The name that was typed stands in the error."""
    assert "nowhere.config" in one_error(run("upload", folder / "scan.dat", "--config", "nowhere.config"))


@pytest.mark.parametrize(
    ("section", "line", "command"),
    [
        ("producer", "batch.sise = 1000", "upload"),
        ("producer", "batch.size = -7", "watch"),
        ("consumer", "session.timeout.mss = 1000", "download"),
        ("broker", "socket.timout.ms = 1000", "upload"),
        ("broker", "security.protocol = TELEGRAM", "download"),
    ],
)
def test_a_key_or_value_that_librdkafka_refuses_is_named_with_its_place(
    folder: Path, broker: LocalBroker, topic: MakeTopic, section: str, line: str, command: str
) -> None:
    """File, section, key and line, before anything is sent."""
    base = folder.parent
    heading = "" if section == "broker" else "[broker]\n"
    path = write(base / "typo.config", f"[{section}]\n\n{line}\n{heading}bootstrap.servers = {broker.bootstrap}\n")
    place = {"watch": folder, "upload": folder / "scan.dat", "download": base / "out"}[command]

    done = run(command, place, "--config", path, "--topic-name", topic(), "--state-dir", base / "state")

    assert f"{path} [{section}] {line.split(maxsplit=1)[0]} (line 3)" in one_error(done)


def test_a_missing_environment_variable_is_named(folder: Path, tmp_path: Path) -> None:
    """With the place that names it, and how to set it."""
    path = write(tmp_path / "env.config", "[broker]\nbootstrap.servers = $LAB_KAFKA_ADDRESS\n")

    done = run("watch", folder, "--config", path)

    assert f"{path} [broker] bootstrap.servers (line 2)" in one_error(done)
    assert "LAB_KAFKA_ADDRESS is not set" in done.stderr
    assert "export LAB_KAFKA_ADDRESS=" in done.stderr


def test_a_config_file_without_an_address_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    """``bootstrap.servers`` is named."""
    path = write(tmp_path / "empty.config", "[producer]\nacks = all\n")

    assert "bootstrap.servers" in one_error(run("upload", folder / "scan.dat", "--config", path))


# -- topic and broker --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["watch", "upload", "download"])
def test_a_topic_that_does_not_exist_is_named(folder: Path, lab: Path, command: str) -> None:
    """With the address that was asked, and what to try; nothing is made."""
    place = {"watch": folder, "upload": folder / "scan.dat", "download": folder.parent / "out"}[command]

    done = run(command, place, "--config", lab, "--topic-name", "no-such-topic", "--state-dir", folder.parent / "s")

    assert "topic 'no-such-topic' does not exist on 127.0.0.1:" in one_error(done)
    assert "create it first" in done.stderr


def test_a_compacted_topic_is_refused_with_the_command_that_changes_it(
    folder: Path, lab: Path, topic: MakeTopic
) -> None:
    """Kafka would remove parts of files from it."""
    name = topic(cleanup_policy="compact")

    done = run("upload", folder / "scan.dat", "--config", lab, "--topic-name", name)

    assert "cleanup.policy=compact" in one_error(done)
    assert "kafka-configs.sh" in done.stderr


def test_programs_that_run_for_ever_wait_for_their_broker_and_can_be_ended(slow: Slow) -> None:
    """They say once that they wait; ``q`` ends them within seconds, with an error that says why nothing was done."""
    for program in slow.waiting:
        slow.until_it_waits(program)
        assert program.quit(5) == ERROR
        assert program.stdout.count("does not answer") == 1
        (error, _) = program.stderr.splitlines()
        assert error.startswith(f"Error: no Kafka broker had answered at {slow.address} when")


@posix
def test_a_second_signal_ends_a_program_that_waits_for_its_broker_at_once(slow: Slow) -> None:
    """The exit code is that of the signal."""
    slow.until_it_waits(slow.signalled)
    slow.signalled.signal(signal.SIGINT)
    slow.signalled.signal(signal.SIGTERM)
    assert slow.signalled.wait(5) in {128 + signal.SIGTERM, 128 + signal.SIGINT}


def test_a_broker_that_dies_in_the_middle_makes_an_upload_end_with_a_reason(
    own_broker: LocalBroker, tmp_path: Path
) -> None:
    """``UploadDataFile`` ends with code 1 and says that the broker did not take everything; it never ends with 0."""
    assert create_topic(own_broker.bootstrap, "xrd")
    fill(tmp_path / "data", {"big.bin": 60_000_000})
    path = config(tmp_path, own_broker.bootstrap, producer="message.timeout.ms = 3000")
    script = str(Path(sys.executable).with_name("UploadDataFile"))
    words = ["--config", str(path), "--topic_name", "xrd", "--chunk_size", "16384", "--json"]
    with Program([script, str(tmp_path / "data/big.bin"), *words]) as upload:
        upload.until_event("file_progress")
        own_broker.kill()
        assert upload.wait() == ERROR

    lines = upload.stderr.splitlines()
    assert sum(line.startswith("Error: ") for line in lines) == 1
    assert len(lines) <= 2
    assert "xrd" in upload.stderr
    assert upload.of("file_sent") == []


# -- secrets ----------------------------------------------------------------------------------------------------


def test_a_password_is_shown_nowhere(slow: Slow) -> None:
    """Not on standard output or error, not in the log file, not in the list of processes, at any level."""
    program, log = slow.with_password
    slow.until_it_waits(program)
    seen = " ".join(psutil.Process(program.pid).cmdline())
    program.quit(5)

    assert "does not answer" in log.read_text("utf-8")
    for text in (program.stdout, program.stderr, log.read_text("utf-8"), seen):
        assert text
        assert PASSWORD not in text


def test_a_password_is_not_shown_by_an_error_about_its_own_line(folder: Path, tmp_path: Path) -> None:
    """A value with a lone percent sign, or a line that is no INI, is never repeated when it may be a secret."""
    refused = write(
        tmp_path / "one.config", f"[broker]\nbootstrap.servers = 127.0.0.1:1\nsasl.password = {PASSWORD}%\n"
    )
    broken = write(tmp_path / "two.config", f"[broker]\nsasl.password\n  {PASSWORD}\n{PASSWORD}\n")
    for path in (refused, broken):
        done = run("upload", folder / "scan.dat", "--config", path)
        assert PASSWORD not in one_error(done)
        assert PASSWORD not in done.stderr + done.stdout


def test_a_pipe_that_nobody_reads_any_more_ends_a_program_quietly(folder: Path, lab: Path, topic: MakeTopic) -> None:
    """``openmsistream watch ... | head -1``: no traceback when the reader is gone."""
    name = topic()
    words = ("watch", folder, "--config", lab, "--topic-name", name, "--json", "--upload-existing")
    state = ("--state-dir", folder.parent / "state", "--watchdog-lag-time", 0, "--scan-seconds", 0.2)
    with start(*words, *state) as program:
        program.until_event("program_started")
        program.stop_reading()
        fill(folder, {f"{n}.dat": 10 for n in range(20)})
        assert program.wait() == ERROR
    assert program.stderr == ""


def test_garbage_on_the_topic_is_told_and_does_not_change_the_exit_code(
    tmp_path: Path, lab: Path, topic: MakeTopic, broker: LocalBroker
) -> None:
    """A record that is no file is put aside, with a line that says where it came from."""
    name = topic()
    produce(broker.bootstrap, name, [(None, b"not a file")])

    done = run("download", tmp_path / "out", "--config", lab, "--topic-name", name, "--until-idle", 1)

    assert done.returncode == OK
    assert f"put into quarantine: topic {name}, partition 0, offset 0: record is not a file chunk" in done.stdout


# -- what takes long, at the end --------------------------------------------------------------------------------


def test_programs_that_end_by_themselves_give_up_when_no_broker_answers(slow: Slow) -> None:
    """After half a minute, with the address and the place in the config file where it stands."""
    for program in slow.giving_up:
        assert program.wait() == ERROR
        error, hint = program.stderr.splitlines()
        assert error.startswith(f"Error: no Kafka broker answers at {slow.address}")
        assert f"{slow.config} [broker] bootstrap.servers" in hint
        assert program.stdout.count("does not answer") == 1


@linux
def test_files_that_cannot_be_read_do_not_keep_once_from_ending(slow: Slow) -> None:
    """``--once`` sends the rest, tries again, names the file, and ends with a non-zero code."""
    program = slow.closed_file
    assert program is not None
    assert program.wait() == ERROR
    assert "sent: a.dat" in program.stdout
    assert "sent: z.dat" in program.stdout
    assert "closed.dat: it cannot be read: Permission denied" in program.stdout
    assert "2 files sent" in program.lines[-1]
    assert "1 failed" in program.lines[-1]
