"""Anybody may write to a topic: hostile and broken records among good files, through the command line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import blake3
import msgpack
import psutil

from openmsistream.core.paths import WORK_FOLDER
from tests.faults.records import produce, raw_records
from tests.faults.support import Place, Program, fill, tree
from tests.faults.typed import OK, like_any_user, linux, run

RSS_LIMIT_BYTES = 200_000_000
DISK_LIMIT_BYTES = 64_000_000
HUGE = 2**62
DATA = b"hostile"


def v2(path: str | bytes, data: bytes = DATA, **changes: Any) -> bytes:
    """A v2 record of a whole file in one chunk, put together by hand; a change to None leaves the key out."""
    header: dict[str, Any] = {
        "id": hashlib.blake2b(repr((path, changes)).encode(), digest_size=16).digest(),
        "src": b"s" * 16,
        "gen": 1,
        "path": path,
        "off": 0,
        "idx": 0,
        "mtime": 0,
        "size": len(data),
        "last": True,
        "hash": blake3.blake3(data).digest(),
    }
    packed: bytes = msgpack.packb({k: v for k, v in (header | changes).items() if v is not None})
    return b"OMS2" + len(packed).to_bytes(2, "big") + packed + data


def v1(folder: str, name: str, data: bytes = DATA, offset: int = 0, index: int = 1, total: int = 1) -> bytes:
    """A v1 record, put together by hand."""
    digest = hashlib.sha512(data).digest()
    packed: bytes = msgpack.packb([name, digest, digest, offset, index, total, folder, "", data, 0.0])
    return packed


def bad_paths(outside: Path) -> list[str]:
    """Paths that lead out of an output folder, or that no folder should get; ``outside`` is a folder next to it."""
    return [
        str(outside / "absolute.txt"),
        "../outside/up.txt",
        "a/../../outside/deeper.txt",
        "..",
        ".",
        "",
        "a//b",
        "C:\\windows.txt",
        "C:drive.txt",
        "\\\\server\\share\\x.txt",
        "..\\outside\\back.txt",
        "a\0b",
        "NUL",
        "con.txt",
        "sub/LPT1.dat",
        f"{WORK_FOLDER}/quarantine/x",
        f"{WORK_FOLDER.upper()}/x",
        "x" * 300,
        "d/" * 3000 + "x",
        "link/through.txt",
    ]


def bad_values(outside: Path) -> list[bytes | None]:
    """Everything that must end in quarantine."""
    good = v2("good.txt")
    return [
        *(v2(path) for path in bad_paths(outside)),
        *(v1(folder, name) for folder, _, name in (path.rpartition("/") for path in bad_paths(outside))),
        v2("renamed.txt", name="../outside/renamed.txt"),
        v2("huge offset.bin", off=HUGE, size=HUGE + len(DATA)),
        v2("far ahead.bin", off=10**9, size=HUGE, last=None, hash=None),
        v2("huge index.bin", off=0, idx=2**64 - 1),
        v2("negative.bin", off=-1),
        v2("wrong size.bin", size=3),
        v2("wrong hash.bin", hash=b"h" * 32),
        v2("wrong types.bin", off="0"),
        v2("no id.bin", id=None),
        v1("", "v1 far ahead.bin", offset=HUGE, index=1, total=HUGE),
        v1("", "v1 bad index.bin", index=9, total=2),
        good[:5],
        good[:40],
        b"OMS2\xff\xff",
        b"OMS2\x00\x05\xdf\xff\xff\xff\xff",
        b"\x9a\xdd\xff\xff\xff\xff",
        b"\x9a" + b"\xc6\xff\xff\xff\xff" * 10,
        None,
        b"",
        b"{}",
        os.urandom(5000),
        b"\x00\x00\x00\x00\x07avro",
        b"\x01" + msgpack.packb([b"k" * 32, b"n" * 24, b"c" * 100]),
        b"\x01" + b"g" * 40,
    ]


class Scene:
    """Good files sent between hostile records, and an output folder with a link in it that leads outside."""

    def __init__(self, place: Place, base: Path) -> None:
        self.place, self.base = place, base
        self.outside = base / "outside"
        self.outside.mkdir()
        (self.outside / "precious.txt").write_text("mine", encoding="utf-8")
        place.output.mkdir()
        (place.output / "link").symlink_to(self.outside, target_is_directory=True)
        self.bad = bad_values(self.outside)
        fill(place.watched, {"good/first.bin": 300_000, "good/small.txt": 10})
        place.send("--chunk-size", 65_536)
        produce(place.bootstrap, place.topic, [(b"k", value) for value in self.bad])
        # Many versions that are begun and never ended, each of which says it is enormous.
        produce(
            place.bootstrap,
            place.topic,
            [(b"k", v2(f"begun/{n}.bin", last=None, hash=None, size=HUGE)) for n in range(2000)],
        )
        fill(place.watched, {"good/later.bin": 300_000}, seed=1)
        place.send("--chunk-size", 65_536)
        self.before = self.not_the_output()

    def not_the_output(self) -> dict[str, str]:
        """Everything below the base folder but the output: every name, and what the files hold."""
        found: dict[str, str] = {}
        for here, folders, names in os.walk(self.base):
            if self.place.output.name in folders and Path(here) == self.base:
                folders.remove(self.place.output.name)
            found |= dict.fromkeys((str(Path(here, name)) for name in folders), "")
            for name in names:
                path = Path(here, name)
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def good_files(self) -> dict[bytes, str]:
        found = tree(self.place.output)
        return {path: digest for path, digest in found.items() if path.startswith(b"good/")}

    def sent_files(self) -> dict[bytes, str]:
        return tree(self.place.watched)


def notes(place: Place) -> list[dict[str, Any]]:
    """What stands in quarantine beside the records, and beside files that failed."""
    return [json.loads(path.read_text("utf-8")) for path in (place.output / WORK_FOLDER / "quarantine").glob("*.json")]


def on_disk(folder: Path) -> int:
    """How many bytes a folder takes on its disk, holes in files not counted."""
    return sum(entry.lstat().st_blocks * 512 for entry in folder.rglob("*"))


def until_all_good(scene: Scene, receiver: Program) -> int:
    """Wait for the good files; returns the largest resident memory seen, in bytes."""
    process, largest = psutil.Process(receiver.pid), 0

    def arrived() -> bool:
        nonlocal largest
        largest = max(largest, process.memory_info().rss)
        return len(receiver.of("file_delivered", path="good/later.bin")) == 1

    receiver.until(arrived, "the good file behind the hostile records arrives")
    return largest


def test_hostile_records_harm_nothing_and_stop_nothing(place: Place, tmp_path: Path) -> None:
    """Good files arrive, nothing outside the folder changes, memory stays small, each bad record is put aside."""
    scene = Scene(place, tmp_path)

    with place.download() as receiver:
        largest = until_all_good(scene, receiver)
        code = receiver.quit()

    assert code in {1, 3}, "one file failed its hash, and many are not whole"
    assert receiver.stderr == ""
    assert scene.good_files() == scene.sent_files()
    assert scene.not_the_output() == scene.before
    assert (scene.outside / "precious.txt").read_text("utf-8") == "mine"
    assert tree(place.output).keys() == scene.sent_files().keys()
    assert largest < RSS_LIMIT_BYTES
    assert on_disk(place.output) < DISK_LIMIT_BYTES


def test_every_record_that_cannot_be_handled_is_in_quarantine_with_its_origin(place: Place, tmp_path: Path) -> None:
    """Topic, partition, offset and a reason for each, beside the record itself, and one event for each."""
    scene = Scene(place, tmp_path)
    values = {message.offset(): message.value() for message in raw_records(place.bootstrap, place.topic)}
    bad_offsets = {offset for offset, value in values.items() if value in scene.bad}

    with place.download() as receiver:
        until_all_good(scene, receiver)
        receiver.quit()

    quarantine = place.output / WORK_FOLDER / "quarantine"
    records = {note["offset"]: note for note in notes(place) if "version" not in note}
    files = [note for note in notes(place) if "version" in note]
    # Two are whole files when they come: one whose hash is wrong, and those that a link in the folder leads away.
    assert {note["path"] for note in files} <= {"wrong hash.bin", "link/through.txt"}
    assert len(records) + len(files) == len(scene.bad)
    assert records.keys() <= bad_offsets
    for note in files:
        assert (note["topic"], note["partition"]) == (place.topic, 0)
        assert note["offset"] in bad_offsets
    for offset, note in records.items():
        assert (note["topic"], note["partition"]) == (place.topic, 0)
        assert note["reason"]
        assert (quarantine / f"{place.topic}-0-{offset}.value").read_bytes() == (values[offset] or b"")
    told = [event["offset"] for event in receiver.of("quarantined")]
    assert len(told) == len(set(told))
    assert records.keys() <= set(told)


def test_control_a_naive_writer_is_led_outside_by_the_same_records(place: Place, tmp_path: Path) -> None:
    """Without the checks of paths, files appear outside the folder: the comparison above can fail."""
    scene = Scene(place, tmp_path)

    with place.download("--until-idle", 2, changes="trust_paths") as receiver:
        receiver.wait()

    assert receiver.of("program_started")
    assert scene.not_the_output() != scene.before


@linux
def test_a_record_that_names_a_folder_which_nobody_may_enter_stops_no_other(place: Place) -> None:
    """It goes to quarantine, and can be tried again once the rights are there; what may not be read is replaced."""
    (place.output / "lost+found").mkdir(parents=True, mode=0)
    (place.output / "scan.dat").write_bytes(b"hostila")
    (place.output / "scan.dat").chmod(0)
    paths = ["first.txt", "lost+found/x.txt", "scan.dat", "lost+found/y/z.txt", "last.txt"]
    produce(place.bootstrap, place.topic, [(path.encode(), v2(path)) for path in paths])

    with place.download("--until-idle", 1, preexec_fn=like_any_user) as receiver:
        assert receiver.wait() == 1
    again = place.fetch(preexec_fn=like_any_user)

    assert receiver.of("storage_paused") == []
    assert receiver.paths("file_delivered") == ["first.txt", "scan.dat", "last.txt"]
    assert [event["path"] for event in receiver.of("file_failed")] == ["lost+found/x.txt", "lost+found/y/z.txt"]
    assert all("lost+found: Permission denied" in e["reason"] for e in receiver.of("file_failed", path=paths[1]))
    assert again.paths("file_delivered") == []
    (place.output / "lost+found").chmod(0o700)
    assert run("quarantine", "retry", place.output, "--all", preexec_fn=like_any_user).returncode == OK
    assert {name.decode() for name in tree(place.output)} == set(paths)
    assert all((place.output / path).read_bytes() == DATA for path in paths)
