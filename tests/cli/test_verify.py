"""``openmsistream verify`` as a user types it: what it calls equal, missing, different, extra, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import blake3
import pytest

from openmsistream.cli.main import main
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.comparing import Kind
from openmsistream.core.wire import v1, v2
from openmsistream.local.broker import LocalBroker
from openmsistream.ports import Record
from openmsistream.programs.topic_versions import TopicVersions
from tests.conftest import MakeTopic
from tests.faults.records import produce
from tests.faults.support import Place, fill
from tests.faults.typed import nobody_answers, run

EQUAL, DIFFERENT, FAILED = 0, 1, 2
Told = set[tuple[str, str, str]]

linux_memory = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of one process alone")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")


class Typed:
    """Types the command in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *words: object) -> tuple[int, Told, dict[str, Any]]:
        """Exit code; kind, place and path of each difference; the summary."""
        code = self.plain(*words, "--json")[0]
        lines = [json.loads(line) for line in self.out.splitlines()]
        differences = {(e["kind"], e["place"], e["path"]) for e in lines if e["event"] == "difference"}
        assert len(differences) == sum(e["event"] == "difference" for e in lines), "no difference is told twice"
        self.reasons = {e["path"]: e["reason"] for e in lines if e["event"] == "difference"}
        return code, differences, lines[-1] if lines else {}

    def plain(self, *words: object) -> tuple[int, str]:
        """Exit code and standard output."""
        self._capsys.readouterr()
        try:
            code = main(["verify", *map(str, words)])
        except SystemExit as ended:
            code = int(ended.code or 0)
        self.out, self.errors = self._capsys.readouterr()
        return code, self.out


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> Place:
    """Folders and a topic with 3 partitions."""
    return Place(tmp_path, broker.bootstrap, topic(partitions=3))


def everything(place: Place) -> list[object]:
    topic = ["--config", place.config, "--topic-name", place.topic]
    return ["--source", place.watched, *topic, "--destination", place.output]


# -- folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with the same three files."""
    for name in ("source", "destination"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, {"run 1/a.dat": 2_500_000, "b.dat": 10, "empty.dat": 0})
    return tmp_path / "source", tmp_path / "destination"


def test_two_equal_folders_are_equal(folders: tuple[Path, Path], verify: Typed) -> None:
    """Contents are compared, and the summary says how much was."""
    source, destination = folders
    os.utime(destination / "b.dat", (1, 1))

    code, told, summary = verify("--source", source, "--destination", destination)

    assert (code, told) == (EQUAL, set())
    assert (summary["same"], summary["equal"], summary["compared_bytes"]) == (True, 3, 2 * 2_500_010)
    code, text = verify.plain("--source", source, "--destination", destination)
    assert "3 equal" in text
    assert "source: 3 files, 2.5 MB" in text


def test_every_difference_is_named_with_its_place(folders: tuple[Path, Path], verify: Typed) -> None:
    """Missing, extra at the destination, other size, other content of the same size."""
    source, destination = folders
    (destination / "b.dat").unlink()
    (destination / "mine.txt").write_text("x")
    (destination / "empty.dat").write_bytes(b"1")
    with (destination / "run 1" / "a.dat").open("r+b") as file:
        file.seek(2_400_000)
        file.write(b"!")

    code, told, summary = verify("--source", source, "--destination", destination)

    assert code == DIFFERENT
    assert told == {
        ("missing", "destination", "b.dat"),
        ("extra", "destination", "mine.txt"),
        ("different", "destination", "empty.dat"),
        ("different", "destination", "run 1/a.dat"),
    }
    assert (summary["equal"], summary["missing"], summary["different"], summary["extra"]) == (0, 1, 2, 1)
    assert verify.reasons["empty.dat"] == "1 bytes, source has 0"
    assert blake3.blake3((source / "run 1" / "a.dat").read_bytes()).hexdigest() in verify.reasons["run 1/a.dat"]
    code, text = verify.plain("--source", source, "--destination", destination)
    assert "missing    in destination  b.dat: source has it\n" in text
    assert "0 equal, 2 different, 1 extra, 1 missing" in text


def test_extra_files_can_be_ignored(folders: tuple[Path, Path], verify: Typed) -> None:
    """An archive holds more than one instrument's folder, or the source was cleaned up."""
    source, destination = folders
    (destination / "mine.txt").write_text("x")

    assert verify("--source", source, "--destination", destination, "--ignore-extra")[:2] == (EQUAL, set())
    (destination / "b.dat").unlink()
    assert verify("--source", source, "--destination", destination, "--ignore-extra")[0] == DIFFERENT


def test_sizes_only_reads_no_file(folders: tuple[Path, Path], verify: Typed) -> None:
    """Other content of the same size is not noticed, and the summary says that contents were not compared."""
    source, destination = folders
    (destination / "b.dat").write_bytes(b"0123456789")

    code, told, summary = verify("--source", source, "--destination", destination, "--sizes-only")

    assert (code, told) == (EQUAL, set())
    assert (summary["compared_by_size_only"], summary["compared_bytes"]) == (3, 0)


def test_only_files_that_would_be_sent_are_expected(folders: tuple[Path, Path], verify: Typed) -> None:
    """Hidden files and logs stay behind, and what the options leave out; neither is a difference anywhere."""
    source, destination = folders
    fill(source, {".hidden": 1, "run.log": 1, "raw/c.tif": 1, "raw/d.bak": 1})
    fill(destination, {".openmsistream/ledger": 1})
    both = ("--source", source, "--destination", destination)

    assert verify(*both)[1] == {("missing", "destination", "raw/c.tif"), ("missing", "destination", "raw/d.bak")}
    assert verify(*both, "--exclude", "raw/")[:2] == (EQUAL, set())
    assert verify(*both, "--upload_regex", r"(?!raw)")[2]["places"]["source"]["left_out"] == 3
    assert verify(*both, "--include", "*.dat")[0] == EQUAL
    assert verify(*both, "--include", "*.tif", "--include", "*.dat")[1] == {("missing", "destination", "raw/c.tif")}


def test_the_rules_of_the_config_file_count(folders: tuple[Path, Path], verify: Typed, tmp_path: Path) -> None:
    """What watch would leave out is not expected, without typing it again."""
    source, destination = folders
    fill(source, {"raw/d.bak": 1})
    config = tmp_path / "lab.config"
    config.write_text("[broker]\nbootstrap.servers = 127.0.0.1:1\n[upload]\nexclude = *.bak\n", encoding="utf-8")

    assert verify("--source", source, "--destination", destination, "--config", config)[0] == EQUAL


@linux
def test_names_of_every_kind_are_compared_and_shown_harmlessly(folders: tuple[Path, Path], verify: Typed) -> None:
    """Bytes that are not Unicode, line breaks, escape sequences."""
    source, destination = folders
    names = [b"latin1 \xe9.dat", b"line\nbreak.dat", b"red\x1b[31m.dat", "測定.dat".encode()]
    for name in names:
        (source / os.fsdecode(name)).write_bytes(b"1")
    (destination / os.fsdecode(names[0])).write_bytes(b"1")

    code, text = verify.plain("--source", source, "--destination", destination)

    assert code == DIFFERENT
    assert [line for line in text.splitlines() if line.startswith("missing")] == [
        "missing    in destination  line\\nbreak.dat: source has it",
        "missing    in destination  red\\x1b[31m.dat: source has it",
        "missing    in destination  測定.dat: source has it",
    ]


@linux
def test_names_that_were_mapped_at_the_destination_are_compared_by_the_senders_name(
    folders: tuple[Path, Path], verify: Typed
) -> None:
    """A destination that Windows reads has 12%3A30.csv for 12:30.csv; content and absence are told as ever."""
    source, destination = folders
    for name, content in (("12:30.csv", b"1"), ("12:31.csv", b"2"), ("12:32.csv", b"3")):
        (source / name).write_bytes(content)
    (destination / "12%3A30.csv").write_bytes(b"1")
    (destination / "12%3A31.csv").write_bytes(b"!")
    both = ("--source", source, "--destination", destination)

    assert verify(*both, "--names", "map")[1] == {
        ("different", "destination", "12:31.csv"),
        ("missing", "destination", "12:32.csv"),
    }
    assert ("extra", "destination", "12%3A30.csv") in verify(*both)[1]


def verify_with(mode: int, folders: tuple[Path, Path]) -> subprocess.CompletedProcess[str]:
    """Compare them when one folder of the source has these rights, and nobody has more than these."""
    from tests.faults.typed import like_any_user  # noqa: PLC0415 - POSIX only

    source, destination = folders
    (source / "run 1").chmod(mode)
    try:
        return run("verify", "--source", source, "--destination", destination, preexec_fn=like_any_user)
    finally:
        (source / "run 1").chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="rights work in another way there")
def test_a_file_or_folder_that_cannot_be_read_is_a_difference_of_its_own(folders: tuple[Path, Path]) -> None:
    """It is neither called equal nor missing."""
    (folders[1] / "b.dat").chmod(0)
    done = verify_with(0, folders)

    assert done.returncode == DIFFERENT
    assert "unreadable in destination  b.dat: " in done.stdout
    assert "unreadable in source       run 1: this folder cannot be listed: Permission denied" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="rights work in another way there")
def test_files_in_a_folder_that_may_be_listed_and_not_entered_are_not_called_equal(folders: tuple[Path, Path]) -> None:
    """The destination lacks them: without a word they would seem never to have been there."""
    (folders[1] / "run 1" / "a.dat").unlink()
    done = verify_with(0o444, folders)

    assert done.returncode == DIFFERENT
    assert "unreadable in source       run 1/a.dat: it cannot be looked at: Permission denied" in done.stdout


@linux
def test_a_name_that_the_output_cannot_take_is_shown_in_another_way(folders: tuple[Path, Path]) -> None:
    """As in a log file of Windows, which is not Unicode."""
    source, destination = folders
    (source / "\u6d4b.csv").write_bytes(b"x")
    env = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}
    done = run("verify", "--source", source, "--destination", destination, env=env)

    assert (done.returncode, done.stderr) == (DIFFERENT, "")
    assert "\\u6d4b.csv: source has it" in done.stdout


def test_a_file_that_changes_while_it_is_compared_is_told_as_changing(
    folders: tuple[Path, Path], verify: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So is one that comes or goes; a writer that is at work is no loss of data."""
    source, destination = folders
    fill(source, {"c.dat": 5, "d.dat": 5})
    fill(destination, {"c.dat": 5})
    from openmsistream.adapters.sqlite.scratch import NameTable  # noqa: PLC0415

    by_name = NameTable.by_name

    def meanwhile(table: NameTable) -> Any:
        # Between listing and comparing, which is when a real writer's changes count.
        with (source / "run 1" / "a.dat").open("r+b") as file:
            file.write(b"!")
        (source / "b.dat").write_bytes(b"longer than before")
        (destination / "c.dat").unlink()
        fill(destination, {"d.dat": 5})
        return by_name(table)

    monkeypatch.setattr(NameTable, "by_name", meanwhile)
    code, told, _ = verify("--source", source, "--destination", destination)

    assert code == DIFFERENT
    assert told == {
        ("changing", "source", "run 1/a.dat"),
        ("changing", "source", "b.dat"),
        ("changing", "destination", "c.dat"),
        ("changing", "destination", "d.dat"),
    }


def test_what_cannot_be_compared_ends_with_2(folders: tuple[Path, Path], verify: Typed, tmp_path: Path) -> None:
    """So that a script never takes trouble for a difference, or for none."""
    source, destination = folders

    assert verify.plain("--source", source)[0] == FAILED
    assert "give two or three of" in verify.errors
    assert verify.plain("--source", source, "--destination", tmp_path / "nowhere")[0] == FAILED
    assert "there is no such folder" in verify.errors
    assert verify.plain("--source", source, "--destination", destination, "--upload-regex", "(")[0] == FAILED
    assert verify.plain("--source", source, "--destination", destination, "--exclude", "a\\b")[0] == FAILED


def test_progress_goes_to_standard_error(folders: tuple[Path, Path]) -> None:
    """Where that is no terminal, only when it is asked for; standard output has nothing but what was found."""
    source, destination = folders

    quiet = run("verify", "--source", source, "--destination", destination)
    told = run("verify", "--source", source, "--destination", destination, "--progress", "plain")

    assert (quiet.returncode, quiet.stderr) == (EQUAL, "")
    assert told.stderr == "listing source: 1\n"
    assert len(told.stdout.splitlines()) == len(quiet.stdout.splitlines()) == 3


@linux_memory
def test_memory_does_not_grow_with_the_number_of_files() -> None:
    """Names wait in a temporary table: 150,000 of them, twice, cost what its cache of 16 MiB does, not 100 MB."""
    assert peak_of(150_000) - peak_of(1_000) < 30_000_000


def peak_of(count: int) -> int:
    """The peak memory of a comparison of two places with so many equal names, in bytes."""
    import subprocess  # noqa: PLC0415

    code = f"""
from pathlib import Path
from openmsistream.core.comparing import Item
from openmsistream.programs.comparing import Comparison

class Many:
    def __init__(self, place): self.place = place
    def items(self):
        return (Item(f"a folder with a long name/file {{n:09}}.dat", n, "stamp") for n in range({count}))
    def digest(self, item, hash_name, progress): return b"d" * 32
    def unchanged(self, item): return True
    def has(self, name): return False
    def close(self): return None

done = Comparison([Many("source"), Many("destination")], lambda name: True, print, lambda *_: None).run()
assert done.equal == {count} and not done.found
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line[:5] == "VmHWM"))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024


# -- with a topic -----------------------------------------------------------------------------------------------


def test_source_topic_and_destination_are_equal_after_a_transfer(place: Place, verify: Typed) -> None:
    """Three places; nothing is read from the folders but to compare, and no group is left with a commit."""
    fill(place.watched, {"run/a.dat": 1_500_000, "b.dat": 10, "empty.dat": 0, ".hidden": 3})
    place.send()
    place.fetch()

    code, told, summary = verify(*everything(place))

    assert (code, told) == (EQUAL, set())
    assert summary["equal"] == 3
    assert {where: each["files"] for where, each in summary["places"].items()} == {
        "source": 3,
        "topic": 3,
        "destination": 3,
    }
    assert summary["notes"] == []


def test_each_place_that_lacks_a_file_or_has_another_one_is_named(place: Place, verify: Typed) -> None:
    """Not sent, not written, removed at the source, changed at the destination, newer at the source."""
    fill(place.watched, {"same.dat": 10, "cleaned.dat": 20, "lost.dat": 30, "bad.dat": 40, "newer.dat": 50})
    place.send()
    place.fetch()
    fill(place.watched, {"unsent.dat": 60, "newer.dat": 50}, seed=1)
    (place.watched / "cleaned.dat").unlink()
    (place.output / "lost.dat").unlink()
    (place.output / "bad.dat").write_bytes(b"!" * 40)
    fill(place.output, {"mine.dat": 1})

    code, told, summary = verify(*everything(place))

    assert code == DIFFERENT
    assert told == {
        ("extra", "topic", "cleaned.dat"),
        ("extra", "destination", "cleaned.dat"),
        ("missing", "destination", "lost.dat"),
        ("different", "destination", "bad.dat"),
        ("different", "topic", "newer.dat"),
        ("different", "destination", "newer.dat"),
        ("missing", "topic", "unsent.dat"),
        ("missing", "destination", "unsent.dat"),
        ("extra", "destination", "mine.dat"),
    }
    assert summary["equal"] == 1


def test_hostile_records_do_not_stop_it_and_unfinished_files_are_told(place: Place, verify: Typed) -> None:
    """They are counted; a file of which the topic holds only a part is incomplete, one with wrong bytes damaged."""
    fill(place.watched, {"good.dat": 100_000, "later.dat": 5})
    place.send("--exclude", "later.dat")
    half = chunks("half.dat", b"12345678")[0]
    wrong = chunks("wrong.dat", b"12345678", digest=b"h" * 32)
    bad: list[bytes | None] = [
        *chunks("../up.dat", b"1"),
        b"{}",
        None,
        b"",
        b"OMS2\xff\xff",
        b"\x9a\xdd\xff\xff\xff\xff",
    ]
    huge = chunks("huge.dat", b"1234", offset=2**62)
    begun = [chunks(f"begun/{n}.dat", b"12345678")[0] for n in range(500)]
    produce(place.bootstrap, place.topic, [(b"k", value) for value in [*bad, half, *wrong, *huge, *begun]])
    place.send()
    with place.download("--until-idle", 1) as receiver:
        assert receiver.wait() == 1, "one file failed its hash"

    code, told, summary = verify(*everything(place), "--exclude", "begun/")

    assert code == DIFFERENT
    assert told == {
        ("incomplete", "topic", "half.dat"),
        ("incomplete", "topic", "huge.dat"),
        ("damaged", "topic", "wrong.dat"),
    }
    assert summary["equal"] == 2
    (note,) = summary["notes"]
    assert note.startswith(f"topic: {len(bad)} of ")
    assert "../up.dat" in note


def test_a_topic_can_be_compared_with_a_destination_alone(place: Place, verify: Typed) -> None:
    """Then everything on the topic is expected, hidden files too."""
    produce(place.bootstrap, place.topic, [(b"k", value) for value in chunks(".hidden", b"12345678")])
    place.fetch()
    words = everything(place)[2:]

    assert verify(*words)[2]["equal"] == 1
    assert verify(*words, "--exclude", ".*")[2]["equal"] == 0


def test_without_a_source_the_rules_of_the_uploader_leave_nothing_out(place: Place, verify: Typed) -> None:
    """What the config file says of uploads is of this computer, and others send to the topic, too."""
    names = ("catalog.csv", "blog.dat", "a.h5")
    produce(place.bootstrap, place.topic, [(b"k", value) for name in names for value in chunks(name, b"12345678")])
    for rule in ("upload_regex = ^((?!(\\.|.*.log))).*$", "include = *.csv"):
        place.config.write_text(f"{place.config.read_text()}\n[upload]\n{rule}\n")
        place.output.mkdir(exist_ok=True)
        code, told, _ = verify(*everything(place)[2:])
        assert (code, {path for _, _, path in told}) == (DIFFERENT, set(names))
        place.configure()


def test_files_of_1x_in_all_partitions_are_compared_by_their_own_hash(place: Place, verify: Typed) -> None:
    """SHA-512 instead of BLAKE3; their chunks lie in every partition, out of order."""
    data = random.Random(3).randbytes(200_000)
    for name, content in (("a.dat", data), ("b.dat", data[:5])):
        (place.watched / name).write_bytes(content)
        values = v1_chunks(name, content, 20_000)
        produce(place.bootstrap, place.topic, [(f"key {n}".encode(), value) for n, value in enumerate(values)])

    words = everything(place)[:-2]
    assert verify(*words)[:2] == (EQUAL, set())
    (place.watched / "a.dat").write_bytes(data[:-1] + b"!")
    assert verify(*words)[1] == {("different", "topic", "a.dat")}


def test_a_broker_that_does_not_answer_ends_it_with_2(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: Typed
) -> None:
    """Not with 1: nothing was compared."""
    monkeypatch.setattr("openmsistream.programs.verify.PATIENCE_SECONDS", 0.1)
    with nobody_answers() as address:
        config = tmp_path / "lab.config"
        config.write_text(f"[broker]\nbootstrap.servers = {address}\n", encoding="utf-8")
        words = ("--source", folders[0], "--topic-name", "xrd", "--config", config)
        assert verify.plain(*words)[0] == FAILED
    assert "no Kafka broker answers" in verify.errors


# -- what a topic holds -----------------------------------------------------------------------------------------


def chunks(
    path: str, data: bytes, size: int = 4, *, gen: int = 1, digest: bytes | None = None, offset: int = 0
) -> list[bytes]:
    """The v2 records of a file."""
    version = hashlib.blake2b(f"{path} {gen}".encode() + data, digest_size=16).digest()
    found = []
    for index, start in enumerate(range(0, len(data), size) or range(1)):
        last = start + size >= len(data)
        chunk = Chunk(
            version,
            path,
            offset + start,
            index,
            data[start : start + size],
            mtime_ns=1,
            size=offset + len(data),
            last=last,
            digest=(digest or blake3.blake3(data).digest()) if last else None,
            src=b"s" * 16,
            gen=gen,
        )
        found.append(v2.encode(chunk))
    return found


def v1_chunks(path: str, data: bytes, size: int = 4) -> list[bytes]:
    """The v1 records of a file, as a 1.x uploader writes them."""
    digest, starts = hashlib.sha512(data).digest(), range(0, len(data), size)
    return [
        v1.encode(
            Chunk(
                digest,
                path,
                start,
                index,
                data[start : start + size],
                digest=digest,
                hash_name=HashName.SHA512,
                total=len(starts),
            )
        )
        for index, start in enumerate(starts)
    ]


def on_topic(values: list[bytes], **limits: int) -> tuple[dict[str, tuple[int, Kind | None]], TopicVersions]:
    """Size and problem of each file that a topic with these records holds."""
    versions = TopicVersions(**limits)
    for offset, value in enumerate(values):
        versions.take(Record(0, offset, 1_000 + offset, None, value))
    found = {item.name: (item.size, item.problem) for item in versions.items()}
    versions.close()
    return found, versions


def test_the_newest_version_counts_and_repeated_chunks_mean_nothing() -> None:
    """An older version that comes later, the same chunks again, an unfinished older one."""
    newest = chunks("a.dat", b"newest!!", gen=3)
    older, unfinished = chunks("a.dat", b"older", gen=2), chunks("a.dat", b"unfinished", gen=1)

    found, _ = on_topic([*newest, *older, newest[0], unfinished[0], newest[1]])

    assert found == {"a.dat": (8, None)}


def test_an_unfinished_newer_version_is_told_and_one_given_up_is_not() -> None:
    """The file is not what its sender has; unless the sender took that version back."""
    whole, newer = chunks("a.dat", b"whole", gen=1), chunks("a.dat", b"newer version", gen=2)
    assert on_topic([*whole, newer[0]])[0] == {"a.dat": (13, Kind.INCOMPLETE)}

    first = v2.decode(newer[0])
    given_up = v2.encode(
        Chunk(first.version, "a.dat", 4, 1, b"", mtime_ns=1, src=first.src, gen=2, abort="the file changed")
    )
    assert on_topic([*whole, newer[0], given_up])[0] == {"a.dat": (5, None)}


@pytest.mark.parametrize("make", [chunks, v1_chunks])
def test_chunks_in_any_order_are_hashed_and_wrong_bytes_found(make: Any) -> None:
    """Those before their turn are held; the result is the same."""
    values = make("a.dat", b"0123456789abcdef")
    for seed in range(20):
        random.Random(seed).shuffle(values)
        found, versions = on_topic(values)
        assert (found, versions.unchecked) == ({"a.dat": (16, None)}, 0)


def test_more_chunks_out_of_order_than_may_be_held_leave_the_hash_unchecked() -> None:
    """The hash that the sender gave is taken, and how many such files there are is told."""
    values = v1_chunks("a.dat", b"0123456789abcdef")

    found, versions = on_topic(values[::-1], hold_bytes=8)

    assert (found, versions.unchecked) == ({"a.dat": (16, None)}, 1)


def test_more_unfinished_versions_than_may_be_open_are_given_up_and_counted() -> None:
    """A hostile topic costs a bounded amount of memory."""
    values = [chunks(f"{n}.dat", b"12345678")[0] for n in range(20)]

    found, versions = on_topic(values, open_max=5)

    assert set(found.values()) == {(8, Kind.INCOMPLETE)}
    assert (len(found), versions.crowded_out) == (20, 15)


def test_a_file_streamed_under_a_temporary_name_counts_under_its_final_one() -> None:
    """Also when some of its chunks come once more."""
    values = chunks("a.tmp", b"12345678")
    last = v2.decode(values[1])
    ending = Chunk(
        last.version,
        "a.tmp",
        4,
        1,
        bytes(last.payload),
        mtime_ns=1,
        size=8,
        last=True,
        digest=last.digest,
        src=last.src,
        gen=1,
        name="a.dat",
    )

    assert on_topic([values[0], v2.encode(ending), values[0]])[0] == {"a.dat": (8, None)}
