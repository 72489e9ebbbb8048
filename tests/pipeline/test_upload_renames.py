"""Files that get another name, or lose theirs, while they are streamed: one promise each, on a simulated disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openmsistream.core.wire.recognise import decode_record
from openmsistream.errors import UnavailableError
from tests.pipeline.uploader import Uploader, consume


@pytest.fixture
def up() -> Iterator[Uploader]:
    """A program that streams, temporary names too, and has had its first start."""
    up = Uploader(existing=True)
    up.stream = up.temporary = True
    up.run(1.0)
    yield up
    up.ledger.shut()


def grow(up: Uploader, path: str, pieces: int = 3) -> None:
    """A program makes a file and writes to it each second; it keeps it open."""
    up.disk.create(path, 5)
    for _ in range(pieces):
        up.run(1.0)
        up.disk.append(path, 5)
    up.run(1.0)
    assert path in up.sender.growing


def aborts(up: Uploader) -> int:
    """How many versions were given up on the topic."""
    return sum(decode_record(record.value).abort is not None for _, record in up.topic.arrivals)


def test_what_was_streamed_under_a_temporary_name_is_newer_than_what_its_final_name_was_sent_with(up: Uploader):
    """Although it was begun before: consumers go by the order, and would keep the other."""
    grow(up, "a.part")
    up.disk.write_whole("a", 3)
    up.run(5.0)
    assert set(consume(up.topic).newest()) == {"a"}

    up.disk.close("a.part")
    up.disk.rename("a.part", "a")
    up.run(10.0)

    assert consume(up.topic).newest() == {"a": up.disk.contents()["a"]}
    assert aborts(up) == 0


def test_a_streamed_file_that_another_streamed_one_replaces_is_given_up(up: Uploader):
    """Its version ends, and nothing of it stays open."""
    grow(up, "a")
    grow(up, "a.part")
    up.disk.rename("a.part", "a")
    up.disk.close("a")
    up.run(10.0)

    consumed = consume(up.topic)
    assert consumed.newest() == {"a": up.disk.contents()["a"]}
    assert not consumed.open
    assert not up.disk.open_files
    assert aborts(up) == 1


def test_another_file_under_the_temporary_name_does_not_cost_the_first_one(up: Uploader):
    """Consumers would take the first for an older version of the second, and drop it."""
    grow(up, "a.part")
    up.disk.rename("a.part", "a")
    up.run(1.0)
    up.disk.write_whole("a.part", 3)
    for _ in range(8):  # for longer than the maximum wait, after which the file with the temporary name goes
        up.run(5.0)
        up.disk.append("a", 5)
    up.disk.close("a")
    up.run(20.0)

    consumed = consume(up.topic)
    assert consumed.newest() == up.disk.contents()
    assert not consumed.open


@pytest.mark.parametrize("what", ["removed", "renamed"])
def test_a_streamed_file_that_goes_without_a_hint_is_given_up_at_the_next_scan(up: Uploader, what: str):
    """It does not keep its place among the few that are streamed, nor the disk space of a removed file."""
    grow(up, "a")
    up.disk.losing = True
    if what == "removed":
        up.disk.remove("a")
    else:
        up.disk.close("a")
        up.disk.rename("a", "b")
    up.run(12.0)

    consumed = consume(up.topic)
    assert consumed.newest() == up.disk.contents()
    assert not consumed.open
    assert not up.disk.open_files
    assert aborts(up) == 1


def test_a_streamed_file_that_gets_a_name_that_is_not_sent_is_given_up(up: Uploader):
    """A hidden name, for example."""
    grow(up, "a")
    up.disk.rename("a", ".a.bak")
    up.run(5.0)

    assert not consume(up.topic).open
    assert not up.disk.open_files
    assert aborts(up) == 1


def test_a_version_whose_file_gets_another_name_after_a_restart_is_given_up(up: Uploader):
    """It was streamed until the stop, and is not streamed since: nobody else tells consumers to discard it."""
    grow(up, "a.part")
    up.stop()
    up.stream = False
    up.run(0.5)
    up.disk.close("a.part")
    up.disk.rename("a.part", "a")
    up.run(12.0)

    consumed = consume(up.topic)
    assert consumed.newest() == up.disk.contents()
    assert not consumed.open


def test_a_version_that_goes_by_another_name_is_given_up_when_the_broker_refuses_it(up: Uploader):
    """Another try would not find what was parked under the name that it was announced under."""
    grow(up, "a.part")
    up.disk.close("a.part")
    up.disk.rename("a.part", "a")
    up.before("produce", 1, lambda: up.fail_next(UnavailableError("the connection is gone"), 1, arrives=False))
    up.run(90.0)

    consumed = consume(up.topic)
    assert consumed.newest() == up.disk.contents()
    assert not consumed.open


def test_a_streamed_file_that_is_written_again_right_after_it_was_found_complete_is_not_ended_then(up: Uploader):
    """It was complete when it was decided, and is not any more when its end is read."""
    grow(up, "a")
    up.disk.close("a")
    up.before("writers", 1, lambda: up.before("open", 1, lambda: up.disk.append("a", 5)))
    up.run(20.0)
    assert not consume(up.topic).whole

    up.disk.close("a")
    up.run(60.0)

    assert [each.content for each in consume(up.topic).whole] == [up.disk.contents()["a"]]
