"""The upload flow under everything that can happen to it, in any order: a state machine, and its controls.

Programs make, append to, patch, cut, rename and remove files; clocks are wrong; hints are lost, doubled, late or none;
the broker is silent or its word is lost; the uploader is stopped, or killed at any operation, and started again. Each
of these can happen right before any operation of the uploader.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from openmsistream.core.selection import Selection
from openmsistream.errors import UnavailableError
from openmsistream.pipeline.sending import Sending, State
from openmsistream.ports import Hints
from tests.pipeline.disk import Disk, DiskFile
from tests.pipeline.uploader import MOMENTS, RULE, Consumed, Uploader, Whole, consume

LONG = os.environ.get("OMS_LONG") == "1"
SETTINGS = settings(
    max_examples=2_000 if LONG else 120,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CONTROL = settings(SETTINGS, max_examples=2_000, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)

BOUND_SECONDS = 130.0
"""Once all is well, everything is sent after this: 60 s between tries, the maximum wait of 30 s, scans, quiet times."""
UNSAVED_SECONDS = 1.0
"""How old a version may be, when the program is killed, that is sent again: the ledger is committed more often."""
SHORT_QUIET_SECONDS = RULE.short_seconds - 0.001

FINAL = ("a", "b", "run/a")
NAMES = (*FINAL, "a.part", "b.part", "run/.a.x")
Action = tuple[str, str, str, int]

paths = st.sampled_from(NAMES)
sizes = st.integers(0, 22)
actions = st.tuples(
    st.sampled_from(
        ["create", "append", "append", "patch", "cut", "close", "close", "touch", "copy", "rename", "rename", "remove"]
        + ["whole", "whole", "folder in", "folder moves", "other times", "unreadable", "readable"]
    ),
    paths,
    paths,
    sizes,
)
TIMES = ("now", "still", "back", "future", "coarse")


class Uploading(RuleBasedStateMachine):
    """Whatever happens: nothing is lost, nothing is half, nothing is sent twice, and nothing waits for ever."""

    disk_type: type[Disk] = Disk
    scan_seconds = 5.0

    @initialize(
        existing=st.booleans(),
        silent=st.booleans(),
        tells=st.booleans(),
        stream=st.booleans(),
        temporary=st.booleans(),
        before=st.lists(actions, max_size=3),
    )
    def begin(
        self, existing: bool, silent: bool, tells: bool, stream: bool, temporary: bool, before: list[Action]
    ) -> None:
        self.existing = existing
        self.up = Uploader(existing=existing, disk=self.disk_type)
        self.up.scan_seconds = self.scan_seconds
        self.up.stream, self.up.temporary = stream, temporary
        self.disk = self.up.disk
        self.disk.silent, self.disk.tells_writers = silent, tells
        self.hints_went_astray = silent
        self.horizon = 0.0
        for action in before:
            self.act(action)
        self.at_first: dict[str, bytes] = {}
        self.was_new = True
        self.seen_start = -1.0

    def act(self, action: Action) -> None:
        """A program does something."""
        verb, path, other, size = action
        disk = self.disk
        does: dict[str, Callable[[], object]] = {
            "create": lambda: disk.create(path, size),
            "append": lambda: disk.append(path, size),
            "patch": lambda: disk.patch(path, size % 7),
            "cut": lambda: disk.cut(path, size // 2),
            "close": lambda: disk.close(path),
            "touch": lambda: disk.touch(path),
            "copy": lambda: disk.copy_over(path),
            "rename": lambda: disk.rename(path, other),
            "remove": lambda: disk.remove(path),
            "whole": lambda: (disk.create(path, size), disk.close(path)),
            "folder in": lambda: disk.move_folder_in("moved", ["a", "b"], size),
            "folder moves": lambda: disk.rename_folder("run", "moved"),
            "other times": lambda: setattr(disk, "times", TIMES[size % len(TIMES)]),
            "unreadable": lambda: disk.unreadable.add(path),
            "readable": lambda: disk.unreadable.discard(path),
        }
        does[verb]()

    # -- programs -----------------------------------------------------------------------------------------------

    @rule(action=actions)
    def something_happens(self, action: Action) -> None:
        self.act(action)

    @rule(action=actions, moment=st.sampled_from(MOMENTS), nth=st.integers(1, 6))
    def something_happens_right_before(self, action: Action, moment: str, nth: int) -> None:
        self.up.before(moment, nth, lambda: self.act(action))

    @rule(
        path=st.sampled_from(FINAL),
        temporary=st.booleans(),
        pieces=st.lists(st.integers(1, 12), min_size=1, max_size=6),
        every=st.sampled_from([0.2, 0.7, 1.5, 4.0]),
        patched=st.booleans(),
        closed=st.booleans(),
    )
    def an_instrument_writes(
        self, path: str, temporary: bool, pieces: list[int], every: float, patched: bool, closed: bool
    ) -> None:
        name = f"{path}.part" if temporary else path
        at = self.up.clock.monotonic() + 0.1
        self.up.clock.at(at, lambda: self.disk.create(name, 1))
        for size in pieces:
            at += every
            self.up.clock.at(at, lambda size=size: self.disk.append(name, size))  # type: ignore[misc]
        at += every
        if patched:
            self.up.clock.at(at, lambda: self.disk.patch(name, 0))
        if closed:
            self.up.clock.at(at, lambda: self.disk.close(name))
            if temporary:
                self.up.clock.at(at + 0.1, lambda: self.disk.rename(name, path))
        self.horizon = max(self.horizon, at)

    # -- hints and the broker -----------------------------------------------------------------------------------

    @rule(losing=st.booleans(), doubling=st.booleans(), late=st.booleans())
    def hints_go_astray(self, losing: bool, doubling: bool, late: bool) -> None:
        self.disk.losing, self.disk.doubling, self.disk.late = losing, doubling, late
        self.hints_went_astray |= losing or late

    @rule()
    def hints_overflow(self) -> None:
        self.disk.overflow()
        self.hints_went_astray = True

    @rule(silent=st.booleans(), answers=st.sampled_from([None, 1, 2]))
    def the_broker_answers_or_not(self, silent: bool, answers: int | None) -> None:
        self.up.broker_silent, self.up.answers_per_poll = silent, answers

    @rule(records=st.integers(1, 3), arrives=st.booleans())
    def the_brokers_word_is_lost(self, records: int, arrives: bool) -> None:
        self.up.fail_next(UnavailableError("the connection is gone"), records, arrives=arrives)

    # -- the program --------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 1.2, 3.5, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.up.run(seconds)

    @rule(moment=st.sampled_from(MOMENTS), nth=st.integers(1, 8), arriving=st.integers(0, 3))
    def kill_right_before(self, moment: str, nth: int, arriving: int) -> None:
        self.up.before(moment, nth, lambda: self.up.kill(arriving))

    @rule(arriving=st.integers(0, 3), stream=st.booleans(), temporary=st.booleans())
    def kill(self, arriving: int, stream: bool, temporary: bool) -> None:
        self.up.killed(arriving)
        self.up.stream, self.up.temporary = stream, temporary

    @rule(stream=st.booleans(), temporary=st.booleans())
    def stop(self, stream: bool, temporary: bool) -> None:
        self.up.stop()
        self.up.stream, self.up.temporary = stream, temporary

    # -- the judgement ------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "up"):
            return
        up, disk = self.up, self.disk
        up.calm()
        disk.losing = disk.doubling = disk.late = False
        disk.unreadable.clear()
        up.run(max(0.1, self.horizon + 0.2 - up.clock.monotonic()))
        disk.close_all()
        up.run(BOUND_SECONDS)
        records = len(up.topic.arrivals)
        up.run(30.0)
        disk.judge()
        assert len(up.topic.arrivals) == records, "it sends for ever"
        assert up.sender.idle
        assert not len(up.sender.growing)
        assert not disk.open_files, "files are left open"
        consumed = consume(up.topic)
        self._nothing_is_lost(consumed)
        for whole in consumed.whole:
            self._is_not_half(whole)
        self._nothing_is_sent_twice(consumed)
        if not up.kills and not up.lost_acknowledgements:
            assert not consumed.open, "a version was never ended"
            if not consumed.aborted:
                assert consumed.payload_bytes == sum(len(each.content) for each in consumed.whole)
        up.ledger._db._connection.close()

    def _came_later(self, path: str) -> bool:
        """The file came, or got its present content, after the files that were there at the first start were noted."""
        if self.existing:
            return True
        noted_at = self.up.first_scan_at if self.hints_went_astray else self.up.first_start_at
        assert noted_at is not None
        return self.disk.history[path].changes[-1][0] > noted_at

    def _nothing_is_lost(self, consumed: Consumed) -> None:
        newest = consumed.newest()
        for path, file in self.disk.files.items():
            if not Selection().accepts(path):
                assert path not in newest
            elif path in newest or self._came_later(path):
                assert newest.get(path) == file.data, f"{path}: lost"

    def _is_not_half(self, whole: Whole) -> None:
        stood = self.disk.history[whole.path].stood.get(whole.content)
        assert stood is not None, f"{whole.path}: it never was like this"
        waited = stood.seconds >= (RULE.max_wait_seconds or 0)
        if self.disk.tells_writers:
            assert stood.closed or waited, f"{whole.path}: somebody was writing it"
        assert stood.seconds >= SHORT_QUIET_SECONDS, f"{whole.path}: it was still changing"

    def _nothing_is_sent_twice(self, consumed: Consumed) -> None:
        last: dict[str, Whole] = {}
        for whole in consumed.whole:
            before = last.get(whole.path)
            last[whole.path] = whole
            if before is None or before.content != whole.content:
                continue
            excuses = [
                at for at in (*self.up.kills, *self.up.lost_acknowledgements) if before.ended - 1 <= at <= whole.ended
            ]
            excused = any(at - before.ended <= UNSAVED_SECONDS for at in excuses)
            changes = self.disk.history[whole.path].changes
            changed = any(before.began - 60 <= at and content != whole.content for at, content in changes)
            assert excused or changed, f"{whole.path}: sent twice"


def test_whatever_happens_nothing_is_lost_half_or_sent_twice():
    """Writers, wrong clocks, lost hints, kills and a silent broker: every file arrives whole, once, in the end."""
    run_state_machine_as_test(Uploading, settings=SETTINGS)
