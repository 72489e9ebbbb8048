"""Two downloaders of two topics write into one output folder: what one has of a file the other leaves alone."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from openmsistream.core.chunk import Chunk
from openmsistream.core.paths import WORK_FOLDER
from openmsistream.core.wire import v2
from openmsistream.local.broker import LocalBroker
from tests.conftest import MakeTopic
from tests.faults.records import produce
from tests.faults.support import Place, Program, tree
from tests.pipeline.material import v2_chunks

DATA = bytes(range(256)) * 1024


@pytest.fixture
def pair(tmp_path: Path, broker: LocalBroker, topic: MakeTopic) -> tuple[Place, Place]:
    """Two places with a topic each and the same output folder."""
    one, two = (Place(tmp_path / name, broker.bootstrap, topic()) for name in ("one", "two"))
    two.output = one.output
    return one, two


def chunks(place: Place, number: int) -> list[Chunk]:
    """A file in four chunks, with the place's name."""
    return v2_chunks(f"{place.base.name}.dat", DATA, number, chunk_bytes=65536)


def send(place: Place, *some: Chunk) -> None:
    produce(place.bootstrap, place.topic, ((chunk.path.encode(), v2.encode(chunk)) for chunk in some))


def halfway(receiver: Program, path: str) -> None:
    receiver.until_event("file_progress", path=path)


def in_the_middle_of_both(place: tuple[Place, Place], changes: str = "") -> list[Program]:
    """Both programs begin a file, the second one after the first; then the rest of both files comes."""
    with ExitStack() as stack:
        programs = []
        for number, each in enumerate(place, 1):
            send(each, *chunks(each, number)[:2])
            receiver = stack.enter_context(each.download(changes=changes))
            programs.append(receiver)
            halfway(receiver, f"{each.base.name}.dat")
        for number, each in enumerate(place, 1):
            send(each, *chunks(each, number)[2:])
        for receiver, each in zip(programs, place, strict=True):
            receiver.until_event("file_delivered", path=f"{each.base.name}.dat")
            assert receiver.quit() == 0
    return programs


def lost(programs: list[Program]) -> list[str]:
    return [note["text"] for each in programs for note in each.of("note") if "was removed or cut" in note["text"]]


def test_files_of_two_topics_that_come_into_one_folder_at_once_are_both_whole(pair: tuple[Place, Place]) -> None:
    """The program that starts while the other is in the middle of a file removes nothing of it."""
    programs = in_the_middle_of_both(pair)

    assert lost(programs) == []
    assert sorted(tree(pair[0].output)) == [b"one.dat", b"two.dat"]
    assert all((pair[0].output / name).read_bytes() == DATA for name in ("one.dat", "two.dat"))


def test_what_came_of_a_file_is_kept_while_another_topic_is_read_to_its_end(pair: tuple[Place, Place]) -> None:
    """And the next start of its own program goes on with it."""
    one, two = pair
    send(one, *chunks(one, 1)[:2])
    with one.download("--until-idle", 1) as first:
        assert first.wait() == 3
    send(two, *chunks(two, 2))
    two.fetch()
    assert len(list((one.output / WORK_FOLDER / "partial").rglob("*.part"))) == 1
    send(one, *chunks(one, 1)[2:])
    one.fetch()
    assert (one.output / "one.dat").read_bytes() == DATA


def test_control_with_one_folder_for_the_partial_files_of_all_topics_they_are_removed(
    pair: tuple[Place, Place],
) -> None:
    """It is noticed and read again: the test above can fail."""
    assert lost(in_the_middle_of_both(pair, changes="one_partial_folder"))
