"""What stands beside a record or file in quarantine: the note, as keys and values for a JSON file.

Owns which keys there are and how values are written that JSON cannot hold; ``quarantine`` reads them. Pure values: this
module never sees a folder.
"""

from __future__ import annotations

import base64

from openmsistream.core.paths import to_wire_bytes
from openmsistream.core.versions import VersionKey
from openmsistream.ports import Failure, Record

Note = dict[str, object]


def file_note(key: VersionKey, reason: str, failure: Failure) -> Note:
    """
    Return the note of a file that could not be delivered, without what is not known.

    Args:
        key: The path it was announced under, and its version.
        reason: Why it is there.
        failure: Where and how it failed.
    """
    note: Note = {"path": _printable(key.path), "version": key.version.hex(), "reason": reason}
    if failure.topic:
        note["topic"] = failure.topic
    numbers = {
        "partition": failure.partition,
        "offset": failure.offset,
        "at_ns": failure.at_ns,
        "mtime_ns": failure.mtime_ns,
    }
    note |= {name: value for name, value in numbers.items() if value is not None}
    if failure.path:
        note["final_path"] = base64.b64encode(to_wire_bytes(failure.path)).decode()
    if failure.expected:
        note |= {"hash": failure.hash_name.value, "digest": failure.expected.hex()}
    if failure.found:
        note |= {"hash": failure.hash_name.value, "found": failure.found.hex()}
    return note


def record_note(topic: str, record: Record, reason: str, path: str, at_ns: int | None) -> Note:
    """
    Return the note of a record that cannot be handled.

    Args:
        topic: Where it stood.
        record: The record.
        reason: Why it is there.
        path: The path of its file; empty where that is not known.
        at_ns: When that was, ns since 1970; None where that is not known.
    """
    note: Note = {
        "topic": topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": None if record.key is None else base64.b64encode(record.key).decode(),
        "headers": [(k, None if v is None else base64.b64encode(v).decode()) for k, v in record.headers or ()],
        "reason": reason,
    }
    if path:
        note["path"] = path
    if at_ns is not None:
        note["at_ns"] = at_ns
    return note


def _printable(path: str) -> str:
    return to_wire_bytes(path).decode("utf-8", "backslashreplace")
