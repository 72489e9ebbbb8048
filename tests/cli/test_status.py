"""``openmsistream status`` and ``openmsistream why``, as a user types them, while programs run and when they do not."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.core.events import Event
from openmsistream.core.settle import Stat
from openmsistream.local.broker import LocalBroker
from openmsistream.ports import Failed, Parked
from tests.conftest import MakeTopic
from tests.faults.support import Place, environment, eventually, fill
from tests.faults.typed import OK, one_error, run

NOW = 1_700_000_000_000_000_000
DIGEST = b"\xd1" * 32
NOT_UNICODE = b"caf\xe9.dat".decode("utf-8", "surrogateescape")
HOSTILE = "red\x1b[31m\nline.dat"

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")


def ignore(event: Event) -> None:
    """Nobody listens."""


class Lab:
    """A watched folder, and the ledger of its program as that program would have it."""

    def __init__(self, base: Path) -> None:
        self.watched, self.state = base / "watched", base / "state"
        self.watched.mkdir()
        self.options: dict[str, object] = {"exclude": ["*.bak"], "symlinks": "skip", "scan_seconds": 30.0}

    def open(self, topic: str = "xrd") -> SqliteUploadLedger:
        about = {
            "kind": "upload",
            "root": str(self.watched),
            "topic": topic,
            "cluster_id": "c",
            "options": json.dumps(self.options),
        }
        path = self.state / f"upload-{topic}-0123456789abcdef.sqlite"
        return SqliteUploadLedger(path, os.urandom, about=about, events=ignore)

    def file(self, name: str, size: int = 10) -> Stat:
        path = self.watched / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(size))
        found = path.stat()
        return Stat(found.st_size, found.st_mtime_ns)

    def status(self, *words: object) -> subprocess.CompletedProcess[str]:
        return run("status", *words, "--state-dir", self.state)

    def json(self, *words: object) -> dict[str, Any]:
        done = self.status("--json", *words)
        assert done.returncode == OK, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def why(self, name: str | Path, *words: object) -> subprocess.CompletedProcess[str]:
        return run("why", self.watched / name, *words, "--state-dir", self.state)


def live(**more: object) -> str:
    return json.dumps({"at_ns": NOW, "pid": os.getpid(), "started_ns": NOW, "stopped_ns": None, **more})


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def busy(lab: Lab) -> Iterator[SqliteUploadLedger]:
    """A program that runs, in the middle of its work."""
    ledger = lab.open()
    ledger.record_sent("done.dat", lab.file("done.dat"), b"V" * 16, 1, DIGEST, NOW, "closed, unchanged for 1 s")
    ledger.record_existing("old.dat", lab.file("old.dat"))
    ledger.record_failed(Failed("locked.dat", "locked.dat: no right to read it", 3, NOW))
    ledger.record_open(Parked("big.dat", b"V" * 16, 5, Stat(1000, 1), 100, 0, 7, 450, b"P" * 32, NOW))
    ledger.record_live(
        live(
            waiting=2,
            queued=4,
            active=[["big.dat", 500, 1000]],
            sending_growing=[["growing.dat", 300]],
            rate_bytes_per_second=2_500_000,
            oldest_waiting_seconds=7.5,
            settling=[["new.dat", NOW, ["12 bytes, changed 2 times while it waited"], "3 s without a change"]],
            rules="auto",
        )
    )
    ledger.commit()
    yield ledger
    ledger.close()


# -- status -------------------------------------------------------------------------------------------------------


def test_nothing_known_is_an_error_with_a_way_on(lab: Lab) -> None:
    """Exit code 1, where it was looked for, and what to do."""
    done = lab.status()

    assert f"there is no ledger in {lab.state}" in one_error(done)
    assert "openmsistream watch FOLDER" in done.stderr


def test_a_running_program_is_shown_with_everything_under_way(lab: Lab, busy: SqliteUploadLedger) -> None:
    """What waits and for what, what is sent and how far, what failed and why; totals, rate and backlog."""
    found = lab.json()["folders"]

    assert len(found) == 1
    under_way = {each["path"]: each for each in found[0].pop("under_way")}
    assert {path: (each["state"], each["done"], each["size"]) for path, each in under_way.items()} == {
        "locked.dat": ("failed", 0, None),
        "big.dat": ("sending", 500, 1000),
        "growing.dat": ("sending", 300, None),
        "new.dat": ("settling", 0, 12),
    }
    assert under_way["locked.dat"]["reason"] == "locked.dat: no right to read it (3 tries)"
    assert under_way["new.dat"]["reason"].startswith("waits for 3 s without a change")
    assert found[0] == {
        "folder": str(lab.watched),
        "topic": "xrd",
        "cluster_id": "c",
        "ledger": str(lab.state / "upload-xrd-0123456789abcdef.sqlite"),
        "problem": "",
        "running": True,
        "pid": os.getpid(),
        "last_heard_of": None,
        "broker": None,
        "sent_files": 1,
        "sent_bytes": 10,
        "newest_sent_at": "2023-11-14T22:13:20.000+00:00",
        "existing_files": 1,
        "failed_files": 1,
        "waiting_files": 2,
        "queued_files": 4,
        "oldest_waiting_seconds": 7,
        "rate_bytes_per_second": 2_500_000,
    }


def test_people_get_the_same_in_words(lab: Lab, busy: SqliteUploadLedger) -> None:
    """Plain lines when nobody looks at a terminal."""
    done = lab.status(lab.watched)

    assert done.returncode == OK
    lines = done.stdout.splitlines()
    assert lines[0] == f"{lab.watched} -> topic xrd"
    assert lines[1].startswith(f"  runs      process {os.getpid()} since ")
    assert "  rate      2.5 MB/s" in lines
    assert "  backlog   4 complete and queued, 2 not complete yet; the oldest waits for 7 s" in lines
    assert any("sending 50 %" in line and "big.dat" in line for line in lines)
    assert not any("done.dat" in line for line in lines)
    assert any("done.dat" in line for line in lab.status("--all").stdout.splitlines())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_terminal_gets_a_table_in_which_names_are_no_markup(lab: Lab, busy: SqliteUploadLedger) -> None:
    """Brackets in names are names."""
    busy.record_failed(Failed("[bold]x[/bold].dat", "no rights", 1, NOW))
    busy.commit()
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "openmsistream", "status", "--state-dir", str(lab.state)]
    subprocess.run(command, stdout=theirs, env=environment(TERM="xterm", COLUMNS="150"), check=True, timeout=60)
    os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as screen:
        while b"new.dat" not in shown:
            shown += screen.read(65536)
    text = shown.decode()

    assert "[bold]x[/bold].dat" in text
    assert all(column in text for column in ("file", "state", "size", "since", "why"))


def test_a_stopped_program_is_shown_by_its_ledger_alone(lab: Lab, busy: SqliteUploadLedger) -> None:
    """What its last snapshot says is no longer so; what was begun is interrupted."""
    busy.record_live(live(stopped_ns=NOW + 5_000_000_000))
    busy.close()

    found = lab.json()["folders"][0]

    assert (found["running"], found["pid"], found["rate_bytes_per_second"]) == (False, None, 0)
    assert found["last_heard_of"] == "2023-11-14T22:13:25.000+00:00"
    assert [(each["path"], each["state"]) for each in found["under_way"]] == [
        ("locked.dat", "failed"),
        ("big.dat", "interrupted"),
    ]
    assert "stopped" in lab.status().stdout


def test_a_list_of_all_files_has_one_row_for_each(lab: Lab) -> None:
    """Whatever its state; a million of them are written as they are read (here 12,000)."""
    ledger = lab.open()
    for number in range(12_000):
        ledger.record_sent(f"run {number % 3}/{number}", Stat(number, 1), b"V" * 16, 1, DIGEST, NOW, "closed, quiet")
    ledger.record_failed(Failed("run 0/0", "locked", 1, NOW))
    ledger.commit()

    done = lab.status("--csv")

    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == len({row["path"] for row in rows}) == 12_000
    assert {row["path"]: row["state"] for row in rows}["run 0/0"] == "failed"
    assert rows[-1] == {
        "path": "run 2/9998",
        "state": "sent",
        "size": "9998",
        "at": "2023-11-14T22:13:20.000+00:00",
        "digest": DIGEST.hex(),
        "reason": "closed, quiet",
        "folder": str(lab.watched),
        "topic": "xrd",
    }
    assert len(lab.json("--all")["files"]) == 12_000
    ledger.close()


@linux
@pytest.mark.parametrize("words", [(), ("--all",), ("--csv",), ("--json", "--all")])
def test_names_cannot_break_a_line_or_command_the_terminal(lab: Lab, words: tuple[str, ...]) -> None:
    """Control characters and bytes that are not valid Unicode are escaped, in every form."""
    ledger = lab.open()
    for name in (HOSTILE, NOT_UNICODE):
        ledger.record_sent(f"sent {name}", Stat(1, 1), b"V" * 16, 1, DIGEST, NOW, "closed")
        ledger.record_failed(Failed(name, f"{name}: no rights", 1, NOW))
    ledger.commit()

    done = lab.status(*words)

    assert done.returncode == OK, done.stderr
    assert "\x1b" not in done.stdout
    assert r"red\x1b[31m\nline.dat" in done.stdout.replace(r"\\", "\\")
    assert r"caf\udce9.dat" in done.stdout.replace(r"\\", "\\")
    assert ledger.known(f"sent {HOSTILE}") is not None
    ledger.close()
    answer = lab.why(f"sent {HOSTILE}")
    assert answer.stdout.startswith(r"sent red\x1b[31m\nline.dat: sent")


def test_one_folder_or_one_topic_can_be_asked_for(lab: Lab, busy: SqliteUploadLedger) -> None:
    """One that is not known is answered with those that are."""
    other = lab.open("sem")
    assert [each["topic"] for each in lab.json()["folders"]] == ["sem", "xrd"]
    assert [each["topic"] for each in lab.json("--topic-name", "xrd")["folders"]] == ["xrd"]
    other.close()

    done = lab.status(lab.state)
    assert "no program watches this folder" in one_error(done)
    assert f"known folders are {lab.watched}" in done.stderr
    done = lab.status("--topic-name", "nmr")
    assert "no program has sent to the topic nmr" in one_error(done)
    assert "known topics are sem, xrd" in done.stderr


def test_the_folder_for_ledgers_comes_from_the_environment_or_a_config_file(lab: Lab, busy: SqliteUploadLedger) -> None:
    """As the programs have it."""
    config = lab.state.parent / "lab.config"
    config.write_text(f"[broker]\nbootstrap.servers = nowhere:1\n[upload]\nstate_dir = {lab.state}\n", encoding="utf-8")
    by_environment = run("status", "--json", env=environment(OPENMSISTREAM_STATE_DIR=str(lab.state)))
    by_config = run("status", "--json", "--config", config)
    assert json.loads(by_environment.stdout) == json.loads(by_config.stdout) == lab.json()


def test_a_damaged_ledger_is_told_and_the_others_are_shown(lab: Lab, busy: SqliteUploadLedger) -> None:
    """With exit code 1 when there is no other."""
    lab.open("sem").close()
    (lab.state / "upload-sem-0123456789abcdef.sqlite").write_bytes(b"no ledger" * 1000)

    first, second = lab.json()["folders"]

    assert "file is not a database" in first["problem"]
    assert (second["topic"], second["problem"]) == ("xrd", "")
    assert lab.status("--topic-name", "sem").returncode == 1


@pytest.mark.parametrize("words", [["status"], ["why", "x.dat"]])
def test_the_answer_does_not_wait_for_the_kafka_client(lab: Lab, busy: SqliteUploadLedger, words: list[str]) -> None:
    """It is never imported: both commands need no broker, and answer quickly."""
    words = [words[0], *(str(lab.watched / name) for name in words[1:]), "--state-dir", str(lab.state)]
    script = "import sys; from openmsistream.cli.main import main; main(sys.argv[1:])"
    check = "; print('slow' if {'confluent_kafka', 'rich', 'watchdog'} & set(sys.modules) else 'quick')"
    done = subprocess.run(
        [sys.executable, "-c", script + check, *words], capture_output=True, text=True, check=True, env=environment()
    )
    assert done.stdout.splitlines()[-1] == "quick"


# -- why ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [
        ("done.dat", "sent", ["2023-11-14", "digest " + DIGEST.hex(), "taken as complete  closed, unchanged for 1 s"]),
        ("old.dat", "existing", ["there before the first start", "--upload-existing"]),
        ("locked.dat", "failed", ["no right to read it; tried 3 times", "tried again within a minute"]),
        ("big.dat", "sending", ["50 % (500 of 1000 bytes acknowledged)"]),
        ("growing.dat", "sending", ["300 bytes acknowledged, while it is still being written"]),
        ("new.dat", "settling", ["waits for 3 s without a change (12 bytes, changed 2 times while it waited)"]),
        ("a.bak", "not selected", ["no: the pattern '*.bak' of exclude matches", "--exclude"]),
        (".hidden", "not selected", ["begins with a dot"]),
        ("there.dat", "not seen", ["10 bytes, changed", "being noticed", "every 30 s"]),
        ("gone.dat", "gone", ["it is not there", "sent before", "no"]),
        ("folder", "not selected", ["it is a folder"]),
        ("link.dat", "not selected", ["link.dat is a symbolic link, which is left out"]),
        ("linked/x.dat", "not selected", ["linked is a symbolic link, which is left out"]),
    ],
)
def test_why_says_what_was_seen_decided_and_what_it_waits_for(
    lab: Lab, busy: SqliteUploadLedger, name: str, verdict: str, words: list[str]
) -> None:
    """For every state a file can be in while the program runs."""
    lab.file("there.dat")
    lab.file("folder/x.dat")
    (lab.watched / "link.dat").symlink_to("there.dat")
    (lab.watched / "linked").symlink_to("folder")

    done = lab.why(name)

    assert done.returncode == OK, done.stderr
    assert done.stdout.splitlines()[0] == f"{name}: {verdict}"
    for each in words:
        assert each in done.stdout
    answer = json.loads(lab.why(name, "--json").stdout)["answers"][0]
    assert (answer["path"], answer["verdict"], answer["topic"]) == (name, verdict, "xrd")


def test_why_tells_a_file_that_changed_since_it_was_sent(lab: Lab, busy: SqliteUploadLedger) -> None:
    """And one that was only touched."""
    os.utime(lab.watched / "done.dat", ns=(1, 1))
    assert lab.why("done.dat").stdout.startswith("done.dat: touched since it was sent")
    lab.file("done.dat", 11)
    assert lab.why("done.dat").stdout.startswith("done.dat: changed since it was sent")


def test_why_says_that_no_program_runs(lab: Lab, busy: SqliteUploadLedger) -> None:
    """A killed one counts as stopped, whatever it said last."""
    lab.file("there.dat")
    busy.close()

    done = lab.why("there.dat")

    assert done.stdout.startswith("there.dat: not seen")
    assert "nothing is sent until openmsistream watch is started again" in done.stdout
    assert lab.why("big.dat").stdout.startswith("big.dat: interrupted")
    assert lab.why("new.dat").stdout.startswith("new.dat: gone")


def test_why_finds_the_folder_by_any_way_to_the_file(lab: Lab, busy: SqliteUploadLedger, tmp_path: Path) -> None:
    """A relative path, a path with .., a link to the watched folder."""
    (tmp_path / "by link").symlink_to(lab.watched)
    for path in ("watched/done.dat", "watched/../watched/done.dat", "by link/done.dat"):
        done = run("why", path, "--state-dir", lab.state, cwd=tmp_path)
        assert done.stdout.startswith("done.dat: sent"), done.stderr


def test_why_of_a_file_outside_every_watched_folder_names_those_that_are_known(
    lab: Lab, busy: SqliteUploadLedger
) -> None:
    """Also for the watched folder itself, which is no file."""
    for path in (lab.state / "x.dat", lab.watched):
        done = run("why", path, "--state-dir", lab.state)
        assert "it lies in no folder that a program watches" in one_error(done)
        assert f"known folders are {lab.watched}" in done.stderr


def two_sent(done: subprocess.CompletedProcess[str]) -> dict[str, Any] | None:
    """What is said of the one folder, once the ledger says that two files of it were sent."""
    said = json.loads(done.stdout)
    sent = [each for each in said["files"] if each["state"] == "sent"]
    return said["folders"][0] if len(sent) == 2 else None


def test_a_real_program_is_seen_while_it_runs_and_after_it_was_killed(
    broker: LocalBroker, topic: MakeTopic, tmp_path: Path
) -> None:
    """What it sent, and that it runs; then what it left, as its next start will find it."""
    place = Place(tmp_path, broker.bootstrap, topic())
    fill(place.watched, {"old.dat": 100, "run 1/new.dat": 2000})
    state = ("--state-dir", tmp_path / "state")

    with place.watch("--upload-existing") as program:
        program.until_event("file_sent", count=2)
        # The ledger may be a moment behind what was told.
        running = eventually(
            lambda: two_sent(run("status", place.watched, "--json", "--all", *state)), "both are known"
        )
        program.kill()
    stopped = json.loads(run("status", place.watched, "--json", "--all", *state).stdout)

    assert (running["running"], running["topic"]) == (True, place.topic)
    assert stopped["folders"][0]["running"] is False
    assert [(each["path"], each["state"], each["size"]) for each in stopped["files"]] == [
        ("old.dat", "sent", 100),
        ("run 1/new.dat", "sent", 2000),
    ]
    answer = run("why", place.watched / "run 1" / "new.dat", *state).stdout
    assert answer.startswith("run 1/new.dat: sent")
    assert "taken as complete" in answer
