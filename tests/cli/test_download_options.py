"""How ``download`` writes files: which ones, over what, under which names, with which rights, and what it runs then."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest
from blake3 import blake3

from openmsistream.core.chunk import Chunk, spans
from openmsistream.core.wire import v2
from openmsistream.local.broker import LocalBroker
from tests.conftest import MakeTopic
from tests.faults.records import produce
from tests.faults.support import Place, eventually, fill, tree
from tests.faults.typed import OK, one_error, one_usage_error, run
from tests.pipeline.material import version_id

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions and owners")
HOUR_AGO_NS = 3_600 * 10**9


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> Place:
    """Folders and a topic."""
    return Place(tmp_path, broker.bootstrap, topic())


def written(place: Place) -> set[str]:
    return {os.fsdecode(name) for name in tree(place.output)}


def send(place: Place, name: str, data: bytes) -> None:
    """One whole version of a file."""
    (place.watched / name).parent.mkdir(parents=True, exist_ok=True)
    (place.watched / name).write_bytes(data)
    place.send("--upload-existing")


# -- which files --------------------------------------------------------------------------------------------------


def test_patterns_choose_what_is_written_beside_the_regular_expression(place: Place) -> None:
    """All three count together."""
    fill(place.watched, {"a/scan.csv": 1, "a/scan.txt": 1, "a/test.csv": 1, "b/scan.csv": 1})
    place.send()
    place.fetch("--download-regex", "a/", "--include", "*.csv", "--exclude", "test*")
    assert written(place) == {"a/scan.csv"}


def growing(path: str, data: bytes, gen: int, name: str) -> list[tuple[bytes, bytes]]:
    """The records of a file that was streamed under a temporary name: only its last one says what it is called."""
    values = []
    for span in spans(len(data), 4):
        last = span.stop == len(data)
        values.append(
            v2.encode(
                Chunk(
                    version=version_id(gen),
                    path=path,
                    offset=span.start,
                    index=span.index,
                    payload=data[span.start : span.stop],
                    mtime_ns=gen,
                    size=len(data) if last else None,
                    last=last,
                    digest=blake3(data).digest() if last else None,
                    src=b"S" * 16,
                    gen=gen,
                    name=name if last else None,
                )
            )
        )
    return [(path.encode(), value) for value in values]


def test_a_file_streamed_under_a_temporary_name_is_chosen_by_its_final_one(place: Place) -> None:
    """Whatever the patterns say of the temporary one; nothing of what is not wanted stays behind."""
    produce(
        place.bootstrap,
        place.topic,
        growing("scan.csv.tmp", b"wanted data", 1, "scan.csv") + growing("notes.csv", b"unwanted data", 2, "notes.txt"),
    )
    receiver = place.fetch("--include", "*.csv")
    assert written(place) == {"scan.csv"}
    assert receiver.of("program_stopped")[0]["waiting"] == 0
    assert list((place.output / ".openmsistream" / "partial").rglob("*.part")) == []


# -- existing files and names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "contents"),
    [
        ("replace", {"mine.csv": b"sent", "scan.csv": b"second"}),
        ("keep-both", {"mine.csv": b"mine", "mine~.csv": b"sent", "scan.csv": b"first", "scan~.csv": b"second"}),
        ("never", {"mine.csv": b"mine", "scan.csv": b"first"}),
    ],
)
def test_an_existing_file_is_replaced_kept_beside_or_never_touched(
    place: Place, mode: str, contents: dict[str, bytes]
) -> None:
    """Whether it is the user's own or was delivered before; a new start changes nothing of it."""
    place.output.mkdir()
    (place.output / "mine.csv").write_bytes(b"mine")
    send(place, "scan.csv", b"first")
    send(place, "mine.csv", b"sent")
    send(place, "scan.csv", b"second")
    with place.download("--until-idle", 1, "--on-existing", mode) as receiver:
        code = receiver.wait()

    def found() -> dict[str, bytes]:
        names = {name: name for name in written(place)}
        short = {name.split("~")[0] + "~.csv" if "~" in name else name: name for name in names}
        assert len(short) == len(names)
        return {name: (place.output / full).read_bytes() for name, full in short.items()}

    assert found() == contents
    refused = sorted(receiver.paths("file_failed"))
    assert refused == (["mine.csv", "scan.csv"] if mode == "never" else [])
    assert (code == OK) is (mode != "never")
    kept = sorted(file.read_bytes() for file in (place.output / ".openmsistream" / "quarantine").glob("*.part"))
    assert kept == ([b"second", b"sent"] if mode == "never" else [])
    files = [event["file"] for event in receiver.of("file_delivered")]
    assert all(Path(file).is_file() for file in files)

    before = tree(place.output)
    again = place.fetch("--on-existing", mode)
    assert tree(place.output) == before
    assert again.of("file_delivered") == []


@posix
@pytest.mark.parametrize(("rule", "name"), [("keep", "scan 12:30.csv"), ("map", "scan 12%3A30.csv"), ("refuse", None)])
def test_names_that_windows_cannot_have_are_kept_mapped_or_refused(place: Place, rule: str, name: str | None) -> None:
    """The event says where the file stands."""
    fill(place.watched, {"scan 12:30.csv": 10, "plain.csv": 10})
    place.send()
    with place.download("--until-idle", 1, "--names", rule) as receiver:
        receiver.wait()
    assert written(place) == {"plain.csv"} | ({name} if name else set())
    if name is None:
        assert "Windows does not allow ':'" in receiver.of("quarantined")[0]["reason"]
    else:
        (event,) = receiver.of("file_delivered", path="scan 12:30.csv")
        assert event["file"] == str(place.output / name)


# -- rights, owner and time ---------------------------------------------------------------------------------------


@posix
def test_files_get_mode_time_and_group_as_typed(place: Place) -> None:
    """All of them before they have their names; the group is our own, which everybody may choose."""
    send(place, "run/scan.csv", b"data")
    source = place.watched / "run" / "scan.csv"
    mtime_ns = source.stat().st_mtime_ns - HOUR_AGO_NS
    os.utime(source, ns=(mtime_ns, mtime_ns))
    source.write_bytes(b"data!")
    os.utime(source, ns=(mtime_ns, mtime_ns))
    place.send()
    place.fetch("--keep-mtime", "--file-mode", "640", "--folder-mode", "750", "--owner", f":{os.getegid()}")

    file = place.output / "run" / "scan.csv"
    assert file.read_bytes() == b"data!"
    assert file.stat().st_mtime_ns == mtime_ns
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o750
    assert file.stat().st_gid == os.getegid()


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--file-mode", "rw-r--r--", "is not a mode as 640"),
        ("--file-mode", "4755", "is not a mode as 640"),
        ("--folder-mode", "300", "needs at least 700"),
        ("--folder-mode", "440", "needs at least 700"),
        ("--owner", "a:b:c", "is not an owner as lab, lab:xrd or :xrd"),
        ("--on-delivered", "echo 'x", "is not a command: no closing quotation"),
        ("--on-existing", "ask", "is not one of replace, keep-both, never"),
    ],
)
def test_a_value_that_cannot_be_is_a_mistake_in_the_command_line(tmp_path: Path, option: str, value: str, text: str):
    """One line that says what is allowed."""
    assert text in one_usage_error(run("download", tmp_path, option, value))


@posix
@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--owner", "nobody-of-that-name", "owner: this computer knows no user 'nobody-of-that-name'"),
        ("--on-delivered", "no-such-program {path}", "on_delivered: 'no-such-program' is no program"),
    ],
)
def test_what_this_computer_cannot_do_is_told_at_the_start(place: Place, option: str, value: str, text: str) -> None:
    """One line, and nothing is read."""
    words = ("--config", place.config, "--topic-name", place.topic, option, value)
    assert text in one_error(run("download", place.output, *words))


# -- the command for each file ------------------------------------------------------------------------------------


def test_a_command_runs_for_every_file_before_the_program_ends(place: Place, tmp_path: Path) -> None:
    """Also for names that a shell would trip over, and under the name that the file really has."""
    copies = tmp_path / "copies"
    copies.mkdir()
    fill(place.watched, {"a b;$(x).csv": 10, "run 12:30/it's.csv": 20, **{f"{n}.dat": 1_000 for n in range(20)}})
    place.send()
    code = "import os, shutil, sys; shutil.copy(sys.argv[1], os.path.join(sys.argv[2], os.environ['OMS_DIGEST']))"
    quoted = f'"{sys.executable}" -c "{code}" {{path}} "{copies}"'
    receiver = place.fetch("--names", "map", "--on-delivered", quoted)
    assert sorted(file.name for file in copies.iterdir()) == sorted(e["digest"] for e in receiver.of("file_delivered"))
    assert len(list(copies.iterdir())) == 22
    assert receiver.of("note") == []


def test_a_command_that_fails_costs_no_file_and_is_told(place: Place) -> None:
    """Files are delivered all the same."""
    fill(place.watched, {"a.csv": 10, "b.csv": 10})
    place.send()
    code = "import sys; sys.exit('disk of the archive is full')"
    receiver = place.fetch("--on-delivered", f'"{sys.executable}" -c "{code}"', "--on-delivered-tries", 1)
    assert written(place) == {"a.csv", "b.csv"}
    texts = sorted(event["text"] for event in receiver.of("note"))
    assert texts == [
        f"{name}: the command of --on-delivered ended with exit code 1: disk of the archive is full "
        "(it is not tried again)"
        for name in ("a.csv", "b.csv")
    ]


@pytest.mark.parametrize("moment", ["publish:after", "publish:before"])
def test_the_command_runs_for_files_whose_delivery_was_cut_off_by_a_kill(
    place: Place, tmp_path: Path, moment: str
) -> None:
    """Between the name and the ledger the program knows of nothing; the next start does."""
    log = tmp_path / "log"
    fill(place.watched, {"a.csv": 10, "b.csv": 20})
    place.send()
    code = "import sys; open(sys.argv[1], 'a').write(sys.argv[2] + '\\n')"
    command = f'"{sys.executable}" -c "{code}" \'{log}\' {{name}}'
    kill = f"openmsistream.adapters.filesystem.sink:FolderSink.{moment}:1"
    with place.download("--on-delivered", command, kill=kill) as receiver:
        receiver.wait()
    place.fetch("--on-delivered", command)
    assert tree(place.output) == tree(place.watched)
    assert sorted(log.read_text(encoding="utf-8").split()) == ["a.csv", "b.csv"]


def test_a_slow_command_keeps_no_file_waiting_and_q_ends_all(place: Place, tmp_path: Path) -> None:
    """What it was not run for yet is left to the next start."""
    gate = tmp_path / "gate"
    fill(place.watched, {f"{n}.csv": 10 for n in range(5)})
    place.send()
    code = "import os, sys, time\\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.01)"
    command = f"\"{sys.executable}\" -c \"exec('{code}')\" '{gate}'"
    with place.download("--on-delivered", command) as receiver:
        receiver.until_event("file_delivered", count=5)
        assert receiver.quit() == OK
    assert tree(place.output) == tree(place.watched)

    gate.touch()
    again = place.fetch("--on-delivered", command)
    assert [event["text"] for event in again.of("note")] == ["--on-delivered: 5 calls of an earlier run are made now"]


def test_files_come_in_again_when_somebody_empties_the_folder_of_partial_files(place: Place) -> None:
    """The folder is made again for what comes next."""
    with place.download() as receiver:
        receiver.until_event("program_started")
        partial = place.output / ".openmsistream" / "partial"
        eventually(partial.is_dir, "the work folder is there")
        shutil.rmtree(partial)
        fill(place.watched, {"a.csv": 10})
        place.send()
        receiver.until_event("file_delivered", path="a.csv")
        assert receiver.quit() == OK
