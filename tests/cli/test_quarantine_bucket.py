"""``openmsistream quarantine`` on what could not be delivered to a bucket: retry puts it there, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from openmsistream.adapters.filesystem.quarantine import Quarantine
from openmsistream.adapters.s3.work_folder import NOTE
from openmsistream.cli.main import main
from openmsistream.core.chunk import Chunk
from openmsistream.core.wire import v2
from openmsistream.local.broker import LocalBroker
from openmsistream.local.ports import free_port
from openmsistream.local.store import LocalStore
from tests.conftest import MakeTopic
from tests.faults.bucket_place import BucketPlace
from tests.faults.http_proxy import HttpProxy, Refuse, Request
from tests.faults.records import produce
from tests.faults.support import killed, program
from tests.pipeline.material import v2_chunks

OK, ERROR = 0, 1
MIB = 1024 * 1024
SMALL, LARGE = b"0123456789", bytes(range(256)) * (80 * 1024)
"""The second takes three parts of a multipart upload."""


@pytest.fixture
def proxy(store: LocalStore) -> Iterator[HttpProxy]:
    with HttpProxy(store.port) as line:
        yield line


@pytest.fixture
def place(
    tmp_path: Path, broker: LocalBroker, topic: MakeTopic, store: LocalStore, bucket: str, proxy: HttpProxy
) -> BucketPlace:
    return BucketPlace(tmp_path, broker.bootstrap, topic(), store, bucket, endpoint=proxy.address)


def wrong(path: str, data: bytes, gen: int = 1) -> list[Chunk]:
    """A file whose sender gives a hash that its bytes do not have."""
    *most, last = v2_chunks(path, data, gen, chunk_bytes=MIB)
    return [*most, replace(last, digest=b"D" * 32)]


def quarantined(place: BucketPlace, *chunks: Chunk) -> None:
    """Have the program put these into quarantine."""
    produce(place.bootstrap, place.topic, ((chunk.path.encode(), v2.encode(chunk)) for chunk in chunks))
    with place.to_s3("--until-idle", 1) as receiver:
        assert receiver.wait() in {OK, ERROR}
    assert receiver.of("quarantined")


def put(place: BucketPlace, path: str, data: bytes) -> None:
    with place.client() as client:
        client.put_object(Bucket=place.bucket, Key=f"{place.topic}/{path}", Body=data)


def body(place: BucketPlace, path: str) -> bytes:
    with place.client() as client:
        return bytes(client.get_object(Bucket=place.bucket, Key=f"{place.topic}/{path}")["Body"].read())


class Typed:
    """``openmsistream quarantine ACTION FOLDER WORDS --json`` in this process: exit code, lines, and errors."""

    def __init__(self, place: BucketPlace, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self._capsys = place, capsys
        self.errors = ""

    def __call__(self, action: str, *words: str) -> tuple[int, list[dict[str, Any]]]:
        self._capsys.readouterr()
        code = main(["quarantine", action, str(self.place.work), *words, "--json"])
        printed = self._capsys.readouterr()
        self.errors = printed.err
        return code, [json.loads(line) for line in printed.out.splitlines()]

    def retry(self, *words: str) -> tuple[int, dict[str, tuple[str, str]]]:
        code, told = self("retry", *words, "--config", str(self.place.config))
        return code, {e["path"]: (e["result"], e["reason"]) for e in told if e["event"] == "quarantine_outcome"}

    @property
    def left(self) -> int:
        return len(list(Quarantine(self.place.work).ids()))


@pytest.fixture
def typed(place: BucketPlace, capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(place, capsys)


def test_what_is_accepted_becomes_an_object_with_its_own_hash_while_the_program_runs(place: BucketPlace, typed: Typed):
    """Small ones from what is kept here, large ones from the topic; none appears in a folder."""
    quarantined(place, *wrong("run/small.dat", SMALL), *wrong("run/large.dat", LARGE, 2))
    assert place.keys() == set()

    code, without = typed.retry("--all")
    assert (code, typed.left) == (ERROR, 2)
    assert {result for result, _ in without.values()} == {"kept"}

    with place.to_s3() as receiver:
        receiver.until_event("program_started")
        code, told = typed.retry("--all", "--accept")
        assert receiver.running
        assert receiver.quit() == OK

    where = f"whole, and in the bucket {place.bucket} at {place.endpoint}"
    assert (code, told) == (OK, dict.fromkeys(("run/small.dat", "run/large.dat"), ("delivered", where)))
    assert body(place, "run/small.dat") == SMALL
    assert body(place, "run/large.dat") == LARGE
    assert place.head("run/small.dat")["Metadata"]["blake3"] == blake3(SMALL).hexdigest()
    assert place.tags("run/large.dat")["blake3"] == blake3(LARGE).hexdigest()
    assert typed.left == 0
    assert place.store.unfinished_uploads(place.bucket) == []
    assert list(place.work.rglob("*.dat")) == []


def test_the_program_says_where_to_look_once(place: BucketPlace):
    """Its work folder has a name that nobody can guess."""
    produce(place.bootstrap, place.topic, [(b"k", b"{}"), (b"k", b"[]")])
    with place.to_s3("--until-idle", 1) as receiver:
        receiver.wait()
    (note,) = [note for note in receiver.of("note") if "quarantine" in note["text"]]
    assert str(place.work) in note["hint"]
    assert len(receiver.of("quarantined")) == 2


def test_an_object_that_is_there_is_never_replaced(place: BucketPlace, typed: Typed):
    """With other bytes it stays, and the entry does; with the same ones there is nothing left to do."""
    quarantined(place, *wrong("other", SMALL), *wrong("same", SMALL, 2))
    put(place, "other", b"of somebody else")
    put(place, "same", SMALL)

    code, told = typed.retry("--all", "--accept")

    assert code == ERROR
    assert told["other"] == ("kept", "something else of that name is there, and nothing is replaced")
    assert told["same"][0] == "delivered"
    assert body(place, "other") == b"of somebody else"
    code, (entry, _) = typed("list")
    assert typed.retry(entry["id"], "--accept", "--as", "beside/other")[1]["beside/other"][0] == "delivered"
    assert body(place, "beside/other") == SMALL
    assert typed.left == 0


def test_a_path_that_no_object_may_have_is_delivered_under_another_one(place: BucketPlace, typed: Typed):
    """One that leads out, and one that makes too long a key for ``--as``."""
    quarantined(place, *(replace(chunk, path="../up") for chunk in v2_chunks("up", SMALL, 1)))
    code, told = typed.retry("--all")
    assert (code, told["../up"][0]) == (ERROR, "kept")

    code, lines = typed("list")
    ids = [line["id"] for line in lines if "id" in line]
    assert len(ids) == 3
    with pytest.raises(SystemExit):
        typed.retry(*ids, "--as", "up")
    code, told = typed.retry(ids[0], "--as", "x" * 1100)
    assert code == ERROR
    assert "1,024" in typed.errors or "255" in typed.errors

    code, told = typed.retry(ids[0], "--as", "up")
    assert (code, told["up"][0]) == (OK, "delivered")
    assert body(place, "up") == SMALL


def test_the_bucket_is_the_one_that_the_other_files_went_to(place: BucketPlace, typed: Typed):
    """A config file for another store, or none, is refused before anything is sent."""
    quarantined(place, *wrong("a", SMALL))
    told_it = place.endpoint
    place.endpoint = f"http://127.0.0.1:{free_port()}"
    place.configure()

    assert typed.retry("--all", "--accept") == (ERROR, {})
    assert f"is at {told_it}, and what is configured here is {place.endpoint}" in typed.errors
    assert typed("retry", "--all", "--accept") == (ERROR, [])
    assert "is AWS S3" in typed.errors
    assert typed.left == 1

    (place.work / NOTE).write_text("{")
    assert typed.retry("--all", "--accept") == (ERROR, {})
    assert "is damaged" in typed.errors
    assert typed.left == 1


def test_a_damaged_note_of_the_bucket_is_written_anew_at_the_next_start(place: BucketPlace, typed: Typed):
    """A power cut may leave it empty: that must not keep the program from starting."""
    quarantined(place, *wrong("a", SMALL))
    (place.work / NOTE).write_bytes(b"")

    place.deliver()

    assert typed.retry("--all", "--accept")[0] == OK
    assert body(place, "a") == SMALL


def test_a_store_that_is_away_costs_nothing(place: BucketPlace, typed: Typed, proxy: HttpProxy):
    """It is said, what is in quarantine stays there, and the next retry delivers it."""
    quarantined(place, *wrong("a", SMALL), *wrong("large", LARGE, 2))
    proxy.rule = lambda request: Refuse(503, "SlowDown") if request.is_part or request.is_put else None

    code, told = typed.retry("--all", "--accept")

    assert (code, told) == (ERROR, {})
    assert f"bucket {place.bucket}" in typed.errors
    assert typed.left == 2
    proxy.rule = lambda _: None
    assert typed.retry("--all", "--accept")[0] == OK
    assert (body(place, "a"), body(place, "large")) == (SMALL, LARGE)
    assert place.store.unfinished_uploads(place.bucket) == []


def test_what_a_killed_retry_left_in_the_store_is_removed_by_the_next(place: BucketPlace, typed: Typed):
    """An upload of which one part is there."""
    quarantined(place, *wrong("large", LARGE))
    words = ("quarantine", "retry", place.work, "--all", "--accept", "--config", place.config)
    with program(*words, kill="openmsistream.adapters.s3.bucket:Bucket.put_part:after:1") as retry:
        assert killed(retry.wait())
    assert len(place.store.unfinished_uploads(place.bucket)) == 1
    assert typed.left == 1

    assert typed.retry("--all", "--accept")[0] == OK

    assert body(place, "large") == LARGE
    assert place.store.unfinished_uploads(place.bucket) == []
    assert typed.left == 0


def test_an_object_that_comes_while_a_file_is_sent_is_never_replaced(
    place: BucketPlace, typed: Typed, proxy: HttpProxy
):
    """Small or large, newer or older: what was begun is removed, and the entry stays."""
    quarantined(place, *wrong("small", SMALL), *wrong("large", LARGE, 2))

    def meanwhile(request: Request) -> None:
        path = request.path.rsplit("/", 1)[-1]
        if (request.is_put or request.is_end) and path not in come:
            come.add(path)
            put(place, path, b"of somebody else")

    come: set[str] = set()
    proxy.rule = meanwhile
    code, told = typed.retry("--all", "--accept")

    assert come == {"small", "large"}
    assert code == ERROR
    assert {result for result, _ in told.values()} == {"kept"}
    assert body(place, "small") == body(place, "large") == b"of somebody else"
    assert typed.left == 2
    assert place.store.unfinished_uploads(place.bucket) == []
