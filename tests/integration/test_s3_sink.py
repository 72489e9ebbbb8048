"""The bucket as a sink on a real store: who overwrites whom, bytes that come again, what is owed after a failure."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from openmsistream.adapters.memory import FakeClock, MemoryConsumer, MemoryTopic
from openmsistream.adapters.s3 import parts, spill
from openmsistream.adapters.s3.answers import NoRightError, WrongDigestError
from openmsistream.adapters.s3.bucket import Bucket
from openmsistream.adapters.s3.ledger import Uploads
from openmsistream.adapters.s3.sending import PartSender, Upload
from openmsistream.adapters.s3.sink import About, S3Settings, S3Sink
from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
from openmsistream.config.s3 import S3Access
from openmsistream.core.chunk import HashName
from openmsistream.core.events import Event, Note
from openmsistream.core.selection import Selection
from openmsistream.core.versions import VersionKey, VersionOrder
from openmsistream.errors import BusyError, BytesLostError, DeliveryError, IntegrityError, StorageError
from openmsistream.local.store import LocalStore
from openmsistream.pipeline.delivery import BarrierSettings
from openmsistream.pipeline.download import Download
from openmsistream.pipeline.download_settings import DownloadSettings
from openmsistream.pipeline.runner import Control
from openmsistream.ports import Publication
from tests.faults.http_proxy import Delay, HttpProxy, Meet, Refuse, Request
from tests.faults.support import eventually
from tests.pipeline.material import v2_records

MIB = 1024 * 1024
SRC, OTHER = b"S" * 16, b"O" * 16
LARGE = bytes(range(256)) * (20 * MIB // 256)

PASSING = [Refuse(404, "NotFound"), Refuse(405, "405"), Refuse(409, "OperationAborted")]

MakeSink = Callable[..., S3Sink]


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def proxy(store: LocalStore) -> Iterator[HttpProxy]:
    with HttpProxy(store.port) as line:
        yield line


@pytest.fixture
def make(store: LocalStore, bucket: str, proxy: HttpProxy, tmp_path: Path, told: list[Event]) -> Iterator[MakeSink]:
    """Make sinks on the bucket; each name stands for another computer."""
    with contextlib.ExitStack() as stack:

        def made(name: str = "here", settings: S3Settings = S3Settings("t"), **access: Any) -> S3Sink:  # noqa: B008
            there = S3Access(proxy.address, store.access_key, store.secret_key, region=store.region, **access)
            sink = S3Sink(Bucket(there, bucket, 20), tmp_path / name, settings, told.append)
            stack.callback(sink.close)
            return sink

        yield made


def version(path: str, data: bytes, gen: int, *, src: bytes = SRC, at_ms: int = 0) -> Publication:
    order = VersionOrder(src, gen, 10**18, at_ms or gen)
    key = VersionKey(path, blake3(src + gen.to_bytes(8, "big")).digest(16))
    return Publication(key, path, len(data), 10**18, blake3(data).digest(), HashName.BLAKE3, order)


def write(sink: S3Sink, publication: Publication, data: bytes) -> None:
    for start in range(0, len(data), MIB):
        sink.write(publication.key, start, data[start : start + MIB])


def deliver(sink: S3Sink, publication: Publication, data: bytes) -> None:
    write(sink, publication, data)
    sink.sync([publication.key])
    assert sink.publish([publication]) == {}


def published(sink: S3Sink, *publications: Publication) -> bool:
    """As the flow does: a destination that refuses now is tried again; nothing is given up."""
    try:
        failed = sink.publish(publications)
    except StorageError:
        return False
    assert failed == {}
    return True


def content(store: LocalStore, bucket: str, path: str) -> bytes:
    with contextlib.closing(store.client()) as client:
        return bytes(client.get_object(Bucket=bucket, Key=f"t/{path}")["Body"].read())


# -- newer and older ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional_writes", ["auto", "none"])
@pytest.mark.parametrize("size", [10, 9 * MIB], ids=["small", "large"])
def test_a_computer_that_was_away_does_not_overwrite_what_is_newer(
    make: MakeSink, store: LocalStore, bucket: str, told: list[Event], size: int, conditional_writes: str
):
    """It had everything of the older version, and publishes it when the newer one stands there: that stays."""
    stale, other = make("stale", conditional_writes=conditional_writes), make("other")
    old, new = version("a", b"o" * size, 1), version("a", b"n" * size, 2)
    write(stale, old, b"o" * size)
    deliver(other, new, b"n" * size)

    assert stale.publish([old]) == {}
    stale.publish([])

    assert content(store, bucket, "a") == b"n" * size
    assert [type(event) for event in told] == [Note]
    assert store.unfinished_uploads(bucket) == []


def test_without_knowing_which_one_is_newer_the_later_one_stays(make: MakeSink, store: LocalStore, bucket: str):
    """Control of the test above: what an object says of its version is what protects it."""
    stale, other = make("stale"), make("other")
    old, new = version("a", b"old", 1), version("a", b"newer", 2)
    unordered = Publication(old.key, old.path, old.size, None, old.digest)
    write(stale, unordered, b"old")
    deliver(other, new, b"newer")

    assert stale.publish([unordered]) == {}

    assert content(store, bucket, "a") == b"old"


def test_of_two_sources_the_later_timestamp_wins_whatever_comes_first(make: MakeSink, store: LocalStore, bucket: str):
    """As in a folder; the time is the broker's."""
    here, there = make("here"), make("there")
    later, earlier = version("a", b"later", 1, at_ms=2000), version("a", b"earlier", 9, src=OTHER, at_ms=1000)

    deliver(here, later, b"later")
    deliver(there, earlier, b"earlier")
    assert content(store, bucket, "a") == b"later"

    latest = version("a", b"latest", 1, src=OTHER, at_ms=3000)
    deliver(there, latest, b"latest")
    assert content(store, bucket, "a") == b"latest"


def test_the_time_of_a_large_version_is_that_of_its_last_record(make: MakeSink, store: LocalStore, bucket: str):
    """Its metadata is fixed when its first record came: that time, which is earlier, stands nowhere."""
    here, there = make("here"), make("there")
    later, earlier = version("a", LARGE, 1, at_ms=3000), version("a", b"earlier", 1, src=OTHER, at_ms=2000)
    here.describe = lambda key: About(key.path, VersionOrder(SRC, 1, 10**18, 1000))

    deliver(here, later, LARGE)
    deliver(there, earlier, b"earlier")

    assert content(store, bucket, "a") == LARGE
    assert tags(store, bucket, "a")["oms-time"] == "3000"


def test_an_object_of_somebody_else_is_replaced(make: MakeSink, store: LocalStore, bucket: str):
    """It says nothing of versions."""
    with contextlib.closing(store.client()) as client:
        client.put_object(Bucket=bucket, Key="t/a", Body=b"somebody else's")

    deliver(make(), version("a", b"ours", 1), b"ours")

    assert content(store, bucket, "a") == b"ours"


# -- how they are sent ------------------------------------------------------------------------------------------------


def test_small_files_are_sent_in_parallel_each_in_one_request(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """The store answers none of them before 32 are there; nothing else is asked of it."""
    sink, files = make(), [version(f"{n:02}", bytes([n]), n + 1) for n in range(32)]
    for number, one in enumerate(files):
        write(sink, one, bytes([number]))
    meeting = Meet(threading.Barrier(32))
    proxy.rule = lambda request: meeting if request.is_put else None

    assert sink.publish(files) == {}

    assert [request.method for request in proxy.requests] == ["PUT"] * 32
    assert content(store, bucket, "31") == bytes([31])


def test_parts_of_a_large_file_are_sent_in_parallel(make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy):
    """The store answers none of them before 4 are there, and makes the object of them in their order."""
    data = LARGE + LARGE[: 9 * MIB]
    sink, large = make(), version("a", data, 1)
    meeting = Meet(threading.Barrier(4))
    proxy.rule = lambda request: meeting if request.is_part else None

    deliver(sink, large, data)

    assert proxy.count(lambda request: request.is_part) == 4
    assert content(store, bucket, "a") == data


@pytest.mark.parametrize(("size", "most"), [(8 * MIB, 4), (16 * MIB, 2)])
def test_of_larger_parts_fewer_are_sent_at_once(
    store: LocalStore, bucket: str, proxy: HttpProxy, tmp_path: Path, size: int, most: int
):
    """Memory does not grow with the parts, which grow with the file; each that arrives makes room for another."""
    taking = threading.Event()
    proxy.rule = lambda request: taking.wait(60) and None if request.is_part else None
    there = S3Access(proxy.address, store.access_key, store.secret_key, region=store.region)
    with (
        contextlib.closing(Bucket(there, bucket, 20)) as open_bucket,
        contextlib.closing(Uploads(tmp_path / "uploads.sqlite")) as uploads,
        contextlib.closing(PartSender(open_bucket, uploads, 4)) as sender,
    ):
        upload = Upload(VersionKey("a", b"v" * 16), "t/a", dict)
        for number in range(1, most + 1):
            sender.wait_for_room(upload, 0)
            sender.send(upload, number, bytearray(size), size)
        with pytest.raises(BusyError, match=f"{most} parts are on their way"):
            sender.wait_for_room(upload, 0)
        taking.set()
        sender.wait_for_room(upload, 60)
        sender.wait_for(upload)
        assert sorted(upload.done) == list(range(1, most + 1))


# -- stores that know less --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", ["x-amz-checksum-algorithm", ""], ids=["of parts", "none"])
def test_a_store_that_refuses_checksums_is_sent_what_it_knows(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, known: str
):
    """First without the one of the whole object, then with MD5 alone."""

    def rule(request: Request) -> Refuse | None:
        asked = {name for name in request.headers if name.startswith("x-amz-checksum")}
        return Refuse(400, "InvalidRequest") if request.is_begin and asked - {known} else None

    proxy.rule = rule
    sink, large = make(), version("a", LARGE, 1)

    deliver(sink, large, LARGE)

    sums = {name for r in proxy.requests if r.is_part for name in r.headers if "md5" in name or "checksum" in name}
    assert sums == ({"x-amz-checksum-crc32"} if known else {"content-md5"})
    assert content(store, bucket, "a") == LARGE


@pytest.mark.parametrize("checksums", ["md5", "none"])
def test_checksums_can_be_chosen_by_hand(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, checksums: str
):
    """For stores that answer with silence."""
    sink, large, small = make(checksums=checksums), version("a", LARGE, 1), version("b", b"small", 2)

    deliver(sink, large, LARGE)
    deliver(sink, small, b"small")

    sent = [r for r in proxy.requests if r.is_part or r.is_put]
    assert [{"content-md5"} & r.headers.keys() for r in sent] == [{"content-md5"} if checksums == "md5" else set()] * 4
    assert not any("x-amz-checksum" in name for r in proxy.requests for name in r.headers)
    (tagging,) = [r for r in proxy.requests if "tagging" in r.query]  # which S3 does not take without one
    assert (tagging.status, "content-md5" in tagging.headers) == (200, True)
    assert (content(store, bucket, "a"), content(store, bucket, "b")) == (LARGE, b"small")


@pytest.mark.parametrize("size", [10, 9 * MIB], ids=["small", "large"])
def test_a_store_without_conditional_writes_is_recognised_and_looked_at_instead(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, size: int
):
    """It answers that it cannot do them; what is newer stays all the same."""

    def rule(request: Request) -> Refuse | None:
        return Refuse(501, "NotImplemented") if {"if-match", "if-none-match"} & request.headers.keys() else None

    proxy.rule = rule
    sink, new, old = make(), version("a", b"n" * size, 2), version("a", b"o" * size, 1)

    deliver(sink, new, b"n" * size)
    deliver(sink, old, b"o" * size)

    assert content(store, bucket, "a") == b"n" * size


# -- bytes that come again --------------------------------------------------------------------------------------------


def test_bytes_that_have_to_be_compared_again_stay_here_the_second_time(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """Parts cannot be read back: once they are needed, the version is read again and sent when it is complete."""
    sink, large = make(), version("a", LARGE, 1)
    write(sink, large, LARGE)
    with pytest.raises(BytesLostError) as error:
        list(sink.read(large.key, 0, large.size))
    assert list(error.value.keys) == [large.key]

    sent = proxy.size_bytes()
    write(sink, large, LARGE)
    assert b"".join(bytes(piece) for piece in sink.read(large.key, 0, large.size)) == LARGE
    assert proxy.size_bytes() == sent
    sink.sync([large.key])
    assert sink.publish([large]) == {}

    assert content(store, bucket, "a") == LARGE
    eventually(lambda: not (sink.publish([]) or store.unfinished_uploads(bucket)), "nothing is left of the first try")


def test_a_version_whose_name_is_learnt_at_its_end_is_read_again_for_the_right_key(
    make: MakeSink, store: LocalStore, bucket: str
):
    """Also after a restart; nothing ever stands under the name that it had before."""
    sink, large = make(), version("a.tmp", LARGE, 1)
    renamed = Publication(large.key, "a", large.size, None, large.digest, HashName.BLAKE3, large.order)
    write(sink, large, LARGE)
    with pytest.raises(BytesLostError, match="its name became known only at its end"):
        sink.publish([renamed])
    sink.close()

    sink = make()
    assert sink.restore([large.key]) == set()
    deliver(sink, renamed, LARGE)

    assert content(store, bucket, "a") == LARGE
    with contextlib.closing(store.client()) as client:
        assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert store.unfinished_uploads(bucket) == []


def tags(store: LocalStore, bucket: str, path: str) -> dict[str, str]:
    with contextlib.closing(store.client()) as client:
        found = client.get_object_tagging(Bucket=bucket, Key=f"t/{path}")["TagSet"]
    return {tag["Key"]: tag["Value"] for tag in found}


def test_a_large_version_that_stands_there_is_not_sent_again_by_who_does_not_know(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """As after the ledger was lost, or on another computer: recognised by what the object says of itself."""
    large = version("a", LARGE, 1)
    deliver(make("one"), large, LARGE)
    assert proxy.count(lambda request: request.is_part) == 3
    with contextlib.closing(store.client()) as client:  # its first owner was killed before it gave these
        client.delete_object_tagging(Bucket=bucket, Key="t/a")

    deliver(make("two"), large, LARGE)

    assert proxy.count(lambda request: request.is_part) == 3
    assert content(store, bucket, "a") == LARGE
    assert tags(store, bucket, "a")["blake3"] == large.digest.hex()
    assert store.unfinished_uploads(bucket) == []

    newer = version("a", LARGE, 2)
    deliver(make("two again"), newer, LARGE)
    assert proxy.count(lambda request: request.is_part) == 6


def test_an_account_that_may_write_and_not_read_delivers(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """As instruments are often given; whether an object stands there already is not known then."""
    proxy.rule = lambda request: Refuse(403, "AccessDenied") if request.method == "HEAD" else None
    sink, large, small = make(), version("a", LARGE, 1), version("b", b"small", 2)

    deliver(sink, large, LARGE)
    deliver(sink, small, b"small")

    assert (content(store, bucket, "a"), content(store, bucket, "b")) == (LARGE, b"small")


def test_an_account_that_may_not_look_leaves_what_stands_there(
    store: LocalStore, bucket: str, proxy: HttpProxy, tmp_path: Path, told: list[Event]
):
    """Whether it is newer is not known: which right is missing is told, and it goes on when the account has it."""
    access = S3Access(proxy.address, store.access_key, store.secret_key, region=store.region)
    new, old = version("a", b"new", 2), version("a", b"old", 1)
    with contextlib.closing(S3Sink(Bucket(access, bucket, 4), tmp_path / "one", S3Settings("t"), told.append)) as other:
        deliver(other, new, b"new")
    proxy.rule = lambda request: Refuse(403, "AccessDenied") if request.method in {"HEAD", "GET"} else None
    narrow = Bucket(access, bucket, 4)
    narrow.check("probe")
    with contextlib.closing(S3Sink(narrow, tmp_path / "two", S3Settings("t"), told.append)) as sink:
        write(sink, old, b"old")
        with pytest.raises(NoRightError, match="s3:GetObject and s3:ListBucket"):
            sink.publish([old])
        assert content(store, bucket, "a") == b"new"

        proxy.rule = lambda _: None
        assert sink.publish([old]) == {}
    assert content(store, bucket, "a") == b"new"


def test_an_object_that_is_removed_while_its_version_comes_again_is_sent_after_all(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """It stood there when the first part was full."""
    large = version("a", LARGE, 1)
    deliver(make("one"), large, LARGE)
    sink = make("two")
    write(sink, large, LARGE)
    sink.sync([large.key])
    eventually(lambda: proxy.count(lambda r: r.method == "HEAD" and r.status == 200), "it was looked at")
    with contextlib.closing(store.client()) as client:
        client.delete_object(Bucket=bucket, Key="t/a")
    with pytest.raises(BytesLostError, match="is no more"):
        sink.publish([large])

    deliver(sink, large, LARGE)

    assert content(store, bucket, "a") == LARGE
    assert store.unfinished_uploads(bucket) == []


def test_an_upload_that_somebody_removed_is_begun_anew(make: MakeSink, store: LocalStore, bucket: str):
    """A rule of the bucket, or a person: the version is read again, and arrives."""
    sink, large = make(), version("a", LARGE, 1)
    write(sink, large, LARGE[: 17 * MIB])
    eventually(lambda: [u.parts for u in store.unfinished_uploads(bucket)] == [2], "2 parts are there")
    with contextlib.closing(store.client()) as client:
        for upload in store.unfinished_uploads(bucket):
            client.abort_multipart_upload(Bucket=bucket, Key=upload.key, UploadId=upload.upload_id)
    for start in range(17 * MIB, 20 * MIB, MIB):
        sink.write(large.key, start, LARGE[start : start + MIB])
    with pytest.raises(BytesLostError, match="removed by somebody else"):
        sink.publish([large])

    deliver(sink, large, LARGE)

    assert content(store, bucket, "a") == LARGE


@pytest.mark.parametrize("code", ["InvalidPart", "BadDigest"])
def test_parts_that_the_store_has_lost_are_sent_again(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, code: str
):
    """As after a crash of the store: it acknowledged them, and has others or none when the object is to be made."""
    refused: list[Request] = []

    def rule(request: Request) -> Refuse | None:
        if request.is_end and not refused:
            refused.append(request)
            return Refuse(400, code)
        return None

    proxy.rule = rule
    sink, large = make(), version("a", LARGE, 1)
    write(sink, large, LARGE)
    with pytest.raises(BytesLostError):
        sink.publish([large])

    deliver(sink, large, LARGE)
    sink.publish([])

    assert content(store, bucket, "a") == LARGE
    assert proxy.count(lambda request: request.is_part) == 6
    assert store.unfinished_uploads(bucket) == []


def deliver_from_a_disk_that_lost_bytes(sink: S3Sink, publication: Publication, data: bytes, work: Path) -> None:
    """What stands in the work folder when the first MiB was written is lost; then the rest comes."""
    sink.write(publication.key, 0, data[:MIB])
    (kept,) = (work / ".openmsistream" / "parts").iterdir()
    kept.write_bytes(bytes(MIB))
    for start in range(MIB, len(data), MIB):
        sink.write(publication.key, start, data[start : start + MIB])
    sink.sync([publication.key])
    assert sink.publish([publication]) == {}


@pytest.mark.parametrize("size", [MIB, len(LARGE)], ids=["small", "large"])
def test_bytes_that_the_work_disk_lost_are_read_again(
    make: MakeSink, store: LocalStore, bucket: str, tmp_path: Path, size: int
):
    """Nothing wrong gets to the store; told is which disk it was."""
    data = LARGE[:size]
    sink, one = make(settings=S3Settings("t", budget_bytes=0)), version("a", data, 1)
    with pytest.raises(BytesLostError, match="did not keep") as error:
        deliver_from_a_disk_that_lost_bytes(sink, one, data, tmp_path / "here")
    assert list(error.value.keys) == [one.key]
    assert "check" in error.value.hint
    assert "disk" in error.value.hint

    deliver(sink, one, data)

    assert content(store, bucket, "a") == data


@pytest.mark.parametrize("size", [MIB, len(LARGE)], ids=["small", "large"])
def test_control_without_comparing_an_object_would_be_wrong(
    make: MakeSink, store: LocalStore, bucket: str, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
):
    """A store that checks nothing finds nothing wrong."""
    monkeypatch.setattr(spill, "compare", lambda *_: None)
    data = LARGE[:size]
    sink, one = make(settings=S3Settings("t", budget_bytes=0), checksums="none"), version("a", data, 1)

    deliver_from_a_disk_that_lost_bytes(sink, one, data, tmp_path / "here")

    assert content(store, bucket, "a") != data


def test_the_store_refuses_a_part_that_is_not_what_came(
    make: MakeSink, store: LocalStore, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its checksum is that of the bytes as they came: what a disk loses after they were compared is noticed, too."""
    monkeypatch.setattr(spill, "compare", lambda *_: None)
    sink, one = make(settings=S3Settings("t", budget_bytes=0)), version("a", LARGE, 1)

    with pytest.raises(WrongDigestError):
        deliver_from_a_disk_that_lost_bytes(sink, one, LARGE, tmp_path / "here")

    with contextlib.closing(store.client()) as client:
        assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2, 1], [1, 2, 0]])
def test_pieces_in_any_order_make_the_same_object(make: MakeSink, store: LocalStore, bucket: str, order: list[int]):
    """As from 1.x, whose chunks are spread over partitions."""
    sink, large = make(), version("a", LARGE, 1)
    bounds = [0, 9 * MIB, 10 * MIB, 20 * MIB]
    for number in order:
        for start in range(bounds[number], bounds[number + 1], MIB):
            sink.write(large.key, start, LARGE[start : start + MIB])
    sink.sync([large.key])
    assert sink.publish([large]) == {}
    assert content(store, bucket, "a") == LARGE


def test_a_version_that_is_only_in_memory_is_read_again_and_never_stands_on_the_disk(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, tmp_path: Path
):
    """As when its partition goes and comes back before its first part is full: its hash cannot be gone on with."""
    sink, large = make(), version("a", LARGE, 1)
    for start in range(0, 4 * MIB, MIB):
        sink.write(large.key, start, LARGE[start : start + MIB])

    assert sink.restore([large.key]) == set()
    write(sink, large, LARGE)
    assert [file for file in (tmp_path / "here" / ".openmsistream").rglob("*") if file.stat().st_size > MIB] == []
    sink.sync([large.key])
    assert sink.publish([large]) == {}

    assert content(store, bucket, "a") == LARGE
    assert [proxy.count(lambda r: r.is_begin), proxy.count(lambda r: r.is_part)] == [1, 3]


def test_a_partition_that_comes_back_soon_costs_one_more_look_at_the_first_records(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, tmp_path: Path
):
    """Before the first part of a file was full: the flow goes on at once, and sends it as any other."""
    clock, topic, sink = FakeClock(), MemoryTopic(1), make()
    records = v2_records("a", LARGE, 1, chunk_bytes=MIB)
    with contextlib.closing(SqliteDownloadLedger(tmp_path / "ledger.sqlite", "id")) as ledger:
        consumer = MemoryConsumer(topic, clock=clock)
        settings = DownloadSettings(barrier=BarrierSettings(look_first=False))
        selection = Selection.for_download()
        flow = Download("t", consumer, sink, ledger, selection, clock, lambda _: None, Control(), settings)
        consumer.subscribe(flow)
        for record in records[:4]:
            topic.append(record, partition=0)
        turns(flow, 10)
        consumer.revoke([0])
        consumer.assign([0])
        for record in records[4:]:
            topic.append(record, partition=0)
        turns(flow, 40)

    assert content(store, bucket, "a") == LARGE
    assert [proxy.count(lambda r: r.is_begin), proxy.count(lambda r: r.is_part)] == [1, 3]


def turns(flow: Download, count: int) -> None:
    for _ in range(count):
        flow.turn()


def test_a_version_that_came_whole_before_a_restart_is_gone_on_with(make: MakeSink, store: LocalStore, bucket: str):
    """Where its bytes came out of order they stand here, and need not come again."""
    sink, large = make(), version("a", LARGE, 1)
    for start in range(19 * MIB, -1, -MIB):
        sink.write(large.key, start, LARGE[start : start + MIB])
    sink.sync([large.key])
    sink.close()

    sink = make()
    assert sink.restore([large.key]) == {large.key}
    assert b"".join(bytes(piece) for piece in sink.read(large.key, 0, large.size)) == LARGE
    assert sink.publish([large]) == {}
    assert content(store, bucket, "a") == LARGE


# -- what an object says --------------------------------------------------------------------------------------------


def test_tags_that_could_not_be_put_are_put_by_the_next_run(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, told: list[Event]
):
    """The object stands, and its digest is not forgotten."""
    proxy.rule = lambda request: Refuse(500, "InternalError") if "tagging" in request.query else None
    sink, large = make(), version("a", LARGE, 1)
    deliver(sink, large, LARGE)
    assert [type(event) for event in told] == [Note]
    sink.close()
    proxy.rule = lambda _: None

    sink = make()
    sink.publish([])

    with contextlib.closing(store.client()) as client:
        tags = client.get_object_tagging(Bucket=bucket, Key="t/a")["TagSet"]
    assert {"Key": "blake3", "Value": large.digest.hex()} in tags
    before = proxy.count(lambda request: request.method == "GET" and "tagging" not in request.query)
    assert sink.holds("a", large.size, HashName.BLAKE3, large.digest)
    assert not sink.holds("a", large.size, HashName.BLAKE3, b"D" * 32)
    assert proxy.count(lambda request: request.method == "GET" and "tagging" not in request.query) == before


@pytest.mark.parametrize("fate", PASSING, ids=str)
def test_tags_that_are_refused_in_passing_are_put_later(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, fate: Refuse
):
    """The object stands and counts as delivered; as long as it lasts, nothing else is kept from its place."""
    proxy.rule = lambda request: fate if request.method == "PUT" and "tagging" in request.query else None
    sink, large, small = make(), version("a", LARGE, 1), version("b", b"small", 2)
    deliver(sink, large, LARGE)
    sink.close()
    sink = make()
    deliver(sink, small, b"small")
    sink.close()
    assert tags(store, bucket, "a") == {}
    proxy.rule = lambda _: None

    make().publish([])

    assert tags(store, bucket, "a")["blake3"] == large.digest.hex()


def test_what_is_known_at_the_first_byte_stands_in_the_metadata_of_a_large_object(
    make: MakeSink, store: LocalStore, bucket: str
):
    """Source, counter and time of modification; they cannot be changed later."""
    sink, large = make(), version("a", LARGE, 7)
    assert large.order is not None
    sink.describe = lambda key: About(key.path, VersionOrder(SRC, 7, 1_500_000_000_123_456_789, 0))

    deliver(sink, large, LARGE)

    with contextlib.closing(store.client()) as client:
        said = client.head_object(Bucket=bucket, Key="t/a")["Metadata"]
    assert (said["oms-source"], said["oms-gen"], said["mtime"]) == (SRC.hex(), "7", "1500000000.123456789")


# -- failures ---------------------------------------------------------------------------------------------------------


def test_one_version_that_is_refused_does_not_keep_the_others_waiting(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """For good, as a key that is too long; or for now, when the whole batch is to be tried again."""
    sink = make()
    long = version("/".join(["x" * 200] * 6), b"1", 1)
    refused, good = version("refused", b"2", 2), version("good", b"3", 3)
    for one, data in ((long, b"1"), (refused, b"2"), (good, b"3")):
        write(sink, one, data)
    proxy.rule = lambda request: Refuse(403, "AccessDenied") if request.path.endswith("refused") else None

    with pytest.raises(StorageError, match="s3:PutObject"):
        sink.publish([long, refused, good])
    assert content(store, bucket, "good") == b"3"

    proxy.rule = lambda _: None
    failed = sink.publish([long, refused, good])
    assert list(failed) == [long.key]
    assert "1,024" in failed[long.key].message
    assert content(store, bucket, "refused") == b"2"


@pytest.mark.parametrize("in_order", [True, False])
def test_a_large_version_that_is_refused_for_good_is_taken_to_its_end_and_fails_alone(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, tmp_path: Path, in_order: bool
):
    """Nothing more of it is sent; what stands here of it as a whole is kept in quarantine."""
    proxy.rule = lambda r: Refuse(400, "EntityTooLarge") if r.is_part and r.path.endswith("refused") else None
    sink, refused, good = make(), version("refused", LARGE * 3, 1), version("good", LARGE, 2)
    if not in_order:
        sink.write(refused.key, 59 * MIB, LARGE[-MIB:])
    write(sink, refused, LARGE * 3)
    write(sink, good, LARGE)
    sink.sync([refused.key, good.key])

    failed = sink.publish([refused, good])

    assert [(key, type(error)) for key, error in failed.items()] == [(refused.key, DeliveryError)]
    assert content(store, bucket, "good") == LARGE
    assert sum(request.is_part and request.path.endswith("refused") for request in proxy.requests) <= 4
    sink.set_aside(refused.key, failed[refused.key].message)
    quarantine = tmp_path / "here" / ".openmsistream" / "quarantine"
    kept = [file.stat().st_size for file in quarantine.iterdir() if file.suffix != ".json"]
    assert kept == ([] if in_order else [60 * MIB])
    (note,) = quarantine.glob("*.json")
    assert ("are not kept here: the topic has them" in note.read_text(encoding="utf-8")) is in_order
    sink.publish([])
    assert store.unfinished_uploads(bucket) == []


def test_a_version_that_is_too_large_for_any_store_fails_alone(
    make: MakeSink, store: LocalStore, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    """Told when it is complete, as of every other that is refused for good: here one part is all there may be."""
    monkeypatch.setattr(parts, "PARTS_MAX", 1)
    sink, large, small = make(), version("large", LARGE, 1), version("small", b"small", 2)
    write(sink, large, LARGE)
    write(sink, small, b"small")

    failed = sink.publish([large, small])

    assert list(failed) == [large.key]
    assert "this one has more" in failed[large.key].message
    sink.set_aside(large.key, failed[large.key].message)
    assert content(store, bucket, "small") == b"small"
    sink.publish([])
    assert store.unfinished_uploads(bucket) == []


def test_a_store_that_is_away_is_told_before_every_file_was_tried(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """Each try may take minutes; those that were on their way are waited for, no more."""
    proxy.rule = lambda request: Refuse(503, "ServiceUnavailable") if request.is_put else None
    sink, files = make(settings=S3Settings("t", put_threads=4)), [version(f"{n:02}", b"x", n + 1) for n in range(60)]
    for one in files:
        write(sink, one, b"x")

    with pytest.raises(StorageError, match="ServiceUnavailable"):
        sink.publish(files)
    assert len({request.path for request in proxy.requests}) <= 8

    proxy.rule = lambda _: None
    eventually(lambda: published(sink, *files), "all are delivered")
    assert content(store, bucket, "59") == b"x"


def test_a_store_that_is_away_is_told_also_of_more_large_files_than_are_sent_at_once(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """The last parts of some are not tried while those of others have every thread."""
    away = Refuse(503, "ServiceUnavailable")
    proxy.rule = lambda request: away if request.query.get("partNumber") == ["2"] else None
    sink, data = make(settings=S3Settings("t", part_threads=2)), LARGE[: 9 * MIB]
    files = [version(f"{n}", data, n + 1) for n in range(4)]
    for one in files:
        write(sink, one, data)
    sink.sync([one.key for one in files])

    with pytest.raises(StorageError, match="ServiceUnavailable"):
        sink.publish(files)

    proxy.rule = lambda _: None
    eventually(lambda: published(sink, *files), "all are delivered")
    assert content(store, bucket, "3") == data


@pytest.mark.parametrize(
    "fate",
    [*PASSING, Refuse(409, "ConditionalRequestConflict"), Refuse(412, "PreconditionFailed")],
    ids=str,
)
def test_what_a_gateway_answers_while_its_store_starts_is_no_word_for_good(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, fate: Refuse
):
    """Each request that stores bytes is refused a few times: all is tried again, and no condition is ever left out."""
    kinds = ("is_put", "is_begin", "is_part", "is_end")
    refused = dict.fromkeys(kinds, 0)

    def rule(request: Request) -> Refuse | None:
        for kind in kinds:
            if getattr(request, kind) and refused[kind] < 4:
                refused[kind] += 1
                return fate
        return None

    if fate.status == 412:  # of a request with a condition it is an answer
        kinds = ("is_begin", "is_part")
    proxy.rule = rule
    sink, large, small = make(), version("a", LARGE, 1), version("b", b"small", 2)
    write(sink, large, LARGE)
    write(sink, small, b"small")
    sink.sync([large.key, small.key])
    eventually(lambda: published(sink, large, small), "both are delivered")

    assert (content(store, bucket, "a"), content(store, bucket, "b")) == (LARGE, b"small")
    assert all("if-none-match" in r.headers for r in proxy.requests if r.is_put or r.is_end)
    assert all(refused[kind] == 4 for kind in kinds)


@pytest.fixture
def expiring(store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Keys that a command gives, as of a role; called with the minutes they are still valid for, 5 at first."""
    given, settings = tmp_path / "given.json", tmp_path / "aws"

    def valid(minutes: float) -> None:
        until = datetime.now(UTC) + timedelta(minutes=minutes)
        keys = {"AccessKeyId": store.access_key, "SecretAccessKey": store.secret_key, "Expiration": until.isoformat()}
        given.write_text(json.dumps({"Version": 1, **keys}), encoding="utf-8")

    valid(5)  # so few are left that botocore asks for new ones with every request
    command = tmp_path / "give.py"
    command.write_text(f"print(open({str(given)!r}).read())", encoding="utf-8")
    python, script = Path(sys.executable).as_posix(), command.as_posix()
    settings.write_text(f'[default]\ncredential_process = "{python}" "{script}"\n', encoding="utf-8")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(settings))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return valid


@pytest.mark.parametrize("size", [10, 9 * MIB], ids=["small", "large"])
def test_keys_that_cannot_be_renewed_for_a_while_are_waited_for(
    store: LocalStore, bucket: str, tmp_path: Path, expiring: Callable[[float], None], size: int
):
    """What botocore raises then is none of its own errors; the file arrives when the keys are there again."""
    access = S3Access(store.endpoint, region=store.region)
    with contextlib.closing(S3Sink(Bucket(access, bucket, 4), tmp_path, S3Settings("t"), lambda _: None)) as sink:
        one = version("a", b"x" * size, 1)
        expiring(-5)
        write(sink, one, b"x" * size)
        with pytest.raises(StorageError, match=r"RuntimeError.*still expired") as error:
            sink.publish([one])
        assert error.value.hint

        expiring(60)
        eventually(lambda: published(sink, one), "it is delivered")
    assert content(store, bucket, "a") == b"x" * size


@pytest.mark.parametrize("which", ["is_begin", "is_part", "HEAD"])
def test_an_answer_that_lacks_what_every_store_says_is_asked_for_again(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy, which: str
):
    """As of a gateway that answers for its store: all is well, and nothing of ours was done."""
    answered: list[Request] = []

    def rule(request: Request) -> Refuse | None:
        if answered or not (request.method == which or getattr(request, which, False)):
            return None
        answered.append(request)
        return Refuse(202, "Accepted")

    proxy.rule = rule
    sink, large = make(), version("a", LARGE, 1)
    write(sink, large, LARGE)
    sink.sync([large.key])
    eventually(lambda: published(sink, large), "it is delivered")

    assert answered
    assert content(store, bucket, "a") == LARGE


def test_a_thread_outlives_what_nobody_has_thought_of(store: LocalStore, bucket: str, tmp_path: Path):
    """What was wrong is told, and the part that it had in hand is sent again."""
    wrong = [ZeroDivisionError("once")]

    def metadata() -> dict[str, str]:
        if wrong:
            raise wrong.pop()
        return {}

    access = S3Access(store.endpoint, store.access_key, store.secret_key, region=store.region)
    with (
        contextlib.closing(Bucket(access, bucket, 4)) as open_bucket,
        contextlib.closing(Uploads(tmp_path / "uploads.sqlite")) as uploads,
        contextlib.closing(PartSender(open_bucket, uploads, 1)) as sender,
    ):
        upload = Upload(VersionKey("a", b"v" * 16), "t/a", metadata)
        sender.send(upload, 1, bytearray(MIB), MIB)
        with pytest.raises(StorageError, match="ZeroDivisionError: once"):
            sender.wait_for(upload)
        eventually(lambda: upload.done, "the part is there")


def test_an_upload_that_is_begun_while_its_version_is_given_up_is_removed_at_the_end(
    make: MakeSink, store: LocalStore, bucket: str, proxy: HttpProxy
):
    """Its parts are on their way when the program ends: a slow store, and a file whose hash is wrong."""
    proxy.rule = lambda request: Delay(0.7) if request.is_begin or request.is_part else None
    sink, large = make(), version("a", LARGE, 1)
    write(sink, large, LARGE)
    eventually(lambda: proxy.count(lambda request: request.is_begin), "it is being begun")
    sink.discard(large.key)
    sink.close()

    assert store.unfinished_uploads(bucket) == []


def test_bytes_that_a_store_gives_back_wrong_are_noticed_when_they_are_read_back(
    store: LocalStore, bucket: str, tmp_path: Path
):
    """By option, since the store checks every part by itself."""
    access = S3Access(store.endpoint, store.access_key, store.secret_key, region=store.region)
    settings = S3Settings("t", read_back=True)
    with contextlib.closing(S3Sink(Bucket(access, bucket, 4), tmp_path, settings, lambda _: None)) as sink:
        good, bad = version("good", b"1234", 1), version("bad", b"1234", 2)
        deliver(sink, good, b"1234")
        write(sink, bad, b"4321")  # as if the store had changed it
        failed = sink.publish([bad])
    assert isinstance(failed[bad.key], IntegrityError)


def test_nothing_is_left_of_an_upload_of_what_stands_already(make: MakeSink, store: LocalStore, bucket: str):
    """Another computer, or this one with its state folder lost, sends a large version that is in the bucket."""
    first, second = make("first"), make("second")
    large = version("a", LARGE, 1)
    deliver(first, large, LARGE)

    deliver(second, large, LARGE)
    second.publish([])

    assert content(store, bucket, "a") == LARGE
    assert store.unfinished_uploads(bucket) == []
