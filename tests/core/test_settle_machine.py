"""The laws of settling, held against a simulated disk, clock, ledger and caller; weakened engines are the controls.

The disk's files are created, appended to, patched in place, truncated, touched, closed, renamed and deleted, with
modification times that go forward, back, into the future or stand still, and half of what happens is not hinted at.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from openmsistream.core.settle import Settled, SettleMode, Settler, SettleRule, Stat

LONG, SHORT, MAX_WAIT, RETRY = 3.0, 1.0, 40.0, 10.0  # with steps of an eighth of a second, sums are exact
NAMES = ("a.dat", "b.dat", "a.dat.tmp", "~b")
names, hinted = st.sampled_from(NAMES), st.booleans()
clocks = st.sampled_from(("forward", "past", "future", "still"))


@dataclass
class File:
    """A simulated file: each of its contents has looks of its own, as no engine could tell them apart otherwise."""

    stat: Stat
    changed_at: float
    writers: int = 0
    signed_at: float | None = None  # when the engine was last told of a close, or a rename from a temporary name
    closes: int = 0
    changed_after_sign: bool = False

    def look_different(self, stat: Stat, now: float) -> None:
        self.changed_after_sign |= self.signed_at is not None
        self.stat, self.changed_at = stat, now


@dataclass
class World:
    """The disk, the clock, and a caller of the engine that does what the upload flow does."""

    settler: Settler
    rule: SettleRule
    now: float = 0.0
    files: dict[str, File] = field(default_factory=dict)
    markers: dict[str, Stat] = field(default_factory=dict)
    ledger: dict[str, Stat] = field(default_factory=dict)
    signed_before: set[str] = field(default_factory=set)
    used: int = 0

    def mtime(self, clock: str) -> int:
        self.used += 1
        return {"forward": 10**18 + self.used, "past": -self.used * 10**9, "future": 2**62 + self.used}[clock]

    def see(self, path: str) -> None:
        """A hint or a scan: what the ledger does not know of has to settle."""
        file = self.files.get(path)
        if file is None:
            self.settler.forget(path)
        elif self.is_news(path, file):
            self.settler.observe(path, file.stat, self.now)

    def is_news(self, path: str, file: File) -> bool:
        if self.ledger.get(path) != file.stat:
            return True
        self.settler.forget(path)
        file.signed_at, file.closes, file.changed_after_sign = None, 0, False
        return False

    def close(self, path: str, *, hint: bool) -> None:
        file = self.files[path]
        file.writers -= 1
        if hint and self.is_news(path, file):
            self.settler.closed(path, file.stat, self.now)
            file.signed_at, file.closes = self.now, file.closes + 1

    def rename(self, before: str, path: str, *, hint: bool) -> None:
        replaced = self.files.get(path)
        file = self.files[path] = self.files.pop(before)
        temporary = self.rule.is_temporary(before) and not self.rule.is_temporary(path)
        if temporary or not hint:
            file.signed_at, file.closes, file.changed_after_sign = None, 0, False
        if replaced is not None and replaced.signed_at is not None and hint:
            file.changed_after_sign = True
        if not hint:
            return
        if self.is_news(path, file):
            self.settler.renamed(path, before, file.stat, self.now)
            if temporary:
                file.signed_at = self.now
            elif before in self.signed_before:
                file.changed_after_sign = True
        else:
            self.settler.forget(before)

    def ask(self) -> None:
        """Decide on all that is due, with the truth."""
        for due in self.settler.due(self.now):
            file = self.files.get(due.path)
            settled = self.settler.decide(
                due,
                file and file.stat,
                self.now,
                marker=self.markers.get(due.marker or ""),
                held=bool(file and file.writers) if due.writers else None,
            )
            if settled is not None:
                self.check(settled)
                file = self.files[due.path]
                if file.signed_at is not None:
                    self.signed_before.add(due.path)
                self.ledger[due.path] = settled.stat
                file.signed_at, file.closes, file.changed_after_sign = None, 0, False
        at = self.settler.next_due()
        assert at is None or at > self.now, "what was asked about is not asked about again at once"

    def check(self, settled: Settled) -> None:
        """Nothing goes early, half, or twice."""
        path, file = settled.path, self.files[settled.path]
        assert settled.stat == file.stat, "it goes as it is now"
        assert self.ledger.get(path) != settled.stat, "a content goes once, unless another came in between"
        assert settled.evidence
        quiet, mode = self.now - file.changed_at, self.rule.mode
        temporary, marker = self.rule.is_temporary(path), self.markers.get(self.rule.marker_of(path))
        if settled.doubt:
            held = mode in {SettleMode.AUTO, SettleMode.CLOSE} and file.writers > 0
            assert quiet >= MAX_WAIT
            assert temporary or held or (mode is SettleMode.MARKER and marker is None)
            return
        assert not temporary
        signed = file.signed_at is not None and file.signed_at >= file.changed_at
        if mode is SettleMode.QUIET:
            assert quiet >= LONG
        elif mode is SettleMode.MARKER:
            assert marker is not None
            assert quiet >= (SHORT if marker.mtime_ns >= file.stat.mtime_ns else LONG)
        elif mode is SettleMode.CLOSE:
            assert signed or (quiet >= LONG and not file.writers)
        else:
            assert not file.writers, "no program has it open for writing"
            again = path in self.signed_before or file.changed_after_sign or file.closes > 1
            if signed and not again:
                assert self.now - file.signed_at >= SHORT
            else:
                assert quiet >= LONG

    def let_go(self, seconds: float) -> None:
        """Nothing happens any more: by then everything has gone."""
        for path in NAMES:
            self.see(path)
        deadline = self.now + seconds
        self.ask()
        while (at := self.settler.next_due()) is not None:
            assert at <= deadline, "nothing waits for ever"
            self.now = max(self.now, at)
            self.ask()
        assert len(self.settler) == 0
        assert all(self.ledger.get(path) == file.stat for path, file in self.files.items())


class SettlingMachine(RuleBasedStateMachine):
    """What may happen to files, in any order."""

    engine: ClassVar[type[Settler]] = Settler

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Settler(lambda _: SettleRule()), SettleRule())

    @initialize(mode=st.sampled_from(SettleMode))
    def begin(self, mode: SettleMode) -> None:
        rule = SettleRule(mode, LONG, SHORT, MAX_WAIT)
        self.world = World(self.engine(lambda _: rule), rule)

    @rule(eighths=st.integers(1, 32))
    def time_passes(self, eighths: int) -> None:
        self.world.now += eighths / 8

    @rule(path=names, clock=clocks, hint=hinted)
    def create(self, path: str, clock: str, hint: bool) -> None:
        world = self.world
        if path not in world.files:
            mtime = world.mtime("forward" if clock == "still" else clock)
            world.files[path] = File(Stat(0, mtime, world.used), world.now, writers=1)
            if hint:
                world.see(path)

    @rule(path=names)
    def open(self, path: str) -> None:
        if path in self.world.files:
            self.world.files[path].writers += 1

    @rule(path=names, size=st.integers(0, 9), clock=clocks, hint=hinted)
    def append(self, path: str, size: int, clock: str, hint: bool) -> None:
        """With a modification time that stands still the size still grows."""
        file = self.world.files.get(path)
        if file is not None and file.writers:
            mtime = file.stat.mtime_ns if clock == "still" else self.world.mtime(clock)
            size = max(size, 1) if clock == "still" else size
            file.look_different(replace(file.stat, size=file.stat.size + size, mtime_ns=mtime), self.world.now)
            if hint:
                self.world.see(path)

    @rule(path=names, clock=st.sampled_from(("forward", "past", "future")), touch=st.booleans(), hint=hinted)
    def truncate_or_touch(self, path: str, clock: str, touch: bool, hint: bool) -> None:
        file = self.world.files.get(path)
        if file is not None and (touch or file.writers):
            size = file.stat.size if touch else 0
            file.look_different(replace(file.stat, size=size, mtime_ns=self.world.mtime(clock)), self.world.now)
            if hint:
                self.world.see(path)

    @rule(path=names, hint=hinted)
    def close(self, path: str, hint: bool) -> None:
        if path in self.world.files and self.world.files[path].writers:
            self.world.close(path, hint=hint)

    @rule(path=names, clock=clocks)
    def append_and_close(self, path: str, clock: str) -> None:
        """What most programs do, so that it is often met here."""
        self.create(path, clock, hint=False)
        self.open(path)
        self.append(path, 5, clock, hint=True)
        self.close(path, hint=True)

    @rule(path=names, clock=clocks, eighths=st.integers(1, 32))
    def append_unnoticed(self, path: str, clock: str, eighths: int) -> None:
        """No hint tells of it, and what is due is asked about before the next scan."""
        self.open(path)
        self.append(path, 5, clock, hint=False)
        self.close(path, hint=False)
        self.time_passes(eighths)
        self.ask()

    @rule(before=names, path=names, hint=hinted)
    def rename(self, before: str, path: str, hint: bool) -> None:
        if before in self.world.files and before != path:
            self.world.rename(before, path, hint=hint)

    @rule(path=names, hint=hinted)
    def delete(self, path: str, hint: bool) -> None:
        self.world.files.pop(path, None)
        if hint:
            self.world.see(path)

    @rule(path=names, clock=st.sampled_from(("forward", "past", "future")), hint=hinted)
    def mark(self, path: str, clock: str, hint: bool) -> None:
        marker = self.world.rule.marker_of(path)
        self.world.markers[marker] = Stat(0, self.world.mtime(clock))
        if hint:
            self.world.settler.marked(marker, self.world.now)

    @rule()
    def scan(self) -> None:
        for path in NAMES:
            self.world.see(path)

    @rule()
    def ask(self) -> None:
        self.world.ask()

    @rule()
    def nothing_more_happens(self) -> None:
        """Even what a program holds open, has a temporary name or no marker goes, with a doubt, after the maximum."""
        self.world.let_go(MAX_WAIT)

    @rule()
    def everybody_lets_go(self) -> None:
        """Without a hint that tells of it: what lacks no evidence any more goes within one more asking."""
        world = self.world
        for path in NAMES:
            if path in world.files:
                world.files[path].writers = 0
                world.markers[world.rule.marker_of(path)] = Stat(0, 2**63)
                if world.rule.is_temporary(path):
                    del world.files[path]
        world.let_go(max(LONG, RETRY))

    @invariant()
    def what_waits_can_be_explained(self) -> None:
        told = self.world.settler.waiting(10)
        assert len(told) == len(self.world.settler)
        assert all(each.seen and each.waiting_for and each.since <= self.world.now for each in told)
        assert [each.since for each in told] == sorted(each.since for each in told)

    def teardown(self) -> None:
        self.world.let_go(MAX_WAIT)


@pytest.mark.parametrize("steps", [10, 50])
def test_nothing_goes_early_nothing_waits_for_ever_and_nothing_goes_twice(steps: int):
    """Whatever happens to files, and whatever is hinted at."""
    run_state_machine_as_test(
        SettlingMachine, settings=settings(max_examples=150, stateful_step_count=steps, deadline=None)
    )


class DeafToWriters(Settler):
    """Sends what a program still writes to."""

    def decide(self, due, current, now, *, marker=None, held=None):
        return super().decide(due, current, now, marker=marker, held=False)


class Impatient(Settler):
    """Waits an eighth of a second less than the rule says."""

    def __init__(self, rule_for):
        super().__init__(lambda path: replace(rule_for(path), quiet_seconds=LONG - 0.125))


class TrustsTheFirstLook(Settler):
    """Does not look again before it decides."""

    def decide(self, due, current, now, *, marker=None, held=None):
        return super().decide(due, current and due.stat, now, marker=marker, held=held)


class KnowsOnlyTimes(Settler):
    """Takes a file whose modification time stands still for unchanged."""

    def observe(self, path, stat, now):
        known = self._waiting.get(path)
        return (known is None or known.stat.mtime_ns != stat.mtime_ns) and super().observe(path, stat, now)

    def decide(self, due, current, now, *, marker=None, held=None):
        if current is not None and current.mtime_ns == due.stat.mtime_ns:
            current = due.stat
        return super().decide(due, current, now, marker=marker, held=held)


class WaitsForEver(Settler):
    """Knows no maximum wait."""

    def __init__(self, rule_for):
        super().__init__(lambda path: replace(rule_for(path), max_wait_seconds=None))


class SendsTwice(Settler):
    """Waits for a file once more after it settled."""

    def decide(self, due, current, now, *, marker=None, held=None):
        settled = super().decide(due, current, now, marker=marker, held=held)
        if settled is not None:
            self.observe(due.path, settled.stat, now)
        return settled


class RemembersNoCloses(Settler):
    """Believes each close to be the last one."""

    def closed(self, path, stat, now):
        super().closed(path, stat, now)
        self._waiting[path].again = False
        self._reschedule(self._waiting[path])


class IgnoresOldMarkers(Settler):
    """Takes any marker for one of the file's present content."""

    def decide(self, due, current, now, *, marker=None, held=None):
        return super().decide(due, current, now, marker=marker and replace(marker, mtime_ns=2**63), held=held)


@pytest.mark.parametrize(
    "weakened",
    [
        DeafToWriters,
        Impatient,
        TrustsTheFirstLook,
        KnowsOnlyTimes,
        WaitsForEver,
        SendsTwice,
        RemembersNoCloses,
        IgnoresOldMarkers,
    ],
)
def test_an_engine_that_breaks_a_law_is_caught(weakened: type[Settler]):
    """The control of the test above: it would notice."""

    class WeakenedMachine(SettlingMachine):
        engine = weakened

    quick = settings(
        max_examples=400,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(WeakenedMachine, settings=quick)
