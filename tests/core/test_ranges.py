"""Promises of ``Ranges``, held against a plain set of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.ranges import Ranges

spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=20)


def model(added: list[tuple[int, int]]) -> set[int]:
    return {byte for start, stop in added for byte in range(start, stop)}


@given(added=spans, start=st.integers(0, 35), length=st.integers(0, 35))
def test_ranges_hold_exactly_the_bytes_that_were_added(added: list[tuple[int, int]], start: int, length: int):
    """Whatever the order, overlaps and empty spans: the same as a set of byte numbers."""
    ranges, bytes_in = Ranges(added), model(added)

    assert {byte for a, b in ranges for byte in range(a, b)} == bytes_in
    assert ranges.total == len(bytes_in)
    assert ranges.end == max(bytes_in, default=-1) + 1
    assert ranges.prefix == next(n for n in range(64) if n not in bytes_in)
    assert ranges.covers(start, start + length) == (set(range(start, start + length)) <= bytes_in)


@given(added=spans)
def test_ranges_are_sorted_disjoint_and_never_touch(added: list[tuple[int, int]]):
    """The state is as small as it can be, so a file that comes in order costs one range."""
    flat = [edge for pair in Ranges(added) for edge in pair]

    assert all(a < b for a, b in pairwise(flat))


@given(added=spans, order=st.randoms(use_true_random=False))
def test_the_order_of_adding_does_not_matter(added: list[tuple[int, int]], order):
    """Equal sets of bytes are equal ranges, also when rebuilt from their own parts."""
    shuffled = list(added)
    order.shuffle(shuffled)

    assert Ranges(shuffled) == Ranges(added) == Ranges(list(Ranges(added)))


def test_a_file_in_order_is_one_range():
    """Memory for an open file does not grow with its length."""
    ranges = Ranges()
    for start in range(0, 10_000, 10):
        ranges.add(start, start + 10)

    assert len(ranges) == 1
    assert ranges != [(0, 10_000)]
    assert repr(ranges) == "Ranges([(0, 10000)])"
