"""What the programs report: plain values, one class per thing that can happen.

The library never decides words or where they go: the command line turns events into progress bars, lines or
JSON, and a user's code may do what it likes with them. Pure values; sizes in bytes, times in seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields


@dataclass(frozen=True, slots=True)
class Event:
    """
    The root of all events.

    Attributes:
        folder_name: Which watched folder it is about, by its name in the config file, where one program watches
            the folders that a config file names; empty otherwise.
    """

    folder_name: str = field(default="", kw_only=True)

    @property
    def kind(self) -> str:
        """The event's name on the wire of ``--json``: the class name in snake case."""
        return _shape(type(self))[0]

    def as_dict(self) -> dict[str, object]:
        """
        The event as JSON-ready values: ``event`` first, then ``folder_name`` if it has one.

        Names that are not valid Unicode are escaped.
        """
        kind, names = _shape(type(self))
        values: dict[str, object] = {"event": kind}
        for name in names:
            value = getattr(self, name)
            values[name] = value.encode("utf-8", "backslashreplace").decode("utf-8") if type(value) is str else value
        if not self.folder_name:
            del values["folder_name"]
        return values


def _shape(event: type[Event]) -> tuple[str, tuple[str, ...]]:
    """Kind and field names of a class of events, worked out once: thousands of events are told in a second."""
    if event not in _SHAPES:
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()
        _SHAPES[event] = kind, tuple(item.name for item in fields(event))
    return _SHAPES[event]


_SHAPES: dict[type[Event], tuple[str, tuple[str, ...]]] = {}


@dataclass(frozen=True, slots=True)
class ProgramStarted(Event):
    """A program is ready: it watches or reads from now on."""

    program: str
    topic: str
    folder: str
    broker: str


@dataclass(frozen=True, slots=True)
class ProgramStopped(Event):
    """A program ended; ``reason`` says why it did."""

    program: str
    reason: str
    files: int
    total_bytes: int
    waiting: int
    failed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FolderFailed(Event):
    """One of several folders cannot be watched any more; the program goes on with the others."""

    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Alive(Event):
    """A sign of life, every ``--update_seconds``."""

    program: str


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Something a user should know, as one line of text; ``hint`` says what to try."""

    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ScanDone(Event):
    """The watched folder was looked through: files seen, and of these new or changed."""

    files: int
    changed: int
    recorded_only: int


@dataclass(frozen=True, slots=True)
class FileStarted(Event):
    """A version's first chunk is on its way; ``resumed_at`` > 0 when it goes on after a restart."""

    path: str
    size: int
    resumed_at: int = 0


@dataclass(frozen=True, slots=True)
class FileProgress(Event):
    """So many bytes of a version were acknowledged by the broker (upload) or received (download)."""

    path: str
    done: int
    size: int | None


@dataclass(frozen=True, slots=True)
class FileSent(Event):
    """The broker acknowledged the last chunk and the ledger knows it."""

    path: str
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FileSkipped(Event):
    """A file is not sent, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileFailed(Event):
    """A file could not be sent or delivered now; ``retry`` says whether it is tried again without being asked."""

    path: str
    reason: str
    retry: bool
    hint: str = ""


@dataclass(frozen=True, slots=True)
class FileDelivered(Event):
    """
    A file stands whole and verified under its final name.

    Attributes:
        path: Its relative path, as its sender has it.
        file: Where it stands, in full: its name may be another one there. Empty when the sink does not tell.
    """

    path: str
    size: int
    seconds: float
    digest: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class FileSuperseded(Event):
    """A version was not delivered because a newer one, or the same content, is there already."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileExpired(Event):
    """
    A file is not waited for any more: no record of it came for long, or it was not whole for too long after that.

    Attributes:
        received: Bytes that came.
        size: Its whole size; None when nobody said it.
        age_seconds: Time since its last record.
        kept: What came of it is kept, and goes on should more come; False: it was discarded.
    """

    path: str
    received: int
    size: int | None
    age_seconds: float
    reason: str
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Quarantined(Event):
    """A record or file that cannot be handled was put aside, with its origin and the reason."""

    topic: str
    partition: int
    offset: int
    reason: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class BrokerUnavailable(Event):
    """The broker does not answer; what is to be sent waits, and goes on by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class BrokerBack(Event):
    """The broker answers again."""


@dataclass(frozen=True, slots=True)
class StoragePaused(Event):
    """The destination refuses to be written (full, read-only); reading is paused and goes on by itself."""

    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class StorageBack(Event):
    """The destination can be written again."""


@dataclass(frozen=True, slots=True)
class Gap(Event):
    """Records were removed from the topic before they were read here; ``files`` were open and may lack them."""

    topic: str
    partition: int
    first: int
    last: int
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status(Event):
    """Where a program stands: totals since its start."""

    files: int
    total_bytes: int
    waiting: int
    active: int
    failed: int
    seconds: float
