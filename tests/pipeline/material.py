"""What pipeline tests are made of: file versions as the records a producer would write, and a collector of events."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TypeVar

from blake3 import blake3

from openmsistream.core.chunk import Chunk, HashName, spans
from openmsistream.core.events import Event
from openmsistream.core.versions import VersionKey
from openmsistream.core.wire import v1, v2

SRC = b"S" * 16
Kind = TypeVar("Kind", bound=Event)


@dataclass(slots=True)
class Told:
    """Collects events; ``of`` gives those of one kind."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


def version_id(gen: int, src: bytes = SRC) -> bytes:
    return hashlib.md5(src + gen.to_bytes(8, "big"), usedforsecurity=False).digest()


def v2_chunks(path: str, data: bytes, gen: int, *, chunk_bytes: int = 4, src: bytes = SRC) -> list[Chunk]:
    """A version as v2 chunks, in order."""
    return [
        Chunk(
            version=version_id(gen, src),
            path=path,
            offset=span.start,
            index=span.index,
            payload=data[span.start : span.stop],
            mtime_ns=gen,
            size=len(data),
            last=span.stop == len(data),
            digest=blake3(data).digest() if span.stop == len(data) else None,
            src=src,
            gen=gen,
        )
        for span in spans(len(data), chunk_bytes)
    ]


def v2_records(path: str, data: bytes, gen: int, *, chunk_bytes: int = 4, src: bytes = SRC) -> list[bytes]:
    """A version as the values of v2 records, in order."""
    return [v2.encode(chunk) for chunk in v2_chunks(path, data, gen, chunk_bytes=chunk_bytes, src=src)]


def v2_abort(path: str, gen: int, reason: str = "it changed", src: bytes = SRC) -> bytes:
    """The record that gives a version up."""
    return v2.encode(Chunk(version_id(gen, src), path, 0, 0, b"", mtime_ns=gen, src=src, gen=gen, abort=reason))


def v1_chunks(path: str, data: bytes, *, mtime_ns: int | None, chunk_bytes: int = 4) -> list[Chunk]:
    """A version as v1 chunks, in order."""
    digest = hashlib.sha512(data).digest()
    total = max(1, -(-len(data) // chunk_bytes))
    return [
        Chunk(
            version=digest,
            path=path,
            offset=span.start,
            index=span.index,
            payload=data[span.start : span.stop],
            mtime_ns=mtime_ns,
            digest=digest,
            hash_name=HashName.SHA512,
            total=total,
        )
        for span in spans(len(data), chunk_bytes)
    ]


def v1_records(path: str, data: bytes, *, mtime_ns: int | None, chunk_bytes: int = 4) -> list[bytes]:
    """A version as the values of v1 records, in order."""
    return [v1.encode(chunk) for chunk in v1_chunks(path, data, mtime_ns=mtime_ns, chunk_bytes=chunk_bytes)]


def v2_key(path: str, gen: int, src: bytes = SRC) -> VersionKey:
    """What a v2 version is known by."""
    return VersionKey(path, version_id(gen, src))
