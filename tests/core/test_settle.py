"""Promises of settling, on a simulated clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openmsistream.core.settle import Settler, Stat

QUIET = 3.0  # with steps of an eighth of a second, sums are exact
paths = st.sampled_from(["a", "b", "c"])
steps = st.lists(st.tuples(st.integers(0, 20), paths, st.integers(1, 3)), max_size=40)


@given(seen=steps)
def test_a_file_is_due_when_it_was_quiet_for_the_quiet_time_and_not_before(seen: list[tuple[int, str, int]]):
    """Held against a model: for each path, since when it looks as it does."""
    settler, model, now = Settler(QUIET), {}, 0.0
    for eighths, path, size in seen:
        now += eighths / 8
        stat = Stat(size, size)
        settler.observe(path, stat, now)
        if model.get(path, (None, 0.0))[0] != stat:
            model[path] = (stat, now)
        due = settler.due(now)
        expected = {p: s for p, (s, since) in model.items() if now - since >= QUIET}
        assert dict(due) == expected
        assert [model[p][1] for p, _ in due] == sorted(model[p][1] for p, _ in due), "longest waiting first"
        assert len(settler) == len(model)


@given(seen=steps)
def test_nothing_waits_for_ever_once_it_is_quiet(seen: list[tuple[int, str, int]]):
    """``next_due`` names a time at which something is due, and in the end nothing is left."""
    settler, now = Settler(QUIET), 0.0
    for eighths, path, size in seen:
        now += eighths / 8
        settler.observe(path, Stat(size, size), now)
    while (at := settler.next_due()) is not None:
        assert at <= now + QUIET
        now = max(now, at)
        due = settler.due(now)
        assert due
        for path, _ in due:
            assert path in settler
            settler.forget(path)

    assert len(settler) == 0


def test_a_due_file_stays_until_it_is_forgotten():
    """The caller may look again before it sends."""
    settler = Settler(0.0)
    settler.observe("a", Stat(1, 1), 5.0)

    assert settler.due(5.0) == settler.due(6.0) == [("a", Stat(1, 1))]


def test_a_file_that_was_replaced_by_another_of_the_same_size_and_time_starts_anew():
    """Another inode is another file; after a remount inodes change, so the content counts as the same."""
    settler = Settler(QUIET)
    settler.observe("a", Stat(1, 1, 10), 0.0)
    settler.observe("a", Stat(1, 1, 11), 2.0)

    assert settler.due(4.0) == []
    assert Stat(1, 1, 10).same_content(Stat(1, 1, 11))
    assert not Stat(1, 1).same_content(Stat(2, 1))
    assert not Stat(1, 1).same_content(Stat(1, 2))
