"""Promises of settling, one by one, on a simulated clock; the laws together are in ``test_settle_machine.py``."""

from __future__ import annotations

import math
import sys
import tracemalloc
from collections.abc import Callable

import pytest

from openmsistream.core import settle
from openmsistream.core.settle import Due, Settled, SettleMode, Settler, SettleRule, Stat

A, B = Stat(5, 100, 7), Stat(9, 101, 7)


def settler(mode: SettleMode = SettleMode.AUTO, *, max_wait: float | None = 3600.0, marker: str = "{name}.done"):
    """With the default times: 3 s, or 1 s for what was closed."""
    rule = SettleRule(mode, max_wait_seconds=max_wait, marker=marker)
    return Settler(lambda _: rule)


def run(engine: Settler, until: float, look: Callable[[str], Stat | None], **known: object) -> list[tuple]:
    """Ask at the times the engine names, up to ``until``: when each file went, and why."""
    went = []
    while (at := engine.next_due()) is not None and at <= until:
        for due in engine.due(at):
            done = engine.decide(due, look(due.path), at, **known)
            if done is not None:
                went.append((at, done.path, done.evidence, done.doubt))
    return went


def test_a_file_that_nothing_is_known_of_goes_after_the_long_quiet_time():
    """No hint of a close ever comes on Windows, macOS and network drives."""
    engine = settler()
    engine.observe("a", A, 10.0)

    assert run(engine, 99.0, lambda _: A) == [(13.0, "a", "unchanged for 3 s", "")]
    assert len(engine) == 0
    assert "a" not in engine


def test_a_change_starts_the_quiet_time_anew():
    """Observing says so, when the file was waiting already; the same looks change nothing."""
    engine = settler()

    assert [engine.observe("a", looks, now) for looks, now in ((A, 0.0), (A, 1.0), (B, 2.5), (B, 4.0))] == [
        False,
        False,
        True,
        False,
    ]
    assert engine.due(5.4) == []
    assert run(engine, 99.0, lambda _: B)[0][0] == 5.5


def test_a_closed_file_goes_after_the_short_quiet_time():
    """When no program has it open for writing."""
    engine = settler()
    engine.observe("a", A, 0.0)
    engine.closed("a", B, 0.5)

    assert engine.due(1.5) == [Due("a", B, None, True)]
    assert run(engine, 9.0, lambda _: B, held=False) == [
        (1.5, "a", "closed, unchanged for 1 s, no program writes to it", "")
    ]


def test_software_that_appends_and_closes_every_two_seconds_makes_one_version():
    """After a second close a path waits the long time, and while it does not get it, nothing goes."""
    engine = settler()
    engine.closed("a", Stat(1, 1), 0.0)
    went = run(engine, 1.9, lambda _: Stat(1, 1))
    for step in range(1, 20):
        engine.closed("a", Stat(step, step), 2.0 * step)
        went += run(engine, 2.0 * step + 1.9, lambda _, step=step: Stat(step, step))
    went += run(engine, 99.0, lambda _: Stat(19, 19))

    assert went == [
        (1.0, "a", "closed, unchanged for 1 s", ""),
        (41.0, "a", "closed again, unchanged for 3 s", ""),
    ]


def test_a_file_that_changes_after_its_close_waits_the_long_time_even_when_it_is_closed_again():
    """Seen at the next look, at a hint, or just before the decision: it makes no difference."""
    engine = settler()
    engine.closed("a", A, 0.0)

    assert engine.decide(engine.due(1.0)[0], B, 1.0) is None
    assert engine.next_due() == 4.0
    engine.closed("a", B, 2.0)
    assert run(engine, 99.0, lambda _: B) == [(5.0, "a", "closed again, unchanged for 3 s", "")]


def test_so_many_closed_paths_are_remembered_and_no_more(monkeypatch: pytest.MonkeyPatch):
    """The oldest is forgotten first: memory stays bounded in a year."""
    monkeypatch.setattr(settle, "REMEMBERED_PATHS", 2)
    engine = settler()
    for now, path in enumerate(["a", "b", "a", "c"]):
        engine.closed(path, Stat(now, now), 10.0 * now)
        assert len(run(engine, 10.0 * now + 9, lambda _, now=now: Stat(now, now))) == 1
    for path in ("a", "b", "c"):
        engine.closed(path, B, 50.0)

    assert [(at, path) for at, path, *_ in run(engine, 99.0, lambda _: B)] == [(51.0, "b"), (53.0, "a"), (53.0, "c")]


def test_a_file_that_is_closed_again_and_again_without_a_change_goes_after_a_minute():
    """A close is a sign of life, but without a change not for ever."""
    engine, now = settler(), 0.0
    went: list[tuple] = []
    while not went and now < 200:
        engine.closed("a", A, now)
        went, now = run(engine, now + 0.9, lambda _: A), now + 0.9

    assert 60.0 <= went[0][0] <= 61.0


def test_a_rename_from_a_temporary_name_is_as_good_as_a_close():
    """What waited under the temporary name does not wait any more."""
    engine = settler()
    engine.observe("run/a.dat.part", A, 0.0)
    engine.renamed("run/a.dat", "run/a.dat.part", A, 5.0)

    assert "run/a.dat.part" not in engine
    assert run(engine, 99.0, lambda _: A) == [(6.0, "run/a.dat", "renamed from a.dat.part, unchanged for 1 s", "")]


def test_a_program_that_closes_after_it_renamed_does_not_wait_longer_for_it():
    """A close after the rename is the first one of the file."""
    engine = settler()
    engine.renamed("a.dat", "a.tmp", A, 0.0)
    engine.closed("a.dat", A, 0.25)

    assert run(engine, 99.0, lambda _: A)[0][:2] == (1.25, "a.dat")


def test_any_other_rename_carries_over_what_was_known():
    """The quiet time goes on; a close stays a close; what changed meanwhile begins anew."""
    engine = settler()
    engine.observe("a", A, 0.0)
    engine.renamed("b", "a", A, 2.0)
    engine.closed("c", A, 0.0)
    engine.renamed("d", "c", A, 0.5)
    engine.observe("e", A, 0.0)
    engine.renamed("f", "e", B, 2.0)

    went = run(engine, 99.0, lambda path: B if path == "f" else A)
    assert [(at, path) for at, path, *_ in went] == [(1.0, "d"), (3.0, "b"), (5.0, "f")]


def test_a_temporary_name_waits_for_its_rename_and_goes_with_a_doubt_after_the_maximum():
    """It is asked about again after 1 s, 2 s, 4 s, 8 s, then every 10 s, and on time at the end."""
    engine, asked = settler(max_wait=60.0), []
    engine.observe("a.tmp", A, 0.0)

    def look(_: str) -> Stat:
        asked.append(engine.next_due())
        return A

    assert run(engine, 99.0, look) == [(60.0, "a.tmp", "unchanged for 60 s", "its name is still a temporary one")]
    assert asked == [3.0, 4.0, 6.0, 10.0, 18.0, 28.0, 38.0, 48.0, 58.0, 60.0]


def test_a_file_that_is_held_open_waits_as_long_as_it_changes_and_the_maximum_from_then_on():
    """A detector that writes for hours is not cut in half."""
    engine = settler(max_wait=60.0)
    for second in range(0, 10_000, 20):
        engine.observe("a", Stat(second, second), float(second))
        assert run(engine, second + 19.0, lambda _, second=second: Stat(second, second), held=True) == []

    assert run(engine, 99_999.0, lambda _: Stat(9980, 9980), held=True) == [
        (10_040.0, "a", "unchanged for 60 s", "a program still holds it open for writing")
    ]


def test_a_file_that_is_let_go_without_a_hint_goes_at_the_next_asking():
    """Ten seconds later at most."""
    engine = settler()
    engine.observe("a", A, 0.0)

    assert run(engine, 100.0, lambda _: A, held=True) == []
    assert 100.0 < run(engine, 200.0, lambda _: A, held=False)[0][0] <= 110.0


def test_without_a_maximum_a_file_waits_for_its_evidence_for_ever():
    """That is for who chose it."""
    engine = settler(max_wait=None)
    engine.observe("a.tmp", A, 0.0)

    assert run(engine, 20_000.0, lambda _: A) == []
    assert "a.tmp" in engine


def test_in_mode_close_a_closed_file_goes_at_once_and_any_other_as_by_default():
    """Also when it is closed again; who holds it open is not asked."""
    engine = settler(SettleMode.CLOSE)
    engine.observe("other", A, 0.0)
    for now in (0.0, 0.5):
        engine.closed("a", Stat(1, int(now * 2)), now)
        assert engine.due(now) == [Due("a", Stat(1, int(now * 2)), None, False)]
        assert engine.decide(engine.due(now)[0], Stat(1, int(now * 2)), now).evidence.startswith("closed")
    engine.closed("b", A, 1.0)
    assert engine.decide(engine.due(1.0)[0], B, 1.0) is None, "it changed after it was closed"

    assert engine.due(3.0) == [Due("other", A, None, True)]
    assert [(at, path) for at, path, *_ in run(engine, 9.0, lambda path: B if path == "b" else A)] == [
        (3.0, "other"),
        (4.0, "b"),
    ]


def test_in_mode_quiet_the_long_quiet_time_alone_counts():
    """A close does not hurry it, and who holds it open is not asked."""
    engine = settler(SettleMode.QUIET)
    engine.closed("a", A, 0.0)

    assert engine.due(3.0) == [Due("a", A, None, False)]
    assert run(engine, 9.0, lambda _: A, held=True) == [(3.0, "a", "unchanged for 3 s", "")]


def test_a_marker_makes_its_file_go_at_once_when_that_was_quiet():
    """Asked about every ten seconds otherwise, for who has no hints."""
    engine = settler(SettleMode.MARKER, max_wait=None)
    engine.observe("run/a.dat", A, 0.0)
    engine.observe("run/b.dat", A, 99.5)
    assert run(engine, 100.0, lambda _: A) == []
    for path in ("run/a.dat.done", "run/b.dat.done"):
        engine.marked(path, 100.0)

    assert engine.due(100.0) == [Due("run/a.dat", A, "run/a.dat.done", False)]
    assert run(engine, 101.0, lambda _: A, marker=Stat(0, A.mtime_ns)) == [
        (100.0, "run/a.dat", "marker file run/a.dat.done, unchanged for 1 s", ""),
        (100.5, "run/b.dat", "marker file run/b.dat.done, unchanged for 1 s", ""),
    ]


def test_a_marker_that_is_older_than_its_file_takes_the_long_quiet_time():
    """It may be left from an earlier version; it may also have been copied first."""
    engine = settler(SettleMode.MARKER)
    engine.observe("a", A, 0.0)

    assert run(engine, 9.0, lambda _: A, marker=Stat(0, A.mtime_ns - 1)) == [
        (3.0, "a", "marker file a.done (older than the file), unchanged for 3 s", "")
    ]


def test_one_marker_can_speak_for_all_files_of_its_folder():
    """And for no other folder."""
    engine = settler(SettleMode.MARKER, marker="READY")
    for path in ("x/1", "x/2", "y/1"):
        engine.observe(path, A, 0.0)
    assert run(engine, 10.0, lambda _: A) == []
    engine.marked("x/READY", 10.5)

    assert [due.path for due in engine.due(10.5)] == ["x/1", "x/2"]


def test_a_missing_marker_leaves_a_doubt_after_the_maximum():
    """When the user chose a maximum."""
    engine = settler(SettleMode.MARKER, max_wait=60.0)
    engine.observe("a", A, 0.0)

    assert run(engine, 99.0, lambda _: A) == [(60.0, "a", "unchanged for 60 s", "its marker file a.done is not there")]


def test_a_file_that_is_gone_is_forgotten():
    """Nothing more is said of it, whatever was due."""
    engine = settler(SettleMode.MARKER)
    engine.observe("a", A, 0.0)
    due = engine.due(3.0)[0]

    assert engine.decide(due, None, 3.0) is None
    assert engine.decide(due, A, 3.0) is None
    engine.marked("a.done", 4.0)
    assert (len(engine), engine.due(99.0), engine.next_due(), engine.explain("a")) == (0, [], None, None)


def test_what_was_due_decides_nothing_once_more_was_seen():
    """The caller may have looked, and been told of a close, in between."""
    engine = settler()
    engine.observe("a", A, 0.0)
    due = engine.due(3.0)[0]
    engine.observe("a", B, 3.0)
    assert engine.decide(due, B, 3.0) is None
    engine.closed("a", B, 7.0)

    assert engine.decide(Due("a", B, None, True), B, 7.5) is None
    assert engine.decide(engine.due(8.0)[0], B, 8.0) == Settled("a", B, "closed, unchanged for 1 s")


def test_due_files_come_oldest_first_and_stay_until_decided():
    """Asked again they are given again; asked for a few, the oldest are given; a later time may be asked about."""
    engine = settler()
    for now, path in enumerate("abcd"):
        engine.observe(path, A, float(now))
    engine.closed("d", A, 3.0)

    assert [due.path for due in engine.due(math.inf)] == ["a", "b", "d", "c"]
    assert [due.path for due in engine.due(4.0)] == [due.path for due in engine.due(4.0)] == ["a", "b", "d"]
    assert [due.path for due in engine.due(4.0, limit=1)] == ["a"]
    assert engine.next_due() == 3.0
    engine.forget("a")
    engine.observe("b", B, 4.0)
    assert [due.path for due in engine.due(5.0, limit=9)] == ["d", "c"]
    assert engine.next_due() == 4.0


def test_a_file_that_was_replaced_by_another_of_the_same_size_and_time_starts_anew():
    """Another inode is another file; after a remount inodes change, so the content counts as the same."""
    engine = settler()
    engine.observe("a", Stat(1, 1, 10), 0.0)

    assert engine.observe("a", Stat(1, 1, 11), 2.0)
    assert engine.due(4.0) == []
    assert Stat(1, 1, 10).same_content(Stat(1, 1, 11))
    assert not Stat(1, 1).same_content(Stat(2, 1))
    assert not Stat(1, 1).same_content(Stat(1, 2))


def test_a_file_system_that_makes_inode_numbers_up_does_not_make_files_wait_for_ever():
    """After the third change of the inode alone the number is left out, and one is told so."""
    engine, inode = settler(), iter(range(1000))
    engine.observe("a", Stat(1, 1, next(inode)), 0.0)

    went = run(engine, 9.5, lambda _: Stat(1, 1, next(inode)))
    assert went == []
    assert "its inode number changes by itself and is left out" in engine.explain("a").seen
    assert run(engine, 99.0, lambda _: Stat(1, 1, next(inode)))[0][0] == 12.0


@pytest.mark.parametrize(
    ("mode", "path", "closes", "held", "expected"),
    [
        (SettleMode.AUTO, "a", 0, None, "3 s without a change and no program writing to it"),
        (SettleMode.AUTO, "a", 1, None, "1 s without a change and no program writing to it"),
        (SettleMode.AUTO, "a", 2, None, "3 s without a change and no program writing to it"),
        (SettleMode.AUTO, "a", 0, True, "the program that writes to it to close it (at most 3600 s without a change)"),
        (SettleMode.AUTO, "a~", 0, None, "its final name: this is a temporary one (at most 3600 s without a change)"),
        (SettleMode.QUIET, "a", 1, None, "3 s without a change"),
        (SettleMode.MARKER, "a", 0, None, "its marker file a.done (at most 3600 s without a change)"),
    ],
)
def test_it_can_be_asked_what_a_file_waits_for(mode, path, closes, held, expected):
    """The words are for who stands in front of the instrument."""
    engine = settler(mode)
    engine.observe(path, A, 1.0)
    for _ in range(closes):
        engine.closed(path, A, 1.0)
    if held is not None:
        engine.decide(engine.due(4.0)[0], A, 4.0, held=held)

    told = engine.explain(path)
    assert (told.path, told.waiting_for, told.since) == (path, expected, 1.0)
    assert told.due_at == engine.next_due()
    assert told.seen[0] == "5 bytes"
    assert ("a program closed it after writing" in told.seen) == (closes > 0)
    assert ("a program still holds it open for writing" in told.seen) == bool(held)


def test_a_file_that_waits_for_ten_minutes_is_told_once():
    """Whatever it waits for: it may be that it just does not stop changing."""
    engine = settler()
    engine.observe("a.tmp", A, 0.0)
    told = []
    for second in range(0, 2000, 2):
        engine.observe("log", Stat(second, second), float(second))
        run(engine, second + 1.5, lambda path, second=second: Stat(second, second) if path == "log" else A)
        told += [(second, each.path, each.waiting_for.partition(":")[0]) for each in engine.overdue(float(second))]

    assert told == [
        (600, "a.tmp", "its final name"),
        (600, "log", "3 s without a change and no program writing to it"),
    ]
    assert "changed 999 times while it waited" in engine.explain("log").seen[0]


def test_files_are_told_after_the_maximum_wait_when_that_is_shorter_and_never_for_being_quiet():
    """Somebody who chose a quiet time of an hour is not told of each file after ten minutes."""
    rules = {"short": SettleRule(max_wait_seconds=60.0), "calm": SettleRule(quiet_seconds=3600.0)}
    engine = Settler(lambda path: rules[path])
    for path in rules:
        engine.observe(path, A, 0.0)
    engine.decide(engine.due(3.0)[0], A, 3.0, held=True)

    assert [each.path for each in engine.overdue(59.0)] == []
    assert [each.path for each in engine.overdue(60.0)] == ["short"]
    assert [each.path for each in engine.overdue(3599.0)] == []


def test_files_that_wait_only_for_their_turn_are_not_told():
    """When the broker is away for an hour, 100,000 files have no problem of their own."""
    engine = settler()
    for number in range(50):
        engine.observe(str(number), A, 0.0)

    assert engine.overdue(700.0) == []
    for due in engine.due(700.0, limit=2):
        engine.decide(due, A, 700.0, held=True)
    assert engine.overdue(701.0) == []
    assert [each.path for each in engine.overdue(1300.0)] == ["0", "1"]


def test_so_many_are_told_at_a_time():
    """The others by the next calls, each once."""
    engine = settler()
    for number in range(2500):
        engine.observe(f"{number}.tmp", A, 0.0)
    for due in engine.due(3.0):
        engine.decide(due, A, 3.0)

    told = [engine.overdue(600.0 + second) for second in range(5)]
    assert [len(each) for each in told] == [1000, 1000, 500, 0, 0]
    assert len({each.path for part in told for each in part}) == 2500


def test_a_marker_by_a_rule_for_some_files_is_no_data_though_the_rule_does_not_match_it():
    """A rule for ``*.h5`` is asked for ``a.h5``, not for ``a.h5.done``."""
    engine = Settler(lambda path: SettleRule(SettleMode.MARKER if path.endswith(".h5") else SettleMode.AUTO))

    assert engine.is_marker("run/a.h5.done")
    assert not any(map(engine.is_marker, ("run/a.dat.done", "run/a.h5", "run/.done", "a.h5.don", "done")))
    assert Settler(lambda _: SettleRule(SettleMode.MARKER)).is_marker("run/anything.done")
    assert engine.is_temporary("run/a.h5.tmp")
    assert not engine.is_temporary("run/a.h5")


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python ``work`` goes through, loops counted: work done, whatever the machine's speed."""
    count, before = 0, sys.gettrace()

    def trace(frame: object, event: str, _: object) -> Callable[..., object]:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def test_asking_costs_the_same_however_many_files_wait():
    """What is asked every 50 ms looks at the next one, not at all of them; so does telling what is overdue."""

    def cost(waiting: int) -> list[int]:
        engine = settler()
        for number in range(waiting):
            engine.observe(str(number), A, 0.0)
        questions = (
            lambda: engine.due(2.0),
            engine.next_due,
            lambda: engine.overdue(2.0),
            lambda: engine.due(5.0, limit=5),
            lambda: engine.waiting(5),
        )
        return [lines_run(question) for question in questions]

    assert cost(10) == cost(20_000)


def test_a_burst_costs_the_same_for_each_file_however_large_it_is():
    """From the first observation to the decision; a walk over all that wait would show."""

    def cost(files: int) -> float:
        engine = settler()
        went: list[Settled | None] = []

        def burst() -> None:
            for number in range(files):
                engine.observe(str(number), A, number / 1e6)
                engine.closed(str(number), A, number / 1e6)
            while len(engine):
                went.extend(engine.decide(due, A, 10.0, held=False) for due in engine.due(10.0, limit=100))

        lines = lines_run(burst)
        assert len([each for each in went if each]) == files
        return lines / files

    assert cost(10_000) < cost(500) * 1.1


def test_memory_follows_what_waits_and_not_what_happened():
    """A file that changes 20 times a second, or comes and goes, for weeks."""
    engine = settler(SettleMode.MARKER)
    for step in range(20_000):
        now = step / 20
        engine.observe("grows", Stat(step, step), now)
        engine.closed("closed", Stat(step, step), now)
        engine.marked("grows.done", now)
        engine.observe(f"brief-{step}", A, now)
        engine.forget(f"brief-{step}")

    assert len(engine) == 2
    held = len(engine._heap) + len(engine._ready) + sum(map(len, engine._untold.values())) + len(engine._awaited)
    assert held < 3000


def test_a_waiting_file_takes_little_memory():
    """Besides its path and its looks: 200,000 of them take 100 MB at most."""
    engine, paths = settler(), [f"run/{number}" for number in range(5000)]
    tracemalloc.start()
    try:
        for path in paths:
            engine.observe(path, A, 1.5)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert used / len(paths) < 500
