"""The upload flow under everything that can happen to it, in any order: a state machine, and its controls.

Programs make, append to, patch, cut, rename and remove files, also right before any operation of the uploader; clocks
are wrong; hints are lost, doubled, late or none; the broker is silent or its word is lost; the uploader is stopped, or
killed at any operation, and started again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from openmsistream.core.selection import Selection
from openmsistream.errors import UnavailableError
from openmsistream.pipeline import sender
from openmsistream.pipeline.sending import Sending, State
from openmsistream.ports import Hints, OpenFile, Parked, Producer
from tests.faults.support import LONG
from tests.pipeline.disk import Disk, DiskFile
from tests.pipeline.uploader import MOMENTS, RULE, Consumed, Uploader, Whole, consume

SETTINGS = settings(
    max_examples=2_000 if LONG else 150,
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

FINAL = ("a", "run/a")
NAMES = (*FINAL, "a.part", "run/.a.x")
Action = tuple[str, str, str, int]

paths = st.sampled_from(NAMES)
sizes = st.sampled_from([0, 1, 4, 5, 9, 14, 22])
VERBS = (
    *(
        "create",
        "append",
        "append",
        "patch",
        "patch",
        "cut",
        "close",
        "close",
        "touch",
        "copy over",
        "rename",
        "rename",
    ),
    *("remove", "whole", "whole", "folder in", "folder moves", "unreadable", "readable"),
)
actions = st.tuples(st.sampled_from(VERBS), paths, paths, sizes)
moments = st.sampled_from(("read", "read", "unchanged", "open", "produce", *MOMENTS))
flags = st.booleans()
mostly, mostly_not = st.sampled_from([True, True, False]), st.sampled_from([False, False, True])
pauses = st.sampled_from([0.0, 0.0, 0.3, 1.2, 3.5, 8.0])
HOUR_NS = 3_600_000_000_000


class Uploading(RuleBasedStateMachine):
    """Whatever happens: nothing is lost, nothing is half, nothing is sent twice, and nothing waits for ever."""

    disk_type: type[Disk] = Disk
    scan_seconds = 5.0

    @initialize(
        existing=flags,
        silent=mostly_not,
        tells=flags,
        stream=mostly,
        temporary=mostly,
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

    def act(self, action: Action) -> None:
        """A program does something."""
        verb, path, other, size = action
        disk = self.disk
        does: dict[str, Callable[[], object]] = {
            "create": lambda: disk.create(path, size),
            "append": lambda: disk.append(path, size),
            "patch": lambda: disk.patch(path, size),
            "cut": lambda: disk.cut(path, size // 2),
            "close": lambda: disk.close(path),
            "touch": lambda: disk.touch(path),
            "copy over": lambda: disk.copy_over(path),
            "rename": lambda: disk.rename(path, other),
            "remove": lambda: disk.remove(path),
            "whole": lambda: disk.write_whole(path, size),
            "folder in": lambda: disk.move_folder_in("moved", ["a", "b"], size),
            "folder moves": lambda: disk.rename_folder("run", "moved"),
            "unreadable": lambda: disk.unreadable.add(path),
            "readable": lambda: disk.unreadable.discard(path),
        }
        does[verb]()

    # -- programs that write ------------------------------------------------------------------------------------

    @rule(doing=st.lists(actions, min_size=1, max_size=3), then=pauses)
    def programs_work(self, doing: list[Action], then: float) -> None:
        for action in doing:
            self.act(action)
        self.up.run(then)

    @rule(action=actions, moment=moments, nth=st.integers(1, 4), then=pauses)
    def something_happens_right_before(self, action: Action, moment: str, nth: int, then: float) -> None:
        self.up.before(moment, nth, lambda: self.act(action))
        self.up.run(then)

    @rule(
        verb=st.sampled_from(["patch", "patch", "append", "cut", "copy over", "whole", "rename", "remove"]),
        moment=st.sampled_from(["read", "read", "unchanged", "produce"]),
        nth=st.integers(1, 5),
        size=sizes,
        then=pauses,
    )
    def what_is_being_read_changes(self, verb: str, moment: str, nth: int, size: int, then: float) -> None:
        self.up.before(moment, nth, lambda: self.act((verb, *self._being_read(), size)))
        self.up.run(then)

    def _being_read(self) -> tuple[str, str]:
        """The file that the program opened last, and another."""
        path = self.disk.open_files[-1].path if self.disk.open_files else FINAL[0]
        return path, FINAL[path == FINAL[0]]

    @rule(
        path=st.sampled_from(FINAL),
        temporary=flags,
        pieces=st.lists(st.integers(1, 12), min_size=1, max_size=6),
        every=st.sampled_from([0.2, 0.7, 1.5, 4.0]),
        ends=st.sampled_from(["closed", "patched and closed", "closed, then patched", "left open"]),
        then=pauses,
    )
    def an_instrument_writes(
        self, path: str, temporary: bool, pieces: list[int], every: float, ends: str, then: float
    ) -> None:
        name, disk, at = f"{path}.part" if temporary else path, self.disk, self.up.clock.at
        when = self.up.clock.monotonic() + 0.1
        at(when, lambda: disk.create(name, 1))
        for size in pieces:
            when += every
            at(when, lambda size=size: disk.append(name, size))  # type: ignore[misc]
        when += every
        if ends == "patched and closed":
            at(when, lambda: disk.patch(name, 0))
        if ends != "left open":
            at(when, lambda: disk.close(name))
            if temporary:
                at(when + 0.1, lambda: disk.rename(name, path))
        if ends == "closed, then patched":
            at(when + every, lambda: disk.patch(path, 0))
            at(when + every, lambda: disk.close(path))
        self.horizon = max(self.horizon, when + every)
        self.up.run(then)

    @rule(times=st.sampled_from(["now", "still", "back", "future", "coarse"]), hours=st.sampled_from([-30, 0, 0, 30]))
    def clocks_are_wrong(self, times: str, hours: int) -> None:
        self.disk.times = times
        self.up.clock.set_by_ns += hours * HOUR_NS

    # -- hints and the broker -----------------------------------------------------------------------------------

    @rule(losing=flags, doubling=flags, late=flags, overflow=flags, then=pauses)
    def hints_go_astray(self, losing: bool, doubling: bool, late: bool, overflow: bool, then: float) -> None:
        self.disk.losing, self.disk.doubling, self.disk.late = losing, doubling, late
        if overflow:
            self.disk.overflow()
        self.hints_went_astray |= losing or late or overflow
        self.up.run(then)

    @rule(silent=mostly_not, answers=st.sampled_from([None, 1]), lost=st.integers(0, 2), arrives=flags, then=pauses)
    def the_broker_is_in_trouble(
        self, silent: bool, answers: int | None, lost: int, arrives: bool, then: float
    ) -> None:
        self.up.broker_silent, self.up.answers_per_poll = silent, answers
        if lost:
            self.up.fail_next(UnavailableError("the connection is gone"), lost, arrives=arrives)
        self.up.run(then)

    # -- the program --------------------------------------------------------------------------------------------

    @rule(
        moment=st.sampled_from(MOMENTS),
        nth=st.integers(1, 8),
        arriving=st.integers(0, 3),
        meanwhile=st.sampled_from(["", "patch", "append", "remove"]),
        then=pauses,
    )
    def kill_right_before(self, moment: str, nth: int, arriving: int, meanwhile: str, then: float) -> None:
        def kill() -> None:
            if meanwhile:  # what was being read changes while the program is off
                self.act((meanwhile, *self._being_read(), 0))
            self.up.kill(arriving)

        self.up.before(moment, nth, kill)
        self.up.run(then)

    @rule(stream=mostly, temporary=mostly)
    def stop(self, stream: bool, temporary: bool) -> None:
        self.up.stop()
        self.up.stream, self.up.temporary = stream, temporary

    # -- the judgement ------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "up"):
            try:
                self._judge()
            finally:
                self.up.ledger.shut()

    def _judge(self) -> None:
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
            assert not consumed.open or up.unsaid, "a version was never ended"
            assert all(each.payload_bytes == len(each.content) for each in consumed.whole), "bytes were sent twice"

    def _nothing_is_lost(self, consumed: Consumed) -> None:
        up, newest = self.up, consumed.newest()
        for path, content in self.disk.contents().items():
            # Without faithful hints nobody can tell that a folder was moved here while the first scan ran.
            astray = self.hints_went_astray and path in self.disk.came_along
            noted = (up.at_first_scan if astray else up.at_first_start) or {}
            was_there = not self.existing and noted.get(path) == content
            if not Selection().accepts(path):
                assert path not in newest
            elif (path in newest or not was_there) and newest.get(path) != content:
                assert self._sent_unknown_and_put_back(path, consumed), f"{path}: lost"
            if was_there and self.disk.history[path].disturbed_at <= up.first_start:
                assert path not in newest, f"{path}: it was there before, and was to stay"

    def _sent_unknown_and_put_back(self, path: str, consumed: Consumed) -> bool:
        """
        The newest version was sent right before a kill, and then the file before it was put back, mtime and all.

        The ledger, which had no time to learn of the newest, finds what it knows. This cannot be told from nothing
        having happened, unless every file was written into the ledger, durably, before it is sent.
        """
        ended = max(each.ended for each in consumed.whole if each.path == path) if path in consumed.newest() else 0
        return self.disk.history[path].returned and any(0 <= at - ended <= UNSAVED_SECONDS for at in self.up.kills)

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


class NeverLooksBack(DiskFile):
    """Weakened: a file that changed while it was read counts as unchanged."""

    def unchanged(self) -> bool:
        return True


class ReadsAnyhow(Disk):
    """A disk of such files."""

    file_type = NeverLooksBack


class SaysNothingOfOverflow(Disk):
    """Weakened: a watcher that does not say that it lost count."""

    def hints(self) -> Hints:
        return replace(super().hints(), everything=False)


class KnowsNoWriters(Disk):
    """Weakened: nobody asks who has a file open."""

    def holding(self, paths: Collection[str]) -> frozenset[str] | None:
        return None


class TrustsWhatWasSent(Sending):
    """Weakened: what was streamed is not read again before the end is sent."""

    def _begin_verifying(self, file: OpenFile, path: str) -> None:
        sent, hasher = self._position, self._hasher
        super()._begin_verifying(file, path)
        file.seek(sent)
        self._position, self._hasher, self._sent_prefix = sent, hasher, None
        self.state, self.verified = State.SENDING, True


class SaysSentTooEarly(Sending):
    """Weakened: a version counts as sent once it is queued."""

    def step(self, producer: Producer) -> bool:
        accepted = super().step(producer)
        if self.state is State.AWAITING:
            self.state = State.SENT
        return accepted


class GoesOnUnseen(Sending):
    """Weakened: after a kill a version goes on although its beginning changed."""

    def _resume_v2(self, parked: Parked, digest: bytes) -> None:
        super()._resume_v2(replace(parked, prefix_digest=digest), digest)


@pytest.mark.parametrize("weakened", [ReadsAnyhow, KnowsNoWriters])
def test_the_machine_finds_evidence_that_is_not_asked_for(weakened: type[Disk]):
    """The control: a file that changes while it is read, or that somebody writes, would be sent half."""

    class Weakened(Uploading):
        disk_type = weakened

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Weakened, settings=CONTROL)


def test_the_machine_finds_that_lost_hints_need_scans():
    """The control: without scans, and without what a watcher says of an overflow, files are lost."""

    class Weakened(Uploading):
        disk_type = SaysNothingOfOverflow
        scan_seconds = 1e9

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Weakened, settings=CONTROL)


# The search for the last one takes long.
@pytest.mark.parametrize("weakened", [TrustsWhatWasSent, SaysSentTooEarly, *([GoesOnUnseen] if LONG else [])])
def test_the_machine_finds_a_sender_that_takes_a_rule_lightly(weakened: type[Sending], monkeypatch: pytest.MonkeyPatch):
    """The control: a patched header, a broker that never answered, or a file changed while off, would go unnoticed."""
    monkeypatch.setattr(sender, "Sending", weakened)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(Uploading, settings=CONTROL)
