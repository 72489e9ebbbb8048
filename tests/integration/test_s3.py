"""Delivery to a real bucket from a real topic: whole, verified, once, with what an object says of itself."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from openmsistream import OSNStreamProcessor, S3TransferStreamProcessor
from openmsistream.cli.main import main
from openmsistream.core.wire import v2
from openmsistream.local.broker import LocalBroker
from openmsistream.local.store import LocalStore
from tests.conftest import MakeTopic
from tests.faults.bucket_place import BucketPlace
from tests.faults.records import produce
from tests.faults.support import fill, tree
from tests.pipeline.material import v1_records, v2_chunks

MIB = 1024 * 1024


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, topic: MakeTopic, store: LocalStore, bucket: str) -> BucketPlace:
    return BucketPlace(tmp_path, broker.bootstrap, topic(partitions=2), store, bucket)


def sent(place: BucketPlace) -> dict[str, str]:
    """SHA-256 of every watched file by its path."""
    return {path.decode(): digest for path, digest in tree(place.watched).items()}


def test_files_of_all_sizes_become_objects_once(place: BucketPlace):
    """Empty, small, of exactly one part, and of several parts; a second run delivers nothing again."""
    fill(place.watched, {"empty": 0, "run 1/ü.csv": 1000, "one part": 8 * MIB, "deep/er/large": 20 * MIB + 7})
    place.send("--upload-existing")

    first = place.deliver()
    again = place.deliver()

    assert place.objects() == sent(place)
    assert sorted(first.paths("file_delivered")) == sorted(sent(place))
    assert again.paths("file_delivered") == []
    assert place.store.unfinished_uploads(place.bucket) == []


def test_an_object_says_which_version_it_holds(place: BucketPlace):
    """Small ones carry their BLAKE3 in the metadata, large ones as a tag, since it was not known at their start."""
    fill(place.watched, {"small": 1000, "large": 9 * MIB})
    place.send("--upload-existing")

    place.deliver()

    for path in ("small", "large"):
        said = place.head(path)["Metadata"]
        file = place.watched / path
        digest = blake3(file.read_bytes()).hexdigest()
        assert said["oms-path"] == path
        assert len(bytes.fromhex(said["oms-version"])) == 16
        assert said.get("blake3", place.tags(path).get("blake3")) == digest
        seconds, nanoseconds = divmod(file.stat().st_mtime_ns, 10**9)
        assert said["mtime"] == f"{seconds}.{nanoseconds:09}"
        assert int(said["oms-gen"]) > 0
    assert "blake3" in place.head("small")["Metadata"]
    assert place.tags("large")["blake3"]


def test_the_store_has_checked_a_crc_of_the_whole_object(place: BucketPlace):
    """Also of one that was sent in parts."""
    fill(place.watched, {"large": 17 * MIB})
    place.send("--upload-existing")

    place.deliver()

    head = place.head("large")
    assert head["ChecksumType"] == "FULL_OBJECT"
    assert head["ChecksumCRC32"]
    assert head["ETag"].strip('"').endswith("-3")


def test_a_newer_version_takes_the_place_of_an_older_one(place: BucketPlace):
    """Of a small file and of a large one, also when the large one becomes small."""
    fill(place.watched, {"a": 1000, "b": 9 * MIB})
    place.send("--upload-existing")
    place.deliver()

    fill(place.watched, {"a": 10 * MIB, "b": 10}, seed=1)
    place.send()
    place.deliver()

    assert place.objects() == sent(place)


def test_the_template_names_the_objects(place: BucketPlace):
    """With the topic, the folder and the name of a file at any place."""
    fill(place.watched, {"run/scan.dat": 10, "top.dat": 10})
    place.send("--upload-existing")

    place.deliver("--key-template", "lab/{folder}/of {topic}/{name}")

    assert place.keys() == {f"lab/run/of {place.topic}/scan.dat", f"lab/of {place.topic}/top.dat"}


@pytest.mark.parametrize("mode", ["both", "disk"])
def test_copies_on_disk_stand_beside_the_bucket(place: BucketPlace, mode: str):
    """As with --mode of 1.x, where both words end with the file in both places."""
    fill(place.watched, {"run/small": 10, "large": 9 * MIB})
    place.send("--upload-existing")

    place.deliver("--mode", mode, "--output-dir", place.output)

    assert place.objects() == sent(place)
    assert tree(place.output) == tree(place.watched)
    (partials,) = (place.output / ".openmsistream" / "partial").iterdir()
    assert partials.name.startswith(f"s3-{place.topic}-")  # whoever else writes to that folder leaves them alone


def test_everything_is_read_back_when_asked_for(place: BucketPlace):
    """And an object that somebody changed is not what a second look takes for delivered."""
    fill(place.watched, {"small": 10, "large": 9 * MIB})
    place.send("--upload-existing")

    done = place.deliver("--verify-read-back")

    assert sorted(done.paths("file_delivered")) == ["large", "small"]
    assert place.objects()["small"] == hashlib.sha256((place.watched / "small").read_bytes()).hexdigest()


def test_a_large_file_that_gets_its_name_at_the_end_stands_under_that_name_alone(place: BucketPlace):
    """As one that was streamed while it had a temporary name: the program reads it again by itself."""
    data = bytes(range(256)) * (20 * MIB // 256)
    *most, last = v2_chunks("scan.tmp", data, 1, chunk_bytes=MIB)
    chunks = [*(replace(chunk, size=None) for chunk in most), replace(last, name="scan.dat")]
    produce(place.bootstrap, place.topic, ((b"scan.tmp", v2.encode(chunk)) for chunk in chunks), partition=0)

    done = place.deliver()

    assert done.paths("file_delivered") == ["scan.dat"]
    assert place.objects() == {"scan.dat": hashlib.sha256(data).hexdigest()}
    assert place.store.unfinished_uploads(place.bucket) == []


def test_a_large_file_whose_hash_is_wrong_stands_in_quarantine_with_all_that_is_known(
    place: BucketPlace, capsys: pytest.CaptureFixture[str]
):
    """Its bytes were in the store already and are removed there; the note says where the topic has them."""
    data = bytes(20 * MIB)
    *most, last = v2_chunks("large", data, 1, chunk_bytes=MIB)
    wrong = [*most, replace(last, digest=b"D" * 32)]
    produce(place.bootstrap, place.topic, ((b"large", v2.encode(chunk)) for chunk in wrong), partition=1)

    with place.to_s3("--until-idle", 1) as receiver:
        assert receiver.wait() == 1

    assert place.keys() == set()
    assert place.store.unfinished_uploads(place.bucket) == []
    assert main(["quarantine", "list", str(place.work), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out.splitlines()[0])
    assert main(["quarantine", "show", str(place.work), listed["id"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["topic"], told["partition"], told["offset"]) == (place.topic, 1, 19)
    assert (told["path"], told["size"]) == ("large", None)
    assert told["expected_hash"] == (b"D" * 32).hex()
    assert told["found_hash"] == blake3(data).hexdigest()
    assert "they were in the store already, and the topic has them" in told["reason"]


@pytest.mark.parametrize("program", [S3TransferStreamProcessor, OSNStreamProcessor])
def test_programs_in_python_deliver_as_with_1x(place: BucketPlace, program: type[S3TransferStreamProcessor]):
    """With its names and arguments, and what it returned; anything else by the names of the command line."""
    fill(place.watched, {"run/a.dat": 10, "b.log.txt": 10, "large": 9 * MIB})
    place.send("--upload-existing")

    made = program(
        place.bucket,
        place.config,
        place.topic,
        filepath_regex=r"(?!b)",
        state_dir=place.state,
        until_idle=1,
        consumer_group_id="create_new",
    )
    read, handled, delivered, paths = made.process_files_as_read()
    made.close()

    assert (read, handled, delivered) == (20, 20, 2)
    assert sorted(paths) == [Path("large"), Path("run/a.dat")]
    assert place.objects() == {path: digest for path, digest in sent(place).items() if not path.startswith("b")}


def test_a_file_of_1x_whose_chunks_come_in_any_order_is_delivered(place: BucketPlace):
    """They wait on the disk until all are there; the object says the SHA-512 that stands for its version."""
    data = bytes(range(256)) * (10 * MIB // 256)
    records = v1_records("run/scan.dat", data, mtime_ns=10**18, chunk_bytes=MIB)
    random.Random(1).shuffle(records)
    produce(place.bootstrap, place.topic, ((b"run/scan.dat", value) for value in records))

    place.deliver()

    assert place.objects() == {"run/scan.dat": hashlib.sha256(data).hexdigest()}
    assert place.head("run/scan.dat")["Metadata"]["oms-version"] == hashlib.sha512(data).hexdigest()
