"""A downloader on fakes that can be killed at any step of a barrier, cut from power, and started again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from openmsistream.adapters.memory import FakeClock, MemoryConsumer, MemorySink, MemoryTopic
from openmsistream.adapters.sqlite.downloads import SqliteDownloadLedger
from openmsistream.core.selection import Selection
from openmsistream.core.versions import VersionKey
from openmsistream.errors import OpenMSIStreamError, StorageError
from openmsistream.pipeline.delivery import BarrierSettings
from openmsistream.pipeline.download import Download
from openmsistream.pipeline.download_settings import DownloadSettings
from openmsistream.pipeline.runner import Control
from openmsistream.ports import Barrier, Buffer, Commit, Publication, Record
from tests.pipeline.material import Told

SETTINGS = DownloadSettings(barrier=BarrierSettings(files=3, seconds=1.0), checkpoint_seconds=0.2)
POLLS_MAX = 5000
"""So often one turn may ask for records; a flow that waits for ever in it asks more often."""
STEPS = ("write", "sync", "publish", "ledger", "commit")


class KilledError(BaseException):
    """The process ends here."""


class Bomb:
    """Ends the process right before or after its next step of one kind."""

    def __init__(self) -> None:
        self.step, self.after = "", False
        self.trace: list[str] = []

    def around(self, step: str, action: Callable[[], Any]) -> Any:
        if step == self.step and not self.after:
            self.step = ""
            raise KilledError
        result = action()
        self.trace.append(step)
        if step == self.step:
            self.step = ""
            raise KilledError
        return result


class FragileSink(MemorySink):
    """A sink in memory in a process that may be killed."""

    bomb: Bomb

    def write(self, key: VersionKey, offset: int, data: Buffer) -> None:
        self.bomb.around("write", lambda: super(FragileSink, self).write(key, offset, data))

    def sync(self, keys: Iterable[VersionKey]) -> None:
        self.bomb.around("sync", lambda: super(FragileSink, self).sync(keys))

    def publish(self, publications: Sequence[Publication]) -> dict[VersionKey, OpenMSIStreamError]:
        return self.bomb.around("publish", lambda: super(FragileSink, self).publish(publications))


class FragileLedger(SqliteDownloadLedger):
    """A ledger in a process that may be killed."""

    bomb: Bomb

    def barrier(self, barrier: Barrier) -> None:
        self.bomb.around("ledger", lambda: super(FragileLedger, self).barrier(barrier))


class FragileConsumer(MemoryConsumer):
    """A consumer in a process that may be killed; it fails the test when one turn of its owner never ends."""

    bomb: Bomb
    polls = 0

    def poll(self, seconds: float) -> Record | None:
        self.polls += 1
        assert self.polls < POLLS_MAX, "it waits for ever"
        return super().poll(seconds)

    def commit(self, commits: Mapping[int, Commit], *, wait: bool) -> None:
        self.bomb.around("commit", lambda: super(FragileConsumer, self).commit(commits, wait=wait))


class Host:
    """One computer that downloads: its disk and ledger outlive the process."""

    def __init__(
        self,
        topic: MemoryTopic,
        *,
        partitions: Sequence[int] | None = None,
        download: type[Download] = Download,
        settings: DownloadSettings = SETTINGS,
        selection: Selection | None = None,
        clock: FakeClock | None = None,
        group: str = "group",
    ) -> None:
        self.topic, self.clock, self.bomb, self.told = topic, clock or FakeClock(), Bomb(), Told()
        self.sink, self.ledger = FragileSink(), self.new_ledger()
        self.sink.bomb = self.bomb
        self.partitions = tuple(range(topic.partitions)) if partitions is None else tuple(partitions)
        self._download, self._settings = download, settings
        self._selection = selection or Selection.for_download()
        self.group = group
        self.kills = 0
        self.on_kill: Callable[[], object] = lambda: None
        self.start()

    def new_ledger(self) -> FragileLedger:
        """A ledger that knows nothing."""
        ledger = FragileLedger(":memory:", "cluster/topic")
        ledger.bomb = self.bomb
        return ledger

    def start(self) -> None:
        """Start the program."""
        self.control = Control()
        self.consumer = FragileConsumer(self.topic, self.group, clock=self.clock, partitions=self.partitions)
        self.consumer.bomb = self.bomb
        self.flow = self._download(
            "topic",
            self.consumer,
            self.sink,
            self.ledger,
            self._selection,
            self.clock,
            self.told,
            self.control,
            self._settings,
        )
        self.consumer.subscribe(self.flow)

    def quit(self) -> None:
        """Tell the program to end, which it does in its own way, and start it again; it has no partition yet then."""
        self.bomb.step = ""
        self.control.stop("end of the test")
        with suppress(StorageError):  # the disk is full
            self.flow.run()
        self.sink.full = False
        self.start()

    def kill(self, *, power_cut: bool = False) -> None:
        """End the program without a word, and start it again."""
        self.kills += 1
        self.on_kill()
        if power_cut:
            self.sink.power_cut()
        self.sink.full = False
        self.bomb.step = ""
        self.start()

    def turns(self, count: int, *, power_cut: bool = False) -> None:
        """Let it work; where the bomb goes off, it is killed and started again."""
        for _ in range(count):
            self.consumer.polls = 0
            try:
                self.flow.turn()
            except KilledError:
                self.kill(power_cut=power_cut)

    def settle(self) -> None:
        """Let it work until everything that can be delivered is."""
        self.turns(sum(self.topic.bounds(p)[1] for p in range(self.topic.partitions)) + 10)

    def committed(self, partition: int = 0) -> int | None:
        """The offset that the group has committed."""
        commit = self.consumer.committed(partition)
        return None if commit is None else commit.offset

    @property
    def delivered(self) -> list[VersionKey]:
        """Every publication that was made, in order."""
        return [publication.key for publication in self.sink.published]
