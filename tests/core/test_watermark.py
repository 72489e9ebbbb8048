"""Laws of the watermark, of what is committed beside it, and of where reading starts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from openmsistream.core.versions import TAG_LETTERS, VersionKey, tag_of
from openmsistream.core.watermark import (
    METADATA_BYTES,
    TAGS_MAX,
    Mark,
    Start,
    Why,
    decode_mark,
    encode_mark,
    mark_of,
    start_position,
    topic_tag,
    watermark,
)

offsets = st.integers(0, 50)
maybe = st.none() | offsets
TAGS = [tag_of(VersionKey(name, b"V" * 16)) for name in "abcdef"]
TOPIC = topic_tag("cluster/topic")


def everything(_: str) -> bool:
    return True


def nothing(_: str) -> bool:
    return False


@st.composite
def marks(draw: st.DrawFn) -> Mark:
    low = draw(offsets)
    position = low + draw(offsets)
    return Mark(low, position, position + draw(offsets), frozenset(draw(st.sets(st.sampled_from(TAGS)))))


@given(position=offsets, firsts=st.lists(offsets))
def test_the_watermark_passes_neither_the_position_nor_an_open_version(position: int, firsts: list[int]):
    """What is below it was handled, and belongs to no version that is still open."""
    mark = watermark(position, firsts)

    assert mark in {position, *firsts}
    assert all(mark <= bound for bound in [position, *firsts])


def test_the_watermark_is_the_position_when_nothing_is_open():
    """Everything read is finished."""
    assert watermark(7, []) == 7


@given(mark=marks())
def test_what_is_committed_comes_back(mark: Mark):
    """With the topic it belongs to."""
    assert decode_mark(mark.watermark, encode_mark(mark, TOPIC)) == (mark, TOPIC)


@given(mark=marks(), at=st.integers(0, 200), other=st.characters())
def test_a_damaged_string_is_not_believed(mark: Mark, at: int, other: str):
    """Not one letter may be another, and none may be missing."""
    text = encode_mark(mark, TOPIC)
    at %= len(text)
    assume(text[at] != other)

    assert decode_mark(mark.watermark, text[:at] + other + text[at + 1 :]) is None
    assert decode_mark(mark.watermark, text[:at]) is None


@pytest.mark.parametrize("text", ["", "NULL", "oms1", "oms1:::::", "oms1:0:5:0::zz", "offset=3", "oms2:0:5:0::0", "\0"])
def test_what_other_programs_commit_is_no_mark(text: str):
    """1.x and Kafka's tools write nothing there, others what they like."""
    assert decode_mark(0, text) is None


def test_a_mark_that_lies_below_its_own_offset_is_not_believed():
    """Somebody put another offset under our string."""
    text = encode_mark(Mark(5, 9, 9, frozenset()), TOPIC)

    assert decode_mark(9, text) is not None
    assert decode_mark(10, text) is None


def test_as_many_open_versions_as_are_allowed_fit_into_a_commit():
    """With the largest offsets there are, in 4,095 bytes."""
    tags = [tag_of(VersionKey(str(number), b"V")) for number in range(TAGS_MAX)]
    mark = mark_of(2**62, 2**63 - 1, [(2**62 + number, tag) for number, tag in enumerate(tags)])

    text = encode_mark(mark, TOPIC)

    assert {len(tag) for tag in tags} == {TAG_LETTERS}
    assert len(mark.open) == TAGS_MAX > 600
    assert mark.position == mark.read == 2**63 - 1
    assert METADATA_BYTES - 30 < len(text) <= METADATA_BYTES
    assert text.isascii()


@given(firsts=st.sets(offsets, max_size=6), ahead=st.integers(1, 20), limit=st.integers(0, 6))
def test_more_open_versions_than_fit_give_an_earlier_position_at_which_they_do(
    firsts: set[int], ahead: int, limit: int
):
    """Every version open there is listed, and every other open one begins behind it: nothing is lost."""
    position = max(firsts, default=0) + ahead
    found = list(zip(firsts, TAGS, strict=False))

    mark = mark_of(watermark(position, firsts), position, found, limit)

    assert len(mark.open) <= limit
    assert mark.watermark <= mark.position <= mark.read == position
    assert (mark.position == position) == (len(firsts) <= limit)
    assert mark.open == {tag for first, tag in found if first < mark.position}


def test_below_the_position_only_listed_versions_are_taken_and_behind_it_those_that_begin():
    """What began below and is not listed was finished by whoever committed."""
    mark = Mark(2, 5, 9, frozenset({"listed"}))

    assert mark.takes(4, "listed", begins=False)
    assert not mark.takes(4, "other", begins=True)
    assert mark.takes(6, "listed", begins=False)
    assert mark.takes(6, "other", begins=True)
    assert not mark.takes(6, "other", begins=False)


def start(
    ledger: int | None,
    committed: int | None,
    mark: Mark | None = None,
    *,
    holds: Callable[[str], bool] = everything,
    log: tuple[int, int] = (0, 100),
) -> Start:
    return start_position(ledger=ledger, holds=holds, committed=committed, mark=mark, log_start=log[0], log_end=log[1])


@given(ledger=maybe, mark=st.none() | marks(), committed=maybe, low=offsets, length=offsets, holds=st.booleans())
def test_reading_starts_where_nothing_is_lost(
    ledger: int | None, mark: Mark | None, committed: int | None, low: int, length: int, holds: bool
):
    """Never beyond the end of the log, never beyond what is known to be finished, never behind the group."""
    committed = mark.watermark if mark is not None else committed
    high = low + length

    found = start(ledger, committed, mark, holds=everything if holds else nothing, log=(low, high))

    assert (found.offset is None) == (committed is None and ledger is None)
    if found.offset is not None:
        assert found.offset <= high
        assert found.offset in {low, ledger, committed}
        if committed is not None and committed <= high:
            assert found.offset >= committed
    if found.why is Why.LEDGER:
        assert ledger is not None
        assert mark is None or (mark.read <= ledger and (holds or not mark.open))


def test_a_new_group_does_not_read_everything_again():
    """Whatever the group is called, the ledger knows."""
    assert start(40, None) == Start(40, Why.LEDGER)


def test_the_ledger_is_used_when_it_has_everything_the_group_waits_for():
    """At the position of the commit or behind it."""
    mark = Mark(10, 20, 20, frozenset({TAGS[0]}))

    assert start(20, 10, mark) == Start(20, Why.LEDGER, mark)
    assert start(25, 10, mark) == Start(25, Why.LEDGER, mark)


@pytest.mark.parametrize(("ledger", "holds"), [(None, everything), (5, everything), (19, everything), (20, nothing)])
def test_else_reading_starts_at_the_watermark_with_the_list(ledger: int | None, holds: Callable[[str], bool]):
    """No ledger, one that is behind, or one that lacks a version that is still open."""
    mark = Mark(10, 20, 20, frozenset({TAGS[0]}))

    assert start(ledger, 10, mark, holds=holds) == Start(10, Why.GROUP, mark)


def test_a_topic_that_is_shorter_than_what_was_read_is_read_again():
    """It was emptied or cut off: what is in a ledger or a list of its lost end does not count."""
    assert start(100, 90, log=(3, 8)) == Start(3, Why.SHORTER)
    assert start(100, None, log=(3, 8)) == Start(3, Why.SHORTER)
    assert start(100, 5, log=(3, 8)) == Start(5, Why.SHORTER)
    assert start(None, 5, Mark(5, 9, 9, frozenset()), log=(3, 8)) == Start(5, Why.SHORTER)


def test_without_our_string_only_the_offset_counts():
    """An operator's tool set it, or a program of 1.x."""
    assert start(None, 9) == Start(9, Why.GROUP)
    assert start(9, 9) == Start(9, Why.GROUP)
    assert start(20, 9) == Start(9, Why.SET_BACK)
    assert start(5, 9) == Start(9, Why.SET_FORWARD)


def test_a_topic_made_again_has_another_tag():
    """Its id differs, whatever it is called."""
    assert topic_tag("cluster/one") != topic_tag("cluster/two")
    assert len(topic_tag("x" * 300)) == 8


def test_the_tag_of_a_version_is_the_same_everywhere():
    """It stands in commits that other computers read; path and version both count."""
    assert tag_of(VersionKey("run/a.csv", b"V" * 16)) == "GESoH7"
    assert len({tag_of(VersionKey(path, bytes([n]) * 16)) for path in ("a", "b") for n in (1, 2)}) == 4
