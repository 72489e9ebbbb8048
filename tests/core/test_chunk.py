"""Promises of ``core.chunk``: how a file is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.chunk import Span, spans
from openmsistream.errors import ConfigError


def test_a_file_is_cut_into_whole_spans_and_a_short_last_one():
    """Every span has the chunk size, only the last may be shorter."""
    assert list(spans(10, 4)) == [Span(0, 0, 4), Span(1, 4, 8), Span(2, 8, 10)]


def test_an_exact_multiple_has_no_empty_span_at_its_end():
    """A file of two chunks gives two spans."""
    assert list(spans(8, 4)) == [Span(0, 0, 4), Span(1, 4, 8)]


def test_an_empty_file_is_one_empty_span():
    """Consumers learn of a file only through a chunk, so an empty file has one."""
    assert list(spans(0, 4)) == [Span(0, 0, 0)]


@given(size=st.integers(0, 5_000), chunk=st.integers(1, 6_000))
def test_spans_cover_every_byte_once_and_in_order(size, chunk):
    """No gap, no overlap, indices from 0, and nothing longer than a chunk."""
    cut = list(spans(size, chunk))

    assert [span.index for span in cut] == list(range(max(1, -(-size // chunk))))
    assert [span.start for span in cut] == [0, *(span.stop for span in cut[:-1])]
    assert cut[-1].stop == size
    assert all(span.stop - span.start == chunk for span in cut[:-1])


@given(size=st.integers(0, 5_000), chunk=st.integers(1, 700), done=st.integers(0, 20))
def test_a_resume_yields_exactly_the_spans_that_are_left(size, chunk, done):
    """Going on behind ``done`` chunks gives the tail of the whole list, with its own indices."""
    start = min(done, size // chunk) * chunk

    left = list(spans(size, chunk, start))

    whole = list(spans(size, chunk))
    assert left == (whole[start // chunk :] if start < size or size == 0 else [])


@given(size=st.integers(0, 2**62), chunk=st.integers(1, 2**40))
def test_spans_of_a_huge_file_cost_nothing_until_they_are_taken(size, chunk):
    """The first span is there at once, whatever the size."""
    assert next(spans(size, chunk)) == Span(0, 0, min(size, chunk))


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_size_below_one_is_refused_with_its_value(chunk):
    """A chunk size that cuts nothing is a mistake in the configuration."""
    with pytest.raises(ConfigError, match=f"at least 1 byte, got {chunk}"):
        next(spans(10, chunk))
