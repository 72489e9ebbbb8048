"""Two uploaders that send files of the same path to one topic, as two instruments that number their scans alike do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from openmsistream.local.broker import LocalBroker
from openmsistream.local.store import LocalStore
from tests.conftest import MakeTopic
from tests.faults.bucket_place import BucketPlace
from tests.faults.support import Place, Program

FIRST, SECOND = b"of the first instrument", b"of the second one"


@pytest.fixture
def places(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> tuple[Place, Place]:
    """Two instruments, each with a computer of its own; both have sent ``scan.dat``, the second one later."""
    name = topic()
    one, two = (Place(tmp_path / computer, broker.bootstrap, name) for computer in ("one", "two"))
    for place, data in ((one, FIRST), (two, SECOND)):
        (place.watched / "scan.dat").write_bytes(data)
        place.send("--upload-existing")
    return one, two


def told(receiver: Program) -> dict[str, Any]:
    """What a program says of the two, once."""
    (note,) = (note for note in receiver.of("note") if "two uploaders" in note["text"])
    assert note["text"].startswith("scan.dat: ")
    assert "folder of its own" in note["hint"]
    return note


def files(place: Place) -> list[bytes]:
    return sorted(path.read_bytes() for path in place.output.glob("scan*"))


def test_the_later_one_takes_the_place_of_the_other_and_this_is_told(places: tuple[Place, Place]) -> None:
    """With the way out; at every consumer the same one stays."""
    for place in places:
        receiver = place.fetch()
        assert files(place) == [SECOND]
        assert "or choose --on-existing keep-both" in told(receiver)["hint"]


def test_with_keep_both_no_file_of_either_is_overwritten(places: tuple[Place, Place]) -> None:
    """Also the next version of each is there."""
    one, two = places
    receiver = one.fetch("--on-existing", "keep-both")
    assert "--on-existing" not in told(receiver)["hint"]
    assert files(one) == sorted([FIRST, SECOND])
    assert (one.output / "scan.dat").read_bytes() == FIRST
    for place, data in ((one, b"again, of the first"), (two, b"again, of the second")):
        (place.watched / "scan.dat").write_bytes(data)
        place.send()
    one.fetch("--on-existing", "keep-both")
    assert files(one) == sorted([FIRST, SECOND, b"again, of the first", b"again, of the second"])


def test_with_never_the_second_one_goes_to_quarantine(places: tuple[Place, Place]) -> None:
    """It is told as failed, and nothing of it is lost."""
    place = places[0]
    with place.download("--on-existing", "never", "--until-idle", 1) as receiver:
        assert receiver.wait() == 1
    assert files(place) == [FIRST]
    assert receiver.paths("file_failed") == ["scan.dat"]
    kept = [path.read_bytes() for path in (place.output / ".openmsistream" / "quarantine").glob("*.part")]
    assert kept == [SECOND]


def test_in_a_bucket_the_later_one_stays_too(
    places: tuple[Place, Place], broker: LocalBroker, store: LocalStore, bucket: str
) -> None:
    """No option is named that this program does not have."""
    one, _ = places
    place = BucketPlace(one.base / "bucket", broker.bootstrap, one.topic, store, bucket)
    receiver = place.deliver()
    assert place.objects() == {"scan.dat": hashlib.sha256(SECOND).hexdigest()}
    assert "--on-existing" not in told(receiver)["hint"]
