"""The download flow under everything that can happen to it, in any order: a state machine, and its control.

Two hosts of one consumer group read a topic whose records come one by one. Partitions move between them, their
programs are killed before or after each step of a barrier, their power is cut, their disks fill up.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from openmsistream.adapters.memory import MemoryTopic
from openmsistream.core.events import FileFailed, Quarantined
from openmsistream.core.paths import partition_for
from openmsistream.core.versions import VersionKey
from openmsistream.pipeline import download
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
        self.disturbed = False

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

    @precondition(lambda self: True)
    @rule(partition=st.integers(0, 1), lost=st.booleans(), full=st.booleans(), away=st.booleans())
    def partition_moves(self, partition: int, lost: bool, full: bool, away: bool) -> None:
        self.disturbed = True
        old = self.hosts[self.owner[partition]]
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
        for number, host in enumerate(self.hosts):
            host.partitions = tuple(p for p, owner in self.owner.items() if owner == number)
        new = self.hosts[self.owner[partition]]
        new.consumer.assign([partition])
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
            assert host.flow.open_versions == sum(
                1
                for path in self.unsent
                if self.unsent[path]
                and self.sent[path]
                and self.owner[partition_for(path, PARTITIONS)] == self.hosts.index(host)
            )


def test_whatever_happens_every_whole_version_is_delivered_and_nothing_else_is_visible():
    """Kills, power cuts, full disks, rebalances and repeated records lose nothing and show nothing half."""
    run_state_machine_as_test(Downloading, settings=SETTINGS)
