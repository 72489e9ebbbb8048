"""When the upload flow takes a file to be complete, on fakes: that it brings the settle engine its evidence."""

from __future__ import annotations

import pytest

from openmsistream.adapters.memory import START_NS
from openmsistream.core.events import FileSkipped, Note
from openmsistream.core.settle import SettleMode, SettleRule
from tests.pipeline.laboratory import SENTENCE, Lab, in_use


@pytest.fixture
def lab() -> Lab:
    return in_use(Lab(chunk_bytes=1024))


def sent_after(lab: Lab, start: float) -> list[float]:
    """How long after ``start`` (of the program's clock) each record came to the topic, in seconds."""
    return [(record.timestamp_ms - START_NS // 10**6) / 1000 - start for record in lab.topic.records()]


def test_a_closed_file_waits_the_short_time_only(lab: Lab):
    """About a second."""
    start = lab.clock.monotonic() + 5
    lab.clock.at(start, lambda: lab.folder.write("a", SENTENCE, close=True))

    lab.run(20.0)

    assert 1.0 <= sent_after(lab, start)[0] < 1.5


def test_with_settle_close_a_closed_file_goes_at_once(lab: Lab):
    """No quiet time at all."""
    start = lab.clock.monotonic() + 5
    lab.clock.at(start, lambda: lab.folder.write("a", SENTENCE, close=True))

    lab.run(20.0, rule=SettleRule(mode=SettleMode.CLOSE))

    assert sent_after(lab, start)[0] < 0.6


def test_software_that_appends_and_closes_every_few_seconds_makes_one_version(lab: Lab):
    """After the second close the long quiet time counts."""
    for turn in range(6):
        at = lab.clock.monotonic() + 5 + 2 * turn
        lab.clock.at(at, lambda turn=turn: lab.folder.write("a", SENTENCE[: 4 * turn + 4], close=True))  # type: ignore[misc]

    lab.run(40.0)

    assert lab.versions["a"][-1] == SENTENCE[:24]
    assert len(lab.versions["a"]) <= 2


def test_a_file_that_a_program_still_writes_to_waits_until_it_lets_go(lab: Lab):
    """However long nothing changes meanwhile."""
    start = lab.clock.monotonic()
    lab.folder.writers.add("a")
    lab.clock.at(start + 2, lambda: lab.folder.write("a", SENTENCE))
    lab.clock.at(start + 30, lambda: lab.folder.writers.discard("a"))

    lab.run(60.0)

    assert 30 <= sent_after(lab, start)[0] <= 41


def test_a_temporary_name_waits_for_its_final_one(lab: Lab):
    """The final name alone is sent."""
    start = lab.clock.monotonic()
    lab.clock.at(start + 2, lambda: lab.folder.write("a.tmp", SENTENCE, close=True))
    lab.clock.at(start + 20, lambda: lab.folder.rename("a.tmp", "a"))

    lab.run(40.0)

    assert lab.versions == {"a": [SENTENCE]}
    assert 20 <= sent_after(lab, start)[0] <= 22


def test_after_the_longest_wait_an_unchanged_file_goes_all_the_same_and_this_is_told(lab: Lab):
    """Nothing waits for ever."""
    start = lab.clock.monotonic()
    lab.clock.at(start + 2, lambda: lab.folder.write("a.tmp", SENTENCE, close=True))

    lab.run(100.0, rule=SettleRule(max_wait_seconds=60))

    assert lab.versions == {"a.tmp": [SENTENCE]}
    assert 60 <= sent_after(lab, start)[0] <= 75
    assert any("a.tmp" in event.text for event in lab.told.of(Note))


def test_a_marker_lets_its_file_go_and_is_not_sent_itself(lab: Lab):
    """``scan.dat.done`` says that ``scan.dat`` is complete."""
    start = lab.clock.monotonic()
    lab.clock.at(start + 2, lambda: lab.folder.write("scan.dat", SENTENCE, close=True))
    lab.clock.at(start + 20, lambda: lab.folder.write("scan.dat.done", b"", close=True))

    lab.run(40.0, rule=SettleRule(mode=SettleMode.MARKER, max_wait_seconds=None))

    assert lab.versions == {"scan.dat": [SENTENCE]}
    assert 20 <= sent_after(lab, start)[0] <= 23


def test_one_marker_can_stand_for_a_folder(lab: Lab):
    """All files beside it go."""
    start = lab.clock.monotonic()
    for name in ("a", "b"):
        lab.clock.at(start + 2, lambda name=name: lab.folder.write(f"run/{name}", SENTENCE, close=True))  # type: ignore[misc]
        lab.clock.at(start + 2, lambda name=name: lab.folder.write(f"other/{name}", SENTENCE, close=True))  # type: ignore[misc]
    lab.clock.at(start + 20, lambda: lab.folder.write("run/READY", b"", close=True))

    lab.run(40.0, rule=SettleRule(mode=SettleMode.MARKER, marker="READY", max_wait_seconds=None))

    assert lab.versions == {"run/a": [SENTENCE], "run/b": [SENTENCE]}


def test_once_ends_although_a_file_may_not_be_complete_and_says_so(lab: Lab):
    """It does not wait for somebody to finish it."""
    lab.folder.write("a", SENTENCE)
    lab.folder.write("b.part", SENTENCE)

    lab.run(300.0, once=True)

    assert lab.control.reason == ""
    assert lab.versions == {"a": [SENTENCE]}
    assert [event.path for event in lab.told.of(FileSkipped)] == ["b.part"]
