"""The download flow under everything that can happen to it, in any order: a state machine, and its controls.

Three hosts of one consumer group, each with a sink and a ledger of its own, read a topic whose records come one by
one. Partitions move between them, whether or not the old owner knows, programs are killed before or after each step
of a barrier, power is cut, disks fill up, commits fail, and days pass.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from openmsistream.adapters.memory import FakeClock, MemoryTopic
from openmsistream.core.events import FileFailed, Quarantined
from openmsistream.core.paths import partition_for
from openmsistream.core.versions import VersionKey
from openmsistream.core.watermark import Mark, decode_mark
from openmsistream.errors import StorageError, UnavailableError
from openmsistream.pipeline.download import Download
from openmsistream.pipeline.expiry import DAY_SECONDS, ExpirySettings
from tests.faults.support import LONG
from tests.pipeline.hosts import STEPS, Host
from tests.pipeline.material import v2_abort, v2_key, v2_records

PATHS = ("a.csv", "run/b.csv", "c", "d")
PARTITIONS = 2
HOSTS = st.integers(0, 2)
EXPIRE_DAYS = 7
SETTINGS = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

CONTROL = settings(SETTINGS, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)


class Downloading(RuleBasedStateMachine):
    """
    Every whole version is delivered, and nothing else ever becomes visible.

    Nothing is delivered twice, but what was given its name and not yet committed when a host crashed or lost a
    partition without knowing, and what a sender repeated.
    """

    flow: type[Download] = Download

    def __init__(self) -> None:
        super().__init__()
        clock = FakeClock()
        self.topic = MemoryTopic(PARTITIONS, clock=clock)
        self.hosts = [
            Host(self.topic, download=self.flow, partitions=partitions, clock=clock) for partitions in ((0, 1), (), ())
        ]
        for host in self.hosts:
            host.on_kill = lambda host=host: self._may_be_doubled(host)  # type: ignore[misc]
        self.clock = clock
        self.owner = {0: 0, 1: 0}
        self.gen = 0
        self.unsent: dict[str, list[bytes]] = {}
        self.sent: dict[str, list[bytes]] = {}
        self.last: dict[str, tuple[int, bytes]] = {}
        self.whole: dict[VersionKey, bytes] = {}
        self.newest: dict[str, tuple[VersionKey, bytes]] = {}
        self.ends: dict[VersionKey, tuple[int, int]] = {}
        self.expired: set[VersionKey] = set()
        self.doubled: set[VersionKey] = set()
        self.repeated: set[VersionKey] = set()
        self.disturbed = self.moved = False

    # -- what comes ------------------------------------------------------------------------------------------

    def _send(self, path: str, value: bytes) -> int:
        return self.topic.append(value, partition=partition_for(path, PARTITIONS))

    def _begin(self, path: str, chunks: int) -> None:
        self.gen += 1
        data = f"{self.gen:04d}".encode() * chunks
        self.unsent[path] = v2_records(path, data, self.gen)
        self.sent[path], self.last[path] = [], (self.gen, data)

    @rule(path=st.sampled_from(PATHS), chunks=st.integers(1, 5), count=st.integers(1, 5), turns=st.integers(0, 9))
    def send_chunks(self, path: str, chunks: int, count: int, turns: int) -> None:
        if not self.unsent.get(path):
            self._begin(path, chunks)
        offset = 0
        for _ in range(min(count, len(self.unsent[path]))):
            value = self.unsent[path].pop(0)
            self.sent[path].append(value)
            offset = self._send(path, value)
        if not self.unsent[path]:
            gen, data = self.last[path]
            key = v2_key(path, gen)
            self.whole[key], self.newest[path] = data, (key, data)
            self.ends[key] = partition_for(path, PARTITIONS), offset
        for host in self.hosts:
            host.turns(turns)

    @rule(path=st.sampled_from(PATHS), chunks=st.integers(1, 5))
    def send_a_whole_file(self, path: str, chunks: int) -> None:
        self.send_chunks(path, chunks, 5, 0)

    @rule(path=st.sampled_from(PATHS), turns=st.integers(3, 12))
    def begin_a_file_and_send_others(self, path: str, turns: int) -> None:
        self.send_chunks(path, 5, 1, 0)
        for other in PATHS:
            if not self.unsent.get(other):
                self.send_a_whole_file(other, 2)
        for host in self.hosts:
            host.turns(turns)

    @rule(path=st.sampled_from(PATHS), back=st.integers(1, 5))
    def send_chunks_again(self, path: str, back: int) -> None:
        if self.sent.get(path):
            self.repeated.add(v2_key(path, self.last[path][0]))
            for value in self.sent[path][-back:]:
                self._send(path, value)

    @rule(path=st.sampled_from(PATHS))
    def give_a_version_up(self, path: str) -> None:
        if self.unsent.get(path):
            self.unsent[path], self.sent[path] = [], []
            self._send(path, v2_abort(path, self.last[path][0]))

    # -- what happens ----------------------------------------------------------------------------------------

    @rule(host=HOSTS, count=st.integers(1, 12))
    def work(self, host: int, count: int) -> None:
        self.hosts[host].turns(count)

    @rule(host=HOSTS, step=st.sampled_from(STEPS), after=st.booleans(), cut=st.booleans(), more=st.booleans())
    def kill_at_the_next(self, host: int, step: str, after: bool, cut: bool, more: bool) -> None:
        self.disturbed = True
        self.hosts[host].bomb.step, self.hosts[host].bomb.after = step, after
        self.hosts[host].turns(8 if more else 1, power_cut=cut)

    @rule(host=HOSTS, cut=st.booleans())
    def kill(self, host: int, cut: bool) -> None:
        self.disturbed = True
        self.hosts[host].kill(power_cut=cut)

    @rule(host=HOSTS, times=st.integers(1, 2))
    def quit(self, host: int, times: int) -> None:
        """The second time before it has a partition."""
        for _ in range(times):
            self.hosts[host].quit()

    @rule(host=HOSTS)
    def lose_the_ledger(self, host: int) -> None:
        self.disturbed = True
        it = self.hosts[host]
        it.ledger = it.new_ledger()
        it.kill()

    @rule(host=HOSTS, seconds=st.integers(1, 3))
    def disk_is_full_for_some_seconds(self, host: int, seconds: int) -> None:
        self._fill(self.hosts[host], seconds)
        self.hosts[host].turns(3)

    @rule(host=HOSTS, count=st.integers(1, 9))
    def commits_fail_for_a_while(self, host: int, count: int) -> None:
        it = self.hosts[host]
        it.consumer.commit_failing = UnavailableError("no answer")
        it.turns(count)
        it.consumer.commit_failing = None

    @rule(partition=st.integers(0, 1), by=st.integers(0, 2), full=st.booleans(), failing=st.booleans())
    def partition_moves(self, partition: int, by: int, full: bool, failing: bool) -> None:
        old, new = self._hand_over(partition, by)
        if full:  # it goes away in the middle of a write, or of a barrier
            self._fill(old, 2)
            self.clock.at(self.clock.monotonic() + 0.5, lambda: old.consumer.revoke([partition]))
            old.turns(20)
            self.clock.move(3.0)
        else:
            old.consumer.revoke([partition])
        if failing:
            old.consumer.commit_failing = UnavailableError("no answer")
        old.turns(1)
        old.consumer.commit_failing = None
        if failing or old.kills:
            self._may_be_doubled(old)
        new.consumer.assign([partition])
        new.turns(1)

    @rule(partition=st.integers(0, 1), by=st.integers(1, 2), then_by=st.integers(1, 2))
    def partition_moves_on_before_it_was_read(self, partition: int, by: int, then_by: int) -> None:
        for step in (by, then_by):
            self.partition_moves(partition, step, full=False, failing=False)

    @rule(partition=st.integers(0, 1), by=st.integers(0, 2), new_turns=st.integers(1, 9), old_turns=st.integers(0, 9))
    def partition_is_taken_from_one_that_does_not_know(
        self, partition: int, by: int, new_turns: int, old_turns: int
    ) -> None:
        self.disturbed = True
        old, new = self._hand_over(partition, by)
        self._may_be_doubled(old)
        if new is not old:
            new.consumer.assign([partition])
            new.turns(new_turns)
            before = len(old.delivered)
            old.turns(old_turns)
            self.doubled |= set(old.delivered[before:])
        old.consumer.revoke([partition], lost=True)
        old.turns(1)
        if new is old:
            new.consumer.assign([partition])
            new.turns(1)

    @rule()
    def days_pass(self) -> None:
        """Versions that are not whole yet expire, and may not become whole when they go on at another host."""
        for path, values in self.sent.items():
            if values and self.unsent[path]:
                self.expired.add(v2_key(path, self.last[path][0]))
        self.clock.move((EXPIRE_DAYS + 1) * DAY_SECONDS)
        for host in self.hosts:
            host.turns(2)

    def _fill(self, host: Host, seconds: float) -> None:
        host.sink.full = True
        self.clock.at(self.clock.monotonic() + seconds, lambda: setattr(host.sink, "full", False))

    def _hand_over(self, partition: int, by: int) -> tuple[Host, Host]:
        self.moved = True
        old = self.hosts[self.owner[partition]]
        old.bomb.step = ""
        old.turns(1)  # one that was just started has to join first
        self.owner[partition] = (self.owner[partition] + by) % len(self.hosts)
        new = self.hosts[self.owner[partition]]
        old.partitions = tuple(p for p in old.partitions if p != partition)
        new.partitions = (*new.partitions, partition)
        return old, new

    def _may_be_doubled(self, host: Host) -> None:
        """What the group does not know to be finished when a host is gone without a word."""
        for key in set(host.delivered):
            partition, end = self.ends[key]
            commit = self.topic.committed.get("group", {}).get(partition)
            decoded = decode_mark(commit.offset, commit.metadata) if commit else None
            if decoded is None or end >= decoded[0].read:
                self.doubled.add(key)

    # -- what must be so -------------------------------------------------------------------------------------

    @invariant()
    def nothing_but_whole_versions_is_visible(self) -> None:
        for host in self.hosts:
            for path, content in host.sink.files.items():
                assert content in [data for key, data in self.whole.items() if key.path == path]

    def teardown(self) -> None:
        for host in self.hosts:
            host.sink.full = False
            host.bomb.step = ""
        self._settle()
        delivered = Counter(key for host in self.hosts for key in host.delivered)
        assert self.whole.keys() - self.expired <= delivered.keys() <= self.whole.keys()
        twice = {key for key, count in delivered.items() if count > 1}
        assert twice <= self.doubled | self.repeated, "delivered twice"
        for host in self.hosts:
            waits_for = {version.key for version in host.flow._assembly.versions()}
            assert not waits_for & self.whole.keys() - self.repeated - self.expired, "waits for what was finished"
        if not self.disturbed and not self.moved:
            newest = {path: data for path, (key, data) in self.newest.items() if key in delivered}
            assert newest.items() <= self.hosts[0].sink.files.items()
        for path, (key, content) in self.newest.items():
            holders = [host for host in self.hosts if key in host.delivered]
            assert not holders or any(host.sink.files[path] == content for host in holders)
        for host in self.hosts:
            assert not host.told.of(Quarantined) + host.told.of(FileFailed)
        self.clock.move((EXPIRE_DAYS + 1) * DAY_SECONDS)
        self._settle()
        for partition in range(PARTITIONS):
            end = self.topic.bounds(partition)[1]
            assert (self.hosts[0].committed(partition) or 0) == end, "the watermark is held for ever"

    def _settle(self) -> None:
        for _ in range(2):
            for host in self.hosts:
                host.settle()


def test_whatever_happens_every_whole_version_is_delivered_and_nothing_else_is_visible():
    """Kills, power cuts, full disks, moves, failing commits and repeats lose, half and double nothing they need not."""
    run_state_machine_as_test(Downloading, settings=SETTINGS)


# -- controls: each takes one rule away ------------------------------------------------------------------------


class CommitsThePosition(Download):
    """Commits what was read, not the watermark."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._assembly.first_offsets = lambda _partition: ()  # type: ignore[method-assign]


class ListsNothing(Download):
    """Commits the position without the versions that are open there."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._assembly.open_in = lambda _partition: ()  # type: ignore[method-assign]


class IgnoresTheList(Download):
    """Reads everything from the watermark on, whatever is listed."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._partitions.leaves_out = lambda *_, **__: False  # type: ignore[method-assign]


class CommitsBackwards(Download):
    """Commits what it has read though another one had read more."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._partitions._committed = NothingKept()


class NothingKept(dict[int, Mark]):
    """A dictionary that gives nothing back."""

    def get(self, *_: Any) -> None:
        return None


class KeepsWhatOthersFinished(Download):
    """Takes up versions that its ledger has as open, though another one finished them."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._partitions.ended_elsewhere = lambda *_: False  # type: ignore[method-assign]


class KeepsWhatIsGone(Download):
    """Gives files of a partition that went away their names all the same."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._delivery.let_go = lambda _: None  # type: ignore[method-assign]


class ForgetsWhatItHasNotYet(Download):
    """Keeps no open version of partitions that it has not been given yet."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        kept = dict(self._partitions._unclaimed)
        self._partitions._unclaimed.clear()
        assigned = self.assigned

        def late(partitions: Any) -> Any:
            self._partitions._unclaimed.update(kept)
            kept.clear()
            return assigned(partitions)

        self.assigned = late  # type: ignore[method-assign]


class WaitsForEver(Download):
    """Lets no version expire."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._expiry._settings = ExpirySettings(seconds=0)


class ExpiresEarly(Download):
    """Judges by the wall clock a partition that it has not read to its end."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._consumer = AlwaysAtEnd(self._consumer)  # type: ignore[assignment]
        self._expiry._look.seconds = 0.0


class AlwaysAtEnd:
    """A consumer that says it is at the end of everything."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def at_end(self, _: int) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


class Late:
    """A sink and a ledger in one, which publishes only behind the ledger."""

    def __init__(self, sink: Any, ledger: Any) -> None:
        self._sink, self._ledger = sink, ledger
        self._publications: list[Any] = []

    def publish(self, publications: Any) -> dict[VersionKey, Any]:
        self._publications = list(publications)
        return {}

    def barrier(self, barrier: Any) -> None:
        self._ledger.barrier(barrier)
        self._sink.publish(self._publications)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink if hasattr(self._sink, name) else self._ledger, name)


class WritesTheLedgerFirst(Download):
    """Remembers files as delivered before they are."""

    def __init__(self, topic: str, consumer: Any, sink: Any, ledger: Any, *parts: Any) -> None:
        late = Late(sink, ledger)
        super().__init__(topic, consumer, late, late, *parts)  # type: ignore[arg-type]


class Unsynced(Late):
    """A sink that leaves the syncing to luck."""

    publish = property(lambda self: self._sink.publish)
    barrier = property(lambda self: self._ledger.barrier)

    def sync(self, keys: Any) -> None:
        list(keys)


class NeverSyncs(Download):
    """Writes the ledger without the bytes being safe."""

    def __init__(self, topic: str, consumer: Any, sink: Any, ledger: Any, *parts: Any) -> None:
        super().__init__(topic, consumer, Unsynced(sink, ledger), ledger, *parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "weakened",
    [
        CommitsThePosition,
        ListsNothing,
        IgnoresTheList,
        CommitsBackwards,
        KeepsWhatOthersFinished,
        KeepsWhatIsGone,
        ForgetsWhatItHasNotYet,
        WaitsForEver,
        *([ExpiresEarly] if LONG else []),  # the search takes long
        WritesTheLedgerFirst,
        NeverSyncs,
    ],
)
def test_the_machine_finds_a_rule_that_is_broken(weakened: type[Download]):
    """Each rule, taken away alone, is missed."""

    class Weakened(Downloading):
        flow = weakened

    with pytest.raises((AssertionError, StorageError)):
        run_state_machine_as_test(Weakened, settings=CONTROL)
