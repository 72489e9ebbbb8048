"""The command that is run for each delivered file (``--on-delivered``)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from openmsistream.adapters.filesystem.rules import DeliveryRules, Existing
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.hook import AHEAD, DeliveredHook, HookSettings, refuse_batch_file
from openmsistream.core.events import Event, FileDelivered, Note
from openmsistream.errors import ConfigError
from tests.faults.support import eventually
from tests.integration.delivered import version, write

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions and owners")


TELLS = """
import json, os, sys
with open(sys.argv[1], "a", encoding="utf-8") as file:
    names = ("OMS_PATH", "OMS_RELATIVE_PATH", "OMS_SIZE", "OMS_DIGEST", "OMS_TOPIC")
    file.write(json.dumps({"arguments": sys.argv[2:], **{name: os.environ[name] for name in names}}) + "\\n")
"""
WAITS = """
import os, sys, time
open(sys.argv[1], "a").write(sys.argv[3] + "\\n")
while not os.path.exists(sys.argv[2]): time.sleep(.01)
"""


def hook_of(
    words: list[str], journal: Path, told: Callable[[Event], None] = lambda _: None, **more: object
) -> DeliveredHook:
    settings = HookSettings(words, "xrd", retry_seconds=0.01)
    return DeliveredHook(replace(settings, **more), journal, told)  # type: ignore[arg-type]


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


def delivered(root: Path, name: str = "a.csv", data: bytes = b"data") -> FileDelivered:
    (root / name).write_bytes(data)
    return FileDelivered(name, len(data), 0.1, blake3(data).hexdigest(), str(root / name))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_the_command_gets_the_file_as_arguments_and_environment_and_no_shell_sees_it(root: Path, tmp_path: Path):
    """Placeholders anywhere in a word; whatever a file is called."""
    name = "a b;touch $(x) 'µ'.csv"
    log = tmp_path / "log"
    hook = hook_of(python(TELLS, log, "{path}", "n={name}:{size}", "{digest}", "{other}"), tmp_path / "j.sqlite")
    event = delivered(root, name)
    hook.take(event)
    hook.close(drain=lambda: True)

    (line,) = lines(log)
    assert json.loads(line) == {
        "arguments": [event.file, f"n={name}:4", event.digest, "{other}"],
        "OMS_PATH": event.file,
        "OMS_RELATIVE_PATH": name,
        "OMS_SIZE": "4",
        "OMS_DIGEST": event.digest,
        "OMS_TOPIC": "xrd",
    }


def test_a_command_that_fails_is_told_tried_again_and_given_up(root: Path, tmp_path: Path):
    """With exit code and the last line it said; the other files' calls are made."""
    told: list[Event] = []
    code = "import sys; print('first', 'last', sep='\\n', file=sys.stderr) or sys.exit(3 * ('bad' in sys.argv[1]))"
    hook = hook_of(python(code, "{name}"), tmp_path / "j.sqlite", told.append)
    hook.take(delivered(root, "bad.csv"))
    hook.take(delivered(root, "good.csv"))
    hook.close(drain=lambda: True)

    texts = [event.text for event in told if isinstance(event, Note)]
    assert texts == [
        f"bad.csv: the command of --on-delivered ended with exit code 3: last ({what})"
        for what in ("try 1 of 3", "try 2 of 3", "it is not tried again")
    ]
    again = hook_of(python(code, "{name}"), tmp_path / "j.sqlite", told.append)
    again.recover(lambda _: "")
    again.close(drain=lambda: True)
    assert len(told) == 3


def test_a_command_that_works_at_the_second_try_is_done(root: Path, tmp_path: Path):
    """Nothing more is said then."""
    told: list[Event] = []
    code = "import os, sys; os.path.exists(sys.argv[1]) or (open(sys.argv[1], 'w').close(), sys.exit(1))"
    hook = hook_of(python(code, tmp_path / "been here"), tmp_path / "j.sqlite", told.append)
    hook.take(delivered(root))
    hook.close(drain=lambda: True)
    assert len(told) == 1


@posix
def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(root: Path, tmp_path: Path):
    """Also a program that it left behind."""
    told: list[Event] = []
    pid = tmp_path / "pid"
    words = ["sh", "-c", f"sleep 600 & echo $! > '{pid}'; wait"]
    hook = hook_of(words, tmp_path / "j.sqlite", told.append, seconds=0.5, tries=1)
    hook.take(delivered(root))
    hook.close(drain=lambda: True)
    (note,) = told
    assert isinstance(note, Note)
    assert "took longer than 0.5 s and was ended" in note.text
    child = Path("/proc") / pid.read_text().strip() / "stat"
    if sys.platform == "linux":
        eventually(lambda: not child.exists() or child.read_text().split()[2] == "Z", "the child ended")


def test_no_more_commands_run_at_once_than_allowed_and_the_loop_never_waits(root: Path, tmp_path: Path):
    """However many files come; all calls are made."""
    log = tmp_path / "log"
    code = "import sys, time; f = open(sys.argv[1], 'a'); f.write('+\\n'); f.flush(); time.sleep(.05); f.write('-\\n')"
    hook = hook_of(python(code, log), tmp_path / "j.sqlite", parallel=2)
    for number in range(12):
        hook.take(delivered(root, f"{number}.csv"))
    hook.turn()
    assert len(lines(log)) < 24
    hook.close(drain=lambda: True)

    running, most = 0, 0
    for line in lines(log):
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert (len(lines(log)), running) == (24, 0)
    assert 1 <= most <= 2


def test_calls_that_a_stop_leaves_over_are_made_at_the_next_start(root: Path, tmp_path: Path):
    """At least once: what ran when it was ended runs again, unless its file is gone by then."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    words = python(WAITS, log, gate, "{name}")
    hook = hook_of(words, tmp_path / "j.sqlite", parallel=1, shutdown_seconds=0.1)
    for name in ("a", "b", "c"):
        hook.take(delivered(root, name))
    eventually(lambda: hook.turn() or lines(log) == ["a"], "the first runs")
    hook.close(drain=lambda: False)
    (root / "b").unlink()

    gate.touch()
    told: list[Event] = []
    again = hook_of(words, tmp_path / "j.sqlite", told.append, parallel=1)
    again.recover(lambda _: "")
    again.close(drain=lambda: True)
    assert lines(log) == ["a", "a", "c"]
    assert [event.text for event in told if isinstance(event, Note)] == [
        "--on-delivered: 2 calls of an earlier run are made now"
    ]


def test_a_file_that_was_replaced_or_moved_away_before_its_turn_is_passed_over(root: Path, tmp_path: Path):
    """Its path would be that of other bytes than its digest is of."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    hook = hook_of(python(WAITS, log, gate, "{name} {size}"), tmp_path / "j.sqlite", parallel=1)
    hook.take(delivered(root, "first"))
    eventually(lambda: hook.turn() or lines(log) == ["first 4"], "the first runs")
    for event in (delivered(root, "a", b"1"), delivered(root, "a", b"22"), delivered(root, "gone")):
        hook.take(event)
        hook.turn()
    (root / "gone").unlink()
    gate.touch()
    hook.close(drain=lambda: True)
    assert lines(log) == ["first 4", "a 2"]


def test_commands_that_fail_do_not_keep_those_of_other_files_waiting(root: Path, tmp_path: Path):
    """More than may run ahead wait for their next try, for long."""
    log = tmp_path / "log"
    code = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n'); sys.exit(sys.argv[2].startswith('bad'))"
    words = python(code, log, "{name}")
    hook = hook_of(words, tmp_path / "j.sqlite", parallel=1, tries=100, retry_seconds=50.0)
    for number in range(AHEAD + 2):
        hook.take(delivered(root, f"bad {number}"))
    hook.take(delivered(root, "good"))
    eventually(lambda: hook.turn() or "good" in lines(log), "the good one runs")
    hook.close(drain=lambda: False)


def test_a_name_is_never_an_option_nor_given_to_a_shell(root: Path, tmp_path: Path):
    """A batch file is run by one on Windows."""
    log = tmp_path / "log"
    hook = hook_of(python(TELLS, log, "{name}", "n={name}"), tmp_path / "j.sqlite")
    hook.take(delivered(root, "--delete"))
    hook.close(drain=lambda: True)
    assert json.loads(lines(log)[0])["arguments"] == ["./--delete", "n=--delete"]

    for word in ("{path}", "x={name}"):
        with pytest.raises(ConfigError, match="batch file"):
            refuse_batch_file(r"C:\lab\Reduce.BAT", ["reduce", word])
    refuse_batch_file(r"C:\lab\reduce.bat", ["reduce", "{size}"])
    refuse_batch_file(r"C:\lab\reduce.exe", ["reduce", "{path}"])


@pytest.mark.parametrize("mode", list(Existing))
def test_no_call_is_lost_when_a_kill_comes_right_after_a_file_got_its_name(root: Path, tmp_path: Path, mode: Existing):
    """It was announced before, and at the next start its bytes show that it stands; what does not is forgotten."""
    log = tmp_path / "log"
    words = python(TELLS, log)
    hook = hook_of(words, tmp_path / "j.sqlite")
    sink = FolderSink(root, rules=DeliveryRules(existing=mode), announce=hook.announce)
    old, new, refused = version("a", b"old!"), version("b", b"new!", 2), version("nul", b"never", 3)
    assert list(sink.publish(write(sink, old, new, refused))) == [refused[0].key]
    sink.close()
    hook.close(drain=lambda: True)
    assert lines(log) == []

    hook = hook_of(words, tmp_path / "j.sqlite")
    sink = FolderSink(root, rules=DeliveryRules(existing=mode))
    hook.recover(lambda each: sink.standing(each, each.hash_name, each.digest))
    sink.close()
    hook.close(drain=lambda: True)
    assert sorted(json.loads(line)["OMS_PATH"] for line in lines(log)) == [str(root / "a"), str(root / "b")]


def test_a_program_that_is_not_there_is_an_error_at_the_start(tmp_path: Path):
    """And not one for each file."""
    with pytest.raises(ConfigError, match="'no-such-program-here' is no program"):
        hook_of(["no-such-program-here", "{path}"], tmp_path / "j.sqlite")
