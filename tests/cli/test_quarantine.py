"""``openmsistream quarantine`` as a user types it: what it shows, what retry delivers, what it never does."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import tracemalloc
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import blake3
import pytest

from openmsistream.adapters.filesystem.quarantine import Quarantine
from openmsistream.adapters.filesystem.sink import FolderSink
from openmsistream.adapters.filesystem.staging import Staging
from openmsistream.cli.main import main
from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.core.versions import VersionKey
from openmsistream.core.wire import v1, v2
from openmsistream.local.broker import LocalBroker
from openmsistream.ports import Record
from tests.conftest import MakeTopic
from tests.faults.records import produce
from tests.faults.support import Place, fill, tree

OK, ERROR, USAGE = 0, 1, 2
AT_MS = 1_700_000_000_000
HOSTILE = "red\x1b[31m\nline.dat"

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not allow such names")


def v2_chunks(path: str, data: bytes, size: int = 4, *, gen: int = 1, digest: bytes | None = None) -> list[bytes]:
    """The v2 records of a file."""
    version = hashlib.blake2b(f"{path} {gen}".encode() + data, digest_size=16).digest()
    found = []
    for index, start in enumerate(range(0, len(data), size) or range(1)):
        last = start + size >= len(data)
        chunk = Chunk(
            version,
            path,
            start,
            index,
            data[start : start + size],
            mtime_ns=1,
            size=len(data),
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


class Lab:
    """An output folder, into whose quarantine things are put as a downloader does it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._capsys = root, capsys
        self._sink = FolderSink(root)
        self.folder = root / WORK_FOLDER / "quarantine"
        self._offset = 0

    def record(self, value: bytes | None, reason: str = "record refused", **more: Any) -> str:
        record = Record(0, self._offset, AT_MS + self._offset, b"key", value, **more)
        self._offset += 1
        self._sink.quarantine("xrd", record, reason)
        return f"xrd-0-{record.offset}"

    def v1_file(self, path: str, data: bytes, digest: bytes | None = None, reason: str = "its bytes differ") -> str:
        """A file of a 1.x uploader that was put aside; its version is its digest. The id."""
        key = VersionKey(path, digest or hashlib.sha512(data).digest())
        self._sink.write(key, 0, data)
        before = set(self.folder.glob("*.part"))
        self._sink.set_aside(key, reason)
        (new,) = set(self.folder.glob("*.part")) - before
        return new.stem

    def type(self, action: str, *words: str) -> tuple[int, str]:
        """Exit code and standard output of ``openmsistream quarantine ACTION FOLDER WORDS``."""
        self._capsys.readouterr()
        try:
            code = main(["quarantine", action, str(self.root), *words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, self._capsys.readouterr().out

    def json(self, action: str, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.type(action, *words, "--json")[1].splitlines()]

    def retry(self, *words: str) -> dict[str, tuple[str, str]]:
        """Result and reason by id."""
        told = self.json("retry", *words)
        return {e["id"]: (e["result"], e["reason"]) for e in told if e["event"] == "quarantine_outcome"}

    def ids(self) -> set[str]:
        return set(Quarantine(self.root).ids())

    def files(self) -> dict[bytes, bytes]:
        return {name: (self.root / os.fsdecode(name)).read_bytes() for name in tree(self.root)}


@pytest.fixture
def lab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Lab:
    return Lab(tmp_path / "output µ", capsys)


# -- list and show ----------------------------------------------------------------------------------------------


def test_list_names_origin_path_size_and_reason_of_everything(lab: Lab) -> None:
    """Records with topic, partition and offset; files by the first letters of their id."""
    value = v2_chunks("run/a.dat", b"12345678")[1]
    lab.record(value, "its offset lies too far ahead")
    lab.record(v1_chunks("sub/b.dat", b"x")[0], "not now")
    lab.record(b"{}", "not a chunk")
    file = lab.v1_file("c.dat", b"123", reason="its bytes differ from the hash its sender gave")

    told = {each.get("id"): each for each in lab.json("list")}
    code, text = lab.type("list")

    assert code == OK
    first = told["xrd-0-0"]
    assert (first["topic"], first["partition"], first["offset"], first["path"]) == ("xrd", 0, 0, "run/a.dat")
    assert (first["size"], first["reason"]) == (len(value), "its offset lies too far ahead")
    assert [told[f"xrd-0-{n}"]["path"] for n in (1, 2)] == ["sub/b.dat", ""]
    assert (told[file]["kind"], told[file]["path"], told[file]["size"]) == ("file", "c.dat", 3)
    assert (told[None]["records"], told[None]["files"]) == (3, 1)
    assert "run/a.dat: its offset lies too far ahead" in text
    assert f"  {file[:12]} " in text
    assert text.splitlines()[-1].startswith("3 records, 1 file, ")


def test_list_shows_the_newest_and_says_how_many_more_there_are(lab: Lab) -> None:
    """Fifty lines, of which the last is the newest; --all shows every one."""
    for number in range(60):
        note = lab.folder / f"{lab.record(b'{}')}.json"
        os.utime(note, ns=(number, number))

    short, everything = lab.type("list")[1].splitlines(), lab.type("list", "--all")[1].splitlines()

    assert "xrd-0-59" in short[49]
    assert short[50] == "... and 10 older (--all lists every entry)"
    assert len(everything) == 61


def test_an_empty_quarantine_is_told_and_a_folder_of_nobody_is_an_error(lab: Lab, tmp_path: Path) -> None:
    """A mistyped folder must not look like good news."""
    assert lab.type("list") == (OK, f"nothing is in quarantine in {lab.root}\n")
    (tmp_path / "other").mkdir()
    assert main(["quarantine", "list", str(tmp_path / "other")]) == ERROR


def test_what_came_from_the_topic_is_never_obeyed_by_the_terminal(lab: Lab) -> None:
    """Neither paths nor reasons, keys, headers and bytes put a control character on the screen."""
    headers = [("h\x1b]0;x\x07", b"\x1b[2J\xff")]
    lab.record(v2_chunks(HOSTILE, b"\x1b[31m\x00")[0], f"{HOSTILE}: refused", headers=headers)

    for text in (lab.type("list")[1], lab.type("show", "xrd-0-0")[1], lab.type("retry", "--all")[1]):
        assert text
        assert not set(text) & {chr(code) for code in (*range(10), *range(11, 32), *range(127, 160))}
        assert "red\\x1b[31m\\nline.dat" in text


def test_show_tells_everything_that_is_known_and_the_first_bytes(lab: Lab) -> None:
    """Origin, key, headers, what the record is, and what the present version says of it."""
    value = v2_chunks("../up.dat", b"payload", size=100)[0]
    lab.record(value, "outside the output folder", headers=[("made", b"by hand")])

    code, text = lab.type("show", "xrd-0-0")

    assert code == OK
    assert "topic        xrd, partition 0, offset 0" in text
    assert "reason       outside the output folder" in text
    assert "key          key" in text
    assert "header       made = by hand" in text
    assert "file         ../up.dat" in text
    assert "chunk        1: 7 bytes at 0 of a file of 7 bytes" in text
    assert f"file hash    blake3 {blake3.blake3(b'payload').hexdigest()}" in text
    assert "it can be decoded, and still not be delivered" in text
    assert "00000000  4f 4d 53 32" in text
    assert "OMS2" in text


def test_show_of_a_file_gives_both_hashes(lab: Lab) -> None:
    """The one its sender gave and the one its bytes have; a few letters of the id are enough."""
    wrong = hashlib.sha512(b"other").digest()
    file = lab.v1_file("c.dat", b"123", wrong)

    (told,) = lab.json("show", file[:6])

    assert told["now"] == f"its sender gave sha512 {wrong.hex()}, its bytes have {hashlib.sha512(b'123').hexdigest()}"
    assert told["first_bytes"] == b"123".hex()


@pytest.mark.parametrize("wrong", ["xrd-0-7", "../quarantine", "", "ffff", ".", "xrd-0-0.value"])
def test_an_id_that_is_not_there_is_an_error(lab: Lab, wrong: str) -> None:
    """Whatever is typed, only entries of this quarantine can be named."""
    lab.record(b"{}")

    assert lab.type("show", wrong)[0] == ERROR
    assert lab.type("drop", wrong, "--yes")[0] == ERROR
    assert lab.ids() == {"xrd-0-0"}


def test_damaged_notes_and_bytes_without_a_note_are_listed_with_what_is_known(lab: Lab) -> None:
    """A program that was killed while it wrote leaves such, and they can be shown and dropped."""
    lab.record(v2_chunks("a.dat", b"1")[0])
    lab.record(b"{}")
    lab.record(b"{}")
    (lab.folder / "xrd-0-0.json").write_text('{"topic": "xrd", "par', encoding="utf-8")
    (lab.folder / "xrd-0-1.json").unlink()
    (lab.folder / "xrd-0-2.value").unlink()

    told = {each["id"]: each for each in lab.json("list") if "id" in each}

    assert {name: (e["topic"], e["offset"], e["size"]) for name, e in told.items()} == {
        "xrd-0-0": ("xrd", 0, told["xrd-0-0"]["size"]),
        "xrd-0-1": ("xrd", 1, 2),
        "xrd-0-2": ("xrd", 2, None),
    }
    assert "was ended while it put this here" in told["xrd-0-0"]["reason"]
    assert lab.type("show", "xrd-0-1")[0] == OK
    assert lab.type("drop", "--all", "--yes") == (OK, "3 removed\n")
    assert lab.ids() == set()


def test_notes_that_somebody_else_wrote_harm_nothing(lab: Lab) -> None:
    """Whatever JSON they hold, every action tells of them and goes on."""
    notes = ["[]", "1", '{"reason": 3, "topic": "\\ud800", "partition": "x", "offset": {}, "path": 7}', "[" * 100_000]
    notes += ['{"headers": [[1]], "key": "%%", "path": "\\ud800", "version": "zz", "hash": [], "digest": 1}']
    for number, text in enumerate(notes):
        for name in (f"xrd-0-{number}", f"{number:040x}.part"):
            (lab.folder / f"{name}.json").write_text(text, encoding="utf-8")
            (lab.folder / (name if name.endswith(".part") else f"{name}.value")).write_bytes(b"OMS2")

    told = lab.json("list")
    assert len(told) == 2 * len(notes) + 1
    assert {lab.type("show", each["id"])[0] for each in told[:-1]} == {OK}
    assert {result for result, _ in lab.retry("--all").values()} == {"kept"}
    assert lab.type("drop", "--all", "--yes") == (OK, f"{2 * len(notes)} removed\n")


def test_memory_does_not_grow_with_the_number_of_entries(lab: Lab) -> None:
    """Entries are read one at a time: what is held at most is far below 100 bytes for each of them."""
    note = json.dumps({"topic": "xrd", "partition": 0, "offset": 1, "reason": "r" * 500})
    for number in range(3_000):
        (lab.folder / f"xrd-0-{number}.json").write_text(note, encoding="utf-8")
        (lab.folder / f"xrd-0-{number}.value").write_bytes(b"{}")
    quarantine = Quarantine(lab.root)

    tracemalloc.start()
    try:
        assert quarantine.total().records == 3_000
        assert len(quarantine.newest(50)) == 50
        assert sum(1 for _ in quarantine.entries()) == 3_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 200_000


# -- retry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [v1_chunks, v2_chunks])
def test_records_that_can_be_handled_now_are_put_together_and_delivered(lab: Lab, make: Any) -> None:
    """In whatever order they came; then the entries are gone, and nothing of the work is left."""
    values = make("run/a.dat", b"0123456789")
    for value in (values[2], values[0], values[1], values[0]):
        lab.record(value)

    assert {result for result, _ in lab.retry("--all").values()} == {"delivered"}

    assert lab.files() == {b"run/a.dat": b"0123456789"}
    assert lab.ids() == set()
    assert not (lab.root / WORK_FOLDER / "retry").exists()


def test_what_still_cannot_be_handled_stays_with_the_reason_of_now(lab: Lab) -> None:
    """Exit code 1; nothing is written, and nothing leaves the quarantine."""
    lab.record(b"{}")
    lab.record(v2_chunks("../up.dat", b"1")[0])
    lab.record(v2_chunks("a.dat", b"12345678")[1])
    lab.record(v2_chunks("b.dat", b"12345678", digest=b"h" * 32)[0])
    lab.record(v2_chunks("b.dat", b"12345678", digest=b"h" * 32)[1])
    lab.record(None)

    code, _ = lab.type("retry", "--all")
    told = lab.retry("--all")

    assert code == ERROR
    assert {result for result, _ in told.values()} == {"kept"}
    assert "not a file chunk" in told["xrd-0-0"][1]
    assert "outside the output folder" in told["xrd-0-1"][1]
    assert "only 4 of 8 bytes of its file are there" in told["xrd-0-2"][1]
    for each in ("xrd-0-3", "xrd-0-4"):
        assert f"its sender gave blake3 {(b'h' * 32).hex()}" in told[each][1]
        assert blake3.blake3(b"12345678").hexdigest() in told[each][1]
    assert (lab.files(), len(lab.ids())) == ({}, 6)


def test_of_several_versions_of_a_file_the_newest_is_delivered(lab: Lab) -> None:
    """The uploader's counter says which; the others are done with."""
    for gen, data in ((1, b"old"), (3, b"newest"), (2, b"newer")):
        lab.record(v2_chunks("a.dat", data, size=100, gen=gen)[0])

    told = lab.retry("--all")

    assert lab.files() == {b"a.dat": b"newest"}
    assert sorted(result for result, _ in told.values()) == ["delivered", "nothing to deliver", "nothing to deliver"]


def test_of_several_files_that_were_put_aside_the_last_is_delivered_and_none_removed(lab: Lab) -> None:
    """As ``--on-existing never`` leaves them; the others have no other copy, and stay."""
    ids = [lab.v1_file("a.dat", b"version %d" % number) for number in range(6)]
    for number, each in enumerate(ids):
        note = lab.folder / f"{each}.part.json"
        note.write_text(json.dumps({**json.loads(note.read_text()), "at_ns": 10**18 + (number * 7 % 6) * 10**9}))
    last = ids[5]  # 35 % 6 is 5

    told = lab.retry("--all")

    assert told[last][0] == "delivered"
    assert lab.files() == {b"a.dat": b"version 5"}
    assert lab.ids() == set(ids) - {last}
    assert {reason for each, (_, reason) in told.items() if each != last} == {
        "a newer version of its file was delivered"
    }


@posix
def test_what_may_not_be_read_is_an_error_with_a_hint(lab: Lab) -> None:
    """The bytes in quarantine are for the account of the downloader alone."""
    from tests.faults.typed import like_any_user, one_error, run  # noqa: PLC0415 - POSIX only

    one = lab.v1_file("a.dat", b"data")
    for path in lab.folder.glob("*.part"):
        path.chmod(0)
    for action in ("show", "retry"):
        done = run("quarantine", action, lab.root, one, preexec_fn=like_any_user)
        assert "Permission denied" in one_error(done)
        assert "the account that the downloader runs under" in done.stderr


def test_a_file_that_is_there_is_never_replaced(lab: Lab) -> None:
    """The downloader that runs may have written a newer one; --as delivers under another name."""
    (lab.root / "a.dat").write_bytes(b"newer")
    lab.record(v2_chunks("a.dat", b"old")[0])

    assert "something else of that name is there" in lab.retry("xrd-0-0")["xrd-0-0"][1]
    assert lab.files() == {b"a.dat": b"newer"}

    assert lab.retry("xrd-0-0", "--as", "recovered/a.dat")["xrd-0-0"][0] == "delivered"
    assert lab.files() == {b"a.dat": b"newer", b"recovered/a.dat": b"old"}


def test_a_file_that_is_there_with_the_same_content_is_done(lab: Lab) -> None:
    """A retry that was killed before it removed the entry leaves that."""
    (lab.root / "a.dat").write_bytes(b"same")
    lab.record(v2_chunks("a.dat", b"same")[0])

    assert lab.retry("--all")["xrd-0-0"][0] == "delivered"
    assert lab.ids() == set()


def test_a_hostile_path_can_be_delivered_under_a_name_that_is_allowed(lab: Lab) -> None:
    """And --as itself never leads outside."""
    lab.record(v2_chunks("../../up.dat", b"1")[0])

    assert lab.type("retry", "xrd-0-0", "--as", "../x")[0] == ERROR
    assert lab.type("retry", "xrd-0-0", "--as", f"{WORK_FOLDER}/x")[0] == ERROR
    assert lab.type("retry", "--all", "--as", "x")[0] == USAGE
    assert lab.retry("xrd-0-0", "--as", "saved.dat")["xrd-0-0"][0] == "delivered"
    assert lab.files() == {b"saved.dat": b"1"}


@posix
def test_retry_never_writes_through_a_link(lab: Lab, tmp_path: Path) -> None:
    """Neither a folder on the way nor the name itself may be one."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (lab.root / "folder").symlink_to(outside, target_is_directory=True)
    (lab.root / "name.dat").symlink_to(outside / "target")
    lab.record(v2_chunks("folder/a.dat", b"1")[0])
    lab.record(v2_chunks("name.dat", b"1")[0])

    assert {result for result, _ in lab.retry("--all").values()} == {"kept"}
    assert list(outside.iterdir()) == []


def test_a_file_with_the_wrong_hash_is_only_delivered_when_that_is_accepted(lab: Lab) -> None:
    """Both hashes are told before."""
    wrong = hashlib.sha512(b"other").digest()
    file = lab.v1_file("run/c.dat", b"123", wrong)

    result, reason = lab.retry(file)[file]
    assert (result, lab.files()) == ("kept", {})
    assert wrong.hex() in reason
    assert hashlib.sha512(b"123").hexdigest() in reason

    assert lab.retry(file[:8], "--accept")[file][0] == "delivered"
    assert lab.files() == {b"run/c.dat": b"123"}
    assert lab.ids() == set()


def test_a_file_whose_name_was_taken_by_a_folder_is_delivered_once_it_is_free(lab: Lab) -> None:
    """Its bytes have the right hash, so nothing has to be accepted."""
    file = lab.v1_file("c.dat", b"123", reason="'c.dat' is not a valid name in this folder")
    (lab.root / "c.dat").mkdir()

    assert lab.retry(file)[file][0] == "kept"
    (lab.root / "c.dat").rmdir()
    assert lab.retry(file)[file][0] == "delivered"
    assert lab.files() == {b"c.dat": b"123"}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")
def test_a_file_whose_exact_name_was_not_kept_needs_one(lab: Lab) -> None:
    """A note shows a name that is not Unicode only as it looks: no file is made under that."""
    name = os.fsdecode(b"latin1 \xe9.dat")
    file = lab.v1_file(name, b"123")

    assert lab.retry(file)[file][0] == "kept"
    assert lab.retry(file, "--as", "latin1.dat")[file][0] == "delivered"


def test_two_retries_at_once_do_not_disturb_each_other(lab: Lab) -> None:
    """The second one says that the first one runs."""
    lab.record(v2_chunks("a.dat", b"1")[0])

    with Staging(lab.root / WORK_FOLDER):
        assert lab.type("retry", "--all")[0] == ERROR
    assert lab.retry("--all")["xrd-0-0"][0] == "delivered"


# -- drop -------------------------------------------------------------------------------------------------------


def test_ids_may_stand_behind_options(lab: Lab) -> None:
    """Where people put them who have just typed the options."""
    one, two, three = (lab.record(b"{}") for _ in range(3))
    assert lab.type("drop", "--yes", one, two)[0] == OK
    assert lab.ids() == {three}
    assert lab.type("drop", three, "--yes")[0] == OK
    assert lab.ids() == set()
    assert lab.type("drop", "--yess", "a")[0] == USAGE


def test_drop_removes_what_was_named_and_nothing_else(lab: Lab) -> None:
    """A record with its note, a file with its note."""
    lab.record(b"{}")
    lab.record(b"[]")
    file = lab.v1_file("c.dat", b"123")

    assert lab.type("drop", "xrd-0-0", file[:12], "--yes") == (OK, "2 removed\n")

    assert sorted(path.name for path in lab.folder.iterdir()) == ["xrd-0-1.json", "xrd-0-1.value"]


def test_drop_removes_nothing_when_nobody_can_be_asked_or_one_id_is_wrong(lab: Lab) -> None:
    """A script has to say --yes, and a typing mistake costs nothing."""
    lab.record(b"{}")

    assert lab.type("drop", "--all")[0] == USAGE
    assert lab.type("drop", "xrd-0-0", "xrd-0-9", "--yes")[0] == ERROR
    assert lab.type("drop")[0] == USAGE
    assert lab.type("drop", "xrd-0-0", "--all", "--yes")[0] == USAGE
    assert lab.ids() == {"xrd-0-0"}


# -- with a downloader and a broker -----------------------------------------------------------------------------


def test_retry_reads_missing_chunks_from_the_topic_while_the_downloader_runs(
    broker: LocalBroker, topic: MakeTopic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file only one chunk stands in quarantine; the others are on the topic. Nothing is committed."""
    place = Place(tmp_path, broker.bootstrap, topic())
    fill(place.watched, {"good.dat": 100})
    place.send()
    values = v2_chunks("run/a.dat", b"0123456789")
    produce(place.bootstrap, place.topic, [(b"k", values[0]), (b"k", b"{}"), (b"k", values[1]), (b"k", values[2])])
    with place.download("--download-regex", "(?!run/)") as receiver:
        receiver.until_event("quarantined")
        receiver.until_event("file_delivered")
        FolderSink(place.output).quarantine(place.topic, Record(0, 3, AT_MS, b"k", values[1]), "not read before")

        words = ["quarantine", "retry", str(place.output), "--all", "--json"]
        assert main(words) == ERROR
        without = capsys.readouterr().out
        assert main([*words, "--config", str(place.config)]) == ERROR
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert receiver.running
        receiver.quit()

    assert "only 4 of 10 bytes of its file are there" in without
    assert {e["id"]: e["result"] for e in told if "id" in e} == {
        f"{place.topic}-0-2": "kept",
        f"{place.topic}-0-3": "delivered",
    }
    assert (place.output / "run" / "a.dat").read_bytes() == b"0123456789"


def test_a_file_with_the_wrong_hash_is_read_from_the_topic_anew(
    broker: LocalBroker, topic: MakeTopic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that were damaged on this computer's disk are right on the topic; then nothing has to be accepted."""
    place, data = Place(tmp_path, broker.bootstrap, topic(partitions=3)), b"0123456789"
    values = v1_chunks("run/c.dat", data)
    produce(place.bootstrap, place.topic, [(f"key {n}".encode(), value) for n, value in enumerate(values)])
    sink, key = FolderSink(place.output), VersionKey("run/c.dat", hashlib.sha512(data).digest())
    sink.write(key, 0, b"damaged!!!")
    sink.set_aside(key, "its bytes differ from the hash its sender gave")

    words = ["quarantine", "retry", str(place.output), "--all", "--config", str(place.config), "--json"]
    assert main([*words, "--topic-name", place.topic]) == OK

    assert json.loads(capsys.readouterr().out.splitlines()[0])["result"] == "delivered"
    assert (place.output / "run" / "c.dat").read_bytes() == data
    assert list(Quarantine(place.output).ids()) == []


def test_show_tells_all_that_is_known_of_a_file_whose_hash_is_wrong(
    broker: LocalBroker, topic: MakeTopic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the record stands behind which it was found out, when that was, its final name, both hashes, its mtime."""
    place, data = Place(tmp_path, broker.bootstrap, topic(partitions=3)), b"0123456789"
    *most, last = (v2.decode(value) for value in v2_chunks("run/a.tmp", data))
    wrong = replace(last, payload=b"!!", name="run/a.dat")
    produce(place.bootstrap, place.topic, [(b"k", v2.encode(chunk)) for chunk in [*most, wrong]], partition=1)
    began = time.time()
    with place.download("--until-idle", 1) as receiver:
        assert receiver.wait() == ERROR
    (entry,) = Quarantine(place.output).entries()

    assert main(["quarantine", "show", str(place.output), entry.id, "--json"]) == OK
    told = json.loads(capsys.readouterr().out)

    assert (told["topic"], told["partition"], told["offset"]) == (place.topic, 1, len(most))
    assert (told["path"], told["reason"]) == ("run/a.dat", "its bytes differ from the hash its sender gave")
    assert told["expected_hash"] == blake3.blake3(data).hexdigest()
    assert told["found_hash"] == blake3.blake3(data[:8] + b"!!").hexdigest()
    assert told["hash"] == "blake3"
    assert datetime.fromisoformat(told["mtime"]).timestamp() == pytest.approx((last.mtime_ns or 0) / 1e9, abs=0.001)
    assert began - 1 < datetime.fromisoformat(told["at"]).timestamp() < time.time() + 1
    assert main(["quarantine", "show", str(place.output), entry.id]) == OK
    text = capsys.readouterr().out
    assert f"topic        {place.topic}, partition 1, offset {len(most)}\n" in text
    assert f"hash         blake3 {blake3.blake3(data).hexdigest()}, its sender says\n" in text
    assert f"found        {blake3.blake3(data[:8] + b'!!').hexdigest()} when it came here\n" in text
    assert "path         run/a.dat\n" in text
    assert "changed      " in text


def test_a_record_says_the_path_and_the_time_at_which_it_came_into_quarantine(
    broker: LocalBroker, topic: MakeTopic, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a chunk that contradicts its file; the time is kept in the note, whatever copies the folder."""
    place = Place(tmp_path, broker.bootstrap, topic())
    first, *_, last = (v2.decode(value) for value in v2_chunks("run/a.dat", b"0123456789"))
    bad = replace(last, size=3, offset=1)
    produce(place.bootstrap, place.topic, [(b"k", v2.encode(first)), (b"k", v2.encode(last)), (b"k", v2.encode(bad))])
    with place.download("--until-idle", 1) as receiver:
        receiver.wait()
    (note,) = (place.output / WORK_FOLDER / "quarantine").glob("*.json")
    os.utime(note, (1, 1))

    assert main(["quarantine", "list", str(place.output), "--json"]) == OK
    told = json.loads(capsys.readouterr().out.splitlines()[0])

    assert (told["id"], told["path"]) == (f"{place.topic}-0-2", "run/a.dat")
    assert datetime.fromisoformat(told["at"]).timestamp() > 1_000_000_000
