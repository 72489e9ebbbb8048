"""An uploader on a simulated disk that can be killed at any operation, and what a consumer makes of what it sent.

Owns the program's life: its starts, stops and kills, and things that happen right before an operation of its. It
judges nothing: that is the test's.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from blake3 import blake3

from openmsistream.adapters.memory import FakeClock, MemoryProducer, MemoryTopic
from openmsistream.adapters.sqlite.recovery import State
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.core.assembly import Assembly, Verb
from openmsistream.core.selection import Selection
from openmsistream.core.settle import SettleRule
from openmsistream.core.versions import VersionKey, key_of
from openmsistream.core.wire.recognise import decode_record
from openmsistream.errors import OpenMSIStreamError
from openmsistream.pipeline.frames import Wire
from openmsistream.pipeline.noticing import Root, UploadSettings
from openmsistream.pipeline.runner import Control
from openmsistream.pipeline.sender import Sender
from openmsistream.pipeline.sender_settings import SenderSettings
from openmsistream.pipeline.upload import DirectoryUpload
from openmsistream.ports import Acknowledge, Buffer, Record
from tests.pipeline.disk import Disk, Moment
from tests.pipeline.laboratory import CHUNK, KilledError
from tests.pipeline.material import Told

MOMENTS = ("stat", "open", "read", "look", "unchanged", "writers", "hints", "scan", "produce", "poll", "commit")
"""The operations of the program right before which something can happen."""
STEP_SECONDS = 0.001
RULE = SettleRule(max_wait_seconds=30)
BUSY_TURNS = 3_000
"""A program that takes so many turns in one second of its clock is busy for ever."""


class WallClock(FakeClock):
    """A clock whose time of day somebody sets; seconds go on as ever."""

    set_by_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.set_by_ns


class SuspendedError(BaseException):
    """The program is left alone between two turns, and goes on later as if nothing had been."""


class Topic(MemoryTopic):
    """Keeps the records of all partitions in the order in which they came, with the time."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(2)
        self._at = clock
        self.arrivals: list[tuple[float, Record]] = []

    def append(self, value: bytes | None, *, partition: int = 0, key: bytes | None = None, **_: object) -> int:
        offset = super().append(value, partition=partition, key=key)
        self.arrivals.append((self._at.monotonic(), self.records(partition)[-1]))
        return offset


class Producer(MemoryProducer):
    """A producer in a process that may be killed."""

    moment: Moment
    word_lost: Callable[[], None]

    def produce(self, partition: int, key: bytes, value: Buffer, acknowledge: Acknowledge) -> bool:
        self.moment("produce")
        return super().produce(partition, key, value, acknowledge)

    def poll(self, seconds: float) -> int:
        self.moment("poll")
        failures = len(self._failures)
        answered = super().poll(seconds)
        if len(self._failures) < failures:
            self.word_lost()
        return answered

    def die(self, arriving: int) -> None:
        """The process ends; the first of its queued records reach the topic, and nobody hears of it."""
        for partition, key, value, _ in list(self._queue)[:arriving]:
            self.topic.append(value, partition=partition, key=key)
        self._queue.clear()


class Ledger(SqliteUploadLedger):
    """A ledger in a process that may be killed."""

    moment: Moment
    first_scan_ended: Callable[[], None]

    def commit(self) -> None:
        self.moment("commit")
        super().commit()

    def first_scan_done(self) -> None:
        super().first_scan_done()
        self.first_scan_ended()

    def opened_again(self, random: Callable[[int], bytes]) -> Ledger:
        """The ledger as the next process finds it: what was not committed is gone."""
        self._db._connection.rollback()
        kept = self._db._connection.serialize()
        again = Ledger(":memory:", random)
        again._db._connection.deserialize(kept)
        again._take_up(random, {}, State.SOUND)
        self.shut()
        return again

    def shut(self) -> None:
        """Let go of it, as the end of a process does."""
        self._db._connection.close()


class Uploader:
    """A program on a disk, with what outlives it: its ledger and the topic."""

    def __init__(self, *, existing: bool, sender: type[Sender] = Sender, disk: type[Disk] = Disk) -> None:
        self.clock, self.told = WallClock(), Told()
        self.disk, self.topic = disk(self.clock, self.moment), Topic(self.clock)
        counter = itertools.count(1)
        self.random = lambda size: next(counter).to_bytes(size, "big")
        self.ledger = Ledger(":memory:", self.random)
        self._existing, self._sender_type = existing, sender
        self.scan_seconds = 5.0
        self.stream = self.temporary = False
        self.broker_silent = False
        self.answers_per_poll: int | None = None
        self.kills: list[float] = []
        self.lost_acknowledgements: list[float] = []
        self.unsaid = False
        self._surprises: list[tuple[str, int, Callable[[], object]]] = []
        self._arriving = 0
        self._program: tuple[DirectoryUpload, Control] | None = None
        self._until = self._busy_since = 0.0
        self._turns = 0
        self.began_at = self.first_start = 0.0
        self._at_start: dict[str, bytes] = {}
        self.at_first_start: dict[str, bytes] | None = None
        self.at_first_scan: dict[str, bytes] | None = None
        self.sender: Sender
        self.producer: Producer

    # -- what happens to it -------------------------------------------------------------------------------------

    def before(self, moment: str, nth: int, action: Callable[[], object]) -> None:
        """Do something right before the program's ``nth`` operation of a kind from now on."""
        self._surprises.append((moment, nth, action))

    def kill(self, arriving: int) -> None:
        """End the process at once; to be called from ``before``."""
        self._arriving = arriving
        raise KilledError

    def fail_next(self, error: OpenMSIStreamError, records: int, *, arrives: bool) -> None:
        """The broker's word on the next records is an error."""
        if self._program is not None:
            self.producer.fail_next(error, records=records, arrives=arrives)

    def calm(self) -> None:
        """Nothing unusual happens any more."""
        self._surprises.clear()
        self.broker_silent, self.answers_per_poll = False, None
        if self._program is not None:
            self.producer._failures.clear()

    def run(self, seconds: float) -> None:
        """Let the program run for so long, starting it as often as need be."""
        self._until = self.clock.monotonic() + seconds
        while self.clock.monotonic() < self._until:
            upload, control = self._program or self._start()
            try:
                upload.run(control)
            except SuspendedError:
                return
            except KilledError:
                self._killed()

    def stop(self) -> None:
        """Ask the program to stop, and wait until it did."""
        if self._program is None:
            return
        upload, control = self._program
        self._until = float("inf")
        control.stop("asked to")
        began = self.clock.monotonic()
        try:
            upload.run(control)
        except KilledError:
            self._killed()
            return
        assert self.clock.monotonic() - began < 11, "it took too long to stop"
        assert not self.disk.open_files, "files are left open"
        # That a version was given up is not said again by the next start: consumers let it expire.
        self.unsaid = self.unsaid or self.producer.pending() > 0 or bool(self.sender.parked.outbox)
        self.producer.close()
        self._ended()

    # -- inside -------------------------------------------------------------------------------------------------

    def moment(self, what: str) -> None:
        """The program is about to do something."""
        self.clock.move(STEP_SECONDS)
        self.producer.stalled, self.producer.answers_per_poll = self.broker_silent, self.answers_per_poll
        waiting, self._surprises = self._surprises, []
        due = [action for kind, nth, action in waiting if kind == what and nth <= 1]
        self._surprises = [
            (kind, nth - (kind == what), action) for kind, nth, action in waiting if kind != what or nth > 1
        ]
        for action in due:
            action()

    def _start(self) -> tuple[DirectoryUpload, Control]:
        self.began_at, self._at_start = self.clock.monotonic(), self.disk.contents()
        self.ledger.moment, self.ledger.first_scan_ended = self.moment, self._first_scan_ended
        self.producer = Producer(self.topic, clock=self.clock)
        self.producer.moment = self.moment
        self.producer.word_lost = lambda: self.lost_acknowledgements.append(self.clock.monotonic())
        self.sender = self._sender_type(
            self.producer,
            self.disk,
            self.ledger,
            self.clock,
            self.random,
            self.told,
            SenderSettings(Wire.V2, CHUNK),
        )
        root = Root(self.disk, self.disk, self.disk, self.sender, self.ledger, Selection(), self.clock, self.told)
        settings = UploadSettings(
            rule_for=lambda _: RULE,
            scan_seconds=self.scan_seconds,
            poll_seconds=self.scan_seconds,
            upload_existing=self._existing,
            stream_growing=self.stream,
            stream_temporary=self.temporary,
        )
        control = Control()
        control.each_turn.append(self._turn)
        self._program = DirectoryUpload(root, settings), control
        return self._program

    def _turn(self) -> None:
        now = self.clock.monotonic()
        if now - self._busy_since >= 1:
            self._busy_since, self._turns = now, 0
        self._turns += 1
        assert self._turns < BUSY_TURNS, "it is busy for ever"
        if now >= self._until:
            raise SuspendedError

    def _killed(self) -> None:
        self.producer.die(self._arriving)
        self.kills.append(self.clock.monotonic())
        self._ended()

    def _ended(self) -> None:
        self.disk.program_ended()
        self.ledger = self.ledger.opened_again(self.random)
        self._program = None

    def _first_scan_ended(self) -> None:
        if self.at_first_scan is None:
            self.first_start = self.began_at
            self.at_first_start, self.at_first_scan = self._at_start, self.disk.contents()


@dataclass(frozen=True, slots=True)
class Whole:
    """A version that a consumer has whole: under its final path, with the times of its first and last record."""

    path: str
    content: bytes
    gen: int
    began: float
    ended: float
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a consumer has of a topic: whole versions in order, and versions that are still open."""

    whole: list[Whole]
    open: list[VersionKey]

    def newest(self) -> dict[str, bytes]:
        """What stands under each path at the consumer."""
        return {each.path: each.content for each in sorted(self.whole, key=lambda each: each.gen)}


def consume(topic: Topic) -> Consumed:
    """Put together what is on the topic, as a consumer does."""
    assembly, contents, began = Assembly(), dict[VersionKey, bytearray](), dict[VersionKey, float]()
    whole: list[Whole] = []
    finished: set[VersionKey] = set()
    payload_bytes: Counter[VersionKey] = Counter()
    for at, record in topic.arrivals:
        assert record.value is not None
        chunk = decode_record(record.value)
        key = key_of(chunk)
        payload_bytes[key] += len(chunk.payload)
        if key in finished:
            continue
        step = assembly.step(chunk, partition=record.partition, offset=record.offset, timestamp_ms=0)
        assert step.verb is not Verb.REFUSE, step.reason
        if step.verb is Verb.DISCARD:
            finished.add(key)
            continue
        content = contents.setdefault(key, bytearray())
        content[chunk.offset : chunk.offset + len(chunk.payload)] = chunk.payload
        began.setdefault(key, at)
        if step.complete and step.version is not None:
            assert blake3(content).digest() == step.version.digest, f"{key.path}: its digest is wrong"
            assembly.close(key)
            finished.add(key)
            gen = step.version.gen or 0
            older = [each.key for each in assembly.of_path(key.path) if (each.gen or 0) < gen]
            for superseded in older:
                assembly.close(superseded)
            finished.update(older)
            whole.append(Whole(step.version.name or key.path, bytes(content), gen, began[key], at, payload_bytes[key]))
    return Consumed(whole, [version.key for version in assembly.versions()])
