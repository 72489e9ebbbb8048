"""A laboratory on fakes for the upload flow: a folder, a topic, a ledger. Time moves only when the flow waits."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from blake3 import blake3

from openmsistream.adapters.memory import FakeClock, MemoryFolder, MemoryProducer, MemoryTopic
from openmsistream.adapters.sqlite.uploads import SqliteUploadLedger
from openmsistream.core.assembly import Assembly
from openmsistream.core.chunk import Chunk
from openmsistream.core.selection import Selection
from openmsistream.core.settle import SettleRule
from openmsistream.core.wire.recognise import decode_record
from openmsistream.pipeline.frames import Wire
from openmsistream.pipeline.noticing import Root, UploadSettings
from openmsistream.pipeline.runner import Control, Totals
from openmsistream.pipeline.sender import Sender
from openmsistream.pipeline.sender_settings import SenderSettings
from openmsistream.pipeline.upload import DirectoryUpload
from tests.pipeline.material import Told

CHUNK = 4
RULE = SettleRule()
SENTENCE = b"the quick brown fox jumps"


class Lab:
    """A watched folder, a topic, and an uploader's ledger, which outlives the programs."""

    def __init__(self, *, partitions: int = 1, wire: Wire = Wire.V2, chunk_bytes: int = CHUNK) -> None:
        self.clock, self.told = FakeClock(), Told()
        self.folder, self.topic = MemoryFolder(self.clock), MemoryTopic(partitions, clock=self.clock)
        counter = itertools.count(1)
        self.random = lambda size: next(counter).to_bytes(size, "big")
        self.ledger = SqliteUploadLedger(":memory:", self.random)
        self.wire, self.chunk_bytes = wire, chunk_bytes
        self.prepare()

    def prepare(self) -> None:
        """Start the program anew."""
        self.control = Control()
        self.producer = MemoryProducer(self.topic, clock=self.clock)
        self.sender = Sender(
            self.producer,
            self.folder,
            self.ledger,
            self.clock,
            self.random,
            self.told,
            SenderSettings(self.wire, self.chunk_bytes),
        )

    def run(
        self,
        seconds: float = 20.0,
        *,
        existing: bool = True,
        selection: str | None = None,
        rule: SettleRule = RULE,
        sent_before: Callable[[str], int | None] | None = None,
        **settings: Any,
    ) -> Totals:
        """Run the program for so many seconds of its clock."""
        self.clock.at(self.clock.monotonic() + seconds, lambda: self.control.stop("end of the test"))
        root = Root(
            self.folder,
            self.folder,
            self.folder,
            self.sender,
            self.ledger,
            Selection(selection),
            self.clock,
            self.told,
            sent_before=sent_before,
        )
        given = UploadSettings(
            rule_for=lambda _: rule, scan_seconds=5.0, poll_seconds=5.0, upload_existing=existing, **settings
        )
        return DirectoryUpload(root, given).run(self.control)

    def kill(self) -> None:
        """The process ends without a word: what is queued and what is not committed is gone."""
        self.ledger._db._connection.rollback()
        self.told.events.clear()
        self.prepare()

    @property
    def chunks(self) -> list[Chunk]:
        """What is on the topic."""
        return [decode_record(record.value) for record in self.topic.records()]

    @property
    def versions(self) -> dict[str, list[bytes]]:
        """The whole versions on the topic, by path, as a consumer puts them together."""
        assembly, contents = Assembly(), defaultdict(bytearray)
        whole: dict[str, list[bytes]] = defaultdict(list)
        for record in self.topic.records():
            chunk = decode_record(record.value)
            step = assembly.step(chunk, partition=record.partition, offset=record.offset, timestamp_ms=0)
            assert not step.reason or step.verb.value != "refuse"
            content = contents[chunk.version]
            content.extend(bytes(max(0, chunk.offset - len(content))))
            content[chunk.offset : chunk.offset + len(chunk.payload)] = chunk.payload
            if step.complete and step.version is not None:
                assembly.close(step.version.key)
                assert len(chunk.version) > 16 or blake3(content).digest() == step.version.digest
                whole[chunk.path].append(bytes(content))
        return dict(whole)


class KilledError(BaseException):
    """The process ends here."""


def kill() -> None:
    raise KilledError


def in_use(lab: Lab) -> Lab:
    """A laboratory whose program has had its first start."""
    lab.run(1.0)
    lab.kill()
    return lab
