"""The download flow under everything that can happen to it, in any order: a state machine, and its control.

Two hosts of one consumer group read a topic whose records come one by one. Partitions move between them, their
programs are killed before or after each step of a barrier, their power is cut, their disks fill up.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from openmsistream.adapters.memory import MemoryTopic
from openmsistream.core.events import FileFailed, Quarantined
from openmsistream.core.paths import partition_for
from openmsistream.core.versions import VersionKey
from openmsistream.errors import StorageError
from openmsistream.pipeline.download import Download
from tests.pipeline.hosts import STEPS, Host
from tests.pipeline.material import v2_abort, v2_key, v2_records

PATHS = ("a.csv", "run/b.csv", "c")
PARTITIONS = 2
SETTINGS = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

CONTROL = settings(SETTINGS, max_examples=400, phases=[Phase.generate], report_multiple_bugs=False, print_blob=False)


class Downloading(RuleBasedStateMachine):
    """Whatever happens: every whole version is delivered, and nothing else ever becomes visible."""

    flow: type[Download] = Download

    def __init__(self) -> None:
        super().__init__()
        self.topic = MemoryTopic(PARTITIONS)
        self.hosts = [
            Host(self.topic, download=self.flow, partitions=(0, 1)),
            Host(self.topic, download=self.flow, partitions=()),
        ]
        self.owner = {0: 0, 1: 0}
        self.gen = 0
        self.unsent: dict[str, list[bytes]] = {}
        self.sent: dict[str, list[bytes]] = {}
        self.last: dict[str, tuple[int, bytes]] = {}
        self.whole: dict[VersionKey, bytes] = {}
        self.newest: dict[str, tuple[VersionKey, bytes]] = {}
        self.disturbed = self.moved = False

    def _send(self, path: str, value: bytes) -> None:
        self.topic.append(value, partition=partition_for(path, PARTITIONS))

    def _begin(self, path: str, chunks: int) -> None:
        self.gen += 1
        data = f"{self.gen:04d}".encode() * chunks
        self.unsent[path] = v2_records(path, data, self.gen)
        self.sent[path], self.last[path] = [], (self.gen, data)

    @rule(path=st.sampled_from(PATHS), chunks=st.integers(1, 5), count=st.integers(1, 5), turns=st.integers(0, 9))
    def send_chunks(self, path: str, chunks: int, count: int, turns: int) -> None:
        if not self.unsent.get(path):
            self._begin(path, chunks)
        for _ in range(min(count, len(self.unsent[path]))):
            value = self.unsent[path].pop(0)
            self.sent[path].append(value)
            self._send(path, value)
        if not self.unsent[path]:
            gen, data = self.last[path]
            self.whole[v2_key(path, gen)] = data
            self.newest[path] = (v2_key(path, gen), data)
        for host in self.hosts:
            host.turns(turns)

    @rule(path=st.sampled_from(PATHS), chunks=st.integers(1, 5))
    def send_a_whole_file(self, path: str, chunks: int) -> None:
        self.send_chunks(path, chunks, 5, 0)

    @rule(path=st.sampled_from(PATHS), back=st.integers(1, 5))
    def send_chunks_again(self, path: str, back: int) -> None:
        for value in self.sent.get(path, [])[-back:]:
            self._send(path, value)

    @rule(path=st.sampled_from(PATHS))
    def give_a_version_up(self, path: str) -> None:
        if self.unsent.get(path):
            self.unsent[path], self.sent[path] = [], []
            self._send(path, v2_abort(path, self.last[path][0]))

    @rule(host=st.integers(0, 1), count=st.integers(1, 12))
    def work(self, host: int, count: int) -> None:
        self.hosts[host].turns(count)

    @rule(
        host=st.integers(0, 1), step=st.sampled_from(STEPS), after=st.booleans(), cut=st.booleans(), more=st.booleans()
    )
    def kill_at_the_next(self, host: int, step: str, after: bool, cut: bool, more: bool) -> None:
        self.disturbed = True
        self.hosts[host].bomb.step, self.hosts[host].bomb.after = step, after
        self.hosts[host].turns(8 if more else 1, power_cut=cut)

    @rule(host=st.integers(0, 1), cut=st.booleans())
    def kill(self, host: int, cut: bool) -> None:
        self.disturbed = True
        self.hosts[host].kill(power_cut=cut)

    @rule(host=st.integers(0, 1), seconds=st.integers(1, 3))
    def disk_is_full_for_some_seconds(self, host: int, seconds: int) -> None:
        it = self.hosts[host]
        it.sink.full = True
        it.clock.at(it.clock.monotonic() + seconds, lambda: setattr(it.sink, "full", False))
        it.turns(3)

    @rule(partition=st.integers(0, 1), lost=st.booleans(), full=st.booleans(), away=st.booleans())
    def partition_moves(self, partition: int, lost: bool, full: bool, away: bool) -> None:
        self.disturbed, self.moved = True, self.moved or away
        old = self.hosts[self.owner[partition]]
        old.partitions = tuple(p for p in old.partitions if p != partition)
        if full:  # it goes away in the middle of a write, or of a barrier
            old.sink.full = True
            old.clock.at(old.clock.monotonic() + 2.0, lambda: setattr(old.sink, "full", False))
            old.clock.at(old.clock.monotonic() + 0.5, lambda: old.consumer.revoke([partition], lost=lost))
            old.turns(20)
            old.clock.move(3.0)
        else:
            old.consumer.revoke([partition], lost=lost)
        old.turns(1)
        self.owner[partition] = (self.owner[partition] + 1) % 2 if away else self.owner[partition]
        new = self.hosts[self.owner[partition]]
        new.consumer.assign([partition])
        new.partitions = (*new.partitions, partition)
        new.turns(1)

    @invariant()
    def nothing_but_whole_versions_is_visible(self) -> None:
        for host in self.hosts:
            for path, content in host.sink.files.items():
                assert content in [data for key, data in self.whole.items() if key.path == path]

    def teardown(self) -> None:
        for host in self.hosts:
            host.sink.full = False
            host.bomb.step = ""
        for _ in range(2):
            for host in self.hosts:
                host.settle()
        delivered = [key for host in self.hosts for key in host.delivered]
        assert set(delivered) == set(self.whole)
        if not self.disturbed:
            assert len(delivered) == len(self.whole), "delivered twice although nothing happened"
            assert {p: content for p, (_, content) in self.newest.items()} == self.hosts[0].sink.files
        for path, (key, content) in self.newest.items():
            holders = [host for host in self.hosts if key in host.delivered]
            assert any(host.sink.files[path] == content for host in holders)
        for host in self.hosts:
            assert not host.told.of(Quarantined) + host.told.of(FileFailed)
        if not self.moved:  # a repeated chunk that another host reads first opens a version there
            unfinished = [path for path in self.unsent if self.unsent[path] and self.sent[path]]
            assert self.hosts[0].flow.open_versions == len(unfinished)


class CommitsThePosition(Download):
    """Weakened: commits what was read, not the watermark."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._assembly.first_offsets = lambda _partition: ()  # type: ignore[method-assign]


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
    """Weakened: remembers files as delivered before they are."""

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
    """Weakened: writes the ledger without the bytes being safe."""

    def __init__(self, topic: str, consumer: Any, sink: Any, ledger: Any, *parts: Any) -> None:
        super().__init__(topic, consumer, Unsynced(sink, ledger), ledger, *parts)  # type: ignore[arg-type]


def test_whatever_happens_every_whole_version_is_delivered_and_nothing_else_is_visible():
    """Kills, power cuts, full disks, rebalances and repeated records lose nothing and show nothing half."""
    run_state_machine_as_test(Downloading, settings=SETTINGS)


@pytest.mark.parametrize("weakened", [CommitsThePosition, WritesTheLedgerFirst, NeverSyncs])
def test_the_machine_finds_a_rule_that_is_broken(weakened: type[Download]):
    """The control: each rule of the barrier, taken away, is missed."""

    class Weakened(Downloading):
        flow = weakened

    with pytest.raises((AssertionError, StorageError)):
        run_state_machine_as_test(Weakened, settings=CONTROL)
