"""Several members of a group deliver to one bucket: who takes a partition over leaves nothing of the others behind."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.store import LocalStore
from openmsistream.local.topics import create_topic
from tests.faults.bucket_place import BucketPlace
from tests.faults.http_proxy import HttpProxy, Refuse, Request
from tests.faults.support import PROTOCOLS, Program, fill, tree

MIB = 1024 * 1024
SIZE = 60 * MIB  # 8 parts
UPLOAD_THREADS = 4  # what the program has by default


@pytest.fixture
def proxy(store: LocalStore) -> Iterator[HttpProxy]:
    with HttpProxy(store.port) as line:
        yield line


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    """Both group protocols."""
    return str(request.param)


@pytest.fixture
def place(
    tmp_path: Path, quick_broker: LocalBroker, store: LocalStore, bucket: str, proxy: HttpProxy, protocol: str
) -> BucketPlace:
    """A topic with 1 partition that holds one large file; members that are dead are missed soon."""
    topic = f"members-{uuid.uuid4().hex[:12]}"
    assert create_topic(quick_broker.bootstrap, topic, partitions=1)
    place = BucketPlace(tmp_path, quick_broker.bootstrap, topic, store, bucket, endpoint=proxy.address)
    place.configure(consumer=f"group.id = {topic}\n{PROTOCOLS[protocol]}\n")
    fill(place.watched, {"large": SIZE})
    place.send("--upload-existing")
    return place


def member(place: BucketPlace, name: str) -> Program:
    """A computer of its own."""
    return place.to_s3("--state-dir", place.base / f"state of {name}")


def stop_behind(proxy: HttpProxy, part: int) -> None:
    """The store takes parts up to this one."""

    def rule(request: Request) -> Refuse | None:
        late = request.is_part and int(request.query["partNumber"][0]) > part
        return Refuse(503, "SlowDown") if late else None

    proxy.rule = rule


def noted_parts(proxy: HttpProxy, first_refused: int) -> bool:
    """True once the parts that the store took are in the ledger, too: their threads have asked for the next ones."""
    asked = {int(request.query["partNumber"][0]) for request in list(proxy.requests) if request.is_part}
    return asked >= set(range(first_refused, first_refused + UPLOAD_THREADS))


def parts_of_uploads(place: BucketPlace) -> list[int]:
    return sorted(upload.parts for upload in place.store.unfinished_uploads(place.bucket))


def began(member: Program) -> str:
    """When a member last began with the file, as text that can be compared; "" when it has not."""
    return max((str(event["time"]) for event in member.of("file_started")), default="")


def expected(place: BucketPlace) -> dict[str, str]:
    return {path.decode(): digest for path, digest in tree(place.watched).items()}


def test_a_running_member_removes_what_a_dead_one_left_behind(place: BucketPlace, proxy: HttpProxy):
    """The partition moves in the middle of the file; the file arrives, and nothing unfinished is left."""
    stop_behind(proxy, 3)
    with member(place, "one") as one, member(place, "two") as two:
        for each in (one, two):
            each.until_event("program_started")
        # Until both are in the group the partition may have been with each of them, and both have begun.
        one.until(lambda: 3 in parts_of_uploads(place), "3 parts of the file are there")
        one.until(lambda: began(one) or began(two), "one of them says so")
        busy, other = (one, two) if began(one) > began(two) else (two, one)
        busy.kill()
        proxy.rule = lambda _: None
        other.until_event("file_delivered", path="large")
        assert other.quit() == 0

    assert place.objects() == expected(place)
    assert parts_of_uploads(place) == []


def test_a_member_that_gets_its_partition_back_removes_what_was_begun_in_between(place: BucketPlace, proxy: HttpProxy):
    """It goes on with its own upload; that of the other one, who is gone for good, is the later one."""
    stop_behind(proxy, 3)
    with member(place, "one") as first:
        first.until(
            lambda: parts_of_uploads(place) == [3] and noted_parts(proxy, 4), "3 parts of the file are there, and known"
        )
        first.kill()
    stop_behind(proxy, 2)
    with member(place, "two") as second:
        second.until(lambda: parts_of_uploads(place) == [2, 3], "2 parts of another upload are there")
        second.kill()
    before = len(proxy.requests)
    proxy.rule = lambda _: None

    with member(place, "one") as again:
        again.until_event("file_delivered", path="large")
        assert again.quit() == 0

    assert place.objects() == expected(place)
    sent = {int(r.query["partNumber"][0]) for r in proxy.requests[before:] if r.is_part}
    assert sent == {4, 5, 6, 7, 8}
    assert parts_of_uploads(place) == []


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="a process cannot be frozen on Windows")
def test_a_member_that_was_frozen_does_not_put_its_older_version_over_a_newer_one(place: BucketPlace, proxy: HttpProxy):
    """It had all parts of the older one there and was about to make the object when it lost its partition."""
    proxy.rule = lambda request: Refuse(503, "SlowDown") if request.is_end else None
    with member(place, "one") as stale:
        stale.until_event("storage_paused")
        stale.signal(signal.SIGSTOP)
        proxy.rule = lambda _: None
        fill(place.watched, {"large": 9 * MIB}, seed=1)
        place.send()
        with member(place, "two") as other:
            other.until(lambda: place.objects() == expected(place), "the newer version stands there")
            stale.signal(signal.SIGCONT)
            stale.until_event("storage_back")
            assert stale.quit() in {0, 3}
            assert other.quit() == 0

    assert place.objects() == expected(place)
    assert parts_of_uploads(place) == []
