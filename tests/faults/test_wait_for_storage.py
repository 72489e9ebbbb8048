"""A destination, a ledger or a broker that fails between two barriers: it is waited for, as within one."""

from __future__ import annotations

import pytest

from tests.faults.support import Place, fill, program, tree


@pytest.mark.parametrize(
    "change", ["share_away_when_partitions_come", "ledger_unreadable_in_between", "ledger_closed_for_a_while"]
)
def test_storage_that_fails_between_barriers_is_waited_for(place: Place, change: str):
    """It is said once, and again when it is back; nothing is lost, and nothing delivered twice."""
    fill(place.watched, {f"run/{n}.dat": 100_000 for n in range(5)})
    place.send("--upload-existing")

    with place.download(changes=change) as receiver:
        receiver.until_event("file_delivered", count=5)
        assert receiver.quit() == 0

    assert tree(place.output) == tree(place.watched)
    assert sorted(receiver.paths("file_delivered")) == sorted(f"run/{n}.dat" for n in range(5))
    assert receiver.of("storage_paused")
    assert len(receiver.of("storage_paused")) == len(receiver.of("storage_back"))


def test_a_broker_that_does_not_say_what_it_has_is_waited_for(place: Place):
    """A partition may be without a leader for longer than one waits for an answer."""
    fill(place.watched, {"a": 100})
    place.send("--upload-existing")

    with place.download(changes="broker_does_not_say_what_it_has") as receiver:
        receiver.until_event("file_delivered")
        assert receiver.quit() == 0


def test_a_folder_that_cannot_be_used_at_the_start_ends_the_program(place: Place):
    """Whoever has just typed it is there to put it right."""
    place.output.parent.mkdir(parents=True, exist_ok=True)
    place.output.write_text("a file")
    with place.download() as receiver:
        assert receiver.wait() == 2
    assert str(place.output) in receiver.stderr


def test_a_folder_is_the_same_from_wherever_the_program_is_started(place: Place):
    """What it tells and notes of files is their full path, and no name counts as taken."""
    fill(place.watched, {"run/a.dat": 10})
    place.send("--upload-existing")
    place.output.mkdir()
    words = ("--config", place.config, "--topic-name", place.topic)
    with program("download", ".", *words, cwd=place.output) as receiver:
        told = receiver.until_event("file_delivered")
        assert receiver.quit() == 0
    assert told["file"] == str(place.output / "run" / "a.dat")
    assert receiver.of("note") == []
