"""What a record is made in and of: the wire format, a buffer that nothing is moved in, the record that gives up.

Knows the wire formats; nothing of files, producers or when something is sent.
"""

from __future__ import annotations

from enum import Enum

from openmsistream.core.chunk import Chunk, HashName
from openmsistream.core.settle import Stat
from openmsistream.core.wire import v2

HEADER_ROOM = 17 * 1024
"""Room before the payload for the longest v2 header: 4 + 2 + 16,384 bytes."""


class Frame:
    """A buffer for one record: room for a header, then the payload, so that neither is ever moved."""

    __slots__ = ("_view", "chunk_bytes")

    def __init__(self, chunk_bytes: int) -> None:
        self.chunk_bytes = chunk_bytes
        self._view = memoryview(bytearray(HEADER_ROOM + chunk_bytes))

    def payload(self, size: int) -> memoryview:
        """Where ``size`` payload bytes are to be read to."""
        return self._view[HEADER_ROOM : HEADER_ROOM + size]

    def with_header(self, header: bytes, size: int) -> memoryview:
        """The record: ``header`` placed right before the ``size`` payload bytes."""
        start = HEADER_ROOM - len(header)
        self._view[start:HEADER_ROOM] = header
        return self._view[start : HEADER_ROOM + size]


class Wire(Enum):
    """The format a producer writes."""

    V2 = "v2"
    V1_10 = "v1 with 10 fields"
    V1_9 = "v1 with 9 fields"

    @property
    def hash_name(self) -> HashName:
        """The function this format's whole-file digest is made with."""
        return HashName.BLAKE3 if self is Wire.V2 else HashName.SHA512


def abort_value(path: str, version: bytes, src: bytes, gen: int, offset: int, stat: Stat, reason: str) -> bytes:
    """The value of a v2 record that says a version was given up."""
    return v2.encode_header(
        Chunk(
            version=version,
            path=path,
            offset=offset,
            index=0,
            payload=b"",
            mtime_ns=stat.mtime_ns,
            src=src,
            gen=gen,
            abort=reason[:500],
        )
    )
