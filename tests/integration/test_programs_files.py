"""Which files the programs take and leave, how they arrive, and the formats and names of 1.x."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from tests.conftest import MakeTopic
from tests.faults.records import raw_records
from tests.faults.support import Place, Program, fill, tree
from tests.faults.typed import OK, start

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> Place:
    """Folders and a topic with 3 partitions."""
    return Place(tmp_path, broker.bootstrap, topic(partitions=3))


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
    with start(
        "upload", place.watched / "sub/scan 1.dat", "--config", place.config, "--topic-name", place.topic
    ) as upload:
        assert upload.wait() == OK
    assert "sent: scan 1.dat (700.0 kB" in upload.stdout

    place.fetch()
    assert tree(place.output) == tree(place.watched / "sub")
