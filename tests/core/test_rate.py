"""Promises of the limit on bytes per second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.rate import Rate
from openmsistream.errors import ConfigError

SIZES = st.lists(st.integers(0, 5_000_000), min_size=1, max_size=40)
PAUSES = st.lists(st.floats(0, 100), min_size=40, max_size=40)


def sent_at(rate: Rate, sizes: list[int], pauses: list[float], start: float) -> list[tuple[float, int]]:
    """When each chunk goes, if its sender waits exactly as long as it is told, and is away for a pause before each."""
    now, sent = start, []
    for size, pause in zip(sizes, pauses, strict=False):
        now += pause
        for _ in range(3):
            now += rate.wait_for(size, now)
        assert rate.wait_for(size, now) == 0
        rate.take(size, now)
        sent.append((now, size))
    return sent


@given(
    sizes=SIZES,
    pauses=PAUSES,
    per_second=st.floats(1_000, 1e9),
    burst=st.integers(1, 2_000_000),
    start=st.sampled_from([0.0, 1.5e6, 1e9]),
)
def test_no_stretch_of_time_carries_more_than_the_limit(
    sizes: list[int], pauses: list[float], per_second: float, burst: int, start: float
):
    """Between any two chunks: the rate times the time, and one burst or one chunk, whichever is larger."""
    sent = sent_at(Rate(per_second, burst), sizes, pauses, start)

    once = max(burst, *sizes)
    for first, (begin, _) in enumerate(sent):
        total = 0
        for now, size in sent[first:]:
            total += size
            # A microsecond per chunk is what "now" may be too early, and what a float of 1e9 can tell.
            slack = per_second * 1e-6 * (len(sent) + 1) + 1
            assert total <= once + per_second * (now - begin) + slack


@given(sizes=SIZES, per_second=st.floats(1_000, 1e9), burst=st.integers(1, 2_000_000))
def test_who_never_pauses_gets_the_whole_rate(sizes: list[int], per_second: float, burst: int):
    """No chunk waits longer than the bytes before it cost."""
    sent = sent_at(Rate(per_second, burst), sizes, [0.0] * len(sizes), 0.0)

    assert sent[-1][0] <= sum(sizes) / per_second + 1e-6 * len(sizes)


@given(sizes=st.lists(st.integers(1, 1_000), max_size=30), step=st.sampled_from([0.0, -1.0, -1e6]))
def test_a_clock_that_stands_still_or_runs_backwards_lets_no_more_than_one_burst_go(sizes: list[int], step: float):
    """Time is only counted when it goes on."""
    rate, now, gone = Rate(1_000, 1_000), 50.0, 0
    for size in sizes:
        if rate.wait_for(size, now) == 0:
            rate.take(size, now)
            gone += size
        now += step

    assert gone <= 1_000


def test_a_clock_that_went_back_counts_no_time_twice():
    """What was saved up before the jump is not saved up again."""
    rate = Rate(1_000, 1_000)
    rate.take(1_000, 100.0)

    assert rate.wait_for(500, 90.0) == pytest.approx(0.5)
    assert rate.wait_for(500, 100.0) == pytest.approx(0.5)
    assert rate.wait_for(500, 100.5) == 0


def test_a_chunk_above_the_burst_goes_and_is_paid_off_after():
    """A limit below the size of a chunk slows down; it does not stop."""
    rate = Rate(1_000, 500)
    assert rate.wait_for(4_000, 0.0) == 0
    rate.take(4_000, 0.0)

    assert rate.wait_for(1, 0.0) == pytest.approx(3.501)
    assert rate.wait_for(4_000, 0.0) == pytest.approx(4.0)


def test_a_pause_saves_up_one_burst_and_no_more():
    """A night without files does not make the morning's first ones as fast as the network."""
    rate = Rate(1_000, 500)
    rate.take(500, 0.0)

    assert rate.wait_for(500, 50_000.0) == 0
    rate.take(500, 50_000.0)
    assert rate.wait_for(500, 50_000.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (1, 0), (-5, 1), (float("nan"), 1), (1, float("nan"))])
def test_a_limit_of_nothing_is_refused(per_second: float, burst: float):
    """It would wait for ever."""
    with pytest.raises(ConfigError, match="more than 0 bytes"):
        Rate(per_second, burst)
