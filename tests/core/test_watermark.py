"""Laws of the watermark and of where reading starts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.watermark import start_position, watermark

offsets = st.integers(0, 50)
maybe = st.none() | offsets


@given(position=offsets, firsts=st.lists(offsets))
def test_the_watermark_passes_neither_the_position_nor_an_open_version(position: int, firsts: list[int]):
    """What is below it was handled, and belongs to no version that is still open."""
    mark = watermark(position, firsts)

    assert mark in {position, *firsts}
    assert all(mark <= bound for bound in [position, *firsts])


def test_the_watermark_is_the_position_when_nothing_is_open():
    """Everything read is finished."""
    assert watermark(7, []) == 7


@given(ledger=maybe, committed=maybe, low=offsets, length=offsets)
def test_reading_starts_where_nothing_is_lost(ledger: int | None, committed: int | None, low: int, length: int):
    """Never beyond the end of the log, never beyond what ledger or group have finished, never behind the group."""
    high = low + length

    start, why = start_position(ledger=ledger, committed=committed, log_start=low, log_end=high)

    known = [offset for offset in (ledger, committed) if offset is not None]
    assert why
    assert (start is None) == (not known)
    if start is not None:
        assert start <= high
        assert start == low or start in known
        if committed is not None and committed <= high:
            assert start >= committed


@given(committed=maybe, ledger=offsets, ahead=offsets)
def test_the_ledger_is_used_when_it_is_not_behind_the_group(committed: int | None, ledger: int, ahead: int):
    """A new group name does not read everything again."""
    if committed is None or committed <= ledger:
        start, _ = start_position(ledger=ledger, committed=committed, log_start=0, log_end=ledger + ahead)
        assert start == ledger


def test_a_topic_that_is_shorter_than_what_was_read_is_read_from_its_start():
    """It was emptied or replaced: nothing of it is known."""
    start, why = start_position(ledger=100, committed=90, log_start=3, log_end=8)

    assert start == 3
    assert "shorter" in why


def test_a_group_that_went_on_elsewhere_is_followed():
    """The ledger of a host that was away is not used."""
    assert start_position(ledger=5, committed=9, log_start=0, log_end=20)[0] == 9
