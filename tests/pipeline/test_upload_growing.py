"""Files streamed while they are being written, on fakes: one promise each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from openmsistream.core.events import FileSent, Note
from openmsistream.core.settle import SettleRule
from openmsistream.ports import Hints
from tests.pipeline.laboratory import CHUNK, SENTENCE, KilledError, Lab, in_use, kill

GROWING = {"stream_growing": True}


@pytest.fixture
def lab() -> Lab:
    return in_use(Lab())


def grow(lab: Lab, path: str, *, start: float = 2.0, every: float = 1.0, until: int = len(SENTENCE)) -> float:
    """A program appends to a file, five bytes at a time; when it wrote last."""
    at = lab.clock.monotonic() + start
    for stop in range(5, until + 1, 5):
        lab.clock.at(at, lambda stop=stop: lab.folder.write(path, SENTENCE[:stop], close=stop >= until))  # type: ignore[misc]
        at += every
    return at - every


def test_a_growing_file_is_sent_while_it_grows_and_ends_when_it_is_complete(lab: Lab):
    """Every byte travels once; the consumer has the file whole."""
    last = grow(lab, "a")
    seen: list[int] = []
    lab.clock.at(last, lambda: seen.append(len(lab.chunks)))

    lab.run(20.0, **GROWING)

    assert seen[0] >= 4
    assert lab.versions == {"a": [SENTENCE]}
    assert sum(len(chunk.payload) for chunk in lab.chunks) == len(SENTENCE)
    assert [chunk.size for chunk in lab.chunks[:4]] == [None] * 4
    assert [event.path for event in lab.told.of(FileSent)] == ["a"]


def test_it_stays_at_most_one_chunk_behind_the_writer(lab: Lab):
    """Whatever was written, all but the last whole chunk is on the topic soon after."""
    grow(lab, "a", every=2.0)
    behind: list[int] = []

    def look() -> None:
        stat = lab.folder.stat("a")
        assert stat is not None
        sent = sum(len(chunk.payload) for chunk in lab.chunks)
        behind.append(stat.size - sent)

    for second in range(5, 10, 2):
        lab.clock.at(lab.clock.monotonic() + second + 0.9, look)
    lab.run(25.0, **GROWING)

    assert len(behind) == 3
    assert all(0 < left <= 2 * CHUNK for left in behind)
    assert min(behind) <= CHUNK


def test_without_the_option_a_growing_file_is_sent_once_when_it_is_complete(lab: Lab):
    """Bytes on the topic are those of the file."""
    grow(lab, "a")

    lab.run(20.0)

    assert sum(len(chunk.payload) for chunk in lab.chunks) == len(SENTENCE)
    assert all(chunk.size == len(SENTENCE) for chunk in lab.chunks)
    assert lab.versions == {"a": [SENTENCE]}


def test_a_header_patched_at_the_end_gives_the_patched_file_and_never_a_wrong_one(lab: Lab):
    """What was sent is read again before the end is: the version is given up, and a new one sent."""
    last = grow(lab, "a")
    patched = b"THE " + SENTENCE[4:]
    lab.clock.at(last + 0.5, lambda: lab.folder.write("a", patched, close=True))

    lab.run(30.0, **GROWING)

    assert lab.versions == {"a": [patched]}
    assert [chunk.abort is not None for chunk in lab.chunks].count(True) == 1
    assert lab.told.of(Note)


@pytest.mark.parametrize("what", ["cut", "removed", "replaced"])
def test_a_file_that_does_not_just_grow_is_given_up_at_once(lab: Lab, what: str):
    """Consumers are told to discard it; what is there in the end is sent."""
    last = grow(lab, "a", until=20)

    def happen() -> None:
        if what == "cut":
            lab.folder.write("a", SENTENCE[:3], close=True)
        elif what == "removed":
            lab.folder.remove("a")
        else:
            lab.folder.write("b.tmp", SENTENCE.upper(), close=True)
            lab.folder.rename("b.tmp", "a")

    lab.clock.at(last - 0.5, happen)
    if what == "removed":
        lab.clock.at(last - 0.4, lambda: lab.folder.write("a", SENTENCE, close=True))
    lab.run(40.0, **GROWING)

    assert any(chunk.abort for chunk in lab.chunks)
    stat = lab.folder.stat("a")
    assert stat is not None
    assert len(lab.versions["a"]) == 1
    assert len(lab.versions["a"][0]) == stat.size


def test_a_temporary_name_is_not_streamed_unless_asked(lab: Lab):
    """The default is to send it when it has its final name."""
    last = grow(lab, "a.part")
    lab.clock.at(last + 0.5, lambda: lab.folder.rename("a.part", "a"))

    lab.run(30.0, **GROWING)

    assert {chunk.path for chunk in lab.chunks} == {"a"}
    assert lab.versions == {"a": [SENTENCE]}


def test_a_file_streamed_under_a_temporary_name_ends_with_its_final_name(lab: Lab):
    """The last chunk says what the file is called."""
    last = grow(lab, "a.part")
    lab.clock.at(last + 0.5, lambda: lab.folder.rename("a.part", "a"))

    lab.run(30.0, stream_temporary=True, **GROWING)

    assert {chunk.path for chunk in lab.chunks} == {"a.part"}
    assert [chunk.name for chunk in lab.chunks if chunk.last] == ["a"]
    assert sum(len(chunk.payload) for chunk in lab.chunks) == len(SENTENCE)
    known = lab.ledger.known("a")
    assert known is not None
    assert known.sent
    assert lab.ledger.open_versions() == []


def test_a_kill_while_a_file_grows_goes_on_with_the_same_version(lab: Lab):
    """What was acknowledged is not sent again, although the file is longer now."""
    last = grow(lab, "a")
    lab.clock.at(last - 1.5, kill)
    with pytest.raises(KilledError):
        lab.run(30.0, **GROWING)
    before = len(lab.chunks)
    lab.kill()
    lab.run(30.0, **GROWING)

    assert before >= 2
    assert lab.versions == {"a": [SENTENCE]}
    assert len({chunk.version for chunk in lab.chunks}) == 1


def test_stopping_while_a_file_grows_parks_it(lab: Lab):
    """The next start goes on."""
    grow(lab, "a")
    lab.run(4.5, **GROWING)
    assert [parked.path for parked in lab.ledger.open_versions()] == ["a"]
    lab.kill()
    lab.run(30.0, **GROWING)

    assert lab.versions == {"a": [SENTENCE]}


def test_no_more_than_a_few_files_are_streamed_at_once(lab: Lab):
    """The others are sent when they are complete; nothing is lost."""
    for number in range(8):
        grow(lab, f"{number}")

    lab.run(60.0, **GROWING)

    assert lab.versions == {f"{number}": [SENTENCE] for number in range(8)}
    streamed = {chunk.path for chunk in lab.chunks if chunk.size is None}
    assert 1 <= len(streamed) <= 4


def test_a_small_file_is_not_streamed(lab: Lab):
    """One chunk holds it."""
    lab.clock.at(lab.clock.monotonic() + 2, lambda: lab.folder.write("a", b"o"))
    lab.clock.at(lab.clock.monotonic() + 3, lambda: lab.folder.write("a", b"one", close=True))

    lab.run(20.0, rule=SettleRule(), **GROWING)

    assert [chunk.size for chunk in lab.chunks] == [3]


def test_a_file_whose_writer_pauses_after_its_first_bytes_is_streamed_too(lab: Lab):
    """It was seen once only, and a program still holds it open."""
    start = lab.clock.monotonic()
    lab.folder.writers.add("a")
    lab.clock.at(start + 2, lambda: lab.folder.write("a", SENTENCE[:20]))
    seen: list[int] = []
    lab.clock.at(start + 15, lambda: seen.append(len(lab.chunks)))
    lab.clock.at(start + 16, lambda: (lab.folder.write("a", SENTENCE, close=True), lab.folder.writers.discard("a")))

    lab.run(40.0, **GROWING)

    assert seen == [4]
    assert lab.versions == {"a": [SENTENCE]}


def test_a_version_parked_under_a_temporary_name_is_given_up_when_the_file_is_renamed_after_a_restart(lab: Lab):
    """Consumers would keep it open for ever: nobody goes on with it under the old name."""
    lab.clock.at(grow(lab, "a.part", until=15) + 0.5, kill)
    with pytest.raises(KilledError):
        lab.run(30.0, stream_temporary=True, **GROWING)
    old = {chunk.version for chunk in lab.chunks}
    lab.kill()
    lab.clock.at(lab.clock.monotonic() + 1.0, lambda: lab.folder.rename("a.part", "a"))
    lab.run(30.0, stream_temporary=True, **GROWING)

    assert len(old) == 1
    assert {chunk.version for chunk in lab.chunks if chunk.abort} == old
    assert lab.versions == {"a": [SENTENCE[:15]]}


def test_a_rename_that_is_told_a_little_later_than_the_old_name_is_gone_is_still_one(lab: Lab):
    """Hints come in any order: the version is not given up before it is clear that the file is gone."""
    last = grow(lab, "a.part")
    hints, late = lab.folder.hints, []

    def hints_without_renames() -> Hints:
        found = hints()
        if late:
            found = replace(found, renamed=late.pop())
        elif found.renamed:
            late.append(found.renamed)
            found = replace(found, renamed={}, files=found.files - {"a"})
        return found

    lab.folder.hints = hints_without_renames  # type: ignore[method-assign]
    lab.clock.at(last + 0.5, lambda: lab.folder.rename("a.part", "a"))

    lab.run(30.0, stream_temporary=True, **GROWING)

    assert not any(chunk.abort for chunk in lab.chunks)
    assert [chunk.name for chunk in lab.chunks if chunk.last] == ["a"]
