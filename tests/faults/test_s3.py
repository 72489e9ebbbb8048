"""Delivery to a bucket while the store fails, is away or slow, and while the program is killed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsistream.core.wire import v2
from openmsistream.local.broker import LocalBroker
from openmsistream.local.store import LocalStore
from openmsistream.local.topics import create_topic
from tests.faults.bucket_place import BucketPlace
from tests.faults.http_proxy import Cut, Damage, Delay, HttpProxy, Lose, Refuse, Request
from tests.faults.memory import MB, Memory
from tests.faults.records import produce
from tests.faults.support import LONG, SEEDS, fill, tree
from tests.pipeline.material import v2_abort, v2_chunks

MIB = 1024 * 1024
PART = 8 * MIB
UNTIL_TOLD = 90.0


@pytest.fixture
def proxy(store: LocalStore) -> Iterator[HttpProxy]:
    """A line to the store that nobody harms."""
    with HttpProxy(store.port) as line:
        yield line


@pytest.fixture
def place(tmp_path: Path, broker: LocalBroker, store: LocalStore, bucket: str, proxy: HttpProxy) -> BucketPlace:
    """A topic with 1 partition, and a bucket that the program reaches through the proxy."""
    topic = f"fault-{uuid.uuid4().hex[:12]}"
    assert create_topic(broker.bootstrap, topic, partitions=1)
    return BucketPlace(tmp_path, broker.bootstrap, topic, store, bucket, endpoint=proxy.address)


def sent(place: BucketPlace) -> dict[str, str]:
    return {path.decode(): digest for path, digest in tree(place.watched).items()}


def send(place: BucketPlace, files: dict[str, int], seed: int = 0) -> None:
    fill(place.watched, files, seed)
    place.send("--upload-existing")


def parts(proxy: HttpProxy) -> int:
    return proxy.count(lambda request: request.is_part)


# -- requests that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fate",
    [Refuse(500, "InternalError"), Refuse(503, "SlowDown"), Cut(), Lose()],
    ids=["500", "503", "cut", "lost answer"],
)
def test_single_failures_are_tried_again_without_a_word(
    place: BucketPlace, proxy: HttpProxy, fate: Refuse | Cut | Lose
):
    """Every request that writes fails when it comes first: all files arrive, each once, and nobody is bothered."""
    send(place, {"large": 30 * MIB, **{f"small {n}": 1000 for n in range(20)}})
    seen: set[tuple[str, str, str]] = set()

    def rule(request: Request) -> Refuse | Cut | Lose | None:
        name = request.method, request.path, str(request.query)
        if name in seen or request.method not in {"PUT", "POST"}:
            return None
        seen.add(name)
        return fate

    proxy.rule = rule
    done = place.deliver()

    assert place.objects() == sent(place)
    assert sorted(done.paths("file_delivered")) == sorted(sent(place))
    assert done.of("storage_paused") == []
    assert done.of("note") == []
    assert place.store.unfinished_uploads(place.bucket) == []


def test_bytes_that_are_damaged_on_their_way_are_refused_by_the_store_and_sent_again(
    place: BucketPlace, proxy: HttpProxy
):
    """Of every part and of every small file, when it is sent first."""
    send(place, {"large": 20 * MIB, "small": 1000})
    damaged: set[tuple[str, str]] = set()

    def rule(request: Request) -> Damage | None:
        name = request.path, str(request.query)
        if name in damaged or not (request.is_part or request.is_put):
            return None
        damaged.add(name)
        return Damage()

    proxy.rule = rule
    done = place.deliver()

    assert len(damaged) == 4
    first = [r for r in proxy.requests if r.is_part or r.is_put][:4]
    assert {request.status for request in first} == {400}
    assert place.objects() == sent(place)
    assert sorted(done.paths("file_delivered")) == ["large", "small"]


@pytest.mark.parametrize(
    "fate",
    [
        Refuse(503, "ServiceUnavailable"),
        Refuse(404, "NotFound"),
        *([Refuse(405, "405"), Refuse(409, "OperationAborted")] if LONG else []),
    ],
    ids=lambda fate: str(fate.status),
)
def test_a_store_that_refuses_everything_for_a_while_is_told_once_each_way(
    place: BucketPlace, proxy: HttpProxy, fate: Refuse
):
    """Reading pauses, and goes on by itself; nothing is lost and nothing delivered twice. Its gateway may answer."""
    send(place, {"large": 60 * MIB, "small": 10})
    proxy.rule = lambda request: fate if request.method != "GET" else None

    with place.to_s3() as receiver:
        paused = receiver.until_event("storage_paused", seconds=UNTIL_TOLD)
        proxy.rule = lambda _: None
        receiver.until_event("file_delivered", count=2)
        assert receiver.quit() == 0

    assert str(fate.status) in paused["reason"] or fate.code in paused["reason"]
    assert receiver.of("file_failed") == []
    assert len(receiver.of("storage_paused")) == len(receiver.of("storage_back")) == 1
    assert place.objects() == sent(place)


def test_a_store_that_lost_our_right_to_write_says_which_one(place: BucketPlace, proxy: HttpProxy):
    """It is told while the program runs, and goes on when the right is given again."""
    send(place, {"small": 10})

    with place.to_s3("--until-idle", "5") as receiver:
        receiver.until_event("program_started")
        proxy.rule = lambda request: Refuse(403, "AccessDenied") if request.is_put else None
        fill(place.watched, {"later": 10})
        place.send()
        paused = receiver.until_event("storage_paused", seconds=UNTIL_TOLD)
        proxy.rule = lambda _: None
        assert receiver.wait() == 0

    assert "s3:PutObject" in paused["reason"]
    assert place.objects() == sent(place)


def test_a_large_file_that_the_store_never_takes_goes_to_quarantine(place: BucketPlace, proxy: HttpProxy):
    """It says so of a part: what comes behind the file is delivered, also by the next run."""
    proxy.rule = lambda r: Refuse(400, "EntityTooLarge") if r.is_part and r.path.endswith("huge") else None
    for gen, (path, size) in enumerate({"huge": 60 * MIB, "large": 20 * MIB, "small": 10}.items(), 1):
        chunks = v2_chunks(path, bytes(size), gen, chunk_bytes=MIB)
        produce(place.bootstrap, place.topic, ((path.encode(), v2.encode(chunk)) for chunk in chunks))

    with place.to_s3("--until-idle", 1) as receiver:
        assert receiver.wait() == 1, receiver.stderr
    again = place.deliver()

    assert set(place.objects()) == {"large", "small"}
    (failed,) = receiver.of("file_failed")
    assert (failed["path"], "EntityTooLarge" in failed["reason"]) == ("huge", True)
    assert (again.of("file_failed"), again.paths("file_delivered")) == ([], [])
    assert place.store.unfinished_uploads(place.bucket) == []


def test_a_slow_store_costs_neither_membership_nor_memory(place: BucketPlace, proxy: HttpProxy):
    """Each part takes longer than the group waits for a member that does not poll; no partition is taken away."""
    place.configure(consumer="max.poll.interval.ms = 6000\nsession.timeout.ms = 6000\n")
    send(place, {"large": 48 * MIB})
    proxy.rule = lambda request: Delay(8.0) if request.is_part else None

    with place.to_s3("--until-idle", "2") as receiver, Memory(receiver.pid) as memory:
        receiver.until_event("file_delivered")
        assert receiver.wait() == 0

    assert place.objects() == sent(place)
    assert parts(proxy) == 6  # none was sent twice, as after a lost partition
    assert memory.peak < 250 * MB


# -- the program is killed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "forgetful"),
    [*((seed, False) for seed in SEEDS), *((seed, True) for seed in (SEEDS if LONG else [0]))],
)
def test_a_kill_in_the_middle_of_an_upload_costs_the_unfinished_parts(
    place: BucketPlace, proxy: HttpProxy, seed: int, forgetful: bool
):
    """The next run sends what is missing; control: without its memory of finished parts it sends everything again."""
    size = 100 * MIB + 5
    send(place, {"large": size}, seed)
    finished = 6 + seed % 4  # of 13
    with place.to_s3() as first:
        first.until(lambda: parts(proxy) >= finished, f"{finished} parts")
        first.kill()
    before = len(proxy.requests)
    stored = place.store.unfinished_uploads(place.bucket)[0].parts

    changes = "forget_parts" if forgetful else ""
    done = place.deliver(changes=changes)

    again = sum(request.size for request in proxy.requests[before:] if request.is_part)
    assert place.objects() == sent(place)
    assert done.paths("file_delivered") == ["large"]
    # A part may be stored and its answer not noted when the kill comes: one for each thread.
    assert (again <= size - (stored - 4) * PART) is not forgetful
    assert place.store.unfinished_uploads(place.bucket) == []


def test_a_run_that_is_told_to_end_goes_on_with_its_parts_too(place: BucketPlace, proxy: HttpProxy):
    """As after a kill: only what is missing is sent."""
    size = 60 * MIB
    send(place, {"large": size})
    proxy.rule = lambda request: Delay(0.5) if request.is_part else None
    with place.to_s3() as first:
        first.until(lambda: parts(proxy) >= 2, "2 parts")
        assert first.quit() in {0, 3}
    proxy.rule = lambda _: None
    place.deliver()

    assert place.objects() == sent(place)
    assert parts(proxy) <= 8 + 1  # one may be on its way when it is told to end
    assert place.store.unfinished_uploads(place.bucket) == []


@pytest.mark.parametrize("moment", ["begin", "complete", "put"])
def test_a_kill_at_the_moment_of_a_request_leaves_nothing_behind(place: BucketPlace, proxy: HttpProxy, moment: str):
    """Before an upload's id is known here; after the store made the object and before the ledger knows it."""
    send(place, {"large": 20 * MIB, "small": 10})
    method = {"begin": "begin", "complete": "complete", "put": "put"}[moment]

    # The begin of an upload is called once at the start, to find out whether we may.
    number = 2 if moment == "begin" else 1
    with place.to_s3(kill=f"openmsistream.adapters.s3.bucket:Bucket.{method}:after:{number}") as first:
        assert first.wait() == -9
    done = place.deliver()

    assert place.objects() == sent(place)
    assert set(done.paths("file_delivered")) <= set(sent(place))
    assert proxy.count(lambda request: request.is_end) + proxy.count(lambda request: request.is_put) <= 4
    assert place.store.unfinished_uploads(place.bucket) == []


# -- versions that have no future --------------------------------------------------------------------------------------


def test_what_the_store_has_of_a_version_that_its_sender_gave_up_is_removed(place: BucketPlace, proxy: HttpProxy):
    """Soon, while the program runs."""
    chunks = v2_chunks("large", bytes(20 * MIB), 1, chunk_bytes=MIB)
    produce(place.bootstrap, place.topic, ((b"large", v2.encode(chunk)) for chunk in chunks[:18]))

    with place.to_s3() as receiver:
        receiver.until(lambda: parts(proxy) == 2, "2 parts")
        produce(place.bootstrap, place.topic, [(b"large", v2_abort("large", 1))])
        receiver.until_event("file_superseded")
        receiver.until(lambda: not place.store.unfinished_uploads(place.bucket), "nothing is left")
        assert receiver.quit() == 0

    assert place.keys() == set()


def test_another_computer_removes_what_a_dead_one_left_behind(place: BucketPlace, proxy: HttpProxy):
    """Its state folder is gone, and so is all knowledge of its upload: who delivers the file finds it by its key."""
    send(place, {"large": 60 * MIB})
    with place.to_s3() as first:
        first.until(lambda: parts(proxy) >= 3, "3 parts")
        first.kill()
    assert len(place.store.unfinished_uploads(place.bucket)) == 1

    place.state.rename(place.base / "gone")
    place.deliver()

    assert place.objects() == sent(place)
    assert place.store.unfinished_uploads(place.bucket) == []


# -- the store ------------------------------------------------------------------------------------------------------


def test_a_store_that_is_killed_and_started_again_is_waited_for(
    tmp_path: Path, broker: LocalBroker, own_store: LocalStore
):
    """For as long as it takes, told once each way; no file is lost and none is half there."""
    topic = f"fault-{uuid.uuid4().hex[:12]}"
    assert create_topic(broker.bootstrap, topic, partitions=1)
    assert own_store.create_bucket("files")
    place = BucketPlace(tmp_path, broker.bootstrap, topic, own_store, "files")
    send(place, {"large": 100 * MIB, **{f"small {n}": 1000 for n in range(50)}})

    with place.to_s3() as receiver:
        receiver.until(
            lambda: any(event["done"] >= 20 * MIB for event in receiver.of("file_progress")), "an upload is under way"
        )
        own_store.kill()
        paused = receiver.until_event("storage_paused", seconds=UNTIL_TOLD)
        own_store.restart()
        receiver.until_event("file_delivered", count=51)
        assert receiver.quit() == 0

    assert "files" in paused["reason"]
    assert len(receiver.of("storage_paused")) == len(receiver.of("storage_back")) == 1
    assert place.objects() == sent(place)
    assert own_store.unfinished_uploads("files") == []


# -- copies beside the bucket ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_between_bucket_and_folder_ends_with_the_files_in_both(place: BucketPlace, proxy: HttpProxy, when: str):
    """With --mode both; what stands in the bucket is not sent again."""
    send(place, {"large": 20 * MIB, "small": 10})
    options = ("--mode", "both", "--output-dir", place.output)
    # Both sinks are made of such a folder; only that for copies publishes.
    kill = f"openmsistream.adapters.filesystem.sink:FolderSink.publish:{when}:1"

    with place.to_s3(*options, kill=kill) as first:
        assert first.wait() == -9
    ends = proxy.count(lambda request: request.is_end or request.is_put)
    place.deliver(*options)

    assert place.objects() == sent(place)
    assert tree(place.output) == tree(place.watched)
    assert proxy.count(lambda request: request.is_end or request.is_put) <= 4
    assert ends >= 1
    assert place.store.unfinished_uploads(place.bucket) == []


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unbounded", [False, True], ids=["", "control"])
def test_many_files_that_come_interleaved_do_not_take_memory(place: BucketPlace, unbounded: bool):
    """200 open at once, each with an unfinished part; control: all of it in memory takes more."""
    count, size = 200, (12 if LONG else 1) * MIB
    versions = [v2_chunks(f"{n:03}", bytes([n]) * size, n + 1, chunk_bytes=MIB // 4) for n in range(count)]
    produce(
        place.bootstrap,
        place.topic,
        ((chunk.path.encode(), v2.encode(chunk)) for together in zip(*versions, strict=True) for chunk in together),
    )

    with (
        place.to_s3("--until-idle", "2", changes="all_in_memory" if unbounded else "") as receiver,
        Memory(receiver.pid) as memory,
    ):
        receiver.until_event("program_started")
        assert receiver.wait() == 0, receiver.events[-5:]

    assert len(receiver.of("file_delivered")) == count
    assert len(place.keys()) == count
    print(f"{memory.peak / MB:.0f} MB at most")
    assert (memory.peak < 250 * MB) is not unbounded


def test_a_file_larger_than_the_memory_that_is_allowed_does_not_take_it(place: BucketPlace):
    """Its parts go while it comes in, and nothing keeps it as a whole."""
    size = (3000 if LONG else 300) * MIB
    assert size > 250 * MB
    send(place, {"large": size})

    with place.to_s3("--until-idle", "2") as receiver, Memory(receiver.pid) as memory:
        receiver.until_event("file_delivered", seconds=10 * UNTIL_TOLD)
        assert receiver.wait() == 0

    assert memory.peak < 250 * MB
    assert place.objects() == sent(place)
    assert not list(place.work.glob(".openmsistream/parts/*"))


def test_parts_that_have_grown_are_sent_from_the_disk_and_gone_on_with_after_a_kill(
    place: BucketPlace, proxy: HttpProxy
):
    """As of files that need many: here they double their size after every two of them."""
    size = 110 * MIB
    send(place, {"large": size})
    with place.to_s3(changes="grow_soon") as first:
        first.until(lambda: parts(proxy) >= 4, "4 parts")
        first.kill()
    before = len(proxy.requests)
    done = place.deliver(changes="grow_soon")

    assert place.objects() == sent(place)
    assert done.paths("file_delivered") == ["large"]
    sizes = {r.query["partNumber"][0]: r.size // MIB for r in proxy.requests if r.is_part and r.status == 200}
    assert sizes == {"1": 8, "2": 8, "3": 16, "4": 16, "5": 32, "6": 30}
    again = {r.query["partNumber"][0] for r in proxy.requests[before:] if r.is_part}
    assert len(again) <= 3  # 5 and 6, and one whose answer was not noted
    assert place.store.unfinished_uploads(place.bucket) == []
