"""When ``watch`` takes a file to be complete, which files it takes, and how it does so, as a user types it.

What must not happen is shown by what happens instead: a file that waits is still waiting, as ``why`` says, when
another one that was written later has been sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from openmsistream.local.broker import LocalBroker
from tests.conftest import MakeTopic
from tests.faults.records import raw_records
from tests.faults.support import Place, Program, eventually, fill, program, tree
from tests.faults.typed import OK, UNFINISHED, like_any_user, one_error, run

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a close, and who has a file open")
as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts something, which only root may do"
)
NEVER = 86_400
"""A quiet time in seconds that no test waits for: what goes all the same goes by other evidence."""
HOLDER = """
import sys
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(b"half")
    print("open", flush=True)
    input()
    file.write(b" whole")
"""


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> Place:
    """Folders and a topic with 3 partitions."""
    return Place(tmp_path, broker.bootstrap, topic(partitions=3))


def typed(place: Place, *options: object) -> list[object]:
    """The command with nothing but what it needs: all else is as it is by default."""
    needed = ("--config", place.config, "--topic-name", place.topic, "--state-dir", place.base / "state")
    return ["watch", place.watched, *needed, *options]


@contextmanager
def watching(place: Place, *options: object, code: int = OK, **more: Any) -> Iterator[Program]:
    """A program that has looked through its folder and runs; it ends with ``code`` when the test went well."""
    with program(*typed(place, *options), **more) as watcher:
        watcher.until_event("scan_done")
        yield watcher
        assert watcher.quit() == code


def why(place: Place, name: str) -> dict[str, Any]:
    """The answer of ``openmsistream why`` for a file of the watched folder."""
    done = run("why", place.watched / name, "--state-dir", place.base / "state", "--json")
    assert done.returncode == OK, done.stderr
    (answer,) = json.loads(done.stdout)["answers"]
    return {"verdict": answer["verdict"], "text": " | ".join(answer["found"].values())}


def until_it_waits(place: Place, name: str, reason: str) -> None:
    """Return when ``why`` says that the file waits, and for what."""
    eventually(lambda: reason in why(place, name)["text"], f"{name} waits: {reason}")
    assert why(place, name)["verdict"] == "settling"


# -- when a file is complete ----------------------------------------------------------------------------------------


@linux
def test_a_closed_file_goes_by_itself_and_says_so(place: Place) -> None:
    """With nothing chosen but a quiet time that would keep it for a day, had its close not been seen."""
    with watching(place, "--watchdog-lag-time", NEVER) as watcher:
        (place.watched / "scan.dat").write_bytes(b"whole")
        watcher.until_event("file_sent", path="scan.dat")
    answer = why(place, "scan.dat")
    assert answer["verdict"] == "sent"
    assert "closed, unchanged for 1 s, no program writes to it" in answer["text"]


@linux
def test_settle_close_sends_a_closed_file_at_once(place: Place) -> None:
    """However long the quiet times are."""
    with watching(place, "--settle", "close", "--watchdog-lag-time", NEVER, "--closed-lag-time", NEVER) as watcher:
        (place.watched / "scan.dat").write_bytes(b"whole")
        watcher.until_event("file_sent", path="scan.dat")


@linux
def test_settle_quiet_goes_by_the_quiet_time_alone(place: Place) -> None:
    """A file that is held open by a program that never closes its files is sent all the same."""
    with watching(place, "--settle", "quiet", "--watchdog-lag-time", 0.5) as watcher, holding(place, "scan.dat"):
        watcher.until_event("file_sent", path="scan.dat")
    assert "unchanged for 0.5 s" in why(place, "scan.dat")["text"]


@contextmanager
def holding(place: Place, name: str) -> Iterator[Program]:
    """Another program that has the file open for writing until a line is typed."""
    with Program([sys.executable, "-c", HOLDER, str(place.watched / name)]) as holder:
        holder.until(lambda: "open\n" in holder.lines, "it has the file open")
        yield holder


@linux
def test_a_file_that_another_program_has_open_waits_for_its_close(place: Place) -> None:
    """It says so when asked; files written later pass it; then it goes, whole, and only once."""
    with (
        watching(place, "--watchdog-lag-time", 0.2, "--closed-lag-time", 0.2) as watcher,
        holding(place, "scan.dat") as holder,
    ):
        until_it_waits(place, "scan.dat", "a program still holds it open for writing")
        (place.watched / "later.dat").write_bytes(b"later")
        watcher.until_event("file_sent", path="later.dat")
        assert watcher.of("file_sent", path="scan.dat") == []
        holder.type("go on")
        assert watcher.until_event("file_sent", path="scan.dat")["size"] == len(b"half whole")
    assert watcher.paths("file_sent") == ["later.dat", "scan.dat"]


@linux
def test_no_check_writers_does_not_wait_for_a_close(place: Place) -> None:
    """For software that keeps its files open until it is switched off."""
    with (
        watching(place, "--no-check-writers", "--watchdog-lag-time", 0.5) as watcher,
        holding(place, "scan.dat"),
    ):
        watcher.until_event("file_sent", path="scan.dat")


@linux
def test_max_wait_ends_the_waiting_and_says_what_was_doubtful(place: Place) -> None:
    """A file held open, and one that keeps its temporary name, go with a note each."""
    options = ("--max-wait", "1.5s", "--watchdog-lag-time", 0.2, "--closed-lag-time", 0.2)
    with watching(place, *options) as watcher, holding(place, "held.dat"):
        (place.watched / "scan.tmp").write_bytes(b"left")
        watcher.until_event("file_sent", path="held.dat")
        watcher.until_event("file_sent", path="scan.tmp")
    notes = [event["text"] for event in watcher.of("note")]
    assert "held.dat: a program still holds it open for writing" in notes
    assert "scan.tmp: its name is still a temporary one" in notes


@pytest.mark.parametrize(
    ("marker", "name", "its_marker"),
    [
        ("", "run/scan.dat", "run/scan.dat.done"),
        ("{stem}.ok", "run/scan.dat", "run/scan.ok"),
        ("READY", "run/scan.dat", "run/READY"),
    ],
    ids=["of its name", "of its stem", "of its folder"],
)
def test_settle_marker_waits_for_the_marker_and_never_sends_it(
    place: Place, marker: str, name: str, its_marker: str
) -> None:
    """A file whose marker is there passes; a marker in another folder does not count."""
    words = ("--settle", "marker", "--watchdog-lag-time", 0.2, "--closed-lag-time", 0.2)
    markers = {f"other/{Path(its_marker).name}": 0}
    fill(place.watched, {"other/keep": 1, "run/keep": 1})  # recorded as being there before
    with watching(place, *words, *(("--marker", marker) if marker else ())) as watcher:
        fill(place.watched, {name: 1000, f"other/{Path(name).name}": 10} | markers)
        watcher.until_event("file_sent", path=f"other/{Path(name).name}")
        until_it_waits(place, name, f"its marker file {its_marker} is not there")
        assert watcher.of("file_sent", path=name) == []
        fill(place.watched, {its_marker: 0})
        watcher.until_event("file_sent", path=name)
    sent = set(watcher.paths("file_sent"))
    assert {path for path in sent if Path(path).name == Path(its_marker).name} == set()
    assert its_marker in why(place, name)["text"]


@pytest.mark.parametrize("temporary", ["scan.dat.part", "~scan.dat", "scan.dat.TMP", ".scan.dat.a1B2c3"])
def test_a_file_with_a_temporary_name_waits_for_its_final_one(place: Place, temporary: str) -> None:
    """Files written later pass it; it is sent once, under the final name."""
    with watching(place, "--watchdog-lag-time", 0.3, "--closed-lag-time", 0.3) as watcher:
        (place.watched / temporary).write_bytes(b"whole")
        (place.watched / "later.dat").write_bytes(b"later")
        watcher.until_event("file_sent", path="later.dat")
        (place.watched / temporary).rename(place.watched / "scan.dat")
        watcher.until_event("file_sent", path="scan.dat")
    assert watcher.paths("file_sent") == ["later.dat", "scan.dat"]
    if sys.platform == "linux":
        assert f"renamed from {temporary}" in why(place, "scan.dat")["text"]


def test_temporary_names_of_ones_own_replace_the_usual_ones(place: Place) -> None:
    """*.tmp is data then, and *.new waits."""
    with watching(place, "--temporary-names", "*.new", "--watchdog-lag-time", 0.3) as watcher:
        (place.watched / "scan.new").write_bytes(b"not yet")
        (place.watched / "data.tmp").write_bytes(b"data")
        watcher.until_event("file_sent", path="data.tmp")
        (place.watched / "scan.new").rename(place.watched / "scan.dat")
        watcher.until_event("file_sent", path="scan.dat")
    assert watcher.paths("file_sent") == ["data.tmp", "scan.dat"]


@linux
def test_sections_of_the_config_file_choose_by_pattern(place: Place) -> None:
    """[watch *.raw] goes by its marker, [watch scope/**] at its close, and the rest by [watch]: not today."""
    (place.watched / "scope").mkdir()
    with place.config.open("a", encoding="utf-8") as file:
        file.write(
            f"\n[watch]\nquiet_seconds = {NEVER}\nclosed_seconds = {NEVER}\n"
            "[watch *.raw]\nsettle = marker\nclosed_seconds = 0.2\nquiet_seconds = 0.2\n"
            "[watch scope/**]\nsettle = close\n"
        )
    with watching(place, code=UNFINISHED) as watcher:  # scan.dat still waits
        for name in ("scan.raw", "scan.dat", "scope/trace.dat"):
            (place.watched / name).write_bytes(b"whole")
        watcher.until_event("file_sent", path="scope/trace.dat")
        until_it_waits(place, "scan.raw", "its marker file scan.raw.done is not there")
        until_it_waits(place, "scan.dat", f"{NEVER} s without a change")
        fill(place.watched, {"scan.raw.done": 0})
        watcher.until_event("file_sent", path="scan.raw")
    assert watcher.paths("file_sent") == ["scope/trace.dat", "scan.raw"]


def test_streaming_growing_files_in_the_format_of_1x_is_an_error(place: Place) -> None:
    """Told at the start, with the line of the config file to change."""
    place.configure(producer="value.serializer = DataFileChunkSerializer")
    done = run(*typed(place, "--stream-growing"))
    assert "--stream_growing cannot be used with the wire format of" in one_error(done)
    assert "value.serializer = DataFileChunkV2Serializer" in done.stderr


# -- which files ----------------------------------------------------------------------------------------------------


def test_patterns_choose_what_is_sent(place: Place) -> None:
    """As in a .gitignore, also for files that come later; the option is repeated."""
    quick = ("--watchdog-lag-time", 0.1, "--upload-existing")
    chosen = ("--include", "*.h5", "--include", "raw/**", "--exclude", "thumbnails/", "--exclude", "test*")
    sent = {"a.h5": 1, "run/b.h5": 1, "raw/c.txt": 1, "raw/deep/d.dat": 1}
    left = {"a.txt": 1, "thumbnails/e.h5": 1, "raw/thumbnails/f.h5": 1, "test 1.h5": 1, "raw/testing.dat": 1}
    fill(place.watched, sent | left)
    with watching(place, *quick, *chosen) as watcher:
        later = {f"later/{name}": 1 for name in ("a.txt", "test.h5", "a.h5")}
        fill(place.watched, later)
        watcher.until_event("file_sent", path="later/a.h5")
        watcher.until(lambda: len(watcher.of("file_sent")) > len(sent), "those that were there are sent")
    assert set(watcher.paths("file_sent")) == {*sent, "later/a.h5"}
    assert set(watcher.paths("file_skipped")) >= left.keys()


def test_two_programs_that_share_a_folder_send_every_file_exactly_once(place: Place) -> None:
    """What was there, and what comes; each its own part, with a ledger of its own."""
    files = {f"run {n % 3}/{n}.dat": n for n in range(60)}
    quick = ("--watchdog-lag-time", 0.1, "--upload-existing")
    fill(place.watched, dict(list(files.items())[:30]))
    with (
        watching(place, *quick, "--share", "1/2") as first,
        watching(place, *quick, "--share", "2/2") as second,
    ):
        fill(place.watched, dict(list(files.items())[30:]))
        eventually(lambda: len(first.of("file_sent") + second.of("file_sent")) >= 60, "all files are sent")
    one, other = first.paths("file_sent"), second.paths("file_sent")
    assert sorted(one + other) == sorted(files)
    assert one
    assert other
    place.fetch()
    assert tree(place.output) == tree(place.watched)


def test_two_programs_with_the_same_share_are_refused(place: Place) -> None:
    """The second one says what is wrong and ends."""
    with watching(place, "--share", "1/2"):
        done = run(*typed(place, "--share", "1/2"))
        assert "an uploader of this folder to this topic is running already" in one_error(done)


@pytest.mark.parametrize(("first", "second"), [(("--share", "1/2"), ()), ((), ("--share", "1/2"))])
@pytest.mark.parametrize("thirds", [False, True])
def test_programs_whose_parts_overlap_are_refused(
    place: Place, first: tuple[str, ...], second: tuple[str, ...], thirds: bool
) -> None:
    """One that sends everything and one that sends a part, or parts of different wholes: files would be sent twice."""
    if thirds:
        first, second = first or ("--share", "3/3"), second or ("--share", "3/3")
    with watching(place, *first):
        done = run(*typed(place, *second))
        assert "sends files that are this one's part, too" in one_error(done)


@pytest.mark.parametrize("policy", ["skip", "follow"])
def test_symbolic_links_are_left_out_or_followed_within_the_folder(place: Place, policy: str) -> None:
    """To files and folders, there at the start or made later; never out of the folder, and a circle ends."""
    outside = place.base / "outside"
    fill(outside, {"secret.dat": 10})
    fill(place.watched, {"real/a.dat": 10})
    (place.watched / "file link.dat").symlink_to("real/a.dat")
    (place.watched / "folder link").symlink_to("real")
    (place.watched / "real" / "circle").symlink_to("..")
    (place.watched / "way out").symlink_to(outside)
    (place.watched / "secret link.dat").symlink_to(outside / "secret.dat")
    quick = ("--watchdog-lag-time", 0.1, "--upload-existing", "--scan-seconds", 0.5)
    followed = {"file link.dat", "folder link/a.dat", "later link.dat"} if policy == "follow" else set()

    with watching(place, *quick, "--symlinks", policy) as watcher:
        (place.watched / "later link.dat").symlink_to("real/a.dat")
        watcher.until(lambda: set(watcher.paths("file_sent")) >= followed | {"real/a.dat"}, "all are sent")
        fill(place.watched, {"last.dat": 10})
        watcher.until_event("file_sent", path="last.dat")
    assert sorted(watcher.paths("file_sent")) == sorted(followed | {"real/a.dat", "last.dat"})


# -- gently, and with patience --------------------------------------------------------------------------------------


def test_max_rate_keeps_a_file_back(place: Place) -> None:
    """6 MB at 2 MB/s, of which half a megabyte may go at once, take 2.7 s at least; without the option far less."""
    fill(place.watched, {"big.bin": 6_000_000})
    begun = time.monotonic()
    with program(*typed(place, "--once", "--watchdog-lag-time", 0, "--max-rate", "2MB/s")) as sender:
        started = sender.until_event("file_started")
        assert sender.wait() == OK
    assert started["size"] == 6_000_000
    assert time.monotonic() - begun >= (6_000_000 - 524_288) / 2_000_000
    assert sender.of("file_sent")[0]["seconds"] >= 2.7


@linux
def test_low_priority_is_said_and_holds_for_every_thread(place: Place) -> None:
    """The lowest for processor and disk."""
    with watching(place, "--low-priority", "--watchdog-lag-time", 0) as watcher:
        process = psutil.Process(watcher.pid)
        assert {psutil.Process(thread.id).nice() for thread in process.threads()} == {19}
        assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        fill(place.watched, {"scan.dat": 10})
        watcher.until_event("file_sent")
    assert [event["text"] for event in watcher.of("note")] == ["processor: nice 19, disk: idle class"]


def rewritten(path: Path) -> None:
    """Opened, emptied and written anew in place."""
    path.write_bytes(path.read_bytes())


def replaced(path: Path) -> None:
    """A copy is moved over it."""
    copy = path.parent.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@pytest.mark.parametrize("change", [Path.touch, rewritten, replaced], ids=["touched", "rewritten", "replaced"])
def test_a_file_whose_content_stays_is_not_sent_again(place: Place, change: Callable[[Path], None]) -> None:
    """It is read, and found the same; a file that does change goes as a new version."""
    fill(place.watched, {"scan.dat": 1_500_000})
    quick = ("--watchdog-lag-time", 0.1, "--upload-existing", "--scan-seconds", 0.5)
    with watching(place, *quick) as watcher:
        watcher.until_event("file_sent", path="scan.dat")
        records = len(list(raw_records(place.bootstrap, place.topic)))
        change(place.watched / "scan.dat")
        event = watcher.until_event("file_skipped", path="scan.dat")
        assert event["reason"] == "touched only: the same content was sent before"
        assert len(list(raw_records(place.bootstrap, place.topic))) == records
        with (place.watched / "scan.dat").open("ab") as file:
            file.write(b"more")
        watcher.until_event("file_sent", path="scan.dat", count=2)


@linux
def test_a_file_that_may_not_be_read_at_first_is_sent_when_it_may(place: Place) -> None:
    """It is told with the way out, others pass, and it is tried again by itself."""
    fill(place.watched, {"scan.dat": 10, "other.dat": 10})
    (place.watched / "scan.dat").chmod(0)
    with watching(place, "--upload-existing", "--watchdog-lag-time", 0.1, preexec_fn=like_any_user) as watcher:
        failed = watcher.until_event("file_failed", path="scan.dat")
        assert (failed["reason"], failed["retry"]) == ("scan.dat: it cannot be read: Permission denied", True)
        assert "the right to read it" in failed["hint"]
        watcher.until_event("file_sent", path="other.dat")
        (place.watched / "scan.dat").chmod(0o644)
        watcher.until_event("file_sent", path="scan.dat")


@as_root
def test_a_share_that_is_unmounted_and_mounted_again_is_no_mass_deletion(place: Place) -> None:
    """The empty folder it leaves behind is told, not believed; afterwards only what is new is sent."""
    share = place.base / "share"
    fill(share, {"old.dat": 10, "run/old.dat": 20})
    mount = ["mount", "--bind", str(share), str(place.watched)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    try:
        with watching(place, "--upload-existing", "--watchdog-lag-time", 0.1, "--scan-seconds", 0.3) as watcher:
            watcher.until_event("file_sent", count=2)
            subprocess.run(["umount", "-l", str(place.watched)], check=True)
            watcher.until(
                lambda: [e for e in watcher.of("note") if "is not mounted any more" in e["text"]], "it says so"
            )
            fill(share, {"run/new.dat": 30})
            subprocess.run(mount, check=True)
            watcher.until_event("file_sent", path="run/new.dat")
    finally:
        subprocess.run(["umount", "-l", str(place.watched)], check=False, capture_output=True)
    assert sorted(watcher.paths("file_sent")) == ["old.dat", "run/new.dat", "run/old.dat"]
