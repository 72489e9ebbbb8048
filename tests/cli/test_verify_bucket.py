"""``openmsistream verify --bucket`` as a user types it, on a real store."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from openmsistream.core.chunk import HashName
from openmsistream.local.broker import LocalBroker
from openmsistream.local.ports import free_port
from openmsistream.local.store import LocalStore
from tests.cli.test_verify import DIFFERENT, EQUAL, FAILED, Typed
from tests.conftest import MakeTopic
from tests.faults.bucket_place import BucketPlace
from tests.faults.records import produce
from tests.faults.support import fill
from tests.pipeline.material import v1_records

MIB = 1024 * 1024


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic, store: LocalStore, bucket: str) -> BucketPlace:
    return BucketPlace(tmp_path, broker.bootstrap, topic(partitions=2), store, bucket)


def everything(place: BucketPlace) -> list[object]:
    topic = ["--config", place.config, "--topic-name", place.topic]
    return ["--source", place.watched, *topic, "--bucket", place.bucket]


def put(place: BucketPlace, path: str, data: bytes, **more: object) -> None:
    """Somebody else writes an object, with any tool."""
    with place.client() as client:
        client.put_object(Bucket=place.bucket, Key=f"{place.topic}/{path}", Body=data, **more)


def remove(place: BucketPlace, path: str) -> None:
    with place.client() as client:
        client.delete_object(Bucket=place.bucket, Key=f"{place.topic}/{path}")


def delivered(place: BucketPlace, files: dict[str, int], *options: object) -> None:
    """Files that were watched, sent, and put into the bucket."""
    fill(place.watched, files)
    place.send("--upload-existing")
    place.deliver(*options)


def test_source_topic_and_bucket_are_equal_after_a_transfer(place: BucketPlace, verify: Typed) -> None:
    """Large and small ones; by what the objects say, so that only the source is read."""
    delivered(place, {"run/large.dat": 9 * MIB, "b.dat": 10, "empty.dat": 0})

    code, told, summary = verify(*everything(place))

    assert (code, told) == (EQUAL, set())
    assert (summary["equal"], summary["notes"], summary["compared_by_size_only"]) == (3, [], 0)
    assert summary["compared_bytes"] == 9 * MIB + 10
    assert summary["places"]["bucket"] == {"files": 3, "bytes": 9 * MIB + 10, "left_out": 0}


def test_missing_extra_and_different_objects_are_named(place: BucketPlace, verify: Typed) -> None:
    """Removed, written by somebody else, of another size, of other bytes of the same size."""
    delivered(place, {"same.dat": 10, "lost.dat": 20, "other.dat": 30, "longer.dat": 40, "large.dat": 9 * MIB})
    remove(place, "lost.dat")
    put(place, "other.dat", b"!" * 30)
    put(place, "longer.dat", b"!" * 41)
    put(place, "large.dat", bytes(9 * MIB))
    put(place, "run/mine.dat", b"1")

    code, told, summary = verify(*everything(place))

    assert code == DIFFERENT
    assert told == {
        ("missing", "bucket", "lost.dat"),
        ("different", "bucket", "other.dat"),
        ("different", "bucket", "longer.dat"),
        ("different", "bucket", "large.dat"),
        ("extra", "bucket", "run/mine.dat"),
    }
    assert summary["equal"] == 1
    assert blake3(b"!" * 30).hexdigest() in verify.reasons["other.dat"]
    assert verify(*everything(place), "--ignore-extra")[2]["extra"] == 0
    code, text = verify.plain(*everything(place))
    assert "different  in bucket       longer.dat: 41 bytes, source has 40\n" in text


def test_objects_that_say_no_hash_are_read_and_compared(place: BucketPlace, verify: Typed) -> None:
    """Somebody else copied the folder there, with keys as the template has them; also one that says nonsense."""
    fill(place.watched, {"a.dat": 3 * MIB, "run/b.dat": 10, "c.dat": 20})
    for path in ("a.dat", "run/b.dat"):
        put(place, path, (place.watched / path).read_bytes())
    put(place, "c.dat", b"!" * 20, Metadata={"blake3": "00", "oms-version": "not hexadecimal"})
    topic = ["--key-template", f"{place.topic}/{{path}}"]
    words = ["--source", place.watched, "--config", place.config, "--bucket", place.bucket, *topic]

    code, told, summary = verify(*words)

    assert (code, told) == (DIFFERENT, {("different", "bucket", "c.dat")})
    assert (summary["equal"], summary["compared_bytes"]) == (2, 2 * (3 * MIB + 30))


def test_an_object_that_says_the_right_hash_and_has_other_bytes_is_found_when_it_is_read(
    place: BucketPlace, verify: Typed
) -> None:
    """With --verify-read-back; without it what it says is believed, as the page of this command tells."""
    delivered(place, {"a.dat": 1000, "b.dat": 1000})
    put(place, "a.dat", b"!" * 1000, Metadata=place.head("a.dat")["Metadata"])

    assert verify(*everything(place))[0] == EQUAL
    assert verify(*everything(place), "--verify-read-back")[1] == {("different", "bucket", "a.dat")}


def test_sizes_only_reads_no_object(place: BucketPlace, verify: Typed) -> None:
    """Other bytes of the same size are not noticed, other sizes are."""
    delivered(place, {"a.dat": 10, "b.dat": 10})
    put(place, "a.dat", b"!" * 10)
    put(place, "b.dat", b"!" * 11)

    code, told, summary = verify(*everything(place), "--sizes-only")

    assert (code, told) == (DIFFERENT, {("different", "bucket", "b.dat")})
    assert (summary["compared_by_size_only"], summary["compared_bytes"]) == (1, 0)


def test_a_folder_and_a_bucket_can_be_compared_without_source_and_topic(place: BucketPlace, verify: Typed) -> None:
    """Where the config file names the topic, nobody has to."""
    delivered(place, {"run/a.dat": 9 * MIB, "b.dat": 10}, "--mode", "both", "--output-dir", place.output)
    (place.output / "b.dat").unlink()
    with place.config.open("a", encoding="utf-8") as file:
        file.write(f"[download]\ntopic_name = {place.topic}\n")
    words = ["--destination", place.output, "--bucket", place.bucket, "--config", place.config]

    code, told, summary = verify(*words)

    assert (code, told) == (DIFFERENT, {("extra", "bucket", "b.dat")})
    assert summary["equal"] == 1


def test_files_of_1x_are_compared_by_the_hash_they_have(place: BucketPlace, verify: Typed) -> None:
    """SHA-512, which is the version of a file from 1.x, so that no object is read."""
    contents = {"small.dat": b"1" * 1000, "large.dat": bytes(range(256)) * (9 * MIB // 256)}
    for name, content in contents.items():
        fill(place.watched, {name: 0})
        (place.watched / name).write_bytes(content)
        records = v1_records(name, content, mtime_ns=10**18, chunk_bytes=MIB)
        produce(place.bootstrap, place.topic, ((name.encode(), value) for value in records))
    place.deliver()
    words = ["--source", place.watched, "--config", place.config, "--bucket", place.bucket]
    words += ["--key-template", f"{place.topic}/{{path}}"]

    code, told, summary = verify(*words)

    assert (code, told) == (EQUAL, set())
    assert summary["compared_bytes"] == 9 * MIB + 1000
    assert place.head("small.dat")["Metadata"].get(HashName.SHA512.value)


def test_a_template_without_folders_compares_the_file_that_the_object_says_it_is(
    place: BucketPlace, verify: Typed
) -> None:
    """Of two files of one name only one can be there; the other one is missing."""
    template = ["--key-template", "{topic}/{name}"]
    delivered(place, {"one/a.dat": 10, "two/a.dat": 20, "b.dat": 30}, *template)
    with place.client() as client:
        there = client.head_object(Bucket=place.bucket, Key=f"{place.topic}/a.dat")["ContentLength"]

    code, told, summary = verify(*everything(place), *template)

    lost = "one/a.dat" if there == 20 else "two/a.dat"
    assert (code, told) == (DIFFERENT, {("missing", "bucket", lost)})
    assert summary["equal"] == 2


def test_objects_of_others_in_the_bucket_are_left_out(place: BucketPlace, verify: Typed) -> None:
    """Of other topics, folders that some tools make, and keys that the template does not make, which are counted."""
    template = ["--key-template", "{topic}/{path}.raw"]
    delivered(place, {"run/a.dat": 10}, *template)
    with place.client() as client:
        for key in ("other/a.dat", f"{place.topic}/", f"{place.topic}/run/", f"{place.topic}/notes.txt"):
            client.put_object(Bucket=place.bucket, Key=key, Body=b"")

    code, told, summary = verify(*everything(place), *template)

    assert (code, told) == (EQUAL, set())
    assert summary["notes"] == [
        "bucket: the key template makes no such keys as 1 objects there have: these were left out"
    ]


def test_without_a_config_file_the_environment_says_where_the_store_is(
    place: BucketPlace, verify: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the names of 1.x."""
    fill(place.watched, {"a.dat": 10})
    put(place, "a.dat", (place.watched / "a.dat").read_bytes())
    for name, value in place.access.environment().items():
        monkeypatch.setenv(name, value)

    words = ["--source", place.watched, "--bucket", place.bucket, "--key-template", f"{place.topic}/{{path}}"]
    assert verify(*words)[:2] == (EQUAL, set())


def test_a_bucket_that_cannot_be_listed_ends_it_with_2(place: BucketPlace, verify: Typed) -> None:
    """Wrong keys, no such bucket, no store, a name or a template that cannot be, nobody who says the topic."""
    fill(place.watched, {"a.dat": 10})
    template = ["--key-template", "{path}"]
    words = ["--source", place.watched, "--config", place.config]

    assert verify.plain(*words, "--bucket", "there-is-none", *template)[0] == FAILED
    assert "bucket there-is-none at" in verify.errors
    assert "there is no such bucket" in verify.errors
    assert verify.plain(*words, "--bucket", "a/b", *template)[0] == FAILED
    assert "Error: bucket: 'a/b' is not the name of a bucket" in verify.errors
    assert verify.plain(*words, "--bucket", place.bucket, "--key-template", "{topic}")[0] == FAILED
    assert "'{topic}' is not a template for keys" in verify.errors
    assert verify.plain(*words, "--bucket", place.bucket)[0] == FAILED
    assert "nothing says what the topic is called" in verify.errors
    assert "give --key-template NAME/{path}" in verify.errors

    place.configure(s3=f"access_key_id = NOBODY\nsecret_key_id = {place.access.secret_key}\n")
    assert verify.plain(*words, "--bucket", place.bucket, *template)[0] == FAILED
    assert "the store does not accept our keys" in verify.errors
    assert place.access.secret_key not in verify.errors
    place.endpoint = f"http://127.0.0.1:{free_port()}"
    place.configure()
    assert verify.plain(*words, "--bucket", place.bucket, *template)[0] == FAILED
    assert "Could not connect" in verify.errors


def test_an_account_that_may_only_read_is_enough(place: BucketPlace, verify: Typed) -> None:
    """Nothing is written, not even to find out whether that is allowed."""
    delivered(place, {"a.dat": 10, "large.dat": 9 * MIB})
    reader = place.store.reader
    place.configure(s3=f"access_key_id = {reader.access_key}\nsecret_key_id = {reader.secret_key}\n")

    assert verify(*everything(place))[:2] == (EQUAL, set())
    assert verify(*everything(place), "--verify-read-back")[:2] == (EQUAL, set())
