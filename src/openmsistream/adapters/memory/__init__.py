"""Public fakes of every port, for tests of code that is built on this package: no broker, no disk, no waiting.

They keep the promises of ``ports.py`` (``tests/conformance`` runs on them too) and can be told to misbehave.
For ledgers, the SQLite ones take ``":memory:"``. Everything is plain Python on one thread; nothing here knows
Kafka, a file system or the system's clock: a wait only moves a ``FakeClock``.
"""

from openmsistream.adapters.memory.clock import START_NS, FakeClock
from openmsistream.adapters.memory.folder import MemoryFile, MemoryFolder
from openmsistream.adapters.memory.sink import MemorySink
from openmsistream.adapters.memory.topic import MemoryConsumer, MemoryProducer, MemoryTopic

__all__ = [
    "START_NS",
    "FakeClock",
    "MemoryConsumer",
    "MemoryFile",
    "MemoryFolder",
    "MemoryProducer",
    "MemorySink",
    "MemoryTopic",
]
